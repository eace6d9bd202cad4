//! What a service tells systemd: that it is up, how it is, that it lives, that it stops (sd_notify(3)).
//!
//! One datagram each, to the socket that `NOTIFY_SOCKET` names; a name that begins with `@` is an abstract one. Without the variable
//! nobody is told and nothing happens. A datagram that can't be sent is a line in the log at most: a service doesn't fail because nobody
//! listens. That it lives is told only when it was found out: see [`Notify::keep`].

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

/// Time between two looks at how the service is.
const LOOK: Duration = Duration::from_secs(10);
/// How long one word may take to be taken.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest status; systemd cuts it anyway.
const STATUS_CHARS_MAX: usize = 500;

/// The way to systemd, if that has started this process and wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Notify(Option<Arc<Way>>);

#[derive(Debug)]
struct Way {
    socket: UnixDatagram,
    to: SocketAddr,
    /// How soon it has to be told that the service lives.
    watchdog: Option<Duration>,
    status: Mutex<String>,
}

impl Notify {
    /// By the environment.
    pub(crate) fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let Some(name) = variable("NOTIFY_SOCKET") else { return Self(None) };
        let way = address(&name).and_then(|to| {
            let watchdog = watchdog(&variable, std::process::id());
            let socket = UnixDatagram::unbound()?;
            // Whoever doesn't read what it is told holds no work up.
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(Way { socket, to, watchdog, status: Mutex::default() })
        });
        match way {
            Ok(way) => Self(Some(Arc::new(way))),
            Err(error) => {
                tracing::warn!(name, %error, "nobody can be told by NOTIFY_SOCKET");
                Self(None)
            }
        }
    }

    /// The service does its work from now on.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The service is about to end.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// How the service is, in words.
    pub(crate) fn status(&self, text: &str) {
        let Some(way) = &self.0 else { return };
        let text: String = text.chars().take(STATUS_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut before = way.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *before != text {
            self.tell(&format!("STATUS={text}"));
            *before = text;
        }
    }

    /// Tells how the service is and that it lives, until this is dropped. `look` goes through the service's own threads and locks, and
    /// gives the words, or nothing when there are no new ones; one that doesn't come back in time is a service that doesn't live.
    pub(crate) async fn keep<F>(&self, look: impl Fn() -> F)
    where
        F: Future<Output = Option<String>>,
    {
        let Some(way) = &self.0 else { return std::future::pending().await };
        // Told three times as often as it has to be: one that is late is no reason for a restart.
        let pause = way.watchdog.map_or(LOOK, |within| (within / 3).min(LOOK));
        loop {
            let words = match way.watchdog {
                None => Some(look().await),
                Some(patience) => timeout(patience, look()).await.ok(),
            };
            match words {
                Some(words) => {
                    words.iter().for_each(|words| self.status(words));
                    if way.watchdog.is_some() {
                        self.tell("WATCHDOG=1");
                    }
                }
                None => tracing::error!("the service does not answer itself: it is not said to live"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn tell(&self, what: &str) {
        let Some(way) = &self.0 else { return };
        if let Err(error) = way.socket.send_to_addr(what.as_bytes(), &way.to) {
            tracing::debug!(%error, what, "systemd isn't told");
        }
    }
}

fn address(name: &str) -> std::io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        None => Err(std::io::Error::other("neither a path nor an abstract name")),
    }
}

/// Within which time it has to be told, if this process is the one that is watched.
fn watchdog(variable: &impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    if variable("WATCHDOG_PID").is_some_and(|watched| watched.parse() != Ok(pid)) {
        return None;
    }
    let micros: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = socket.recv(&mut bytes).expect("something was told");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn silent(socket: &UnixDatagram) -> bool {
        socket.set_nonblocking(true).unwrap();
        let silent = socket.recv(&mut [0; 16]).is_err();
        socket.set_nonblocking(false).unwrap();
        silent
    }

    #[test]
    fn what_happens_is_told_by_path_or_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("lifeboat-notify-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&hidden).unwrap()).unwrap();
        for (socket, name) in [(by_path, path.display().to_string()), (by_name, format!("@{hidden}"))] {
            let notify = Notify::new(|variable| (variable == "NOTIFY_SOCKET").then(|| name.clone()));
            notify.ready();
            assert_eq!(heard(&socket), "READY=1");
            notify.status("3 groups\nhealthy");
            assert_eq!(heard(&socket), "STATUS=3 groups healthy", "one line");
            notify.status("3 groups\nhealthy");
            assert!(silent(&socket), "not what is known");
            notify.stopping();
            assert_eq!(heard(&socket), "STOPPING=1");
        }
    }

    #[test]
    fn without_anybody_to_tell_nothing_happens() {
        for name in [None, Some("relative"), Some("/nowhere/at/all")] {
            let notify =
                Notify::new(|variable| (variable == "NOTIFY_SOCKET").then(|| name.map(str::to_owned)).flatten());
            notify.ready();
            notify.stopping();
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_is_watched() {
        let of = |usec: Option<&str>, pid: Option<&str>| {
            let variable = |name: &str| match name {
                "WATCHDOG_USEC" => usec.map(str::to_owned),
                _ => pid.map(str::to_owned),
            };
            watchdog(&variable, 7)
        };
        assert_eq!(of(Some("3000000"), None), Some(Duration::from_secs(3)));
        assert_eq!(of(Some("3000000"), Some("7")), Some(Duration::from_secs(3)));
        assert_eq!(of(Some("3000000"), Some("8")), None);
        assert_eq!((of(None, None), of(Some("soon"), None), of(Some("0"), None)), (None, None, None));
    }

    #[tokio::test]
    async fn a_service_that_does_not_answer_itself_is_not_said_to_live() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(|variable| match variable {
            "NOTIFY_SOCKET" => Some(path.display().to_string()),
            "WATCHDOG_USEC" => Some("60000".to_owned()),
            _ => None,
        });
        let stuck = Arc::new(AtomicBool::new(false));
        let look = {
            let stuck = Arc::clone(&stuck);
            move || {
                let stuck = stuck.load(Ordering::SeqCst);
                async move {
                    if stuck {
                        std::future::pending::<()>().await;
                    }
                    Some("well".to_owned())
                }
            }
        };
        let keeping = tokio::spawn(async move { notify.keep(look).await });
        let socket = tokio::task::spawn_blocking(move || {
            let told = [heard(&socket), heard(&socket), heard(&socket)];
            assert_eq!(told, ["STATUS=well", "WATCHDOG=1", "WATCHDOG=1"]);
            stuck.store(true, Ordering::SeqCst);
            // What was under way is heard out; then there is silence, for longer than ten times what is borne.
            socket.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
            let mut more = 0;
            while socket.recv(&mut [0; 64]).is_ok() {
                more += 1;
            }
            assert!(more <= 3, "{more} signs of life of a service that is stuck");
            socket
        });
        socket.await.unwrap();
        keeping.abort();
    }
}
