//! Locks on the database that no other code in the process can drop, and the descriptors that hold them.
//!
//! SQLite's locks are POSIX locks: closing *any* descriptor of the file in this process drops all of them
//! (<https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>), for
//! example when the service reads its own database to send or to hash it. Another process then believes that it is the
//! last connection, and deletes the WAL that this process is still writing. Open-file-description locks (`F_OFD_SETLK`,
//! Linux 3.15) belong to one descriptor, and only closing that descriptor drops them. So a store holds these locks
//! beside SQLite's own:
//!
//! | access | file | bytes | lock | what it prevents |
//! |---|---|---|---|---|
//! | `Shared` | database | 510 from 0x40000002, SQLite's shared range | read | the exclusive lock needed to delete the WAL |
//! | `Shared` | `-shm` | 1 at 128, SQLite's "dead man's switch" | read | a rebuild of the index under our map, by a process that connects |
//! | `Exclusive` | database | 1 at 0x40000000, SQLite's pending byte | write | any lock of another process |
//!
//! A store takes them once the database is in WAL mode, because the switch needs the shared range exclusively. It
//! releases them before its last connection closes, or that connection could not delete the WAL. Read marks, which keep
//! a WAL from being overwritten while it is read, change inside SQLite and cannot be held this way. Therefore the
//! watchdog calls [`FileLocks::find_dropped`], which checks whether this process still has SQLite's own locks.
//!
//! # Descriptors
//!
//! Closing one of our descriptors would drop the locks of the user's other connections, the very problem that this
//! module solves. So each descriptor is kept for the life of the process and found again by the file's inode on the
//! next open: at most one of each [`Use`] for each database and each `-shm`. A descriptor of a file without a name is
//! closed once no store uses it, because no other process can open that file.
//!
//! [`KEPT`] is a mutex around the list of descriptors and the number of stores that hold a lock by each: a store may
//! open while a read of its closed predecessor continues, and both share the lock. The mutex is held for a lookup, for
//! `fstat` and for the release of a lock, never for an open and never while waiting for a file lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::file::FileId;
use crate::options::Access;
use crate::runtime::fork::Process;
use crate::runtime::process_mutex::ProcessMutex;
use crate::runtime::sync::{Arc, MutexGuard};

/// "The header string", <https://sqlite.org/fileformat2.html#magic_header_string>.
const HEADER: &[u8; 16] = b"SQLite format 3\0";

/// A descriptor of a database file or of a `-shm`.
struct Kept {
    id: FileId,
    /// What it can be used for.
    by: Use,
    /// The process that opened it. A forked child shares the lock of its parent's descriptor and could release it, so
    /// the child opens its own.
    process: Process,
    file: Arc<File>,
    /// Number of stores that hold the lock on it, or are about to take it.
    users: usize,
}

/// How a file is opened. A store that only reads needs read locks alone, and opening a file of an image to write copies
/// all of it (overlayfs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Read,
    Write,
}

static KEPT: ProcessMutex<Vec<Kept>> = ProcessMutex::new(Vec::new());

/// Keeps a descriptor for the life of the process.
pub(crate) fn keep(file: File, by: Use) -> io::Result<()> {
    let id = match file.metadata() {
        Ok(metadata) => FileId::of(&metadata),
        Err(error) => {
            // Its identity is unknown, and it must not be closed.
            std::mem::forget(file);
            return Err(error);
        }
    };
    let file = Arc::new(file);
    lock().push(Kept {
        id,
        by,
        process: Process::current(),
        file,
        users: 0,
    });
    Ok(())
}

/// Returns a descriptor of the file at `path`, which must be `expected`, and adds one user.
fn descriptor(path: &Path, expected: FileId, by: Use) -> io::Result<Arc<File>> {
    let find = |all: &mut [Kept]| {
        let kept = all
            .iter_mut()
            .find(|kept| kept.id == expected && kept.by >= by && !kept.process.is_left())?;
        kept.users += 1;
        Some(Arc::clone(&kept.file))
    };
    let mut kept = lock();
    close_nameless(&mut kept);
    if let Some(file) = find(&mut kept) {
        return Ok(file);
    }
    drop(kept);
    let mut options = OpenOptions::new();
    options.read(true).write(by == Use::Write).custom_flags(nofollow());
    keep(options.open(path)?, by)?;
    find(&mut lock()).ok_or_else(|| io::Error::other("another file has taken its place"))
}

/// Whether the header of a database says that it is in WAL mode, by the descriptor that is kept.
pub(crate) fn is_in_wal_mode(path: &Path, id: FileId) -> io::Result<bool> {
    let file = descriptor(path, id, Use::Read)?;
    let mut header = [0; 20];
    let read = file.read_exact_at(&mut header, 0);
    give_back(&file, |_| {});
    Ok(read.is_ok() && header.starts_with(HEADER) && header[18..] == [2, 2])
}

/// Reads a database by the descriptor that is kept: to close another one would drop SQLite's locks of this process.
pub(crate) fn read<T>(path: &Path, read: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
    let id = FileId::of(&std::fs::symlink_metadata(path)?);
    let file = descriptor(path, id, Use::Read)?;
    let done = read(&file);
    give_back(&file, |_| {});
    done
}

/// Whether a file begins as a database that is not encrypted. `None` if that cannot be read.
pub(crate) fn is_plain(path: &Path) -> Option<bool> {
    let mut header = [0; HEADER.len()];
    let done = read(path, |file| file.read_exact_at(&mut header, 0));
    done.ok().map(|()| header == *HEADER)
}

/// The size of the pages of a database that is not encrypted. `None` if there is no file, or its header names none.
#[cfg(feature = "replicate")]
pub(crate) fn page_size(path: &Path) -> io::Result<Option<u32>> {
    let mut header = [0; 18];
    match read(path, |file| file.read_exact_at(&mut header, 0)) {
        // SQLite tells what is wrong with a short one.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            return Ok(None);
        }
        done => done?,
    }
    Ok(match u16::from_be_bytes([header[16], header[17]]) {
        _ if !header.starts_with(HEADER) => None,
        1 => Some(65536),
        size if size.is_power_of_two() && size >= 512 => Some(size.into()),
        _ => None,
    })
}

/// Whether another process has SQLite's locks on a database. `false` where the system has no such question.
pub(crate) fn is_locked(path: &Path, id: FileId) -> io::Result<bool> {
    let file = descriptor(path, id, Use::Read)?;
    let locked = is_locked_elsewhere(&file);
    give_back(&file, |_| {});
    Ok(locked)
}

/// Whether the process may write the file.
#[cfg(target_os = "linux")]
fn is_writable(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// Removes one user. The last user releases the lock.
fn give_back(file: &Arc<File>, release: impl FnOnce(&File)) {
    if let Some(kept) = lock().iter_mut().find(|kept| Arc::ptr_eq(&kept.file, file)) {
        kept.users -= 1;
        if kept.users == 0 {
            release(file);
        }
    }
}

/// Closes the descriptors of deleted files. Their room on the disk is not free before.
pub(crate) fn close_deleted() {
    close_nameless(&mut lock());
}

/// Closes the descriptors whose file has no name any more and that no store uses.
fn close_nameless(kept: &mut Vec<Kept>) {
    kept.retain(|kept| kept.users > 0 || kept.file.metadata().map_or(true, |file| file.nlink() > 0));
}

fn lock() -> MutexGuard<'static, Vec<Kept>> {
    KEPT.lock()
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

/// The files that SQLite locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockedFile {
    Database,
    Index,
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::FileLocks;
#[cfg(target_os = "linux")]
use self::linux::is_locked_elsewhere;
#[cfg(not(target_os = "linux"))]
pub(crate) use self::other::FileLocks;
#[cfg(not(target_os = "linux"))]
use self::other::is_locked_elsewhere;

#[cfg(target_os = "linux")]
mod linux {
    use std::time::{Duration, Instant};
    use std::{fs, process, thread};

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::*;

    /// Retry interval for a lock that another process holds briefly.
    const TRY_AGAIN: Duration = Duration::from_millis(1);

    /// A range of bytes in a file.
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

    /// The locks of one store. Dropping this releases them; the descriptors are kept.
    #[derive(Debug)]
    pub(crate) struct FileLocks {
        database: Arc<File>,
        /// `Some` if other processes may open the file, and this one may write the index.
        index: Option<Arc<File>>,
    }

    impl FileLocks {
        /// Takes the locks. If another process holds one while it connects, this waits for it until `until`.
        ///
        /// `None` where the system has no such locks. `index` is the `-shm`, if the access is shared.
        pub(crate) fn take(
            database: (&Path, FileId),
            index: Option<(&Path, FileId)>,
            access: Access,
            by: Use,
            until: Instant,
        ) -> io::Result<Option<Self>> {
            // SQLite takes a `-shm` that it cannot write for one in use if there is a lock on it, and for a left one if
            // there is none: the lock must not be ours.
            let index = index.filter(|(path, _)| is_writable(path));
            let mut locks = Self {
                database: descriptor(database.0, database.1, by)?,
                index: None,
            };
            locks.index = index.map(|(path, id)| descriptor(path, id, by)).transpose()?;
            let taken = match access {
                Access::Exclusive => take(&locks.database, PENDING, libc::F_WRLCK, until),
                Access::Shared => take(&locks.database, SHARED, libc::F_RDLCK, until).and_then(|()| {
                    let index = locks.index.as_ref();
                    index.map_or(Ok(()), |index| take(index, DEAD_MANS_SWITCH, libc::F_RDLCK, until))
                }),
            };
            match taken {
                Ok(()) => Ok(Some(locks)),
                Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENOLCK) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }

        /// The database, which may be read through this descriptor without dropping a lock.
        pub(crate) fn database(&self) -> Option<Arc<File>> {
            Some(Arc::clone(&self.database))
        }

        /// The `-shm`, which may be read through this descriptor without dropping a lock.
        pub(crate) fn index(&self) -> Option<Arc<File>> {
            self.index.clone()
        }

        /// Returns the file on which this process has lost SQLite's own locks, because other code in it closed a
        /// descriptor. Must be called while a connection of the store is open.
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
            // The whole file: a length of 0 reaches to the end.
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

    /// Whether a process has a lock of SQLite's on the database: each reader and writer has, of a transaction or for good.
    pub(super) fn is_locked_elsewhere(database: &File) -> bool {
        [PENDING, SHARED].into_iter().any(|range| {
            let mut found = flock(range, libc::F_WRLCK);
            let asked = fcntl(database, FcntlArg::F_OFD_GETLK(&mut found));
            asked.is_ok() && i32::from(found.l_type) != libc::F_UNLCK
        })
    }

    /// Whether this process has no POSIX lock in the range. `false` if unknown.
    fn is_dropped(file: &File, range: Range) -> bool {
        // A write lock conflicts with every other lock, except this descriptor's own open-file-description lock.
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
        // The kernel reports one holder. This one is another process, or a lock of another descriptor. The list of all is
        // read in parts, and the end of another process's lock between two of them can hide a lock that is there.
        (0..LOOKS).all(|_| !has_lock_in_proc(file, range).unwrap_or(true))
    }

    /// How many times a lock must be missing in `/proc/locks`.
    const LOOKS: u32 = 16;

    /// Whether `/proc/locks` lists a POSIX lock of this process in the range. `None` if it cannot be read.
    ///
    /// Format of a line: `12: POSIX  ADVISORY  READ 4711 08:01:1234 1073741826 1073742335`. The device is not compared,
    /// because on some file systems it differs from the one that `stat` reports.
    fn has_lock_in_proc(file: &File, range: Range) -> Option<bool> {
        let inode = file.metadata().ok()?.ino();
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let is_ours = |line: &str| {
            // A line with "->" is a process that waits for a lock.
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

    pub(super) fn is_locked_elsewhere(_database: &File) -> bool {
        false
    }

    impl FileLocks {
        pub(crate) fn take(
            _database: (&Path, FileId),
            _index: Option<(&Path, FileId)>,
            _access: Access,
            _by: Use,
            _until: Instant,
        ) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub(crate) fn database(&self) -> Option<Arc<File>> {
            None
        }

        pub(crate) fn index(&self) -> Option<Arc<File>> {
            None
        }

        pub(crate) fn find_dropped(&self) -> Option<LockedFile> {
            None
        }
    }
}
