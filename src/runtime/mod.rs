//! What larder needs of threads, clocks and locks, independent of the work they do.

pub(crate) mod cancellation;
pub(crate) mod clock;
pub(crate) mod date;
pub(crate) mod fork;
pub(crate) mod hex;
pub(crate) mod panic;
pub(crate) mod process_mutex;
pub(crate) mod random;
#[cfg(feature = "serde")]
pub(crate) mod serde_units;
pub(crate) mod sync;
pub(crate) mod timer;
