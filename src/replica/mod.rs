//! Replication: a store copies itself to a folder or to object storage while it runs, in the format of Litestream 0.5.
//!
//! | what | where |
//! |---|---|
//! | the formats: a replica's files, and SQLite's log | `ltx/`, `wal.rs` |
//! | what was committed since the last file, from the log to a file | `capture.rs` |
//! | sealed files beside the database, and up to where it was captured | `spool.rs`, `position.rs` |
//! | an open store as its replica sees it; the task that seals | `replication.rs` |
//! | the task that uploads; what happens when the spool is full | `upload.rs`, `room.rs` |
//! | the replies to the writes that wait for the replica | `acknowledge.rs`, `write/held.rs` |
//! | how a store goes on with its replica as it opens, or later; a database that is set aside; Litestream's daemon before it | `open.rs`, `enter.rs`, `aside.rs`, `daemon.rs` |
//! | which process owns the replica | `fence.rs` |
//! | places: folders, buckets, memory; the thread that makes the requests; what time it is | `storage/`, `runtime.rs`, `clock.rs` |
//! | verification at an interval | `verifier.rs` |
//! | compaction into levels, snapshots, retention; the task that does it | `levels/`, `compact.rs` |
//! | which files make a state, what is made of them, whether they are sound | `restore/` |
//! | a new replica that begins with a state of another one | `branch.rs` |
//! | a copy that follows a replica, and what makes its readers wait | `follower/`, `token.rs` |
//! | what users see: options, the replica of an open store, any replica | `options.rs`, `store_replica.rs`, `handle.rs` |

mod acknowledge;
mod aside;
mod branch;
mod capture;
mod clock;
mod commits;
mod compact;
mod daemon;
mod enter;
pub mod fence;
pub(crate) mod follower;
mod gather;
mod handle;
pub mod levels;
pub mod ltx;
mod open;
mod options;
mod position;
mod replication;
mod restore;
mod room;
pub mod runtime;
mod spool;
pub mod storage;
mod store_replica;
mod token;
mod upload;
mod verifier;
pub mod wal;

pub use self::branch::{At, BranchReport};
pub use self::follower::{Follower, FollowerOptions, Lag};
pub use self::handle::Replica;
pub(crate) use self::open::prepare;
pub use self::options::{OnDivergence, ReplicaOptions, WhenSpoolFull};
pub(crate) use self::replication::Replication;
pub use self::restore::points::{RestorePoint, RestoreSpan};
pub use self::restore::progress::{ReplicaRestoreProgress, ReplicaRestoreStage};
pub use self::restore::verify::{ReplicaVerify, RestoredState, VerifyReport};
pub use self::restore::{ReplicaRestore, ReplicaRestoreReport};
pub use self::store_replica::StoreReplica;
pub use self::token::{ParseTokenError, Token};
pub(crate) use self::verifier::start as start_verifier;
