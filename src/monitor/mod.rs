//! The parts that look at a store from outside.

pub(crate) mod advice;
mod collect;
#[cfg(feature = "metrics")]
pub mod metrics;
pub(crate) mod watchdog;
