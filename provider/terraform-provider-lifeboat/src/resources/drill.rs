//! `lifeboat_drill`: a recovery plan that is tested, what has to hold, and the signed evidence of how it came out.
//!
//! A drill has a life: creating one declares it and runs it, destroying one ends the test that it left up. A run that doesn't
//! pass is a result and no failure of the apply: `passed` says so, and a warning does. What the runs of the schedule find is
//! read at the next refresh.
//!
//! ```text
//! create    declare ─> run, follow ─> read, with the evidence (after a Ctrl-C: as it is; the next apply runs it)
//! plan      what is tested, or what has to hold, changes; or the last run is worth nothing any more ─> it runs again
//! update    change the declaration ─> where the plan says so, run, follow ─> read
//! delete    break off what runs ─> end the test that is up ─> delete
//! ```

use std::time::Duration;

use lifeboat_api::{
    Assertion, AssertionType, Client, ClientErrorKind, Drill, DrillRunRequest, DrillSchedule, DrillSpec, DrillState,
    Job, JobState, Plan, PlanCleanupRequest, Timestamp, default_drill_network, default_point, default_valid_for,
    default_within,
};
use tf_provider_sdk::{
    Attribute, Block, Context, CreateRequest, IdentitySchema, NestedBlock, Object, PlanChange, Resource, Result,
    Schema, Timeouts, Type, UpdateRequest, Value, async_trait,
};

use super::{MINUTE, REPLACES, anchor, list_or_absent, observed};
use crate::actions::{follow, unsuccessful};
use crate::declared::{Declared, Kind, LOOK_INTERVAL};
use crate::link::Link;
use crate::values::Values;
use crate::wording::{failed, same};

/// How long a run that is refused is asked for again: what the same apply has declared gets its first recovery points.
const REFUSED_TIME_MAX: Duration = Duration::from_secs(120);

const TYPES: [(&str, AssertionType); 6] = [
    (AssertionType::Boots.as_str(), AssertionType::Boots),
    (AssertionType::Tcp.as_str(), AssertionType::Tcp),
    (AssertionType::Http.as_str(), AssertionType::Http),
    (AssertionType::FileHash.as_str(), AssertionType::FileHash),
    (AssertionType::Script.as_str(), AssertionType::Script),
    (AssertionType::Screen.as_str(), AssertionType::Screen),
];

/// What a run finds: known after it only.
const FOUND: [&str; 10] = [
    "state",
    "passed",
    "failures",
    "rto_seconds",
    "rpo_seconds",
    "finished_at",
    "expires_at",
    "evidence",
    "evidence_signature",
    "evidence_public_key",
];

/// What a run is about: another value asks for another run.
const TESTED: [&str; 6] = ["point", "network", "assertion", "max_rto", "max_rpo", "keep"];

fn assertion_block() -> NestedBlock {
    let text = |name: &str, description: &str| Attribute::string(name).optional().description(description.to_owned());
    let number = |name: &str, description: &str| Attribute::number(name).optional().description(description.to_owned());
    let body = Block::new()
        .description("Something that has to hold. All of it is looked at side by side, once everything is up.")
        .attribute(Attribute::string("type").required().description(
            "`boots`: a text on the machine's console; `tcp`: a port of it takes a connection; `http`: a web server on it \
             answers; `screen`: its screen shows something; `file_hash`: a file on a volume has the right content; `script`: a \
             program of the gateway's administrator ends well.",
        ))
        .attribute(text("machine_id", "With `boots`, `tcp`, `http` and `screen`: a machine of the plan."))
        .attribute(text("volume_id", "With `file_hash`: a volume of the plan. It is looked at on a copy of its own."))
        .attribute(
            Attribute::string("within")
                .default(default_within())
                .description("How long it may take until it holds: `1s` to `24h`. Default: `5m`."),
        )
        .attribute(text(
            "contains",
            "With `boots`: the text; `login:` when left out. With `http`: what has to stand in the answer.",
        ))
        .attribute(number("port", "With `tcp` and `http`: the port. With `http`, 80 when left out, or 443 with `tls`."))
        .attribute(number("interface", "With `tcp` and `http`: the machine's interface, counted from 0. The first when left out."))
        .attribute(text(
            "path",
            "With `http`: what is asked for; `/` when left out. With `file_hash`: the file, from the root of its file system.",
        ))
        .attribute(number("status", "With `http`: the answer's status. Any of the 2xx kind when left out."))
        .attribute(Attribute::bool("tls").default(false).description(
            "With `http`: over TLS. The certificate isn't checked: in a network for tests nobody's name is right. Default: `false`.",
        ))
        .attribute(text("sha256", "With `http`: the SHA-256 of the answer. With `file_hash`: that of the file."))
        .attribute(number("partition", "With `file_hash`: the partition, counted from 1. The whole volume when left out."))
        .attribute(text(
            "script",
            "With `script`: the name of a program in the directory of hooks of the gateway that runs the drill.",
        ))
        .attribute(text(
            "picture",
            "With `screen`: what the screen has to look like, 16 hexadecimal digits as the evidence of an earlier run gives \
             them. Anything but a blank screen when left out.",
        ));
    NestedBlock::list("assertion", body)
}

fn schedule_block() -> NestedBlock {
    let text = |name: &str, description: &str| Attribute::string(name).optional().description(description.to_owned());
    let body = Block::new()
        .description("When the drill runs by itself, begun by a gateway of the plan's target site.")
        .attribute(
            Attribute::string("every")
                .required()
                .description("Time from the start of one run to the next, whoever began it: `1h` to `365d`."),
        )
        .attribute(
            Attribute::list("days", Type::String)
                .optional()
                .description("Days on which it may begin, `mon` to `sun`. Every day when left out."),
        )
        .attribute(text("start", "`HH:MM`, together with `end`: when it may begin. The whole day when left out."))
        .attribute(text("end", "`HH:MM`, together with `start`."))
        .attribute(text("timezone", "IANA name, such as `Europe/Zurich`. UTC when left out."));
    NestedBlock::single("schedule", body)
}

fn assertion(block: &Values<'_>) -> Assertion {
    let text = block.required("type", AssertionType::Script.as_str().to_owned());
    let kind = block.word("type", &text, &TYPES).filter(|_| !block.is_unknown("type"));
    let mut one = Assertion {
        kind: kind.unwrap_or(AssertionType::Script),
        machine_id: None,
        volume_id: None,
        within: block.required("within", default_within()),
        contains: None,
        port: None,
        interface: None,
        path: None,
        status: None,
        tls: false,
        sha256: None,
        partition: None,
        script: None,
        picture: None,
    };
    // With a type that isn't known, no argument can be missing or too much.
    if kind.is_none() {
        one.script = Some("neutral".to_owned());
        return one;
    }
    let neutral = |path: &str, neutral: &str| match block.is_unknown(path) {
        true => Some(neutral.to_owned()),
        false => block.optional(path),
    };
    one.machine_id = match block.is_unknown("machine_id") {
        true => Some(block.id("machine_id", "mch")),
        false => block.optional_id("machine_id", "mch"),
    };
    one.volume_id = match block.is_unknown("volume_id") {
        true => Some(block.id("volume_id", "vol")),
        false => block.optional_id("volume_id", "vol"),
    };
    one.contains = neutral("contains", "neutral");
    one.port = if block.is_unknown("port") { Some(1) } else { block.optional("port") };
    one.interface = block.optional("interface");
    one.path = neutral("path", "/neutral");
    one.status = block.optional("status");
    one.tls = block.optional("tls").unwrap_or_default();
    one.sha256 = neutral("sha256", &"0".repeat(64));
    one.partition = block.optional("partition");
    one.script = neutral("script", "neutral");
    one.picture = block.optional("picture");
    one
}

#[derive(Debug)]
pub(crate) struct DrillKind;

#[async_trait]
impl Kind for DrillKind {
    type Spec = DrillSpec;
    type View = Drill;
    const TYPE: &'static str = "lifeboat_drill";
    const NOUN: &'static str = "drill";

    fn schema() -> Schema {
        Schema::new()
            .description(
                "A recovery plan that is tested: its machines come up beside those that run, from a recovery point and in a \
                 network of their own; what has to hold is looked at; everything is cleaned up; and what was found is kept, \
                 signed by the gateway. Creating the resource runs the drill, and so does a change of what is tested. A run that \
                 doesn't pass fails no apply: say what is to follow from `passed` with a `check` block or a postcondition.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("plan_id", "The plan that is tested.", REPLACES))
            .attribute(Attribute::string("name").optional().computed().use_state_for_unknown().description(
                "1 to 63 letters, digits, `.`, `_` or `-`, unique in the vault. Left out, it is made from the plan's.",
            ))
            .attribute(Attribute::string("point").default(default_point()).description(
                "The recovery point that it starts from: `latest`, `latest-processed`, `latest-app-consistent` or a time \
                 (RFC 3339; the newest point not after it). Default: `latest`.",
            ))
            .attribute(Attribute::string("network").default(default_drill_network()).description(
                "What the machines join: `isolated`, the networks for tests that the mappings name; or the id of a network of \
                 the target site. Default: `isolated`.",
            ))
            .attribute(Attribute::string("max_rto").optional().description(
                "Longest time from the start of the test until everything that is asserted of what runs holds.",
            ))
            .attribute(
                Attribute::string("max_rpo")
                    .optional()
                    .description("Longest time before the start of the test that may be lost."),
            )
            .attribute(Attribute::string("valid_for").default(default_valid_for()).description(
                "How long a run that passed is worth something: `1h` to `3650d`. After that the state is `expired`, and without a \
                 `schedule` the next apply runs it again. Default: `90d`.",
            ))
            .attribute(Attribute::bool("keep").default(false).description(
                "Leaves the test up, for at most 30 days; destroying the resource ends it, and so does the next run. Default: \
                 `false`.",
            ))
            .attribute(Attribute::map("triggers", Type::String).optional().requires_replace().description(
                "Any values: another one replaces the resource, which runs the drill anew.",
            ))
            .attribute(observed(Attribute::string("state")).description(
                "How it stood at the last refresh: `never-run`, `running`, `passed`, `failed` or `expired`.",
            ))
            .attribute(observed(Attribute::bool("passed")).description(
                "Whether the last run passed. Null until one came to an end.",
            ))
            .attribute(
                observed(Attribute::list("failures", Type::String))
                    .description("What wasn't as it has to be in the last run."),
            )
            .attribute(observed(Attribute::number("rto_seconds")).description(
                "Seconds from the start of the test until everything that is asserted of what runs held. Null when it didn't.",
            ))
            .attribute(
                observed(Attribute::number("rpo_seconds"))
                    .description("Seconds between the recovery point and the start of the test."),
            )
            .attribute(observed(Attribute::string("finished_at")).description(
                "When the evidence of the last run was signed (RFC 3339).",
            ))
            .attribute(observed(Attribute::string("expires_at")).description(
                "When the last run is worth nothing any more (RFC 3339). Null when it didn't pass.",
            ))
            .attribute(observed(Attribute::string("evidence")).description(
                "What the last run found: a JSON document, byte for byte as it was signed.",
            ))
            .attribute(observed(Attribute::string("evidence_signature")).description(
                "The signature of these bytes by Ed25519, base64.",
            ))
            .attribute(observed(Attribute::string("evidence_public_key")).description(
                "The public key of the gateway that signed, base64.",
            ))
            .block(assertion_block())
            .block(schedule_block())
            .timeouts(Timeouts::new().create(120 * MINUTE).update(120 * MINUTE).delete(30 * MINUTE))
    }

    fn spec(values: &Values<'_>) -> DrillSpec {
        let schedule = |block: Values<'_>| DrillSchedule {
            every: block.required("every", "7d".to_owned()),
            days: block.optional("days").unwrap_or_default(),
            // A window is judged once both of its ends are known.
            start: block.optional("start").filter(|_| !block.is_unknown("end")),
            end: block.optional("end").filter(|_| !block.is_unknown("start")),
            timezone: block.optional("timezone"),
        };
        DrillSpec {
            plan_id: values.id("plan_id", "plan"),
            name: values.name("name"),
            point: values.required("point", default_point()),
            network: values.required("network", default_drill_network()),
            assertion: values.blocks("assertion").iter().map(assertion).collect(),
            max_rto: values.optional("max_rto"),
            max_rpo: values.optional("max_rpo"),
            valid_for: values.required("valid_for", default_valid_for()),
            keep: values.required("keep", false),
            schedule: values.block("schedule").map(schedule),
        }
    }

    fn describe(drill: &Drill, state: &mut Object) {
        let (spec, status) = (&drill.spec, &drill.status);
        state.set("plan_id", spec.plan_id.to_string());
        state.set("name", &spec.name);
        state.set("point", &spec.point);
        state.set("network", &spec.network);
        state.set("max_rto", spec.max_rto.clone());
        state.set("max_rpo", spec.max_rpo.clone());
        state.set("valid_for", &spec.valid_for);
        state.set("keep", spec.keep);
        let assertions = spec.assertion.iter().map(|one| {
            Object::new()
                .with("type", one.kind.as_str())
                .with("machine_id", one.machine_id.map(|id| id.to_string()))
                .with("volume_id", one.volume_id.map(|id| id.to_string()))
                .with("within", &one.within)
                .with("contains", one.contains.clone())
                .with("port", one.port)
                .with("interface", one.interface)
                .with("path", one.path.clone())
                .with("status", one.status)
                .with("tls", one.tls)
                .with("sha256", one.sha256.clone())
                .with("partition", one.partition)
                .with("script", one.script.clone())
                .with("picture", one.picture.clone())
        });
        state.set("assertion", assertions.collect::<Vec<Object>>());
        let schedule = spec.schedule.as_ref().map(|schedule| {
            Object::new()
                .with("every", &schedule.every)
                .with("days", list_or_absent(state.at("schedule.days"), schedule.days.clone()))
                .with("start", schedule.start.clone())
                .with("end", schedule.end.clone())
                .with("timezone", schedule.timezone.clone())
        });
        state.set("schedule", schedule);
        let last = status.runs.first();
        state.set("state", status.state.as_str());
        state.set("passed", last.map(|run| run.outcome.passed));
        state.set("failures", last.map(|run| run.outcome.failures.clone()));
        state.set("rto_seconds", last.and_then(|run| run.outcome.rto_seconds).map(rounded));
        state.set("rpo_seconds", last.and_then(|run| run.outcome.rpo_seconds).map(rounded));
        state.set("finished_at", last.map(|run| run.finished.to_string()));
        state.set("expires_at", status.expires.map(|time| time.to_string()));
        // Read on their own, once it is known that there is a run.
        for name in ["evidence", "evidence_signature", "evidence_public_key"] {
            state.set(name, Value::Null);
        }
    }

    /// What runs is broken off by the destroy.
    fn gives_way(blocker: &str) -> bool {
        blocker.starts_with("the job ")
    }
}

/// Seconds with the digits that mean something.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// See above.
pub(crate) struct DrillResource(Box<dyn Resource<Link>>);

impl DrillResource {
    pub(crate) fn boxed() -> Box<dyn Resource<Link>> {
        Box::new(Self(Declared::<DrillKind>::boxed()))
    }
}

/// A name for a drill that has none.
async fn name_for(api: &Client, plan: &str) -> Result<String> {
    let found: Plan = api.read(plan).await.map_err(|error| failed("create the drill", &error, same))?;
    let marks = Timestamp::now().as_micros() & 0xff_ffff;
    Ok(format!("{}-{marks:06x}", found.spec.name.chars().take(50).collect::<String>()))
}

/// Writes the evidence of the last run into a state.
async fn add_evidence(api: &Client, cx: &Context, state: &mut Object) -> Result<()> {
    let id: String = state.get("id")?;
    if state.value("finished_at").is_none_or(Value::is_null) {
        return Ok(());
    }
    let found = cx.run("reading the evidence of the drill", api.drill_evidence(&id, None)).await?;
    match found {
        Ok(found) => {
            state.set("evidence", found.evidence);
            state.set("evidence_signature", found.signature);
            state.set("evidence_public_key", found.public_key);
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(failed("read the evidence of the drill", &error, same)),
    }
}

/// The state as it is now, with everything that a plan has promised.
async fn read_back(api: &Client, cx: &Context, mut state: Object) -> Result<Object> {
    let id: String = state.get("id")?;
    let found = cx.run("reading the drill", api.read::<Drill>(&id)).await?;
    let found = found.map_err(|error| failed("read the drill", &error, same))?;
    let promised = state.clone();
    DrillKind::describe(&found, &mut state);
    add_evidence(api, cx, &mut state).await?;
    // Everything that was found is news; what was declared stays as it was planned.
    for (name, value) in &promised {
        if !FOUND.contains(&name.as_str()) && !value.is_unknown() {
            state.set(name.clone(), value.clone());
        }
    }
    Ok(state)
}

/// Begins a run: again for a while where it is refused, since what the same apply declared has its first recovery point a
/// moment later.
async fn begin(api: &Client, cx: &Context, id: &str, what: &str) -> Result<Job> {
    let mut waited = Duration::ZERO;
    loop {
        let error = match api.verb::<Drill>(id, "run", &DrillRunRequest {}).await {
            Ok(job) => return Ok(job),
            Err(error) => error,
        };
        let may_pass = matches!(error.kind(), ClientErrorKind::Conflict | ClientErrorKind::Invalid);
        if !may_pass || waited >= REFUSED_TIME_MAX {
            return Err(failed(&format!("run the {what}"), &error, same));
        }
        let waiting = format!("waiting to run the {what} ({error})");
        cx.progress(waiting.clone());
        cx.sleep(&waiting, LOOK_INTERVAL).await?;
        waited += LOOK_INTERVAL;
    }
}

/// Runs the drill and tells how it came out. A test that is still up from the run before is ended first.
async fn run(api: &Client, cx: &Context, id: &str, what: &str) -> Result<()> {
    end_test(api, cx, id, what).await?;
    let job = begin(api, cx, id, what).await?;
    let over = follow(api, cx, job).await?;
    let said = match over.state {
        JobState::Succeeded => over.result.drill.map(|outcome| outcome.failures).unwrap_or_default(),
        _ => return Err(unsuccessful(&format!("run the {what}"), &over)),
    };
    if !said.is_empty() {
        let found: Vec<String> = said.iter().map(|one| format!("  - {one}")).collect();
        cx.warn(
            format!("The {what} did not pass"),
            format!("{}\n\nIts evidence says everything: lifeboat drill report {id}", found.join("\n")),
        );
    }
    Ok(())
}

/// Breaks off what runs, and ends the test that is up.
async fn end_test(api: &Client, cx: &Context, id: &str, what: &str) -> Result<()> {
    let read = async || match cx.run("reading the drill", api.read::<Drill>(id)).await? {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(failed(&format!("read the {what}"), &error, same)),
    };
    let Some(mut found) = read().await? else { return Ok(()) };
    if found.status.state == DrillState::Running
        && let Some(job) = found.status.job_id
    {
        // One that is over by now is as good.
        let _ = api.cancel_job(&job.to_string()).await;
        let job = api.job(&job.to_string()).await.map_err(|error| failed(&format!("stop the {what}"), &error, same))?;
        follow(api, cx, job).await?;
        let Some(again) = read().await? else { return Ok(()) };
        found = again;
    }
    if found.status.test_job_id.is_none() {
        return Ok(());
    }
    let begun = api.verb::<Drill>(id, "cleanup", &PlanCleanupRequest::default()).await;
    let job = begun.map_err(|error| failed(&format!("end the test of the {what}"), &error, same))?;
    let over = follow(api, cx, job).await?;
    match over.state {
        JobState::Succeeded => Ok(()),
        _ => Err(unsuccessful(&format!("end the test of the {what}"), &over)),
    }
}

/// In the private data: a run is wanted that nobody has waited for.
const UNFINISHED: &str = "unfinished";

/// Runs the drill that a create or an update wants, and reads what came of it. A stop leaves it as it stands: declared, and still to be
/// run by the next apply. Nothing of it is made again for that.
async fn run_for(api: &Client, cx: &Context, made: Object) -> Result<Object> {
    let (id, what): (String, _) = (made.get("id")?, called(&made));
    cx.set_private(UNFINISHED, &true)?;
    cx.save_partial(made.clone());
    match run(api, cx, &id, &what).await {
        Ok(()) => {
            let read = read_back(api, cx, made).await?;
            cx.remove_private(UNFINISHED);
            Ok(read)
        }
        Err(said) if cx.is_cancelled() => {
            let detail = format!("{said}. A run that has begun goes on at the gateway; the next apply runs it again.");
            cx.warn(format!("The {what} was not waited for"), detail);
            let mut state = made;
            for name in FOUND.iter().filter(|name| state.is_unknown(name)).copied().collect::<Vec<_>>() {
                state.set(name, Value::Null);
            }
            Ok(state)
        }
        Err(errors) => Err(errors),
    }
}

fn called(state: &Object) -> String {
    format!("drill {}", state.get::<String>("name").or_else(|_| state.get("id")).unwrap_or_default())
}

/// Whether the last run is worth nothing any more, and nothing but an apply runs it again.
fn is_due(prior: &Object) -> bool {
    let expires = prior.get::<Option<String>>("expires_at").ok().flatten();
    let expired = expires.and_then(|text| text.parse::<Timestamp>().ok()).is_some_and(|time| time <= Timestamp::now());
    expired && prior.value("schedule").is_none_or(Value::is_null)
}

#[async_trait]
impl Resource<Link> for DrillResource {
    fn type_name(&self) -> &str {
        self.0.type_name()
    }

    fn schema(&self) -> Schema {
        self.0.schema()
    }

    fn identity_schema(&self) -> Option<IdentitySchema> {
        self.0.identity_schema()
    }

    fn identity(&self, state: &Object) -> Option<Object> {
        self.0.identity(state)
    }

    async fn validate_config(&self, cx: &Context, config: &Object) -> Result<()> {
        self.0.validate_config(cx, config).await
    }

    async fn modify_plan(&self, link: &Link, cx: &Context, plan: &mut PlanChange) -> Result<()> {
        let runs = plan.is_update()
            && !plan.is_replacement()
            && (TESTED.iter().any(|name| plan.changes(*name))
                || plan.prior().is_some_and(is_due)
                || cx.private::<bool>(UNFINISHED) == Some(true));
        if runs {
            FOUND.iter().for_each(|name| plan.set_unknown(name));
        }
        self.0.modify_plan(link, cx, plan).await
    }

    async fn create(&self, link: &Link, cx: &Context, mut request: CreateRequest) -> Result<Object> {
        let api = link.api()?;
        if request.plan.is_unknown("name") {
            let plan: String = request.plan.get("plan_id")?;
            request.plan.set("name", name_for(api, &plan).await?);
        }
        let made = self.0.create(link, cx, request).await?;
        run_for(api, cx, made).await
    }

    async fn read(&self, link: &Link, cx: &Context, state: Object) -> Result<Option<Object>> {
        let Some(mut state) = self.0.read(link, cx, state).await? else { return Ok(None) };
        add_evidence(link.api()?, cx, &mut state).await?;
        Ok(Some(state))
    }

    async fn update(&self, link: &Link, cx: &Context, request: UpdateRequest) -> Result<Object> {
        let api = link.api()?;
        let runs = request.plan.is_unknown("finished_at");
        let made = self.0.update(link, cx, request).await?;
        if !runs {
            return Ok(made);
        }
        run_for(api, cx, made).await
    }

    async fn delete(&self, link: &Link, cx: &Context, state: Object) -> Result<()> {
        let id: String = state.get("id")?;
        end_test(link.api()?, cx, &id, &called(&state)).await?;
        self.0.delete(link, cx, state).await
    }

    async fn import(&self, link: &Link, cx: &Context, id: &str) -> Result<Object> {
        self.0.import(link, cx, id).await
    }
}

#[cfg(test)]
mod tests {
    use tf_provider_sdk::IntoValue as _;

    use super::*;

    /// A state of a drill that passed, in its schema's shape.
    fn passed(more: &[(&str, Value)]) -> Object {
        let mut state = Object::new()
            .with("id", "drill-00000000000000000000000000000001")
            .with("plan_id", "plan-00000000000000000000000000000001")
            .with("name", "weekly")
            .with("point", "latest")
            .with("network", "isolated")
            .with("valid_for", "90d")
            .with("keep", false)
            .with("state", "passed")
            .with("passed", true)
            .with("finished_at", "2026-11-20T10:05:00Z")
            .with("expires_at", "2126-11-20T10:05:00Z");
        for (name, value) in more {
            state.set(*name, value.clone());
        }
        DrillKind::schema().conform(state).unwrap()
    }

    async fn planned(prior: &Object, planned: Object) -> Object {
        let mut change = PlanChange::new(Some(planned.clone()), Some(prior.clone()), Some(planned));
        let link = Link::waiting_for(vec!["`endpoint`".to_owned()]);
        DrillResource::boxed().modify_plan(&link, &Context::for_test(), &mut change).await.unwrap();
        change.planned().unwrap().clone()
    }

    #[tokio::test]
    async fn what_is_tested_decides_whether_it_runs_again() {
        let state = passed(&[]);
        assert_eq!(planned(&state, state.clone()).await, state, "nothing changes, nothing runs");
        let longer = passed(&[("valid_for", "180d".into_value())]);
        assert!(planned(&state, longer).await.is_known("finished_at"), "what a run is worth is no reason for another");
        for (name, value) in [
            ("point", "latest-app-consistent".into_value()),
            ("max_rto", "5m".into_value()),
            ("keep", true.into_value()),
        ] {
            let plan = planned(&state, passed(&[(name, value)])).await;
            assert!(FOUND.iter().all(|name| plan.is_unknown(name)), "{name}: {plan:?}");
        }
    }

    #[tokio::test]
    async fn one_that_expired_runs_again_unless_it_has_a_schedule() {
        let past = ("expires_at", "2026-01-01T00:00:00Z".into_value());
        let expired = passed(std::slice::from_ref(&past));
        assert!(planned(&expired, expired.clone()).await.is_unknown("passed"));
        let schedule = Value::Object(Object::new().with("every", "7d"));
        let scheduled = passed(&[past, ("schedule", schedule)]);
        assert_eq!(planned(&scheduled, scheduled.clone()).await, scheduled);
    }
}
