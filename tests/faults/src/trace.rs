//! The operations of a store on its disk, in order, and the failures that the disk returns.
//!
//! One [`Disk`] is one folder with its contents. The layers between the store and the real disk, for SQLite's calls
//! (`shim.rs`) and for larder's own (`system.rs`), find it by the path of the file, ask it before each call whether the
//! call is to fail, and report each change afterwards. So one process may have many disks, each with its own plan and
//! trace. Files and folders are named relative to the folder: `app.db`, `folder/copy.db`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crate::disk::Image;

/// The identity of a file, whatever its current name is.
pub type Inode = u32;

/// A change that a power cut may undo, or an event that makes changes durable.
#[derive(Clone, Debug)]
pub enum Event {
    /// A folder has a new entry; or an existing entry now refers to this file, by an atomic rename.
    Create {
        name: String,
        inode: Inode,
    },
    CreateFolder {
        name: String,
    },
    /// A folder has lost an entry.
    Delete {
        name: String,
    },
    Write {
        inode: Inode,
        offset: u64,
        data: Vec<u8>,
    },
    Resize {
        inode: Inode,
        size: u64,
    },
    /// Earlier changes to the file are durable.
    Sync {
        inode: Inode,
    },
    /// Changes to the file since its last sync may or may not be on the disk, and *no later sync will change that*: the
    /// kernel has reported the failure, and treats the pages as clean
    /// (<https://wiki.postgresql.org/wiki/Fsync_Errors>).
    SyncFailed {
        inode: Inode,
    },
    /// A file could not be created.
    CreateFailed {
        name: String,
    },
    /// The folder's entries are durable. The disk's own folder has an empty name.
    SyncFolder {
        name: String,
    },
    /// A sync that a mutant removed.
    Nothing,
}

impl Event {
    /// The event on one line, without the data.
    pub fn show(&self) -> String {
        match self {
            Event::Write { inode, offset, data } => format!("write of file {inode}: {} bytes at {offset}", data.len()),
            other => format!("{other:?}"),
        }
    }
}

/// The folder of a file.
pub fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A kind of call: SQLite's calls of its VFS, then larder's own system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Call {
    Open,
    Close,
    Delete,
    Access,
    FullPathname,
    Read,
    Write,
    Truncate,
    Sync,
    FileSize,
    Lock,
    Unlock,
    CheckReservedLock,
    SizeHint,
    ShmMap,
    ShmLock,
    /// Creates a file.
    Create,
    MakeFolder,
    OpenFolder,
    /// Opens a folder in order to remove it with its contents.
    OpenToRemove,
    LockFolder,
    WriteFile,
    SyncFile,
    SyncFolder,
    Rename,
    Link,
    Remove,
    /// Queries a file or a file system, and changes nothing.
    Look,
}

impl Call {
    fn is_larders_own(self) -> bool {
        self as u32 >= Self::Create as u32
    }
}

/// The role of a file for SQLite, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Database,
    Wal,
    Journal,
    /// An unfinished backup, and the files beside it.
    Copy,
    /// What waits to be uploaded, and the position.
    Spool,
    Replica,
    Other,
}

impl Class {
    pub fn of(name: &str) -> Self {
        match name {
            _ if name.starts_with("app.db-replica") => Self::Spool,
            _ if name == "replica" || name.starts_with("replica/") => Self::Replica,
            _ if name.contains('/') => Self::Copy,
            _ if name.ends_with("-wal") => Self::Wal,
            _ if name.ends_with("-journal") => Self::Journal,
            _ if name.ends_with(".db") => Self::Database,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "a delay and a kill are for suites that start processes")]
pub enum Fault {
    /// The call's own I/O error; nothing was done. (A call that releases something still does so: a lock, a file.)
    Io,
    /// Half was written before the I/O error.
    IoHalf,
    /// The disk is full: nothing was written.
    Full,
    /// The disk is full: half was written. SQLite's unix VFS reports a short write like that.
    FullHalf,
    /// The file ended in the middle of the read; the rest is zeros.
    ShortRead,
    /// The file system does not support the call.
    Unsupported,
    /// The call succeeds, later.
    Delay(Duration),
    /// The process is killed.
    Kill,
}

/// The calls of a store that fail.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub fault: Fault,
    /// The counted calls, by [`calls`].
    pub calls: u32,
    /// The counted files.
    pub files: fn(Class) -> bool,
    /// The number of the failing call; the first is 1.
    pub nth: u64,
    /// Whether all later calls fail, too.
    pub sticky: bool,
}

/// A set of kinds of calls.
pub const fn calls(list: &[Call]) -> u32 {
    let (mut set, mut i) = (0, 0);
    while i < list.len() {
        set |= 1 << list[i] as u32;
        i += 1;
    }
    set
}

/// The first call that a plan has hit.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "it is shown when a case fails")]
pub struct Hit {
    pub call: Call,
    pub class: Class,
    pub thread: String,
    /// Whether this call, or a later one, was SQLite's on the writer thread while no write was running: in a
    /// checkpoint, or in BEGIN, which poisons nothing; or one on the thread of checkpoints beside a bulk job; or a sync of
    /// larder's own: of the log for a replica, or of the database after such a checkpoint.
    pub in_checkpoint: bool,
}

/// A sync that is left out, to prove that a suite detects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Omission {
    None,
    /// The sync of the WAL before a checkpoint's first write to the database.
    CheckpointSync,
    /// The sync of the WAL header when the WAL is reset.
    HeaderSync,
}

static OMISSION: AtomicU8 = AtomicU8::new(Omission::None as u8);

pub fn omit(omission: Omission) {
    OMISSION.store(omission as u8, Ordering::SeqCst);
}

pub fn omitted(omission: Omission) -> bool {
    OMISSION.load(Ordering::SeqCst) == omission as u8
}

/// The number of copies of the WAL index that are kept, for states with an old index.
const COPIES_OF_INDEX: usize = 4;

/// One folder of a simulated disk.
pub struct Disk {
    folder: PathBuf,
    state: Mutex<State>,
    /// Writes whose closure has begun and that have no reply yet; the workload counts them.
    pub running: AtomicI64,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    names: HashMap<String, Inode>,
    folders: HashSet<String>,
    inodes: Inode,
    plan: Option<Plan>,
    counted: u64,
    hit: Option<Hit>,
    index: Vec<Vec<u8>>,
    barriers: u64,
}

static DISKS: RwLock<Vec<Arc<Disk>>> = RwLock::new(Vec::new());

/// Unregisters the disk when dropped.
pub struct Mounted(Arc<Disk>);

impl std::ops::Deref for Mounted {
    type Target = Arc<Disk>;
    fn deref(&self) -> &Arc<Disk> {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut disks = DISKS.write().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|disk| !Arc::ptr_eq(disk, &self.0));
    }
}

impl Disk {
    /// Records everything in this folder from now on. The image is its current contents, all of it durable.
    pub fn mount(folder: &Path, image: &Image) -> Mounted {
        let mut state = State {
            folders: image.folders.iter().cloned().collect(),
            ..State::default()
        };
        for name in image.files.keys() {
            state.names.insert(name.clone(), state.inodes);
            state.inodes += 1;
        }
        let disk = Arc::new(Self {
            folder: folder.to_owned(),
            state: Mutex::new(state),
            running: AtomicI64::new(0),
        });
        DISKS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&disk));
        Mounted(disk)
    }

    /// The disk that has this file, and the file's name there. The disk's own folder has an empty name.
    pub fn of(path: &Path) -> Option<(Arc<Self>, &str)> {
        let disks = DISKS.read().unwrap_or_else(PoisonError::into_inner);
        disks.iter().find_map(|disk| {
            let name = path.strip_prefix(&disk.folder).ok()?.to_str()?;
            Some((Arc::clone(disk), name))
        })
    }

    /// The number of events so far. Earlier events have smaller numbers.
    pub fn now(&self) -> usize {
        self.lock().events.len()
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Copies of the WAL index from several moments.
    pub fn old_indexes(&self) -> Vec<Vec<u8>> {
        self.lock().index.clone()
    }

    // ---- faults ----

    pub fn arm(&self, plan: Plan) {
        let mut state = self.lock();
        (state.plan, state.counted, state.hit) = (Some(plan), 0, None);
    }

    /// Repairs the disk. Returns the first call that was hit.
    pub fn disarm(&self) -> Option<Hit> {
        let mut state = self.lock();
        state.plan = None;
        state.hit.take()
    }

    /// Whether the next call fails.
    pub fn fault(&self, call: Call, class: Class) -> Option<Fault> {
        let mut state = self.lock();
        let plan = state
            .plan
            .filter(|plan| plan.calls & (1 << call as u32) != 0 && (plan.files)(class))?;
        state.counted += 1;
        if state.counted < plan.nth || (state.counted > plan.nth && !plan.sticky) {
            return None;
        }
        let thread = thread::current().name().unwrap_or("?").to_owned();
        let idle = thread == "larder-writer" && self.running.load(Ordering::SeqCst) == 0;
        // larder itself syncs the log for a replica, and the database after a checkpoint beside a bulk job.
        let own_sync = call == Call::SyncFile && matches!(class, Class::Wal | Class::Database);
        let beside_bulk = thread == "larder-checkpoint" && !call.is_larders_own();
        let in_checkpoint = idle && !call.is_larders_own() || beside_bulk || own_sync;
        let hit = state.hit.get_or_insert(Hit {
            call,
            class,
            thread,
            in_checkpoint,
        });
        hit.in_checkpoint |= in_checkpoint;
        drop(state);
        match plan.fault {
            Fault::Delay(time) => {
                thread::sleep(time);
                None
            }
            // SAFETY: `kill` reads no memory of ours, and it does not return.
            Fault::Kill => unsafe {
                libc::kill(libc::getpid(), libc::SIGKILL);
                None
            },
            fault => Some(fault),
        }
    }

    // ---- events ----

    /// A file was opened. A file that did not exist before is a new entry.
    pub fn opened(&self, name: &str) -> Inode {
        let mut state = self.lock();
        if let Some(inode) = state.names.get(name) {
            return *inode;
        }
        let inode = state.inodes;
        state.inodes += 1;
        state.name(name, inode);
        inode
    }

    pub fn create_failed(&self, name: &str) {
        let name = name.to_owned();
        self.lock().events.push(Event::CreateFailed { name });
    }

    /// Whether a sync has failed.
    pub fn has_lost_a_sync(&self) -> bool {
        let lost = |event: &Event| matches!(event, Event::SyncFailed { .. });
        self.lock().events.iter().any(lost)
    }

    pub fn made_folder(&self, name: &str) {
        let mut state = self.lock();
        state.folders.insert(name.to_owned());
        state.events.push(Event::CreateFolder { name: name.to_owned() });
    }

    /// The name of a file or folder was removed.
    pub fn deleted(&self, name: &str, folder_was_synced: bool) {
        let mut state = self.lock();
        state.delete(name);
        if folder_was_synced {
            state.sync_folder(parent(name));
        }
    }

    /// A file was renamed. Until the folders are synced, a power cut may leave either name, or both.
    pub fn renamed(&self, from: &str, to: &str) {
        let mut state = self.lock();
        state.link(from, to);
        state.delete(from);
    }

    /// A file has a second name.
    pub fn linked(&self, from: &str, to: &str) {
        self.lock().link(from, to);
    }

    pub fn is_folder(&self, name: &str) -> bool {
        name.is_empty() || self.lock().folders.contains(name)
    }

    pub fn inode(&self, name: &str) -> Option<Inode> {
        self.lock().names.get(name).copied()
    }

    pub fn synced_folder(&self, name: &str) {
        self.lock().sync_folder(name);
    }

    pub fn wrote(&self, inode: Inode, class: Class, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        state.database_changes(class);
        state.events.push(Event::Write {
            inode,
            offset,
            data: data.to_vec(),
        });
    }

    pub fn resized(&self, inode: Inode, class: Class, size: u64) {
        let mut state = self.lock();
        state.database_changes(class);
        state.events.push(Event::Resize { inode, size });
    }

    /// A file was synced, and its folder with it: "Also fsync the directory containing the file if the DIRSYNC flag is
    /// set. This is a one-time occurrence", `unixSync` in SQLite's `os_unix.c`, for logs and journals opened to be
    /// created. Returns whether the folder was synced.
    pub fn synced(&self, inode: Inode, class: Class, and_folder: Option<&str>) -> bool {
        let mut state = self.lock();
        if class == Class::Wal && omitted(Omission::HeaderSync) && state.last_wrote_header(inode) {
            return false;
        }
        state.events.push(Event::Sync { inode });
        if let Some(folder) = and_folder {
            state.sync_folder(folder);
        }
        and_folder.is_some()
    }

    pub fn sync_failed(&self, inode: Inode) {
        self.lock().events.push(Event::SyncFailed { inode });
    }

    /// Whether to copy the WAL index now: at the first occasions, and then less and less often.
    pub fn wants_index(&self) -> bool {
        let mut state = self.lock();
        state.barriers += 1;
        state.barriers.is_power_of_two() && state.barriers > 4
    }

    pub fn keep_index(&self, copy: Vec<u8>) {
        let mut state = self.lock();
        if state.index.len() == COPIES_OF_INDEX {
            state.index.remove(0);
        }
        state.index.push(copy);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn name(&mut self, name: &str, inode: Inode) {
        self.names.insert(name.to_owned(), inode);
        let name = name.to_owned();
        self.events.push(Event::Create { name, inode });
    }

    fn link(&mut self, from: &str, to: &str) {
        if let Some(inode) = self.names.get(from).copied() {
            self.name(to, inode);
        }
    }

    fn delete(&mut self, name: &str) {
        if self.names.remove(name).is_some() || self.folders.remove(name) {
            self.events.push(Event::Delete { name: name.to_owned() });
        }
    }

    fn sync_folder(&mut self, name: &str) {
        self.events.push(Event::SyncFolder { name: name.to_owned() });
    }

    /// For the mutant without the sync of the WAL before a checkpoint, which is recognized by the event after it.
    fn database_changes(&mut self, class: Class) {
        if class != Class::Database || !omitted(Omission::CheckpointSync) {
            return;
        }
        let wal = self.names.iter().find(|(name, _)| Class::of(name) == Class::Wal);
        if let (Some((_, wal)), Some(last)) = (wal, self.events.last_mut())
            && matches!(last, Event::Sync { inode } if inode == wal)
        {
            *last = Event::Nothing;
        }
    }

    fn last_wrote_header(&self, file: Inode) -> bool {
        matches!(self.events.last(), Some(Event::Write { inode, offset: 0, .. }) if *inode == file)
    }
}
