//! What `quick_check` and `integrity_check` say, sorted into damage and findings.
//!
//! They say a line for each problem, without a code. Damage concerns pages, trees, and indexes. The rest is about data
//! in sound pages: the lines that [`finding`] knows, and those of the modules of virtual tables, each of which has words
//! of its own. To tell those apart, each virtual table is checked alone. An unknown line is damage.

use rusqlite::{Connection, MAIN_DB, ffi};

use super::check::{CheckReport, MAX_REPORTED, reason};
use super::pages;
use crate::connection::sql_text::{name, quoted, readable};
use crate::error::{is_damage, primary_code};

/// What a PRAGMA has left out of all that it promises.
#[derive(Clone, Copy, Debug)]
#[must_use = "what was not looked at is up to the caller"]
pub(crate) struct LeftOut {
    /// Whether each page is used once, and only once.
    pub(crate) pages: bool,
    /// CHECK constraints, which SQLite does not even parse where it may not write (`sqlite3AddCheckConstraint` in
    /// `build.c`).
    pub(crate) constraints: bool,
}

/// How SQLite begins a line about a CHECK constraint.
const FAILED_CHECK: &str = "CHECK constraint failed in ";

/// What FTS3 and FTS4 say of a table that they could not check (`fts3IntegrityMethod` in `fts3.c`).
const NOT_VALIDATED: &str = "unable to validate the inverted index for FTS";

/// A virtual table: its name and its statement.
struct Virtual {
    name: String,
    sql: String,
}

/// What happens to a table that needs a function or a collation which the connection does not have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lacking {
    /// The check fails: a copy that was not checked is not to count as one that was.
    Fails,
    /// It is not checked, and the report says so.
    IsReported,
}

/// Checks a database for damage; for a full report, also in the indexes.
pub(crate) fn check(conn: &Connection, report: &mut CheckReport, lacking: Lacking) -> rusqlite::Result<LeftOut> {
    let virtual_tables = virtual_tables(conn)?;
    // A virtual table that cannot be opened fails the whole PRAGMA, and so does a collation that is not there.
    let before = report.clone();
    let one_by_one = match whole(conn, report) {
        Err(error) if may_be_of_a_table(&error) && (!virtual_tables.is_empty() || lacking.passes_over(&error)) => {
            *report = before;
            true
        }
        said => said.map(|()| false)?,
    };
    if one_by_one {
        each_table(conn, report, lacking)?;
    }
    if one_by_one || !report.problems.is_empty() {
        for table in &virtual_tables {
            check_virtual(conn, table, report)?;
        }
    }
    for table in &virtual_tables {
        if let Some(missing) = table.missing_module(conn) {
            let table = readable(&table.name);
            report.not_checked.push(format!(
                "the virtual table {table}: {missing} (Options::on_connect may load it)"
            ));
        }
    }
    report.tables = conn.query_row(
        "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        [],
        |row| row.get(0),
    )?;
    Ok(LeftOut {
        pages: one_by_one || pages::are_left_out(conn)?,
        constraints: conn.is_readonly(MAIN_DB)? && has_check_constraints(conn)?,
    })
}

/// Checks the CHECK constraints alone, on a copy that may be changed.
pub(super) fn check_constraints(copy: &Connection, report: &mut CheckReport) -> rusqlite::Result<()> {
    // A virtual table that cannot be opened would fail the PRAGMA.
    copy.execute_batch(
        "PRAGMA writable_schema = ON; DELETE FROM main.sqlite_schema WHERE coalesce(rootpage, 0) = 0;
         PRAGMA writable_schema = RESET",
    )?;
    let mut statement = copy.prepare(&format!("PRAGMA main.quick_check({})", i32::MAX))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let said = name(row, 0)?;
        if said.starts_with(FAILED_CHECK)
            && let Some(finding) = finding(&said)
        {
            report.add_finding(finding);
        }
    }
    Ok(())
}

/// Whether a table may have a CHECK constraint.
fn has_check_constraints(conn: &Connection) -> rusqlite::Result<bool> {
    let exists = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE '%check%(%')";
    conn.query_row(exists, [], |row| row.get(0))
}

fn pragma(report: &CheckReport) -> &'static str {
    if report.full { "integrity_check" } else { "quick_check" }
}

/// Checks everything at once. "If no errors are found, a single row with the value "ok" is returned", otherwise at most
/// as many as asked for, <https://sqlite.org/pragma.html#pragma_integrity_check>.
fn whole(conn: &Connection, report: &mut CheckReport) -> rusqlite::Result<()> {
    let before = report.clone();
    let pragma = format!("PRAGMA main.{}", pragma(report));
    let lines = listen(conn, &pragma, report)?;
    if lines >= MAX_REPORTED && !report.is_damaged() {
        // Damage may be behind the findings.
        *report = before;
        listen(conn, &format!("{pragma}({})", i32::MAX), report)?;
    }
    Ok(())
}

/// Checks the tables that have pages, each with its indexes.
fn each_table(conn: &Connection, report: &mut CheckReport, lacking: Lacking) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(
        "SELECT 'sqlite_schema' UNION ALL
         SELECT name FROM main.sqlite_schema WHERE type = 'table' AND coalesce(rootpage, 0) <> 0",
    )?;
    let tables: Vec<String> = statement.query_map([], |row| name(row, 0))?.collect::<Result<_, _>>()?;
    for table in tables {
        let damaged = report.problems.len();
        let lines = match listen(conn, &of_table(report, &table), report) {
            Err(error) if lacking.passes_over(&error) => {
                report
                    .not_checked
                    .push(of_lacking(&format!("the table {}", readable(&table)), &error));
                continue;
            }
            lines => lines?,
        };
        if lines >= MAX_REPORTED && report.problems.len() == damaged {
            report
                .not_checked
                .push(format!("the rest of the table {table}, after {lines} findings in it"));
        }
    }
    Ok(())
}

fn of_table(report: &CheckReport, table: &str) -> String {
    format!("PRAGMA main.{}({})", pragma(report), quoted(table))
}

/// Adds what a PRAGMA says to the report. Returns the number of its lines.
fn listen(conn: &Connection, pragma: &str, report: &mut CheckReport) -> rusqlite::Result<usize> {
    let mut statement = conn.prepare(pragma)?;
    let mut rows = statement.query([])?;
    let mut lines = 0;
    while let Some(row) = rows.next()? {
        let said = name(row, 0)?;
        for line in said.lines().filter(|line| *line != "ok" && !line.starts_with("***")) {
            lines += 1;
            match finding(line) {
                Some(finding) if !said.starts_with("***") => report.add_finding(finding),
                _ => report.add_problem(line.to_owned()),
            }
        }
    }
    Ok(lines)
}

/// The finding that a line about a row of an ordinary table is, and what mends it.
fn finding(line: &str) -> Option<String> {
    let index = "stores an imprecise floating-point value for row";
    if let Some((index, _)) = line.strip_prefix("index ").and_then(|rest| rest.split_once(index)) {
        return Some(format!("{line}: mend it with REINDEX {}", readable(index.trim_end())));
    }
    const TYPES: [&str; 9] = [
        "NULL",
        "NUMERIC",
        "TEXT",
        "non-ANY",
        "non-BLOB",
        "non-INT",
        "non-INTEGER",
        "non-REAL",
        "non-TEXT",
    ];
    let of_a_value = line
        .split_once(" value in ")
        .is_some_and(|(kind, _)| TYPES.contains(&kind));
    if of_a_value || line.starts_with(FAILED_CHECK) {
        return Some(format!("{line}: the row is older than the constraint; UPDATE it"));
    }
    None
}

/// Whether the line is about an index that disagrees with its table, and not about pages.
pub(crate) fn is_of_an_index(line: &str) -> bool {
    let row = line.starts_with("row ")
        && [" missing from index ", " values differ from index "]
            .iter()
            .any(|part| line.contains(part));
    row || line.starts_with("rowid not at end-of-record for row ")
        || line.starts_with("wrong # of entries in index ")
        || line.starts_with("non-unique entry in index ")
}

fn virtual_tables(conn: &Connection) -> rusqlite::Result<Vec<Virtual>> {
    let mut statement = conn.prepare(
        "SELECT name, sql FROM main.sqlite_schema
         WHERE type = 'table' AND coalesce(rootpage, 0) = 0 ORDER BY rowid",
    )?;
    let tables = statement.query_map([], |row| {
        Ok(Virtual {
            name: name(row, 0)?,
            sql: name(row, 1)?,
        })
    })?;
    tables.collect()
}

/// Checks a virtual table alone. What it says is a finding: its pages are those of other tables.
fn check_virtual(conn: &Connection, table: &Virtual, report: &mut CheckReport) -> rusqlite::Result<()> {
    let mut said = CheckReport::default();
    match listen(conn, &of_table(report, &table.name), &mut said) {
        Ok(_) if said.problems.is_empty() => {}
        // SQLite says so of a sound one, too: it has no text to compare the index with.
        Ok(_) if table.keeps_no_text() && said.problems.iter().all(|problem| problem.starts_with(NOT_VALIDATED)) => {
            let table = readable(&table.name);
            report
                .not_checked
                .push(format!("the full-text index {table}, which keeps no text"));
            report.problems.retain(|problem| !said.problems.contains(problem));
        }
        Ok(_) => {
            report.add_finding(format!("{}: {}", said.problems.join(", "), table.remedy()));
            report.problems.retain(|problem| !said.problems.contains(problem));
        }
        Err(error) if may_be_of_a_table(&error) => report.add_finding(format!(
            "the virtual table {} cannot be checked: {}: define what it needs in Options::on_connect, or DROP it and \
             create it again",
            readable(&table.name),
            reason(&error)
        )),
        Err(error) => return Err(error),
    }
    Ok(())
}

impl Virtual {
    /// SQLite's message, if the module of the table is not there. Then SQLite passes over the table.
    fn missing_module(&self, conn: &Connection) -> Option<String> {
        let read = format!("SELECT 1 FROM main.{} LIMIT 0", quoted(&self.name));
        let error = reason(&conn.prepare(&read).err()?);
        error.contains("no such module").then_some(error)
    }

    fn plain_sql(&self) -> String {
        self.sql.to_ascii_lowercase().split_whitespace().collect()
    }

    fn keeps_no_text(&self) -> bool {
        let sql = self.plain_sql();
        sql.contains("content=''") || sql.contains("content=\"\"")
    }

    /// What mends it.
    fn remedy(&self) -> String {
        let sql = self.plain_sql();
        let table = readable(&self.name);
        if !["usingfts3", "usingfts4", "usingfts5"]
            .iter()
            .any(|module| sql.contains(module))
        {
            format!("the pages of the file are sound; fill {table} again from the data that it was made from")
        } else if self.keeps_no_text() {
            format!("the full-text index {table} keeps no text; fill it again")
        } else {
            format!("mend the full-text index with INSERT INTO {table}({table}) VALUES('rebuild')")
        }
    }
}

impl Lacking {
    fn passes_over(self, error: &rusqlite::Error) -> bool {
        self == Self::IsReported && lacks_a_name(&error.to_string())
    }
}

/// Whether SQLite says that the connection lacks something that the schema names.
pub(crate) fn lacks_a_name(said: &str) -> bool {
    const MISSING: [&str; 5] = [
        "unknown function",
        "no such function",
        "no such collation sequence",
        "no such module",
        "no such tokenizer",
    ];
    MISSING.iter().any(|missing| said.contains(missing))
}

/// Why something was not checked that needs what the connection lacks.
pub(super) fn of_lacking(what: &str, error: &rusqlite::Error) -> String {
    let reason = reason(error);
    format!("{what}: {reason} (define it in Options::on_connect, as the programs that use the database do)")
}

/// Whether the error may concern a virtual table alone: what it needs is not there, or its data is not what its module
/// expects.
pub(super) fn may_be_of_a_table(error: &rusqlite::Error) -> bool {
    is_damage(error) || primary_code(error) == Some(ffi::SQLITE_ERROR)
}
