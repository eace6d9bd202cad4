//! Validation of a configuration: each attribute's validators, each block's rules, and the counts
//! of map blocks, which Terraform leaves to the provider. Unknown values are let through.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::schema::{Block, Nesting, NestedBlock};
use crate::value::{Object, Path, Value};

/// All that is wrong with `config`, with paths.
pub(crate) fn validate(block: &Block, config: &Object) -> Diagnostics {
    let mut found = Diagnostics::new();
    validate_block(block, config, &Path::root(), &mut found);
    found
}

fn validate_block(block: &Block, config: &Object, path: &Path, found: &mut Diagnostics) {
    for attribute in &block.attributes {
        let Some(value) = config.value(&attribute.name) else {
            continue;
        };
        if value.is_null() || value.is_unknown() {
            continue;
        }
        for validator in &attribute.validators {
            if let Err(detail) = validator.check(value) {
                let summary = format!("Invalid value for {:?}", attribute.name);
                found.push(Diagnostic::error(summary, detail).at(path.attr(&attribute.name)));
            }
        }
    }
    for rule in &block.rules {
        for diagnostic in rule.check(config) {
            // A diagnostic without a path is about the block as a whole.
            found.push(match (&diagnostic.attribute, path.is_root()) {
                (None, false) => diagnostic.at(path),
                _ => diagnostic.under(path),
            });
        }
    }
    for nested in &block.blocks {
        if let Some(value) = config.value(&nested.name) {
            validate_nested(nested, value, &path.attr(&nested.name), found);
        }
    }
}

fn validate_nested(nested: &NestedBlock, value: &Value, path: &Path, found: &mut Diagnostics) {
    let mut each = |value: &Value, path: &Path| {
        if let Some(object) = value.as_object() {
            validate_block(&nested.block, object, path, found);
        }
    };
    match value {
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                each(item, &path.index(i));
            }
        }
        Value::Set(items) => items.iter().for_each(|item| each(item, path)),
        Value::Map(map) => {
            for (key, item) in map {
                each(item, &path.key(key));
            }
            count_map(nested, map.len(), path, found);
        }
        single => each(single, path),
    }
}

fn count_map(nested: &NestedBlock, count: usize, path: &Path, found: &mut Diagnostics) {
    debug_assert_eq!(nested.nesting, Nesting::Map);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if count < nested.min || (nested.max > 0 && count > nested.max) {
        let most = match nested.max {
            0 => String::new(),
            max => format!(" and at most {max}"),
        };
        found.push(
            Diagnostic::error(
                format!("Wrong number of {:?} blocks", nested.name),
                format!("At least {}{most} are needed, got {count}.", nested.min),
            )
            .at(path),
        );
    }
}
