//! The markers of Dbmate and Goose inside a file, and comments that may be meant as markers.
//!
//! A way up with an unrecognized marker in it (another tool's, or a misspelled one) is refused: running all of it would
//! run the way down right after the way up.

use super::parse::{File, Result};
use super::script::{Script, skip_blank};
use crate::error::MigrationError;

/// Words that tools put at the start of the way down.
const DOWN: [&str; 4] = ["down", "downs", "undo", "rollback"];

/// Words that tools put before those.
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

/// The two directions in a file.
pub(super) struct Sections {
    pub(super) up: Script,
    pub(super) down: Option<Script>,
}

/// Splits a file at its markers.
pub(super) fn sections(file: &File) -> Result<Sections> {
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
pub(super) enum Tool {
    Dbmate,
    Goose,
}

/// The tool whose markers are in the text.
pub(super) fn marker(text: &str) -> Option<Tool> {
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

/// Refuses a way up with a comment that may be meant to end it.
pub(super) fn refuse_lost_markers(up: &Script) -> Result<()> {
    let Some((line, comment)) = up.comments().find(|(_, comment)| may_be_marker(comment)) else {
        return Ok(());
    };
    Err(MigrationError::Format {
        file: up.file.to_string(),
        line: Some(line),
        problem: format!(
            "the comment `{}` looks like a marker, and is none that larder knows here, so the way down would be run right \
             after the way up: begin the line with -- migrate:down (Dbmate) or -- +goose Down (Goose), put the way down in \
             a file NNN_name.down.sql, or, in a list, give it to Migration::down (Migrations::files reads text with \
             markers); if it is only a comment, say more in it",
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

/// A section of a file, which grows line by line.
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

/// Only comments may precede the first marker.
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

/// SQLite finds the end of a statement itself, so `StatementBegin` and `StatementEnd` are only checked.
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

/// Keeps an annotation in its section as a comment, so that line numbers stay right.
fn keep_lines(line: &str, up: &mut Option<Section>, down: &mut Option<Section>) {
    if let Some(section) = down.as_mut().or(up.as_mut()) {
        section.push(line);
    }
}
