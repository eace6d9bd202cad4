//! `lifeboat iscsi`: the helper beside a gateway that has the kernel serve volumes over iSCSI.
//!
//! It runs as root, next to a gateway that doesn't have to: the gateway says over a socket which volumes there are to be as targets,
//! and this says it to the kernel. Stopped, it takes every target away; initiators try again until they are back.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_iscsi::helper::{self, Helper, Mounted};
use lifeboat_iscsi::lio::{Chap, Kernel, Lio};
use tokio_util::sync::CancellationToken;

use crate::connect::environment;
use crate::failure::{Failure, Result};
use crate::notify::Notify;
use crate::serve::{LogSettings, start_log, stop_signal};

/// The kernel's target, once its module is there.
const TARGET: &str = "/sys/kernel/config/target";
/// Lengths of a password that initiators take, Microsoft's above all.
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 12..=16;

/// Serve volumes over iSCSI.
#[derive(Args, Debug)]
pub(crate) struct IscsiArgs {
    /// Where it listens for the gateway, whose --iscsi says the same
    #[arg(long, value_name = "SOCKET", default_value = "/run/lifeboat-iscsi/socket")]
    socket: PathBuf,
    /// Where the gateway mounts its volumes; nothing else is ever handed out
    #[arg(long, value_name = "DIR", default_value = "/mnt/lifeboat")]
    mount: PathBuf,
    /// ADDRESS:PORT at which the kernel listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:3260")]
    portal: String,
    /// File with a user name and a password, in one line, that every initiator has to show (CHAP); nobody else may be able to read
    /// it
    #[arg(long, value_name = "FILE")]
    chap_file: Option<PathBuf>,
}

pub(crate) async fn run(args: IscsiArgs) -> Result<()> {
    if args.portal.parse::<std::net::SocketAddr>().is_err() {
        return Err(Failure::usage(format!(
            "--portal: {:?} must be ADDRESS:PORT, for example 0.0.0.0:3260",
            args.portal
        )));
    }
    let chap = args.chap_file.as_deref().map(chap).transpose()?;
    let filter = environment("LIFEBOAT_LOG").unwrap_or_else(|| "info".to_owned());
    start_log(&LogSettings { filter, format: None }, None)?;
    if !Path::new(TARGET).is_dir() {
        return Err(Failure::failed(format!(
            "this kernel has no iSCSI target: there is no {TARGET}; load it with `modprobe target_core_mod`, as root"
        )));
    }
    let stopped = stop_signal()?;
    let listener = helper::bind(&args.socket).map_err(|error| {
        Failure::failed(format!("the gateway can't be listened for at {}: {error}", args.socket.display()))
    })?;
    let stop = CancellationToken::new();
    let helper = Helper::new(Lio::new(Kernel::default(), args.portal, chap), Mounted(args.mount));
    let notify = Notify::new(environment);
    notify.ready();
    let mut serving = std::pin::pin!(helper::run(helper, listener, stop.clone()));
    tokio::select! {
        () = stopped => {}
        () = serving.as_mut() => return Ok(()),
    }
    notify.stopping();
    stop.cancel();
    serving.await;
    Ok(())
}

/// Reads user name and password.
fn chap(file: &Path) -> Result<Chap> {
    let unreadable = |error: std::io::Error| Failure::unreadable("the file of user name and password", file, &error);
    if std::fs::metadata(file).map_err(unreadable)?.mode() & 0o077 != 0 {
        return Err(Failure::usage(format!("--chap-file: others can read {}: chmod 600 it", file.display())));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    parsed(&text).map_err(|why| Failure::usage(format!("--chap-file: {}: {why}", file.display())))
}

fn parsed(text: &str) -> std::result::Result<Chap, String> {
    let mut words = text.split_whitespace();
    let (Some(user), Some(password), None) = (words.next(), words.next(), words.next()) else {
        return Err("must have a user name and a password, with a space between them, and nothing else".to_owned());
    };
    if !PASSWORD_BYTES.contains(&password.len()) {
        return Err(format!(
            "the password must have {} to {} characters: Windows takes no other",
            PASSWORD_BYTES.start(),
            PASSWORD_BYTES.end()
        ));
    }
    Ok(Chap { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_that_initiators_take() {
        let chap = parsed("vmware  a-secret-of-14\n").expect("sound");
        assert_eq!((chap.user.as_str(), chap.password.as_str()), ("vmware", "a-secret-of-14"));
        for text in ["", "vmware", "vmware a b", "vmware short", "vmware much-longer-than-16"] {
            let why = parsed(text).expect_err(text);
            assert!(why.contains("must have") && !why.contains("much-longer"), "{why}");
        }
    }

    #[test]
    fn a_password_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("chap");
        std::fs::write(&file, "vmware a-secret-of-14\n").expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("set");
        assert!(chap(&file).expect_err("readable").to_string().contains("chmod 600"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(chap(&file).expect("sound").user, "vmware");
    }
}
