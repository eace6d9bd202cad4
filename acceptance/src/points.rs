//! Recovery points as a gateway lists them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::command::UNREACHABLE;
use crate::eventually;
use crate::gateway::Gateway;

/// The ids of points that two groups have both, in the vault; nothing while the gateway doesn't reach that.
///
/// # Errors
/// The gateway can't be asked.
pub fn shared(gateway: &Gateway, groups: [&str; 2]) -> Result<Option<BTreeSet<String>>> {
    let ids = |group: &str| -> Result<Option<BTreeSet<String>>> {
        let asked = gateway.run(&["point", "list", "--group", group, "--output", "json"])?;
        if asked.code() == UNREACHABLE {
            return Ok(None);
        }
        let points: Value = serde_json::from_str(&asked.ok()?)?;
        let points = points.as_array().cloned().unwrap_or_default();
        let shared = points.into_iter().filter(|point| point["shared"] == true);
        Ok(Some(shared.filter_map(|point| point["id"].as_str().map(str::to_owned)).collect()))
    };
    let (Some(one), Some(other)) = (ids(groups[0])?, ids(groups[1])?) else { return Ok(None) };
    Ok(Some(one.intersection(&other).cloned().collect()))
}

/// Waits until two groups have a point in the vault that they took together after now.
///
/// # Errors
/// They haven't in this time.
pub fn shares_anew(gateway: &Gateway, groups: [&str; 2], within: Duration, what: &str) -> Result<()> {
    let before = eventually("the vault to be reached", within, || shared(gateway, groups))?;
    // The first new one may have been under way.
    let mut seen = before.clone();
    eventually(what, within, || {
        seen.extend(shared(gateway, groups)?.unwrap_or_default());
        Ok((seen.len() >= before.len() + 2).then_some(()))
    })
}
