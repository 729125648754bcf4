//! The scenarios: concurrent calls whose schedules shuttle explores.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::bulk;
use crate::error::{Error, Result};
use crate::ledger::{Held, Id, Ledger, Ticket};
use crate::options::{Durability, Options, ReadOptions, WriteOptions};
use crate::queue::pending::Pending;
use crate::queue::slot::{Caller, Reply, Slot};
use crate::read::{self, RowChannel};
use crate::replica;
use crate::runtime::cancellation::is_cancelled;
use crate::store::Store;
use crate::sync::thread::{self, Thread};
use crate::sync::{Arc, Condvar, Mutex};
use crate::time::{self, HORIZON, below, one_in};
use crate::transaction::{ReadTx, WriteTx};
use crate::write::closing::CloseReport;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[$(Scenario { name: stringify!($name), run: $name }),*];
    };
}

scenarios! {
    blocking
    submitting
    submitting_tasks
    order
    bulk_jobs
    bulk_streams
    bulk_closing
    deadlines
    writer_held
    room_freed
    alarm
    tasks
    waker_replaced
    reentrant_wakers
    inline_wakers
    withdrawal
    spinning
    closing
    closing_stuck
    seat
    seat_order
    seat_panic
    seat_closing
    seat_summons
    seat_nested
    replicated
    replicated_closing
    one_history
    reads
    reads_stuck
    reads_timed_out
    reads_closing
    reads_unpolled
    reads_given_up
    wake_relay
    reads_inline
    reads_joining
    streams
}

/// Later than the model's clock ever reaches.
const FAR: Duration = HORIZON.saturating_mul(1000);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

static MOST_THREADS: AtomicUsize = AtomicUsize::new(0);

/// The most threads of a schedule since the last call, including shuttle's first.
pub(crate) fn most_threads() -> usize {
    MOST_THREADS.swap(0, Ordering::Relaxed)
}

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Records a panic, for the panic hook: no closure here panics, so any panic that larder catches is a failure.
pub(crate) fn note_panic() {
    PANICKED.store(true, Ordering::Relaxed);
}

/// Whether there was a panic since the last call.
pub(crate) fn panicked() -> bool {
    PANICKED.swap(false, Ordering::Relaxed)
}

#[derive(Clone)]
struct World {
    store: Store,
    ledger: Arc<Ledger>,
}

/// A world with the given capacity of each queue, the given number of readers, and no spinning.
fn world(queue: usize, readers: u32) -> World {
    world_with(queue, readers, Duration::ZERO)
}

fn options(queue: usize, readers: u32, patience: Duration) -> Options {
    Options {
        durability: Durability::Normal,
        queue_capacity: queue,
        readers,
        queue_timeout: FAR,
        read_queue_timeout: FAR,
        close_timeout: FAR,
        patience,
    }
}

fn world_with(queue: usize, readers: u32, patience: Duration) -> World {
    time::begin();
    let ledger = Ledger::new();
    let store = Store::open(options(queue, readers, patience), &ledger.log);
    World { store, ledger }
}

impl World {
    /// Another store.
    fn beside(&self) -> Self {
        let ledger = Ledger::new();
        let store = Store::open(options(1, 1, Duration::ZERO), &ledger.log);
        Self { store, ledger }
    }

    /// Starts a thread.
    fn caller(&self, f: impl FnOnce(&World) + Send + 'static) -> shuttle::thread::JoinHandle<()> {
        let world = self.clone();
        thread::count();
        shuttle::thread::spawn(move || f(&world))
    }

    /// Closes the store after every caller has ended, and checks the ledger.
    fn end(self, callers: impl IntoIterator<Item = shuttle::thread::JoinHandle<()>>) {
        for caller in callers {
            caller.join().expect("shuttle stops at a panic");
        }
        self.close(FAR);
        assert!(!panicked(), "a panic was caught");
        MOST_THREADS.fetch_max(1 + thread::join_all(), Ordering::Relaxed);
        assert!(self.store.is_empty(), "jobs are left in a queue");
        self.ledger.balance();
    }

    fn close(&self, timeout: Duration) -> CloseReport {
        self.ledger.closes();
        self.store.close_within(timeout).expect("this is no worker")
    }

    fn close_async(&self) {
        self.ledger.closes();
        block_on(self.store.close_async()).expect("this is no worker");
    }

    fn write(&self, id: Id, options: WriteOptions) {
        let (ticket, held) = self.ledger.write(id);
        let ticket = ticket.within(options.queue_timeout.unwrap_or(FAR));
        ticket.told(&self.store.write(options, writes(held)));
    }

    fn write_replicated(&self, id: Id) {
        let (ticket, held) = self.ledger.write(id);
        let result = self.store.write(WriteOptions::replicated(), writes(held));
        self.told_of_replica(ticket, &result);
    }

    /// A caller learns of success once its write is in the replica. Otherwise it is committed here all the same.
    fn told_of_replica(&self, ticket: Ticket, result: &Result<()>) {
        match result {
            Ok(()) => assert!(
                self.store.replica().has(ticket.id()),
                "{:?} is not in the replica",
                ticket.id()
            ),
            Err(Error::NotReplicated { .. }) => return ticket.told(&Ok(())),
            Err(_) => {}
        }
        ticket.told(result);
    }

    fn write_or_fail(&self, id: Id) {
        let (ticket, held) = self.ledger.write(id);
        ticket.told(&self.store.write(WriteOptions::or_fail(), writes(held)));
    }

    fn write_alone(&self, id: Id) {
        let (ticket, held) = self.ledger.write(id);
        ticket.told(&self.store.run_exclusive(move |writer| {
            held.runs(false);
            writer.commit_own(held.id);
            Ok(())
        }));
    }

    fn write_async(&self, id: Id, timeout: Duration) {
        let (ticket, held) = self.ledger.write(id);
        let ticket = ticket.within(timeout);
        let future = self
            .store
            .write_async_with(WriteOptions::queue_timeout(timeout), writes(held));
        ticket.told(&block_on(future));
    }

    /// Drops the future sooner or later.
    fn write_async_for_a_while(&self, id: Id, timeout: Duration) {
        let (ticket, held) = self.ledger.write(id);
        let ticket = ticket.within(timeout);
        let future = self
            .store
            .write_async_with(WriteOptions::queue_timeout(timeout), writes(held));
        match poll_for_a_while(future) {
            Some(result) => ticket.told(&result),
            None => ticket.gone(),
        }
    }

    fn read_async(&self, id: Id, timeout: Duration) {
        let (ticket, held) = self.ledger.read(id);
        let ticket = ticket.within(timeout);
        let future = self
            .store
            .read_async_with(ReadOptions::queue_timeout(timeout), looks(held));
        ticket.told(&block_on(future));
    }

    fn read_async_for_a_while(&self, id: Id, timeout: Duration) {
        let (ticket, held) = self.ledger.read(id);
        let ticket = ticket.within(timeout);
        let future = self
            .store
            .read_async_with(ReadOptions::queue_timeout(timeout), looks(held));
        match poll_for_a_while(future) {
            Some(result) => ticket.told(&result),
            None => ticket.gone(),
        }
    }

    /// A write that holds the writer until the gate opens.
    fn hold_writer(&self, id: Id, gate: &Arc<Gate>) -> shuttle::thread::JoinHandle<()> {
        let gate = Arc::clone(gate);
        self.caller(move |world| {
            let (ticket, held) = world.ledger.write(id);
            ticket.told(&world.store.write(WriteOptions::new(), move |tx| {
                gate.arrive();
                gate.wait();
                writes(held)(tx)
            }));
        })
    }
}

fn writes(held: Held) -> impl FnOnce(&WriteTx<'_>) -> Result<()> + Send + 'static {
    move |tx| {
        held.runs(tx.caller_has_gone());
        thread::switch();
        tx.write(held.id);
        Ok(())
    }
}

fn writes_in_vain(held: Held) -> impl FnOnce(&WriteTx<'_>) -> Result<()> + Send + 'static {
    move |tx| {
        held.runs(tx.caller_has_gone());
        tx.write(held.id);
        Err(Error::App)
    }
}

fn looks(held: Held) -> impl FnOnce(&ReadTx<'_>) -> Result<()> + Send + 'static {
    move |_| {
        held.runs(is_cancelled());
        thread::switch();
        Ok(())
    }
}

/// Closed until a thread opens it.
#[derive(Default)]
struct Gate {
    /// Whether a thread waits at the gate, and whether it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn arrive(&self) {
        self.state.lock().0 = true;
        self.changed.notify_all();
    }

    fn wait_for_arrival(&self) {
        let mut state = self.state.lock();
        while !state.0 {
            state = self.changed.wait(state);
        }
    }

    fn open(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut state = self.state.lock();
        while !state.1 {
            state = self.changed.wait(state);
        }
    }
}

/// The simplest runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = poll(future.as_mut()) {
            return output;
        }
        thread::park();
    }
}

/// Polls a few times, woken or not, and then drops the future.
fn poll_for_a_while<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..below(4) {
        if let Poll::Ready(output) = poll(future.as_mut()) {
            return Some(output);
        }
        if one_in(3) {
            thread::park_timeout(ms(2));
        }
        for _ in 0..below(4) {
            thread::switch();
        }
    }
    None
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    future.poll(&mut Context::from_waker(&waker))
}

// ---- writes ----

/// Blocking callers, one that does not wait for room, one whose writes fail, one with exclusive jobs.
fn blocking() {
    let world = world(1, 1);
    let callers = [
        world.caller(|world| {
            world.write((0, 0), WriteOptions::new());
            world.write((0, 1), WriteOptions::new());
        }),
        world.caller(|world| {
            world.write_or_fail((1, 0));
            let mut options = WriteOptions::new();
            if one_in(2) {
                options.durability = Some(Durability::Full);
            } else {
                options.execution_timeout = Some(FAR);
            }
            world.write((1, 1), options);
        }),
        world.caller(|world| {
            let (ticket, held) = world.ledger.write((2, 0));
            ticket.told(&world.store.write(WriteOptions::new(), writes_in_vain(held)));
            world.write_alone((2, 1));
        }),
    ];
    world.end(callers);
}

/// Submitted writes that are waited for later, for a while, or not at all.
fn submitting() {
    let world = world(1 + below(2), 1);
    let callers = [0, 1].map(|caller| {
        world.caller(move |world| {
            let mut waiting = Vec::new();
            for n in 0..3 {
                let (ticket, held) = world.ledger.write((caller, n));
                let pending = world.store.submit(WriteOptions::new(), writes(held));
                waiting.push((ticket, pending.expect("nothing closes the store")));
            }
            for (ticket, mut pending) in waiting {
                match below(4) {
                    0 => {
                        drop(pending);
                        ticket.left_alone();
                    }
                    1 => ticket.told(&block_on(pending)),
                    2 => {
                        let result = pending.wait_timeout(ms(1)).unwrap_or_else(|| pending.wait());
                        ticket.told(&result);
                    }
                    _ => ticket.told(&pending.wait()),
                }
            }
        })
    });
    world.end(callers);
}

/// Tasks that submit beside a thread: each waits for room, or goes away meanwhile, and some wakers call back into the
/// store, which may close.
fn submitting_tasks() {
    let world = world(1 + below(2), 1);
    let closes = one_in(3);
    let tasks = [0, 1].map(|caller| {
        world.caller(move |world| {
            let mut waiting = Vec::new();
            for n in 0..2 {
                let timeout = if one_in(3) { ms(2) } else { FAR };
                let (ticket, held) = world.ledger.write((caller, n));
                let ticket = ticket.within(timeout);
                let options = WriteOptions::queue_timeout(timeout);
                let future: Submits = match timeout {
                    FAR => Box::pin(world.store.submit_async(writes(held))),
                    _ => Box::pin(world.store.submit_async_with(options, writes(held))),
                };
                let queued = match below(4) {
                    0 => poll_for_a_while(future),
                    1 => Some(block_on_calling_back(&world.store, future)),
                    _ => Some(block_on(future)),
                };
                match queued {
                    Some(Ok(pending)) => waiting.push((ticket, pending, timeout == FAR && !closes)),
                    Some(Err(error)) => ticket.told(&Err::<(), _>(error)),
                    None => ticket.gone(),
                }
            }
            for (ticket, pending, surely_runs) in waiting {
                match below(3) {
                    0 if surely_runs => {
                        drop(pending);
                        ticket.left_alone();
                    }
                    1 => ticket.told(&block_on(pending)),
                    _ => ticket.told(&pending.wait()),
                }
            }
        })
    });
    let submitting = world.caller(|world| {
        let (ticket, held) = world.ledger.write((2, 0));
        match world.store.submit(WriteOptions::new(), writes(held)) {
            Ok(pending) => ticket.told(&pending.wait()),
            Err(error) => ticket.told(&Err::<(), _>(error)),
        }
    });
    let closing = closes.then(|| {
        world.caller(|world| {
            world.close(ms(1));
        })
    });
    world.end(tasks.into_iter().chain([submitting]).chain(closing));
}

/// Jobs submitted one after another start in that order, although all but one of them are in the overflow line, some
/// are withdrawn, and different threads await them.
fn order() {
    let world = world(1, 1);
    let mut callers = Vec::new();
    for n in 0..5 {
        let (ticket, held) = world.ledger.write((0, n));
        let mut future = Box::pin(world.store.write_async(writes(held)));
        match poll(future.as_mut()) {
            Poll::Ready(result) => ticket.told(&result),
            Poll::Pending => callers.push(world.caller(move |_| {
                if n % 2 == 1 && one_in(2) {
                    drop(future);
                    ticket.gone();
                } else {
                    ticket.told(&block_on(future));
                }
            })),
        }
    }
    world.end(callers);
}

/// Deadlines that pass, or not, while the writer is working.
fn deadlines() {
    let world = world(1, 1);
    let callers = [
        world.caller(|world| {
            world.write((0, 0), WriteOptions::queue_timeout(ms(2)));
            world.write((0, 1), WriteOptions::queue_timeout(ms(0)));
        }),
        world.caller(|world| {
            let (ticket, held) = world.ledger.write((1, 0));
            let ticket = ticket.within(ms(3));
            match world.store.submit(WriteOptions::queue_timeout(ms(3)), writes(held)) {
                Err(error) => ticket.told(&Err::<(), _>(error)),
                Ok(mut pending) => loop {
                    if let Some(result) = pending.wait_timeout(ms(1)) {
                        break ticket.told(&result);
                    }
                },
            }
        }),
        world.caller(|world| {
            world.write_async((2, 0), ms(2));
            world.write((2, 1), WriteOptions::new());
        }),
        world.caller(|world| world.write_async_for_a_while((3, 0), ms(1))),
    ];
    world.end(callers);
}

/// Checks that at most one caller is admitted at a time, until its write is withdrawn.
fn alone(let_in: &AtomicUsize) {
    assert_eq!(let_in.fetch_add(1, Ordering::SeqCst), 0);
    for _ in 0..below(20) {
        thread::switch();
    }
    let_in.fetch_sub(1, Ordering::SeqCst);
}

/// The writer is held until every deadline has passed, so each caller is woken by its own clock. The queue has room for
/// one job, so one submission at a time is admitted: the next only after a withdrawal.
fn writer_held() {
    let world = world(1, 1);
    let gate = Arc::new(Gate::default());
    let holder = world.hold_writer((0, 0), &gate);
    gate.wait_for_arrival();
    let let_in = Arc::new(AtomicUsize::new(0));
    let submit = |caller: usize, timeout: Duration| {
        let let_in = Arc::clone(&let_in);
        world.caller(move |world| {
            let (ticket, held) = world.ledger.write((caller, 0));
            let result = world.store.submit(WriteOptions::queue_timeout(timeout), writes(held));
            if result.is_ok() {
                alone(&let_in);
            }
            let result = result.and_then(|mut pending| pending.wait_timeout(ms(9)).expect("it is late by then"));
            ticket.within(timeout).told(&result);
        })
    };
    let submitting = [submit(1, ms(2)), submit(2, ms(4))];
    let counts = Arc::clone(&let_in);
    let trying = world.caller(move |world| {
        let (ticket, held) = world.ledger.write((3, 0));
        let mut future = Box::pin(world.store.write_async_with(WriteOptions::or_fail(), writes(held)));
        let result = poll(future.as_mut());
        if result.is_pending() {
            alone(&counts);
        }
        drop(future);
        ticket.gone_in_time();
    });
    let writing = world.caller(|world| world.write((4, 0), WriteOptions::queue_timeout(ms(3))));
    for caller in submitting.into_iter().chain([trying, writing]) {
        caller.join().unwrap();
    }
    assert_eq!(world.ledger.given_up(), 4);
    gate.open();
    world.end([holder]);
}

/// A caller in the overflow line is admitted as soon as there is room, and not only after its write: the write before
/// it waits for that.
fn room_freed() {
    let world = world(1, 1);
    let [first, second] = [(); 2].map(|()| Arc::new(Gate::default()));
    let holder = world.hold_writer((0, 0), &first);
    first.wait_for_arrival();
    let before = world.hold_writer((1, 0), &second);
    let submitting = world.caller(move |world| {
        let (ticket, held) = world.ledger.write((2, 0));
        let pending = match one_in(2) {
            true => world.store.submit(WriteOptions::new(), writes(held)),
            false => block_on(world.store.submit_async(writes(held))),
        };
        let pending = pending.unwrap();
        second.open();
        ticket.told(&pending.wait());
    });
    for _ in 0..below(20) {
        thread::switch();
    }
    first.open();
    world.end([holder, before, submitting]);
}

/// As [`writer_held`], with tasks: only the deadline timer can wake them. One is dropped, and one is submitted after
/// the timer fired.
fn alarm() {
    let world = world(1, 1);
    let gate = Arc::new(Gate::default());
    let holder = world.hold_writer((0, 0), &gate);
    gate.wait_for_arrival();
    // Few, because each later task would wake those that the timer has forgotten.
    let (others, again) = (1 + below(2), one_in(3));
    let callers = [(1, 2), (2, 9), (3, 4)].map(|(caller, late)| {
        world.caller(move |world| {
            if caller > 1 + others {
                return;
            }
            if caller > 1 && one_in(2) {
                thread::park_timeout(ms(2));
            }
            world.write_async((caller, 0), ms(late));
            if caller == 1 && again {
                world.write_async((caller, 1), ms(12));
            }
        })
    });
    let leaving = world.caller(|world| {
        let (ticket, held) = world.ledger.write((4, 0));
        let result = poll_for_a_while(world.store.write_async(writes(held)));
        assert!(result.is_none(), "the writer is held");
        ticket.gone_in_time();
    });
    for caller in callers.into_iter().chain([leaving]) {
        caller.join().unwrap();
    }
    assert_eq!(world.ledger.given_up(), 2 + others + usize::from(again));
    gate.open();
    world.end([holder]);
}

/// Futures that are awaited, and dropped at any moment.
fn tasks() {
    let world = world(1, 1);
    let callers = [
        world.caller(|world| {
            world.write_async_for_a_while((0, 0), FAR);
            world.write_async((0, 1), FAR);
        }),
        world.caller(|world| {
            world.write_async((1, 0), FAR);
            world.write_async_for_a_while((1, 1), FAR);
        }),
        world.caller(|world| {
            let (ticket, held) = world.ledger.write((2, 0));
            ticket.told(&block_on(
                world.store.write_async_with(WriteOptions::or_fail(), writes(held)),
            ));
            world.write_async_for_a_while((2, 1), FAR);
        }),
    ];
    world.end(callers);
}

/// A future that one thread polls and another then awaits, as in runtimes. The first waker must be forgotten.
fn waker_replaced() {
    let world = world(1, 1);
    let callers = [0, 1].map(|caller| {
        world.caller(move |world| {
            let (ticket, held) = world.ledger.write((caller, 0));
            let mut future = Box::pin(world.store.write_async(writes(held)));
            match poll(future.as_mut()) {
                Poll::Ready(result) => ticket.told(&result),
                Poll::Pending => {
                    let awaiting = world.caller(move |_| ticket.told(&block_on(future)));
                    world.write((caller, 1), WriteOptions::new());
                    awaiting.join().unwrap();
                }
            }
        })
    });
    world.end(callers);
}

type Submits = Pin<Box<dyn Future<Output = Result<Pending<()>>> + Send>>;
type Asked = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Runtimes and users may call the store where their wakers are woken and their closures dropped.
struct CallsBack {
    store: Store,
    /// A future that was polled before.
    other: std::sync::Mutex<Option<Asked>>,
    then: Thread,
}

impl CallsBack {
    fn new(store: &Store) -> Self {
        let mut other: Asked = Box::pin(store.write_async(|_| Ok(())));
        let _ = poll(other.as_mut());
        Self {
            store: store.clone(),
            other: std::sync::Mutex::new(Some(other)),
            then: thread::current(),
        }
    }

    fn call(&self) {
        let other = self.other.lock().unwrap().take();
        drop(other);
        let _ = poll(pin!(self.store.write_async(|_| Ok(()))));
    }
}

impl Wake for CallsBack {
    fn wake(self: Arc<Self>) {
        self.call();
        self.then.unpark();
    }
}

impl Drop for CallsBack {
    fn drop(&mut self) {
        self.call();
    }
}

/// As [`block_on`], with wakers that call back.
fn block_on_calling_back<F: Future>(store: &Store, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let waker = Waker::from(Arc::new(CallsBack::new(store)));
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        drop(waker);
        thread::park();
    }
}

/// Wakers and closures that call back: no lock may be held at that point.
fn reentrant_wakers() {
    let world = world(1, 1);
    let callers = [0, 1].map(|caller| {
        world.caller(move |world| {
            let timeout = if one_in(2) { FAR } else { ms(1) };
            let (ticket, held) = world.ledger.write((caller, 0));
            let ticket = ticket.within(timeout);
            let inside = CallsBack::new(&world.store);
            let mut future = Box::pin(
                world
                    .store
                    .write_async_with(WriteOptions::queue_timeout(timeout), move |tx| {
                        let _inside = inside;
                        writes(held)(tx)
                    }),
            );
            let mut looks = below(3);
            let patient = one_in(2);
            while patient || looks > 0 {
                looks = looks.saturating_sub(1);
                let waker = Waker::from(Arc::new(CallsBack::new(&world.store)));
                if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return ticket.told(&result);
                }
                drop(waker);
                if patient {
                    thread::park();
                } else {
                    thread::park_timeout(ms(1));
                }
            }
            drop(future);
            ticket.gone();
        })
    });
    let closing = one_in(2).then(|| {
        world.caller(|world| {
            world.close(ms(1));
        })
    });
    world.end(callers.into_iter().chain(closing));
}

/// A runtime that runs a task where it is woken.
struct Inline {
    future: std::sync::Mutex<Option<Asked>>,
    output: std::sync::Mutex<Option<Result<()>>>,
    then: Thread,
}

impl Inline {
    fn block_on(future: Asked) -> Result<()> {
        let this = Arc::new(Self {
            future: std::sync::Mutex::new(Some(future)),
            output: std::sync::Mutex::default(),
            then: thread::current(),
        });
        loop {
            this.poll();
            if let Some(output) = this.output.lock().unwrap().take() {
                return output;
            }
            thread::park();
        }
    }

    fn poll(self: &Arc<Self>) {
        // The current poller polls again, because `then` is set.
        let Ok(mut future) = self.future.try_lock() else { return };
        let waker = Waker::from(Arc::clone(self));
        if let Some(asked) = &mut *future
            && let Poll::Ready(output) = asked.as_mut().poll(&mut Context::from_waker(&waker))
        {
            *future = None;
            *self.output.lock().unwrap() = Some(output);
        }
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.poll();
        self.then.unpark();
    }
}

/// No lock may be held where a waker is woken, not even that of its own slot.
fn inline_wakers() {
    let world = world(1, 1);
    let callers = [0, 1, 2].map(|caller| {
        world.caller(move |world| {
            let timeout = if caller == 2 { ms(1) } else { FAR };
            let (ticket, held) = world.ledger.write((caller, 0));
            let future = world
                .store
                .write_async_with(WriteOptions::queue_timeout(timeout), writes(held));
            ticket.within(timeout).told(&Inline::block_on(Box::pin(future)));
        })
    });
    world.end(callers);
}

/// Many jobs in the overflow line are withdrawn, each from the middle, while others are submitted and the writer
/// continues.
fn withdrawal() {
    let world = world(1, 1);
    let gate = Arc::new(Gate::default());
    let holder = world.hold_writer((0, 0), &gate);
    gate.wait_for_arrival();
    let calls_back = one_in(4);
    let impatient = world.caller(move |world| {
        let mut futures = Vec::new();
        for n in 0..70 {
            let (ticket, held) = world.ledger.write((1, n));
            let inside = (n > 55 && calls_back).then(|| CallsBack::new(&world.store));
            let mut future = Box::pin(world.store.write_async(move |tx| {
                let _inside = inside;
                writes(held)(tx)
            }));
            match poll(future.as_mut()) {
                Poll::Ready(result) => ticket.told(&result),
                Poll::Pending => futures.push((ticket, future)),
            }
        }
        for (ticket, future) in futures {
            drop(future);
            ticket.gone();
        }
    });
    let patient = world.caller(|world| {
        world.write((2, 0), WriteOptions::new());
        world.write_async((2, 1), FAR);
    });
    for _ in 0..below(600) {
        thread::switch();
    }
    gate.open();
    world.end([holder, impatient, patient]);
}

/// Callers and workers spin before they sleep.
fn spinning() {
    let world = world_with(1, 1, Duration::from_micros(200));
    let callers = [
        world.caller(|world| {
            world.write((0, 0), WriteOptions::new());
            world.write((0, 1), WriteOptions::new());
        }),
        world.caller(|world| {
            world.write((1, 0), WriteOptions::queue_timeout(ms(2)));
            world.write_async((1, 1), FAR);
        }),
        world.caller(|world| world.read_async((2, 0), FAR)),
    ];
    world.end(callers);
}

/// Two callers close the store at once, one with a short timeout, while all kinds of callers submit.
fn closing() {
    let world = world(1, 1);
    let callers = [
        world.caller(|world| {
            world.write((0, 0), WriteOptions::new());
            world.write_alone((0, 1));
        }),
        world.caller(|world| {
            let (ticket, held) = world.ledger.write((1, 0));
            let result = world.store.submit(WriteOptions::new(), writes(held));
            ticket.told(&result.and_then(|pending| pending.wait()));
            world.write_or_fail((1, 1));
        }),
        world.caller(|world| {
            world.write_async((2, 0), FAR);
            world.write_async_for_a_while((2, 1), FAR);
        }),
        world.caller(|world| {
            world.close(if one_in(2) { ms(1) } else { FAR });
        }),
        world.caller(World::close_async),
    ];
    world.end(callers);
}

/// A write continues past the close timeout. The jobs behind it get their replies before it ends.
fn closing_stuck() {
    let world = world(1, 1);
    let gate = Arc::new(Gate::default());
    let holder = world.hold_writer((0, 0), &gate);
    gate.wait_for_arrival();
    let callers = [
        world.caller(|world| world.write((1, 0), WriteOptions::new())),
        world.caller(|world| world.write_async((2, 0), FAR)),
        world.caller(|world| {
            let (ticket, held) = world.ledger.write((3, 0));
            let result = world.store.submit(WriteOptions::new(), writes(held));
            ticket.told(&result.and_then(|pending| pending.wait()));
        }),
        world.caller(|world| {
            let report = world.close(ms(1));
            assert!(!report.wal_truncated, "the writer is held");
        }),
    ];
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(world.ledger.given_up(), 3);
    gate.open();
    world.end([holder]);
}

// ---- the writer's seat ----

/// Blocking callers that find the seat free, taken by another caller, or taken by the writer thread, which a task keeps
/// busy.
fn seat() {
    let world = world_with(1, 1, if one_in(2) { Duration::ZERO } else { ms(1) });
    let mut callers: Vec<_> = [0, 1]
        .map(|caller| {
            world.caller(move |world| {
                for n in 0..3 {
                    world.write((caller, n), WriteOptions::new());
                }
            })
        })
        .into();
    callers.push(world.caller(|world| {
        world.write_async((2, 0), FAR);
        world.write_async_for_a_while((2, 1), FAR);
        world.write_alone((2, 2));
    }));
    world.end(callers);
}

/// A blocking write does not overtake a job that its thread has queued before, even if the seat is free.
fn seat_order() {
    let world = world(1, 1);
    let caller = world.caller(|world| {
        for n in 0..3 {
            let (ticket, held) = world.ledger.write((0, 2 * n));
            let pending = world.store.submit(WriteOptions::new(), writes(held)).unwrap();
            world.write((0, 2 * n + 1), WriteOptions::new());
            ticket.told(&pending.wait());
        }
    });
    let other = world.caller(|world| world.write((1, 0), WriteOptions::new()));
    world.end([caller, other]);
}

/// A closure panics in the seat. Its caller gets the panic, and the seat serves the others.
fn seat_panic() {
    let world = world(1, 1);
    let callers = [0, 1].map(|caller| {
        world.caller(move |world| {
            let (ticket, held) = world.ledger.write((caller, 0));
            let panics = move |tx: &WriteTx<'_>| -> Result<()> {
                held.runs(tx.caller_has_gone());
                tx.write(held.id);
                // Without the panic hook, which counts the panics that nobody wants.
                resume_unwind(Box::new("a closure's panic"))
            };
            let write = || world.store.write(WriteOptions::new(), panics);
            assert!(catch_unwind(AssertUnwindSafe(write)).is_err(), "the panic goes on");
            ticket.told(&Err::<(), _>(Error::App));
            world.write((caller, 1), WriteOptions::new());
        })
    });
    world.end(callers);
}

/// The store is closed while a caller may have the seat, for longer than closing waits. The writer thread closes the
/// connection all the same, or this scenario would not end. Once the queue is closed no write runs, even if the seat is
/// free because the writer thread has yet to wake.
fn seat_closing() {
    let world = world(1, 1);
    let callers = [0, 1].map(|caller| {
        world.caller(move |world| {
            for n in 0..2 {
                let (ticket, held) = world.ledger.write((caller, n));
                ticket.told(&world.store.write(WriteOptions::new(), move |tx| {
                    thread::park_timeout(ms(2));
                    writes(held)(tx)
                }));
            }
        })
    });
    let closing = world.caller(|world| {
        world.ledger.closes();
        // The first step of `close`.
        world.store.queue().close();
        let (ticket, held) = world.ledger.write((2, 0));
        let result = world.store.write(WriteOptions::new(), writes(held));
        assert!(matches!(result, Err(Error::Closed)), "{result:?}");
        ticket.told(&result);
        world.close(if one_in(2) { ms(1) } else { FAR });
    });
    world.end(callers.into_iter().chain([closing]));
}

/// A lone caller leaves a checkpoint to the writer thread, which sleeps.
fn seat_summons() {
    let world = world(1, 1);
    let caller = world.caller(|world| {
        for n in 0..3 {
            world.write((0, n), WriteOptions::new());
            world.ledger.log.wait_for_checkpoint();
        }
    });
    world.end([caller]);
}

/// A closure in the seat of one store writes to another store, whose closure calls the first one again.
fn seat_nested() {
    let world = world(1, 1);
    let beside = world.beside();
    let other = beside.clone();
    let caller = world.caller(move |world| {
        let (ticket, held) = world.ledger.write((0, 0));
        let inner = other.ledger.write((0, 0));
        let (first, second) = (world.store.clone(), other.store.clone());
        let result = world.store.write(WriteOptions::new(), move |tx| {
            let (inner_ticket, inner_held) = inner;
            let here = shuttle::thread::current().id();
            let nested = second.write(WriteOptions::new(), move |tx| {
                // On the writer thread of the second store it would wait for the first one's closure, and so for itself.
                if shuttle::thread::current().id() == here {
                    let again = first.write(WriteOptions::new(), |_| Ok(()));
                    let is_reentrant = matches!(again, Err(Error::Reentrant { .. }));
                    assert!(is_reentrant, "the thread has the seat of the first store");
                }
                writes(inner_held)(tx)
            });
            inner_ticket.told(&nested);
            writes(held)(tx)
        });
        ticket.told(&result);
    });
    let neighbours = [
        world.caller(|world| world.write((1, 0), WriteOptions::new())),
        beside.caller(|world| world.write((1, 0), WriteOptions::new())),
    ];
    caller.join().unwrap();
    for neighbour in neighbours {
        neighbour.join().unwrap();
    }
    beside.close(FAR);
    beside.ledger.balance();
    world.end([]);
}

/// Writes that wait for the replica beside one that does not, and futures that are dropped while they wait.
fn replicated() {
    let world = world(2, 1);
    let callers = [
        world.caller(|world| {
            world.write_replicated((0, 0));
            world.write_replicated((0, 1));
        }),
        world.caller(|world| world.write((1, 0), WriteOptions::new())),
        world.caller(|world| {
            let (ticket, held) = world.ledger.write((2, 0));
            let future = world.store.write_async_with(WriteOptions::replicated(), writes(held));
            match poll_for_a_while(future) {
                Some(result) => world.told_of_replica(ticket, &result),
                None => ticket.gone(),
            }
        }),
    ];
    world.end(callers);
}

/// The store closes while writes wait for the replica.
fn replicated_closing() {
    let world = world(1, 1);
    let callers = [0, 1].map(|caller| world.caller(move |world| world.write_replicated((caller, 0))));
    let closing = world.caller(|world| {
        world.close(FAR);
    });
    world.end(callers.into_iter().chain([closing]));
}

// ---- bulk jobs ----

/// A bulk job beside writes. Some of its slices fail, and their rows are written once more. Its source blocks until rows
/// are committed.
fn bulk_jobs() {
    let world = world(1, 1);
    let job = bulk::Job::new(9);
    let source = Arc::clone(&job);
    let callers = [
        world.caller(|world| {
            world.write((0, 0), WriteOptions::new());
            world.write_async((0, 1), FAR);
        }),
        world.caller(move |_| source.give()),
        world.caller(move |world| job.drive(&world.store)),
    ];
    world.end(callers);
}

/// The same with a source that is a task.
fn bulk_streams() {
    let world = world(1, 1);
    let job = bulk::Job::new(9);
    let source = Arc::clone(&job);
    let callers = [
        world.caller(|world| world.write((0, 0), WriteOptions::new())),
        world.caller(move |_| source.give_polled()),
        world.caller(move |world| job.drive(&world.store)),
    ];
    world.end(callers);
}

/// The store closes while a bulk job runs.
fn bulk_closing() {
    let world = world(1, 1);
    let job = bulk::Job::new(9);
    let source = Arc::clone(&job);
    let is_task = one_in(2);
    let source = world.caller(move |_| if is_task { source.give_polled() } else { source.give() });
    let driver = world.caller(move |world| job.drive(&world.store));
    let closing = world.caller(|world| {
        world.close(ms(1));
    });
    world.end([source, driver, closing]);
}

// ---- the fence ----

/// Nodes that share one replica.
fn one_history() {
    MOST_THREADS.fetch_max(1 + replica::one_history(), Ordering::Relaxed);
}

// ---- reads ----

/// Tasks that read, two workers, and writes that their callers' reads must see.
fn reads() {
    let world = world(2, 2);
    let callers = [
        world.caller(|world| {
            let (ticket, held) = world.ledger.write((0, 0));
            let written = ticket.id();
            ticket.told(&world.store.write(WriteOptions::new(), writes(held)));
            let (ticket, held) = world.ledger.read((0, 1));
            let sees = world.store.read_async(move |tx| {
                held.runs(false);
                Ok(tx.sees(written))
            });
            let sees = block_on(sees);
            ticket.told(&sees);
            assert!(
                sees.unwrap(),
                "a read is as new as every write that was acknowledged before it"
            );
        }),
        world.caller(|world| {
            world.read_async((1, 0), FAR);
            world.read_async_for_a_while((1, 1), FAR);
        }),
        world.caller(|world| {
            world.read_async_for_a_while((2, 0), FAR);
            let (ticket, held) = world.ledger.read((2, 1));
            ticket.told(&block_on(
                world.store.read_async_with(ReadOptions::or_fail(), looks(held)),
            ));
        }),
    ];
    world.end(callers);
}

/// Reads that wait for another read behind them, until all workers but one are stuck.
fn reads_stuck() {
    let workers = 2 + below(2);
    let world = world(1 + below(3), workers as u32);
    let gates: Vec<Arc<Gate>> = (0..workers).map(|_| Arc::default()).collect();
    let callers: Vec<_> = (0..workers)
        .map(|n| {
            let mine = Arc::clone(&gates[n]);
            let next = gates.get(n + 1).cloned();
            world.caller(move |world| {
                let (ticket, held) = world.ledger.read((n, 0));
                ticket.told(&block_on(world.store.read_async(move |_| {
                    held.runs(false);
                    if let Some(next) = next {
                        next.wait();
                    }
                    mine.open();
                    Ok(())
                })));
                world.read_async((n, 1), FAR);
            })
        })
        .collect();
    world.end(callers);
}

/// Reads whose deadline passes while the only worker is stuck, or is not.
fn reads_timed_out() {
    let world = world(1, 1);
    let gate = Arc::new(Gate::default());
    let (opened, held_at) = (one_in(2), Arc::clone(&gate));
    let holder = world.caller(move |world| {
        let (ticket, held) = world.ledger.read((0, 0));
        ticket.told(&block_on(world.store.read_async(move |_| {
            held.runs(false);
            held_at.wait();
            Ok(())
        })));
    });
    if opened {
        gate.open();
    }
    let callers = [(1, 3), (2, 1)].map(|(caller, late)| {
        world.caller(move |world| {
            world.read_async((caller, 0), ms(late));
            world.read_async_for_a_while((caller, 1), ms(late));
            world.read_async((caller, 2), ms(0));
        })
    });
    for caller in callers {
        caller.join().unwrap();
    }
    gate.open();
    world.end([holder]);
}

/// The store is closed while tasks read.
fn reads_closing() {
    let world = world(1, 2);
    let callers = [
        world.caller(|world| {
            world.read_async((0, 0), FAR);
            world.read_async((0, 1), FAR);
        }),
        world.caller(|world| {
            world.read_async_for_a_while((1, 0), ms(1));
            world.read_async((1, 1), ms(2));
        }),
        world.caller(World::close_async),
    ];
    world.end(callers);
}

/// Tasks that have submitted a read and await another one, so they do not take the first reply when they are woken for
/// it.
fn reads_unpolled() {
    let world = world(4, 1 + below(2) as u32);
    let callers = [0, 1, 2].map(|caller| {
        world.caller(move |world| {
            let (ticket, held) = world.ledger.read((caller, 0));
            let mut kept = Box::pin(world.store.read_async(looks(held)));
            let mut result = kept.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            world.read_async((caller, 1), FAR);
            if result.is_pending() && one_in(2) {
                result = Poll::Ready(block_on(kept));
            } else {
                drop(kept);
            }
            match result {
                Poll::Ready(result) => ticket.told(&result),
                Poll::Pending => ticket.gone(),
            }
        })
    });
    world.end(callers);
}

/// As [`reads_unpolled`], beside reads that are dropped: the last job that a worker takes may need no run, or may time
/// out waiting for a connection.
fn reads_given_up() {
    let world = world(8, 1);
    let keepers = [0, 1].map(|caller| {
        world.caller(move |world| {
            let (ticket, held) = world.ledger.read((caller, 0));
            let mut kept = Box::pin(world.store.read_async(looks(held)));
            let result = poll(kept.as_mut());
            world.read_async((caller, 1), FAR);
            match result {
                Poll::Ready(result) => ticket.told(&result),
                Poll::Pending => ticket.told(&block_on(kept)),
            }
        })
    });
    let quitters = [2, 3].map(|caller| {
        world.caller(move |world| {
            for number in 0..2 {
                let (ticket, held) = world.ledger.read((caller, number));
                let mut given_up = Box::pin(world.store.read_async(looks(held)));
                match poll(given_up.as_mut()) {
                    Poll::Ready(result) => ticket.told(&result),
                    Poll::Pending => {
                        drop(given_up);
                        ticket.gone();
                    }
                }
            }
        })
    });
    world.end(keepers.into_iter().chain(quitters));
}

/// The only worker runs a long read that waits for a task whose reply is ready. Other tasks must wake that task: they
/// take their own replies, or are dropped.
fn wake_relay() {
    let world = world(4, 1);
    let (asked, woken) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let (asks, wakes) = (Arc::clone(&asked), Arc::clone(&woken));
    let mut callers = vec![
        world.caller(move |world| {
            let (ticket, held) = world.ledger.read((0, 0));
            let mut read = Box::pin(world.store.read_async(looks(held)));
            let result = poll(read.as_mut());
            asks.open();
            ticket.told(&match result {
                Poll::Ready(result) => result,
                Poll::Pending => block_on(read),
            });
            wakes.open();
        }),
        world.caller(move |world| {
            asked.wait();
            let (ticket, held) = world.ledger.read((1, 0));
            ticket.told(&block_on(world.store.read_async(move |_| {
                held.runs(false);
                woken.wait();
                Ok(())
            })));
        }),
    ];
    callers.extend([2, 3].map(|caller| {
        world.caller(move |world| {
            if one_in(2) {
                world.read_async((caller, 0), FAR);
            } else {
                world.read_async_for_a_while((caller, 0), FAR);
            }
        })
    }));
    world.end(callers);
}

/// One worker with constant work, so that reads join its snapshot, and concurrent writers.
fn reads_joining() {
    let world = world(4, 1);
    let writers = [0, 1].map(|caller| {
        world.caller(move |world| {
            for number in [0, 2] {
                let (ticket, held) = world.ledger.write((caller, number));
                let written = ticket.id();
                ticket.told(&block_on(world.store.write_async(writes(held))));
                let (ticket, held) = world.ledger.read((caller, number + 1));
                let sees = block_on(world.store.read_async(move |tx| {
                    held.runs(false);
                    Ok(tx.sees(written))
                }));
                ticket.told(&sees);
                assert!(sees.unwrap(), "a read that joins a snapshot is as new as any");
            }
        })
    });
    let reader = world.caller(|world| {
        for number in 0..4 {
            world.read_async((2, number), FAR);
        }
    });
    world.end(writers.into_iter().chain([reader]));
}

/// As [`inline_wakers`]: not even the lock of the wake list may be held.
fn reads_inline() {
    let world = world(4, 1 + below(2) as u32);
    let callers = [0, 1, 2].map(|caller| {
        world.caller(move |world| {
            for number in 0..2 {
                let (ticket, held) = world.ledger.read((caller, number));
                ticket.told(&Inline::block_on(Box::pin(world.store.read_async(looks(held)))));
            }
        })
    });
    world.end(callers);
}

/// The rows of a stream and its end, which is the reply of a job. The consumer may go, the store may close, and the time
/// limit of the read or the idle limit may be over.
fn streams() {
    const ROWS: u32 = 7;
    time::begin();
    let channel = Arc::new(RowChannel::new());
    let slot = Arc::new(Slot::new(Caller::Task));
    let closes = Arc::new(crate::sync::atomic::AtomicBool::new(false));
    let limit = one_in(3).then(|| crate::sync::Instant::now() + ms(120));
    let idle = one_in(3).then(|| ms(80));
    let producer = {
        let (channel, slot, closes) = (Arc::clone(&channel), Arc::clone(&slot), Arc::clone(&closes));
        thread::count();
        shuttle::thread::spawn(move || {
            let mut pushed = 0;
            let end = loop {
                if pushed == ROWS {
                    break Ok(pushed);
                }
                match read::push(&channel, pushed, limit, idle, &closes) {
                    Ok(true) => pushed += 1,
                    Ok(false) => break Ok(pushed),
                    Err(error) => break Err(error),
                }
            };
            slot.complete(Reply::Returned(end));
        })
    };
    let closing = one_in(3).then(|| {
        let closes = Arc::clone(&closes);
        thread::count();
        shuttle::thread::spawn(move || closes.store(true, Ordering::SeqCst))
    });
    // As `RowStream` does it.
    let wanted = below(2 * ROWS as usize) as u32;
    let (mut rows, mut taken, mut ended) = (std::collections::VecDeque::new(), 0, None);
    while taken < wanted && ended.is_none() {
        block_on(std::future::poll_fn(|context| {
            channel.poll();
            if channel.take(&mut rows, context) {
                return Poll::Ready(());
            }
            slot.poll_reply(context, one_in(2)).map(|end| {
                channel.take_rest(&mut rows);
                ended = Some(end);
            })
        }));
        for row in rows.drain(..) {
            assert_eq!(row, taken, "the rows come once and in order");
            taken += 1;
        }
    }
    match &ended {
        None => channel.leave(),
        Some(Ok(pushed)) => assert_eq!((*pushed, taken), (ROWS, ROWS), "it is complete"),
        Some(Err(_)) => assert!(
            limit.is_some() || idle.is_some() || closing.is_some(),
            "nothing has cut it off"
        ),
    }
    for thread in [Some(producer), closing].into_iter().flatten() {
        thread.join().expect("shuttle stops at a panic");
    }
    assert!(!panicked(), "a panic was caught");
    MOST_THREADS.fetch_max(1 + thread::join_all(), Ordering::Relaxed);
}
