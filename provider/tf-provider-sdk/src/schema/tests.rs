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
        "ids: The value must have 1 to 2 characters, got 3.",
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
