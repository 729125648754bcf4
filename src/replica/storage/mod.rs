//! Where a replica is kept: a folder, a bucket or memory behind one type, with the keys of Litestream's layouts.
//!
//! All methods are futures, for the thread of `replica/runtime.rs`. A `Storage` has no state but its place; clones share
//! the connections of the object store.

mod failure;
mod folder;
mod layout;
mod reader;
mod url;

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion,
};

pub use self::failure::{FailureKind, StorageError};
use self::folder::Folder;
pub use self::layout::{Layout, Txids};
pub use self::reader::ObjectReader;
use self::url::Place;
use crate::replica::runtime;
use crate::runtime::sync::Arc;

/// A result of the storage.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// The metadata that has a file's timestamp: `x-amz-meta-litestream-timestamp` on S3.
const TIMESTAMP: &str = "litestream-timestamp";

/// Who owns the replica, below the prefix.
const OWNER: &str = "larder/owner.json";

/// What the probe creates, below the prefix.
const PROBE: &str = "larder/probe";

/// The place of one replica.
#[derive(Clone)]
pub struct Storage {
    place: Arc<Located>,
}

struct Located {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    layout: Layout,
    /// Without its query.
    url: String,
}

/// A file of a level, as a list shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileInfo {
    /// The level, 0 for single transactions, 9 for snapshots.
    pub level: u8,
    /// The transactions in it.
    pub txids: Txids,
    /// The size in bytes.
    pub size: u64,
    /// When it was written, by the storage's clock; in a folder the timestamp of its last transaction.
    pub modified: SystemTime,
}

/// What became of a Create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    New,
    /// The key was taken. Nothing was written.
    Exists,
}

/// The version of an object, for a write that must not lose another one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(UpdateVersion);

/// What became of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there now, as this version.
    Done(Version),
    /// Another version is there. Nothing was written.
    Changed,
}

impl Storage {
    /// The storage of a URL, or of the path of a folder. Makes no request.
    ///
    /// # Errors
    ///
    /// The URL cannot be used.
    pub fn connect(url: &str) -> Result<Self> {
        match url::parse(url)? {
            Place::Folder(path) => {
                let shown = url::shown(url);
                Ok(Self::located(
                    Arc::new(Folder::new(path)),
                    Path::default(),
                    Layout::Decimal,
                    shown,
                ))
            }
            Place::Memory(name) => {
                let store = url::memory(&name);
                Ok(Self::located(store, Path::default(), Layout::Decimal, url::shown(url)))
            }
        }
    }

    /// A store of the caller's.
    pub fn on(store: Arc<dyn ObjectStore>, layout: Layout) -> Self {
        let url = store.to_string();
        Self::located(store, Path::default(), layout, url)
    }

    fn located(store: Arc<dyn ObjectStore>, prefix: Path, layout: Layout, url: String) -> Self {
        let place = Arc::new(Located {
            store,
            prefix,
            layout,
            url,
        });
        Self { place }
    }

    /// The files of a level, by their transactions. Other objects in its folder are left out.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn list(&self, level: u8) -> Result<Vec<FileInfo>> {
        let Located { store, layout, .. } = &*self.place;
        let folder = layout.level(&self.place.prefix, level);
        let objects: Vec<_> = store
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(|error| self.failed(format!("level {level} could not be listed"), error))?;
        let mut files: Vec<_> = objects
            .iter()
            .filter_map(|object| file_info(&folder, level, object))
            .collect();
        files.sort();
        Ok(files)
    }

    /// A whole file.
    ///
    /// # Errors
    ///
    /// There is no such file, or the storage fails.
    pub async fn get(&self, level: u8, txids: Txids) -> Result<Bytes> {
        self.get_object(&self.key(level, txids)).await.map(|(bytes, _)| bytes)
    }

    /// A file as a stream, which holds at most 2 MiB of it in memory. The stream blocks its caller, which must not be
    /// the thread `larder-replica`.
    ///
    /// # Errors
    ///
    /// There is no such file, or the storage fails.
    pub async fn reader(&self, level: u8, txids: Txids) -> Result<ObjectReader> {
        let key = self.key(level, txids);
        let found = self
            .place
            .store
            .get(&key)
            .await
            .map_err(|error| self.unread(&key, error))?;
        let size = found.meta.size;
        let storage = self.clone();
        let stream = found
            .into_stream()
            .map_err(move |error| storage.unread(&key, error))
            .boxed();
        ObjectReader::new(size, stream).map_err(|error| self.no_thread(error))
    }

    /// Creates a file, or finds that its key is taken. It never overwrites.
    ///
    /// # Errors
    ///
    /// The storage fails. Whether the file is there is then not known.
    pub async fn create(&self, level: u8, txids: Txids, timestamp_ms: i64, bytes: Bytes) -> Result<Created> {
        let key = self.key(level, txids);
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: attributes(timestamp_ms),
            ..PutOptions::default()
        };
        self.create_object(&key, bytes, options).await
    }

    /// Writes a file, over one that may be there.
    ///
    /// # Errors
    ///
    /// The storage fails. Whether the file is there is then not known.
    pub async fn put(&self, level: u8, txids: Txids, timestamp_ms: i64, bytes: Bytes) -> Result<()> {
        let key = self.key(level, txids);
        let options = PutOptions::from(attributes(timestamp_ms));
        let put = self.place.store.put_opts(&key, bytes.into(), options).await;
        put.map(drop).map_err(|error| self.unwritten(&key, error))
    }

    /// Deletes a file. One that is not there counts as deleted.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn delete(&self, level: u8, txids: Txids) -> Result<()> {
        let key = self.key(level, txids);
        match self.place.store.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(format!("{key} could not be deleted"), error)),
        }
    }

    /// The timestamp of a file in milliseconds since 1970: its metadata, or when it was written.
    ///
    /// # Errors
    ///
    /// There is no such file, or the storage fails.
    pub async fn timestamp(&self, level: u8, txids: Txids) -> Result<i64> {
        let key = self.key(level, txids);
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let found = self.place.store.get_opts(&key, head).await;
        let found = found.map_err(|error| self.unread(&key, error))?;
        let metadata = found.attributes.get(&Attribute::Metadata(TIMESTAMP.into()));
        let timestamp = metadata.and_then(|value| timestamp_millis(value));
        Ok(timestamp.unwrap_or_else(|| found.meta.last_modified.timestamp_millis()))
    }

    /// The object that says who owns the replica, and its version.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn read_owner(&self) -> Result<Option<(Bytes, Version)>> {
        match self.get_object(&self.inside(OWNER)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the object that says who owns the replica, if it is still of this version; if it is still not there, for
    /// `None`.
    ///
    /// # Errors
    ///
    /// The storage fails. Whether it was written is then not known.
    pub async fn write_owner(&self, bytes: Bytes, expected: Option<Version>) -> Result<Written> {
        self.write_object(&self.inside(OWNER), bytes, expected).await
    }

    /// Tries whether the storage keeps the conditions of writes, with an object of a few bytes.
    ///
    /// # Errors
    ///
    /// It ignores one, which the error names; or it fails.
    pub async fn probe(&self) -> Result<()> {
        let key = self.inside(PROBE);
        let contents = || Bytes::from_static(b"larder\n");
        let create = || self.create_object(&key, contents(), PutOptions::from(PutMode::Create));
        if create().await? == Created::New && create().await? == Created::New {
            return Err(self.ignores("If-None-Match", "a second Create of one key overwrote the first"));
        }
        let (_, old) = self.get_object(&key).await?;
        let write = |expected: &Version| self.write_object(&key, contents(), Some(expected.clone()));
        match write(&old).await? {
            // Another process probes at the same time.
            Written::Changed => Ok(()),
            // A storage may give the same contents the same version.
            Written::Done(new) if new == old => Ok(()),
            Written::Done(_) if write(&old).await? == Written::Changed => Ok(()),
            Written::Done(_) => Err(self.ignores("If-Match", "a write over an old version was taken")),
        }
    }

    async fn get_object(&self, key: &Path) -> Result<(Bytes, Version)> {
        let get = async {
            let found = self.place.store.get(key).await?;
            let version = UpdateVersion {
                e_tag: found.meta.e_tag.clone(),
                version: found.meta.version.clone(),
            };
            let size = found.meta.size;
            Ok((found.bytes().await?, version, size))
        };
        let (bytes, version, size) = get.await.map_err(|error| self.unread(key, error))?;
        if bytes.len() as u64 != size {
            let reason = format!("the storage sent {} of {size} bytes", bytes.len());
            return Err(self.failure(format!("{key} could not be read"), FailureKind::Transient, reason));
        }
        Ok((bytes, Version(version)))
    }

    async fn create_object(&self, key: &Path, bytes: Bytes, options: PutOptions) -> Result<Created> {
        match self.place.store.put_opts(key, bytes.into(), options).await {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Exists),
            Err(error) => Err(self.unwritten(key, error)),
        }
    }

    async fn write_object(&self, key: &Path, bytes: Bytes, expected: Option<Version>) -> Result<Written> {
        use object_store::Error::{AlreadyExists, NotFound, Precondition};
        let mode = expected.map_or(PutMode::Create, |version| PutMode::Update(version.0));
        match self.place.store.put_opts(key, bytes.into(), mode.into()).await {
            Ok(written) => Ok(Written::Done(Version(written.into()))),
            Err(AlreadyExists { .. } | Precondition { .. } | NotFound { .. }) => Ok(Written::Changed),
            Err(error) => Err(self.unwritten(key, error)),
        }
    }

    /// Whether Litestream 0.3 has a replica here: it kept its files in a folder `generations`.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn has_generations(&self) -> Result<bool> {
        let folder = self.inside("generations");
        let listed = self.place.store.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|error| self.failed("its folder generations could not be listed".into(), error))?;
        Ok(!listed.common_prefixes.is_empty() || !listed.objects.is_empty())
    }

    /// A file by the name that people look for: the URL, then the key.
    pub fn name(&self, level: u8, txids: Txids) -> String {
        let inside = self.place.layout.file(&Path::default(), level, txids);
        format!("{}/{inside}", self.place.url.trim_end_matches('/'))
    }

    fn key(&self, level: u8, txids: Txids) -> Path {
        self.place.layout.file(&self.place.prefix, level, txids)
    }

    fn inside(&self, key: &'static str) -> Path {
        key.split('/')
            .fold(self.place.prefix.clone(), |path, part| path.join(part))
    }

    fn unread(&self, key: &Path, error: object_store::Error) -> StorageError {
        self.failed(format!("{key} could not be read"), error)
    }

    fn unwritten(&self, key: &Path, error: object_store::Error) -> StorageError {
        self.failed(format!("{key} could not be written"), error)
    }

    fn failed(&self, what: String, error: object_store::Error) -> StorageError {
        let (kind, reason) = failure::explain(&error);
        self.failure(what, kind, reason)
    }

    fn ignores(&self, condition: &str, seen: &str) -> StorageError {
        let what = format!("it ignores the condition {condition}");
        let reason = format!(
            "{seen}, so two primaries could both write; use a storage that keeps conditions, or call \
             ReplicaOptions::unconditional(true) where only one process ever replicates to it"
        );
        self.failure(what, FailureKind::Permanent, reason)
    }

    pub(in crate::replica) fn no_thread(&self, error: io::Error) -> StorageError {
        let reason = format!("the operating system refused a thread: {error}");
        self.failure("no request was made".into(), FailureKind::Transient, reason)
    }

    fn failure(&self, what: String, kind: FailureKind, reason: String) -> StorageError {
        StorageError {
            url: self.to_string(),
            what,
            reason,
            kind,
            source: None,
        }
    }
}

/// The levels that Litestream may write, from the finest to the snapshots.
const LEVELS: std::ops::RangeInclusive<u8> = 0..=9;

/// Lists the files of all levels. What is moved up meanwhile is found above, since a level is listed after those below it.
pub(crate) async fn all_files(storage: &Storage) -> Result<Vec<FileInfo>> {
    let mut files = Vec::new();
    for level in LEVELS {
        files.extend(storage.list(level).await?);
    }
    Ok(files)
}

/// Makes a request of this storage, and waits for it.
pub(crate) fn request<T: Send + 'static>(
    storage: &Storage,
    request: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    runtime::wait(request).unwrap_or_else(|error| Err(storage.no_thread(error)))
}

/// The URL, without its query.
impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place.url)
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Located { url, layout, .. } = &*self.place;
        f.debug_struct("Storage")
            .field("url", url)
            .field("layout", layout)
            .finish()
    }
}

fn file_info(folder: &Path, level: u8, object: &ObjectMeta) -> Option<FileInfo> {
    let mut parts = object.location.prefix_match(folder)?;
    let name = parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let since = Duration::from_millis(object.last_modified.timestamp_millis().max(0).cast_unsigned());
    Some(FileInfo {
        level,
        txids: Txids::parse(name.as_ref())?,
        size: object.size,
        modified: UNIX_EPOCH + since,
    })
}

fn attributes(timestamp_ms: i64) -> Attributes {
    let time = chrono::DateTime::from_timestamp_millis(timestamp_ms).unwrap_or_default();
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    Attributes::from_iter([(Attribute::Metadata(TIMESTAMP.into()), time)])
}

/// Parses a timestamp of RFC 3339 into milliseconds since 1970.
fn timestamp_millis(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.timestamp_millis())
}
