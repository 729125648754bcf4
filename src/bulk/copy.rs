//! The rows of another database. A thread of its own reads them, since a statement borrows its connection, and hands
//! them over through a bounded channel. It ends when the job drops the receiver.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};

use super::handle::Handle;
use super::key::Part;
use super::row;
use super::{BATCH_BYTES, BATCH_ROWS, CALLBACK_INTERVAL, Resume, Source, Step, sealed, thread};
use crate::connection::file::FileId;
use crate::connection::open_other;
use crate::error::{Error, Result};
use crate::options::Settings;

/// Batches in the channel.
const AHEAD: usize = 4;

/// Steps of SQLite's between two looks whether the job is over.
const STEPS: std::ffi::c_int = 1000;

enum Sent {
    /// Each with the bytes of its values.
    Rows(Vec<(Vec<Part>, usize)>),
    Failed(Error),
    End,
}

/// The source of `copy_from`.
#[doc(hidden)]
pub struct Selected {
    path: PathBuf,
    /// The file of the store.
    own: PathBuf,
    select: String,
    options: Settings,
    batches: Option<Receiver<Sent>>,
    /// Stops the statement.
    is_over: Arc<AtomicBool>,
    /// Rows that earlier runs have written.
    skip: u64,
}

impl Selected {
    pub(super) fn new(store: &Handle, path: &Path, select: &str) -> Self {
        Self {
            path: path.to_owned(),
            own: store.shared.path.to_path_buf(),
            select: select.to_owned(),
            options: store.options.clone(),
            batches: None,
            is_over: Arc::default(),
            skip: 0,
        }
    }

    fn start(&self) -> Result<Receiver<Sent>> {
        let (sender, receiver) = sync_channel(AHEAD);
        let (path, select, skip) = (self.path.clone(), self.select.clone(), self.skip);
        let (options, is_over) = (self.options.clone(), Arc::clone(&self.is_over));
        thread("the rows that are copied", &self.path, move || {
            let last = match read(&path, &select, &options, skip, is_over, &sender) {
                Ok(()) => Sent::End,
                Err(error) => Sent::Failed(error),
            };
            // The job may be over.
            let _ = sender.send(last);
        })?;
        Ok(receiver)
    }
}

/// Reads the rows until there are none, or no job wants them.
fn read(
    path: &Path,
    select: &str,
    options: &Settings,
    skip: u64,
    is_over: Arc<AtomicBool>,
    sender: &SyncSender<Sent>,
) -> Result<()> {
    let conn = open_other(path, options)?;
    let told = |source: rusqlite::Error| Error::Open {
        path: path.to_owned(),
        problem: format!("its rows cannot be read: {source}"),
        source: Some(Box::new(source)),
    };
    conn.progress_handler(STEPS, Some(move || is_over.load(Relaxed)))
        .map_err(told)?;
    let mut statement = conn.prepare(select).map_err(told)?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(told)?;
    let (mut batch, mut bytes, mut at) = (Vec::with_capacity(BATCH_ROWS), 0, 0);
    while let Some(row) = rows.next().map_err(told)? {
        at += 1;
        if at <= skip {
            continue;
        }
        let values: rusqlite::Result<Vec<Part>> = (0..columns).map(|column| Part::read(row, column)).collect();
        let values = values.map_err(told)?;
        let of_row = row::bytes(&values);
        bytes += of_row;
        batch.push((values, of_row));
        if batch.len() == BATCH_ROWS || bytes >= BATCH_BYTES {
            if sender.send(Sent::Rows(std::mem::take(&mut batch))).is_err() {
                return Ok(());
            }
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        let _ = sender.send(Sent::Rows(batch));
    }
    Ok(())
}

impl Drop for Selected {
    /// A job that ends early does not wait for the next row.
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

/// Whether both are one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|file| FileId::of(&file));
    id(one).is_some_and(|one| id(other) == Some(one))
}

impl sealed::Sealed for Selected {}

impl Source for Selected {
    type Row = Vec<Part>;

    fn statement(&mut self) -> Result<Option<String>> {
        if is_same(&self.path, &self.own) {
            return Err(Error::Options {
                option: "Bulk::copy_from",
                problem: format!(
                    "{} is the file of this store. While the job reads one snapshot of it, the log that the job writes could \
                     not be checkpointed. Read it in parts by a key, with Store::read, and give them to Bulk::insert",
                    self.path.display()
                ),
            });
        }
        Ok(None)
    }

    fn next(&mut self, _is_committed: bool) -> Result<Step<Vec<Part>>> {
        if self.batches.is_none() {
            self.batches = Some(self.start()?);
        }
        let Some(batches) = &self.batches else {
            return Ok(Step::End);
        };
        match batches.recv_timeout(CALLBACK_INTERVAL) {
            Ok(Sent::Rows(rows)) => Ok(Step::Rows(rows)),
            Ok(Sent::Failed(error)) => Err(error),
            Ok(Sent::End) => Ok(Step::End),
            Err(RecvTimeoutError::Timeout) => Ok(Step::Nothing),
            // Without its last word it has panicked.
            Err(RecvTimeoutError::Disconnected) => Err(Error::not_started(Error::worker_panicked())),
        }
    }

    fn resume(&mut self, done: Resume, _is_over: &dyn Fn() -> bool) -> Result<()> {
        self.skip = done.rows;
        Ok(())
    }
}
