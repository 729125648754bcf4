//! What SQL in a closure may do, and the files of a store.

mod file_changes;
mod sql_guard;
