//! Statistics and events.

mod events;
pub(crate) mod stats;
pub(crate) mod subscribers;
