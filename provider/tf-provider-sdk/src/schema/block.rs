//! Blocks: attributes, nested blocks and rules across them.

use super::attribute::Attribute;
use super::validate::Rule;
use crate::value::Type;

/// The body of a schema or of a nested block.
#[derive(Debug, Clone, Default)]
pub struct Block {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) blocks: Vec<NestedBlock>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) description: String,
    pub(crate) deprecated: Option<String>,
}

/// How often a nested block may appear, and what its value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nesting {
    /// At most once: an object, or null.
    Single,
    /// At most once, and always there: an object, whose attributes are null where the block is absent.
    Group,
    /// Any number, in order: a list of objects, empty if there is none.
    List,
    /// Any number, without order: a set of objects, empty if there is none.
    Set,
    /// By label: a map of objects, empty if there is none.
    Map,
}

/// A nested block in a [`Block`].
#[derive(Debug, Clone)]
pub struct NestedBlock {
    pub(crate) name: String,
    pub(crate) block: Block,
    pub(crate) nesting: Nesting,
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) requires_replace: bool,
}

impl Block {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, attribute: Attribute) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Adds a write-only argument `NAME` and, beside it, the number `NAME_version`. Terraform keeps the
    /// value nowhere and so can't see that it changed; a change of the version is what plans an update,
    /// in which [`UpdateRequest::write_only`](crate::UpdateRequest::write_only) gives the new value.
    #[must_use]
    pub fn write_only(self, attribute: Attribute) -> Self {
        let name = attribute.name.clone();
        let version = Attribute::number(version_of(&name)).optional().validate(super::validate::whole_number());
        self.attribute(attribute.sensitive().write_only())
            .attribute(version.description(format!("Another number has the value of `{name}` applied again.")))
    }

    /// Adds a nested block.
    #[must_use]
    pub fn block(mut self, nested: NestedBlock) -> Self {
        self.blocks.push(nested);
        self
    }

    /// Adds a rule across this block's attributes.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// What it is, in markdown.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Marks the block as deprecated, saying what to use instead.
    #[must_use]
    pub fn deprecated(mut self, message: impl Into<String>) -> Self {
        self.deprecated = Some(message.into());
        self
    }

    /// Its attributes.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Its nested blocks.
    pub fn blocks(&self) -> &[NestedBlock] {
        &self.blocks
    }

    /// The object type of its value.
    pub fn value_type(&self) -> Type {
        let attributes = self.attributes.iter().map(|a| (a.name.clone(), a.ty.clone()));
        let blocks = self.blocks.iter().map(|b| (b.name.clone(), b.value_type()));
        Type::object(attributes.chain(blocks))
    }
}

impl NestedBlock {
    /// A block that appears at most once. [`min(1)`](NestedBlock::min) makes it required.
    pub fn single(name: impl Into<String>, block: Block) -> Self {
        Self::new(name, block, Nesting::Single)
    }

    /// A block that appears at most once and whose attributes can be referred to even where it is
    /// absent: they are null then, or have their defaults.
    pub fn group(name: impl Into<String>, block: Block) -> Self {
        Self::new(name, block, Nesting::Group)
    }

    /// A block that appears any number of times, in order.
    pub fn list(name: impl Into<String>, block: Block) -> Self {
        Self::new(name, block, Nesting::List)
    }

    /// A block that appears any number of times, without order.
    pub fn set(name: impl Into<String>, block: Block) -> Self {
        Self::new(name, block, Nesting::Set)
    }

    /// A block with one label, which must be unique.
    pub fn map(name: impl Into<String>, block: Block) -> Self {
        Self::new(name, block, Nesting::Map)
    }

    fn new(name: impl Into<String>, block: Block, nesting: Nesting) -> Self {
        Self { name: name.into(), block, nesting, min: 0, max: 0, requires_replace: false }
    }

    /// At least this many. Terraform checks it for single, list and set; the SDK for map.
    #[must_use]
    pub fn min(mut self, count: u32) -> Self {
        self.min = count;
        self
    }

    /// At most this many; 0 means without limit. Terraform checks it for list and set; the SDK for map.
    #[must_use]
    pub fn max(mut self, count: u32) -> Self {
        self.max = count;
        self
    }

    /// Any change of these blocks replaces the resource, also one more or one less.
    #[must_use]
    pub fn requires_replace(mut self) -> Self {
        self.requires_replace = true;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its body.
    pub fn body(&self) -> &Block {
        &self.block
    }

    pub(crate) fn value_type(&self) -> Type {
        let object = self.block.value_type();
        match self.nesting {
            Nesting::Single | Nesting::Group => object,
            Nesting::List => Type::list(object),
            Nesting::Set => Type::set(object),
            Nesting::Map => Type::map(object),
        }
    }
}

/// How the version of the write-only argument `name` is called.
pub(crate) fn version_of(name: &str) -> String {
    format!("{name}_version")
}
