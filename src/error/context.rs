//! Where an error arose: the call site of the closure, the statement, and the constraint that it violated.
//!
//! The methods of a transaction add it where they make the error, so it survives a `?` into an error of the
//! application's own. It is in one box, which an error without it does not allocate.

use std::fmt::{self, Write as _};

use super::constraint::Constraint;

/// The longest text of a statement in a message, in bytes.
const MAX_SHOWN: usize = 120;

/// See [`Error::site`](super::Error::site), [`Error::statement`](super::Error::statement) and
/// [`Error::constraint`](super::Error::constraint).
#[derive(Clone, Debug, Default)]
pub struct ErrorContext {
    pub(crate) site: String,
    pub(crate) statement: Option<String>,
    pub(crate) constraint: Option<Constraint>,
    /// What to do about it, if that depends on where it happened.
    pub(crate) advice: &'static str,
}

impl ErrorContext {
    pub(crate) fn of_statement(statement: Option<String>) -> Self {
        Self {
            statement,
            ..Self::default()
        }
    }

    pub(crate) fn of_on_connect(site: String, advice: &'static str) -> Self {
        Self {
            site,
            advice,
            ..Self::default()
        }
    }

    pub(crate) fn of_constraint(constraint: Constraint) -> Self {
        Self {
            constraint: Some(constraint),
            ..Self::default()
        }
    }
}

/// The context as messages show it: ` (in INSERT INTO users .., at src/users.rs:31)`.
pub(super) struct Within<'e> {
    pub(super) context: &'e Option<Box<ErrorContext>>,
    /// Whether the message before it has the statement.
    pub(super) has_statement: bool,
}

impl fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(context) = self.context else { return Ok(()) };
        let mut parts = Vec::new();
        if let Some(Constraint::ForeignKey { keys }) = &context.constraint {
            parts.extend(keys_as_text(keys));
        }
        if let Some(statement) = context.statement.as_deref().filter(|_| !self.has_statement) {
            parts.push(format!("in {}", on_one_line(statement)));
        }
        if !context.site.is_empty() {
            parts.push(format!("at {}", context.site));
        }
        if !parts.is_empty() {
            write!(f, " ({})", parts.join(", "))?;
        }
        f.write_str(context.advice)
    }
}

fn keys_as_text(keys: &[super::ForeignKey]) -> Option<String> {
    match keys {
        [] => None,
        [key] => Some(key.to_string()),
        [first, second] => Some(format!("{first} or {second}")),
        [first, second, more @ ..] => Some(format!("{first}, {second} or {} more", more.len())),
    }
}

/// The beginning of a statement, with its spaces and line ends as single spaces.
fn on_one_line(statement: &str) -> String {
    let mut line = String::new();
    for word in statement.split_whitespace() {
        if line.len() + word.len() >= MAX_SHOWN {
            if line.is_empty() {
                line.extend(word.chars().take(MAX_SHOWN / 4));
            }
            line.push_str(" ..");
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        let _ = line.write_str(word);
    }
    line
}

/// As much of the text as fits into so many bytes.
pub(super) fn beginning(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
