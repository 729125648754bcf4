//! Moves between a store and PostgreSQL, in both directions.
//!
//! ```text
//! url.rs        where the server is, and a connection to it: as libpq takes it, with TLS by rustls
//! types.rs      the types of PostgreSQL that larder knows, and which values of SQLite fit them
//! canonical.rs  one value of either side as the same bytes, and the SHA-256 of a table's rows
//! export/       from a store to a server
//! store.rs      the calls of `Store`
//! import/       from a server or a dump into a new database
//! ```
//!
//! A value goes through [`Value`](canonical::Value) in both directions. So a move is verified by reading both sides in
//! the order of the key, and by comparing the canonical bytes of the rows.

pub(crate) mod canonical;
pub(crate) mod export;
pub(crate) mod import;
mod store;
pub(crate) mod types;
pub(crate) mod url;
