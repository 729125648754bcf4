//! The tables that are not STRICT, and those of them that migrations created.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::record;
use super::references::definition;
use crate::connection::authorizer::Touched;
use crate::connection::sql_text::name;

/// The tables that are not STRICT, by name in lower case. The record is exempt, because Dbmate creates it that way.
#[derive(Debug, Default)]
pub(crate) struct NotStrict(BTreeMap<String, String>);

/// What a statement did to a table that is not STRICT.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TableEvent {
    Created(String),
    /// From this name to that.
    Renamed(String, String),
    Dropped(String),
}

/// Whether the table is not one of SQLite's, nor the record.
fn counts(table: &str) -> bool {
    !table.starts_with("sqlite_") && table != record::TABLE
}

impl NotStrict {
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT strict";
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut tables = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let table = name(row, 0)?;
            if counts(&table) {
                tables.insert(table.to_ascii_lowercase(), table);
            }
        }
        Ok(Self(tables))
    }

    /// Follows one statement.
    pub(crate) fn follow(&mut self, conn: &Connection, touched: &Touched) -> rusqlite::Result<Vec<TableEvent>> {
        if touched.altered {
            let now = Self::read(conn)?;
            let events = now.since(self, touched.made);
            *self = now;
            return Ok(events);
        }
        let mut events = Vec::new();
        for table in &touched.defined {
            let now = definition(conn, table)?.filter(|definition| !definition.is_strict && counts(&definition.name));
            let now = now.map(|definition| definition.name);
            match (self.0.remove(table), now) {
                (None, Some(now)) => {
                    events.push(TableEvent::Created(now.clone()));
                    self.0.insert(table.clone(), now);
                }
                (Some(was), None) => events.push(TableEvent::Dropped(was)),
                (Some(_), Some(now)) => drop(self.0.insert(table.clone(), now)),
                (None, None) => {}
            }
        }
        Ok(events)
    }

    /// What an ALTER has done, after which any table may have another name.
    fn since(&self, before: &Self, made: bool) -> Vec<TableEvent> {
        let missing = |from: &Self, other: &Self| -> Vec<String> {
            let missing = from.0.iter().filter(|(key, _)| !other.0.contains_key(*key));
            missing.map(|(_, name)| name.clone()).collect()
        };
        let (came, gone) = (missing(self, before), missing(before, self));
        if let ([new], [old], false) = (&came[..], &gone[..], made) {
            return vec![TableEvent::Renamed(old.clone(), new.clone())];
        }
        let came = came.into_iter().filter(|_| made).map(TableEvent::Created);
        came.chain(gone.into_iter().map(TableEvent::Dropped)).collect()
    }
}

/// Applies the events to the tables that migrations created without STRICT.
pub(crate) fn keep(created: &mut Vec<String>, events: Vec<TableEvent>) {
    for event in events {
        match event {
            TableEvent::Created(table) => created.push(table),
            TableEvent::Dropped(table) => created.retain(|kept| *kept != table),
            TableEvent::Renamed(old, new) => {
                if let Some(at) = created.iter().position(|kept| *kept == old) {
                    created.remove(at);
                    created.push(new);
                }
            }
        }
    }
}
