//! What larder asks of its threads, whatever they do.

pub(crate) mod cancellation;
