//! Rows into the tables that migrations have made, and tables that are left out.

use super::failed;
use super::kind::Kind;
use super::model::{Model, Name, Rule};
use super::report::PostgresNote;
use super::schema::Plan;
use crate::connection::sql_text::quoted;
use crate::error::Result;
use crate::store::Store;

/// The tables that record migrations, which an export takes along as any other.
pub(super) const RECORDS: [&str; 2] = ["larder_migrations", "schema_migrations"];

fn is_of(name: &Name, names: &[String]) -> bool {
    names.iter().any(|known| *known == name.shown())
}

/// Takes the foreign keys to tables out that are left out.
pub(super) fn skip(model: &mut Model, skipped: &[String], has_own_keys: bool) -> std::result::Result<(), String> {
    let known = |name: &&String| {
        RECORDS.contains(&name.as_str()) || model.tables.iter().any(|table| table.name.shown() == **name)
    };
    if let Some(unknown) = skipped.iter().find(|name| !known(name)) {
        return Err(format!("there is no table {unknown} to leave out"));
    }
    for table in model.tables.iter_mut().filter(|_| has_own_keys) {
        table.constraints.retain(|constraint| match &constraint.rule {
            Rule::ForeignKey(key) => !is_of(&key.table, skipped),
            _ => true,
        });
    }
    Ok(())
}

/// Takes tables out of the plan.
pub(super) fn leave_out(model: &Model, plan: &mut Plan, skipped: &[String]) {
    let names = model.tables.iter().map(|table| table.name.clone());
    plan.skipped = names.filter(|name| is_of(name, skipped)).collect();
    plan.tables.retain(|table| !is_of(&table.source, skipped));
    plan.indexes.retain(|(table, _)| !is_of(table, skipped));
    let notes = plan
        .skipped
        .iter()
        .map(|name| PostgresNote::new(&name.shown(), "is left out, with its rows and the keys to it", ""));
    let notes: Vec<_> = notes.collect();
    plan.notes.extend(notes);
}

/// A column of a table that is there.
struct There {
    name: String,
    declared: String,
    is_generated: bool,
    key: usize,
}

/// Fits the plan to the tables that are there.
pub(super) fn adopt(store: &Store, plan: &mut Plan, source: &str) -> Result<()> {
    let mut problems = Vec::new();
    plan.is_made = true;
    plan.indexes.clear();
    plan.views.clear();
    plan.notes
        .retain(|note| plan.skipped.iter().any(|name| note.object == name.shown()));
    let note = PostgresNote::new(
        "the schema",
        "is that of the migrations: constraints, indexes, views and triggers of PostgreSQL are not compared with it",
        "",
    );
    plan.notes.push(note);
    for target in &mut plan.tables {
        let name = target.name.clone();
        let (columns, has_rowid, counts, rows) = store.read(|tx| {
            let sql = "SELECT name, type, hidden IN (2, 3), pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1";
            let columns: Vec<There> = tx.query_map(sql, [&name], |row| {
                Ok(There {
                    name: row.get(0)?,
                    declared: row.get(1)?,
                    is_generated: row.get(2)?,
                    key: row.get::<_, i64>(3)?.unsigned_abs() as usize,
                })
            })?;
            if columns.is_empty() {
                return Ok((columns, true, false, 0_i64));
            }
            let list = "SELECT NOT wr FROM pragma_table_list(?1) WHERE schema = 'main'";
            let has_rowid: bool = tx.scalar(list, [&name])?;
            let counts = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?1) \
                          AND sql LIKE '%AUTOINCREMENT%'";
            let counts: i64 = tx.scalar(counts, [&name])?;
            let rows = tx.scalar(&format!("SELECT count(*) FROM {}", quoted(&name)), [])?;
            Ok((columns, has_rowid, counts > 0, rows))
        })?;
        if columns.is_empty() {
            problems.push(format!("there is no table {name}"));
            continue;
        }
        if rows > 0 {
            problems.push(format!("the table {name} has {rows} rows already"));
        }
        let find = |wanted: &str| columns.iter().find(|column| column.name.eq_ignore_ascii_case(wanted));
        for column in &mut target.columns {
            let Some(there) = find(&column.name) else {
                problems.push(format!("the table {name} has no column {}", column.name));
                continue;
            };
            column.name.clone_from(&there.name);
            column.is_generated = there.is_generated;
            if column.kind == Kind::Numeric && takes_numbers(&there.declared) {
                column.kind = Kind::NumericExact;
            }
        }
        let mut key: Vec<&There> = columns.iter().filter(|column| column.key > 0).collect();
        key.sort_by_key(|column| column.key);
        let places = key
            .iter()
            .map(|there| target.columns.iter().position(|column| column.name == there.name));
        let places: Vec<usize> = places.flatten().collect();
        let is_rowid = has_rowid && key.len() == 1 && key[0].declared.eq_ignore_ascii_case("INTEGER");
        target.rowid = places.first().copied().filter(|_| is_rowid);
        if !has_rowid {
            if places.len() != key.len() {
                problems.push(format!("the table {name} has a key that the rows do not have"));
            }
            target.key = places;
        }
        if !counts {
            target.sequence = None;
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(failed(
            source,
            format!(
                "the migrations do not make the tables of the rows: {}; nothing was kept",
                problems.join("; ")
            ),
        )),
    }
}

/// Whether a column of a declared type makes numbers of text (<https://sqlite.org/datatype3.html>).
fn takes_numbers(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    match () {
        () if has(&["INT"]) => true,
        () if has(&["CHAR", "CLOB", "TEXT", "BLOB"]) || declared.is_empty() || declared == "ANY" => false,
        () => true,
    }
}
