//! Whether the database file is as the follower left it.
//!
//! SQLite opens no file here: the log is read before the database is opened. The position (`position.rs`) says where in
//! the log the last transaction ends that the follower had noted. A follower that was killed between a COMMIT and its
//! note has left one more. Before the first transaction, under SQLite's write lock, the end of the log is compared once more,
//! or the file if the log is empty: another program may have written since. What is behind the position does no harm, whichever program has written it, if every page of
//! it is written once more before anybody reads, by the files from the position on. Otherwise another program has changed
//! the database.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::connection::wal_index::WalIndex;
use crate::replica::capture::log_of;
use crate::replica::ltx::lock_page;
use crate::replica::position::{Position, Stamps};
use crate::replica::wal::{self, HEADER_SIZE, WalHeader, WalScan};

/// What is known of the database file.
#[derive(Clone, Debug)]
pub(super) enum Local {
    /// It is as the follower left it when the WAL index had counted so many commits of all processes.
    Ours {
        /// `None` where the system shows no index.
        changes: Option<u32>,
    },
    /// What is committed ends there, and what is behind the position has changed these pages.
    Behind { end: End, pages: BTreeSet<u32> },
    /// It cannot be shown, for this reason.
    Unknown(&'static str),
}

/// Why another program may have changed a database.
pub(super) const CHANGED_BEHIND: &str = "it has changes behind the transaction that the follower noted last";

/// Where the last commit of a database ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In the log with these salts, at this place.
    Log([u32; 2], wal::Position),
    /// In the file: the log has no commit.
    File(Option<Stamps>),
}

impl End {
    fn of(database: &Path, scan: Option<&WalScan>) -> Self {
        match scan {
            Some(scan) if scan.position().frames > 0 => Self::Log(scan.header().salts, scan.position()),
            _ => Self::File(fs::metadata(database).ok().as_ref().map(Stamps::of)),
        }
    }

    /// The end of a database whose WAL index is `index`; the log itself is read where the system shows no index. No process
    /// may write meanwhile.
    pub(super) fn now(database: &Path, index: Option<WalIndex>) -> io::Result<Self> {
        match index {
            Some(index) if index.frames > 0 => Ok(Self::Log(
                index.salts,
                wal::Position {
                    frames: index.frames,
                    checksum: index.checksum,
                },
            )),
            Some(_) => Ok(Self::of(database, None)),
            None => {
                let Some((log, header)) = open_log(database)? else {
                    return Ok(Self::of(database, None));
                };
                let mut scan = WalScan::new(header, header.start());
                scan.read_to_last_commit(&mut &log)?;
                Ok(Self::of(database, Some(&scan)))
            }
        }
    }
}

impl Local {
    /// Looks at the files of a database that this process does not have open.
    pub(super) fn look(database: &Path, position: &Position) -> io::Result<Self> {
        let is_unchanged = match position.file {
            Some(file) => fs::metadata(database).is_ok_and(|now| Stamps::of(&now) == file),
            None => false,
        };
        let Some((log, header)) = open_log(database)? else {
            return Ok(match is_unchanged {
                true => Self::untouched(position.file),
                false => Self::Unknown("the log is gone, and the file is not as it was after the last closing"),
            });
        };
        let mut scan = WalScan::new(header, header.start());
        match position.log {
            Some(at) if at.salts == header.salts => {
                let is_there = scan.read_to(&mut &log, at.frames).is_ok() && scan.position() == at.place();
                if !is_there {
                    return Ok(Self::Unknown(
                        "the log does not have the transaction that was applied last",
                    ));
                }
                if lacks_pages(database, position, &scan)? {
                    return Ok(Self::Unknown("the file is shorter than the database"));
                }
                scan.clear();
            }
            // All of the log came later.
            _ if is_unchanged => {}
            _ => {
                return Ok(Self::Unknown(
                    "the log has begun again since the last transaction was applied",
                ));
            }
        }
        scan.read_to_last_commit(&mut &log)?;
        Ok(Self::Behind {
            end: End::of(database, Some(&scan)),
            pages: scan.pages().map(|(page, _)| page).collect(),
        })
    }

    /// A file that has nothing behind the position.
    pub(super) fn untouched(file: Option<Stamps>) -> Self {
        Self::Behind {
            end: End::File(file),
            pages: BTreeSet::new(),
        }
    }
}

/// Whether neither the file nor the log, which was read up to the position, has some of the pages. A transaction behind the
/// position may have cut them off; such a database is compared with the replica, too.
fn lacks_pages(database: &Path, position: &Position, scan: &WalScan) -> io::Result<bool> {
    let in_file = fs::metadata(database)?.len() / u64::from(position.page_size);
    let is_beyond = |page: u32| u64::from(page) > in_file && page <= position.pages;
    let in_log = scan.pages().filter(|(page, _)| is_beyond(*page)).count() as u64;
    // SQLite never writes that page.
    let in_none = u64::from(is_beyond(lock_page(position.page_size)));
    Ok(in_file + in_log + in_none < position.pages.into())
}

/// The log and its header. `None` if there is nothing in it.
pub(super) fn open_log(database: &Path) -> io::Result<Option<(File, WalHeader)>> {
    let log = match File::open(log_of(database)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        log => log?,
    };
    let mut bytes = [0; HEADER_SIZE];
    match log.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        // A log that SQLite does not take for one is empty to it.
        other => other.map(|()| WalHeader::parse(&bytes).ok().map(|header| (log, header))),
    }
}
