//! Checks and vacuums.

mod check;
mod check_findings;
mod check_pages;
pub(crate) mod vacuum;
