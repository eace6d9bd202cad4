//! A directory for each run: what was ordered, and whatever the driver keeps beside it.
//!
//! ```text
//! DIRECTORY/              mode 0700: consoles and screens of machines are nobody else's business
//!   RUN ID/
//!     order.json          the order, whole or not there: written under another name, synced, renamed
//!     …                   the driver's own
//! ```
//! A directory without an order is what a crash left of a start or of a removal: it counts as no run, and the next
//! start or removal under that id clears it away. All calls block; callers run them off the request threads.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::blocking::blocking;
use crate::{ComputeError, Order, RunId};

const ORDER: &str = "order.json";
const DRAFT: &str = "order.json.draft";

/// The runs of one driver.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    directory: PathBuf,
}

impl Runs {
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The run's directory, whether it is there or not.
    pub(crate) fn of(&self, id: &RunId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// The order of a run, read off the threads that serve others; nothing when it isn't known.
    pub(crate) async fn read(&self, id: &RunId) -> Result<Option<Order>, ComputeError> {
        let (runs, id) = (self.clone(), id.clone());
        blocking(move || runs.order(&id)).await
    }

    /// The order of a run that has to be known.
    pub(crate) async fn known(&self, id: &RunId) -> Result<Order, ComputeError> {
        self.read(id).await?.ok_or_else(|| ComputeError::refused(format!("run {id} is not known here: start it first")))
    }

    /// Makes the run's directory anew with this order in it, durably.
    pub(crate) fn begin(&self, order: &Order) -> Result<PathBuf, ComputeError> {
        self.remove(&order.id)?;
        let run = self.of(&order.id);
        let text = serde_json::to_vec_pretty(order).map_err(|error| {
            ComputeError::refused(format!("machine {}: the order can't be kept: {error}", order.name))
        })?;
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
            let mut draft = File::create(run.join(DRAFT))?;
            draft.write_all(&text)?;
            draft.sync_all()?;
            fs::rename(run.join(DRAFT), run.join(ORDER))?;
            File::open(&run)?.sync_all()?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|error| failed("write", &run, &error))?;
        Ok(run)
    }

    /// The order of a run; nothing when there is no such run.
    pub(crate) fn order(&self, id: &RunId) -> Result<Option<Order>, ComputeError> {
        let path = self.of(id).join(ORDER);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let shown = path.display();
            ComputeError::fatal(format!(
                "the order of a machine in {shown} can't be understood ({error}): make sure that the machine is off, then \
                 remove its directory"
            ))
        })
    }

    /// Every run.
    pub(crate) fn list(&self) -> Result<Vec<RunId>, ComputeError> {
        let unread = |error: &io::Error| failed("read", &self.directory, error);
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unread(&error)),
        };
        let mut runs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| unread(&error))?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<RunId>().ok());
            if let Some(id) = id.filter(|_| entry.path().join(ORDER).is_file()) {
                runs.push(id);
            }
        }
        Ok(runs)
    }

    /// Removes a run's directory; the order goes first, so that a crash leaves no half of a run.
    pub(crate) fn remove(&self, id: &RunId) -> Result<(), ComputeError> {
        let run = self.of(id);
        let absent_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        absent_is_fine(fs::remove_file(run.join(ORDER)))
            .and_then(|()| absent_is_fine(fs::remove_dir_all(&run)))
            .map_err(|error| failed("remove", &run, &error))
    }
}

fn failed(verb: &str, what: &Path, error: &io::Error) -> ComputeError {
    let shown = what.display();
    let message = format!("can't {verb} {shown}, where machines that were started are kept: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::Interrupted => ComputeError::retry(message),
        _ => ComputeError::fatal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::order;

    #[test]
    fn a_run_is_there_from_its_order_on_until_it_is_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let runs = Runs::new(dir.path().join("runs"));
        let order = order("mach_1");
        assert_eq!(runs.list().expect("none yet"), Vec::<RunId>::new());
        assert_eq!(runs.order(&order.id).expect("none yet"), None);
        let run = runs.begin(&order).expect("begins");
        fs::write(run.join("console.log"), "old").expect("written");
        assert_eq!(runs.order(&order.id).expect("read"), Some(order.clone()));
        assert_eq!(runs.list().expect("listed"), std::slice::from_ref(&order.id));
        runs.begin(&order).expect("begins anew");
        assert!(!run.join("console.log").exists(), "nothing of the run before it is left");
        runs.remove(&order.id).expect("removed");
        runs.remove(&order.id).expect("once more");
        assert!(!run.exists());
    }

    #[test]
    fn what_a_crash_left_is_no_run() {
        let dir = tempfile::tempdir().expect("tempdir");
        let runs = Runs::new(dir.path().to_owned());
        let order = order("mach_1");
        fs::create_dir(dir.path().join("mach_1")).expect("made");
        fs::write(dir.path().join("mach_1").join(DRAFT), "{").expect("written");
        assert_eq!(runs.list().expect("listed"), Vec::<RunId>::new());
        assert_eq!(runs.order(&order.id).expect("read"), None);
        runs.begin(&order).expect("begins over it");
        fs::write(dir.path().join("mach_1").join(ORDER), "{").expect("written");
        let error = runs.order(&order.id).expect_err("no order");
        assert!(error.kind() == crate::ErrorKind::Fatal && error.to_string().contains("mach_1"), "{error}");
    }
}
