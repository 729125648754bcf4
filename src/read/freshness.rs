//! Whether a snapshot is still the latest, so that reads which were asked for after it began may join it.
//!
//! "The integer values returned by two invocations of `PRAGMA data_version` from the same connection will be different if
//! changes were committed to the database by any other connection in the interim",
//! <https://sqlite.org/pragma.html#pragma_data_version>: of this process, or of another. So a connection beside the pool,
//! one for each reader thread, which never writes, looks at it. If it sees, *after* a read was asked for, what it saw
//! *before* the snapshot began, nobody has committed anything in between, and the snapshot is as new as the read may
//! expect.
//!
//! To end a snapshot and begin another asks the system for two locks, and takes 3 to 9 times as long as a look. It is a look
//! for nothing while somebody writes. So after one that saw something new, or failed, some groups go without.

use std::time::Duration;

use rusqlite::{Connection, Result};

use super::Readers;
use super::dedicated::DedicatedReader;
use crate::runtime::panic::caught;

/// So many groups go without a look after one for nothing.
const GROUPS_TO_SKIP: u32 = 16;

/// What a look has seen.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Version(i64);

pub(super) struct Freshness<'r> {
    readers: &'r Readers,
    /// Opened by the first look: most stores whose tasks read little need none.
    dedicated: Option<DedicatedReader>,
    seen: Option<Version>,
    groups_to_skip: u32,
}

impl<'r> Freshness<'r> {
    pub(super) fn new(readers: &'r Readers) -> Self {
        Self {
            readers,
            dedicated: None,
            seen: None,
            groups_to_skip: 0,
        }
    }

    /// What was seen last, if anything was: for a snapshot that begins after this.
    pub(super) fn seen(&self) -> Option<Version> {
        self.seen
    }

    /// Looks whether that is still so. If it cannot tell, it is not.
    pub(super) fn is_latest(&mut self, seen: Option<Version>) -> bool {
        if self.groups_to_skip > 0 {
            self.groups_to_skip -= 1;
            return false;
        }
        self.seen = self.current_version();
        let again = self.seen.is_some() && self.seen == seen;
        if !again {
            self.groups_to_skip = GROUPS_TO_SKIP;
        }
        again
    }

    fn current_version(&mut self) -> Option<Version> {
        let dedicated = match &self.dedicated {
            Some(dedicated) => dedicated,
            None => self.dedicated.insert(open(self.readers)?),
        };
        dedicated.with_conn(version).ok()
    }
}

/// Opens a connection that waits for nobody. Reads go on without it, also if
/// [`Options::on_connect`](crate::Options::on_connect) panics.
fn open(readers: &Readers) -> Option<DedicatedReader> {
    let dedicated = caught(|| DedicatedReader::open(readers, Duration::ZERO, None).ok())??;
    dedicated.with_conn(|conn| conn.busy_timeout(Duration::ZERO)).ok()?;
    Some(dedicated)
}

fn version(conn: &Connection) -> Result<Version> {
    let mut statement = conn.prepare_cached("PRAGMA data_version/*larder*/")?;
    statement.query_row([], |row| row.get(0)).map(Version)
}
