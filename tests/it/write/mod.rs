//! The write path.

#[cfg(feature = "async")]
mod async_writes;
pub(crate) mod groups;
mod idle_maintenance;
mod overload;
mod poison;
mod wal;
