//! Validation of a configuration: each attribute's validators, each block's rules, and the counts
//! of map blocks, which Terraform leaves to the provider. Unknown values are let through.

use crate::core::planning::Place;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::schema::{Block, NestedBlock, Nesting};
use crate::value::{Object, Path, Value};

/// All that is wrong with `config`, with paths.
pub(crate) fn validate(block: &Block, config: &Object) -> Diagnostics {
    let mut found = Diagnostics::new();
    validate_block(block, config, &Place::default(), &mut found);
    found
}

fn validate_block(block: &Block, config: &Object, place: &Place, found: &mut Diagnostics) {
    for attribute in &block.attributes {
        let Some(value) = config.value(&attribute.name) else {
            continue;
        };
        if value.is_null() || value.is_unknown() {
            continue;
        }
        for fault in attribute.validators.iter().flat_map(|validator| validator.check(value)) {
            let path = Path::root().attr(&attribute.name).join(&fault.path);
            let diagnostic = Diagnostic::error(format!("Invalid value for \"{path}\""), fault.message);
            found.push(place.adopt(diagnostic.at(path)));
        }
    }
    for rule in &block.rules {
        for diagnostic in rule.check(config) {
            found.push(place.adopt(diagnostic));
        }
    }
    for nested in &block.blocks {
        if let Some(value) = config.value(&nested.name) {
            validate_nested(nested, value, &place.attr(&nested.name), found);
        }
    }
}

fn validate_nested(nested: &NestedBlock, value: &Value, place: &Place, found: &mut Diagnostics) {
    let mut each = |value: &Value, at: &Path| {
        if let Some(object) = value.as_object() {
            let place = place.element(nested.nesting, at);
            validate_block(&nested.block, object, &place, found);
        }
    };
    let here = Path::root();
    match value {
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                each(item, &here.index(i));
            }
        }
        Value::Set(items) => items.iter().for_each(|item| each(item, &here)),
        Value::Map(map) => {
            for (key, item) in map {
                each(item, &here.key(key));
            }
            count_map(nested, map.len(), &place.path, found);
        }
        single => each(single, &here),
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
