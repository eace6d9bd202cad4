//! A mail for each notice, over SMTP.

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::ExposeSecret;

use super::{EmailSettings, Notice, NoticeState, SEND_TIMEOUT, SmtpSecurity, send};

/// Characters of a message in a subject.
const SUBJECT_MAX: usize = 120;

fn subject(notice: &Notice) -> String {
    let said: String = notice.message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUBJECT_MAX).collect();
    let state = match notice.state {
        NoticeState::Happened => "",
        NoticeState::Raised => "began: ",
        NoticeState::Reminder => "lasts: ",
        NoticeState::Cleared => "over: ",
        NoticeState::Test => "test: ",
    };
    format!("[lifeboat {}] {state}{said}", notice.severity)
}

fn text(notice: &Notice) -> String {
    let maybe =
        |name: &str, value: Option<String>| value.map_or_else(String::new, |value| format!("{name}: {value}\n"));
    format!(
        "{}\n\nkind: {}\nseverity: {}\nstate: {}\ntime: {}\ngateway: {}\n{}{}{}{}notice: {}\noccurrence: {}\n",
        notice.message,
        notice.kind,
        notice.severity,
        notice.state.as_str(),
        notice.time,
        notice.gateway,
        maybe("site", notice.site.clone()),
        maybe("group", notice.group.map(|id| id.to_string())),
        maybe("volume", notice.volume.map(|id| id.to_string())),
        maybe("job", notice.job.map(|id| id.to_string())),
        notice.id,
        notice.occurrence,
    )
}

fn mail(settings: &EmailSettings, notice: &Notice) -> Result<Message, String> {
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|error| format!("{text:?} is no mail address: {error}"));
    let from = mailbox(&settings.from)?;
    let domain = from.email.domain().to_owned();
    let mut mail = Message::builder().from(from).subject(subject(notice));
    for to in &settings.to {
        mail = mail.to(mailbox(to)?);
    }
    // A second copy, after a crash, is known by it.
    mail.message_id(Some(format!("<{}@{domain}>", notice.id)))
        .date_now()
        .body(text(notice))
        .map_err(|error| format!("the mail can't be made: {error}"))
}

async fn tls(settings: &EmailSettings) -> Result<TlsParameters, String> {
    let failed = |error: lettre::transport::smtp::Error| format!("TLS can't be set up: {error}");
    let mut parameters = TlsParameters::builder(settings.host.clone());
    if let Some(path) = &settings.ca {
        parameters = parameters.certificate_store(CertificateStore::None);
        for authority in send::trusted(Some(path)).await? {
            let authority = Certificate::from_der(authority.to_vec()).map_err(failed)?;
            parameters = parameters.add_root_certificate(authority);
        }
    }
    parameters.build_rustls().map_err(failed)
}

/// What only this machine can reach by its place in the network is not asked.
async fn refuse_forbidden(host: &str, port: u16) -> Result<(), String> {
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    for address in addresses {
        if let Some(why) = lifeboat_vault::forbidden_address(address.ip()) {
            return Err(format!("no mail is sent to {address}: {why}"));
        }
    }
    Ok(())
}

pub(super) async fn send(settings: &EmailSettings, notice: &Notice) -> Result<(), String> {
    let mail = mail(settings, notice)?;
    refuse_forbidden(&settings.host, settings.port).await?;
    let protected = match settings.security {
        SmtpSecurity::None => Tls::None,
        SmtpSecurity::StartTls => Tls::Required(tls(settings).await?),
        SmtpSecurity::Implicit => Tls::Wrapper(tls(settings).await?),
    };
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)
        .port(settings.port)
        .tls(protected)
        .timeout(Some(SEND_TIMEOUT));
    if let Some((user, password)) = &settings.login {
        transport = transport.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
    }
    let server = format!("the mail server {}:{}", settings.host, settings.port);
    transport.build().send(mail).await.map(drop).map_err(|error| {
        if let Some(why) = send::refusal(&error) {
            return format!("{server}: {why}");
        }
        // 530, 534, 535, 538: it wants to know who sends, or doesn't believe it (RFC 4954).
        let code = error.status().map(u16::from);
        if matches!(code, Some(530 | 534 | 535 | 538)) {
            return format!("{server} doesn't let us in ({error}): look at `smtp_user` and `smtp_password_file`");
        }
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            why = format!("{why}: {next}");
            cause = next.source();
        }
        if why.contains("STARTTLS") {
            why = format!("{why}; `smtp_security` has to be what the server speaks");
        }
        format!("{server}: {why}")
    })
}
