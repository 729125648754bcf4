//! Migrations.

mod copies;
mod formats;
mod live;
mod outside_transaction;
pub(crate) mod processes;
mod refusals;
mod steps;
mod stored_sql;
