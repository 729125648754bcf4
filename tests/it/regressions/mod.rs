//! Regression tests. The comment of each describes the defect.

mod harness;
mod store;
