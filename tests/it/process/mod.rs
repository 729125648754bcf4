//! Stores and processes: several at once, a forked one, a killed one, and ending threads.

mod access;
mod forking;
#[cfg(feature = "async")]
mod service;
mod thread_locals;
