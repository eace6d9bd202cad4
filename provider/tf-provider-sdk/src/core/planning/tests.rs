//! Tests of planning: each step, and that an empty plan stays empty.

use super::*;
use crate::schema::{Attribute, Timeouts, modify};
use crate::value::IntoValue as _;

fn schema() -> Schema {
    let part = Block::new()
        .attribute(Attribute::string("key").required())
        .attribute(Attribute::string("note").default("none"))
        .attribute(Attribute::string("made").computed().use_state_for_unknown());
    Schema::new()
        .attribute(Attribute::id())
        .attribute(Attribute::string("name").required().requires_replace())
        .attribute(Attribute::number("days").default(14_u64))
        .attribute(Attribute::string("stamp").computed())
        .attribute(Attribute::string("mac").optional().computed())
        .attribute(Attribute::string("secret").optional().write_only())
        .attribute(Attribute::number("size").optional().modify(modify::requires_replace_if(
            // Growing is done in place.
            |plan| plan.planned.as_number() < plan.prior.as_number(),
        )))
        .block(NestedBlock::list("part", part.clone()))
        .block(NestedBlock::set("bag", part))
        .block(
            NestedBlock::single("source", Block::new().attribute(Attribute::string("path").required()))
                .requires_replace(),
        )
        .timeouts(Timeouts::new().create(std::time::Duration::from_secs(60)))
}

fn object(object: Object) -> Object {
    schema().conform(object).unwrap()
}

fn part(key: &str) -> Object {
    Object::new().with("key", key)
}

fn whole_part(key: &str, made: &str) -> Object {
    part(key).with("note", "none").with("made", made)
}

/// What Terraform proposes: the configuration, with computed values of the prior state where the
/// configuration says nothing.
fn proposed(config: &Object, prior: &Object) -> Object {
    let mut proposed = config.clone();
    for name in ["id", "stamp", "mac", "days"] {
        if config.is_null(name) {
            proposed.set(name, prior.value(name).cloned().unwrap_or_default());
        }
    }
    proposed
}

fn state() -> Object {
    object(
        Object::new()
            .with("id", "7")
            .with("name", "a")
            .with("days", 14_u64)
            .with("stamp", "then")
            .with("mac", "00:01")
            .with("size", 10_u64)
            .with("part", vec![whole_part("x", "mx")])
            .with("bag", vec![whole_part("p", "mp"), whole_part("q", "mq")]),
    )
}

fn config() -> Object {
    object(
        Object::new()
            .with("name", "a")
            .with("size", 10_u64)
            .with("part", vec![part("x")])
            .with("bag", vec![part("q"), part("p")]),
    )
}

/// The proposal with the prior state's elements in blocks, as Terraform merges them.
fn merged() -> Object {
    let mut merged = proposed(&config(), &state());
    for block in ["part", "bag"] {
        merged.set(block, state().value(block).cloned().unwrap());
    }
    merged
}

#[test]
fn a_create_has_defaults_unknowns_and_no_secrets() {
    let mut config = config();
    config.set("secret", "hunter2");
    let result = plan(&schema(), &config, None, config.clone());
    let planned = result.planned;
    assert_eq!(planned.get::<u64>("days"), Ok(14));
    for name in ["id", "stamp", "mac"] {
        assert!(planned.is_unknown(name), "{name}");
    }
    assert!(planned.is_null("secret"));
    assert_eq!(planned.at("part[0].note"), Some(&"none".into_value()));
    assert_eq!(planned.at("part[0].made"), Some(&Value::Unknown));
    assert!(result.requires_replace.is_empty());
}

#[test]
fn nothing_changed_is_an_empty_plan() {
    let result = plan(&schema(), &config(), Some(&state()), merged());
    assert_eq!(result.planned, state());
    assert!(result.requires_replace.is_empty());
}

#[test]
fn a_secret_alone_is_an_empty_plan() {
    let (mut config, mut proposal) = (config(), merged());
    config.set("secret", "new");
    proposal.set("secret", "new");
    let result = plan(&schema(), &config, Some(&state()), proposal);
    assert_eq!(result.planned, state());
}

#[test]
fn timeouts_alone_make_nothing_unknown() {
    let timeouts = Object::new().with("create", "5m");
    let (mut config, mut proposal) = (config(), merged());
    config.set("timeouts", timeouts.clone());
    proposal.set("timeouts", timeouts);
    let result = plan(&schema(), &config, Some(&state()), proposal);
    assert!(result.planned.is_wholly_known());
    assert_ne!(result.planned, state());
}

#[test]
fn a_change_makes_unknown_what_the_provider_decides_and_keeps_the_id() {
    let (mut config, mut proposal) = (config(), merged());
    config.set("size", 20_u64);
    proposal.set("size", 20_u64);
    let result = plan(&schema(), &config, Some(&state()), proposal);
    assert_eq!(result.planned.get("id"), Ok("7".to_owned()));
    assert!(result.planned.is_unknown("stamp"));
    assert!(result.requires_replace.is_empty());
    // Elements of blocks find their own prior value, in sets too.
    assert_eq!(result.planned.at("part[0].made"), Some(&"mx".into_value()));
    assert_eq!(result.planned.value("bag"), state().value("bag"));
}

#[test]
fn changes_that_replace_are_named() {
    let (mut config, mut proposal) = (config(), merged());
    for object in [&mut config, &mut proposal] {
        object.set("name", "b");
        object.set("size", 5_u64);
        object.set("source", Object::new().with("path", "/x"));
    }
    let result = plan(&schema(), &config, Some(&state()), proposal);
    let paths: Vec<String> = result.requires_replace.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["name", "size", "source"]);
}

#[test]
fn a_default_comes_back_when_the_configuration_drops_the_value() {
    let mut prior = state();
    prior.set("days", 30_u64);
    let mut proposal = merged();
    proposal.set("days", 30_u64);
    let result = plan(&schema(), &config(), Some(&prior), proposal);
    assert_eq!(result.planned.get::<u64>("days"), Ok(14));
}

#[test]
fn a_new_element_of_a_set_is_unknown_and_others_are_kept() {
    let (mut config, mut proposal) = (config(), merged());
    config.set("bag", Value::Set(vec![element("p"), element("new")]));
    proposal.set("bag", Value::Set(vec![Value::Object(whole_part("p", "mp")), element("new")]));
    let result = plan(&schema(), &config, Some(&state()), proposal);
    let bag: Vec<Object> = result.planned.get("bag").unwrap();
    let made = |key: &str| {
        let found = bag.iter().find(|o| o.get("key") == Ok(key.to_owned()));
        found.and_then(|o| o.value("made").cloned())
    };
    assert_eq!(made("p"), Some("mp".into_value()));
    assert_eq!(made("new"), Some(Value::Unknown));
}

fn element(key: &str) -> Value {
    Value::Object(part(key).with("note", Value::Null).with("made", Value::Null))
}

#[test]
fn a_path_ends_at_a_set() {
    let schema = Schema::new().block(NestedBlock::set(
        "bag",
        Block::new().attribute(Attribute::string("key").required().requires_replace()).block(NestedBlock::list(
            "inner",
            Block::new().attribute(Attribute::string("x").optional().requires_replace()),
        )),
    ));
    let at = |key: &str| {
        let inner = Object::new().with("x", key);
        let bag = Object::new().with("key", key).with("inner", vec![inner]);
        schema.conform(Object::new().with("bag", vec![bag])).unwrap()
    };
    let result = super::plan(&schema, &at("b"), Some(&at("a")), at("b"));
    assert_eq!(result.requires_replace, [Path::from("bag")]);
}

#[test]
fn a_custom_modifier_sees_the_whole_and_can_refuse() {
    let schema = Schema::new().attribute(Attribute::bool("allow").optional()).attribute(
        Attribute::number("size").optional().modify(modify::custom("no_shrink", |plan| {
            if plan.planned < &mut plan.prior.clone() && plan.config_object.get("allow") != Ok(true) {
                plan.error("Cannot shrink", "A volume only grows.");
            }
        })),
    );
    let at = |size: u64| schema.conform(Object::new().with("size", size)).unwrap();
    let result = super::plan(&schema, &at(1), Some(&at(2)), at(1));
    assert_eq!(result.diagnostics.iter().next().unwrap().attribute, Some("size".into()));
    let result = super::plan(&schema, &at(3), Some(&at(2)), at(3));
    assert!(result.diagnostics.is_empty());
}

#[test]
fn a_default_follows_from_others_and_a_missing_one_is_for_the_provider() {
    let schema = Schema::new()
        .attribute(Attribute::string("name").optional())
        .attribute(Attribute::number("cpus").default(2_u64))
        .attribute(Attribute::number("threads").default_from(|block| match block.get::<u64>("cpus") {
            Ok(cpus) => (cpus * 2).into_value(),
            Err(_) => Value::Unknown,
        }))
        .attribute(Attribute::string("title").default_from(|block| block.value("name").cloned().unwrap_or_default()));
    let plan = |config: Object| {
        let config = schema.conform(config).unwrap();
        super::plan(&schema, &config, None, config.clone()).planned
    };
    let planned = plan(Object::new().with("name", "n"));
    assert_eq!(planned.get::<u64>("threads"), Ok(4));
    assert_eq!(planned.get("title"), Ok("n".to_owned()));
    let planned = plan(Object::new().with("cpus", Value::Unknown).with("title", "t"));
    assert!(planned.is_unknown("threads"));
    assert_eq!(planned.get("title"), Ok("t".to_owned()));
    assert!(plan(Object::new()).is_unknown("title"));
}

#[test]
fn the_same_in_other_words_is_an_empty_plan() {
    let time = |value: &Value| value.as_str().and_then(|text| crate::schema::parse_duration(text).ok());
    let part = Block::new().attribute(
        Attribute::string("after").optional().requires_replace().keep_equivalent(move |a, b| time(a) == time(b)),
    );
    let schema = Schema::new().attribute(Attribute::string("stamp").computed()).block(NestedBlock::list("part", part));
    let at = |after: &str, stamp: Value| {
        schema
            .conform(Object::new().with("stamp", stamp).with("part", vec![Object::new().with("after", after)]))
            .unwrap()
    };
    let prior = at("90s", "then".into_value());
    let result = super::plan(&schema, &at("1m30s", Value::Null), Some(&prior), at("1m30s", "then".into_value()));
    assert_eq!(result.planned, prior);
    assert!(result.requires_replace.is_empty());
    let result = super::plan(&schema, &at("91s", Value::Null), Some(&prior), at("91s", "then".into_value()));
    assert!(result.planned.is_unknown("stamp"));
    assert_eq!(result.requires_replace, [Path::from("part[0].after")]);
}

#[test]
fn computed_values_can_follow_from_others_and_say_what_is_known() {
    let schema = Schema::new()
        .attribute(Attribute::string("plan").required())
        .attribute(Attribute::string("note").optional())
        .attribute(Attribute::number("price").computed().modify(modify::use_state_unless_changed(["plan"])))
        .attribute(
            Attribute::string("arn")
                .computed()
                .modify(modify::refine(crate::Refinement::not_null().with_prefix("arn:"))),
        );
    let at = |plan: &str, note: &str| {
        schema
            .conform(Object::new().with("plan", plan).with("note", note).with("price", 5_u64).with("arn", "arn:1"))
            .unwrap()
    };
    let config = |plan: &str, note: &str| schema.conform(Object::new().with("plan", plan).with("note", note)).unwrap();
    let result = super::plan(&schema, &config("s", "new"), Some(&at("s", "old")), at("s", "new"));
    assert_eq!(result.planned.get::<u64>("price"), Ok(5));
    let Some(Value::Refined(refinement)) = result.planned.value("arn") else { panic!("{:?}", result.planned) };
    assert_eq!(refinement.prefix(), Some("arn:"));
    let result = super::plan(&schema, &config("l", "old"), Some(&at("s", "old")), at("l", "old"));
    assert!(result.planned.is_unknown("price"));
}

#[test]
fn a_large_set_of_blocks_is_matched_quickly() {
    let part = Block::new()
        .attribute(Attribute::number("n").required())
        .attribute(Attribute::string("made").computed().use_state_for_unknown());
    let schema = Schema::new().block(NestedBlock::set("part", part));
    let element = |n: u64, made: Value| Value::Object(Object::new().with("n", n).with("made", made));
    let set = |items: Vec<Value>| schema.conform(Object::new().with("part", Value::Set(items))).unwrap();
    let prior = set((0..10_000).map(|n| element(n, n.to_string().into_value())).collect());
    // The other way round, and one that is new.
    let config = set((1..=10_000).rev().map(|n| element(n, Value::Null)).collect());
    let start = std::time::Instant::now();
    let result = super::plan(&schema, &config, Some(&prior), config.clone());
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    let parts: Vec<Object> = result.planned.get("part").unwrap();
    assert_eq!(parts.iter().filter(|part| part.is_unknown("made")).count(), 1);
    assert!(parts.iter().all(|p| p.is_unknown("made") || p.get("made") == Ok(p.get::<u64>("n").unwrap().to_string())));
}

#[test]
fn sets_within_sets_keep_what_was_computed() {
    let made = || Attribute::string("made").computed().use_state_for_unknown();
    let inner = Block::new().attribute(Attribute::string("key").required()).attribute(made());
    let outer = Block::new().attribute(made()).block(NestedBlock::set("inner", inner));
    let schema = Schema::new().attribute(Attribute::string("stamp").computed()).block(NestedBlock::set("outer", outer));
    let outer = |keys: &[&str], made: Value| {
        let inner: Vec<Object> =
            keys.iter().map(|key| Object::new().with("key", *key).with("made", made.clone())).collect();
        Object::new().with("made", made).with("inner", inner)
    };
    let at = |sets: &[&[&str]], made: Value, stamp: Value| {
        let outers: Vec<Object> = sets.iter().map(|keys| outer(keys, made.clone())).collect();
        schema.conform(Object::new().with("stamp", stamp).with("outer", outers)).unwrap()
    };
    let prior = at(&[&["a", "b"], &["c"]], "m".into_value(), "then".into_value());
    let config = at(&[&["c"], &["b", "a"]], Value::Null, Value::Null);
    // What Terraform proposes where it finds no counterparts.
    let proposed = at(&[&["c"], &["b", "a"]], Value::Null, "then".into_value());
    let result = super::plan(&schema, &config, Some(&prior), proposed);
    assert_eq!(result.planned, prior);
}
