//! Observes a store from outside: statistics, alerts, advice, metrics.

pub(crate) mod advice;
mod collect;
#[cfg(feature = "metrics")]
pub mod metrics;
mod rules;
pub(crate) mod watchdog;
