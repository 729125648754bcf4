//! The database file before SQLite opens it: its path and its creation.
//!
//! larder closes no descriptor of a database file, not even the one that created it: "the close() system call will
//! cancel all POSIX advisory locks on the same file for all threads and all file descriptors in the process",
//! <https://sqlite.org/howtocorrupt.html>, and SQLite's locks are POSIX locks. See `file_lock.rs`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cause::said;
use super::file_lock::{self, Use};
use super::filesystem::{check_filesystem, check_writable, is_mount_root};
use super::open_error::{open_error, refuse};
use super::open_files::{Claim, Place};
use crate::error::Result;
use crate::options::Settings;

/// Bytes in the smallest database: one page of the smallest size.
pub(crate) const SMALLEST: u64 = 512;

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        if !options.read_only {
            check_writable(folder, path)?;
        }
        check_name(&absolute, folder, path)?;
        if !options.allow_unsupported_filesystem {
            check_filesystem(folder, path)?;
        }
        let place = Place::of(&absolute).map_err(|e| open_error(path, "its folder cannot be examined", e))?;
        let there = fs::symlink_metadata(&absolute).ok().map(|file| FileId::of(&file));
        let claim = Claim::take(place, there, owner, options.access, path, options.busy_timeout)?;
        if options.creates() {
            create(&absolute, path)?;
        } else {
            must_exist(&absolute, path, options)?;
        }
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
        } else if metadata.len() == 0 && !options.creates() && has_log(&absolute) {
            // Also a connection that only reads deletes such a -wal, as a leftover.
            Some(
                "it has not a byte, and the -wal beside it has commits, which SQLite would delete: it was cut, or is not \
                 copied yet; copy both files again, or restore a backup",
            )
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

/// What is beside a database with that ending: its `-wal`, for example.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Whether a `-wal` with contents is beside the database.
fn has_log(path: &Path) -> bool {
    fs::symlink_metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0)
}

/// The canonical folder joined with the file's own name. SQLite never parses an absolute path as a URI, but would parse
/// a relative one that begins with `file:`.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
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
        let remedy = match e.kind() {
            io::ErrorKind::NotFound => "; create it first",
            io::ErrorKind::PermissionDenied => "; check owner and mode of the folders on the way",
            _ => "",
        };
        let problem = format!("its folder {} cannot be used{remedy}", folder.display());
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
        Ok(file) => file_lock::keep(file, Use::Write).map_err(|e| open_error(path, "its metadata cannot be read", e)),
        // Without a descriptor that is free, the system does not look whether the file exists.
        Err(_) if fs::symlink_metadata(absolute).is_ok() => Ok(()),
        Err(e) => {
            let remedy = said(&e).map_or(String::new(), |said| format!(" ({said})"));
            Err(open_error(path, &format!("it cannot be created{remedy}"), e))
        }
    }
}

/// For a store that creates no file. A link without a target is refused as a link.
pub(crate) fn must_exist(absolute: &Path, path: &Path, options: &Settings) -> Result<()> {
    let problem = if options.read_only {
        "it does not exist, and Options::read_only(true) creates no file: check the path, and that its volume is mounted"
    } else {
        "it does not exist, and Options::create(false) creates no file: check the path, and that its volume is mounted; or \
         let Options::create(true) create it"
    };
    match fs::symlink_metadata(absolute) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(open_error(path, problem, e)),
        // Any other error is that of the next look.
        _ => Ok(()),
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
