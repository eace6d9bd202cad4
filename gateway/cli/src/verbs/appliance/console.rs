//! The console on a terminal: the thin shell around [`lifeboat_appliance::console`].
//!
//! ```text
//! lifeboat-console@TTY.service ── this ── status, menus ──┬─ network: kept on the data disk, networkd, gateway
//!                                                         ├─ lifeboat-shell@TTY.service: stops this, and starts it when it ends
//!                                                         └─ lifeboat-update.service, systemctl reboot, poweroff
//! ```
//! It has of root's power what its own files take; what needs more runs in a unit of its own. Lines are edited by the kernel; a secret is
//! typed without an echo. It ends when its terminal does, and its unit starts it again. On a screen the status is drawn anew in place, on
//! a line it is printed anew: both only when something has changed.

use std::fs;
use std::io::{self, BufRead, Write as _};
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lifeboat_api::{RegisterRequest, Secret, Timestamp};
use lifeboat_appliance::console::{Act, Dialog, Facts, screen};
use lifeboat_appliance::live;
use lifeboat_appliance::network::Network;
use lifeboat_appliance::plan::STATE;
use lifeboat_appliance::properties::Hidden;
use tokio::sync::mpsc;

use super::about;
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::note;
use crate::render::clean;
use crate::verbs::gateway::enrol::register;
use crate::verbs::support;

/// How often the status is looked at again while it stands there.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long this is waited for to be stopped by what was started in its place.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// User and group of the gateway, as the image has them.
const GATEWAY_USER: u32 = 990;
/// Bundles that are kept for fetching.
const BUNDLES_MAX: usize = 3;

struct Console {
    /// Its name: tty1, ttyS0.
    name: String,
    is_screen: bool,
    dialog: Dialog,
    lines: mpsc::Receiver<String>,
    shown: String,
}

pub(super) async fn run() -> Result<()> {
    let path = fs::read_link("/proc/self/fd/0").unwrap_or_default();
    let name = path.strip_prefix("/dev").unwrap_or(&path).display().to_string();
    // Without signals from keys: this isn't to be ended by its terminal.
    stty(&["sane", "-isig"])?;
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || read(&sender));
    let is_screen = name.strip_prefix("tty").is_some_and(|number| number.parse::<u8>().is_ok());
    let mut console = Console { name, is_screen, dialog: Dialog::default(), lines, shown: String::new() };
    console.look().await?;
    loop {
        let ask = console.dialog.ask();
        if ask.is_secret {
            stty(&["-echo"])?;
        }
        print(&ask.prompt)?;
        let Some(line) = console.line(&ask.prompt).await? else { return Ok(()) };
        if ask.is_secret {
            stty(&["echo"])?;
            print("\n")?;
        }
        let current = live::network().map(|set| set.network).unwrap_or_default();
        let reply = console.dialog.answer(&line, &current);
        if !reply.text.is_empty() {
            print(&format!("\n{}\n", reply.text))?;
        }
        match reply.act {
            None => {}
            Some(Act::Look) => console.look().await?,
            Some(act) => {
                let outcome = console.carry_out(act).await.unwrap_or_else(|error| format!("Not done: {error}"));
                print(&format!("\n{}\n", folded(&clean_lines(&outcome))))?;
            }
        }
    }
}

impl Console {
    /// Shows the status.
    async fn look(&mut self) -> Result<()> {
        let facts = about::facts().await;
        self.shown = screen(&lasting(&facts));
        // Home and clear: of all escapes the ones that every screen knows.
        let before = if self.is_screen { "\u{1b}[H\u{1b}[J" } else { "\n" };
        print(&format!("{before}{}", screen(&facts)))
    }

    /// The next line; nothing when the terminal is gone. While the status stands there it is shown anew when it changes.
    async fn line(&mut self, prompt: &str) -> Result<Option<String>> {
        loop {
            match tokio::time::timeout(LOOK_EVERY, self.lines.recv()).await {
                Ok(line) => return Ok(line),
                Err(_) if self.dialog.is_home() => {
                    let facts = about::facts().await;
                    if screen(&lasting(&facts)) != self.shown {
                        self.look().await?;
                        print(prompt)?;
                    }
                }
                Err(_) => {}
            }
        }
    }

    async fn carry_out(&mut self, act: Act) -> Result<String> {
        match act {
            Act::Look => Ok(String::new()),
            Act::SetNetwork(network) => self.network(Some(&network)),
            Act::ForgetNetwork => self.network(None),
            Act::Register { endpoint, key } => {
                let request = RegisterRequest {
                    endpoints: vec![endpoint],
                    key: Secret::new(key.expose().to_owned()),
                    vault_key: None,
                    storage_credentials: None,
                };
                Ok(register(Path::new(STATE), &request).await?.message)
            }
            Act::Bundle => self.bundle().await,
            Act::Update(token) => self.update(&token),
            Act::Restart => self.system("restart", &["reboot"], "It restarts."),
            Act::PowerOff => self.system("shut down", &["poweroff"], "It shuts down."),
            Act::Shell(token) => {
                self.admit(&token, "a shell")?;
                self.log("a shell was opened");
                systemctl(&["start", "--no-block", &format!("lifeboat-shell@{}.service", self.name)])?;
                // The shell's unit takes the terminal from this one.
                tokio::time::sleep(STOPPED_WITHIN).await;
                Err(Failure::failed("the shell didn't start: the journal says why"))
            }
        }
    }

    /// Lets in who has the administrator's token.
    fn admit(&self, token: &Hidden, what: &str) -> Result<()> {
        live::check_token(token, Path::new(STATE), uptime()).map_err(|why| {
            self.log(&format!("{what} was refused: {why}"));
            Failure::failed(why)
        })
    }

    fn update(&self, token: &Hidden) -> Result<String> {
        self.admit(token, "an update")?;
        self.log("an update was asked for");
        print("It is read, checked and written; that takes a minute or two.\n")?;
        // What an earlier one said isn't said of this one.
        live::note_update("").map_err(|error| Failure::failed(format!("{error:#}")))?;
        let ended = systemctl(&["start", "lifeboat-update.service"]);
        // Its own words say more than that its unit failed.
        match live::update_note() {
            Some(text) => Ok(text),
            None => ended.map(|()| "It is installed.".to_owned()),
        }
    }

    fn network(&self, network: Option<&Network>) -> Result<String> {
        let line = network.map_or("as the hypervisor says".to_owned(), Network::line);
        let applied = live::set_network(network).map_err(|error| Failure::failed(format!("{error:#}")))?;
        self.log(&format!("the network was set: {line}"));
        let restarts = if applied.gateway_restarts { " The gateway restarts on its new address." } else { "" };
        Ok(format!("The network is set: {line}.{restarts}"))
    }

    async fn bundle(&self) -> Result<String> {
        print("It is gathered; that takes some seconds.\n")?;
        let directory = Path::new(STATE).join("support");
        let failed = |error: io::Error| Failure::failed(format!("the support bundle can't be kept: {error}"));
        fs::create_dir_all(&directory).map_err(failed)?;
        if !fs::symlink_metadata(&directory).map_err(failed)?.is_dir() {
            return Err(Failure::failed(format!(
                "the support bundle can't be kept: {} is no directory",
                directory.display()
            )));
        }
        owned(&directory).map_err(failed)?;
        let connection = ConnectionArgs::of_state(Path::new(STATE));
        let (file, about) = support::make(&connection, None, Some(&directory), &live::logs()).await?;
        owned(&file).map_err(failed)?;
        thin_out(&directory).map_err(failed)?;
        self.log("a support bundle was made");
        let missing = about["missing"].as_array().map_or(0, Vec::len);
        let lacks =
            if missing == 0 { String::new() } else { format!(" What couldn't be had ({missing}) is named in it.") };
        let url = about::address().map_or("https://ADDRESS".to_owned(), |address| format!("https://{address}"));
        Ok(format!(
            "The support bundle is made, without secrets.{lacks} Fetch it from another machine with a token of the security administrator:\n  lifeboat support-bundle --fetch --endpoint {url}"
        ))
    }

    fn system(&self, what: &str, args: &[&str], says: &str) -> Result<String> {
        self.log(&format!("{what} was asked for"));
        systemctl(args)?;
        Ok(says.to_owned())
    }

    /// Writes it into the journal, and where it lasts.
    fn log(&self, what: &str) {
        note(&format!("console {}: {what}", self.name));
        if let Err(error) = live::log(&format!("{} {} {}", Timestamp::now(), self.name, clean(what))) {
            note(&format!("the console's log can't be written: {error:#}"));
        }
    }
}

/// What changes by itself all the time is no reason to draw anew.
fn lasting(facts: &Facts) -> Facts {
    Facts { disk: facts.disk.map(|_| (0, 0)), memory: None, ..facts.clone() }
}

/// The gateway serves it: its own it has to be. A link that the gateway has put there is given to it, and not what it leads to.
fn owned(path: &Path) -> io::Result<()> {
    lchown(path, Some(GATEWAY_USER), Some(GATEWAY_USER))
}

/// Leaves the newest.
fn thin_out(directory: &Path) -> io::Result<()> {
    let mut bundles: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    bundles.sort();
    let surplus = bundles.len().saturating_sub(BUNDLES_MAX);
    bundles.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

/// Lines of the terminal, as they are typed.
fn read(lines: &mpsc::Sender<String>) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match input.read_until(b'\n', &mut line) {
            Ok(1..)
                if lines
                    .blocking_send(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
                    .is_ok() => {}
            _ => return,
        }
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::failed(format!("the terminal can't be written: {error}")))
}

/// Sets the terminal that this runs on.
fn stty(args: &[&str]) -> Result<()> {
    let ended =
        Command::new("stty").args(args).stdin(Stdio::inherit()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    match ended {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => Err(Failure::usage(format!(
            "the console needs a terminal: {}",
            String::from_utf8_lossy(&ended.stderr).trim()
        ))),
        Err(error) => Err(Failure::failed(format!("stty can't be run: {error}"))),
    }
}

pub(super) fn systemctl(args: &[&str]) -> Result<()> {
    let failed = |why: String| Failure::failed(format!("systemctl {}: {why}", args.join(" ")));
    let ended = Command::new("systemctl").args(args).stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| failed(error.to_string()))?;
    if ended.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&ended.stderr).trim().to_owned())) }
}

/// Seconds since the system started.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Each line with what a terminal would act on escaped.
fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// Text in lines of at most 79 columns, broken between words.
fn folded(text: &str) -> String {
    let mut folded = String::new();
    for line in text.lines() {
        let mut column = 0;
        for word in line.split_inclusive(' ') {
            let width = word.trim_end().chars().count();
            if column > 0 && column + width > 79 {
                folded.truncate(folded.trim_end().len());
                folded.push('\n');
                column = 0;
            }
            folded.push_str(word);
            column += word.chars().count();
        }
        folded.push('\n');
    }
    folded.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_folded_between_words() {
        let text = folded(&format!("{}\n  kept as it is", "word ".repeat(40)));
        assert!(text.lines().all(|line| line.chars().count() <= 79), "{text}");
        assert!(text.ends_with("\n  kept as it is"), "{text}");
        assert_eq!(text.matches("word").count(), 40);
    }

    #[test]
    fn the_newest_bundles_are_left() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..5_u64 {
            let path = dir.path().join(format!("{n}.tar.zst"));
            fs::write(&path, "").unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(n);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        thin_out(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["2.tar.zst", "3.tar.zst", "4.tar.zst"]);
    }
}
