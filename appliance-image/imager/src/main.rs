//! `imager`: one step of building the appliance's image each (`appliance-image/build-image` calls it).

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lifeboat_imager::{boot, ova, ovf, sha256, vhd, vhdx, vmdk};

/// Writes the appliance's disk in the forms that hypervisors take.
#[derive(Debug, Parser)]
#[command(name = "imager", version)]
struct Cli {
    /// Time of what is written, in seconds since 1970
    #[arg(long, env = "SOURCE_DATE_EPOCH", global = true, default_value_t = 0)]
    time: u64,
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Install GRUB for BIOS on a raw disk
    Boot {
        disk: PathBuf,
        /// GRUB's boot.img
        boot: PathBuf,
        /// GRUB's core.img
        core: PathBuf,
        /// First sector of the BIOS boot partition
        place: u64,
        /// Its sectors
        sectors: u64,
    },
    /// Write a fixed VHD
    Vhd { disk: PathBuf, to: PathBuf },
    /// Replace what is random in a VHDX that qemu-img made of a raw disk
    Vhdx { disk: PathBuf, vhdx: PathBuf },
    /// Write a stream-optimised VMDK and, with it, an OVA
    Ova {
        disk: PathBuf,
        /// DIRECTORY/NAME.ova; the parts get that name too, and stay beside it
        to: PathBuf,
        /// The release
        #[arg(long)]
        release: String,
        /// Size of the data disk
        #[arg(long, default_value_t = 64)]
        data_gib: u64,
    },
}

fn main() -> Result<()> {
    let Cli { time, step } = Cli::parse();
    match step {
        Step::Boot { disk, boot, core, place, sectors } => boot::install(&disk, &boot, &core, place, sectors),
        Step::Vhd { disk, to } => vhd::write(&disk, &to, time),
        Step::Vhdx { disk, vhdx } => vhdx::settle(&vhdx, &sha256(&disk)?),
        Step::Ova { disk, to, release, data_gib } => {
            let name = to.file_stem().context("an OVA has a name")?.to_string_lossy().into_owned();
            let packed = to.with_file_name(format!("{name}-disk1.vmdk"));
            let populated = vmdk::write(&disk, &packed)?;
            let file = packed.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let descriptor = ovf::descriptor(&ovf::Appliance {
                version: &release,
                disk: &file,
                file_bytes: packed.metadata()?.len(),
                capacity: disk.metadata()?.len(),
                populated,
                data_gib,
            });
            ova::write(&to, &name, &descriptor, &[packed], time)
        }
    }
}
