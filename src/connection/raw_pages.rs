//! The pages of a database as they are, through SQLite's table [`sqlite_dbpage`](https://sqlite.org/dbpage.html). They
//! are written in an ordinary transaction: readers keep their snapshots, and a checkpoint moves the pages like others.
//!
//! The table is there if SQLite was compiled with `SQLITE_ENABLE_DBPAGE_VTAB`, and is read-only on a connection that is
//! DEFENSIVE. Each connection of larder is, but for the time of [`with_pages`].
//!
//! A database with `auto_vacuum = FULL` gives free pages back at each COMMIT, by what it knew of them at BEGIN. Its free
//! pages are what was written, so the connection keeps them.
//!
//! SQLite writes two counters and its own version into page 1 with each COMMIT, so the bytes 24 to 27 and 92 to 99 are not
//! those that were given: two programs with different versions of SQLite have different ones.
//!
//! SQLite does not parse the pages that change in its cache, so the cache is let go before the connection reads a table.
//!
//! Page 1 has the cookie of the schema, which each statement compares as it begins. If it is another one, SQLite reads the
//! schema: in the middle of the transaction from pages half of which are parsed as they were, and with the number of pages
//! that there were, so that a table on a new page would be "malformed database schema". So page 1 goes in last, the cut
//! comes after it, which a further page would undo, and the cookie after both, by `PRAGMA schema_version`.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Statement};

use super::c_api;
use super::connect::connect_to_nothing;

/// What SQLite sets in page 1 as it writes it: the change counter; its copy, by which SQLite knows whether the size in the
/// page is valid; and the version of the SQLite that has written it last,
/// <https://sqlite.org/fileformat2.html#write_library_version_number_and_version_valid_for_number>.
const SET_BY_SQLITE: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// "The schema cookie", <https://sqlite.org/fileformat2.html#schema_cookie>.
const COOKIE: std::ops::Range<usize> = 40..44;

/// "The read version and the write version", 2 in WAL mode, <https://sqlite.org/fileformat2.html#file_format_version_numbers>.
const VERSIONS: std::ops::Range<usize> = 18..20;
const WAL: u8 = 2;

/// Whether the linked SQLite has the table.
pub(crate) fn are_writable() -> bool {
    connect_to_nothing().is_ok_and(|conn| conn.prepare("SELECT pgno FROM sqlite_dbpage").is_ok())
}

/// The pages of the main database, in the transaction that is open.
pub(crate) struct RawPages<'c> {
    conn: &'c Connection,
    write: Statement<'c>,
    read: Statement<'c>,
    /// What page 1 becomes.
    first: Option<Vec<u8>>,
    /// The page from which on the database is cut off.
    cut: Option<i64>,
}

/// Runs `f`, which may write pages, and writes page 1 after it. The connection has an open transaction.
pub(crate) fn with_pages<T, E: From<rusqlite::Error>>(
    conn: &Connection,
    f: impl FnOnce(&mut RawPages<'_>) -> Result<T, E>,
) -> Result<T, E> {
    c_api::keep_free_pages(conn);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    let _defended = Defended(conn);
    let mut pages = RawPages {
        conn,
        write: conn.prepare("INSERT INTO main.sqlite_dbpage(pgno, data) VALUES (?1, ?2)")?,
        read: conn.prepare("SELECT data FROM main.sqlite_dbpage WHERE pgno = ?1")?,
        first: None,
        cut: None,
    };
    let result = f(&mut pages)?;
    pages.finish()?;
    Ok(result)
}

/// Lets go the pages that the connection has cached. No transaction is open.
pub(crate) fn forget_cached(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA shrink_memory")
}

/// Makes the connection DEFENSIVE again.
struct Defended<'c>(&'c Connection);

impl Drop for Defended<'_> {
    fn drop(&mut self) {
        let _ = self.0.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true);
    }
}

impl RawPages<'_> {
    /// Writes a page, beyond the end of the database, too. The versions in page 1 stay those of WAL mode.
    pub(crate) fn write(&mut self, number: u32, contents: &mut [u8]) -> rusqlite::Result<()> {
        if number != 1 {
            return self.write.execute((number, &*contents)).map(drop);
        }
        contents[VERSIONS].fill(WAL);
        self.first = Some(contents.to_vec());
        Ok(())
    }

    /// A page of the database as the transaction began.
    pub(crate) fn read(&mut self, number: u32) -> rusqlite::Result<Vec<u8>> {
        self.read.query_row([number], |row| row.get(0))
    }

    /// Cuts the database to so many pages, in the end. It has no effect unless there were more as the transaction began, so
    /// no page beyond them may be written.
    pub(crate) fn cut_to(&mut self, pages: u32) {
        self.cut = Some(i64::from(pages) + 1);
    }

    fn finish(&mut self) -> rusqlite::Result<()> {
        let mut cookie = None;
        if let Some(mut first) = self.first.take() {
            let there: i32 = self
                .conn
                .query_row("PRAGMA main.schema_version", [], |row| row.get(0))?;
            let wanted = first[COOKIE].try_into().map(i32::from_be_bytes).expect("four bytes");
            cookie = Some(wanted).filter(|wanted| *wanted != there);
            first[COOKIE].copy_from_slice(&there.to_be_bytes());
            self.write.execute((1, first))?;
        }
        if let Some(from) = self.cut.take() {
            // "If the data column is NULL, then .. that page and all subsequent pages are truncated".
            self.write.execute((from, None::<&[u8]>))?;
        }
        match cookie {
            Some(cookie) => self
                .conn
                .execute_batch(&format!("PRAGMA main.schema_version = {cookie}")),
            None => Ok(()),
        }
    }

    /// Whether the page has these contents, but for what SQLite sets. A page beyond the end that the database had as the
    /// transaction began has none, even if it was written since.
    pub(crate) fn is(&mut self, number: u32, contents: &[u8]) -> rusqlite::Result<bool> {
        let same = self.read.query_row([number], |row| {
            let there = row.get_ref(0)?.as_blob()?;
            Ok(is_same(number, there, contents))
        });
        Ok(same.optional()?.unwrap_or(false))
    }
}

fn is_same(number: u32, one: &[u8], other: &[u8]) -> bool {
    if number != 1 || one.len() != other.len() || one.len() < 100 {
        return one == other;
    }
    let without = |page: &[u8]| {
        let mut head = [0; 100];
        head.copy_from_slice(&page[..100]);
        SET_BY_SQLITE
            .into_iter()
            .chain([VERSIONS])
            .for_each(|range| head[range].fill(0));
        head
    };
    without(one) == without(other) && one[100..] == other[100..]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The primary may have another version of SQLite than the follower.
    #[test]
    fn first_pages_differ_by_what_sqlite_sets() {
        let page: Vec<u8> = (0..4096_u32).map(|at| at.to_le_bytes()[0]).collect();
        let differs = |at: usize| {
            let mut other = page.clone();
            other[at] ^= 1;
            !is_same(1, &page, &other)
        };
        let same: Vec<usize> = (0..4096).filter(|at| !differs(*at)).collect();
        let set: Vec<usize> = (18..20).chain(24..28).chain(92..100).collect();
        assert_eq!(same, set);
        let mut other = page.clone();
        other[96] ^= 1;
        assert!(!is_same(2, &page, &other), "page 2 has none of this");
    }

    #[test]
    fn pages_are_written_cut_and_compared() {
        assert!(are_writable(), "set LIBSQLITE3_FLAGS as .cargo/config.toml does");
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let conn = Connection::open(folder.path().join(name)).unwrap();
            conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(data)")
                .unwrap();
            conn
        };
        let (from, to) = (open("from.db"), open("to.db"));
        let fill = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                    INSERT INTO t SELECT hex(randomblob(100)) FROM n";
        let states = [fill, "DELETE FROM t WHERE rowid > 20; VACUUM"];
        for state in states {
            from.execute_batch(state).unwrap();
            from.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
            let database = std::fs::read(folder.path().join("from.db")).unwrap();
            to.execute_batch("BEGIN IMMEDIATE").unwrap();
            with_pages::<_, rusqlite::Error>(&to, |pages| {
                for (number, page) in (1..).zip(database.chunks(4096)) {
                    pages.write(number, &mut page.to_vec())?;
                }
                pages.cut_to((database.len() / 4096) as u32);
                Ok(())
            })
            .unwrap();
            to.execute_batch("COMMIT").unwrap();
            forget_cached(&to).unwrap();
            to.execute_batch("BEGIN IMMEDIATE").unwrap();
            with_pages::<_, rusqlite::Error>(&to, |pages| {
                for (number, page) in (1..).zip(database.chunks(4096)) {
                    assert!(pages.is(number, page)?, "{number}");
                    assert!(!pages.is(number, &[7; 4096])?, "{number}");
                }
                let beyond = (database.len() / 4096) as u32 + 1;
                assert!(!pages.is(beyond, &[0; 4096])?, "it is not there");
                Ok(())
            })
            .unwrap();
            to.execute_batch("ROLLBACK").unwrap();
            let rows = |conn: &Connection| {
                conn.query_row("SELECT count(*), total(length(data)) FROM t", [], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?))
                })
                .unwrap()
            };
            assert_eq!(rows(&to), rows(&from));
            let check: String = to.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
        }
        // Tables come, each with a new page, and go. The schema is known, and page 1 is not in the cache.
        for change in [
            "CREATE TABLE a(n)",
            "CREATE TABLE b(n); CREATE TABLE c(n)",
            "DROP TABLE a",
            "CREATE INDEX i ON b(n)",
        ] {
            to.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
            forget_cached(&to).unwrap();
            from.execute_batch(change).unwrap();
            from.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
            let database = std::fs::read(folder.path().join("from.db")).unwrap();
            to.execute_batch("BEGIN IMMEDIATE").unwrap();
            with_pages::<_, rusqlite::Error>(&to, |pages| {
                for (number, page) in (1..).zip(database.chunks(4096)) {
                    pages.write(number, &mut page.to_vec())?;
                }
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{change}: {error}"));
            to.execute_batch("COMMIT").unwrap();
            forget_cached(&to).unwrap();
            let names = |conn: &Connection| -> Vec<String> {
                let mut names = conn.prepare("SELECT name FROM sqlite_schema ORDER BY name").unwrap();
                let names = names.query_map([], |row| row.get(0)).unwrap();
                names.map(Result::unwrap).collect()
            };
            assert_eq!(names(&to), names(&from), "{change}");
            let check: String = to.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
        }
        let refused = to.execute("INSERT INTO sqlite_dbpage(pgno, data) VALUES (1, zeroblob(4096))", []);
        assert!(refused.is_err(), "it is DEFENSIVE again");
    }
}
