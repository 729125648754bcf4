//! Tables in which tools keep what they have done to a database. An application did not make them, so no advice is given
//! about them.

/// The first three are those that larder's migrations read and write; a test of theirs holds them against this list.
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
