//! Stores and processes: several at once, a forked one, a killed one, and ending threads.

pub(crate) mod access;
pub(crate) mod forking;
mod programs;
#[cfg(feature = "csv")]
mod quickstart;
#[cfg(feature = "async")]
mod service;
pub(crate) mod thread_locals;
