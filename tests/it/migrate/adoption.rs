//! Databases that other tools have migrated: each is refused by name until the program says what is applied.

use std::path::{Path, PathBuf};

use larder::{Adopt, DryRun, MigrationError, Migrations, Options, Store};
use tempfile::{TempDir, tempdir};

use crate::support::migrations::{applied, assert_has, files, made_by, migration_error, number, pending};

/// The price is doubled by the second: to run it again is seen.
const PRICES: [(&str, &str); 3] = [
    (
        "0001_prices.sql",
        "CREATE TABLE prices(cents INTEGER) STRICT; INSERT INTO prices VALUES (100)",
    ),
    ("0002_double.sql", "UPDATE prices SET cents = cents * 2"),
    ("0003_more.sql", "CREATE TABLE more(n INTEGER) STRICT"),
];

/// After the first two.
const PRICED: &str = "CREATE TABLE prices(cents INTEGER) STRICT; INSERT INTO prices VALUES (200);";

const SQLX: &str = "CREATE TABLE _sqlx_migrations(
    version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);";
const SQLX_ROWS: &str = "INSERT INTO _sqlx_migrations VALUES
    (1, 'prices', '2026-04-01 12:00:00', TRUE, x'00', 1), (2, 'double', '2026-04-01 12:00:00', TRUE, x'00', 1);";

const DIESEL: &str = "CREATE TABLE __diesel_schema_migrations(
    version VARCHAR(50) PRIMARY KEY NOT NULL, run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);";
const DIESEL_ROWS: &str = "INSERT INTO __diesel_schema_migrations VALUES
    ('00000000000000', '2026-04-01 12:00:00'), ('0001', '2026-04-01 12:00:00'), ('0002', '2026-04-01 12:00:00');";

const REFINERY: &str = "CREATE TABLE refinery_schema_history(
    version INT4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255));";
const REFINERY_ROWS: &str = "INSERT INTO refinery_schema_history VALUES
    (1, 'prices', '2026-04-01T12:00:00.000000001Z', '1'), (2, 'double', '2026-04-01T14:00:00+02:00', '2');";

/// The records of tools whose entries are no versions, each with two rows.
const OTHERS: &[(&str, &str, &str)] = &[
    (
        "SeaORM",
        "seaql_migrations",
        "CREATE TABLE seaql_migrations(version varchar NOT NULL PRIMARY KEY, applied_at bigint NOT NULL); INSERT INTO seaql_migrations VALUES ('m20220101_000001_a', 1)",
    ),
    (
        "Cloudflare D1",
        "d1_migrations",
        "CREATE TABLE d1_migrations(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL); INSERT INTO d1_migrations(name) VALUES ('0001_prices.sql')",
    ),
    (
        "Flyway",
        "flyway_schema_history",
        "CREATE TABLE \"flyway_schema_history\"(installed_rank INT NOT NULL PRIMARY KEY, version VARCHAR(50), description VARCHAR(200), type VARCHAR(20), script VARCHAR(1000), checksum INT, installed_by VARCHAR(100), installed_on TEXT, execution_time INT, success BOOLEAN); INSERT INTO flyway_schema_history(installed_rank, version) VALUES (1, '1')",
    ),
    (
        "Liquibase",
        "DATABASECHANGELOG",
        "CREATE TABLE DATABASECHANGELOG(ID VARCHAR(255) NOT NULL, AUTHOR VARCHAR(255) NOT NULL, FILENAME VARCHAR(255) NOT NULL); INSERT INTO DATABASECHANGELOG VALUES ('1', 'ann', 'a.xml')",
    ),
    (
        "Prisma",
        "_prisma_migrations",
        "CREATE TABLE _prisma_migrations(id TEXT PRIMARY KEY NOT NULL, checksum TEXT NOT NULL, finished_at DATETIME, migration_name TEXT NOT NULL); INSERT INTO _prisma_migrations VALUES ('a', 'b', 1, '20240305101500_init')",
    ),
    (
        "Drizzle",
        "__drizzle_migrations",
        "CREATE TABLE __drizzle_migrations(id SERIAL PRIMARY KEY, hash text NOT NULL, created_at numeric); INSERT INTO __drizzle_migrations(hash) VALUES ('x')",
    ),
    (
        "Knex",
        "knex_migrations",
        "CREATE TABLE knex_migrations(id integer not null primary key autoincrement, name varchar(255), batch integer, migration_time datetime); INSERT INTO knex_migrations(name) VALUES ('a.js')",
    ),
    (
        "Sequelize",
        "SequelizeMeta",
        "CREATE TABLE SequelizeMeta(name VARCHAR(255) NOT NULL UNIQUE PRIMARY KEY); INSERT INTO SequelizeMeta VALUES ('a.js')",
    ),
    (
        "TypeORM",
        "migrations",
        "CREATE TABLE migrations(id integer PRIMARY KEY AUTOINCREMENT NOT NULL, timestamp bigint NOT NULL, name varchar NOT NULL); INSERT INTO migrations VALUES (1, 1, 'A1')",
    ),
    (
        "Laravel",
        "migrations",
        "CREATE TABLE migrations(id integer primary key autoincrement not null, migration varchar not null, batch integer not null); INSERT INTO migrations VALUES (1, '2024_03_05_101500_a', 1)",
    ),
    (
        "node-sqlite",
        "migrations",
        "CREATE TABLE migrations(id INTEGER PRIMARY KEY, name TEXT NOT NULL, up TEXT NOT NULL, down TEXT NOT NULL); INSERT INTO migrations VALUES (1, 'a', '', '')",
    ),
    (
        "Alembic",
        "alembic_version",
        "CREATE TABLE alembic_version(version_num VARCHAR(32) NOT NULL PRIMARY KEY); INSERT INTO alembic_version VALUES ('ae10')",
    ),
    (
        "Django",
        "django_migrations",
        "CREATE TABLE django_migrations(id integer NOT NULL PRIMARY KEY AUTOINCREMENT, app varchar(255) NOT NULL, name varchar(255) NOT NULL, applied datetime NOT NULL); INSERT INTO django_migrations VALUES (1, 'a', '0001_initial', 1)",
    ),
    (
        "Atlas",
        "atlas_schema_revisions",
        "CREATE TABLE atlas_schema_revisions(version text NOT NULL PRIMARY KEY, description text); INSERT INTO atlas_schema_revisions VALUES ('20240305101500', 'a')",
    ),
    (
        "Entity Framework",
        "__EFMigrationsHistory",
        "CREATE TABLE \"__EFMigrationsHistory\"(\"MigrationId\" TEXT NOT NULL PRIMARY KEY, \"ProductVersion\" TEXT NOT NULL); INSERT INTO \"__EFMigrationsHistory\" VALUES ('20240305101500_a', '8')",
    ),
    (
        "GRDB",
        "grdb_migrations",
        "CREATE TABLE grdb_migrations(identifier TEXT NOT NULL PRIMARY KEY); INSERT INTO grdb_migrations VALUES ('v1')",
    ),
    (
        "Play's evolutions",
        "play_evolutions",
        "CREATE TABLE play_evolutions(id int not null primary key, hash varchar(255) not null); INSERT INTO play_evolutions VALUES (1, 'x')",
    ),
];

struct Ground {
    path: PathBuf,
    _folder: TempDir,
}

impl Ground {
    fn made_by(sql: &[&str]) -> Self {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        made_by(&path, &sql.concat());
        Self { path, _folder: folder }
    }

    fn open(&self, set: Migrations) -> larder::Result<Store> {
        Options::new().migrations(set).open(&self.path)
    }

    /// The message of the refusal, after which nothing has changed.
    #[track_caller]
    fn refuses(&self, set: Migrations) -> String {
        let before = schema(&self.path);
        let error = migration_error(self.open(set));
        assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
        assert_eq!(schema(&self.path), before);
        error.to_string()
    }
}

fn schema(path: &Path) -> Vec<String> {
    let conn = larder::rusqlite::Connection::open(path).unwrap();
    let mut statement = conn
        .prepare("SELECT name || coalesce(sql, '') FROM sqlite_schema")
        .unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Three are applied, and the second did not run again.
#[track_caller]
fn assert_continued(store: &Store) {
    assert_eq!(applied(store), [1, 2, 3]);
    assert_eq!(number(store, "SELECT cents FROM prices"), 200);
    assert_eq!(number(store, "SELECT count(*) FROM more"), 0);
}

#[test]
fn records_with_versions_are_adopted() {
    for (from, word, sql) in [
        (Adopt::Sqlx, "Adopt::Sqlx", [SQLX, SQLX_ROWS]),
        (Adopt::Diesel, "Adopt::Diesel", [DIESEL, DIESEL_ROWS]),
        (Adopt::Refinery, "Adopt::Refinery", [REFINERY, REFINERY_ROWS]),
    ] {
        let ground = Ground::made_by(&[PRICED, sql[0], sql[1]]);
        let message = ground.refuses(files(&PRICES));
        assert_has(&message, &[word, "Adopt::Nothing", "has migrated this database"]);
        for on in [DryRun::Schema, DryRun::Backup] {
            let set = files(&PRICES).adopt(from.clone()).at_open(false);
            let store = ground.open(set).unwrap();
            assert_eq!((applied(&store), pending(&store)), (vec![1, 2], vec![3]), "{from:?}");
            assert_eq!(store.migrate_dry_run(on).unwrap().steps.len(), 1, "{from:?}, {on:?}");
            store.close().unwrap();
        }
        let store = ground.open(files(&PRICES).adopt(from.clone())).unwrap();
        assert_continued(&store);
        let first = &store.migrations().unwrap().applied[0];
        assert_eq!(
            first.applied_at.as_deref(),
            Some("2026-04-01T12:00:00.000Z"),
            "{from:?}"
        );
        store.close().unwrap();
        assert_continued(&ground.open(files(&PRICES)).unwrap());
    }
}

#[test]
fn every_other_record_is_refused_by_name() {
    for (tool, table, sql) in OTHERS {
        let ground = Ground::made_by(&[PRICED, sql]);
        let told = [*tool, table, "Adopt::Applied(versions)", "Adopt::Nothing"];
        assert_has(&ground.refuses(files(&PRICES)), &told);
        // Also where another record is asked for, which is not there.
        let message = ground.refuses(files(&PRICES).adopt(Adopt::Goose));
        assert_has(&message, &[tool, "goose_db_version"]);
        let store = ground.open(files(&PRICES).adopt(Adopt::Applied(vec![1, 2]))).unwrap();
        assert_continued(&store);
    }
}

#[test]
fn empty_record_of_a_tool_is_no_record() {
    for sql in [SQLX, DIESEL, REFINERY]
        .into_iter()
        .chain(OTHERS.iter().map(|(_, _, sql)| sql.split("; INSERT").next().unwrap()))
    {
        for from in [None, Some(Adopt::Sqlx), Some(Adopt::Applied(vec![1, 2]))] {
            let ground = Ground::made_by(&[sql]);
            let mut set = files(&PRICES);
            if let Some(from) = from {
                set = set.adopt(from);
            }
            let store = ground.open(set).unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_continued(&store);
        }
    }
}

#[test]
fn table_of_the_application_is_no_record() {
    for sql in [
        "CREATE TABLE migrations(id INTEGER PRIMARY KEY, species TEXT, month INTEGER); INSERT INTO migrations VALUES (1, 'stork', 9)",
        "CREATE TABLE Migrations(id INTEGER PRIMARY KEY, name TEXT, timestamp INTEGER, birds INTEGER); INSERT INTO migrations VALUES (1, 'a', 2, 3)",
        "CREATE TABLE changelog(id INTEGER PRIMARY KEY, text TEXT); INSERT INTO changelog VALUES (1, 'new')",
        "CREATE TABLE schema_version(id INTEGER, version TEXT, note TEXT); INSERT INTO schema_version VALUES (1, '1', 'x')",
        "CREATE TABLE versioninfo(version TEXT); INSERT INTO versioninfo VALUES ('1.2')",
        "CREATE TABLE _sqlx_migrations(bird TEXT); INSERT INTO _sqlx_migrations VALUES ('stork')",
        "CREATE VIEW d1_migrations AS SELECT 'a' AS name",
    ] {
        let ground = Ground::made_by(&[sql]);
        let store = ground
            .open(files(&PRICES))
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_continued(&store);
    }
}

#[test]
fn unfinished_migration_of_sqlx_is_refused() {
    for success in ["0", "NULL"] {
        let record = SQLX.replace("BOOLEAN NOT NULL", "BOOLEAN");
        let row = format!("INSERT INTO _sqlx_migrations VALUES (3, 'more', 1, {success}, x'00', -1);");
        let ground = Ground::made_by(&[PRICED, &record, SQLX_ROWS, &row]);
        let message = ground.refuses(files(&PRICES).adopt(Adopt::Sqlx));
        assert_has(
            &message,
            &["sqlx began migration 3", "did not finish", "success", "delete the row"],
        );
        made_by(&ground.path, "DELETE FROM _sqlx_migrations WHERE version = 3");
        assert_continued(&ground.open(files(&PRICES).adopt(Adopt::Sqlx)).unwrap());
    }
}

#[test]
fn records_of_two_tools_are_both_named() {
    let ground = Ground::made_by(&[PRICED, SQLX, SQLX_ROWS, OTHERS[1].2, "; PRAGMA user_version = 2"]);
    let message = ground.refuses(files(&PRICES));
    assert_has(
        &message,
        &[
            "sqlx",
            "Cloudflare D1",
            "user_version 2",
            "Adopt::Sqlx",
            "Adopt::Applied(versions)",
            "Adopt::UserVersion",
        ],
    );
    // The one that is asked for counts.
    assert_continued(&ground.open(files(&PRICES).adopt(Adopt::Sqlx)).unwrap());
}

#[test]
fn record_asked_for_but_missing_is_refused() {
    for (asked, told) in [
        (Adopt::Goose, "goose_db_version"),
        (Adopt::Diesel, "__diesel_schema_migrations"),
        (Adopt::Refinery, "refinery_schema_history"),
        (Adopt::UserVersion, "user_version"),
    ] {
        let ground = Ground::made_by(&[PRICED, SQLX, SQLX_ROWS]);
        assert_has(
            &ground.refuses(files(&PRICES).adopt(asked)),
            &["sqlx", told, "Adopt::Sqlx"],
        );
    }
    let ground = Ground::made_by(&[PRICED, "PRAGMA user_version = 2"]);
    assert_has(
        &ground.refuses(files(&PRICES).adopt(Adopt::Sqlx)),
        &["user_version 2", "_sqlx_migrations"],
    );
}

#[test]
fn versions_that_are_given_are_applied() {
    // A tool that larder does not know.
    let ground = Ground::made_by(&[PRICED, "CREATE TABLE our_own_record(version INTEGER)"]);
    let store = ground
        .open(files(&PRICES).adopt(Adopt::Applied(vec![2, 1, 2])))
        .unwrap();
    assert_continued(&store);
    store.migrate_to(2).unwrap_err();
    store.close().unwrap();
    // Once there is a record, they count no more.
    assert_continued(&ground.open(files(&PRICES).adopt(Adopt::Applied(vec![1]))).unwrap());
    // A new database gets everything.
    let new = Options::new()
        .migrations(files(&PRICES).adopt(Adopt::Applied(vec![1, 2])))
        .open_temp()
        .unwrap();
    assert_continued(&new);
    // None is a list, too.
    let ground = Ground::made_by(&["CREATE TABLE old(n);", SQLX, SQLX_ROWS]);
    assert_continued(&ground.open(files(&PRICES).adopt(Adopt::Applied(vec![]))).unwrap());
}

#[test]
fn given_versions_that_do_not_fit_are_refused() {
    for (versions, gap) in [(vec![1, 4], false), (vec![2], true), (vec![1, 3], true)] {
        let ground = Ground::made_by(&[PRICED]);
        let error = migration_error(ground.open(files(&PRICES).adopt(Adopt::Applied(versions))));
        match error {
            MigrationError::Newer { version: 4, newest: 3 } if !gap => {}
            MigrationError::Gap { .. } if gap => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn record_in_larders_own_table_is_named() {
    for (tool, sql) in [
        (
            "golang-migrate",
            "CREATE TABLE schema_migrations(version uint64, dirty bool); INSERT INTO schema_migrations VALUES (2, 0);",
        ),
        (
            "Ecto",
            "CREATE TABLE schema_migrations(version INTEGER PRIMARY KEY, inserted_at TEXT); INSERT INTO schema_migrations VALUES (1, 'x');",
        ),
        (
            "Sequel",
            "CREATE TABLE schema_migrations(filename varchar(255) PRIMARY KEY); INSERT INTO schema_migrations VALUES ('a.rb');",
        ),
        (
            "Rails",
            "CREATE TABLE schema_migrations(version varchar NOT NULL PRIMARY KEY); CREATE TABLE ar_internal_metadata(key varchar NOT NULL PRIMARY KEY, value varchar); INSERT INTO schema_migrations VALUES ('20240305101500');",
        ),
    ] {
        let ground = Ground::made_by(&[PRICED, sql]);
        for set in [files(&PRICES), files(&PRICES).adopt(Adopt::Applied(vec![1, 2]))] {
            assert_has(
                &ground.refuses(set),
                &[tool, "RENAME TO former_migrations", "Adopt::Applied(versions)"],
            );
        }
        made_by(
            &ground.path,
            "ALTER TABLE schema_migrations RENAME TO former_migrations",
        );
        assert_continued(&ground.open(files(&PRICES).adopt(Adopt::Applied(vec![1, 2]))).unwrap());
    }
}

#[test]
fn folders_of_diesel_continue_their_database() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let record = "INSERT INTO __diesel_schema_migrations(version) VALUES ('20240305101500'), ('20240306');";
    made_by(&path, &[PRICED, DIESEL, record].concat());
    let set = || {
        files(&[
            ("2024-03-05-101500_prices/up.sql", PRICES[0].1),
            ("2024-03-05-101500_prices/down.sql", "DROP TABLE prices"),
            ("2024-03-06_double/up.sql", PRICES[1].1),
            ("2024-04-01-000000-0000_more/up.sql", PRICES[2].1),
        ])
        .allow_gaps(true)
        .adopt(Adopt::Diesel)
    };
    let store = Options::new().migrations(set()).open(&path).unwrap();
    assert_eq!(applied(&store), [20240306, 20240305101500, 202404010000000000]);
    assert_eq!(number(&store, "SELECT cents FROM prices"), 200);
}

#[test]
fn files_of_refinery_continue_their_database() {
    let ground = Ground::made_by(&[PRICED, REFINERY, REFINERY_ROWS]);
    let set = || {
        files(&[
            ("V1__prices.sql", PRICES[0].1),
            ("V1__prices.down.sql", "DROP TABLE prices"),
            ("V02__double.sql", PRICES[1].1),
            ("v3__more.sql", PRICES[2].1),
            ("mod.rs", "refinery::embed_migrations!(\".\");"),
        ])
    };
    let names: Vec<_> = set().iter().map(|one| (one.version(), one.name().to_owned())).collect();
    let expected = [(1, "prices"), (2, "double"), (3, "more")].map(|(version, name)| (version, name.to_owned()));
    assert_eq!(names, expected);
    let store = ground.open(set().adopt(Adopt::Refinery)).unwrap();
    assert_continued(&store);
    store.close().unwrap();
    // The same set under plain names is the same set.
    assert_continued(&ground.open(files(&PRICES)).unwrap());
}

/// sqlx takes the digits up to the first underscore.
#[test]
fn sqlx_versions_of_dates_are_found() {
    let record = SQLX_ROWS.replace("(1,", "(20260417,").replace("(2,", "(20260418,");
    let ground = Ground::made_by(&[PRICED, SQLX, &record]);
    let set = files(&[
        ("20260417_000001_prices.sql", PRICES[0].1),
        ("20260418_000002_double.sql", PRICES[1].1),
        ("20260418_000003_more.sql", PRICES[2].1),
    ]);
    let store = ground.open(set.adopt(Adopt::Sqlx)).unwrap();
    assert_eq!(applied(&store), [20260417000001, 20260418000002, 20260418000003]);
    assert_eq!(number(&store, "SELECT cents FROM prices"), 200);
}
