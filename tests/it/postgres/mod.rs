//! Moves from and to a real PostgreSQL server, which each test starts for itself.

pub(crate) mod breaks;
mod dumps;
pub(crate) mod export;
mod features;
mod import;
mod json;
pub(crate) mod large;
mod losses;
mod plan;
pub(crate) mod resume;
mod round_trip;
pub(crate) mod tls;
mod values;
mod views;

use larder::Store;

use crate::support::postgres::Postgres;

/// A store with these tables and rows.
fn store_of(sql: &'static str) -> Store {
    let store = Store::open_temp().unwrap();
    store.write(move |tx| tx.execute_batch(sql)).unwrap();
    store
}

/// The number of tables, indexes and sequences in the schema `public` of the server.
fn tables(server: &Postgres, database: &str) -> String {
    server.run(
        database,
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    )
}
