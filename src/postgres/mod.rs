//! Moves between a store and PostgreSQL, in both directions.
//!
//! ```text
//! url.rs        where the server is, and a connection to it: as libpq takes it, with TLS by rustls
//! types.rs      the types of PostgreSQL that larder knows, and which values of SQLite fit them
//! canonical.rs  one value of either side of an export as the same bytes, and the SHA-256 of a table's rows
//! export/       from a store to a server
//! store.rs      the calls of `Store`
//! import/       from a server or a dump into a new database
//! ```
//!
//! An export compares each [`Value`](canonical::Value), an import the bytes of `import/values.rs`. Both read the two sides
//! row by row, and hash them in the order in which they are read by [`TableHash`](canonical::TableHash).

pub(crate) mod canonical;
pub(crate) mod export;
pub(crate) mod import;
mod store;
pub(crate) mod types;
pub(crate) mod url;
