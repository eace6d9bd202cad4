//! `lifeboat deleted`: what was deleted and can come back: list, undelete.
//!
//! For what holds no data. Groups and volumes come back by `lifeboat group undelete`, which is a job.

use clap::{Args, Subcommand};
use lifeboat_api::{Client, DeletedObject};

use super::declared::Named;
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::render::{Table, clean};

/// List what was deleted; take a deletion back.
#[derive(Args, Debug)]
pub(crate) struct DeletedArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: DeletedVerb,
}

#[derive(Subcommand, Debug)]
enum DeletedVerb {
    /// List the sites, gateways, policies, networks, mappings, machines, plans and drills that were deleted
    List,
    /// Bring one back under its old id, with what it needs and was deleted too; for groups and volumes: group undelete
    Undelete {
        #[command(flatten)]
        named: Named,
        /// What it is, where several have the name: machine, plan, network …
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
    },
}

async fn all(client: &Client) -> Result<Vec<DeletedObject>> {
    Ok(client.list("/v1/deleted", &[]).await?)
}

/// The id of the object with this id or name; of several of one kind that of the one that was deleted last. An id that isn't
/// there goes to the gateway, which knows whether it came back already.
fn choose(mut found: Vec<DeletedObject>, text: &str, kind: Option<&str>) -> Result<String> {
    if found.iter().any(|object| object.id == text) {
        return Ok(text.to_owned());
    }
    found.retain(|object| object.name == text && kind.is_none_or(|kind| kind == object.kind));
    let Some(newest) = found.iter().max_by_key(|object| object.deleted) else {
        let digits = text.rsplit_once('-').map_or("", |(_, digits)| digits);
        if digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Ok(text.to_owned());
        }
        return Err(Failure::not_found(format!(
            "nothing named {text:?} was deleted and can come back: `lifeboat deleted list` shows what can, `lifeboat group list \
             --deleted` the groups"
        )));
    };
    if let Some(other) = found.iter().find(|object| object.kind != newest.kind) {
        return Err(Failure::usage(format!(
            "both a {} and a {} named {text:?} were deleted: say which with --kind",
            newest.kind, other.kind
        )));
    }
    Ok(newest.id.clone())
}

fn table(objects: &[DeletedObject], none: &str) -> String {
    let mut table = Table::new(&["KIND", "NAME", "DELETED", "ID"]);
    for object in objects {
        let deleted = object.deleted.to_string();
        table.row(vec![object.kind.clone(), object.name.clone(), deleted, object.id.clone()]);
    }
    table.or(none)
}

pub(crate) async fn run(args: DeletedArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        DeletedVerb::List => {
            let objects = all(&client).await?;
            output.show(&objects, || table(&objects, "nothing was deleted that can come back by itself"))
        }
        DeletedVerb::Undelete { named, kind } => {
            let id = choose(all(&client).await?, &named.target, kind.as_deref())?;
            let restored = client.undelete(&id).await?;
            output.show(&restored, || table(&restored.objects, &clean(&format!("{} is there already", named.target))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str, id: &str, deleted: i64) -> DeletedObject {
        let vault = "vlt-0198f2c0000070008000000000000001".parse().expect("an id");
        let deleted = lifeboat_api::Timestamp::from_micros(deleted);
        DeletedObject { id: id.into(), kind: kind.into(), name: name.into(), vault_id: vault, deleted }
    }

    #[test]
    fn the_last_one_of_a_name_is_meant_and_kinds_are_not_guessed() {
        let all = || {
            vec![
                object("machine", "web", "a", 1),
                object("machine", "web", "b", 2),
                object("plan", "erp", "c", 3),
                object("machine", "erp", "d", 4),
            ]
        };
        assert_eq!(choose(all(), "web", None).ok().as_deref(), Some("b"));
        assert_eq!(choose(all(), "a", None).ok().as_deref(), Some("a"));
        assert_eq!(choose(all(), "erp", Some("plan")).ok().as_deref(), Some("c"));
        let torn = choose(all(), "erp", None).expect_err("two kinds").to_string();
        assert!(torn.contains("--kind"), "{torn}");
        assert!(choose(all(), "mail", None).is_err());
        let id = "plan-0198f2c0000070008000000000000001";
        assert_eq!(choose(all(), id, None).ok().as_deref(), Some(id), "the gateway knows better");
    }
}
