//! What was committed since the last file, from the log to a file of the spool; and the full file, which has every page.
//!
//! # What makes a file right
//!
//! - It is read up to a number of frames that SQLite has committed: the writer's own count, or that of the WAL index
//!   where other processes write, too. Nothing behind that counts, however valid it looks: it may be of a transaction
//!   that was rolled back, or that a killed process has left.
//! - Each transaction has exactly one frame that commits, and is counted once by those who commit it. So the number of
//!   commits that were read has to be the number that were made. If another process has moved frames into the database
//!   and begun the log again before they were read, it is smaller, whatever the log looks like.
//! - Pages beyond the size of the last file are all there. SQLite writes every page by which a database grows.
//!
//! If one of these does not hold, transactions are [lost](CaptureError::Lost) to the log, and the next file is a full
//! one.
//!
//! The log is synced before a file is sealed. So after a power cut the database is not behind its replica.
//!
//! # The full file
//!
//! It is of one snapshot, that of a reader beside the pool, begun while nothing is committed (`LogKeeper::turn`). The
//! snapshot ends with frame F of the log. A page whose last frame is before F is read from the log, each other one from
//! the database file. As long as the reader has its snapshot, SQLite neither begins the log again nor moves a frame
//! behind F into the database. If the whole log was moved before, all pages are read from the database file, which no
//! checkpoint changes then; the log may begin again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clock::StorageClock;
use super::ltx::{Decoder, Encoder, Header, LtxError, lock_page};
use super::position::{LogPosition, Position, Stamps};
use super::spool::{Sealed, Spool, Unsealed};
use super::wal::{HEADER_SIZE, WalError, WalHeader, WalScan};
use crate::connection::file::beside;
use crate::read::DedicatedReader;

/// So many pages are written between two looks at whether to stop.
const STOP_EVERY: usize = 256;

/// What is committed: so many frames in the log, after so many commits (modulo 2^32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) frames: u32,
    pub(super) commits: u32,
    /// The salts of the log that has these frames, if other processes may begin it again.
    pub(super) salts: Option<[u32; 2]>,
}

/// Why nothing was captured.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    /// The log does not have all transactions since the last file.
    #[error("{0}")]
    Lost(String),
    /// The log cannot be synced, and nothing that was committed is known to be on the disk.
    #[error("the log cannot be synced: {0}")]
    Unsynced(#[source] io::Error),
    /// The log or the database cannot be read.
    #[error("the log cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is not known what is committed.
    #[error("another process is committing")]
    Committing,
    /// The store closes, and a full file would take too long.
    #[error("the store was closed before all of the database was read")]
    Stopped,
    /// The spool cannot be written.
    #[error("the folder of the spool cannot be written: {0}")]
    Spool(#[source] io::Error),
}

/// The reader of the log of an open store.
pub(super) struct Capture {
    log_path: PathBuf,
    log: File,
    database: Arc<File>,
    spool: Arc<Spool>,
    clock: Arc<StorageClock>,
    page_size: u32,
    /// The number of the opening, which is in each file.
    opening: u64,
    /// The opening that has sealed the last file. `None` if it is not known, and the file is in the replica.
    sealer: Option<u64>,
    /// The end of the last file.
    position: Position,
    /// Whether the spool has that position.
    is_kept: bool,
    /// Whether files behind it were given up, so that only a full file goes on from it.
    has_fallen_back: bool,
    /// The number of commits at that position.
    commits: u32,
    /// Reads on from there. `None` as long as the log has no header.
    scan: Option<WalScan>,
}

/// A full file that is to be written.
pub(super) struct Full {
    header: Header,
    /// The pages that are to be read from the log, ascending, each with its last frame.
    in_log: Vec<(u32, u32)>,
    scan: Option<WalScan>,
    commits: u32,
    emptied: bool,
    /// The database file, if the log is empty.
    file: Option<Stamps>,
    log: File,
    database: Arc<File>,
    /// Its snapshot keeps the files as they are.
    _reader: DedicatedReader,
}

impl Capture {
    /// For a store that has just opened its database, whose log is open by `log`. Nothing is captured yet.
    pub(super) fn new(
        (log_path, log): (PathBuf, File),
        database: Arc<File>,
        (spool, clock): (Arc<Spool>, Arc<StorageClock>),
        (position, opening): (Position, u64),
    ) -> Self {
        let sealer = File::open(spool.path(position.txid)).ok();
        let sealer = sealer.and_then(|file| Decoder::new(file).ok());
        let sealer = sealer.map(|decoder| decoder.header().node_id);
        let is_kept = spool.position().ok().flatten() == Some(position);
        Self {
            log_path,
            log,
            database,
            spool,
            clock,
            page_size: position.page_size,
            opening,
            sealer: sealer.filter(|sealer| *sealer != 0),
            position,
            is_kept,
            has_fallen_back: false,
            commits: 0,
            scan: None,
        }
    }

    /// Goes on in the log at the position of an earlier opening. What is behind it was committed before this opening.
    pub(super) fn resume(&mut self, scan: Option<WalScan>, commits: u32) {
        self.scan = scan;
        self.commits = commits;
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    pub(super) fn sealer(&self) -> Option<u64> {
        self.sealer
    }

    pub(super) fn clock(&self) -> &Arc<StorageClock> {
        &self.clock
    }

    /// Which history this is. It is on the disk with the next position.
    pub(super) fn set_lineage(&mut self, lineage: u64) {
        self.position.lineage = lineage;
    }

    /// The number of commits that are in files.
    pub(super) fn commits(&self) -> u32 {
        self.commits
    }

    /// The number of frames of the log that were read.
    pub(super) fn frames(&self) -> u32 {
        self.scan.as_ref().map_or(0, |scan| scan.position().frames)
    }

    /// How many of that number of frames are to be read yet: all of them, if the log has begun again.
    pub(super) fn unread(&self, frames: u32) -> u32 {
        let read = self.scan.as_ref().filter(|scan| {
            let header = read_header(&self.log);
            header.is_ok_and(|header| header.is_some_and(|header| header.salts == scan.header().salts))
        });
        frames.saturating_sub(read.map_or(0, |scan| scan.position().frames))
    }

    /// How many pages were read, and are in no file yet.
    pub(super) fn unsealed(&self) -> u32 {
        self.scan.as_ref().map_or(0, |scan| scan.pages().count() as u32)
    }

    /// Reads what was committed since, and syncs the log, so that the next capture has less to do. Nothing is sealed.
    pub(super) fn read_ahead(&mut self, to: Committed) -> Result<(), CaptureError> {
        self.read_log(to)?;
        self.log.sync_data().map_err(CaptureError::Unsynced)
    }

    /// Seals what was committed since the last file. `None` if nothing was. The caller keeps the position
    /// ([`keep_position`](Self::keep_position)).
    pub(super) fn capture(&mut self, to: Committed) -> Result<Option<Sealed>, CaptureError> {
        if self.has_fallen_back {
            return Err(lost("the next file is to have every page"));
        }
        let made = to.commits.wrapping_sub(self.commits);
        if made == 0 {
            return Ok(None);
        }
        self.read_log(to)?;
        let Some(scan) = &self.scan else {
            return Err(lost("the log is empty, and transactions were committed to it"));
        };
        if scan.commits() != made {
            let read = scan.commits();
            return Err(CaptureError::Lost(format!(
                "the log has {read} transactions since the last file, and {made} were counted"
            )));
        }
        let pages = scan.commit().unwrap_or(self.position.pages);
        self.check_growth(scan, pages)?;
        self.log.sync_data().map_err(CaptureError::Unsynced)?;
        let begin = self.begin_of_range(scan);
        let header = scan.header();
        let file = Header {
            page_size: self.page_size,
            commit: pages,
            min_txid: self.position.txid + 1,
            max_txid: self.position.txid + 1,
            timestamp: self.clock.after(self.position.timestamp),
            wal_offset: header.offset(begin),
            wal_size: header.offset(scan.position().frames) - header.offset(begin),
            wal_salts: header.salts,
            node_id: self.opening,
        };
        let source = Source {
            header: Some(header),
            log: &self.log,
            database: &self.database,
        };
        let changed = scan.pages().map(|(page, frame)| (page, Some(frame)));
        let sealed = write_file(&self.spool, &source, file, changed)?;
        let log = LogPosition::of(header, scan.position());
        self.position = Position {
            txid: file.max_txid,
            timestamp: file.timestamp,
            pages,
            base: self.position.next_base(),
            log: Some(log),
            emptied: false,
            file: None,
            ..self.position
        };
        self.commits = to.commits;
        self.sealer = Some(self.opening);
        self.is_kept = false;
        if let Some(scan) = &mut self.scan {
            scan.clear();
        }
        Ok(Some(sealed))
    }

    /// Seals a transaction that changes nothing: page 1 once more. The caller makes sure that nothing is committed, and that
    /// everything was captured.
    pub(super) fn touch(&mut self) -> Result<Sealed, CaptureError> {
        // Without frames of the log, such a file does not say where it goes on.
        self.keep_position()?;
        let (mut header, mut frame) = (None, None);
        if let Some(at) = &self.position.log
            && let Some(found) = read_header(&self.log)?.filter(|found| found.salts == at.salts)
        {
            let mut scan = WalScan::new(found, found.start());
            scan.read_to(&mut &self.log, at.frames).map_err(unreadable)?;
            frame = scan
                .pages()
                .next()
                .filter(|(page, _)| *page == 1)
                .map(|(_, frame)| frame);
            header = Some(found);
        }
        let end = self
            .position
            .log
            .zip(header)
            .map(|(at, header)| header.offset(at.frames));
        let file = Header {
            page_size: self.page_size,
            commit: self.position.pages,
            min_txid: self.position.txid + 1,
            max_txid: self.position.txid + 1,
            timestamp: self.clock.after(self.position.timestamp),
            wal_offset: end.unwrap_or(0),
            wal_size: 0,
            wal_salts: header.map_or([0, 0], |header| header.salts),
            node_id: self.opening,
        };
        let source = Source {
            header: header.as_ref(),
            log: &self.log,
            database: &self.database,
        };
        let sealed = write_file(&self.spool, &source, file, [(1, frame)].into_iter())?;
        self.position.base = self.position.next_base();
        self.position.txid = file.max_txid;
        self.position.timestamp = file.timestamp;
        self.sealer = Some(self.opening);
        self.is_kept = false;
        self.keep_position()?;
        Ok(sealed)
    }

    /// Where the frames of the next file begin: at the end of the last file, unless the log has begun again.
    fn begin_of_range(&self, scan: &WalScan) -> u32 {
        match &self.position.log {
            Some(log) if log.salts == scan.header().salts => log.frames,
            _ => 0,
        }
    }

    /// Says that all of the log is in the database file, or is about to be moved there, so that it may begin again.
    pub(super) fn emptied(&mut self) -> Result<(), CaptureError> {
        if self.has_fallen_back {
            return self.keep_position();
        }
        if self.position.emptied {
            if self.position.alone {
                // Nothing was committed since, but a transaction that was rolled back, or a `TRUNCATE`, may have begun the
                // log again already. If it begins once more, the next opening knows what follows by the file.
                self.position.file = Stamps::take(&self.database);
                self.is_kept = false;
            }
            return self.keep_position();
        }
        self.position.emptied = true;
        let written = self.write_position(false);
        self.position.emptied = written.is_ok();
        written
    }

    /// Forgets the files after that transaction: the next one is a full one.
    ///
    /// # Errors
    ///
    /// The position cannot be written. It is as before then.
    pub(super) fn fall_back(&mut self, txid: u64) -> io::Result<()> {
        let before = (self.position, self.has_fallen_back, self.is_kept);
        self.fall_back_unwritten(txid);
        let written = self.spool.write_position(&self.position, true);
        match written {
            Ok(()) => self.is_kept = true,
            Err(_) => (self.position, self.has_fallen_back, self.is_kept) = before,
        }
        written
    }

    /// The same where the position cannot be written, and the files are deleted already. An opening that finds the old
    /// position without its file begins with a full file, too.
    pub(super) fn fall_back_unwritten(&mut self, txid: u64) {
        self.position = Position {
            txid,
            log: None,
            emptied: false,
            file: None,
            ..self.position
        };
        self.has_fallen_back = true;
        self.is_kept = false;
    }

    /// Says what the database file is while the log is empty.
    pub(super) fn stamp(&mut self) -> Result<(), CaptureError> {
        if self.has_fallen_back {
            return Ok(());
        }
        self.position.file = Stamps::take(&self.database);
        self.write_position(false)
    }

    pub(super) fn set_stamps(&mut self, stamps: Stamps) -> Result<(), CaptureError> {
        if self.has_fallen_back {
            return Ok(());
        }
        self.position.file = Some(stamps);
        self.write_position(true)
    }

    pub(super) fn has_kept_position(&self) -> bool {
        self.is_kept
    }

    /// Writes the position to the spool, unless it is there. An opening that finds an earlier one goes on from the newest
    /// sealed file, as after a power cut. It cannot once the log has begun again.
    pub(super) fn keep_position(&mut self) -> Result<(), CaptureError> {
        if self.is_kept {
            return Ok(());
        }
        self.write_position(false)
    }

    fn write_position(&mut self, sync: bool) -> Result<(), CaptureError> {
        self.spool
            .write_position(&self.position, sync)
            .map_err(CaptureError::Spool)?;
        self.is_kept = true;
        Ok(())
    }

    /// Reads the frames up to that number.
    fn read_log(&mut self, to: Committed) -> Result<(), CaptureError> {
        let Some(header) = read_header(&self.log)? else {
            return Ok(());
        };
        if to.frames > 0 && to.salts.is_some_and(|salts| salts != header.salts) {
            return Err(lost("the log was begun again by another process before it was read"));
        }
        let same = self
            .scan
            .as_ref()
            .is_some_and(|scan| scan.header().salts == header.salts);
        if !same {
            self.scan = Some(self.begin(header)?);
        }
        let scan = self.scan.as_mut().expect("it has just been set");
        scan.read_to(&mut &self.log, to.frames).map_err(unreadable)
    }

    fn begin(&self, header: WalHeader) -> Result<WalScan, CaptureError> {
        if header.page_size != self.page_size {
            return Err(lost("the size of the pages has changed"));
        }
        Ok(WalScan::new(header, header.start()))
    }

    fn check_growth(&self, scan: &WalScan, pages: u32) -> Result<(), CaptureError> {
        let before = self.position.pages;
        if pages <= before {
            return Ok(());
        }
        let lock_page = lock_page(self.page_size);
        let new = scan
            .pages()
            .filter(|(page, _)| *page > before && *page != lock_page)
            .count();
        let has_lock_page = u32::from((before + 1..=pages).contains(&lock_page));
        if new as u32 == pages - before - has_lock_page {
            return Ok(());
        }
        Err(CaptureError::Lost(format!(
            "the database has grown from {before} to {pages} pages, and {new} of the new ones are in the log; please \
             report this"
        )))
    }

    /// Plans a full file of the reader's snapshot, which ends with these frames.
    pub(super) fn plan_full(
        &mut self,
        reader: DedicatedReader,
        to: Committed,
        pages: u32,
        all_moved: bool,
    ) -> Result<Full, CaptureError> {
        let mut scan = match read_header(&self.log)? {
            None => None,
            Some(header) => Some(self.begin(header)?),
        };
        let mut in_log = Vec::new();
        if let Some(scan) = &mut scan {
            scan.read_to(&mut &self.log, to.frames).map_err(unreadable)?;
            if !all_moved {
                in_log.extend(scan.pages());
            }
            scan.clear();
        }
        let log = scan.as_ref().map(|scan| (*scan.header(), scan.position()));
        let file = log.is_none().then(|| Stamps::take(&self.database)).flatten();
        if file.is_some() {
            // An opening that finds the sealed file, and no position after it, knows by them that the log had nothing.
            self.position.file = file;
            self.write_position(false)?;
        }
        let txid = self.position.txid + 1;
        Ok(Full {
            header: Header {
                page_size: self.page_size,
                commit: pages,
                min_txid: txid,
                max_txid: txid,
                timestamp: self.clock.after(self.position.timestamp),
                wal_offset: log.map_or(0, |(header, _)| header.offset(0)),
                wal_size: log.map_or(0, |(header, end)| header.offset(end.frames) - header.offset(0)),
                wal_salts: log.map_or([0, 0], |(header, _)| header.salts),
                node_id: self.opening,
            },
            in_log,
            scan,
            commits: to.commits,
            // An empty log has nothing that is not in the database file.
            emptied: all_moved || log.is_none(),
            file,
            log: File::open(&self.log_path).map_err(CaptureError::Unreadable)?,
            database: Arc::clone(&self.database),
            _reader: reader,
        })
    }

    /// Goes on behind a full file that is written.
    pub(super) fn follow_full(&mut self, full: &mut Full) {
        let log = full
            .scan
            .as_ref()
            .map(|scan| LogPosition::of(scan.header(), scan.position()));
        self.position = Position {
            txid: full.header.max_txid,
            timestamp: full.header.timestamp,
            pages: full.header.commit,
            base: self.position.next_base(),
            log,
            emptied: full.emptied,
            file: full.file,
            ..self.position
        };
        self.has_fallen_back = false;
        self.commits = full.commits;
        self.sealer = Some(self.opening);
        self.scan = full.scan.take();
        self.is_kept = false;
        // The file is sealed: an opening goes on from it. No checkpoint runs without the position, and that tells the error.
        let _ = self.keep_position();
    }
}

impl Full {
    /// Writes the file, unless it is told to stop. This takes a while, and needs no lock. It is to be sealed under that of
    /// the capture: the store may have closed meanwhile, and a file without its position cannot be gone on from.
    pub(super) fn write(&self, spool: &Spool, stop: impl Fn() -> bool) -> Result<Unsealed, CaptureError> {
        // Dropped files whose names could not be deleted.
        spool.clear_from(self.header.max_txid).map_err(CaptureError::Spool)?;
        self.log.sync_data().map_err(CaptureError::Unsynced)?;
        let lock_page = lock_page(self.header.page_size);
        let mut in_log = self.in_log.iter().copied().peekable();
        let pages = (1..=self.header.commit).filter(|page| *page != lock_page).map(|page| {
            let frame = in_log.next_if(|(next, _)| *next == page).map(|(_, frame)| frame);
            (page, frame)
        });
        let source = Source {
            header: self
                .scan
                .as_ref()
                .map(WalScan::header)
                .filter(|_| !self.in_log.is_empty()),
            log: &self.log,
            database: &self.database,
        };
        let unsealed = write_unsealed(spool, &source, self.header, pages, &stop)?;
        // While no lock is held.
        unsealed.sync().map_err(CaptureError::Spool)?;
        Ok(unsealed)
    }
}

/// Where pages are read.
struct Source<'a> {
    /// Of the log, if pages are read from it.
    header: Option<&'a WalHeader>,
    log: &'a File,
    database: &'a File,
}

impl Source<'_> {
    fn read(&self, page: u32, frame: Option<u32>, contents: &mut [u8]) -> Result<(), CaptureError> {
        match (frame, self.header) {
            (Some(frame), Some(header)) => header.read_page(&mut &*self.log, frame, contents).map_err(unreadable),
            _ => {
                let at = u64::from(page - 1) * contents.len() as u64;
                self.database
                    .read_exact_at(contents, at)
                    .map_err(CaptureError::Unreadable)
            }
        }
    }

    /// Another process may have begun the log again while it was read.
    fn check_log(&self) -> Result<(), CaptureError> {
        let Some(header) = self.header else { return Ok(()) };
        match read_header(self.log)? {
            Some(now) if now.salts == header.salts => Ok(()),
            _ => Err(lost("the log was begun again by another process while it was read")),
        }
    }
}

/// Writes a file into the spool, and seals it.
fn write_file(
    spool: &Spool,
    source: &Source<'_>,
    header: Header,
    pages: impl Iterator<Item = (u32, Option<u32>)>,
) -> Result<Sealed, CaptureError> {
    let unsealed = write_unsealed(spool, source, header, pages, &|| false)?;
    spool.seal(unsealed).map_err(CaptureError::Spool)
}

/// Writes a file into the spool. If the log has begun again meanwhile, what was read from it may be wrong.
fn write_unsealed(
    spool: &Spool,
    source: &Source<'_>,
    header: Header,
    pages: impl Iterator<Item = (u32, Option<u32>)>,
    stop: &dyn Fn() -> bool,
) -> Result<Unsealed, CaptureError> {
    let mut unsealed = spool.begin(header.max_txid).map_err(CaptureError::Spool)?;
    let mut encoder = Encoder::new(unsealed.writer(), header).map_err(unwritable)?;
    let mut contents = vec![0; header.page_size as usize];
    for (number, (page, frame)) in pages.enumerate() {
        if number % STOP_EVERY == 0 && stop() {
            return Err(CaptureError::Stopped);
        }
        source.read(page, frame, &mut contents)?;
        encoder.page(page, &contents).map_err(unwritable)?;
    }
    let (mut to, _) = encoder.finish().map_err(unwritable)?;
    to.flush().map_err(CaptureError::Spool)?;
    drop(to);
    source.check_log()?;
    Ok(unsealed)
}

/// The header of the log. `None` if the log has none, since it is empty.
fn read_header(mut log: &File) -> Result<Option<WalHeader>, CaptureError> {
    let mut bytes = [0; HEADER_SIZE];
    log.seek(SeekFrom::Start(0)).map_err(CaptureError::Unreadable)?;
    match log.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map_err(CaptureError::Unreadable)?,
    }
    WalHeader::parse(&bytes).map(Some).map_err(unreadable)
}

fn lost(reason: &str) -> CaptureError {
    CaptureError::Lost(reason.to_owned())
}

fn unreadable(error: WalError) -> CaptureError {
    match error {
        WalError::Io(error) => CaptureError::Unreadable(error),
        other => CaptureError::Lost(other.to_string()),
    }
}

fn unwritable(error: LtxError) -> CaptureError {
    match error {
        LtxError::Io(error) => CaptureError::Spool(error),
        other => CaptureError::Lost(other.to_string()),
    }
}

/// The log beside that database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    beside(database, "-wal")
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A database whose log was moved, and what captures it.
    struct Place {
        folder: tempfile::TempDir,
        conn: Connection,
        capture: Capture,
        commits: u32,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("app.db");
            let conn = Connection::open(&path).unwrap();
            conn.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE entry(noise BLOB)",
            )
            .unwrap();
            conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            let pages = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
            let position = Position {
                pages,
                page_size: 4096,
                txid: 7,
                log: None,
                file: None,
                lineage: 1,
                node: 1,
                timestamp: 0,
                base: None,
                emptied: false,
                alone: true,
            };
            let capture = Capture::new(
                (log_of(&path), File::open(log_of(&path)).unwrap()),
                Arc::new(File::open(&path).unwrap()),
                (Arc::new(Spool::open(&path).unwrap()), Arc::new(StorageClock::new())),
                (position, 1),
            );
            Self {
                folder,
                conn,
                capture,
                commits: 0,
            }
        }

        fn commit(&mut self, rows: u32) -> Committed {
            for _ in 0..rows {
                self.conn
                    .execute("INSERT INTO entry VALUES (randomblob(3000))", [])
                    .unwrap();
            }
            self.commits += rows;
            let log = File::open(log_of(&self.folder.path().join("app.db"))).unwrap();
            let header = read_header(&log).unwrap().unwrap();
            let mut scan = WalScan::new(header, header.start());
            scan.read_to_last_commit(&mut &log).unwrap();
            Committed {
                frames: scan.position().frames,
                commits: self.commits,
                salts: None,
            }
        }

        fn begin_log_again(&self) {
            self.conn.execute_batch("PRAGMA wal_checkpoint(RESTART)").unwrap();
        }
    }

    #[test]
    fn log_that_has_begun_again_is_unread() {
        let mut place = Place::new();
        let first = place.commit(5);
        assert_eq!(place.capture.unread(first.frames), first.frames);
        place.capture.capture(first).unwrap().unwrap();
        assert_eq!(place.capture.unread(first.frames), 0);
        let more = place.commit(1);
        assert_eq!(place.capture.unread(more.frames), more.frames - first.frames);
        place.capture.capture(more).unwrap().unwrap();
        place.begin_log_again();
        // As many frames as the log before it had, and one more.
        let mut second = place.commit(5);
        while second.frames <= more.frames {
            second = place.commit(1);
        }
        assert_eq!(place.capture.unread(second.frames), second.frames);
        place.capture.read_ahead(second).unwrap();
        assert_eq!(place.capture.unread(second.frames), 0);
        // It has made no file, and the next one has what was read.
        assert_eq!(place.capture.position().txid, 9);
        let last = place.commit(1);
        place.capture.capture(last).unwrap().unwrap();
        assert_eq!(place.capture.position().txid, 10);
        assert_eq!(place.capture.commits(), place.commits);
    }

    /// What was dropped is not in the replica, so that nothing may go on from there but a file of every page.
    #[test]
    fn position_that_has_fallen_back_is_followed_by_every_page() {
        let mut place = Place::new();
        let first = place.commit(2);
        place.capture.capture(first).unwrap().unwrap();
        let committed = place.commit(2);
        place.capture.capture(committed).unwrap().unwrap();
        place.capture.fall_back(8).unwrap();
        let fallen = *place.capture.position();
        place.capture.emptied().unwrap();
        place.capture.stamp().unwrap();
        let more = place.commit(1);
        let error = place.capture.capture(more).unwrap_err();
        assert!(matches!(error, CaptureError::Lost(_)), "{error}");
        assert_eq!(*place.capture.position(), fallen);
        assert_eq!(place.capture.spool.position().unwrap(), Some(fallen));
    }
}
