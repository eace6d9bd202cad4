//! Chance from a seed, so that a run is named by one number.

/// Numbers from a seed: splitmix64, by Steele, Lea and Flood, 2014; small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which isn't 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// One of these; `None` when there is none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.number() % (all.len().max(1) as u64);
        all.get(usize::try_from(at).unwrap_or(0))
    }
}

/// A number from a variable of the environment, decimal or `0x…`: a seed, or how often; `None` when it isn't set.
///
/// # Panics
/// It is set to something else: going on with another number would test something else than was asked for.
#[must_use]
pub fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(number.unwrap_or_else(|error| panic!("{name}={text} is no number: {error}")))
}
