//! Backups, and their restoration.

mod backups;
mod restore;
