//! A gateway that Terraform talks to, and a workspace; what others do to the gateway's objects meanwhile.

use std::fmt;

use anyhow::{Context, Result};
use lifeboat_api::client::Collection;
use lifeboat_api::types::Resource;

use crate::estate::Api;
use crate::gateway::Gateway;
use crate::scratch::Scratch;
use crate::terraform::{Diagnostic, Tier, Workspace};

/// A gateway, a workspace for it, and the directory of everything.
#[derive(Debug)]
pub struct Bench {
    // Dropped in this order: Terraform's provider, the gateway, the files.
    /// Where Terraform runs.
    pub workspace: Workspace,
    /// The gateway `primary` of the site `onprem`.
    pub gateway: Gateway,
    /// With `vault.key` in it.
    pub scratch: Scratch,
}

impl Bench {
    /// Starts the gateway, and the provider where it is attached.
    ///
    /// # Errors
    /// When a part doesn't start.
    pub fn new(label: &str, tier: Tier) -> Result<Self> {
        let scratch = Scratch::new(label)?;
        scratch.write_key("vault.key")?;
        let gateway = Gateway::start("onprem", "primary", &scratch.path().join("onprem"))?;
        let workspace = Workspace::new(&scratch.path().join("terraform"), tier, gateway.client_environment())?;
        Ok(Self { workspace, gateway, scratch })
    }

    /// A client of the gateway.
    ///
    /// # Errors
    /// As [`Api::of`].
    pub fn api(&self) -> Result<Api> {
        Api::of(&self.gateway)
    }

    /// Writes a configuration that can't be planned; what is said of it.
    ///
    /// # Errors
    /// When it can be planned.
    pub fn refused(&self, configuration: &str) -> Result<Vec<Diagnostic>> {
        self.workspace.write(configuration)?;
        self.workspace.plan_diagnostics()
    }
}

/// Changes an object behind Terraform's back.
///
/// # Errors
/// The API's own.
pub fn changed_elsewhere<R: Resource + Collection>(api: &Api, id: &str, patch: &serde_json::Value) -> Result<()> {
    api.call(async |client| {
        let now: R = client.read(id).await?;
        client.patch::<R>(id, now.generation(), patch).await.map(drop)
    })
    .with_context(|| format!("change {id} elsewhere"))
}

/// Deletes an object behind Terraform's back.
///
/// # Errors
/// The API's own.
pub fn deleted_elsewhere<R: Resource + Collection>(api: &Api, id: &str) -> Result<()> {
    api.call(async |client| {
        let now: R = client.read(id).await?;
        client.delete::<R>(id, now.generation()).await
    })
    .with_context(|| format!("delete {id} elsewhere"))
}

/// Whether an error is said of this line of the configuration, or of the block around it.
#[must_use]
pub fn blames(diagnostics: &[Diagnostic], configuration: &str, line: &str, part: &str) -> bool {
    let wanted = configuration.lines().position(|found| found.contains(line)).map(|at| at as u64 + 1);
    diagnostics.iter().any(|said| {
        let at = said.range.as_ref().map(|range| range.start.line);
        let near = at.zip(wanted).is_some_and(|(at, wanted)| at.abs_diff(wanted) <= 3);
        said.severity == "error" && near && said.to_string().contains(part)
    })
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.summary, self.detail)
    }
}
