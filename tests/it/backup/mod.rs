//! Backups, and databases that are made of them.

mod backups;
mod restore;
