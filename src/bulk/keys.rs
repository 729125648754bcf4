//! The keys of rows to delete or to update, read from the snapshots of readers.
//!
//! A deletion whose condition has an index reads the first keys that the index gives, and again when these rows are gone.
//! All else is one walk over the table in the order of its rowids, window by window, so each row is looked at once, and
//! each read is short. It ends at the largest rowid of its start, so rows that triggers add do not keep it going. A
//! deletion whose first row stays (a foreign key, a trigger), or whose index gives keys slowly, goes on as a walk.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::ToSql;

use super::handle::Handle;
use super::row::{self, BulkRow};
use super::{BATCH_ROWS, Resume, Source, Step, sealed};
use crate::connection::sql_text::{quoted, tokens, unquoted};
use crate::error::{Error, Result};
use crate::transaction::ReadTx;

/// The column that is the rowid, if one is.
const ALIAS: &str = "SELECT c.name FROM pragma_table_list AS t, pragma_table_xinfo(t.name, 'main') AS c
    WHERE t.schema = 'main' AND '\"' || replace(t.name, '\"', '\"\"') || '\"' = ?1 COLLATE NOCASE
        AND c.pk = 1 AND c.type = 'INTEGER' COLLATE NOCASE";

/// Keys that an index gives at a time.
const BY_INDEX: i64 = 8192;

/// Rows of the first window of a walk, and the most.
const FIRST_WINDOW: i64 = 4096;
const WIDEST_WINDOW: i64 = 1 << 18;

/// A read that takes less makes the next window wider, one that takes twice as long narrower.
const SHORT_READ: Duration = Duration::from_millis(20);

/// The source of a deletion or an update.
#[doc(hidden)]
pub struct Keys<P> {
    store: Handle,
    table: String,
    /// What follows `SET`, for an update.
    set: Option<String>,
    condition: String,
    values: Arc<P>,
    /// Number of values.
    count: usize,
    plan: Option<Plan>,
    /// Keys that were read and not yet given.
    ready: std::vec::IntoIter<i64>,
    /// The least rowid that the walk has not looked at; `None` at its end.
    from: Option<i64>,
    window: i64,
    /// The end of the walk.
    last: i64,
    /// Keys that the index has given twice: their rows cannot go, and are not looked at once more.
    stuck: HashSet<i64>,
    /// The walk begins once all rows so far are committed.
    settles: bool,
}

/// How the keys are read.
enum Plan {
    /// The keys of the last read.
    ByIndex(Vec<i64>),
    Walk,
}

/// The values of the condition, and then the key.
#[doc(hidden)]
pub struct KeyRow<P> {
    values: Arc<P>,
    key: i64,
}

impl<P: BulkRow + Sync> BulkRow for KeyRow<P> {
    fn with_values<T>(&self, f: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
        with_more(&*self.values, &[&self.key], f)
    }

    fn key(&self) -> Option<i64> {
        Some(self.key)
    }
}

fn with_more<T>(values: &impl BulkRow, more: &[&dyn ToSql], f: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
    values.with_values(|values| {
        let mut all = Vec::with_capacity(values.len() + more.len());
        all.extend_from_slice(values);
        all.extend_from_slice(more);
        f(&all)
    })
}

impl<P: BulkRow + Sync> Keys<P> {
    pub(super) fn to_delete(store: &Handle, table: &str, condition: &str, values: P) -> Self {
        Self::new(store, table, None, condition, values)
    }

    pub(super) fn to_update(store: &Handle, table: &str, set: &str, condition: &str, values: P) -> Self {
        Self::new(store, table, Some(set), condition, values)
    }

    fn new(store: &Handle, table: &str, set: Option<&str>, condition: &str, values: P) -> Self {
        let mut largest = 0;
        let set = set.map(|set| numbered(set, &mut largest));
        Self {
            store: store.clone(),
            table: quoted(table),
            set,
            condition: numbered(condition, &mut largest),
            count: values.with_values(|values| values.len()),
            values: Arc::new(values),
            plan: None,
            ready: Vec::new().into_iter(),
            from: Some(i64::MIN),
            window: FIRST_WINDOW,
            last: i64::MAX,
            stuck: HashSet::new(),
            settles: false,
        }
    }

    /// The statement of one row. The condition stands in it, since the row may have changed since its key was read.
    pub(super) fn statement(&self) -> String {
        let Self { table, condition, .. } = self;
        let key = self.count + 1;
        match &self.set {
            None => format!("DELETE FROM main.{table} WHERE ({condition}) AND rowid = ?{key}"),
            Some(set) => format!("UPDATE main.{table} SET {set} WHERE ({condition}) AND rowid = ?{key}"),
        }
    }

    /// Its limit is the parameter after the values, so that all of them are bound, also those of `SET` alone.
    fn by_index(&self) -> String {
        let Self { table, condition, .. } = self;
        let limit = self.count + 1;
        format!("SELECT rowid FROM main.{table} WHERE ({condition}) LIMIT ?{limit}")
    }

    fn read<T>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.store.read(f)
    }

    fn plan(&mut self) -> Result<Plan> {
        self.check_sql()?;
        let explain = format!("EXPLAIN QUERY PLAN {}", self.by_index());
        let newest = format!("SELECT max(rowid) FROM main.{}", self.table);
        let (last, plan) = self.read(|tx| {
            self.check_table(tx)?;
            let last: Option<i64> = tx.scalar(&newest, [])?;
            let steps: Vec<String> = with_more(&*self.values, &[&BY_INDEX], |values| {
                tx.query_map(&explain, values, |row| row.get("detail"))
            })?;
            let searches = steps.iter().any(|step| step.starts_with("SEARCH "));
            let scans = steps.iter().any(|step| step.starts_with("SCAN "));
            let by_index = self.set.is_none() && searches && !scans;
            let plan = if by_index {
                Plan::ByIndex(Vec::new())
            } else {
                Plan::Walk
            };
            Ok((last, plan))
        })?;
        self.last = last.unwrap_or(i64::MIN);
        Ok(plan)
    }

    /// What is evaluated for each row must be of that row alone: a subquery would be run again for each one, on the writer,
    /// and see what the rows before have become.
    fn check_sql(&self) -> Result<()> {
        let wrong = |problem: String| {
            let option = if self.set.is_some() {
                "Bulk::update"
            } else {
                "Bulk::delete"
            };
            Err(Error::Options { option, problem })
        };
        for sql in [self.set.as_deref().unwrap_or_default(), &self.condition] {
            let all: Vec<&str> = tokens(sql).collect();
            for (at, token) in all.iter().enumerate() {
                let next = all.get(at + 1).copied().unwrap_or_default();
                let reads_table = token.eq_ignore_ascii_case("in") && next != "(";
                if token.eq_ignore_ascii_case("select") || reads_table {
                    return wrong(format!(
                        "`{sql}` reads a table, and would do so again for each row, while rows change: write the keys that are \
                         meant into a table first, or use Store::write"
                    ));
                }
                if token.starts_with([':', '@', '$']) {
                    return wrong(format!("`{sql}` has a named parameter: number them, ?1, ?2"));
                }
            }
        }
        let set = self.set.as_deref().unwrap_or_default();
        let all: Vec<&str> = tokens(set).collect();
        let names: Vec<_> = all.iter().map(|token| unquoted(token).to_lowercase()).collect();
        let key = self.read(|tx| tx.optional_scalar::<String>(ALIAS, [&self.table]))?;
        let is_key = |name: &String| {
            ["rowid", "_rowid_", "oid"].contains(&name.as_str())
                || key.as_ref().is_some_and(|key| key.to_lowercase() == *name)
        };
        let sets_key = |at: usize| names.get(at).is_some_and(is_key) && all.get(at + 1) == Some(&"=");
        let begins = (0..all.len()).filter(|at| *at == 0 || all[at - 1] == ",");
        if begins.into_iter().any(sets_key) {
            return wrong(format!(
                "`{set}` sets the rowid, by which the table is walked: use Store::write"
            ));
        }
        Ok(())
    }

    fn check_table(&self, tx: &ReadTx<'_>) -> Result<()> {
        let look = "SELECT type, wr, EXISTS(SELECT 1 FROM pragma_table_xinfo(t.name, 'main') AS c
                        WHERE c.name = 'rowid' COLLATE NOCASE AND NOT (c.pk = 1 AND c.type = 'INTEGER' COLLATE NOCASE
                            AND NOT EXISTS(SELECT 1 FROM pragma_index_list(t.name, 'main') WHERE origin = 'pk')))
                    FROM pragma_table_list AS t WHERE schema = 'main' AND '\"' || replace(name, '\"', '\"\"') || '\"' = ?1 COLLATE NOCASE";
        let found: Option<(String, bool, bool)> = tx.optional(look, [&self.table])?;
        let problem = match found {
            None => "there is no such table",
            Some((kind, ..)) if kind != "table" => "it is no ordinary table: delete its rows with Store::write",
            Some((_, true, _)) => {
                "it is WITHOUT ROWID, and the walk is by rowid: delete or update ranges of its key with Store::write"
            }
            Some((.., true)) => {
                "it has a column named rowid, which hides the key of the walk: delete or update ranges of its key with \
                 Store::write"
            }
            Some(_) => return Ok(()),
        };
        Err(Error::Options {
            option: "Bulk",
            problem: format!("the rows of table {} cannot be walked: {problem}", self.table),
        })
    }

    /// Reads more keys. Returns false at the end.
    fn read_more(&mut self) -> Result<bool> {
        let keys: Vec<i64> = match self.plan {
            Some(Plan::ByIndex(_)) => {
                let sql = self.by_index();
                let began = Instant::now();
                let keys: Vec<i64> =
                    self.read(|tx| with_more(&*self.values, &[&BY_INDEX], |values| tx.scalars(&sql, values)))?;
                let is_slow = began.elapsed() > 2 * SHORT_READ;
                let Some(Plan::ByIndex(before)) = self.plan.take() else {
                    return Ok(false);
                };
                let is_stuck = !keys.is_empty() && keys.first() == before.first();
                let before: HashSet<i64> = before.into_iter().collect();
                self.stuck.extend(keys.iter().filter(|key| before.contains(key)));
                self.plan = Some(if is_stuck || is_slow {
                    self.settles = true;
                    Plan::Walk
                } else {
                    Plan::ByIndex(keys.clone())
                });
                if is_stuck {
                    return Ok(true);
                }
                if keys.is_empty() {
                    return Ok(false);
                }
                keys.into_iter().filter(|key| !self.stuck.contains(key)).collect()
            }
            _ => match self.from {
                Some(from) => self.walk(from)?,
                None => return Ok(false),
            },
        };
        self.ready = keys.into_iter();
        Ok(true)
    }

    /// The keys of the next window.
    fn walk(&mut self, from: i64) -> Result<Vec<i64>> {
        let Self { table, condition, .. } = self;
        let end = format!(
            "SELECT max(key), count(*) FROM (SELECT rowid AS key FROM main.{table} WHERE rowid BETWEEN ?1 AND ?3 ORDER BY rowid LIMIT ?2)"
        );
        let (least, most) = (self.count + 1, self.count + 2);
        let keys = format!(
            "SELECT rowid FROM main.{table} NOT INDEXED WHERE ({condition}) AND rowid BETWEEN ?{least} AND ?{most}
             ORDER BY rowid"
        );
        let began = Instant::now();
        let (to, keys) = self.read(|tx| {
            let (to, rows): (Option<i64>, i64) = tx.one(&end, (from, self.window, self.last))?;
            let Some(to) = to else { return Ok((None, Vec::new())) };
            let keys = with_more(&*self.values, &[&from, &to], |values| tx.scalars(&keys, values))?;
            Ok(((rows == self.window).then_some(to), keys))
        })?;
        self.from = to.and_then(|to| to.checked_add(1));
        let took = began.elapsed();
        if took < SHORT_READ {
            self.window = (self.window * 2).min(WIDEST_WINDOW);
        } else if took > 2 * SHORT_READ {
            self.window = (self.window / 2).max(FIRST_WINDOW);
        }
        Ok(keys.into_iter().filter(|key| !self.stuck.contains(key)).collect())
    }
}

/// The SQL with a number for each `?`, as SQLite gives them: one more than the largest number so far.
fn numbered(sql: &str, largest: &mut usize) -> String {
    let mut result = String::with_capacity(sql.len());
    let mut done = 0;
    for token in tokens(sql).filter(|token| *token == "?") {
        let at = token.as_ptr() as usize - sql.as_ptr() as usize;
        result.push_str(&sql[done..=at]);
        done = at + 1;
        let digits = sql[done..].bytes().take_while(u8::is_ascii_digit).count();
        match sql[done..done + digits].parse() {
            Ok(number) => *largest = (*largest).max(number),
            Err(_) => {
                *largest += 1;
                result.push_str(&largest.to_string());
            }
        }
    }
    result.push_str(&sql[done..]);
    result
}

impl<P> sealed::Sealed for Keys<P> {}

impl<P: BulkRow + Sync> Source for Keys<P> {
    type Row = KeyRow<P>;

    fn next(&mut self, is_committed: bool) -> Result<Step<KeyRow<P>>> {
        if self.plan.is_none() {
            self.plan = Some(self.plan()?);
        }
        if self.ready.len() == 0 {
            // Otherwise the index would give the same keys again.
            if (self.settles || matches!(self.plan, Some(Plan::ByIndex(_)))) && !is_committed {
                return Ok(Step::AfterCommit);
            }
            self.settles = false;
            if !self.read_more()? {
                return Ok(Step::End);
            }
            if self.ready.len() == 0 {
                return Ok(Step::Nothing);
            }
        }
        let keys = self.ready.by_ref().take(BATCH_ROWS);
        let rows: Vec<_> = keys
            .map(|key| KeyRow {
                values: Arc::clone(&self.values),
                key,
            })
            .collect();
        let bytes = rows.first().map_or(0, row::bytes) * rows.len();
        Ok(Step::Rows(rows, bytes))
    }

    /// What a deletion has deleted is not found again.
    fn resume(&mut self, done: Resume) -> Result<()> {
        if self.set.is_some()
            && let Some(key) = done.key
        {
            self.from = key.checked_add(1);
        }
        Ok(())
    }
}
