//! Maintenance that a caller starts: checks and vacuums, with progress and cancellation.

pub(crate) mod check;
pub(crate) mod progress;
pub(crate) mod vacuum;
