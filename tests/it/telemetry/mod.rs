//! Statistics and events.

mod events;
mod stats;
mod subscribers;
