//! The write path.

#[cfg(feature = "async")]
mod async_writes;
pub(crate) mod groups;
mod idle_maintenance;
mod left_checkpoints;
pub(crate) mod overload;
pub(crate) mod poison;
mod seat;
mod wal;
