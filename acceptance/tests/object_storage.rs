//! Vaults in object storage: recovery from nothing but URL, key and credentials; credentials that are kept and not shown.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_api::types::{CommitRequest, FailoverKind};
use lifeboat_lab::{Azurite, Moto};

const SIZE: u64 = 8 << 20;

/// Servers are started asynchronously; the tests themselves are not.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn write(path: &Path, seed: u8) {
    let file = File::options().write(true).open(path).expect("the volume opens");
    for block in 0..200_u64 {
        let bytes: Vec<u8> = (0..4096_u64).map(|at| (at * (block + 7)).to_le_bytes()[0] ^ seed).collect();
        file.write_all_at(&bytes, block * 37 % 2048 * 4096).expect("writes");
    }
    file.sync_data().expect("flushes");
}

/// The lost site's state, its catalog included, is in the bucket: a blank gateway needs nothing else.
#[test]
fn a_blank_gateway_recovers_from_a_bucket() {
    let moto = runtime().block_on(Moto::start(&["lifeboat-vaults"])).unwrap();
    let environment = [
        ("AWS_ACCESS_KEY_ID", "AKLAB".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "canary-bucket-secret".to_owned()),
        ("AWS_ENDPOINT_URL_S3", moto.endpoint()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let url = "s3://lifeboat-vaults/acme";
    let mut estate = Estate::protect_remotely("bucket", url, environment, &[("data", SIZE)]).unwrap();
    estate.add_standby().unwrap();
    let home = estate.primary.volume("data");
    write(&home, 0);
    let model = std::fs::read(&home).unwrap();
    let point = estate.take_point(&estate.primary, "known").unwrap().result.point_id.unwrap();
    estate.primary.kill9().unwrap();

    estate.open_vault_at_standby().unwrap();
    let job = estate.fail_over(FailoverKind::Unplanned, &point.to_string()).unwrap();
    let away = job.result.paths.iter().find(|path| path.ends_with("/data.img")).expect("the volume is served");
    assert!(std::fs::read(away).unwrap() == model, "the volume is what it was at the point");
    write(Path::new(away), 0x55);
    let standby = estate.standby().unwrap();
    estate.verb(standby, "commit", &CommitRequest::default()).unwrap();
    for gateway in [&estate.primary, standby] {
        let log = std::fs::read_to_string(gateway.log()).unwrap();
        assert!(!log.contains("canary-bucket-secret"), "a secret is in the log of {}", gateway.name());
    }
}

#[test]
fn credentials_that_are_given_outlive_a_restart_and_are_shown_nowhere() {
    let azurite = runtime().block_on(Azurite::start(&["lifeboat-vaults"])).unwrap();
    let scratch = Scratch::new("container").unwrap();
    let key = scratch.write_key("vault.key").unwrap().display().to_string();
    let file = scratch.path().join("credentials");
    let lines: Vec<_> = Azurite::CREDENTIALS.iter().map(|(name, value)| format!("{name}={value}")).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let secret = Azurite::CREDENTIALS[1].1;
    let (url, endpoint, file) = ("az://lifeboat-vaults/acme", azurite.endpoint(), file.display().to_string());
    let mut first = Gateway::start("onprem", "first", &scratch.path().join("first")).unwrap();

    let wrong = ["vault", "create", url, "--name", "acme", "--key-file", &key, "--storage-endpoint", &endpoint];
    let refused = first.run(&[&wrong[..], &["--credential", "AZURE_STORAGE_ACCOUNT_NAME=devstoreaccount1"]].concat());
    let refused = refused.unwrap();
    assert!(refused.code() != 0 && refused.stderr.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{}", refused.stderr);

    let made = first.run(&[&wrong[..], &["--credentials-file", &file, "--output", "json"]].concat()).unwrap();
    let mut shown = made.ok().unwrap();
    first.stop().unwrap();
    first.restart().unwrap();
    let listed = first.run(&["vault", "list", "--output", "json"]).unwrap().ok().unwrap();
    assert!(listed.contains("healthy") && listed.contains(url), "{listed}");
    shown += &listed;
    shown += &std::fs::read_to_string(first.log()).unwrap();
    assert!(!shown.contains(secret), "{shown}");
    let kept = first.state().join("vaults.json");
    assert_eq!(std::fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o600);

    let second = Gateway::start("recovery", "second", &scratch.path().join("second")).unwrap();
    let open = ["vault", "open", url, "--key-file", &key, "--storage-endpoint", &endpoint, "--credentials-file", &file];
    assert!(second.run(&open).unwrap().ok().unwrap().contains("acme"));
    // The same again renews them.
    assert!(second.run(&open).unwrap().ok().unwrap().contains("acme"));
}
