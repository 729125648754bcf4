//! The markers of Dbmate and Goose inside a file. Comments that may be meant as markers are in `lost_markers.rs`.

use std::mem;

use super::parse::{File, Result};
use super::script::{Script, skip_blank};
use crate::error::MigrationError;

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

impl Tool {
    fn up(self) -> &'static str {
        match self {
            Tool::Dbmate => "-- migrate:up",
            Tool::Goose => "-- +goose Up",
        }
    }

    fn down(self) -> &'static str {
        match self {
            Tool::Dbmate => "-- migrate:down",
            Tool::Goose => "-- +goose Down",
        }
    }
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

/// The section of a line. The way up comes first, then the way down, each once.
#[derive(Clone, Copy)]
enum State {
    Preamble,
    Up,
    Down,
}

impl State {
    /// The state after a marker that begins the way up.
    fn up(self, tool: Tool) -> Result<Self, String> {
        match (self, tool) {
            (State::Preamble, _) => Ok(State::Up),
            (_, Tool::Dbmate) => Err("there is a second -- migrate:up: move it to a migration of its own".into()),
            (_, Tool::Goose) => Err("there is a second -- +goose Up".into()),
        }
    }

    /// The state after a marker that begins the way down.
    fn down(self, tool: Tool) -> Result<Self, String> {
        match self {
            State::Preamble => Err(format!("{} comes before {}", tool.down(), tool.up())),
            State::Up => Ok(State::Down),
            State::Down => Err(format!("there is a second {}", tool.down())),
        }
    }
}

/// A section of a file, which grows line by line.
struct Section {
    line: usize,
    sql: String,
    transaction: bool,
}

impl Section {
    fn begin(line: usize, transaction: bool) -> Self {
        Self {
            line,
            sql: String::new(),
            transaction,
        }
    }

    fn script(self, file: &File) -> Script {
        Script::new(file.file.clone(), self.line, &self.sql, self.transaction)
    }
}

/// Takes a file apart: the preamble, the way up, the way down. `on` is called with each line and its number. It returns
/// the state that a marker begins, and whether that section runs in a transaction; or `None` for a line that stays in
/// its section (annotations do, so that line numbers stay right).
fn split(
    file: &File,
    mut on: impl FnMut(State, usize, &str) -> Result<Option<(State, bool)>, String>,
) -> Result<Vec<Section>> {
    let mut state = State::Preamble;
    let mut section = Section::begin(1, true);
    let mut sections = Vec::new();
    for (number, line) in (1..).zip(file.text.split_inclusive('\n')) {
        match on(state, number, line).map_err(|problem| refuse(file, Some(number), problem))? {
            None => section.sql.push_str(line),
            Some((begun, transaction)) => {
                state = begun;
                sections.push(mem::replace(&mut section, Section::begin(number + 1, transaction)));
            }
        }
    }
    sections.push(section);
    Ok(sections)
}

/// Checks and names the sections.
fn join(file: &File, tool: Tool, parts: Vec<Section>) -> Result<Sections> {
    let mut parts = parts.into_iter();
    let preamble = parts.next().map_or(String::new(), |part| part.sql);
    let Some(up) = parts.next() else {
        return Err(refuse(file, None, format!("{} is missing", tool.up())));
    };
    refuse_sql_before(file, &preamble, tool.up())?;
    Ok(Sections {
        up: up.script(file),
        down: parts.next().map(|down| down.script(file)),
    })
}

fn refuse(file: &File, line: Option<usize>, problem: String) -> MigrationError {
    MigrationError::Format {
        file: file.file.clone(),
        line,
        problem,
    }
}

/// Only comments may precede the first marker.
fn refuse_sql_before(file: &File, preamble: &str, marker: &str) -> Result<()> {
    let blank = skip_blank(preamble);
    if blank == preamble.len() {
        return Ok(());
    }
    let line = preamble[..blank].matches('\n').count() + 1;
    Err(refuse(
        file,
        Some(line),
        format!("there is SQL before {marker}: move it below"),
    ))
}

fn dbmate(file: &File) -> Result<Sections> {
    let tool = Tool::Dbmate;
    let parts = split(file, |state, _, line| {
        let directive = line
            .strip_prefix("--")
            .and_then(|comment| comment.trim().strip_prefix("migrate:"));
        let Some(directive) = directive else { return Ok(None) };
        let mut words = directive.split_whitespace();
        let begun = match words.next().unwrap_or_default() {
            "up" => state.up(tool)?,
            "down" => state.down(tool)?,
            _ => {
                let line = line.trim();
                return Err(format!("`{line}` is neither -- migrate:up nor -- migrate:down"));
            }
        };
        Ok(Some((begun, transaction(words)?)))
    })?;
    join(file, tool, parts)
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
    let mut annotations = Annotations {
        transaction: true,
        begun: None,
    };
    let mut parts = split(file, |state, number, line| {
        let annotation = line
            .strip_prefix("--")
            .and_then(|comment| comment.trim().strip_prefix("+goose"))
            .filter(|annotation| annotation.starts_with([' ', '\t']));
        let Some(annotation) = annotation else { return Ok(None) };
        let begun = annotations.on(state, number, &annotation.trim().to_ascii_lowercase())?;
        Ok(begun.map(|state| (state, true)))
    })?;
    if annotations.begun.is_some() {
        let problem = "-- +goose StatementEnd is missing".into();
        return Err(refuse(file, annotations.begun, problem));
    }
    for part in &mut parts {
        part.transaction = annotations.transaction;
    }
    join(file, Tool::Goose, parts)
}

/// The annotations of Goose so far.
struct Annotations {
    transaction: bool,
    /// The line of a `StatementBegin` without its `StatementEnd`.
    begun: Option<usize>,
}

impl Annotations {
    /// Returns the state that the annotation begins, if it does.
    fn on(&mut self, state: State, number: usize, annotation: &str) -> Result<Option<State>, String> {
        let tool = Tool::Goose;
        match annotation {
            "up" => return state.up(tool).map(Some),
            "down" => {
                let down = state.down(tool)?;
                if self.begun.is_some() {
                    return Err("-- +goose StatementEnd is missing before -- +goose Down".into());
                }
                return Ok(Some(down));
            }
            "no transaction" => self.transaction = false,
            "envsub off" => {}
            "envsub on" => {
                return Err(
                    "larder does not substitute environment variables in SQL: write the values literally".into(),
                );
            }
            "statementbegin" if matches!(state, State::Preamble) => {
                return Err("-- +goose StatementBegin comes before -- +goose Up".into());
            }
            "statementbegin" if self.begun.is_some() => {
                return Err("-- +goose StatementBegin comes twice with no StatementEnd".into());
            }
            "statementbegin" => self.begun = Some(number),
            "statementend" if self.begun.is_none() => {
                return Err("-- +goose StatementEnd comes without StatementBegin".into());
            }
            "statementend" => self.begun = None,
            other => return Err(format!("larder does not know the annotation +goose {other}")),
        }
        Ok(None)
    }
}
