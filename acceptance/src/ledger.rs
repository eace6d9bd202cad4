//! A database under load whose every loss shows: numbered transactions in SQLite.
//!
//! Each transaction n moves money between two accounts and writes line n of the ledger, all in one commit with
//! `synchronous=EXTRA`. What must hold in any copy of the disk, taken at any moment: SQLite's own integrity check passes;
//! the lines are 1..N without a gap; the accounts' sum is what it was; and N is at least the last number that had been
//! acknowledged when the copy was taken. The database runs as a process of its own (the `sqlite3` shell) that prints each
//! number after its commit returned; the writer notes when it saw each.
//!
//! EXTRA, not FULL: a commit ends by deleting the rollback journal, and only EXTRA syncs the directory after that. With FULL
//! SQLite's documentation promises consistency, not that the last transaction survives a crash.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use crate::command::Run;
use crate::{cleanup, eventually};

/// Accounts in the database, and what they hold together.
const ACCOUNTS: u64 = 64;
const SUM: u64 = ACCOUNTS * 1000;

/// A transaction and when its commit was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// Its number, from 1.
    pub number: u64,
    /// When the database had answered.
    pub at: Timestamp,
}

/// What a copy of the database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Transactions, numbered from 1 without a gap.
    pub transactions: u64,
}

/// Creates the database at `path`.
///
/// # Errors
/// When SQLite refuses.
pub fn create(path: &Path) -> Result<()> {
    let script = format!(
        "PRAGMA journal_mode=DELETE;\nPRAGMA synchronous=EXTRA;\nBEGIN;\n\
         CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);\n\
         CREATE TABLE ledger(n INTEGER PRIMARY KEY, source INTEGER NOT NULL, target INTEGER NOT NULL, amount INTEGER NOT NULL, note BLOB NOT NULL);\n\
         WITH RECURSIVE a(id) AS (SELECT 0 UNION ALL SELECT id+1 FROM a WHERE id < {})\n\
         INSERT INTO account SELECT id, 1000 FROM a;\nCOMMIT;\n",
        ACCOUNTS - 1
    );
    sqlite(path, &script).map(drop)
}

/// Opens the database as an application would (which rolls back a transaction that was cut off), checks all that must
/// hold, and says what is in it.
///
/// # Errors
/// The first thing that doesn't hold.
pub fn verify(path: &Path) -> Result<Content> {
    let printed = sqlite(
        path,
        "PRAGMA integrity_check;\nSELECT count(*) FROM ledger;\nSELECT ifnull(max(n),0) FROM ledger;\n\
         SELECT sum(balance) FROM account;\nSELECT count(*) FROM account;\nSELECT ifnull(sum(length(note) <> 200 + n % 1800),0) FROM ledger;\n",
    )?;
    let mut lines = printed.lines();
    let integrity = lines.next().unwrap_or_default();
    ensure!(integrity == "ok", "the integrity check of {} says: {printed}", path.display());
    let mut number = |what: &str| -> Result<u64> {
        let line = lines.next().with_context(|| format!("no {what} in {printed:?}"))?;
        line.parse().with_context(|| format!("{what} is no number: {line}"))
    };
    let (count, last) = (number("count")?, number("last number")?);
    let (sum, accounts, wrong_notes) = (number("sum")?, number("number of accounts")?, number("wrong notes")?);
    ensure!(count == last, "the ledger has {count} lines, and the last is number {last}: there is a gap");
    ensure!((sum, accounts) == (SUM, ACCOUNTS), "{accounts} accounts hold {sum}, not {ACCOUNTS} holding {SUM}");
    ensure!(wrong_notes == 0, "{wrong_notes} ledger lines are damaged");
    Ok(Content { transactions: count })
}

fn sqlite(path: &Path, script: &str) -> Result<String> {
    Run::new("sqlite3").args(["-batch", "-bail"]).arg(path).input(script).within(Duration::from_secs(120)).ok()
}

/// Writes transactions until it is stopped or the disk under it fails.
#[derive(Debug)]
pub struct Writer {
    commits: Arc<Mutex<Vec<Commit>>>,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<Option<String>>>,
    child: Arc<Mutex<Child>>,
    database: PathBuf,
    _kill: cleanup::Guard,
}

impl Writer {
    /// Starts the database and writes transactions `first`, `first`+1, … one after the other.
    ///
    /// # Errors
    /// When `sqlite3` can't be started.
    pub fn start(database: &Path, first: u64) -> Result<Self> {
        // Line-buffered: each number is printed when its commit returned, not when a buffer is full.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "stdbuf", "-oL", "sqlite3", "-batch", "-bail"])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start sqlite3")?;
        let input = child.stdin.take().context("sqlite3 has no input")?;
        let output = BufReader::new(child.stdout.take().context("sqlite3 has no output")?);
        let mut errors = child.stderr.take().context("sqlite3 has no error output")?;
        let (commits, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&commits), Arc::clone(&stop));
        let writer = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                let cause = write_transactions(input, output, first, &seen, &stopped).err()?;
                let mut said = String::new();
                // What the database said explains the failure better than the broken pipe does.
                drop(std::io::Read::read_to_string(&mut errors, &mut said));
                Some(format!("{cause:#} {}", said.trim()))
            })
            .context("start the writer")?;
        let child = Arc::new(Mutex::new(child));
        let victim = Arc::clone(&child);
        let kill = cleanup::defer("end sqlite3", move || {
            let mut child = victim.lock().unwrap_or_else(PoisonError::into_inner);
            drop(child.kill());
            drop(child.wait());
        });
        Ok(Self { commits, stop, writer: Some(writer), child, database: database.to_owned(), _kill: kill })
    }

    /// The transaction acknowledged last.
    #[must_use]
    pub fn last(&self) -> Option<Commit> {
        self.lock().last().copied()
    }

    /// Every acknowledged transaction.
    #[must_use]
    pub fn commits(&self) -> Vec<Commit> {
        self.lock().clone()
    }

    /// Waits until transaction `number` is acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `limit` or the database ended.
    pub fn reach(&self, number: u64, limit: Duration) -> Result<Commit> {
        eventually(&format!("transaction {number} in {}", self.database.display()), limit, || {
            let reached = self.lock().iter().find(|commit| commit.number >= number).copied();
            let ended = self.writer.as_ref().is_none_or(JoinHandle::is_finished);
            ensure!(reached.is_some() || !ended, "the database ended before transaction {number}");
            Ok(reached)
        })
    }

    /// Lets the transaction under way finish, ends the database in order, and gives every acknowledged transaction.
    ///
    /// # Errors
    /// When the database had failed.
    pub fn stop(mut self) -> Result<Vec<Commit>> {
        self.stop.store(true, Ordering::SeqCst);
        let failure = self.join();
        ensure!(failure.is_none(), "the database failed: {}", failure.unwrap_or_default());
        self.child.lock().unwrap_or_else(PoisonError::into_inner).wait().context("wait for sqlite3")?;
        Ok(self.commits())
    }

    /// After the disk was taken away: waits for the database to fail, kills it if it hangs, and gives every transaction
    /// that had been acknowledged.
    #[must_use]
    pub fn abandon(mut self) -> Vec<Commit> {
        self.stop.store(true, Ordering::SeqCst);
        let ended = eventually("the database to notice", Duration::from_secs(5), || {
            Ok(self.writer.as_ref().is_none_or(JoinHandle::is_finished).then_some(()))
        });
        if ended.is_err() {
            drop(self.child.lock().unwrap_or_else(PoisonError::into_inner).kill());
        }
        drop(self.join());
        self.commits()
    }

    fn join(&mut self) -> Option<String> {
        self.writer.take().and_then(|writer| writer.join().unwrap_or_else(|_| Some("the writer panicked".into())))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Commit>> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_transactions(
    mut input: ChildStdin,
    mut output: impl BufRead,
    first: u64,
    commits: &Mutex<Vec<Commit>>,
    stop: &AtomicBool,
) -> Result<()> {
    writeln!(input, ".timeout 5000\nPRAGMA synchronous=EXTRA;").context("write to the database")?;
    let mut number = first;
    while !stop.load(Ordering::SeqCst) {
        let (source, target) = (number % ACCOUNTS, (number * 7 + 1) % ACCOUNTS);
        let amount = number % 5;
        writeln!(
            input,
            "BEGIN IMMEDIATE; UPDATE account SET balance = balance - {amount} WHERE id = {source}; \
             UPDATE account SET balance = balance + {amount} WHERE id = {target}; \
             INSERT INTO ledger VALUES({number}, {source}, {target}, {amount}, randomblob({})); COMMIT; \
             SELECT 'committed', {number};",
            200 + number % 1800
        )
        .context("write to the database")?;
        let mut line = String::new();
        output.read_line(&mut line).context("read from the database")?;
        ensure!(line.trim() == format!("committed|{number}"), "instead of transaction {number} it said {line:?}.");
        let commit = Commit { number, at: Timestamp::now() };
        commits.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
        number += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_acknowledged_in_order_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        create(&path).unwrap();
        assert_eq!(verify(&path).unwrap(), Content { transactions: 0 });
        let writer = Writer::start(&path, 1).unwrap();
        writer.reach(20, Duration::from_secs(60)).unwrap();
        let commits = writer.stop().unwrap();
        let last = commits.last().unwrap().number;
        assert_eq!(verify(&path).unwrap(), Content { transactions: last });
        let more = Writer::start(&path, last + 1).unwrap();
        more.reach(last + 3, Duration::from_secs(60)).unwrap();
        let after = more.stop().unwrap();
        assert_eq!(after.first().unwrap().number, last + 1);
        assert_eq!(verify(&path).unwrap(), Content { transactions: after.last().unwrap().number });
    }

    #[test]
    fn a_missing_transaction_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        create(&path).unwrap();
        let writer = Writer::start(&path, 1).unwrap();
        writer.reach(10, Duration::from_secs(60)).unwrap();
        writer.stop().unwrap();
        sqlite(&path, "DELETE FROM ledger WHERE n = 4;\n").unwrap();
        assert!(verify(&path).unwrap_err().to_string().contains("gap"));
    }

    #[test]
    fn money_that_vanished_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        create(&path).unwrap();
        sqlite(&path, "UPDATE account SET balance = balance - 1 WHERE id = 3;\n").unwrap();
        assert!(verify(&path).unwrap_err().to_string().contains("hold"));
    }
}
