//! The reply to each write, and the durability that it promises.

use larder::{Error, Outcome};

use crate::copies::Copy;
use crate::job::Job;

/// What was said of a write.
#[derive(Clone, Debug)]
pub struct Told {
    pub job: Job,
    /// The number that the job saw for itself, if it ran.
    pub number: i64,
    pub said: Said,
    /// What has a smaller number in the trace happened before it was told.
    pub at: usize,
    /// Whether it was promised to survive a power cut.
    pub durable: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Committed,
    NotStarted(String),
    RolledBack(String),
    Unknown(String),
}

impl Said {
    pub fn of(error: &Error) -> Self {
        let text = error.to_string();
        match error.outcome() {
            Outcome::NotStarted => Self::NotStarted(text),
            Outcome::RolledBack => Self::RolledBack(text),
            Outcome::Unknown | Outcome::Partial => Self::Unknown(text),
            other => panic!("an outcome that the harness does not know: {other:?}"),
        }
    }
}

/// What the store has said.
#[derive(Default)]
pub struct Journal {
    pub told: Vec<Told>,
    /// From that event on everything that was acknowledged before is in the database file, synced: the store had closed
    /// and emptied its log.
    pub emptied: Vec<usize>,
    /// At which events the store began to open.
    pub opens: Vec<usize>,
    pub open_errors: Vec<Error>,
    pub read_errors: Vec<Error>,
    pub close_errors: Vec<String>,
    /// The newest migration that is made, if that is known.
    pub version: Option<u64>,
    pub copies: Vec<Copy>,
    /// The store that is open has said that it is poisoned, or that nobody knows of a commit.
    pub poisoned: bool,
    /// When poisoned stores were closed: from, to, and whether they said that their log is empty.
    pub poisoned_closes: Vec<(usize, usize, bool)>,
}

impl Journal {
    /// The jobs that were committed, in the order of their commits.
    ///
    /// # Errors
    ///
    /// Two were told the same number, or one number is missing.
    pub fn commits(&self) -> Result<Vec<&Told>, String> {
        let mut commits: Vec<&Told> = self.told.iter().filter(|told| told.said == Said::Committed).collect();
        commits.sort_by_key(|told| told.number);
        for (i, told) in commits.iter().enumerate() {
            if told.number != i as i64 + 1 {
                return Err(format!(
                    "job {} was acknowledged as commit {}, and is the {}th of those acknowledged",
                    told.job.id,
                    told.number,
                    i + 1
                ));
            }
        }
        Ok(commits)
    }

    /// Those nobody can know of, in their order.
    pub fn unknown(&self) -> Vec<&Told> {
        let mut unknown: Vec<&Told> = self
            .told
            .iter()
            .filter(|told| matches!(told.said, Said::Unknown(_)))
            .collect();
        unknown.sort_by_key(|told| told.number);
        unknown
    }

    /// How many commits must be there if the power is cut after so many events.
    pub fn durable_at(&self, cut: usize) -> Result<usize, String> {
        let emptied = self.emptied.iter().rfind(|at| **at <= cut).copied();
        let promised = |told: &&&Told| {
            let full = told.durable && told.at <= cut;
            full || emptied.is_some_and(|emptied| told.at <= emptied)
        };
        Ok(self
            .commits()?
            .iter()
            .filter(promised)
            .map(|told| told.number as usize)
            .max()
            .unwrap_or(0))
    }
}
