//! Occasional operations on an open store: checks and vacuums, with the progress of each.

pub(crate) mod check;
pub(crate) mod progress;
pub(crate) mod vacuum;
