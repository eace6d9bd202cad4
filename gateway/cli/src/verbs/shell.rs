//! `lifeboat completion` and `lifeboat man`: what a shell and a reader want to know of this program, from its own definition.
//!
//! No gateway is asked. The package's build runs both, and puts the results where shells and `man` look for them.

use std::path::PathBuf;

use clap::{Args, Command, ValueEnum};
use clap_complete::Shell;

use crate::failure::{Failure, Result};
use crate::output::Output;

/// A shell that completes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Completed {
    /// The GNU Bourne-again shell
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}

/// Which shell.
#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// The shell: `source <(lifeboat completion bash)` tries it out
    shell: Completed,
}

/// Where to.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// A directory that is there: one page for each verb, lifeboat.1, lifeboat-point.1, lifeboat-point-list.1, …
    directory: PathBuf,
}

/// Prints a completion script.
pub(crate) fn completion(args: &CompletionArgs, mut command: Command) -> Result<()> {
    let shell = match args.shell {
        Completed::Bash => Shell::Bash,
        Completed::Zsh => Shell::Zsh,
        Completed::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "lifeboat", &mut script);
    Output::Text.text(&String::from_utf8_lossy(&script))
}

/// Writes the manual.
pub(crate) fn man(args: &ManArgs, command: Command) -> Result<()> {
    clap_mangen::generate_to(command, &args.directory).map_err(|error| {
        Failure::failed(format!("the manual can't be written to {}: {error}", args.directory.display()))
    })
}
