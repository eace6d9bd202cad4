//! Notices to mail servers and receivers of webhooks that talk TLS: which are trusted, which are refused and with what advice, and that
//! no secret gets anywhere on the way.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lifeboat_acceptance::authority::Authority;
use lifeboat_acceptance::binaries::tool;
use lifeboat_acceptance::command::Daemon;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::{Gateway, free_address};
use lifeboat_acceptance::receiver::Receiver;
use lifeboat_acceptance::scratch::Scratch;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(120);
const PASSWORD: &str = "canary-of-the-mail-server";
const WRONG: &str = "canary-that-is-wrong";
const SECRET: &str = "canary-of-the-receiver";
const USER: &str = "lifeboat";

/// `MODE HOST PORT CERTIFICATE KEY MAILDIR USER PASSWORD`: takes mails of who knows the password, over TLS alone; in the mode `plain`
/// there is no TLS and everybody's.
const SERVER: &str = r#"
import asyncio, ssl, sys
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, AuthResult
mode, host, port, certificate, key, box, user, password = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)

def check(server, session, envelope, mechanism, data):
    right = data.login == user.encode() and data.password == password.encode()
    return AuthResult(success=right, handled=False)

def make():
    if mode == "plain":
        return SMTP(Mailbox(box))
    if mode == "implicit":
        return SMTP(Mailbox(box), authenticator=check, auth_required=True, auth_require_tls=False)
    return SMTP(Mailbox(box), authenticator=check, auth_required=True, tls_context=context, require_starttls=True)

async def main():
    server = await asyncio.get_running_loop().create_server(make, host, int(port), ssl=context if mode == "implicit" else None)
    await server.serve_forever()

asyncio.run(main())
"#;

/// A mail server, and the Maildir of what it took.
struct MailServer {
    address: SocketAddr,
    mails: PathBuf,
    _process: Daemon,
}

impl MailServer {
    fn start(dir: &Path, name: &str, mode: &str, files: &(PathBuf, PathBuf)) -> Result<Self> {
        let (address, mails) = (free_address()?, dir.join(format!("{name}-mails")));
        let mut args: Vec<OsString> = vec!["-c".into(), SERVER.into(), mode.into()];
        args.extend([address.ip().to_string().into(), address.port().to_string().into()]);
        args.extend([
            files.0.clone().into(),
            files.1.clone().into(),
            mails.clone().into(),
            USER.into(),
            PASSWORD.into(),
        ]);
        let log = dir.join(format!("{name}.log"));
        let process = Daemon::start(name, &tool("python/bin/python")?, &args, &[], &log)?;
        eventually("the mail server to listen", WITHIN, || {
            if let Some(status) = process.ended()? {
                bail!("the mail server ended: {status}\n{}", process.log_tail(20));
            }
            Ok(TcpStream::connect(address).ok().map(drop))
        })?;
        Ok(Self { address, mails, _process: process })
    }

    /// The texts of the mails that it took.
    fn all(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.mails.join("new")).into_iter().flatten().flatten();
        entries.map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default()).collect()
    }
}

/// The file of settings, and what has to come of a test of each channel: nothing, or what an error says.
struct Channels<'a> {
    dir: &'a Path,
    text: String,
    expected: Vec<(String, Option<&'static str>)>,
}

impl Channels<'_> {
    fn begin(&mut self, name: &str, ca: Option<&str>, expected: Option<&'static str>) {
        self.expected.push((name.to_owned(), expected));
        self.text.push_str(&format!("[[notice]]\nname = \"{name}\"\nkinds = [\"nothing.happens\"]\n"));
        if let Some(ca) = ca {
            self.text.push_str(&format!("ca_file = \"{}\"\n", self.dir.join(ca).display()));
        }
    }

    fn mail(
        &mut self,
        name: &str,
        to: &MailServer,
        (security, password): (&str, &str),
        ca: Option<&str>,
        expected: Option<&'static str>,
    ) {
        self.begin(name, ca, expected);
        let password = self.dir.join(password);
        self.text.push_str(&format!(
            "smtp = \"{}\"\nsmtp_security = \"{security}\"\nsmtp_user = \"{USER}\"\nsmtp_password_file = \"{}\"\n\
             from = \"lifeboat@example.com\"\nto = [\"ops@example.com\"]\n",
            to.address,
            password.display()
        ));
    }

    fn webhook(&mut self, name: &str, to: &Receiver, ca: Option<&str>, expected: Option<&'static str>) {
        self.begin(name, ca, expected);
        self.text.push_str(&format!(
            "webhook = \"https://{}/{name}\"\nsecret_file = \"{}\"\n",
            to.address(),
            self.dir.join("secret").display()
        ));
    }
}

#[test]
fn tls_is_trusted_by_the_authorities_that_are_named_and_refusals_say_what_to_do() {
    let scratch = Scratch::new("notices-tls").unwrap();
    let dir = scratch.path();
    let (own, other) = (Authority::new("the servers'").unwrap(), Authority::new("another").unwrap());
    let (right, elsewhere) = (own.server("127.0.0.1").unwrap(), own.server("mail.example.com").unwrap());
    for (name, text) in [
        ("own.pem", own.pem().to_owned()),
        ("other.pem", other.pem().to_owned()),
        // Whoever is asked for comes last.
        ("bundle.pem", format!("# the old one\n{}# the new one\n{}", other.pem(), own.pem())),
        ("empty.pem", "nothing that is a certificate\n".to_owned()),
        ("right", PASSWORD.to_owned()),
        ("wrong", WRONG.to_owned()),
        ("secret", SECRET.to_owned()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let files = right.write(dir, "right-server").unwrap();
    let elsewhere_files = elsewhere.write(dir, "elsewhere-server").unwrap();
    let starttls = MailServer::start(dir, "starttls", "starttls", &files).unwrap();
    let implicit = MailServer::start(dir, "implicit", "implicit", &files).unwrap();
    let misnamed = MailServer::start(dir, "misnamed", "starttls", &elsewhere_files).unwrap();
    let plain = MailServer::start(dir, "plain", "plain", &files).unwrap();
    let taking = |config| Receiver::start(Some(config), |_, _| ("204 No Content", String::new())).unwrap();
    let hook = taking(right.config().unwrap());
    let misnamed_hook = taking(elsewhere.config().unwrap());

    let mut channels = Channels { dir, text: String::new(), expected: Vec::new() };
    let (known, guessed) = (("starttls", "right"), ("starttls", "wrong"));
    channels.mail("mail-starttls", &starttls, known, Some("own.pem"), None);
    channels.mail("mail-bundle", &starttls, known, Some("bundle.pem"), None);
    channels.mail("mail-implicit", &implicit, ("implicit", "right"), Some("own.pem"), None);
    channels.mail("mail-wrong-password", &starttls, guessed, Some("own.pem"), Some("smtp_password_file"));
    channels.mail(
        "mail-wrong-password-implicit",
        &implicit,
        ("implicit", "wrong"),
        Some("own.pem"),
        Some("smtp_password_file"),
    );
    channels.mail("mail-stranger", &starttls, known, Some("other.pem"), Some("ca_file"));
    channels.mail("mail-stranger-implicit", &implicit, ("implicit", "right"), Some("other.pem"), Some("ca_file"));
    channels.mail("mail-system", &starttls, known, None, Some("ca_file"));
    channels.mail("mail-misnamed", &misnamed, known, Some("own.pem"), Some("mail.example.com"));
    channels.mail("mail-no-authority", &starttls, known, Some("empty.pem"), Some("holds no certificate"));
    channels.mail("mail-plain", &plain, known, Some("own.pem"), Some("smtp_security"));
    channels.webhook("hook", &hook, Some("own.pem"), None);
    channels.webhook("hook-bundle", &hook, Some("bundle.pem"), None);
    channels.webhook("hook-stranger", &hook, Some("other.pem"), Some("ca_file"));
    channels.webhook("hook-system", &hook, None, Some("ca_file"));
    channels.webhook("hook-misnamed", &misnamed_hook, Some("own.pem"), Some("mail.example.com"));
    channels.webhook("hook-no-authority", &hook, Some("empty.pem"), Some("holds no certificate"));
    let settings = dir.join("notices.toml");
    std::fs::write(&settings, &channels.text).unwrap();

    let mut gateway = Gateway::prepare("onprem", "primary", &dir.join("gateway")).unwrap();
    gateway.arg("--notices").arg(settings.as_os_str());
    gateway.restart().unwrap();
    let outcome = gateway.run(&["notice", "test", "--output", "json"]).unwrap();
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let tests: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let mut faults = Vec::new();
    for (name, expected) in &channels.expected {
        let found = tests["results"].as_array().unwrap().iter().find(|test| test["channel"] == **name);
        let found = found.with_context(|| format!("{name} wasn't tested: {tests}")).unwrap();
        let error = found["error"].as_str().unwrap_or_default();
        let as_expected = match expected {
            None => found["sent"] == true,
            Some(advice) => found["sent"] == false && error.contains(advice),
        };
        if !as_expected {
            faults.push(format!("{name} should be {expected:?}: {found}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    // Who was refused got nothing, who was trusted got what was for it.
    let got = |mails: Vec<String>| mails.iter().filter(|mail| mail.contains("kind: notice.test")).count();
    assert_eq!((got(starttls.all()), got(implicit.all())), (2, 1));
    assert_eq!((misnamed.all().len(), plain.all().len()), (0, 0));
    let paths: Vec<String> = hook.all().into_iter().map(|request| request.path).collect();
    assert!(
        paths.len() == 2 && paths.contains(&"/hook".to_owned()) && paths.contains(&"/hook-bundle".to_owned()),
        "{paths:?}"
    );
    assert!(misnamed_hook.all().is_empty());

    // What is shown, logged and sent says no secret.
    let shown = gateway.run(&["notice", "list", "--output", "json"]).unwrap().stdout;
    let log = std::fs::read_to_string(gateway.log()).unwrap();
    let sent: String = hook.all().iter().map(|request| format!("{:?} {:?}", request.headers, request.body)).collect();
    for secret in [PASSWORD, WRONG, SECRET] {
        let places = [&outcome.stdout, &outcome.stderr, &shown, &log, &sent];
        assert!(!places.iter().any(|place| place.contains(secret)), "{secret} is told");
    }
}
