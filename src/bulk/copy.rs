//! The rows of another database. A thread of its own reads them, since a statement borrows its connection, and hands
//! them over through a bounded channel. It ends when the job drops the receiver.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rusqlite::types::Value;

use super::row;
use super::{BATCH_BYTES, BATCH_ROWS, Resume, Source, Step, sealed};
use crate::connection::open_other;
use crate::error::{Error, Result};
use crate::options::Settings;

/// Batches in the channel.
const AHEAD: usize = 4;

type Sent = Result<(Vec<Vec<Value>>, usize)>;

/// The source of `copy_from`.
#[doc(hidden)]
pub struct Selected {
    path: PathBuf,
    select: String,
    options: Settings,
    batches: Option<Receiver<Sent>>,
    /// Rows that earlier runs have written.
    skip: u64,
}

impl Selected {
    pub(super) fn new(options: &Settings, path: &Path, select: &str) -> Self {
        Self {
            path: path.to_owned(),
            select: select.to_owned(),
            options: options.clone(),
            batches: None,
            skip: 0,
        }
    }

    fn start(&self) -> Result<Receiver<Sent>> {
        let (sender, receiver) = sync_channel(AHEAD);
        let (path, select, skip) = (self.path.clone(), self.select.clone(), self.skip);
        let options = self.options.clone();
        let thread = thread::Builder::new().name("larder-bulk".into());
        thread
            .spawn(move || {
                if let Err(error) = read(&path, &select, &options, skip, &sender) {
                    let _ = sender.send(Err(error));
                }
            })
            .map_err(|error| Error::no_thread(&self.path, "the rows that are copied", error))?;
        Ok(receiver)
    }
}

/// Reads the rows until there are none, or no job wants them.
fn read(path: &Path, select: &str, options: &Settings, skip: u64, sender: &SyncSender<Sent>) -> Result<()> {
    let conn = open_other(path, options)?;
    let told = |source: rusqlite::Error| Error::Open {
        path: path.to_owned(),
        problem: format!("its rows cannot be read: {source}"),
        source: Some(Box::new(source)),
    };
    let mut statement = conn.prepare(select).map_err(told)?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(told)?;
    let (mut batch, mut bytes, mut at) = (Vec::with_capacity(BATCH_ROWS), 0, 0);
    while let Some(row) = rows.next().map_err(told)? {
        at += 1;
        if at <= skip {
            continue;
        }
        let values: rusqlite::Result<Vec<Value>> = (0..columns).map(|column| row.get(column)).collect();
        let values = values.map_err(told)?;
        bytes += row::bytes(&values);
        batch.push(values);
        if batch.len() == BATCH_ROWS || bytes >= BATCH_BYTES {
            if sender.send(Ok((std::mem::take(&mut batch), bytes))).is_err() {
                return Ok(());
            }
            bytes = 0;
        }
    }
    // An empty batch is the end.
    if !batch.is_empty() {
        let _ = sender.send(Ok((batch, bytes)));
    }
    let _ = sender.send(Ok((Vec::new(), 0)));
    Ok(())
}

impl sealed::Sealed for Selected {}

impl Source for Selected {
    type Row = Vec<Value>;

    fn next(&mut self, _is_committed: bool) -> Result<Step<Vec<Value>>> {
        if self.batches.is_none() {
            self.batches = Some(self.start()?);
        }
        // The thread that reads ends with a panic alone without an empty batch.
        let received = self.batches.as_ref().map(Receiver::recv);
        let Some(Ok(batch)) = received else {
            return Err(Error::not_started(Error::worker_panicked()));
        };
        match batch? {
            (rows, _) if rows.is_empty() => Ok(Step::End),
            (rows, bytes) => Ok(Step::Rows(rows, bytes)),
        }
    }

    fn resume(&mut self, done: Resume) -> Result<()> {
        self.skip = done.rows;
        Ok(())
    }
}
