//! Hooks: the programs that quiet a group's applications around an application-consistent point, and those that are the
//! actions of recovery plans.
//!
//! A declaration names files, never paths or commands: only what an administrator of this machine has put into the
//! gateway's directory of hooks is ever run. A program that others could change is refused. It gets no shell, no standard
//! input, and what it is about in its environment; the last line that it writes to standard error says why it failed.
//! One that takes too long is killed with everything that it started.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_api::AppConsistency;
use lifeboat_api::validate::parse_duration;
use lifeboat_engine::quiesce::{AppPoints, Quiesce};
use lifeboat_model::GroupId;
use tokio::io::AsyncReadExt;

/// What is kept of a program's standard error.
const SAID_BYTES: u64 = 16 << 10;

/// The hooks of the groups that run here: the same object as long as a declaration says the same.
#[derive(Debug, Default)]
pub(crate) struct Hooks(Mutex<HashMap<GroupId, Arc<Scripts>>>);

impl Hooks {
    /// How a group takes application-consistent points.
    pub(crate) fn of(&self, group: GroupId, wanted: Scripts, every: Option<Duration>) -> AppPoints {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known.entry(group).or_insert_with(|| Arc::new(wanted.clone()));
        if **kept != wanted {
            *kept = Arc::new(wanted);
        }
        AppPoints { every, timeout: kept.timeout, hooks: Arc::clone(kept) as Arc<dyn Quiesce> }
    }
}

/// The programs of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scripts {
    directory: PathBuf,
    pre: Option<String>,
    post: Option<String>,
    timeout: Duration,
    group: String,
    mount: Option<PathBuf>,
}

impl Scripts {
    pub(crate) fn new(directory: &Path, declared: &AppConsistency, group: &str, mount: Option<PathBuf>) -> Self {
        Self {
            directory: directory.to_owned(),
            pre: declared.pre_script.clone(),
            post: declared.post_script.clone(),
            timeout: parse_duration(&declared.timeout).unwrap_or(Duration::from_secs(30)),
            group: group.to_owned(),
            mount,
        }
    }

    async fn run(&self, name: &Option<String>, moment: &str) -> Result<(), String> {
        let Some(name) = name else { return Ok(()) };
        let mut environment =
            vec![("LIFEBOAT_GROUP".to_owned(), self.group.clone()), ("LIFEBOAT_HOOK".to_owned(), moment.to_owned())];
        if let Some(mount) = &self.mount {
            environment.push(("LIFEBOAT_MOUNT".to_owned(), mount.display().to_string()));
        }
        run(&self.directory, name, &environment).await
    }
}

/// Runs a program of the directory of hooks to its end. When this is given up, the program ends with everything that it started.
pub(crate) async fn run(directory: &Path, name: &str, environment: &[(String, String)]) -> Result<(), String> {
    let path = directory.join(name);
    let checked = path.clone();
    tokio::task::spawn_blocking(move || check(&checked)).await.map_err(|error| error.to_string())??;
    let mut command = tokio::process::Command::new(&path);
    command
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{} can't be run: {error}", path.display()))?;
    let _group = ProcessGroup(child.id());
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut head = stderr.take(SAID_BYTES);
        head.read_to_end(&mut said).await.map_err(|error| format!("{}: {error}", path.display()))?;
        // The rest is read and dropped, so that a talkative program isn't stopped by a full pipe.
        let mut rest = head.into_inner();
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map_err(|error| error.to_string())?;
    }
    let status = child.wait().await.map_err(|error| format!("{}: {error}", path.display()))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{} ended with {status}: {last}", path.display()))
}

#[async_trait]
impl Quiesce for Scripts {
    async fn freeze(&self) -> Result<(), String> {
        self.run(&self.pre, "pre").await
    }

    async fn thaw(&self) -> Result<(), String> {
        self.run(&self.post, "post").await
    }
}

/// Ends what a program started, when the wait for it is given up.
struct ProcessGroup(Option<u32>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Nothing is left of it as a rule.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Refuses what somebody else could have put there.
fn check(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let directory = path.parent().unwrap_or(path);
    let own = rustix::process::geteuid().as_raw();
    let unsafe_for = |metadata: &std::fs::Metadata| {
        metadata.permissions().mode() & 0o022 != 0 || (metadata.uid() != own && metadata.uid() != 0)
    };
    let metadata = |path: &Path| {
        std::fs::metadata(path).map_err(|error| format!("the hook {} can't be used: {error}", path.display()))
    };
    if unsafe_for(&metadata(directory)?) {
        return Err(format!(
            "the directory of hooks {} could be changed by others: make it root's, mode 0755 at most",
            directory.display()
        ));
    }
    let found = metadata(path)?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return Err(format!("the hook {shown} is no program: make it executable (chmod 755)"));
    }
    if unsafe_for(&found) {
        return Err(format!("the hook {shown} could be changed by others: make it root's, mode 0755 at most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(directory: &Path, pre: &str, post: Option<&str>) -> Scripts {
        let declared = AppConsistency {
            pre_script: Some(pre.to_owned()),
            post_script: post.map(str::to_owned),
            timeout: "5s".to_owned(),
        };
        Scripts::new(directory, &declared, "ledger", Some("/mnt/lifeboat".into()))
    }

    fn script(directory: &Path, name: &str, text: &str, mode: u32) {
        let path = directory.join(name);
        // Written under another name first: a program can't be run while it is open for writing, here or in a child.
        let draft = directory.join(format!("{name}.draft"));
        std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode)).expect("mode");
        std::fs::copy(&draft, &path).expect("copied");
        std::fs::remove_file(draft).expect("removed");
    }

    #[tokio::test]
    async fn a_hook_knows_its_group_and_a_failure_says_its_last_line() {
        let dir = tempfile::tempdir().expect("tempdir");
        script(dir.path(), "pre", "echo \"$LIFEBOAT_GROUP $LIFEBOAT_HOOK $LIFEBOAT_MOUNT\" > \"$0.out\"", 0o755);
        script(dir.path(), "post", "echo first >&2; echo 'the database is down' >&2; exit 3", 0o755);
        let hooks = scripts(dir.path(), "pre", Some("post"));
        hooks.freeze().await.expect("ran");
        let out = std::fs::read_to_string(dir.path().join("pre.out")).expect("read");
        assert_eq!(out, "ledger pre /mnt/lifeboat\n");
        let failed = hooks.thaw().await.expect_err("exit code 3");
        assert!(failed.contains("exit status: 3") && failed.ends_with("the database is down"), "{failed}");
    }

    #[tokio::test]
    async fn what_others_could_change_and_what_is_no_program_is_not_run() {
        let dir = tempfile::tempdir().expect("tempdir");
        script(dir.path(), "open", "exit 0", 0o777);
        script(dir.path(), "text", "exit 0", 0o644);
        for (name, why) in [("open", "changed by others"), ("text", "no program"), ("missing", "can't be used")] {
            let refused = scripts(dir.path(), name, None).freeze().await.expect_err(name);
            assert!(refused.contains(why), "{refused}");
        }
        script(dir.path(), "fine", "exit 0", 0o755);
        scripts(dir.path(), "fine", None).freeze().await.expect("runs");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("mode");
        let refused = scripts(dir.path(), "fine", None).freeze().await.expect_err("anybody's directory");
        assert!(refused.contains("directory of hooks"), "{refused}");
    }

    #[tokio::test]
    async fn a_hook_that_is_given_up_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().expect("tempdir");
        script(dir.path(), "slow", "sleep 600 & echo $! > \"$0.pid\"; wait", 0o755);
        let hooks = scripts(dir.path(), "slow", None);
        let pid = dir.path().join("slow.pid");
        let started = async {
            loop {
                if let Some(pid) = std::fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n')) {
                    return pid.trim().to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let pid = tokio::select! {
            pid = tokio::time::timeout(Duration::from_secs(30), started) => pid.expect("it starts"),
            ended = hooks.freeze() => panic!("it ended: {ended:?}"),
        };
        let stat = PathBuf::from(format!("/proc/{pid}/stat"));
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !gone() {
            assert!(std::time::Instant::now() < deadline, "what it started goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn the_same_declaration_gives_the_same_hooks() {
        let hooks = Hooks::default();
        let group = GroupId::new();
        let one = hooks.of(group, scripts(Path::new("/hooks"), "a", None), None);
        assert_eq!(one, hooks.of(group, scripts(Path::new("/hooks"), "a", None), None));
        assert_ne!(one, hooks.of(group, scripts(Path::new("/hooks"), "b", None), None));
    }
}
