//! A real Chromium in front of a gateway's web console, driven by the scenarios in `acceptance/web`.
//!
//! The browser is Debian's, what drives it is Playwright; `make deps` installs both. A scenario is one program that ends with 0 when
//! everything that it looked for was there. It gets the console's address and a token, and nothing else of this machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_lab::tools;
use serde_json::{Value, json};

use crate::binaries::repository;
use crate::command::Run;
use crate::gateway::Gateway;

/// Longest a scenario may take.
const SCENARIO_LIMIT: Duration = Duration::from_secs(300);
/// The names under which Debian has Chromium.
const BROWSERS: [&str; 2] = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"];

/// Runs a scenario against a gateway's console as its administrator; `more` is what it wants besides. Pictures are kept where
/// `LIFEBOAT_SCREENSHOTS` says.
///
/// # Errors
/// When it didn't hold, with everything that it said.
pub fn scenario(name: &str, gateway: &Gateway, more: &Value) -> Result<()> {
    let browser = BROWSERS.iter().map(PathBuf::from).find(|path| path.is_file());
    let browser = browser.context("there is no Chromium: run `make deps`")?;
    let token = std::fs::read_to_string(gateway.token_file()).context("read the administrator's token")?;
    let mut settings = json!({
        "browser": browser, "endpoint": gateway.endpoint(), "token": token.trim(),
        "screenshots": std::env::var("LIFEBOAT_SCREENSHOTS").ok(),
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        settings[key] = value.clone();
    }
    Run::new("node")
        .arg(repository().join("acceptance/web/run.mjs"))
        .arg(name)
        .env("LIFEBOAT_WEB", settings.to_string())
        .env("LIFEBOAT_PLAYWRIGHT", tools()?.join("web"))
        .within(SCENARIO_LIMIT)
        .outcome()?
        .ok()
        .map(drop)
        .with_context(|| gateway.log_tail())
}
