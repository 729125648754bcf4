//! Replication. So far its formats: the files of a replica (`ltx`), and SQLite's log (`wal`).

pub mod ltx;
pub mod wal;
