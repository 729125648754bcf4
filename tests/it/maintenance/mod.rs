//! Checks and vacuums.

mod check;
pub(crate) mod vacuum;
