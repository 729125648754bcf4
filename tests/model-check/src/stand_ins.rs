//! Stand-ins for the parts of larder that the model leaves out: SQLite, the options, the errors.

/// Replaces `runtime/clock.rs`.
pub(crate) mod clock {
    use std::time::Duration;

    use crate::time::Instant;

    pub(crate) fn later(from: Instant, by: Duration) -> Instant {
        from + by
    }
}

/// Replaces `runtime/fork.rs`: no process forks.
pub(crate) mod fork {
    #[derive(Clone, Copy)]
    pub(crate) struct Process;

    impl Process {
        pub(crate) fn current() -> Self {
            Self
        }

        pub(crate) fn is_left(self) -> bool {
            false
        }
    }

    pub(crate) fn end_child() -> ! {
        unreachable!("nobody forks")
    }
}

/// Replaces `runtime/random.rs`: the schedule chooses the numbers.
pub(crate) mod random {
    use crate::time::below;

    pub(crate) fn number() -> u64 {
        1 + below(usize::MAX - 1) as u64
    }
}

/// Replaces `runtime/timer.rs`: each timer has its own thread, so two may fire at once.
pub(crate) mod timer {
    use crate::sync::thread;
    use crate::time::{HORIZON, Instant};

    pub(crate) fn at(deadline: Instant, f: impl FnOnce() + Send + 'static) {
        if deadline.saturating_duration_since(Instant::now()) >= HORIZON {
            return;
        }
        let ring = move || {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return f();
                }
                thread::park_timeout(left);
            }
        };
        let thread = thread::Builder::new().name("larder-timer".into());
        thread.spawn(ring).expect("shuttle always has one more");
    }
}

/// Replaces `error/mod.rs`, with the names in use.
pub(crate) mod error {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use crate::sync::Arc;

    pub type Result<T, E = Error> = std::result::Result<T, E>;

    #[derive(Debug)]
    pub enum Outcome {
        NotStarted,
        Unknown,
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "what is only printed")]
    pub enum Error {
        Open {
            path: PathBuf,
            problem: String,
            source: Option<Box<dyn std::error::Error + Send + Sync>>,
        },
        QueueFull {
            capacity: usize,
            context: Option<()>,
        },
        QueueTimeout {
            waited: Duration,
            context: Option<()>,
        },
        ReadQueueTimeout {
            waited: Duration,
            readers: u32,
            held_here: usize,
            last_error: Option<String>,
            context: Option<()>,
        },
        CommitUnknown {
            source: Arc<String>,
        },
        Sqlite(String),
        Reentrant {
            call: &'static str,
            instead: &'static str,
            outcome: Outcome,
        },
        Interrupted {},
        NotReplicated {
            waited: Duration,
            reason: String,
        },
        Options {
            option: &'static str,
            problem: String,
        },
        Closed,
        Forked {
            outcome: Outcome,
        },
        App,
    }

    impl Error {
        pub(crate) fn forked() -> Self {
            Self::Forked {
                outcome: Outcome::NotStarted,
            }
        }

        pub(crate) fn with_site(self, _site: impl FnOnce() -> String) -> Self {
            self
        }

        pub(crate) fn kind(&self) -> &'static str {
            "its kind is for events only"
        }

        pub(crate) fn no_thread(path: &Path, part: &str, source: std::io::Error) -> Self {
            Self::Open {
                path: path.into(),
                problem: part.into(),
                source: Some(Box::new(source)),
            }
        }

        pub(crate) fn worker_panicked() -> String {
            "a worker panicked".into()
        }

        pub(crate) fn not_started(source: String) -> Self {
            Self::Sqlite(source)
        }
    }
}

/// Replaces `options/mod.rs`.
pub(crate) mod options {
    use std::borrow::Cow;
    use std::time::Duration;

    #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) enum Durability {
        #[default]
        Normal,
        Full,
        Replicated,
    }

    #[derive(Clone, Copy, Default, PartialEq)]
    pub(crate) enum WhenFull {
        #[default]
        Wait,
        Fail,
    }

    pub(crate) struct Options {
        pub(crate) durability: Durability,
        pub(crate) queue_capacity: usize,
        pub(crate) readers: u32,
        pub(crate) queue_timeout: Duration,
        pub(crate) read_queue_timeout: Duration,
        pub(crate) close_timeout: Duration,
        pub(crate) patience: Duration,
    }

    #[derive(Default)]
    pub(crate) struct WriteOptions {
        pub(crate) queue_timeout: Option<Duration>,
        pub(crate) durability: Option<Durability>,
        pub(crate) execution_timeout: Option<Duration>,
        pub(crate) when_full: WhenFull,
        pub(crate) label: Option<Cow<'static, str>>,
    }

    impl WriteOptions {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn or_fail() -> Self {
            Self {
                when_full: WhenFull::Fail,
                ..Self::default()
            }
        }

        pub(crate) fn replicated() -> Self {
            Self {
                durability: Some(Durability::Replicated),
                ..Self::default()
            }
        }

        pub(crate) fn queue_timeout(timeout: Duration) -> Self {
            Self {
                queue_timeout: Some(timeout),
                ..Self::default()
            }
        }
    }

    #[derive(Default)]
    pub(crate) struct ReadOptions {
        pub(crate) queue_timeout: Option<Duration>,
        pub(crate) execution_timeout: Option<Duration>,
        pub(crate) when_full: WhenFull,
        pub(crate) label: Option<Cow<'static, str>>,
    }

    impl ReadOptions {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn or_fail() -> Self {
            Self {
                when_full: WhenFull::Fail,
                ..Self::default()
            }
        }

        pub(crate) fn queue_timeout(timeout: Duration) -> Self {
            Self {
                queue_timeout: Some(timeout),
                ..Self::default()
            }
        }
    }
}

/// Replaces `transaction/mod.rs`: a write writes its number.
pub(crate) mod transaction {
    use std::cell::RefCell;

    use crate::error::Result;
    use crate::ledger::Id;
    use crate::queue::job::Queued;

    pub(crate) struct WriteTx<'tx> {
        pub(crate) open: &'tx RefCell<Vec<Id>>,
        pub(crate) job: &'tx dyn Queued,
    }

    impl WriteTx<'_> {
        pub(crate) fn write(&self, id: Id) {
            self.open.borrow_mut().push(id);
        }

        /// Whether the caller had gone before the start.
        pub(crate) fn caller_has_gone(&self) -> bool {
            self.job.is_cancelled()
        }

        pub(crate) fn judge<T>(&self, result: Result<T>) -> Result<T> {
            result
        }
    }

    /// Sees the commits at the start of its snapshot.
    pub(crate) struct ReadTx<'tx>(pub(crate) &'tx [Id]);

    impl ReadTx<'_> {
        pub(crate) fn sees(&self, id: Id) -> bool {
            self.0.contains(&id)
        }
    }
}
