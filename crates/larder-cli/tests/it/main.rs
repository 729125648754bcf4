//! Runs the binary as its users do: real files, other processes, signals.

mod bad_input;
mod beside;
mod checks;
mod copies;
mod imports;
mod interrupts;
mod migrations;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "replicate")]
mod replicas;
mod sql;
mod streams;
mod support;
mod terminal;
