//! The actions: verbs on a recovery plan, a machine or a consistency group, for a person or a pipeline that runs Terraform.
//!
//! An action begins a job and tells how it goes until it is over. The job belongs to the gateways: when Terraform is
//! stopped, or no gateway answers any more, the job goes on, and the message says how to see it again. Nothing of an action
//! is in the state; what it changed, the next refresh reads.
//!
//! At plan an action that can't work is refused, as far as can be seen.

use std::marker::PhantomData;
use std::time::Duration;

use lifeboat_api::types::{
    ChangePointRequest, CommitRequest, FailbackMode, FailbackRequest, FailbackTarget, FailoverKind, FailoverRequest,
    PlanFailoverRequest, PointRequest, ReprotectRequest, ResyncRequest, default_test_ttl,
};
use lifeboat_api::{Client, ClientErrorKind, Group, Job, JobState, Machine, Plan};
use serde::Serialize;
use tf_provider_sdk::{
    Action, Attribute, Context, Diagnostic, Diagnostics, Object, Result, Schema, Timeouts, Type, async_trait, validate,
};

use crate::declared::LOOK_INTERVAL;
use crate::link::Link;
use crate::wording::{failed, same, sentence};

/// How long one request waits for news of a job.
const NEWS_WITHIN: Duration = Duration::from_secs(5);
/// How long an action takes at most unless its `timeouts` block says otherwise.
const TIME_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// One verb.
pub(crate) trait Verb: Send + Sync + 'static {
    /// The body of its request.
    type Body: Serialize + Send + Sync;
    /// The action's full name.
    const TYPE: &'static str;
    /// The verb in the API.
    const VERB: &'static str;
    /// What it does, after "Cannot": `fail over`.
    const DOING: &'static str;
    /// Whether plans and machines have the verb too.
    const PROGRAMS: bool = false;

    /// Its schema without what all have: what it is about, and the timeouts.
    fn schema() -> Schema;

    /// The body that the configuration describes for a plan or a machine.
    ///
    /// # Errors
    /// As for [`Self::body`].
    fn program_body(config: &Object) -> Result<serde_json::Value> {
        as_json(Self::body(config)?)
    }

    /// The body that the configuration describes.
    ///
    /// # Errors
    /// A value of the wrong type, which the validators let nobody write.
    fn body(config: &Object) -> Result<Self::Body>;
}

/// A [`Verb`] as an action of Terraform's.
pub(crate) struct VerbAction<V>(PhantomData<fn() -> V>);

impl<V: Verb> VerbAction<V> {
    pub(crate) fn boxed() -> Box<dyn Action<Link>> {
        Box::new(Self(PhantomData))
    }
}

#[async_trait]
impl<V: Verb> Action<Link> for VerbAction<V> {
    fn type_name(&self) -> &str {
        V::TYPE
    }

    fn schema(&self) -> Schema {
        let schema = V::schema().timeouts(Timeouts::new().operation("invoke", TIME_DEFAULT));
        if !V::PROGRAMS {
            return schema.attribute(Attribute::string("group_id").required().description("The consistency group."));
        }
        let one = "Exactly one of `plan_id`, `machine_id` and `group_id` is needed.";
        schema
            .attribute(Attribute::string("plan_id").optional().description(format!("The recovery plan. {one}")))
            .attribute(
                Attribute::string("machine_id")
                    .optional()
                    .description(format!("The machine, to be moved by itself with its group. {one}")),
            )
            .attribute(
                Attribute::string("group_id")
                    .optional()
                    .description(format!("The consistency group, to be moved without machines. {one}")),
            )
            .rule(validate::exactly_one_of(["plan_id", "machine_id", "group_id"]))
    }

    async fn plan(&self, link: &Link, cx: &Context, config: &Object) -> Result<()> {
        // What isn't known yet, or can't be asked, is found out when it is invoked.
        let (Ok(api), Ok(about)) = (link.api(), About::of(config, V::PROGRAMS)) else { return Ok(()) };
        let waiting = format!("looking for the {}", about.what());
        let found = match &about {
            About::Group(id) => cx.run(&waiting, api.read::<Group>(id)).await?.map(drop),
            About::Plan(id) => cx.run(&waiting, api.read::<Plan>(id)).await?.map(drop),
            About::Machine(id) => cx.run(&waiting, api.read::<Machine>(id)).await?.map(drop),
        };
        match found {
            Err(error) if error.is_not_found() => {
                let (what, id) = (about.what(), about.id());
                let detail = format!("The gateway {} knows no {what} {id}: check the id.", api.endpoint());
                Err(Diagnostic::error(format!("No such {what}"), detail).at(about.attribute()).into())
            }
            _ => Ok(()),
        }
    }

    async fn invoke(&self, link: &Link, cx: &Context, config: Object) -> Result<()> {
        let api = link.api()?;
        let about = About::of(&config, V::PROGRAMS)?;
        let doing = format!("{} the {} {}", V::DOING, about.what(), about.id());
        // Not to be stopped half-way: a job that was begun has to be told of.
        let job = match &about {
            About::Group(id) => api.group_verb(id, V::VERB, &V::body(&config)?).await,
            About::Plan(id) => api.verb::<Plan>(id, V::VERB, &V::program_body(&config)?).await,
            About::Machine(id) => api.verb::<Machine>(id, V::VERB, &V::program_body(&config)?).await,
        };
        let job = job.map_err(|error| failed(&doing, &error, same))?;
        let over = follow(api, cx, job).await?;
        match over.state {
            JobState::Succeeded => {
                cx.progress(summary(&over));
                Ok(())
            }
            _ => Err(unsuccessful(&doing, &over)),
        }
    }
}

/// Why `doing` (such as `fail over the plan erp`) came to nothing: a job that is over and didn't succeed.
pub(crate) fn unsuccessful(doing: &str, over: &Job) -> Diagnostics {
    let cause = over.cause.as_deref().map(sentence).unwrap_or_default();
    let detail = format!("The job {0} is {1}. {cause} See it with: lifeboat job show {0}", over.id, over.state);
    Diagnostics::error(format!("Cannot {doing}"), detail)
}

fn as_json(body: impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(body).map_err(|error| Diagnostics::error("The request can't be written", error.to_string()))
}

/// What an action is about.
enum About {
    Plan(String),
    Machine(String),
    Group(String),
}

impl About {
    fn of(config: &Object, programs: bool) -> Result<Self> {
        if !programs {
            return Ok(Self::Group(config.get("group_id")?));
        }
        let id = |name: &str| config.get::<Option<String>>(name);
        match (id("plan_id")?, id("machine_id")?) {
            (Some(plan), _) => Ok(Self::Plan(plan)),
            (None, Some(machine)) => Ok(Self::Machine(machine)),
            (None, None) => Ok(Self::Group(config.get("group_id")?)),
        }
    }

    const fn what(&self) -> &'static str {
        match self {
            Self::Plan(_) => "plan",
            Self::Machine(_) => "machine",
            Self::Group(_) => "group",
        }
    }

    const fn attribute(&self) -> &'static str {
        match self {
            Self::Plan(_) => "plan_id",
            Self::Machine(_) => "machine_id",
            Self::Group(_) => "group_id",
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Plan(id) | Self::Machine(id) | Self::Group(id) => id,
        }
    }
}

/// Tells how a job goes until it is over.
pub(crate) async fn follow(api: &Client, cx: &Context, mut job: Job) -> Result<Job> {
    let id = job.id.to_string();
    let waiting = format!("waiting for the job {id}, which goes on (lifeboat job watch {id})");
    let mut said = String::new();
    loop {
        let now = headline(&job);
        if now != said {
            cx.progress(now.clone());
            said = now;
        }
        if job.is_over() {
            return Ok(job);
        }
        match cx.run(&waiting, api.watch_job(&id, job.revision, NEWS_WITHIN)).await? {
            Ok(news) => job = news,
            // A gateway that restarts, or the next one of the list takes over: until the time is over.
            Err(error) if error.kind() == ClientErrorKind::Unreachable => cx.sleep(&waiting, LOOK_INTERVAL).await?,
            Err(error) => return Err(failed(&format!("follow the job {id}"), &error, same)),
        }
    }
}

fn headline(job: &Job) -> String {
    let step = job.steps.iter().find(|step| step.state == JobState::Running);
    let doing = step.map(|step| if step.message.is_empty() { step.name.clone() } else { step.message.clone() });
    let percent = step
        .and_then(|step| step.progress)
        .filter(|progress| progress.total_bytes > 0)
        .map(|progress| format!(" ({} %)", u128::from(progress.done_bytes) * 100 / u128::from(progress.total_bytes)));
    let (doing, percent) = (doing.map(|text| format!(": {text}")).unwrap_or_default(), percent.unwrap_or_default());
    format!("{} of {}, {}{doing}{percent}", job.kind, job.name, job.state)
}

fn summary(job: &Job) -> String {
    let result = &job.result;
    let mut parts = Vec::new();
    if let Some(time) = &result.point_time {
        parts.push(format!("recovery point {time}"));
    }
    if let Some(seconds) = result.rpo_seconds {
        parts.push(format!("at most {seconds:.1} s of writes lost"));
    }
    if let Some(seconds) = result.rto_seconds {
        parts.push(format!("writable after {seconds:.1} s"));
    }
    if let Some(seconds) = result.downtime_seconds {
        parts.push(format!("{seconds:.1} s of downtime"));
    }
    let tail = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("{} of {} is done{tail}", job.kind, job.name)
}

fn point(attribute: Attribute, text: &str) -> Attribute {
    attribute.validate(validate::length(1, 255)).description(text.to_owned())
}

/// `lifeboat_failover`
pub(crate) struct Failover;

impl Verb for Failover {
    type Body = FailoverRequest;
    const TYPE: &'static str = "lifeboat_failover";
    const VERB: &'static str = "failover";
    const DOING: &'static str = "fail over";
    const PROGRAMS: bool = true;

    fn schema() -> Schema {
        Schema::new()
            .description(
                "Fails a recovery plan, a machine or a consistency group over to the gateway that answers: it becomes the \
                 recovery gateway. A test leaves everything else as it is; a planned failover loses nothing; an unplanned one \
                 fences the side that is lost.",
            )
            .attribute(
                Attribute::string("kind")
                    .required()
                    .validate(validate::one_of(["test", "planned", "unplanned"]))
                    .description("`test`, `planned` or `unplanned`."),
            )
            .attribute(point(
                Attribute::string("point").default("latest"),
                "`latest`, `latest-processed`, `latest-app-consistent`, a time (RFC 3339; the newest point not after it) or a \
                 point's id. A planned failover takes none but `latest`. Default: `latest`.",
            ))
            .attribute(
                Attribute::string("ttl")
                    .optional()
                    .description(
                        "Test of a plan or a machine: after how long it is cleaned up by itself, `1m` to `30d`; `24h` when left out.",
                    ),
            )
            .rule(validate::Rule::new(planned_takes_latest))
    }

    fn body(config: &Object) -> Result<FailoverRequest> {
        let kind = match config.get::<String>("kind")?.as_str() {
            "test" => FailoverKind::Test,
            "planned" => FailoverKind::Planned,
            _ => FailoverKind::Unplanned,
        };
        Ok(FailoverRequest { kind, point: config.get("point")?, branch_id: None })
    }

    fn program_body(config: &Object) -> Result<serde_json::Value> {
        let FailoverRequest { kind, point, .. } = Self::body(config)?;
        let ttl = config.get::<Option<String>>("ttl")?.unwrap_or_else(default_test_ttl);
        as_json(PlanFailoverRequest { kind, point, ttl, test_network_id: None })
    }
}

fn planned_takes_latest(config: &Object) -> Diagnostics {
    let text = |name: &str| config.get::<String>(name).ok();
    match (text("kind").as_deref(), text("point").as_deref()) {
        (Some("planned"), Some(point)) if point != "latest" => {
            let detail = "A planned failover ships everything first and goes on from there: leave `point` out.";
            Diagnostic::error("A planned failover takes the latest point", detail).at("point").into()
        }
        _ => Diagnostics::new(),
    }
}

/// `lifeboat_change_point`
pub(crate) struct ChangePoint;

impl Verb for ChangePoint {
    type Body = ChangePointRequest;
    const TYPE: &'static str = "lifeboat_change_point";
    const VERB: &'static str = "change-point";
    const DOING: &'static str = "change the recovery point of";
    const PROGRAMS: bool = true;

    fn schema() -> Schema {
        Schema::new()
            .description(
                "After a failover that isn't committed, goes on from another recovery point. What was written since the failover \
                 stays on a branch of its own.",
            )
            .attribute(point(
                Attribute::string("point").required(),
                "`latest`, `latest-app-consistent`, a time (RFC 3339; the newest point not after it) or a point's id.",
            ))
    }

    fn body(config: &Object) -> Result<ChangePointRequest> {
        Ok(ChangePointRequest { point: config.get("point")? })
    }
}

/// `lifeboat_commit`
pub(crate) struct Commit;

impl Verb for Commit {
    type Body = CommitRequest;
    const TYPE: &'static str = "lifeboat_commit";
    const VERB: &'static str = "commit";
    const DOING: &'static str = "commit the failover of";
    const PROGRAMS: bool = true;

    fn schema() -> Schema {
        Schema::new().description("Makes a failover final: its recovery point can no longer be changed.")
    }

    fn body(_: &Object) -> Result<CommitRequest> {
        Ok(CommitRequest {})
    }
}

/// `lifeboat_failback`
pub(crate) struct Failback;

impl Verb for Failback {
    type Body = FailbackRequest;
    const TYPE: &'static str = "lifeboat_failback";
    const VERB: &'static str = "failback";
    const DOING: &'static str = "fail back";
    const PROGRAMS: bool = true;

    fn schema() -> Schema {
        Schema::new()
            .description("Brings a recovery plan, a machine or a consistency group back home.")
            .attribute(Attribute::string("gateway_id").optional().description(
                "Another gateway of the home site that it goes to, and where it is at home from then on. Everything is fetched there, \
                 while the recovery side runs or, with `create`, afterwards. The `gateway_id` of its volumes may stay as it is, or \
                 be changed to this one in place. Its home when left out.",
            ))
            .attribute(Attribute::list("master_target_ids", Type::String).optional().description(
                "Of a plan or a machine: several gateways of the home site, over which its groups are spread by their size, to be received at the \
                 same time; each group is at home where it came to. Not together with `gateway_id`.",
            ))
            .attribute(
            Attribute::string("mode")
                .default(FailbackMode::MinimizeDowntime.as_str())
                .validate(validate::one_of(["minimize-downtime", "full-download", "create"]))
                .description(
                    "`minimize-downtime` moves only the blocks that differ, while the recovery side runs; `full-download` fetches \
                     everything; `create` begins on a new disk, writable at once. Default: `minimize-downtime`.",
                ),
        )
    }

    fn body(config: &Object) -> Result<FailbackRequest> {
        let mode = match config.get::<String>("mode")?.as_str() {
            "full-download" => FailbackMode::FullDownload,
            "create" => FailbackMode::Create,
            _ => FailbackMode::MinimizeDowntime,
        };
        let gateway_id: Option<String> = config.get("gateway_id")?;
        let gateway_id = gateway_id.map(|text| text.parse()).transpose().map_err(|_| {
            Diagnostic::error(
                "Not a gateway's id",
                "Set the id of a lifeboat_gateway: `gw-` and 32 hexadecimal digits.",
            )
            .at("gateway_id")
        })?;
        let mut targets = Vec::new();
        for text in config.get::<Option<Vec<String>>>("master_target_ids")?.unwrap_or_default() {
            let gateway_id = text.parse().map_err(|_| {
                Diagnostic::error(
                    "Not a gateway's id",
                    "Set ids of lifeboat_gateway: each is `gw-` and 32 hexadecimal digits.",
                )
                .at("master_target_ids")
            })?;
            targets.push(FailbackTarget { gateway_id, group_ids: Vec::new() });
        }
        Ok(FailbackRequest { gateway_id, targets, ..FailbackRequest::new(mode) })
    }
}

/// `lifeboat_reprotect`
pub(crate) struct Reprotect;

impl Verb for Reprotect {
    type Body = ReprotectRequest;
    const TYPE: &'static str = "lifeboat_reprotect";
    const VERB: &'static str = "reprotect";
    const DOING: &'static str = "reprotect";
    const PROGRAMS: bool = true;

    fn schema() -> Schema {
        Schema::new().description(
            "After a failover, brings the home copies forward while the recovery side runs, so that a failback has little left to \
             do. Nothing stops.",
        )
    }

    fn body(_: &Object) -> Result<ReprotectRequest> {
        Ok(ReprotectRequest {})
    }
}

/// `lifeboat_resync`
pub(crate) struct Resync;

impl Verb for Resync {
    type Body = ResyncRequest;
    const TYPE: &'static str = "lifeboat_resync";
    const VERB: &'static str = "resync";
    const DOING: &'static str = "resync";

    fn schema() -> Schema {
        Schema::new()
            .description("Copies what the vault lacks of a consistency group at once, whatever the policy's window says.")
            .attribute(Attribute::bool("compare").default(false).description(
                "Whether to find out first what the vault lacks, by reading every volume: for doubts. Default: `false`.",
            ))
    }

    fn body(config: &Object) -> Result<ResyncRequest> {
        Ok(ResyncRequest { compare: config.get("compare")? })
    }
}

/// `lifeboat_take_point`
pub(crate) struct TakePoint;

impl Verb for TakePoint {
    type Body = PointRequest;
    const TYPE: &'static str = "lifeboat_take_point";
    const VERB: &'static str = "point";
    const DOING: &'static str = "take a recovery point of";

    fn schema() -> Schema {
        Schema::new()
            .description("Takes a recovery point of a consistency group now, such as before a release.")
            .attribute(
                Attribute::string("label")
                    .optional()
                    .validate(validate::length(0, 255))
                    .description("What it is called: at most 255 bytes."),
            )
            .attribute(Attribute::bool("app_consistent").default(false).description(
                "Whether to take it between the group's hooks, so that its applications find a state that they know. Default: \
                 `false`.",
            ))
    }

    fn body(config: &Object) -> Result<PointRequest> {
        let label: Option<String> = config.get("label")?;
        Ok(PointRequest { label: label.unwrap_or_default(), app_consistent: config.get("app_consistent")? })
    }
}
