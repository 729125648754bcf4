//! The spool: the folder `app.db-replica` beside the database `app.db`, with the files that were sealed and are not in
//! the replica yet.
//!
//! ```text
//! app.db-replica/
//!     lock        locked by the store that writes here (flock)
//!     node        the number of this store among those that may own the replica
//!     aside       the name that the database gets as it is set aside (aside.rs); mostly not there
//!     position    up to where the database was captured, or up to where it follows (position.rs)
//!     follows     the database is a follower's: it has nothing that the replica lacks. Length and checksum of the
//!                 database that was restored last, and of one that it replaces; empty if none was
//!     verified    when the replica was verified last, in milliseconds since 1970
//!     0/          N-N.ltx: sealed transactions, oldest first
//!     tmp/        unfinished files
//! ```
//!
//! A file gets its name once it is on the disk, so each file with a name is whole. Those in `tmp` are deleted when the
//! spool is opened. What was uploaded stays until it is merged, so that the merge does not download it. The newest sealed
//! file stays, even when it is in the replica: its header says where the log goes on, if there is no position of it.
//!
//! The mutex `files` guards the list of the sealed files. It is held for a look, a push or a pop, and for no call to the
//! file system. `released` is held while a file gets its name. Nothing is taken under either.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::ltx::Decoder;
use super::position::Position;
use super::restore::time::{from_millis, millis};
use super::storage::Body;
use crate::connection::file_lock;
use crate::connection::temp_folder::{Lock, lock};
use crate::runtime::clock::later;
use crate::runtime::random;
use crate::runtime::sync::{Arc, Instant, Mutex};

const SEALED: &str = "0";
const UNFINISHED: &str = "tmp";
const POSITION: &str = "position";
const NODE: &str = "node";
const FOLLOWS: &str = "follows";
const VERIFIED: &str = "verified";
const ASIDE: &str = "aside";

/// From so many bytes on, a file is not read into memory.
const LARGE: u64 = 64 << 20;

/// A file is read in pieces of so many bytes.
const PIECE: usize = 1 << 20;

/// Between two looks at the lock of another store.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The folder of sealed files beside a database.
pub(super) struct Spool {
    folder: PathBuf,
    /// Locked while the spool is open.
    lock: File,
    files: Mutex<VecDeque<Sealed>>,
    /// Whether another store may open the spool: then nothing gets a name here any more.
    released: Mutex<bool>,
}

/// A sealed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) txid: u64,
    pub(super) bytes: u64,
}

/// Why a spool cannot be opened.
#[derive(Debug)]
pub(super) enum SpoolError {
    /// Another store has it open, in this process or another.
    InUse,
    Io(io::Error),
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Spool {
    /// The folder beside that database.
    pub(super) fn folder_of(database: &Path) -> PathBuf {
        let mut name = OsString::from(database);
        name.push("-replica");
        name.into()
    }

    /// Opens the spool, and waits as long for a store that is closing.
    pub(super) fn open_within(database: &Path, patience: Duration) -> Result<Self, SpoolError> {
        let until = later(Instant::now(), patience);
        loop {
            match Self::open(database) {
                Err(SpoolError::InUse) if Instant::now() < until => thread::sleep(LOCK_PAUSE),
                other => return other,
            }
        }
    }

    /// Opens the spool of that database, and creates it if it is not there.
    pub(super) fn open(database: &Path) -> Result<Self, SpoolError> {
        let folder = Self::folder_of(database);
        for name in ["", SEALED, UNFINISHED] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder.join(name));
            made?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join("lock"))?;
        if lock(&file) == Lock::Held {
            return Err(SpoolError::InUse);
        }
        for unfinished in fs::read_dir(folder.join(UNFINISHED))? {
            match fs::remove_file(unfinished?.path()) {
                // A store that was closed before it had an answer may still be removing it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(folder.join(SEALED))? {
            let entry = entry?;
            if let Some(txid) = entry.file_name().to_str().and_then(txid_of) {
                let bytes = entry.metadata()?.len();
                files.push(Sealed { txid, bytes });
            }
        }
        files.sort_by_key(|sealed| sealed.txid);
        // A store before this one may have failed to.
        sync_folder(&folder.join(SEALED))?;
        sync_folder(&folder)?;
        Ok(Self {
            folder,
            lock: file,
            files: Mutex::new(files.into()),
            released: Mutex::new(false),
        })
    }

    /// Lets another store open the spool.
    pub(super) fn release(&self) {
        *self.released.lock() = true;
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }

    /// Leaves a position beside a database that has just been restored.
    pub(super) fn leave(database: &Path, position: &Position) -> io::Result<()> {
        match Self::open(database) {
            Ok(spool) => spool.write_position(position, true),
            Err(SpoolError::Io(error)) => Err(error),
            Err(SpoolError::InUse) => Err(io::Error::other("another store has it open")),
        }
    }

    /// The sealed files, oldest first.
    pub(super) fn paths(&self) -> Vec<(u64, PathBuf)> {
        let files = self.files.lock();
        files
            .iter()
            .map(|sealed| (sealed.txid, self.path(sealed.txid)))
            .collect()
    }

    /// Whether there is a spool beside that database with something in it.
    pub(super) fn is_there(database: &Path) -> bool {
        let folder = Self::folder_of(database);
        folder.join(POSITION).exists()
            || fs::read_dir(folder.join(SEALED)).is_ok_and(|mut entries| entries.next().is_some())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The position that was written last, if it is whole.
    pub(super) fn position(&self) -> io::Result<Option<Position>> {
        Self::read_position(&self.folder)
    }

    /// The number that was kept.
    pub(super) fn node(&self) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join(NODE)).ok()?;
        u64::from_str_radix(text.strip_suffix('\n')?, 16).ok()
    }

    /// Keeps the number of this store, whatever happens from now on.
    pub(super) fn keep_node(&self, node: u64) -> io::Result<()> {
        if self.follows() {
            // From now on it may have what the replica lacks.
            fs::remove_file(self.folder.join(FOLLOWS))?;
            sync_folder(&self.folder)?;
        }
        self.name_node(node)
    }

    /// The number of the store that this follower becomes.
    pub(super) fn own_node(&self) -> io::Result<u64> {
        let node = self.node().unwrap_or_else(random::number);
        self.name_node(node)?;
        Ok(node)
    }

    fn name_node(&self, node: u64) -> io::Result<()> {
        if self.node() != Some(node) {
            let unfinished = self.folder.join(UNFINISHED).join(NODE);
            let mut file = create(&unfinished)?;
            file.write_all(format!("{node:016x}\n").as_bytes())?;
            file.sync_all()?;
            self.name(&unfinished, &self.folder.join(NODE))?;
        }
        // Also for a number that is there already: the opening before this one may have failed to.
        sync_folder(&self.folder)?;
        // The folder itself may be new.
        sync_folder(self.folder.parent().unwrap_or(Path::new("/")))
    }

    /// Whether the database is a follower's.
    pub(super) fn follows(&self) -> bool {
        self.folder.join(FOLLOWS).exists()
    }

    /// Marks the database as a follower's. From then on no power cut leaves the database without its mark.
    pub(super) fn keep_following(&self) -> io::Result<()> {
        if !self.follows() {
            create(&self.folder.join(FOLLOWS))?.sync_all()?;
        }
        sync_folder(&self.folder)?;
        self.folder.parent().map_or(Ok(()), sync_folder)
    }

    /// Keeps, in the mark, by what a database is known that is about to get its name from a follower, and the one that was
    /// restored before and has the name until then.
    pub(super) fn keep_restored(&self, restored: File, before: Option<&Path>) -> io::Result<()> {
        let before = before.map(|before| file_lock::read(before, contents_of)).transpose()?;
        let (before, contents) = (before.unwrap_or_default(), contents_of(&restored)?);
        let unfinished = self.folder.join(UNFINISHED).join(FOLLOWS);
        let mut file = create(&unfinished)?;
        file.write_all((before + &contents).as_bytes())?;
        file.sync_all()?;
        self.name(&unfinished, &self.folder.join(FOLLOWS))?;
        sync_folder(&self.folder)
    }

    /// Whether the file is a database as a follower has restored it last. The mark alone says nothing of a file: a restore
    /// may have failed, and another program have made its database under the name since.
    pub(super) fn has_restored(&self, database: &Path) -> io::Result<bool> {
        let kept = match fs::read_to_string(self.folder.join(FOLLOWS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            kept => kept?,
        };
        if kept.is_empty() {
            return Ok(false);
        }
        let contents = file_lock::read(database, contents_of)?;
        Ok(kept.split_inclusive('\n').any(|line| line == contents))
    }

    /// The new path of the database, if it is being set aside. The file has its name alone: the folder may be moved.
    pub(super) fn aside(&self) -> io::Result<Option<PathBuf>> {
        match fs::read(self.folder.join(ASIDE)) {
            Ok(name) => Ok(Some(self.folder.with_file_name(OsString::from_vec(name)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the name that the database is to get beside the spool, whatever happens from now on.
    pub(super) fn begin_aside(&self, to: &Path) -> io::Result<()> {
        let unfinished = self.folder.join(UNFINISHED).join(ASIDE);
        let mut file = create(&unfinished)?;
        file.write_all(to.file_name().unwrap_or_default().as_bytes())?;
        file.sync_all()?;
        self.name(&unfinished, &self.folder.join(ASIDE))?;
        sync_folder(&self.folder)
    }

    pub(super) fn end_aside(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(ASIDE))?;
        sync_folder(&self.folder)
    }

    /// Moves what is known of the database, its position and the sealed files, into the folder of another spool.
    pub(super) fn move_to(&self, folder: &Path) -> io::Result<()> {
        let sealed = folder.join(SEALED);
        DirBuilder::new().recursive(true).mode(0o700).create(&sealed)?;
        for file in std::mem::take(&mut *self.files.lock()) {
            fs::rename(self.path(file.txid), sealed.join(name_of(file.txid)))?;
        }
        match fs::rename(self.folder.join(POSITION), folder.join(POSITION)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let parent = folder.parent().unwrap_or(Path::new("/"));
        for changed in [&sealed, folder, parent, &self.folder.join(SEALED), &self.folder] {
            sync_folder(changed)?;
        }
        Ok(())
    }

    /// When the replica was verified last, and nothing was found.
    pub(super) fn verified(&self) -> Option<SystemTime> {
        let text = fs::read_to_string(self.folder.join(VERIFIED)).ok()?;
        Some(from_millis(text.strip_suffix('\n')?.parse().ok()?))
    }

    pub(super) fn keep_verified(&self, at: SystemTime) -> io::Result<()> {
        let unfinished = self.folder.join(UNFINISHED).join(VERIFIED);
        fs::write(&unfinished, format!("{}\n", millis(at)))?;
        self.name(&unfinished, &self.folder.join(VERIFIED))
    }

    fn read_position(folder: &Path) -> io::Result<Option<Position>> {
        match fs::read_to_string(folder.join(POSITION)) {
            Ok(text) => Ok(Position::parse(&text)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the position. A killed process loses none, since a name never means an unfinished file. `sync` is for the
    /// one that a power cut must not take back.
    pub(super) fn write_position(&self, position: &Position, sync: bool) -> io::Result<()> {
        let unfinished = self.folder.join(UNFINISHED).join(POSITION);
        let mut file = create(&unfinished)?;
        file.write_all(position.to_text().as_bytes())?;
        if sync {
            file.sync_all()?;
        }
        self.name(&unfinished, &self.folder.join(POSITION))?;
        if sync {
            sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// A file that goes with its descriptor.
    pub(super) fn nameless(&self) -> io::Result<File> {
        let path = self.folder.join(UNFINISHED).join("download");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Begins the file of a transaction.
    pub(super) fn begin(&self, txid: u64) -> io::Result<Unsealed> {
        let path = self.folder.join(UNFINISHED).join(name_of(txid));
        let file = create(&path)?;
        Ok(Unsealed { txid, path, file })
    }

    /// Syncs the file and gives it its name.
    pub(super) fn seal(&self, unsealed: Unsealed) -> io::Result<Sealed> {
        unsealed.file.sync_all()?;
        let bytes = unsealed.file.metadata()?.len();
        let sealed = Sealed {
            txid: unsealed.txid,
            bytes,
        };
        self.name(&unsealed.path, &self.path(sealed.txid))?;
        sync_folder(&self.folder.join(SEALED))?;
        self.files.lock().push_back(sealed);
        Ok(sealed)
    }

    /// Gives an unfinished file its name, unless the spool was released: a store that another one has followed may still
    /// be writing a full file.
    fn name(&self, unfinished: &Path, name: &Path) -> io::Result<()> {
        let released = self.released.lock();
        if *released {
            return Err(io::Error::other("the store has closed"));
        }
        fs::rename(unfinished, name)
    }

    /// The file of that transaction, if it can be opened.
    pub(super) fn body(&self, txid: u64) -> Option<Body> {
        let file = File::open(self.path(txid)).ok()?;
        Some(Arc::new(file).into())
    }

    /// A sealed file, in memory unless it is large; its timestamp, and the opening that has sealed it.
    ///
    /// # Errors
    ///
    /// It cannot be read. The error names it.
    pub(super) fn read(&self, sealed: Sealed) -> io::Result<(Body, (i64, u64))> {
        let path = self.path(sealed.txid);
        let read = || {
            let file = File::open(&path)?;
            let header = *Decoder::new(&file).map_err(io::Error::other)?.header();
            let head = (header.timestamp, header.node_id);
            if sealed.bytes <= LARGE {
                return Ok((Bytes::from(fs::read(&path)?).into(), head));
            }
            Ok((Arc::new(file).into(), head))
        };
        read().map_err(|error: io::Error| {
            let problem = format!("{} cannot be read: {error}", path.display());
            io::Error::new(error.kind(), problem)
        })
    }

    /// The oldest sealed file from that transaction on.
    pub(super) fn first_from(&self, txid: u64) -> Option<Sealed> {
        self.files.lock().iter().find(|sealed| sealed.txid >= txid).copied()
    }

    pub(super) fn newest(&self) -> Option<Sealed> {
        self.files.lock().back().copied()
    }

    /// Whether it has each of these transactions.
    pub(super) fn has_all(&self, mut txids: RangeInclusive<u64>) -> bool {
        let files = self.files.lock();
        txids.all(|txid| files.binary_search_by_key(&txid, |sealed| sealed.txid).is_ok())
    }

    /// Takes the files behind that transaction off the list, before they are deleted.
    pub(super) fn forget_after(&self, txid: u64) -> VecDeque<Sealed> {
        let mut files = self.files.lock();
        let from = files.partition_point(|sealed| sealed.txid <= txid);
        files.split_off(from)
    }

    /// Puts back the files that could not be deleted.
    pub(super) fn take_back(&self, mut forgotten: VecDeque<Sealed>) {
        forgotten.retain(|sealed| self.path(sealed.txid).exists());
        self.files.lock().append(&mut forgotten);
    }

    /// The bytes of all sealed files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.lock().iter().map(|sealed| sealed.bytes).sum()
    }

    /// The bytes of those from that transaction on.
    pub(super) fn bytes_from(&self, txid: u64) -> u64 {
        let files = self.files.lock();
        let waiting = files.iter().filter(|sealed| sealed.txid >= txid);
        waiting.map(|sealed| sealed.bytes).sum()
    }

    /// Deletes the files up to that transaction, but not the newest.
    pub(super) fn delete_to(&self, txid: u64) -> io::Result<()> {
        loop {
            let mut files = self.files.lock();
            let is_last = files.len() <= 1;
            let Some(oldest) = files.front().copied().filter(|oldest| !is_last && oldest.txid <= txid) else {
                return Ok(());
            };
            files.pop_front();
            drop(files);
            self.delete(oldest)?;
        }
    }

    /// Deletes the oldest of the files before that transaction until those up to it have at most so many bytes. It is the
    /// newest in the replica, and stays: by it an opening knows the replica for its own.
    pub(super) fn keep_at_most(&self, bytes: u64, txid: u64) -> io::Result<()> {
        let oldest = {
            let files = self.files.lock();
            let mut kept = 0;
            let uploaded = files.iter().rev().filter(|sealed| sealed.txid <= txid);
            let mut over = uploaded.skip_while(|sealed| {
                kept += sealed.bytes;
                kept <= bytes
            });
            over.next().map(|sealed| sealed.txid)
        };
        oldest.map_or(Ok(()), |oldest| self.delete_to(oldest.min(txid - 1)))
    }

    /// Deletes the files behind that transaction. A power cut does not bring them back: others will have their numbers.
    pub(super) fn delete_after(&self, txid: u64) -> io::Result<()> {
        if self.newest().is_none_or(|newest| newest.txid <= txid) {
            return Ok(());
        }
        loop {
            let mut files = self.files.lock();
            let Some(newest) = files.back().copied().filter(|newest| newest.txid > txid) else {
                break;
            };
            files.pop_back();
            drop(files);
            self.delete(newest)?;
        }
        sync_folder(&self.folder.join(SEALED))
    }

    /// Deletes the files from that transaction on, also those that are not known. Not once the spool was released: they
    /// are another store's then.
    pub(super) fn clear_from(&self, txid: u64) -> io::Result<()> {
        let released = self.released.lock();
        if *released {
            return Err(io::Error::other("the store has closed"));
        }
        let folder = self.folder.join(SEALED);
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let there = entry.file_name().to_str().and_then(txid_of);
            if there.is_some_and(|there| there >= txid) {
                fs::remove_file(entry.path())?;
            }
        }
        sync_folder(&folder)
    }

    /// Not once the spool was released: the file of that name is another store's then.
    pub(super) fn delete(&self, sealed: Sealed) -> io::Result<()> {
        let released = self.released.lock();
        if *released {
            return Err(io::Error::other("the store has closed"));
        }
        match fs::remove_file(self.path(sealed.txid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn path(&self, txid: u64) -> PathBuf {
        self.folder.join(SEALED).join(name_of(txid))
    }
}

/// A file of the spool that has no name yet. Its drop deletes it.
pub(super) struct Unsealed {
    txid: u64,
    path: PathBuf,
    file: File,
}

impl Unsealed {
    /// Writes the file. What is written is not synced before [`Spool::seal`].
    pub(super) fn writer(&mut self) -> BufWriter<&mut File> {
        BufWriter::with_capacity(1 << 16, &mut self.file)
    }

    /// Syncs what was written, so that [`Spool::seal`] need not wait for it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Drop for Unsealed {
    fn drop(&mut self) {
        // Gone already, if it was sealed.
        let _ = fs::remove_file(&self.path);
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// What tells the contents of a file from others: its length, and a checksum. Its inode and its times would not be those
/// of a copied volume.
fn contents_of(file: &File) -> io::Result<String> {
    let mut checksum = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso);
    let (mut length, mut piece) = (0_u64, vec![0; PIECE]);
    loop {
        match file.read_at(&mut piece, length)? {
            0 => return Ok(format!("{length} {:016x}\n", checksum.finalize())),
            read => {
                checksum.update(&piece[..read]);
                length += read as u64;
            }
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn name_of(txid: u64) -> String {
    format!("{txid:016x}-{txid:016x}.ltx")
}

fn txid_of(name: &str) -> Option<u64> {
    let txid = u64::from_str_radix(name.get(..16)?, 16).ok()?;
    (txid > 0 && name == name_of(txid)).then_some(txid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(spool: &Spool, txid: u64, contents: &[u8]) {
        let mut file = spool.begin(txid).unwrap();
        file.writer().write_all(contents).unwrap();
        spool.seal(file).unwrap();
    }

    #[test]
    fn sealed_files_are_found_after_opening() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("app.db");
        assert!(!Spool::is_there(&database));
        let spool = Spool::open(&database).unwrap();
        assert!(!Spool::is_there(&database));
        seal(&spool, 9, b"nine");
        seal(&spool, 10, b"ten");
        drop(spool.begin(11).unwrap());
        let half = spool.begin(12).unwrap();
        std::mem::forget(half);
        drop(spool);
        fs::write(folder.path().join("app.db-replica/0/README"), "not ours").unwrap();
        assert!(Spool::is_there(&database));
        let spool = Spool::open(&database).unwrap();
        assert_eq!(spool.first_from(1), Some(Sealed { txid: 9, bytes: 4 }));
        assert_eq!(spool.newest(), Some(Sealed { txid: 10, bytes: 3 }));
        assert_eq!(spool.bytes(), 7);
        assert_eq!(
            fs::read_dir(folder.path().join("app.db-replica/tmp")).unwrap().count(),
            0
        );
    }

    #[test]
    fn newest_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(&folder.path().join("app.db")).unwrap();
        for txid in 1..=3 {
            seal(&spool, txid, b"x");
        }
        spool.delete_to(2).unwrap();
        assert_eq!(spool.first_from(1).unwrap().txid, 3);
        spool.delete_to(9).unwrap();
        assert!(spool.path(3).exists());
        assert!(!spool.path(2).exists());
        seal(&spool, 4, b"x");
        spool.delete_after(3).unwrap();
        assert!(spool.path(3).exists() && !spool.path(4).exists());
    }

    /// A large file was uploaded, and another one waits behind it.
    #[test]
    fn newest_upload_stays_however_large() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(&folder.path().join("app.db")).unwrap();
        for txid in 1..=4 {
            seal(&spool, txid, b"large");
        }
        spool.keep_at_most(4, 3).unwrap();
        let left: Vec<u64> = spool.paths().into_iter().map(|(txid, _)| txid).collect();
        assert_eq!(left, [3, 4]);
    }

    #[test]
    fn oldest_files_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(&folder.path().join("app.db")).unwrap();
        for txid in 1..=6 {
            seal(&spool, txid, b"four");
        }
        let first = |bytes, uploaded| {
            spool.keep_at_most(bytes, uploaded).unwrap();
            spool.first_from(1).unwrap().txid
        };
        // Those behind the transaction do not count.
        assert_eq!([first(16, 4), first(15, 4), first(8, 4), first(8, 5)], [1, 2, 3, 4]);
        assert_eq!([first(0, 5), first(0, 6)], [5, 6]);
        assert_eq!(spool.bytes(), 4);
    }

    #[test]
    fn spool_is_open_once() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("app.db");
        let first = Spool::open(&database).unwrap();
        assert!(matches!(Spool::open(&database), Err(SpoolError::InUse)));
        drop(first);
        Spool::open(&database).unwrap();
    }
}
