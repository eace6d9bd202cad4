//! Values in msgpack, as Terraform sends them. The type drives the decoder; the encoder needs none,
//! since values were brought into the schema's shape before.
//!
//! | Value | Bytes |
//! |---|---|
//! | null | nil |
//! | unknown | ext 0, one zero byte; with a refinement ext 12; on input any ext |
//! | number | integer, or float where its shortest decimal is exact, else a decimal string |
//! | string, bool | string, bool |
//! | list, set, tuple | array |
//! | map, object | map with string keys |
//! | dynamic | array of two: the type as JSON (binary), and the value |
//!
//! The decoder trusts nothing: lengths are checked against the bytes that are left, depth against
//! [`DEPTH_MAX`], and the number of values against a budget.

use rmp::Marker;
use rmp::encode as write;

use super::number::Repr;
use super::refinement::{self, Refinement};
use super::{DEPTH_MAX, DecodeError, Number, Object, Type, Value};

/// The most values in one message. A null takes one byte there and forty here, so bytes alone are
/// no bound on memory.
pub(crate) const VALUES_MAX: usize = 4_000_000;

/// Decodes one value of type `ty`, which must take all the bytes.
///
/// # Errors
/// Bytes that are not such a value, or beyond the limits.
pub(crate) fn decode(bytes: &[u8], ty: &Type) -> Result<Value, DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let value = decoder.value(ty, 0)?;
    if decoder.rest.is_empty() { Ok(value) } else { Err(DecodeError::new("bytes are left after the value")) }
}

pub(super) struct Decoder<'a> {
    rest: &'a [u8],
    budget: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, budget: VALUES_MAX }
    }

    /// One value of a type.
    pub(super) fn typed(&mut self, ty: &Type) -> Result<Value, DecodeError> {
        self.value(ty, 0)
    }

    /// The head of a map: how many entries follow.
    pub(super) fn map_entries(&mut self) -> Result<usize, DecodeError> {
        let marker = Marker::from_u8(self.byte()?);
        self.map_length(marker)
    }

    /// An integer of one byte.
    pub(super) fn small_integer(&mut self) -> Result<u8, DecodeError> {
        match Marker::from_u8(self.byte()?) {
            Marker::FixPos(int) => Ok(int),
            Marker::U8 => self.byte(),
            other => Err(unexpected("a small integer", other)),
        }
    }

    fn value(&mut self, ty: &Type, depth: usize) -> Result<Value, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::new("value nested too deep"));
        }
        self.spend(1)?;
        let marker = Marker::from_u8(self.byte()?);
        if marker == Marker::Null {
            return Ok(Value::Null);
        }
        if let Some(length) = self.ext_length(marker)? {
            let kind = self.byte()?;
            let body = self.take(length)?;
            return Ok(if kind == refinement::EXT_TYPE { Refinement::decode(body) } else { Value::Unknown });
        }
        match ty {
            Type::Bool => match marker {
                Marker::True => Ok(Value::Bool(true)),
                Marker::False => Ok(Value::Bool(false)),
                other => Err(unexpected("a bool", other)),
            },
            Type::Number => self.number(marker).map(Value::Number),
            Type::String => self.text(marker).map(|text| Value::String(text.to_owned())),
            Type::List(element) => self.elements(marker, element, depth).map(Value::List),
            Type::Set(element) => self.elements(marker, element, depth).map(Value::Set),
            Type::Tuple(types) => self.tuple(marker, types, depth),
            Type::Map(element) => {
                let length = self.map_length(marker)?;
                (0..length)
                    .map(|_| Ok((self.key()?.to_owned(), self.value(element, depth + 1)?)))
                    .collect::<Result<_, _>>()
                    .map(Value::Map)
            }
            Type::Object(types, _) => {
                let length = self.map_length(marker)?;
                self.spend(types.len())?;
                let mut object: Object = types.keys().map(|name| (name.clone(), Value::Null)).collect();
                for _ in 0..length {
                    let name = self.key()?;
                    let ty = types.get(name).ok_or_else(|| DecodeError::new("an attribute is not in the schema"))?;
                    let value = self.value(ty, depth + 1)?;
                    object.set(name, value);
                }
                Ok(Value::Object(object))
            }
            Type::Dynamic => self.dynamic(marker, depth),
        }
    }

    fn dynamic(&mut self, marker: Marker, depth: usize) -> Result<Value, DecodeError> {
        if self.array_length(marker)? != 2 {
            return Err(DecodeError::new("a dynamic value is not a pair"));
        }
        let marker = Marker::from_u8(self.byte()?);
        let json = match self.bytes_length(marker)? {
            Some(length) => self.take(length)?,
            None => return Err(unexpected("a type", marker)),
        };
        let json = serde_json::from_slice(json).map_err(|_| DecodeError::new("a type is not JSON"))?;
        let ty = Type::from_json(&json)?;
        let value = self.value(&ty, depth + 1)?;
        Ok(match value {
            value @ Value::Dynamic(..) => value,
            value => Value::Dynamic(Box::new(ty), Box::new(value)),
        })
    }

    fn elements(&mut self, marker: Marker, ty: &Type, depth: usize) -> Result<Vec<Value>, DecodeError> {
        let length = self.array_length(marker)?;
        (0..length).map(|_| self.value(ty, depth + 1)).collect()
    }

    fn tuple(&mut self, marker: Marker, types: &[Type], depth: usize) -> Result<Value, DecodeError> {
        if self.array_length(marker)? != types.len() {
            return Err(DecodeError::new("a tuple has the wrong length"));
        }
        types.iter().map(|ty| self.value(ty, depth + 1)).collect::<Result<_, _>>().map(Value::Tuple)
    }

    fn number(&mut self, marker: Marker) -> Result<Number, DecodeError> {
        let not_finite = || DecodeError::new("a number is not finite");
        Ok(match marker {
            Marker::FixPos(int) => int.into(),
            Marker::FixNeg(int) => i32::from(int).into(),
            Marker::U8 => self.byte()?.into(),
            Marker::U16 => u16::from_be_bytes(self.array()?).into(),
            Marker::U32 => u32::from_be_bytes(self.array()?).into(),
            Marker::U64 => u64::from_be_bytes(self.array()?).into(),
            Marker::I8 => i32::from(i8::from_be_bytes(self.array()?)).into(),
            Marker::I16 => i32::from(i16::from_be_bytes(self.array()?)).into(),
            Marker::I32 => i32::from_be_bytes(self.array()?).into(),
            Marker::I64 => i64::from_be_bytes(self.array()?).into(),
            Marker::F32 => Number::from_f64_exact(f32::from_be_bytes(self.array()?).into()).ok_or_else(not_finite)?,
            Marker::F64 => Number::from_f64_exact(f64::from_be_bytes(self.array()?)).ok_or_else(not_finite)?,
            other => self.text(other)?.parse().map_err(|_| DecodeError::new("a string is not a number"))?,
        })
    }

    fn key(&mut self) -> Result<&'a str, DecodeError> {
        let marker = Marker::from_u8(self.byte()?);
        self.text(marker)
    }

    fn text(&mut self, marker: Marker) -> Result<&'a str, DecodeError> {
        let length = match marker {
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => self.bytes_length(marker)?,
            _ => None,
        };
        let length = length.ok_or_else(|| unexpected("a string", marker))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::new("a string is not UTF-8"))
    }

    /// The length of a string or of binary; `None` for other markers.
    fn bytes_length(&mut self, marker: Marker) -> Result<Option<usize>, DecodeError> {
        Ok(Some(match marker {
            Marker::FixStr(length) => length.into(),
            Marker::Str8 | Marker::Bin8 => self.byte()?.into(),
            Marker::Str16 | Marker::Bin16 => u16::from_be_bytes(self.array()?).into(),
            Marker::Str32 | Marker::Bin32 => self.length32()?,
            _ => return Ok(None),
        }))
    }

    /// The length of an ext value; `None` for other markers.
    fn ext_length(&mut self, marker: Marker) -> Result<Option<usize>, DecodeError> {
        Ok(Some(match marker {
            Marker::FixExt1 => 1,
            Marker::FixExt2 => 2,
            Marker::FixExt4 => 4,
            Marker::FixExt8 => 8,
            Marker::FixExt16 => 16,
            Marker::Ext8 => self.byte()?.into(),
            Marker::Ext16 => u16::from_be_bytes(self.array()?).into(),
            Marker::Ext32 => self.length32()?,
            _ => return Ok(None),
        }))
    }

    fn array_length(&mut self, marker: Marker) -> Result<usize, DecodeError> {
        let length = match marker {
            Marker::FixArray(length) => length.into(),
            Marker::Array16 => u16::from_be_bytes(self.array()?).into(),
            Marker::Array32 => self.length32()?,
            other => return Err(unexpected("an array", other)),
        };
        self.fits(length)
    }

    fn map_length(&mut self, marker: Marker) -> Result<usize, DecodeError> {
        let length: usize = match marker {
            Marker::FixMap(length) => length.into(),
            Marker::Map16 => u16::from_be_bytes(self.array()?).into(),
            Marker::Map32 => self.length32()?,
            other => return Err(unexpected("a map", other)),
        };
        self.fits(length.saturating_mul(2))?;
        Ok(length)
    }

    /// So many values need at least as many bytes.
    fn fits(&self, length: usize) -> Result<usize, DecodeError> {
        if length <= self.rest.len() { Ok(length) } else { Err(ended()) }
    }

    fn length32(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| ended())
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or_else(ended)?;
        self.rest = tail;
        Ok(*head)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or_else(ended)?;
        self.rest = tail;
        Ok(head)
    }

    fn spend(&mut self, values: usize) -> Result<(), DecodeError> {
        self.budget =
            self.budget.checked_sub(values).ok_or_else(|| DecodeError::new("too many values in one message"))?;
        Ok(())
    }
}

fn ended() -> DecodeError {
    DecodeError::new("the value ends too early")
}

fn unexpected(wanted: &str, marker: Marker) -> DecodeError {
    DecodeError::new(format!("expected {wanted}, got msgpack {marker:?}"))
}

/// Encodes a value.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut out = write::buffer::ByteBuf::new();
    put(&mut out, value);
    out.into_vec()
}

/// Writing to memory can't fail, which `rmp` says with an uninhabited error type: `.ok()` drops it.
fn put(out: &mut write::buffer::ByteBuf, value: &Value) {
    match value {
        Value::Null => drop(write::write_nil(out)),
        Value::Unknown => {
            write::write_ext_meta(out, 1, 0).ok();
            out.as_mut_vec().push(0);
        }
        Value::Refined(refinement) => refinement.encode(out),
        Value::Bool(flag) => drop(write::write_bool(out, *flag)),
        Value::Number(number) => put_number(out, number),
        Value::String(text) => drop(write::write_str(out, text)),
        Value::List(items) | Value::Set(items) | Value::Tuple(items) => {
            write::write_array_len(out, length(items.len())).ok();
            items.iter().for_each(|item| put(out, item));
        }
        Value::Map(map) => {
            write::write_map_len(out, length(map.len())).ok();
            map.iter().for_each(|(key, item)| put_entry(out, key, item));
        }
        Value::Object(object) => {
            write::write_map_len(out, length(object.len())).ok();
            object.iter().for_each(|(key, item)| put_entry(out, key, item));
        }
        Value::Dynamic(ty, value) => {
            write::write_array_len(out, 2).ok();
            write::write_bin(out, ty.to_json().to_string().as_bytes()).ok();
            put(out, value);
        }
    }
}

fn put_entry(out: &mut write::buffer::ByteBuf, key: &str, item: &Value) {
    write::write_str(out, key).ok();
    put(out, item);
}

/// Terraform reads a float with 53 bits of precision and later writes its shortest decimal, which is
/// another number where that is not exact: 2^64 would become 18446744073709552000. What such a decimal
/// can't hold goes as digits, which Terraform reads with 512 bits.
pub(super) fn put_number(out: &mut write::buffer::ByteBuf, number: &Number) {
    match number.repr() {
        Repr::Int(int) => drop(write::write_sint(out, *int)),
        Repr::Uint(int) => drop(write::write_uint(out, *int)),
        Repr::Float(float) if float.fract() != 0.0 && Number::from_f64(*float).as_ref() == Some(number) => {
            write::write_f64(out, *float).ok();
        }
        Repr::Float(_) | Repr::Decimal(_) => drop(write::write_str(out, &number.to_string())),
    }
}

/// Lengths above 32 bits can't come up: the message's own limit is far below.
pub(super) fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
