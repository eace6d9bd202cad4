//! Sending: one task for each channel, in order, again until it has worked.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::Timestamp;
use rustls::CertificateError;
use tokio::task::JoinHandle;

use super::{Channel, ChannelSettings, Means, Notice, SEND_TIMEOUT, email, watch, webhook};
use crate::context::Context;

const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// What sends and what watches.
pub(crate) fn run(context: &Arc<Context>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for channel in &context.notices.channels {
        tasks.push(tokio::spawn(deliver(Arc::clone(context), Arc::clone(channel))));
    }
    tasks.push(tokio::spawn(watch::run(Arc::clone(context))));
    tasks
}

async fn deliver(context: Arc<Context>, channel: Arc<Channel>) {
    let stop = context.stop.clone();
    let _ = stop.run_until_cancelled(deliver_all(&context, &channel)).await;
}

async fn deliver_all(context: &Context, channel: &Channel) {
    let name = &channel.settings.name;
    let mut pause = PAUSE_FIRST;
    loop {
        let next = {
            let kept = context.notices.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            kept.channel(name).and_then(|queue| queue.waiting.front().cloned())
        };
        let Some(notice) = next else {
            channel.wake.notified().await;
            continue;
        };
        let sent = once(&channel.settings, &notice).await;
        channel.note(&sent);
        match sent {
            Ok(()) => {
                context.notices.change(&context.state, |kept| kept.sent(name, &notice.id, Timestamp::now()));
                pause = PAUSE_FIRST;
            }
            Err(error) => {
                tracing::warn!(channel = name, notice = notice.id, error, "a notice can't be sent: it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// One try.
pub(super) async fn once(channel: &ChannelSettings, notice: &Notice) -> Result<(), String> {
    let sent = async {
        match &channel.means {
            Means::Webhook(settings) => webhook::send(settings, notice).await,
            Means::Email(settings) => email::send(settings, notice).await,
        }
    };
    let late = |_| format!("it wasn't done within {} s", SEND_TIMEOUT.as_secs());
    tokio::time::timeout(SEND_TIMEOUT, sent).await.map_err(late).and_then(|sent| sent)
}

/// Authorities that are trusted: those of a file, or the system's.
pub(super) async fn trusted(
    ca: Option<&std::path::PathBuf>,
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, String> {
    use rustls_pki_types::pem::PemObject;
    let Some(path) = ca else { return Ok(rustls_native_certs::load_native_certs().certs) };
    let unreadable = |error: String| format!("the authorities in {} can't be read: {error}", path.display());
    let text = tokio::fs::read(path).await.map_err(|error| unreadable(error.to_string()))?;
    let found: Result<Vec<_>, _> = rustls_pki_types::CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unreadable(error.to_string()))?;
    if found.is_empty() {
        return Err(format!("`ca_file` {} holds no certificate (PEM)", path.display()));
    }
    Ok(found)
}

/// What to do about an error, where it is that a certificate is refused.
pub(super) fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(cause) = next {
        let held = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let of_tls = held.and_then(|held| held.downcast_ref::<rustls::Error>()).or_else(|| cause.downcast_ref());
        if let Some(rustls::Error::InvalidCertificate(why)) = of_tls {
            return Some(advice(why));
        }
        next = cause.source();
    }
    None
}

fn advice(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "nobody who is trusted vouches for its certificate: name the authority that does by `ca_file`".to_owned()
        }
        CertificateError::NotValidForName => {
            "its certificate is for another name: give the name that stands in it".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "its certificate is for {}: give a name that stands in it",
            if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") }
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate is too old: it has to be renewed there".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate isn't valid yet: look at both clocks".to_owned()
        }
        other => format!("its certificate is refused: {other}"),
    }
}
