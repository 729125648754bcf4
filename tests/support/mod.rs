//! What several test modules need.

pub(crate) mod child;
pub(crate) mod log;
