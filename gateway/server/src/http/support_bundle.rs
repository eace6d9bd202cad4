//! A support bundle that was made on this machine, for who can't log in there: an appliance has no way in, and a person who makes one
//! at its console needs it on another machine.
//!
//! The gateway makes none itself: it serves what it finds in its state directory. Bundles have no secrets, but they say much about a
//! machine; they are for who has the highest role.

use std::path::{Path, PathBuf};

use axum::extract::{Path as Named, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use lifeboat_api::ProblemCode;

use super::Shared;
use super::error::{ApiError, ApiResult};

/// Where bundles are, in the state directory.
const DIRECTORY: &str = "support";
/// The name of the newest one.
const NEWEST: &str = "latest";
/// Largest one that is served; clients take no larger answer.
const BYTES_MAX: u64 = 60 << 20;

pub(super) async fn read(State(context): Shared, Named(id): Named<String>) -> ApiResult<Response> {
    let directory = context.state.path().join(DIRECTORY);
    let (name, bytes) = tokio::task::spawn_blocking(move || load(&directory, &id)).await.map_err(|error| {
        ApiError::new(ProblemCode::Internal, format!("reading the support bundle was ended: {error}"))
    })??;
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// The bundle with that name, among those that there are.
fn find(directory: &Path, id: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let mut bundles = entries.filter(|path| path.to_string_lossy().ends_with(".tar.zst"));
    if id != NEWEST {
        return bundles.find(|path| path.file_name().is_some_and(|name| name == id));
    }
    bundles.max_by_key(|path| path.metadata().and_then(|about| about.modified()).ok())
}

fn load(directory: &Path, id: &str) -> ApiResult<(String, Vec<u8>)> {
    let path = find(directory, id).ok_or_else(|| {
        ApiError::new(
            ProblemCode::NotFound,
            "there is no such support bundle on this machine: make one at the appliance's console, or \
             run `lifeboat support-bundle` anywhere for what the API alone shows",
        )
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| {
        ApiError::new(ProblemCode::Internal, format!("the support bundle {name} can't be read: {error}"))
    };
    let bytes = path.metadata().map_err(failed)?.len();
    if bytes > BYTES_MAX {
        return Err(ApiError::new(
            ProblemCode::Conflict,
            format!(
                "the support bundle {name} has {} MiB, more than is sent: take it from the machine itself",
                bytes >> 20
            ),
        ));
    }
    let bytes = std::fs::read(&path).map_err(failed)?;
    Ok((name, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bundle_is_served_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(load(&dir.path().join("none"), NEWEST).is_err());
        std::fs::write(dir.path().join("notes.txt"), "x").expect("written");
        assert!(load(dir.path(), NEWEST).is_err() && load(dir.path(), "notes.txt").is_err());
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::write(dir.path().join("b.tar.zst"), "old").expect("written");
        let file = std::fs::File::options().write(true).open(dir.path().join("b.tar.zst")).expect("there");
        file.set_modified(old).expect("set");
        std::fs::write(dir.path().join("a.tar.zst"), "new").expect("written");
        let (name, bytes) = load(dir.path(), NEWEST).expect("there");
        assert_eq!((name.as_str(), bytes.as_slice()), ("a.tar.zst", b"new".as_slice()));
        assert_eq!(load(dir.path(), "b.tar.zst").expect("there").1, b"old");
        assert!(load(dir.path(), "../a.tar.zst").is_err());
    }
}
