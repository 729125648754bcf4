//! The table `larder_retention`: what a retention knows of the clock, and whether the times of its column were once found
//! to be near it. It is a part of the database, so a copy of the database that is opened a month later has it, too.

use std::time::Duration;

use super::RetainRule;
use super::clock_guard::{Other, State};
use crate::error::{Error, Result};
use crate::transaction::{ReadTx, WriteTx};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS main.larder_retention(
    table_name TEXT NOT NULL COLLATE NOCASE, column_name TEXT NOT NULL COLLATE NOCASE, time_ms INTEGER NOT NULL,
    other_time_ms INTEGER, held_ms INTEGER, boot TEXT NOT NULL, uptime_ms INTEGER NOT NULL, checked INTEGER NOT NULL,
    PRIMARY KEY (table_name, column_name)
) STRICT, WITHOUT ROWID";

/// Those of the table, in their order.
const COLUMNS: &str = "table_name,column_name,time_ms,other_time_ms,held_ms,boot,uptime_ms,checked";

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) clock: State,
    /// Whether the newest time of the column was near the clock.
    pub(super) is_checked: bool,
}

/// Finds the record of a rule.
pub(super) fn find(tx: &ReadTx<'_>, rule: &RetainRule) -> Result<Option<Record>> {
    if !tx.exists(
        "SELECT 1 FROM main.sqlite_schema WHERE name = 'larder_retention' COLLATE NOCASE",
        [],
    )? {
        return Ok(None);
    }
    let columns = tx.scalar(
        "SELECT group_concat(name) FROM pragma_table_info('larder_retention', 'main')",
        [],
    );
    let columns: Option<String> = columns?;
    if columns.as_deref() != Some(COLUMNS) {
        return Err(Error::Options {
            option: "retain",
            problem:
                "larder keeps what it knows of the clock in the table larder_retention, and this database has another \
                      of that name: rename it"
                    .into(),
        });
    }
    let record = "SELECT time_ms, other_time_ms, held_ms, boot, uptime_ms, checked FROM main.larder_retention
                  WHERE table_name = ?1 AND column_name = ?2";
    type Columns = (i64, Option<i64>, Option<i64>, String, i64, bool);
    let record: Option<Columns> = tx.optional(record, (&rule.table, &rule.column))?;
    Ok(record.map(|(time, other, held, boot, uptime, is_checked)| Record {
        clock: State {
            believed: duration(time),
            other: other.map(|time| Other {
                time: duration(time),
                held: duration(held.unwrap_or(0)),
            }),
            uptime: duration(uptime),
            boot,
        },
        is_checked,
    }))
}

/// Writes the record of a rule.
pub(super) fn save(tx: &WriteTx<'_>, rule: &RetainRule, record: &Record) -> Result<()> {
    tx.execute_batch(CREATE)?;
    let save = "INSERT OR REPLACE INTO main.larder_retention VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let Record { clock, is_checked } = record;
    let other = clock.other.as_ref();
    let values = (
        &rule.table,
        &rule.column,
        milliseconds(clock.believed),
        other.map(|other| milliseconds(other.time)),
        other.map(|other| milliseconds(other.held)),
        &clock.boot,
        milliseconds(clock.uptime),
        is_checked,
    );
    tx.execute(save, values).map(drop)
}

/// A number that is no time is 1970, so that the clock has jumped.
fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
