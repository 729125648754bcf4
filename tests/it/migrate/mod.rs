//! Migrations.

mod copies;
mod formats;
mod live;
mod outside_transaction;
mod processes;
mod refusals;
mod steps;
