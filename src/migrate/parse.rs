//! The formats of migration files, and their translation to [`Migration`]s.
//!
//! | format | a file's name | inside |
//! |---|---|---|
//! | Dbmate | `20260401120000_name.sql` | `-- migrate:up`, `-- migrate:down`, each perhaps with `transaction:false` |
//! | Goose | `00001_name.sql` | `-- +goose Up`, `Down`, `StatementBegin`, `StatementEnd`, `NO TRANSACTION` |
//! | plain | `001_name.sql` or `001_name.up.sql`; `001_name.down.sql` | SQL alone |
//! | plain, in folders | `001_name/up.sql`; `001_name/down.sql` | SQL alone |
//!
//! A version may be a time with separators in it, as Diesel's `2024-03-05-101500_name`: see `file_time.rs`. A `V` before
//! the version, and two underscores after it, as in refinery's and Flyway's `V1__name.sql`, are left out.

use std::collections::BTreeMap;
use std::path::Path;
use std::str;
use std::sync::OnceLock;

use super::Migration;
use super::file_time::{self, SEPARATORS};
use super::markers::{marker, sections};
use super::migration::Former;
use super::script::Script;
use crate::error::MigrationError;

pub(super) type Result<T, E = MigrationError> = std::result::Result<T, E>;

/// Builds migrations from files, in no particular order. Files that are not SQL are skipped.
pub(super) fn files<'f>(files: impl Iterator<Item = (&'f Path, &'f [u8])>) -> Result<Vec<Migration>> {
    let mut parts: BTreeMap<Key, Parts> = BTreeMap::new();
    for (path, contents) in files {
        let Some(name) = Name::read(path)? else { continue };
        let text = text(&name.file, contents)?;
        let parts = parts.entry(name.key).or_default();
        let place = match name.part {
            Part::Up => &mut parts.up,
            Part::Down => &mut parts.down,
        };
        if let Some(other) = place {
            return Err(MigrationError::Duplicate {
                version: name.version,
                first: other.file.clone(),
                second: name.file,
            });
        }
        *place = Some(File {
            file: name.file,
            version: name.version,
            former: name.former,
            text,
        });
    }
    parts.into_iter().map(|(key, parts)| migration(key, parts)).collect()
}

/// Whether to read the file: it is SQL, or a Goose migration in Go.
pub(super) fn may_be_one(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().unwrap_or_default();
    let of_refinery = || {
        path.file_stem()
            .and_then(|stem| Lettered::read(stem.to_str()?))
            .is_some()
    };
    !hidden
        && (extension.eq_ignore_ascii_case("sql")
            || extension.eq_ignore_ascii_case("go")
            || extension.eq_ignore_ascii_case("rs") && of_refinery())
}

/// A name of refinery or Flyway: `V1__users`.
struct Lettered<'n> {
    /// In upper case: a V for a version; other letters are other kinds of files.
    letter: char,
    version: &'n str,
}

impl<'n> Lettered<'n> {
    fn read(name: &'n str) -> Option<Self> {
        let letter = name.chars().next()?.to_ascii_uppercase();
        let (version, _) = name.get(1..)?.split_once("__")?;
        let is_version = |c: char| c.is_ascii_digit() || c == '.' || c == '_';
        let is_one = match letter {
            'V' | 'U' | 'B' => version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(is_version),
            'R' => version.is_empty(),
            _ => false,
        };
        is_one.then_some(Self { letter, version })
    }

    /// Why it cannot be read, and what to do.
    fn problem(&self) -> Option<String> {
        let Self { letter, version, .. } = self;
        match letter {
            'R' => {
                Some("a repeatable migration has no version: give it one, and a new file for each change of it".into())
            }
            'U' => Some(format!(
                "U{version}__ is an unversioned migration of refinery, or one of Flyway that undoes V{version}__: name the \
                 one V{version}__name.sql, and call Migrations::allow_gaps(true) if it may be applied late; name the other \
                 like its migration, V{version}__name.down.sql"
            )),
            'B' => Some(format!(
                "a baseline of Flyway is no migration here: name it V{version}__name.sql for new databases, and give \
                 Adopt::Applied to those that are there"
            )),
            _ if !version.chars().all(|c| c.is_ascii_digit()) => Some(format!(
                "the version {version} is no whole number: number the files V1__name.sql, V2__name.sql, .."
            )),
            _ => None,
        }
    }
}

/// The common part of the two files of one migration: the digits and the rest of the name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    digits: String,
    name: String,
}

#[derive(Default)]
struct Parts {
    up: Option<File>,
    down: Option<File>,
}

/// A file that is a migration, or one direction of it.
pub(super) struct File {
    pub(super) file: String,
    version: u64,
    former: Option<Former>,
    pub(super) text: String,
}

enum Part {
    Up,
    Down,
}

struct Name {
    key: Key,
    version: u64,
    former: Option<Former>,
    part: Part,
    file: String,
}

impl Name {
    /// `None` if the file is no migration and does not look like one.
    fn read(path: &Path) -> Result<Option<Self>> {
        if !may_be_one(path) {
            return Ok(None);
        }
        let file = path.display().to_string();
        let refuse = |problem: String| MigrationError::Format {
            file: file.clone(),
            line: None,
            problem,
        };
        let component = |path: &Path| path.file_name().and_then(|name| name.to_str().map(str::to_owned));
        let Some(mut name) = component(path) else {
            return Err(refuse("the name is not UTF-8".into()));
        };
        let lower = name.to_ascii_lowercase();
        let mut part = Part::Up;
        if let Some(stem) = lower.strip_suffix(".sql") {
            name.truncate(stem.len());
            if stem == "up" || stem == "down" {
                // 001_name/up.sql
                if stem == "down" {
                    part = Part::Down;
                }
                name = path.parent().and_then(component).unwrap_or_default();
            } else if stem.ends_with(".down") {
                part = Part::Down;
                name.truncate(stem.len() - ".down".len());
            } else if stem.ends_with(".up") {
                name.truncate(stem.len() - ".up".len());
            }
        } else if lower.ends_with(".go") && lower.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(refuse("a migration in Go cannot be run here: write it in SQL".into()));
        } else if lower.ends_with(".rs") {
            return Err(refuse("a migration in Rust cannot be run here: write it in SQL".into()));
        } else {
            return Ok(None);
        }
        if let Some(lettered) = Lettered::read(&name) {
            if let Some(problem) = lettered.problem() {
                return Err(refuse(problem));
            }
            name.drain(..1);
        }
        let (digits, length) = file_time::version(&name);
        if let Some(part) = file_time::part_of_date(&name).filter(|_| digits.len() == 4) {
            return Err(refuse(format!(
                "{part} is no whole date, and the version would be {digits}: write year, month and day with four, two \
                 and two digits, as in 20240305_name.sql or 2024-03-05_name.sql"
            )));
        }
        if digits.is_empty() {
            return Err(refuse(
                "the name has no version: name the file like 20260401120000_name.sql (Dbmate), 00001_name.sql (Goose), \
                 V1__name.sql (refinery) or 001_name.sql, or move it elsewhere"
                    .into(),
            ));
        }
        let version = match digits.parse::<i64>() {
            Ok(0) => return Err(refuse("versions start at 1: 0 stands for an empty database".into())),
            Ok(version) => version as u64,
            Err(_) => return Err(refuse(format!("the version is too large: the maximum is {}", i64::MAX))),
        };
        let former = (length > digits.len()).then(|| former(&name)).flatten();
        let name = name_after(&name, length);
        Ok(Some(Self {
            key: Key { digits, name },
            version,
            former,
            part,
            file,
        }))
    }
}

/// The name after the version.
fn name_after(name: &str, version: usize) -> String {
    name[version..].trim_start_matches(SEPARATORS).to_owned()
}

/// What an earlier release read in a name that begins with a time: the digits up to the first separator.
fn former(name: &str) -> Option<Former> {
    let length = name.find(|c: char| !c.is_ascii_digit())?;
    Some(Former {
        version: name[..length].parse().ok()?,
        name: name_after(name, length),
    })
}

fn text(file: &str, contents: &[u8]) -> Result<String> {
    let refuse = |line, problem: &str| {
        Err(MigrationError::Format {
            file: file.to_owned(),
            line,
            problem: problem.into(),
        })
    };
    let line_of = |at: usize| contents[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    match str::from_utf8(contents) {
        Ok(text) => match text.find('\0') {
            Some(at) => refuse(Some(line_of(at)), "the file has a NUL byte: save it as text in UTF-8"),
            // Windows' editors begin UTF-8 with a mark that SQLite takes for a name.
            None => Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned()),
        },
        Err(error) => refuse(
            Some(line_of(error.valid_up_to())),
            "the file is not UTF-8: save it as UTF-8",
        ),
    }
}

fn migration(key: Key, parts: Parts) -> Result<Migration> {
    let Some(up) = parts.up else {
        let down = parts.down.expect("one of the two files is there");
        return Err(MigrationError::Format {
            file: down.file,
            line: None,
            problem: "there is no file of the same name with the up script: add it, or delete this down script".into(),
        });
    };
    let mut sections = sections(&up)?;
    let has_marked_down = sections.down.is_some();
    if let Some(down) = parts.down {
        let refuse = |problem: &str| MigrationError::Format {
            file: down.file.clone(),
            line: None,
            problem: problem.into(),
        };
        if sections.down.is_some() {
            return Err(refuse(&format!(
                "{} has a down script already: keep one of the two",
                up.file
            )));
        }
        if marker(&down.text).is_some() {
            return Err(refuse(
                "a separate file for the down script has no markers in it: remove them",
            ));
        }
        sections.down = Some(Script::new(down.file, 1, &down.text, true));
    }
    let migration = Migration {
        version: up.version,
        digits: key.digits,
        name: key.name.into(),
        former: up.former,
        file: up.file,
        up: sections.up,
        // A script without statements is not a way down: the record would show the migration as undone.
        down: sections.down.filter(|down| !down.is_blank()),
        has_marked_down,
        checksum: OnceLock::new(),
    };
    migration.validate()?;
    Ok(migration)
}
