//! Recovery points as a gateway lists them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use crate::eventually;
use crate::gateway::Gateway;

/// The ids of points that two groups have both, in the vault.
///
/// # Errors
/// The gateway can't be asked.
pub fn shared(gateway: &Gateway, groups: [&str; 2]) -> Result<BTreeSet<String>> {
    let ids = |group: &str| -> Result<BTreeSet<String>> {
        let points = gateway.json(&["point", "list", "--group", group])?;
        let points = points.as_array().cloned().unwrap_or_default();
        let shared = points.into_iter().filter(|point| point["shared"] == true);
        Ok(shared.filter_map(|point| point["id"].as_str().map(str::to_owned)).collect())
    };
    Ok(ids(groups[0])?.intersection(&ids(groups[1])?).cloned().collect())
}

/// Waits until two groups have a point in the vault that they took together after now.
///
/// # Errors
/// They haven't in this time.
pub fn shares_anew(gateway: &Gateway, groups: [&str; 2], within: Duration, what: &str) -> Result<()> {
    let before = shared(gateway, groups)?;
    // The first new one may have been under way.
    let mut seen = before.clone();
    eventually(what, within, || {
        seen.extend(shared(gateway, groups)?);
        Ok((seen.len() >= before.len() + 2).then_some(()))
    })
}
