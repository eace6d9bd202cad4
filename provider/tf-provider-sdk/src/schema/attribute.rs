//! One attribute: its type, who sets it, and the validators and plan modifiers that belong to it.

use std::fmt;
use std::sync::Arc;

use super::modify::{self, Modifier};
use super::validate::Validator;
use crate::value::{IntoValue, Object, Refinement, Type, Value, conform::conform};

/// What is taken where the configuration says nothing.
#[derive(Clone)]
pub(crate) enum Default {
    Value(Value),
    From(Arc<dyn Fn(&Object) -> Value + Send + Sync>),
}

impl fmt::Debug for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Self::From(_) => f.write_str("From"),
        }
    }
}

type Compare = dyn Fn(&Value, &Value) -> bool + Send + Sync;

/// Whether two known values say the same.
#[derive(Clone)]
pub(crate) struct Same(Arc<Compare>);

impl fmt::Debug for Same {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Same")
    }
}

impl Same {
    /// True if both are known and say the same.
    pub(crate) fn holds(&self, a: &Value, b: &Value) -> bool {
        let known = |value: &Value| !value.is_null() && value.is_wholly_known();
        known(a) && known(b) && (self.0)(a, b)
    }
}

/// An attribute of a block. Without a call to [`required`](Attribute::required),
/// [`optional`](Attribute::optional), [`computed`](Attribute::computed) or
/// [`default`](Attribute::default) it is optional.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "these are the protocol's own flags, each independent of the others")]
pub struct Attribute {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) description: String,
    pub(crate) required: bool,
    pub(crate) optional: bool,
    pub(crate) computed: bool,
    pub(crate) sensitive: bool,
    pub(crate) write_only: bool,
    pub(crate) deprecated: Option<String>,
    pub(crate) default: Option<Default>,
    pub(crate) validators: Vec<Validator>,
    pub(crate) modifiers: Vec<Modifier>,
    pub(crate) same: Option<Same>,
}

impl Attribute {
    /// An attribute of any type.
    pub fn new(name: impl Into<String>, ty: Type) -> Self {
        Self {
            name: name.into(),
            ty,
            description: String::new(),
            required: false,
            optional: false,
            computed: false,
            sensitive: false,
            write_only: false,
            deprecated: None,
            default: None,
            validators: Vec::new(),
            modifiers: Vec::new(),
            same: None,
        }
    }

    /// A string.
    pub fn string(name: impl Into<String>) -> Self {
        Self::new(name, Type::String)
    }

    /// A number.
    pub fn number(name: impl Into<String>) -> Self {
        Self::new(name, Type::Number)
    }

    /// A bool.
    pub fn bool(name: impl Into<String>) -> Self {
        Self::new(name, Type::Bool)
    }

    /// A list of `element`.
    pub fn list(name: impl Into<String>, element: Type) -> Self {
        Self::new(name, Type::list(element))
    }

    /// A set of `element`.
    pub fn set(name: impl Into<String>, element: Type) -> Self {
        Self::new(name, Type::set(element))
    }

    /// A map of `element`.
    pub fn map(name: impl Into<String>, element: Type) -> Self {
        Self::new(name, Type::map(element))
    }

    /// An object with these attributes. Protocol 5 has no nested attributes with flags of their own: use
    /// [`Type::with_optional`] and [`Attribute::new`] for an object whose parts may be left out, or a
    /// [`NestedBlock`](super::NestedBlock).
    pub fn object<N: Into<String>>(name: impl Into<String>, attributes: impl IntoIterator<Item = (N, Type)>) -> Self {
        Self::new(name, Type::object(attributes))
    }

    /// The usual `id`: computed, never null, kept from the state when known.
    pub fn id() -> Self {
        Self::string("id")
            .computed()
            .use_state_for_unknown()
            .never_null()
            .description("Identifier, given by the service.")
    }

    /// The configuration must set it.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The configuration may set it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The provider sets it, where the configuration does not (with `optional`) or always.
    #[must_use]
    pub fn computed(mut self) -> Self {
        self.computed = true;
        self
    }

    /// Taken when the configuration leaves it out. Makes the attribute optional and computed, as
    /// Terraform demands.
    #[must_use]
    pub fn default(mut self, value: impl IntoValue) -> Self {
        self.optional = true;
        self.computed = true;
        self.default = Some(Default::Value(value.into_value()));
        self
    }

    /// The same, from what the block's other attributes are: the configured ones, and the defaults of
    /// those that were declared before this one. Null means that there is no default and the provider
    /// decides at apply; unknown is a fine answer where another value is unknown.
    ///
    /// ```
    /// use tf_provider_sdk::{Attribute, Value};
    ///
    /// let title = Attribute::string("title")
    ///     .default_from(|block| block.value("name").cloned().unwrap_or_default());
    /// # let _ = title;
    /// ```
    #[must_use]
    pub fn default_from(mut self, default: impl Fn(&Object) -> Value + Send + Sync + 'static) -> Self {
        self.optional = true;
        self.computed = true;
        self.default = Some(Default::From(Arc::new(default)));
        self
    }

    /// Terraform hides the value in its output.
    #[must_use]
    pub fn sensitive(mut self) -> Self {
        self.sensitive = true;
        self
    }

    /// The value is read from the configuration at apply and kept nowhere. Pair it with a
    /// `…_version` attribute, whose change makes Terraform apply a new value. Resources only.
    #[must_use]
    pub fn write_only(mut self) -> Self {
        self.write_only = true;
        self
    }

    /// Terraform warns whoever sets it, with this message.
    #[must_use]
    pub fn deprecated(mut self, message: impl Into<String>) -> Self {
        self.deprecated = Some(message.into());
        self
    }

    /// What it is, in markdown.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Adds a validator; it sees known values only.
    #[must_use]
    pub fn validate(mut self, validator: Validator) -> Self {
        self.validators.push(validator);
        self
    }

    /// Adds a plan modifier; modifiers run in the order in which they were added.
    #[must_use]
    pub fn modify(mut self, modifier: Modifier) -> Self {
        self.modifiers.push(modifier);
        self
    }

    /// Keeps the state's value where the configuration says the same in other words: such a change alone
    /// plans nothing. `same` sees the state's and the configured value, both known.
    ///
    /// ```
    /// use tf_provider_sdk::{Attribute, Value, schema::parse_duration};
    ///
    /// // `90s` and `1m30s` are the same.
    /// let timeout = Attribute::string("timeout").required().keep_equivalent(|a, b| {
    ///     let time = |value: &Value| value.as_str().and_then(|text| parse_duration(text).ok());
    ///     time(a).is_some() && time(a) == time(b)
    /// });
    /// # let _ = timeout;
    /// ```
    #[must_use]
    pub fn keep_equivalent(mut self, same: impl Fn(&Value, &Value) -> bool + Send + Sync + 'static) -> Self {
        self.same = Some(Same(Arc::new(same)));
        self
    }

    /// Keeps the state's value where the plan would say "known after apply".
    #[must_use]
    pub fn use_state_for_unknown(self) -> Self {
        self.modify(modify::use_state_for_unknown())
    }

    /// Tells Terraform that the value won't be null, where the plan would say "known after apply".
    #[must_use]
    pub fn never_null(self) -> Self {
        self.modify(modify::refine(Refinement::not_null()))
    }

    /// A change replaces the resource.
    #[must_use]
    pub fn requires_replace(self) -> Self {
        self.modify(modify::requires_replace())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// Optional where nothing else was said: see the type's documentation.
    pub(crate) fn is_optional(&self) -> bool {
        self.optional || !(self.required || self.computed)
    }

    /// The default in a block whose values are `block`, in the attribute's type; `None` where there is
    /// none.
    pub(crate) fn default_in(&self, block: &Object) -> Option<Value> {
        let value = match self.default.as_ref()? {
            // Checked against the type when the provider started.
            Default::Value(value) => value.clone(),
            Default::From(default) => Some(default(block)).filter(|value| !value.is_null())?,
        };
        conform(value, &self.ty)
            .map_err(|error| tracing::error!(attribute = self.name, %error, "a default is of the wrong type"))
            .ok()
    }
}
