//! The replica of a store under test: what can be restored from it, and why a store had to begin it again.
//!
//! Half of the stores merge their uploads within milliseconds, make snapshots, and delete what was merged. So a state is
//! restored from files of all levels.

use std::collections::HashMap;
use std::env;
use std::fmt::{self, Debug};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use larder::replica::levels::LevelTimes;
use larder::rusqlite::Connection;
use larder::{Replica, ReplicaOptions, RestoreSpan};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::child::tell;

/// How a store is replicated, to a folder.
#[derive(Clone, Debug)]
pub struct Replicated {
    pub folder: PathBuf,
    pub interval: Duration,
    pub spool_limit: u64,
    /// When uploads are merged and deleted, if not as by default, which no state lives to see.
    pub times: Option<LevelTimes>,
}

impl Replicated {
    pub fn any(folder: PathBuf, rng: &mut Rng) -> Self {
        Self {
            folder,
            // Zero is the shortest pause of larder.
            interval: Duration::from_millis([0, 0, 1, 10, 1000][rng.usize(0..5)]),
            spool_limit: 1 << 30,
            times: rng.bool().then(|| brisk(rng)),
        }
    }

    pub fn options(&self) -> ReplicaOptions {
        self.at(&self.folder.display().to_string())
    }

    /// As [`options`](Self::options), at another URL.
    pub fn at(&self, url: &str) -> ReplicaOptions {
        let options = ReplicaOptions::to(url)
            .interval(self.interval)
            .spool_limit(self.spool_limit);
        match self.times {
            Some(times) => options.level_times(times),
            None => options,
        }
    }

    fn replica(&self) -> Result<Replica, String> {
        Replica::open(&self.folder.display().to_string()).map_err(|error| error.to_string())
    }

    /// A transaction before that, whose state can be restored.
    pub fn earlier(&self, than: u64, rng: &mut Rng) -> Result<Option<u64>, String> {
        let points = self.replica()?.points();
        let points = points.map_err(|error| format!("what can be restored: {error}"))?;
        Ok(earlier(&points, than, rng))
    }

    /// Restores the state after a transaction, or the newest, and hands it to `look` with the number of its transaction.
    /// `None` if the replica is empty.
    ///
    /// # Errors
    ///
    /// It cannot be restored, or what `look` finds wrong.
    pub fn restored<T>(
        &self,
        txid: Option<u64>,
        look: impl FnOnce(u64, &Path) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        if !has_files(&self.folder) {
            return Ok(None);
        }
        let to = self.folder.with_extension("restored.db");
        restore(&self.replica()?, txid, &to, look).map(Some)
    }

    /// Compares the closed database with its replica, byte for byte; now and then also with what Litestream restores.
    ///
    /// # Errors
    ///
    /// They differ.
    pub fn compare(&self, database: &Path, rng: &mut Rng) -> Result<u64, String> {
        let contents = fs::read(database).map_err(|error| error.to_string())?;
        let same = |restored: &Path| match fs::read(restored) {
            Ok(restored) if restored == contents => Ok(()),
            Ok(restored) => Err(format!(
                "it has {} bytes, and the database {}; the first difference is at {:?}",
                restored.len(),
                contents.len(),
                restored.iter().zip(&contents).position(|(one, other)| one != other)
            )),
            Err(error) => Err(error.to_string()),
        };
        let compared = self.restored(None, |txid, restored| same(restored).map(|()| txid))?;
        let txid = compared.ok_or("the replica of a store that has closed is empty")?;
        if self.times.is_some() {
            count_levels(&self.folder);
        }
        // A state is made of some of the files.
        if rng.u32(0..8) == 0 {
            let verified = self.replica()?.verify().run();
            let verified = verified.map_err(|error| format!("verifying: {error}"))?;
            if !verified.is_ok() {
                return Err(verified.to_string());
            }
        }
        if let Some(litestream) = litestream()
            && rng.u32(0..40) == 0
        {
            let to = self.folder.with_extension("litestream.db");
            let url = format!("file://{}", self.folder.display());
            let mut command = Command::new(litestream);
            let output = command.arg("restore").arg("-o").arg(&to).arg(url).output();
            let output = output.map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(format!("litestream: {}", String::from_utf8_lossy(&output.stderr)));
            }
            same(&to).map_err(|problem| format!("litestream: {problem}"))?;
            fs::remove_file(&to).map_err(|error| error.to_string())?;
        }
        Ok(txid)
    }
}

/// Restores a state of a replica to a file, which is removed once `look` has looked at it.
pub fn restore<T>(
    replica: &Replica,
    txid: Option<u64>,
    to: &Path,
    look: impl FnOnce(u64, &Path) -> Result<T, String>,
) -> Result<T, String> {
    let restore = match txid {
        Some(txid) => replica.restore().txid(txid),
        None => replica.restore(),
    };
    // `look` has its own checks.
    let report = restore.integrity_check(false).to(to);
    let report = report.map_err(|error| format!("restoring from the replica: {error}"))?;
    let looked = look(report.txid, to).map_err(|problem| format!("transaction {} of it: {problem}", report.txid));
    let mut spool = to.as_os_str().to_owned();
    spool.push("-replica");
    fs::remove_file(to).map_err(|error| error.to_string())?;
    fs::remove_dir_all(spool).map_err(|error| error.to_string())?;
    looked
}

/// One of these states, from before that transaction.
pub fn earlier(points: &[RestoreSpan], than: u64, rng: &mut Rng) -> Option<u64> {
    let span = rng.choice(points)?;
    let txid = match rng.u32(0..3) {
        0 => span.first.txid,
        1 => span.last.txid,
        // Each transaction of this span can be restored.
        _ if span.states == span.last.txid - span.first.txid + 1 => rng.u64(span.first.txid..=span.last.txid),
        _ => span.first.txid,
    };
    (txid < than).then_some(txid)
}

/// Times in which a store merges, deletes, and makes snapshots while a state runs.
fn brisk(rng: &mut Rng) -> LevelTimes {
    let mut of = |list: &[u64]| Duration::from_millis(list[rng.usize(0..list.len())]);
    const HOUR: u64 = 3_600_000;
    let first = of(&[1, 2, 5, 20]);
    LevelTimes {
        levels: [first, 2 * first, 6 * first],
        l0_retention: of(&[1, 10, HOUR]),
        snapshot_every: of(&[1, 10, 50, HOUR]),
        retention: of(&[1, 20, HOUR]),
    }
}

/// Replicas of closed stores that had merged files, that had snapshots, and whose first transaction was deleted.
static LEVELS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn count_levels(replica: &Path) {
    let has = |level: u32| has_files(&replica.join(format!("ltx/{level}")));
    let first = replica.join(format!("ltx/0/{:016x}-{0:016x}.ltx", 1));
    let found = [(1..=3).any(has), has(9), !first.exists()];
    for (count, _) in LEVELS.iter().zip(found).filter(|(_, found)| *found) {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// How many replicas had merged files, snapshots, and deleted transactions.
pub fn levels() -> [u64; 3] {
    LEVELS.each_ref().map(|count| count.load(Ordering::SeqCst))
}

/// The first `litestream` of `LARDER_LITESTREAM` that reads what larder writes: 0.5.16 or newer.
fn litestream() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || env::split_paths(&env::var_os("LARDER_LITESTREAM")?).find(|program| reads_blocks(program));
    FOUND.get_or_init(find).as_ref()
}

/// Versions before 0.5.16 know frames of LZ4 alone.
fn reads_blocks(program: &Path) -> bool {
    let Ok(output) = Command::new(program).arg("version").output() else {
        return false;
    };
    let version = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<u32> = version
        .trim()
        .trim_start_matches('v')
        .split('.')
        .filter_map(|n| n.parse().ok())
        .collect();
    numbers.as_slice() >= &[0, 5, 16]
}

/// Whether the replica has a file with transactions.
pub fn has_files(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        path.extension().is_some_and(|extension| extension == "ltx") || path.is_dir() && has_files(&path)
    })
}

/// Opens a restored database, and has SQLite check it.
pub fn open(restored: &Path) -> Result<Connection, String> {
    let conn = Connection::open(restored).map_err(|error| error.to_string())?;
    crate::check::sound(&conn)?;
    Ok(conn)
}

// ---- full files ----

/// Why stores have begun their replica again, by database.
static REASONS: Mutex<Option<HashMap<PathBuf, Vec<String>>>> = Mutex::new(None);

/// Hears larder's events about replicas from now on.
pub fn listen() {
    *REASONS.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashMap::new());
    // A second suite of this process finds it set.
    let _ = tracing::subscriber::set_global_default(Listener);
}

/// Whether they are told to the parent of this process.
static TELLS: AtomicBool = AtomicBool::new(false);

/// Tells each of them to the parent of this process.
pub fn tell_rebases() {
    TELLS.store(true, Ordering::SeqCst);
}

/// Why the next transaction of that database's replica had to have every page, each time since the last call.
pub fn rebases(database: &Path) -> Vec<String> {
    let mut reasons = REASONS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = reasons.as_mut().and_then(|reasons| reasons.remove(database));
    found.unwrap_or_default()
}

struct Listener;

#[derive(Default)]
struct Heard {
    database: String,
    reason: String,
    message: String,
}

impl Visit for Heard {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "db.namespace" => self.database = value,
            "reason" => self.reason = value,
            "message" => self.message = value,
            _ => {}
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "larder::replica"
    }

    fn event(&self, event: &Event<'_>) {
        let mut heard = Heard::default();
        event.record(&mut heard);
        if heard.message.contains("has every page") {
            if TELLS.load(Ordering::SeqCst) {
                tell(&format!("rebased {}", heard.reason));
            }
            let mut reasons = REASONS.lock().unwrap_or_else(PoisonError::into_inner);
            let reasons = reasons.get_or_insert_default();
            reasons.entry(heard.database.into()).or_default().push(heard.reason);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
