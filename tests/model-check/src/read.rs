//! In place of larder's pool: connections that are free at once or after a while. The threads are larder's own.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ledger::{Id, Log};
use crate::options::{Options, WhenFull};
use crate::queue::JobQueue;
use crate::queue::spin::AdaptiveSpin;
use crate::runtime::cancellation::is_cancelled;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Instant, Mutex, thread};
use crate::telemetry::call_site::CallSite;
use crate::time::{self, one_in};
use crate::transaction::ReadTx;

#[path = "../../../src/read/context.rs"]
pub(crate) mod context;
#[expect(dead_code, reason = "the progress handler asks for more than the model does")]
#[path = "../../../src/read/row_channel.rs"]
mod row_channel;
#[path = "../../../src/read/worker.rs"]
mod worker;

use context::Reads;
pub(crate) use row_channel::RowChannel;

/// Pushes a row of which two fill the channel. Returns whether the stream goes on, and if not, whether it was cut off.
pub(crate) fn push(channel: &RowChannel<u32>, row: u32, limit: Option<Instant>, idle: Option<Duration>, closes: &AtomicBool) -> Result<bool> {
    use row_channel::{Patience, Stop};

    let patience = || Patience {
        deadline: limit,
        idle: idle.unwrap_or(Duration::MAX),
    };
    match channel.push(row, 128 * 1024, patience, |_| {}, || closes.load(Ordering::SeqCst)) {
        Ok(()) => Ok(true),
        Err(Stop::ConsumerGone) => Ok(false),
        Err(Stop::Closing | Stop::Late | Stop::Idle) => Err(Error::Closed),
    }
}

/// Replaces `read/freshness.rs`: it reads the log, and sometimes cannot tell.
mod freshness {
    use super::Readers;
    use crate::time::one_in;

    pub(super) type Version = usize;

    pub(super) struct Freshness<'r> {
        readers: &'r Readers,
        seen: Option<Version>,
    }

    impl<'r> Freshness<'r> {
        pub(super) fn new(readers: &'r Readers) -> Self {
            Self { readers, seen: None }
        }

        pub(super) fn seen(&self) -> Option<Version> {
            self.seen
        }

        pub(super) fn is_latest(&mut self, seen: Option<Version>) -> bool {
            if one_in(8) {
                return false;
            }
            self.seen = Some(self.readers.log.copy().len());
            self.seen == seen
        }
    }
}

const CLOSE_POLL: Duration = Duration::from_millis(50);

pub(crate) struct Readers {
    queue: Arc<JobQueue<Reads>>,
    size: u32,
    path: PathBuf,
    threads_run: AtomicBool,
    starting_threads: Mutex<worker::Started>,
    log: Arc<Log>,
}

impl Readers {
    pub(crate) fn new(options: &Options, log: Arc<Log>) -> Self {
        let spin = AdaptiveSpin::new(options.patience);
        Self {
            queue: JobQueue::new(
                Reads::new(options.readers),
                options.queue_capacity,
                options.readers as usize,
                spin,
            ),
            size: options.readers,
            path: PathBuf::new(),
            threads_run: AtomicBool::new(false),
            starting_threads: Mutex::new(worker::Started::default()),
            log,
        }
    }

    fn check_out(&self, timeout: Duration, _when_full: WhenFull, _on_writer_thread: bool) -> Result<CheckedOut<'_>> {
        if one_in(16) {
            thread::switch();
            time::pass(timeout);
            return Err(Error::ReadQueueTimeout {
                waited: timeout,
                readers: self.size,
                held_here: 0,
                last_error: None,
                context: None,
            });
        }
        Ok(CheckedOut {
            reader: Reader,
            _pool: PhantomData,
        })
    }

    fn check_out_again(&self, timeout: Duration) -> Result<CheckedOut<'_>> {
        self.check_out(timeout, WhenFull::Wait, false)
    }

    fn begin<'r>(&self, reader: &'r mut Reader, _site: CallSite) -> Result<Snapshot<'r>> {
        Ok(Snapshot {
            log: self.log.copy(),
            _reader: reader,
        })
    }

    /// A subscriber takes its time.
    fn report_slow(&self, _slow: Vec<()>) {
        thread::switch();
        time::pass(Duration::from_millis(5));
    }

    pub(crate) fn close(&self) {
        self.queue.close();
        self.queue.discard();
    }

    /// Whether the queue is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.pop().is_none()
    }
}

struct Reader;

struct CheckedOut<'r> {
    reader: Reader,
    _pool: PhantomData<&'r Readers>,
}

impl CheckedOut<'_> {
    fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Some reads were slow.
    fn give_back(self) -> Vec<()> {
        if one_in(8) { vec![()] } else { Vec::new() }
    }
}

/// The commits at the start of the snapshot.
pub(crate) struct Snapshot<'r> {
    log: Vec<Id>,
    _reader: &'r mut Reader,
}

impl Snapshot<'_> {
    pub(crate) fn read<T>(&mut self, _limit: Option<Duration>, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        if is_cancelled() {
            return Err(Error::Interrupted {});
        }
        let result = f(&ReadTx(&self.log));
        if is_cancelled() {
            return Err(Error::Interrupted {});
        }
        result
    }

    fn enter(&mut self, _site: CallSite) {}

    fn pause(&mut self) {}

    fn since(&self) -> Instant {
        Instant::now()
    }

    fn serves_more(&self) -> bool {
        !one_in(8)
    }
}
