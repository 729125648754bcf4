//! Where the rows of a job come from, and the thread that takes them from there to the feed.

use std::iter::Fuse;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::CALLBACK_INTERVAL;
use super::feed::{Ended, Feed};
use super::key::Key;
use super::row::{self, BulkRow};
use crate::error::Result;

/// Where the rows of a job come from. Its implementations are larder's.
#[doc(hidden)]
pub trait Source: sealed::Sealed {
    /// Its rows.
    type Row: BulkRow;

    /// The statement of each row, of a source that makes it. Called first.
    #[doc(hidden)]
    fn statement(&mut self) -> Result<Option<String>> {
        Ok(None)
    }

    /// `is_committed` if all rows so far are.
    #[doc(hidden)]
    fn next(&mut self, is_committed: bool) -> Result<Step<Self::Row>>;

    /// Leaves out what earlier runs have done. It may return early once the job is over.
    #[doc(hidden)]
    fn resume(&mut self, done: Resume, is_over: &dyn Fn() -> bool) -> Result<()>;

    /// The number of rows that are left, if it is known.
    #[doc(hidden)]
    fn left(&self) -> Option<u64> {
        None
    }
}

/// What earlier runs have done.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct Resume {
    pub(super) rows: u64,
    /// The key of the last row, of a job that walks over a table.
    pub(super) key: Option<Key>,
}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// What a source gives.
#[doc(hidden)]
pub enum Step<R> {
    /// A row, and the bytes of its values.
    Row(R, usize),
    /// Rows that were there at once, each with the bytes of its values.
    Rows(Vec<(R, usize)>),
    /// No rows yet: the job may be over.
    Nothing,
    /// It needs to see the committed effect of all rows so far.
    AfterCommit,
    End,
}

/// An iterator as a source.
#[doc(hidden)]
pub struct Rows<I>(Fuse<I>);

impl<I: Iterator> Rows<I> {
    pub(super) fn new(rows: impl IntoIterator<IntoIter = I>) -> Self {
        Self(rows.into_iter().fuse())
    }
}

impl<I> sealed::Sealed for Rows<I> {}

impl<R: BulkRow, I: Iterator<Item = R>> Source for Rows<I> {
    type Row = R;

    fn next(&mut self, _is_committed: bool) -> Result<Step<R>> {
        Ok(match self.0.next() {
            Some(row) => {
                let bytes = row::bytes(&row);
                Step::Row(row, bytes)
            }
            None => Step::End,
        })
    }

    fn resume(&mut self, done: Resume, is_over: &dyn Fn() -> bool) -> Result<()> {
        for _ in 0..done.rows {
            if is_over() || self.0.next().is_none() {
                break;
            }
        }
        Ok(())
    }

    fn left(&self) -> Option<u64> {
        let (least, most) = self.0.size_hint();
        (Some(least) == most).then_some(least as u64)
    }
}

/// Leaves out what earlier runs have done, and puts the rows of a source into the feed, until there are none or the job is
/// over. Its error or panic goes to the driver, behind the rows before it.
pub(super) fn give<S: Source>(source: &mut S, done: Resume, feed: &Feed<S::Row>) {
    let given = catch_unwind(AssertUnwindSafe(|| give_rows(source, done, feed)));
    feed.end(match given {
        Ok(Ok(())) => Ended::Done,
        Ok(Err(error)) => Ended::Failed(error),
        Err(panic) => Ended::Panicked(panic),
    });
}

fn give_rows<S: Source>(source: &mut S, done: Resume, feed: &Feed<S::Row>) -> Result<()> {
    source.resume(done, &|| feed.check().is_err())?;
    if feed.check().is_err() {
        return Ok(());
    }
    feed.set_left(source.left());
    let mut told = Instant::now();
    let mut is_committed = true;
    loop {
        let step = source.next(is_committed)?;
        is_committed &= matches!(step, Step::Nothing);
        let put = match step {
            Step::Row(row, bytes) => feed.put(row, bytes),
            Step::Rows(rows) => {
                let mut rows = rows.into_iter();
                rows.try_fold(false, |is_full, (row, bytes)| Ok(is_full | feed.put(row, bytes)?))
            }
            Step::Nothing => feed.check().map(|()| false),
            Step::AfterCommit => {
                is_committed = true;
                feed.wait_for_commit().map(|()| false)
            }
            Step::End => return Ok(()),
        };
        match put {
            Ok(is_full) if is_full || told.elapsed() >= CALLBACK_INTERVAL => {
                feed.set_left(source.left());
                told = Instant::now();
            }
            Ok(_) => {}
            Err(_is_over) => return Ok(()),
        }
    }
}
