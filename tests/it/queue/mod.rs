//! The queue in front of the writer and of the reader threads.

#[cfg(feature = "async")]
mod misbehaving_wakers;
pub(crate) mod order;
mod pending;
#[cfg(feature = "async")]
mod submit_async;
