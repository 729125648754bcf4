//! What is counted and measured of a store: plain data, which depends on no part that does the work.

mod measurement;

pub use self::measurement::Figure;
