//! Rows into the new database, and the comparison with the source.

use rusqlite::types::{Value, ValueRef};
use rusqlite::{ffi, params_from_iter};

use super::kind::Kind;
use super::model::Model;
use super::report::{ImportedTable, PostgresNote};
use super::schema::{Plan, Target, left_out};
use super::source::{Rows, Source};
use super::values::{Moment, canonical_source, canonical_target, has_bounds, value};
use super::{OPERATION, PostgresImportProgress, PostgresImportStage, PostgresNan, failed};
use crate::connection::sql_text::quoted;
use crate::error::{Error, Result, primary_code};
use crate::maintenance::progress::ProgressReporter;
use crate::postgres::canonical::{TableHash, Value as Canonical, append_blob};
use crate::queue::pending::Pending;
use crate::store::Store;

/// Bytes of a batch, about.
const BATCH: usize = 4 << 20;

/// So many differing rows are named.
const MAX_NAMED: usize = 5;

pub(super) struct Load<'s> {
    store: &'s Store,
    plan: Plan,
    model: Model,
    nan: PostgresNan,
    views: Vec<String>,
    notes: Vec<PostgresNote>,
    reporter: &'s ProgressReporter<PostgresImportProgress>,
}

/// Rows for one INSERT.
#[derive(Default)]
struct Batch {
    table: usize,
    sql: String,
    columns: Vec<usize>,
    rows: Vec<Vec<Value>>,
    bytes: usize,
}

/// What was seen of values that are not as they were.
#[derive(Clone, Default)]
struct Odd {
    bounds: u64,
    unsorted: u64,
}

impl<'s> Load<'s> {
    pub(super) fn new(
        store: &'s Store,
        mut plan: Plan,
        nan: PostgresNan,
        model: Model,
        reporter: &'s ProgressReporter<PostgresImportProgress>,
    ) -> Self {
        if nan == PostgresNan::Text {
            let columns = plan.tables.iter_mut().flat_map(|table| &mut table.columns);
            for column in columns.filter(|column| matches!(column.kind, Kind::Float | Kind::NumericReal)) {
                column.is_any = true;
            }
        }
        let notes = std::mem::take(&mut plan.notes);
        Self {
            store,
            plan,
            model,
            nan,
            views: Vec::new(),
            notes,
            reporter,
        }
    }

    /// The views that were made, and what is not as it was.
    pub(super) fn into_views_and_notes(self) -> (Vec<String>, Vec<PostgresNote>) {
        (self.views, self.notes)
    }

    /// Makes the tables, loads them, makes the indexes, and compares.
    pub(super) fn run(&mut self, source: &mut Source) -> Result<Vec<ImportedTable>> {
        let made = self.plan.tables.iter().filter(|_| !self.plan.is_made);
        let tables: Vec<_> = made.map(Target::sql).collect();
        self.execute(tables)?;
        self.load(source)?;
        let sequences = self
            .plan
            .tables
            .iter()
            .filter_map(|table| Some((table.name.clone(), table.sequence?)));
        let sequences: Vec<_> = sequences.filter(|(_, last)| *last > 0).collect();
        self.store.write(move |tx| {
            for (table, last) in sequences {
                let changed = tx.execute(
                    "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1",
                    (&table, last),
                )?;
                if changed == 0 {
                    tx.execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?1, ?2)", (&table, last))?;
                }
            }
            Ok(())
        })?;
        let indexes = self.plan.indexes.iter().map(|(_, sql)| sql.clone());
        self.execute(indexes.collect())?;
        self.make_views()?;
        self.check_foreign_keys(source)?;
        compare(self, source)
    }

    /// Makes the views. One that SQLite does not prepare is left out.
    fn make_views(&mut self) -> Result<()> {
        for view in std::mem::take(&mut self.plan.views) {
            let select = format!("SELECT * FROM {}", quoted(&view.name));
            let sql = view.sql.clone();
            let made = self.store.write(move |tx| {
                tx.execute_batch(&sql)?;
                tx.prepare(&select)?;
                Ok(())
            });
            match made {
                Ok(()) => self.views.push(view.name),
                Err(error) if is_of_the_sql(&error) => {
                    self.notes.push(left_out(&view.source, &view.query, &error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn execute(&self, statements: Vec<String>) -> Result<()> {
        self.store.write(move |tx| {
            for statement in &statements {
                tx.execute_batch(statement)?;
            }
            Ok(())
        })
    }

    fn load(&mut self, source: &mut Source) -> Result<()> {
        let Self {
            store,
            plan,
            model,
            nan,
            reporter,
            ..
        } = self;
        enter(reporter, PostgresImportStage::Load)?;
        let mut loaded = 0;
        let mut odd = vec![Vec::new(); plan.tables.len()];
        for (odd, table) in odd.iter_mut().zip(&plan.tables) {
            *odd = vec![Odd::default(); table.columns.len()];
        }
        let mut batch = Batch::default();
        let mut running: Option<Pending<()>> = None;
        let mut broken: Option<Error> = None;
        let read = source.rows(model, plan, &mut |rows, fields| {
            let target = &plan.tables[rows.table];
            let full = batch.bytes >= BATCH || batch.rows.len() >= 20_000;
            if full || batch.table != rows.table || batch.columns != rows.columns || batch.sql.is_empty() {
                let next = Batch {
                    table: rows.table,
                    sql: insert(target, rows.columns),
                    columns: rows.columns.to_vec(),
                    ..Batch::default()
                };
                let done = std::mem::replace(&mut batch, next);
                if let Err(error) = write(store, done, &mut running) {
                    broken = Some(error);
                    return Err(String::new());
                }
            }
            let mut values = Vec::with_capacity(fields.len());
            // A value has its own size beside its text, NULL too.
            batch.bytes += 32 * fields.len();
            for (at, field) in rows.columns.iter().zip(fields) {
                let column = &target.columns[*at];
                if column.is_generated {
                    continue;
                }
                let Some(text) = field else {
                    values.push(Value::Null);
                    continue;
                };
                let value = convert(&column.kind, text, *nan);
                let value =
                    value.map_err(|problem| format!("{}.{}: {problem}", target.source.shown(), column.source))?;
                note_odd(&column.kind, text, &mut odd[rows.table][*at]);
                batch.bytes += text.len();
                values.push(value);
            }
            batch.rows.push(values);
            step(reporter, PostgresImportStage::Load, &mut loaded).map_err(|error| {
                broken = Some(error);
                String::new()
            })
        });
        if let Some(error) = broken {
            return Err(error);
        }
        read?;
        write(store, batch, &mut running)?;
        if let Some(running) = running {
            running.wait()?;
        }
        for (table, odd) in plan.tables.iter().zip(odd) {
            for (column, odd) in table.columns.iter().zip(odd) {
                let object = format!("{}.{}", table.source.shown(), column.source);
                if odd.bounds > 0 {
                    let problem = format!("{} arrays that do not begin at 1 do here", odd.bounds);
                    self.notes.push(PostgresNote::new(&object, problem, ""));
                }
                if odd.unsorted > 0 {
                    let problem = format!(
                        "{} values before the year 0 or after 9999, which do not sort by time",
                        odd.unsorted
                    );
                    self.notes.push(PostgresNote::new(&object, problem, ""));
                }
            }
        }
        Ok(())
    }

    fn check_foreign_keys(&self, source: &Source) -> Result<()> {
        // Of millions, the first is named, and no more than these are looked for.
        const MAX_COUNTED: usize = 100;
        let sql = format!("SELECT \"table\", rowid, parent FROM pragma_foreign_key_check LIMIT {MAX_COUNTED}");
        let found = self.store.read(|tx| {
            tx.query_map(&sql, [], |row| {
                let (table, rowid, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let rowid = rowid
                    .map(|rowid| format!(" with the rowid {rowid}"))
                    .unwrap_or_default();
                Ok(format!("a row of {table}{rowid} has no parent in {parent}"))
            })
        })?;
        match found.first() {
            None => Ok(()),
            Some(first) => {
                let least = if found.len() == MAX_COUNTED { "at least " } else { "" };
                let what = format!("{least}{} rows violate foreign keys: {first}", found.len());
                Err(failed(source.name(), what))
            }
        }
    }
}

/// Whether SQLite could not read a statement, and nothing else is wrong.
fn is_of_the_sql(error: &Error) -> bool {
    error.sqlite().and_then(primary_code) == Some(ffi::SQLITE_ERROR)
}

/// Reads the source once more, and each row in the file beside it.
fn compare(load: &Load<'_>, source: &mut Source) -> Result<Vec<ImportedTable>> {
    let (plan, model, nan) = (&load.plan, &load.model, load.nan);
    let targets = &plan.tables;
    enter(load.reporter, PostgresImportStage::Compare)?;
    let mut compared = 0;
    let mut cancelled = None;
    let name = source.name().to_owned();
    let mut hashes = vec![TableHash::default(); targets.len()];
    let mut differences: Vec<String> = Vec::new();
    let mut counts = vec![0_u64; targets.len()];
    let read = load.store.read(|tx| {
        let mut statements = Vec::new();
        for target in targets {
            statements.push(tx.prepare(&select(target))?);
        }
        let (mut here, mut there) = (Vec::new(), Vec::new());
        source.rows(model, plan, &mut |rows, fields| {
            let target = &targets[rows.table];
            let hash = &mut hashes[rows.table];
            here.clear();
            let place = place(target, rows, fields, hash.rows())?;
            let found = statements[rows.table].query(params_from_iter(&place));
            let mut found = found.map_err(|error| error.to_string())?;
            let row = found.next().map_err(|error| error.to_string())?;
            let mut differs = None;
            there.clear();
            for (at, field) in rows.columns.iter().zip(fields) {
                let column = &target.columns[*at];
                let before = (here.len(), there.len());
                append_source(&column.kind, *field, nan, &mut here)?;
                let read = match row {
                    Some(row) => append_target(
                        &column.kind,
                        row.get_ref(*at).map_err(|error| error.to_string())?,
                        &mut there,
                    ),
                    None => Err("the row is not there".into()),
                };
                let same = read.is_ok() && here[before.0..] == there[before.1..];
                if !same && differs.is_none() {
                    let value = field.map(|text| String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned());
                    let reason = read.err().map(|reason| format!(" ({reason})")).unwrap_or_default();
                    differs = Some(format!(
                        "{}: row {}, column {}: PostgreSQL has {value:?}, and the file has another value{reason}",
                        target.source.shown(),
                        hash.rows() + 1,
                        column.source
                    ));
                }
            }
            differences.extend(differs.filter(|_| differences.len() < MAX_NAMED));
            // The bytes of both sides are the same, or there is a difference.
            hash.add(rows.columns.len(), &here);
            step(load.reporter, PostgresImportStage::Compare, &mut compared).map_err(|error| {
                cancelled = Some(error);
                String::new()
            })
        })?;
        for (count, target) in counts.iter_mut().zip(targets) {
            let rows: i64 = tx.scalar(&format!("SELECT count(*) FROM {}", quoted(&target.name)), [])?;
            *count = rows.unsigned_abs();
        }
        Ok(())
    });
    if let Some(error) = cancelled {
        return Err(error);
    }
    read?;
    let mut tables = Vec::new();
    for ((target, hash), count) in targets.iter().zip(hashes).zip(counts) {
        let rows = hash.rows();
        if rows != count {
            differences.push(format!(
                "{}: {rows} rows in the source, {count} in the file",
                target.source.shown()
            ));
        }
        tables.push(ImportedTable {
            source: target.source.shown(),
            table: target.name.clone(),
            rows,
            sha256: hash.finish(),
        });
    }
    match differences.is_empty() {
        true => Ok(tables),
        false => {
            let what = format!(
                "the file is not as the source, and was deleted: {}",
                differences.join("; ")
            );
            Err(failed(&name, what))
        }
    }
}

/// Reports a stage at its start, so that a short one is seen too.
fn enter(reporter: &ProgressReporter<PostgresImportProgress>, stage: PostgresImportStage) -> Result<()> {
    if reporter.report(PostgresImportProgress::at(stage, 0)).is_break() {
        // The reporter says why.
        return Err(Error::Cancelled { work: OPERATION });
    }
    Ok(())
}

/// Counts a row, and reports how far it is.
fn step(reporter: &ProgressReporter<PostgresImportProgress>, stage: PostgresImportStage, rows: &mut u64) -> Result<()> {
    *rows += 1;
    if rows.is_multiple_of(256) && reporter.enter(PostgresImportProgress::at(stage, *rows)).is_break() {
        // The reporter says why.
        return Err(Error::Cancelled { work: OPERATION });
    }
    Ok(())
}

/// Commits a batch once the one before it is there.
fn write(store: &Store, batch: Batch, running: &mut Option<Pending<()>>) -> Result<()> {
    if let Some(running) = running.take() {
        running.wait()?;
    }
    if batch.rows.is_empty() {
        return Ok(());
    }
    let pending = store.submit(move |tx| {
        let mut statement = tx.prepare_cached(&batch.sql)?;
        for row in batch.rows {
            statement.execute(params_from_iter(row))?;
        }
        Ok(())
    })?;
    *running = Some(pending);
    Ok(())
}

fn insert(target: &Target, columns: &[usize]) -> String {
    let columns = columns
        .iter()
        .map(|at| &target.columns[*at])
        .filter(|column| !column.is_generated);
    let names: Vec<_> = columns.map(|column| quoted(&column.name)).collect();
    if names.is_empty() {
        return format!("INSERT INTO {} DEFAULT VALUES", quoted(&target.name));
    }
    let values = vec!["?"; names.len()].join(", ");
    format!(
        "INSERT INTO {} ({}) VALUES ({values})",
        quoted(&target.name),
        names.join(", ")
    )
}

fn select(target: &Target) -> String {
    let columns: Vec<_> = target.columns.iter().map(|column| quoted(&column.name)).collect();
    let hidden = ["rowid", "_rowid_", "oid"];
    let is_free = |name: &&&str| {
        !target
            .columns
            .iter()
            .any(|column| column.name.eq_ignore_ascii_case(name))
    };
    let rowid = match target.rowid {
        Some(at) => columns[at].clone(),
        None => hidden
            .iter()
            .find(is_free)
            .map_or_else(String::new, |name| (*name).to_owned()),
    };
    let columns = if columns.is_empty() {
        "1".to_owned()
    } else {
        columns.join(", ")
    };
    let name = quoted(&target.name);
    if !target.key.is_empty() {
        let key = target
            .key
            .iter()
            .map(|at| format!("{} = ? COLLATE BINARY", quoted(&target.columns[*at].name)));
        let key = key.collect::<Vec<_>>().join(" AND ");
        return format!("SELECT {columns} FROM {name} WHERE {key}");
    }
    format!("SELECT {columns} FROM {name} WHERE {rowid} = ?1")
}

/// What finds a row of the source in the file: its rowid, or its key.
fn place(target: &Target, rows: &Rows<'_>, fields: &[Option<&[u8]>], before: u64) -> Result<Vec<Value>, String> {
    if target.key.is_empty() {
        return Ok(vec![Value::Integer(rowid(target, rows, fields, before)?)]);
    }
    let part = |key: &usize| {
        let at = rows.columns.iter().position(|at| at == key);
        match at.and_then(|at| fields[at]) {
            Some(text) => value(&target.columns[*key].kind, text),
            None => Ok(Value::Null),
        }
    };
    target.key.iter().map(part).collect()
}

/// The rowid of a row of the source: its key, or its number.
fn rowid(target: &Target, rows: &Rows<'_>, fields: &[Option<&[u8]>], before: u64) -> Result<i64, String> {
    let key = target
        .rowid
        .and_then(|key| rows.columns.iter().position(|at| *at == key));
    match key.and_then(|at| fields[at]) {
        Some(text) => match value(&Kind::Integer, text)? {
            Value::Integer(key) => Ok(key),
            other => Err(format!("{other:?} is no key")),
        },
        None => i64::try_from(before + 1).map_err(|_| "too many rows".to_owned()),
    }
}

fn convert(kind: &Kind, text: &[u8], nan: PostgresNan) -> Result<Value, String> {
    let converted = value(kind, text)?;
    match (kind, &converted) {
        (Kind::Float | Kind::NumericReal, Value::Text(_)) => match nan {
            PostgresNan::Fail => Err("NaN, which SQLite cannot keep: choose PostgresImport::nan".into()),
            PostgresNan::Null => Ok(Value::Null),
            PostgresNan::Text => Ok(converted),
        },
        _ => Ok(converted),
    }
}

fn note_odd(kind: &Kind, text: &[u8], odd: &mut Odd) {
    match kind {
        Kind::Array(_) => odd.bounds += u64::from(has_bounds(text)),
        Kind::Date | Kind::Timestamp | Kind::TimestampTz => {
            // A year of four digits is what nearly all have.
            let is_plain = text.get(4) == Some(&b'-') && !text.ends_with(b"BC");
            let sorts =
                is_plain || std::str::from_utf8(text).is_ok_and(|text| Moment::read(text).is_ok_and(Moment::sorts));
            odd.unsorted += u64::from(!sorts);
        }
        _ => {}
    }
}

fn append_source(kind: &Kind, field: Option<&[u8]>, nan: PostgresNan, to: &mut Vec<u8>) -> Result<(), String> {
    let is_null = match (kind, field) {
        (Kind::Float | Kind::NumericReal, Some(b"NaN")) => nan == PostgresNan::Null,
        (_, field) => field.is_none(),
    };
    let Some(text) = field.filter(|_| !is_null) else {
        Canonical::Null.append_to(to);
        return Ok(());
    };
    append_blob(to, |to| canonical_source(kind, text, to))
}

fn append_target(kind: &Kind, value: ValueRef<'_>, to: &mut Vec<u8>) -> Result<(), String> {
    if value == ValueRef::Null {
        Canonical::Null.append_to(to);
        return Ok(());
    }
    append_blob(to, |to| canonical_target(kind, value, to))
}
