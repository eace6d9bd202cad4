//! What a picture of a screen looks like, in 64 bits: whether each of 8 × 8 patches is brighter than the one to its right.
//!
//! Two pictures of the same screen differ in a few bits at most, also when a cursor blinks or a clock goes on.

use std::fmt;
use std::io::Cursor;

/// Patches in a row; one more is compared than there are bits in a row.
const ACROSS: usize = 9;
const DOWN: usize = 8;
/// Share of a picture that has to differ from its commonest shade: a line of text and more.
const DRAWN: f64 = 0.0005;
/// How far a pixel is from that shade to count.
const DIFFERENCE: u8 = 24;
/// Largest picture that is looked at, pixels.
const PIXELS: usize = 64 << 20;

/// See above; compared by [`Looks::distance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Looks {
    bits: u64,
    /// Whether anything is on it.
    pub(super) drawn: bool,
}

impl Looks {
    /// What a PNG looks like.
    pub(super) fn of(picture: &[u8]) -> Result<Self, String> {
        let (width, height, shades) = shades(picture)?;
        let patch = |across: usize, down: usize| {
            let columns = width * across / ACROSS..(width * (across + 1) / ACROSS).max(width * across / ACROSS + 1);
            let rows = height * down / DOWN..(height * (down + 1) / DOWN).max(height * down / DOWN + 1);
            let (mut sum, mut count) = (0_u64, 0_u64);
            for row in rows {
                for column in columns.clone() {
                    sum += u64::from(shades.get(row * width + column).copied().unwrap_or(0));
                    count += 1;
                }
            }
            // In 256ths of a shade: most of a screen of text is dark.
            (sum << 8).checked_div(count).unwrap_or(0)
        };
        let mut bits = 0_u64;
        for down in 0..DOWN {
            for across in 0..ACROSS - 1 {
                bits = bits << 1 | u64::from(patch(across, down) > patch(across + 1, down));
            }
        }
        let mut counts = [0_usize; 256];
        shades.iter().for_each(|shade| counts[usize::from(*shade)] += 1);
        let commonest = (0..=255_u8).max_by_key(|shade| counts[usize::from(*shade)]).unwrap_or(0);
        let other = shades.iter().filter(|shade| shade.abs_diff(commonest) > DIFFERENCE).count();
        Ok(Self { bits, drawn: other as f64 > shades.len() as f64 * DRAWN })
    }

    /// In how many of the 64 bits two pictures differ.
    pub(super) const fn distance(self, other: u64) -> u32 {
        (self.bits ^ other).count_ones()
    }
}

impl fmt::Display for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.bits)
    }
}

/// The bits that 16 hexadecimal digits stand for.
pub(super) fn parse(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Width, height, and the brightness of each pixel, row by row.
fn shades(picture: &[u8]) -> Result<(usize, usize, Vec<u8>), String> {
    let mut decoder = png::Decoder::new(Cursor::new(picture));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let size = reader.output_buffer_size().filter(|size| *size <= 4 * PIXELS);
    let mut bytes = vec![0; size.ok_or("the picture is too large")?];
    let frame = reader.next_frame(&mut bytes).map_err(|error| error.to_string())?;
    let (width, height) = (frame.width as usize, frame.height as usize);
    let samples = frame.color_type.samples();
    let shade = |pixel: &[u8]| match pixel {
        [red, green, blue, ..] => {
            let sum = 77 * u32::from(*red) + 151 * u32::from(*green) + 28 * u32::from(*blue);
            u8::try_from(sum >> 8).unwrap_or(u8::MAX)
        }
        [gray, ..] => *gray,
        [] => 0,
    };
    let shades: Vec<u8> = bytes.chunks_exact(samples).map(shade).take(width * height).collect();
    if shades.is_empty() || shades.len() != width * height {
        return Err("the picture has no pixels".to_owned());
    }
    Ok((width, height, shades))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, shade: impl Fn(u32, u32) -> u8) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width, height);
        encoder.set_color(png::ColorType::Grayscale);
        let pixels: Vec<u8> =
            (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| shade(x, y)).collect();
        encoder.write_header().expect("a header").write_image_data(&pixels).expect("pixels");
        out
    }

    /// Lines of text on a dark screen.
    fn text(x: u32, y: u32) -> u8 {
        if y < 200 && y % 16 < 12 && x < 40 + y * 3 && (x / 3 + y).is_multiple_of(3) { 170 } else { 0 }
    }

    #[test]
    fn a_blank_screen_is_told_from_one_with_text() {
        for shade in [0, 90, 255] {
            assert!(!Looks::of(&png(720, 400, |_, _| shade)).expect("a picture").drawn, "{shade}");
        }
        let cursor = png(720, 400, |x, y| if x < 9 && (14..16).contains(&y) { 170 } else { 0 });
        assert!(!Looks::of(&cursor).expect("a picture").drawn, "a cursor is nothing");
        assert!(Looks::of(&png(720, 400, text)).expect("a picture").drawn);
    }

    #[test]
    fn the_same_screen_looks_alike_and_another_does_not() {
        let looks = |shade: &dyn Fn(u32, u32) -> u8| Looks::of(&png(720, 400, shade)).expect("a picture");
        let first = looks(&text);
        let blinking = looks(&|x, y| if x < 9 && (384..386).contains(&y) { 170 } else { text(x, y) });
        let other = looks(&|x, y| if (x / 90 + y / 50).is_multiple_of(2) { 200 } else { 20 });
        assert!(blinking.distance(first.bits) <= 4, "{}", blinking.distance(first.bits));
        assert!(other.distance(first.bits) > 16, "{}", other.distance(first.bits));
        assert_eq!(parse(&first.to_string()), Some(first.bits));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(Looks::of(b"no picture").is_err());
        let mut cut = png(720, 400, text);
        cut.truncate(cut.len() / 2);
        assert!(Looks::of(&cut).is_err());
        assert_eq!(parse("xyz"), None);
    }
}
