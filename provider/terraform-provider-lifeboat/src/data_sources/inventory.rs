//! `lifeboat_vault`, `lifeboat_site`, `lifeboat_gateways` and `lifeboat_jobs`: what there is, for configurations that don't
//! manage it.

use lifeboat_api::client::Collection;
use lifeboat_api::{
    Client, ClientError, Gateway, Job, KeySourceKind, Page, ProcessServerStatus, Resource as ApiResource, Site, Vault,
};
use tf_provider_sdk::{
    Attribute, Context, DataSource, Diagnostic, Object, Result, Schema, Type, Value, async_trait, validate,
};

use crate::link::Link;
use crate::wording::{failed, same};

/// What one request for jobs asks for at most.
const PAGE_MAX: u64 = 1000;

pub(super) fn computed(attribute: Attribute, text: &str) -> Attribute {
    attribute.computed().description(text.to_owned())
}

/// `id` and `name`, one of which finds the object.
pub(super) fn handle(schema: Schema, noun: &str) -> Schema {
    let by = |name: &str, other: &str| {
        Attribute::string(name).optional().computed().description(format!("The {noun}'s {name}; this or `{other}`."))
    };
    schema.attribute(by("id", "name")).attribute(by("name", "id")).rule(validate::exactly_one_of(["id", "name"]))
}

/// The object that the configuration names.
pub(super) async fn found<R>(api: &Client, cx: &Context, config: &Object, noun: &str) -> Result<R>
where
    R: ApiResource + Collection + Sync,
{
    let doing = format!("read the {noun}");
    let (attribute, wanted, answer) = match config.get::<Option<String>>("id")? {
        Some(id) => {
            let read = cx.run(&doing, api.read::<R>(&id)).await?;
            let read = match read {
                Err(error) if error.is_not_found() => Ok(None),
                other => other.map(Some),
            };
            ("id", id, read)
        }
        None => {
            let name: String = config.get("name")?;
            let read = cx.run(&doing, api.find_by_name::<R>(&name)).await?;
            ("name", name, read)
        }
    };
    answer.map_err(|error: ClientError| failed(&doing, &error, same))?.ok_or_else(|| {
        let detail = format!("The gateway {} knows no {noun} with the {attribute} {wanted:?}.", api.endpoint());
        Diagnostic::error(format!("No such {noun}"), detail).at(attribute).into()
    })
}

/// `lifeboat_vault`
#[derive(Debug)]
pub(crate) struct VaultOf;

#[async_trait]
impl DataSource<Link> for VaultOf {
    fn type_name(&self) -> &str {
        "lifeboat_vault"
    }

    fn schema(&self) -> Schema {
        handle(Schema::new().description("A vault that the gateway has attached."), "vault")
            .attribute(computed(
                Attribute::string("storage_url"),
                "Where it is kept, as the gateway that made it sees it.",
            ))
            .attribute(computed(Attribute::string("key_source"), "`passphrase`, `key_file` or `kms`."))
            .attribute(computed(
                Attribute::number("soft_delete_days"),
                "Days for which data is kept after it is deleted.",
            ))
            .attribute(computed(Attribute::string("vault_uuid"), "Its own identity, as it stands in storage."))
            .attribute(computed(Attribute::number("format_version"), "The version of the format that it is kept in."))
            .attribute(computed(Attribute::string("health"), "`healthy`, `warning` or `critical`."))
            .attribute(computed(
                Attribute::number("bytes_stored"),
                "Bytes that its objects take. Null until they were counted.",
            ))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let vault: Vault = found(link.api()?, cx, &config, "vault").await?;
        let key_source = match vault.spec.encryption.key_source {
            KeySourceKind::Passphrase => "passphrase",
            KeySourceKind::KeyFile => "key_file",
            KeySourceKind::Kms => "kms",
        };
        config.set("id", vault.id.to_string());
        config.set("name", &vault.spec.name);
        config.set("storage_url", &vault.spec.storage_url);
        config.set("key_source", key_source);
        config.set("soft_delete_days", vault.spec.soft_delete_days);
        config.set("vault_uuid", vault.status.vault_uuid.to_string());
        config.set("format_version", vault.status.format_version);
        config.set("health", vault.status.health.as_str());
        config.set("bytes_stored", vault.status.bytes_stored);
        Ok(config)
    }
}

/// `lifeboat_site`
#[derive(Debug)]
pub(crate) struct SiteOf;

#[async_trait]
impl DataSource<Link> for SiteOf {
    fn type_name(&self) -> &str {
        "lifeboat_site"
    }

    fn schema(&self) -> Schema {
        handle(Schema::new().description("A site."), "site")
            .attribute(computed(Attribute::string("vault_id"), "The vault that it belongs to."))
            .attribute(computed(Attribute::string("description"), "For people."))
            .attribute(computed(Attribute::list("gateway_ids", Type::String), "Its gateways."))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let site: Site = found(link.api()?, cx, &config, "site").await?;
        config.set("id", site.id.to_string());
        config.set("name", &site.spec.name);
        config.set("vault_id", site.spec.vault_id.to_string());
        config.set("description", site.spec.description.clone());
        config.set("gateway_ids", site.status.gateway_ids.iter().map(ToString::to_string).collect::<Vec<_>>());
        Ok(config)
    }
}

/// `lifeboat_gateways`
#[derive(Debug)]
pub(crate) struct Gateways;

fn gateway_type() -> Type {
    Type::object([
        ("id", Type::String),
        ("name", Type::String),
        ("site_id", Type::String),
        ("registered", Type::Bool),
        ("version", Type::String),
        ("health", Type::String),
        ("reasons", Type::list(Type::String)),
        ("addresses", Type::list(Type::String)),
        ("last_seen", Type::String),
        ("process_server", process_server_type()),
    ])
}

fn process_server_type() -> Type {
    Type::object([
        ("address", Type::String),
        ("health", Type::String),
        ("reasons", Type::list(Type::String)),
        ("measured", Type::String),
        ("agents", Type::Number),
        ("processor_percent", Type::Number),
        ("memory_bytes_used", Type::Number),
        ("memory_bytes_total", Type::Number),
        ("disk_bytes_free", Type::Number),
        ("disk_bytes_total", Type::Number),
        ("cache_bytes_used", Type::Number),
        ("cache_bytes_limit", Type::Number),
        ("backlog_age_seconds", Type::Number),
    ])
}

fn process_server(server: &ProcessServerStatus) -> Object {
    Object::new()
        .with("address", &server.address)
        .with("health", server.health.as_str())
        .with("reasons", server.reasons.clone())
        .with("measured", server.measured.map(|time| time.to_string()))
        .with("agents", u64::from(server.agents))
        .with("processor_percent", server.processor_percent.map(u64::from))
        .with("memory_bytes_used", server.memory_bytes_used)
        .with("memory_bytes_total", server.memory_bytes_total)
        .with("disk_bytes_free", server.disk_bytes_free)
        .with("disk_bytes_total", server.disk_bytes_total)
        .with("cache_bytes_used", server.cache_bytes_used)
        .with("cache_bytes_limit", server.cache_bytes_limit)
        .with("backlog_age_seconds", server.backlog_age_seconds)
}

fn gateway(gateway: &Gateway) -> Value {
    let status = &gateway.status;
    Value::Object(
        Object::new()
            .with("id", gateway.id.to_string())
            .with("name", &gateway.spec.name)
            .with("site_id", gateway.spec.site_id.to_string())
            .with("registered", status.registered)
            .with("version", status.version.clone())
            .with("health", status.health.as_str())
            .with("reasons", status.reasons.clone())
            .with("addresses", status.addresses.clone())
            .with("last_seen", status.last_seen.map(|time| time.to_string()))
            .with("process_server", status.process_server.as_ref().map(|server| Value::Object(process_server(server)))),
    )
}

#[async_trait]
impl DataSource<Link> for Gateways {
    fn type_name(&self) -> &str {
        "lifeboat_gateways"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .description("The gateways that are declared, of all sites or of one, by name.")
            .attribute(Attribute::string("site_id").optional().description("Only the gateways of this site."))
            .attribute(computed(
                Attribute::list("gateways", gateway_type()),
                "The gateways. Each has `id`; `name`; `site_id`; `registered`, whether a process has taken it up; that process's \
                 `version`; `health` and its `reasons`; `addresses`, each `host:port`; `last_seen` (RFC 3339); and `process_server`, how it is doing for agents, \
                 null where it takes none: the `address` where they reach it, `health` and its `reasons`, when that was `measured`, how many \
                 `agents` stream to it, the share of its processors' time in the last minute (`processor_percent`), memory in use and in all, \
                 free and all space of its state directory's file system, the bytes in its cache and their limit, and the age of the \
                 oldest record there that could be in the vault (`backlog_age_seconds`).",
            ))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let api = link.api()?;
        let site: Option<String> = config.get("site_id")?;
        let mut gateways: Vec<Gateway> = cx
            .run("reading the gateways", api.list(Gateway::PATH, &[]))
            .await?
            .map_err(|error| failed("read the gateways", &error, same))?;
        gateways.retain(|gateway| site.as_ref().is_none_or(|site| gateway.spec.site_id.to_string() == *site));
        gateways.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        config.set("gateways", Value::List(gateways.iter().map(self::gateway).collect()));
        Ok(config)
    }
}

/// `lifeboat_jobs`
#[derive(Debug)]
pub(crate) struct Jobs;

fn job_type() -> Type {
    Type::object([
        ("id", Type::String),
        ("kind", Type::String),
        ("state", Type::String),
        ("name", Type::String),
        ("group_id", Type::String),
        ("plan_id", Type::String),
        ("machine_id", Type::String),
        ("created", Type::String),
        ("finished", Type::String),
        ("cause", Type::String),
        ("rpo_seconds", Type::Number),
        ("rto_seconds", Type::Number),
    ])
}

fn job(job: &Job) -> Value {
    Value::Object(
        Object::new()
            .with("id", job.id.to_string())
            .with("kind", job.kind.as_str())
            .with("state", job.state.to_string())
            .with("name", job.name.clone())
            .with("group_id", job.group_id.map(|id| id.to_string()))
            .with("plan_id", job.plan_id.map(|id| id.to_string()))
            .with("machine_id", job.machine_id.map(|id| id.to_string()))
            .with("created", job.created.to_string())
            .with("finished", job.finished.map(|time| time.to_string()))
            .with("cause", job.cause.clone())
            .with("rpo_seconds", job.result.rpo_seconds)
            .with("rto_seconds", job.result.rto_seconds),
    )
}

#[async_trait]
impl DataSource<Link> for Jobs {
    fn type_name(&self) -> &str {
        "lifeboat_jobs"
    }

    fn schema(&self) -> Schema {
        let states = ["queued", "running", "succeeded", "failed", "cancelled"];
        Schema::new()
            .description("What the gateways did and are doing, newest first.")
            .attribute(Attribute::string("group_id").optional().description("Only jobs of this group."))
            .attribute(Attribute::string("plan_id").optional().description("Only jobs of this recovery plan."))
            .attribute(Attribute::string("machine_id").optional().description("Only jobs of this machine."))
            .attribute(
                Attribute::string("state")
                    .optional()
                    .validate(validate::one_of(states))
                    .description("Only jobs in this state: `queued`, `running`, `succeeded`, `failed` or `cancelled`."),
            )
            .attribute(
                Attribute::number("limit")
                    .default(100_u64)
                    .validate(validate::whole_number())
                    .validate(validate::range(1_u64, PAGE_MAX))
                    .description("How many at most: 1 to 1000. Default: `100`."),
            )
            .attribute(computed(
                Attribute::list("jobs", job_type()),
                "The jobs. Each has `id`; `kind`, such as `planned-failover`; `state`; `name`, what it is about; the `group_id`, \
                 `plan_id` or `machine_id` of that; `created` and `finished` (RFC \
                 3339); `cause`, why it failed; and of failovers `rpo_seconds` and `rto_seconds`.",
            ))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let api = link.api()?;
        let mut query = vec![("limit", config.get::<u64>("limit")?.to_string())];
        for (attribute, name) in
            [("group_id", "group"), ("plan_id", "plan"), ("machine_id", "machine"), ("state", "state")]
        {
            query.extend(config.get::<Option<String>>(attribute)?.map(|text| (name, text)));
        }
        let page: Page<Job> = cx
            .run("reading the jobs", api.get("/v1/jobs", &query))
            .await?
            .map_err(|error| failed("read the jobs", &error, same))?;
        config.set("jobs", Value::List(page.items.iter().map(job).collect()));
        Ok(config)
    }
}
