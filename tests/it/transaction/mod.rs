//! What a closure gets, and what it leaves behind.

mod connection_reset;
mod foreign_errors;
mod statements;
