//! Work that blocks, off the threads that serve others.

use crate::ComputeError;

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ComputeError> + Send + 'static,
) -> Result<T, ComputeError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ComputeError::fatal(format!("work ended early: {error}")))?
}
