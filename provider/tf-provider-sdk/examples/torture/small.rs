//! `torture_old`, which becomes a `torture_everything` by a `moved` block, and `torture_slow`, which
//! takes its time, and `torture_blob`, which is large.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tf_provider_sdk::{
    Attribute, Context, CreateRequest, Deferral, Object, PlanChange, Resource, Result, Schema, UpdateRequest, Value,
    async_trait,
};

use super::{Store, count};

const LOOK_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Old;

#[async_trait]
impl Resource<Store> for Old {
    fn type_name(&self) -> &str {
        "torture_old"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::id())
            .attribute(Attribute::string("name").required().requires_replace())
            .attribute(Attribute::bool("later").optional())
    }

    async fn modify_plan(&self, _: &Store, cx: &Context, plan: &mut PlanChange) -> Result<()> {
        if plan.is_create() && plan.get::<Option<bool>>("later")? == Some(true) {
            cx.defer(Deferral::AbsentPrerequisite)?;
        }
        Ok(())
    }

    async fn create(&self, store: &Store, cx: &Context, request: CreateRequest) -> Result<Object> {
        let mut state = request.plan;
        let name: String = state.get("name")?;
        assert_ne!(name, "panics", "so the test says");
        state.set("id", format!("old-{name}"));
        cx.set_private("old", &format!("kept with {name}"))?;
        store.put(&state.get::<String>("id")?, &state)?;
        // What a `moved` block turns it into later.
        let thing = super::everything::Everything.schema().conform(
            Object::new()
                .with("id", format!("thing-{name}"))
                .with("name", &name)
                .with("defaulted", "by default")
                .with("derived", format!("derived from {name}"))
                .with("group", Object::new().with("number", 7_u64).with("made", "made for nothing"))
                .with("string", format!("kept with {name}"))
                .with("string_again", format!("kept with {name}")),
        )?;
        store.put(&format!("thing-{name}"), &thing)?;
        Ok(state)
    }

    async fn read(&self, store: &Store, _: &Context, state: Object) -> Result<Option<Object>> {
        store.get(&state.get::<String>("id")?, &self.schema())
    }

    async fn update(&self, store: &Store, _: &Context, request: UpdateRequest) -> Result<Object> {
        store.put(&request.plan.get::<String>("id")?, &request.plan)?;
        Ok(request.plan)
    }

    async fn delete(&self, store: &Store, _: &Context, state: Object) -> Result<()> {
        store.remove(&state.get::<String>("id")?)
    }
}

#[derive(Debug)]
pub(crate) struct Slow;

#[async_trait]
impl Resource<Store> for Slow {
    fn type_name(&self) -> &str {
        "torture_slow"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::id())
            .attribute(Attribute::string("name").required().requires_replace())
            // Waits until so many creates run at once.
            .attribute(Attribute::number("at_once").default(1_u64))
            // Exists, and is never ready.
            .attribute(Attribute::bool("hang").default(false))
            // Waits until a lease was renewed so often.
            .attribute(Attribute::string("lease").optional())
            .attribute(Attribute::number("renewals").default(0_u64))
            .attribute(Attribute::string("state").computed().use_state_for_unknown())
            .write_only(Attribute::string("key").optional())
            .timeouts(tf_provider_sdk::Timeouts::new().create(Duration::from_secs(60)))
    }

    async fn create(&self, store: &Store, cx: &Context, request: CreateRequest) -> Result<Object> {
        let mut state = request.plan;
        let name: String = state.get("name")?;
        let id = format!("slow-{name}");
        state.set("id", id.as_str());
        store.put(&id, &state.clone().with("state", "being made"))?;
        cx.save_partial(state.clone());
        let at_once: u64 = state.get("at_once")?;
        store.at_once.fetch_add(1, Ordering::SeqCst);
        let enough = usize::try_from(at_once).unwrap_or(usize::MAX);
        cx.poll("waiting for the others", LOOK_INTERVAL, || async {
            Ok((store.at_once.load(Ordering::SeqCst) >= enough).then_some(()))
        })
        .await?;
        if state.get::<bool>("hang")? {
            cx.sleep("waiting in vain", Duration::from_secs(3600)).await?;
        }
        if let Some(lease) = state.get::<Option<String>>("lease")? {
            let renewals: u64 = state.get("renewals")?;
            let enough = usize::try_from(renewals).unwrap_or(usize::MAX);
            cx.poll("waiting for a renewal", LOOK_INTERVAL, || async {
                Ok((count(&store.log(&lease), "renewed") >= enough).then_some(()))
            })
            .await?;
        }
        state.set("state", "made");
        store.put(&id, &state)?;
        Ok(state)
    }

    async fn read(&self, store: &Store, _: &Context, state: Object) -> Result<Option<Object>> {
        let found = store.get(&state.get::<String>("id")?, &self.schema())?;
        Ok(found.map(|found| found.with("timeouts", state.value("timeouts").cloned().unwrap_or(Value::Null))))
    }

    async fn delete(&self, store: &Store, _: &Context, state: Object) -> Result<()> {
        store.remove(&state.get::<String>("id")?)
    }
}

#[derive(Debug)]
pub(crate) struct Blob;

#[async_trait]
impl Resource<Store> for Blob {
    fn type_name(&self) -> &str {
        "torture_blob"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::id())
            // Sensitive, so that Terraform does not print it.
            .attribute(Attribute::string("content").required().sensitive())
            .attribute(Attribute::number("length").computed())
    }

    async fn create(&self, store: &Store, _: &Context, request: CreateRequest) -> Result<Object> {
        self.keep(store, request.plan)
    }

    async fn read(&self, store: &Store, _: &Context, state: Object) -> Result<Option<Object>> {
        store.get(&state.get::<String>("id")?, &self.schema())
    }

    async fn update(&self, store: &Store, _: &Context, request: UpdateRequest) -> Result<Object> {
        self.keep(store, request.plan)
    }

    async fn delete(&self, store: &Store, _: &Context, state: Object) -> Result<()> {
        store.remove(&state.get::<String>("id")?)
    }
}

impl Blob {
    fn keep(&self, store: &Store, mut state: Object) -> Result<Object> {
        let length = state.value("content").and_then(Value::as_str).map_or(0, str::len);
        state.set("length", u64::try_from(length).unwrap_or_default());
        state.set("id", "blob");
        store.put("blob", &state)?;
        Ok(state)
    }
}
