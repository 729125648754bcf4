//! Bulk jobs: every row once, beside other writes, through errors, cancellations and kills.

#[cfg(feature = "async")]
mod async_streams;
#[cfg(feature = "async")]
mod awaited;
pub(crate) mod checkpoints;
mod copy_from;
#[cfg(feature = "csv")]
pub(crate) mod csv;
mod deletes;
pub(crate) mod inserts;
mod keyed;
pub(crate) mod misuse;
pub(crate) mod retention;
mod sources;
#[cfg(target_os = "linux")]
pub(crate) mod stalled;
