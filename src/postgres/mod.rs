//! Moves between a store and PostgreSQL, in both directions.
//!
//! ```text
//! url.rs        where the server is, and a connection to it: as libpq takes it, with TLS by rustls
//! types.rs      the types of PostgreSQL that larder knows, and which values of SQLite fit them
//! json.rs       which text is JSON for the server
//! canonical.rs  a value that both sides can hold, and the SHA-256 of the rows of an import
//! export/       from a store to a server
//! store.rs      the calls of `Store`
//! events.rs     the events of both
//! import/       from a server or a dump into a new database
//! ```
//!
//! An export compares the bytes of a binary COPY, an import those of `import/values.rs`. Both read the two sides row by row,
//! and hash them in the order in which they are read.

pub(crate) mod canonical;
mod events;
pub(crate) mod export;
pub(crate) mod import;
mod json;
mod store;
pub(crate) mod types;
pub(crate) mod url;
