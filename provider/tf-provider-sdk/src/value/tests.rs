//! Tests of values: golden bytes, exact numbers, refinements, sets, and hostile input.

use proptest::prelude::*;
use serde_json::json;

use super::conform::conform;
use super::{Attr, FromValue as _, Object, Path, Refinement, Type, Value, json as json_value, msgpack};

fn number(text: &str) -> Value {
    Value::Number(text.parse().unwrap())
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn ty(json: serde_json::Value) -> Type {
    Type::from_json(&json).unwrap()
}

/// Bytes as Terraform's own encoder writes them.
fn golden() -> Vec<(Type, Value, Vec<u8>)> {
    let object = ty(json!(["object", {"a": "number", "b": ["list", "string"]}]));
    vec![
        (Type::String, Value::Null, vec![0xc0]),
        (Type::String, Value::Unknown, vec![0xd4, 0, 0]),
        (Type::Bool, Value::Bool(true), vec![0xc3]),
        (Type::String, text("hi"), vec![0xa2, b'h', b'i']),
        (Type::Number, number("7"), vec![7]),
        (Type::Number, number("-1"), vec![0xff]),
        (Type::Number, number("300"), vec![0xcd, 1, 44]),
        (Type::Number, number("0.5"), vec![0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0]),
        (Type::Number, number("0.1"), vec![0xa3, b'0', b'.', b'1']),
        (Type::Number, number("18446744073709551615"), vec![0xcf, 255, 255, 255, 255, 255, 255, 255, 255]),
        (
            object,
            Value::Object(Object::new().with("a", 1_u64).with("b", Value::List(vec![text("x"), Value::Unknown]))),
            vec![0x82, 0xa1, b'a', 1, 0xa1, b'b', 0x92, 0xa1, b'x', 0xd4, 0, 0],
        ),
        (
            Type::Dynamic,
            Value::Dynamic(Box::new(Type::Bool), Box::new(Value::Bool(false))),
            [&[0x92, 0xc4, 6][..], b"\"bool\"", &[0xc2]].concat(),
        ),
    ]
}

#[test]
fn golden_bytes_go_both_ways() {
    for (ty, value, bytes) in golden() {
        assert_eq!(msgpack::encode(&value), bytes, "{value:?}");
        assert_eq!(msgpack::decode(&bytes, &ty).unwrap(), value);
    }
}

#[test]
fn long_numbers_stay_exact() {
    let digits = "12345678901234567890123";
    let bytes = [&[0xb7][..], digits.as_bytes()].concat();
    let value = msgpack::decode(&bytes, &Type::Number).unwrap();
    assert_eq!(value, number(digits));
    assert_eq!(msgpack::encode(&value), bytes);
    // A float in msgpack is that float, not the decimal that a person would write for it; it goes back as
    // digits, since Terraform would make that decimal of it.
    for (float, digits) in
        [(0.1, "0.1000000000000000055511151231257827021181583404541015625"), (2_f64.powi(64), "18446744073709551616")]
    {
        let value = msgpack::decode(&[&[0xcb][..], &f64::to_be_bytes(float)].concat(), &Type::Number).unwrap();
        assert_eq!(value, number(digits));
        assert_ne!(value, number("0.1"));
        let bytes = msgpack::encode(&value);
        assert!(bytes.ends_with(digits.as_bytes()), "{bytes:?}");
        assert_eq!(msgpack::decode(&bytes, &Type::Number).unwrap(), value);
    }
}

#[test]
fn every_extension_is_unknown() {
    for ty in [Type::String, Type::list(Type::Number), Type::Dynamic] {
        assert_eq!(msgpack::decode(&[0xd5, 99, 1, 2], &ty).unwrap(), Value::Unknown);
        // Refinements that nobody understands, that are broken, or that say nothing.
        for body in [&[0x81, 99, 0xc0][..], &[0x82, 1, 0xc2], &[0xff], &[0x80]] {
            let bytes = [&[0xc7, u8::try_from(body.len()).unwrap(), 12][..], body].concat();
            assert_eq!(msgpack::decode(&bytes, &ty).unwrap(), Value::Unknown, "{body:?}");
        }
    }
}

#[test]
fn refinements_go_both_ways() {
    // Ext 12 with a map {1: false}: "not null"; as Terraform writes it.
    let not_null = vec![0xc7, 3, 12, 0x81, 1, 0xc2];
    let prefix = vec![0xd7, 12, 0x82, 1, 0xc2, 2, 0xa3, b'a', b'b', b'-'];
    let bounds = vec![0xc7, 14, 12, 0x83, 1, 0xc2, 3, 0x92, 1, 0xc3, 4, 0x92, 0xa3, b'2', b'.', b'1', 0xc3];
    let lengths = vec![0xc7, 7, 12, 0x83, 1, 0xc2, 5, 0, 6, 9];
    for (refinement, bytes) in [
        (Refinement::not_null(), not_null),
        (Refinement::not_null().with_prefix("ab-"), prefix),
        (Refinement::not_null().at_least(1).at_most("2.1".parse::<crate::Number>().unwrap()), bounds),
        (Refinement::not_null().with_length(0, Some(9)), lengths),
    ] {
        let value = Value::from(refinement);
        assert!(value.is_unknown() && !value.is_wholly_known() && !value.is_null());
        assert_eq!(msgpack::encode(&value), bytes, "{value:?}");
        assert_eq!(msgpack::decode(&bytes, &Type::Dynamic).unwrap(), value);
    }
    assert_eq!(Value::from(Refinement::default()), Value::Unknown);
    assert_eq!(Attr::<String>::from_value(&Refinement::not_null().into()), Ok(Attr::Unknown));
}

#[test]
fn sets_compare_as_sets() {
    let set = |items: &[&str]| Value::Set(items.iter().map(|item| text(item)).collect());
    assert_eq!(set(&["a", "b", "c"]), set(&["c", "a", "b"]));
    assert_ne!(set(&["a", "b"]), set(&["a", "c"]));
    assert_ne!(set(&["a", "a", "b"]), set(&["a", "b", "b"]));
    let object = |items: &[&str]| Value::Object(Object::new().with("s", set(items)));
    assert_eq!(object(&["x", "y"]), object(&["y", "x"]));
    assert_ne!(Value::List(vec![text("a"), text("b")]), Value::List(vec![text("b"), text("a")]));
}

#[test]
fn types_go_through_json() {
    for json in [
        json!("string"),
        json!("dynamic"),
        json!(["list", ["set", "bool"]]),
        json!(["map", "number"]),
        json!(["tuple", ["string", "bool"]]),
        json!(["object", {"a": "string", "b": ["list", "number"]}]),
        json!(["object", {"a": "string"}, ["a"]]),
    ] {
        assert_eq!(ty(json.clone()).to_json(), json);
    }
    for json in [json!("text"), json!(["list"]), json!(["object", 1]), json!({}), json!(["object", {}, 3])] {
        assert!(Type::from_json(&json).is_err(), "{json}");
    }
    let deep = (0..100).fold(json!("string"), |inner, _| json!(["list", inner]));
    assert!(Type::from_json(&deep).is_err());
}

#[test]
fn json_states_are_read_by_type() {
    let of = ty(json!(["object", {
        "n": "number", "s": "string", "b": "bool", "set": ["set", "string"], "d": "dynamic", "none": "string"
    }]));
    let state = json_value::parse(
        br#"{"n": 0.1, "s": 5, "b": "true", "set": ["b", "a"], "d": {"type": "number", "value": 12345678901234567890123}, "gone": 1}"#,
    )
    .unwrap();
    let Value::Object(object) = json_value::decode(&state, &of).unwrap() else {
        panic!("not an object");
    };
    assert_eq!(object.value("n"), Some(&number("0.1")));
    assert_eq!(object.value("s"), Some(&text("5")));
    assert_eq!(object.value("b"), Some(&Value::Bool(true)));
    assert_eq!(object.value("set"), Some(&Value::Set(vec![text("a"), text("b")])));
    assert_eq!(object.value("d").map(Value::inner), Some(&number("12345678901234567890123")));
    assert_eq!((object.value("none"), object.value("gone")), (Some(&Value::Null), None));
    assert!(json_value::decode(&json!({"n": []}), &of).is_err());
}

#[test]
fn hostile_lengths_and_depths_are_errors() {
    let list = Type::list(Type::String);
    // Four billion elements, in five bytes.
    assert!(msgpack::decode(&[0xdd, 255, 255, 255, 255], &list).is_err());
    assert!(msgpack::decode(&[0xdf, 255, 255, 255, 255], &Type::map(Type::String)).is_err());
    assert!(msgpack::decode(&[0xdb, 255, 255, 255, 255, 1], &Type::String).is_err());
    assert!(msgpack::decode(&[0xc9, 255, 255, 255, 255, 1], &Type::String).is_err());
    // Dynamic in dynamic in dynamic …
    let level = [&[0x92, 0xc4, 9][..], b"\"dynamic\""].concat();
    assert!(msgpack::decode(&level.repeat(10_000), &Type::Dynamic).is_err());
    // More nulls than the budget, each in one byte.
    let count = u32::try_from(msgpack::VALUES_MAX + 1).unwrap();
    let mut bytes = vec![0xdd];
    bytes.extend(count.to_be_bytes());
    bytes.resize(bytes.len() + msgpack::VALUES_MAX + 1, 0xc0);
    assert!(msgpack::decode(&bytes, &list).is_err());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(json_value::parse(deep.as_bytes()).is_err());
}

#[test]
fn paths_lead_into_values() {
    let object = Object::new()
        .with("disk", vec![Object::new().with("size", 3_u64)])
        .with("labels", Value::Map([("a".to_owned(), text("x"))].into()))
        .with("later", Value::Unknown);
    assert_eq!(object.at("disk[0].size"), Some(&number("3")));
    assert_eq!(object.at("labels[\"a\"]"), Some(&text("x")));
    assert_eq!(object.at("later[2].size"), Some(&Value::Unknown));
    assert_eq!(object.at("disk[1].size"), None);
    assert_eq!(Value::Object(object).first_unknown(&Path::root()), Some("later".into()));
}

crate::model! {
    #[derive(Debug, Clone, PartialEq)]
    struct Disk {
        size: u32,
        r#type: Option<String>,
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Machine {
        id: Attr<String>,
        disk: Vec<Disk>,
        wait: Option<String>,
    }
}

#[test]
fn structs_convert_and_errors_have_paths() {
    let object = Object::new().with("id", Value::Unknown).with("wait", "90s").with(
        "disk",
        vec![
            Object::new().with("size", 1_u64).with("type", Value::Null),
            Object::new().with("size", "big").with("type", "ssd"),
        ],
    );
    let error = object.decode::<Machine>().unwrap_err();
    assert_eq!(error.to_string(), "disk[1].size: expected a number, got a string");
    assert_eq!(object.get::<String>("id").unwrap_err().path, Path::from("id"));
    assert!(object.get::<Attr<String>>("id").unwrap().is_unknown());
    assert!(object.get::<String>("nmae").unwrap_err().message.contains("nmae"));
    let wait: std::time::Duration = object.get("wait").unwrap();
    assert_eq!(wait.as_secs(), 90);
    let big = Object::new().with("n", 300_u64);
    assert!(big.get::<u8>("n").unwrap_err().message.contains("from 0 to 255"));
    let back = Disk { size: 4, r#type: Some("ssd".into()) };
    assert_eq!(Object::encode(back.clone()).unwrap().decode::<Disk>().unwrap(), back);
}

#[test]
fn values_are_fitted_to_types() {
    let of = ty(json!(["object", {"s": ["set", "string"], "m": ["map", "number"], "d": "dynamic"}]));
    let value =
        Object::new().with("s", vec!["b", "a", "b"]).with("m", Object::new().with("x", 1_u64)).with("d", vec![1_u64]);
    let Value::Object(fitted) = conform(Value::Object(value), &of).unwrap() else {
        panic!("not an object");
    };
    assert_eq!(fitted.value("s"), Some(&Value::Set(vec![text("a"), text("b")])));
    assert!(matches!(fitted.value("m"), Some(Value::Map(_))));
    assert!(matches!(fitted.value("d"), Some(Value::Dynamic(..))));
    let wrong = Object::new().with("m", Object::new().with("x", "y"));
    let error = conform(Value::Object(wrong), &of).unwrap_err();
    assert_eq!(error.path, Path::from("m[\"x\"]"));
    let extra = conform(Value::Object(Object::new().with("z", 1_u64)), &of);
    assert!(extra.is_err());
}

/// Any type, not too deep.
fn any_type() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![Just(Type::Bool), Just(Type::Number), Just(Type::String), Just(Type::Dynamic)];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Type::list),
            inner.clone().prop_map(Type::set),
            inner.clone().prop_map(Type::map),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Type::Tuple),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(Type::object),
        ]
    })
}

/// Any value of a type.
fn any_value(of: &Type) -> BoxedStrategy<Value> {
    let known = match of {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Number => prop_oneof![
            any::<i64>().prop_map(|int| Value::Number(int.into())),
            any::<u64>().prop_map(|int| Value::Number(int.into())),
            "-?[0-9]{1,30}(\\.[0-9]{1,20})?".prop_map(|digits| number(&digits)),
        ]
        .boxed(),
        Type::String => ".{0,8}".prop_map(Value::String).boxed(),
        Type::Dynamic => Just(Value::Dynamic(Box::new(Type::String), Box::new(text("d")))).boxed(),
        Type::List(element) => prop::collection::vec(any_value(element), 0..4).prop_map(Value::List).boxed(),
        Type::Set(element) => prop::collection::vec(any_value(element), 0..4).prop_map(Value::Set).boxed(),
        Type::Map(element) => {
            prop::collection::btree_map("[a-z]", any_value(element), 0..4).prop_map(Value::Map).boxed()
        }
        Type::Tuple(types) => types.iter().map(any_value).collect::<Vec<_>>().prop_map(Value::Tuple).boxed(),
        Type::Object(types, _) => {
            let names: Vec<String> = types.keys().cloned().collect();
            let values: Vec<_> = types.values().map(any_value).collect();
            values.prop_map(move |values| Value::Object(names.iter().cloned().zip(values).collect())).boxed()
        }
    };
    prop_oneof![8 => known, 1 => Just(Value::Null), 1 => Just(Value::Unknown)].boxed()
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded((of, value) in any_type().prop_flat_map(|of| {
        let value = any_value(&of);
        (Just(of), value)
    })) {
        let bytes = msgpack::encode(&value);
        prop_assert_eq!(msgpack::decode(&bytes, &of).unwrap(), value);
    }

    #[test]
    fn hostile_bytes_never_panic(of in any_type(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = msgpack::decode(&bytes, &of);
        let _ = json_value::parse(&bytes).and_then(|json| json_value::decode(&json, &of));
    }

    #[test]
    fn damaged_bytes_never_panic(
        (of, value) in any_type().prop_flat_map(|of| { let value = any_value(&of); (Just(of), value) }),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut bytes = msgpack::encode(&value);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = msgpack::decode(&bytes, &of);
        let _ = msgpack::decode(&bytes[..at], &of);
    }

    #[test]
    fn order_of_numbers_agrees_with_floats(a in -1e15_f64..1e15, b in -1e15_f64..1e15) {
        let of = |float| super::Number::from_f64_exact(float).unwrap();
        prop_assert_eq!(of(a).cmp(&of(b)), a.partial_cmp(&b).unwrap());
    }
}
