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
//! Both compare all rows: an export the bytes of a binary COPY, by the SHA-256 of those that were sent; an import those of
//! `import/values.rs`, row by row, and it hashes them in the order in which they are read.

pub(crate) mod canonical;
mod events;
pub(crate) mod export;
pub(crate) mod import;
mod json;
mod store;
pub(crate) mod types;
pub(crate) mod url;
