//! The content of one write, and how it ends.

use std::panic;
use std::sync::atomic::{AtomicI64, Ordering};

use fastrand::Rng;
use larder::rusqlite::params;
use larder::{Error, WriteTx};

pub const ACCOUNTS: i64 = 4;

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Commit,
    /// Part of it is rolled back to a savepoint of the closure; the rest commits.
    CommitRest,
    /// All of the following are rolled back.
    AppError,
    Constraint,
    /// A row whose parent is missing at the end.
    DeferredKey,
    /// `OR ROLLBACK`: SQLite ends the transaction of the whole group.
    OrRollback,
    /// The same, and the closure ignores the error.
    OrRollbackSwallowed,
    Panic,
    /// SQL that larder refuses.
    Refused,
}

impl End {
    pub fn commits(self) -> bool {
        matches!(self, Self::Commit | Self::CommitRest)
    }

    pub fn ends_the_group(self) -> bool {
        matches!(self, Self::OrRollback | Self::OrRollbackSwallowed)
    }
}

/// One write.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: i64,
    /// The size of each of its parts, in bytes.
    pub parts: Vec<usize>,
    /// A commit whose parts it overwrites.
    pub rewrite: Option<i64>,
    /// A commit whose parts it deletes.
    pub clear: Option<i64>,
    pub transfer: (i64, i64, i64),
    pub end: End,
    pub full: bool,
}

/// The bytes of a part, which follow from the job's number.
pub fn data(job: i64, i: i64, length: usize) -> Vec<u8> {
    let mut word =
        (job as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i as u64 + 1).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (0..length)
        .map(|_| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word as u8
        })
        .collect()
}

/// A panic that the hook does not print.
pub struct Deliberate;

/// The size of a row in bytes: mostly small, sometimes several pages.
pub fn any_length(rng: &mut Rng) -> usize {
    match rng.u32(0..12) {
        0 => rng.usize(4000..14_000),
        1..3 => rng.usize(500..3000),
        _ => rng.usize(0..200),
    }
}

impl Job {
    pub fn plain(id: i64) -> Self {
        Self {
            id,
            parts: vec![100, 900],
            rewrite: None,
            clear: None,
            transfer: (id % ACCOUNTS, (id + 1) % ACCOUNTS, id),
            end: End::Commit,
            full: false,
        }
    }

    pub fn any(id: i64, rng: &mut Rng) -> Self {
        let commits = id.max(2);
        let earlier = |rng: &mut Rng| (rng.u32(0..4) == 0).then(|| rng.i64(1..commits));
        Self {
            id,
            parts: (0..rng.usize(0..4)).map(|_| any_length(rng)).collect(),
            rewrite: earlier(rng),
            clear: earlier(rng),
            transfer: (rng.i64(0..ACCOUNTS), rng.i64(0..ACCOUNTS), rng.i64(0..1000)),
            end: match rng.u32(0..40) {
                0..2 => End::AppError,
                2 => End::Constraint,
                3 => End::DeferredKey,
                4 => End::OrRollback,
                5 => End::OrRollbackSwallowed,
                6 => End::Panic,
                7 => End::Refused,
                8..11 => End::CommitRest,
                _ => End::Commit,
            },
            full: rng.u32(0..4) == 0,
        }
    }

    /// Runs the closure. Returns the number of its commit.
    pub fn run(&self, tx: &WriteTx<'_>, number: &AtomicI64) -> larder::Result<i64> {
        let n: i64 = tx.query_row("SELECT ifnull(max(n), 0) + 1 FROM entry", [], |row| row.get(0))?;
        number.store(n, Ordering::SeqCst);
        for (i, length) in self.parts.iter().enumerate() {
            let data = data(self.id, i as i64, *length);
            tx.execute(
                "INSERT INTO part VALUES (?1, ?2, ?3, ?4)",
                params![n, i as i64, self.id, data],
            )?;
        }
        if let Some(entry) = self.rewrite {
            self.rewrite(tx, entry)?;
        }
        if let Some(entry) = self.clear {
            tx.execute("DELETE FROM part WHERE entry = ?1", [entry])?;
        }
        let (from, to, amount) = self.transfer;
        tx.execute("UPDATE account SET amount = amount - ?2 WHERE id = ?1", [from, amount])?;
        tx.execute("UPDATE account SET amount = amount + ?2 WHERE id = ?1", [to, amount])?;
        let row = params![n, self.id, self.parts.len() as i64];
        tx.execute("INSERT INTO entry VALUES (?1, ?2, ?3)", row)?;
        self.end(tx, n)?;
        Ok(n)
    }

    fn rewrite(&self, tx: &WriteTx<'_>, entry: i64) -> larder::Result<()> {
        let parts: Vec<(i64, i64)> =
            tx.query_map("SELECT i, length(data) FROM part WHERE entry = ?1", [entry], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        for (i, length) in parts {
            let data = data(self.id, i, length as usize);
            tx.execute(
                "UPDATE part SET job = ?3, data = ?4 WHERE entry = ?1 AND i = ?2",
                params![entry, i, self.id, data],
            )?;
        }
        Ok(())
    }

    fn end(&self, tx: &WriteTx<'_>, n: i64) -> larder::Result<()> {
        let again = "(?1, ?2, 0)";
        match self.end {
            End::Commit => Ok(()),
            End::CommitRest => {
                let undone = tx.savepoint(|tx| {
                    tx.execute("UPDATE account SET amount = amount + 1000000", [])?;
                    tx.execute("INSERT INTO part VALUES (?1, 1000, ?2, zeroblob(3000))", [n, self.id])?;
                    Err::<(), _>(Error::app("undone"))
                });
                match undone {
                    Err(Error::App(_)) => Ok(()),
                    other => other,
                }
            }
            End::AppError => Err(Error::app("wanted")),
            End::Constraint => tx
                .execute(&format!("INSERT INTO entry VALUES {again}"), [n, self.id])
                .map(drop),
            End::DeferredKey => tx
                .execute("INSERT INTO part VALUES (1000000000, 0, ?1, x'00')", [self.id])
                .map(drop),
            End::OrRollback => tx
                .execute(&format!("INSERT OR ROLLBACK INTO entry VALUES {again}"), [n, self.id])
                .map(drop),
            End::OrRollbackSwallowed => {
                let _ = tx.execute(&format!("INSERT OR ROLLBACK INTO entry VALUES {again}"), [n, self.id]);
                // This would be committed on its own if larder did not prevent it.
                let _ = tx.execute("UPDATE account SET amount = amount + 5000000", []);
                Ok(())
            }
            End::Panic => panic::resume_unwind(Box::new(Deliberate)),
            End::Refused => tx.execute_batch("COMMIT"),
        }
    }
}
