//! The progress of a restore, and what stops it: its callback, or the closing of a store that verifies its replica.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::time::Duration;

use crate::maintenance::progress::ProgressReporter;
use crate::replica::storage::FileInfo;

/// How often the callback is called within a stage.
const CALLBACK_INTERVAL: Duration = Duration::from_millis(100);

/// So many bytes are read between two looks.
const PIECE: u64 = 256 << 10;

/// The progress of a [`ReplicaRestore`](super::ReplicaRestore).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaRestoreProgress {
    /// The current stage.
    pub stage: ReplicaRestoreStage,
    /// Number of the replica's files whose pages are written.
    pub files_done: u64,
    /// Number of files that the state is made of.
    pub files_total: u64,
    /// Number of bytes of these files that were read.
    pub bytes_done: u64,
    /// Number of bytes that they have.
    pub bytes_total: u64,
    /// Average rate in bytes of these files per second.
    pub bytes_per_second: u64,
    /// Time since the restore started, over all stages.
    pub elapsed: Duration,
}

/// A stage of a [`ReplicaRestore`](super::ReplicaRestore).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaRestoreStage {
    /// The files are read, and their pages written. It begins again, with other files, if one of them cannot be used.
    Download,
    /// The database is checked. SQLite does not report how much is left.
    Check,
}

pub(in crate::replica) type RestoreReporter = ProgressReporter<ReplicaRestoreProgress>;

impl ReplicaRestoreProgress {
    pub(in crate::replica) const NOTHING: Self = Self {
        stage: ReplicaRestoreStage::Download,
        files_done: 0,
        files_total: 0,
        bytes_done: 0,
        bytes_total: 0,
        bytes_per_second: 0,
        elapsed: Duration::ZERO,
    };

    /// Before the first of these files.
    pub(super) fn of(files: &[FileInfo]) -> Self {
        Self {
            files_total: files.len() as u64,
            bytes_total: files.iter().map(|file| file.size).sum(),
            ..Self::NOTHING
        }
    }
}

/// Work without a callback.
pub(in crate::replica) fn silent() -> RestoreReporter {
    RestoreReporter::new(ReplicaRestoreProgress::NOTHING)
}

/// Work whose callback is that one.
pub(super) fn reporter(
    mut f: impl FnMut(&ReplicaRestoreProgress) -> ControlFlow<()> + Send + 'static,
) -> RestoreReporter {
    let reporter = RestoreReporter::new(ReplicaRestoreProgress::NOTHING);
    reporter.call(CALLBACK_INTERVAL, move |progress, elapsed| {
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        f(&ReplicaRestoreProgress {
            bytes_per_second: (progress.bytes_done as f64 / seconds) as u64,
            elapsed,
            ..progress
        })
    });
    reporter
}

/// A file, whose bytes count as they are read. It ends with an error once the work is stopped, which
/// [`ProgressReporter::end`] explains.
pub(super) struct Counted<'r, R> {
    from: R,
    reporter: &'r RestoreReporter,
    /// The bytes that are not reported yet.
    read: u64,
}

impl<'r, R> Counted<'r, R> {
    pub(super) fn new(from: R, reporter: &'r RestoreReporter) -> Self {
        let read = 0;
        Self { from, reporter, read }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.read += read as u64;
        if self.read >= PIECE || read == 0 {
            let progress = self.reporter.stage();
            let bytes_done = progress.bytes_done + std::mem::take(&mut self.read);
            let now = ReplicaRestoreProgress { bytes_done, ..progress };
            if self.reporter.enter(now).is_break() {
                return Err(io::Error::other("the work was stopped"));
            }
        }
        Ok(read)
    }
}

impl<R> Drop for Counted<'_, R> {
    fn drop(&mut self) {
        let progress = self.reporter.stage();
        self.reporter.note(ReplicaRestoreProgress {
            bytes_done: progress.bytes_done + self.read,
            ..progress
        });
    }
}
