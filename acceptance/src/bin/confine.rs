//! `confine LIST PROGRAM ARGUMENTS…`: becomes the program, which can make no other system calls than those that the file lists, one name
//! a line; all others fail with EPERM. Development only; needs `no_new_privs`, or root.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use seccompiler::{BackendError, TargetArch, apply_filter, compile_from_json};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let list = args.next().context("confine LIST PROGRAM ARGUMENTS…: the list is missing")?;
    let program = args.next().context("confine LIST PROGRAM ARGUMENTS…: the program is missing")?;
    let list = std::fs::read_to_string(&list).context("read the list of system calls")?;
    let arch: TargetArch =
        std::env::consts::ARCH.try_into().map_err(|error: BackendError| anyhow::anyhow!("{error}"))?;
    let compile = |names: &[&str]| {
        let filter: Vec<_> = names.iter().map(|name| serde_json::json!({ "syscall": name })).collect();
        let all = serde_json::json!({
            "all": {"mismatch_action": {"errno": libc::EPERM}, "match_action": "allow", "filter": filter}
        });
        compile_from_json(all.to_string().as_bytes(), arch)
    };
    // systemd lists calls of every architecture.
    let names: Vec<&str> = list.lines().filter(|name| compile(&[name]).is_ok()).collect();
    let filters = compile(&names).context("make a filter of the list of system calls")?;
    apply_filter(filters.get("all").context("the filter was compiled")?).context("confine this process")?;
    Err(Command::new(&program).args(args).exec()).with_context(|| format!("become {}", program.display()))
}
