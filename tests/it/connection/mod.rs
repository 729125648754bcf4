//! The authorizer of SQL in closures, `on_connect`, and the files of a store.

pub(crate) mod causes;
mod encryption;
pub(crate) mod file_changes;
mod modules;
mod on_connect;
mod rusqlite_features;
mod sql_guard;
mod stored_sql;
