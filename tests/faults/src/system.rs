//! The system calls that larder itself makes: to create the database, and for the parts of a backup that SQLite does
//! not do.
//!
//! Rust's standard library and rustix (with its feature `use-libc`, which `Cargo.toml` switches on) call the C library
//! by these names, and the linker takes the ones defined here. Each forwards to the C library, unless the plan of its
//! [`Disk`] says that it fails. Its effect is recorded after it has succeeded.
//!
//! SQLite makes the same calls. The shim sees them as calls of the VFS, so they pass through here: see [`Unseen`]. So
//! do calls outside of any disk's folder.
//!
//! If larder changed files or folders in another way,
//! [`Recording::is_complete`](crate::power_cut::Recording::is_complete) would find it missing in the trace.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::marker::PhantomData;
use std::mem;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, OnceLock};

use libc::mode_t;

use crate::trace::{Call, Class, Disk, Fault};

thread_local! {
    static UNSEEN: Cell<u32> = const { Cell::new(0) };
}

/// While this lives, the calls of this thread do not count as larder's own.
pub struct Unseen(PhantomData<*const ()>);

impl Unseen {
    pub fn begin() -> Self {
        UNSEEN.set(UNSEEN.get() + 1);
        Self(PhantomData)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        UNSEEN.set(UNSEEN.get() - 1);
    }
}

/// Checks that these functions are the ones in use. rustix looks up `renameat2` at run time.
pub fn install() {
    // SAFETY: the name ends with a NUL byte.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"renameat2".as_ptr()) };
    assert_eq!(
        found as usize, renameat2 as *const () as usize,
        "renameat2 is not exported"
    );
}

/// A file or a folder on a disk.
struct Place {
    disk: Arc<Disk>,
    name: String,
}

impl Place {
    fn of(path: &Path) -> Option<Self> {
        let (disk, name) = Disk::of(path)?;
        let name = name.to_owned();
        Some(Self { disk, name })
    }

    /// # Safety
    ///
    /// `path` is null or ends with a NUL byte.
    unsafe fn at(folder: c_int, path: *const c_char) -> Option<Self> {
        if UNSEEN.get() > 0 || path.is_null() {
            return None;
        }
        // SAFETY: as the caller promises.
        let path = Path::new(unsafe { CStr::from_ptr(path) }.to_str().ok()?);
        if path.is_absolute() {
            return Self::of(path);
        }
        // larder's paths are absolute, or relative to an open folder.
        let folder = path_of(folder)?;
        if path.as_os_str().is_empty() {
            return Self::of(&folder);
        }
        Self::of(&folder.join(path))
    }

    fn open(file: c_int) -> Option<Self> {
        if UNSEEN.get() > 0 {
            return None;
        }
        Self::of(&path_of(file)?)
    }

    fn is_folder(&self) -> bool {
        self.disk.is_folder(&self.name)
    }
}

/// The current path of an open file.
fn path_of(file: c_int) -> Option<PathBuf> {
    if file < 0 {
        return None;
    }
    fs::read_link(format!("/proc/self/fd/{file}")).ok()
}

/// Whether the call must fail. If so, sets its error.
fn fails(place: Option<&Place>, call: Call) -> bool {
    let fault = place.and_then(|place| place.disk.fault(call, Class::of(&place.name)));
    let code = match fault {
        None => return false,
        Some(Fault::Full | Fault::FullHalf) => libc::ENOSPC,
        Some(Fault::Unsupported) => libc::EINVAL,
        Some(_) => libc::EIO,
    };
    // SAFETY: it belongs to this thread.
    unsafe { *libc::__errno_location() = code };
    true
}

/// The C library's own function of that name.
macro_rules! real {
    ($name:ident: $kind:ty) => {{
        static REAL: OnceLock<$kind> = OnceLock::new();
        *REAL.get_or_init(|| next(concat!(stringify!($name), "\0")))
    }};
}

/// # Safety
///
/// `name` ends with a NUL byte, and `F` is the type of pointers to the function of that name.
unsafe fn next<F>(name: &str) -> F {
    // SAFETY: as the caller promises; a pointer to a function is as large as any other.
    unsafe {
        let found = libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast());
        assert!(!found.is_null(), "the C library has no {name}");
        mem::transmute_copy::<*mut c_void, F>(&found)
    }
}

// ---- files ----

type Open = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
type OpenAt = unsafe extern "C" fn(c_int, *const c_char, c_int, ...) -> c_int;

// The C library's functions are variadic, but callers never pass more than these; without the mode the last argument is
// not read. On Linux they are passed like the arguments of any function.

/// # Safety
///
/// As open(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { open_by(path, flags, || real!(open: Open)(path, flags, mode)) }
}

/// # Safety
///
/// As open(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { open_by(path, flags, || real!(open64: Open)(path, flags, mode)) }
}

/// # Safety
///
/// `path` is null or ends with a NUL byte.
unsafe fn open_by(path: *const c_char, flags: c_int, open: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: as the caller promises.
    let place = unsafe { Place::at(libc::AT_FDCWD, path) };
    let creates = flags & libc::O_CREAT != 0;
    let is_folder = place.as_ref().is_some_and(Place::is_folder);
    if is_folder && fails(place.as_ref(), Call::OpenFolder) {
        return -1;
    }
    if creates && fails(place.as_ref(), Call::Create) {
        if let Some(Place { disk, name }) = place {
            disk.create_failed(&name);
        }
        return -1;
    }
    let file = open();
    if let Some(Place { disk, name }) = place
        && creates
        && file >= 0
    {
        let class = Class::of(&name);
        let inode = disk.opened(&name);
        if flags & libc::O_TRUNC != 0 {
            disk.resized(inode, class, 0);
        }
    }
    file
}

/// Only the removal of a folder with its contents opens folders this way.
///
/// # Safety
///
/// As openat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        if fails(Place::at(folder, path).as_ref(), Call::OpenToRemove) {
            return -1;
        }
        real!(openat64: OpenAt)(folder, path, flags, mode)
    }
}

/// # Safety
///
/// As fsync(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(file: c_int) -> c_int {
    // SAFETY: the caller's argument.
    unsafe { sync_by(file, || real!(fsync: unsafe extern "C" fn(c_int) -> c_int)(file)) }
}

/// # Safety
///
/// As fdatasync(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: the caller's argument.
    unsafe { sync_by(file, || real!(fdatasync: unsafe extern "C" fn(c_int) -> c_int)(file)) }
}

fn sync_by(file: c_int, sync: impl FnOnce() -> c_int) -> c_int {
    let Some(place) = Place::open(file) else { return sync() };
    let disk = &place.disk;
    if place.is_folder() {
        if fails(Some(&place), Call::SyncFolder) {
            return -1;
        }
        let code = sync();
        if code == 0 {
            disk.synced_folder(&place.name);
        }
        return code;
    }
    // A file without a name does not matter.
    let Some(inode) = disk.inode(&place.name) else {
        return sync();
    };
    if fails(Some(&place), Call::SyncFile) {
        disk.sync_failed(inode);
        return -1;
    }
    let code = sync();
    if code == 0 {
        disk.synced(inode, Class::of(&place.name), None);
    }
    code
}

/// # Safety
///
/// As write(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn write(file: c_int, data: *const c_void, length: usize) -> isize {
    type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;
    // SAFETY: the caller's arguments; the offset is read after the write.
    unsafe {
        let real = || real!(write: Write)(file, data, length);
        let end = || libc::lseek64(file, 0, libc::SEEK_CUR);
        write_by(file, data, real, |written| end() as u64 - written)
    }
}

/// # Safety
///
/// As pwrite(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(file: c_int, data: *const c_void, length: usize, offset: i64) -> isize {
    type Write = unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;
    // SAFETY: the caller's arguments.
    unsafe {
        let real = || real!(pwrite64: Write)(file, data, length, offset);
        write_by(file, data, real, |_| offset as u64)
    }
}

/// # Safety
///
/// `data` must be readable for as many bytes as `write` reports as written.
unsafe fn write_by(
    file: c_int,
    data: *const c_void,
    write: impl FnOnce() -> isize,
    offset: impl FnOnce(u64) -> u64,
) -> isize {
    let place = Place::open(file);
    let inode = place.as_ref().and_then(|place| place.disk.inode(&place.name));
    let (Some(place), Some(inode)) = (place, inode) else {
        return write();
    };
    if fails(Some(&place), Call::WriteFile) {
        return -1;
    }
    let written = write();
    if let Ok(length) = usize::try_from(written) {
        // SAFETY: as the caller promises.
        let data = unsafe { slice::from_raw_parts(data.cast(), length) };
        place
            .disk
            .wrote(inode, Class::of(&place.name), offset(length as u64), data);
    }
    written
}

// ---- names ----

/// # Safety
///
/// As mkdir(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        let place = Place::at(libc::AT_FDCWD, path);
        if fails(place.as_ref(), Call::MakeFolder) {
            return -1;
        }
        let code = real!(mkdir: unsafe extern "C" fn(*const c_char, mode_t) -> c_int)(path, mode);
        if let Some(Place { disk, name }) = place
            && code == 0
        {
            disk.made_folder(&name);
        }
        code
    }
}

type Rename = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;
type RenameAt2 = unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char, c_uint) -> c_int;
type LinkAt = unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char, c_int) -> c_int;

/// # Safety
///
/// As rename(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let here = libc::AT_FDCWD;
    // SAFETY: the caller's arguments.
    unsafe {
        let places = (Place::at(here, from), Place::at(here, to));
        give_name(Call::Rename, places, Disk::renamed, || real!(rename: Rename)(from, to))
    }
}

/// # Safety
///
/// As renameat2(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn renameat2(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        let places = (Place::at(from_folder, from), Place::at(to_folder, to));
        give_name(Call::Rename, places, Disk::renamed, || {
            real!(renameat2: RenameAt2)(from_folder, from, to_folder, to, flags)
        })
    }
}

/// # Safety
///
/// As linkat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn linkat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        let places = (Place::at(from_folder, from), Place::at(to_folder, to));
        give_name(Call::Link, places, Disk::linked, || {
            real!(linkat: LinkAt)(from_folder, from, to_folder, to, flags)
        })
    }
}

fn give_name(
    call: Call,
    (from, to): (Option<Place>, Option<Place>),
    note: fn(&Disk, &str, &str),
    give: impl FnOnce() -> c_int,
) -> c_int {
    if fails(to.as_ref(), call) {
        return -1;
    }
    let code = give();
    if let (Some(from), Some(to), 0) = (from, to, code) {
        note(&to.disk, &from.name, &to.name);
    }
    code
}

/// # Safety
///
/// As unlink(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's argument.
    unsafe {
        remove(Place::at(libc::AT_FDCWD, path), || {
            real!(unlink: unsafe extern "C" fn(*const c_char) -> c_int)(path)
        })
    }
}

/// # Safety
///
/// As unlinkat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        remove(Place::at(folder, path), || {
            real!(unlinkat: unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int)(folder, path, flags)
        })
    }
}

/// # Safety
///
/// As rmdir(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the caller's argument.
    unsafe {
        remove(Place::at(libc::AT_FDCWD, path), || {
            real!(rmdir: unsafe extern "C" fn(*const c_char) -> c_int)(path)
        })
    }
}

fn remove(place: Option<Place>, remove: impl FnOnce() -> c_int) -> c_int {
    if fails(place.as_ref(), Call::Remove) {
        return -1;
    }
    let code = remove();
    if let Some(Place { disk, name }) = place
        && code == 0
    {
        disk.deleted(&name, false);
    }
    code
}

// ---- calls that change nothing ----

/// # Safety
///
/// As flock(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn flock(file: c_int, operation: c_int) -> c_int {
    if fails(Place::open(file).as_ref(), Call::LockFolder) {
        return -1;
    }
    // SAFETY: the caller's arguments.
    unsafe { real!(flock: unsafe extern "C" fn(c_int, c_int) -> c_int)(file, operation) }
}

/// # Safety
///
/// As statx(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn statx(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    out: *mut libc::statx,
) -> c_int {
    type Statx = unsafe extern "C" fn(c_int, *const c_char, c_int, c_uint, *mut libc::statx) -> c_int;
    // SAFETY: the caller's arguments.
    unsafe {
        if fails(Place::at(folder, path).as_ref(), Call::Look) {
            return -1;
        }
        real!(statx: Statx)(folder, path, flags, mask, out)
    }
}

/// # Safety
///
/// As opendir(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn opendir(path: *const c_char) -> *mut libc::DIR {
    // SAFETY: the caller's argument.
    unsafe {
        if fails(Place::at(libc::AT_FDCWD, path).as_ref(), Call::OpenFolder) {
            return std::ptr::null_mut();
        }
        real!(opendir: unsafe extern "C" fn(*const c_char) -> *mut libc::DIR)(path)
    }
}

/// # Safety
///
/// As realpath(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn realpath(path: *const c_char, out: *mut c_char) -> *mut c_char {
    // SAFETY: the caller's arguments.
    unsafe {
        if fails(Place::at(libc::AT_FDCWD, path).as_ref(), Call::Look) {
            return std::ptr::null_mut();
        }
        real!(realpath: unsafe extern "C" fn(*const c_char, *mut c_char) -> *mut c_char)(path, out)
    }
}

/// # Safety
///
/// As statvfs(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn statvfs64(path: *const c_char, out: *mut libc::statvfs64) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        if fails(Place::at(libc::AT_FDCWD, path).as_ref(), Call::Look) {
            return -1;
        }
        real!(statvfs64: unsafe extern "C" fn(*const c_char, *mut libc::statvfs64) -> c_int)(path, out)
    }
}

/// # Safety
///
/// As statfs(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn statfs64(path: *const c_char, out: *mut libc::statfs64) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        if fails(Place::at(libc::AT_FDCWD, path).as_ref(), Call::Look) {
            return -1;
        }
        real!(statfs64: unsafe extern "C" fn(*const c_char, *mut libc::statfs64) -> c_int)(path, out)
    }
}
