//! Backups and restored databases: what was reported for each, and which file exists under its name.
//!
//! After each call, whatever has failed:
//!
//! - If it succeeded, there is a complete database under the name, in one file, which opens with larder and with
//!   rusqlite alone. It has every commit acknowledged before its start, and none in part.
//! - If it failed, the previous file is there, byte for byte. (One error reports that the new file is there, and that a
//!   power cut may remove its name: then the new file is complete.)
//! - No unfinished copy is left, unless its removal failed; the next backup removes it.
//!
//! After a power cut there is the newest copy that was reported as done, or the one in progress, complete, byte for
//! byte.

use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use larder::rusqlite::{Connection, OpenFlags};
use larder::{Error, Store};

use crate::cases::Bench;
use crate::check::{Expected, check, sound};
use crate::disk::Image;
use crate::job::Job;
use crate::journal::Journal;
use crate::model::Model;
use crate::power_cut::Recording;
use crate::settings::{LONG, Settings};
use crate::trace::{Call, Hit};
use crate::workload::DATABASE;

/// The prefix of the folders of unfinished copies.
const UNFINISHED: &str = ".larder-backup-";

/// What the error says after which the new one is there all the same.
const THERE_AND_WHOLE: &str = "the file is there and complete";

pub type Bytes = Arc<[u8]>;

/// A backup, or a database restored from one.
#[derive(Debug)]
pub struct Copy {
    pub name: String,
    /// Events with a smaller number happened before the copy began, or before it ended.
    pub began: usize,
    pub ended: usize,
    /// The minimum and maximum number of commits in it; commits with an unknown outcome make the difference.
    pub commits: (usize, usize),
    pub result: Result<(), Error>,
    /// The file under its name, before and after.
    pub before: Option<Bytes>,
    pub after: Option<Bytes>,
    /// Whether an unfinished copy was there when it ended.
    pub has_left: bool,
}

impl Copy {
    /// Whether the new file is there.
    pub fn is_there(&self) -> bool {
        match &self.result {
            Ok(()) => true,
            Err(error) => error.to_string().contains(THERE_AND_WHOLE),
        }
    }

    /// Whether it may leave an unfinished copy: its removal failed, and no other call.
    fn may_leave(&self, hit: Option<&Hit>, sticky: bool) -> bool {
        let removing = |call| matches!(call, Call::Look | Call::OpenToRemove | Call::Remove);
        hit.is_some_and(|hit| sticky || self.result.is_ok() && removing(hit.call))
    }

    /// The file that must be there after it, to the byte. `None` means no file.
    fn judge(&self) -> Result<Option<&Bytes>, String> {
        let (before, after) = (self.before.as_ref(), self.after.as_ref());
        match &self.result {
            Ok(()) if after.is_none() => Err(format!("{} was made, and is not there", self.name)),
            Err(_) if !self.is_there() && before != after => Err(format!(
                "{} was not made, and is not as it was: {:?}",
                self.name, self.result
            )),
            Err(error) if !is_proper(error) => Err(format!("{}: that is no error of a backup: {error:?}", self.name)),
            _ => Ok(after),
        }
    }
}

/// Whether the error is one of its own, or one of opening a reader.
fn is_proper(error: &Error) -> bool {
    matches!(
        error,
        Error::Backup { .. } | Error::Restore { .. } | Error::Open { .. } | Error::Pragma { .. } | Error::Sqlite { .. }
    )
}

/// Whether the folder has an unfinished copy.
pub fn has_unfinished(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().starts_with(UNFINISHED))
}

impl Journal {
    /// The newest copy of that name.
    pub fn copy(&self, name: &str) -> Option<&Copy> {
        self.copies.iter().rfind(|copy| copy.name == name && copy.is_there())
    }

    /// The names of all backups.
    fn copied_to(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.copies.iter().map(|copy| copy.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Recording {
    /// Checks each copy against its result, and that no other file is beside it.
    pub fn check_copies(
        &self,
        hit: Option<&Hit>,
        sticky: bool,
        bench: &Bench<'_>,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let expected = self.expected(self.events.len())?;
        for copy in &self.journal.copies {
            if let (Some(bytes), true) = (copy.judge()?, copy.is_there()) {
                whole(bytes, copy.commits, &expected.jobs, &self.settings, &bench.folder, rng)
                    .map_err(|problem| format!("{}: {problem}", copy.name))?;
            }
            if copy.has_left && !copy.may_leave(hit, sticky) {
                return Err(format!(
                    "{} was {:?}, and an unfinished copy is left",
                    copy.name, copy.result
                ));
            }
        }
        Ok(())
    }

    /// Checks that the files that survived the power cut are permitted.
    pub fn have_copies_survived(&self, image: &Image, cut: usize) -> Result<(), String> {
        for name in self.journal.copied_to() {
            let found = image.files.get(name).map(Vec::as_slice);
            if !self.may_be_there(name, cut).any(|bytes| bytes == found) {
                let length = found.map_or("nothing".to_owned(), |found| format!("{} bytes", found.len()));
                return Err(format!(
                    "{name}: what is there was never a whole copy of its time: {length}"
                ));
            }
        }
        Ok(())
    }

    fn may_be_there<'a>(&'a self, name: &'a str, cut: usize) -> impl Iterator<Item = Option<&'a [u8]>> {
        let of_name = |copy: &&Copy| copy.name == name;
        let copies: Vec<&Copy> = self.journal.copies.iter().filter(of_name).collect();
        let last = copies.iter().rposition(|copy| copy.result.is_ok() && copy.ended <= cut);
        let before = match last {
            Some(last) => copies[last].after.as_deref(),
            None => self.base.files.get(name).map(Vec::as_slice),
        };
        let meanwhile = copies.into_iter().skip(last.map_or(0, |last| last + 1));
        let meanwhile = meanwhile.filter(move |copy| copy.began < cut && copy.is_there());
        std::iter::once(before).chain(meanwhile.map(|copy| copy.after.as_deref()))
    }

    /// Checks that the next backup succeeds and removes unfinished copies.
    pub fn back_up_again(&self, folder: &Path) -> Result<(), String> {
        let names = self.journal.copied_to();
        if names.is_empty() {
            return Ok(());
        }
        let settings = Settings {
            patience: LONG,
            ..self.settings.clone()
        };
        let store = settings.options().open(folder.join(DATABASE));
        let store = store.map_err(|error| format!("to back it up again: {error}"))?;
        for name in names {
            back_up(&store, &folder.join(name)).map_err(|error| format!("{name}, again: {error}"))?;
        }
        store.close().map_err(|error| format!("after a backup: {error}"))?;
        if has_unfinished(folder) {
            return Err("an unfinished copy was not removed by the next backup".into());
        }
        Ok(())
    }
}

fn back_up(store: &Store, to: &Path) -> larder::Result<()> {
    store.backup(to).overwrite(true).run().map(drop)
}

/// Checks one file, and its number of commits.
fn whole(
    bytes: &[u8],
    (least, most): (usize, usize),
    jobs: &[&Job],
    settings: &Settings,
    folder: &Path,
    rng: &mut Rng,
) -> Result<(), String> {
    let mut image = Image::default();
    image.files.insert(DATABASE.to_owned(), bytes.to_vec());
    image.write_to(folder).map_err(|error| error.to_string())?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let alone = Connection::open_with_flags(folder.join(DATABASE), flags).map_err(|error| error.to_string())?;
    sound(&alone)?;
    let found = Model::read(&alone)?.commits();
    drop(alone);
    if !(least..=most).contains(&found) {
        return Err(format!("it has {found} commits, and it must be {least} to {most}"));
    }
    if Image::read(folder).map_err(|error| error.to_string())? != image {
        return Err("it was changed by a look at it, or needs another file".into());
    }
    let jobs = jobs[..found].to_vec();
    check(
        folder,
        settings,
        &Expected {
            jobs,
            least: found,
            in_replica: 0,
        },
        rng,
    )
    .map(drop)
}
