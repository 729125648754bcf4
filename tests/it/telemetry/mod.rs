//! Statistics and events.

mod events;
mod labels;
pub(crate) mod stats;
pub(crate) mod subscribers;
