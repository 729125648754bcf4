//! What is counted and said of a store.

mod events;
mod stats;
mod subscribers;
