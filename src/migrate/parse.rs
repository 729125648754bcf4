//! The formats in which people keep migrations, and how a file becomes a [`Migration`].
//!
//! | format | a file's name | inside |
//! |---|---|---|
//! | Dbmate | `20260401120000_name.sql` | `-- migrate:up`, `-- migrate:down`, each perhaps with `transaction:false` |
//! | Goose | `00001_name.sql` | `-- +goose Up`, `Down`, `StatementBegin`, `StatementEnd`, `NO TRANSACTION` |
//! | plain | `001_name.sql` or `001_name.up.sql`; `001_name.down.sql` | SQL alone |
//! | plain, in folders | `001_name/up.sql`; `001_name/down.sql` | SQL alone |
//!
//! A way up in which something looks like a marker that was not understood (another tool's, or one with a slip in it) is
//! refused: to run all of it would run the way down right after the way up.

use std::collections::BTreeMap;
use std::path::Path;
use std::str;
use std::sync::OnceLock;

use super::error::MigrationError;
use super::script::skip_blank;
use super::{Migration, Script};

type Result<T, E = MigrationError> = std::result::Result<T, E>;

/// Words that tools put at the head of the way down.
const DOWN: [&str; 4] = ["down", "downs", "undo", "rollback"];

/// Words that they put before it.
const TOOLS: [&str; 8] = [
    "migrate",
    "migration",
    "goose",
    "dbmate",
    "micrate",
    "rambler",
    "sqlx",
    "tern",
];

/// Makes migrations of files, in no order. Files that are not SQL are passed over.
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
            text,
        });
    }
    parts.into_iter().map(|(key, parts)| migration(key, parts)).collect()
}

/// Whether the file is worth reading: it is SQL, or what Goose would run of it.
pub(super) fn may_be_one(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().unwrap_or_default();
    !hidden && (extension.eq_ignore_ascii_case("sql") || extension.eq_ignore_ascii_case("go"))
}

/// What the two files of one migration have in common: the digits and the rest of the name.
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

struct File {
    file: String,
    version: u64,
    text: String,
}

enum Part {
    Up,
    Down,
}

struct Name {
    key: Key,
    version: u64,
    part: Part,
    file: String,
}

impl Name {
    /// `None` if the file is no migration and does not look as if it were meant to be one.
    fn read(path: &Path) -> Result<Option<Self>> {
        let file = path.display().to_string();
        let refuse = |problem: String| MigrationError::Format {
            file: file.clone(),
            line: None,
            problem,
        };
        let component = |path: &Path| path.file_name().and_then(|name| name.to_str().map(str::to_owned));
        let Some(mut name) = component(path) else {
            return Err(refuse("its name is not UTF-8".into()));
        };
        let lower = name.to_ascii_lowercase();
        if name.starts_with('.') {
            return Ok(None);
        }
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
        } else {
            return Ok(None);
        }
        let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() {
            return Err(refuse(
                "it has no version: name it like 20260401120000_name.sql (Dbmate), 00001_name.sql (Goose) or \
                 001_name.sql, or keep it elsewhere"
                    .into(),
            ));
        }
        let version = match digits.parse::<i64>() {
            Ok(0) => return Err(refuse("versions begin at 1: 0 stands for an empty database".into())),
            Ok(version) => version as u64,
            Err(_) => return Err(refuse(format!("its version is too large: at most {}", i64::MAX))),
        };
        let name = name[digits.len()..].trim_start_matches(['_', '-', '.', ' ']).to_owned();
        Ok(Some(Self {
            key: Key { digits, name },
            version,
            part,
            file,
        }))
    }
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
            Some(at) => refuse(Some(line_of(at)), "it has a NUL byte in it: save it as text, in UTF-8"),
            // Windows' editors begin UTF-8 with a mark that SQLite takes for a name.
            None => Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned()),
        },
        Err(error) => refuse(Some(line_of(error.valid_up_to())), "it is not UTF-8: save it as UTF-8"),
    }
}

fn migration(key: Key, parts: Parts) -> Result<Migration> {
    let Some(up) = parts.up else {
        let down = parts.down.expect("one of the two files is there");
        return Err(MigrationError::Format {
            file: down.file,
            line: None,
            problem: "it is a way down, and there is no file of the same name with the way up: add that, or delete it"
                .into(),
        });
    };
    let mut sections = sections(&up)?;
    if let Some(down) = parts.down {
        let refuse = |problem: &str| MigrationError::Format {
            file: down.file.clone(),
            line: None,
            problem: problem.into(),
        };
        if sections.down.is_some() {
            return Err(refuse(&format!(
                "{} has a way down already: keep one of the two",
                up.file
            )));
        }
        if marker(&down.text).is_some() {
            return Err(refuse(
                "a file of its own for the way down has no markers in it: take them out",
            ));
        }
        sections.down = Some(Script::new(down.file, 1, &down.text, true));
    }
    let migration = Migration {
        version: up.version,
        digits: key.digits,
        name: key.name.into(),
        file: up.file,
        up: sections.up,
        // What does nothing is not a way down: the record would say that the migration was undone.
        down: sections.down.filter(|down| !down.is_blank()),
        checksum: OnceLock::new(),
    };
    migration.validate()?;
    Ok(migration)
}

struct Sections {
    up: Script,
    down: Option<Script>,
}

/// Splits a file at its markers.
fn sections(file: &File) -> Result<Sections> {
    match marker(&file.text) {
        None => Ok(Sections {
            up: Script::new(file.file.clone(), 1, &file.text, true),
            down: None,
        }),
        Some(Tool::Dbmate) => dbmate(file),
        Some(Tool::Goose) => goose(file),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Tool {
    Dbmate,
    Goose,
}

/// The tool whose markers are in the text.
fn marker(text: &str) -> Option<Tool> {
    text.lines().find_map(|line| {
        let comment = line.strip_prefix("--")?.trim_start();
        if comment.starts_with("migrate:") {
            Some(Tool::Dbmate)
        } else if comment.starts_with("+goose ") || comment.starts_with("+goose\t") {
            Some(Tool::Goose)
        } else {
            None
        }
    })
}

/// Refuses a way up with a comment in it that may be meant to end it.
pub(super) fn refuse_lost_markers(up: &Script) -> Result<()> {
    let Some((line, comment)) = up.comments().find(|(_, comment)| may_be_marker(comment)) else {
        return Ok(());
    };
    Err(MigrationError::Format {
        file: up.file.to_string(),
        line: Some(line),
        problem: format!(
            "the comment `{}` looks like a marker, and is none that larder knows here, so the way down would be run right \
             after the way up: begin the line with -- migrate:down (Dbmate) or -- +goose Down (Goose), put the way down in a \
             file NNN_name.down.sql, or, in a list, give it to Migration::down (Migrations::files reads text with markers); if it is only a comment, say more in it",
            comment.trim()
        ),
    })
}

fn may_be_marker(comment: &str) -> bool {
    let comment = comment
        .trim_start_matches(['-', '*', '/', ' ', '\t'])
        .to_ascii_lowercase();
    if ["migrate:", "+goose"].iter().any(|marker| comment.starts_with(marker)) {
        return ["down", "up"].iter().any(|way| comment.contains(way));
    }
    let words: Vec<_> = comment
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    // sql-migrate's +migrate Down notransaction, Play's !Downs, MyBatis' @UNDO
    let sign = comment.starts_with(['+', '!', '@', '=', '#', '[', '{', '<', '>']);
    let option = comment.contains("transaction:") && words.iter().any(|word| DOWN.contains(word));
    // tern
    let below = words.windows(2).any(|pair| pair == ["drop", "below"]);
    let begins = match words.as_slice() {
        [] => false,
        [first] => DOWN.contains(first),
        [first, second, ..] if DOWN.contains(second) => sign || TOOLS.contains(first),
        [first, second, ..] if DOWN.contains(first) => {
            sign || comment[first.len()..].starts_with(':') || ["migration", "script", "sql"].contains(second)
        }
        _ => false,
    };
    option || below || begins
}

/// A part of a file that grows line by line.
struct Section {
    line: usize,
    sql: String,
    transaction: bool,
}

impl Section {
    fn after(line: usize, transaction: bool) -> Self {
        Self {
            line: line + 1,
            sql: String::new(),
            transaction,
        }
    }

    fn push(&mut self, line: &str) {
        self.sql.push_str(line);
    }

    fn script(self, file: &File) -> Script {
        Script::new(file.file.clone(), self.line, &self.sql, self.transaction)
    }
}

/// What comes before the first marker may only be comments.
fn refuse_sql_before(file: &File, preamble: &str, marker: &str) -> Result<()> {
    let blank = skip_blank(preamble);
    if blank == preamble.len() {
        return Ok(());
    }
    Err(MigrationError::Format {
        file: file.file.clone(),
        line: Some(preamble[..blank].matches('\n').count() + 1),
        problem: format!("there is SQL before {marker}: move it below"),
    })
}

fn dbmate(file: &File) -> Result<Sections> {
    let (mut up, mut down): (Option<Section>, Option<Section>) = (None, None);
    let mut preamble = String::new();
    for (number, line) in (1..).zip(file.text.split_inclusive('\n')) {
        let refuse = |problem: String| MigrationError::Format {
            file: file.file.clone(),
            line: Some(number),
            problem,
        };
        let Some(directive) = line
            .strip_prefix("--")
            .and_then(|comment| comment.trim().strip_prefix("migrate:"))
        else {
            match (&mut up, &mut down) {
                (_, Some(down)) => down.push(line),
                (Some(up), None) => up.push(line),
                (None, None) => preamble.push_str(line),
            }
            continue;
        };
        let mut words = directive.split_whitespace();
        match (words.next().unwrap_or_default(), &up, &down) {
            ("up", None, _) => up = Some(Section::after(number, transaction(words).map_err(refuse)?)),
            ("up", Some(_), _) => {
                return Err(refuse(
                    "there is a second -- migrate:up: make a migration of its own of it".into(),
                ));
            }
            ("down", None, _) => return Err(refuse("-- migrate:down comes before -- migrate:up".into())),
            ("down", _, None) => down = Some(Section::after(number, transaction(words).map_err(refuse)?)),
            ("down", _, Some(_)) => return Err(refuse("there is a second -- migrate:down".into())),
            _ => {
                let line = line.trim();
                return Err(refuse(format!("`{line}` is neither -- migrate:up nor -- migrate:down")));
            }
        }
    }
    refuse_sql_before(file, &preamble, "-- migrate:up")?;
    let up = up.expect("the first marker is -- migrate:up, or was refused");
    Ok(Sections {
        up: up.script(file),
        down: down.map(|down| down.script(file)),
    })
}

/// Whether Dbmate's options ask for a transaction.
fn transaction<'o>(options: impl Iterator<Item = &'o str>) -> Result<bool, String> {
    let mut transaction = true;
    for option in options {
        transaction = match option {
            "transaction:true" => true,
            "transaction:false" => false,
            other => {
                return Err(format!(
                    "larder does not know the option {other}: it knows transaction:false"
                ));
            }
        };
    }
    Ok(transaction)
}

/// SQLite knows by itself where a statement ends, so `StatementBegin` and `StatementEnd` are only checked.
fn goose(file: &File) -> Result<Sections> {
    let (mut up, mut down): (Option<Section>, Option<Section>) = (None, None);
    let mut transaction = true;
    let mut begun = None;
    let mut preamble = String::new();
    for (number, line) in (1..).zip(file.text.split_inclusive('\n')) {
        let refuse = |problem: String| MigrationError::Format {
            file: file.file.clone(),
            line: Some(number),
            problem,
        };
        let annotation = line
            .strip_prefix("--")
            .and_then(|comment| comment.trim().strip_prefix("+goose"))
            .filter(|annotation| annotation.starts_with([' ', '\t']))
            .map(|annotation| annotation.trim().to_ascii_lowercase());
        match (annotation.as_deref(), &mut up, &mut down) {
            (None, _, Some(down)) => down.push(line),
            (None, Some(up), None) => up.push(line),
            (None, None, None) => preamble.push_str(line),
            (Some("up"), None, _) => up = Some(Section::after(number, true)),
            (Some("up"), Some(_), _) => return Err(refuse("there is a second -- +goose Up".into())),
            (Some("down"), None, _) => return Err(refuse("-- +goose Down comes before -- +goose Up".into())),
            (Some("down"), Some(_), Some(_)) => return Err(refuse("there is a second -- +goose Down".into())),
            (Some("down"), ..) if begun.is_some() => {
                return Err(refuse("-- +goose StatementEnd is missing before it".into()));
            }
            (Some("down"), Some(_), None) => down = Some(Section::after(number, true)),
            (Some("no transaction"), ..) => {
                transaction = false;
                keep_lines(line, &mut up, &mut down);
            }
            (Some("envsub off"), ..) => keep_lines(line, &mut up, &mut down),
            (Some("statementbegin"), None, _) => {
                return Err(refuse("-- +goose StatementBegin comes before -- +goose Up".into()));
            }
            (Some("statementbegin"), ..) if begun.is_some() => {
                return Err(refuse(
                    "-- +goose StatementBegin comes twice with no StatementEnd".into(),
                ));
            }
            (Some("statementbegin"), ..) => {
                begun = Some(number);
                keep_lines(line, &mut up, &mut down);
            }
            (Some("statementend"), ..) if begun.is_none() => {
                return Err(refuse("-- +goose StatementEnd comes without StatementBegin".into()));
            }
            (Some("statementend"), ..) => {
                begun = None;
                keep_lines(line, &mut up, &mut down);
            }
            (Some("envsub on"), ..) => {
                return Err(refuse(
                    "larder puts no environment variables into SQL: write the values out".into(),
                ));
            }
            (Some(other), ..) => {
                return Err(refuse(format!("larder does not know the annotation +goose {other}")));
            }
        }
    }
    let refuse = |line, problem: &str| MigrationError::Format {
        file: file.file.clone(),
        line,
        problem: problem.into(),
    };
    if begun.is_some() {
        return Err(refuse(begun, "-- +goose StatementEnd is missing"));
    }
    let Some(mut up) = up else {
        return Err(refuse(None, "-- +goose Up is missing"));
    };
    refuse_sql_before(file, &preamble, "-- +goose Up")?;
    up.transaction = transaction;
    Ok(Sections {
        up: up.script(file),
        down: down.map(|mut down| {
            down.transaction = transaction;
            down.script(file)
        }),
    })
}

/// An annotation inside a section stays in it, as the comment that it is, so that line numbers stay right.
fn keep_lines(line: &str, up: &mut Option<Section>, down: &mut Option<Section>) {
    if let Some(section) = down.as_mut().or(up.as_mut()) {
        section.push(line);
    }
}
