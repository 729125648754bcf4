//! Migrations.

mod adoption;
mod copies;
mod embedded;
pub(crate) mod formats;
mod live;
mod long_lists;
mod lost_markers;
mod one_way;
mod orphans;
mod outside_transaction;
pub(crate) mod processes;
mod refusals;
mod round_trips;
mod steps;
mod stored_sql;
mod times;
