//! Stores and processes: several of them, one that forks, one that is killed, one whose threads end.

mod access;
mod forking;
#[cfg(feature = "async")]
mod service;
mod thread_locals;
