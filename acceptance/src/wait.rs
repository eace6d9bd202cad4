//! Waiting for a condition, with a deadline.
//!
//! Owns the only place in the harness that sleeps: between two looks at a condition. Never waits for a time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Between two looks: short, so that a wait measures what it waits for, yet cheap on two cores.
const PAUSE: Duration = Duration::from_millis(25);

/// Polls `look` until it gives `Some`, for at most `limit`; then fails, naming `what` was waited for.
///
/// # Errors
/// When the deadline passes, or as soon as `look` itself fails: an error is an answer, not a reason to go on waiting.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() >= limit {
            return Err(anyhow!("waited {limit:?} for {what}, in vain"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Repeats `attempt` until it succeeds, for at most `limit`; then fails with the last attempt's error.
///
/// # Errors
/// The last attempt's error, with `what` as its context.
pub fn retry_until<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() >= limit => {
                return Err(error.context(format!("waited {limit:?} for {what}, in vain")));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let seen = eventually("three looks", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(seen.unwrap(), 3);
    }

    #[test]
    fn a_condition_that_never_comes_true_fails_with_its_name() {
        let error = eventually::<()>("the impossible", Duration::from_millis(60), || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("the impossible"), "{error}");
    }

    #[test]
    fn an_attempt_that_never_succeeds_fails_with_its_last_error() {
        let mut attempts = 0;
        let error = retry_until::<()>("luck", Duration::from_millis(60), || {
            attempts += 1;
            Err(anyhow!("attempt {attempts}"))
        })
        .unwrap_err();
        assert!(format!("{error:#}").contains(&format!("attempt {attempts}")), "{error:#}");
        assert!(attempts > 1);
    }
}
