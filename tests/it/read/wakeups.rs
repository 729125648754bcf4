//! Every task is woken when its read is done: by the reader thread, or by a task that was woken before it, whatever
//! that task does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use larder::{Options, Store};

use crate::support::tasks::{Call, HeldRead, begin, counting, finish, hear, poll, store_with};

/// A reply is left this long for another task to wake its task. Then the timer takes it, and may be in the middle of that.
const RELAY_TIME: Duration = Duration::from_millis(5);

struct Bell {
    rung: AtomicUsize,
    ring: Sender<()>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        let _ = self.ring.send(());
    }
}

/// A read that is polled by hand, and when it was woken.
struct Watched {
    read: Call<i64>,
    bell: Arc<Bell>,
    rings: Receiver<()>,
}

impl Watched {
    fn begin(store: &Store) -> Self {
        let (ring, rings) = channel();
        let bell = Arc::new(Bell {
            rung: AtomicUsize::new(0),
            ring,
        });
        let mut watched = Self {
            read: counting(store),
            bell,
            rings,
        };
        assert!(watched.poll().is_pending());
        watched
    }

    fn poll(&mut self) -> Poll<larder::Result<i64>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.read.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn wakes(&self) -> usize {
        self.bell.rung.load(Ordering::SeqCst)
    }

    /// It has been woken, unless its reply was left before `since` and the timer may have it.
    #[track_caller]
    fn assert_woken(&self, since: Instant) {
        let wakes = self.wakes();
        assert!(wakes == 1 || wakes == 0 && since.elapsed() >= RELAY_TIME, "{wakes}");
    }

    /// It is woken once, and has its reply.
    #[track_caller]
    fn expect(mut self) {
        hear(&self.rings);
        assert!(matches!(self.poll(), Poll::Ready(Ok(0))));
        assert_eq!(self.wakes(), 1);
    }
}

/// A read that goes on until it is told to end.
struct Long {
    read: Call<()>,
    begins: Receiver<()>,
    end: Sender<()>,
}

impl Long {
    fn begin(store: &Store) -> Self {
        let (begun, begins) = channel();
        let (end, ended) = channel::<()>();
        let mut read: Call<()> = Box::pin(store.read_async(move |_| {
            begun.send(()).unwrap();
            let _ = ended.recv();
            Ok(())
        }));
        begin(&mut read);
        Self { read, begins, end }
    }

    fn end(self) {
        drop(self.end);
        finish(self.read).unwrap();
    }
}

fn one_reader() -> Store {
    store_with(Options::new().readers(1))
}

/// The only reader thread has told `first`, which was woken and has not looked since, and then the `others`. Now it is
/// in a long read.
struct Scene {
    first: Option<Call<()>>,
    others: Vec<Watched>,
    long: Long,
    /// Before the first reply.
    since: Instant,
    _store: Store,
}

impl Scene {
    fn play(others: usize) -> Self {
        let store = one_reader();
        let held = HeldRead::hold(&store);
        let others = (0..others).map(|_| Watched::begin(&store)).collect();
        let long = Long::begin(&store);
        let since = Instant::now();
        let first = held.let_go_alone();
        hear(&long.begins);
        Self {
            since,
            first: Some(first),
            others,
            long,
            _store: store,
        }
    }

    #[track_caller]
    fn the_others_were_woken(&self) {
        for other in &self.others {
            other.assert_woken(self.since);
        }
    }

    #[track_caller]
    fn end(self) {
        self.others.into_iter().for_each(Watched::expect);
        self.long.end();
    }
}

#[test]
fn task_polled_for_its_reply_wakes_the_next() {
    let mut scene = Scene::play(3);
    assert!(poll(scene.first.as_mut().unwrap()).is_ready());
    scene.the_others_were_woken();
    scene.end();
}

#[test]
fn dropped_task_wakes_those_behind_it() {
    let mut scene = Scene::play(3);
    drop(scene.first.take());
    scene.the_others_were_woken();
    scene.end();
}

#[test]
fn tasks_behind_unpolled_one_wake_during_long_read() {
    Scene::play(3).end();
}

#[test]
fn many_tasks_behind_unpolled_one_wake_at_once() {
    let scene = Scene::play(60);
    let woken = scene.others.iter().filter(|other| other.wakes() == 1).count();
    assert!(woken >= 48 || scene.since.elapsed() >= RELAY_TIME, "{woken}");
    scene.end();
}

#[test]
fn tasks_behind_unpolled_one_wake_when_idle() {
    let store = one_reader();
    let held = HeldRead::hold(&store);
    let others = [Watched::begin(&store), Watched::begin(&store)];
    let first = held.let_go_alone();
    others.into_iter().for_each(Watched::expect);
    drop(first);
}

#[test]
fn task_polled_before_its_wakeup_is_woken() {
    let mut scene = Scene::play(1);
    let mut early = scene.others.remove(0);
    assert!(matches!(early.poll(), Poll::Ready(Ok(0))));
    early.assert_woken(scene.since);
    hear(&early.rings);
    assert!(poll(scene.first.as_mut().unwrap()).is_ready());
    assert_eq!(early.wakes(), 1);
    scene.end();
}

#[test]
fn task_woken_by_another_wakes_the_next() {
    for one_looks_early in [false, true] {
        let store = one_reader();
        let held = HeldRead::hold(&store);
        let mut early = one_looks_early.then(|| Watched::begin(&store));
        let mut woken = Watched::begin(&store);
        let between = Long::begin(&store);
        let behind = [Watched::begin(&store), Watched::begin(&store)];
        let long = Long::begin(&store);
        let since = Instant::now();
        let mut first = held.let_go_alone();
        hear(&between.begins);
        if let Some(early) = &mut early {
            // It is not there any more to wake anybody.
            assert!(matches!(early.poll(), Poll::Ready(Ok(0))));
        }
        assert!(poll(&mut first).is_ready());
        woken.assert_woken(since);
        drop(between.end);
        hear(&long.begins);
        assert!(matches!(woken.poll(), Poll::Ready(Ok(0))));
        for other in &behind {
            other.assert_woken(since);
        }
        behind.into_iter().for_each(Watched::expect);
        finish(between.read).unwrap();
        long.end();
    }
}
