//! tinystore's SQL database: up to 64 clients block; with more, all are tasks. With `tasks` as a second argument all are
//! tasks.

use std::fs;
use std::path::{Path, PathBuf};

use tinystore::{Options, aio, sql};
use workload::{Case, Durability, INSERT, KIND, Peer, Result, SELECT, THREADS};

/// The kind of clients is set by `TASKS_FROM`, as in [`Peer`].
struct Tiny<const TASKS_FROM: usize> {
    store: aio::Store,
    database: aio::sql::Database,
    blocks: bool,
}

type Threads = Tiny<{ THREADS + 1 }>;
type Tasks = Tiny<1>;

/// A store is a folder, with its databases in `sql`. The rows move there when they are opened first.
fn folder(rows: &Path) -> Result<PathBuf> {
    let folder = rows.with_extension("store");
    if rows.exists() {
        fs::create_dir_all(folder.join("sql"))?;
        fs::rename(rows, folder.join("sql/rows.db"))?;
    }
    Ok(folder)
}

fn select(user: i64) -> sql::Sql {
    tinystore::sql!(SELECT, user)
}

fn insert(user: i64) -> sql::Sql {
    tinystore::sql!(INSERT, user, KIND)
}

impl<const TASKS_FROM: usize> Peer for Tiny<TASKS_FROM> {
    const TASKS_FROM: usize = TASKS_FROM;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        let durability = match case.durability {
            Durability::Normal => tinystore::Durability::Os,
            Durability::Full => tinystore::Durability::Full,
        };
        let store = aio::Store::open(folder(path)?, Options::default())?;
        Ok(Self {
            database: store.database("rows").durability(durability).open()?,
            store,
            blocks: case.clients < TASKS_FROM,
        })
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(self.database.blocking().scalar("SELECT sqlite_version()")?)
    }

    async fn read(&self, user: i64) -> Result<String> {
        if self.blocks {
            return Ok(self.database.blocking().scalar(select(user))?);
        }
        Ok(self.database.scalar(select(user)).await?)
    }

    async fn write(&self, user: i64) -> Result<()> {
        if self.blocks {
            self.database.blocking().exec(insert(user))?;
        } else {
            self.database.exec(insert(user)).await?;
        }
        Ok(())
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        if self.blocks {
            self.database.blocking().batch((1..=users).map(insert))?;
        } else {
            self.database.batch((1..=users).map(insert)).await?;
        }
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(self.store.close().await?)
    }
}

fn main() {
    match std::env::args().nth(2).as_deref() {
        Some("tasks") => workload::main::<Tasks>(),
        _ => workload::main::<Threads>(),
    }
}
