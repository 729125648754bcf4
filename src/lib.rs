//! SQLite in production, as one Rust type.
#![deny(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!("larder is for Unix: it rests on POSIX locks and on file modes");

mod admission;
mod checkpoint;
mod clock;
mod closing;
mod connection;
mod error;
mod event;
mod fence;
mod file;
mod handoff;
#[cfg(feature = "serde")]
mod human;
mod job;
mod options;
mod pending;
mod readers;
mod registry;
mod site;
mod stats;
mod status;
mod store;
mod transaction;
mod writer;

pub use rusqlite;

pub use closing::CloseReport;
pub use error::{Error, Outcome, Result};
pub use options::{Access, AutoVacuum, Durability, Options, ReadOptions, Role, WriteOptions};
pub use pending::Pending;
pub use stats::Stats;
pub use store::Store;
pub use transaction::{ReadTx, WriteTx};
