//! Moves from and to a real PostgreSQL server, which each test starts for itself.

pub(crate) mod breaks;
mod dumps;
pub(crate) mod export;
mod features;
mod import;
mod json;
pub(crate) mod large;
mod losses;
mod plan;
pub(crate) mod resume;
mod round_trip;
pub(crate) mod tls;
mod values;
mod views;
