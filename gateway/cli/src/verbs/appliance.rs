//! `lifeboat appliance`: what the appliance's units run at its boot. None of it is typed by a person, but in a shell of the appliance.
//!
//! ```text
//! first-boot   before the network: settings of the hypervisor, data disk, files for network and gateway
//! ready        behind the gateway: asks it until it is ready, and says so on every console
//! confirm      beside it: keeps the version on trial once it is ready, or has the one before started
//! update       puts an update into the other slot ([`update`])
//! console      a person's: status, and menus for what is done there ([`console`])
//! ```
//! Consoles may be read by whoever watches a hypervisor: secrets never go there.

mod about;
mod boot;
mod console;
mod registering;
mod update;

use clap::{Args, Subcommand};

use crate::failure::Result;

/// What the appliance runs: boot, console, updates.
#[derive(Args, Debug)]
pub(crate) struct ApplianceArgs {
    #[command(subcommand)]
    verb: ApplianceVerb,
}

#[derive(Subcommand, Debug)]
enum ApplianceVerb {
    /// Take the hypervisor's settings and the data disk, at every boot
    FirstBoot,
    /// Wait until the gateway is ready, and say so on every console
    Ready,
    /// Show how the appliance is, and menus, on the terminal that this runs on
    Console,
    /// Install an update into the slot that isn't in use, and have it started once
    Update(update::UpdateArgs),
    /// Keep the version on trial once it is ready, or have the one before started again
    Confirm,
}

pub(crate) async fn run(args: ApplianceArgs) -> Result<()> {
    match args.verb {
        ApplianceVerb::FirstBoot => boot::first(),
        ApplianceVerb::Ready => boot::ready().await,
        ApplianceVerb::Console => console::run().await,
        ApplianceVerb::Update(args) => update::run(&args),
        ApplianceVerb::Confirm => update::confirm().await,
    }
}
