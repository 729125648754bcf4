//! larder with its defaults. Up to 64 clients block; more are tasks that await what they have submitted.
//!
//! `make` as a second argument makes the rows that all peers copy, instead.

mod rows;

use std::path::Path;

use larder::{Options, ReadTx, Store, WriteTx, rusqlite};
use workload::{Case, Durability, INSERT, KIND, Peer, Result, SELECT, THREADS};

struct Larder {
    store: Store,
    blocks: bool,
}

fn insert(tx: &WriteTx<'_>, user: i64) -> larder::Result<()> {
    tx.execute(INSERT, (user, KIND)).map(drop)
}

impl Peer for Larder {
    const TASKS_FROM: usize = THREADS + 1;

    async fn open(path: &Path, case: &Case) -> Result<Self> {
        let durability = match case.durability {
            Durability::Normal => larder::Durability::Normal,
            Durability::Full => larder::Durability::Full,
        };
        Ok(Self {
            store: Options::new().durability(durability).open(path)?,
            blocks: case.clients < Self::TASKS_FROM,
        })
    }

    async fn sqlite(&self) -> Result<String> {
        Ok(rusqlite::version().to_owned())
    }

    async fn read(&self, user: i64) -> Result<String> {
        let select = move |tx: &ReadTx<'_>| tx.query_row(SELECT, [user], |row| row.get(0));
        Ok(if self.blocks {
            self.store.read(select)?
        } else {
            self.store.read_async(select).await?
        })
    }

    async fn write(&self, user: i64) -> Result<()> {
        if self.blocks {
            self.store.write(move |tx| insert(tx, user))?;
        } else {
            self.store.write_async(move |tx| insert(tx, user)).await?;
        }
        Ok(())
    }

    async fn write_batch(&self, users: i64) -> Result<()> {
        self.store.write(move |tx| {
            let mut statement = tx.prepare_cached(INSERT)?;
            for user in 1..=users {
                statement.execute((user, KIND))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.store.close()?;
        Ok(())
    }
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(path), Some(_make)) => rows::make(Path::new(&path)).expect("the rows are made"),
        _ => workload::main::<Larder>(),
    }
}
