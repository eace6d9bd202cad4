//! Notices to a real mail server and to a receiver of webhooks that fails at first: nothing is lost by a restart in between, what
//! lasts is told once, and its end is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lifeboat_acceptance::binaries::tool;
use lifeboat_acceptance::command::{Daemon, Run};
use lifeboat_acceptance::estate::{Api, Estate, Place};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::free_address;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_api::types::Policy;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(120);
const SECRET: &str = "the secret of the receiver";

/// A request that was received, and whether it was taken.
#[derive(Clone, Debug)]
struct Received {
    path: String,
    signature: String,
    body: String,
    taken: bool,
}

impl Received {
    fn notice(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Takes webhooks; sends whoever comes elsewhere until it is told to take them.
struct Receiver {
    address: SocketAddr,
    takes: Arc<AtomicBool>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (takes, received) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (taking, all) = (Arc::clone(&takes), Arc::clone(&received));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = taking.load(Ordering::SeqCst);
                if let Ok(request) = answer(stream, address, taken) {
                    all.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                }
            }
        });
        Ok(Self { address, takes, received })
    }

    fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(stream: TcpStream, own: SocketAddr, taken: bool) -> Result<Received> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").context("no length")?.parse()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut stream = stream;
    match taken {
        true => write!(stream, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")?,
        false => write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: http://{own}/elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )?,
    }
    let signature = headers.get("lifeboat-signature").cloned().unwrap_or_default();
    Ok(Received { path, signature, body: String::from_utf8(body)?, taken })
}

/// The texts of the mails in a Maildir.
fn mails(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("new")).into_iter().flatten().flatten();
    entries.map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default()).collect()
}

/// As the guide tells a receiver to check it.
fn check_signature(request: &Received) -> Result<()> {
    let program = "import hmac,hashlib,sys\nprint(hmac.new(sys.argv[1].encode(),sys.stdin.buffer.read(),hashlib.sha256).hexdigest())";
    let time = request.signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1="));
    let (time, signed) = time.with_context(|| format!("{:?} is no signature", request.signature))?;
    let input = format!("{time}.{}", request.body);
    let run = Run::new(tool("python/bin/python")?).args(["-c", program, SECRET]).input(input.into_bytes());
    ensure!(run.ok()?.trim() == signed, "{request:?} isn't signed with the secret");
    let now = jiff::Timestamp::now().as_second();
    ensure!((now - time.parse::<i64>()?).abs() < 300, "{time} is not now");
    Ok(())
}

#[test]
fn a_restart_loses_no_notice_and_what_lasts_is_told_once() {
    let scratch = Scratch::new("notices").unwrap();
    let receiver = Receiver::start().unwrap();
    let smtp = free_address().unwrap();
    let box_dir = scratch.path().join("mail");
    let args = ["-m", "aiosmtpd", "-n", "-l", &smtp.to_string(), "-c", "aiosmtpd.handlers.Mailbox"].map(Into::into);
    let mut args: Vec<std::ffi::OsString> = args.to_vec();
    args.push(box_dir.clone().into());
    let log = scratch.path().join("smtp.log");
    let mail = Daemon::start("aiosmtpd", &tool("python/bin/python").unwrap(), &args, &[], &log).unwrap();
    eventually("the mail server to listen", WITHIN, || {
        if let Some(status) = mail.ended()? {
            bail!("the mail server ended: {status}\n{}", mail.log_tail(20));
        }
        Ok(TcpStream::connect(smtp).ok().map(drop))
    })
    .unwrap();
    let (secret, settings) = (scratch.path().join("secret"), scratch.path().join("notices.toml"));
    std::fs::write(&secret, SECRET).unwrap();
    let text = format!(
        "notice_settle = \"1s\"\n\
         [[notice]]\nname = \"ops\"\nwebhook = \"http://{}/hook\"\nallow_http = true\nsecret_file = \"{}\"\nkinds = [\"group.rpo\"]\n\
         [[notice]]\nname = \"mail\"\nsmtp = \"{smtp}\"\nsmtp_security = \"none\"\nfrom = \"lifeboat@example.com\"\n\
         to = [\"ops@example.com\"]\n",
        receiver.address,
        secret.display()
    );
    std::fs::write(&settings, text).unwrap();
    let place = Place { args: vec!["--notices".into(), settings.display().to_string()], ..Place::default() };
    let vault_url = format!("file://{}", scratch.path().join("vault").display());
    let mut estate =
        Estate::protect_between("notices-home", &vault_url, [place, Place::default()], &[("data", 1 << 20)]).unwrap();

    // A test goes through at once, and says what came of it.
    let outcome = estate.primary.run(&["notice", "test", "--output", "json"]).unwrap();
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let tests: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&tests["results"][0]["sent"], &tests["results"][1]["sent"]), (&json!(false), &json!(true)), "{tests}");
    let why = tests["results"][0]["error"].as_str().unwrap();
    assert!(why.contains("redirections are not followed"), "{why}");
    eventually("the mail of the test", WITHIN, || {
        Ok(mails(&box_dir).iter().any(|mail| mail.contains("kind: notice.test")).then_some(()))
    })
    .unwrap();

    Api::of(&estate.primary)
        .unwrap()
        .call(async |client| {
            let policy = client.find_by_name::<Policy>("standard").await?.expect("the estate has it");
            let change = json!({"rpo_threshold": "2s"});
            client.patch::<Policy>(&policy.id.to_string(), policy.generation, &change).await
        })
        .unwrap();
    // The vault is taken away, and writes go on.
    let (vault, away) = (scratch.path().join("vault"), scratch.path().join("away"));
    std::fs::rename(&vault, &away).unwrap();
    let file = std::fs::File::options().write(true).open(estate.primary.volume("data")).unwrap();
    (&file).write_all(&[9_u8; 65536]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let told = |mails: &[String], kind: &str, state: &str| {
        let fits =
            |mail: &&String| mail.contains(&format!("kind: {kind}")) && mail.contains(&format!("state: {state}"));
        mails.iter().filter(fits).count()
    };
    eventually("mails on RPO and health", WITHIN, || {
        let mails = mails(&box_dir);
        Ok((told(&mails, "group.rpo", "raised") > 0 && told(&mails, "gateway.health", "raised") > 0).then_some(()))
    })
    .unwrap();
    let refused = eventually("a webhook that is refused", WITHIN, || {
        Ok(receiver.all().into_iter().find(|request| request.notice()["kind"] == "group.rpo"))
    })
    .unwrap();
    let status = estate.primary.json(&["status"]).unwrap();
    let ops = &status["notices"][0];
    assert!(ops["waiting"].as_u64() >= Some(1) && !ops["failing_since"].is_null(), "{status}");

    // The gateway is killed while it waits for the receiver.
    estate.primary.kill9().unwrap();
    std::fs::rename(&away, &vault).unwrap();
    receiver.takes.store(true, Ordering::SeqCst);
    estate.primary.restart().unwrap();
    let raised = refused.notice();
    let taken = || {
        let taken = receiver.all().into_iter().filter(|request| request.taken).map(|request| request.notice());
        taken.filter(|notice| notice["occurrence"] == raised["occurrence"]).collect::<Vec<_>>()
    };
    let all = eventually("beginning and end of the occurrence", WITHIN, || {
        let all = taken();
        Ok(all.iter().any(|notice| notice["state"] == "cleared").then_some(all))
    })
    .unwrap();
    let begun: Vec<_> = all.iter().filter(|notice| notice["state"] == "raised").collect();
    assert!((1..=2).contains(&begun.len()), "one, or one and its double: {all:?}");
    assert!(begun.iter().all(|notice| notice["id"] == raised["id"]), "{all:?}");
    assert_eq!((&raised["severity"], &raised["gateway"]), (&json!("warning"), &json!("primary")), "{raised}");
    for request in receiver.all() {
        assert_eq!(request.path, "/hook", "nothing is followed");
        let kind = request.notice()["kind"].clone();
        assert!(kind == "group.rpo" || kind == "notice.test", "{kind} was not wanted");
        check_signature(&request).unwrap();
    }
    let mails = eventually("the mail on the end", WITHIN, || {
        let mails = mails(&box_dir);
        Ok((told(&mails, "group.rpo", "cleared") > 0).then_some(mails))
    })
    .unwrap();
    assert!(told(&mails, "group.rpo", "raised") <= 2, "told once: {mails:?}");
    let status = estate.primary.json(&["status"]).unwrap();
    assert!(status["notices"][0]["failing_since"].is_null(), "{status}");
    let events = estate.primary.run(&["event", "list"]).unwrap().ok().unwrap();
    assert!(events.contains("group.rpo"), "{events}");
}
