//! Compaction into levels 1 to 3, and retention. `rules.rs` decides; this file does it.
//!
//! [`Levels`] knows the files of a replica from one list at opening, from what its owner uploaded since, and from each
//! retention, which lists again. One task owns it: the uploader's, which asks [`Levels::due`] between two uploads, so two
//! merges never run at once.
//!
//! Level 0 alone is fenced by its keys. So what is written here has to follow from level 0: inputs are files that *were
//! uploaded* (a local copy of one, or a GET), snapshots too, and two owners write the same contents. A file of level 0 that
//! was not reported is read from the replica: the spool's own may be one that another owner has forestalled. The caller
//! keeps the other rules: a file is reported by [`Levels::uploaded`] only after its own Create succeeded, and a store that is
//! fenced, or does not know what became of a PUT, says so by [`Permit`], which is asked before each write and each delete.
//!
//! # Damage
//!
//! A file that is damaged or missing is found by the merge that reads it, or by a verification. A file of level 0 that the
//! spool still has is written once more: its bytes are fixed, so that is no other file ([`Levels::write_again`]). Any other is
//! left out from then on, and the next snapshot is made at once, of the files that are left. If those do not make the
//! newest state, its owner uploads a file with every page as the next transaction ([`Levels::wants_every_page`]), and the
//! snapshot is made of that one. So the states behind it can be restored; those from the damage up to it cannot. Before
//! that the levels are listed once more ([`Levels::look_again`]): a list may have been out of date.

mod retain;
mod rules;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::mem;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::rules::{LevelTimes, Merge, SNAPSHOTS, expendable, next_due, next_merge, snapshot_is_due};
use crate::replica::ltx::{Decoder, Header, LtxError, merge, merge_into_snapshot};
use crate::replica::restore::apply::read_through;
use crate::replica::restore::plan::{PlanError, Target, plan};
use crate::replica::restore::rebuild::explain;
use crate::replica::restore::time::from_millis;
use crate::replica::runtime::{self, Closures};
use crate::replica::storage::{FailureKind, FileInfo, Result, Storage, StorageError, Txids, add_unlisted, all_files};
use crate::runtime::random;
use crate::runtime::sync::Arc;

/// Files that become one snapshot.
const MOST_OF_A_SNAPSHOT: usize = 256;

/// Time between two looks of retention.
const RETAIN_EVERY: Duration = Duration::from_secs(15 * 60);

/// The levels of one replica, for its owner.
pub struct Levels {
    storage: Storage,
    times: LevelTimes,
    /// The spool: `0/`, `1/`, `2/` have copies of files that were uploaded, `tmp/` unfinished files.
    spool: PathBuf,
    files: Vec<FileInfo>,
    /// The last transaction that the owner uploaded. Files of level 0 behind it may be another's.
    own: u64,
    /// Files that cannot be used, and why: they are damaged or missing.
    damaged: Vec<(FileInfo, String)>,
    /// The newest file of level 0 that has every page, if it was uploaded since this was opened.
    every_page: Option<FileInfo>,
    /// Whether such a file was asked for, and has not come.
    asked: bool,
    /// The last look of retention.
    retained: SystemTime,
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// [`Levels::merge`].
    Merge(Merge),
    /// [`Levels::snapshot`].
    Snapshot,
    /// [`Levels::retain`].
    Retain,
}

/// Whether the owner may still write to levels and delete: it is not fenced, and no PUT of it is in doubt.
pub trait Permit: Send + Sync {
    /// Whether it may.
    fn is_given(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync> Permit for F {
    fn is_given(&self) -> bool {
        self()
    }
}

impl Levels {
    /// Lists what is there. The copies of levels 1 and 2 that an earlier owner left in the spool are removed: the replica
    /// may have become another one since.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn open(storage: Storage, times: LevelTimes, spool: PathBuf) -> Result<Self> {
        for level in 1..rules::HIGHEST {
            let _ = fs::remove_dir_all(spool.join(level.to_string()));
        }
        let files = all_files(&storage).await?;
        Ok(Self {
            storage,
            times,
            spool,
            files,
            own: 0,
            damaged: Vec::new(),
            every_page: None,
            asked: false,
            retained: UNIX_EPOCH,
        })
    }

    /// The files that are known, of all levels.
    pub fn files(&self) -> &[FileInfo] {
        &self.files
    }

    /// Takes note of a file that the owner uploaded: to level 0, or a snapshot.
    pub fn uploaded(&mut self, file: FileInfo) {
        if file.level == 0 {
            self.own = self.own.max(file.txids.max);
        }
        // The list at opening may have it.
        if !self.files.iter().any(|known| is_same(known, &file)) {
            self.files.push(file);
        }
    }

    /// As [`uploaded`](Self::uploaded), of a file of level 0 that has every page of the database.
    pub fn uploaded_every_page(&mut self, file: FileInfo) {
        self.uploaded(file);
        self.every_page = Some(file);
        self.asked = false;
    }

    /// Leaves a file out from now on.
    pub fn is_damaged(&mut self, file: FileInfo, problem: String) {
        self.files.retain(|known| !is_same(known, &file));
        self.damaged.retain(|(known, _)| !is_same(known, &file));
        self.damaged.push((file, problem));
    }

    /// Takes the files of these transactions, which were written once more, for whole ones, should they have been left out.
    pub fn are_whole(&mut self, level: u8, txids: Txids) {
        let is_whole =
            |file: &FileInfo| file.level == level && txids.min <= file.txids.min && file.txids.max <= txids.max;
        let left_out = mem::take(&mut self.damaged);
        for (file, problem) in left_out {
            match is_whole(&file) {
                // Several that no file has are none; the next look finds theirs.
                true if file.txids.min == file.txids.max => self.uploaded(file),
                true => {}
                false => self.damaged.push((file, problem)),
            }
        }
    }

    /// Writes a damaged file of level 0 once more, if the spool has it and it is whole. The caller makes sure that it was
    /// this owner's upload. Returns whether it did.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn write_again(&self, file: FileInfo) -> Result<bool> {
        let copy = self.copy_of(0, file.txids);
        let read = runtime::blocking(move || {
            let opened = File::open(copy)?;
            let whole = read_through(BufReader::new(&opened), &file);
            let header = whole.map_err(|error| io::Error::other(error.to_string()))?;
            Ok::<_, io::Error>((Arc::new(opened), header.timestamp))
        });
        let Ok(Ok((copy, timestamp))) = read.await else {
            return Ok(false);
        };
        self.storage.put(0, file.txids, timestamp, copy).await?;
        Ok(true)
    }

    /// Why the newest state cannot be restored, or can be only around a damaged file. `None` if it can.
    pub fn problem(&self) -> Option<String> {
        match self.health() {
            Health::Sound => None,
            Health::Mendable { problem, .. } | Health::Broken(problem) => Some(problem),
        }
    }

    /// Lists the files once more if the newest state cannot be restored from those that are known: they may have been left
    /// out of a list that was out of date, or have been merged since.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn look_again(&mut self) -> Result<()> {
        if self.asked || !matches!(self.health(), Health::Broken(_)) {
            return Ok(());
        }
        let mut files = all_files(&self.storage).await?;
        let unlisted = self
            .files
            .iter()
            .filter(|file| !files.iter().any(|listed| is_same(listed, file)));
        let unlisted: Vec<_> = unlisted.copied().collect();
        files.extend(unlisted);
        add_unlisted(&self.storage, &mut files).await?;
        files.retain(|file| !self.damaged.iter().any(|(damaged, _)| is_same(damaged, file)));
        self.files = files;
        Ok(())
    }

    /// Why only a file with every page helps, unless that was said before.
    ///
    /// # Errors
    ///
    /// As [`look_again`](Self::look_again).
    pub async fn wants_every_page(&mut self) -> Result<Option<String>> {
        self.look_again().await?;
        let Health::Broken(problem) = self.health() else {
            return Ok(None);
        };
        let is_new = !mem::replace(&mut self.asked, true);
        Ok(is_new.then_some(problem))
    }

    /// The file with every page could not be asked for.
    pub fn not_asked(&mut self) {
        self.asked = false;
    }

    fn health(&self) -> Health {
        let snapshots = self.files.iter().filter(|file| file.level == SNAPSHOTS);
        let covered = snapshots.map(|file| file.txids.max).max().unwrap_or(0);
        let damaged = self.damaged.iter().filter(|(file, _)| file.txids.max > covered);
        let damaged = damaged.max_by_key(|(file, _)| file.txids.max);
        let (inputs, missing) = match self.plan_newest() {
            Ok(inputs) => (inputs, None),
            Err(PlanError::Gap { missing, .. }) => (Vec::new(), Some(missing)),
            Err(_) => (Vec::new(), None),
        };
        let lost = damaged.map_or(0, |(file, _)| file.txids.max);
        let lost = lost.max(missing.map_or(0, |missing| missing.max));
        if lost == 0 {
            return Health::Sound;
        }
        let problem = match damaged {
            Some((file, problem)) => format!("{}: {problem}", self.storage.name(file.level, file.txids)),
            None => format!(
                "{}: no file has the transactions {}",
                self.storage,
                missing.unwrap_or(Txids::one(lost))
            ),
        };
        let reached = inputs.last().map_or(0, |file| file.txids.max);
        let every_page = self.every_page.filter(|file| file.txids.max > lost);
        match every_page {
            _ if reached >= lost => Health::Mendable { inputs, problem },
            Some(file) => Health::Mendable {
                inputs: vec![file],
                problem,
            },
            None => Health::Broken(problem),
        }
    }

    fn plan_newest(&self) -> Result<Vec<FileInfo>, PlanError> {
        plan(&self.files, Target::Newest, |_| {
            unreachable!("the newest state has no time")
        })
    }

    /// What is to be done next.
    pub fn due(&self, now: SystemTime) -> Option<Due> {
        if let Some(merge) = next_merge(&self.files, &self.times, now) {
            return Some(Due::Merge(merge));
        }
        if let Health::Mendable { .. } = self.health() {
            return Some(Due::Snapshot);
        }
        // Without the claims: some of these files may have to stay.
        let is_time = now
            .duration_since(self.retained)
            .map_or(true, |since| since >= RETAIN_EVERY.min(self.times.l0_retention));
        let is_due = is_time && !expendable(&self.files, &BTreeSet::new(), &self.times, now).is_empty();
        if is_due {
            return Some(Due::Retain);
        }
        snapshot_is_due(&self.files, &self.times, now).then_some(Due::Snapshot)
    }

    /// When [`due`](Self::due) may have something to do, if nothing is uploaded until then.
    pub fn next_due(&self) -> Option<SystemTime> {
        next_due(&self.files, &self.times)
    }

    /// When the newest snapshot was written.
    pub fn last_snapshot(&self) -> Option<SystemTime> {
        let snapshots = self.files.iter().filter(|file| file.level == SNAPSHOTS);
        snapshots.map(|file| file.modified).max()
    }

    /// When the next snapshot is due, if anything was uploaded since the last.
    pub fn snapshot_due(&self) -> Option<SystemTime> {
        rules::snapshot_due_at(&self.files, &self.times)
    }

    /// Makes one file of several, and uploads it. `None`: the owner may not any more.
    ///
    /// # Errors
    ///
    /// A file is damaged or gone, the spool cannot be written, or the storage fails.
    pub async fn merge(&mut self, merge: Merge, permit: &dyn Permit) -> Result<Option<FileInfo>> {
        let merged = self.merge_inputs(&merge).await?;
        if !permit.is_given() {
            return Ok(None);
        }
        let Merged { header, size, .. } = &merged;
        let txids = Txids {
            min: header.min_txid,
            max: header.max_txid,
        };
        let contents = Arc::clone(&merged.file);
        self.storage.put(merge.to, txids, header.timestamp, contents).await?;
        let file = FileInfo {
            level: merge.to,
            txids,
            size: *size,
            modified: from_millis(header.timestamp),
        };
        self.files.push(file);
        self.keep_copy(merged, &merge, file);
        Ok(Some(file))
    }

    /// Makes a snapshot of what was uploaded, by merging the files that make the newest state. `None`: the owner may not
    /// any more, or there is nothing.
    ///
    /// # Errors
    ///
    /// Transactions are missing, or as those of [`merge`](Self::merge).
    pub async fn snapshot(&mut self, permit: &dyn Permit) -> Result<Option<FileInfo>> {
        let planned = match self.health() {
            Health::Mendable { inputs, .. } => Ok(inputs),
            Health::Sound | Health::Broken(_) => self.plan_newest(),
        };
        let mut inputs = match planned {
            Ok(inputs) => inputs,
            Err(PlanError::Empty) => return Ok(None),
            Err(error) => {
                let what = "no snapshot could be made".to_owned();
                let reason = explain(error).sentence();
                return Err(self.storage.failure(what, FailureKind::Permanent, reason));
            }
        };
        // The next one has the rest.
        inputs.truncate(MOST_OF_A_SNAPSHOT);
        self.merge(Merge { to: SNAPSHOTS, inputs }, permit).await
    }

    /// Merges the inputs into a file of the spool.
    async fn merge_inputs(&mut self, merge: &Merge) -> Result<Merged> {
        let merged = self.try_merge(merge).await;
        merged.map_err(|trouble| self.not_merged(merge, trouble))
    }

    async fn try_merge(&self, merge: &Merge) -> Result<Merged, Trouble> {
        let mut inputs = Vec::with_capacity(merge.inputs.len());
        for input in &merge.inputs {
            let opened = self.open_input(input).await;
            inputs.push((
                *input,
                opened.map_err(|error| trouble_of(*input, io::Error::other(error).into()))?,
            ));
        }
        let (spool, is_snapshot) = (self.spool.clone(), merge.to == SNAPSHOTS);
        runtime::blocking(move || merge_into(&spool, inputs, is_snapshot)).await?
    }

    /// The copy in the spool, or the object.
    async fn open_input(&self, input: &FileInfo) -> Result<Box<dyn Read + Send>> {
        if (input.level > 0 || input.txids.max <= self.own)
            && let Ok(copy) = File::open(self.copy_of(input.level, input.txids))
        {
            return Ok(Box::new(copy));
        }
        Ok(Box::new(self.storage.reader(input.level, input.txids).await?))
    }

    fn copy_of(&self, level: u8, txids: Txids) -> PathBuf {
        self.spool.join(level.to_string()).join(txids.file_name())
    }

    /// Keeps the new file for the next level, where it is an input, and removes the copies of its own inputs. A copy that
    /// cannot be kept is downloaded again.
    fn keep_copy(&self, merged: Merged, merge: &Merge, file: FileInfo) {
        let copy = self.copy_of(file.level, file.txids);
        if file.level < rules::HIGHEST {
            let folder = copy.parent().expect("a file in a folder");
            let _ = fs::create_dir_all(folder).and_then(|()| fs::rename(&merged.unfinished.0, &copy));
        }
        for input in &merge.inputs {
            if merge.to < SNAPSHOTS && input.level > 0 {
                let _ = fs::remove_file(self.copy_of(input.level, input.txids));
            }
        }
    }

    /// The error. A file that cannot be used is left out of later merges.
    fn not_merged(&mut self, merge: &Merge, trouble: Trouble) -> StorageError {
        let reason = match trouble {
            Trouble::Storage(error) => return error,
            Trouble::Output(problem) => problem,
            Trouble::Input(file, problem) => {
                let name = self.storage.name(file.level, file.txids);
                let told = format!("{name}: {problem}; it is left out from now on");
                self.is_damaged(file, problem);
                told
            }
        };
        let (first, last) = (&merge.inputs[0], &merge.inputs[merge.inputs.len() - 1]);
        let (min, max) = (first.txids.min, last.txids.max);
        let what = format!(
            "the transactions {} could not be merged into level {}",
            Txids { min, max },
            merge.to
        );
        self.storage.failure(what, FailureKind::Permanent, reason)
    }
}

/// Whether the newest state can be restored.
enum Health {
    Sound,
    /// By a snapshot of these files it can.
    Mendable {
        inputs: Vec<FileInfo>,
        problem: String,
    },
    /// No file helps that is there.
    Broken(String),
}

fn is_same(one: &FileInfo, other: &FileInfo) -> bool {
    (one.level, one.txids) == (other.level, other.txids)
}

/// A merged file, in the spool.
struct Merged {
    header: Header,
    size: u64,
    file: Arc<File>,
    unfinished: Unfinished,
}

/// A file that is deleted unless it gets another name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Why files cannot be merged.
enum Trouble {
    Storage(StorageError),
    /// A file is damaged.
    Input(FileInfo, String),
    /// The new file cannot be made.
    Output(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error.to_string())
    }
}

type Inputs = Vec<(FileInfo, Box<dyn Read + Send>)>;

/// Merges on a thread for such work.
fn merge_into(spool: &Path, inputs: Inputs, is_snapshot: bool) -> Result<Merged, Trouble> {
    // A merge that was given up may still be under way.
    let path = spool.join(format!("tmp/{:016x}.ltx", random::number()));
    let files: Vec<FileInfo> = inputs.iter().map(|(file, _)| *file).collect();
    let mut decoders = Vec::with_capacity(inputs.len());
    for (file, from) in inputs {
        let decoder = Decoder::new(UntilClosing(from)).map_err(|error| trouble_of(file, error))?;
        let found = decoder.header();
        if (found.min_txid, found.max_txid) != (file.txids.min, file.txids.max) {
            return Err(Trouble::Input(file, "it has other transactions than its name".into()));
        }
        decoders.push(decoder);
    }
    let unfinished = Unfinished(path);
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished.0)?;
    let to = BufWriter::with_capacity(1 << 20, file);
    let merged = match is_snapshot {
        true => merge_into_snapshot(decoders, to),
        false => merge(decoders, to),
    };
    let (to, size) = merged.map_err(|error| match error {
        LtxError::OfInput { input, source } => trouble_of(files[input], *source),
        other => Trouble::Output(other.to_string()),
    })?;
    let file = to.into_inner().map_err(|error| error.into_error())?;
    let mut head = [0; 100];
    file.read_exact_at(&mut head, 0)?;
    let header = Decoder::new(&head[..]).map(|merged| *merged.header());
    let header = header.map_err(|error| Trouble::Output(error.to_string()))?;
    let file = Arc::new(file);
    Ok(Merged {
        header,
        size,
        file,
        unfinished,
    })
}

/// An input, which ends with an error once the store closes.
struct UntilClosing(Box<dyn Read + Send>);

impl Read for UntilClosing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Closures::is_given_up() {
            return Err(io::Error::other("the store closes"));
        }
        self.0.read(buffer)
    }
}

/// The trouble with an input.
fn trouble_of(file: FileInfo, error: LtxError) -> Trouble {
    match error {
        LtxError::Io(error) => match error.downcast::<StorageError>() {
            Ok(error) if error.is_not_found() => Trouble::Input(file, "it is missing".into()),
            Ok(error) => Trouble::Storage(error),
            Err(error) => Trouble::Output(error.to_string()),
        },
        invalid => Trouble::Input(file, invalid.to_string()),
    }
}
