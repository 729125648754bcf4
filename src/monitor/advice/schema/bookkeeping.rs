//! Tables in which tools record their work on a database. The application did not create them, so there is no advice
//! about them; and a database that a migration tool has migrated is not migrated again from its beginning
//! (`migrate/adopt.rs`).

/// A tool that migrates databases, and the table in which it records what it has applied.
#[derive(Debug)]
pub(crate) struct MigrationTool {
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    /// Columns that the table has.
    columns: &'static [&'static str],
    /// Whether the name of the table alone tells the tool. Otherwise it has these columns and no others: an application
    /// may have a table of the same name.
    distinct: bool,
}

impl MigrationTool {
    /// Whether this is the tool's record: its table has these columns.
    pub(crate) fn has_columns(&self, columns: &[String]) -> bool {
        let has = |wanted: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(wanted));
        self.columns.iter().all(|wanted| has(wanted)) && (self.distinct || columns.len() == self.columns.len())
    }
}

const fn tool(name: &'static str, table: &'static str, columns: &'static [&'static str]) -> MigrationTool {
    MigrationTool {
        name,
        table,
        columns,
        distinct: true,
    }
}

/// The table has a common name.
const fn common(name: &'static str, table: &'static str, columns: &'static [&'static str]) -> MigrationTool {
    MigrationTool {
        name,
        table,
        columns,
        distinct: false,
    }
}

pub(crate) const GOOSE: &str = "goose_db_version";
pub(crate) const SQLX: &str = "_sqlx_migrations";
pub(crate) const DIESEL: &str = "__diesel_schema_migrations";
pub(crate) const REFINERY: &str = "refinery_schema_history";

/// The tools whose record is in a table of their own. Those that use `schema_migrations`, which is larder's as well, are
/// in `migrate/record.rs`.
pub(crate) const MIGRATION_TOOLS: &[MigrationTool] = &[
    // Rust
    tool("sqlx", SQLX, &["version"]),
    tool("Diesel", DIESEL, &["version"]),
    tool("refinery", REFINERY, &["version"]),
    tool("SeaORM", "seaql_migrations", &["version"]),
    tool("movine", "movine_migrations", &["name"]),
    tool("migrant", "__migrant_migrations", &["tag"]),
    // Go
    tool("Goose", GOOSE, &["version_id", "is_applied"]),
    tool("sql-migrate", "gorp_migrations", &["id"]),
    tool("Atlas", "atlas_schema_revisions", &["version"]),
    tool("bun", "bun_migrations", &["name"]),
    common("Rambler", "migrations", &["migration"]),
    common("gormigrate", "migrations", &["id"]),
    // JVM
    tool("Flyway", "flyway_schema_history", &["version"]),
    common(
        "Flyway",
        "schema_version",
        &[
            "installed_rank",
            "version",
            "description",
            "type",
            "script",
            "checksum",
            "installed_by",
            "installed_on",
            "execution_time",
            "success",
        ],
    ),
    tool("Liquibase", "databasechangelog", &["id", "author"]),
    tool("Play's evolutions", "play_evolutions", &["id"]),
    common("MyBatis", "changelog", &["id", "applied_at", "description"]),
    // JavaScript
    tool("Cloudflare D1", "d1_migrations", &["name"]),
    tool("Prisma", "_prisma_migrations", &["migration_name"]),
    tool("Drizzle", "__drizzle_migrations", &["hash"]),
    tool("Knex", "knex_migrations", &["name"]),
    tool("Sequelize", "sequelizemeta", &["name"]),
    tool("Kysely", "kysely_migration", &["name"]),
    tool("MikroORM", "mikro_orm_migrations", &["name"]),
    tool("Payload", "payload_migrations", &["name", "batch"]),
    tool("Strapi", "strapi_migrations", &["name"]),
    tool("Directus", "directus_migrations", &["version", "name"]),
    common("TypeORM", "migrations", &["id", "timestamp", "name"]),
    common("db-migrate", "migrations", &["id", "name", "run_on"]),
    common("node-sqlite", "migrations", &["id", "name", "up", "down"]),
    // Python
    tool("Alembic", "alembic_version", &["version_num"]),
    tool("Django", "django_migrations", &["app", "name"]),
    tool("yoyo", "_yoyo_migration", &["migration_id"]),
    tool("sqlite-migrate", "_sqlite_migrations", &["migration_set", "name"]),
    tool("peewee_migrate", "migratehistory", &["name"]),
    common("Aerich", "aerich", &["id", "version", "app", "content"]),
    // PHP and Ruby
    common("Laravel", "migrations", &["id", "migration", "batch"]),
    tool("Doctrine", "doctrine_migration_versions", &["version"]),
    tool("Phinx", "phinxlog", &["version"]),
    common("Sequel", "schema_info", &["version"]),
    // .NET, Swift, Crystal, Lua
    tool("Entity Framework", "__efmigrationshistory", &["migrationid"]),
    common(
        "FluentMigrator",
        "versioninfo",
        &["version", "appliedon", "description"],
    ),
    common("DbUp", "schemaversions", &["schemaversionid", "scriptname", "applied"]),
    tool("GRDB", "grdb_migrations", &["identifier"]),
    tool("micrate", "micrate_db_version", &["version_id"]),
    tool("Lapis", "lapis_migrations", &["name"]),
    common("PocketBase", "_migrations", &["file", "applied"]),
];

/// The tables of other tools, and larder's own.
const OTHERS: [&str; 7] = [
    "schema_migrations",
    "larder_migrations",
    "larder_bulk",
    "larder_retention",
    "ar_internal_metadata",
    "_litestream_lock",
    "_litestream_seq",
];

pub(crate) fn is_bookkeeping(table: &str) -> bool {
    let of_tools = MIGRATION_TOOLS.iter().filter(|tool| tool.distinct);
    of_tools
        .map(|tool| tool.table)
        .chain(OTHERS)
        .any(|known| table.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_lower_case_and_listed_once() {
        for (at, tool) in MIGRATION_TOOLS.iter().enumerate() {
            assert_eq!(tool.table, tool.table.to_ascii_lowercase());
            for column in tool.columns {
                assert_eq!(*column, column.to_ascii_lowercase());
            }
            let same =
                |other: &&MigrationTool| other.table == tool.table && (tool.distinct || other.columns == tool.columns);
            assert_eq!(
                MIGRATION_TOOLS.iter().position(|other| same(&other)),
                Some(at),
                "{tool:?}"
            );
        }
    }

    #[test]
    fn own_table_with_a_common_name_gets_advice() {
        assert!(is_bookkeeping("_sqlx_migrations") && is_bookkeeping("SequelizeMeta"));
        assert!(!is_bookkeeping("migrations") && !is_bookkeeping("changelog"));
    }
}
