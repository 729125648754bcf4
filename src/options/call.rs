//! The options of one write and of one read.

use std::borrow::Cow;
use std::time::Duration;

use super::Durability;
#[cfg(doc)]
use crate::error::Error;

/// What a call does when its queue is full. See [`WriteOptions::when_full`] and [`ReadOptions::when_full`].
///
/// ```
/// use larder::{ReadOptions, WhenFull, WriteOptions};
///
/// let write = WriteOptions::new().when_full(WhenFull::Fail);
/// let read = ReadOptions::new().when_full(WhenFull::Fail);
/// # let _ = (write, read);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The call waits for room, first come, first served, until its queue timeout is over.
    #[default]
    Wait,
    /// The call fails at once with [`Error::QueueFull`].
    Fail,
}

/// The options of one write, for [`Store::write_with`](crate::Store::write_with),
/// [`Store::submit_with`](crate::Store::submit_with) and [`Store::write_async_with`](crate::Store#async).
///
/// ```
/// use std::time::Duration;
/// use larder::{Durability, WriteOptions};
///
/// # let store = larder::Store::open_temp()?;
/// # store.write(|tx| tx.execute_batch("CREATE TABLE payments(cents INTEGER) STRICT"))?;
/// let options = WriteOptions::new()
///     .durability(Durability::Full)
///     .queue_timeout(Duration::from_secs(1))
///     .execution_timeout(Duration::from_secs(2))
///     .label("payment");
/// store.write_with(options, |tx| tx.insert("INSERT INTO payments VALUES (250)", []))?;
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub(crate) durability: Option<Durability>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) execution_timeout: Option<Duration>,
    pub(crate) when_full: WhenFull,
    pub(crate) label: Option<Cow<'static, str>>,
}

impl WriteOptions {
    /// Creates options with the store's settings, and the `file:line` of the call as the label.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the acknowledgement of this write guarantees, if that is more than the store's
    /// [`Options::durability`](crate::Options::durability). The whole group of the write becomes as durable.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// How long the write may wait to start. The default is [`Options::queue_timeout`](crate::Options::queue_timeout).
    /// When the time is over, the write fails with [`Error::QueueTimeout`] and never runs. A write that has started is
    /// not affected; [`execution_timeout`](Self::execution_timeout) bounds its run time.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = Some(timeout);
        self
    }

    /// How long the closure may run. The default is no limit. When the time is over, the write is rolled back with
    /// [`Error::Interrupted`]. The write gets a transaction of its own, because SQLite rolls back the whole transaction
    /// of a statement that it interrupts.
    ///
    /// SQL stops within a few milliseconds: in the middle of a statement, or where the next statement begins. Other
    /// code in the closure is not stopped; if it takes too long, the write is rolled back when the closure returns. If
    /// the closure returns an error of its own, the caller gets that error.
    pub fn execution_timeout(mut self, timeout: Duration) -> Self {
        self.execution_timeout = Some(timeout);
        self
    }

    /// What the call does when the queue of writes ([`Options::queue_capacity`](crate::Options::queue_capacity)) is
    /// full. The default is [`WhenFull::Wait`].
    ///
    /// ```
    /// use larder::{Error, WhenFull, WriteOptions};
    ///
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE hits(page TEXT) STRICT"))?;
    /// let shed = WriteOptions::new().when_full(WhenFull::Fail);
    /// match store.write_with(shed, |tx| tx.insert("INSERT INTO hits VALUES ('/')", [])) {
    ///     Err(Error::QueueFull { .. }) => println!("busy: try again later"),
    ///     written => println!("row {}", written?),
    /// }
    /// # Ok::<_, Error>(())
    /// ```
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// The name of this write in events and statistics, at most 256 bytes. The default is the `file:line` of the call.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label = Some(label.into());
        self
    }
}

/// The options of one read, for [`Store::read_with`](crate::Store::read_with) and
/// [`Store::read_async_with`](crate::Store#async).
///
/// ```
/// use std::time::Duration;
/// use larder::ReadOptions;
///
/// # let store = larder::Store::open_temp()?;
/// let options = ReadOptions::new()
///     .queue_timeout(Duration::from_secs(1))
///     .execution_timeout(Duration::from_secs(2))
///     .label("report");
/// let one: i64 = store.read_with(options, |tx| tx.scalar("SELECT 1", []))?;
/// # assert_eq!(one, 1);
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) execution_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) when_full: WhenFull,
    pub(crate) label: Option<Cow<'static, str>>,
}

impl ReadOptions {
    /// Creates options with the store's settings, and the `file:line` of the call as the label.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the read may wait for a connection. For an async read this includes the wait for a reader thread. The
    /// default is [`Options::read_queue_timeout`](crate::Options::read_queue_timeout). When the time is over, the read
    /// fails with [`Error::ReadQueueTimeout`] and never runs.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = Some(timeout);
        self
    }

    /// How long the closure may run, not counting the wait for a connection. The default is no limit, because only the
    /// program knows how long a read may take. When the time is over, the read fails with [`Error::Interrupted`].
    ///
    /// SQL stops within a few milliseconds: in the middle of a statement, or where the next statement begins. Other
    /// code in the closure is not stopped; if it takes too long, the error replaces its result when it returns. If the
    /// closure returns an error of its own, the caller gets that error. With
    /// [`Options::interrupt_old_readers`](crate::Options::interrupt_old_readers), the shorter of the two times applies.
    pub fn execution_timeout(mut self, timeout: Duration) -> Self {
        self.execution_timeout = Some(timeout);
        self
    }

    /// How long a stream (`Store::read_stream_with`) waits for a consumer that does not poll it. The default is
    /// [`Options::stream_idle_timeout`](crate::Options::stream_idle_timeout). When the time is over, the stream ends with
    /// [`Error::Interrupted`], after the rows that were read before. Other reads have no consumer, and ignore it.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// What the call does when there is no room for it: when the queue of async reads
    /// ([`Options::queue_capacity`](crate::Options::queue_capacity)) is full, or, for a read on the calling thread,
    /// when every connection of the pool ([`Options::readers`](crate::Options::readers)) is in use. The default is
    /// [`WhenFull::Wait`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// The name of this read in events and statistics, at most 256 bytes. The default is the `file:line` of the call.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label = Some(label.into());
        self
    }
}
