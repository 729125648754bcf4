//! Progress bars on stderr. `indicatif` draws nothing where stderr is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

#[cfg(feature = "csv")]
pub(crate) fn of_bytes(doing: String, bytes: u64) -> ProgressBar {
    bar(
        bytes,
        "{msg} [{wide_bar}] {binary_bytes} of {binary_total_bytes}, {eta} left",
    )
    .with_message(doing)
}

pub(crate) fn of_rows(doing: String, rows: u64) -> ProgressBar {
    bar(rows, "{msg} [{wide_bar}] {human_pos} of {human_len} rows, {eta} left").with_message(doing)
}

pub(crate) fn of_time(doing: String, millis: u64) -> ProgressBar {
    bar(millis, "{msg} [{wide_bar}] {eta} left").with_message(doing)
}

/// For work without a known length.
pub(crate) fn of_unknown(doing: &'static str) -> ProgressBar {
    let progress = ProgressBar::new_spinner()
        .with_message(doing)
        .with_finish(ProgressFinish::AndClear);
    progress.enable_steady_tick(Duration::from_millis(100));
    progress
}

/// The bar clears itself when it is dropped, so that it never overlaps a result or an error.
fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length)
        .with_style(style.progress_chars("=> "))
        .with_finish(ProgressFinish::AndClear)
}
