//! An object store that lies, for the tests: around one in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
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
    /// Another process's upload arrives before level 0 is listed for the second time.
    GoesOn,
    /// Lists are out of date, and lack some objects.
    Hides,
    /// A late request writes the owner just before an update.
    ChangesOwner,
}

#[derive(Debug)]
pub(super) struct Lying {
    lie: Lie,
    pub(super) store: InMemory,
    /// How often level 0 was listed, and what arrives then.
    lists: AtomicU32,
    pub(super) later: Mutex<Option<(Path, Bytes)>>,
    /// The objects that so many lists do not show.
    hidden: Mutex<HashMap<String, u32>>,
    /// How often the owner is still to be changed.
    changes: AtomicU32,
}

impl Lying {
    pub(super) fn new(lie: Lie) -> Arc<Self> {
        Arc::new(Self {
            lie,
            store: InMemory::new(),
            lists: AtomicU32::new(0),
            later: Mutex::new(None),
            hidden: Mutex::default(),
            changes: AtomicU32::new(0),
        })
    }

    /// Hides an object from so many lists that would show it.
    pub(super) fn hide(&self, location: impl Into<String>, lists: u32) {
        self.hidden.lock().unwrap().insert(location.into(), lists);
    }

    pub(super) fn change_owner(&self, times: u32) {
        self.changes.store(times, SeqCst);
    }

    /// Writes the same once more, as another version.
    async fn write_again(&self, location: &Path) -> Result<()> {
        let bytes = self.store.get(location).await?.bytes().await?;
        self.store.put(location, bytes.into()).await.map(drop)
    }

    fn shows(&self, object: &ObjectMeta) -> bool {
        match self.hidden.lock().unwrap().get_mut(object.location.as_ref()) {
            Some(lists) if *lists > 0 => {
                *lists -= 1;
                false
            }
            _ => true,
        }
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
        if self.lie == Lie::ChangesOwner
            && matches!(options.mode, PutMode::Update(_))
            && location.as_ref().ends_with("owner.json")
            && self
                .changes
                .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                .is_ok()
        {
            self.write_again(location).await?;
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
        let changed = move |bytes: Result<Bytes>| {
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
        let is_level_0 = prefix.is_some_and(|prefix| prefix.as_ref() == "ltx/0");
        if self.lie == Lie::GoesOn
            && is_level_0
            && self.lists.fetch_add(1, SeqCst) == 1
            && let Some((path, bytes)) = self.later.lock().unwrap().take()
        {
            let put = self.store.put_opts(&path, bytes.into(), PutMode::Create.into());
            put.now_or_never().expect("memory does not wait").unwrap();
        }
        let listed = self.store.list(prefix).try_collect::<Vec<_>>();
        let listed = listed.now_or_never().expect("memory does not wait");
        match listed {
            Ok(mut objects) => {
                objects.retain(|object| self.shows(object));
                stream::iter(objects.into_iter().map(Ok)).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
