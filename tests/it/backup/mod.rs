//! Backups, and their restoration.

pub(crate) mod backups;
pub(crate) mod restore;
