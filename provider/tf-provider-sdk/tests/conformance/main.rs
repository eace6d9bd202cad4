//! Conformance: the torture provider, driven by the real `terraform` and, for what a Terraform of today
//! does not call, over gRPC.
//!
//! What holds after every apply: the state is exactly what was configured, the computed copy of each
//! value is exactly that value, and a plan is empty.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails right there")]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "its main is not called here")]
#[path = "../../examples/torture/main.rs"]
mod torture;

mod blocks;
mod moments;
mod rpc;
mod sizes;
mod values;

use std::fmt::Write as _;

use common::Workspace;
use tf_provider_sdk::ReattachServer;

const HEAD: &str = r#"
terraform {
  required_providers {
    torture = { source = "example/torture" }
  }
}

variable "directory" {}

provider "torture" {
  directory = var.directory
}
"#;

/// A configuration with the provider and `body`.
fn main_with(body: &str) -> String {
    format!("{HEAD}\n{body}\n")
}

/// A `torture_everything` with these attributes and more.
fn everything<'a>(name: &str, attributes: impl IntoIterator<Item = (&'a str, String)>, more: &str) -> String {
    let mut text = format!("resource \"torture_everything\" \"{name}\" {{\n  name = \"{name}\"\n");
    for (attribute, value) in attributes {
        writeln!(text, "  {attribute} = {value}").unwrap();
    }
    write!(text, "{more}\n}}\n").unwrap();
    text
}

/// A workspace whose provider serves in this process.
async fn attached(body: &str) -> (ReattachServer, Workspace) {
    let server = ReattachServer::start(torture::Torture).await.unwrap();
    let workspace = Workspace::attached(&server, &main_with(body));
    (server, workspace)
}

/// What a command says that must fail, in one line.
async fn refused(workspace: &Workspace, arguments: &[&str]) -> String {
    let output = workspace.run(arguments).await;
    assert!(!output.status.success(), "{arguments:?} should have failed");
    let text = String::from_utf8_lossy(&output.stderr).replace(['│', '╵', '╷'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
