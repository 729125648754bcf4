//! The exact moment in which a write is answered, as the writer thread reports it. The caller's own thread would get a
//! core some time later.

use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use larder::Pending;

use crate::trace::Disk;

/// A write without a reply for this long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Asked {
    pub number: Arc<AtomicI64>,
    pub answer: Answer,
    pub bell: Arc<Bell>,
}

impl Asked {
    /// The job's number, its reply, and the moment of the reply.
    pub fn wait(self) -> (i64, Reply, usize) {
        let result = match self.answer {
            Answer::Here(result) => result,
            Answer::Awaited(pending) => self.bell.wait_for(pending),
        };
        (self.number.load(Ordering::SeqCst), result, self.bell.rung_at())
    }
}

/// The result of a closure, or its panic.
pub type Reply = thread::Result<larder::Result<i64>>;

pub enum Answer {
    Here(Reply),
    Awaited(Pending<i64>),
}

/// Opens once the writer thread runs the first job of a group.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    /// Waits until the gate is open, or until the job has a reply without having run.
    pub fn wait(&self, bell: &Bell) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open && !bell.has_rung() {
            let waited = self.opened.wait_timeout(open, Duration::from_millis(1));
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The waker that the writer thread calls with the reply. It records the exact moment, and not the moment at which the
/// caller's thread gets a core.
pub struct Bell {
    disk: Arc<Disk>,
    at: AtomicUsize,
    /// Whether the closure has begun and has no reply yet.
    running: AtomicBool,
    rung: Mutex<bool>,
    ringing: Condvar,
}

impl Bell {
    pub fn new(disk: &Arc<Disk>) -> Self {
        Self {
            disk: Arc::clone(disk),
            at: AtomicUsize::new(usize::MAX),
            running: AtomicBool::new(false),
            rung: Mutex::new(false),
            ringing: Condvar::new(),
        }
    }

    pub fn begin(&self) {
        self.running.store(true, Ordering::SeqCst);
        self.disk.running.fetch_add(1, Ordering::SeqCst);
    }

    pub fn ring(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        self.at.store(self.disk.now(), Ordering::SeqCst);
        *rung = true;
        if self.running.swap(false, Ordering::SeqCst) {
            self.disk.running.fetch_sub(1, Ordering::SeqCst);
        }
        self.ringing.notify_all();
    }

    pub fn has_rung(&self) -> bool {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn rung_at(&self) -> usize {
        self.at.load(Ordering::SeqCst)
    }

    /// Polls with this bell as the waker.
    pub fn poll(self: &Arc<Self>, pending: &mut Pending<i64>) -> Option<Reply> {
        let waker = Waker::from(Arc::clone(self));
        let mut context = Context::from_waker(&waker);
        let polled = panic::catch_unwind(AssertUnwindSafe(|| Pin::new(&mut *pending).poll(&mut context)));
        match polled {
            Ok(Poll::Pending) => None,
            Ok(Poll::Ready(result)) => Some(Ok(result)),
            Err(payload) => Some(Err(payload)),
        }
    }

    pub fn wait_for(self: &Arc<Self>, mut pending: Pending<i64>) -> Reply {
        loop {
            self.wait();
            // The bell may also have rung to make the caller check the clock.
            if let Some(reply) = self.poll(&mut pending) {
                return reply;
            }
        }
    }

    /// Waits for the next ring. Also returns at once if the bell has rung before.
    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            let waited = self.ringing.wait_timeout(rung, PATIENCE);
            let (guard, time) = waited.unwrap_or_else(PoisonError::into_inner);
            assert!(!time.timed_out(), "a write has no answer");
            rung = guard;
        }
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}
