//! Large values: ten thousand elements, hundreds of blocks, 50 MiB in one string.
//!
//! Terraform itself compares sets pair by pair and takes minutes for ten thousand objects in one, so that
//! sets and lists of objects are smaller here; the SDK's own part is measured with ten thousand over gRPC.

use std::time::{Duration, Instant};

use tf_provider_sdk::tfplugin5 as pb;
use tf_provider_sdk::{Object, Value};

use super::common::{receive, send};
use super::rpc::{Session, schema};
use super::{attached, everything, main_with};

#[tokio::test]
async fn ten_thousand_elements() {
    let items = "locals { items = flatten([for i in range(100) : [for j in range(100) : \"item-${i}-${j}\"]]) }\n";
    let object = "{ text = item, number = length(item), flag = true }";
    let attributes = [
        ("list_string", "local.items".to_owned()),
        ("set_string", "slice(local.items, 0, 500)".to_owned()),
        ("map_string", "{ for item in local.items : item => item }".to_owned()),
        ("list_object", format!("[for item in slice(local.items, 0, 500) : {object}]")),
        ("set_object", format!("[for item in slice(local.items, 0, 300) : {object}]")),
    ];
    let (server, workspace) = attached(&(items.to_owned() + &everything("big", attributes, ""))).await;
    workspace.settle().await;
    let state = workspace.attributes("torture_everything", "big");
    for (name, count) in
        [("list_string", 10_000), ("list_object_again", 500), ("set_string", 500), ("set_object_again", 300)]
    {
        assert_eq!(state[name].as_array().unwrap().len(), count, "{name}");
    }
    assert_eq!(state["map_string_again"].as_object().unwrap().len(), 10_000);
    server.shutdown().await;
}

#[tokio::test]
async fn hundreds_of_blocks() {
    let blocks = |count: usize| -> String {
        ["many", "bag"]
            .iter()
            .map(|kind| {
                format!(
                    "  dynamic \"{kind}\" {{\n    for_each = range({count})\n    content {{\n      text = \
                     \"block ${{{kind}.value}}\"\n    }}\n  }}\n"
                )
            })
            .collect()
    };
    let (server, workspace) = attached(&everything("big", [], &blocks(199))).await;
    workspace.settle().await;
    // One more, in place.
    workspace.write(&main_with(&everything("big", [], &blocks(200))));
    workspace.settle().await;
    let state = workspace.attributes("torture_everything", "big");
    assert_eq!(state["bag"].as_array().unwrap().len(), 200);
    assert_eq!(state["many"][199]["made"], "made for block 199");
    server.shutdown().await;
}

#[tokio::test]
async fn fifty_mebibytes_in_one_string() {
    const BYTES: usize = 50 << 20;
    let (server, workspace) = attached("resource \"torture_blob\" \"b\" { content = file(\"large.txt\") }\n").await;
    // Not the same byte over and over, with characters of several bytes, and without any that JSON escapes.
    let line = "0123456789 äöü ";
    let mut text = line.repeat(BYTES / line.len());
    text.push_str(&"x".repeat(BYTES - text.len()));
    std::fs::write(workspace.at("work/large.txt"), &text).unwrap();
    workspace.settle().await;
    let state = workspace.state();
    assert!(state.contains(&format!("\"{text}\"")), "the text came back changed");
    assert!(state.contains(&format!("\"length\": {BYTES}")));
    server.shutdown().await;
}

/// A create and an update of ten thousand blocks in a set and ten thousand objects in a set, both in
/// another order than before.
#[tokio::test]
async fn the_sdk_plans_sets_of_ten_thousand() {
    let mut session = Session::start().await;
    let schema = schema("torture_everything");
    let thing = |numbers: &mut dyn Iterator<Item = u64>, made: bool| {
        let (mut bag, mut objects) = (Vec::new(), Vec::new());
        for number in numbers {
            let made = if made { Value::String(format!("made for {number}")) } else { Value::Null };
            bag.push(Object::new().with("text", number.to_string()).with("number", 7_u64).with("made", made));
            objects.push(Object::new().with("text", number.to_string()).with("number", number).with("flag", true));
        }
        let thing = Object::new().with("name", "n").with("defaulted", "by default").with("derived", "derived from n");
        schema.conform(thing.with("bag", bag).with("set_object", objects)).unwrap()
    };
    let prior = thing(&mut (0..10_000), true).with("id", "thing-n");
    let config = thing(&mut (1..=10_000).rev(), false);
    let request = pb::plan_resource_change::Request {
        type_name: "torture_everything".into(),
        prior_state: send(&schema, prior.clone()),
        proposed_new_state: send(&schema, config.clone().with("id", "thing-n")),
        config: send(&schema, config),
        ..Default::default()
    };
    let start = Instant::now();
    let plan = session.client.plan_resource_change(request).await.unwrap().into_inner();
    // A second or two without optimisation; pair by pair it would be minutes.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(plan.diagnostics.is_empty(), "{:?}", plan.diagnostics);
    let planned = receive(&schema, plan.planned_state).unwrap();
    let bag: Vec<Object> = planned.get("bag").unwrap();
    assert_eq!(bag.iter().filter(|block| block.is_unknown("made")).count(), 1);
    session.end().await;
}
