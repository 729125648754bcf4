//! Single requests: each in time, with its condition, and an error that names the object.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, GetOptions, GetResult, ListResult, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutResult, UpdateVersion,
};

use super::bucket::Parts;
use super::failure::{self, FailureKind, StorageError};
use super::{Body, Created, LARGE, OWNER, Result, Storage, Txids, UNFINISHED, Version, Written, unique};
use crate::replica::runtime;
use crate::runtime::sync::Arc;

/// Bytes that a part of a large file has at least.
const PART: u64 = 16 << 20;

/// The parts that an upload may have, on S3 and Google Cloud Storage.
const MOST_PARTS: u64 = 10_000;

/// The slowest connection whose requests are in time, in bytes a second, beside [`Environment::patience`].
const SLOWEST: u64 = 128 << 10;

/// The longest time in which a bucket puts parts together, or copies within itself.
const ASSEMBLY: Duration = Duration::from_secs(600);

/// How often a write is sent again that met another one which is under way.
const CONFLICTS: u32 = 5;

impl Storage {
    pub(super) async fn probe_versions(&self, key: &Path, contents: Bytes) -> Result<()> {
        let (_, old) = self.get_object(key).await?;
        let write = |expected: &Version| self.write_object(key, contents.clone(), Some(expected.clone()));
        match write(&old).await? {
            // Another process probes at the same time.
            Written::Changed => Ok(()),
            // The version of these contents, in most buckets. Another one must be refused.
            Written::Done(new) if new == old => match write(&Version::other_than(&old)).await? {
                Written::Changed => Ok(()),
                Written::Done(_) => Err(self.ignores("If-Match", "a write over a version that never was, was taken")),
            },
            Written::Done(_) if write(&old).await? == Written::Changed => Ok(()),
            Written::Done(_) => Err(self.ignores("If-Match", "a write over an old version was taken")),
        }
    }

    pub(super) async fn open(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let get = self.in_time(
            0,
            || format!("{key} could not be read"),
            self.place.store.get_opts(key, options),
        );
        get.await?.map_err(|error| self.unread(key, error))
    }

    /// The body of an object, each piece in time.
    pub(super) fn pieces(&self, key: Path, found: GetResult) -> BoxStream<'static, Result<Bytes>> {
        let storage = self.clone();
        let next = move |mut stream: BoxStream<'static, object_store::Result<Bytes>>| {
            let (storage, key) = (storage.clone(), key.clone());
            async move {
                let what = || format!("{key} could not be read");
                match storage.in_time(0, what, stream.next()).await? {
                    Some(Ok(piece)) => Ok(Some((piece, stream))),
                    Some(Err(error)) => Err(storage.unread(&key, error)),
                    None => Ok(None),
                }
            }
        };
        stream::try_unfold(found.into_stream(), next).boxed()
    }

    pub(super) async fn get_object(&self, key: &Path) -> Result<(Bytes, Version)> {
        let found = self.open(key, GetOptions::default()).await?;
        let version = Version(UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        });
        let size = found.meta.size;
        let pieces: Vec<Bytes> = self.pieces(key.clone(), found).try_collect().await?;
        let bytes = match <[Bytes; 1]>::try_from(pieces) {
            Ok([whole]) => whole,
            Err(pieces) => pieces.concat().into(),
        };
        if bytes.len() as u64 != size {
            let reason = format!("the storage sent {} of {size} bytes", bytes.len());
            return Err(self.failure(format!("{key} could not be read"), FailureKind::Transient, reason));
        }
        Ok((bytes, version))
    }

    pub(super) async fn create_object(&self, key: &Path, bytes: Bytes, attributes: Attributes) -> Result<Created> {
        if self.place.is_unconditional {
            if self.exists(key).await? {
                return Ok(Created::Exists);
            }
            self.overwrite(key, bytes, attributes.into()).await?;
            return Ok(Created::New);
        }
        let options = PutOptions {
            mode: PutMode::Create,
            attributes,
            ..PutOptions::default()
        };
        match self.put_conditionally(key, bytes, options).await? {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Exists),
            Err(error) => Err(self.uncreated(key, error)),
        }
    }

    /// A write without an object that could be missing: the place is.
    fn uncreated(&self, key: &Path, error: object_store::Error) -> StorageError {
        let told = failure::has_no_place(&error).zip(self.place.access.as_ref());
        match told {
            Some((told, access)) => {
                let reason = failure::no_storage(&access.target, &told);
                self.failure(format!("{key} could not be written"), FailureKind::Permanent, reason)
            }
            None => self.unwritten(key, error),
        }
    }

    pub(super) async fn write_object(&self, key: &Path, bytes: Bytes, expected: Option<Version>) -> Result<Written> {
        use object_store::Error::{AlreadyExists, NotFound, Precondition};
        if self.place.is_unconditional {
            let written = self.overwrite(key, bytes, PutOptions::default()).await?;
            return Ok(Written::Done(written));
        }
        let mode = expected.map_or(PutMode::Create, |version| PutMode::Update(version.0));
        match self.put_conditionally(key, bytes, mode.into()).await? {
            Ok(written) => Ok(Written::Done(Version(written.into()))),
            Err(AlreadyExists { .. } | Precondition { .. }) => Ok(Written::Changed),
            // The object of that version was deleted; or the bucket is missing.
            Err(error @ NotFound { .. }) => match self.failed(String::new(), error) {
                missing if missing.is_not_found() => Ok(Written::Changed),
                other => Err(StorageError {
                    what: format!("{key} could not be written"),
                    ..other
                }),
            },
            Err(error) => Err(self.unwritten(key, error)),
        }
    }

    /// One write with a condition, sent again only where the storage says that another one was under way.
    pub(super) async fn put_conditionally(
        &self,
        key: &Path,
        bytes: Bytes,
        options: PutOptions,
    ) -> Result<object_store::Result<PutResult>> {
        let mut pause = Duration::from_millis(50);
        for _ in 0..CONFLICTS {
            match self.put_once(key, &bytes, &options).await? {
                Err(error) if failure::is_conflict(&error) => tokio::time::sleep(pause).await,
                answer => return Ok(answer),
            }
            pause *= 2;
        }
        match self.put_once(key, &bytes, &options).await? {
            // A server whose word for "exists" this is.
            Err(error)
                if failure::is_conflict(&error) && options.mode == PutMode::Create && self.exists(key).await? =>
            {
                Ok(Err(object_store::Error::AlreadyExists {
                    path: key.to_string(),
                    source: error.into(),
                }))
            }
            Err(error) if failure::is_conflict(&error) => Err(self.unwritten(key, error)),
            answer => Ok(answer),
        }
    }

    async fn put_once(
        &self,
        key: &Path,
        bytes: &Bytes,
        options: &PutOptions,
    ) -> Result<object_store::Result<PutResult>> {
        let put = self
            .place
            .conditional
            .put_opts(key, bytes.clone().into(), options.clone());
        self.in_time(bytes.len() as u64, || format!("{key} could not be written"), put)
            .await
    }

    pub(super) async fn overwrite(&self, key: &Path, bytes: Bytes, options: PutOptions) -> Result<Version> {
        let size = bytes.len() as u64;
        let put = self.place.store.put_opts(key, bytes.into(), options);
        let put = self
            .in_time(size, || format!("{key} could not be written"), put)
            .await?;
        let written = put.map_err(|error| self.unwritten(key, error))?;
        Ok(Version(written.into()))
    }

    /// Everything but the contents.
    pub(super) async fn head(&self, key: &Path) -> Result<GetResult> {
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        self.open(key, head).await
    }

    pub(super) async fn exists(&self, key: &Path) -> Result<bool> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn delete_object(&self, key: &Path) -> Result<()> {
        let what = || format!("{key} could not be deleted");
        match self.in_time(0, what, self.place.store.delete(key)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(what(), error)),
        }
    }

    /// Creates an object of a large file, in parts.
    pub(super) async fn create_large(
        &self,
        key: &Path,
        timestamp_ms: i64,
        file: &Arc<File>,
        size: u64,
    ) -> Result<Created> {
        // Not all of it is sent to learn that.
        if self.exists(key).await? {
            return Ok(Created::Exists);
        }
        if self.place.is_unconditional {
            self.put_in_parts(key, timestamp_ms, file, size).await?;
            return Ok(Created::New);
        }
        if let Some(parts) = &self.place.parts {
            return self.create_in_parts(parts, key, timestamp_ms, file, size).await;
        }
        // Its end has no condition there, and a copy has one.
        let unfinished = self.inside(UNFINISHED).join(unique());
        self.put_in_parts(&unfinished, timestamp_ms, file, size).await?;
        let created = self.copy_new(&unfinished, key).await;
        // One that is left is deleted with the others.
        let _ = self.delete_object(&unfinished).await;
        created
    }

    /// Uploads a large file, a part at a time. The request that makes an object of the parts has the condition.
    async fn create_in_parts(
        &self,
        parts: &Parts,
        key: &Path,
        timestamp_ms: i64,
        file: &Arc<File>,
        size: u64,
    ) -> Result<Created> {
        use object_store::Error::{NotModified, Precondition};
        let what = || format!("{key} could not be written");
        let begin = parts.store.create_multipart_opts(key, self.part_options(timestamp_ms));
        let begun = self.in_time(0, what, begin).await?;
        let id = begun.map_err(|error| self.unwritten(key, error))?;
        let upload = async {
            let mut done = Vec::new();
            for (number, (at, length)) in pieces_of(size).enumerate() {
                let part = self.piece(key, file, at, length).await?;
                let put = parts.store.put_part(key, &id, number, part.into());
                let put = self.in_time(length, what, put).await?;
                done.push(put.map_err(|error| self.unwritten(key, error))?);
            }
            let complete = parts.ending.complete_multipart(key, &id, done);
            match self.within(ASSEMBLY, what, complete).await? {
                Ok(_) => Ok(Created::New),
                Err(Precondition { .. } | NotModified { .. }) => Ok(Created::Exists),
                Err(error) => Err(self.unwritten(key, error)),
            }
        };
        let created = upload.await;
        if !matches!(created, Ok(Created::New)) {
            let _ = self.in_time(0, what, parts.store.abort_multipart(key, &id)).await;
        }
        created
    }

    fn part_options(&self, timestamp_ms: i64) -> PutMultipartOptions {
        PutMultipartOptions {
            attributes: self.attributes(timestamp_ms),
            ..PutMultipartOptions::default()
        }
    }

    /// What is in a folder, and the folders in it.
    pub(super) async fn list_folder(&self, folder: &Path) -> Result<ListResult> {
        let what = || format!("{folder} could not be listed");
        let list = self.place.store.list_with_delimiter(Some(folder));
        let listed = self.in_time(0, what, list).await?;
        listed.map_err(|error| self.failed(what(), error))
    }

    /// A copy within the bucket.
    pub(super) async fn copy(&self, from: &Path, to: &Path) -> Result<object_store::Result<()>> {
        let what = || format!("{to} could not be written");
        self.within(ASSEMBLY, what, self.place.store.copy(from, to)).await
    }

    async fn copy_new(&self, from: &Path, to: &Path) -> Result<Created> {
        let what = || format!("{to} could not be written");
        match self
            .within(ASSEMBLY, what, self.place.conditional.copy_if_not_exists(from, to))
            .await?
        {
            Ok(()) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Exists),
            Err(error) => Err(self.unwritten(to, error)),
        }
    }

    /// Uploads a large file, a part at a time.
    pub(super) async fn put_in_parts(&self, key: &Path, timestamp_ms: i64, file: &Arc<File>, size: u64) -> Result<()> {
        let what = || format!("{key} could not be written");
        let begin = self
            .place
            .store
            .put_multipart_opts(key, self.part_options(timestamp_ms));
        let begun = self.in_time(0, what, begin).await?;
        let mut upload = begun.map_err(|error| self.unwritten(key, error))?;
        let parts = async {
            for (at, length) in pieces_of(size) {
                let part = self.piece(key, file, at, length).await?;
                let put = self.in_time(length, what, upload.put_part(part.into())).await?;
                put.map_err(|error| self.unwritten(key, error))?;
            }
            let complete = self.within(ASSEMBLY, what, upload.complete()).await?;
            complete.map(drop).map_err(|error| self.unwritten(key, error))
        };
        let done = parts.await;
        if done.is_err() {
            // What is left of it costs money until the bucket's own rules delete it.
            let _ = self.in_time(0, what, upload.abort()).await;
        }
        done
    }

    /// Reads what is small enough for one request.
    pub(super) async fn load(&self, key: &Path, body: Body) -> Result<Loaded> {
        let file = match body {
            Body::Memory(bytes) => return Ok(Loaded::Whole(bytes)),
            Body::File(file) => file,
        };
        let metadata = file.metadata().map_err(|error| self.unread_locally(key, &error))?;
        match metadata.len() {
            size if size > LARGE => Ok(Loaded::Large(file, size)),
            size => self.piece(key, &file, 0, size).await.map(Loaded::Whole),
        }
    }

    /// Reads a piece of a local file.
    async fn piece(&self, key: &Path, file: &Arc<File>, at: u64, length: u64) -> Result<Bytes> {
        let file = Arc::clone(file);
        let read = runtime::blocking(move || {
            let mut piece = vec![0; usize::try_from(length).expect("a piece fits into memory")];
            file.read_exact_at(&mut piece, at)?;
            Ok(Bytes::from(piece))
        });
        let read = read.await.and_then(|read| read);
        read.map_err(|error| self.unread_locally(key, &error))
    }

    /// Waits for a request with a body of that size.
    pub(super) async fn in_time<T>(
        &self,
        size: u64,
        what: impl Fn() -> String,
        request: impl Future<Output = T>,
    ) -> Result<T> {
        let time = self.place.patience + Duration::from_millis(size * 1000 / SLOWEST);
        self.within(time, what, request).await
    }

    async fn within<T>(
        &self,
        time: Duration,
        what: impl Fn() -> String,
        request: impl Future<Output = T>,
    ) -> Result<T> {
        tokio::time::timeout(time, request).await.map_err(|_| {
            let target = self
                .place
                .access
                .as_ref()
                .map_or("the storage", |access| access.target.as_str());
            let reason = format!("{target} did not answer within {time:?}");
            self.failure(what(), FailureKind::Transient, reason)
        })
    }

    pub(super) fn unread(&self, key: &Path, error: object_store::Error) -> StorageError {
        self.failed(format!("{key} could not be read"), error)
    }

    fn unwritten(&self, key: &Path, error: object_store::Error) -> StorageError {
        self.failed(format!("{key} could not be written"), error)
    }

    pub(super) fn failed(&self, what: String, error: object_store::Error) -> StorageError {
        let (kind, reason) = failure::explain(&error, self.place.access.as_ref());
        self.failure(what, kind, reason)
    }

    fn unread_locally(&self, key: &Path, error: &io::Error) -> StorageError {
        let reason = format!("the local file could not be read: {error}");
        self.failure(format!("{key} could not be written"), FailureKind::Permanent, reason)
    }

    pub(super) fn ignores(&self, condition: &str, seen: &str) -> StorageError {
        let what = format!("it ignores the condition {condition}");
        let reason = format!(
            "{seen}, so two primaries could both write; use a storage that keeps conditions, or call \
             ReplicaOptions::unconditional(true) where only one process ever replicates to it"
        );
        self.failure(what, FailureKind::Permanent, reason)
    }

    /// The object that says who owns the replica has other contents.
    pub(in crate::replica) fn foreign_owner(&self, error: &serde_json::Error) -> StorageError {
        let reason = format!(
            "it is not larder's ({error}); if no process replicates here, delete it, and open the store that is to go on \
             with ReplicaOptions::take_over(true)"
        );
        self.failure(format!("{OWNER} could not be read"), FailureKind::Permanent, reason)
    }

    /// Only the owner may know what to delete.
    pub(in crate::replica) fn not_owned(&self, owner: &str) -> StorageError {
        let reason = format!("{owner}, so this process deletes nothing");
        self.failure("its claims may not be used".into(), FailureKind::Permanent, reason)
    }

    /// A transaction of level 0 could not be read to its end.
    pub(in crate::replica) fn unread_object(&self, txids: Txids, error: &io::Error) -> StorageError {
        let what = format!("{} could not be read", self.name(0, txids));
        self.failure(what, FailureKind::Transient, error.to_string())
    }

    /// The owner was changed by others at each try.
    pub(in crate::replica) fn contended(&self) -> StorageError {
        let reason = "other processes write it all the time: let one process replicate here".into();
        self.failure(format!("{OWNER} could not be written"), FailureKind::Transient, reason)
    }

    pub(in crate::replica) fn no_thread(&self, error: io::Error) -> StorageError {
        let reason = format!("the operating system refused a thread: {error}");
        self.failure("no request was made".into(), FailureKind::Transient, reason)
    }

    pub(in crate::replica) fn failure(&self, what: String, kind: FailureKind, reason: String) -> StorageError {
        StorageError {
            url: self.to_string(),
            what,
            reason,
            kind,
            source: None,
        }
    }
}

/// What is to be written.
pub(super) enum Loaded {
    Whole(Bytes),
    /// A file, and its size.
    Large(Arc<File>, u64),
}

/// Where the parts of a large file begin, and their lengths. All but the last have the same.
fn pieces_of(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let length = PART.max(size.div_ceil(MOST_PARTS));
    (0..size.div_ceil(length)).map(move |number| {
        let at = number * length;
        (at, length.min(size - at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S3 takes 5 TiB, in 10,000 parts of 5 GiB at most.
    #[test]
    fn largest_object_has_few_enough_parts() {
        const LIMIT: u64 = 5 << 40;
        for size in [1, PART, PART + 1, 10_000 * PART, 10_000 * PART + 1, LIMIT - 1, LIMIT] {
            let pieces: Vec<_> = pieces_of(size).collect();
            assert!(pieces.len() as u64 <= MOST_PARTS, "{size}");
            let end = pieces.iter().fold(0, |end, (at, length)| {
                assert_eq!((*at, *length > 0 && *length < 5 << 30), (end, true), "{size}");
                end + length
            });
            assert_eq!(end, size);
        }
    }
}
