//! A machine of its own for a guide: a shell as root, in namespaces, where the guide's paths, ports and addresses are free.
//!
//! ```text
//! mounts     /etc (a copy), /srv, /mnt, /root, /run, /var/lib: directories of the scratch place; the rest is this machine's
//! network    a loopback of its own: ports and addresses of one guide don't meet those of another
//! processes  the shell is the first one: when it ends, so does everything that it started, gateways above all
//! programs   this machine's; PostgreSQL as `make deps` has unpacked it, where it isn't installed
//! ```
//! What the kernel has only once are loop devices: those that the guide attached are detached at the end, whatever happened. A guide that
//! ends in the middle of it leaves file systems on volumes whose gateway is killed together with them: its mounts are cut off then, since
//! whoever unmounts would wait for the gateway, and the gateway for the unmount.
//! `lifeboat`, the provider (in a mirror, as users have it) and the repository's examples are there. A question for `yes` is
//! answered so. After each block every gateway that it started is waited for until it is ready, as a reader is slower than that.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::blocks::{Block, Mark};
use super::shown::{differs, differs_at_all};
use crate::binaries::{lifeboat, provider, repository};
use crate::command::Run;
use crate::scratch::Scratch;
use crate::terraform::PROVIDER;
use crate::{cleanup, device, eventually};

/// How long a block may take, gateways' starts included.
const BLOCK_WITHIN: Duration = Duration::from_secs(240);
/// How long a block is repeated that is to be looked at again.
const AGAIN_WITHIN: Duration = Duration::from_secs(90);
/// Hidden from the guide: what stands there is its own.
const OWN: [&str; 5] = ["srv", "mnt", "root", "run", "var/lib"];
/// As much of a log is told when a guide fails.
const TOLD_MAX: usize = 6000;

/// The machine.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: everything that runs, loop devices, files.
    shell: Shell,
    _detach: cleanup::Guard,
    scratch: Scratch,
    played: usize,
}

#[derive(Debug)]
struct Shell {
    input: ChildStdin,
    child: Arc<Mutex<Child>>,
    /// The FUSE connections of its mounts, as they were found after each block.
    connections: Arc<Mutex<BTreeSet<u32>>>,
    _kill: cleanup::Guard,
}

impl Machine {
    /// Starts one; `label` is in its directory's name.
    ///
    /// # Errors
    /// This machine can't mount or has no namespaces, or the binaries aren't built.
    pub fn new(label: &str) -> Result<Self> {
        device::require()?;
        LazyLock::force(&OWN_CONNECTIONS);
        let scratch = Scratch::new(&format!("guide-{label}"))?;
        let dir = scratch.path().to_owned();
        for part in OWN.into_iter().chain(["bin", "blocks", "tools", "mirror"]) {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("create {part}"))?;
        }
        let version = lifeboat_version()?;
        let platform =
            format!("linux_{}", std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"));
        let mirror = dir.join("mirror").join(PROVIDER).join(&version).join(platform);
        fs::create_dir_all(&mirror).context("make the provider's mirror")?;
        let installed = mirror.join(format!("terraform-provider-lifeboat_v{version}"));
        for place in [&installed, &dir.join("bin/lifeboat")] {
            // Mounted over: the files themselves are too large to be copied for each guide.
            fs::write(place, "").with_context(|| format!("make {}", place.display()))?;
        }
        write_program(&dir.join("bin/losetup"), &losetup(&dir))?;
        let rc = format!(
            "provider_installation {{\n  filesystem_mirror {{\n    path = {:?}\n  }}\n}}\n",
            dir.join("mirror")
        );
        fs::write(dir.join("terraform.rc"), rc).context("write terraform.rc")?;
        fs::write(dir.join("answers"), "yes\n".repeat(20)).context("write answers")?;
        fs::write(dir.join("start"), start(&dir, &installed)?).context("write the shell's start")?;
        let loops = dir.join("loops");
        let detach = cleanup::defer("detach the guide's loop devices", move || detach(&loops));
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--net",
                "--fork",
                "--kill-child=KILL",
                "--mount-proc",
                "--propagation",
                "private",
            ])
            .args(["--", "bash", "--noprofile", "--norc"])
            .arg(dir.join("start"))
            .stdin(Stdio::piped())
            .stdout(fs::File::create(dir.join("log")).context("make a log")?)
            .stderr(fs::File::options().append(true).open(dir.join("log")).context("open the log")?)
            .spawn()
            .context("start a shell in namespaces")?;
        let input = child.stdin.take().context("the shell's input")?;
        let child = Arc::new(Mutex::new(child));
        let victim = Arc::clone(&child);
        let connections = Arc::<Mutex<BTreeSet<u32>>>::default();
        let served = Arc::clone(&connections);
        let kill = cleanup::defer("end the guide's shell", move || {
            let mut child = victim.lock().unwrap_or_else(PoisonError::into_inner);
            drop(child.kill());
            drop(child.wait());
            cut_off(&served.lock().unwrap_or_else(PoisonError::into_inner));
        });
        let shell = Shell { input, child, connections, _kill: kill };
        Ok(Self { shell, _detach: detach, scratch, played: 0 })
    }

    /// Runs a script of the repository that makes what the guide takes for granted.
    ///
    /// # Errors
    /// It fails.
    pub fn prepare(&mut self, script: &Path) -> Result<()> {
        let text =
            fs::read_to_string(repository().join(script)).with_context(|| format!("read {}", script.display()))?;
        self.script(&text, false).with_context(|| script.display().to_string())
    }

    /// Goes into a directory of the repository's examples, as the machine has them.
    ///
    /// # Errors
    /// It isn't there.
    pub fn enter(&mut self, directory: &str) -> Result<()> {
        self.script(&format!("cd /root/{directory}"), false)
    }

    /// Does what a block says.
    ///
    /// # Errors
    /// It fails, or shows something else.
    pub fn play(&mut self, block: &Block) -> Result<()> {
        match (&block.mark, block.language.as_str()) {
            (Mark::File(name), _) => {
                let place = self.scratch.path().join("blocks/file");
                fs::write(&place, &block.text).context("write the block")?;
                self.script(&format!("install -D -m 0644 {} {name}", place.display()), false)
            }
            (Mark::Again, "console") => self.again(|machine| machine.console(&block.text, true, differs)),
            (Mark::Again, _) => self.again(|machine| machine.script(&block.text, true)),
            (Mark::Exactly, "console") => self.console(&block.text, false, differs_at_all),
            (Mark::Fails, "console") => self.console(&block.text, true, differs),
            (Mark::Fails, _) => match self.script(&block.text, true) {
                Ok(()) => bail!("it has to fail, and ended well"),
                Err(_) => Ok(()),
            },
            (_, "console") => self.console(&block.text, false, differs),
            _ => self.script(&block.text, false),
        }
    }

    /// Ends everything in order.
    ///
    /// # Errors
    /// Something is still in use, or the shell doesn't end.
    pub fn close(mut self) -> Result<()> {
        self.script("finish", false)?;
        writeln!(self.shell.input, "exit 0").context("end the shell")?;
        eventually("the guide's shell to end", Duration::from_secs(30), || self.ended()).map(drop)
    }

    /// A failure with what was printed last.
    #[must_use]
    pub fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let mut told = String::new();
        let dir = self.scratch.path();
        for number in self.played.saturating_sub(1)..=self.played {
            for part in ["out", "err"] {
                let text = fs::read_to_string(dir.join(format!("blocks/{number}.{part}"))).unwrap_or_default();
                let from = text.len().saturating_sub(TOLD_MAX);
                let text = text.get(from..).unwrap_or(&text);
                let _ = writeln!(told, "--- block {number}, {part}\n{text}");
            }
        }
        let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
        error.context(format!("{told}--- the shell\n{log}"))
    }

    fn ended(&self) -> Result<Option<std::process::ExitStatus>> {
        self.shell.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().context("look after the shell")
    }

    fn again(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let begun = Instant::now();
        loop {
            match attempt(self) {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() > AGAIN_WITHIN => {
                    return Err(error.context(format!("repeated for {AGAIN_WITHIN:?}")));
                }
                // A person doesn't look again more often.
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    /// Runs a script in the shell itself, or in one below it that may fail.
    fn script(&mut self, text: &str, may_fail: bool) -> Result<()> {
        let (code, _, errors) = self.shell(text, may_fail)?;
        ensure!(code == 0, "it ended with {code}: {}", errors.trim());
        Ok(())
    }

    /// Runs the commands of a console one by one, and holds what each shows against what stands below it.
    fn console(&mut self, text: &str, may_fail: bool, differs: fn(&str, &str) -> Option<String>) -> Result<()> {
        let commands = commands(text)?;
        for (command, expected) in commands {
            let (code, output, errors) = self.shell(&command, may_fail)?;
            ensure!(may_fail || code == 0, "`{command}` ended with {code}: {}", errors.trim());
            // What a command says when it fails stands on standard error.
            let shown = if code == 0 { output } else { format!("{output}{errors}") };
            if let Some(difference) = differs(&expected, &shown) {
                bail!("`{command}` (exit code {code})\n{difference}\n--- shown:\n{shown}");
            }
        }
        Ok(())
    }

    /// Runs a script; gives its exit code, and what it printed.
    fn shell(&mut self, text: &str, may_fail: bool) -> Result<(i32, String, String)> {
        self.played += 1;
        let number = self.played;
        let dir = self.scratch.path().join("blocks");
        let file = |part: &str| dir.join(format!("{number}.{part}"));
        fs::write(file("sh"), text).context("write the block")?;
        let way = if may_fail { "try" } else { "play" };
        writeln!(self.shell.input, "{way} {number}").with_context(|| format!("the shell is gone: {text}"))?;
        let code = eventually("the block to end", BLOCK_WITHIN, || {
            if let Ok(code) = fs::read_to_string(file("code")) {
                return Ok(Some(code));
            }
            if self.ended()?.is_some() {
                let errors = fs::read_to_string(file("err")).unwrap_or_default();
                return Err(anyhow!("a command failed: {}", errors.trim()));
            }
            Ok(None)
        })?;
        self.shell.note_connections();
        let code = code.trim().parse().context("an exit code")?;
        let read = |part: &str| fs::read(file(part)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((code, read("out").unwrap_or_default(), read("err").unwrap_or_default()))
    }
}

impl Shell {
    /// Looks which FUSE mounts there are.
    fn note_connections(&self) {
        let parent = self.child.lock().unwrap_or_else(PoisonError::into_inner).id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let mut known = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for shell in children.split_whitespace() {
            let mounts = fs::read_to_string(format!("/proc/{shell}/mountinfo")).unwrap_or_default();
            known.extend(mounts.lines().filter_map(connection).filter(|minor| !OWN_CONNECTIONS.contains(minor)));
        }
    }
}

/// The FUSE connections that there were before any guide: this machine's own are seen by the guides too.
static OWN_CONNECTIONS: LazyLock<BTreeSet<u32>> = LazyLock::new(|| {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(connection).collect()
});

/// The number of the FUSE connection of a line of mountinfo, if it is one where guides have theirs: the minor of its device.
fn connection(line: &str) -> Option<u32> {
    let (place, what) = line.split_once(" - ")?;
    let kind = what.split(' ').next()?;
    let mut place = place.split(' ').skip(2);
    let (device, point) = (place.next()?, place.nth(1)?);
    let is_fuse = kind == "fuse" || kind.starts_with("fuse.");
    (is_fuse && point.starts_with("/mnt/")).then(|| device.split_once(':')?.1.parse().ok())?
}

/// Ends FUSE connections whose server may be gone: everything that waits for them fails. Those that are over already are none any more.
fn cut_off(connections: &BTreeSet<u32>) {
    let control = Path::new("/sys/fs/fuse/connections");
    if !connections.is_empty() && fs::read_dir(control).is_ok_and(|mut entries| entries.next().is_none()) {
        drop(Run::new("mount").args(["-t", "fusectl", "none"]).arg(control).outcome());
    }
    for number in connections {
        drop(fs::write(control.join(number.to_string()).join("abort"), "1"));
    }
}

/// Commands with what stands below each.
fn commands(text: &str) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut continues = false;
    for line in text.lines() {
        if continues {
            let (command, _) = found.last_mut().context("a command")?;
            continues = line.ends_with('\\');
            command.push_str(line.strip_prefix("> ").unwrap_or(line));
            command.push('\n');
        } else if let Some(command) = line.strip_prefix("$ ") {
            continues = command.ends_with('\\');
            found.push((format!("{command}\n"), String::new()));
        } else {
            let (_, expected) = found.last_mut().context("a console begins with a command behind `$ `")?;
            expected.push_str(line);
            expected.push('\n');
        }
    }
    Ok(found)
}

fn lifeboat_version() -> Result<String> {
    let said = Run::new(lifeboat()?).arg("--version").ok()?;
    Ok(said.split_whitespace().nth(1).context("a version")?.to_owned())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} a program", path.display()))
}

/// `losetup` that remembers what it attached, with the number that the kernel gives to each attachment: asking the device itself could
/// wait for a gateway that is gone.
fn losetup(dir: &Path) -> String {
    format!(
        "#!/bin/sh\nshown=$(/usr/sbin/losetup \"$@\") || exit $?\n[ -z \"$shown\" ] || echo \"$shown\"\n\
         case $shown in /dev/loop[0-9]*) device=$(echo \"$shown\" | head -n 1) ;; *) exit 0 ;; esac\n\
         echo \"$device $(cat \"/sys/block/${{device#/dev/}}/diskseq\")\" >>{}/loops\n",
        dir.display()
    )
}

/// Detaches what a guide has left attached: never what somebody else has attached to such a device since.
fn detach(list: &Path) {
    for line in fs::read_to_string(list).unwrap_or_default().lines() {
        let Some((device, number)) = line.split_once(' ') else { continue };
        let Some(name) = device.strip_prefix("/dev/") else { continue };
        let now = fs::read_to_string(format!("/sys/block/{name}/diskseq")).unwrap_or_default();
        if now.trim() == number.trim() && Path::new(&format!("/sys/block/{name}/loop/backing_file")).exists() {
            drop(Run::new("losetup").args(["-d", device]).within(Duration::from_secs(20)).outcome());
        }
    }
}

/// What the shell does before the first block.
fn start(dir: &Path, installed: &Path) -> Result<String> {
    let tools: Option<PathBuf> = std::env::var_os("LIFEBOAT_TOOLS").map(PathBuf::from);
    let (place, mut text) = (dir.display(), String::new());
    writeln!(text, "set -euo pipefail\nip link set lo up")?;
    writeln!(text, "mount --bind {} {place}/bin/lifeboat", quoted(&lifeboat()?))?;
    writeln!(text, "mount --bind {} {}", quoted(&provider()?), quoted(installed))?;
    if let Some(tools) = tools.filter(|tools| tools.is_dir()) {
        writeln!(text, "mount --bind {} {place}/tools", quoted(&tools))?;
    }
    // A database that `make deps` has unpacked is where Debian's package has it: below what is installed, nothing of which changes.
    writeln!(text, "if [ ! -e /usr/lib/postgresql ] && [ -d {place}/tools/postgresql/usr ]; then")?;
    writeln!(text, "  mount -t overlay overlay -o lowerdir=/usr:{place}/tools/postgresql/usr /usr\nfi")?;
    writeln!(text, "cp -a /etc {place}/etc && mount --bind {place}/etc /etc")?;
    writeln!(text, "grep -q '^postgres:' /etc/group || echo 'postgres:x:64999:' >>/etc/group")?;
    writeln!(
        text,
        "grep -q '^postgres:' /etc/passwd || echo 'postgres:x:64999:64999::/var/lib/postgresql:/bin/sh' >>/etc/passwd"
    )?;
    writeln!(text, "cp -r {} {place}/root/examples", quoted(&repository().join("examples")))?;
    // Programs that somebody has installed for themselves go on working: Python's versions, Rust's tools.
    writeln!(text, "for hidden in /root/.[!.]*/; do")?;
    writeln!(text, "  [ -d \"$hidden\" ] || continue\n  mkdir -p \"{place}$hidden\"")?;
    writeln!(
        text,
        "  mount --bind \"$hidden\" \"{place}$hidden\" && mount -o remount,bind,ro \"{place}$hidden\"\ndone"
    )?;
    for own in OWN {
        writeln!(text, "mount --rbind {place}/{own} /{own}")?;
    }
    writeln!(text, "rm -rf /etc/lifeboat\nexport HOME=/root PATH={place}/bin:$PATH TOOLS={place}/tools TERM=dumb")?;
    writeln!(text, "export TF_CLI_CONFIG_FILE={place}/terraform.rc CHECKPOINT_DISABLE=1 TF_CLI_ARGS=-no-color")?;
    writeln!(text, "blocks={place}/blocks answers={place}/answers loops={place}/loops\n{FUNCTIONS}")?;
    Ok(text)
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// A block that fails ends the shell, unless it is one that may: that runs below, and nothing that it sets stays.
const FUNCTIONS: &str = r#"
said() { echo "$2" >"$blocks/$1.new"; mv "$blocks/$1.new" "$blocks/$1.code"; }
play() { source "$blocks/$1.sh" <"$answers" >"$blocks/$1.out" 2>"$blocks/$1.err"; settle; said "$1" 0; }
try() { local code=0; set +e; (set -euo pipefail; source "$blocks/$1.sh") <"$answers" >"$blocks/$1.out" 2>"$blocks/$1.err"; code=$?; set -e; said "$1" $code; }
# Until every gateway that runs is ready.
settle() {
  local process state try
  # What was begun in the background may be this shell still, that isn't the program yet.
  for process in $(jobs -p); do
    for ((try = 0; try < 40; try++)); do
      [ -e "/proc/$process/exe" ] && [ "/proc/$process/exe" -ef /proc/$$/exe ] || break
      sleep 0.05
    done
  done
  for process in /proc/[0-9]*; do
    mapfile -d '' -t words <"$process/cmdline" 2>/dev/null || continue
    [ "${words[1]:-}" = serve ] || continue
    state=
    for ((try = 2; try < ${#words[@]}; try++)); do [ "${words[try]}" != --state ] || state=${words[try + 1]}; done
    [ -n "$state" ] || continue
    for ((try = 0; try < 600; try++)); do
      [ -d "$process/fd" ] || break
      ! lifeboat status --state "$state" --output json 2>/dev/null | grep -q '"ready": true' || break
      sleep 0.1
    done
  done
}
# Everything that was mounted, then what serves it.
finish() {
  cd /
  local target process device number
  tac /proc/mounts | while read -r _ target kind _; do
    case $target in /srv/* | /mnt/* | /var/lib/* | /root/*) [ "$kind" = fuse.lifeboat ] || umount "$target" 2>/dev/null || umount --lazy "$target" || true ;; esac
  done
  [ ! -e "$loops" ] || while read -r device number; do
    [ "$(cat "/sys/block/${device#/dev/}/diskseq")" != "$number" ] || /usr/sbin/losetup --detach "$device" 2>/dev/null || true
  done <"$loops"
  for process in $(jobs -p); do kill "$process" 2>/dev/null || true; done
  wait || true
}
cd /root
while read -r line; do eval "$line"; done
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_those_of_the_guides_own_mounts() {
        let line = |point: &str, kind: &str| format!("36 35 0:42 / {point} rw,noatime shared:1 - {kind} lifeboat rw");
        assert_eq!(connection(&line("/mnt/primary", "fuse.lifeboat")), Some(42));
        assert_eq!(connection(&line("/var/tmp/another/mnt", "fuse.lifeboat")), None);
        assert_eq!(connection(&line("/mnt/disk", "ext4")), None);
        assert_eq!(connection("nonsense"), None);
    }

    #[test]
    fn a_console_is_commands_with_what_they_show() {
        let found = commands("$ a \\\n>   b\nx\ny\n$ c\n").unwrap();
        assert_eq!(found, [("a \\\n  b\n".to_owned(), "x\ny\n".to_owned()), ("c\n".to_owned(), String::new())]);
        assert!(commands("x\n").is_err());
    }
}
