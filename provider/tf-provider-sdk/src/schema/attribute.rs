//! One attribute: its type, who sets it, and the validators and plan modifiers that belong to it.

use super::modify::{self, Modifier};
use super::validate::Validator;
use crate::value::{IntoValue, Type, Value};

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
    pub(crate) default: Option<Value>,
    pub(crate) validators: Vec<Validator>,
    pub(crate) modifiers: Vec<Modifier>,
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

    /// The usual `id`: computed, kept from the state when known.
    pub fn id() -> Self {
        Self::string("id").computed().use_state_for_unknown().description("Identifier, given by the service.")
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
        self.default = Some(value.into_value());
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

    /// Keeps the state's value where the plan would say "known after apply".
    #[must_use]
    pub fn use_state_for_unknown(self) -> Self {
        self.modify(modify::use_state_for_unknown())
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
}
