//! Checks and vacuums.

mod check;
mod vacuum;
