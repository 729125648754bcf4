//! An object store over a network that loses requests and answers, delays and repeats them, cuts bodies short, and shows
//! lists that are out of date. The store itself is right, so that what must be in it can be compared.
//!
//! A request may be lost; or it takes effect, and its answer is lost; or it is told lost, and arrives later; or it
//! arrives once more, later; or it takes time. While the network is down all requests are lost.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use larder::Replica;
use larder::replica::storage::{Layout, Storage};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// How a network treats requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub is_down: bool,
    /// Requests in a hundred to which something happens.
    pub faults: u32,
    /// Lists in a hundred that are out of date.
    pub stale: u32,
}

/// One process's way to a store. Others may have their own to the same store.
#[derive(Debug)]
pub struct Network {
    store: Arc<InMemory>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    weather: Weather,
    /// All objects, as they were some time ago.
    past: Vec<ObjectMeta>,
    /// Requests that change files of level 1 and above, or delete any.
    level_writes: u64,
    /// The first request that no store may make.
    violation: Option<String>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Good,
    Lost,
    Unanswered,
    /// It is told lost, and arrives after this time.
    Late(Duration),
    /// It arrives, and once more after this time.
    Twice(Duration),
    Slow(Duration),
    /// The body ends early, or with an error.
    Cut(bool),
}

impl Network {
    /// A way to this store, by the URL `memory:NAME` from now on.
    pub fn set(name: &str, store: &Arc<InMemory>, rng: Rng) -> Arc<Self> {
        let network = Arc::new(Self {
            store: Arc::clone(store),
            state: Mutex::new(State {
                rng,
                weather: Weather::default(),
                past: Vec::new(),
                level_writes: 0,
                violation: None,
            }),
        });
        let shared: Arc<dyn ObjectStore> = Arc::clone(&network) as _;
        Storage::set_memory(name, shared);
        network
    }

    pub fn turns(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// The number of requests so far that change files of level 1 and above, or delete any.
    pub fn level_writes(&self) -> u64 {
        self.lock().level_writes
    }

    /// # Errors
    ///
    /// The first request that no store may make.
    pub fn judge(&self) -> std::result::Result<(), String> {
        match &self.lock().violation {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, choices: &[fn(&mut Rng) -> Fate]) -> Fate {
        let State { rng, weather, .. } = &mut *self.lock();
        if weather.is_down {
            return Fate::Lost;
        }
        if rng.u32(0..100) >= weather.faults {
            return Fate::Good;
        }
        choices[rng.usize(0..choices.len())](rng)
    }

    fn note_write(&self, location: &Path, mode: Option<&PutMode>) {
        let key = location.as_ref();
        let level_0 = key.starts_with("ltx/0/");
        let mut state = self.lock();
        if key.starts_with("ltx/") && (!level_0 || mode.is_none()) {
            state.level_writes += 1;
        }
        if level_0 && mode.is_some_and(|mode| *mode != PutMode::Create) {
            let violation = format!("{key} was to be overwritten");
            state.violation.get_or_insert(violation);
        }
    }

    /// The objects below a prefix, as they were some time ago, if the list is to be such a one.
    fn past(&self, prefix: Option<&Path>) -> Option<Vec<ObjectMeta>> {
        let State { rng, weather, past, .. } = &mut *self.lock();
        let is_below = |object: &&ObjectMeta| prefix.is_none_or(|prefix| object.location.prefix_matches(prefix));
        let is_stale = rng.u32(0..100) < weather.stale;
        is_stale.then(|| past.iter().filter(is_below).cloned().collect())
    }

    /// Takes a picture for later lists, now and then.
    async fn remember(&self) {
        if self.lock().rng.u32(0..3) > 0 {
            return;
        }
        if let Ok(objects) = self.store.list(None).try_collect().await {
            self.lock().past = objects;
        }
    }
}

fn soon(rng: &mut Rng) -> Duration {
    Duration::from_micros(1 << rng.u32(4..15))
}

const LOST: fn(&mut Rng) -> Fate = |_| Fate::Lost;
const SLOW: fn(&mut Rng) -> Fate = |rng| Fate::Slow(soon(rng));
const OF_WRITES: &[fn(&mut Rng) -> Fate] = &[
    LOST,
    |_| Fate::Unanswered,
    |_| Fate::Unanswered,
    |rng| Fate::Late(soon(rng)),
    |rng| Fate::Twice(soon(rng)),
    SLOW,
    SLOW,
];
const OF_READS: &[fn(&mut Rng) -> Fate] = &[LOST, |rng| Fate::Cut(rng.bool()), SLOW, SLOW];

fn lost() -> Error {
    Error::Generic {
        store: "network",
        source: "the answer did not come".into(),
    }
}

/// The replica in a store, over a network without faults.
pub fn replica_in(store: &Arc<InMemory>) -> Replica {
    let store: Arc<dyn ObjectStore> = Arc::clone(store) as _;
    Replica::on(store, Layout::Decimal)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("network")
    }
}

#[async_trait]
impl ObjectStore for Network {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.note_write(location, Some(&options.mode));
        self.remember().await;
        let (store, at) = (Arc::clone(&self.store), location.clone());
        let (bytes, terms) = (payload.clone(), options.clone());
        let later = |time: Duration| {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                let _ = store.put_opts(&at, bytes, terms).await;
            })
        };
        let now = || self.store.put_opts(location, payload, options);
        match self.fate(OF_WRITES) {
            Fate::Good | Fate::Cut(_) => now().await,
            Fate::Lost => Err(lost()),
            Fate::Unanswered => {
                let _ = now().await;
                Err(lost())
            }
            Fate::Late(time) => {
                drop(later(time));
                Err(lost())
            }
            Fate::Twice(time) => {
                let answer = now().await;
                drop(later(time));
                answer
            }
            Fate::Slow(time) => {
                tokio::time::sleep(time).await;
                now().await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.note_write(location, Some(&PutMode::Overwrite));
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.fate(OF_READS);
        if let Fate::Lost = fate {
            return Err(lost());
        }
        if let Fate::Slow(time) = fate {
            tokio::time::sleep(time).await;
        }
        let mut found = self.store.get_opts(location, options).await?;
        if let Fate::Cut(is_told) = fate {
            let size = usize::try_from(found.range.end - found.range.start).unwrap_or_default();
            let GetResultPayload::Stream(body) = found.payload;
            let mut left = size / 2;
            let cut = body.map_ok(move |bytes| {
                let length = bytes.len().min(left);
                left -= length;
                bytes.slice(..length)
            });
            let end = stream::iter(is_told.then(|| Err(lost())));
            found.payload = GetResultPayload::Stream(cut.chain(end).boxed());
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // A stream cannot borrow the network: what becomes of the request is decided before.
        let fate = self.fate(OF_WRITES);
        self.lock().level_writes += 1;
        let store = Arc::clone(&self.store);
        let delete = move |location: Path| {
            let store = Arc::clone(&store);
            async move {
                match fate {
                    Fate::Lost | Fate::Late(_) => return Err(lost()),
                    Fate::Slow(time) => tokio::time::sleep(time).await,
                    _ => {}
                }
                let one = stream::iter([Ok(location.clone())]).boxed();
                let deleted: Vec<Path> = store.delete_stream(one).try_collect().await?;
                match fate {
                    Fate::Unanswered => Err(lost()),
                    _ => Ok(deleted.into_iter().next().unwrap_or(location)),
                }
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fate(OF_READS) {
            Fate::Lost => return stream::iter([Err(lost())]).boxed(),
            Fate::Cut(_) => {
                let half = self.store.list(prefix).take(2);
                return half.chain(stream::iter([Err(lost())])).boxed();
            }
            _ => {}
        }
        match self.past(prefix) {
            Some(objects) => stream::iter(objects.into_iter().map(Ok)).boxed(),
            None => self.store.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if let Fate::Lost = self.fate(OF_READS) {
            return Err(lost());
        }
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.note_write(to, None);
        self.store.copy_opts(from, to, options).await
    }
}
