//! The events that larder emits.
