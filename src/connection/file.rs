//! The database file before SQLite opens it: its path, its file system, its creation.
//!
//! larder closes no descriptor of a database file, not even the one that created it: "the close() system call will
//! cancel all POSIX advisory locks on the same file for all threads and all file descriptors in the process",
//! <https://sqlite.org/howtocorrupt.html>, and SQLite's locks are POSIX locks. See `file_lock.rs`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Access;

use super::file_lock;
use super::open_files::{Claim, Place};
use crate::error::{Error, Result};
use crate::options::Settings;
use crate::telemetry::event::event;

/// Bytes in the smallest database: one page of the smallest size.
pub(crate) const SMALLEST: u64 = 512;

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// The longest suffix that larder uses for a file beside the database. SQLite's are shorter.
const LONGEST_SUFFIX: &str = "-unsynced";

/// A regular file, possibly just created and empty, at an absolute path whose folder contains no symbolic link.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    /// Released when the last connection of the store has closed.
    pub(crate) claim: Arc<Claim>,
}

impl DatabaseFile {
    /// Checks the path, claims it for the store `owner`, and creates the file if it does not exist.
    pub(crate) fn prepare(path: &Path, options: &Settings, owner: u64) -> Result<Self> {
        let absolute = absolute(path)?;
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        check_writable(folder, path)?;
        check_name(&absolute, folder, path)?;
        if !options.allow_unsupported_filesystem {
            check_filesystem(folder, path)?;
        }
        let place = Place::of(&absolute).map_err(|e| open_error(path, "its folder cannot be examined", e))?;
        let there = fs::symlink_metadata(&absolute).ok().map(|file| FileId::of(&file));
        let claim = Claim::take(place, there, owner, options.access, path, options.busy_timeout)?;
        create(&absolute, path)?;
        let metadata =
            fs::symlink_metadata(&absolute).map_err(|e| open_error(path, "its metadata cannot be read", e))?;
        let problem = if metadata.is_symlink() {
            Some(
                "it is a symbolic link, which larder does not follow (its WAL would lie beside the link's target): \
                 give the target's path",
            )
        } else if metadata.is_dir() {
            Some("it is a folder: give the path of a file in it")
        } else if !metadata.is_file() {
            Some("it is not a regular file")
        } else if (1..SMALLEST).contains(&metadata.len()) {
            // SQLite would treat it as an empty database and overwrite it.
            Some("it is not an SQLite database: it has fewer bytes than the smallest one")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(refuse(path, problem));
        }
        let id = FileId::of(&metadata);
        claim.take_file(id, path, options.busy_timeout)?;
        if !options.allow_linked_file {
            check_single_name(&absolute, &metadata, path)?;
        }
        Ok(Self {
            path: absolute,
            id,
            claim: Arc::new(claim),
        })
    }
}

impl DatabaseFile {
    /// Whether the file is empty, so that page size and auto-vacuum can still be chosen. The caller has claimed the
    /// file.
    ///
    /// An error is returned and not read as "not empty": a database keeps its auto-vacuum mode from its creation on.
    pub(crate) fn is_new(&self) -> Result<bool> {
        let metadata = fs::symlink_metadata(&self.path);
        let metadata = metadata.map_err(|e| open_error(&self.path, "its metadata cannot be read", e))?;
        Ok(metadata.len() == 0)
    }
}

/// The canonical folder joined with the file's own name. SQLite never parses an absolute path as a URI, but would parse
/// a relative one that begins with `file:`.
fn absolute(path: &Path) -> Result<PathBuf> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return Err(refuse(
            path,
            "the path is empty: give the path of a file, or use Store::open_temp() for tests",
        ));
    }
    if bytes == b":memory:" {
        return Err(refuse(
            path,
            "a database in memory has no WAL and no second connection: use Store::open_temp() for tests",
        ));
    }
    if bytes.contains(&0) {
        return Err(refuse(path, "the path has a NUL byte in it"));
    }
    let Some(name) = path.file_name().filter(|_| !bytes.ends_with(b"/")) else {
        return Err(refuse(path, "it is a folder: give the path of a file in it"));
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(|e| {
        let problem = format!("its folder {} cannot be used; create it first", folder.display());
        open_error(path, &problem, e)
    })?;
    if !folder.is_dir() {
        return Err(refuse(path, "what should be its folder is a file"));
    }
    Ok(folder.join(name))
}

/// Creates a missing file that only its owner can read. `create_new` is `O_CREAT | O_EXCL`, which does not follow a
/// link; an existing file is left as it is. The descriptor is kept, because another connection of this process may have
/// locked the file meanwhile.
fn create(absolute: &Path, path: &Path) -> Result<()> {
    match OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(absolute)
    {
        Ok(file) => file_lock::keep(file).map_err(|e| open_error(path, "its metadata cannot be read", e)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(open_error(path, "it cannot be created", e)),
    }
}

/// SQLite and larder keep files beside the database, whose names are longer than the database's own.
fn check_name(absolute: &Path, folder: &Path, path: &Path) -> Result<()> {
    let longest = rustix::fs::statvfs(folder).map_or(255, |stat| stat.f_namemax) as usize;
    let length = absolute.file_name().map_or(0, |name| name.len());
    if length + LONGEST_SUFFIX.len() <= longest {
        return Ok(());
    }
    let problem = format!(
        "its name has {length} bytes, and the file system allows {longest} for the names of the files beside it, such as \
         {LONGEST_SUFFIX}: give it a name of at most {} bytes",
        longest.saturating_sub(LONGEST_SUFFIX.len())
    );
    Err(refuse(path, &problem))
}

/// SQLite looks for the WAL and its index beside the name by which the file was opened. Under two names, or in two
/// folders, one file would have two WALs.
fn check_single_name(absolute: &Path, metadata: &fs::Metadata, path: &Path) -> Result<()> {
    if metadata.nlink() > 1 {
        let problem = format!(
            "the file has {} names (hard links), and processes that open it by different names would use different logs \
             and damage it: remove the others (find -inum {} lists them), or call Options::allow_linked_file(true) if \
             every process opens it by this name",
            metadata.nlink(),
            metadata.ino()
        );
        return Err(refuse(path, &problem));
    }
    if is_mount_root(absolute) {
        return Err(refuse(
            path,
            "the file alone is mounted here, without its folder (a container's volume of one file), so its log would lie \
             apart from the one that others use: mount the folder instead, or call Options::allow_linked_file(true) if \
             only processes that see this mount open it",
        ));
    }
    Ok(())
}

/// Whether `path` itself is a mount point. Kernels older than 5.8 do not report it.
#[cfg(target_os = "linux")]
fn is_mount_root(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_root(_path: &Path) -> bool {
    false
}

/// SQLite would only report that it cannot open the file.
fn check_writable(folder: &Path, path: &Path) -> Result<()> {
    match rustix::fs::statvfs(folder) {
        Ok(stat) if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => Err(refuse(
            path,
            "its file system is mounted read-only, and a WAL must be written: mount it for writing, or copy the file",
        )),
        Ok(_) => Ok(()),
        Err(e) => Err(open_error(path, "its file system cannot be examined", e.into())),
    }
}

/// Bytes that this process may still use on the file system of a folder, if known.
pub(crate) fn available(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// The folder that SQLite puts temporary files in: "the first of these which is an existing directory with write and
/// execute permission", <https://sqlite.org/tempfiles.html#tempdir>.
pub(crate) fn temporary_folder() -> Option<PathBuf> {
    let named = ["SQLITE_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os);
    let usual = ["/var/tmp", "/usr/tmp", "/tmp", "."].into_iter().map(Into::into);
    let usable =
        |folder: &PathBuf| folder.is_dir() && rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    named.chain(usual).map(PathBuf::from).find(usable)
}

fn refuse(path: &Path, problem: &str) -> Error {
    Error::Open {
        path: path.into(),
        problem: problem.into(),
        source: None,
    }
}

fn open_error(path: &Path, problem: &str, source: io::Error) -> Error {
    Error::Open {
        path: path.into(),
        problem: format!("{problem}: {source}"),
        source: Some(Box::new(source)),
    }
}

/// File systems on which two descriptors of one file do not share memory or locks, by the magic number of `statfs(2)`.
#[cfg(target_os = "linux")]
const UNSUPPORTED: &[(u32, &str)] = &[
    (0x0000_6969, "NFS"),
    (0xff53_4d42, "SMB (cifs)"),
    (0xfe53_4d42, "SMB 2"),
    (0x0000_517b, "SMB (smbfs)"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE or virtiofs"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x564c, "NCP"),
    (0x7375_7245, "Coda"),
    (0x786f_4256, "VirtualBox shared folders"),
    (0xbacb_acbc, "VMware shared folders"),
];

#[cfg(target_os = "linux")]
fn check_filesystem(folder: &Path, path: &Path) -> Result<()> {
    let stat = rustix::fs::statfs(folder)
        .map_err(|e| open_error(path, "the kind of its file system cannot be found out", e.into()))?;
    match unsupported(stat.f_type as u32) {
        None => Ok(()),
        Some(name) => Err(Error::UnsupportedFilesystem {
            path: path.into(),
            filesystem: name.into(),
        }),
    }
}

#[cfg(target_os = "linux")]
fn unsupported(magic: u32) -> Option<&'static str> {
    UNSUPPORTED
        .iter()
        .find(|(known, _)| *known == magic)
        .map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
fn check_filesystem(_folder: &Path, _path: &Path) -> Result<()> {
    Ok(())
}

/// The name of the file's file system, if a WAL is not safe on it.
#[cfg(target_os = "linux")]
pub(crate) fn unsafe_filesystem(path: &Path) -> Option<&'static str> {
    let stat = rustix::fs::statfs(path.parent()?).ok()?;
    unsupported(stat.f_type as u32)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unsafe_filesystem(_path: &Path) -> Option<&'static str> {
    None
}

/// A folder that only its owner can enter. Dropping this deletes it with its contents.
#[derive(Debug)]
pub(crate) struct TempFolder {
    path: PathBuf,
}

impl TempFolder {
    /// Creates one in the system's folder for temporary files.
    pub(crate) fn new() -> Result<Self> {
        Self::inside(&std::env::temp_dir())
    }

    /// Creates one in the folder of `file`.
    pub(crate) fn beside(file: &Path) -> Result<Self> {
        Self::inside(file.parent().unwrap_or(Path::new("/")))
    }

    fn inside(parent: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let nanos = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.subsec_nanos());
            let name = format!(
                "larder-{}-{}-{nanos:08x}",
                std::process::id(),
                COUNT.fetch_add(1, Relaxed)
            );
            let path = parent.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(open_error(&path, "the temporary folder cannot be created", e)),
            }
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("temp.db")
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            event!(
                warn,
                "larder::close",
                { folder = %self.path.display(), %error },
                "the temporary folder stays behind"
            );
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_recognized_by_magic() {
        // linux/magic.h: NFS_SUPER_MAGIC, CIFS, V9FS_MAGIC, FUSE_SUPER_MAGIC (virtiofs shows the same).
        for (magic, name) in [(0x6969, "NFS"), (0xff53_4d42, "SMB (cifs)"), (0x0102_1997, "9p")] {
            assert_eq!(unsupported(magic), Some(name));
        }
        assert!(unsupported(0x6573_5546).is_some_and(|name| name.contains("FUSE")));
        // ext4, xfs, btrfs, tmpfs, overlayfs, zfs
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(unsupported(magic), None, "{magic:x}");
        }
    }
}
