//! The command line as people type it.

use super::*;

fn asked(line: &str) -> Result<Asked, Failure> {
    parse(line.split_whitespace().map(OsString::from))
}

fn refused(line: &str) -> String {
    let failure = asked(line).expect_err(line);
    assert_eq!(failure.exit(), crate::failure::Exit::Usage, "{line}");
    failure.to_string()
}

#[test]
fn the_definition_is_sound() {
    command().debug_assert();
}

/// clap takes a flag of a verb and a global one of the same name for one and the same, and finds out at run time only.
#[test]
fn no_verb_redefines_a_flag_of_the_connection() {
    let command = Cli::command();
    for noun in command.get_subcommands() {
        let global: Vec<&str> =
            noun.get_arguments().filter(|arg| arg.is_global_set()).filter_map(|arg| arg.get_long()).collect();
        for verb in noun.get_subcommands() {
            let own = verb.get_arguments().filter(|arg| !arg.is_global_set()).filter_map(|arg| arg.get_long());
            let twice: Vec<&str> = own.filter(|long| global.contains(long)).collect();
            assert!(twice.is_empty(), "{} {}: {twice:?}", noun.get_name(), verb.get_name());
        }
    }
}

#[test]
fn every_verb_stands_under_exactly_one_task() {
    let mut listed: Vec<&str> = TASKS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let command = Cli::command();
    let mut verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    listed.sort_unstable();
    verbs.sort_unstable();
    assert_eq!(listed, verbs);
}

#[test]
fn the_help_is_this() {
    let Ok(Asked::Say(help)) = asked("lifeboat --help") else { panic!("help is a text") };
    let expected = "\
Disaster recovery as code: protects volumes, and brings them up elsewhere

Usage: lifeboat VERB [OPTIONS]

Run a gateway:
  serve            Run a gateway
  status           Show how the gateway and everything that it protects is
  token            Tokens with roles: make, list, rotate and revoke them; show the administrator's token of this machine
  registration-key Registration keys: what a machine enrols with, once
  agent            Agents: enrol this machine and protect its disks; list and revoke those that enrolled
  iscsi            Serve a gateway's volumes to other hosts over iSCSI, with this machine's kernel
  appliance        What the appliance runs: boot, console, updates
  approval         Decide about what a second person has to approve
  whoami           Say whom the gateway takes you for, and what you may do

Declare what is protected:
  vault            Open, create and look at vaults
  site             Declare sites: places that can lose everything at once
  gateway          Declare gateways: the processes that serve volumes
  policy           Declare replication policies: how often, how long, how fast
  group            Declare consistency groups: volumes that share one write order
  volume           Declare volumes: the disks that are protected
  terraform        Write Terraform configuration for what is declared

Declare how it recovers:
  machine          Declare machines: what boots from protected volumes
  network          Declare networks: what the interfaces of machines join
  network-mapping  Declare what becomes of a network's interfaces at another site
  plan             Declare recovery plans: what comes up at another site, and in what order
  drill            Test recovery plans, hold what is asserted against what comes up, keep signed evidence
  deleted          List what was deleted; take a deletion back

Recovery points:
  point            List, look into, take and verify recovery points
  resync           Copy what the vault lacks of a group, at once; compare it with the vault first

Fail over and back:
  failover         Bring a plan, a machine or a group up at the gateway that is asked
  change-point     Go on from another recovery point after a failover
  commit           Make the last failover final
  cleanup          End test failovers and drop what was written in them
  release          Stop writing in order, ship everything, give the group up
  resume           Start again after a release, at the same gateway
  reprotect        Bring the home copies forward while the recovery side runs
  failback         Bring a plan, a machine or a group back home

See what happens:
  job              See what is being done, stop it, try it again
  event            See what happened
  notice           See and test the channels through which a gateway tells people what happens
  audit            See who asked for what, and prove that the log says so still

Look inside:
  check            Prove the local files of a gateway that is stopped; `vault check` proves a vault
  inspect          Say what a file of a gateway or an object of a vault is
";
    assert!(help.starts_with(expected), "{help}");
    assert!(help.contains("This program:\n  completion       Print what completes commands in a shell\n"), "{help}");
    assert!(help.contains("--output") && help.contains("5 unreachable"), "{help}");
}

#[test]
fn the_lines_of_the_contract_parse() {
    for line in [
        "serve --state /s --mount /m --site a --name b --listen-management 127.0.0.1:8443 --reconcile-interval 2s",
        "serve --config /etc/lifeboat.toml",
        "status --output json",
        "status --watch",
        "status --watch 10 --state /s",
        "completion bash",
        "man /tmp",
        "group set-hooks ledger --pre-script freeze --post-script thaw --hook-timeout 1m",
        "group set-hooks ledger --none",
        "registration-key create --site east --role agent --name web --ttl 10m",
        "registration-key create --site east --name gw-b --roles configuration_server,process_server,master_target",
        "gateway enrol --state /s --endpoint https://a,https://b --key-file -",
        "gateway enroll --state /s --endpoint https://a --key-file /k --name gw-b --site east --vault-key-file /v",
        "vault open --key-file /k --state /s",
        "serve --state /s --vault-key-file /k",
        "agent enrol --state /var/lib/lifeboat-agent --endpoint https://a:443 --key-file - --name web",
        "agent enroll --state /s",
        "agent run --state /s --mount /m --disk data=/dev/vdb --disk /srv/log.raw --policy gold --process-server a:9443,b:9443",
        "agent run --config /etc/lifeboat/agent.toml",
        "agent status --state /s",
        "agent push root@web --disk /dev/vdb --policy gold --process-server a:9443 --endpoint https://a:443 --key-file -",
        "agent delete web --state /s",
        "appliance first-boot",
        "appliance ready",
        "appliance console",
        "appliance update",
        "appliance update /mnt --sha256 00ff",
        "appliance confirm",
        "support-bundle --fetch --to /tmp/bundle.tar.zst",
        "resync --group g --compare",
        "volume create --name v --gateway g --group g --source /dev/vg0/db",
        "--output json status",
        "status --state /s",
        "vault open file:///v --key /passphrase",
        "vault open file:///v --passphrase-file /passphrase",
        "vault open file:///v --key-file /k",
        "vault open file:///v --passphrase-stdin",
        "vault create file:///v --name main --key-file /k",
        "vault list",
        "vault show main",
        "vault detach main",
        "vault check file:///v --read-data --group g --key-file /k",
        "check --state /s --output json",
        "inspect groups/g/b/log/00000001-000000000001 --vault file:///v --key-file /k",
        "inspect /s/groups/g/h/group.state",
        "support-bundle --state /s --to /tmp/b.tar.zst --log /var/log/a --log /var/log/b",
        "site create --name onprem",
        "gateway create --name standby --site recovery --role process_server --role master_target",
        "gateway show standby --output json",
        "policy create --name standard --interval 2s --retain all:1h --retain 1h:1d",
        "group create --name ledger --site onprem --policy standard",
        "volume create --name db --gateway primary --policy standard --size 1GiB",
        "volume create --name db --gateway primary --group ledger --size 1GiB --no-wait",
        "volume delete db",
        "network create --name servers --site onprem --bridge br0 --subnet web=10.20.0.0/24,10.20.0.1 --subnet db=10.20.1.0/24",
        "machine create --name web --group erp --cpus 2 --memory 4GiB --disk web-root --disk web-data --interface servers=10.20.0.11",
        "plan create --name erp --source onprem --target recovery --boot db --boot web1,web2,volume:share",
        "plan show erp --output json",
        "drill create --name weekly --plan erp --assert boots:db --assert http:web1:8080/health=ok --max-rto 15m --every 7d",
        "drill run weekly --no-wait",
        "drill cleanup weekly --notes seen",
        "drill evidence weekly --run job-1 --to /tmp/evidence.json",
        "drill report weekly --to /tmp/report.html",
        "drill verify /tmp/evidence.json --public-key abc=",
        "network show onprem/servers",
        "network-mapping create --source onprem/servers --target recovery/servers --test isolated --subnet db=data",
        "network-mapping list --output json",
        "point list --group ledger --from 2h --to 2026-11-20T10:05:00Z --kind manual --limit 1 --output json",
        "point show --group ledger",
        "point take --group ledger --label before",
        "point verify latest --group ledger --volume db --source /x --vault file:///v --key-file /k",
        "failover test --group ledger",
        "failover planned --group ledger --no-wait",
        "failover unplanned --group ledger --point latest --output json --endpoint https://b:443",
        "commit --group ledger",
        "cleanup --group ledger --branch br-0198f2c0000070008000000000000001",
        "failover test shop --ttl 4h",
        "failover test shop --network recovery/isolated",
        "failover planned shop --no-wait",
        "failover unplanned --machine web --point latest-app-consistent",
        "change-point shop --point 2026-11-20T10:05:00Z",
        "commit shop",
        "cleanup shop --notes done",
        "reprotect shop",
        "failback shop --mode create",
        "machine start web",
        "machine stop web --timeout 30s --no-wait",
        "job continue job-0198f2c0000070008000000000000001 --note done",
        "job retry job-0198f2c0000070008000000000000001 --skip",
        "job list --plan shop",
        "release --group ledger",
        "resume --group ledger",
        "failback --group ledger --mode minimize-downtime",
        "failback --group ledger --mode full-download",
        "job list --group ledger --job-state failed",
        "job watch job-0198f2c0000070008000000000000001",
        "job retry job-0198f2c0000070008000000000000001 --no-wait",
        "event list --since 1d",
        "inspect /some/file",
        "token show --state /s",
        "token show ci",
        "token list --output json",
        "token create --name ci --role operator --role recovery --ttl 90d",
        "token create --name boss --role security_administrator --vault main",
        "token rotate ci --grace 0s",
        "token renew tok-0198f2c0000070008000000000000001 --ttl 30d",
        "token delete ci",
        "group move ledger --to spare",
        "failback shop --to mt1 --to ledger=mt2 --mode create --disk data=/dev/vdb",
        "failback --group g --to-gateway spare",
        "gateway replace primary --by spare --force --leave-disks",
        "deleted list",
        "deleted undelete web --kind machine",
        "approval list",
        "approval show apr-0198f2c0000070008000000000000001",
        "approval approve apr-0198f2c0000070008000000000000001 apr-0198f2c0000070008000000000000002 --comment seen",
        "approval reject apr-0198f2c0000070008000000000000001",
        "audit list --who ci --since 2d",
        "audit verify file:///srv/vault --key-file /k --against /tmp/report.json",
        "vault protect main --soft-delete-days 30 --immutable-days 14 --lock --second-approval true",
        "vault protect main --immutable-days 0",
        "notice test",
        "notice list --output json",
        "whoami --endpoint https://b:443",
    ] {
        let parsed = asked(&format!("lifeboat {line}"));
        assert!(matches!(parsed, Ok(Asked::Run(_))), "{line}: {parsed:?}");
    }
}

#[test]
fn what_makes_no_sense_is_one_line_that_leads_to_the_help() {
    let missing = refused("lifeboat point list");
    assert!(
        missing.contains("--group <ID|NAME>") && missing.ends_with("see `lifeboat point list --help`"),
        "{missing}"
    );
    assert!(refused("lifeboat volum list").contains("volum"));
    assert!(refused("lifeboat failback --group g --mode fast").contains("minimize-downtime"));
    assert!(refused("lifeboat volume create --name a --gateway g --size 1GB --policy p").contains("10GiB"));
    let both = refused("lifeboat volume create --name a --gateway g --size 1GiB --policy p --group q");
    assert!(both.contains("--policy"), "{both}");
    assert!(refused("lifeboat vault open file:///v --key a --key-file b").contains("--key-file"));
    assert!(refused("lifeboat job show 12").contains("job id"));
    assert!(refused("lifeboat network create --name n --site s --subnet web").contains("NAME=CIDR"));
    assert!(refused("lifeboat failover planned --group g --point latest").contains("--point"));
    assert!(refused("lifeboat token create --name x --role admin").contains("security_administrator"));
    assert!(refused("lifeboat token create --name x").contains("--role"));
    assert!(refused("lifeboat failover planned").contains("PLAN"));
    assert!(refused("lifeboat failover planned shop --group g").contains("--group"));
}

#[test]
fn a_verb_that_is_elsewhere_is_found() {
    let taken = refused("lifeboat take");
    assert!(taken.ends_with("did you mean `lifeboat point take`? See `lifeboat --help`"), "{taken}");
    assert!(refused("lifeboat snapshot").contains("did you mean `lifeboat point take`?"));
    assert!(refused("lifeboat mount").contains("did you mean `lifeboat point show`?"));
    assert!(refused("lifeboat undelete").contains("`lifeboat group undelete` or `lifeboat deleted undelete`"));
    // Slips of the hand are clap's.
    assert!(refused("lifeboat statsu").contains("'status'"));
    assert!(refused("lifeboat point lits --group g").contains("'list'"));
    assert!(refused("lifeboat status --sate /s").contains("'--state'"));
    assert!(!refused("lifeboat frobnicate").contains("did you mean"));
}

#[test]
fn an_incomplete_command_explains_itself() {
    for line in ["lifeboat", "lifeboat vault", "lifeboat failover"] {
        assert!(matches!(asked(line), Ok(Asked::Explain(text)) if text.contains("Usage:")), "{line}");
    }
}

/// Every document for users, with its path.
fn documents() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    let mut dirs: Vec<std::path::PathBuf> =
        ["docs/guides", "examples", "appliance-image", "provider/terraform-provider-lifeboat/docs"]
            .map(|dir| root.join(dir))
            .into();
    let mut files = vec![root.join("README.md"), root.join("SECURITY.md")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a document");
        found.push((path.strip_prefix(&root).unwrap_or(&path).display().to_string(), text));
    }
    found
}

/// Lines of a document that are typed (in blocks), and code spans in its prose, continued lines joined.
fn typed(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut in_block, mut is_typed, mut joined) = (Vec::new(), false, false, String::new());
    for (index, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            in_block = !in_block;
            is_typed = matches!(language, "" | "sh" | "console");
        } else if in_block && !is_typed {
        } else if in_block {
            match line.strip_suffix('\\') {
                Some(part) => joined += part,
                None => found.push((index + 1, std::mem::take(&mut joined) + line)),
            }
        } else {
            let spans = line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("lifeboat "));
            found.extend(spans.map(|span| (index + 1, span.to_owned())));
        }
    }
    found
}

/// The words of each command in a line that starts with `lifeboat`, as a shell would part them; enough of a shell for documents.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::<String>::new(), String::new());
    let (mut quote, mut open, mut redirects) = (None, false, false);
    let mut characters = line.chars().peekable();
    loop {
        let c = characters.next();
        let ends_word = quote.is_none() && c.is_none_or(|c| c.is_whitespace() || "|&;<>()".contains(c));
        if ends_word && (open || !word.is_empty()) {
            if !std::mem::take(&mut redirects) {
                words.push(std::mem::take(&mut word));
            }
            word.clear();
            open = false;
        }
        match (c, quote) {
            (None, _) => break,
            (Some(c), Some(end)) if c == end => quote = None,
            (Some(c), Some(_)) => word.push(c),
            (Some(c @ ('"' | '\'')), None) => (quote, open) = (Some(c), true),
            (Some('<' | '>'), None) => {
                redirects = true;
                word.clear();
            }
            (Some('#'), None) if word.is_empty() => break,
            (Some('|' | '&' | ';' | '(' | ')'), None) => commands.push(std::mem::take(&mut words)),
            (Some(c), None) if c.is_whitespace() => {}
            (Some(c), None) => word.push(c),
        }
    }
    commands.push(words);
    commands
        .into_iter()
        .filter_map(|words| {
            let before = ["$", "!", "do", "then", "exec", "if", "while", "until"];
            let start = words.iter().position(|word| !before.contains(&word.as_str()) && !word.contains('='))?;
            (words.get(start)? == "lifeboat").then(|| words.into_iter().skip(start).collect())
        })
        .collect()
}

/// What is wrong with a command of a document, if anything. What stands for something else (`…`, `ID`, `$device`) is taken as it is:
/// verbs and flags have to exist, and values that are written out have to make sense.
fn fault(words: &[String]) -> Option<String> {
    let stands_for = |word: &str| {
        word.contains(['…', '$', '*', '{'])
            || word.contains("...")
            || (word.chars().any(|c| c.is_ascii_uppercase()) && !word.chars().any(|c| c.is_ascii_lowercase()))
    };
    let left_out = |word: &str| matches!(word, "…" | "..." | "VERB") || word.starts_with('[');
    let given: Vec<&String> = words.iter().filter(|word| !left_out(word)).collect();
    let error = command().try_get_matches_from(given).err()?;
    let open = words.iter().any(|word| stands_for(word));
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        // A verb that is only named, or a line that goes on elsewhere.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => None,
        ErrorKind::MissingRequiredArgument if open || words.len() <= 4 => None,
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::MissingRequiredArgument if open => None,
        // A flag that is only named.
        ErrorKind::InvalidValue if error.to_string().contains("none was supplied") => None,
        _ => Some(one_line(&error.render().to_string())),
    }
}

#[test]
fn every_command_of_every_document_is_one() {
    let (mut faults, mut checked) = (Vec::new(), 0);
    for (name, text) in documents() {
        for (line, typed) in typed(&text) {
            for words in commands(&typed) {
                checked += 1;
                faults.extend(fault(&words).map(|fault| format!("{name}:{line}: {}: {fault}", words.join(" "))));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked > 200, "only {checked} commands were found: the reader of documents is broken");
}

#[test]
fn a_wrong_command_of_a_document_is_found() {
    let words = |line: &str| commands(line).into_iter().next().expect(line);
    assert_eq!(
        words("$ lifeboat point list --group 'a b' | head  # x"),
        ["lifeboat", "point", "list", "--group", "a b"]
    );
    assert_eq!(words("printf x | lifeboat token list > /run/x"), ["lifeboat", "token", "list"]);
    assert_eq!(words("A=b lifeboat serve --state /s &"), ["lifeboat", "serve", "--state", "/s"]);
    assert_eq!(fault(&words("lifeboat job show ID")), None);
    assert_eq!(fault(&words("lifeboat serve …")), None);
    for wrong in
        ["lifeboat volum list", "lifeboat job show 12", "lifeboat serve --stat /s …", "lifeboat point list --grup g"]
    {
        assert!(fault(&words(wrong)).is_some(), "{wrong}");
    }
}
