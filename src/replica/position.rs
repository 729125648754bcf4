//! The file `position` in the folder of the spool: up to where in its history a database was captured, and where its log
//! goes on from there. The next opening goes on from it.
//!
//! ```text
//! larder position 1
//! lineage 6f1d0c2b9a8e7d35
//! txid 1207
//! ..
//! crc 5b1d9a7c33e0f812
//! ```
//!
//! The last line is the checksum of those before it. A file that a power cut has left empty or torn is no position.

use std::fmt::Write;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::SystemTime;

use super::wal;

const FIRST_LINE: &str = "larder position 1";

/// How far a database was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Which history this is: a random number that was chosen with its first transaction.
    pub(super) lineage: u64,
    /// Who owns the replica here: a random number that was chosen with the spool.
    pub(super) node: u64,
    /// The last transaction. A sealed file may be newer, whose header then says where the log goes on.
    pub(super) txid: u64,
    /// Its time, in milliseconds since 1970.
    pub(super) timestamp: i64,
    pub(super) page_size: u32,
    /// Size of the database in pages after it.
    pub(super) pages: u32,
    /// The last transaction that was not sealed here, so that the spool has no file by which it is known, and its time:
    /// the one that was restored, for example. `None` if it is this one.
    pub(super) base: Option<(u64, i64)>,
    /// Where it ends in the log. `None` if the log had no header yet.
    pub(super) log: Option<LogPosition>,
    /// Whether all of that log is in the database file, or was about to be moved there.
    pub(super) emptied: bool,
    /// Whether the store that wrote it had the file for itself, so that no other process could append to that log.
    pub(super) alone: bool,
    /// The database file, as closing left it, or as it was while the log was empty.
    pub(super) file: Option<Stamps>,
}

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPosition {
    pub(super) salts: [u32; 2],
    /// How many times the log was restarted.
    pub(super) sequence: u32,
    pub(super) frames: u32,
    /// The running checksum up to there.
    pub(super) checksum: [u32; 2],
}

impl LogPosition {
    pub(super) fn of(header: &wal::WalHeader, position: wal::Position) -> Self {
        Self {
            salts: header.salts,
            sequence: header.sequence,
            frames: position.frames,
            checksum: position.checksum,
        }
    }

    pub(super) fn place(&self) -> wal::Position {
        wal::Position {
            frames: self.frames,
            checksum: self.checksum,
        }
    }

    /// Whether this log was restarted once to become the other: "the first salt value is incremented by 1",
    /// <https://sqlite.org/fileformat2.html#the_write_ahead_log>.
    pub(super) fn is_followed_by(&self, header: &wal::WalHeader) -> bool {
        header.salts[0] == self.salts[0].wrapping_add(1) && header.sequence == self.sequence.wrapping_add(1)
    }

    /// Whether the log that has followed shows that the one before ended here: it has not reached this place, not even
    /// with frames that are not committed, and the frame here is not one of that log. Where the file ends here, the frame
    /// before is still one: otherwise the file may have been cut, and written up to here.
    pub(super) fn was_the_end(&self, log: &File, now: &wal::WalHeader, frames: u32) -> io::Result<bool> {
        let here = now.offset(self.frames);
        if frames > self.frames || log.metadata()?.len() < here {
            return Ok(false);
        }
        let salts_at = |frame: u32| {
            let mut salts = [0; 8];
            match log.read_exact_at(&mut salts, now.offset(frame) + 8) {
                Ok(()) => Ok(Some(salts)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(error) => Err(error),
            }
        };
        let is_of =
            |log: [u32; 2], salts: [u8; 8]| salts[..4] == log[0].to_be_bytes() && salts[4..] == log[1].to_be_bytes();
        match salts_at(self.frames)? {
            Some(salts) => Ok(!is_of(self.salts, salts) && !is_of(now.salts, salts)),
            None if self.frames == 0 => Ok(false),
            None => Ok(salts_at(self.frames - 1)?.is_some_and(|salts| is_of(self.salts, salts))),
        }
    }
}

/// By which a file is known to be unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Those of the database from now on. The kernel's own times advance by some milliseconds at a time, and a change
    /// within that time would not show. So the file gets the exact time.
    pub(super) fn take(database: &File) -> Option<Self> {
        let _ = database.set_modified(SystemTime::now());
        database.metadata().ok().as_ref().map(Self::of)
    }
}

impl Position {
    /// What [`base`](Self::base) is after a further transaction.
    pub(super) fn next_base(&self) -> Option<(u64, i64)> {
        self.base.or(Some((self.txid, self.timestamp)))
    }

    /// The time of a transaction, if it is this one or the base.
    pub(super) fn time_of(&self, txid: u64) -> Option<i64> {
        let known = [Some((self.txid, self.timestamp)), self.base];
        known
            .into_iter()
            .flatten()
            .find(|known| known.0 == txid)
            .map(|known| known.1)
    }

    pub(super) fn to_text(self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        let mut line = |name: &str, values: &[i128]| {
            text.push_str(name);
            for value in values {
                write!(text, " {value}").expect("a string takes everything");
            }
            text.push('\n');
        };
        line("lineage", &[self.lineage.into()]);
        line("node", &[self.node.into()]);
        line("txid", &[self.txid.into()]);
        line("timestamp", &[self.timestamp.into()]);
        line("page_size", &[self.page_size.into()]);
        line("pages", &[self.pages.into()]);
        if let Some((txid, timestamp)) = self.base {
            line("base", &[txid.into(), timestamp.into()]);
        }
        if let Some(log) = self.log {
            line("salts", &log.salts.map(i128::from));
            line("sequence", &[log.sequence.into()]);
            line("frames", &[log.frames.into()]);
            line("checksum", &log.checksum.map(i128::from));
        }
        line("emptied", &[self.emptied.into()]);
        line("alone", &[self.alone.into()]);
        if let Some(file) = self.file {
            line("file", &[file.device.into(), file.inode.into(), file.size.into()]);
            line("modified", &[file.modified.0.into(), file.modified.1.into()]);
            line("changed", &[file.changed.0.into(), file.changed.1.into()]);
        }
        let crc = crc(text.as_bytes());
        writeln!(text, "crc {crc:016x}").expect("a string takes everything");
        text
    }

    /// `None` if the text is not whole.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let end = text.strip_suffix('\n')?.rfind('\n')? + 1;
        let stated = u64::from_str_radix(text[end..].trim_end().strip_prefix("crc ")?, 16).ok()?;
        if stated != crc(&text.as_bytes()[..end]) {
            return None;
        }
        let mut lines = text[..end].lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let mut fields = Fields(lines.peekable());
        let [lineage] = fields.take("lineage")?;
        let [node] = fields.take("node")?;
        let [txid] = fields.take("txid")?;
        let [timestamp] = fields.take("timestamp")?;
        let [page_size] = fields.take("page_size")?;
        let [pages] = fields.take("pages")?;
        let base = fields.take::<i64, 2>("base");
        let base = base.map(|[txid, timestamp]| (txid.cast_unsigned(), timestamp));
        let log = if let Some(salts) = fields.take("salts") {
            let [sequence] = fields.take("sequence")?;
            let [frames] = fields.take("frames")?;
            Some(LogPosition {
                salts,
                sequence,
                frames,
                checksum: fields.take("checksum")?,
            })
        } else {
            None
        };
        let [emptied] = fields.take::<u8, 1>("emptied")?;
        let [alone] = fields.take::<u8, 1>("alone")?;
        let file = if let Some([device, inode, size]) = fields.take("file") {
            Some(Stamps {
                device,
                inode,
                size,
                modified: fields.take("modified")?.into(),
                changed: fields.take("changed")?.into(),
            })
        } else {
            None
        };
        Some(Self {
            lineage,
            node,
            txid,
            timestamp,
            page_size,
            pages,
            base,
            log,
            emptied: emptied != 0,
            alone: alone != 0,
            file,
        })
    }
}

/// The lines of a position that are still to be read.
struct Fields<'a>(std::iter::Peekable<std::str::Lines<'a>>);

impl Fields<'_> {
    /// The numbers of the next line, if it has this name.
    fn take<T: std::str::FromStr, const N: usize>(&mut self, name: &str) -> Option<[T; N]> {
        let values = self.0.peek()?.strip_prefix(name)?.strip_prefix(' ')?;
        let values: Vec<T> = values
            .split(' ')
            .map(|value| value.parse().ok())
            .collect::<Option<_>>()?;
        let values = values.try_into().ok()?;
        self.0.next();
        Some(values)
    }
}

fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Position {
        Position {
            lineage: u64::MAX,
            node: 1,
            txid: 1207,
            timestamp: 1_790_000_000_123,
            page_size: 4096,
            pages: 17,
            base: Some((1200, 1_790_000_000_000)),
            log: Some(LogPosition {
                salts: [u32::MAX, 7],
                sequence: 3,
                frames: 12,
                checksum: [1, u32::MAX],
            }),
            emptied: true,
            alone: true,
            file: Some(Stamps {
                device: 1,
                inode: 2,
                size: 3,
                modified: (-4, 5),
                changed: (6, 7),
            }),
        }
    }

    #[test]
    fn position_is_read_as_written() {
        let without = Position {
            base: None,
            log: None,
            file: None,
            emptied: false,
            alone: false,
            ..full()
        };
        for position in [full(), without] {
            assert_eq!(Position::parse(&position.to_text()), Some(position));
        }
    }

    #[test]
    fn torn_or_changed_position_is_none() {
        let text = full().to_text();
        for end in 0..text.len() {
            assert_eq!(Position::parse(&text[..end]), None, "{end}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_ne!(Position::parse(&changed), Some(Position { txid: 0, ..full() }));
            assert_eq!(Position::parse(&changed), None, "{at}");
        }
    }
}
