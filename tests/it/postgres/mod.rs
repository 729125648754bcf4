//! Moves from and to a real PostgreSQL server, which each test starts for itself.

pub(crate) mod export;
mod import;
mod losses;
pub(crate) mod resume;
mod round_trip;
mod tls;
