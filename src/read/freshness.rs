//! Whether a snapshot is still the latest, so that reads requested after it began may join it.
//!
//! "The integer values returned by two invocations of `PRAGMA data_version` from the same connection will be different
//! if changes were committed to the database by any other connection in the interim",
//! <https://sqlite.org/pragma.html#pragma_data_version>: in this process or in another. So each reader thread has a
//! connection outside the pool, which never writes, and reads its version. If the version read *after* the request of a
//! read equals the version read *before* the snapshot began, no connection has committed in between, and the snapshot
//! is as new as the read may expect.
//!
//! Ending a snapshot and beginning another takes two locks from the operating system, and 3 to 9 times as long as a
//! check. While another connection writes, the checks are in vain. So after a check that found a new version, or
//! failed, some groups skip it.

use std::time::Duration;

use rusqlite::{Connection, Result};

use super::Readers;
use super::dedicated::DedicatedReader;
use crate::runtime::panic::caught;

/// Groups that skip the check after one in vain.
const GROUPS_TO_SKIP: u32 = 16;

/// The result of a check.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Version(i64);

pub(super) struct Freshness<'r> {
    readers: &'r Readers,
    /// Opened by the first check: most stores with few async reads need none.
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

    /// The result of the last check, if any: for a snapshot that begins afterwards.
    pub(super) fn seen(&self) -> Option<Version> {
        self.seen
    }

    /// Checks whether `seen` is still the current version. A failed check counts as no.
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

/// Opens a connection that waits for no lock. Reads work without it, even if
/// [`Options::on_connect`](crate::Options::on_connect) panics.
fn open(readers: &Readers) -> Option<DedicatedReader> {
    let dedicated = caught(|| DedicatedReader::open(readers, Duration::ZERO, None).ok())??;
    dedicated.with_conn(|conn| conn.busy_timeout(Duration::ZERO)).ok()?;
    Some(dedicated)
}

fn version(conn: &Connection) -> Result<Version> {
    let mut statement = conn.prepare_cached("PRAGMA main.data_version/*larder*/")?;
    statement.query_row([], |row| row.get(0)).map(Version)
}
