//! Where the programs under test are.
//!
//! `LIFEBOAT_BIN_DIR` names the directory with `lifeboat` and `terraform-provider-lifeboat` (the makefile sets it);
//! otherwise it is the directory that this program itself was built into. Nothing is built from here: a test that built
//! its subject could test something else than what is there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The `lifeboat` binary (`LIFEBOAT_BIN` names it directly).
///
/// # Errors
/// When it is not there, with what to do.
pub fn lifeboat() -> Result<PathBuf> {
    find("LIFEBOAT_BIN", "lifeboat")
}

/// The provider's binary (`LIFEBOAT_PROVIDER_BIN` names it directly).
///
/// # Errors
/// When it is not there, with what to do.
pub fn provider() -> Result<PathBuf> {
    find("LIFEBOAT_PROVIDER_BIN", "terraform-provider-lifeboat")
}

/// The simulation's own program (`LIFEBOAT_SIM_BIN` names it directly: an optimised one does more in the same time).
///
/// # Errors
/// When it is not there, with what to do.
pub fn simulation() -> Result<PathBuf> {
    find("LIFEBOAT_SIM_BIN", "sim")
}

/// The file system exerciser that `make deps` installs (`LIFEBOAT_TOOLS` names the directory above its `bin`).
///
/// # Errors
/// When it is not there, with what to do.
pub fn fsx() -> Result<PathBuf> {
    tool("bin/fsx")
}

/// What `make deps` installs at this place below `LIFEBOAT_TOOLS`.
///
/// # Errors
/// When it is not there, with what to do.
pub fn tool(place: &str) -> Result<PathBuf> {
    let tools = match std::env::var_os("LIFEBOAT_TOOLS") {
        Some(dir) => PathBuf::from(dir),
        None => build_dir()?.parent().context("a build directory without a parent")?.join("tools"),
    };
    existing(tools.join(place), "run `make deps`")
}

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn find(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return existing(PathBuf::from(path), &format!("{variable} names it"));
    }
    let dir = match std::env::var_os("LIFEBOAT_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => build_dir()?,
    };
    existing(dir.join(name), "run `make build`, or set LIFEBOAT_BIN_DIR to where it is")
}

fn existing(path: PathBuf, advice: &str) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is not there: {advice}", path.display());
    }
    std::path::absolute(&path).with_context(|| format!("resolve {}", path.display()))
}

/// `target/debug` or `target/release`: above `deps/` for a test, the directory itself for a binary.
fn build_dir() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    let dir = this.parent().context("a program without a directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() })
}
