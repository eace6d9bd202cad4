//! The driver over real little programs: a machine is a file that says `running`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::ErrorKind;
use crate::order::tests::order;

const PATIENCE: Duration = Duration::from_secs(7);

/// A driver whose programs keep machines as files in `made/`.
struct Site {
    dir: TempDir,
    driver: ScriptDriver,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["programs", "made"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        let driver = Self::driver(dir.path(), ScriptLimits::default());
        let site = Self { dir, driver };
        site.program("start", "cat > $MADE.order; echo start >> $MADE.calls; echo running > $MADE");
        site.program("status", "if [ -e $MADE ]; then cat $MADE; else echo absent; fi");
        site.program("stop", "echo \"stopped after $LIFEBOAT_PATIENCE_SECONDS\" > $MADE; echo forced");
        site
    }

    fn driver(dir: &Path, limits: ScriptLimits) -> ScriptDriver {
        ScriptDriver::new(dir.join("programs"), dir.join("runs"), limits)
    }

    /// Writes a program that finds its machine's file in `$MADE`.
    fn program(&self, name: &str, text: &str) {
        let path = self.dir.path().join("programs").join(name);
        let made = self.dir.path().join("made");
        // Under another name first: a program can't be run while it is open for writing.
        let draft = path.with_extension("draft");
        fs::write(&draft, format!("#!/bin/sh\nMADE={}/$LIFEBOAT_RUN_ID\n{text}\n", made.display())).expect("written");
        fs::set_permissions(&draft, Permissions::from_mode(0o755)).expect("mode");
        fs::rename(draft, path).expect("renamed");
    }

    fn made(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join("made").join(name)).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_machine_is_started_once_stopped_and_forgotten() {
    let site = Site::new();
    let order = order("mach_1");
    let driver = &site.driver;
    assert_eq!(driver.check(&order).await, Vec::<String>::new());
    assert_eq!(driver.state(&order.id).await, Ok(RunState::Absent));
    assert_eq!(driver.stop(&order.id, PATIENCE).await, Ok(StopOutcome::WasOff));
    driver.start(&order).await.expect("starts");
    driver.start(&order).await.expect("runs already");
    assert_eq!(site.made("mach_1.calls"), "start\n", "it is started once");
    assert_eq!(serde_json::from_str::<Order>(&site.made("mach_1.order")).expect("JSON"), order);
    assert_eq!(driver.state(&order.id).await, Ok(RunState::Running));

    // A gateway that starts later finds it.
    let later = Site::driver(site.dir.path(), ScriptLimits::default());
    assert_eq!(later.list().await, Ok(vec![order.id.clone()]));
    let refused = later.forget(&order.id).await.expect_err("it runs");
    assert!(refused.kind() == ErrorKind::Refused && refused.to_string().contains("stop it first"), "{refused}");
    assert_eq!(later.stop(&order.id, PATIENCE).await, Ok(StopOutcome::Forced));
    assert_eq!(later.state(&order.id).await, Ok(RunState::Stopped { how: "after 7".to_owned() }));
    later.start(&order).await.expect("once more");
    assert_eq!(site.made("mach_1.calls"), "start\nstart\n");
    later.stop(&order.id, PATIENCE).await.expect("stops");
    site.program("forget", "rm $MADE");
    later.forget(&order.id).await.expect("forgotten");
    later.forget(&order.id).await.expect("forgotten already");
    assert_eq!(later.list().await, Ok(Vec::new()));
    assert!(!site.dir.path().join("made/mach_1").exists());
}

#[tokio::test]
async fn what_a_program_answers_is_what_callers_see() {
    let site = Site::new();
    let order = order("mach_1");
    site.driver.start(&order).await.expect("starts");
    let file = site.dir.path().join("made/mach_1");
    for (said, state) in [
        ("paused  a disk is away", RunState::Paused { reason: "a disk is away".to_owned() }),
        ("stopped", RunState::Stopped { how: "it is off".to_owned() }),
        ("absent", RunState::Stopped { how: "nothing is left of it".to_owned() }),
    ] {
        fs::write(&file, said).expect("written");
        assert_eq!(site.driver.state(&order.id).await, Ok(state), "{said}");
    }
    fs::write(&file, "paused").expect("written");
    site.driver.resume(&order.id).await.expect("goes on");
    site.driver.resume(&order.id).await.expect("runs");
    assert_eq!(site.made("mach_1.calls"), "start\nstart\n", "only what is paused");
    fs::write(&file, "stopped").expect("written");
    site.driver.resume(&order.id).await.expect("is off");
    assert_eq!(site.driver.state(&order.id).await, Ok(RunState::Stopped { how: "it is off".to_owned() }));
    fs::write(&file, "RUNNING\n").expect("written");
    let error = site.driver.state(&order.id).await.expect_err("no answer");
    assert!(error.kind() == ErrorKind::Fatal && error.to_string().contains("\"RUNNING\""), "{error}");
    for (code, kind) in [(75, ErrorKind::Retry), (78, ErrorKind::Refused), (1, ErrorKind::Fatal)] {
        site.program("start", &format!("echo first >&2; echo 'no host has room' >&2; exit {code}"));
        fs::write(&file, "stopped").expect("written");
        let error = site.driver.start(&order).await.expect_err("it fails");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().ends_with("no host has room") && error.to_string().contains("web"), "{error}");
    }
}

#[tokio::test]
async fn console_screen_and_reach_are_there_when_their_programs_are() {
    let site = Site::new();
    let order = order("mach_1");
    site.driver.start(&order).await.expect("starts");
    let id = &order.id;
    assert_eq!(site.driver.console(id, 10).await, Ok(Vec::new()));
    assert_eq!(site.driver.screen(id).await, Ok(None));
    assert_eq!(site.driver.reach(id, 1, 80).await, Ok("[fd00::5]:80".parse().expect("sound")), "a bridge's address");
    for (interface, why) in [(0, "write the program"), (2, "write the program"), (3, "no interface 3")] {
        let refused = site.driver.reach(id, interface, 80).await.expect_err(why);
        assert!(refused.kind() == ErrorKind::Refused && refused.to_string().contains(why), "{refused}");
    }
    site.program("console", "seq 1 100000; echo \"$LIFEBOAT_BYTES\"");
    site.program("screen", "printf '\\211PNG\\r\\n\\032\\n...'");
    site.program("reach", "echo 127.0.0.1:$((LIFEBOAT_PORT + 8000 + LIFEBOAT_INTERFACE))");
    assert_eq!(site.driver.console(id, 10).await, Ok(b"100000\n10\n".to_vec()));
    assert_eq!(site.driver.screen(id).await, Ok(Some(b"\x89PNG\r\n\x1a\n...".to_vec())));
    assert_eq!(site.driver.reach(id, 0, 80).await, Ok("127.0.0.1:8080".parse().expect("sound")));
    site.program("screen", "echo GIF89a");
    let error = site.driver.screen(id).await.expect_err("no PNG");
    assert!(error.to_string().contains("GIF89a"), "{error}");
}

#[tokio::test]
async fn what_speaks_against_a_start_is_said_before_it() {
    let site = Site::new();
    let mut order = order("mach_1");
    site.program("check", "grep -q '\"memory_mib\":512' && echo 'no host has 512 MiB'; echo; exit 1");
    assert_eq!(site.driver.check(&order).await, ["no host has 512 MiB"]);
    site.program("check", "echo 'no login' >&2; exit 1");
    assert!(site.driver.check(&order).await.join("\n").ends_with("no login"));
    let start = site.dir.path().join("programs/start");
    fs::set_permissions(&start, Permissions::from_mode(0o777)).expect("mode");
    fs::remove_file(site.dir.path().join("programs/stop")).expect("removed");
    order.disks.clear();
    let against = site.driver.check(&order).await;
    let [disk, start, stop] = &against[..] else { panic!("{against:?}") };
    assert!(disk.contains("boot") && start.contains("changed by others") && stop.contains("stop can't be used"));
    let refused = site.driver.start(&order).await.expect_err("no disk");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert_eq!(site.driver.list().await, Ok(Vec::new()), "what is refused leaves nothing");
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
    let site = Site::new();
    let order = order("mach_1");
    site.program("start", "sleep 600 & echo $! > $MADE.pid; echo 'still waiting' >&2; wait");
    let limits = ScriptLimits { start: Duration::from_secs(2), ..ScriptLimits::default() };
    let driver = Site::driver(site.dir.path(), limits);
    let error = driver.start(&order).await.expect_err("too slow");
    assert!(error.kind() == ErrorKind::Retry && error.to_string().ends_with("still waiting"), "{error}");
    let pid = site.made("mach_1.pid");
    let stat = format!("/proc/{}/stat", pid.trim());
    assert!(!pid.is_empty(), "it had started");
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "what it started goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(driver.list().await, Ok(vec![order.id.clone()]), "what came of it can be asked");
}

#[tokio::test]
async fn what_start_leaves_running_keeps_running_and_holds_nobody_up() {
    let site = Site::new();
    let order = order("mach_1");
    site.program("start", "sleep 600 & echo $! > $MADE.pid; echo running > $MADE");
    let began = Instant::now();
    site.driver.start(&order).await.expect("starts");
    assert!(began.elapsed() < Duration::from_secs(60), "the pipe that it kept is not waited for");
    let pid: i32 = site.made("mach_1.pid").trim().parse().expect("a number");
    let pid = rustix::process::Pid::from_raw(pid).expect("no zero");
    rustix::process::test_kill_process(pid).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("ended");
}
