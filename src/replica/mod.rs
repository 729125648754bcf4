//! Replication. So far the formats of a replica's files (`ltx`) and of SQLite's log (`wal`), where the files are kept
//! (`storage`), and the thread that makes the requests (`runtime`).

pub mod ltx;
pub mod runtime;
pub mod storage;
pub mod wal;
