//! A folder as an object store, as durable as a bucket: `put` returns when the object and its name are on the disk.
//!
//! An object is written into `larder/tmp/`, synced, given its name by one atomic step, and the folder of the name is
//! synced. Create is `renameat2` with `RENAME_NOREPLACE`, or a hard link where the file system lacks that. So of two
//! processes that create one key exactly one succeeds, and no reader sees a part. Update holds the `flock` of
//! `larder/lock` from the comparison to the rename. A folder's objects have no metadata: the timestamp of an object is
//! its mtime, as in Litestream's folders.
//!
//! A process may have failed to sync a folder after it gave a name there. Then the object was not acknowledged, and a
//! power cut may take it. So a list of one who writes here syncs each folder first: what it shows stays. One who only reads
//! may have no right to write, and relies on nothing.
//!
//! `object_store`'s own `LocalFileSystem` cannot update on a condition, refuses metadata, and leaves the files of a
//! process that was killed. Here they are locked while they are written, and the first write of the next process
//! removes those that are not.
//!
//! No lock is held across an await, and no state is shared between requests but in the file system.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, process};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UpdateVersion, UploadPart,
};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::{TIMESTAMP, timestamp_millis};
use crate::replica::runtime::Closures;
use crate::runtime::sync::Mutex;

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// Where unfinished objects are.
const TEMPORARY: &str = "larder/tmp";

/// The file whose lock an update holds.
const LOCK: &str = "larder/lock";

/// Clocks that are not further apart are one clock.
const AGREEMENT: Duration = Duration::from_secs(60);

/// A folder of objects.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: Arc<FsPath>,
    /// Whether anything was to be written.
    writes: Arc<AtomicBool>,
    /// Whether this process has removed the files of killed ones.
    swept: Arc<AtomicBool>,
    /// The folders whose entries are on the disk, those from before this process, too.
    settled: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Folder {
    /// The folder need not exist: the first write creates it, in a parent that exists.
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root: root.into(),
            writes: Arc::default(),
            swept: Arc::default(),
            settled: Arc::default(),
        }
    }

    /// Whether both are one folder, also by another path.
    pub(super) fn is_place_of(&self, other: &Self) -> bool {
        let real = |folder: &Self| fs::canonicalize(&folder.root);
        self.root == other.root || matches!((real(self), real(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// Whether it is that path, or below it. Neither has to exist.
    pub(super) fn is_within(&self, path: &FsPath) -> bool {
        let real = |path: &FsPath| {
            let known = path
                .ancestors()
                .find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
            let (above, real) = known?;
            Some(real.join(path.strip_prefix(above).ok()?))
        };
        self.root.starts_with(path)
            || matches!((real(&self.root), real(path)), (Some(own), Some(path)) if own.starts_with(&path))
    }

    fn path(&self, location: &Path) -> PathBuf {
        let parts: PathBuf = location.parts().map(|part| part.as_ref().to_owned()).collect();
        self.root.join(parts)
    }

    /// Creates the folder of a path, and what is missing above it from the root down.
    fn make_parent(&self, path: &FsPath) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        let made = fs::metadata(folder);
        if made.is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        self.check_above()?;
        let missing: Vec<_> = folder
            .ancestors()
            .take_while(|above| above.starts_with(&*self.root))
            .collect();
        for folder in missing.into_iter().rev() {
            make_folder(folder).map_err(|error| explain(folder, error))?;
        }
        Ok(())
    }

    /// Fails if the folder above the root does not exist. A replica whose file system is not mounted is not an empty one.
    fn check_above(&self) -> io::Result<()> {
        if let Some(above) = self.root.parent().filter(|above| !above.as_os_str().is_empty())
            && fs::metadata(above).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            let reason = format!(
                "the folder {} does not exist: create it, or mount its file system",
                above.display()
            );
            return Err(io::Error::other(reason));
        }
        Ok(())
    }

    /// The error of a path that cannot be read.
    fn unread(&self, location: &Path, path: &FsPath, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound
            && let Err(unmounted) = self.check_above()
        {
            return failed(location, unmounted);
        }
        failed(location, explain(path, error))
    }

    /// Makes sure that no name that was listed is lost while a later one stays: another process may have failed to sync
    /// the folder after it gave the name.
    fn settle(&self, folder: &FsPath) -> io::Result<()> {
        if self.settled.lock().contains(folder) {
            return Ok(());
        }
        sync_folder(folder)?;
        self.settled.lock().insert(folder.to_owned());
        Ok(())
    }

    /// A new file in the folder for temporary files.
    fn stage(&self) -> io::Result<Staged> {
        let folder = self.root.join(TEMPORARY);
        self.make_parent(&folder.join("file"))?;
        if !self.swept.swap(true, Relaxed) {
            sweep(&folder);
        }
        Staged::new(&folder)
    }

    fn put(&self, location: &Path, payload: &PutPayload, options: PutOptions) -> Result<PutResult> {
        self.writes.store(true, Relaxed);
        let path = self.path(location);
        let write = || {
            self.make_parent(&path)?;
            self.settle(path.parent().unwrap_or(&self.root))?;
            let staged = self.stage()?;
            let write = || payload.iter().try_for_each(|bytes| (&staged.file).write_all(bytes));
            write().map_err(|error| explain(&staged.path, error))?;
            staged.sync(&options.attributes)?;
            let guard = match &options.mode {
                PutMode::Update(_) => Some(self.lock()?),
                _ => None,
            };
            if let PutMode::Update(expected) = &options.mode
                && version(&path)? != expected.e_tag
            {
                return Ok(None);
            }
            let created = staged.publish(&path, matches!(options.mode, PutMode::Create))?;
            drop(guard);
            Ok(created)
        };
        match write() {
            Ok(Some(e_tag)) => Ok(put_result(e_tag)),
            Ok(None) => Err(taken(location, &options.mode)),
            Err(error) => Err(failed(location, error)),
        }
    }

    fn lock(&self) -> io::Result<File> {
        let path = self.root.join(LOCK);
        let lock = || {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        };
        lock().map_err(|error| explain(&path, error))
    }

    fn get(&self, location: Path, options: &GetOptions) -> Result<GetResult> {
        let path = self.path(&location);
        let open = || -> io::Result<_> {
            let file = File::open(&path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "it is a folder"));
            }
            Ok((file, metadata))
        };
        let (file, metadata) = open().map_err(|error| self.unread(&location, &path, error))?;
        let meta = object(location, &metadata);
        options.check_preconditions(&meta)?;
        let range = range(options.range.as_ref(), meta.size);
        let payload = GetResultPayload::Stream(read(Arc::new(file), range.clone()));
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes: Attributes::default(),
            extensions: Extensions::default(),
        })
    }

    /// The objects below a prefix, and the folders in it if the list is not to be recursive.
    fn entries(&self, prefix: &Path, is_recursive: bool) -> Result<ListResult> {
        let mut found = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Extensions::default(),
        };
        let mut open = vec![prefix.clone()];
        while let Some(folder) = open.pop() {
            let path = self.path(&folder);
            let entries = match fs::read_dir(&path) {
                Err(error) => match self.unread(&folder, &path, error) {
                    Error::NotFound { .. } => continue,
                    error => return Err(error),
                },
                Ok(entries) => entries,
            };
            let entries: Vec<_> = entries.collect();
            // After its names were read: each of them is on the disk then.
            if self.writes.load(Relaxed) {
                sync_folder(&path).map_err(|error| failed(&folder, error))?;
            }
            for entry in entries {
                let entry = entry.map_err(|error| failed(&folder, explain(&path, error)))?;
                // No object that was put here has such a name.
                let Some(location) = entry.file_name().to_str().and_then(|name| child(&folder, name)) else {
                    continue;
                };
                match fs::metadata(entry.path()) {
                    Ok(metadata) if metadata.is_file() => found.objects.push(object(location, &metadata)),
                    Ok(metadata) if metadata.is_dir() && is_recursive => open.push(location),
                    Ok(metadata) if metadata.is_dir() => found.common_prefixes.push(location),
                    Ok(_) => {}
                    // Deleted meanwhile, or a link that leads nowhere.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(&location, explain(&entry.path(), error))),
                }
            }
        }
        Ok(found)
    }

    fn delete_one(&self, location: &Path) -> Result<()> {
        let path = self.path(location);
        fs::remove_file(&path).map_err(|error| failed(location, explain(&path, error)))
    }

    /// Gives an object of another folder a second name here, which must be free. An object is never changed, but replaced by
    /// another file. `false` if the file system cannot do that.
    pub(super) async fn link(&self, other: &Self, from: &Path, to: &Path) -> Result<bool> {
        let (source, target) = (other.path(from), self.path(to));
        let (folder, from, to) = (self.clone(), from.clone(), to.clone());
        blocking(move || {
            let make = || {
                folder.make_parent(&target)?;
                folder.settle(target.parent().unwrap_or(&folder.root))
            };
            make().map_err(|error| failed(&to, error))?;
            match fs::hard_link(&source, &target) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(failed(&from, explain(&source, error)));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(&to, &PutMode::Create)),
                Err(_) => return Ok(false),
            }
            let synced = sync_folder(target.parent().unwrap_or(&target));
            synced.map(|()| true).map_err(|error| failed(&to, error))
        })
        .await
    }

    fn copy(&self, from: &Path, to: &Path, mode: CopyMode) -> Result<()> {
        let source = self.path(from);
        let target = self.path(to);
        let open = || File::open(&source).and_then(|file| Ok((file.metadata()?.modified()?, file)));
        let (modified, mut file) = open().map_err(|error| failed(from, explain(&source, error)))?;
        let mut copy = || {
            self.make_parent(&target)?;
            let staged = self.stage()?;
            io::copy(&mut file, &mut &staged.file).map_err(|error| explain(&staged.path, error))?;
            staged.sync_as_of(modified)?;
            staged.publish(&target, mode == CopyMode::Create)
        };
        match copy() {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(taken(to, &PutMode::Create)),
            Err(error) => Err(failed(to, error)),
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (folder, location) = (self.clone(), location.clone());
        blocking(move || folder.put(&location, &payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (folder, location) = (self.clone(), location.clone());
        blocking(move || {
            let staged = folder.stage().map_err(|error| failed(&location, error))?;
            let upload = Upload {
                folder,
                location,
                attributes: options.attributes,
                staged: Some(Arc::new(staged)),
                length: 0,
            };
            Ok(Box::new(upload) as _)
        })
        .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (folder, location) = (self.clone(), location.clone());
        blocking(move || folder.get(location, &options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let folder = self.clone();
        let delete = move |location: Path| {
            let folder = folder.clone();
            blocking(move || folder.delete_one(&location).map(|()| location))
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (folder, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let list = blocking(move || folder.entries(&prefix, true));
        let objects = |found: ListResult| stream::iter(found.objects.into_iter().map(Ok));
        stream::once(list).map_ok(objects).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (folder, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        blocking(move || folder.entries(&prefix, false)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (folder, from, to) = (self.clone(), from.clone(), to.clone());
        blocking(move || folder.copy(&from, &to, options.mode)).await
    }
}

/// An object that comes in parts.
#[derive(Debug)]
struct Upload {
    folder: Folder,
    location: Path,
    attributes: Attributes,
    /// `None` once it is over.
    staged: Option<Arc<Staged>>,
    length: u64,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let staged = self.staged.clone();
        let location = self.location.clone();
        let mut at = self.length;
        self.length += data.content_length() as u64;
        let write = move || {
            let staged = staged.ok_or_else(|| failed(&location, io::Error::other("the upload is over")))?;
            for bytes in &data {
                let written = staged.file.write_all_at(bytes, at);
                written.map_err(|error| failed(&location, explain(&staged.path, error)))?;
                at += bytes.len() as u64;
            }
            Ok(())
        };
        Box::pin(blocking(write))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (folder, location, attributes) = (self.folder.clone(), self.location.clone(), self.attributes.clone());
        let staged = self.staged.take().and_then(Arc::into_inner);
        blocking(move || {
            let complete = || {
                let staged = staged.ok_or_else(|| io::Error::other("a part of the upload is not done"))?;
                let path = folder.path(&location);
                folder.make_parent(&path)?;
                staged.sync(&attributes)?;
                staged.publish(&path, false)
            };
            let e_tag = complete().map_err(|error| failed(&location, error))?;
            Ok(put_result(e_tag.unwrap_or_default()))
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged = None;
        Ok(())
    }
}

/// A file that has no name among the objects yet. Dropped, it is removed.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    fn new(folder: &FsPath) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = format!("{}-{}-{}", process::id(), since.as_nanos(), NEXT.fetch_add(1, Relaxed));
            let path = folder.join(name);
            let file = match OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file.map_err(|error| explain(&path, error))?,
            };
            // A file system without locks has no sweeper either.
            let is_swept = flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
            if !is_swept && file.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
                return Ok(Self { path, file });
            }
        }
    }

    /// Sets the time of the object, which is its timestamp if it has one, and syncs it.
    fn sync(&self, attributes: &Attributes) -> io::Result<()> {
        let key = Attribute::Metadata(TIMESTAMP.into());
        let millis = attributes.get(&key).and_then(|value| timestamp_millis(value));
        let millis = millis.map(|millis| Duration::from_millis(millis.max(0).cast_unsigned()));
        match millis {
            Some(since) => self.sync_as_of(UNIX_EPOCH + since),
            None => self.sync_as_of(self.now()?),
        }
    }

    /// The time by the clock of the file system, which may be another machine's. Its stamps advance by some milliseconds
    /// at a time, too coarse for the version of an object, so the local clock is taken where the two agree.
    fn now(&self) -> io::Result<SystemTime> {
        let (stamp, local) = (self.file.metadata()?.modified()?, SystemTime::now());
        let apart = local.duration_since(stamp).unwrap_or_else(|ahead| ahead.duration());
        Ok(if apart < AGREEMENT { local } else { stamp })
    }

    fn sync_as_of(&self, modified: SystemTime) -> io::Result<()> {
        let sync = || {
            self.file.set_times(FileTimes::new().set_modified(modified))?;
            self.file.sync_all()
        };
        sync().map_err(|error| explain(&self.path, error))
    }

    /// Gives it its name, and returns its version; `None` if it is to be new and the name is taken. The name is on the
    /// disk then, whichever process gave it.
    fn publish(self, path: &FsPath, is_new: bool) -> io::Result<Option<String>> {
        let version = e_tag(&self.file.metadata()?);
        let renamed = if is_new {
            rename_new(&self.path, path)
        } else {
            fs::rename(&self.path, path)
        };
        let is_taken = matches!(&renamed, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
        if !is_taken {
            renamed.map_err(|error| explain(path, error))?;
        } else if let Ok(other) = File::open(path) {
            other.sync_all().map_err(|error| explain(path, error))?;
        }
        sync_folder(path.parent().unwrap_or(path))?;
        Ok((!is_taken).then_some(version))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename the name is free, or another file's: those have other names.
        let _ = fs::remove_file(&self.path);
    }
}

/// Gives a file a name that must be free.
fn rename_new(from: &FsPath, to: &FsPath) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::hard_link(from, to),
        renamed => Ok(renamed?),
    }
}

/// Removes the files of processes that were killed: those that no process has locked.
fn sweep(folder: &FsPath) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let unlocked =
            File::open(entry.path()).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
        if unlocked {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn make_folder(folder: &FsPath) -> io::Result<()> {
    match DirBuilder::new().create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::metadata(folder)?.is_dir() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        },
        made => {
            made?;
            let synced = folder.parent().map_or(Ok(()), sync_folder);
            if synced.is_err() {
                // The next attempt creates it, and syncs it, again.
                let _ = fs::remove_dir(folder);
            }
            synced
        }
    }
}

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(|error| explain(folder, error))
}

/// The version of the object at a path; `None` if there is none.
fn version(path: &FsPath) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(e_tag(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(explain(path, error)),
    }
}

fn e_tag(metadata: &fs::Metadata) -> String {
    let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    format!("\"{:x}-{modified:x}-{:x}\"", metadata.ino(), metadata.size())
}

fn object(location: Path, metadata: &fs::Metadata) -> ObjectMeta {
    let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since.as_secs().cast_signed(), since.subsec_nanos());
    ObjectMeta {
        location,
        last_modified: chrono::DateTime::from_timestamp(seconds, nanos).unwrap_or_default(),
        size: metadata.size(),
        e_tag: Some(e_tag(metadata)),
        version: None,
    }
}

fn child(folder: &Path, name: &str) -> Option<Path> {
    let parts = folder.as_ref().to_owned();
    let parts = if parts.is_empty() {
        name.to_owned()
    } else {
        format!("{parts}/{name}")
    };
    Path::parse(parts).ok()
}

fn range(range: Option<&GetRange>, size: u64) -> Range<u64> {
    match range {
        None => 0..size,
        Some(GetRange::Bounded(range)) => range.start.min(size)..range.end.min(size),
        Some(GetRange::Offset(from)) => (*from).min(size)..size,
        Some(GetRange::Suffix(last)) => size.saturating_sub(*last)..size,
    }
}

fn read(file: Arc<File>, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let next = move |left: Range<u64>| {
        let file = Arc::clone(&file);
        let length = PIECE.min(left.end - left.start);
        async move {
            if length == 0 {
                return Ok(None);
            }
            let read = move || {
                let mut piece = vec![0; usize::try_from(length).expect("a piece fits into memory")];
                let read = file.read_exact_at(&mut piece, left.start);
                read.map_err(|source| Error::Generic {
                    store: "folder",
                    source: source.into(),
                })?;
                Ok::<_, Error>((Bytes::from(piece), left.start + length..left.end))
            };
            blocking(read).await.map(Some)
        }
    };
    stream::try_unfold(range, next).boxed()
}

/// On a thread for blocking work, if the caller is a task.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime
            .spawn_blocking(Closures::counted(work))
            .await
            .unwrap_or_else(|ended| {
                let source = Box::new(ended);
                Err(Error::Generic {
                    store: "folder",
                    source,
                })
            }),
        Err(_) => work(),
    }
}

fn put_result(e_tag: String) -> PutResult {
    PutResult {
        e_tag: Some(e_tag),
        version: None,
        extensions: Extensions::default(),
    }
}

/// The condition of a write was not met.
fn taken(location: &Path, mode: &PutMode) -> Error {
    let path = location.to_string();
    match mode {
        PutMode::Update(UpdateVersion { .. }) => Error::Precondition {
            path,
            source: "another version is there".into(),
        },
        _ => Error::AlreadyExists {
            path,
            source: "the name is taken".into(),
        },
    }
}

/// The error with the path, and what to do about it.
fn explain(path: &FsPath, error: io::Error) -> io::Error {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    let advice = match error.kind() {
        NotADirectory => {
            let file = path.ancestors().find(|above| above.is_file());
            file.map_or(String::new(), |file| {
                format!("; {} is a file where a folder must be", file.display())
            })
        }
        PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            format!("; the user of this process (uid {user}) needs the right to read and write there")
        }
        ReadOnlyFilesystem => "; mount the file system for writing".to_owned(),
        StorageFull => "; free disk space there".to_owned(),
        _ => String::new(),
    };
    io::Error::new(error.kind(), format!("{}: {error}{advice}", path.display()))
}

fn failed(location: &Path, error: io::Error) -> Error {
    let path = location.to_string();
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            path,
            source: error.into(),
        },
        _ => Error::Generic {
            store: "folder",
            source: error.into(),
        },
    }
}
