//! Tests of validators and rules, through the validation of a whole configuration.

use super::*;
use crate::core::validation::validate as check;
use crate::value::Value;
use validate as v;

fn problems(schema: &Schema, config: Object) -> Vec<String> {
    let config = schema.conform(config).unwrap();
    check(schema.root(), &config)
        .iter()
        .map(|d| format!("{}: {}", d.attribute.clone().unwrap_or_default(), d.detail))
        .collect()
}

#[test]
fn validators_name_the_attribute_and_the_demand() {
    let schema = Schema::new()
        .attribute(Attribute::string("kind").optional().validate(v::one_of(["a", "b"])))
        .attribute(Attribute::string("name").optional().validate(v::length(2, 3)))
        .attribute(Attribute::number("days").optional().validate(v::range(1, 9)).validate(v::whole_number()))
        .attribute(Attribute::number("gib").optional().validate(v::at_least(1)))
        .attribute(Attribute::string("wait").optional().validate(v::duration()))
        .attribute(
            Attribute::list("ids", Type::String).optional().validate(v::each(v::length(1, 2))).validate(v::size(0, 2)),
        )
        .attribute(Attribute::string("dns").optional().validate(v::matches("a name", |t| !t.contains(' '))));
    let bad = Object::new()
        .with("kind", "c")
        .with("name", "äöüß")
        .with("days", 9.5)
        .with("gib", 0_u64)
        .with("wait", "soon")
        .with("ids", vec!["a", "b", "ccc"])
        .with("dns", "a b");
    let found = problems(&schema, bad).join("\n");
    for said in [
        "kind: The value must be one of \"a\", \"b\", got \"c\".",
        "name: The value must have 2 to 3 characters, got 4.",
        "days: The value must be between 1 and 9, got 9.5.",
        "days: The value must be a whole number, got 9.5.",
        "gib: The value must be at least 1, got 0.",
        "wait: \"soon\" is not a duration",
        "ids[2]: The value must have 1 to 2 characters, got 3.",
        "ids: The value must have 0 to 2 elements, got 3.",
        "dns: The value must be a name, got \"a b\".",
    ] {
        assert!(found.contains(said), "{said}\n---\n{found}");
    }
    let good = Object::new().with("kind", "a").with("name", Value::Unknown).with("days", 9_u64).with("wait", "5m");
    assert_eq!(problems(&schema, good), Vec::<String>::new());
}

#[test]
fn rules_work_across_attributes_and_wait_for_unknown_values() {
    let schema = |rule: v::Rule| {
        Schema::new()
            .attribute(Attribute::string("a").optional())
            .attribute(Attribute::string("b").optional())
            .block(NestedBlock::list("c", Block::new().attribute(Attribute::string("x").optional())))
            .rule(rule)
    };
    let none = Object::new;
    let both = || Object::new().with("a", "1").with("b", "2");
    let one = || Object::new().with("a", "1");
    let open = || Object::new().with("a", Value::Unknown);
    let names = ["a", "b", "c"];
    for (rule, bad, good) in [
        (v::conflicts(names), vec![both()], vec![none(), one(), open()]),
        (v::exactly_one_of(names), vec![both(), none()], vec![one(), open()]),
        (v::at_least_one_of(names), vec![none()], vec![one(), both(), open()]),
        (v::all_or_none(["a", "b"]), vec![one()], vec![none(), both(), open()]),
    ] {
        let schema = schema(rule);
        for config in bad {
            assert_eq!(problems(&schema, config.clone()).len(), 1, "{config:?}");
        }
        for config in good {
            assert!(problems(&schema, config.clone()).is_empty(), "{config:?}");
        }
    }
}

#[test]
fn nested_problems_have_the_whole_path() {
    let inner = Block::new()
        .attribute(Attribute::string("x").optional().validate(v::length(1, 1)))
        .attribute(Attribute::string("y").optional())
        .rule(v::conflicts(["x", "y"]));
    let schema = Schema::new()
        .block(NestedBlock::list("l", inner.clone()))
        .block(NestedBlock::set("s", inner.clone()))
        .block(NestedBlock::map("m", inner.clone()).min(2))
        .block(NestedBlock::single("o", inner));
    let long = || Object::new().with("x", "long");
    let config = Object::new()
        .with("l", vec![Object::new(), Object::new().with("x", "1").with("y", "2"), long()])
        .with("s", vec![long()])
        .with("m", Value::Map([("k".to_owned(), Value::Object(long()))].into()))
        .with("o", long());
    let paths: Vec<String> =
        problems(&schema, config).iter().filter_map(|text| Some(text.split_once(": ")?.0.to_owned())).collect();
    assert_eq!(paths, ["l[1].y", "l[2].x", "s", "m[\"k\"].x", "m", "o.x"]);
}

#[test]
fn what_a_provider_returns_is_brought_into_shape() {
    let schema = Schema::new()
        .attribute(Attribute::set("tags", Type::String).optional())
        .block(NestedBlock::list("l", Block::new().attribute(Attribute::string("x").optional())))
        .block(NestedBlock::single("o", Block::new()));
    let shaped = schema.conform(Object::new().with("tags", vec!["b", "a"])).unwrap();
    assert!(matches!(shaped.value("tags"), Some(Value::Set(_))));
    assert_eq!(shaped.value("l"), Some(&Value::List(Vec::new())));
    assert_eq!(shaped.value("o"), Some(&Value::Null));
    let error = schema.conform(Object::new().with("l", vec![Object::new().with("z", 1_u64)])).unwrap_err();
    assert_eq!(error.path, "l[0]".into());
    assert!(schema.conform(Object::new().with("other", 1_u64)).is_err());
}

#[test]
fn validators_compose_and_look_inside() {
    let rule = Type::object([("port", Type::Number), ("cidr", Type::String)]);
    let schema = Schema::new()
        .attribute(
            Attribute::list("allow", rule.clone())
                .optional()
                .validate(v::no_nulls())
                .validate(v::distinct())
                .validate(v::each(v::field("port", v::all_of([v::whole_number(), v::at_most(65535_u32)]))))
                .validate(v::each(v::field("cidr", v::cidr()))),
        )
        .attribute(Attribute::set("bag", rule).optional().validate(v::each(v::field("port", v::at_least(1)))))
        .attribute(Attribute::map("labels", Type::String).optional().validate(v::keys(v::length(1, 3))))
        .attribute(Attribute::string("to").optional().validate(v::any_of([v::ip_address(), v::one_of(["nobody"])])))
        .attribute(Attribute::string("since").optional().validate(v::rfc3339()));
    let entry = |port: f64, cidr: &str| Object::new().with("port", port).with("cidr", cidr);
    let good = Object::new()
        .with("allow", vec![entry(22.0, "10.1.0.0/16"), entry(22.0, "2001:db8::/32"), entry(22.0, "0.0.0.0/0")])
        .with("labels", std::collections::BTreeMap::from([("abc".to_owned(), "x")]))
        .with("to", "nobody")
        .with("since", "2026-11-20T10:05:00Z");
    assert_eq!(problems(&schema, good), Vec::<String>::new());
    let bad = Object::new()
        .with(
            "allow",
            vec![
                Value::Object(entry(70000.5, "10.1.0.1/16")),
                Value::Null,
                Value::Object(entry(70000.5, "10.1.0.1/16")),
            ],
        )
        .with("bag", vec![entry(0.0, "")])
        .with("labels", std::collections::BTreeMap::from([("long".to_owned(), "x")]))
        .with("to", "somebody")
        .with("since", "yesterday");
    let found = problems(&schema, bad).join("\n");
    for said in [
        "allow[1]: An element must not be null.",
        "allow[2]: The element is in the list twice.",
        "allow[0].port: The value must be a whole number, got 70000.5.",
        "allow[2].port: The value must be at most 65535, got 70000.5.",
        "allow[0].cidr: The value must be a network such as 10.1.0.0/16, got \"10.1.0.1/16\".",
        "bag: The value must be at least 1, got 0.",
        "labels[\"long\"]: The value must have 1 to 3 characters, got 4.",
        "to: The value must be an IP address, or must be one of \"nobody\", got \"somebody\".",
        "since: The value must be a time such as 2026-11-20T10:05:00Z, got \"yesterday\".",
    ] {
        assert!(found.contains(said), "{said}\n---\n{found}");
    }
    for network in ["10.1.0.0", "10.1.0.0/33", "10.0.0.0/4", "::/129", "x/8", "10.1.0.0/-1"] {
        assert!(!v::cidr().check(&Value::String(network.into())).is_empty(), "{network}");
    }
}

#[test]
fn rules_depend_on_values_and_look_into_blocks() {
    let schema = |rule: v::Rule| {
        let key = Block::new()
            .attribute(Attribute::string("source").optional())
            .attribute(Attribute::string("file").optional())
            .attribute(Attribute::string("phrase").optional());
        Schema::new()
            .attribute(Attribute::number("min").optional())
            .attribute(Attribute::number("max").optional())
            .attribute(Attribute::string("kind").optional())
            .block(NestedBlock::single("key", key))
            .rule(rule)
    };
    let key =
        |source: Value, file: Value| Object::new().with("key", Object::new().with("source", source).with("file", file));
    let text = |text: &str| Value::String(text.into());
    let range = |min: Value, max: Value| Object::new().with("min", min).with("max", max);
    let number = |number: u64| Value::Number(number.into());
    let cases = [
        (
            v::required_if("key.source", "file", ["key.file"]),
            key(text("file"), Value::Null),
            key(text("file"), text("/k")),
        ),
        (
            v::required_if("key.source", "file", ["key.file"]),
            key(text("file"), Value::Null),
            key(text("file"), Value::Unknown),
        ),
        (
            v::required_if("key.source", "file", ["key.file"]),
            key(text("file"), Value::Null),
            key(Value::Unknown, Value::Null),
        ),
        (
            v::forbidden_if("key.source", "phrase", ["key.file"]),
            key(text("phrase"), text("/k")),
            key(text("file"), text("/k")),
        ),
        (v::requires("min", ["max"]), range(number(1), Value::Null), range(Value::Null, number(1))),
        (v::ordered("min", "max"), range(number(2), number(1)), range(number(1), number(1))),
        (v::ordered("min", "max"), range(number(2), number(1)), range(number(2), Value::Unknown)),
        (v::differ(["min", "max"]), range(number(2), number(2)), range(Value::Null, Value::Null)),
    ];
    for (rule, bad, good) in cases {
        let schema = schema(rule);
        assert_eq!(problems(&schema, bad.clone()).len(), 1, "{bad:?}");
        assert!(problems(&schema, good.clone()).is_empty(), "{good:?}");
    }
}
