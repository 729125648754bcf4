//! Backups, and their restoration.

pub(crate) mod backups;
mod restore;
