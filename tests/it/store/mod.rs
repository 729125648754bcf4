//! A store from its opening to its closing, and what all of its calls have in common.

#[cfg(feature = "async")]
mod cancellation;
#[cfg(feature = "async")]
mod cancellation_stress;
mod closing;
#[cfg(feature = "async")]
mod closing_async;
mod errors;
mod limits;
mod model;
mod opening;
mod reentrancy;
#[cfg(feature = "async")]
mod runtimes;
