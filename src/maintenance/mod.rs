//! Maintenance that a caller starts: checks and vacuums, with progress and cancellation.

pub(crate) mod check;
pub(crate) mod integrity;
pub(crate) mod pages;
pub(crate) mod progress;
pub(crate) mod vacuum;
