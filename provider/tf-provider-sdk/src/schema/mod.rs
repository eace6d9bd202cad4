//! What a resource, data source or provider looks like: attributes, nested blocks, and the rules
//! that hold for them.
//!
//! Everything here is declared once and used for the schema that Terraform gets, for validation,
//! for defaults and for planning. Protocol 5 has no nested attributes: use blocks, or attributes of
//! object type.

mod attribute;
mod block;
mod conform;
mod duration;
pub mod modify;
mod rules;
mod timeouts;
pub mod validate;

use crate::value::{ConvertError, Object, Type};

pub use attribute::Attribute;
pub(crate) use attribute::Default;
pub(crate) use block::version_of;
pub use block::{Block, NestedBlock, Nesting};
pub(crate) use duration::format_duration;
pub use duration::parse_duration;
pub(crate) use timeouts::TIMEOUTS;
pub use timeouts::Timeouts;

/// The schema of a resource, data source, ephemeral resource, action or provider.
///
/// ```
/// use std::time::Duration;
/// use tf_provider_sdk::{Attribute, Block, NestedBlock, Schema, Timeouts, Type, validate};
///
/// let schema = Schema::new()
///     .description("A machine.")
///     .attribute(Attribute::id())
///     .attribute(Attribute::string("name").required().requires_replace().validate(validate::length(1, 63)))
///     .attribute(Attribute::number("cpus").default(2_u64).validate(validate::range(1_u32, 64_u32)))
///     .attribute(Attribute::string("image").optional())
///     .attribute(Attribute::string("iso").optional())
///     .attribute(Attribute::string("address").computed().use_state_for_unknown())
///     .write_only(Attribute::string("password").optional())
///     .block(NestedBlock::list("disk", Block::new().attribute(Attribute::number("size_gib").required())).min(1))
///     .rule(validate::exactly_one_of(["image", "iso"]))
///     .timeouts(Timeouts::new().create(Duration::from_secs(600)));
/// assert_eq!(schema.root().attributes().len(), 8);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Schema {
    pub(crate) version: i64,
    pub(crate) block: Block,
    pub(crate) timeouts: Option<Timeouts>,
}

impl Schema {
    /// An empty schema of version 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// The version that is kept with the state; raise it together with
    /// [`Resource::upgrade_state`](crate::Resource::upgrade_state).
    #[must_use]
    pub fn version(mut self, version: i64) -> Self {
        self.version = version;
        self
    }

    /// What this is, in markdown.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.block = self.block.description(text);
        self
    }

    /// Marks the whole as deprecated, saying what to use instead.
    #[must_use]
    pub fn deprecated(mut self, message: impl Into<String>) -> Self {
        self.block = self.block.deprecated(message);
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, attribute: Attribute) -> Self {
        self.block = self.block.attribute(attribute);
        self
    }

    /// Adds a write-only argument and its version: see [`Block::write_only`].
    #[must_use]
    pub fn write_only(mut self, attribute: Attribute) -> Self {
        self.block = self.block.write_only(attribute);
        self
    }

    /// Adds a nested block.
    #[must_use]
    pub fn block(mut self, nested: NestedBlock) -> Self {
        self.block = self.block.block(nested);
        self
    }

    /// Adds a rule across attributes.
    #[must_use]
    pub fn rule(mut self, rule: validate::Rule) -> Self {
        self.block = self.block.rule(rule);
        self
    }

    /// Adds a `timeouts` block; [`Context`](crate::Context) then keeps each operation's deadline.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.block = self.block.block(timeouts.nested_block());
        self.timeouts = Some(timeouts);
        self
    }

    /// The top-level block.
    pub fn root(&self) -> &Block {
        &self.block
    }

    /// The version that is kept with the state.
    pub fn schema_version(&self) -> i64 {
        self.version
    }

    /// Brings an object into this schema's shape, as the SDK does with what providers return: missing
    /// attributes become null and missing blocks empty, lists become sets. For tests, mostly.
    ///
    /// # Errors
    /// A name that the schema doesn't have, or a value of another type, with its path.
    pub fn conform(&self, object: Object) -> Result<Object, ConvertError> {
        self.block.conform(object)
    }

    /// The object type that values of this schema have.
    pub fn value_type(&self) -> Type {
        self.block.value_type()
    }
}

/// What identifies a resource for import by identity (Terraform 1.12 and later).
#[derive(Debug, Clone, Default)]
pub struct IdentitySchema {
    pub(crate) version: i64,
    pub(crate) attributes: Vec<IdentityAttribute>,
}

/// One attribute of an [`IdentitySchema`].
#[derive(Debug, Clone)]
pub struct IdentityAttribute {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) required: bool,
    pub(crate) description: String,
}

impl IdentitySchema {
    /// An empty identity schema of version 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// The version that is kept with the identity.
    #[must_use]
    pub fn version(mut self, version: i64) -> Self {
        self.version = version;
        self
    }

    /// Adds an attribute that import must name.
    #[must_use]
    pub fn required(self, name: &str, ty: Type, description: &str) -> Self {
        self.add(name, ty, true, description)
    }

    /// Adds an attribute that import may leave out.
    #[must_use]
    pub fn optional(self, name: &str, ty: Type, description: &str) -> Self {
        self.add(name, ty, false, description)
    }

    fn add(mut self, name: &str, ty: Type, required: bool, description: &str) -> Self {
        self.attributes.push(IdentityAttribute {
            name: name.to_owned(),
            ty,
            required,
            description: description.to_owned(),
        });
        self
    }

    pub(crate) fn value_type(&self) -> Type {
        Type::object(self.attributes.iter().map(|a| (a.name.clone(), a.ty.clone())))
    }
}

#[cfg(test)]
mod tests;
