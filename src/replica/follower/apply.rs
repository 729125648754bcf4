//! Applies files of the replica to the database, as one transaction: readers of this process and of others keep their
//! snapshots, and see all of it or nothing.
//!
//! The pages of several files go in one after another, so that the last one wins, and the database is cut to its size at
//! the end: the effect is that of the files merged. They are here, and checked, before the transaction begins
//! (`download.rs`). Pages that the database lost on the way and got again are in the file that made it grow. A page beyond
//! the size after the last file is not written: SQLite cuts off none but those that were there at BEGIN.
//!
//! The position is written after the COMMIT. A process that is killed in between has applied more than it knows, and
//! then its first transaction has to reach that far again (`local.rs`).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rusqlite::Connection;

use super::Following;
use super::download::Downloaded;
use super::local::{CHANGED_BEHIND, End, Local, open_log};
use super::trouble::Trouble;
use crate::connection::raw_pages::{self, RawPages};
use crate::replica::ltx::{Header, lock_page};
use crate::replica::position::{LogPosition, Position};
use crate::replica::restore::apply::decoder;
use crate::replica::restore::time;
use crate::replica::storage::{FileInfo, ObjectReader};
use crate::replica::wal;
use crate::runtime::sync::Instant;
use crate::telemetry::event::event;
use crate::write::Writer;

/// After so many pages it is asked whether the follower closes.
const LOOK_UP: u64 = 256;

/// The files to apply, oldest first.
pub(super) enum Source {
    /// Their contents are on the way.
    Opened(Vec<(FileInfo, ObjectReader)>),
    Planned(Vec<FileInfo>),
}

/// What was written in the open transaction.
pub(super) struct Written {
    /// The header of the last file. `None` if there was none, and nothing was written.
    pub(super) last: Option<Header>,
    pub(super) pages: u64,
    pub(super) was_cut: bool,
    /// The size of the files in bytes.
    pub(super) bytes: u64,
}

impl Following {
    /// Runs on the writer thread, as an exclusive job.
    pub(super) fn apply(&self, writer: &mut Writer, source: Source) -> Result<(), Trouble> {
        let files = self.download(source)?;
        self.transaction(writer, |conn| {
            let beyond = self.beyond()?;
            self.write(conn, beyond, files)
        })
    }

    /// Runs `write` in a transaction, which is committed if it has reached anything, and takes note of that.
    pub(super) fn transaction(
        &self,
        writer: &mut Writer,
        write: impl FnOnce(&Connection) -> Result<Written, Trouble>,
    ) -> Result<(), Trouble> {
        let began = Instant::now();
        let patience = writer.options().busy_timeout;
        writer.begin_immediate(patience)?;
        let schema = schema_version(writer);
        let changes = self.index_changes();
        let conn = writer.conn();
        let written = writer.guard().as_internal(|| write(conn));
        let written = match written {
            Ok(written) if written.last.is_some() => written,
            other => {
                writer.roll_back_own();
                self.forget_cached(writer);
                if other.is_ok() {
                    self.reach(|reached| reached.local = Local::Ours { changes });
                }
                return other.map(drop);
            }
        };
        let committed = writer.commit_own();
        self.forget_cached(writer);
        committed?;
        // A transaction that wrote nothing is not counted.
        let counted = u32::from(written.pages > 0 || written.was_cut);
        let ours = changes.map(|changes| changes.wrapping_add(counted));
        // Before those are woken who wait for it.
        self.renew_readers(writer, schema);
        self.note(&written, ours);
        self.tell(&written, began.elapsed());
        Ok(())
    }

    /// The pages that the first transaction has to write.
    ///
    /// # Errors
    ///
    /// Another program has written to the database. The caller has SQLite's write lock.
    pub(super) fn beyond(&self) -> Result<BTreeSet<u32>, Trouble> {
        let shared = self.shared.upgrade().ok_or(Trouble::Closing)?;
        let index = shared.file.wal_index();
        let changed = |reason: &str| Err(Trouble::Changed(reason.to_owned()));
        match &self.reached().local {
            Local::Ours { changes } if index.map(|index| index.changes) != *changes => {
                changed("another program has written to it while the follower had it open")
            }
            Local::Ours { .. } => Ok(BTreeSet::new()),
            Local::Behind { end, .. } if End::now(&self.path, index).ok() != Some(*end) => {
                changed("another program has written to it as the follower opened it")
            }
            Local::Behind { pages, .. } => Ok(pages.clone()),
            Local::Unknown(reason) => changed(reason),
        }
    }

    fn index_changes(&self) -> Option<u32> {
        let shared = self.shared.upgrade()?;
        shared.file.wal_index().map(|index| index.changes)
    }

    fn write(&self, conn: &Connection, mut beyond: BTreeSet<u32>, files: Downloaded) -> Result<Written, Trouble> {
        let mut written = Written {
            last: None,
            pages: 0,
            was_cut: false,
            bytes: 0,
        };
        let mut size = Size::of(conn)?;
        let end = files.pages();
        raw_pages::with_pages::<_, Trouble>(conn, |pages| {
            for (file, from) in files.into_files() {
                let failed = |error| Trouble::of(&file, error, &self.storage);
                let mut decoder = decoder(from, &file).map_err(failed)?;
                let header = *decoder.header();
                self.check_header(&header)?;
                let mut contents = vec![0; header.page_size as usize];
                while let Some(number) = decoder.next_page(&mut contents).map_err(|error| failed(error.into()))? {
                    size.has(number);
                    if number > end {
                        continue;
                    }
                    pages.write(number, &mut contents)?;
                    beyond.remove(&number);
                    written.pages += 1;
                    if written.pages.is_multiple_of(LOOK_UP) && self.closes() {
                        return Err(Trouble::Closing);
                    }
                }
                size.becomes(&header).map_err(|problem| Trouble::File(file, problem))?;
                written.last = Some(header);
                written.bytes += file.size;
            }
            written.was_cut = size.cut(pages);
            Ok(())
        })?;
        if beyond.into_iter().any(|page| page <= size.pages) {
            return Err(Trouble::Changed(CHANGED_BEHIND.into()));
        }
        Ok(written)
    }

    fn check_header(&self, header: &Header) -> Result<(), Trouble> {
        let reached = self.reached();
        let page_size = reached.position.page_size;
        let is_known = header.node_id == 0 || reached.nodes.contains(&header.node_id);
        drop(reached);
        if header.page_size != page_size {
            return Err(Trouble::Diverged(format!(
                "its pages have {page_size} bytes, and those of transaction {} have {}. Move the file and its folder \
                 -replica away, and open the follower again",
                header.max_txid, header.page_size
            )));
        }
        if !is_known {
            return Err(Trouble::OtherNode(header.node_id));
        }
        Ok(())
    }

    /// Takes note of what was committed.
    fn note(&self, written: &Written, changes: Option<u32>) {
        let header = written.last.expect("something was committed");
        let position = Position {
            txid: header.max_txid,
            timestamp: header.timestamp,
            page_size: header.page_size,
            pages: header.commit,
            base: None,
            log: self.log_end(changes),
            emptied: false,
            alone: false,
            file: None,
            ..self.position()
        };
        // Followers of this process go on without it.
        if let Err(error) = self.spool.write_position(&position, true) {
            event!(
                warn,
                "larder::follow",
                self.path,
                { %error, folder = %self.spool.folder().display() },
                "where the follower is could not be written; its next opening compares the database with the replica"
            );
        }
        self.figures()
            .applied(position.txid, position.timestamp, written.pages, written.bytes);
        self.reach(|reached| {
            reached.position = position;
            reached.maker = header.node_id;
            reached.local = Local::Ours { changes };
        });
    }

    /// Where the last transaction ends in the log, if no other program has written to it since.
    fn log_end(&self, changes: Option<u32>) -> Option<LogPosition> {
        let shared = self.shared.upgrade()?;
        let (_, header) = open_log(&self.path).ok()??;
        let index = shared.file.wal_index()?;
        let is_ours = Some(index.changes) == changes && index.salts == header.salts;
        let end = wal::Position {
            frames: index.frames,
            checksum: index.checksum,
        };
        is_ours.then(|| LogPosition::of(&header, end))
    }

    /// SQLite does not notice that the pages in its cache have changed.
    fn forget_cached(&self, writer: &Writer) {
        let _ = writer.guard().as_internal(|| raw_pages::forget_cached(writer.conn()));
    }

    /// Lets the readers see that the schema or the statistics of the query planner are others.
    fn renew_readers(&self, writer: &Writer, before: Option<i64>) {
        if schema_version(writer) != before {
            writer.forget_statements();
        }
        let now = statistics(writer);
        if std::mem::replace(&mut self.reached().statistics, now) != now {
            writer.readers().forget_statistics();
        }
    }

    fn tell(&self, written: &Written, took: Duration) {
        let header = written.last.expect("something was committed");
        event!(
            debug,
            "larder::follow",
            self.path,
            {
                replica = %self.storage,
                txid = header.max_txid,
                timestamp = time::of(time::from_millis(header.timestamp)),
                pages = written.pages,
                duration_ms = took.as_millis() as u64,
            },
            "transactions of the replica applied"
        );
    }
}

/// The size of the database while files are applied, in pages.
pub(super) struct Size {
    /// At BEGIN.
    before: u32,
    pub(super) pages: u32,
}

impl Size {
    pub(super) fn of(conn: &Connection) -> rusqlite::Result<Self> {
        let pages = conn.query_row("PRAGMA main.page_count", [], |row| row.get(0))?;
        Ok(Self { before: pages, pages })
    }

    pub(super) fn has(&mut self, page: u32) {
        self.pages = self.pages.max(page);
    }

    /// The file is over, and the database has the size in its header.
    fn becomes(&mut self, header: &Header) -> Result<(), String> {
        let is_all = header.commit <= self.pages
            || (header.commit == lock_page(header.page_size) && header.commit == self.pages + 1);
        if !is_all {
            let (pages, commit) = (self.pages, header.commit);
            return Err(format!(
                "the database has {commit} pages after it, and none beyond {pages} is there"
            ));
        }
        self.pages = header.commit;
        Ok(())
    }

    pub(super) fn set(&mut self, pages: u32) {
        self.pages = pages;
    }

    /// Cuts the database to its size, and returns whether it was larger. No page beyond its size was written.
    pub(super) fn cut(&self, pages: &mut RawPages<'_>) -> bool {
        let is_larger = self.before > self.pages;
        if is_larger {
            pages.cut_to(self.pages);
        }
        is_larger
    }
}

fn schema_version(writer: &Writer) -> Option<i64> {
    let read = || {
        writer
            .conn()
            .query_row("PRAGMA main.schema_version", [], |row| row.get(0))
    };
    writer.guard().as_internal(read).ok()
}

/// A number that is another one if the statistics are; 0 if there are none.
fn statistics(writer: &Writer) -> u64 {
    let read = || -> rusqlite::Result<u64> {
        let mut statement = writer.conn().prepare("SELECT tbl, idx, stat FROM main.sqlite_stat1")?;
        let mut rows = statement.query([])?;
        let mut hasher = DefaultHasher::new();
        while let Some(row) = rows.next()? {
            for column in 0..3 {
                row.get::<_, Option<String>>(column)?.hash(&mut hasher);
            }
        }
        Ok(hasher.finish())
    };
    writer.guard().as_internal(read).unwrap_or_default()
}
