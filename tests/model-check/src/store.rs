//! In place of larder's `Store`: the calls of threads. The calls of tasks are larder's own.

use std::panic::Location;
use std::time::Duration;

use crate::error::{Error, Outcome, Result};
use crate::ledger::Log;
use crate::options::{Options, ReadOptions, WriteOptions};
use crate::queue::pending::{Pending, Queue};
use crate::queue::slot::Caller;
use crate::queue::spin::AdaptiveSpin;
use crate::queue::{JobQueue, Submission};
use crate::read::Readers;
use crate::replica::Replica;
use crate::runtime::clock::later;
use crate::sync::{Arc, Instant, thread};
use crate::telemetry::call_site::CallSite;
use crate::transaction::WriteTx;
use crate::write::Writer;
use crate::write::closing::{CloseReport, Closing};
use crate::write::context::{Exclusive, WriteOrder, Writes};
use crate::write::seat::Seat;

#[path = "../../../src/store/futures.rs"]
mod futures;

/// How long a closer waits for the writer's last steps.
const LAST_WORDS: Duration = Duration::from_millis(100);

pub(crate) struct Shared {
    pub(crate) queue: Arc<JobQueue<Writes>>,
    pub(crate) closing: Closing,
    pub(crate) replica: Replica,
}

#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
}

struct Engine {
    options: Options,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    seat: Arc<Seat>,
}

impl Store {
    pub(crate) fn open(options: Options, log: &Arc<Log>) -> Self {
        let spin = AdaptiveSpin::new(options.patience);
        let shared = Arc::new(Shared {
            queue: JobQueue::new(Writes, options.queue_capacity, 1, spin),
            closing: Closing::default(),
            replica: Replica::new(Arc::clone(log)),
        });
        let uploads = thread::Builder::new().name("larder-replica".into());
        let its_shared = Arc::clone(&shared);
        uploads
            .spawn(move || its_shared.replica.upload_until_closed())
            .expect("shuttle always has one more");
        let readers = Arc::new(Readers::new(&options, Arc::clone(log)));
        let seat = Seat::new(Writer::new(Arc::clone(&shared), Arc::clone(&readers), Arc::clone(log)));
        let thread = thread::Builder::new().name("larder-writer".into());
        let (its_seat, its_shared) = (Arc::clone(&seat), Arc::clone(&shared));
        thread
            .spawn(move || its_seat.serve(&its_shared))
            .expect("shuttle always has one more");
        let engine = Engine {
            options,
            shared,
            readers,
            seat,
        };
        Self {
            inner: Arc::new(Inner { engine }),
        }
    }

    pub(crate) fn write<T, F>(&self, options: WriteOptions, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let order = WriteOrder::of(&options, self.engine().options.durability);
        let submission = self.engine().write_submission("write", options, Caller::Thread);
        self.engine().shared.write(&self.engine().seat, submission, order, f)
    }

    pub(crate) fn submit<T, F>(&self, options: WriteOptions, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let pending = self.enqueue("submit", options, Caller::Submitter, f)?;
        pending.wait_for_room()?;
        Ok(pending)
    }

    pub(crate) fn run_exclusive<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce(&mut Writer) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let submission = self
            .engine()
            .write_submission("migrate", WriteOptions::new(), Caller::Thread);
        let shared = &self.engine().shared;
        shared.enqueue::<Exclusive, _, _>(submission, (), f)?.wait()
    }

    fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// No handle has a label here.
    fn write_options(&self, options: WriteOptions) -> WriteOptions {
        options
    }

    fn read_options(&self, options: ReadOptions) -> ReadOptions {
        options
    }

    pub(crate) fn close_within(&self, timeout: Duration) -> Result<CloseReport> {
        self.engine().may_close()?;
        Ok(self.engine().close(timeout))
    }

    fn enqueue<T, F>(&self, call: &'static str, options: WriteOptions, caller: Caller, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let order = WriteOrder::of(&options, self.engine().options.durability);
        let submission = self.engine().write_submission(call, options, caller);
        self.engine().shared.enqueue_write(submission, order, f)
    }

    /// Queues a slice of a bulk job.
    pub(crate) fn submit_slice<T, F>(&self, is_alone: bool, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let order = WriteOrder::of_slice(self.engine().options.durability, is_alone);
        let submission = self
            .engine()
            .write_submission("bulk", WriteOptions::new(), Caller::Thread);
        self.engine().shared.enqueue_write(submission, order, f)
    }

    pub(crate) fn queue(&self) -> &JobQueue<Writes> {
        &self.engine().shared.queue
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.engine().shared.replica
    }

    /// Whether both queues are empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue().pop().is_none() && self.engine().readers.is_empty()
    }
}

impl Shared {
    /// Each store writes.
    pub(crate) fn only_reads(&self, _call: &'static str) -> Option<Error> {
        None
    }

    /// No disk fails here.
    pub(crate) fn poison(&self) -> Option<Error> {
        None
    }

    pub(crate) fn keeper(&self) -> Option<&Replica> {
        Some(&self.replica)
    }

    /// Larder itself does not panic here.
    pub(crate) fn end_after_panic(&self) {
        unreachable!("larder panicked in the seat");
    }
}

impl Engine {
    fn may_close(&self) -> Result<()> {
        if self.shared.queue.is_worker() || self.readers.is_reader_thread() {
            let instead = "outside";
            return Err(Error::Reentrant {
                call: "close",
                instead,
                outcome: Outcome::NotStarted,
            });
        }
        Ok(())
    }

    /// As `Engine::write_submission`.
    pub(crate) fn write_submission(&self, call: &'static str, options: WriteOptions, caller: Caller) -> Submission {
        Submission {
            call,
            site: CallSite::new(options.label, Location::caller()),
            timeout: options.queue_timeout.unwrap_or(self.options.queue_timeout),
            caller,
            when_full: options.when_full,
        }
    }

    fn close(&self, timeout: Duration) -> CloseReport {
        let deadline = later(Instant::now(), timeout);
        self.shared.closing.ask(deadline);
        self.shared.queue.close();
        let closing = &self.shared.closing;
        if let Some(report) = closing.wait(deadline) {
            return report;
        }
        self.shared.queue.discard();
        closing
            .wait(later(deadline, LAST_WORDS))
            .unwrap_or_else(|| CloseReport {
                finished: 0,
                never_started: self.shared.queue.discarded(),
                wal_truncated: false,
                wal_kept_because: None,
                replicated: None,
                not_replicated_because: None,
                duration: timeout,
            })
    }
}
