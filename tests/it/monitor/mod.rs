//! Alerts and metrics.

mod alerts;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(all(feature = "metrics", feature = "serde"))]
mod metrics_example;
