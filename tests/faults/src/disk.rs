//! The possible contents of a disk after a power cut.
//!
//! # The model
//!
//! - The contents of a file at its last successful sync are there. `fsync` promises no more, and SQLite asks for no
//!   more (<https://sqlite.org/atomiccommit.html>, section 2).
//! - Each later write, independently and in any combination: kept, dropped, torn into sectors of 512 or 4096 bytes of
//!   which some are kept, or garbage; or only the new size of the file is kept, with zeros in the gap. "SQLite does not
//!   assume that a sector write is atomic". But a write changes no byte outside itself: `SQLITE_POWERSAFE_OVERWRITE`,
//!   which SQLite's unix VFS assumes by default (<https://sqlite.org/psow.html>). Nor is a sector damaged by a write of
//!   its present contents.
//! - Each later change of size: kept or dropped.
//! - Each entry that a folder gained or lost after its last sync: kept or dropped, per name, in order. So a rename over
//!   a file leaves the old or the new file, and may leave the old name as well. A folder is synced with the first sync
//!   of a log or a journal, never with the database's, and where larder syncs it. The contents of a folder go with it.
//! - Data whose sync failed: as if never synced, even if a later sync succeeds (`Event::SyncFailed`).
//! - The index of the log (`-shm`) is never synced: it is absent, an old one, or garbage.
//!
//! Not modelled: media that lie about fsync, that lose synced data, or that damage the neighbours of a write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fastrand::Rng;

use crate::trace::{Event, Inode, parent};

/// The files of a folder, and the folders in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub files: BTreeMap<String, Vec<u8>>,
    pub folders: BTreeSet<String>,
}

/// Reads a file. Where this process has a descriptor of it, that descriptor is used: closing another one would drop the
/// locks of a connection whose own close was made to fail, and the next store would take those locks for its own.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let of_path = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == path);
    let numbers = open
        .filter(of_path)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for number in numbers {
        // SAFETY: no thread closes a descriptor of this folder's files meanwhile, and it is not closed here.
        let file = ManuallyDrop::new(unsafe { fs::File::from_raw_fd(number) });
        // A thread of a replica may have closed it by now.
        let Ok(metadata) = file.metadata() else { continue };
        let mut bytes = vec![0; metadata.len() as usize];
        let is_still_it = || fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|to| to == path);
        if file.read_exact_at(&mut bytes, 0).is_ok() && is_still_it() {
            return Ok(bytes);
        }
    }
    fs::read(path)
}

impl Image {
    /// Makes the folder hold exactly these files. No connection may be open on any of them.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if !self.files.contains_key(&*entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        for name in &self.folders {
            fs::create_dir(folder.join(name))?;
        }
        for (name, data) in &self.files {
            // A connection whose close was made to fail may still have the old file open, with its locks.
            match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::write(folder.join(name), data)?,
            }
        }
        Ok(())
    }

    /// Reads the folder, except WAL indexes, which are memory.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut image = Self::default();
        image.add(folder, "")?;
        Ok(image)
    }

    fn add(&mut self, folder: &Path, before: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{before}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.add(&entry.path(), &format!("{name}/"))?;
                self.folders.insert(name);
            } else if !is_index(&name) {
                self.files.insert(name, read(&entry.path())?);
            }
        }
        Ok(())
    }

    /// The first name whose contents differ.
    pub fn difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let files = self.files.keys().chain(other.files.keys());
        let differs = |name: &&String| self.files.get(*name) != other.files.get(*name);
        let folder = self.folders.symmetric_difference(&other.folders).next();
        files.into_iter().find(differs).or(folder).map(String::as_str)
    }
}

pub fn is_index(name: &str) -> bool {
    name.ends_with("-shm")
}

/// The fate of unsynced data, over a whole state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Kept,
    Dropped,
    /// The disk writes in order: everything up to some point is kept, and the last write is torn.
    InOrder,
    /// Nearly all is kept, or nearly all dropped.
    AllBut,
    OnlyFew,
    /// Each change independently.
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
    /// The file has grown, and the written data is missing.
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
    /// The number of changes whose fate is settled.
    settled: usize,
    /// The changes that no later sync makes durable.
    doomed: Vec<bool>,
}

/// The object that a name refers to.
#[derive(Clone, Copy)]
enum Entry {
    File(Inode),
    Folder,
}

/// The history of a name.
struct Name<'a> {
    name: &'a str,
    changes: Vec<Option<Entry>>,
    /// The number of its changes that are durable.
    durable: usize,
}

/// The result of the events, and the durable part of it.
#[derive(Default)]
struct Disk<'a> {
    files: HashMap<Inode, File<'a>>,
    /// In order of appearance, so that a folder comes before its contents.
    names: Vec<Name<'a>>,
    /// The index of each name in `names`.
    places: HashMap<&'a str, usize>,
}

impl<'a> Disk<'a> {
    fn after(base: &'a Image, events: &'a [Event]) -> Self {
        let mut disk = Self::default();
        for name in &base.folders {
            disk.entry(name, Some(Entry::Folder));
        }
        for (inode, (name, data)) in base.files.iter().enumerate() {
            let inode = inode as Inode;
            disk.files.entry(inode).or_default().base = data;
            disk.entry(name, Some(Entry::File(inode)));
        }
        disk.names.iter_mut().for_each(Name::sync);
        for event in events {
            disk.apply(event);
        }
        disk
    }

    fn apply(&mut self, event: &'a Event) {
        match event {
            Event::Create { name, inode } => self.entry(name, Some(Entry::File(*inode))),
            Event::CreateFolder { name } => self.entry(name, Some(Entry::Folder)),
            Event::Delete { name } => self.entry(name, None),
            Event::Write { inode, offset, data } => self.change(*inode, Change::Write(*offset, data)),
            Event::Resize { inode, size } => self.change(*inode, Change::Resize(*size)),
            Event::Sync { inode } => self.settle(*inode, false),
            Event::SyncFailed { inode } => self.settle(*inode, true),
            Event::SyncFolder { name: folder } => {
                let inside = |name: &&mut Name<'_>| parent(name.name) == folder;
                self.names.iter_mut().filter(inside).for_each(Name::sync);
            }
            Event::CreateFailed { .. } | Event::Nothing => {}
        }
    }

    fn entry(&mut self, name: &'a str, entry: Option<Entry>) {
        let place = *self.places.entry(name).or_insert_with(|| {
            self.names.push(Name {
                name,
                changes: vec![],
                durable: 0,
            });
            self.names.len() - 1
        });
        self.names[place].changes.push(entry);
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

impl Name<'_> {
    fn sync(&mut self) {
        self.durable = self.changes.len();
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
            (Change::Write(offset, data), Fate::Garbage) => spoil(content, *offset, data, rng),
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

/// The data that a write gives to each sector of the disk that it touches, with the sector's position.
fn sectors(offset: u64, data: &[u8], sector: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let end = offset + data.len() as u64;
    let mut from = offset;
    std::iter::from_fn(move || {
        let to = end.min((from / sector + 1) * sector);
        let part = &data[(from - offset) as usize..(to - offset) as usize];
        let at = std::mem::replace(&mut from, to);
        (at < end).then_some((at, part))
    })
}

/// Writes each sector or not, at random.
fn tear(content: &mut Vec<u8>, offset: u64, data: &[u8], sector: u64, rng: &mut Rng) {
    for (at, part) in sectors(offset, data, sector) {
        if rng.bool() {
            put(content, at, part);
        }
    }
}

/// Turns each sector into garbage, except those whose contents do not change.
fn spoil(content: &mut Vec<u8>, offset: u64, data: &[u8], rng: &mut Rng) {
    for (at, part) in sectors(offset, data, 512) {
        if content.get(at as usize..at as usize + part.len()) != Some(part) {
            let garbage: Vec<u8> = (0..part.len()).map(|_| rng.u8(..)).collect();
            put(content, at, &garbage);
        }
    }
}

/// One of the possible states of the disk if the power is cut after these events.
pub fn survive(base: &Image, events: &[Event], mood: Mood, rng: &mut Rng) -> Image {
    let disk = Disk::after(base, events);
    let mut image = Image::default();
    for Name { name, changes, durable } in &disk.names {
        let made = match mood {
            Mood::Kept => changes.len(),
            Mood::Dropped => *durable,
            _ => rng.usize(*durable..=changes.len()),
        };
        let there = parent(name).is_empty() || image.folders.contains(parent(name));
        match made.checked_sub(1).and_then(|last| changes[last]).filter(|_| there) {
            None => {}
            Some(Entry::Folder) => drop(image.folders.insert((*name).to_owned())),
            Some(Entry::File(inode)) => {
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
    }
    image
}

/// Adds a possible WAL index: none, an old one, or garbage.
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
