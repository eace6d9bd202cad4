//! What a provider offers, by name, with its schemas made and checked once.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::function::Function;
use crate::listing::ListResource;
use crate::provider::{Action, DataSource, EphemeralResource, Provider, Resource};
use crate::schema::{Attribute, Block, Default, IdentitySchema, Nesting, Schema};
use crate::value::{Type, conform::conform};

/// One thing and its schema.
pub(crate) struct Entry<T: ?Sized> {
    pub(crate) schema: Schema,
    pub(crate) item: Box<T>,
}

/// One managed resource.
pub(crate) struct ResourceEntry<C> {
    pub(crate) schema: Schema,
    pub(crate) identity: Option<IdentitySchema>,
    pub(crate) item: Box<dyn Resource<C>>,
}

/// All that a provider offers.
pub(crate) struct Registry<P: Provider> {
    pub(crate) schema: Schema,
    pub(crate) resources: BTreeMap<String, ResourceEntry<P::Client>>,
    pub(crate) data_sources: BTreeMap<String, Entry<dyn DataSource<P::Client>>>,
    pub(crate) functions: BTreeMap<String, Box<dyn Function>>,
    pub(crate) ephemeral: BTreeMap<String, Entry<dyn EphemeralResource<P::Client>>>,
    pub(crate) lists: BTreeMap<String, Entry<dyn ListResource<P::Client>>>,
    pub(crate) actions: BTreeMap<String, Entry<dyn Action<P::Client>>>,
}

impl<P: Provider> Registry<P> {
    pub(crate) fn new(provider: &P) -> Self {
        macro_rules! entries {
            ($items:expr) => {
                $items
                    .into_iter()
                    .map(|item| {
                        let schema = item.schema();
                        (item.type_name().to_owned(), Entry { schema, item })
                    })
                    .collect()
            };
        }
        Self {
            schema: provider.schema(),
            resources: provider
                .resources()
                .into_iter()
                .map(|item| {
                    let schema = item.schema();
                    let identity = item.identity_schema();
                    let entry = ResourceEntry { schema, identity, item };
                    (entry.item.type_name().to_owned(), entry)
                })
                .collect(),
            data_sources: entries!(provider.data_sources()),
            functions: provider.functions().into_iter().map(|item| (item.name().to_owned(), item)).collect(),
            ephemeral: entries!(provider.ephemeral_resources()),
            lists: entries!(provider.list_resources()),
            actions: entries!(provider.actions()),
        }
    }

    /// Mistakes in the schemas, which Terraform would report in worse words or not at all.
    pub(crate) fn check(&self) -> Diagnostics {
        let mut found = Diagnostics::new();
        let mut check = |name: &str, schema: &Schema, resource: bool| {
            let mut mistakes = Vec::new();
            check_block(schema.root(), resource, &mut mistakes);
            for reserved in RESERVED {
                let clash = |name: &str| name == *reserved;
                if schema.block.attributes.iter().any(|a| clash(&a.name))
                    || schema.block.blocks.iter().any(|b| clash(&b.name))
                {
                    mistakes.push(format!("{reserved:?} is a word of Terraform's own"));
                }
            }
            for mistake in mistakes {
                found.push(Diagnostic::error(
                    "Invalid provider schema",
                    format!("{name}: {mistake}. This is a mistake in the provider."),
                ));
            }
        };
        for (name, entry) in &self.resources {
            check(name, &entry.schema, true);
        }
        for (name, entry) in &self.data_sources {
            check(name, &entry.schema, false);
        }
        for (name, entry) in &self.ephemeral {
            check(name, &entry.schema, false);
        }
        for (name, entry) in &self.actions {
            check(name, &entry.schema, false);
        }
        for (name, entry) in &self.lists {
            check(name, &entry.schema, false);
        }
        found.extend(self.check_identities());
        found
    }

    /// What lists need, and what identities may be made of.
    fn check_identities(&self) -> Diagnostics {
        let mut mistakes = Vec::new();
        for name in self.lists.keys() {
            if self.resources.get(name).is_none_or(|entry| entry.identity.is_none()) {
                mistakes.push(format!("the list {name} has no resource of that name with an identity schema"));
            }
        }
        for (name, entry) in &self.resources {
            for attribute in entry.identity.iter().flat_map(|identity| &identity.attributes) {
                let element = match &attribute.ty {
                    Type::List(element) => element,
                    ty => ty,
                };
                if !matches!(element, Type::Bool | Type::Number | Type::String) {
                    mistakes.push(format!(
                        "{name}: the identity's {:?} is neither simple nor a list of such",
                        attribute.name
                    ));
                }
            }
        }
        let diagnose = |mistake| {
            Diagnostic::error("Invalid provider schema", format!("{mistake}. This is a mistake in the provider."))
        };
        mistakes.into_iter().map(diagnose).collect()
    }
}

/// Names that a block's root can't have, since they mean something to Terraform in every block.
const RESERVED: &[&str] = &["connection", "count", "depends_on", "for_each", "lifecycle", "provider", "provisioner"];

fn check_block(block: &Block, resource: bool, mistakes: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for attribute in &block.attributes {
        if !names.insert(attribute.name.as_str()) {
            mistakes.push(format!("{:?} is declared twice", attribute.name));
        }
        check_attribute(attribute, resource, mistakes);
    }
    for nested in &block.blocks {
        if !names.insert(nested.name.as_str()) {
            mistakes.push(format!("{:?} is declared twice", nested.name));
        }
        if nested.nesting == Nesting::Set && has_write_only(&nested.block) {
            // Its value is null in the plan: which element of the configuration is meant?
            mistakes.push(format!("{:?} is a set of blocks, which can't hold write-only attributes", nested.name));
        }
        check_block(&nested.block, resource, mistakes);
    }
}

fn has_write_only(block: &Block) -> bool {
    block.attributes.iter().any(|attribute| attribute.write_only)
        || block.blocks.iter().any(|nested| has_write_only(&nested.block))
}

fn check_attribute(attribute: &Attribute, resource: bool, mistakes: &mut Vec<String>) {
    let name = &attribute.name;
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !valid {
        mistakes.push(format!("{name:?} is not a name of lowercase letters, digits and _"));
    }
    if attribute.required && (attribute.optional || attribute.computed) {
        mistakes.push(format!("{name:?} is required, so it can't be optional, computed or have a default"));
    }
    if attribute.write_only && attribute.computed {
        mistakes.push(format!("{name:?} is write-only, so it can't be computed"));
    }
    if attribute.write_only && !resource {
        mistakes.push(format!("{name:?} is write-only, which only resources can have"));
    }
    if let Some(Default::Value(default)) = &attribute.default
        && let Err(error) = conform(default.clone(), &attribute.ty)
    {
        mistakes.push(format!("the default of {name:?} is of the wrong type: {error}"));
    }
}
