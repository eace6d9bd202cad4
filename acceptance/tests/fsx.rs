//! The file system exerciser on a protected volume: random reads and writes of every alignment, each read checked.
//!
//! `OPERATIONS=N` does so many on the volume instead of 20,000, `SEED=N` others.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use lifeboat_acceptance::binaries;
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::device::LoopFs;
use lifeboat_acceptance::estate::{Estate, GROUP};
use lifeboat_acceptance::random::from_environment;

/// Runs `operations` operations of fsx with this configuration on `file`; seeds are fixed, so that a failure repeats.
fn exercise(dir: &Path, file: &Path, configuration: &str, operations: u64, seed: u64) -> Result<()> {
    let config = dir.join("fsx.toml");
    std::fs::write(&config, configuration)?;
    let artifacts = dir.join("fsx");
    std::fs::create_dir_all(&artifacts)?;
    let output = Run::new(binaries::fsx()?)
        .arg("-f")
        .arg(&config)
        .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"])
        .arg(&artifacts)
        .arg(file)
        .within(Duration::from_secs(200))
        .ok()?;
    anyhow::ensure!(output.contains("All operations completed"), "fsx ended without its last line:\n{output}");
    Ok(())
}

#[test]
fn a_volume_file_takes_20_000_operations_and_its_point_equals_it() {
    let estate = Estate::protect("fsx", &[("exercised", 8 << 20)]).unwrap();
    let file = estate.primary.volume("exercised");
    // The size is fixed (block mode); mapping is refused by direct I/O and covered by the test below.
    let configuration = "blockmode = true\n[opsize]\nmax = 131072\n[weights]\nread = 10\nwrite = 10\nfsync = 0.5\n\
                         fdatasync = 0.5\npunch_hole = 3\nsendfile = 3\nposix_fadvise = 1\ncopy_file_range = 3\n\
                         mapread = 0\nmapwrite = 0\ntruncate = 0\n";
    let (operations, seed) = (from_environment("OPERATIONS").unwrap_or(20_000), from_environment("SEED").unwrap_or(1));
    // fsx takes seeds of 32 bits.
    exercise(estate.dir(), &file, configuration, operations, seed & 0xffff_ffff).unwrap();
    Run::new("sync").arg(&file).ok().unwrap();
    let point = estate.take_point(&estate.primary, "after fsx").unwrap().result.point_id.unwrap();
    let points = estate.points(&estate.primary).unwrap();
    let dir = points.into_iter().find(|candidate| candidate.id == point).unwrap().path.unwrap();
    assert!(dir.contains(GROUP), "{dir}");
    Run::new("cmp").arg(Path::new(&dir).join("exercised.img")).arg(&file).ok().unwrap();
}

#[test]
fn a_file_system_on_a_volume_takes_every_operation() {
    let estate = Estate::protect("fsx-ext4", &[("disk", 128 << 20)]).unwrap();
    let fs = LoopFs::format(&estate.primary.volume("disk"), &estate.dir().join("disk")).unwrap();
    let configuration = "flen = 1048576\n[weights]\nclose_open = 1\ninvalidate = 1\nmapread = 10\nmapwrite = 10\n\
         read = 10\nwrite = 10\ntruncate = 5\nfsync = 0.3\nfdatasync = 0.3\nposix_fallocate = 1\npunch_hole = 2\n\
         sendfile = 1\nposix_fadvise = 1\ncopy_file_range = 1\n";
    exercise(estate.dir(), &fs.path().join("exercised"), configuration, 5_000, 2).unwrap();
    fs.close().unwrap();
    LoopFs::check(&estate.primary.volume("disk")).unwrap();
}
