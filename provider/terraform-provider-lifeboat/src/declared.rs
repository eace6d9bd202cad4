//! What all resources have in common: one object of the API, declared by a spec, observed by a status.
//!
//! ```text
//! validate   spec of what is known, judged by the API's own rules, under the attributes' paths
//! plan       what can't work is refused (`judge`), what is in the way of a destroy is named
//! create     POST ─> kept as partial state ─> settle ─> state
//! read       GET ─> state; gone ─> None; gone because another gateway answers ─> an error
//! update     GET for the generation ─> PATCH (again when someone was faster) ─> settle ─> state
//! delete     GET ─> DELETE; blocked by what ends by itself, or by less and less ─> again; else an error that names it
//!            (what names a machine, a volume, a network or a policy stays, and lacks it until its own change in the same run:
//!            Terraform destroys first)
//! ```
//! Stop and deadlines end every wait, never a request that changes something: what was created is always in the state, and
//! a stop alone taints nothing.
//! Computed attributes that a plan promised keep the promised value until the next refresh.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::Duration;

use lifeboat_api::client::Collection;
use lifeboat_api::validate::Validate;
use lifeboat_api::{Client, ClientError, ClientErrorKind, Resource as ApiResource, Vault};
use serde::Serialize;
use tf_provider_sdk::{
    Context, CreateRequest, Diagnostic, Diagnostics, IdentitySchema, Object, Path, PlanChange, Resource, Result,
    Schema, Type, UpdateRequest, async_trait, import_by_id,
};

use crate::claims::Claim;
use crate::link::Link;
use crate::mentions::Mention;
use crate::values::Values;
use crate::wording::{self, Rename, failed, sentence};

/// How often a change is tried again because someone else was faster.
const STALE_TRIES_MAX: u32 = 5;
/// Time between two looks at what is awaited.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a destroy waits for what goes away by itself.
const GIVING_WAY_TIME_MAX: Duration = Duration::from_secs(60);
/// How long it waits for the rest while nothing changes: the same run may destroy it, in an order that Terraform doesn't know
/// where the configuration has ids in the place of references.
const STANDING_STILL_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a change has waited for what it clashes with: the same run may be about to take that away, in an order that
/// Terraform doesn't know.
#[derive(Debug, Default)]
struct Patience {
    waited: Duration,
}

impl Patience {
    /// Waits a moment, if it makes sense after this error.
    async fn has_for(&mut self, cx: &Context, error: &ClientError, doing: &str) -> Result<bool> {
        if !wording::clashes(error) || self.waited >= STANDING_STILL_TIME_MAX {
            return Ok(false);
        }
        let waiting = format!("waiting to {doing} ({error})");
        cx.progress(waiting.clone());
        cx.sleep(&waiting, LOOK_INTERVAL).await?;
        self.waited += LOOK_INTERVAL;
        Ok(true)
    }
}

/// Something that lies in the way of a destroy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependent {
    /// Its id.
    pub(crate) id: String,
    /// `site onprem`.
    pub(crate) text: String,
}

impl Dependent {
    pub(crate) fn new(kind: &str, object: &impl ApiResource) -> Self {
        Self { id: object.id(), text: format!("{kind} {} ({})", object.name(), object.id()) }
    }
}

/// Everything of a kind that may lie in the way. A gateway of an earlier version doesn't know the kind, and so has none of it.
pub(crate) async fn all<R: ApiResource + Collection>(api: &Client) -> std::result::Result<Vec<R>, ClientError> {
    match api.list(R::PATH, &[]).await {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        found => found,
    }
}

/// One kind of object: what is particular to it.
#[async_trait]
pub(crate) trait Kind: Send + Sync + 'static {
    /// The body of a POST.
    type Spec: Serialize + Validate + Send + Sync;
    /// What a GET answers.
    type View: ApiResource + Collection + Sync;
    /// The resource's full name.
    const TYPE: &'static str;
    /// What it is called in messages.
    const NOUN: &'static str;
    /// How its API fields are called as attributes.
    const RENAME: Rename = wording::same;

    /// Its schema.
    fn schema() -> Schema;

    /// The spec that the attributes describe.
    fn spec(values: &Values<'_>) -> Self::Spec;

    /// Writes what the API says into a state; what the API doesn't know stays.
    fn describe(found: &Self::View, state: &mut Object);

    /// The body of a PATCH.
    fn patch(spec: &Self::Spec) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(spec)
    }

    /// Refuses a create, an update or a replacement that can't work or must not happen.
    fn judge(_plan: &PlanChange) -> Result<()> {
        Ok(())
    }

    /// What only one object can have, of what is planned.
    fn claims(_plan: &PlanChange) -> Result<Vec<Claim>> {
        Ok(Vec::new())
    }

    /// Tells what others of the same run may count on.
    fn announce(_link: &Link, _plan: &PlanChange) {}

    /// What changes in a way that needs a replacement, beyond what the schema says.
    fn replaces(_plan: &PlanChange) -> Vec<&'static str> {
        Vec::new()
    }

    /// Refuses a change or a replacement for a reason that only a gateway knows. What can't be found out is no reason to refuse.
    async fn refuse_change(_api: &Client, _plan: &PlanChange) -> Result<()> {
        Ok(())
    }

    /// Whether [`Kind::foresee`] looks at changes, too.
    const FORESEES_CHANGES: bool = false;

    /// Refuses a create that can't work as things are. What can't be found out is no reason to refuse.
    async fn foresee(_link: &Link, _api: &Client, _plan: &PlanChange) -> Result<()> {
        Ok(())
    }

    /// What would not be as it was wished for, as things are, and stops nothing.
    async fn remarks(_api: &Client, _plan: &PlanChange) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// The objects that one names and can come to lack: where, and their ids.
    fn names(_planned: &Object) -> Vec<Mention> {
        Vec::new()
    }

    /// What must go before an object can: only what another resource may manage.
    async fn dependents(_api: &Client, _id: &str) -> std::result::Result<Vec<Dependent>, ClientError> {
        Ok(Vec::new())
    }

    /// What no other resource manages and is surely in the way of a destroy.
    async fn obstacles(_api: &Client, _id: &str) -> std::result::Result<Vec<String>, ClientError> {
        Ok(Vec::new())
    }

    /// Whether what names one stays when it is destroyed, and lacks it until it names another or none. Terraform destroys first,
    /// and changes what named it after that.
    const GOES_WHILE_NAMED: bool = false;

    /// What names one in that way.
    async fn namers(_api: &Client, _id: &str) -> std::result::Result<Vec<Dependent>, ClientError> {
        Ok(Vec::new())
    }

    /// Whether this obstacle to a delete goes away by itself: a job ends.
    fn gives_way(blocker: &str) -> bool {
        blocker.starts_with("job ")
    }

    /// A better explanation of a create that failed.
    async fn explain(_api: &Client, _spec: &Self::Spec, _error: &ClientError) -> Option<Diagnostics> {
        None
    }

    /// Before a PATCH: a part of the change that has a request of its own.
    async fn before_patch(_api: &Client, _spec: &Self::Spec, _request: &UpdateRequest) -> Result<()> {
        Ok(())
    }

    /// Waits until what was asked for is so.
    async fn settle(_api: &Client, _cx: &Context, found: Self::View, _spec: &Self::Spec) -> Result<Self::View> {
        Ok(found)
    }
}

/// A [`Kind`] as a resource of Terraform's.
pub(crate) struct Declared<K>(PhantomData<fn() -> K>);

impl<K: Kind> Declared<K> {
    pub(crate) fn boxed() -> Box<dyn Resource<Link>> {
        Box::new(Self(PhantomData))
    }
}

/// All that is wrong with a configuration, as far as it is known.
pub(crate) fn check<K: Kind>(config: &Object) -> Diagnostics {
    let faults = RefCell::default();
    let spec = K::spec(&Values::configured(config, &faults));
    let mut found: Diagnostics = faults.into_inner();
    for error in spec.validate().err().unwrap_or_default() {
        let name = (K::RENAME)(&error.field);
        let path = Path::from(name.as_str());
        // What couldn't even be read was said already.
        if !found.iter().any(|said| said.attribute.as_ref() == Some(&path)) {
            found.push(wording::field_fault(&format!("Invalid value for {name:?}"), &error, K::RENAME));
        }
    }
    found
}

fn spec_of<K: Kind>(plan: &Object, config: &Object) -> Result<K::Spec> {
    let faults = RefCell::default();
    let spec = K::spec(&Values::planned(plan, config, &faults));
    faults.into_inner().into_result()?;
    Ok(spec)
}

/// What becomes of a plan: what it left open is filled in from `fresh`, all else is as promised.
fn fulfil(plan: &Object, fresh: &Object) -> Object {
    let mut state = plan.clone();
    for (name, value) in fresh {
        if plan.is_unknown(name) {
            state.set(name.clone(), value.clone());
        }
    }
    state
}

/// The plan with what the API answered.
fn state_of<K: Kind>(plan: &Object, found: &K::View) -> Object {
    let mut fresh = plan.clone();
    fresh.set("id", found.id());
    K::describe(found, &mut fresh);
    fulfil(plan, &fresh)
}

fn called<K: Kind>(state: &Object) -> String {
    match state.get::<Option<String>>("name") {
        Ok(Some(name)) => format!("{} {name}", K::NOUN),
        // What has no name has an id, once it is there.
        _ => format!("{} {}", K::NOUN, state.get::<String>("id").unwrap_or_default()).trim_end().to_owned(),
    }
}

/// Refuses what another object of the same run is planned to have. What stays as it is counts as well.
fn claim<K: Kind>(link: &Link, plan: &PlanChange) -> Result<()> {
    let Some(planned) = plan.planned().filter(|planned| planned.is_known("name")) else { return Ok(()) };
    let refused = link.claims.take(&called::<K>(planned), K::claims(plan)?);
    let mut found = Diagnostics::new();
    for (Claim { path, what, value, .. }, holder) in refused {
        let detail = format!("{what} {value} is the {holder}'s already. Give one of the two another.");
        found.push(
            Diagnostic::error(format!("The {} clashes with another", called::<K>(planned)), sentence(&detail)).at(path),
        );
    }
    found.into_result()
}

/// Refuses to name what the same run destroys. Of the two, whichever is planned second is refused.
fn mention<K: Kind>(link: &Link, plan: &PlanChange) -> Result<()> {
    let Some(planned) = plan.planned() else { return Ok(()) };
    let named = K::names(planned);
    let found: Diagnostics = named
        .iter()
        .filter(|mention| link.is_doomed(&mention.id))
        .map(|Mention { path, id }| {
            let detail = format!(
                "{path} names {id}, which this plan destroys. Take it out, or keep the resource that is to be destroyed."
            );
            Diagnostic::error(format!("The {} would name what is gone", called::<K>(planned)), detail).at(path.as_str())
        })
        .collect();
    let id = planned.get::<String>("id").unwrap_or_default();
    link.mentions.set(&id, &called::<K>(planned), named);
    found.into_result()
}

/// Refuses to plan the end of an object that something is in the way of for sure.
async fn unobstructed<K: Kind>(api: &Client, cx: &Context, id: &str, what: &str) -> Result<()> {
    let looking = format!("looking for what is in the way of destroying the {what}");
    // A gateway that can't be asked is met again at apply, which says so.
    let obstacles = cx.run(&looking, K::obstacles(api, id)).await?.unwrap_or_default();
    if obstacles.is_empty() {
        return Ok(());
    }
    Err(Diagnostics::error(format!("Cannot destroy the {what}"), format!("In the way: {}.", obstacles.join("; "))))
}

/// What a plan of a destroy has to say.
async fn plan_destroy<K: Kind>(link: &Link, api: &Client, cx: &Context, plan: &PlanChange) -> Result<()> {
    let id: String = plan.get("id")?;
    let what = called::<K>(plan.prior().unwrap_or(&Object::new()));
    link.doom(&id);
    if let Some((holder, path)) = link.mentions.of(&id) {
        return Err(Diagnostics::error(
            format!("The {what} would be destroyed, and named still"),
            format!("{path} of the {holder} names it, and stays as it is. Take it out there, or keep the {what}."),
        ));
    }
    let looking = format!("looking for what is in the way of destroying the {what}");
    unobstructed::<K>(api, cx, &id, &what).await?;
    let (dependents, namers) =
        cx.run(&looking, async { (K::dependents(api, &id).await, K::namers(api, &id).await) }).await?;
    let list = |found: Vec<Dependent>| -> Vec<String> {
        let left = found.into_iter().filter(|one| !link.is_doomed(&one.id) && !link.mentions.has(&one.id));
        left.map(|one| format!("  - {}", one.text)).collect()
    };
    let named = list(namers.unwrap_or_default());
    if !named.is_empty() {
        cx.warn(
            format!("The {what} is still named"),
            format!(
                "These name it:\n{}\n\nWhat this plan destroys or changes follows, and names it no more. The rest stays, and \
                 says that it lacks the {what} until it names another, or none.",
                named.join("\n")
            ),
        );
    }
    let left = list(dependents.unwrap_or_default());
    if !left.is_empty() {
        cx.warn(
            format!("The {what} is still in use"),
            format!(
                "It can be destroyed only after these:\n{}\n\nWhat this plan destroys goes first. The rest must be destroyed \
                 before, or the {what} stays.",
                left.join("\n")
            ),
        );
    }
    Ok(())
}

/// An object that isn't there: deleted, or the wrong gateway was asked?
///
/// With several gateways configured, one that doesn't have the vault attached may be the one that answers, after a
/// disaster above all. All that is declared would then seem deleted, and the next plan would declare it afresh.
async fn is_gone<K: Kind>(link: &Link, api: &Client, cx: &Context, state: &Object) -> Result<bool> {
    if !link.has_several_gateways() {
        return Ok(true);
    }
    let vault: Option<String> = if K::TYPE == "lifeboat_vault" {
        Some(state.get("id")?)
    } else {
        state.value("vault_id").and_then(|value| value.as_str()).map(str::to_owned)
    };
    let what = called::<K>(state);
    let attached: Vec<Vault> = cx
        .run("looking for the vault", api.list(Vault::PATH, &[]))
        .await?
        .map_err(|error| failed(&format!("read the {what}"), &error, K::RENAME))?;
    let is_attached = match &vault {
        Some(id) => attached.iter().any(|vault| vault.id() == *id),
        None => !attached.is_empty(),
    };
    if is_attached {
        return Ok(true);
    }
    Err(Diagnostics::error(
        format!("Cannot read the {what}"),
        format!(
            "The gateway that answered, {}, does not have its vault attached, so that nobody knows whether it still exists. \
             Attach the vault there (lifeboat vault open URL, with its key), or take that gateway out of the provider's \
             endpoints. If the vault was detached on purpose, remove what is in it from the state (terraform state rm).",
            api.endpoint()
        ),
    ))
}

#[async_trait]
impl<K: Kind> Resource<Link> for Declared<K> {
    fn type_name(&self) -> &str {
        K::TYPE
    }

    fn schema(&self) -> Schema {
        K::schema()
    }

    fn identity_schema(&self) -> Option<IdentitySchema> {
        Some(IdentitySchema::new().required("id", Type::String, "The id that the gateways know it by."))
    }

    fn identity(&self, state: &Object) -> Option<Object> {
        Some(Object::new().with("id", state.value("id")?.clone()))
    }

    async fn validate_config(&self, _: &Context, config: &Object) -> Result<()> {
        check::<K>(config).into_result()
    }

    async fn modify_plan(&self, link: &Link, cx: &Context, plan: &mut PlanChange) -> Result<()> {
        claim::<K>(link, plan)?;
        mention::<K>(link, plan)?;
        K::announce(link, plan);
        if plan.is_unchanged() {
            return Ok(());
        }
        for path in K::replaces(plan) {
            plan.require_replace(path);
        }
        if let Ok(api) = link.api()
            && plan.is_update()
        {
            cx.run("looking at what is declared", K::refuse_change(api, plan)).await??;
        }
        K::judge(plan)?;
        // Without a client, apply says what is wrong.
        let Ok(api) = link.api() else { return Ok(()) };
        if plan.is_replacement() {
            let id: String = plan.get_prior("id")?.unwrap_or_default();
            unobstructed::<K>(api, cx, &id, &called::<K>(plan.prior().unwrap_or(&Object::new()))).await?;
        }
        if plan.is_create() || (plan.is_update() && K::FORESEES_CHANGES) {
            let doing = "looking for what exists already";
            cx.run(doing, K::foresee(link, api, plan)).await??;
            cx.run(doing, K::remarks(api, plan)).await?.into_iter().for_each(|remark| cx.diagnose(remark));
            return Ok(());
        }
        if plan.is_destroy() {
            return plan_destroy::<K>(link, api, cx, plan).await;
        }
        Ok(())
    }

    async fn create(&self, link: &Link, cx: &Context, request: CreateRequest) -> Result<Object> {
        let api = link.api()?;
        let spec = spec_of::<K>(&request.plan, &request.config)?;
        let doing = format!("create the {}", called::<K>(&request.plan));
        // Not to be stopped half-way: what was created must get into the state.
        let mut patience = Patience::default();
        let found: K::View = loop {
            match api.post(K::View::PATH, &spec).await {
                Ok(found) => break found,
                Err(error) if patience.has_for(cx, &error, &doing).await? => {}
                Err(error) => {
                    return Err(match K::explain(api, &spec, &error).await {
                        Some(explained) => explained,
                        None => explain_conflict::<K>(api, &request.plan, &doing, &error).await,
                    });
                }
            }
        };
        let state = state_of::<K>(&request.plan, &found);
        cx.save_partial(state.clone());
        match K::settle(api, cx, found, &spec).await {
            Ok(found) => Ok(state_of::<K>(&request.plan, &found)),
            // It exists and goes on getting ready. An error would taint it, and the next apply would throw it away.
            Err(said) if cx.is_cancelled() => {
                let what = called::<K>(&request.plan);
                let detail = format!("{said}. The gateway goes on with it; the next refresh shows how far it is.");
                cx.warn(format!("The {what} was not waited for"), detail);
                Ok(state)
            }
            Err(errors) => Err(errors),
        }
    }

    async fn read(&self, link: &Link, cx: &Context, mut state: Object) -> Result<Option<Object>> {
        let api = link.api()?;
        let id: String = state.get("id")?;
        let doing = format!("reading the {}", called::<K>(&state));
        match cx.run(&doing, api.read::<K::View>(&id)).await? {
            Ok(found) => {
                state.set("id", found.id());
                K::describe(&found, &mut state);
                Ok(Some(state))
            }
            Err(error) if error.is_not_found() => Ok(match is_gone::<K>(link, api, cx, &state).await? {
                true => None,
                false => Some(state),
            }),
            Err(error) => Err(failed(&format!("read the {}", called::<K>(&state)), &error, K::RENAME)),
        }
    }

    async fn update(&self, link: &Link, cx: &Context, request: UpdateRequest) -> Result<Object> {
        let api = link.api()?;
        let spec = spec_of::<K>(&request.plan, &request.config)?;
        let id: String = request.prior.get("id")?;
        let doing = format!("change the {}", called::<K>(&request.prior));
        K::before_patch(api, &spec, &request).await?;
        let patch = K::patch(&spec).map_err(|error| Diagnostic::from_error(format!("Cannot {doing}"), &error))?;
        let mut tries = 0;
        let mut patience = Patience::default();
        let found: K::View = loop {
            tries += 1;
            let changed = async {
                let now: K::View = api.read(&id).await?;
                api.patch(&id, now.generation(), &patch).await
            };
            match changed.await {
                Ok(found) => break found,
                Err(error) if wording::is_stale(&error) && tries < STALE_TRIES_MAX => cx.check()?,
                Err(error) if patience.has_for(cx, &error, &doing).await? => {}
                Err(error) => return Err(failed(&doing, &error, K::RENAME)),
            }
        };
        cx.save_partial(state_of::<K>(&request.plan, &found));
        let found = K::settle(api, cx, found, &spec).await?;
        Ok(state_of::<K>(&request.plan, &found))
    }

    async fn delete(&self, link: &Link, cx: &Context, state: Object) -> Result<()> {
        let api = link.api()?;
        let id: String = state.get("id")?;
        let what = called::<K>(&state);
        let doing = format!("destroy the {what}");
        let (mut tries, mut waited, mut seen) = (0, Duration::ZERO, Vec::new());
        loop {
            let deleted = async {
                let now: K::View = api.read(&id).await?;
                match K::GOES_WHILE_NAMED {
                    true => api.delete_while_named::<K::View>(&id, now.generation()).await,
                    false => api.delete::<K::View>(&id, now.generation()).await,
                }
            };
            match deleted.await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() => {
                    is_gone::<K>(link, api, cx, &state).await?;
                    return Ok(());
                }
                Err(error) if wording::is_stale(&error) && tries < STALE_TRIES_MAX => tries += 1,
                Err(error) if !error.blockers().is_empty() => {
                    if error.blockers() != seen {
                        // Something is moving: what is left may go in the same run.
                        (seen, waited) = (error.blockers().to_vec(), Duration::ZERO);
                    }
                    let patience = if gives_way::<K>(&error) { GIVING_WAY_TIME_MAX } else { STANDING_STILL_TIME_MAX };
                    if waited >= patience {
                        return Err(
                            wording::in_the_way(&what, &error).unwrap_or_else(|| failed(&doing, &error, K::RENAME))
                        );
                    }
                    let waiting =
                        format!("waiting for {}, before the {what} can be destroyed", error.blockers().join(", "));
                    cx.progress(waiting.clone());
                    cx.sleep(&waiting, LOOK_INTERVAL).await?;
                    waited += LOOK_INTERVAL;
                }
                Err(error) => return Err(failed(&doing, &error, K::RENAME)),
            }
        }
    }

    async fn import(&self, _: &Link, _: &Context, id: &str) -> Result<Object> {
        Ok(import_by_id(id.trim()))
    }
}

/// Whether everything in the way goes away by itself.
fn gives_way<K: Kind>(error: &ClientError) -> bool {
    let blockers = error.blockers();
    !blockers.is_empty() && blockers.iter().all(|blocker| K::gives_way(blocker))
}

/// A create that failed; where the name is taken, with the id to import.
async fn explain_conflict<K: Kind>(api: &Client, plan: &Object, doing: &str, error: &ClientError) -> Diagnostics {
    let mut diagnostics = failed(doing, error, K::RENAME);
    let Ok(name) = plan.get::<String>("name") else { return diagnostics };
    if error.kind() == ClientErrorKind::Conflict
        && let Ok(Some(existing)) = api.find_by_name::<K::View>(&name).await
    {
        let said = error.fields().first().map_or_else(|| error.to_string(), |field| field.message.clone());
        let detail = format!(
            "{} If it is to be managed here: terraform import {}.NAME {}",
            wording::sentence(&said),
            K::TYPE,
            existing.id()
        );
        diagnostics = Diagnostic::error(format!("Cannot {doing}"), detail).at("name").into();
    }
    diagnostics
}
