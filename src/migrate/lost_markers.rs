//! Comments that may be meant as markers of a way down, in a migration that has none: another tool's, misspelled ones,
//! or a heading that somebody wrote. Running all of the file would run the way down right after the way up.
//!
//! Three kinds of comments are told apart by their words, and then by the SQL above and below:
//!
//! | comment | refused |
//! |---|---|
//! | a marker: `-- +migrate Down`, `-- Down` | if any statement follows |
//! | a heading: `-- To undo, run:`, `-- Rollback: restore the backup` | if what follows undoes something above it |
//! | prose that has such a word: `-- prices that went down` | if what follows undoes all that is above it |
//!
//! A heading of nothing but such words, `-- UNDO THE ABOVE`, is refused also if what follows does more than add.
//!
//! Where the file has its way down, below a marker that larder knows, only the markers of tools count: a way down does
//! not stand in one file twice.
//! `Migrations::plain_comments` says that the comments of a migration are comments.

use super::Migration;
use super::effects::{self, Effect};
use super::script::Script;
use crate::error::MigrationError;

/// The words of a way down.
const DOWN: [&str; 21] = [
    "down",
    "downs",
    "undo",
    "undoes",
    "undoing",
    "undone",
    "rollback",
    "rollbacks",
    "rollbacked",
    "unroll",
    "revert",
    "reverts",
    "reverting",
    "reverted",
    "reverse",
    "reverses",
    "downgrade",
    "downgrades",
    "downgrading",
    "backout",
    "uninstall",
];

/// The words that stand alone where a way down begins.
const ALONE: [&str; 4] = ["down", "downs", "undo", "rollback"];

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

/// Words that a heading of a way down has beside its own.
const FILLERS: [&str; 47] = [
    "the",
    "this",
    "that",
    "above",
    "below",
    "here",
    "it",
    "all",
    "everything",
    "to",
    "of",
    "for",
    "from",
    "if",
    "in",
    "case",
    "how",
    "run",
    "execute",
    "use",
    "with",
    "and",
    "or",
    "on",
    "begin",
    "begins",
    "start",
    "starts",
    "end",
    "migration",
    "migrations",
    "migrate",
    "script",
    "scripts",
    "sql",
    "section",
    "part",
    "step",
    "steps",
    "way",
    "change",
    "changes",
    "statement",
    "statements",
    "path",
    "needed",
    "back",
];

/// Refuses an up script with a comment that may be meant as a marker.
pub(super) fn refuse(migration: &Migration) -> Result<(), MigrationError> {
    let up = &migration.up;
    let Some((line, comment)) = find(up, migration.has_marked_down) else {
        return Ok(());
    };
    Err(MigrationError::Format {
        file: up.file.to_string(),
        line: Some(line),
        problem: format!(
            "the comment `{}` looks like a marker, but larder knows no such marker here, so a down script below it \
             would run right after the up script: start the line with -- migrate:down (Dbmate) or -- +goose Down \
             (Goose), move the down script to a file NNN_name.down.sql, or, in a list, pass it to Migration::down \
             (Migrations::files reads text with markers); if it is only a comment, call \
             Migrations::plain_comments([{}])",
            comment.trim(),
            migration.version
        ),
    })
}

/// The first comment that is refused, and its line.
fn find(up: &Script, has_marked_down: bool) -> Option<(usize, &str)> {
    up.comments()
        .find(|comment| {
            let sign = Sign::of(comment.text);
            let counts = match sign {
                None => false,
                Some(Sign::OurMarker) => true,
                Some(Sign::ToolMarker) => !up.rest_is_blank(comment.end),
                // In the middle of a statement nothing begins.
                Some(_) => !up.rest_is_blank(comment.end) && effects::is_complete(&up.text()[..comment.start]),
            };
            counts
                && (sign <= Some(Sign::ToolMarker) || !has_marked_down)
                && is_lost(sign, up, comment.start, comment.end)
        })
        .map(|comment| (comment.line, comment.text))
}

/// Whether the comment begins a way down, by what stands above and below it.
fn is_lost(sign: Option<Sign>, up: &Script, start: usize, end: usize) -> bool {
    let above = || effects::of(&up.text()[..start]);
    let below = || effects::of(&up.text()[end..]);
    let both = |test: fn(&[Effect], &[Effect]) -> bool| test(&below(), &above());
    match sign {
        None => false,
        Some(Sign::OurMarker | Sign::ToolMarker | Sign::Alone) => true,
        Some(Sign::OnlySuchWords) => both(effects::do_more_than_add),
        Some(Sign::Heading) => both(effects::undo_something),
        Some(Sign::Prose) => both(effects::undo_everything),
    }
}

/// How much a comment looks like the beginning of a way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    /// Dbmate's or Goose's marker, in a place where they do not find it.
    OurMarker,
    /// The marker of a tool, misspelled perhaps.
    ToolMarker,
    /// `Down`, `=== DOWN ===`.
    Alone,
    /// `UNDO THE ABOVE`, `001 down`.
    OnlySuchWords,
    /// `Rollback: restore the backup`.
    Heading,
    Prose,
}

impl Sign {
    /// One line of a comment. `None` if it has none of the words.
    fn of(comment: &str) -> Option<Self> {
        let comment = comment
            .trim_start_matches(['-', '*', '/', ' ', '\t'])
            .to_ascii_lowercase();
        if ["migrate:", "+goose"].iter().any(|marker| comment.starts_with(marker)) {
            return ["down", "up"]
                .iter()
                .any(|way| comment.contains(way))
                .then_some(Self::OurMarker);
        }
        let words: Vec<&str> = comment
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        let is_down = |word: &&str| DOWN.contains(word);
        let has_down = words.iter().any(is_down) || has_phrase(&words) || is_of_tern(&words);
        if !has_down {
            return None;
        }
        if is_of_a_tool(&comment, &words) {
            return Some(Self::ToolMarker);
        }
        if is_alone(&comment, &words) {
            return Some(Self::Alone);
        }
        let filler =
            |word: &&str| is_down(word) || FILLERS.contains(word) || word.parse::<u64>().is_ok() || is_of_phrase(word);
        if words.iter().all(filler) {
            return Some(Self::OnlySuchWords);
        }
        let leads = words.iter().take(4).position(is_down);
        let begins = leads.is_some_and(|at| words[..at].iter().all(filler)) || has_phrase(&words[..words.len().min(4)]);
        let ends = words.len() <= 5 && words.last().is_some_and(is_down);
        let announces = comment.trim_end().ends_with(':');
        Some(if begins || ends || announces {
            Self::Heading
        } else {
            Self::Prose
        })
    }
}

/// `roll back`, `rolled back`, `back out`.
fn has_phrase(words: &[&str]) -> bool {
    words.windows(2).any(|pair| {
        matches!(
            pair,
            ["roll" | "rolled" | "rolling" | "rolls" | "go" | "going", "back"] | ["back" | "backing", "out"]
        )
    })
}

fn is_of_phrase(word: &str) -> bool {
    matches!(word, "roll" | "rolled" | "rolling" | "out")
}

/// Whether the line is the marker of a tool: sql-migrate's `+migrate Down notransaction`, Play's `!Downs`, MyBatis'
/// `@UNDO`, tern's `create above / drop below`.
fn is_of_a_tool(comment: &str, words: &[&str]) -> bool {
    let sign = comment.starts_with(['+', '!', '@']);
    let option = comment.contains("transaction:") && words.iter().any(|word| ALONE.contains(word));
    let named = match words {
        [first, second, rest @ ..] if TOOLS.contains(first) && ALONE.contains(second) => sign || rest.is_empty(),
        [first, ..] if ALONE.contains(first) => sign,
        [_, second, ..] if ALONE.contains(second) => sign,
        _ => false,
    };
    option || named || is_of_tern(words)
}

fn is_of_tern(words: &[&str]) -> bool {
    words == ["create", "above", "drop", "below"]
}

/// Whether the line is one of the words and signs alone, as `Down`, `DOWN:`, `=== Undo ===`, `Down Migration`.
fn is_alone(comment: &str, words: &[&str]) -> bool {
    let sign = comment.starts_with(['=', '#', '[', '{', '<', '>']);
    match words {
        [first] => ALONE.contains(first),
        [first, second] if ALONE.contains(first) => sign || ["migration", "script", "sql", "section"].contains(second),
        [_, second] if ALONE.contains(second) => sign,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_have_the_sign_that_their_words_give() {
        use Sign::{Alone, Heading, OnlySuchWords, OurMarker, Prose, ToolMarker};
        for (comment, sign) in [
            (" migrate:down", Some(OurMarker)),
            ("\t+goose\tDown", Some(OurMarker)),
            (" +migrate Down notransaction", Some(ToolMarker)),
            (" +micrate Down -- drop it", Some(ToolMarker)),
            (" !Downs", Some(ToolMarker)),
            (" //@UNDO", Some(ToolMarker)),
            (" @UNDO, and what follows", Some(ToolMarker)),
            (" goose Down", Some(ToolMarker)),
            (" migration:down", Some(ToolMarker)),
            (" rambler down", Some(ToolMarker)),
            ("-- create above / drop below ----", Some(ToolMarker)),
            (" Down", Some(Alone)),
            (" DOWN:", Some(Alone)),
            (" ==== down ====", Some(Alone)),
            (" Down Migration", Some(Alone)),
            ("rollback;", Some(Alone)),
            (" [down]", Some(Alone)),
            (" Down (rollback)", Some(OnlySuchWords)),
            (" UNDO THE ABOVE", Some(OnlySuchWords)),
            (" Downgrade", Some(OnlySuchWords)),
            (" 001 down", Some(OnlySuchWords)),
            (" To undo, run:", Some(OnlySuchWords)),
            (" To roll back, run:", Some(OnlySuchWords)),
            (" Revert", Some(OnlySuchWords)),
            (" Rollback: restore the backup", Some(Heading)),
            (" Down: users", Some(Heading)),
            (" 001_users down", Some(Heading)),
            (" to undo this by hand, see the wiki", Some(Heading)),
            (" what reverts the users:", Some(Heading)),
            (" slow down", Some(Heading)),
            (" a rollback of this is not meant", Some(Prose)),
            (" How far down the tree a node is", Some(Prose)),
            (" prices that drop below zero", None),
            (" updown and breakdown", None),
            (" users", None),
        ] {
            assert_eq!(Sign::of(comment), sign, "{comment:?}");
        }
    }
}
