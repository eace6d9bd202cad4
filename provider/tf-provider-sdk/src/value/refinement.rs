//! What is known of a value before the value is: that it won't be null, how it begins, between which
//! bounds it lies.
//!
//! Terraform sends refinements with unknown values of a configuration, and uses those of a plan: with
//! "not null" for an identifier it decides `x.id != null` at plan. In msgpack they are an ext of type
//! 12 that holds a map by small integers. What can't be read refines nothing: an unknown value is
//! always a sound answer.

use rmp::encode as write;

use super::msgpack::Decoder;
use super::{Number, Type, Value};

/// The ext type of a refined unknown.
pub(super) const EXT_TYPE: u8 = 12;
/// The most bytes of refinements that are read.
const BYTES_MAX: usize = 4096;

const NULLNESS: u8 = 1;
const PREFIX: u8 = 2;
const NUMBER_MIN: u8 = 3;
const NUMBER_MAX: u8 = 4;
const LENGTH_MIN: u8 = 5;
const LENGTH_MAX: u8 = 6;

/// What is known of an unknown value.
///
/// ```
/// use tf_provider_sdk::{Refinement, Value};
///
/// let arn = Value::from(Refinement::not_null().with_prefix("arn:"));
/// assert!(arn.is_unknown());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refinement {
    not_null: bool,
    prefix: Option<String>,
    /// A bound, and whether it is included.
    number_min: Option<(Number, bool)>,
    number_max: Option<(Number, bool)>,
    length_min: Option<u64>,
    length_max: Option<u64>,
}

impl Refinement {
    /// It will not be null. Terraform takes every further refinement to say so too.
    #[must_use]
    pub fn not_null() -> Self {
        Self { not_null: true, ..Self::default() }
    }

    /// A string that begins so. Leave out the last character where what follows could combine with it.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// A number of at least `min`.
    #[must_use]
    pub fn at_least(mut self, min: impl Into<Number>) -> Self {
        self.number_min = Some((min.into(), true));
        self
    }

    /// A number of at most `max`.
    #[must_use]
    pub fn at_most(mut self, max: impl Into<Number>) -> Self {
        self.number_max = Some((max.into(), true));
        self
    }

    /// A list, set or map of `min` to `max` elements.
    #[must_use]
    pub fn with_length(mut self, min: u64, max: Option<u64>) -> Self {
        self.length_min = Some(min);
        self.length_max = max;
        self
    }

    /// True if the value will surely not be null.
    pub fn is_not_null(&self) -> bool {
        self.not_null
    }

    /// How the string will begin.
    pub fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// Reads the body of an ext of type 12.
    pub(super) fn decode(bytes: &[u8]) -> Value {
        if bytes.len() > BYTES_MAX {
            return Value::Unknown;
        }
        Self::try_decode(bytes).map_or(Value::Unknown, Value::from)
    }

    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        let mut found = Self::default();
        for _ in 0..decoder.map_entries().ok()? {
            match decoder.small_integer().ok()? {
                // `true` would say "surely null", which is no unknown.
                NULLNESS => found.not_null = decoder.typed(&Type::Bool).ok()?.as_bool() == Some(false),
                PREFIX => found.prefix = Some(decoder.typed(&Type::String).ok()?.as_str()?.to_owned()),
                NUMBER_MIN => found.number_min = Some(bound(&mut decoder)?),
                NUMBER_MAX => found.number_max = Some(bound(&mut decoder)?),
                LENGTH_MIN => found.length_min = Some(length(&mut decoder)?),
                LENGTH_MAX => found.length_max = Some(length(&mut decoder)?),
                // A later Terraform knows more: what it says can't be passed on.
                _ => return None,
            }
        }
        Some(found)
    }

    /// Writes the ext value.
    pub(super) fn encode(&self, out: &mut write::buffer::ByteBuf) {
        let mut body = write::buffer::ByteBuf::new();
        let bounds = [(NUMBER_MIN, &self.number_min), (NUMBER_MAX, &self.number_max)];
        let lengths = [(LENGTH_MIN, self.length_min), (LENGTH_MAX, self.length_max)];
        let count = usize::from(self.not_null)
            + usize::from(self.prefix.is_some())
            + bounds.iter().filter(|(_, bound)| bound.is_some()).count()
            + lengths.iter().filter(|(_, length)| length.is_some()).count();
        write::write_map_len(&mut body, super::msgpack::length(count)).ok();
        if self.not_null {
            write::write_uint(&mut body, NULLNESS.into()).ok();
            write::write_bool(&mut body, false).ok();
        }
        if let Some(prefix) = &self.prefix {
            write::write_uint(&mut body, PREFIX.into()).ok();
            write::write_str(&mut body, prefix).ok();
        }
        for (key, bound) in bounds {
            if let Some((number, included)) = bound {
                write::write_uint(&mut body, key.into()).ok();
                write::write_array_len(&mut body, 2).ok();
                super::msgpack::put_number(&mut body, number);
                write::write_bool(&mut body, *included).ok();
            }
        }
        for (key, length) in lengths {
            if let Some(length) = length {
                write::write_uint(&mut body, key.into()).ok();
                write::write_uint(&mut body, length).ok();
            }
        }
        let body = body.into_vec();
        write::write_ext_meta(out, super::msgpack::length(body.len()), EXT_TYPE.cast_signed()).ok();
        out.as_mut_vec().extend_from_slice(&body);
    }
}

fn bound(decoder: &mut Decoder<'_>) -> Option<(Number, bool)> {
    let pair = decoder.typed(&Type::Tuple(vec![Type::Number, Type::Bool])).ok()?;
    match pair.as_elements()? {
        [number, included] => Some((number.as_number()?.clone(), included.as_bool()?)),
        _ => None,
    }
}

fn length(decoder: &mut Decoder<'_>) -> Option<u64> {
    decoder.typed(&Type::Number).ok()?.as_number()?.as_u64()
}

impl From<Refinement> for Value {
    /// The unknown value with this refinement; one that says nothing is plainly unknown.
    fn from(refinement: Refinement) -> Self {
        if refinement == Refinement::default() { Self::Unknown } else { Self::Refined(Box::new(refinement)) }
    }
}
