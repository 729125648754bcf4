//! An object store that lies, for the tests: around one in memory.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What it does other than a good store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lie {
    /// Creates and updates overwrite.
    IgnoresConditions,
    /// Creates are kept; an update overwrites.
    IgnoresVersions,
    /// Bodies end a byte early.
    CutsBodies,
    /// Bodies have a byte too many.
    StretchesBodies,
}

#[derive(Debug)]
pub(super) struct Lying {
    lie: Lie,
    store: InMemory,
}

impl Lying {
    pub(super) fn new(lie: Lie) -> Arc<Self> {
        let store = InMemory::new();
        Arc::new(Self { lie, store })
    }
}

impl fmt::Display for Lying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lying")
    }
}

#[async_trait]
impl ObjectStore for Lying {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let ignored = match &options.mode {
            PutMode::Create => self.lie == Lie::IgnoresConditions,
            PutMode::Update(_) => [Lie::IgnoresConditions, Lie::IgnoresVersions].contains(&self.lie),
            PutMode::Overwrite => false,
        };
        if ignored {
            options.mode = PutMode::Overwrite;
        }
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.store.get_opts(location, options).await?;
        let GetResultPayload::Stream(stream) = result.payload;
        let lie = self.lie;
        let changed = move |bytes: Result<bytes::Bytes>| {
            bytes.map(|bytes| match lie {
                Lie::CutsBodies => bytes.slice(..bytes.len() - 1),
                Lie::StretchesBodies => [&bytes[..], b"x"].concat().into(),
                _ => bytes,
            })
        };
        result.payload = GetResultPayload::Stream(stream.map(changed).boxed());
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
