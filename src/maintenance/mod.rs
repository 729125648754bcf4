//! What a caller asks of an open store once in a while: checks and vacuums, each with its progress.

pub(crate) mod check;
pub(crate) mod progress;
pub(crate) mod vacuum;
