//! The authorizer of SQL in closures, and the files of a store.

pub(crate) mod causes;
pub(crate) mod file_changes;
mod sql_guard;
