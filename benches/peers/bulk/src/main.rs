//! `cargo bench --bench bulk` with tokio-rusqlite beside, in one run: a connection with a thread and a queue, for which
//! the load and the other caller queue.

#[path = "../../../bulk/ways.rs"]
mod ways;

use std::ops::Range;
use std::path::Path;

use larder::Result;
use tokio::runtime::Runtime;
use tokio_rusqlite::Connection;

use crate::ways::{OTHER, SCHEMA, SET_UP, Target};

struct Threaded {
    runtime: Runtime,
    conn: Connection,
}

impl Threaded {
    fn call<F>(&self, f: F) -> Result<()>
    where
        F: FnOnce(&mut tokio_rusqlite::rusqlite::Connection) -> tokio_rusqlite::rusqlite::Result<()> + Send + 'static,
    {
        let done = self.runtime.block_on(self.conn.call(f));
        done.expect("tokio-rusqlite writes");
        Ok(())
    }
}

impl Target for Threaded {
    fn create(&self) -> Result<()> {
        self.call(|conn| conn.execute_batch(SCHEMA))
    }

    fn write_one(&self) -> Result<()> {
        self.call(|conn| conn.execute(OTHER, []).map(drop))
    }

    fn write_rows(&self, ids: Range<i64>) -> Result<()> {
        self.call(move |conn| ways::in_transaction(conn, ids))
    }
}

fn open(path: &Path) -> Result<Box<dyn Target>> {
    let runtime = Runtime::new().expect("a runtime");
    let conn = runtime.block_on(Connection::open(path)).expect("tokio-rusqlite opens");
    let target = Threaded { runtime, conn };
    target.call(|conn| conn.execute_batch(SET_UP))?;
    Ok(Box::new(target))
}

fn main() -> Result<()> {
    let mut ways = ways::all();
    ways.extend(ways::pair(
        "one transaction, tokio-rusqlite",
        open,
        ways::one_transaction,
    ));
    ways.extend(ways::pair("loop of 1000, tokio-rusqlite", open, ways::loop_of_1000));
    ways::run(true, ways)
}
