//! The command line: its verbs, grouped by task, and what is said when it makes no sense.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;
use crate::output::Output;
use crate::serve::ServeArgs;
use crate::verbs::agent::AgentArgs;
use crate::verbs::appliance::ApplianceArgs;
use crate::verbs::approval::ApprovalArgs;
use crate::verbs::audit::AuditArgs;
use crate::verbs::check::LocalArgs;
use crate::verbs::deleted::DeletedArgs;
use crate::verbs::drill::DrillArgs;
use crate::verbs::encrypt::EncryptArgs;
use crate::verbs::event::EventArgs;
use crate::verbs::failover::{
    ChangePointArgs, CleanupArgs, CommitArgs, FailbackArgs, FailoverArgs, ReleaseArgs, ReprotectArgs, ResumeArgs,
};
use crate::verbs::gateway::GatewayArgs;
use crate::verbs::group::GroupArgs;
use crate::verbs::inspect::InspectArgs;
use crate::verbs::iscsi::IscsiArgs;
use crate::verbs::job::JobArgs;
use crate::verbs::machine::MachineArgs;
use crate::verbs::network::NetworkArgs;
use crate::verbs::network_mapping::NetworkMappingArgs;
use crate::verbs::notice::NoticeArgs;
use crate::verbs::plan::PlanArgs;
use crate::verbs::point::PointArgs;
use crate::verbs::policy::PolicyArgs;
use crate::verbs::registration_key::RegistrationKeyArgs;
use crate::verbs::resync::ResyncArgs;
use crate::verbs::shell::{CompletionArgs, ManArgs};
use crate::verbs::site::SiteArgs;
use crate::verbs::status::StatusArgs;
use crate::verbs::support::SupportBundleArgs;
use crate::verbs::terraform::TerraformArgs;
use crate::verbs::token::TokenArgs;
use crate::verbs::vault::VaultArgs;
use crate::verbs::volume::VolumeArgs;
use crate::verbs::whoami::WhoamiArgs;

/// Disaster recovery as code: protects volumes, and brings them up elsewhere.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, subcommand_value_name = "VERB")]
pub(crate) struct Cli {
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a gateway
    Serve(Box<ServeArgs>),
    /// Show how the gateway and everything that it protects is
    Status(StatusArgs),
    /// Tokens with roles: make, list, rotate and revoke them; show the administrator's token of this machine
    Token(TokenArgs),
    /// Registration keys: what a machine enrols with, once
    RegistrationKey(RegistrationKeyArgs),
    /// Agents: enrol this machine and protect its disks; list and revoke those that enrolled
    Agent(AgentArgs),
    /// Serve a gateway's volumes to other hosts over iSCSI, with this machine's kernel
    Iscsi(IscsiArgs),
    /// What the appliance runs: boot, console, updates
    Appliance(ApplianceArgs),
    /// Decide about what a second person has to approve
    Approval(ApprovalArgs),
    /// Say whom the gateway takes you for, and what you may do
    Whoami(WhoamiArgs),
    /// Open, create and look at vaults
    Vault(VaultArgs),
    /// Declare sites: places that can lose everything at once
    Site(SiteArgs),
    /// Declare gateways: the processes that serve volumes
    Gateway(GatewayArgs),
    /// Declare replication policies: how often, how long, how fast
    Policy(PolicyArgs),
    /// Declare consistency groups: volumes that share one write order
    Group(GroupArgs),
    /// Declare volumes: the disks that are protected
    Volume(VolumeArgs),
    /// Write Terraform configuration for what is declared
    Terraform(TerraformArgs),
    /// Declare machines: what boots from protected volumes
    Machine(MachineArgs),
    /// Declare networks: what the interfaces of machines join
    Network(NetworkArgs),
    /// Declare what becomes of a network's interfaces at another site
    NetworkMapping(NetworkMappingArgs),
    /// Declare recovery plans: what comes up at another site, and in what order
    Plan(PlanArgs),
    /// Test recovery plans, hold what is asserted against what comes up, keep signed evidence
    Drill(DrillArgs),
    /// List what was deleted; take a deletion back
    Deleted(DeletedArgs),
    /// List, look into, take and verify recovery points
    Point(PointArgs),
    /// Copy what the vault lacks of a group, at once; compare it with the vault first
    Resync(ResyncArgs),
    /// Bring a plan, a machine or a group up at the gateway that is asked
    Failover(FailoverArgs),
    /// Go on from another recovery point after a failover
    ChangePoint(ChangePointArgs),
    /// Make the last failover final
    Commit(CommitArgs),
    /// End test failovers and drop what was written in them
    Cleanup(CleanupArgs),
    /// Stop writing in order, ship everything, give the group up
    Release(ReleaseArgs),
    /// Start again after a release, at the same gateway
    Resume(ResumeArgs),
    /// Bring the home copies forward while the recovery side runs
    Reprotect(ReprotectArgs),
    /// Bring a plan, a machine or a group back home
    Failback(FailbackArgs),
    /// See what is being done, stop it, try it again
    Job(JobArgs),
    /// See what happened
    Event(EventArgs),
    /// See and test the channels through which a gateway tells people what happens
    Notice(NoticeArgs),
    /// See who asked for what, and prove that the log says so still
    Audit(AuditArgs),
    /// Prove the local files of a gateway that is stopped; `vault check` proves a vault
    Check(LocalArgs),
    /// Encrypt what a gateway or an agent that is stopped keeps on its disk, or change what opens it
    Encrypt(EncryptArgs),
    /// Say what a file of a gateway or an object of a vault is
    Inspect(InspectArgs),
    /// Gather what explains a fault in one file without secrets
    SupportBundle(SupportBundleArgs),
    /// Print what completes commands in a shell
    Completion(CompletionArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

/// Tasks, and the verbs that do them.
const TASKS: [(&str, &[&str]); 8] = [
    (
        "Run a gateway",
        &["serve", "status", "token", "registration-key", "agent", "iscsi", "appliance", "approval", "whoami"],
    ),
    ("Declare what is protected", &["vault", "site", "gateway", "policy", "group", "volume", "terraform"]),
    ("Declare how it recovers", &["machine", "network", "network-mapping", "plan", "drill", "deleted"]),
    ("Recovery points", &["point", "resync"]),
    (
        "Fail over and back",
        &["failover", "change-point", "commit", "cleanup", "release", "resume", "reprotect", "failback"],
    ),
    ("See what happens", &["job", "event", "notice", "audit"]),
    ("Look inside", &["check", "inspect", "encrypt", "support-bundle"]),
    ("This program", &["completion", "man"]),
];

/// What people try first, by other programs' words, and what it is here.
const OTHER_WORDS: [(&str, &str); 10] = [
    ("backup", "lifeboat point take"),
    ("snapshot", "lifeboat point take"),
    ("snapshots", "lifeboat point list"),
    ("mount", "lifeboat point show"),
    ("restore", "lifeboat failover"),
    ("promote", "lifeboat failover"),
    ("switchback", "lifeboat failback"),
    ("daemon", "lifeboat serve"),
    ("install", "lifeboat gateway enrol"),
    ("logs", "lifeboat event list"),
];

const AFTER_HELP: &str = "\
Connection: LIFEBOAT_ENDPOINT, LIFEBOAT_TOKEN or LIFEBOAT_TOKEN_FILE, and LIFEBOAT_CA_CERT, or the flags of the same names;
on the gateway's machine --state DIR says it all. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict or
refused, 5 unreachable. `lifeboat VERB --help` says more.";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A verb.
    Run(Box<Cli>),
    /// A text on standard output: help, version.
    Say(String),
    /// The help, because the command is incomplete: on standard error, and exit code 2.
    Explain(String),
}

/// The command with its help grouped by task.
pub(crate) fn command() -> Command {
    let command = Cli::command();
    let mut verbs = String::new();
    let about = |name: &str| command.find_subcommand(name).and_then(Command::get_about).map(ToString::to_string);
    for (task, names) in TASKS {
        let _ = writeln!(verbs, "{task}:");
        for name in names {
            let _ = writeln!(verbs, "  {name:<17}{}", about(name).unwrap_or_default());
        }
        verbs.push('\n');
    }
    command.help_template(format!(
        "{{about-with-newline}}\nUsage: lifeboat VERB [OPTIONS]\n\n{verbs}Options:\n{{options}}\n\n{AFTER_HELP}"
    ))
}

/// Reads the command line.
///
/// # Errors
/// `Usage`, in one line.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, Failure> {
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Asked::Run(Box::new(cli))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Asked::Say(error.render().to_string())),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Ok(Asked::Explain(error.render().to_string())),
            _ => {
                let said = one_line(&error.render().to_string());
                Err(Failure::usage(match elsewhere(&error) {
                    Some(places) => {
                        let (what, see) = said.rsplit_once("; see ").unwrap_or((&said, "`lifeboat --help`"));
                        // What is spelled exactly so elsewhere is meant rather than what is spelled nearly so here.
                        let what = what.split_once(" tip:").map_or(what, |(what, _)| what);
                        format!("{what}; did you mean {places}? See {see}")
                    }
                    None => said,
                }))
            }
        },
    }
}

/// Where a verb is that was asked for at a place where it isn't: `lifeboat take` is `lifeboat point take`.
fn elsewhere(error: &clap::Error) -> Option<String> {
    let known = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let asked = known(ContextKind::InvalidSubcommand)?;
    let other = OTHER_WORDS.iter().filter(|(word, _)| *word == asked).map(|(_, here)| format!("`{here}`"));
    let command = Cli::command();
    let below = command.get_subcommands().filter(|noun| noun.find_subcommand(asked).is_some());
    let below = below.map(|noun| format!("`lifeboat {} {asked}`", noun.get_name()));
    let places: Vec<String> = other.chain(below).take(4).collect();
    (!places.is_empty()).then(|| places.join(" or "))
}

/// What is wrong, and where more is said, without the parser's paragraphs.
fn one_line(rendered: &str) -> String {
    let said =
        rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said: Vec<&str> = said.filter(|line| !line.is_empty()).collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    let usage = rendered.lines().find_map(|line| line.trim().strip_prefix("Usage: ")).unwrap_or("lifeboat");
    let verb: Vec<&str> = usage.split_whitespace().take_while(|word| !word.starts_with(['-', '<', '['])).collect();
    format!(
        "{said}; see `{} --help`",
        verb.iter().filter(|word| **word != "VERB").copied().collect::<Vec<_>>().join(" ")
    )
}

#[cfg(test)]
mod tests;
