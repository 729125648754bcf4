//! What larder asks of its threads, whatever they do.

pub(crate) mod cancellation;
pub(crate) mod clock;
pub(crate) mod fork;
pub(crate) mod panic;
#[cfg(feature = "serde")]
pub(crate) mod serde_units;
pub(crate) mod sync;
pub(crate) mod timer;
