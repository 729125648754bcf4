//! A VFS around SQLite's own, which is the default of this process, so that the store under test is the store as
//! shipped.
//!
//! Each call is passed to the real VFS, unless the plan of its [`Disk`] makes it fail. A change is recorded after it
//! has succeeded. Memory is not recorded: `xFetch` and the WAL index pass through, though the calls that map and lock
//! the index may fail.
//!
//! `unix-excl` is wrapped, too, under its own name, for `Access::Exclusive`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::{Arc, Once};

use larder::rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use crate::system::Unseen;
use crate::trace::{Call, Class, Disk, Fault, Inode, parent};

/// The memory that SQLite allocates for a file: this struct, then the real VFS's file at [`REAL`].
#[repr(C)]
struct ShimFile {
    base: sqlite3_file,
    inner: *mut Inner,
}

const REAL: usize = mem::size_of::<ShimFile>().next_multiple_of(16);

/// The state of an open file.
struct Inner {
    disk: Option<Arc<Disk>>,
    inode: Inode,
    class: Class,
    /// The file's folder, if it has yet to be synced: with `UNIXFILE_DIRSYNC`, the first sync of the file syncs the
    /// folder, too.
    folder: Option<String>,
    /// The first region of the WAL index, as long as it is mapped.
    index: *const u8,
}

/// Bytes in a region of the WAL index, `WALINDEX_PGSZ`.
const REGION: usize = 32768;

static INSTALL: Once = Once::new();

/// Makes the shim the default VFS.
pub fn install() {
    INSTALL.call_once(|| {
        // SAFETY: no connection is open yet; the names are static; the registered objects are leaked, so they live as
        // long as the process, as SQLite requires.
        unsafe {
            let unix = ffi::sqlite3_vfs_find(ptr::null());
            let exclusive = ffi::sqlite3_vfs_find(c"unix-excl".as_ptr());
            assert!(!unix.is_null() && !exclusive.is_null(), "SQLite has no unix VFS");
            register(unix, c"faults", true);
            register(exclusive, c"unix-excl", false);
        }
    });
}

/// # Safety
///
/// `real` must be a registered VFS.
unsafe fn register(real: *mut sqlite3_vfs, name: &'static CStr, default: bool) {
    // SAFETY: as the caller promises; a VFS is plain data and may be copied.
    let mut vfs = unsafe { *real };
    vfs.szOsFile += REAL as c_int;
    vfs.pNext = ptr::null_mut();
    vfs.zName = name.as_ptr();
    vfs.pAppData = real.cast();
    vfs.xOpen = Some(x_open);
    vfs.xDelete = Some(x_delete);
    vfs.xAccess = Some(x_access);
    vfs.xFullPathname = Some(x_full_pathname);
    // The other methods of the unix VFS do not depend on the VFS object that they are called with.
    let leaked = Box::into_raw(Box::new(vfs));
    // SAFETY: it is leaked, and the last VFS of that name that SQLite will see.
    let code = unsafe { ffi::sqlite3_vfs_register(leaked, c_int::from(default)) };
    assert_eq!(code, ffi::SQLITE_OK);
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: Some(x_fetch),
    xUnfetch: Some(x_unfetch),
};

// ---- accessors ----

/// # Safety
///
/// `vfs` must be one of ours.
unsafe fn real_vfs(vfs: *mut sqlite3_vfs) -> *mut sqlite3_vfs {
    // SAFETY: as the caller promises; `register` has put it there.
    unsafe { (*vfs).pAppData.cast() }
}

/// # Safety
///
/// `file` must be one that SQLite has allocated for one of our VFSs.
unsafe fn real_file(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite allocates `szOsFile` bytes, which `register` has made larger by `REAL`; they are aligned for 8.
    unsafe { file.cast::<u8>().add(REAL).cast() }
}

/// # Safety
///
/// `file` must be open. SQLite uses a file on one thread at a time.
unsafe fn inner<'a>(file: *mut sqlite3_file) -> &'a mut Inner {
    // SAFETY: as the caller promises; `x_open` has put it there, `x_close` takes it.
    unsafe { &mut *(*file.cast::<ShimFile>()).inner }
}

impl Inner {
    fn fault(&self, call: Call) -> Option<Fault> {
        self.disk.as_ref()?.fault(call, self.class)
    }
}

/// Calls a method of the real file. Its system calls do not count as larder's own.
macro_rules! real {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let _unseen = Unseen::begin();
        let real = real_file($file);
        ((*(*real).pMethods).$method.expect("the unix VFS has it"))(real $(, $argument)*)
    }};
}

/// Calls a method of the real VFS.
macro_rules! real_vfs {
    ($vfs:expr, $method:ident $(, $argument:expr)*) => {{
        let _unseen = Unseen::begin();
        let real = real_vfs($vfs);
        ((*real).$method.expect("a VFS has it"))(real $(, $argument)*)
    }};
}

/// The file's disk, if it is on one, and the file's name there.
///
/// # Safety
///
/// `path` is null or ends with a NUL byte.
unsafe fn place<'a>(path: *const c_char) -> Option<(Arc<Disk>, &'a str)> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    Disk::of(Path::new(unsafe { CStr::from_ptr(path) }.to_str().ok()?))
}

// ---- the VFS ----

unsafe extern "C" fn x_open(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's own arguments, as its manual describes them. If `pMethods` is null after a failure, SQLite does
    // not close the file; so a file that the real VFS opened in spite of a failure is closed here.
    unsafe {
        (*file).pMethods = ptr::null();
        let place = place(path);
        let class = place.as_ref().map_or(Class::Other, |(_, name)| Class::of(name));
        if let Some((disk, _)) = &place
            && let Some(fault) = disk.fault(Call::Open, class)
        {
            return if matches!(fault, Fault::Full | Fault::FullHalf) {
                ffi::SQLITE_FULL
            } else {
                ffi::SQLITE_CANTOPEN
            };
        }
        let code = real_vfs!(vfs, xOpen, path, real_file(file), flags, out_flags);
        if code != ffi::SQLITE_OK {
            if !(*real_file(file)).pMethods.is_null() {
                real!(file, xClose);
            }
            return code;
        }
        let journal = ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
        // `isNewJrnl` in `unixOpen`.
        let is_new_journal = flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & journal != 0;
        let folder = place.as_ref().filter(|_| is_new_journal);
        let inner = Inner {
            inode: place.as_ref().map_or(0, |(disk, name)| disk.opened(name)),
            class,
            folder: folder.map(|(_, name)| parent(name).to_owned()),
            disk: place.map(|(disk, _)| disk),
            index: ptr::null(),
        };
        (*file.cast::<ShimFile>()).inner = Box::into_raw(Box::new(inner));
        (*file).pMethods = &METHODS;
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn x_delete(vfs: *mut sqlite3_vfs, path: *const c_char, sync_folder: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        let place = place(path);
        if let Some((disk, name)) = &place
            && disk.fault(Call::Delete, Class::of(name)).is_some()
        {
            return ffi::SQLITE_IOERR_DELETE;
        }
        let code = real_vfs!(vfs, xDelete, path, sync_folder);
        if let Some((disk, name)) = place
            && code == ffi::SQLITE_OK
        {
            disk.deleted(name, sync_folder != 0);
        }
        code
    }
}

unsafe extern "C" fn x_access(vfs: *mut sqlite3_vfs, path: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if let Some((disk, name)) = place(path)
            && disk.fault(Call::Access, Class::of(name)).is_some()
        {
            return ffi::SQLITE_IOERR_ACCESS;
        }
        real_vfs!(vfs, xAccess, path, flags, out)
    }
}

unsafe extern "C" fn x_full_pathname(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if let Some((disk, name)) = place(path)
            && disk.fault(Call::FullPathname, Class::of(name)).is_some()
        {
            return ffi::SQLITE_CANTOPEN_FULLPATH;
        }
        real_vfs!(vfs, xFullPathname, path, length, out)
    }
}

// ---- a file ----

unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite's own argument, and its last use of the file: it is closed whatever this returns.
    unsafe {
        let inner = Box::from_raw((*file.cast::<ShimFile>()).inner);
        let code = real!(file, xClose);
        (*file).pMethods = ptr::null();
        if inner.fault(Call::Close).is_some() {
            return ffi::SQLITE_IOERR_CLOSE;
        }
        code
    }
}

unsafe extern "C" fn x_read(file: *mut sqlite3_file, to: *mut c_void, amount: c_int, offset: sqlite3_int64) -> c_int {
    // SAFETY: SQLite's own arguments; `to` has room for `amount` bytes.
    unsafe {
        match inner(file).fault(Call::Read) {
            None => real!(file, xRead, to, amount, offset),
            Some(Fault::ShortRead) => {
                let code = real!(file, xRead, to, amount, offset);
                if code != ffi::SQLITE_OK {
                    return code;
                }
                // "If xRead() returns SQLITE_IOERR_SHORT_READ it must also fill in the unread portions of the buffer
                // with zeros", <https://sqlite.org/c3ref/io_methods.html>.
                let half = amount as usize / 2;
                ptr::write_bytes(to.cast::<u8>().add(half), 0, amount as usize - half);
                ffi::SQLITE_IOERR_SHORT_READ
            }
            Some(_) => ffi::SQLITE_IOERR_READ,
        }
    }
}

unsafe extern "C" fn x_write(
    file: *mut sqlite3_file,
    from: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's own arguments; `from` has `amount` bytes.
    unsafe {
        let fault = inner(file).fault(Call::Write);
        let (amount, code) = match fault {
            None => (amount, ffi::SQLITE_OK),
            Some(Fault::Full) => return ffi::SQLITE_FULL,
            Some(Fault::FullHalf) => (amount / 2, ffi::SQLITE_FULL),
            Some(Fault::IoHalf) => (amount / 2, ffi::SQLITE_IOERR_WRITE),
            Some(_) => return ffi::SQLITE_IOERR_WRITE,
        };
        let wrote = real!(file, xWrite, from, amount, offset);
        if wrote != ffi::SQLITE_OK {
            return wrote;
        }
        let inner = inner(file);
        if let Some(disk) = &inner.disk {
            let data = slice::from_raw_parts(from.cast::<u8>(), amount as usize);
            disk.wrote(inner.inode, inner.class, offset as u64, data);
        }
        code
    }
}

unsafe extern "C" fn x_truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if inner(file).fault(Call::Truncate).is_some() {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        let code = real!(file, xTruncate, size);
        if code == ffi::SQLITE_OK {
            note_size(file, size);
        }
        code
    }
}

/// # Safety
///
/// `file` must be open.
unsafe fn note_size(file: *mut sqlite3_file, size: sqlite3_int64) {
    // SAFETY: as the caller promises.
    let inner = unsafe { inner(file) };
    if let Some(disk) = &inner.disk {
        disk.resized(inner.inode, inner.class, size as u64);
    }
}

unsafe extern "C" fn x_sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        let inner = inner(file);
        if inner.fault(Call::Sync).is_some() {
            if let Some(disk) = &inner.disk {
                disk.sync_failed(inner.inode);
            }
            return ffi::SQLITE_IOERR_FSYNC;
        }
        let code = real!(file, xSync, flags);
        if let Some(disk) = &inner.disk
            && code == ffi::SQLITE_OK
            && disk.synced(inner.inode, inner.class, inner.folder.as_deref())
        {
            inner.folder = None;
        }
        code
    }
}

unsafe extern "C" fn x_file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if inner(file).fault(Call::FileSize).is_some() {
            return ffi::SQLITE_IOERR_FSTAT;
        }
        real!(file, xFileSize, size)
    }
}

unsafe extern "C" fn x_lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if inner(file).fault(Call::Lock).is_some() {
            return ffi::SQLITE_IOERR_LOCK;
        }
        real!(file, xLock, level)
    }
}

/// A lock is released whatever this returns: one that stays is no disk fault.
unsafe extern "C" fn x_unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        let code = real!(file, xUnlock, level);
        if inner(file).fault(Call::Unlock).is_some() {
            return ffi::SQLITE_IOERR_UNLOCK;
        }
        code
    }
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if inner(file).fault(Call::CheckReservedLock).is_some() {
            return ffi::SQLITE_IOERR_CHECKRESERVEDLOCK;
        }
        real!(file, xCheckReservedLock, out)
    }
}

/// `SQLITE_FCNTL_SIZE_HINT` grows a mapped file to its expected size (`fcntlSizeHint` in `os_unix.c`). The other
/// opcodes change nothing on the disk.
unsafe extern "C" fn x_file_control(file: *mut sqlite3_file, opcode: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if opcode != ffi::SQLITE_FCNTL_SIZE_HINT {
            return real!(file, xFileControl, opcode, argument);
        }
        if let Some(fault) = inner(file).fault(Call::SizeHint) {
            return if matches!(fault, Fault::Full | Fault::FullHalf) {
                ffi::SQLITE_IOERR_WRITE
            } else {
                ffi::SQLITE_IOERR_TRUNCATE
            };
        }
        let (mut before, mut after) = (0, 0);
        let looked = real!(file, xFileSize, &mut before);
        let code = real!(file, xFileControl, opcode, argument);
        if looked == ffi::SQLITE_OK && real!(file, xFileSize, &mut after) == ffi::SQLITE_OK && before != after {
            note_size(file, after);
        }
        code
    }
}

unsafe extern "C" fn x_sector_size(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite's own argument.
    unsafe { real!(file, xSectorSize) }
}

unsafe extern "C" fn x_device_characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite's own argument.
    unsafe { real!(file, xDeviceCharacteristics) }
}

// ---- the WAL index ----

unsafe extern "C" fn x_shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if let Some(fault) = inner(file).fault(Call::ShmMap) {
            *out = ptr::null_mut();
            return if matches!(fault, Fault::Full | Fault::FullHalf) {
                ffi::SQLITE_IOERR_SHMSIZE
            } else {
                ffi::SQLITE_IOERR_SHMMAP
            };
        }
        let code = real!(file, xShmMap, region, size, extend, out);
        if code == ffi::SQLITE_OK && region == 0 && size as usize == REGION {
            inner(file).index = (*out).cast();
        }
        code
    }
}

unsafe extern "C" fn x_shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        if flags & ffi::SQLITE_SHM_LOCK != 0 && inner(file).fault(Call::ShmLock).is_some() {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        real!(file, xShmLock, offset, count, flags)
    }
}

unsafe extern "C" fn x_shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: SQLite's own argument. The region is mapped until `x_shm_unmap` of this file. Others write to it
    // meanwhile, so it is copied byte by byte by reads that the compiler may not assume to be stable; a torn copy is as
    // good.
    unsafe {
        let inner = inner(file);
        if let Some(disk) = &inner.disk
            && !inner.index.is_null()
            && disk.wants_index()
        {
            disk.keep_index((0..REGION).map(|i| inner.index.add(i).read_volatile()).collect());
        }
        real!(file, xShmBarrier)
    }
}

unsafe extern "C" fn x_shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        inner(file).index = ptr::null();
        real!(file, xShmUnmap, delete)
    }
}

unsafe extern "C" fn x_fetch(
    file: *mut sqlite3_file,
    offset: sqlite3_int64,
    amount: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe { real!(file, xFetch, offset, amount, out) }
}

unsafe extern "C" fn x_unfetch(file: *mut sqlite3_file, offset: sqlite3_int64, page: *mut c_void) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe { real!(file, xUnfetch, offset, page) }
}
