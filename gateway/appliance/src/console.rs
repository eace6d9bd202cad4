//! The text console: what stands on it, and what a typed line leads to. No terminal is in here; the shell around it reads lines, shows
//! texts and carries out [`Act`]s.
//!
//! ```text
//! Home ── 1 ──> Kind ─ DHCP ──────────────────────> Dns ─┐
//!           │     ├─── fixed ──> Address ──> Router ─┘   └─> ConfirmNetwork ──y──> SetNetwork
//!           │     └─── as the hypervisor says ───────────> ConfirmForget ───y──> ForgetNetwork
//!      ── 2 ──> Endpoint ──> Key ───────────────────────────────────────────> Register
//!      ── 3 ──────────────────────────────────────────────────────────────> Bundle
//!      ── 4, 7 ──> Token (not echoed) ────────────────────────────────────> Update, Shell: the shell checks the token
//!      ── 5, 6 ──> Confirm ───────────────────────────────────────────y──> Restart, PowerOff
//! ```
//! An empty line leads one step back, or looks again. After an act stands its outcome, and the next line leads home. Plain text, at most
//! 79 columns and 23 lines: a VGA screen and a serial line of unknown size show the same.

use std::fmt::Write as _;

use crate::network::{self, Network};
use crate::properties::{Address, Hidden};

/// Columns that a line has at most.
const COLUMNS: usize = 79;
/// Reasons that are shown.
const REASONS_MAX: usize = 3;
/// Longest line that is taken.
const LINE_CHARS_MAX: usize = 1024;

/// What the status screen shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Host name.
    pub name: String,
    /// The site that it was started with.
    pub site: Option<String>,
    /// Version of the appliance.
    pub version: String,
    /// The slot that runs.
    pub slot: String,
    /// Why it isn't ready; nothing when it is.
    pub not_ready: Option<String>,
    /// Whether a declaration stands for this gateway.
    pub is_declared: bool,
    /// Vaults and how each is.
    pub vaults: Vec<(String, String)>,
    /// What is wrong.
    pub reasons: Vec<String>,
    /// Where its API is.
    pub url: Option<String>,
    /// Interfaces with their addresses.
    pub addresses: Vec<String>,
    /// The network as it is set, and by whom.
    pub network: String,
    /// Whether the clock follows a time server.
    pub is_synchronised: bool,
    /// Bytes free on the data disk, and all.
    pub disk: Option<(u64, u64)>,
    /// Bytes of memory in use, and all.
    pub memory: Option<(u64, u64)>,
    /// The authority's fingerprint.
    pub fingerprint: Option<String>,
}

/// What the shell carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Show the status anew.
    Look,
    /// Keep and apply this network.
    SetNetwork(Network),
    /// Forget what the console set.
    ForgetNetwork,
    /// Register with this gateway and key.
    Register {
        /// Where.
        endpoint: String,
        /// The key.
        key: Hidden,
    },
    /// Make a support bundle.
    Bundle,
    /// Install the update of a CD, if this is the administrator's token.
    Update(Hidden),
    /// Open a shell, if this is the administrator's token.
    Shell(Hidden),
    /// Restart.
    Restart,
    /// Shut down.
    PowerOff,
}

/// What a line led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What is shown.
    pub text: String,
    /// What is done.
    pub act: Option<Act>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The question.
    pub prompt: String,
    /// Whether the answer isn't echoed.
    pub is_secret: bool,
}

/// A person's way through the menus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialog {
    at: At,
    draft: Network,
    endpoint: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Home,
    Kind,
    Address,
    Router,
    Dns,
    ConfirmNetwork,
    ConfirmForget,
    Endpoint,
    Key,
    Token(ForToken),
    ConfirmRestart,
    ConfirmPowerOff,
    /// An outcome stands there.
    Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ForToken {
    Update,
    Shell,
}

impl Dialog {
    /// Whether the status stands there, which may be shown anew by itself.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.at == At::Home
    }

    /// What is asked now.
    #[must_use]
    pub fn ask(&self) -> Ask {
        let keep = |value: Option<String>, example: &str| match value {
            Some(value) => format!(" [{value}; Enter keeps it]"),
            None => format!(", for example {example}"),
        };
        let draft = &self.draft;
        let dns = (!draft.dns.is_empty()).then(|| network::list(&draft.dns));
        let prompt = match self.at {
            At::Home => "Choice: ".to_owned(),
            At::Kind => "Choice (Enter goes back): ".to_owned(),
            At::Address => {
                let now = draft.address.map(|address| address.to_string());
                format!("Address with the length of its network{}: ", keep(now, "192.0.2.10/24"))
            }
            At::Router => {
                let now = draft.gateway.map(|gateway| gateway.to_string());
                format!("Router{}, - for none: ", keep(now, "192.0.2.1"))
            }
            At::Dns => format!("DNS servers{}, - for none: ", keep(dns, "192.0.2.53, 192.0.2.54")),
            At::ConfirmNetwork | At::ConfirmForget => "Apply it now (y/n)? ".to_owned(),
            At::Endpoint => "Registered gateway, https://HOST[:PORT] (Enter goes back): ".to_owned(),
            At::Key => "Registration key (it is not shown): ".to_owned(),
            At::Token(_) => "Administrator's token (it is not shown; Enter goes back): ".to_owned(),
            At::ConfirmRestart => "Restart the appliance (y/n)? ".to_owned(),
            At::ConfirmPowerOff => "Shut the appliance down (y/n)? ".to_owned(),
            At::Seen => "Enter goes on: ".to_owned(),
        };
        Ask { prompt, is_secret: matches!(self.at, At::Token(_) | At::Key) }
    }

    /// Takes a line. `current` is the network as it is set now.
    pub fn answer(&mut self, line: &str, current: &Network) -> Reply {
        let line = line.trim();
        if line.chars().count() > LINE_CHARS_MAX || line.chars().any(char::is_control) {
            return say("That line has what no answer has: type it again.");
        }
        match self.at {
            At::Home => self.home(line, current),
            At::Seen => self.back(),
            At::Kind => self.kind(line, current),
            At::Address => self.address(line),
            At::Router => self.router(line),
            At::Dns => self.dns(line),
            At::ConfirmNetwork => {
                let network = self.draft.clone();
                self.confirm(line, Act::SetNetwork(network))
            }
            At::ConfirmForget => self.confirm(line, Act::ForgetNetwork),
            At::ConfirmRestart => self.confirm(line, Act::Restart),
            At::ConfirmPowerOff => self.confirm(line, Act::PowerOff),
            At::Endpoint if line.is_empty() => self.back(),
            At::Endpoint if !line.starts_with("https://") => say("It begins with https://, and names a host."),
            At::Endpoint => {
                line.clone_into(&mut self.endpoint);
                self.to(At::Key, "")
            }
            At::Key if line.is_empty() => self.back(),
            At::Key => {
                let act = Act::Register { endpoint: std::mem::take(&mut self.endpoint), key: Hidden::new(line) };
                self.act(act)
            }
            At::Token(_) if line.is_empty() => self.back(),
            At::Token(ForToken::Shell) => self.act(Act::Shell(Hidden::new(line))),
            At::Token(ForToken::Update) => self.act(Act::Update(Hidden::new(line))),
        }
    }

    fn home(&mut self, line: &str, current: &Network) -> Reply {
        match line {
            "" => Reply { act: Some(Act::Look), ..Reply::default() },
            "1" => {
                self.draft = current.clone();
                let text = "The network comes from the hypervisor's properties, or from here: the last change counts.\n\n  1  DHCP\n  2  A fixed address\n  3  As the hypervisor says (forget what was set here)";
                self.to(At::Kind, text)
            }
            "2" => self.to(At::Endpoint, "A gateway of the same vault registers this one by a key that it gave out\n(lifeboat registration-key create --role process_server). Without: Terraform or\n`lifeboat gateway create` from outside, with this gateway's API and token."),
            "3" => self.act(Act::Bundle),
            "4" => self.to(At::Token(ForToken::Update), "The update is taken from a CD (its label is LIFEBOAT-UPD), installed beside what\nruns, and started once with the next restart."),
            "5" => self.to(At::ConfirmRestart, "Volumes are away until it is back. What was acknowledged is kept."),
            "6" => self.to(At::ConfirmPowerOff, "Volumes are away until somebody starts it again. What was acknowledged is kept."),
            "7" => self.to(At::Token(ForToken::Shell), "A shell as root, for who has the administrator's token. Opening it is logged."),
            _ => say("Type one of the numbers and Enter."),
        }
    }

    fn kind(&mut self, line: &str, current: &Network) -> Reply {
        match line {
            "" => self.back(),
            "1" => {
                // Servers that were set beside a fixed address say nothing of what DHCP says.
                let dns = if current.address.is_none() { current.dns.clone() } else { Vec::new() };
                self.draft = Network { dns, ..Network::default() };
                self.to(At::Dns, "DNS servers are what DHCP says, unless others are named here.")
            }
            "2" => self.to(At::Address, ""),
            "3" => {
                self.to(At::ConfirmForget, "What was set here is forgotten; what the hypervisor says counts, or DHCP.")
            }
            _ => say("1, 2 or 3."),
        }
    }

    fn address(&mut self, line: &str) -> Reply {
        if line.is_empty() {
            return if self.draft.address.is_some() { self.to(At::Router, "") } else { self.back() };
        }
        match Address::try_from(line.to_owned()) {
            Ok(address) => {
                // A router that was set with another address may be of another network.
                if self.draft.address != Some(address) {
                    self.draft.gateway = None;
                }
                self.draft.address = Some(address);
                self.to(At::Router, "")
            }
            Err(why) => say(&format!("It {why}.")),
        }
    }

    fn router(&mut self, line: &str) -> Reply {
        match line {
            "" => {}
            "-" => self.draft.gateway = None,
            _ => match line.parse() {
                Ok(router) => self.draft.gateway = Some(router),
                Err(_) => return say("It must be an IP address, for example 192.0.2.1."),
            },
        }
        match self.draft.check() {
            Ok(()) => self.to(At::Dns, ""),
            Err(why) => say(&format!("{why}.")),
        }
    }

    fn dns(&mut self, line: &str) -> Reply {
        match line {
            "" => {}
            "-" => self.draft.dns.clear(),
            _ => match network::addresses(line) {
                Ok(servers) => self.draft.dns = servers,
                Err(why) => return say(&format!("They {why}.")),
            },
        }
        if let Err(why) = self.draft.check() {
            return say(&format!("{why}."));
        }
        let text = format!(
            "{}\nWho is connected by another address loses the connection; the gateway restarts\nif its address changes, and its volumes are away for that moment.",
            self.draft.line()
        );
        self.to(At::ConfirmNetwork, &text)
    }

    fn confirm(&mut self, line: &str, act: Act) -> Reply {
        match line {
            "y" | "Y" | "yes" => self.act(act),
            "n" | "N" | "no" | "" => self.back(),
            _ => say("y or n."),
        }
    }

    fn act(&mut self, act: Act) -> Reply {
        self.at = At::Seen;
        Reply { text: String::new(), act: Some(act) }
    }

    fn to(&mut self, at: At, text: &str) -> Reply {
        self.at = at;
        say(text)
    }

    fn back(&mut self) -> Reply {
        *self = Self::default();
        Reply { act: Some(Act::Look), ..Reply::default() }
    }
}

fn say(text: &str) -> Reply {
    Reply { text: text.to_owned(), act: None }
}

/// The status, and the menu below it.
#[must_use]
pub fn screen(facts: &Facts) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let value: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let line = format!("  {label:<11}{value}");
        let cut = line.chars().count() > COLUMNS;
        let shown: String = line.chars().take(if cut { COLUMNS - 3 } else { COLUMNS }).collect();
        let _ = writeln!(text, "{}{}", shown.trim_end(), if cut { "..." } else { "" });
    };
    let site = facts.site.as_ref().map(|site| format!(" at {site}")).unwrap_or_default();
    line("Lifeboat", &format!("{}, slot {}", facts.version, facts.slot));
    line("Gateway", &format!("{}{site}", facts.name));
    match &facts.not_ready {
        None => line("State", "ready"),
        Some(why) => line("State", &format!("NOT READY: {why}")),
    }
    let vaults = facts.vaults.iter().map(|(name, how)| format!("{name} {how}")).collect::<Vec<_>>().join(", ");
    match (facts.vaults.is_empty(), facts.is_declared) {
        (true, _) if facts.not_ready.is_some() => line("Vault", "not known yet"),
        (true, _) => line("Vault", "none yet: make or open one with Terraform or the command line"),
        (false, true) => line("Vault", &vaults),
        (false, false) => line("Vault", &format!("{vaults}; no declaration stands for this gateway yet")),
    }
    for reason in facts.reasons.iter().take(REASONS_MAX) {
        line("", reason);
    }
    line("API", facts.url.as_deref().unwrap_or("no address yet"));
    line("Addresses", &if facts.addresses.is_empty() { "none".to_owned() } else { facts.addresses.join("; ") });
    line("Network", &facts.network);
    line(
        "Time",
        if facts.is_synchronised { "synchronised" } else { "not synchronised: no time server has answered yet" },
    );
    line(
        "Data disk",
        &facts.disk.map_or("none".to_owned(), |(free, all)| format!("{} free of {}", size(free), size(all))),
    );
    line(
        "Memory",
        &facts.memory.map_or("unknown".to_owned(), |(used, all)| format!("{} used of {}", size(used), size(all))),
    );
    // 95 characters in two rows.
    let print = facts.fingerprint.as_deref().unwrap_or("no authority yet");
    let (first, second) = print.split_at_checked(48).unwrap_or((print, ""));
    line("Authority", first);
    if !second.is_empty() {
        line("  SHA-256", second);
    }
    text.push_str(
        "\n  1  Set the network     4  Install an update   7  Open a shell\
         \n  2  Register            5  Restart             Enter  look again\
         \n  3  Support bundle      6  Shut down\n",
    );
    text
}

/// Bytes for people: what is left of a GiB counts.
fn size(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib < 10 << 10 { format!("{mib} MiB") } else { format!("{} GiB", mib >> 10) }
}

#[cfg(test)]
mod tests;
