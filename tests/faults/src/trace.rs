//! What a store does to its disk, in order, and what the disk does to the store.
//!
//! One [`Disk`] is one folder. The shim (`shim.rs`) finds it by the folder of the file that SQLite opens, asks it before
//! each call whether that is to fail, and tells it afterwards what was changed. So there may be many of them in one
//! process, each with a plan and a trace of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crate::disk::Image;

/// A file's contents, whatever its name is by now.
pub type Inode = u32;

/// A change that a power cut may undo, or what makes changes durable.
#[derive(Clone, Debug)]
pub enum Event {
    /// The folder has a new entry.
    Create {
        name: String,
        inode: Inode,
    },
    /// The folder has lost one.
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
    /// What was done to the file before is durable.
    Sync {
        inode: Inode,
    },
    /// What was done to the file since its last sync may or may not be on the disk, and *no later sync will change
    /// that*: the kernel has told of the failure, and holds the pages for clean
    /// (<https://wiki.postgresql.org/wiki/Fsync_Errors>).
    SyncFailed {
        inode: Inode,
    },
    /// The folder's entries are durable.
    SyncFolder,
    /// A sync that a mutant took away.
    Nothing,
}

impl Event {
    /// On one line, without the data.
    pub fn show(&self) -> String {
        match self {
            Event::Write { inode, offset, data } => format!("write of file {inode}: {} bytes at {offset}", data.len()),
            other => format!("{other:?}"),
        }
    }
}

/// A kind of call on a VFS.
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
}

/// What a file is to SQLite, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Database,
    Wal,
    Journal,
    Other,
}

impl Class {
    pub fn of(name: &str) -> Self {
        match name {
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
    /// The call's own I/O error; nothing was done. (What gives something back is done all the same: a lock, a file.)
    Io,
    /// Half was written before the I/O error.
    IoHalf,
    /// The disk is full: nothing was written.
    Full,
    /// The disk is full: half was written. SQLite's unix VFS says so of a short write.
    FullHalf,
    /// The file ended in the middle of what was to be read; the rest is zeros.
    ShortRead,
    /// The call is made, later.
    Delay(Duration),
    /// The process is gone.
    Kill,
}

/// When a call of a store fails.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub fault: Fault,
    /// Which calls are counted, by [`calls`].
    pub calls: u32,
    /// And on which files.
    pub files: fn(Class) -> bool,
    /// The first call is 1.
    pub nth: u64,
    /// From then on, not only once.
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
    /// This one, or a later one, was on the writer's thread while no write was running: in a checkpoint, or in BEGIN,
    /// which poisons nothing.
    pub in_checkpoint: bool,
}

/// What is left out, so that it can be shown that somebody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Omission {
    None,
    /// The sync of the log that comes before a checkpoint's first write to the database.
    CheckpointSync,
    /// The sync of the log's header when the log starts anew.
    HeaderSync,
    /// The restart of the machine after a sync has failed: only the service is restarted.
    Reboot,
}

static OMISSION: AtomicU8 = AtomicU8::new(Omission::None as u8);

pub fn omit(omission: Omission) {
    OMISSION.store(omission as u8, Ordering::SeqCst);
}

pub fn omitted(omission: Omission) -> bool {
    OMISSION.load(Ordering::SeqCst) == omission as u8
}

/// How many copies of the index of the log are kept, for the states that have an old one.
const COPIES_OF_INDEX: usize = 4;

/// One folder of a simulated disk.
pub struct Disk {
    folder: PathBuf,
    state: Mutex<State>,
    /// Writes whose closure has begun and that are not answered yet; the workload counts.
    pub running: AtomicI64,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    names: HashMap<String, Inode>,
    inodes: Inode,
    plan: Option<Plan>,
    counted: u64,
    hit: Option<Hit>,
    index: Vec<Vec<u8>>,
    barriers: u64,
}

static DISKS: RwLock<Vec<Arc<Disk>>> = RwLock::new(Vec::new());

/// Takes the disk off the list when it goes.
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
    /// From now on what SQLite does in this folder is recorded. The image is what lies there, all of it durable.
    pub fn mount(folder: &Path, image: &Image) -> Mounted {
        let mut state = State::default();
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

    /// The disk with that file on it.
    pub fn of(path: &Path) -> Option<Arc<Self>> {
        let folder = path.parent()?;
        let disks = DISKS.read().unwrap_or_else(PoisonError::into_inner);
        disks.iter().find(|disk| disk.folder == folder).cloned()
    }

    /// How many events there were. What happened before a moment has smaller numbers.
    pub fn now(&self) -> usize {
        self.lock().events.len()
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Copies of the index of the log, as it was at some moments.
    pub fn old_indexes(&self) -> Vec<Vec<u8>> {
        self.lock().index.clone()
    }

    // ---- faults ----

    pub fn arm(&self, plan: Plan) {
        let mut state = self.lock();
        (state.plan, state.counted, state.hit) = (Some(plan), 0, None);
    }

    /// The disk is well again. Says what was hit.
    pub fn disarm(&self) -> Option<Hit> {
        let mut state = self.lock();
        state.plan = None;
        state.hit.take()
    }

    /// Whether the call that is about to be made fails.
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
        let in_checkpoint = thread == "larder-writer" && self.running.load(Ordering::SeqCst) == 0;
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
            // SAFETY: `kill` reads nothing of ours, and the process is gone when it returns.
            Fault::Kill => unsafe {
                libc::kill(libc::getpid(), libc::SIGKILL);
                None
            },
            fault => Some(fault),
        }
    }

    // ---- what has happened ----

    /// A file was opened. One that was not there before is a new entry; larder itself makes the database's, empty.
    pub fn opened(&self, name: &str) -> Inode {
        let mut state = self.lock();
        if let Some(inode) = state.names.get(name) {
            return *inode;
        }
        let inode = state.inodes;
        state.inodes += 1;
        state.names.insert(name.to_owned(), inode);
        state.events.push(Event::Create {
            name: name.to_owned(),
            inode,
        });
        inode
    }

    pub fn deleted(&self, name: &str, folder_was_synced: bool) {
        let mut state = self.lock();
        if state.names.remove(name).is_some() {
            state.events.push(Event::Delete { name: name.to_owned() });
        }
        if folder_was_synced {
            state.events.push(Event::SyncFolder);
        }
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
    /// created. Says whether the folder was.
    pub fn synced(&self, inode: Inode, class: Class, and_folder: bool) -> bool {
        let mut state = self.lock();
        if class == Class::Wal && omitted(Omission::HeaderSync) && state.last_wrote_header(inode) {
            return false;
        }
        state.events.push(Event::Sync { inode });
        if and_folder {
            state.events.push(Event::SyncFolder);
        }
        and_folder
    }

    pub fn sync_failed(&self, inode: Inode) {
        self.lock().events.push(Event::SyncFailed { inode });
    }

    /// Whether a copy of the index of the log is wanted now: of the first times, and then ever more rarely.
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
    /// For the mutant without the sync of the log before a checkpoint. It is known by what comes after it.
    fn database_changes(&mut self, class: Class) {
        if class != Class::Database || !omitted(Omission::CheckpointSync) {
            return;
        }
        let wal = self.names.iter().find(|(name, _)| name.ends_with("-wal"));
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
