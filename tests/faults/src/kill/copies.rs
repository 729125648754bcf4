//! Backups and restores of a killed process: the child that makes them, and what its parent knows of them.
//!
//! Below the folder of the database are `backups`, with backups, plain and compact, that replace an older one or are
//! new, beside those of a schedule, and `restored`, with databases made from them. The child reports the start of each
//! copy, and the hash of its bytes when it is done. The parent receives each acknowledgement before that, in the
//! child's order, so it knows which commits a backup must have.
//!
//! After a kill, a finished copy is there byte for byte. One in progress is the older one, byte for byte, or the new
//! one, or absent if there was no older one. Each opens alone, read-only, passes the integrity check, creates no file,
//! and holds a prefix of the commits of that time, with all that were acknowledged before it began; a restored database
//! has the contents of its backup. Beside them there are only folders of unfinished copies, which the next backup or
//! restore removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::rusqlite::{Connection, OpenFlags};
use larder::{BackupSchedule, BackupStage, Error, Store};

use crate::check;
use crate::child::tell;
use crate::entries::{Entry, look};

const BACKUPS: &str = "backups";
const RESTORED: &str = "restored";

/// Names in each folder, which are reused.
const NAMES: u32 = 2;

/// Backups that a schedule keeps.
const KEEP: usize = 2;

/// The prefix of a schedule's backups: the name of the database.
const SCHEDULED: &str = "app.db.";

/// The prefix of the folders of unfinished copies.
const UNFINISHED: &str = ".larder-backup-";

/// The prefix of the file that says whose backups a folder has.
const SERIES: &str = ".larder-series-";

/// Creates the folders, unless they exist.
pub fn make_folders(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join(BACKUPS))?;
    fs::create_dir_all(folder.join(RESTORED))
}

// ---- the child ----

/// Makes copies, and reports them.
pub struct Copier {
    folder: PathBuf,
    rng: Rng,
}

impl Copier {
    /// For a database in that folder.
    pub fn new(folder: &Path, rng: Rng) -> Self {
        Self {
            folder: folder.to_owned(),
            rng,
        }
    }

    pub fn schedule(&mut self, store: &Store) -> larder::Result<Option<BackupSchedule>> {
        if self.rng.u32(0..3) > 0 {
            return Ok(None);
        }
        store
            .backup_every(Duration::from_secs(1), KEEP, self.folder.join(BACKUPS))
            .map(Some)
    }

    /// Makes one copy after another until the store is closed.
    pub fn run(&mut self, store: &Store) {
        loop {
            let backup = format!("{BACKUPS}/{}", self.rng.u32(0..NAMES));
            let made = if self.rng.u32(0..3) == 0 && self.folder.join(&backup).exists() {
                self.restore(&backup)
            } else {
                self.back_up(store, &backup)
            };
            match made {
                Ok(()) => {}
                Err(Error::Closed) => return,
                Err(error) => return tell(&format!("! a copy: {error:?}")),
            }
            thread::sleep(Duration::from_micros(self.rng.u64(0..4000)));
        }
    }

    fn back_up(&mut self, store: &Store, name: &str) -> larder::Result<()> {
        let (to, overwrite) = (self.folder.join(name), self.rng.bool());
        tell(&format!("begin {name} {}", if overwrite { "over" } else { "new" }));
        if !overwrite {
            remove(&to)?;
        }
        let backup = if self.rng.bool() {
            store.backup(&to)
        } else {
            store.backup_compact(&to)
        };
        let mut before = None;
        let made = backup
            .overwrite(overwrite)
            .pages_per_step([1, 10, 100, 1000][self.rng.usize(0..4)])
            .checksum(self.rng.u32(0..4) == 0)
            .verify(self.rng.u32(0..4) > 0)
            .progress(move |progress| {
                if before.replace(progress.stage) != Some(progress.stage) {
                    tell(&format!("stage {}", Stage::of(progress.stage).word()));
                }
                ControlFlow::Continue(())
            })
            .run();
        self.tell_end(name, made.map(|report| report.bytes()))
    }

    /// Restores a backup, never over a file.
    fn restore(&self, backup: &str) -> larder::Result<()> {
        let name = backup.replace(BACKUPS, RESTORED);
        let to = self.folder.join(&name);
        tell(&format!("begin {name} new {backup}"));
        remove(&to)?;
        let made = Store::restore(self.folder.join(backup), &to);
        self.tell_end(&name, made.map(|report| report.bytes()))
    }

    fn tell_end(&self, name: &str, made: larder::Result<u64>) -> larder::Result<()> {
        match made {
            Ok(bytes) => {
                let (hash, length) = hash_of(&self.folder.join(name)).map_err(Error::app)?;
                if length != bytes {
                    return Err(Error::app(format!(
                        "{name} has {length} bytes, and was said to have {bytes}"
                    )));
                }
                Ok(tell(&format!("done {name} {hash}")))
            }
            Err(error) => {
                if matches!(error, Error::Closed) {
                    tell(&format!("stopped {name}"));
                }
                Err(error)
            }
        }
    }
}

fn remove(path: &Path) -> larder::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::app(error)),
        _ => Ok(()),
    }
}

/// The hash of a file's bytes, and their number. Every process of this program computes the same hash of the same
/// bytes.
fn hash_of(path: &Path) -> io::Result<(u64, u64)> {
    let bytes = fs::read(path)?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok((hasher.finish(), bytes.len() as u64))
}

// ---- the parent's knowledge ----

/// The activity of a child with its copies.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Stage {
    #[default]
    None,
    /// It has reported the start of a backup, and no more.
    Begun,
    Copying,
    Compacting,
    Verifying,
    /// A restore reports no stages.
    Restoring,
}

impl Stage {
    pub const OF_BACKUPS: [Self; 4] = [Self::Begun, Self::Copying, Self::Compacting, Self::Verifying];

    fn of(stage: BackupStage) -> Self {
        match stage {
            BackupStage::Copy => Self::Copying,
            BackupStage::Compact => Self::Compacting,
            BackupStage::Verify => Self::Verifying,
            _ => Self::None,
        }
    }

    fn word(self) -> String {
        format!("{self:?}")
    }
}

/// The copies of a folder, by name.
#[derive(Default)]
pub struct Copies {
    whole: BTreeMap<String, Whole>,
    begun: Option<Begun>,
    pub stage: Stage,
}

/// A copy that exists.
struct Whole {
    hash: u64,
    /// The minimum number of commits in it.
    least: usize,
    /// The backup that it was restored from, with that backup's hash.
    of: Option<(String, u64)>,
}

/// A copy that was begun and not reported as done.
struct Begun {
    name: String,
    /// Whether it replaces a file atomically. If not, the old file is removed first.
    over: bool,
    least: usize,
    of: Option<(String, u64)>,
}

impl Copies {
    /// Reads a report of the child, at which `acknowledged` commits were acknowledged.
    pub fn hear(&mut self, words: &[&str], acknowledged: usize) -> Result<(), String> {
        let strange = || format!("the child told {words:?}");
        match *words {
            ["begin", name, way, ref of @ ..] => {
                let begun = self.begin(name, way == "over", of.first().copied(), acknowledged);
                self.stage = if begun.of.is_some() {
                    Stage::Restoring
                } else {
                    Stage::Begun
                };
                self.begun = Some(begun);
            }
            ["stage", word] => {
                let stage = Stage::OF_BACKUPS.into_iter().find(|stage| stage.word() == word);
                self.stage = stage.ok_or_else(strange)?;
            }
            ["done", _, hash] => {
                let hash = hash.parse().map_err(|_| strange())?;
                self.end(Some(hash)).ok_or_else(strange)?;
            }
            // The file is the previous one.
            ["stopped", _] => self.end(None).ok_or_else(strange)?,
            _ => return Err(strange()),
        }
        Ok(())
    }

    fn begin(&self, name: &str, over: bool, of: Option<&str>, acknowledged: usize) -> Begun {
        let source = of.and_then(|of| Some((of.to_owned(), self.whole.get(of)?)));
        Begun {
            name: name.to_owned(),
            over,
            least: source.as_ref().map_or(acknowledged, |(_, backup)| backup.least),
            of: source.map(|(of, backup)| (of, backup.hash)),
        }
    }

    /// Settles the copy in progress: the file has that hash now, or else it is the previous one.
    fn end(&mut self, hash: Option<u64>) -> Option<()> {
        let Begun { name, over, least, of } = self.begun.take()?;
        self.stage = Stage::None;
        match hash {
            Some(hash) => drop(self.whole.insert(name, Whole { hash, least, of })),
            None if !over => drop(self.whole.remove(&name)),
            None => {}
        }
        Some(())
    }

    /// Settles the copy in progress after a kill.
    pub fn settle(&mut self, folder: &Path) -> Result<(), String> {
        let Some(begun) = &self.begun else { return Ok(()) };
        let older = self.whole.get(&begun.name).map(|older| older.hash);
        match hash_of(&folder.join(&begun.name)) {
            Ok((hash, _)) if Some(hash) == older => self.begun = None,
            Ok((hash, _)) => drop(self.end(Some(hash))),
            Err(error) if error.kind() == ErrorKind::NotFound && (older.is_none() || !begun.over) => {
                self.whole.remove(&begun.name);
                self.begun = None;
            }
            Err(error) => return Err(format!("{} was to be replaced: {error}", begun.name)),
        }
        self.stage = Stage::None;
        Ok(())
    }

    // ---- what must hold ----

    /// Checks that there are only whole copies, and unfinished ones that cannot be mistaken for a copy.
    pub fn check(&self, folder: &Path, found: &[Entry]) -> Result<(), String> {
        let before = Listing::of(folder)?;
        let (scheduled, others) = before.files();
        if !others.iter().copied().eq(self.whole.keys()) {
            let told: Vec<_> = self.whole.keys().collect();
            return Err(format!("there are the copies {others:?}, and there must be {told:?}"));
        }
        // A schedule has one more while it has not removed the oldest yet.
        if scheduled.len() > KEEP + 1 {
            return Err(format!("a schedule that keeps {KEEP} has left {scheduled:?}"));
        }
        for name in scheduled {
            judge(&folder.join(name), 0, found).map_err(|problem| format!("{name}: {problem}"))?;
        }
        let mut held = BTreeMap::new();
        for (name, copy) in &self.whole {
            let entries = copy.judge(&folder.join(name), found);
            held.insert(name, entries.map_err(|problem| format!("{name}: {problem}"))?);
        }
        for (name, copy) in &self.whole {
            // Unless the backup was replaced since.
            if let Some((of, hash)) = &copy.of
                && self.whole.get(of).is_some_and(|backup| backup.hash == *hash)
                && held[of] != held[name]
            {
                return Err(format!("{name} is not what {of} holds, which it was restored from"));
            }
        }
        let after = Listing::of(folder)?;
        if after != before {
            return Err(format!("looking at the copies {before:?} has left {after:?}"));
        }
        Ok(())
    }
}

impl Whole {
    fn judge(&self, path: &Path, found: &[Entry]) -> Result<Vec<Entry>, String> {
        let (hash, _) = hash_of(path).map_err(|error| error.to_string())?;
        if hash != self.hash {
            return Err("it is not what it was when it was done".into());
        }
        judge(path, self.least, found)
    }
}

/// Checks that a copy opens by itself, without a WAL, is sound, and holds at least the first `least` commits. Returns
/// its commits.
fn judge(path: &Path, least: usize, found: &[Entry]) -> Result<Vec<Entry>, String> {
    let mut versions = [0; 2];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut versions, 18));
    read.map_err(|error| error.to_string())?;
    // "1 for rollback journalling modes", <https://sqlite.org/fileformat.html>: a reader must not expect a WAL beside
    // it.
    if versions != [1, 1] {
        return Err(format!("it has the versions {versions:?}"));
    }
    let conn =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| error.to_string())?;
    check::sound(&conn)?;
    let entries = look(&conn)?;
    let held = entries.len();
    if held < least {
        return Err(format!(
            "it has {held} commits, and {least} were acknowledged before it"
        ));
    }
    let then = found.iter().take(held).map(|entry| entry.as_of(held as i64));
    if !then.eq(entries.iter().cloned()) {
        return Err(format!(
            "its {held} commits are not the first of the {} there are",
            found.len()
        ));
    }
    Ok(entries)
}

/// Checks that there is still room for copies: the next backup and the next restore succeed, hold all commits, and
/// remove the leftovers of killed ones.
pub fn check_next(store: &Store, folder: &Path, found: &[Entry]) -> Result<(), String> {
    let (backup, restored) = (folder.join(BACKUPS).join("next"), folder.join(RESTORED).join("next"));
    store
        .backup(&backup)
        .run()
        .map_err(|error| format!("the next backup: {error}"))?;
    Store::restore(&backup, &restored).map_err(|error| format!("the next restore: {error}"))?;
    for path in [&backup, &restored] {
        judge(path, found.len(), found).map_err(|problem| format!("{}: {problem}", path.display()))?;
        fs::remove_file(path).map_err(|error| error.to_string())?;
    }
    let left = Listing::of(folder)?.unfinished;
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("what was left of unfinished copies is still there: {left:?}"))
    }
}

// ---- the contents of the folders ----

/// The names in both folders.
#[derive(Debug, Default, PartialEq)]
pub struct Listing {
    files: BTreeSet<String>,
    unfinished: BTreeSet<String>,
}

impl Listing {
    pub fn of(folder: &Path) -> Result<Self, String> {
        let mut listing = Self::default();
        for part in [BACKUPS, RESTORED] {
            listing.add(folder, part).map_err(|error| format!("{part}: {error}"))?;
        }
        Ok(listing)
    }

    fn add(&mut self, folder: &Path, part: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder.join(part))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(SERIES) {
                continue;
            }
            let is_unfinished = entry.file_type()?.is_dir() && name.starts_with(UNFINISHED);
            let names = if is_unfinished {
                &mut self.unfinished
            } else {
                &mut self.files
            };
            names.insert(format!("{part}/{name}"));
        }
        Ok(())
    }

    /// The names of a schedule's backups, and the others.
    fn files(&self) -> (Vec<&String>, Vec<&String>) {
        let prefix = format!("{BACKUPS}/{SCHEDULED}");
        self.files.iter().partition(|name| name.starts_with(&prefix))
    }

    /// Whether a new unfinished backup, or restore, has appeared since `before`.
    pub fn unfinished_since(&self, before: &Self) -> (bool, bool) {
        let is_in = |part: &str| {
            self.unfinished
                .difference(&before.unfinished)
                .any(|name| name.starts_with(part))
        };
        (is_in(BACKUPS), is_in(RESTORED))
    }
}
