//! The read path.

#[cfg(feature = "async")]
pub(crate) mod async_reads;
#[cfg(target_os = "linux")]
pub(crate) mod memory_map;
#[cfg(feature = "async")]
mod snapshot_freshness;
mod snapshots;
#[cfg(feature = "async")]
mod streams;
#[cfg(feature = "async")]
mod wakeups;
