//! A planned change as the resource's own check sees it. How the plan is made is in `planning`.

use crate::value::{ConvertError, FromValue, IntoValue, Object, Path, Value};

/// What kind of change a [`PlanChange`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// There is nothing yet.
    Create,
    /// It exists and stays; or is replaced, if [`PlanChange::requires_replace`] is not empty.
    Update,
    /// It exists and goes.
    Destroy,
}

/// A planned change, for [`Resource::modify_plan`](crate::Resource::modify_plan).
#[derive(Debug, Clone)]
pub struct PlanChange {
    pub(crate) config: Option<Object>,
    pub(crate) prior: Option<Object>,
    pub(crate) planned: Option<Object>,
    pub(crate) requires_replace: Vec<Path>,
}

impl PlanChange {
    /// A change from its parts, for a provider's own unit tests.
    pub fn new(config: Option<Object>, prior: Option<Object>, planned: Option<Object>) -> Self {
        Self { config, prior, planned, requires_replace: Vec::new() }
    }

    /// Create, update or destroy.
    pub fn kind(&self) -> PlanKind {
        match (&self.prior, &self.planned) {
            (None, _) => PlanKind::Create,
            (Some(_), Some(_)) => PlanKind::Update,
            (Some(_), None) => PlanKind::Destroy,
        }
    }

    /// True for a create, also the second half of a replacement.
    pub fn is_create(&self) -> bool {
        self.kind() == PlanKind::Create
    }

    /// True for an update, also one that became a replacement.
    pub fn is_update(&self) -> bool {
        self.kind() == PlanKind::Update
    }

    /// True for a destroy.
    pub fn is_destroy(&self) -> bool {
        self.kind() == PlanKind::Destroy
    }

    /// True for an update that changes nothing. Terraform asks for a plan of every resource, changed or
    /// not: checks that concern changes only return early here.
    pub fn is_unchanged(&self) -> bool {
        self.is_update() && self.prior == self.planned
    }

    /// The configuration; `None` on destroy.
    pub fn config(&self) -> Option<&Object> {
        self.config.as_ref()
    }

    /// The state before; `None` on create.
    pub fn prior(&self) -> Option<&Object> {
        self.prior.as_ref()
    }

    /// The planned state; `None` on destroy.
    pub fn planned(&self) -> Option<&Object> {
        self.planned.as_ref()
    }

    /// A planned attribute as `T`; on destroy, the prior one.
    pub fn get<T: FromValue>(&self, name: &str) -> std::result::Result<T, ConvertError> {
        match self.planned.as_ref().or(self.prior.as_ref()) {
            Some(object) => object.get(name),
            None => Err(ConvertError::new("nothing is planned")),
        }
    }

    /// A prior attribute as `T`; `None` on create.
    pub fn get_prior<T: FromValue>(&self, name: &str) -> std::result::Result<Option<T>, ConvertError> {
        self.prior.as_ref().map(|prior| prior.get(name)).transpose()
    }

    /// True if an existing resource gets another value at `path`; unknown counts as another value.
    pub fn changes(&self, path: impl Into<Path>) -> bool {
        let path = path.into();
        match (&self.prior, &self.planned) {
            (Some(prior), Some(planned)) => prior.at(&path) != planned.at(&path),
            _ => false,
        }
    }

    /// Plans another value for a top-level attribute. Terraform accepts it for computed attributes
    /// that the configuration doesn't set. Nothing happens on destroy.
    pub fn set(&mut self, name: &str, value: impl IntoValue) {
        if let Some(planned) = &mut self.planned {
            planned.set(name, value);
        }
    }

    /// Plans "known after apply" for a top-level computed attribute.
    pub fn set_unknown(&mut self, name: &str) {
        self.set(name, Value::Unknown);
    }

    /// Replaces the resource because of the attribute at `path`. Only for an update, and only where
    /// the attribute's planned value differs from the prior one (unknown does) does Terraform follow.
    pub fn require_replace(&mut self, path: impl Into<Path>) {
        let path = path.into();
        if !self.requires_replace.contains(&path) {
            self.requires_replace.push(path);
        }
    }

    /// The attributes whose change replaces the resource.
    pub fn requires_replace(&self) -> &[Path] {
        &self.requires_replace
    }

    /// True for an update that is a replacement.
    pub fn is_replacement(&self) -> bool {
        self.is_update() && !self.requires_replace.is_empty()
    }
}
