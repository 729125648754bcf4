//! Replication. So far its formats: the files of a replica (`ltx`).

pub mod ltx;
