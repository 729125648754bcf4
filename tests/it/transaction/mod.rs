//! Transactions in closures, and the reset of their connection.

mod connection_reset;
mod constraints;
mod each;
mod error_context;
mod foreign_errors;
mod fts5;
mod full_text;
mod own_errors;
mod statements;
mod values;
