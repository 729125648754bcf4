//! The scripts that run while calls fail, the ways in which calls fail, and the files that exist at the start.

use larder::{Access, Durability};

use crate::job::{End, Job};
use crate::settings::{NEWEST, Settings};
use crate::trace::{Call, Class, Fault, calls};
use crate::workload::{Backup, Op};

/// A kind of failure.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub fault: Fault,
    pub calls: u32,
    pub files: fn(Class) -> bool,
}

fn all(_: Class) -> bool {
    true
}

/// Excludes the database: SQLite reads missing bytes there as zeros ("if rc==SQLITE_IOERR_SHORT_READ, rc = SQLITE_OK",
/// `readDbPage` in pager.c), and its unix VFS reads on until the file's end. Such a result in the middle of a file
/// means that the disk lies.
fn logs(class: Class) -> bool {
    matches!(class, Class::Wal | Class::Journal)
}

const EVERY: u32 = u32::MAX;
const WRITES: u32 = calls(&[Call::Write]);
const GROWTH: u32 = calls(&[
    Call::Write,
    Call::WriteFile,
    Call::SizeHint,
    Call::ShmMap,
    Call::Create,
    Call::MakeFolder,
    Call::Rename,
    Call::Link,
]);
const SYNCS: u32 = calls(&[Call::Sync, Call::SyncFile, Call::SyncFolder]);

pub const KINDS: &[Kind] = &[
    Kind {
        name: "io",
        fault: Fault::Io,
        calls: EVERY,
        files: all,
    },
    Kind {
        name: "full",
        fault: Fault::Full,
        calls: GROWTH,
        files: all,
    },
    Kind {
        name: "full-half",
        fault: Fault::FullHalf,
        calls: WRITES,
        files: all,
    },
    Kind {
        name: "io-half",
        fault: Fault::IoHalf,
        calls: WRITES,
        files: all,
    },
    Kind {
        name: "sync",
        fault: Fault::Io,
        calls: SYNCS,
        files: all,
    },
    Kind {
        name: "short-read",
        fault: Fault::ShortRead,
        calls: calls(&[Call::Read]),
        files: logs,
    },
    // A file system need not support a rename that never replaces a file.
    Kind {
        name: "unsupported",
        fault: Fault::Unsupported,
        calls: calls(&[Call::Rename]),
        files: all,
    },
];

/// The initial contents of the folder.
#[derive(Clone, Copy, PartialEq)]
pub enum Base {
    Nothing,
    /// A database that was closed.
    Closed,
    /// A database with a WAL, as a killed process leaves it.
    Killed,
}

/// The operations while calls fail.
pub struct Script {
    pub name: &'static str,
    pub base: Base,
    pub settings: fn(&mut Settings),
    pub before: fn(&mut Jobs) -> Vec<Op>,
    pub during: fn(&mut Jobs) -> Vec<Op>,
}

/// Numbers the jobs.
pub struct Jobs(i64);

impl Jobs {
    /// Continues after these commits.
    pub fn after(commits: &[Job]) -> Self {
        Self(commits.iter().map(|job| job.id).max().unwrap_or(0))
    }

    pub fn plain(&mut self) -> Job {
        self.0 += 1;
        Job::plain(self.0)
    }

    pub fn full(&mut self) -> Job {
        Job {
            full: true,
            ..self.plain()
        }
    }

    pub fn large(&mut self) -> Job {
        Job {
            parts: vec![9000, 20_000, 3000, 12_000],
            rewrite: Some(1),
            ..self.plain()
        }
    }

    pub fn ending(&mut self, end: End) -> Job {
        Job { end, ..self.plain() }
    }
}

pub const BACKUP: &str = "app.db.backup";
const RESTORED: &str = "app.db.restored";

pub fn one(job: Job) -> Op {
    Op::Group(vec![job])
}

fn opened(jobs: &mut Jobs) -> Vec<Op> {
    vec![Op::Open, one(jobs.plain()), one(jobs.plain()), Op::Read]
}

fn nothing(_: &mut Settings) {}

pub const SCRIPTS: &[Script] = &[
    Script {
        name: "create",
        base: Base::Nothing,
        settings: nothing,
        before: |_| vec![],
        during: |jobs| vec![Op::Open, one(jobs.plain()), Op::Close],
    },
    Script {
        name: "open",
        base: Base::Closed,
        settings: nothing,
        before: |_| vec![],
        during: |jobs| vec![Op::Open, Op::Read, one(jobs.full()), Op::Close],
    },
    Script {
        name: "recover",
        base: Base::Killed,
        settings: nothing,
        before: |_| vec![],
        during: |jobs| vec![Op::Open, Op::Read, one(jobs.plain()), Op::Close],
    },
    Script {
        name: "write",
        base: Base::Closed,
        settings: nothing,
        before: opened,
        during: |jobs| vec![one(jobs.plain()), Op::Read, one(jobs.plain())],
    },
    Script {
        name: "write-full",
        base: Base::Closed,
        settings: nothing,
        before: opened,
        // Data that was not synced before counts for the writes that are.
        during: |jobs| vec![one(jobs.full()), one(jobs.plain()), one(jobs.full()), one(jobs.full())],
    },
    Script {
        name: "group",
        base: Base::Closed,
        settings: nothing,
        before: opened,
        during: |jobs| {
            let ends = [
                End::Commit,
                End::AppError,
                End::CommitRest,
                End::DeferredKey,
                End::Commit,
                End::Constraint,
            ];
            let group = ends.map(|end| jobs.ending(end)).to_vec();
            let swallowed = End::OrRollbackSwallowed;
            vec![
                Op::Group(group),
                Op::Group(vec![jobs.plain(), jobs.ending(swallowed), jobs.plain()]),
                Op::Group(vec![jobs.ending(swallowed), jobs.plain()]),
            ]
        },
    },
    Script {
        name: "group-full",
        base: Base::Closed,
        settings: nothing,
        before: opened,
        during: |jobs| {
            let group = vec![
                jobs.plain(),
                jobs.plain(),
                jobs.full(),
                jobs.plain(),
                jobs.ending(End::Panic),
                jobs.full(),
            ];
            vec![Op::Group(group), one(jobs.plain())]
        },
    },
    Script {
        name: "spill",
        base: Base::Closed,
        settings: |settings| settings.cache_size = 1 << 10,
        before: opened,
        during: |jobs| {
            vec![
                Op::Group(vec![jobs.plain(), jobs.large(), jobs.plain()]),
                one(jobs.full()),
            ]
        },
    },
    Script {
        name: "checkpoint",
        base: Base::Closed,
        settings: |settings| settings.checkpoint_pages = 8,
        before: opened,
        during: |jobs| {
            vec![
                one(jobs.large()),
                one(jobs.plain()),
                one(jobs.plain()),
                one(jobs.full()),
            ]
        },
    },
    Script {
        name: "checkpoint-full",
        base: Base::Closed,
        settings: |settings| (settings.checkpoint_pages, settings.durability) = (8, Durability::Full),
        before: opened,
        during: |jobs| vec![one(jobs.large()), one(jobs.plain()), one(jobs.plain())],
    },
    Script {
        name: "bulk",
        base: Base::Closed,
        settings: |settings| settings.checkpoint_pages = 4,
        before: |jobs| [opened(jobs), vec![Op::Bulk]].concat(),
        during: |jobs| {
            vec![
                one(jobs.plain()),
                one(jobs.large()),
                Op::Bulk,
                one(jobs.plain()),
                one(jobs.full()),
            ]
        },
    },
    Script {
        name: "restart",
        base: Base::Closed,
        settings: |settings| (settings.checkpoint_pages, settings.wal_limit) = (4, 64 << 10),
        before: |jobs| [opened(jobs), vec![Op::Pin, one(jobs.large())]].concat(),
        during: |jobs| {
            vec![
                one(jobs.large()),
                Op::Unpin,
                one(jobs.large()),
                one(jobs.plain()),
                one(jobs.full()),
            ]
        },
    },
    Script {
        name: "close",
        base: Base::Closed,
        settings: nothing,
        before: |jobs| [opened(jobs), vec![one(jobs.large())]].concat(),
        during: |jobs| vec![Op::Close, Op::Open, one(jobs.plain())],
    },
    Script {
        name: "migrate",
        base: Base::Closed,
        settings: nothing,
        before: opened,
        during: |jobs| {
            vec![
                Op::Migrate(NEWEST - 1),
                one(jobs.plain()),
                Op::Migrate(NEWEST),
                one(jobs.plain()),
            ]
        },
    },
    Script {
        name: "backup",
        base: Base::Closed,
        settings: nothing,
        before: opened,
        during: |jobs| {
            let backup = Backup::new(BACKUP).during([jobs.plain(), jobs.full()]);
            vec![Op::Backup(backup), one(jobs.plain())]
        },
    },
    Script {
        name: "backup-over",
        base: Base::Closed,
        settings: nothing,
        before: |jobs| [opened(jobs), vec![Op::Backup(Backup::new(BACKUP)), one(jobs.large())]].concat(),
        during: |jobs| {
            let backup = Backup::over(BACKUP).during([jobs.plain(), jobs.full()]);
            vec![Op::Backup(backup), one(jobs.plain())]
        },
    },
    Script {
        name: "snapshot",
        base: Base::Closed,
        settings: nothing,
        before: opened,
        during: |jobs| {
            let backup = Backup::new(BACKUP).compact().during([jobs.plain(), jobs.full()]);
            vec![Op::Backup(backup), one(jobs.plain())]
        },
    },
    Script {
        name: "restore",
        base: Base::Closed,
        settings: nothing,
        before: |jobs| [opened(jobs), vec![Op::Backup(Backup::new(BACKUP))]].concat(),
        during: |jobs| {
            let (from, to) = (BACKUP.to_owned(), RESTORED.to_owned());
            vec![Op::Restore { from, to }, one(jobs.plain())]
        },
    },
];

/// An additional way to open a store.
pub type Variant = (&'static str, fn(&mut Settings));

pub const VARIANTS: &[Variant] = &[
    ("mapped", nothing),
    ("read", |settings| settings.mmap_size = 0),
    ("exclusive", |settings| settings.access = Access::Exclusive),
];
