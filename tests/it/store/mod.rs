//! Opening and closing a store, and the behaviour that all its calls share.

#[cfg(feature = "async")]
mod cancellation;
#[cfg(feature = "async")]
mod cancellation_stress;
mod closing;
#[cfg(feature = "async")]
mod closing_async;
mod errors;
mod existing;
mod known_schemas;
mod limits;
mod model;
pub(crate) mod opening;
pub(crate) mod read_only;
mod reentrancy;
#[cfg(feature = "async")]
mod runtimes;
pub(crate) mod temporary;
