//! An object store in memory whose requests a test looks at, holds up or refuses.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use larder::replica::storage::Storage;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What comes before a request: its verb and its key. An error is its answer.
type Hook = Arc<dyn Fn(&'static str, String) -> BoxFuture<'static, Result<()>> + Send + Sync>;

pub(super) struct Hooked {
    pub(super) store: InMemory,
    hook: Mutex<Hook>,
    requests: Mutex<Vec<String>>,
}

impl Hooked {
    /// Behind `memory:NAME`.
    pub(super) fn named(name: &str) -> Arc<Self> {
        let hooked = Arc::new(Self {
            store: InMemory::new(),
            hook: Mutex::new(Arc::new(|_, _| Box::pin(async { Ok(()) }))),
            requests: Mutex::default(),
        });
        Storage::set_memory(name, Arc::clone(&hooked) as _);
        hooked
    }

    pub(super) fn before(
        &self,
        hook: impl Fn(&'static str, String) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) {
        *self.hook.lock().unwrap() = Arc::new(hook);
    }

    /// The requests since the last call.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    async fn ask(&self, verb: &'static str, key: &Path) -> Result<()> {
        self.requests.lock().unwrap().push(format!("{verb} {key}"));
        let hook = Arc::clone(&self.hook.lock().unwrap());
        hook(verb, key.to_string()).await
    }
}

/// The storage is away.
pub(super) fn away() -> Error {
    Error::Generic {
        store: "hooked",
        source: "the storage is away".into(),
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hooked")
    }
}

impl fmt::Display for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hooked")
    }
}

#[async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.ask("PUT", location).await?;
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.ask("PUT", location).await?;
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.ask("GET", location).await?;
        self.store.get_opts(location, options).await
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
        self.ask("COPY", to).await?;
        self.store.copy_opts(from, to, options).await
    }
}
