//! Transactions in closures, and the reset of their connection.

mod connection_reset;
mod foreign_errors;
mod own_errors;
mod statements;
