//! The binary `lifeboat`: runs a gateway, and asks gateways what to do.
//!
//! Owns the command line, the settings of `serve`, rendering and exit codes. It knows no rule of the business: what may
//! be done is for the gateway to say. Verbs keep no state; one that is interrupted leaves its job to the gateways.

mod args;
mod connect;
mod failure;
mod local_key;
mod notify;
mod output;
mod progress;
mod render;
mod resolve;
mod serve;
mod verbs;

use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use args::{Asked, Cli, Verb};
use failure::{Exit, Failure, Result};
use output::Output;

fn main() -> ExitCode {
    keep_memory_private();
    let done = match args::parse(std::env::args_os()) {
        Ok(Asked::Run(cli)) => run(*cli),
        Ok(Asked::Say(text)) => Output::Text.text(&text),
        Ok(Asked::Explain(text)) => {
            output::explain(&text);
            return Exit::Usage.into();
        }
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure);
            failure.exit().into()
        }
    }
}

/// No core dump shows keys and tokens, and nobody but root reads this process's memory. What it starts writes no core file
/// either: a machine's memory is worth as much.
fn keep_memory_private() {
    // Neither can fail for a process's own limits and attributes; a system that has none of the two dumps no core.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn run(cli: Cli) -> Result<()> {
    let mut runtime = if matches!(cli.verb, Verb::Serve(_)) {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        serve::verbose()?;
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("the program can't start its threads: {error}")))?;
    runtime.block_on(act(cli.verb, cli.output))
}

async fn act(verb: Verb, output: Output) -> Result<()> {
    match verb {
        Verb::Serve(args) => serve::run(*args).await,
        Verb::Status(args) => verbs::status::run(args, output).await,
        Verb::Token(args) => verbs::token::run(args, output).await,
        Verb::RegistrationKey(args) => verbs::registration_key::run(args, output).await,
        Verb::Agent(args) => verbs::agent::run(args, output).await,
        Verb::Iscsi(args) => verbs::iscsi::run(args).await,
        Verb::Appliance(args) => verbs::appliance::run(args).await,
        Verb::Notice(args) => verbs::notice::run(args, output).await,
        Verb::Whoami(args) => verbs::whoami::run(args, output).await,
        Verb::Vault(args) => verbs::vault::run(args, output).await,
        Verb::Site(args) => verbs::site::run(args, output).await,
        Verb::Gateway(args) => verbs::gateway::run(args, output).await,
        Verb::Policy(args) => verbs::policy::run(args, output).await,
        Verb::Group(args) => verbs::group::run(args, output).await,
        Verb::Volume(args) => verbs::volume::run(args, output).await,
        Verb::Terraform(args) => verbs::terraform::run(args, output).await,
        Verb::Machine(args) => verbs::machine::run(args, output).await,
        Verb::Network(args) => verbs::network::run(args, output).await,
        Verb::NetworkMapping(args) => verbs::network_mapping::run(args, output).await,
        Verb::Plan(args) => verbs::plan::run(args, output).await,
        Verb::Drill(args) => verbs::drill::run(args, output).await,
        Verb::Point(args) => verbs::point::run(args, output).await,
        Verb::Failover(args) => verbs::failover::failover(args, output).await,
        Verb::ChangePoint(args) => verbs::failover::change_point(args, output).await,
        Verb::Commit(args) => verbs::failover::commit(args, output).await,
        Verb::Cleanup(args) => verbs::failover::cleanup(args, output).await,
        Verb::Release(args) => verbs::failover::release(args, output).await,
        Verb::Resume(args) => verbs::failover::resume(args, output).await,
        Verb::Reprotect(args) => verbs::failover::reprotect(args, output).await,
        Verb::Failback(args) => verbs::failover::failback(args, output).await,
        Verb::Resync(args) => verbs::resync::run(args, output).await,
        Verb::Job(args) => verbs::job::run(args, output).await,
        Verb::Event(args) => verbs::event::run(args, output).await,
        Verb::Deleted(args) => verbs::deleted::run(args, output).await,
        Verb::Approval(args) => verbs::approval::run(args, output).await,
        Verb::Audit(args) => verbs::audit::run(args, output).await,
        Verb::Check(args) => verbs::check::run_local(&args, output).await,
        Verb::Encrypt(args) => verbs::encrypt::run(args, output).await,
        Verb::Inspect(args) => verbs::inspect::run(args, output).await,
        Verb::Completion(args) => verbs::shell::completion(&args, args::command()),
        Verb::Man(args) => verbs::shell::man(&args, args::command()),
        Verb::SupportBundle(args) => verbs::support::run(args, output).await,
    }
}
