//! Redundant indexes, which another index replaces.
//!
//! "A good rule of thumb is that your database schema should never contain two indices where one index is a prefix of
//! the other. Drop the index with fewer columns. SQLite will still be able to do efficient lookups with the longer
//! index", <https://sqlite.org/queryplanner.html>. An index with an expression or a condition is compared by its text,
//! as a whole: two that are written differently never count as duplicates.

use std::cmp::Reverse;

use super::tables::{Index, IndexColumn, IndexOrigin, Schema, Table};
use super::told;
use crate::connection::sql_text::quoted;
use crate::monitor::advice::{Finding, Severity};

pub(super) fn look(schema: &Schema) -> impl Iterator<Item = Finding> {
    let tables = schema.of_the_application();
    tables.flat_map(|table| table.indexes.iter().filter_map(|index| judge(table, index)))
}

/// Reports an index that is redundant. An automatic index cannot be dropped, so it is never reported itself.
fn judge(table: &Table, index: &Index) -> Option<Finding> {
    if index.origin != IndexOrigin::CreateIndex {
        return None;
    }
    let message = if repeats_rowid(table, index) {
        format!("{} repeats the INTEGER PRIMARY KEY", described(table, index))
    } else {
        let others = table.indexes.iter().filter(|other| serves_for(other, index));
        // The longest index makes all the others redundant, and is never reported itself.
        let other = others.max_by_key(|other| (other.columns.len(), rank(other)))?;
        let how = if is_same(other, index) {
            "the same as"
        } else {
            "the beginning of"
        };
        format!("{} is {how} {}", described(table, index), described(table, other))
    };
    let remedy = format!(
        "Each write updates both, and a search needs only one. Unless a statement names it with INDEXED BY: DROP INDEX \
         {}",
        quoted(&index.name)
    );
    Some(Finding::new(Severity::Warning, "duplicate_index", message, remedy))
}

/// Whether the index repeats the rowid. Numbers have one order, and a table can be scanned from both ends, so collation
/// and direction do not matter.
fn repeats_rowid(table: &Table, index: &Index) -> bool {
    match index.columns.as_slice() {
        [IndexColumn { name: Some(only), .. }] => !index.partial && table.is_rowid_alias(only),
        _ => false,
    }
}

/// Whether `other` makes `index` redundant.
fn serves_for(other: &Index, index: &Index) -> bool {
    if is_same(other, index) {
        return rank(other) > rank(index);
    }
    let plain = !index.unique && !index.partial && !index.has_expression();
    plain && !other.partial && other.columns.starts_with(&index.columns)
}

fn is_same(one: &Index, other: &Index) -> bool {
    let same_text = !one.has_expression() || one.definition.columns == other.definition.columns;
    one.columns == other.columns && same_text && one.definition.condition == other.definition.condition
}

/// Of two equal indexes the one with the greater rank stays: it cannot be dropped, or it is a constraint, or it is
/// older.
fn rank(index: &Index) -> (bool, bool, Reverse<i64>) {
    (
        index.origin != IndexOrigin::CreateIndex,
        index.unique,
        Reverse(index.made),
    )
}

fn described(table: &Table, index: &Index) -> String {
    let name = |column: &IndexColumn| column.name.clone().unwrap_or_else(|| "..".into());
    let columns: Vec<String> = index.columns.iter().map(name).collect();
    let on = told(&table.name, columns.iter().map(String::as_str));
    match index.origin {
        IndexOrigin::CreateIndex => format!("the index {} on {on}", index.name),
        IndexOrigin::Unique => format!("the UNIQUE constraint on {on}"),
        IndexOrigin::PrimaryKey => format!("the primary key {on}"),
    }
}
