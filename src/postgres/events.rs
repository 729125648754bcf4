//! The events of moves. No event has a password or a value: the server is shown as its errors show it.

use std::path::Path;
use std::time::Duration;

use super::export::ExportReport;
use super::import::report::PostgresImportReport;
use crate::error::{Error, Result};
use crate::telemetry::event::event;

/// An export that was not a dry run has ended.
pub(super) fn exported(database: &Path, server: &str, site: &str, duration: Duration, made: &Result<ExportReport>) {
    let duration_ms = duration.as_millis() as u64;
    match made {
        Ok(report) => event!(
            info,
            "larder::export",
            database,
            {
                server,
                tables = report.tables.len(),
                rows = report.rows(),
                quarantined = report.tables.iter().map(|table| table.quarantined).sum::<u64>(),
                notes = report.notes.len(),
                duration_ms,
            },
            "export finished"
        ),
        // Its own program has asked for it.
        Err(Error::Cancelled { .. }) => {}
        Err(error) => event!(
            warn,
            "larder::export",
            database,
            { server, site, "error.type" = error.kind(), duration_ms },
            "an export failed"
        ),
    }
}

/// An import has ended.
pub(super) fn imported(to: &Path, source: &str, duration: Duration, made: &Result<PostgresImportReport>) {
    let duration_ms = duration.as_millis() as u64;
    match made {
        Ok(report) => event!(
            info,
            "larder::import",
            to,
            {
                source,
                tables = report.tables.len(),
                rows = report.tables.iter().map(|table| table.rows).sum::<u64>(),
                notes = report.notes.len(),
                duration_ms,
            },
            "import finished"
        ),
        Err(Error::Cancelled { .. }) => {}
        Err(error) => event!(
            warn,
            "larder::import",
            to,
            { source, "error.type" = error.kind(), duration_ms },
            "an import failed"
        ),
    }
}
