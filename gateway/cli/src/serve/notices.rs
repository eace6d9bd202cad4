//! Whom a gateway tells what happens: `[[notice]]` in its file of settings, or in a file of their own (`--notices`).
//!
//! Passwords and secrets are never in these files: each has a file of its own.

use std::path::{Path, PathBuf};

use lifeboat_api::validate::parse_duration;
use lifeboat_model::state::Health;
use lifeboat_server::{ChannelSettings, EmailSettings, Means, NoticeSettings, SmtpSecurity, WebhookSettings};
use secrecy::SecretString;
use serde::Deserialize;

use crate::failure::{Failure, Result};

/// What a file says of notices.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoticesFile {
    #[serde(default)]
    notice_settle: Option<String>,
    #[serde(default)]
    notice_remind_after: Option<String>,
    #[serde(default)]
    notice: Vec<ChannelFile>,
}

/// One channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelFile {
    name: String,
    severity: Option<String>,
    #[serde(default)]
    kinds: Vec<String>,
    ca_file: Option<PathBuf>,
    webhook: Option<String>,
    secret_file: Option<PathBuf>,
    #[serde(default)]
    allow_http: bool,
    smtp: Option<String>,
    smtp_security: Option<String>,
    smtp_user: Option<String>,
    smtp_password_file: Option<PathBuf>,
    from: Option<String>,
    #[serde(default)]
    to: Vec<String>,
}

impl NoticesFile {
    pub(super) fn new(settle: Option<String>, remind_after: Option<String>, notice: Vec<ChannelFile>) -> Self {
        Self { notice_settle: settle, notice_remind_after: remind_after, notice }
    }

    fn is_empty(&self) -> bool {
        self.notice.is_empty() && self.notice_settle.is_none() && self.notice_remind_after.is_none()
    }

    /// The settings; `file` is where they stand.
    ///
    /// # Errors
    /// `Usage` for what makes no sense; a file of a secret that can't be read.
    pub(super) fn settings(self, file: &Path) -> Result<NoticeSettings> {
        let mut settings = NoticeSettings::default();
        let duration = |name: &str, text: &str| {
            parse_duration(text).map_err(|error| Failure::usage(format!("`{name}` in {}: {error}", file.display())))
        };
        if let Some(text) = &self.notice_settle {
            settings.settle = duration("notice_settle", text)?;
        }
        settings.remind_after =
            self.notice_remind_after.as_deref().map(|text| duration("notice_remind_after", text)).transpose()?;
        for channel in self.notice {
            let name = channel.name.clone();
            let made = channel.settings().map_err(|error| match error {
                Wrong::Says(why) => Failure::usage(format!("the notice channel {name:?} in {}: {why}", file.display())),
                Wrong::Unreadable(failure) => failure,
            })?;
            if settings.channels.iter().any(|other: &ChannelSettings| other.name == made.name) {
                return Err(Failure::usage(format!(
                    "{}: there are two notice channels called {name:?}",
                    file.display()
                )));
            }
            settings.channels.push(made);
        }
        Ok(settings)
    }
}

/// Why a channel makes no sense.
enum Wrong {
    Says(String),
    Unreadable(Failure),
}

fn says<T>(why: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Says(why.into()))
}

fn secret(path: &Path) -> Result<SecretString, Wrong> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Wrong::Unreadable(Failure::unreadable("the file of a secret", path, &error)))?;
    match text.trim() {
        "" => says(format!("{} is empty", path.display())),
        text => Ok(SecretString::from(text)),
    }
}

impl ChannelFile {
    fn settings(self) -> Result<ChannelSettings, Wrong> {
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(sound) {
            return says("its name has to be of letters, digits, `.`, `_`, `-`, at most 63");
        }
        let severity = match self.severity.as_deref() {
            None | Some("warning") => Health::Warning,
            Some("healthy") => Health::Healthy,
            Some("critical") => Health::Critical,
            Some(other) => return says(format!("`severity` {other:?} must be healthy, warning or critical")),
        };
        let mail = [self.smtp_security.is_some(), self.smtp_user.is_some(), self.smtp_password_file.is_some()];
        let mail = mail.contains(&true) || self.from.is_some() || !self.to.is_empty();
        let (name, kinds) = (self.name.clone(), self.kinds.clone());
        let means = match (self.webhook.clone(), self.smtp.clone()) {
            (Some(_), None) if mail => return says("`webhook` goes without what belongs to `smtp`"),
            (Some(url), None) => Means::Webhook(self.webhook(url)?),
            (None, Some(_)) if self.secret_file.is_some() || self.allow_http => {
                return says("`smtp` goes without what belongs to `webhook`");
            }
            (None, Some(server)) => Means::Email(self.email(&server)?),
            _ => return says("give `webhook` (a URL) or `smtp` (HOST:PORT), and one of them only"),
        };
        Ok(ChannelSettings { name, means, severity, kinds })
    }

    fn webhook(self, url: String) -> Result<WebhookSettings, Wrong> {
        let uri: http::Uri = match url.parse() {
            Ok(uri) => uri,
            Err(error) => return says(format!("`webhook` is no URL: {error}")),
        };
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if self.allow_http => {}
            Some("http") => {
                return says(
                    "`webhook` begins with http://, which everybody on the way reads: use https, or set `allow_http = true`",
                );
            }
            _ => return says("`webhook` must begin with https://"),
        }
        if uri.host().is_none_or(str::is_empty) || uri.authority().is_some_and(|whole| whole.as_str().contains('@')) {
            return says("`webhook` must name a host, and no password");
        }
        let Some(path) = &self.secret_file else {
            return says("`secret_file` is missing: what the signature is made with");
        };
        Ok(WebhookSettings { url, secret: secret(path)?, ca: self.ca_file })
    }

    fn email(self, server: &str) -> Result<EmailSettings, Wrong> {
        let split = server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let Some((host, port)) = split.filter(|(host, port)| !host.is_empty() && *port > 0) else {
            return says(format!("`smtp` {server:?} must be HOST:PORT"));
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let security = match self.smtp_security.as_deref() {
            None | Some("starttls") => SmtpSecurity::StartTls,
            Some("implicit") => SmtpSecurity::Implicit,
            Some("none") => SmtpSecurity::None,
            Some(other) => return says(format!("`smtp_security` {other:?} must be starttls, implicit or none")),
        };
        let login = match (self.smtp_user, &self.smtp_password_file) {
            (None, None) => None,
            (Some(user), Some(path)) => Some((user, secret(path)?)),
            _ => return says("`smtp_user` and `smtp_password_file` belong together"),
        };
        let is_here =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if login.is_some() && security == SmtpSecurity::None && !is_here {
            return says("a password goes to another machine with TLS only: set `smtp_security`");
        }
        let Some(from) = self.from else { return says("`from` is missing: the sender's mail address") };
        if self.to.is_empty() {
            return says("`to` is missing: the mail addresses that are written to");
        }
        Ok(EmailSettings { host, port, security, login, from, to: self.to, ca: self.ca_file })
    }
}

/// What counts: a file of their own, or what stands in the file of settings.
///
/// # Errors
/// `Usage` when both say something, or one makes no sense.
pub(super) fn settings(own: Option<&Path>, main: NoticesFile, main_path: Option<&Path>) -> Result<NoticeSettings> {
    let main_path = main_path.unwrap_or_else(|| Path::new(""));
    match own {
        None => main.settings(main_path),
        Some(_) if !main.is_empty() => Err(Failure::usage(format!(
            "notices stand both in {} and in the file of --notices: leave one of them",
            main_path.display()
        ))),
        Some(path) => super::settings::read::<NoticesFile>(path)?.settings(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, secrets: &[&str]) -> Result<NoticeSettings> {
        let dir = tempfile::tempdir().unwrap();
        for name in secrets {
            std::fs::write(dir.path().join(name), "s3cret\n").unwrap();
        }
        let text = text.replace("DIR", &dir.path().display().to_string());
        toml::from_str::<NoticesFile>(&text).unwrap().settings(Path::new("n.toml"))
    }

    #[test]
    fn channels_are_read_with_their_secrets() {
        let text = "notice_settle = \"5s\"\nnotice_remind_after = \"12h\"\n\
                    [[notice]]\nname = \"ops\"\nwebhook = \"https://ops.example.com/x\"\nsecret_file = \"DIR/a\"\nkinds = [\"drill.\"]\n\
                    [[notice]]\nname = \"mail\"\nseverity = \"critical\"\nsmtp = \"mail.example.com:587\"\nsmtp_user = \"u\"\n\
                    smtp_password_file = \"DIR/b\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\n";
        let settings = parsed(text, &["a", "b"]).unwrap();
        assert_eq!((settings.settle.as_secs(), settings.remind_after.unwrap().as_secs()), (5, 12 * 3600));
        let [ops, mail] = settings.channels.as_slice() else { panic!("two") };
        assert_eq!((ops.severity, ops.kinds.as_slice()), (Health::Warning, &["drill.".to_owned()][..]));
        let Means::Email(email) = &mail.means else { panic!("a mail") };
        assert_eq!((&*email.host, email.port, email.security), ("mail.example.com", 587, SmtpSecurity::StartTls));
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn what_would_not_be_safe_or_not_work_is_refused_with_what_to_do() {
        for (text, why) in [
            ("webhook = \"http://x/y\"\nsecret_file = \"DIR/a\"", "allow_http"),
            ("webhook = \"https://x/y\"", "secret_file"),
            ("webhook = \"https://u:p@x/y\"\nsecret_file = \"DIR/a\"", "no password"),
            ("webhook = \"ftp://x/y\"\nsecret_file = \"DIR/a\"", "https://"),
            ("smtp = \"mail\"\nfrom = \"a@b\"\nto = [\"c@d\"]", "HOST:PORT"),
            ("smtp = \"mail:25\"\nto = [\"c@d\"]", "from"),
            ("smtp = \"mail:25\"\nfrom = \"a@b\"", "`to`"),
            ("smtp = \"mail:25\"\nfrom = \"a@b\"\nto = [\"c@d\"]\nsmtp_security = \"ssl\"", "implicit"),
            ("smtp = \"mail:25\"\nfrom = \"a@b\"\nto = [\"c@d\"]\nsmtp_user = \"u\"", "belong together"),
            (
                "smtp = \"mail:25\"\nfrom = \"a@b\"\nto = [\"c@d\"]\nsmtp_user = \"u\"\nsmtp_password_file = \"DIR/a\"\nsmtp_security = \"none\"",
                "with TLS only",
            ),
            ("webhook = \"https://x/y\"\nsmtp = \"mail:25\"", "one of them only"),
            ("", "one of them only"),
            ("severity = \"high\"\nwebhook = \"https://x\"", "critical"),
        ] {
            let error = parsed(&format!("[[notice]]\nname = \"ops\"\n{text}\n"), &["a"]).expect_err(text);
            assert!(error.to_string().contains(why) && error.to_string().contains("\"ops\""), "{text}: {error}");
        }
        let twice = "[[notice]]\nname = \"a\"\nwebhook = \"https://x\"\nsecret_file = \"DIR/a\"\n";
        assert!(parsed(&twice.repeat(2), &["a"]).is_err());
    }
}
