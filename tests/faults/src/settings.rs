//! The options of the store under test.

use std::time::Duration;

use fastrand::Rng;
use larder::rusqlite::Connection;
use larder::{Access, AutoVacuum, Durability, Migration, Migrations, Options};

use crate::replicated::Replicated;

/// The newest migration, which can be undone.
pub const NEWEST: u64 = 3;

fn migrations() -> Migrations {
    Migrations::new([
        Migration::new(
            1,
            "tables",
            "CREATE TABLE entry(n INTEGER PRIMARY KEY, job INTEGER NOT NULL UNIQUE, parts INTEGER NOT NULL) STRICT;
             CREATE TABLE part(
                 entry INTEGER NOT NULL REFERENCES entry(n) DEFERRABLE INITIALLY DEFERRED,
                 i INTEGER NOT NULL, job INTEGER NOT NULL, data BLOB NOT NULL,
                 PRIMARY KEY (entry, i)
             ) STRICT, WITHOUT ROWID;
             CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL) STRICT;",
        ),
        Migration::new(
            2,
            "accounts",
            "INSERT INTO account VALUES (0, 0), (1, 0), (2, 0), (3, 0);",
        ),
        Migration::new(NEWEST, "index", "CREATE INDEX part_by_job ON part(job, entry);")
            .down("DROP INDEX part_by_job;"),
    ])
}

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    pub durability: Durability,
    pub access: Access,
    pub page_size: u64,
    pub auto_vacuum: AutoVacuum,
    pub checkpoint_pages: u32,
    pub wal_limit: u64,
    pub journal_size_limit: u64,
    pub cache_size: u64,
    pub mmap_size: u64,
    /// The busy timeout, and the queue timeout of a read.
    pub patience: Duration,
    pub replica: Option<Replicated>,
}

/// For a good disk: every wait succeeds, but the machine may be slow.
pub const LONG: Duration = Duration::from_secs(10);

/// For failing calls: no other process holds a lock, and some connections cannot be opened.
pub const SHORT: Duration = Duration::from_millis(200);

impl Default for Settings {
    fn default() -> Self {
        Self {
            durability: Durability::Normal,
            access: Access::Shared,
            page_size: 4096,
            auto_vacuum: AutoVacuum::Incremental,
            checkpoint_pages: 1000,
            wal_limit: 64 << 20,
            journal_size_limit: 64 << 20,
            cache_size: 64_000 << 10,
            mmap_size: 256 << 20,
            patience: Duration::from_secs(2),
            replica: None,
        }
    }
}

impl Settings {
    pub fn any(rng: &mut Rng) -> Self {
        let of = |rng: &mut Rng, list: &[u64]| list[rng.usize(0..list.len())];
        Self {
            durability: if rng.u32(0..3) == 0 {
                Durability::Full
            } else {
                Durability::Normal
            },
            access: if rng.u32(0..4) == 0 {
                Access::Exclusive
            } else {
                Access::Shared
            },
            page_size: of(rng, &[512, 1024, 4096, 4096]),
            auto_vacuum: match rng.u32(0..4) {
                0 => AutoVacuum::None,
                1 => AutoVacuum::Full,
                _ => AutoVacuum::Incremental,
            },
            checkpoint_pages: of(rng, &[1, 4, 8, 16, 32, 1000]) as u32,
            wal_limit: of(rng, &[64 << 10, 64 << 20]),
            journal_size_limit: of(rng, &[0, 16 << 10, 64 << 20]),
            // The smallest sizes make a transaction write to the WAL before it commits.
            cache_size: of(rng, &[1 << 10, 16 << 10, 64_000 << 10]),
            mmap_size: of(rng, &[0, 256 << 20, 256 << 20]),
            ..Self::default()
        }
    }

    /// Checks the settings that a database keeps from its creation.
    pub fn is_made_so(&self, conn: &Connection) -> Result<(), String> {
        let auto_vacuum = match self.auto_vacuum {
            AutoVacuum::Full => 1,
            AutoVacuum::Incremental => 2,
            _ => 0,
        };
        for (name, wanted) in [("page_size", self.page_size as i64), ("auto_vacuum", auto_vacuum)] {
            match conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)) {
                Ok(found) if found == wanted => {}
                found => return Err(format!("{name} is {found:?}, and it was made with {wanted}")),
            }
        }
        Ok(())
    }

    pub fn options(&self) -> Options {
        let options = Options::new()
            .durability(self.durability)
            .access(self.access)
            .page_size(self.page_size)
            .auto_vacuum(self.auto_vacuum)
            .checkpoint_pages(self.checkpoint_pages)
            .wal_limit(self.wal_limit)
            .journal_size_limit(self.journal_size_limit)
            .cache_size(self.cache_size)
            .mmap_size(self.mmap_size)
            .migrations(migrations())
            .readers(2)
            .monitor_interval(Duration::ZERO)
            // Only the workload determines the groups, not the time.
            .max_group_size(1000)
            .max_group_time(Duration::from_secs(30))
            .busy_timeout(self.patience)
            .read_queue_timeout(self.patience)
            .close_timeout(Duration::from_secs(10));
        match &self.replica {
            // Closing waits for a storage that is away.
            Some(replica) => options.close_timeout(self.patience).replicate_to(replica.options()),
            None => options,
        }
    }
}
