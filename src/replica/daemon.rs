//! Goes on behind another program that has replicated the same database: the daemon of Litestream.
//!
//! The daemon names the place in the log at which each of its files ends: the salts of the log, and an offset. If the log
//! still has those salts, the files with them were read from this log, or from one that was copied together with its
//! database and has gone on by itself since. So the pages of these files are compared with the frames at their places,
//! from the first after what this store knows, or from the log's first frame, to the newest. If all are the same, the
//! database after the last of these frames is the state that the replica ends with.
//!
//! If the log has begun again since the newest file, or is gone, or the daemon has deleted the older of these files, nothing
//! shows that. Then the database has diverged, even if it has not.

use std::fs::File;
use std::io;
use std::path::Path;

use super::ltx::{Decoder, Header};
use super::open::header_of;
use super::position::{LogPosition, Position};
use super::storage::{FileInfo, ObjectReader, Result, Storage, StorageError, all_files, request};
use super::wal::{WalError, WalHeader, WalScan};
use crate::error::Error;

/// So often the files are listed again, because one of them was deleted meanwhile.
const ATTEMPTS: u32 = 4;

/// The position behind the newest file of level 0, if the log shows that the database has been there. `known` is the last
/// transaction that this store knows, zero if there is none.
pub(super) fn position_behind(storage: &Storage, known: u64, path: &Path) -> crate::error::Result<Option<Position>> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match look_behind(storage, known, path) {
            Err(Trouble::Storage(error)) if error.is_not_found() && attempts > 0 => {}
            Err(Trouble::Storage(error)) => return Err(error.into()),
            Err(Trouble::Local(error)) => return Err(error),
            Ok(found) => return Ok(found),
        }
    }
}

/// Why the files were not compared with the log.
enum Trouble {
    Storage(StorageError),
    Local(Error),
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

fn look_behind(storage: &Storage, known: u64, path: &Path) -> std::result::Result<Option<Position>, Trouble> {
    let failed = |error: io::Error| Error::Open {
        path: path.into(),
        problem: format!("its WAL cannot be compared with the replica: {error}"),
        source: Some(Box::new(error)),
    };
    let log = match File::open(super::capture::log_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        log => log.map_err(failed)?,
    };
    let Some(header) = header_of(&log).map_err(failed)? else {
        return Ok(None);
    };
    let files = of_this_log(storage, known, &header)?;
    let begins = |(file, _): &(Header, FileInfo)| {
        file.min_txid == known + 1 || file.wal_size > 0 && file.wal_offset == header.offset(0)
    };
    if !files.first().is_some_and(begins) {
        return Ok(None);
    }
    let Some((newest, _)) = files.last().filter(|(file, _)| file.wal_size > 0) else {
        return Ok(None);
    };
    let mut scan = WalScan::new(header, header.start());
    for (file, info) in &files {
        let from = open(storage, info)?;
        if !has_frames(&mut scan, &log, file, from).map_err(failed)? {
            return Ok(None);
        }
    }
    Ok(Some(Position {
        lineage: 0,
        node: 0,
        txid: newest.max_txid,
        timestamp: newest.timestamp,
        page_size: newest.page_size,
        pages: newest.commit,
        base: None,
        log: Some(LogPosition::of(scan.header(), scan.position())),
        emptied: false,
        alone: false,
        file: None,
    }))
}

/// The newest files of level 0 without a gap that were read from that log, oldest first.
fn of_this_log(storage: &Storage, known: u64, log: &WalHeader) -> Result<Vec<(Header, FileInfo)>> {
    let listing = storage.clone();
    let mut listed = request(storage, async move { all_files(&listing).await })?;
    listed.retain(|file| file.level == 0);
    listed.sort_unstable_by_key(|file| file.txids);
    let mut files: Vec<(Header, FileInfo)> = Vec::new();
    while let Some(info) = listed.pop().filter(|info| info.txids.max > known) {
        let is_next = files
            .last()
            .is_none_or(|(_, later)| info.txids.max + 1 == later.txids.min);
        let Ok(decoder) = Decoder::new(open(storage, &info)?) else {
            break;
        };
        let file = *decoder.header();
        let is_of_it = file.wal_salts == log.salts && file.page_size == log.page_size;
        if !is_next || !is_of_it {
            break;
        }
        files.push((file, info));
    }
    files.reverse();
    Ok(files)
}

fn open(storage: &Storage, info: &FileInfo) -> Result<ObjectReader> {
    let (opening, info) = (storage.clone(), *info);
    request(storage, async move { opening.reader(info.level, info.txids).await })
}

/// Whether the pages of the file are the last ones in its range of the log.
fn has_frames(scan: &mut WalScan, log: &File, file: &Header, from: ObjectReader) -> io::Result<bool> {
    let header = *scan.header();
    let frame_at = |offset: u64| {
        let frames = offset.checked_sub(header.offset(0))? / (header.offset(1) - header.offset(0));
        let frames = u32::try_from(frames).ok()?;
        (header.offset(frames) == offset).then_some(frames)
    };
    let (Some(begin), Some(end)) = (frame_at(file.wal_offset), frame_at(file.wal_offset + file.wal_size)) else {
        return Ok(false);
    };
    if begin < scan.position().frames || !read_to(scan, log, begin)? {
        return Ok(false);
    }
    scan.clear();
    if !read_to(scan, log, end)? {
        return Ok(false);
    }
    let mut frames = scan.pages().filter(|(page, _)| *page <= file.commit).peekable();
    let Ok(mut decoder) = Decoder::new(from) else {
        return Ok(false);
    };
    let (mut theirs, mut ours) = (vec![0; header.page_size as usize], vec![0; header.page_size as usize]);
    while let Some(page) = decoder.next_page(&mut theirs).map_err(io::Error::other)? {
        let Some((_, frame)) = frames.next_if(|(next, _)| *next == page) else {
            continue;
        };
        header
            .read_page(&mut &*log, frame, &mut ours)
            .map_err(io::Error::other)?;
        if theirs != ours {
            return Ok(false);
        }
    }
    // A page that the file lacks.
    Ok(frames.peek().is_none())
}

/// Reads the log up to there. `false` if it has no valid frames up to there.
fn read_to(scan: &mut WalScan, log: &File, frames: u32) -> io::Result<bool> {
    match scan.read_to(&mut &*log, frames) {
        Ok(()) => Ok(true),
        Err(WalError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Err(_) => Ok(false),
    }
}
