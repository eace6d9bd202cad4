//! Tests of the conversions of schemas, paths and values.

use std::time::Duration;

use super::*;
use crate::schema::Timeouts;

#[test]
fn a_schema_keeps_all_that_terraform_wants() {
    let inner = || Block::new().attribute(Attribute::string("x").required());
    let schema = Schema::new()
        .version(3)
        .description("Text.")
        .attribute(Attribute::id())
        .attribute(Attribute::set("tags", Type::String).deprecated("Use labels."))
        .attribute(Attribute::number("days").default(14_u64))
        .attribute(Attribute::string("token").sensitive().write_only())
        .block(NestedBlock::single("one", inner()).min(1))
        .block(NestedBlock::list("many", inner()).min(1).max(4))
        .block(NestedBlock::map("named", inner()).min(1))
        .timeouts(Timeouts::new().create(Duration::from_secs(90)));
    let message = super::schema(&schema);
    assert_eq!(message.version, 3);
    let block = message.block.unwrap();
    let attribute = |name: &str| block.attributes.iter().find(|a| a.name == name).unwrap();
    let id = attribute("id");
    assert!(id.computed && !id.optional && !id.required);
    assert_eq!(attribute("tags").r#type, b"[\"set\",\"string\"]");
    assert_eq!(attribute("tags").deprecation_message, "Use labels.");
    assert!(attribute("tags").optional && attribute("tags").deprecated);
    assert!(attribute("days").optional && attribute("days").computed);
    assert!(attribute("token").write_only && attribute("token").sensitive);
    let counts: Vec<_> = block.block_types.iter().map(|b| (b.type_name.as_str(), b.min_items, b.max_items)).collect();
    // What Terraform demands of single (both 0 or both 1) and map (none).
    assert_eq!(counts, [("one", 1, 1), ("many", 1, 4), ("named", 0, 0), ("timeouts", 0, 0)]);
    let timeouts = block.block_types.last().unwrap().block.as_ref().unwrap();
    assert!(timeouts.attributes[0].description.contains("`1m30s`"));
}

#[test]
fn a_path_becomes_steps() {
    use pb::attribute_path::step::Selector;
    let message = path(&Path::from("disk[2].labels[\"a\"]"));
    let steps: Vec<_> = message.steps.into_iter().filter_map(|s| s.selector).collect();
    assert_eq!(
        steps,
        [
            Selector::AttributeName("disk".into()),
            Selector::ElementKeyInt(2),
            Selector::AttributeName("labels".into()),
            Selector::ElementKeyString("a".into()),
        ]
    );
}

#[test]
fn json_is_read_where_msgpack_is_empty() {
    let message = pb::DynamicValue { msgpack: Vec::new(), json: b"\"x\"".to_vec() };
    assert_eq!(value(Some(&message), &Type::String).unwrap(), Value::String("x".into()));
    assert_eq!(value(None, &Type::String).unwrap(), Value::Null);
    assert_eq!(value(Some(&pb::DynamicValue::default()), &Type::String).unwrap(), Value::Null);
}

#[test]
fn foreign_private_data_is_dropped() {
    assert!(private(b"not ours").is_empty());
    assert!(private(b"").is_empty());
    let ours: Private = [("k".to_owned(), serde_json::json!(1))].into();
    assert_eq!(private(&private_bytes(&ours)), ours);
    assert!(private_bytes(&Private::new()).is_empty());
}
