//! What a block looks like, and what was written of a volume between two points.
//!
//! Encrypted bytes are uniform: all 256 values are equally likely. Compressed bytes nearly are, and not quite, which shows in
//! a block of 4096: Pearson's chi-square against the uniform distribution is 255 ± 23 for random bytes, and spreads far above
//! that for what deflate, zstd or an image codec made (of `gzip -6` over programs 4 blocks in 10 pass for random, of
//! `zstd -1` 2, of random bytes 999 in 1000; LZMA's range coder passes as well). One block proves nothing; the share among many does.

use lifeboat_model::BLOCK_SIZE;
use serde::{Deserialize, Serialize};

/// Chi-square of a block between which bytes are taken for random: 255 - 4.6 and + 3.3 standard deviations.
const RANDOM_CHI: std::ops::RangeInclusive<u32> = 150..=330;
/// Chi-square up to which a block has next to nothing left to compress.
const DENSE_CHI: u32 = 1500;

/// What the bytes of a block look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texture {
    /// Text, programs, pages of a database: some bytes are far more frequent than others.
    Plain,
    /// Compressed.
    Dense,
    /// Random, and so encrypted, or compressed very well.
    Random,
}

/// What a block looks like.
#[must_use]
pub fn texture(block: &[u8; BLOCK_SIZE]) -> Texture {
    // Four tables, so that equal bytes in a row don't wait for each other.
    let mut counts = [[0_u16; 256]; 4];
    let (quads, _) = block.as_chunks::<4>();
    for quad in quads {
        for (table, byte) in counts.iter_mut().zip(quad) {
            table[usize::from(*byte)] += 1;
        }
    }
    let [a, b, c, d] = &counts;
    let squares: u32 = a
        .iter()
        .zip(b)
        .zip(c.iter().zip(d))
        .map(|((a, b), (c, d))| (u32::from(*a) + u32::from(*b) + u32::from(*c) + u32::from(*d)).pow(2))
        .sum();
    // The sum of (count - 16)² / 16 over all values, with the counts' sum known.
    let chi = (squares / 16).saturating_sub(4096);
    match chi {
        chi if RANDOM_CHI.contains(&chi) => Texture::Random,
        chi if chi <= DENSE_CHI && chi >= *RANDOM_CHI.start() => Texture::Dense,
        _ => Texture::Plain,
    }
}

/// What was written of one volume between two points. All but `written` and `freed` are counts in a sample of `sampled` blocks.
///
/// As JSON it is a list of numbers in this order, without the zeroes at its end; a later version may add some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Measure {
    /// Blocks that were written, with content.
    pub written: u64,
    /// Blocks that had content and are zero now, as far as was looked.
    pub freed: u64,
    /// Blocks of the sample.
    pub sampled: u64,
    /// Of the sample: compressed or random.
    pub dense: u64,
    /// Of the sample: random.
    pub random: u64,
    /// Of the sample: had other content before.
    pub rewritten: u64,
    /// Of those: compressed or random now.
    pub rewritten_dense: u64,
    /// Of those: random now.
    pub rewritten_random: u64,
    /// Of the rewritten and now random: those whose content before was looked at.
    pub checked: u64,
    /// Of those: was not random before.
    pub turned: u64,
    /// Of the freed: those whose content was looked at.
    pub freed_checked: u64,
    /// Of those: was not random.
    pub freed_plain: u64,
}

impl Measure {
    fn figures(&mut self) -> [&mut u64; 12] {
        let Self {
            written,
            freed,
            sampled,
            dense,
            random,
            rewritten,
            rewritten_dense,
            rewritten_random,
            checked,
            turned,
            freed_checked,
            freed_plain,
        } = self;
        [
            written,
            freed,
            sampled,
            dense,
            random,
            rewritten,
            rewritten_dense,
            rewritten_random,
            checked,
            turned,
            freed_checked,
            freed_plain,
        ]
    }

    /// Takes another interval's, or segment's, figures in.
    pub fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (sum, more) in self.figures().into_iter().zip(other.figures()) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// About how many blocks were written that `counted` of the sample stand for.
    #[must_use]
    pub fn scaled(&self, counted: u64) -> u64 {
        counted.saturating_mul(self.written).checked_div(self.sampled).unwrap_or(0)
    }

    /// Blocks that were rewritten with random bytes, about.
    #[must_use]
    pub fn in_place(&self) -> u64 {
        self.scaled(self.rewritten_random)
    }

    /// Blocks of random bytes where nothing was before, about.
    #[must_use]
    pub fn fresh(&self) -> u64 {
        self.scaled(self.random.saturating_sub(self.rewritten_random))
    }

    /// Whether what was rewritten and can't be compressed is random throughout.
    #[must_use]
    pub fn is_pure_in_place(&self) -> bool {
        pure(self.rewritten_random, self.rewritten_dense)
    }

    /// The same of what was written where nothing was.
    #[must_use]
    pub fn is_pure_fresh(&self) -> bool {
        pure(self.random.saturating_sub(self.rewritten_random), self.dense.saturating_sub(self.rewritten_dense))
    }
}

impl From<Vec<u64>> for Measure {
    fn from(numbers: Vec<u64>) -> Self {
        let mut measure = Self::default();
        for (figure, number) in measure.figures().into_iter().zip(numbers) {
            *figure = number;
        }
        measure
    }
}

impl From<Measure> for Vec<u64> {
    fn from(mut measure: Measure) -> Self {
        let mut numbers: Self = measure.figures().into_iter().map(|figure| *figure).collect();
        numbers.truncate(numbers.iter().rposition(|number| *number != 0).map_or(0, |last| last + 1));
        numbers
    }
}

/// At most 3 in 100 are compressed and not random; one may be in a small sample.
const fn pure(random: u64, dense: u64) -> bool {
    let other = dense.saturating_sub(random);
    random >= 4 && (other.saturating_mul(100) <= dense.saturating_mul(3) || (other <= 1 && dense >= 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_block(seed: u64) -> [u8; BLOCK_SIZE] {
        let mut block = [0; BLOCK_SIZE];
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        reader.fill(&mut block);
        block
    }

    #[test]
    fn random_bytes_look_random_and_others_do_not() {
        let random = (0..2000).filter(|seed| texture(&random_block(*seed)) == Texture::Random).count();
        assert!(random >= 1990, "{random} of 2000");
        let mut text = [0; BLOCK_SIZE];
        for (byte, letter) in text.iter_mut().zip(b"what was written before anybody came to harm ".iter().cycle()) {
            *byte = *letter;
        }
        assert_eq!(texture(&text), Texture::Plain);
        let mut counter = [0; BLOCK_SIZE];
        for (byte, value) in counter.iter_mut().zip((0..=255_u8).cycle()) {
            *byte = value;
        }
        assert_eq!(texture(&counter), Texture::Plain, "too even to be random");
        let mut half = random_block(1);
        half[..BLOCK_SIZE / 2].fill(0);
        assert_eq!(texture(&half), Texture::Plain);
    }

    #[test]
    fn what_a_compressor_wrote_is_dense_and_not_random_throughout() {
        // Words of a skewed distribution, as text and programs have.
        let mut source = Vec::new();
        for seed in 0..4096_u64 {
            let draw = random_block(seed);
            source.extend(draw.iter().flat_map(|byte| {
                let word = u32::from(*byte).pow(2) / 96;
                word.to_string().into_bytes()
            }));
        }
        let packed = zstd::bulk::compress(&source, 1).expect("compresses");
        let blocks: Vec<&[u8; BLOCK_SIZE]> = packed.as_chunks().0.iter().collect();
        let dense = blocks.iter().filter(|block| texture(block) != Texture::Plain).count() as u64;
        let random = blocks.iter().filter(|block| texture(block) == Texture::Random).count() as u64;
        assert!(blocks.len() > 500 && dense > 400, "{dense} of {}", blocks.len());
        assert!(!pure(random, dense), "{random} of {dense} pass for random");
    }

    #[test]
    fn a_sample_stands_for_what_was_written() {
        let mut measure = Measure { written: 8192, sampled: 256, random: 128, dense: 128, ..Measure::default() };
        measure.rewritten = 64;
        (measure.rewritten_random, measure.rewritten_dense) = (64, 64);
        assert_eq!((measure.in_place(), measure.fresh()), (2048, 2048));
        let mut sum = Measure::default();
        assert_eq!(sum.in_place(), 0);
        sum.add(&measure);
        sum.add(&measure);
        assert_eq!((sum.written, sum.in_place()), (16384, 4096));
    }
}
