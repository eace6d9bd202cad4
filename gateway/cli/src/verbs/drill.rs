//! `lifeboat drill`: list, show, create, run, cleanup, delete; evidence, report, verify.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use lifeboat_api::{
    Assertion, AssertionType, Client, Drill, DrillEvidence, DrillRunRequest, DrillSchedule, DrillSpec, Gateway,
    Machine, Network, Plan, PlanCleanupRequest, Volume,
};
use serde_json::{Value, json};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::settle;
use crate::render::{clean, maybe, seconds};
use crate::resolve::{find, network};

/// Test recovery plans: run them, hold what is asserted against what comes up, keep signed evidence.
#[derive(Args, Debug)]
pub(crate) struct DrillArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: DrillVerb,
}

#[derive(Subcommand, Debug)]
enum DrillVerb {
    /// List the drills
    List,
    /// Show one with its runs
    Show(Named),
    /// Declare a drill; `run` runs it
    Create(Create),
    /// Run one and wait for it; exit code 1 when it doesn't pass
    Run(Wait),
    /// End the test that a drill with --keep left up
    Cleanup {
        #[command(flatten)]
        wait: Wait,
        /// What is worth remembering of the test
        #[arg(long, value_name = "TEXT")]
        notes: Option<String>,
    },
    /// Delete a drill and the evidence of its runs
    Delete(Named),
    /// Print the signed evidence of a run, or save it
    Evidence(OfRun),
    /// Print the evidence of a run as a page with the machines' screens, or save it
    Report(OfRun),
    /// Hold saved evidence against its signature
    Verify {
        /// What `lifeboat drill evidence --to FILE` has saved
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The public key of the gateway that is to have signed it, base64; one of those that the vault knows when left out
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
    },
}

#[derive(Args, Debug)]
struct Wait {
    #[command(flatten)]
    named: Named,
    /// Print the job and don't wait for it
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args, Debug)]
struct OfRun {
    #[command(flatten)]
    named: Named,
    /// The run, by its job's id; the newest when left out
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// File to save it to
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Create {
    /// Its name, unique in the vault
    #[arg(long)]
    name: String,
    /// The plan that is tested, by id or name
    #[arg(long, value_name = "ID|NAME")]
    plan: String,
    /// The point that it starts from: latest, latest-processed, latest-app-consistent or a time
    #[arg(long, default_value_t = lifeboat_api::default_point())]
    point: String,
    /// A network of the target site that the machines join, by id or name, instead of the mappings' networks for tests
    #[arg(long, value_name = "ID|NAME")]
    network: Option<String>,
    /// What has to hold: boots:MACHINE[=TEXT], tcp:MACHINE:PORT, http:MACHINE[:PORT][/PATH][=TEXT], screen:MACHINE,
    /// script:PROGRAM, file:VOLUME[:PARTITION]/PATH=SHA256; repeated
    #[arg(long = "assert", value_name = "WHAT")]
    assertions: Vec<Wanted>,
    /// How long each of them may take
    #[arg(long, value_name = "DURATION", default_value_t = lifeboat_api::default_within())]
    within: String,
    /// Longest recovery time
    #[arg(long, value_name = "DURATION")]
    max_rto: Option<String>,
    /// Longest time that may be lost
    #[arg(long, value_name = "DURATION")]
    max_rpo: Option<String>,
    /// How long a run that passed is worth something
    #[arg(long, value_name = "DURATION", default_value_t = lifeboat_api::default_valid_for())]
    valid_for: String,
    /// Run it by itself, so long after the last run
    #[arg(long, value_name = "DURATION")]
    every: Option<String>,
    /// Leave the test up, for at most 30 days
    #[arg(long)]
    keep: bool,
}

/// What `--assert` asks for, with names instead of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    kind: AssertionType,
    /// A machine, a volume or a program.
    of: String,
    port: Option<u16>,
    partition: Option<u32>,
    path: Option<String>,
    text: Option<String>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} asserts nothing: expected boots:MACHINE[=TEXT], tcp:MACHINE:PORT, http:MACHINE[:PORT][/PATH][=TEXT], \
                 screen:MACHINE, script:PROGRAM or file:VOLUME[:PARTITION]/PATH=SHA256"
            )
        };
        let (word, rest) = text.split_once(':').ok_or_else(wrong)?;
        let kind = match word {
            "file" => AssertionType::FileHash,
            word => AssertionType::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(wrong)?,
        };
        let mut wanted = Self { kind, of: String::new(), port: None, partition: None, path: None, text: None };
        let mut rest = rest;
        let takes_text = matches!(kind, AssertionType::Boots | AssertionType::Http | AssertionType::FileHash);
        if takes_text && let Some((before, after)) = rest.split_once('=') {
            wanted.text = Some(after.to_owned());
            rest = before;
        }
        if matches!(kind, AssertionType::Http | AssertionType::FileHash)
            && let Some(at) = rest.find('/')
        {
            wanted.path = rest.get(at..).map(str::to_owned);
            rest = rest.get(..at).unwrap_or_default();
        }
        if let Some((name, number)) = rest.split_once(':') {
            match kind {
                AssertionType::Tcp | AssertionType::Http => wanted.port = Some(number.parse().map_err(|_| wrong())?),
                AssertionType::FileHash => wanted.partition = Some(number.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
            rest = name;
        }
        wanted.of = rest.to_owned();
        let whole = match kind {
            AssertionType::Tcp => wanted.port.is_some(),
            AssertionType::FileHash => wanted.path.is_some() && wanted.text.is_some(),
            _ => true,
        };
        if wanted.of.is_empty() || !whole { Err(wrong()) } else { Ok(wanted) }
    }
}

impl Wanted {
    async fn resolve(self, client: &Client, within: &str) -> Result<Assertion> {
        let mut one = Assertion {
            kind: self.kind,
            machine_id: None,
            volume_id: None,
            within: within.to_owned(),
            contains: None,
            port: self.port,
            interface: None,
            path: self.path,
            status: None,
            tls: false,
            sha256: None,
            partition: self.partition,
            script: None,
            picture: None,
        };
        match self.kind {
            AssertionType::Script => one.script = Some(self.of),
            AssertionType::FileHash => one.volume_id = Some(find::<Volume>(client, &self.of).await?.id),
            _ => one.machine_id = Some(find::<Machine>(client, &self.of).await?.id),
        }
        match self.kind {
            AssertionType::FileHash => one.sha256 = self.text,
            _ => one.contains = self.text,
        }
        Ok(one)
    }
}

impl Listed for Drill {
    const HEAD: &'static [&'static str] =
        &["NAME", "PLAN", "STATE", "LAST RUN", "RTO", "RPO", "EXPIRES", "NEXT RUN", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let status = &self.status;
        let last = status.runs.first();
        vec![
            self.spec.name.clone(),
            maybe(status.plan.as_ref()),
            status.state.as_str().to_owned(),
            maybe(last.map(|run| run.finished)),
            maybe(last.and_then(|run| run.outcome.rto_seconds).map(seconds)),
            maybe(last.and_then(|run| run.outcome.rpo_seconds).map(seconds)),
            maybe(status.expires),
            maybe(status.next_run),
            self.id.to_string(),
        ]
    }
}

async fn spec(client: &Client, wanted: Create) -> Result<DrillSpec> {
    let mut assertion = Vec::new();
    for one in wanted.assertions {
        assertion.push(one.resolve(client, &wanted.within).await?);
    }
    let joined = match &wanted.network {
        None => lifeboat_api::default_drill_network(),
        Some(text) => {
            let found: Network = network(client, text).await?;
            found.id.to_string()
        }
    };
    let schedule =
        wanted.every.map(|every| DrillSchedule { every, days: Vec::new(), start: None, end: None, timezone: None });
    Ok(DrillSpec {
        plan_id: find::<Plan>(client, &wanted.plan).await?.id,
        name: wanted.name,
        point: wanted.point,
        network: joined,
        assertion,
        max_rto: wanted.max_rto,
        max_rpo: wanted.max_rpo,
        valid_for: wanted.valid_for,
        keep: wanted.keep,
        schedule,
    })
}

/// Saves a text, or prints it.
fn hand_over(output: Output, text: &str, to: Option<&PathBuf>, what: &str) -> Result<()> {
    let Some(to) = to else { return Output::Text.text(text) };
    std::fs::write(to, text).map_err(|error| {
        Failure::failed(format!("{} can't be written: {error}; name another file with --to", to.display()))
    })?;
    output.show(&json!({ "saved": to }), || format!("{what} saved: {}", to.display()))
}

/// Holds evidence against its signature. `known` are the keys that count.
fn check(kept: &DrillEvidence, known: &[String]) -> Result<()> {
    if !known.contains(&kept.public_key) {
        return Err(Failure::failed(format!(
            "the evidence was signed by the key {}, which is none of the gateways that count ({}): don't rely on it, or name \
             its gateway's key with --public-key",
            clean(&kept.public_key),
            known.join(", ")
        )));
    }
    let bytes = |what: &str, text: &str| {
        STANDARD.decode(text).map_err(|_| Failure::failed(format!("the {what} in the file is no base64")))
    };
    let (key, signature) = (bytes("public key", &kept.public_key)?, bytes("signature", &kept.signature)?);
    UnparsedPublicKey::new(&ED25519, key).verify(kept.evidence.as_bytes(), &signature).map_err(|_| {
        Failure::failed(
            "the evidence isn't what was signed: it was changed, or the signature is another's; don't rely on it",
        )
    })
}

fn verify(output: Output, file: &Path, known: &[String]) -> Result<()> {
    let unread = |error: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "{} can't be read: {error}; it has to be a file that `lifeboat drill evidence --to FILE` has saved",
            file.display()
        ))
    };
    let text = std::fs::read_to_string(file).map_err(|error| unread(&error))?;
    let kept: DrillEvidence = serde_json::from_str(&text).map_err(|error| unread(&error))?;
    check(&kept, known)?;
    let evidence: Value = serde_json::from_str(&kept.evidence).map_err(|error| unread(&error))?;
    let said = |value: &Value| clean(value.as_str().unwrap_or_default());
    let passed = if evidence["passed"] == true { "passed" } else { "didn't pass" };
    let (drill, finished) = (said(&evidence["drill"]["name"]), said(&evidence["finished"]));
    let gateway = said(&evidence["gateway"]["name"]);
    output.show(&json!({ "verified": true, "evidence": evidence }), || {
        format!("the evidence is whole: the drill {drill} {passed} on {finished}, signed by the gateway {gateway}")
    })
}

pub(crate) async fn run(args: DrillArgs, output: Output) -> Result<()> {
    // Nobody has to be asked for the key that counts.
    if let DrillVerb::Verify { file, public_key: Some(key) } = &args.verb {
        return verify(output, file, std::slice::from_ref(key));
    }
    let client = args.connection.client()?;
    match args.verb {
        DrillVerb::List => declared::list::<Drill>(&client, output, "no drill is declared").await,
        DrillVerb::Show(named) => declared::show::<Drill>(&client, output, &named).await,
        DrillVerb::Create(wanted) => {
            let spec = spec(&client, wanted).await?;
            declared::create::<Drill>(&client, output, &spec).await
        }
        DrillVerb::Run(Wait { named, no_wait }) => {
            let drill: Drill = find(&client, &named.target).await?;
            let job = client.verb::<Drill>(&drill.id.to_string(), "run", &DrillRunRequest {}).await?;
            settle(&client, output, job, !no_wait).await
        }
        DrillVerb::Cleanup { wait: Wait { named, no_wait }, notes } => {
            let drill: Drill = find(&client, &named.target).await?;
            let job = client.verb::<Drill>(&drill.id.to_string(), "cleanup", &PlanCleanupRequest { notes }).await?;
            settle(&client, output, job, !no_wait).await
        }
        DrillVerb::Delete(named) => declared::delete::<Drill>(&client, output, &named, "deleted").await,
        DrillVerb::Evidence(OfRun { named, run, to }) => {
            let drill: Drill = find(&client, &named.target).await?;
            let kept = client.drill_evidence(&drill.id.to_string(), run.as_deref()).await?;
            let text = serde_json::to_string_pretty(&kept)
                .map_err(|error| Failure::failed(format!("the evidence can't be written as JSON: {error}")))?;
            hand_over(output, &text, to.as_ref(), "evidence")
        }
        DrillVerb::Report(OfRun { named, run, to }) => {
            let drill: Drill = find(&client, &named.target).await?;
            let page = client.drill_report(&drill.id.to_string(), run.as_deref()).await?;
            hand_over(output, &page, to.as_ref(), "report")
        }
        DrillVerb::Verify { file, .. } => {
            let gateways: Vec<Gateway> = client.list("/v1/gateways", &[]).await?;
            let known: Vec<String> = gateways.into_iter().filter_map(|gateway| gateway.status.evidence_key).collect();
            verify(output, &file, &known)
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use lifeboat_model::JobId;

    use super::*;

    fn wanted(kind: AssertionType, of: &str) -> Wanted {
        Wanted { kind, of: of.into(), port: None, partition: None, path: None, text: None }
    }

    #[test]
    fn what_is_asserted_on_the_command_line() {
        for (text, expected) in [
            ("boots:web", wanted(AssertionType::Boots, "web")),
            ("boots:web=ready: yes", Wanted { text: Some("ready: yes".into()), ..wanted(AssertionType::Boots, "web") }),
            ("tcp:db:5432", Wanted { port: Some(5432), ..wanted(AssertionType::Tcp, "db") }),
            ("http:web", wanted(AssertionType::Http, "web")),
            (
                "http:web:8080/health=ok=1",
                Wanted {
                    port: Some(8080),
                    path: Some("/health".into()),
                    text: Some("ok=1".into()),
                    ..wanted(AssertionType::Http, "web")
                },
            ),
            ("screen:web", wanted(AssertionType::Screen, "web")),
            ("script:probe", wanted(AssertionType::Script, "probe")),
            (
                "file:data:2/etc/fstab=00ff",
                Wanted {
                    partition: Some(2),
                    path: Some("/etc/fstab".into()),
                    text: Some("00ff".into()),
                    ..wanted(AssertionType::FileHash, "data")
                },
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in
            ["", "boots", "boots:", "tcp:db", "tcp:db:x", "file:data=00", "file:data/x", "ping:web", "screen:web:1"]
        {
            assert!(wrong.parse::<Wanted>().expect_err(wrong).contains("asserts nothing"), "{wrong:?}");
        }
    }

    #[test]
    fn evidence_that_was_changed_or_signed_by_another_is_refused() {
        let key = Ed25519KeyPair::generate().expect("a key");
        let evidence = r#"{"passed": false}"#.to_owned();
        let kept = DrillEvidence {
            job_id: JobId::new(),
            signature: STANDARD.encode(key.sign(evidence.as_bytes()).as_ref()),
            public_key: STANDARD.encode(key.public_key().as_ref()),
            evidence,
        };
        let known = [kept.public_key.clone()];
        check(&kept, &known).expect("whole");
        let changed = DrillEvidence { evidence: r#"{"passed": true}"#.into(), ..kept.clone() };
        assert!(check(&changed, &known).expect_err("changed").to_string().contains("isn't what was signed"));
        assert!(check(&kept, &["other".into()]).expect_err("another's").to_string().contains("none of the gateways"));
        let garbled = DrillEvidence { signature: "?".into(), ..kept };
        assert!(check(&garbled, &known).expect_err("garbled").to_string().contains("no base64"));
    }
}
