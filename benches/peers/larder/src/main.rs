//! larder with its defaults: up to 64 clients block; with more, all are tasks. With `tasks` as a second argument all
//! are tasks.
//!
//! With `make` as a second argument, it generates the rows that all peers copy, instead; with `make-plain` the same rows
//! in a file without `auto_vacuum`.

mod rows;

use std::path::Path;

use larder::{Options, ReadTx, Store, WriteTx, rusqlite};
use workload::{Case, Durability, INSERT, KIND, Peer, Result, SELECT, THREADS};

/// The kind of clients is set by `TASKS_FROM`, as in [`Peer`].
struct Larder<const TASKS_FROM: usize> {
    store: Store,
    blocks: bool,
}

type Threads = Larder<{ THREADS + 1 }>;
type Tasks = Larder<1>;

fn select(tx: &ReadTx<'_>, user: i64) -> larder::Result<String> {
    tx.query_row(SELECT, [user], |row| row.get(0))
}

fn insert(tx: &WriteTx<'_>, user: i64) -> larder::Result<()> {
    tx.execute(INSERT, (user, KIND)).map(drop)
}

fn insert_batch(tx: &WriteTx<'_>, users: i64) -> larder::Result<()> {
    let mut statement = tx.prepare_cached(INSERT)?;
    for user in 1..=users {
        statement.execute((user, KIND))?;
    }
    Ok(())
}

impl<const TASKS_FROM: usize> Peer for Larder<TASKS_FROM> {
    const TASKS_FROM: usize = TASKS_FROM;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        let durability = match case.durability {
            Durability::Normal => larder::Durability::Normal,
            Durability::Full => larder::Durability::Full,
        };
        Ok(Self {
            store: Options::new().durability(durability).open(path)?,
            blocks: case.clients < TASKS_FROM,
        })
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(rusqlite::version().to_owned())
    }

    async fn read(&self, user: i64) -> Result<String> {
        if self.blocks {
            return Ok(self.store.read(|tx| select(tx, user))?);
        }
        Ok(self.store.read_async(move |tx| select(tx, user)).await?)
    }

    async fn write(&self, user: i64) -> Result<()> {
        if self.blocks {
            return Ok(self.store.write(move |tx| insert(tx, user))?);
        }
        Ok(self.store.write_async(move |tx| insert(tx, user)).await?)
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        if self.blocks {
            return Ok(self.store.write(move |tx| insert_batch(tx, users))?);
        }
        Ok(self.store.write_async(move |tx| insert_batch(tx, users)).await?)
    }

    async fn close(self) -> Result<()> {
        self.store.close_async().await?;
        Ok(())
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next().as_deref()) {
        (Some(path), Some("make")) => rows::make(Path::new(&path), "INCREMENTAL").expect("the rows are made"),
        (Some(path), Some("make-plain")) => rows::make(Path::new(&path), "NONE").expect("the rows are made"),
        (_, Some("tasks")) => workload::main::<Tasks>(),
        _ => workload::main::<Threads>(),
    }
}
