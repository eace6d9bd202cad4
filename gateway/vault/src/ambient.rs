//! What a vault takes from its surroundings, injected so that a seed replays a run: the clock, randomness, the cost
//! of deriving a key from a passphrase.

use std::fmt;
use std::sync::Arc;

use lifeboat_model::Timestamp;

use crate::error::{VaultError, VaultErrorKind};
use crate::secret::KdfStrength;

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that answers what `now` says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

type Fill = dyn Fn(&mut [u8]) -> Result<(), VaultError> + Send + Sync;

/// A source of random bytes.
#[derive(Clone)]
pub struct Entropy(Arc<Fill>);

impl Entropy {
    /// A source that fills buffers with `fill`. Anything but [`Entropy::system`] is for tests: keys come from here.
    pub fn new(fill: impl Fn(&mut [u8]) -> Result<(), VaultError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// The system's generator.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|bytes| {
            aws_lc_rs::rand::fill(bytes).map_err(|_| {
                VaultError::new(
                    VaultErrorKind::Fatal,
                    "the system's random generator failed: no key was made; restart the gateway and check the host",
                )
            })
        })
    }

    pub(crate) fn fill(&self, bytes: &mut [u8]) -> Result<(), VaultError> {
        (self.0)(bytes)
    }

    pub(crate) fn array<const N: usize>(&self) -> Result<[u8; N], VaultError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// What a vault takes from its surroundings; [`VaultOptions::default`] is what a product uses.
#[derive(Clone)]
pub struct VaultOptions {
    /// Cost of deriving a key from a passphrase, for slots made from now on.
    pub kdf: KdfStrength,
    /// The clock.
    pub clock: Clock,
    /// Randomness for keys, nonces and ids.
    pub entropy: Entropy,
}

impl VaultOptions {
    /// The default with the cheapest derivation there is: never for data that matters.
    #[must_use]
    pub fn for_tests() -> Self {
        Self { kdf: KdfStrength::WEAKEST, ..Self::default() }
    }
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self { kdf: KdfStrength::default(), clock: Clock::system(), entropy: Entropy::system() }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

impl fmt::Debug for VaultOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultOptions").field("kdf", &self.kdf).finish_non_exhaustive()
    }
}
