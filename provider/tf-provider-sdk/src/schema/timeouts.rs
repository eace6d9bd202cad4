//! The `timeouts` block: how long each operation may take.

use std::time::Duration;

use super::attribute::Attribute;
use super::block::{Block, NestedBlock};
use super::{format_duration, validate};

/// Which operations have a timeout, and how long it is unless the configuration says otherwise.
///
/// `Schema::new().timeouts(Timeouts::new().create(TEN_MINUTES).delete(TEN_MINUTES))` gives the usual
/// block `timeouts { create = "30m" }`. The deadline is in the operation's
/// [`Context`](crate::Context).
#[derive(Debug, Clone, Default)]
pub struct Timeouts(Vec<(&'static str, Duration)>);

impl Timeouts {
    /// No operation has a timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// The default for `create`.
    #[must_use]
    pub fn create(self, default: Duration) -> Self {
        self.operation("create", default)
    }

    /// The default for `read`.
    #[must_use]
    pub fn read(self, default: Duration) -> Self {
        self.operation("read", default)
    }

    /// The default for `update`.
    #[must_use]
    pub fn update(self, default: Duration) -> Self {
        self.operation("update", default)
    }

    /// The default for `delete`.
    #[must_use]
    pub fn delete(self, default: Duration) -> Self {
        self.operation("delete", default)
    }

    /// The default for an operation of another name, such as `invoke`.
    #[must_use]
    pub fn operation(mut self, name: &'static str, default: Duration) -> Self {
        self.0.push((name, default));
        self
    }

    pub(crate) fn default_of(&self, operation: &str) -> Option<Duration> {
        self.0.iter().find(|(name, _)| *name == operation).map(|(_, default)| *default)
    }

    pub(crate) fn nested_block(&self) -> NestedBlock {
        let body = self.0.iter().fold(Block::new(), |block, (name, default)| {
            block.attribute(Attribute::string(*name).optional().validate(validate::duration()).description(format!(
                "How long to wait for {name}, such as `90s` or `1h30m`. Default: `{}`.",
                format_duration(*default)
            )))
        });
        NestedBlock::single(TIMEOUTS, body.description("How long each operation may take."))
    }
}

pub(crate) const TIMEOUTS: &str = "timeouts";
