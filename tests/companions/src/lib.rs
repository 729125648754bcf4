//! The tests are in `tests/companions.rs`.
