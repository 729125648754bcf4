//! An object store over a network that loses, delays and repeats requests, driven by a seeded schedule.
//!
//! A request of a process waits in the network until the schedule picks it. Then it takes effect and is answered; or it
//! takes effect and the answer is lost; or it is lost itself, though the process is told of an error; or it takes effect
//! and a copy of it stays in the network. A process goes on only when the schedule polls it, so it may pause for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Numbers that a seed determines.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }

    pub(super) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

#[derive(Clone, Debug)]
enum Request {
    Put(Path, Bytes, PutMode),
    Get(Path),
    List(Path),
    Delete(Path),
}

#[derive(Debug)]
enum Response {
    Put(u64),
    Object(ObjectMeta, Bytes),
    List(Vec<ObjectMeta>),
    Done,
}

/// Where a process waits for its answer.
type Slot = Arc<Mutex<Option<Result<Response>>>>;

#[derive(Debug, Default)]
struct Network {
    objects: BTreeMap<Path, (Bytes, u64)>,
    writes: u64,
    /// Requests under way. Nobody waits for a copy.
    requests: Vec<(Request, Option<Slot>)>,
    /// Whether the next requests arrive at once, and are answered.
    is_calm: bool,
}

/// The store, as each process has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Simulated(Arc<Mutex<Network>>);

impl Simulated {
    /// How many requests are under way.
    pub(super) fn under_way(&self) -> usize {
        self.0.lock().unwrap().requests.len()
    }

    /// Ends the faults.
    pub(super) fn calm(&self) {
        self.0.lock().unwrap().is_calm = true;
    }

    /// Something happens to one request.
    pub(super) fn step(&self, random: &mut Random) {
        let mut network = self.0.lock().unwrap();
        if network.requests.is_empty() {
            return;
        }
        let number = network.requests.len();
        let (request, slot) = network.requests.swap_remove(random.below(number));
        let lost = || Error::Generic {
            store: "simulated",
            source: "the answer was lost".into(),
        };
        let answer = match random.below(if network.is_calm { 1 } else { 16 }) {
            14 => Err(lost()),
            15 => {
                // It is told lost, and arrives later.
                network.requests.push((request, None));
                Err(lost())
            }
            13 => {
                let _ = network.apply(&request);
                Err(lost())
            }
            12 => {
                network.requests.push((request.clone(), None));
                network.apply(&request)
            }
            _ => network.apply(&request),
        };
        if let Some(slot) = slot {
            *slot.lock().unwrap() = Some(answer);
        }
    }

    async fn send(&self, request: Request) -> Result<Response> {
        let slot = Slot::default();
        self.0.lock().unwrap().requests.push((request, Some(Arc::clone(&slot))));
        poll_fn(|_| slot.lock().unwrap().take().map_or(Poll::Pending, Poll::Ready)).await
    }
}

impl Network {
    fn apply(&mut self, request: &Request) -> Result<Response> {
        match request {
            Request::Put(path, bytes, mode) => self.put(path, bytes, mode).map(Response::Put),
            Request::Get(path) => {
                let (bytes, version) = self.objects.get(path).ok_or_else(|| missing(path))?;
                Ok(Response::Object(meta(path, bytes, *version), bytes.clone()))
            }
            Request::List(prefix) => {
                let all = self.objects.iter().filter(|(path, _)| path.prefix_matches(prefix));
                Ok(Response::List(
                    all.map(|(path, (bytes, version))| meta(path, bytes, *version))
                        .collect(),
                ))
            }
            Request::Delete(path) => {
                self.objects.remove(path);
                Ok(Response::Done)
            }
        }
    }

    fn put(&mut self, path: &Path, bytes: &Bytes, mode: &PutMode) -> Result<u64> {
        let there = self.objects.get(path).map(|(_, version)| tag(*version));
        match mode {
            PutMode::Create if there.is_some() => {
                return Err(Error::AlreadyExists {
                    path: path.to_string(),
                    source: "it is there".into(),
                });
            }
            PutMode::Update(expected) if there != expected.e_tag => {
                return Err(Error::Precondition {
                    path: path.to_string(),
                    source: "another version is there".into(),
                });
            }
            _ => {}
        }
        self.writes += 1;
        self.objects.insert(path.clone(), (bytes.clone(), self.writes));
        Ok(self.writes)
    }
}

fn tag(version: u64) -> String {
    format!("\"{version}\"")
}

fn missing(path: &Path) -> Error {
    Error::NotFound {
        path: path.to_string(),
        source: "it is not there".into(),
    }
}

fn meta(path: &Path, bytes: &Bytes, version: u64) -> ObjectMeta {
    ObjectMeta {
        location: path.clone(),
        last_modified: std::time::UNIX_EPOCH.into(),
        size: bytes.len() as u64,
        e_tag: Some(tag(version)),
        version: None,
    }
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated")
    }
}

#[async_trait]
impl ObjectStore for Simulated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let request = Request::Put(location.clone(), payload.into(), options.mode);
        let Response::Put(version) = self.send(request).await? else {
            unreachable!()
        };
        Ok(PutResult {
            e_tag: Some(tag(version)),
            version: None,
            extensions: Extensions::default(),
        })
    }

    async fn get_opts(&self, location: &Path, _: GetOptions) -> Result<GetResult> {
        let Response::Object(meta, bytes) = self.send(Request::Get(location.clone())).await? else {
            unreachable!()
        };
        Ok(GetResult {
            range: 0..meta.size,
            meta,
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            attributes: Default::default(),
            extensions: Extensions::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |path: Path| {
            let store = store.clone();
            async move { store.send(Request::Delete(path.clone())).await.map(|_| path) }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let list = async move {
            let Response::List(objects) = store.send(Request::List(prefix)).await? else {
                unreachable!()
            };
            Ok::<_, Error>(stream::iter(objects.into_iter().map(Ok)))
        };
        stream::once(list).try_flatten().boxed()
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("no file of the schedules is large")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("the fence lists levels alone")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("no file of the schedules is large")
    }
}
