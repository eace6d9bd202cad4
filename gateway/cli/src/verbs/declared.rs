//! What all declared objects have in common: listed, shown, created, deleted.
//!
//! A delete reads the object first and sends its generation: what changed since is not deleted.

use std::collections::BTreeMap;

use clap::Args;
use lifeboat_api::Client;
use serde_json::{Value, json};

use crate::failure::Result;
use crate::output::Output;
use crate::render::{self, NOTHING, Table};
use crate::resolve::{Noun, find};

/// An object, by id or name.
#[derive(Args, Clone, Debug)]
pub(crate) struct Named {
    /// Its id or name
    #[arg(value_name = "ID|NAME")]
    pub(crate) target: String,
}

/// How a list shows objects of a kind.
pub(crate) trait Listed: Noun {
    /// Column headings.
    const HEAD: &'static [&'static str];
    /// The collection whose names stand for the ids in the cells, if any.
    const NAMED_BY: Option<&'static str> = None;
    /// The cells of one object.
    fn cells(&self, names: &Names) -> Vec<String>;
}

/// Names by id.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// The name of the object with this id; the id when it isn't known.
    pub(crate) fn of(&self, id: impl ToString) -> String {
        let id = id.to_string();
        self.0.get(&id).cloned().unwrap_or(id)
    }

    async fn read(client: &Client, path: Option<&str>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let all: Vec<Value> = client.list(path, &[]).await?;
        let name = |item: &Value| Some((item["id"].as_str()?.to_owned(), item["spec"]["name"].as_str()?.to_owned()));
        Ok(Self(all.iter().filter_map(name).collect()))
    }
}

/// All objects of a kind.
pub(crate) async fn list<R: Listed>(client: &Client, output: Output, none: &str) -> Result<()> {
    let all: Vec<R> = client.list(R::PATH, &[]).await?;
    let named_by = R::NAMED_BY.filter(|_| output == Output::Text && !all.is_empty());
    let names = Names::read(client, named_by).await?;
    output.show(&all, || {
        let mut table = Table::new(R::HEAD);
        for item in &all {
            table.row(item.cells(&names));
        }
        table.or(none)
    })
}

/// One object.
pub(crate) async fn show<R: Noun>(client: &Client, output: Output, named: &Named) -> Result<()> {
    let found: R = find(client, &named.target).await?;
    output.show(&found, || render::resource(&found))
}

/// Declares an object and shows it.
pub(crate) async fn create<R: Noun>(client: &Client, output: Output, spec: &R::Spec) -> Result<()> {
    let made: R = client.create(spec).await?;
    output.show(&made, || format!("{} {} declared: {}", R::NOUN, made.name(), made.id()))
}

/// Deletes an object; `done` says what became of it.
pub(crate) async fn delete<R: Noun>(client: &Client, output: Output, named: &Named, done: &str) -> Result<()> {
    let found: R = find(client, &named.target).await?;
    client.delete::<R>(&found.id(), found.generation()).await?;
    let document = json!({ "id": found.id(), "name": found.name(), done: true });
    output.show(&document, || render::clean(&format!("{} {} {done}: {}", R::NOUN, found.name(), found.id())))
}

/// A list of texts in one cell.
pub(crate) fn joined(items: &[String]) -> String {
    if items.is_empty() { NOTHING.to_owned() } else { items.join(", ") }
}
