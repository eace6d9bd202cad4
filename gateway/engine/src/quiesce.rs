//! Application-consistent points: applications are asked to hold still, a point is placed, they go on.
//!
//! ```text
//! mark on disk ─> freeze ─ok─> place the point in the write order ─> thaw ─> mark removed ─> (the point lands, later)
//!                    └─failed, late─────────────────────────────────> thaw ─> mark removed; no point
//! ```
//! Applications are held only until the point has its place, never until it is in the vault. Whatever happens after a freeze
//! was tried, a thaw follows: the round runs in a task of its own that nobody's cancellation ends, and a process that dies in
//! between finds the mark at its next start and thaws then.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::disk::{Disk, Io};
use crate::error::{EngineError, ErrorKind, Result};

/// The file whose presence means that applications may be held.
const MARK: &str = "quiesced";

/// Brings a group's applications to a state that they can go on from.
#[async_trait]
pub trait Quiesce: Send + Sync + fmt::Debug {
    /// Applications hold their writes from here on, and what they had written is in the volumes. An error says why not.
    async fn freeze(&self) -> Result<(), String>;

    /// Applications go on. Called after every [`Quiesce::freeze`], also one that failed or was given up.
    async fn thaw(&self) -> Result<(), String>;
}

/// How a group takes application-consistent points. Two are equal if they have the same times and the same hooks object.
#[derive(Clone, Debug)]
pub struct AppPoints {
    /// Time between two while there are writes; none: on request only.
    pub every: Option<Duration>,
    /// How long a freeze may take, placing the point included, and how long a thaw.
    pub timeout: Duration,
    /// What asks the applications.
    pub hooks: Arc<dyn Quiesce>,
}

impl PartialEq for AppPoints {
    fn eq(&self, other: &Self) -> bool {
        self.every == other.every && self.timeout == other.timeout && Arc::ptr_eq(&self.hooks, &other.hooks)
    }
}

impl Eq for AppPoints {}

impl AppPoints {
    /// Runs `place` while the applications hold still. `what` names the group in messages.
    ///
    /// # Errors
    /// `Invalid` when a hook failed: nothing was placed, or (thaw) the point is there and the applications may still be held;
    /// `Retry` when it took too long; what the disk and `place` say.
    pub async fn hold<T: Send + 'static>(
        &self,
        disk: &Arc<dyn Disk>,
        what: &str,
        place: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (this, disk, what) = (self.clone(), Arc::clone(disk), what.to_owned());
        // A task of its own: a caller that goes away must not leave applications frozen.
        let round = tokio::spawn(async move { this.round(&disk, &what, place).await });
        round.await.map_err(|error| {
            EngineError::new(ErrorKind::Closed, "the application-consistent point was broken off").with_source(error)
        })?
    }

    async fn round<T>(&self, disk: &Arc<dyn Disk>, what: &str, place: impl Future<Output = Result<T>>) -> Result<T> {
        set_mark(disk)?;
        let held = tokio::time::timeout(self.timeout, async {
            self.hooks.freeze().await.map_err(|why| {
                EngineError::new(
                    ErrorKind::Invalid,
                    format!("no application-consistent point of {what} was taken: the hook before it failed: {why}"),
                )
            })?;
            place.await
        });
        let placed = held.await.unwrap_or_else(|_| {
            Err(EngineError::new(
                ErrorKind::Retry,
                format!(
                    "no application-consistent point of {what} was taken: the applications were not quiet, or the point had no \
                     place, within {} s",
                    self.timeout.as_secs()
                ),
            ))
        });
        let thawed = thaw(self.timeout, &*self.hooks, what).await;
        if thawed.is_ok() {
            clear_mark(disk)?;
        }
        match (placed, thawed) {
            (Ok(placed), Ok(())) => Ok(placed),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    }

    /// Lets applications go that a process held when it died; does nothing without its mark.
    ///
    /// # Errors
    /// As [`AppPoints::hold`]; the mark stays, so that the next start tries again.
    pub async fn let_go(&self, disk: &Arc<dyn Disk>, what: &str) -> Result<()> {
        if !is_marked(disk)? {
            return Ok(());
        }
        thaw(self.timeout, &*self.hooks, what).await?;
        clear_mark(disk)
    }
}

async fn thaw(timeout: Duration, hooks: &dyn Quiesce, what: &str) -> Result<()> {
    let failed = |why: String| {
        EngineError::new(
            ErrorKind::Invalid,
            format!(
                "the hook after an application-consistent point of {what} failed, its applications may still be held: {why}"
            ),
        )
    };
    match tokio::time::timeout(timeout, hooks.thaw()).await {
        Ok(thawed) => thawed.map_err(failed),
        Err(_) => Err(failed(format!("it did not end within {} s", timeout.as_secs()))),
    }
}

fn set_mark(disk: &Arc<dyn Disk>) -> Result<()> {
    disk.open(MARK, true, Io::Buffered)
        .and_then(|_| disk.sync_names())
        .map_err(|error| EngineError::io("note that applications are about to be held", error))
}

fn clear_mark(disk: &Arc<dyn Disk>) -> Result<()> {
    disk.remove(MARK)
        .and_then(|()| disk.sync_names())
        .map_err(|error| EngineError::io("note that applications go on", error))
}

fn is_marked(disk: &Arc<dyn Disk>) -> Result<bool> {
    match disk.open(MARK, false, Io::Buffered) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(EngineError::io("look whether applications were held", error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::disk::LocalDisk;

    #[derive(Debug, Default)]
    struct Hooks {
        frozen: AtomicUsize,
        thawed: AtomicUsize,
        refuses: bool,
        hangs: bool,
    }

    #[async_trait]
    impl Quiesce for Hooks {
        async fn freeze(&self) -> Result<(), String> {
            self.frozen.fetch_add(1, Ordering::SeqCst);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if self.refuses { Err("the database says no".to_owned()) } else { Ok(()) }
        }

        async fn thaw(&self) -> Result<(), String> {
            self.thawed.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }

    fn app_points(hooks: &Arc<Hooks>) -> AppPoints {
        let hooks: Arc<dyn Quiesce> = hooks.clone();
        AppPoints { every: None, timeout: Duration::from_secs(5), hooks }
    }

    fn disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = LocalDisk::open(dir.path()).expect("opens");
        (dir, disk)
    }

    fn counts(hooks: &Hooks) -> (usize, usize) {
        (hooks.frozen.load(Ordering::SeqCst), hooks.thawed.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn a_point_is_placed_between_the_hooks() {
        let (_dir, disk) = disk();
        let hooks = Arc::new(Hooks::default());
        let seen = Arc::clone(&hooks);
        let placed = app_points(&hooks).hold(&disk, "g", async move { Ok(counts(&seen)) }).await.expect("placed");
        assert_eq!(placed, (1, 0), "frozen and not thawed yet");
        assert_eq!(counts(&hooks), (1, 1));
        assert!(!is_marked(&disk).expect("looks"));
    }

    #[tokio::test(start_paused = true)]
    async fn applications_go_on_whatever_went_wrong() {
        for (hooks, why) in [
            (Hooks { refuses: true, ..Hooks::default() }, "the database says no"),
            (Hooks { hangs: true, ..Hooks::default() }, "within 5 s"),
        ] {
            let (_dir, disk) = disk();
            let hooks = Arc::new(hooks);
            let refused = app_points(&hooks).hold(&disk, "g", async { Ok(()) }).await.expect_err("no point");
            assert!(refused.to_string().contains(why), "{refused}");
            assert_eq!(counts(&hooks), (1, 1));
            assert!(!is_marked(&disk).expect("looks"));
        }
        let (_dir, disk) = disk();
        let hooks = Arc::new(Hooks::default());
        let slow = app_points(&hooks).hold(&disk, "g", std::future::pending::<Result<()>>()).await;
        assert_eq!(slow.expect_err("the point got no place").kind(), ErrorKind::Retry);
        assert_eq!(counts(&hooks), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_and_a_process_that_died_leave_nobody_frozen() {
        let (_dir, disk) = disk();
        let hooks = Arc::new(Hooks { hangs: true, ..Hooks::default() });
        let app = app_points(&hooks);
        let given_up = tokio::time::timeout(Duration::from_secs(1), app.hold(&disk, "g", async { Ok(()) })).await;
        assert!(given_up.is_err());
        while counts(&hooks).1 == 0 {
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
        // As a process leaves it that died in between.
        set_mark(&disk).expect("marked");
        app.let_go(&disk, "g").await.expect("lets go");
        assert_eq!(counts(&hooks).1, 2);
        app.let_go(&disk, "g").await.expect("nothing to do");
        assert_eq!(counts(&hooks).1, 2);
    }
}
