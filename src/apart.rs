//! Keeps what one thread writes again and again away from what others only read.

use std::ops::Deref;

/// A value on cache lines of its own. Two variables on one line slow down whoever reads the one whenever somebody
/// writes the other. 128 bytes, since processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
