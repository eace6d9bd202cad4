//! From attributes to the fields of API bodies.
//!
//! One description of a body serves twice. At apply everything is known, and what isn't is a fault. At plan and in
//! `terraform validate` values may be unknown: a neutral value, which no rule objects to, stands in for each of them, so
//! that the API's own rules judge what is known already. Each attribute has its own stand-in, so that no two seem to be the
//! same. Faults are gathered with the attribute's path, all of them.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::str::FromStr;

use tf_provider_sdk::{Diagnostic, Diagnostics, FromValue, Number, Object, Path, Value};

/// Attributes to read API fields from.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    values: &'a Object,
    /// The only place that holds write-only values.
    config: &'a Object,
    base: Path,
    lenient: bool,
    faults: &'a RefCell<Diagnostics>,
}

impl<'a> Values<'a> {
    /// A plan that is applied.
    pub(crate) fn planned(plan: &'a Object, config: &'a Object, faults: &'a RefCell<Diagnostics>) -> Self {
        Self { values: plan, config, base: Path::root(), lenient: false, faults }
    }

    /// A configuration, parts of which may be unknown.
    pub(crate) fn configured(config: &'a Object, faults: &'a RefCell<Diagnostics>) -> Self {
        Self { values: config, config, base: Path::root(), lenient: true, faults }
    }

    /// Adds a fault of the attribute at `path`.
    pub(crate) fn fault(&self, path: &str, message: impl std::fmt::Display) {
        let path = self.base.join(&Path::from(path));
        let name = path.to_string();
        self.faults
            .borrow_mut()
            .push(Diagnostic::error(format!("Invalid value for {name:?}"), format!("{message}.")).at(path));
    }

    /// Whether the value will be known after apply only.
    pub(crate) fn is_unknown(&self, path: &str) -> bool {
        self.lenient && self.values.at(path).is_some_and(|value| !value.is_wholly_known())
    }

    /// A value that has to be there.
    pub(crate) fn required<T: FromValue>(&self, path: &str, neutral: T) -> T {
        let value = self.values.at(path).unwrap_or(&Value::Null);
        if self.lenient && (value.is_null() || !value.is_wholly_known()) {
            return neutral;
        }
        self.convert(path, value).unwrap_or(neutral)
    }

    /// A value that may be left out.
    pub(crate) fn optional<T: FromValue>(&self, path: &str) -> Option<T> {
        self.optional_in(self.values, path)
    }

    /// A value as the configuration has it: one that is write-only, or computed where the configuration leaves it out.
    pub(crate) fn configured_only<T: FromValue>(&self, path: &str) -> Option<T> {
        self.optional_in(self.config, path)
    }

    fn optional_in<T: FromValue>(&self, object: &Object, path: &str) -> Option<T> {
        let value = object.at(path).unwrap_or(&Value::Null);
        if value.is_null() || (self.lenient && !value.is_wholly_known()) {
            return None;
        }
        self.convert(path, value)
    }

    fn convert<T: FromValue>(&self, path: &str, value: &Value) -> Option<T> {
        T::from_value(value).map_err(|error| self.fault(path, error.message)).ok()
    }

    /// A number that no other attribute has.
    fn own_number(&self, path: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.base.join(&Path::from(path)).to_string().hash(&mut hasher);
        hasher.finish()
    }

    /// A name or a title.
    pub(crate) fn name(&self, path: &str) -> String {
        self.required(path, format!("neutral-{:x}", self.own_number(path)))
    }

    /// An identifier; `prefix` is that of its kind.
    pub(crate) fn id<T>(&self, path: &str, prefix: &str) -> T
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.read_id(path, &self.required(path, self.neutral_id(path, prefix)), prefix)
    }

    /// An identifier that may be left out.
    pub(crate) fn optional_id<T>(&self, path: &str, prefix: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.optional::<String>(path).map(|text| self.read_id(path, &text, prefix))
    }

    /// An identifier of the right form, and nothing's.
    fn neutral_id(&self, path: &str, prefix: &str) -> String {
        format!("{prefix}-{:032x}", self.own_number(path))
    }

    /// The identifier that `text` is.
    pub(crate) fn read_id<T>(&self, path: &str, text: &str, prefix: &str) -> T
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let read = text.parse().map_err(|error| self.fault(path, error)).ok();
        read.or_else(|| self.neutral_id(path, prefix).parse().ok())
            .expect("an identifier of digits under the right prefix can be read")
    }

    /// One of the words of `all`.
    pub(crate) fn word<T: Copy>(&self, path: &str, text: &str, all: &[(&str, T)]) -> Option<T> {
        let found = all.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
            self.fault(path, format!("{text:?} must be one of {}", words.join(", ")));
        }
        found
    }

    /// A size in GiB as bytes.
    pub(crate) fn bytes_of_gib(&self, path: &str, number: &Number) -> Option<u64> {
        let bytes = gib_to_bytes(number);
        if bytes.is_none() {
            self.fault(
                path,
                format!("{number} GiB is no whole number of bytes: use whole GiB, or a fraction such as 0.5 or 0.0625"),
            );
        }
        bytes
    }

    /// How many elements a list has, also those that aren't known yet.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.values.at(path).and_then(Value::as_elements).map_or(0, <[Value]>::len)
    }

    /// The nested blocks of a kind, in order.
    pub(crate) fn blocks(&self, name: &str) -> Vec<Values<'a>> {
        let elements = self.values.value(name).and_then(Value::as_elements).unwrap_or_default();
        elements
            .iter()
            .enumerate()
            .filter_map(|(index, element)| self.nested(element, self.base.attr(name).index(index)))
            .collect()
    }

    /// The nested block of a kind that appears at most once.
    pub(crate) fn block(&self, name: &str) -> Option<Values<'a>> {
        self.nested(self.values.value(name)?, self.base.attr(name))
    }

    fn nested(&self, element: &'a Value, base: Path) -> Option<Values<'a>> {
        let values = element.as_object()?;
        Some(Values { values, config: values, base, lenient: self.lenient, faults: self.faults })
    }
}

const GIB_BITS: u32 = 30;

/// Bytes in so many GiB; `None` unless it is a whole number of them.
pub(crate) fn gib_to_bytes(gib: &Number) -> Option<u64> {
    let bytes = gib.as_f64() * f64::from(1_u32 << GIB_BITS);
    if !(0.0..=9e18).contains(&bytes) {
        return None;
    }
    // The float only proposes; the comparison is exact.
    let bytes: u64 = format!("{bytes:.0}").parse().ok()?;
    (bytes_to_gib(bytes) == *gib).then_some(bytes)
}

/// The exact number of GiB: a division by 2^30 has at most 30 decimal places.
pub(crate) fn bytes_to_gib(bytes: u64) -> Number {
    let whole = bytes >> GIB_BITS;
    let rest = u128::from(bytes & ((1 << GIB_BITS) - 1));
    // rest / 2^30 = rest · 5^30 / 10^30
    let places = rest * 5_u128.pow(GIB_BITS);
    let text = format!("{whole}.{places:030}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.parse().unwrap_or_else(|_| Number::from(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gib(text: &str) -> Option<u64> {
        gib_to_bytes(&text.parse().unwrap())
    }

    #[test]
    fn sizes_are_exact_in_both_directions() {
        assert_eq!(gib("1"), Some(1 << 30));
        assert_eq!(gib("65536"), Some(64 << 40));
        assert_eq!(gib("0.0625"), Some(64 << 20));
        assert_eq!(gib("0.1"), None);
        assert_eq!(gib("-1"), None);
        assert_eq!(gib("0.062500000000000000000001"), None, "a float would not see the difference");
        for bytes in [4096, (3 << 30) + 4096, (64 << 40) - 4096, 1 << 20, 123 * 4096] {
            assert_eq!(gib_to_bytes(&bytes_to_gib(bytes)), Some(bytes), "{bytes}");
        }
        assert_eq!(bytes_to_gib(100 << 20).to_string(), "0.09765625");
    }

    #[test]
    fn no_two_unknown_values_seem_to_be_the_same() {
        let block = || Object::new().with("id", Value::Unknown);
        let object = block().with("other", Value::Unknown).with("disk", vec![block(), block()]);
        let faults = RefCell::default();
        let values = Values::configured(&object, &faults);
        let mut seen = vec![values.name("id"), values.name("other")];
        seen.extend(values.blocks("disk").iter().map(|disk| disk.name("id")));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "{seen:?}");
    }

    #[test]
    fn unknown_values_are_neutral_at_plan_and_faults_at_apply() {
        let object = Object::new().with("name", Value::Unknown).with("size", "no number");
        let faults = RefCell::default();
        let values = Values::configured(&object, &faults);
        let neutral = values.name("name");
        assert!(values.is_unknown("name") && neutral.starts_with("neutral-"), "{neutral}");
        assert!(faults.borrow().is_empty());
        assert_eq!(values.optional::<u32>("size"), None);
        assert_eq!(faults.borrow().len(), 1);

        let faults = RefCell::default();
        let values = Values::planned(&object, &object, &faults);
        assert_eq!(values.name("name"), neutral);
        assert!(faults.borrow().to_string().contains("(name)"), "{}", faults.borrow());
    }
}
