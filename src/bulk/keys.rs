//! The keys of rows to delete or to update, read from the snapshots of readers.
//!
//! A deletion whose condition has an index reads the first keys that the index gives, and again when these rows are gone,
//! until a read gives all that are left.
//! All else is one walk over the table in the order of its keys, window by window, so each row is looked at once, and
//! each read is short. It ends at the last key of its start, so rows that triggers add do not keep it going. A
//! deletion whose first row stays (a foreign key, a trigger), or whose index gives keys slowly, goes on as a walk.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::ToSql;

use super::handle::Handle;
use super::key::{Key, KeyColumn, KeyColumns};
use super::row::{self, BulkRow};
use super::{BATCH_ROWS, Resume, Source, Step, sealed};
use crate::connection::sql_text::{quoted, tokens, unquoted};
use crate::error::{Error, Result};
use crate::transaction::ReadTx;

/// Keys that an index gives at a time.
const BY_INDEX: i64 = 8192;

/// Rows of the first window of a walk, and the most.
const FIRST_WINDOW: i64 = 4096;
const WIDEST_WINDOW: i64 = 1 << 18;

/// A read that takes less makes the next window wider, one that takes twice as long narrower.
const SHORT_READ: Duration = Duration::from_millis(20);

/// The names of a rowid.
const ROWID: [&str; 3] = ["rowid", "_rowid_", "oid"];

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
    /// The largest number of a parameter: as many values are wanted.
    wanted: usize,
    plan: Option<Plan>,
    /// Keys that were read and not yet given.
    ready: std::vec::IntoIter<Key>,
    /// The last key that the walk has looked at.
    after: Option<Key>,
    window: i64,
    /// The end of the walk. `None` if it has ended.
    last: Option<Key>,
    /// Keys whose rows cannot go, or may not: the index has given them twice, or last before a walk. They are not looked at
    /// once more.
    stuck: HashSet<Key>,
    /// The walk begins once all rows so far are committed.
    settles: bool,
    /// The index has given all keys.
    has_all: bool,
}

/// How the keys are read.
struct Plan {
    key: KeyColumns,
    /// The keys of the last read by an index; `None` of a walk.
    by_index: Option<Vec<Key>>,
}

/// The values of the condition, and then the key.
#[doc(hidden)]
pub struct KeyRow<P> {
    values: Arc<P>,
    key: Key,
}

impl<P: BulkRow + Sync> BulkRow for KeyRow<P> {
    fn with_values<T>(&self, f: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
        with_more(&*self.values, &self.key.params(), f)
    }

    fn key(&self) -> Option<Key> {
        Some(self.key.clone())
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
        let condition = numbered(condition, &mut largest);
        Self {
            store: store.clone(),
            table: table.to_owned(),
            set,
            condition,
            count: values.with_values(|values| values.len()),
            wanted: largest,
            values: Arc::new(values),
            plan: None,
            ready: Vec::new().into_iter(),
            after: None,
            window: FIRST_WINDOW,
            last: None,
            stuck: HashSet::new(),
            settles: false,
            has_all: false,
        }
    }

    /// The statement of one row. The condition stands in it, since the row may have changed since its key was read.
    ///
    /// The line feeds end a comment that the parts end with.
    fn statement_by(&self, key: &KeyColumns) -> String {
        let table = quoted(&self.table);
        let condition = &self.condition;
        let is_row = key.is(self.count + 1);
        match &self.set {
            None => format!("DELETE FROM main.{table} WHERE ({condition}\n) AND {is_row}"),
            Some(set) => format!("UPDATE main.{table} SET {set}\n WHERE ({condition}\n) AND {is_row}"),
        }
    }

    /// Its limit is the parameter after the values, so that all of them are bound, also those of `SET` alone.
    fn by_index(&self, key: &KeyColumns) -> String {
        let (table, condition, limit) = (quoted(&self.table), &self.condition, self.count + 1);
        let keys = key.list();
        format!("SELECT {keys} FROM main.{table} WHERE ({condition}\n) LIMIT ?{limit}")
    }

    /// Looks up the table, and how its keys are best read.
    fn plan(&mut self) -> Result<Plan> {
        self.check_sql()?;
        let (last, plan) = self.store.read(|tx| {
            let table = TableLook::at(tx, &self.table)?;
            let key = table.key().map_err(|problem| self.refused(&problem))?;
            self.check_set(&table)?;
            let (name, keys, order) = (quoted(&self.table), key.list(), key.order(true));
            let last = format!("SELECT {keys} FROM main.{name} ORDER BY {order} LIMIT 1");
            let last = tx.query_map(&last, [], |row| key.read(row))?;
            let explain = format!("EXPLAIN QUERY PLAN {}", self.by_index(&key));
            let steps: Vec<String> = with_more(&*self.values, &[&BY_INDEX], |values| {
                tx.query_map(&explain, values, |row| row.get("detail"))
            })?;
            let searches = steps.iter().any(|step| step.starts_with("SEARCH "));
            let scans = steps.iter().any(|step| step.starts_with("SCAN "));
            let by_index = (self.set.is_none() && searches && !scans).then(Vec::new);
            Ok((last.into_iter().next(), Plan { key, by_index }))
        })?;
        self.last = last;
        Ok(plan)
    }

    fn verb(&self) -> &'static str {
        if self.set.is_some() {
            "Bulk::update"
        } else {
            "Bulk::delete"
        }
    }

    fn wrong(&self, problem: String) -> Error {
        Error::Options {
            option: self.verb(),
            problem,
        }
    }

    fn refused(&self, problem: &str) -> Error {
        self.wrong(format!(
            "the rows of table {:?} cannot be walked: {problem}",
            self.table
        ))
    }

    /// What is evaluated for each row must be of that row alone: a subquery would be run again for each one, on the writer,
    /// and see what the rows before have become. And it must be a whole expression, which cannot reach over its place in
    /// the statement.
    fn check_sql(&self) -> Result<()> {
        let set = self.set.as_deref().unwrap_or_default();
        for sql in [set, &self.condition] {
            let not_whole = || {
                self.wrong(format!(
                    "`{sql}` is no expression of its own: see its parentheses and keywords"
                ))
            };
            let all: Vec<&str> = tokens(sql).collect();
            let mut depth = 0;
            for (at, token) in all.iter().enumerate() {
                let is = |word: &str| token.eq_ignore_ascii_case(word);
                let next = all.get(at + 1).copied().unwrap_or_default();
                let before = at.checked_sub(1).map_or("", |before| all[before]);
                let is_distinct = before.eq_ignore_ascii_case("distinct");
                if is("select") || is("in") && next != "(" || is("from") && !is_distinct {
                    return Err(self.wrong(format!(
                        "`{sql}` reads a table, and would do so again for each row, while rows change: write the keys that are \
                         meant into a table first, or use Store::write"
                    )));
                }
                if token.starts_with([':', '@', '$']) {
                    return Err(self.wrong(format!("`{sql}` has a named parameter: number them, ?1, ?2")));
                }
                depth += i32::from(is("(")) - i32::from(is(")"));
                if depth < 0 || is(";") || is("where") || is("returning") {
                    return Err(not_whole());
                }
            }
            if depth != 0 {
                return Err(not_whole());
            }
        }
        self.check_count()
    }

    /// With too few values a parameter of the condition would get the key of the walk.
    fn check_count(&self) -> Result<()> {
        if self.wanted == self.count {
            return Ok(());
        }
        let parts = match &self.set {
            Some(set) => format!("`{set}` and `{}`", self.condition),
            None => format!("`{}`", self.condition),
        };
        Err(self.wrong(format!(
            "the parameters of {parts} want {} values, and {} are given",
            self.wanted, self.count
        )))
    }

    /// The walk would meet a row again whose key is set.
    fn check_set(&self, table: &TableLook) -> Result<()> {
        let set = self.set.as_deref().unwrap_or_default();
        let key = table.key_names();
        match assigned(set).into_iter().find(|name| key.contains(name)) {
            None => Ok(()),
            Some(name) => Err(self.wrong(format!(
                "`{set}` sets {name}, part of the key by which the table is walked: use Store::write"
            ))),
        }
    }

    /// Reads more keys. Returns false at the end.
    fn read_more(&mut self) -> Result<bool> {
        if self.has_all {
            return Ok(false);
        }
        let Some(Plan { key, by_index }) = self.plan.take() else {
            return Ok(false);
        };
        let searched = by_index.is_some();
        let (keys, by_index) = match by_index {
            Some(before) => {
                let (keys, by_index) = self.search(&key, before)?;
                (Some(keys), by_index)
            }
            None => (self.walk(&key)?, None),
        };
        let walks_next = searched && by_index.is_none();
        self.plan = Some(Plan { key, by_index });
        let Some(keys) = keys else { return Ok(false) };
        let keys: Vec<Key> = keys.into_iter().filter(|key| !self.stuck.contains(key)).collect();
        if walks_next {
            // The walk begins at the first row, and would give those of them once more that cannot go.
            self.stuck.extend(keys.iter().cloned());
        }
        self.ready = keys.into_iter();
        Ok(true)
    }

    /// The next keys of the index, those of the last read being given. The second value is `None` if a walk follows.
    fn search(&mut self, key: &KeyColumns, before: Vec<Key>) -> Result<(Vec<Key>, Option<Vec<Key>>)> {
        let sql = self.by_index(key);
        let began = Instant::now();
        let keys = self.store.read(|tx| {
            with_more(&*self.values, &[&BY_INDEX], |values| {
                tx.query_map(&sql, values, |row| key.read(row))
            })
        })?;
        let is_slow = began.elapsed() > 2 * SHORT_READ;
        let is_last = (keys.len() as i64) < BY_INDEX;
        let is_stuck = !keys.is_empty() && keys.first() == before.first();
        let before: HashSet<Key> = before.into_iter().collect();
        self.stuck
            .extend(keys.iter().filter(|key| before.contains(key)).cloned());
        if is_last {
            // This snapshot held all rows that were left: rows that are added now do not keep it going.
            self.has_all = true;
            return Ok((keys, Some(Vec::new())));
        }
        if is_stuck {
            self.settles = true;
            return Ok((Vec::new(), None));
        }
        self.settles |= is_slow;
        Ok((keys.clone(), (!is_slow).then_some(keys)))
    }

    /// The keys of the next window. `None` at the end.
    fn walk(&mut self, key: &KeyColumns) -> Result<Option<Vec<Key>>> {
        let Some(last) = self.last.take() else { return Ok(None) };
        let (table, list, order, indexed) = (quoted(&self.table), key.list(), key.order(false), key.indexed());
        let range = |first: usize| {
            let is_after = self.after.as_ref().map(|_| key.is_after(first));
            let to = first + if is_after.is_some() { key.count() } else { 0 };
            let is_up_to = key.is_up_to(to);
            (
                is_after.map_or(is_up_to.clone(), |is_after| format!("({is_after}) AND ({is_up_to})")),
                to + key.count(),
            )
        };
        let (in_range, next) = range(1);
        let end = format!("SELECT {list} FROM main.{table} WHERE {in_range} ORDER BY {order} LIMIT 1 OFFSET ?{next}");
        let (in_range, _) = range(self.count + 1);
        let condition = &self.condition;
        let keys =
            format!("SELECT {list} FROM main.{table} {indexed} WHERE ({condition}\n) AND {in_range} ORDER BY {order}");
        let began = Instant::now();
        let offset = self.window - 1;
        let (end, keys) = self.store.read(|tx| {
            let after = self.after.iter().flat_map(Key::params);
            let params: Vec<&dyn ToSql> = after
                .clone()
                .chain(last.params())
                .chain([&offset as &dyn ToSql])
                .collect();
            let end = tx
                .query_map(&end, params.as_slice(), |row| key.read(row))?
                .into_iter()
                .next();
            let to = end.as_ref().unwrap_or(&last);
            let params: Vec<&dyn ToSql> = after.chain(to.params()).collect();
            let keys = with_more(&*self.values, &params, |values| {
                tx.query_map(&keys, values, |row| key.read(row))
            })?;
            Ok((end, keys))
        })?;
        if end.is_some() {
            self.after = end;
            self.last = Some(last);
        }
        let took = began.elapsed();
        if took < SHORT_READ {
            self.window = (self.window * 2).min(WIDEST_WINDOW);
        } else if took > 2 * SHORT_READ {
            self.window = (self.window / 2).max(FIRST_WINDOW);
        }
        Ok(Some(keys))
    }
}

/// What the schema says of a table.
struct TableLook {
    kind: Option<String>,
    is_without_rowid: bool,
    columns: Vec<ColumnLook>,
    /// The index of the primary key, and its columns, if it has one.
    primary: Option<(String, Vec<KeyColumn>)>,
}

struct ColumnLook {
    name: String,
    is_integer: bool,
    is_of_key: bool,
}

impl TableLook {
    fn at(tx: &ReadTx<'_>, table: &str) -> Result<Self> {
        let list = "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
        let found: Option<(String, bool)> = tx.optional(list, [table])?;
        let (kind, is_without_rowid) = found.map_or((None, false), |(kind, wr)| (Some(kind), wr));
        let columns = "SELECT name, type = 'INTEGER' COLLATE NOCASE, pk > 0 FROM pragma_table_xinfo(?1, 'main')";
        let columns = tx.query_map(columns, [table], |row| {
            Ok(ColumnLook {
                name: row.get(0)?,
                is_integer: row.get(1)?,
                is_of_key: row.get(2)?,
            })
        })?;
        let index = "SELECT name FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'";
        let index: Option<String> = tx.optional_scalar(index, [table])?;
        let primary = match index {
            None => None,
            Some(index) => {
                let columns =
                    "SELECT name, coll, \"desc\" FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno";
                let columns = tx.query_map(columns, [&index], |row| {
                    Ok(KeyColumn {
                        name: quoted(&row.get::<_, String>(0)?),
                        collation: quoted(&row.get::<_, String>(1)?),
                        descends: row.get(2)?,
                    })
                })?;
                Some((quoted(&index), columns))
            }
        };
        Ok(Self {
            kind,
            is_without_rowid,
            columns,
            primary,
        })
    }

    /// The column that is the rowid, if one is.
    fn alias(&self) -> Option<&ColumnLook> {
        let mut key = self.columns.iter().filter(|column| column.is_of_key);
        let (first, second) = (key.next()?, key.next());
        (first.is_integer && second.is_none() && self.primary.is_none() && !self.is_without_rowid).then_some(first)
    }

    /// The names of the rowid that no other column has.
    fn rowid_names(&self) -> impl Iterator<Item = &'static str> {
        let alias = self.alias().map(|column| &column.name);
        ROWID.into_iter().filter(move |rowid| {
            let mut others = self.columns.iter().filter(|column| Some(&column.name) != alias);
            !others.any(|column| column.name.eq_ignore_ascii_case(rowid))
        })
    }

    /// How its rows are found, or why they cannot be.
    fn key(&self) -> std::result::Result<KeyColumns, String> {
        match self.kind.as_deref() {
            None => return Err("there is no such table in the main database".into()),
            Some("table") => {}
            Some(_) => return Err("it is no ordinary table: delete or update its rows with Store::write".into()),
        }
        if self.is_without_rowid {
            let (index, columns) = self.primary.as_ref().ok_or("its primary key is not known")?;
            return Ok(KeyColumns::Declared {
                index: index.clone(),
                columns: columns.clone(),
            });
        }
        let name = self.rowid_names().next().map(str::to_owned);
        let name = name.or_else(|| self.alias().map(|column| quoted(&column.name)));
        name.map(KeyColumns::Rowid).ok_or_else(|| {
            "columns named rowid, _rowid_ and oid hide the key of the walk: delete or update ranges of its key with \
             Store::write"
                .into()
        })
    }

    /// The names of the key, in lower case.
    fn key_names(&self) -> Vec<String> {
        let name = |column: &ColumnLook| column.name.to_ascii_lowercase();
        if self.is_without_rowid {
            return self
                .columns
                .iter()
                .filter(|column| column.is_of_key)
                .map(name)
                .collect();
        }
        self.rowid_names()
            .map(str::to_owned)
            .chain(self.alias().map(name))
            .collect()
    }
}

/// The columns that the text after a `SET` sets, in lower case: of `a = 1` and of `(a, b) = (1, 2)`.
fn assigned(set: &str) -> Vec<String> {
    let (mut names, mut depth, mut is_name) = (Vec::new(), 0, true);
    for token in tokens(set) {
        match token {
            "(" => depth += 1,
            ")" => depth -= 1,
            "=" if depth == 0 => is_name = false,
            "," if depth == 0 => is_name = true,
            "," => {}
            name if is_name => names.push(unquoted(name).to_ascii_lowercase()),
            _ => {}
        }
    }
    names
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
                *largest = largest.saturating_add(1);
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

    fn statement(&mut self) -> Result<Option<String>> {
        let plan = self.plan()?;
        let statement = self.statement_by(&plan.key);
        self.plan = Some(plan);
        Ok(Some(statement))
    }

    fn next(&mut self, is_committed: bool) -> Result<Step<KeyRow<P>>> {
        if self.ready.len() == 0 {
            let by_index = self.plan.as_ref().is_some_and(|plan| plan.by_index.is_some());
            // Otherwise the index would give the same keys again.
            if (self.settles || by_index) && !is_committed && !self.has_all {
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
        let of_values = row::bytes(&*self.values);
        let keys = self.ready.by_ref().take(BATCH_ROWS);
        let rows = keys.map(|key| {
            let bytes = of_values + key.bytes();
            let values = Arc::clone(&self.values);
            (KeyRow { values, key }, bytes)
        });
        Ok(Step::Rows(rows.collect()))
    }

    /// What a deletion has deleted is not found again.
    fn resume(&mut self, done: Resume, _is_over: &dyn Fn() -> bool) -> Result<()> {
        if self.set.is_some() && done.key.is_some() {
            let is_rowid = |key: &KeyColumns| matches!(key, KeyColumns::Rowid(_));
            let fits = match (&self.plan, &done.key) {
                (Some(plan), Some(Key::Rowid(_))) => is_rowid(&plan.key),
                (Some(plan), Some(Key::Columns(parts))) => !is_rowid(&plan.key) && plan.key.count() == parts.len(),
                _ => true,
            };
            if !fits {
                return Err(self.wrong(format!(
                    "the key of table {:?} is another one than in the earlier runs of this job: call Bulk::forget to begin \
                     from the first row",
                    self.table
                )));
            }
            self.after = done.key;
        }
        Ok(())
    }
}
