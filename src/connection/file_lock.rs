//! Locks on the database that no other code in the process can drop, and the descriptors that they need.
//!
//! SQLite's locks are POSIX locks: the close of *any* descriptor of the file in this process drops all of them
//! (<https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>), as when the
//! service reads its own database to send or to hash it. Then another process takes itself for the last connection and
//! deletes the log that this one goes on writing. Open-file-description locks (`F_OFD_SETLK`, Linux 3.15) belong to one
//! descriptor and are dropped with it alone. So a store holds, beside SQLite's own locks:
//!
//! | access | file | bytes | lock | what it prevents |
//! |---|---|---|---|---|
//! | `Shared` | database | 510 from 0x40000002, SQLite's shared range | read | the exclusive lock that deletes the log needs |
//! | `Shared` | `-shm` | 1 at 128, SQLite's "dead man's switch" | read | a process that connects rebuilds the index under our map |
//! | `Exclusive` | database | 1 at 0x40000000, SQLite's pending byte | write | any lock of another process |
//!
//! They are taken once the database is in WAL mode: the switch needs the shared range for itself. They are released
//! before the last connection of the store closes, or that could not delete the log. Read marks, which keep a log from
//! being overwritten while it is read, come and go in SQLite, and cannot be held so. Therefore
//! [`FileLocks::find_dropped`] tells whether this process still has SQLite's own locks; the watchdog asks.
//!
//! # Descriptors
//!
//! To close a descriptor of ours would do to the user's other connections what this module is about. So each is kept for
//! the life of the process, and found again by the file's inode when it is opened again: at most one for each database
//! and each `-shm`. One whose file has no name left is closed once no store uses it: no other process can open that file.
//!
//! [`KEPT`] is a mutex around the list of descriptors, and of how many stores hold a lock by each: a store may open while
//! a read of the closed one before it goes on, and both share the lock. It is held for a look, for `fstat` and for the
//! release of a lock, never for an open and never while a lock is waited for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::file::FileId;
use crate::runtime::fork::Process;
use crate::runtime::sync::{Arc, Mutex, MutexGuard};

/// A descriptor of a database file or of a `-shm`.
struct Kept {
    id: FileId,
    /// A forked child shares the lock of its parent's descriptor, and would give it away. So it opens one of its own.
    process: Process,
    file: Arc<File>,
    /// Stores that hold the lock on it, or are about to take it.
    users: usize,
}

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Keeps a descriptor for the life of the process.
pub(crate) fn keep(file: File) -> io::Result<()> {
    let id = match file.metadata() {
        Ok(metadata) => FileId::of(&metadata),
        Err(error) => {
            // Nothing can be said of it, and it must not be closed.
            std::mem::forget(file);
            return Err(error);
        }
    };
    let file = Arc::new(file);
    lock().push(Kept {
        id,
        process: Process::current(),
        file,
        users: 0,
    });
    Ok(())
}

/// A descriptor of the file at that path, which must be `expected`, for one more user.
fn descriptor(path: &Path, expected: FileId) -> io::Result<Arc<File>> {
    let find = |all: &mut [Kept]| {
        let kept = all
            .iter_mut()
            .find(|kept| kept.id == expected && !kept.process.is_left())?;
        kept.users += 1;
        Some(Arc::clone(&kept.file))
    };
    let mut kept = lock();
    close_nameless(&mut kept);
    if let Some(file) = find(&mut kept) {
        return Ok(file);
    }
    drop(kept);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nofollow())
        .open(path)?;
    keep(file)?;
    find(&mut lock()).ok_or_else(|| io::Error::other("another file has taken its place"))
}

/// One user less. The last one releases the lock.
fn give_back(file: &Arc<File>, release: impl FnOnce(&File)) {
    if let Some(kept) = lock().iter_mut().find(|kept| Arc::ptr_eq(&kept.file, file)) {
        kept.users -= 1;
        if kept.users == 0 {
            release(file);
        }
    }
}

/// Closes those whose file has no name any more and which no store uses.
fn close_nameless(kept: &mut Vec<Kept>) {
    kept.retain(|kept| kept.users > 0 || kept.file.metadata().map_or(true, |file| file.nlink() > 0));
}

fn lock() -> MutexGuard<'static, Vec<Kept>> {
    KEPT.lock()
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

/// The files of SQLite's locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockedFile {
    Database,
    Index,
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::FileLocks;
#[cfg(not(target_os = "linux"))]
pub(crate) use self::other::FileLocks;

#[cfg(target_os = "linux")]
mod linux {
    use std::time::{Duration, Instant};
    use std::{fs, process, thread};

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::*;

    /// How often a lock that another process holds for a moment is tried again.
    const TRY_AGAIN: Duration = Duration::from_millis(1);

    /// Bytes of a file.
    #[derive(Clone, Copy)]
    struct Range {
        start: i64,
        length: i64,
    }

    /// `PENDING_BYTE`, <https://sqlite.org/fileformat2.html#the_lock_byte_page>.
    const PENDING: Range = Range {
        start: 0x4000_0000,
        length: 1,
    };

    /// `SHARED_FIRST` and `SHARED_SIZE`: every reader has a read lock on it.
    const SHARED: Range = Range {
        start: 0x4000_0002,
        length: 510,
    };

    /// `UNIX_SHM_DMS`: every process that has the `-shm` mapped has a read lock on it.
    const DEAD_MANS_SWITCH: Range = Range { start: 128, length: 1 };

    /// The locks of one store. Dropped, they are released, and the descriptors are kept.
    #[derive(Debug)]
    pub(crate) struct FileLocks {
        database: Arc<File>,
        /// There if other processes may open the file.
        index: Option<Arc<File>>,
    }

    impl FileLocks {
        /// Takes them. Another process that tries to come in just then is waited for, until that time.
        ///
        /// `None` where the system has no such locks. `index` is the `-shm`, if the access is shared.
        pub(crate) fn take(
            database: (&Path, FileId),
            index: Option<(&Path, FileId)>,
            until: Instant,
        ) -> io::Result<Option<Self>> {
            let mut locks = Self {
                database: descriptor(database.0, database.1)?,
                index: None,
            };
            locks.index = index.map(|(path, id)| descriptor(path, id)).transpose()?;
            let taken = match &locks.index {
                Some(index) => take(&locks.database, SHARED, libc::F_RDLCK, until)
                    .and_then(|()| take(index, DEAD_MANS_SWITCH, libc::F_RDLCK, until)),
                None => take(&locks.database, PENDING, libc::F_WRLCK, until),
            };
            match taken {
                Ok(()) => Ok(Some(locks)),
                Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENOLCK) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }

        /// The file on which this process has lost SQLite's own locks, since somebody in it has closed a descriptor. To
        /// be asked while a connection of the store is open.
        pub(crate) fn find_dropped(&self) -> Option<LockedFile> {
            if is_dropped(&self.database, SHARED) {
                return Some(LockedFile::Database);
            }
            let index = self.index.as_ref()?;
            is_dropped(index, DEAD_MANS_SWITCH).then_some(LockedFile::Index)
        }
    }

    impl Drop for FileLocks {
        fn drop(&mut self) {
            // From the start to the end: all of them.
            let release = |file: &File| {
                let everything = Range { start: 0, length: 0 };
                let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&flock(everything, libc::F_UNLCK)));
            };
            give_back(&self.database, release);
            if let Some(index) = &self.index {
                give_back(index, release);
            }
        }
    }

    fn take(file: &File, range: Range, kind: i32, until: Instant) -> nix::Result<()> {
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLK(&flock(range, kind))) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() < until => thread::sleep(TRY_AGAIN),
                Err(error) => return Err(error),
            }
        }
    }

    fn flock(range: Range, kind: i32) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: range.start,
            l_len: range.length,
            l_pid: 0,
        }
    }

    /// Whether this process has no POSIX lock in that range. `false` if that cannot be found out.
    fn is_dropped(file: &File, range: Range) -> bool {
        // A write lock would meet every other. Our own open-file-description lock is not another.
        let mut found = flock(range, libc::F_WRLCK);
        if fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).is_err() {
            return false;
        }
        if i32::from(found.l_type) == libc::F_UNLCK {
            return true;
        }
        if found.l_pid.unsigned_abs() == process::id() {
            return false;
        }
        // One holder is told, and it is another process, or a lock of another descriptor.
        !has_lock_in_proc(file, range).unwrap_or(true)
    }

    /// Whether `/proc/locks` has a POSIX lock of this process's in that range. `None` if it cannot be read.
    ///
    /// A line: `12: POSIX  ADVISORY  READ 4711 08:01:1234 1073741826 1073742335`. The device is not compared: on some file
    /// systems it is another than the one that `stat` tells.
    fn has_lock_in_proc(file: &File, range: Range) -> Option<bool> {
        let inode = file.metadata().ok()?.ino();
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let is_ours = |line: &str| {
            // A line with "->" is of somebody who waits for a lock.
            let mut fields = line.split_ascii_whitespace().skip(1);
            if fields.next()? != "POSIX" {
                return None;
            }
            let pid: u32 = fields.nth(2)?.parse().ok()?;
            let file: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
            let first: i64 = fields.next()?.parse().ok()?;
            let last = match fields.next()? {
                "EOF" => i64::MAX,
                last => last.parse().ok()?,
            };
            let overlaps = first < range.start + range.length && last >= range.start;
            Some(pid == process::id() && file == inode && overlaps)
        };
        Some(locks.lines().any(|line| is_ours(line).unwrap_or(false)))
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::time::Instant;

    use super::*;

    /// The system has no such locks.
    #[derive(Debug)]
    pub(crate) struct FileLocks;

    impl FileLocks {
        pub(crate) fn take(
            _database: (&Path, FileId),
            _index: Option<(&Path, FileId)>,
            _until: Instant,
        ) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub(crate) fn find_dropped(&self) -> Option<LockedFile> {
            None
        }
    }
}
