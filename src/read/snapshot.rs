//! One read transaction on a connection of the pool.

use super::reader::{connection, holds_nothing};
use super::{Reader, Readers};
use crate::connection::authorizer::SqlGuard;
use crate::connection::c_api::{self};
use crate::connection::cause::explained;
use crate::connection::interrupt::{Interrupt, Limit, LimitKind, OnRawAccess};
use crate::connection::transaction_control::{Control, ControlStatements};
use crate::connection::{Baseline, Restored};
use crate::error::{Error, ErrorContext, Result};
use crate::queue::pending::Queue;
use crate::runtime::sync::Arc;
use crate::telemetry::activity::ActivitySlot;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::CallerSpan;
use crate::telemetry::page_cache::CacheShare;
use crate::telemetry::slow_log::{Call, Slow, SlowStatement};
use crate::telemetry::usage::{CallSiteShard, StatementShard};
use crate::transaction::hot_statement::{Prepare, Prepared};
use crate::transaction::{Connected, ReadTx};
use rusqlite::Connection;
use std::cell::RefCell;
use std::mem;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The read transaction of one closure, or of the closures of several async reads. Its drop ends the transaction, also
/// after a panic.
pub(crate) struct Snapshot<'r> {
    readers: &'r Readers,
    conn: &'r Connection,
    prepared: Prepared<'r>,
    guard: &'r Arc<SqlGuard>,
    interrupt: &'r Arc<Interrupt>,
    busy_timeout: Duration,
    clean: &'r mut bool,
    spoiled: &'r mut Option<&'static str>,
    baseline: Option<&'r Baseline>,
    control: &'r ControlStatements,
    sites: &'r mut CallSiteShard,
    statements: Option<&'r RefCell<StatementShard>>,
    cache: &'r mut CacheShare,
    slow: &'r mut Vec<Slow>,
    activity: &'r ActivitySlot,
    /// When the current closure began, or when the last one ended.
    since: Instant,
    /// The index of its call site's counters.
    site: Option<usize>,
    /// Whether a closure has used the connection directly, and the connection has not been tidied since.
    raw_access: bool,
}

impl<'r> Snapshot<'r> {
    pub(super) fn begin(readers: &'r Readers, reader: &'r mut Reader, site: CallSite) -> Result<Self> {
        let mut snapshot = Self::of(readers, reader);
        snapshot.enter(site);
        snapshot.begin_transaction()
    }

    /// Begins a snapshot for larder's own work. It appears in no statistics but those of the readers in use.
    pub(super) fn begin_internal(readers: &'r Readers, reader: &'r mut Reader, site: CallSite) -> Result<Self> {
        let mut snapshot = Self::of(readers, reader);
        snapshot.statements = None;
        snapshot.guard.reset();
        snapshot.interrupt.reset();
        snapshot.activity.begin_internal(snapshot.since, site);
        snapshot.begin_transaction()
    }

    fn begin_transaction(self) -> Result<Self> {
        self.readers.file.may_be_read()?;
        self.run_internal(Control::BeginRead).map_err(Error::not_started)?;
        Ok(self)
    }

    fn of(readers: &'r Readers, reader: &'r mut Reader) -> Self {
        reader.clean = false;
        let conn = connection(&reader.conn);
        Self {
            readers,
            conn,
            prepared: Prepared::new(conn),
            guard: &reader.guard,
            interrupt: &reader.interrupt,
            busy_timeout: reader.busy_timeout,
            clean: &mut reader.clean,
            spoiled: &mut reader.spoiled,
            baseline: reader.baseline.as_ref(),
            control: &reader.control,
            sites: &mut reader.sites,
            statements: reader.statements.as_ref(),
            cache: &mut reader.cache,
            slow: &mut reader.slow,
            activity: reader.registration.activity(),
            since: Instant::now(),
            site: None,
            raw_access: false,
        }
    }

    /// Begins the read of a closure with that call site, at the time when the one before ended: that saves a read of
    /// the clock, some 3 % of a short read.
    pub(super) fn enter(&mut self, site: CallSite) {
        self.site = self.sites.find(&site);
        self.guard.reset();
        self.interrupt.reset();
        self.activity.begin(self.since, site);
    }

    /// Restarts the clock after other work, so that its time is not counted for the next closure.
    pub(super) fn pause(&mut self) {
        self.since = Instant::now();
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn read<T>(&mut self, limit: Option<Duration>, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        let readers = self.readers;
        // Stays set if the closure panics. Otherwise it is set below to whether the closure used the connection.
        self.raw_access = true;
        let age = readers.age.map(|time| Limit {
            kind: LimitKind::ReaderAge,
            time,
        });
        let limit = limit.map(|time| Limit {
            kind: LimitKind::Read,
            time,
        });
        let limit = Limit::earlier(limit, age);
        let bounded = self.interrupt.bound(self.conn, self.since, limit);
        let (result, stopped, slowest, raw_access, rows, waited) = {
            let tx = self.tx(bounded.as_ref().map(|bounded| bounded as &dyn OnRawAccess));
            let result = tx.judge_read(f(&tx));
            (
                result,
                tx.stopped(),
                tx.slowest(),
                tx.had_raw_access(),
                tx.rows(),
                tx.waited(),
            )
        };
        self.raw_access = raw_access;
        if result.is_err() {
            // Clears SQLite's last error, which might be taken for one that the next closure returns.
            drop(self.conn.prepare(""));
        }
        let ended = Instant::now();
        let over = bounded.and_then(|bounded| bounded.end(ended, result.is_ok()));
        let result = match over {
            Some(over) => {
                let over = over.at(|| ErrorContext::of_statement(stopped));
                Err(over.with_site(|| self.activity.site()))
            }
            None => result,
        };
        let result = self.as_opened(result);
        let lasted = (ended - mem::replace(&mut self.since, ended)).saturating_sub(waited);
        if let Some(site) = self.site {
            let usage = &self.sites[site];
            usage.ran(lasted, rows);
            if result.is_err() {
                usage.failed();
            }
        }
        self.cache.report(ended, || c_api::take_cache(self.conn));
        if lasted >= readers.slow {
            self.note_slow(lasted, rows, slowest, result.as_ref().err().map(Error::kind));
        }
        result
    }

    /// Records a slow read, which is reported once the connection has been returned.
    pub(super) fn note_slow(
        &mut self,
        lasted: Duration,
        rows: u64,
        slowest: Option<SlowStatement>,
        error: Option<&'static str>,
    ) {
        self.readers.slow_reads.fetch_add(1, Ordering::Relaxed);
        let site = self.site();
        self.slow.push(Slow {
            span: CallerSpan::current(),
            site,
            lasted,
            error,
            slowest,
            call: Call::Read { rows },
        });
    }

    pub(super) fn inspect<T>(
        &mut self,
        f: impl FnOnce(&Connection, &Arc<Interrupt>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.raw_access = true;
        let result = self
            .guard
            .as_internal(|| f(self.conn, self.interrupt).map_err(|error| explained(self.conn, error)))
            .map_err(Error::not_started);
        self.as_opened(result)
    }

    /// The result of a read, unless the files that it has read have changed and are not locked.
    fn as_opened<T>(&self, result: Result<T>) -> Result<T> {
        self.readers.file.unchanged().and(result)
    }

    /// Runs larder's own queries, without a time limit.
    pub(super) fn read_internal<T>(&mut self, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.raw_access = true;
        let result = {
            let tx = self.tx(None);
            tx.judge_read(f(&tx))
        };
        if result.is_err() {
            // For the same reason as in `read`.
            drop(self.conn.prepare(""));
        }
        self.as_opened(result)
    }

    /// Runs a statement before a closure can prepare one. SQLite detects a changed schema when it runs a statement, not
    /// when it prepares one: the first statement prepared would still be of the old schema, and be prepared again when
    /// it runs.
    pub(super) fn look_at_schema(&self) -> Result<()> {
        let look = || {
            self.conn
                .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        };
        self.guard.as_internal(look).map_err(Error::not_started)
    }

    /// Whether another closure may read in this snapshot.
    pub(super) fn serves_more(&mut self) -> bool {
        let left_behind = self.raw_access && self.conn.is_busy();
        self.tidy();
        !left_behind && self.spoiled.is_none() && !self.conn.is_autocommit()
    }

    /// Resets state that a closure may have left on the connection through rusqlite's own methods.
    pub(super) fn tidy(&mut self) {
        if mem::take(&mut self.raw_access) {
            let _ = self.interrupt.put_back(self.conn);
            let _ = self.conn.busy_timeout(self.busy_timeout);
            self.guard.take_stale_statements(self.conn);
            if let Some(Restored::NotAll(reason)) = self.baseline.map(|b| b.restore(self.conn, self.guard)) {
                self.spoiled.get_or_insert(reason);
            }
        }
    }

    fn tx<'t>(&'t self, on_raw_access: Option<&'t dyn OnRawAccess>) -> ReadTx<'t> {
        let connected = Connected {
            conn: self.conn,
            guard: self.guard,
            interrupt: self.interrupt,
            activity: self.activity,
        };
        ReadTx::new(
            connected,
            on_raw_access,
            self.readers.slow,
            self.statements,
            &self.prepared,
        )
    }

    fn run_internal(&self, control: Control) -> rusqlite::Result<()> {
        let done = self.control.run(self.conn, self.guard, control);
        done.map_err(|error| explained(self.conn, error))
    }

    pub(super) fn site(&self) -> String {
        self.activity.site()
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if self.readers.queue.is_left() {
            return;
        }
        self.prepared.put_back();
        self.tidy();
        let ended = self.conn.is_autocommit() || self.run_internal(Control::Commit).is_ok();
        *self.clean = ended && holds_nothing(self.conn);
        self.activity.end();
    }
}
