//! Exact numbers: whole numbers, floats that are exact, and decimals that are neither.
//!
//! Each number has one representation, chosen when it is made, so equality is equality of
//! representations: a whole number in 64 bits is `Int` or `Uint`; else, what a 64-bit float holds
//! exactly is `Float`; everything else is `Decimal`. `0.1` is a `Decimal`: no float is exactly that.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The most significant digits that are accepted; Terraform itself keeps 512 bits, about 155.
const DIGITS_MAX: usize = 4096;
/// The largest power of ten, either way.
const EXPONENT_MAX: i64 = 1_000_000;
/// More digits after the point than any f64 has in its exact decimal form.
const F64_DIGITS: usize = 1074;

/// An exact number. No NaN, no infinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(Repr);

#[derive(Debug, Clone)]
pub(crate) enum Repr {
    Int(i64),
    /// Above `i64::MAX` only.
    Uint(u64),
    /// Finite, not a whole number of 64 bits.
    Float(f64),
    Decimal(Decimal),
}

/// `±digits × 10^exponent`, without leading or trailing zeros in `digits`; zero has no digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

/// Text that is not a number, or one with too many digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a number that can be kept exactly")]
pub struct ParseNumberError;

impl PartialEq for Repr {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Uint(a), Self::Uint(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Decimal(a), Self::Decimal(b)) => a == b,
            _ => false,
        }
    }
}

/// Sound although there is a float inside: constructors keep NaN out.
impl Eq for Repr {}

impl Number {
    pub(crate) fn repr(&self) -> &Repr {
        &self.0
    }

    /// The shortest decimal that names this float: what a person means by `0.1`.
    /// `None` if it is not finite.
    pub fn from_f64(value: f64) -> Option<Self> {
        if value.is_finite() { format!("{value:e}").parse().ok() } else { None }
    }

    /// The float's own value, which is what a float in msgpack stands for.
    pub(crate) fn from_f64_exact(value: f64) -> Option<Self> {
        if !value.is_finite() {
            return None;
        }
        let whole = value.fract() == 0.0 && value.abs() < 18_446_744_073_709_551_616.0;
        if whole {
            // Below 2^64 a whole float prints exactly, without an exponent.
            format!("{value:.0}").parse().ok()
        } else {
            Some(Self(Repr::Float(value)))
        }
    }

    /// As `i128`, if it is a whole number of 64 bits.
    pub(crate) fn as_i128(&self) -> Option<i128> {
        match self.0 {
            Repr::Int(int) => Some(int.into()),
            Repr::Uint(int) => Some(int.into()),
            Repr::Float(_) | Repr::Decimal(_) => None,
        }
    }

    /// As `i64`, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128().and_then(|wide| wide.try_into().ok())
    }

    /// As `u64`, if it is one.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|wide| wide.try_into().ok())
    }

    /// The nearest `f64`.
    pub fn as_f64(&self) -> f64 {
        match &self.0 {
            Repr::Float(float) => *float,
            _ => self.to_string().parse().unwrap_or(f64::MAX),
        }
    }

    fn decimal(&self) -> Decimal {
        let parsed = match &self.0 {
            Repr::Int(int) => Decimal::parse(&int.to_string()),
            Repr::Uint(int) => Decimal::parse(&int.to_string()),
            Repr::Float(float) => Decimal::parse(&format!("{float:.F64_DIGITS$}")),
            Repr::Decimal(decimal) => return decimal.clone(),
        };
        parsed.unwrap_or_else(|_| Decimal { negative: false, digits: String::new(), exponent: 0 })
    }
}

impl Decimal {
    fn parse(text: &str) -> Result<Self, ParseNumberError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().map_err(|_| ParseNumberError)?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(ParseNumberError);
        }
        let both = format!("{whole}{fraction}");
        let significant = both.trim_start_matches('0');
        let digits = significant.trim_end_matches('0');
        if digits.is_empty() {
            return Ok(Self { negative: false, digits: String::new(), exponent: 0 });
        }
        let length = |n: usize| i64::try_from(n).map_err(|_| ParseNumberError);
        let dropped = length(significant.len() - digits.len())?;
        let exponent = exponent
            .checked_sub(length(fraction.len())?)
            .and_then(|e| e.checked_add(dropped))
            .filter(|e| e.abs() <= EXPONENT_MAX)
            .ok_or(ParseNumberError)?;
        if digits.len() > DIGITS_MAX {
            return Err(ParseNumberError);
        }
        Ok(Self { negative, digits: digits.to_owned(), exponent })
    }

    /// The power of ten of the first digit, plus one.
    fn magnitude(&self) -> i64 {
        i64::try_from(self.digits.len()).unwrap_or(i64::MAX) + self.exponent
    }

    fn cmp_abs(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            // Same magnitude and no trailing zeros: text order is number order.
            (false, false) => self.magnitude().cmp(&other.magnitude()).then_with(|| self.digits.cmp(&other.digits)),
        }
    }

    /// Plain digits where that is short, else with an exponent.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.digits.is_empty() {
            return f.write_str("0");
        }
        if self.negative {
            f.write_str("-")?;
        }
        let magnitude = self.magnitude();
        match usize::try_from(magnitude) {
            Ok(point) if self.exponent < 0 && point > 0 => {
                let (whole, fraction) = self.digits.split_at(point);
                write!(f, "{whole}.{fraction}")
            }
            Ok(point) if self.exponent >= 0 && point <= 400 => {
                write!(f, "{}{}", self.digits, "0".repeat(point - self.digits.len()))
            }
            _ if self.exponent < 0 && magnitude > -400 => {
                let zeros = usize::try_from(-magnitude).unwrap_or_default();
                write!(f, "0.{}{}", "0".repeat(zeros), self.digits)
            }
            _ => write!(f, "{}e{}", self.digits, self.exponent),
        }
    }
}

impl FromStr for Number {
    type Err = ParseNumberError;

    /// Decimal digits with an optional sign, point and exponent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(int) = text.parse::<i64>() {
            return Ok(Self(Repr::Int(int)));
        }
        if let Ok(int) = text.parse::<u64>() {
            return Ok(Self::from(int));
        }
        let decimal = Decimal::parse(text)?;
        let plain = Self(Repr::Decimal(decimal));
        if (0..20).contains(&plain.decimal().exponent) || plain.decimal().digits.is_empty() {
            let digits = plain.to_string();
            if let Ok(int) = digits.parse::<i64>() {
                return Ok(Self(Repr::Int(int)));
            }
            if let Ok(int) = digits.parse::<u64>() {
                return Ok(Self(Repr::Uint(int)));
            }
        }
        let Repr::Decimal(decimal) = &plain.0 else {
            return Ok(plain);
        };
        // A float is a decimal of at most 767 digits; try only what may be one.
        if decimal.digits.len() <= 767 && decimal.magnitude().abs() < 400 {
            let float: f64 = plain.to_string().parse().map_err(|_| ParseNumberError)?;
            if float.is_finite() && Decimal::parse(&format!("{float:.F64_DIGITS$}"))? == *decimal {
                return Ok(Self(Repr::Float(float)));
            }
        }
        Ok(plain)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Int(int) => write!(f, "{int}"),
            Repr::Uint(int) => write!(f, "{int}"),
            Repr::Float(_) => self.decimal().write(f),
            Repr::Decimal(decimal) => decimal.write(f),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        if let (Some(a), Some(b)) = (self.as_i128(), other.as_i128()) {
            return a.cmp(&b);
        }
        let (a, b) = (self.decimal(), other.decimal());
        match (a.negative, b.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => a.cmp_abs(&b),
            (true, true) => b.cmp_abs(&a),
        }
    }
}

impl From<u64> for Number {
    fn from(int: u64) -> Self {
        Self(i64::try_from(int).map_or(Repr::Uint(int), Repr::Int))
    }
}

macro_rules! from_small {
    ($($int:ty),*) => {$(
        impl From<$int> for Number {
            fn from(int: $int) -> Self {
                Self(Repr::Int(int.into()))
            }
        }
    )*};
}

from_small!(i32, i64, u8, u16, u32);

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        text.parse().unwrap()
    }

    #[test]
    fn equal_numbers_are_equal_however_they_are_written() {
        for (a, b) in [
            ("1", "1.0"),
            ("1e3", "1000"),
            ("-0", "0"),
            ("0.50", "5e-1"),
            ("18446744073709551615", "18446744073709551615.0"),
            ("100000000000000000000000", "1e23"),
            ("+7", "7"),
        ] {
            assert_eq!(number(a), number(b), "{a} {b}");
            assert_eq!(number(a).cmp(&number(b)), Ordering::Equal);
        }
        assert_eq!(Some(number("0.5")), Number::from_f64_exact(0.5));
        assert_eq!(Some(number("0.1")), Number::from_f64(0.1));
        assert_ne!(Some(number("0.1")), Number::from_f64_exact(0.1));
        assert_eq!(Number::from_f64_exact(1e10), Some(number("10000000000")));
        assert_eq!(Number::from_f64(1e300), Some(number("1e300")));
        assert_ne!(Number::from_f64_exact(1e300), Some(number("1e300")));
    }

    #[test]
    fn text_is_exact() {
        for text in [
            "0",
            "-1",
            "0.1",
            "12345678901234567890123",
            "-0.000001",
            "1234.5678",
            "18446744073709551615",
            "0.1000000000000000055511151231257827021181583404541015625",
        ] {
            assert_eq!(number(text).to_string(), text);
        }
    }

    #[test]
    fn order_is_numeric() {
        let sorted = ["-1e30", "-2", "-1.5", "0", "1e-9", "0.1", "0.5", "1", "9007199254740993", "1e30"];
        for pair in sorted.windows(2) {
            assert!(number(pair[0]) < number(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let long = "1".repeat(DIGITS_MAX + 1);
        for text in ["", "-", ".", "e1", "1e", "0x1", "NaN", "inf", "1 ", "1e99999999999999999999", "1e9000000", &long]
        {
            assert!(text.parse::<Number>().is_err(), "{text}");
        }
    }

    #[test]
    fn integers_come_out_exactly_or_not_at_all() {
        assert_eq!(number("9223372036854775808").as_u64(), Some(1 << 63));
        assert_eq!(number("9223372036854775808").as_i64(), None);
        assert_eq!(number("1.5").as_i64(), None);
        assert!((number("1e30").as_f64() - 1e30).abs() < 1.0);
        assert_eq!(Number::from_f64(f64::NAN), None);
        assert_eq!(Number::from_f64_exact(f64::INFINITY), None);
    }
}
