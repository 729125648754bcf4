//! Tables in which tools record their work on a database. The application did not create them, so there is no advice
//! about them.

/// The names. larder's migrations read and write the first three; a test of the migrations checks that they are in this
/// list.
const TABLES: [&str; 9] = [
    "schema_migrations",
    "larder_migrations",
    "goose_db_version",
    "__diesel_schema_migrations",
    "_litestream_lock",
    "_litestream_seq",
    "_sqlx_migrations",
    "refinery_schema_history",
    "seaql_migrations",
];

pub(crate) fn is_bookkeeping(table: &str) -> bool {
    TABLES.iter().any(|known| table.eq_ignore_ascii_case(known))
}
