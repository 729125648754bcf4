//! The reply to each write, and the durability that it promises.

use larder::{Error, Outcome};

use crate::copies::Copy;
use crate::job::Job;

/// The reply to a write.
#[derive(Clone, Debug)]
pub struct Told {
    pub job: Job,
    /// The number that the job itself saw, if it ran.
    pub number: i64,
    pub said: Said,
    /// Events with a smaller number happened before the reply.
    pub at: usize,
    /// Whether the write must survive a power cut.
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

/// The replies of the store so far.
#[derive(Default)]
pub struct Journal {
    pub told: Vec<Told>,
    /// Events from which on everything acknowledged before is synced in the database file, because the store had closed
    /// and emptied its WAL.
    pub emptied: Vec<usize>,
    /// Events at which the store began to open.
    pub opens: Vec<usize>,
    pub open_errors: Vec<Error>,
    pub read_errors: Vec<Error>,
    pub close_errors: Vec<String>,
    /// Why a replica was not told to have everything, by a flush or by closing.
    pub unreplicated: Vec<String>,
    /// Events at which the replica was said to have so many commits.
    pub replicated: Vec<(usize, usize)>,
    /// The number of times that another connection changed the file or its log.
    pub others: usize,
    /// The newest applied migration, if known.
    pub version: Option<u64>,
    pub copies: Vec<Copy>,
    /// Whether the open store has reported that it is poisoned, or that the outcome of a commit is unknown.
    pub poisoned: bool,
    /// The closes of poisoned stores: from, to, and whether they reported an empty WAL.
    pub poisoned_closes: Vec<(usize, usize, bool)>,
}

impl Journal {
    /// The committed jobs, in the order of their commits.
    ///
    /// # Errors
    ///
    /// Two jobs have the same number, or a number is missing.
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

    /// The jobs with an unknown outcome, in their order.
    pub fn unknown(&self) -> Vec<&Told> {
        let mut unknown: Vec<&Told> = self
            .told
            .iter()
            .filter(|told| matches!(told.said, Said::Unknown(_)))
            .collect();
        unknown.sort_by_key(|told| told.number);
        unknown
    }

    /// The number of commits that must be in the replica if the power is cut after this many events.
    pub fn replicated_at(&self, cut: usize) -> usize {
        let before = self.replicated.iter().filter(|(at, _)| *at <= cut);
        before.map(|(_, commits)| *commits).max().unwrap_or(0)
    }

    /// The number of commits that must be there if the power is cut after this many events.
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
