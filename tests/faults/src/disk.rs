//! What is left on a disk after a power cut.
//!
//! # The model
//!
//! - What a file was before its last successful sync is there. That is all that `fsync` promises, and all that SQLite
//!   asks for (<https://sqlite.org/atomiccommit.html>, section 2).
//! - Each later write to it, by itself and in any combination: kept, dropped, torn into sectors of 512 or 4096 bytes of
//!   which some are kept, or garbage; or only the file's size was kept, with zeros in the middle. "SQLite does not assume
//!   that a sector write is atomic". But a write does not change a byte outside itself: `SQLITE_POWERSAFE_OVERWRITE`,
//!   which SQLite's unix VFS assumes by default (<https://sqlite.org/psow.html>).
//! - Each later change of size: kept or dropped.
//! - An entry that the folder got or lost after its last sync: kept or dropped, for each name by itself, in order.
//!   The folder is synced with the first sync of a log or a journal, and never with the database's.
//! - What was to be synced when a sync failed: as if never synced, whatever is synced later (`Event::SyncFailed`).
//! - The index of the log (`-shm`) is never synced: it is absent, an old one, or garbage.
//!
//! Not in it: media that lie about fsync, that lose what was synced, or that damage the neighbours of what they write.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use fastrand::Rng;

use crate::trace::{Event, Inode};

/// The files of a folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// Makes the folder hold these files and no others. No connection may be open on any of them.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !self.files.contains_key(&*entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        for (name, data) in &self.files {
            fs::write(folder.join(name), data)?;
        }
        Ok(())
    }
}

/// How what was not synced fares, over a whole state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Kept,
    Dropped,
    /// The disk writes in order: all up to some point is there, and what it was just writing is torn.
    InOrder,
    /// Nearly all was kept, or nearly all dropped.
    AllBut,
    OnlyFew,
    /// Each by itself.
    Any,
}

impl Mood {
    pub fn any(rng: &mut Rng) -> Self {
        match rng.u32(0..100) {
            0..6 => Self::Kept,
            6..16 => Self::Dropped,
            16..36 => Self::InOrder,
            36..54 => Self::AllBut,
            54..72 => Self::OnlyFew,
            _ => Self::Any,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Keep,
    Drop,
    Torn(u64),
    Garbage,
    /// The file has grown, and what was written is not there.
    Zeros,
}

enum Change<'a> {
    Write(u64, &'a [u8]),
    Resize(u64),
}

#[derive(Default)]
struct File<'a> {
    base: &'a [u8],
    changes: Vec<Change<'a>>,
    /// So many of them are settled, one way or the other.
    settled: usize,
    /// Which of those no later sync makes durable.
    doomed: Vec<bool>,
}

/// What the events came to, and which of it is durable.
#[derive(Default)]
struct Disk<'a> {
    files: HashMap<Inode, File<'a>>,
    entries: BTreeMap<&'a str, Vec<Option<Inode>>>,
    /// So many changes of each entry are durable; of 0 the base is.
    durable: HashMap<&'a str, usize>,
}

impl<'a> Disk<'a> {
    fn after(base: &'a Image, events: &'a [Event]) -> Self {
        let mut disk = Self::default();
        for (inode, (name, data)) in base.files.iter().enumerate() {
            let inode = inode as Inode;
            disk.files.entry(inode).or_default().base = data;
            disk.entries.insert(name, vec![Some(inode)]);
            disk.durable.insert(name, 1);
        }
        for event in events {
            disk.apply(event);
        }
        disk
    }

    fn apply(&mut self, event: &'a Event) {
        match event {
            Event::Create { name, inode } => self.entries.entry(name).or_default().push(Some(*inode)),
            Event::Delete { name } => self.entries.entry(name).or_default().push(None),
            Event::Write { inode, offset, data } => self.change(*inode, Change::Write(*offset, data)),
            Event::Resize { inode, size } => self.change(*inode, Change::Resize(*size)),
            Event::Sync { inode } => self.settle(*inode, false),
            Event::SyncFailed { inode } => self.settle(*inode, true),
            Event::SyncFolder => {
                for (name, changes) in &self.entries {
                    self.durable.insert(name, changes.len());
                }
            }
            Event::Nothing => {}
        }
    }

    fn change(&mut self, inode: Inode, change: Change<'a>) {
        self.files.entry(inode).or_default().changes.push(change);
    }

    fn settle(&mut self, inode: Inode, doomed: bool) {
        let file = self.files.entry(inode).or_default();
        file.doomed.resize(file.changes.len(), doomed);
        file.settled = file.changes.len();
    }
}

impl File<'_> {
    fn is_durable(&self, change: usize) -> bool {
        change < self.settled && !self.doomed[change]
    }

    fn survive(&self, mood: Mood, rng: &mut Rng) -> Vec<u8> {
        let open: Vec<usize> = (0..self.changes.len()).filter(|i| !self.is_durable(*i)).collect();
        let mut fates = fates(open.len(), mood, rng).into_iter();
        let mut content = self.base.to_vec();
        for (i, change) in self.changes.iter().enumerate() {
            let fate = if self.is_durable(i) {
                Fate::Keep
            } else {
                fates.next().unwrap_or(Fate::Keep)
            };
            change.apply(fate, &mut content, rng);
        }
        content
    }
}

fn fates(count: usize, mood: Mood, rng: &mut Rng) -> Vec<Fate> {
    let few = 1 + count / 8;
    let point = rng.usize(0..=count);
    let chance = rng.u32(5..95);
    (0..count)
        .map(|i| match mood {
            Mood::Kept => Fate::Keep,
            Mood::Dropped => Fate::Drop,
            Mood::InOrder if i < point => Fate::Keep,
            Mood::InOrder if i == point => damaged(rng),
            Mood::InOrder => Fate::Drop,
            Mood::AllBut if rng.usize(0..count) < few => damaged(rng),
            Mood::AllBut => Fate::Keep,
            Mood::OnlyFew if rng.usize(0..count) < few => Fate::Keep,
            Mood::OnlyFew => Fate::Drop,
            Mood::Any if rng.u32(0..100) < chance => Fate::Keep,
            Mood::Any => damaged(rng),
        })
        .collect()
}

fn damaged(rng: &mut Rng) -> Fate {
    match rng.u32(0..10) {
        0..4 => Fate::Drop,
        4..6 => Fate::Torn(512),
        6..8 => Fate::Torn(4096),
        8 => Fate::Garbage,
        _ => Fate::Zeros,
    }
}

impl Change<'_> {
    fn apply(&self, fate: Fate, content: &mut Vec<u8>, rng: &mut Rng) {
        match (self, fate) {
            (_, Fate::Drop) => {}
            (Change::Resize(size), Fate::Keep | Fate::Torn(_)) => content.resize(*size as usize, 0),
            (Change::Resize(_), Fate::Garbage | Fate::Zeros) => {}
            (Change::Write(offset, data), Fate::Keep) => put(content, *offset, data),
            (Change::Write(offset, data), Fate::Torn(sector)) => tear(content, *offset, data, sector, rng),
            (Change::Write(offset, data), Fate::Garbage) => {
                let garbage: Vec<u8> = (0..data.len()).map(|_| rng.u8(..)).collect();
                put(content, *offset, &garbage);
            }
            (Change::Write(offset, data), Fate::Zeros) => {
                let end = *offset as usize + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
            }
        }
    }
}

fn put(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if content.len() < to {
        content.resize(to, 0);
    }
    content[from..to].copy_from_slice(data);
}

/// Each sector of the disk that the write touches is written or not.
fn tear(content: &mut Vec<u8>, offset: u64, data: &[u8], sector: u64, rng: &mut Rng) {
    let (mut from, end) = (offset, offset + data.len() as u64);
    while from < end {
        let to = (from / sector + 1) * sector;
        let to = to.min(end);
        if rng.bool() {
            put(content, from, &data[(from - offset) as usize..(to - offset) as usize]);
        }
        from = to;
    }
}

/// One of the states in which the disk may be if the power is cut after these events.
pub fn survive(base: &Image, events: &[Event], mood: Mood, rng: &mut Rng) -> Image {
    let disk = Disk::after(base, events);
    let mut image = Image::default();
    for (name, changes) in &disk.entries {
        let durable = disk.durable.get(name).copied().unwrap_or(0);
        let made = match mood {
            Mood::Kept => changes.len(),
            Mood::Dropped => durable,
            _ => rng.usize(durable..=changes.len()),
        };
        let entry = made.checked_sub(1).and_then(|last| changes[last]);
        if let Some(inode) = entry {
            let nothing = File::default();
            let file = disk.files.get(&inode).unwrap_or(&nothing);
            let own = match mood {
                Mood::Kept | Mood::Dropped => mood,
                _ if rng.u32(0..3) > 0 => mood,
                _ => Mood::any(rng),
            };
            image.files.insert((*name).to_owned(), file.survive(own, rng));
        }
    }
    image
}

/// Adds what may lie there as the index of the log: nothing, an old one, or garbage.
pub fn add_index(image: &mut Image, database: &str, old: &[Vec<u8>], rng: &mut Rng) {
    let index = match rng.u32(0..4) {
        0 | 1 => return,
        2 if !old.is_empty() => old[rng.usize(0..old.len())].clone(),
        _ => (0..rng.usize(0..2) * 32768 + rng.usize(0..600))
            .map(|_| rng.u8(..))
            .collect(),
    };
    image.files.insert(format!("{database}-shm"), index);
}
