//! Blocks of every nesting inside blocks of every nesting: order, defaults, computed values, unknown
//! counts.

use super::common::{APPLY, PLAN};
use super::{attached, everything, main_with, refused};

const INNER: &str = r#"
    one { text = "single" }
    many { text = "x" }
    many { text = "w" }
    bag { text = "p" }
    bag {
      text   = "q"
      number = 1.5
    }
    named "k" { text = "label" }
"#;

fn body(many: &[&str], bag: &[&str], named: &[&str], more: &str) -> String {
    let list = |kind: &str, texts: &[&str]| -> String {
        texts.iter().map(|text| format!("  {kind} {{\n    text = \"{text}\"\n{INNER}\n  }}\n")).collect()
    };
    let labelled: String =
        named.iter().map(|label| format!("  named \"{label}\" {{\n    text = \"{label}\"\n{INNER}\n  }}\n")).collect();
    format!("{}{}{labelled}{more}", list("many", many), list("bag", bag))
}

#[tokio::test]
async fn every_nesting_goes_round_and_keeps_its_order() {
    let one = format!("  one {{\n{INNER}\n  }}\n  group {{\n{INNER}\n  }}\n  duration = \"90s\"\n");
    let absent =
        everything("absent", [], "") + "output \"absent_group\" { value = torture_everything.absent.group.number }\n";
    let first = everything("b", [], &body(&["c", "a", "b"], &["z", "y"], &["l", "k"], &one));
    let (server, workspace) = attached(&(first + &absent)).await;
    workspace.settle().await;
    let of = |name: &str| workspace.attributes("torture_everything", name);
    let texts = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|item| item["text"].as_str().unwrap().to_owned()).collect()
    };
    let state = of("b");
    assert_eq!(texts(&state["many"]), ["c", "a", "b"]);
    assert_eq!(texts(&state["many"][0]["many"]), ["x", "w"]);
    assert_eq!(state["many"][2]["named"]["k"]["made"], "made for label");
    assert_eq!(state["named"]["l"]["bag"][0]["number"], 7);
    assert_eq!(state["one"]["one"]["made"], "made for single");
    let absent_state = of("absent");
    assert!(absent_state["one"].is_null());
    assert_eq!(absent_state["group"]["number"], 7, "{absent_state}");
    assert_eq!(absent_state["many"], serde_json::json!([]));

    // The same in other words is no change.
    let words = one.replace("90s", "1m30s");
    let same = everything("b", [], &body(&["c", "a", "b"], &["y", "z"], &["k", "l"], &words));
    workspace.write(&main_with(&(same + &absent)));
    workspace.expect(0, &PLAN).await;

    // Another order, one more, one less, no single: in place, and what stays in a set keeps what was made.
    let changed = everything("b", [], &body(&["a", "c"], &["y", "z", "new"], &["k"], "  group {}\n"));
    workspace.write(&main_with(&(changed + &absent)));
    let plan = workspace.plan().await;
    let change =
        plan["resource_changes"].as_array().unwrap().iter().find(|c| c["name"] == "b").unwrap()["change"].clone();
    assert_eq!(change["actions"], serde_json::json!(["update"]));
    let unknown: Vec<bool> =
        change["after_unknown"]["bag"].as_array().unwrap().iter().map(|item| item["made"] == true).collect();
    assert_eq!(unknown.iter().filter(|unknown| **unknown).count(), 1, "{}", change["after_unknown"]["bag"]);
    workspace.settle().await;
    let state = of("b");
    assert_eq!(texts(&state["many"]), ["a", "c"]);
    assert_eq!(state["bag"].as_array().unwrap().len(), 3);
    assert!(state["one"].is_null() && state["named"]["l"].is_null());
    workspace.destroy().await;
    server.shutdown().await;
}

#[tokio::test]
async fn blocks_whose_number_is_not_known_yet() {
    let from = everything("from", [("list_string", "[\"a\", \"b\"]".to_owned())], "");
    let dynamic = |kind: &str| {
        let labels = if kind == "named" { "    labels = [\"label-${each_.key}\"]\n" } else { "" };
        format!(
            "  dynamic \"{kind}\" {{\n    for_each = torture_everything.from.list_string_again\n    iterator = each_\n{labels}    \
             content {{\n      text = each_.value\n    }}\n  }}\n"
        )
    };
    let to = everything("to", [], &["many", "bag"].map(dynamic).concat());
    let (server, workspace) = attached(&(from + &to)).await;
    workspace.settle().await;
    let state = workspace.attributes("torture_everything", "to");
    assert_eq!(state["many"][1]["made"], "made for b");
    assert_eq!(state["bag"].as_array().unwrap().len(), 2);
    let from = everything("from", [("list_string", "[\"c\"]".to_owned())], "");
    workspace.write(&main_with(&(from + &to)));
    workspace.settle().await;
    let state = workspace.attributes("torture_everything", "to");
    assert_eq!(state["many"].as_array().unwrap().len(), 1);
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_inside_a_block_is_shown_there() {
    let body = "resource \"torture_everything\" \"b\" {\n  name = \"b\"\n  many {\n    number = \"none\"\n  }\n}\n";
    let (server, workspace) = attached(body).await;
    let stderr = refused(&workspace, &APPLY).await;
    assert!(stderr.contains("number = \"none\""), "{stderr}");
    server.shutdown().await;
}
