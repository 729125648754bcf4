//! Replication. So far the formats of a replica's files (`ltx`) and of SQLite's log (`wal`), where the files are kept
//! (`storage`), and the thread that makes the requests (`runtime`).

mod handle;
pub mod ltx;
mod restore;
pub mod runtime;
pub mod storage;
pub mod wal;

pub use self::handle::Replica;
pub use self::restore::points::{RestorePoint, RestoreSpan};
pub use self::restore::verify::{ReplicaVerify, RestoredState, VerifyReport};
pub use self::restore::{ReplicaRestore, ReplicaRestoreReport};
