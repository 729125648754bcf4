//! [`Engine`]: one open store, as its features see it. Migrations, checks, vacuums and backups hold an engine, and
//! [`Store`](crate::Store) offers its verbs.
//!
//! The engine knows the parts that read and write, and none of the features: it has no field that belongs to a single
//! feature.

mod close;

use std::fmt;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::Connection;

use crate::connection::file::DatabaseFile;
use crate::connection::interrupt::Interrupt;
use crate::connection::temp_folder::{self, TempFolder};
use crate::connection::{check_key, check_sqlite, open_only_to_read, open_writer, read_back, seen_with};
use crate::error::{Error, Outcome, Result};
use crate::monitor::watchdog::Watchdog;
use crate::options::{Durability, ReadOptions, Settings, WhenFull, WriteOptions};
use crate::queue::pending::{Pending, Queue};
use crate::queue::slot::Caller;
use crate::queue::spin::AdaptiveSpin;
use crate::queue::{JobQueue, Submission};
use crate::read::Readers;
use crate::runtime::timer;
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;
use crate::telemetry::stats::ReadOnly;
use crate::transaction::{ReadTx, WriteTx};
use crate::write::context::{Exclusive, WriteOrder, Writes, no_replica};
use crate::write::log_keeper::LogKeeper;
use crate::write::seat::Seat;
use crate::write::{Shared, Writer};

/// Makes the keeper of the log of a store whose file has just been opened.
pub(crate) type KeepLog<'a> =
    Box<dyn FnOnce(&Arc<Shared>, &Connection, &Arc<Telemetry>) -> Result<Arc<dyn LogKeeper>> + 'a>;

/// One open store. Its drop closes it.
pub(crate) struct Engine {
    id: u64,
    pub(crate) options: Settings,
    pub(crate) shared: Arc<Shared>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) watch: Watchdog,
    /// Shared with the writer thread, which closes what is in it.
    seat: Arc<Seat>,
    /// Shared with the writer thread: the last owner deletes the folder.
    _folder: Option<Arc<TempFolder>>,
}

impl Engine {
    /// Opens the file and starts the writer thread. The settings are valid. `patience` bounds the wait for a lock of
    /// another process. `keep_log` makes the keeper of the log, once the file is open.
    pub(crate) fn open(
        options: Settings,
        path: &Path,
        folder: Option<Arc<TempFolder>>,
        patience: Duration,
        keep_log: Option<KeepLog<'_>>,
    ) -> Result<Self> {
        let options = Settings {
            keeps_log: keep_log.is_some(),
            ..options.in_effect()
        };
        if options.durability == Durability::Replicated && !options.keeps_log {
            return Err(no_replica());
        }
        static STORES: AtomicU64 = AtomicU64::new(1);
        check_sqlite(path)?;
        check_key(&options)?;
        timer::start().map_err(|error| Error::no_thread(path, "its timer", error))?;
        let id = STORES.fetch_add(1, Relaxed);
        let file = DatabaseFile::prepare(path, &options, id)?;
        let (open_file, writer) = if options.read_only {
            open_only_to_read(&file, &options, patience)?
        } else {
            temp_folder::tidy(file.path.parent().unwrap_or(Path::new("/")));
            open_writer(&file, &options, patience)?
        };
        let options = open_file
            .read_only()
            .map_or_else(|| options.clone(), |seen| seen_with(&options, &file.path, seen));
        // From here on the connections hold the claim.
        drop(file);
        let page_size = read_back(&writer.conn, "page_size")?;
        let journal_mode = read_back(&writer.conn, "journal_mode")?;
        let spin = AdaptiveSpin::new(options.spin_time);
        let queue = JobQueue::new(Writes, options.queue_capacity, 1, spin);
        let shared = Arc::new(Shared::new(Arc::clone(&open_file), queue));
        let telemetry = Arc::new(Telemetry::new(options.max_call_sites, options.max_statements));
        let readers = Readers::open(&open_file, &options, &telemetry, patience)?;
        if let Some(keep_log) = keep_log {
            let keeper = writer
                .guard
                .as_internal(|| keep_log(&shared, &writer.conn, &telemetry))?;
            shared.keep_log(keeper);
        }
        let seat = Writer::start(
            writer,
            options.clone(),
            Arc::clone(&shared),
            Arc::clone(&readers),
            Arc::clone(&telemetry),
            folder.clone(),
        )?;
        // Created last, because the drop of an `Engine` waits for the writer thread.
        let engine = Self {
            id,
            watch: Watchdog::start(&shared, &readers, &telemetry, &options),
            options,
            shared,
            readers,
            telemetry,
            seat,
            _folder: folder,
        };
        engine.report_open(&page_size, &journal_mode);
        Ok(engine)
    }

    /// The database file, as an absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The queue of writes.
    pub(crate) fn queue(&self) -> &JobQueue<Writes> {
        &self.shared.queue
    }

    /// Runs `f` in one snapshot, on this thread.
    #[track_caller]
    pub(crate) fn read<T>(&self, options: ReadOptions, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        let timeout = options.queue_timeout.unwrap_or(self.options.read_queue_timeout);
        let site = CallSite::new(options.label, Location::caller());
        let limit = options.execution_timeout;
        self.readers
            .read(timeout, options.when_full, limit, site, self.queue().is_worker(), f)
    }

    /// Runs larder's own inspection for damage, in a snapshot of a reader.
    pub(crate) fn inspect<T>(&self, f: impl FnOnce(&Connection, &Arc<Interrupt>) -> rusqlite::Result<T>) -> Result<T> {
        let timeout = self.options.read_queue_timeout;
        let site = CallSite::Label("larder: check".into());
        self.readers.inspect(timeout, site, self.queue().is_worker(), f)
    }

    /// Runs larder's own queries in one snapshot of a reader, which are not counted as the application's. `work` names
    /// them in the statistics of running reads.
    pub(crate) fn read_internal<T>(
        &self,
        work: &'static str,
        timeout: Duration,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T>,
    ) -> Result<T> {
        let site = CallSite::Label(work.into());
        self.readers.read_internal(timeout, site, self.queue().is_worker(), f)
    }

    /// Runs larder's own work on the writer thread, with the writer to itself.
    pub(crate) fn run_exclusive<T, F>(&self, call: &'static str, f: F) -> Result<T>
    where
        F: FnOnce(&mut Writer) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        run_exclusive(&self.shared, &self.options, call, f)
    }

    /// Runs a write of a thread that waits for its reply.
    #[track_caller]
    pub(crate) fn write<T, F>(&self, call: &'static str, options: WriteOptions, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let order = WriteOrder::of(&options, self.options.durability);
        let submission = self.write_submission(call, options, Caller::Thread);
        self.shared.write(&self.seat, submission, order, f)
    }

    /// Queues a write of a thread.
    #[track_caller]
    pub(crate) fn enqueue_write<T, F>(
        &self,
        call: &'static str,
        options: WriteOptions,
        caller: Caller,
        f: F,
    ) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let order = WriteOrder::of(&options, self.options.durability);
        let submission = self.write_submission(call, options, caller);
        self.shared.enqueue_write(submission, order, f)
    }

    /// A write as the queue takes it. Its timeout defaults to that of the store.
    #[track_caller]
    pub(crate) fn write_submission(&self, call: &'static str, options: WriteOptions, caller: Caller) -> Submission {
        Submission {
            call,
            site: CallSite::new(options.label, Location::caller()),
            timeout: options.queue_timeout.unwrap_or(self.options.queue_timeout),
            caller,
            when_full: options.when_full,
        }
    }

    fn report_open(&self, page_size: &str, journal_mode: &str) {
        let options = &self.options;
        event!(
            info,
            "larder::open",
            self.shared.path,
            {
                sqlite = rusqlite::version(),
                access = ?options.access,
                durability = ?options.durability,
                journal_mode,
                read_only = self.shared.file.read_only().map(ReadOnly::name),
                page_size,
                readers = options.readers,
                queue_capacity = options.queue_capacity,
                busy_timeout_ms = options.busy_timeout.as_millis() as u64,
                cache_size = options.cache_size,
                mmap_size = options.mmap_size,
                foreign_keys = options.foreign_keys,
                journal_size_limit = options.journal_size_limit,
                checkpoints = ?options.checkpoints,
                checkpoint_pages = options.checkpoint_pages,
                wal_limit = options.wal_limit,
                wal_hard_limit = options.wal_hard_limit,
            },
            "store opened"
        );
    }
}

/// Runs larder's own work on the writer thread of a store, with the writer to itself.
pub(crate) fn run_exclusive<T, F>(shared: &Shared, options: &Settings, call: &'static str, f: F) -> Result<T>
where
    F: FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    if shared.queue.is_left() {
        return Err(Error::forked());
    }
    if shared.queue.is_worker() {
        let instead = "call it outside the closure of a write";
        let outcome = Outcome::NotStarted;
        return Err(Error::Reentrant { call, instead, outcome });
    }
    // Another exclusive job may be running, and callers wait for it as long as for a migration.
    let submission = Submission {
        call,
        site: CallSite::Label(format!("larder: {call}").into()),
        timeout: options.queue_timeout.max(options.migration_timeout),
        caller: Caller::Thread,
        when_full: WhenFull::Wait,
    };
    shared.enqueue::<Exclusive, _, _>(submission, (), f)?.wait()
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
