//! Whether each page of a file is used once, and only once: by a tree, or by the freelist.
//!
//! `integrity_check` promises to look, but does not always. SQLite keeps the roots of all trees in a list, in the order
//! of a hash table, and takes a root of 0 at its head for the sign of a partial check: "If the first entry in aRoot[] is
//! 0, that indicates that the list of root pages is incomplete [..] the freelist checks and the checks to make sure every
//! page is referenced are also skipped" (`sqlite3BtreeIntegrityCheck` in `btree.c`). Views and virtual tables have a root
//! of 0, and any of them may be at the head, most often the newest.
//!
//! On a database that may be written, the schema is replaced by one without them. A reader has a copy in memory, if that
//! is small; otherwise it counts. CHECK constraints, which SQLite ignores for a reader, are checked in that copy, too.

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};

use super::check::{CheckReport, reason};
use super::integrity::{self, LeftOut};
use crate::connection::sql_text::name;
use crate::connection::{c_api, open_memory, page_size, set_up_memory};
use crate::error::{Result, primary_code};
use crate::options::Settings;

/// The byte that SQLite locks, <https://sqlite.org/fileformat2.html#the_lock_byte_page>. Its page has no content.
const LOCK_BYTE: u64 = 0x4000_0000;

/// Whether `integrity_check` on this connection leaves out what this file looks at. `EXPLAIN` shows the list of roots,
/// as "[0,2,3]".
pub(super) fn are_left_out(conn: &Connection) -> rusqlite::Result<bool> {
    let mut statement = conn.prepare("EXPLAIN PRAGMA main.quick_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if name(row, 1)? == "IntegrityCk" {
            let roots = name(row, 5)?;
            return Ok(roots.starts_with("[0,") || roots == "[0]" || !roots.starts_with('['));
        }
    }
    Ok(true)
}

/// Looks at the pages of a database that only this connection uses and that may be written. It is unchanged afterwards.
pub(crate) fn check_private(conn: &Connection, report: &mut CheckReport) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    let checked = conn
        // In exclusive mode SQLite keeps the file of the journal.
        .execute_batch("PRAGMA main.locking_mode = normal; BEGIN IMMEDIATE")
        .and_then(|()| check_writable(conn, report));
    let rolled_back = if conn.is_autocommit() {
        Ok(())
    } else {
        conn.execute_batch("ROLLBACK")
    };
    // SQLite reads the schema again.
    let restored = conn.execute_batch("PRAGMA writable_schema = RESET");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    checked.and(rolled_back).and(restored)
}

/// Replaces the schema by one that has a table for each tree, and nothing else. So the list of roots is whole, and no
/// function, collation or module is needed.
fn check_writable(conn: &Connection, report: &mut CheckReport) -> rusqlite::Result<()> {
    conn.execute_batch(
        "PRAGMA writable_schema = ON;
         DELETE FROM main.sqlite_schema WHERE coalesce(rootpage, 0) = 0;
         UPDATE main.sqlite_schema SET type = 'table', name = 't' || rowid, tbl_name = 't' || rowid,
             sql = 'CREATE TABLE t' || rowid || '(x)';
         PRAGMA writable_schema = RESET",
    )?;
    let mut statement = conn.prepare("PRAGMA main.quick_check")?;
    let mut rows = statement.query([])?;
    // SQLite looks at the pages first. What it says about rows afterwards means nothing for this schema.
    let first = match rows.next() {
        Ok(row) => row.map(|row| name(row, 0)).transpose()?.unwrap_or_default(),
        Err(error) if matches!(primary_code(&error), Some(ffi::SQLITE_CORRUPT | ffi::SQLITE_ERROR)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if first.starts_with("***") {
        first.lines().skip(1).for_each(|line| add(report, line));
    }
    Ok(())
}

/// Adds a problem that is not in the report yet.
fn add(report: &mut CheckReport, problem: &str) {
    if !report.problems.iter().any(|known| known == problem) {
        report.add_problem(problem.to_owned());
    }
}

/// Looks at what a PRAGMA has left out for a reader: in a copy in memory, if that has no more bytes than a page cache.
pub(super) fn complete(
    conn: &Connection,
    options: &Settings,
    left_out: LeftOut,
    report: &mut CheckReport,
) -> rusqlite::Result<()> {
    if !left_out.pages && !left_out.constraints {
        return Ok(());
    }
    let file = File::of(conn)?;
    let is_small = file.pages * file.page_size <= options.cache_size;
    let copy = if is_small { copied(conn, options).ok() } else { None };
    if left_out.constraints {
        check_constraints(copy.as_ref(), options, report)?;
    }
    match copy {
        _ if !left_out.pages => Ok(()),
        Some(copy) => check_writable(&copy, report),
        None => account(conn, &file, report),
    }
}

fn check_constraints(copy: Option<&Connection>, options: &Settings, report: &mut CheckReport) -> rusqlite::Result<()> {
    let Some(copy) = copy else {
        report.not_checked.push(
            "CHECK constraints, because the database is larger than Options::cache_size; Store::backup checks them"
                .into(),
        );
        return Ok(());
    };
    let why = match set_up_memory(copy, options).map(|()| integrity::check_constraints(copy, report)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if integrity::may_be_of_a_table(&error) => reason(&error),
        Ok(Err(error)) => return Err(error),
        Err(error) => error.to_string(),
    };
    report.not_checked.push(format!("CHECK constraints: {why}"));
    Ok(())
}

/// Counts the pages of the connection's snapshot.
fn account(conn: &Connection, file: &File, report: &mut CheckReport) -> rusqlite::Result<()> {
    check_freelist(conn, report)?;
    if report.is_damaged() {
        return Ok(());
    }
    match pages_of_trees(conn)? {
        None => report.not_checked.push(
            "whether a page is both used and free, because this SQLite has no dbstat table (SQLITE_ENABLE_DBSTAT_VTAB); \
             Store::backup checks it"
                .into(),
        ),
        Some(trees) if trees + file.free + file.others() != file.pages => report.add_problem(format!(
            "{} pages are in tables and indexes, {} are free and {} have another use, but the file has {}",
            trees,
            file.free,
            file.others(),
            file.pages
        )),
        // The map of auto-vacuum has one entry for each page, which the trees and the freelist were compared with.
        Some(_) if file.is_mapped => {}
        Some(_) => report.not_checked.push(
            "whether a page is both used and free, because the database is larger than Options::cache_size; \
             Store::backup checks it"
                .into(),
        ),
    }
    Ok(())
}

/// A copy of the connection's snapshot in memory.
fn copied(conn: &Connection, options: &Settings) -> Result<Connection> {
    let mut copy = open_memory(options)?;
    let stepped = Backup::new(conn, &mut copy)?.step(-1)?;
    match stepped {
        StepResult::Done => Ok(copy),
        _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None).into()),
    }
}

/// Checks the freelist, and the tree of the schema against it.
fn check_freelist(conn: &Connection, report: &mut CheckReport) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("PRAGMA main.quick_check(sqlite_schema)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let said = name(row, 0)?;
        if said.starts_with("***") {
            said.lines().skip(1).for_each(|line| add(report, line));
        }
    }
    Ok(())
}

/// The number of pages in all trees, with their overflow pages. `None` if SQLite was built without `dbstat`.
fn pages_of_trees(conn: &Connection) -> rusqlite::Result<Option<u64>> {
    // One row for each page: in its other mode, which adds them up, no progress handler could stop it.
    match number(conn, "SELECT count(*) FROM dbstat('main')") {
        Err(error) if primary_code(&error) == Some(ffi::SQLITE_ERROR) => Ok(None),
        pages => pages.map(Some),
    }
}

fn number(conn: &Connection, sql: &str) -> rusqlite::Result<u64> {
    conn.query_row(sql, [], |row| row.get(0)).map(i64::unsigned_abs)
}

/// The sizes of a database file.
struct File {
    page_size: u64,
    /// The bytes of a page that SQLite does not use.
    reserved: u64,
    pages: u64,
    free: u64,
    /// Whether the file has pointer maps, which auto-vacuum needs.
    is_mapped: bool,
}

impl File {
    fn of(conn: &Connection) -> rusqlite::Result<Self> {
        let number = |pragma: &str| number(conn, &format!("PRAGMA main.{pragma}"));
        Ok(Self {
            page_size: page_size(conn)?,
            reserved: c_api::reserved_bytes(conn),
            pages: number("page_count")?,
            free: number("freelist_count")?,
            is_mapped: number("auto_vacuum")? != 0,
        })
    }

    /// The number of pages that are neither in a tree nor free: that of the lock byte, and those of the pointer maps,
    /// <https://sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages>.
    fn others(&self) -> u64 {
        let lock_page = LOCK_BYTE / self.page_size + 1;
        let lock_pages = u64::from(self.pages >= lock_page);
        if !self.is_mapped || self.pages < 2 {
            return lock_pages;
        }
        let mapped = (self.page_size - self.reserved) / 5 + 1;
        let maps = (self.pages - 2) / mapped + 1;
        // A map that would be on the page of the lock byte is on the next one.
        let last = (maps - 1) * mapped + 2;
        let maps = if last == lock_page && self.pages == lock_page {
            maps - 1
        } else {
            maps
        };
        maps + lock_pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of each size, up to several maps, have as many pages as are accounted for.
    #[test]
    fn pages_of_sound_files_add_up() {
        for auto_vacuum in [0, 1, 2] {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(&format!("PRAGMA page_size = 512; PRAGMA auto_vacuum = {auto_vacuum}"))
                .unwrap();
            conn.execute_batch("CREATE TABLE t(x); CREATE INDEX i ON t(x)").unwrap();
            for size in 0..120 {
                conn.execute("INSERT INTO t VALUES (zeroblob(?1))", [size * 97])
                    .unwrap();
                if size % 3 == 0 {
                    conn.execute("DELETE FROM t WHERE rowid = ?1", [size / 2]).unwrap();
                }
                let file = File::of(&conn).unwrap();
                let trees = pages_of_trees(&conn).unwrap().expect("the bundled SQLite has dbstat");
                assert_eq!(trees + file.free + file.others(), file.pages, "{auto_vacuum} {size}");
            }
        }
    }

    /// A lock page of its own, and a map that it pushes away.
    #[test]
    fn lock_page_is_counted_once_it_is_there() {
        let file = |pages, is_mapped| File {
            page_size: 65536,
            reserved: 0,
            pages,
            free: 0,
            is_mapped,
        };
        assert_eq!((file(16384, false).others(), file(16385, false).others()), (0, 1));
        // Maps on 2, 13110.
        assert_eq!((file(13109, true).others(), file(13110, true).others()), (1, 2));
        assert_eq!(file(16385, true).others(), 3);
    }
}
