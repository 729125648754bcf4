//! Where a replica is kept: a folder, a bucket or memory behind one type, with the keys of Litestream's layouts.
//!
//! All methods are futures, for the thread of `replica/runtime.rs`. A `Storage` has no state but its place; clones share
//! the connections of the object store.
//!
//! Every request has a time limit, by its size, and an error after that. A write whose answer was lost, or did not come
//! in time, may have been made: only the caller can find out, by comparing what is there with what it wrote.

#[cfg_attr(
    not(all(feature = "s3", feature = "gcs", feature = "azure")),
    allow(
        dead_code,
        unused_imports,
        unused_variables,
        reason = "for buckets of a service that is not compiled in"
    )
)]
mod bucket;
mod failure;
mod folder;
mod layout;
mod listing;
mod reader;
mod requests;
#[cfg_attr(
    not(all(feature = "s3", feature = "gcs", feature = "azure")),
    allow(
        dead_code,
        unused_imports,
        unused_variables,
        reason = "for buckets of a service that is not compiled in"
    )
)]
mod url;

use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, ObjectMeta, ObjectStore, PutOptions, UpdateVersion};

pub use self::bucket::Environment;
use self::bucket::{Access, Bucket, Parts};
pub use self::failure::{FailureKind, StorageError};
use self::folder::Folder;
pub use self::layout::{Layout, Txids};
pub(crate) use self::listing::{add_unlisted, all_files, gaps, newest};
pub use self::reader::ObjectReader;
use self::requests::Loaded;
use self::url::{Place, Service};
use crate::replica::runtime;
use crate::runtime::random;
use crate::runtime::sync::Arc;

/// A result of the storage.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// The metadata that has a file's timestamp: `x-amz-meta-litestream-timestamp` on S3.
const TIMESTAMP: &str = "litestream-timestamp";

/// Who owns the replica, below the prefix.
const OWNER: &str = "larder/owner.json";

/// What the probe creates, below the prefix.
const PROBE: &str = "larder/probe";

/// The contents of that.
const PROBED: Bytes = Bytes::from_static(b"larder\n");

/// The place of files that are not complete yet, below the prefix.
const UNFINISHED: &str = "larder/tmp";

/// The metadata of Azure are identifiers, without hyphens.
const AZURE_TIMESTAMP: &str = "litestreamtimestamp";

/// A bucket copies no larger object at once.
const LARGEST_COPY: u64 = 5 << 30;

/// A larger file goes up in parts.
const LARGE: u64 = 64 << 20;

/// The place of one replica.
#[derive(Clone)]
pub struct Storage {
    place: Arc<Located>,
}

#[derive(Clone)]
struct Located {
    store: Arc<dyn ObjectStore>,
    /// The client for writes with a condition, which repeats none.
    conditional: Arc<dyn ObjectStore>,
    /// Large files get their keys by it, if it knows how.
    parts: Option<Parts>,
    prefix: Path,
    layout: Layout,
    /// Without its query.
    url: String,
    /// What errors are explained with, if it is a bucket.
    access: Option<Access>,
    /// If it is one.
    folder: Option<Folder>,
    timestamp: &'static str,
    patience: Duration,
    is_unconditional: bool,
    /// Whether an object that cannot be there was looked for, and not found.
    has_told_apart: Arc<AtomicBool>,
}

/// The contents of a file that is to be written.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// A local file. Over 64 MiB it goes up in parts, and a part of it is in memory at a time.
    File(Arc<File>),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

impl From<Arc<File>> for Body {
    fn from(file: Arc<File>) -> Self {
        Self::File(file)
    }
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

impl Version {
    /// A version that the object does not have.
    fn other_than(version: &Self) -> Self {
        let digit = |c: char| match c {
            '0' => '1',
            c if c.is_ascii_hexdigit() => '0',
            c => c,
        };
        let other = |tag: &Option<String>| tag.as_ref().map(|tag| tag.chars().map(digit).collect());
        Self(UpdateVersion {
            e_tag: other(&version.0.e_tag),
            version: other(&version.0.version),
        })
    }
}

impl Located {
    fn new(store: Arc<dyn ObjectStore>, layout: Layout, url: String) -> Self {
        Self {
            conditional: Arc::clone(&store),
            store,
            parts: None,
            prefix: Path::default(),
            layout,
            url,
            access: None,
            folder: None,
            timestamp: TIMESTAMP,
            patience: Environment::PATIENCE,
            is_unconditional: false,
            has_told_apart: Arc::default(),
        }
    }
}

impl Storage {
    /// The storage of a URL, or of the path of a folder. Makes no request.
    ///
    /// # Errors
    ///
    /// The URL cannot be used.
    pub fn connect(url: &str) -> Result<Self> {
        Self::connect_in(url, &Environment::of_process())
    }

    /// As [`connect`](Self::connect), in an environment other than this process's.
    ///
    /// # Errors
    ///
    /// The URL cannot be used.
    pub fn connect_in(url: &str, environment: &Environment) -> Result<Self> {
        let mut place = match url::parse(url)? {
            Place::Folder(path) => {
                let folder = Folder::new(path);
                Located {
                    folder: Some(folder.clone()),
                    ..Located::new(Arc::new(folder), Layout::Decimal, url::shown(url))
                }
            }
            Place::Memory(name) => Located::new(url::memory(&name), Layout::Decimal, url::shown(url)),
            Place::Bucket(url) => {
                let Bucket {
                    store,
                    conditional,
                    parts,
                    access,
                } = bucket::connect(&url, environment)?;
                let is_s3 = url.service == Service::S3;
                let layout = if is_s3 { Layout::Hex } else { Layout::Decimal };
                let is_azure = url.service == Service::Azure;
                Located {
                    conditional,
                    parts,
                    prefix: url.prefix,
                    access: Some(access),
                    timestamp: if is_azure { AZURE_TIMESTAMP } else { TIMESTAMP },
                    ..Located::new(store, layout, url.shown)
                }
            }
        };
        place.patience = environment.patience;
        Ok(Self { place: place.into() })
    }

    /// Puts a store of the caller's behind `memory:NAME`, from the next connection on.
    pub fn set_memory(name: &str, store: Arc<dyn ObjectStore>) {
        url::set_memory(name, store);
    }

    /// A store of the caller's.
    pub fn on(store: Arc<dyn ObjectStore>, layout: Layout) -> Self {
        let url = store.to_string();
        let place = Arc::new(Located::new(store, layout, url));
        Self { place }
    }

    /// Does without conditional writes: a key is looked up before it is written. Two primaries are then not told apart.
    #[must_use]
    pub fn unconditional(&self) -> Self {
        let place = Located {
            is_unconditional: true,
            ..Located::clone(&self.place)
        };
        Self { place: place.into() }
    }

    /// A URL as it may be shown: without what may be secret.
    pub(crate) fn shown(url: &str) -> String {
        url::shown(url)
    }

    /// Whether it is a folder.
    pub(crate) fn is_folder(&self) -> bool {
        self.place.folder.is_some()
    }

    /// Whether both are in one bucket.
    pub(crate) fn is_in_bucket_of(&self, other: &Self) -> bool {
        let bucket = |storage: &Self| storage.place.access.as_ref().map(|access| access.target.clone());
        bucket(self).is_some() && bucket(self) == bucket(other)
    }

    /// Whether both are one place, by whatever spelling of its URL: a path through a symbolic link, an endpoint that a
    /// variable names. Two names of one server are two places.
    pub(crate) fn is_place_of(&self, there: &Self) -> bool {
        let (one, other) = (&self.place, &there.place);
        match (&one.folder, &other.folder) {
            (Some(one), Some(other)) => one.is_place_of(other),
            (None, None) if Arc::ptr_eq(&one.store, &other.store) => one.prefix == other.prefix,
            _ => one.prefix == other.prefix && self.is_in_bucket_of(there),
        }
    }

    /// Whether it is that folder, or in it.
    pub(crate) fn is_within(&self, folder: &std::path::Path) -> bool {
        let own = self.place.folder.as_ref();
        own.is_some_and(|own| own.is_within(folder))
    }

    /// Whether writes have their conditions.
    pub fn is_conditional(&self) -> bool {
        !self.place.is_unconditional
    }

    /// The files of a level, by their transactions. Other objects in its folder are left out.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn list(&self, level: u8) -> Result<Vec<FileInfo>> {
        let Located { store, layout, .. } = &*self.place;
        let folder = layout.level(&self.place.prefix, level);
        let what = || format!("level {level} could not be listed");
        let mut objects = store.list(Some(&folder));
        let mut files = Vec::new();
        while let Some(object) = self.in_time(0, what, objects.next()).await? {
            match object {
                Ok(object) => files.extend(file_info(&folder, level, &object)),
                // A level without files is no error, so it is the bucket that is missing.
                Err(error @ object_store::Error::NotFound { .. }) => {
                    let (_, reason) = failure::explain(&error, self.place.access.as_ref());
                    return Err(self.failure(what(), FailureKind::Permanent, reason));
                }
                Err(error) => return Err(self.failed(what(), error)),
            }
        }
        files.sort();
        Ok(files)
    }

    /// Whether there is such a file.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn has(&self, level: u8, txids: Txids) -> Result<bool> {
        self.exists(&self.key(level, txids)).await
    }

    /// A file by its name, whether a list shows it or not. `None` if it is not there.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn find(&self, level: u8, txids: Txids) -> Result<Option<FileInfo>> {
        let found = match self.head(&self.key(level, txids)).await {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        self.refuse_all_alike().await?;
        Ok(Some(FileInfo {
            level,
            txids,
            size: found.meta.size,
            modified: modified(&found.meta),
        }))
    }

    /// Refuses a server that has every object it is asked for: the console of a storage, or a website that answers each
    /// path with its first page. Looking for the newest file would not end there.
    async fn refuse_all_alike(&self) -> Result<()> {
        let Some(access) = &self.place.access else {
            return Ok(());
        };
        if self.place.has_told_apart.load(Relaxed) {
            return Ok(());
        }
        let never = self.key(0, Txids::one(u64::MAX));
        if self.exists(&never).await? {
            let told = format!("it has each object that it is asked for, also {never}");
            let what = "cannot be used".to_owned();
            return Err(self.failure(what, FailureKind::Permanent, failure::no_storage(&access.target, &told)));
        }
        self.place.has_told_apart.store(true, Relaxed);
        Ok(())
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
        let found = self.open(&key, GetOptions::default()).await?;
        let size = found.meta.size;
        ObjectReader::new(size, self.pieces(key, found)).map_err(|error| self.no_thread(error))
    }

    /// Creates a file, or finds that its key is taken. It never overwrites.
    ///
    /// # Errors
    ///
    /// The storage fails. Whether the file is there is then not known.
    pub async fn create(&self, level: u8, txids: Txids, timestamp_ms: i64, body: impl Into<Body>) -> Result<Created> {
        let key = self.key(level, txids);
        match self.load(&key, body.into()).await? {
            Loaded::Whole(bytes) => self.create_object(&key, bytes, self.attributes(timestamp_ms)).await,
            Loaded::Large(file, size) => self.create_large(&key, timestamp_ms, &file, size).await,
        }
    }

    /// Has the storage copy a file of another replica, whose key is free here, without sending it: within a bucket, or by a
    /// link from folder to folder. Returns whether it could.
    ///
    /// # Errors
    ///
    /// There is no such file there, or the key is taken.
    pub(crate) async fn copy_from(&self, other: &Self, file: &FileInfo) -> Result<bool> {
        let (from, to) = (other.key(file.level, file.txids), self.key(file.level, file.txids));
        let copied = if let (Some(there), Some(here)) = (&other.place.folder, &self.place.folder) {
            here.link(there, &from, &to).await
        } else if self.is_in_bucket_of(other) && file.size <= LARGEST_COPY {
            self.copy(&from, &to).await?.map(|()| true)
        } else {
            return Ok(false);
        };
        match copied {
            Ok(copied) => Ok(copied),
            Err(error @ object_store::Error::NotFound { .. }) => Err(other.unread(&from, error)),
            Err(error @ object_store::Error::AlreadyExists { .. }) => {
                Err(self.failed(format!("{to} could not be written"), error))
            }
            // It may be read, and not copied.
            Err(_) => Ok(false),
        }
    }

    /// The name of something that is in this place, if anything is.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub(crate) async fn anything(&self) -> Result<Option<String>> {
        let own = self.inside("larder");
        let listed = self.list_folder(&self.place.prefix).await?;
        let others = listed.common_prefixes.into_iter().filter(|folder| *folder != own);
        let mut folders: Vec<_> = others.collect();
        let mut objects = listed.objects;
        objects.extend(self.list_folder(&own).await?.objects);
        let passing = [self.inside(PROBE), self.inside("larder/lock")];
        objects.retain(|object| !passing.contains(&object.location));
        while objects.is_empty()
            && let Some(folder) = folders.pop()
        {
            let listed = self.list_folder(&folder).await?;
            folders.extend(listed.common_prefixes);
            objects = listed.objects;
        }
        Ok(objects.first().map(|object| object.location.to_string()))
    }

    /// Deletes the object that says who owns the replica.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub(crate) async fn delete_owner(&self) -> Result<()> {
        self.delete_object(&self.inside(OWNER)).await
    }

    /// Deletes what uploads have left that did not come to their end, if it was written before that, by the storage's
    /// clock. Parts of an upload to S3 are no objects: a rule of the bucket's lifecycle deletes them.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn delete_unfinished(&self, before: SystemTime) -> Result<()> {
        let folder = self.inside(UNFINISHED);
        let what = || format!("{folder} could not be listed");
        let list = self.place.store.list(Some(&folder)).try_collect::<Vec<_>>();
        let objects = self
            .in_time(0, what, list)
            .await?
            .map_err(|error| self.failed(what(), error))?;
        for object in objects.iter().filter(|object| modified(object) < before) {
            self.delete_object(&object.location).await?;
        }
        Ok(())
    }

    /// Writes a file, over one that may be there.
    ///
    /// # Errors
    ///
    /// The storage fails. Whether the file is there is then not known.
    pub async fn put(&self, level: u8, txids: Txids, timestamp_ms: i64, body: impl Into<Body>) -> Result<()> {
        let key = self.key(level, txids);
        match self.load(&key, body.into()).await? {
            Loaded::Whole(bytes) => {
                let options = PutOptions::from(self.attributes(timestamp_ms));
                self.overwrite(&key, bytes, options).await.map(drop)
            }
            Loaded::Large(file, size) => self.put_in_parts(&key, timestamp_ms, &file, size).await,
        }
    }

    /// Deletes a file. One that is not there counts as deleted.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn delete(&self, level: u8, txids: Txids) -> Result<()> {
        self.delete_object(&self.key(level, txids)).await
    }

    /// The timestamp of a file in milliseconds since 1970: its metadata, or when it was written.
    ///
    /// # Errors
    ///
    /// There is no such file, or the storage fails.
    pub async fn timestamp(&self, level: u8, txids: Txids) -> Result<i64> {
        let key = self.key(level, txids);
        let found = self.head(&key).await?;
        let metadata = found.attributes.get(&Attribute::Metadata(self.place.timestamp.into()));
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

    /// Tries whether the storage keeps the conditions of writes, with an object of a few bytes, and returns the time by
    /// the storage's clock.
    ///
    /// # Errors
    ///
    /// It ignores a condition, which the error names; or it fails.
    pub async fn probe(&self) -> Result<SystemTime> {
        if self.place.is_unconditional {
            return self.time().await;
        }
        let key = self.inside(PROBE);
        let create = || self.create_object(&key, PROBED, Attributes::default());
        if create().await? == Created::New && create().await? == Created::New {
            return Err(self.ignores("If-None-Match", "a second Create of one key overwrote the first"));
        }
        self.probe_versions(&key, PROBED).await?;
        Ok(modified(&self.head(&key).await?.meta))
    }

    /// The time by the storage's clock: that of an object of a few bytes, which it writes.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn time(&self) -> Result<SystemTime> {
        let key = self.inside(PROBE);
        self.overwrite(&key, PROBED, PutOptions::default()).await?;
        Ok(modified(&self.head(&key).await?.meta))
    }

    /// Whether Litestream 0.3 has a replica here: it kept its files in a folder `generations`.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub async fn has_generations(&self) -> Result<bool> {
        let listed = self.list_folder(&self.inside("generations")).await?;
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

    fn attributes(&self, timestamp_ms: i64) -> Attributes {
        let time = chrono::DateTime::from_timestamp_millis(timestamp_ms).unwrap_or_default();
        let time = time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
        Attributes::from_iter([(Attribute::Metadata(self.place.timestamp.into()), time)])
    }
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
    Some(FileInfo {
        level,
        txids: Txids::parse(name.as_ref())?,
        size: object.size,
        modified: modified(object),
    })
}

fn modified(object: &ObjectMeta) -> SystemTime {
    let since = object.last_modified.timestamp_millis().max(0).cast_unsigned();
    UNIX_EPOCH + Duration::from_millis(since)
}

/// A name that no other upload has.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}-{}", random::number(), NEXT.fetch_add(1, Relaxed))
}

/// Parses a timestamp of RFC 3339 into milliseconds since 1970.
fn timestamp_millis(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.timestamp_millis())
}

#[cfg(all(test, feature = "s3", feature = "gcs"))]
mod tests {
    use super::*;

    #[test]
    fn place_is_one_by_each_spelling_of_its_url() {
        let endpoint = ("AWS_ENDPOINT_URL".to_owned(), "http://127.0.0.1:9000/".to_owned());
        let environment = Environment {
            variables: vec![endpoint],
            patience: Environment::PATIENCE,
        };
        let at = |url: &str| Storage::connect_in(url, &environment).unwrap();
        let own = at("s3://bucket/app");
        for same in [
            "s3://bucket//app/",
            "s3://bucket/app?endpoint=127.0.0.1:9000",
            "s3://bucket/app?endpoint=http%3A%2F%2F127.0.0.1:9000&region=eu-west-1",
            "s3://bucket/ap%70?partSize=5",
        ] {
            assert!(own.is_place_of(&at(same)), "{same}");
        }
        for other in [
            "s3://bucket/app2",
            "s3://bucket2/app",
            "s3://bucket/app?endpoint=127.0.0.1:9001",
            "gs://bucket/app",
            "/bucket/app",
            "memory:bucket/app",
        ] {
            assert!(!own.is_place_of(&at(other)), "{other}");
        }
        assert!(at("memory:a").is_place_of(&at("memory:a")) && !at("memory:a").is_place_of(&at("memory:b")));
        let google = at("gs://bucket/app?endpoint=http://one");
        assert!(!google.is_place_of(&at("gs://bucket/app?endpoint=http://two")));
        assert!(!google.is_in_bucket_of(&at("gs://bucket/b?endpoint=http://two")));
    }
}
