//! Whose backups the files in a folder are.
//!
//! A series is the backups of one database in one folder: `app.db.20260401T120000Z` and so on. Many databases are named
//! `app.db`, so a series has an owner. Each database has a number, in the file `app.db-series` beside it, and each
//! series has its database's number, in the file `.larder-series-app.db` beside the backups. A database that finds its
//! name taken has a series named `app.db-NUMBER`. So no database counts or removes the backups of another.
//!
//! The number, and not the path, is the identity: containers and machines that share a folder for backups have
//! databases at the same path, a database may be moved, and one that was restored lies where the old one lay.
//! Backups without a file that names their owner belong to the first database of that name.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::{Failure, Result};
use super::staging::{cannot_create, rename_to_new, usable, with};
use super::stamp;
use crate::connection::file::FileId;
use crate::connection::open_files;
use crate::connection::temp_folder::{Content, Lock, TempFolder, lock};
use crate::runtime::random;

/// The suffix of the file beside a database.
const BESIDE: &str = "-series";

/// The prefix of the file beside the backups.
const CLAIM: &str = ".larder-series-";

const OF_DATABASE: &str =
    "larder knows the backups of the database beside this file by this number: keep them together.";
const OF_BACKUPS: &str = "The backups beside this file, of this name, are of this database. To continue them for a \
                          database that has lost its number, copy this file beside it as NAME-series.";

/// The backups of one database in one folder, named `STEM.TIME`.
#[derive(Debug, PartialEq)]
pub(super) struct Series {
    pub(super) folder: PathBuf,
    pub(super) stem: OsString,
}

impl Series {
    /// Finds the series of the database, which gets the first name that no other database has.
    pub(super) fn of(folder: &Path, database: &Path) -> Result<Self> {
        let folder = usable(folder)?;
        let owner = Owner::of(database)?;
        let name = database.file_name().unwrap_or_default();
        let numbered = with(name, &format!("-{:08x}", owner.number >> 32));
        for stem in [name.to_owned(), numbered] {
            if owner.claims(&folder, &stem)? {
                return Ok(Self { folder, stem });
            }
        }
        Err(Failure::new(
            "the backups of this name in the folder are of another database; choose another folder",
        ))
    }

    /// Whether another database had the name of this one.
    pub(super) fn is_numbered(&self, database: &Path) -> bool {
        database.file_name() != Some(&self.stem)
    }

    /// The part of the series whose names go on with `middle`.
    pub(super) fn part(&self, middle: &str) -> Self {
        Self {
            folder: self.folder.clone(),
            stem: with(&self.stem, middle),
        }
    }

    /// An unused name for a backup made now, to the second.
    pub(super) fn next(&self) -> PathBuf {
        self.unused((stamp::now().as_secs()..).map(stamp::of))
    }

    /// An unused name for a backup made now, to the millisecond.
    pub(super) fn next_precise(&self) -> PathBuf {
        let now = stamp::now();
        self.unused((0..).map(|millis| stamp::precise(now + Duration::from_millis(millis))))
    }

    fn unused(&self, mut stamps: impl Iterator<Item = String>) -> PathBuf {
        let path = stamps.find_map(|stamp| {
            let path = self.folder.join(with(&self.stem, &format!(".{stamp}")));
            fs::symlink_metadata(&path).is_err().then_some(path)
        });
        path.expect("a folder does not have all names")
    }

    /// The files `STEM.ENDING` whose ending is a time, by time. One that a store of this process has open is a database
    /// now: it counts for nothing, and stays.
    pub(super) fn all(&self, time: impl Fn(&[u8]) -> Option<Duration>) -> Vec<(Duration, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let prefix = with(&self.stem, ".");
        let timed = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let time = time(name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes())?)?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let path = entry.path();
            (is_file && !open_files::is_open(&path)).then_some((time, path))
        };
        let mut all: Vec<_> = entries.flatten().filter_map(timed).collect();
        all.sort();
        all
    }

    /// Locks the series while a schedule makes a backup of it. `None` if another process has locked it. On a file system
    /// without locks, every caller gets one.
    pub(super) fn lock(&self) -> Option<Option<File>> {
        let Ok(file) = File::open(claim(&self.folder, &self.stem)) else {
            return Some(None);
        };
        (lock(&file) != Lock::Held).then_some(Some(file))
    }
}

/// A database: its number, and its path when that was written.
#[derive(Debug, PartialEq)]
struct Owner {
    number: u64,
    path: PathBuf,
}

/// The content of a file that names an owner.
enum Found {
    Missing,
    /// Something that larder has not written.
    Unknown,
    Owner(Owner),
}

impl Owner {
    /// The owner that the file beside the database names, which is made if there is none.
    fn of(database: &Path) -> Result<Self> {
        let file: PathBuf = with(database.as_os_str(), BESIDE).into();
        loop {
            let (number, overwrite) = match Self::read(&file)? {
                Found::Owner(owner) if owner.path == database => return Ok(owner),
                // The database was copied, with the file beside it.
                Found::Owner(owner) if owner.is_elsewhere(&file) => (random::number(), true),
                // It was moved, or is mounted here by another path.
                Found::Owner(owner) => (owner.number, true),
                Found::Unknown => (random::number(), true),
                Found::Missing => (random::number(), false),
            };
            let owner = Self {
                number,
                path: database.to_owned(),
            };
            match owner.write(&file, OF_DATABASE, overwrite) {
                Ok(()) => return Ok(owner),
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let problem = "the file NAME-series, by which the backups of a database are known, cannot be \
                                   written beside the database";
                    return Err(Failure::of(problem, error));
                }
            }
        }
    }

    /// Whether a database with this number, in another file, is where the owner's path says.
    fn is_elsewhere(&self, here: &Path) -> bool {
        let there: PathBuf = with(self.path.as_os_str(), BESIDE).into();
        let id = |file: &Path| fs::metadata(file).map(|file| FileId::of(&file));
        let is_same_file = matches!((id(here), id(&there)), (Ok(here), Ok(there)) if here == there);
        !is_same_file && matches!(Self::read(&there), Ok(Found::Owner(other)) if other.number == self.number)
    }

    /// Whether the series of that name is this database's, which an unowned one becomes.
    fn claims(&self, folder: &Path, stem: &OsStr) -> Result<bool> {
        let file = claim(folder, stem);
        loop {
            let overwrite = match Self::read(&file)? {
                Found::Owner(owner) if owner == *self => return Ok(true),
                Found::Owner(owner) if owner.number != self.number => return Ok(false),
                Found::Missing => false,
                Found::Owner(_) | Found::Unknown => true,
            };
            match self.write(&file, OF_BACKUPS, overwrite) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot_create(error)),
            }
        }
    }

    fn read(file: &Path) -> Result<Found> {
        match fs::read(file) {
            Ok(text) => Ok(Self::parse(&text).map_or(Found::Unknown, Found::Owner)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
            Err(error) => Err(Failure::of(
                "a file that says whose backups these are cannot be read: NAME-series beside the database, or \
                 .larder-series-NAME beside the backups",
                error,
            )),
        }
    }

    /// The path comes last, since it may have any byte in it.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = text.splitn(3, |byte| *byte == b'\n').skip(1);
        let number = std::str::from_utf8(lines.next()?).ok()?.strip_prefix("number ")?;
        let path = lines.next()?.strip_prefix(b"path ")?.strip_suffix(b"\n")?;
        Some(Self {
            number: u64::from_str_radix(number, 16).ok()?,
            path: OsString::from_vec(path.to_vec()).into(),
        })
    }

    /// Writes the file whole or not at all.
    fn write(&self, file: &Path, explanation: &str, overwrite: bool) -> io::Result<()> {
        let folder = TempFolder::inside(file.parent().unwrap_or(Path::new("/")), Content::Copy)?;
        let unfinished = folder.path().join("series");
        let mut written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&unfinished)?;
        write!(written, "{explanation}\nnumber {:016x}\npath ", self.number)?;
        written.write_all(self.path.as_os_str().as_bytes())?;
        written.write_all(b"\n")?;
        written.sync_all()?;
        if overwrite {
            fs::rename(&unfinished, file)
        } else {
            rename_to_new(&unfinished, file)
        }
    }
}

fn claim(folder: &Path, stem: &OsStr) -> PathBuf {
    let mut name = OsString::from(CLAIM);
    name.push(stem);
    folder.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder for backups, and one for databases.
    struct Place {
        backups: tempfile::TempDir,
        root: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let [backups, root] = [(); 2].map(|()| tempfile::tempdir().unwrap());
            Self { backups, root }
        }

        /// The path of a database in a folder of that name.
        fn database(&self, folder: &str) -> PathBuf {
            let folder = self.root.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            folder.join("app.db")
        }

        fn stem(&self, database: &Path) -> String {
            let series = Series::of(self.backups.path(), database).unwrap();
            series.stem.into_string().unwrap()
        }
    }

    #[test]
    fn each_database_of_a_name_has_its_series() {
        let place = Place::new();
        let stems: Vec<_> = ["a", "b", "c"].map(|name| place.stem(&place.database(name))).into();
        assert_eq!(stems[0], "app.db");
        for stem in &stems[1..] {
            assert!(
                stem.starts_with("app.db-") && stem.len() == "app.db-01234567".len(),
                "{stem}"
            );
        }
        assert_ne!(stems[1], stems[2]);
        let again: Vec<_> = ["a", "b", "c"].map(|name| place.stem(&place.database(name))).into();
        assert_eq!(stems, again);
    }

    #[test]
    fn moved_database_keeps_its_series() {
        let place = Place::new();
        let (a, b) = (place.database("a"), place.database("b"));
        assert_eq!(place.stem(&a), "app.db");
        fs::rename(a.parent().unwrap(), b.parent().unwrap()).unwrap();
        assert_eq!(place.stem(&b), "app.db");
        // And the one that lies where it lay has another.
        assert_ne!(place.stem(&place.database("a")), "app.db");
    }

    #[test]
    fn copied_database_has_another_series() {
        let place = Place::new();
        let (a, b) = (place.database("a"), place.database("b"));
        assert_eq!(place.stem(&a), "app.db");
        let beside = |database: &Path| with(database.as_os_str(), BESIDE);
        fs::copy(beside(&a), beside(&b)).unwrap();
        assert_ne!(place.stem(&b), "app.db");
        assert_eq!(place.stem(&a), "app.db");
    }

    /// Two containers: each sees its database, and not the other's.
    #[test]
    fn databases_at_one_path_have_two_series() {
        let place = Place::new();
        let (a, away) = (place.database("a"), place.root.path().join("another container"));
        assert_eq!(place.stem(&a), "app.db");
        fs::rename(a.parent().unwrap(), &away).unwrap();
        assert_ne!(place.stem(&place.database("a")), "app.db");
        fs::remove_dir_all(a.parent().unwrap()).unwrap();
        fs::rename(&away, a.parent().unwrap()).unwrap();
        assert_eq!(place.stem(&a), "app.db");
    }

    /// The way out of the explanation in the file.
    #[test]
    fn lost_number_can_be_put_back() {
        let place = Place::new();
        let a = place.database("a");
        assert_eq!(place.stem(&a), "app.db");
        let beside = with(a.as_os_str(), BESIDE);
        fs::remove_file(&beside).unwrap();
        assert_ne!(place.stem(&a), "app.db");
        fs::copy(claim(place.backups.path(), OsStr::new("app.db")), &beside).unwrap();
        assert_eq!(place.stem(&a), "app.db");
    }

    #[test]
    fn owner_with_any_path_is_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        for path in ["/srv/app.db", "/a\nnumber 7\npath /b\n", "/ä b"] {
            let owner = Owner {
                number: 0xfeed,
                path: path.into(),
            };
            owner.write(&file, OF_BACKUPS, true).unwrap();
            let Found::Owner(found) = Owner::read(&file).unwrap() else {
                panic!("{path}");
            };
            assert_eq!(found, owner);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for other in ["", "x", "x\nnumber 7", "x\nnumber x\npath /a\n", "x\nnumber 7\npath /a"] {
            assert_eq!(Owner::parse(other.as_bytes()), None, "{other:?}");
        }
    }
}
