//! Regression tests. The comment of each describes the defect.

pub(crate) mod harness;
pub(crate) mod store;
