//! The exports of a store to PostgreSQL: which ones run, how far they are, and how the last one ended.

#[cfg(feature = "postgres")]
use std::time::Duration;
use std::time::Instant;

use super::stats::{ExportStats, LastExport};
use crate::runtime::sync::{Arc, Mutex};

/// The exports of one store. Its mutex is held for one read or one change, and no other lock is taken under it.
#[derive(Default)]
pub(crate) struct ExportFigures {
    state: Arc<Mutex<Exports>>,
}

#[derive(Default)]
struct Exports {
    #[cfg(feature = "postgres")]
    last_id: u64,
    /// Rows of all exports that were committed.
    rows: u64,
    running: Vec<Export>,
    /// When the last export ended, and its result.
    last: Option<(Instant, LastExport)>,
}

struct Export {
    #[cfg(feature = "postgres")]
    id: u64,
    server: String,
    site: String,
    is_dry_run: bool,
    since: Instant,
    stage: &'static str,
    rows: u64,
}

/// An export is in the list until this is dropped.
#[cfg(feature = "postgres")]
pub(crate) struct RunningExport {
    state: Arc<Mutex<Exports>>,
    id: u64,
}

impl ExportFigures {
    pub(crate) fn running(&self) -> Vec<ExportStats> {
        let now = Instant::now();
        let state = self.state.lock();
        let stats = state.running.iter().map(|export| ExportStats {
            server: export.server.clone(),
            site: export.site.clone(),
            is_dry_run: export.is_dry_run,
            age: now - export.since,
            stage: export.stage,
            rows: export.rows,
        });
        stats.collect()
    }

    /// Rows of all exports that were committed.
    pub(crate) fn rows(&self) -> u64 {
        self.state.lock().rows
    }

    pub(crate) fn last(&self) -> Option<LastExport> {
        let state = self.state.lock();
        let (ended, last) = state.last.as_ref()?;
        Some(LastExport {
            ago: ended.elapsed(),
            ..last.clone()
        })
    }
}

#[cfg(feature = "postgres")]
impl ExportFigures {
    pub(crate) fn begin(&self, server: String, site: String, is_dry_run: bool) -> RunningExport {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.running.push(Export {
            id,
            server,
            site,
            is_dry_run,
            since: Instant::now(),
            stage: "scan",
            rows: 0,
        });
        drop(state);
        RunningExport {
            state: Arc::clone(&self.state),
            id,
        }
    }

    /// Replaces the last export. Its `ago` is counted from now.
    pub(crate) fn note(&self, last: LastExport) {
        let mut state = self.state.lock();
        if last.error.is_none() {
            state.rows += last.rows;
        }
        let ago = Duration::ZERO;
        state.last = Some((Instant::now(), LastExport { ago, ..last }));
    }
}

#[cfg(feature = "postgres")]
impl RunningExport {
    pub(crate) fn note(&self, stage: &'static str, rows: u64) {
        let mut state = self.state.lock();
        if let Some(export) = state.running.iter_mut().find(|export| export.id == self.id) {
            (export.stage, export.rows) = (stage, rows);
        }
    }
}

#[cfg(feature = "postgres")]
impl Drop for RunningExport {
    fn drop(&mut self) {
        self.state.lock().running.retain(|export| export.id != self.id);
    }
}
