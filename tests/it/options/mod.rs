//! Options.

mod validation;
