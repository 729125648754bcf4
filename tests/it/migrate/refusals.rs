//! Refused migrations: invalid sets, and sets that do not fit the database. Each message names the file or version, the
//! reason and the next step. After each refusal the database is unchanged, and a set that fits can be applied.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::rusqlite::{Connection, types::Value};
use larder::{Adopt, Direction, DryRun, Error, Migration, MigrationError, Migrations, Options, Outcome, Store};
use tempfile::{TempDir, tempdir};

use crate::support::migrations::{applied, assert_has, files, made_by};

/// A database that has been migrated, and the folder that it is in.
struct Ground {
    path: PathBuf,
    _folder: TempDir,
}

impl Ground {
    /// There is no file yet.
    fn new() -> Self {
        let folder = tempdir().unwrap();
        Self {
            path: folder.path().join("app.db"),
            _folder: folder,
        }
    }

    /// All of a set is applied, and there are rows.
    fn with(set: Migrations) -> Self {
        let ground = Self::new();
        let store = Options::new().migrations(set).open(&ground.path).unwrap();
        store
            .write(|tx| tx.execute_batch("INSERT INTO users(name) VALUES ('ann'), ('bob')"))
            .unwrap();
        store.close().unwrap();
        ground
    }

    /// What another tool has left.
    fn made_by(sql: &str) -> Self {
        let ground = Self::new();
        ground.by_hand(sql);
        ground
    }

    /// What an operator does in the `sqlite3` shell.
    fn by_hand(&self, sql: &str) {
        made_by(&self.path, sql);
    }

    /// The schema and every row of it. `None` if there is no file.
    fn contents(&self) -> Option<BTreeSet<String>> {
        self.path.exists().then(|| contents(&self.path))
    }

    fn open(&self, set: Migrations) -> larder::Result<Store> {
        Options::new().migrations(set).open(&self.path)
    }

    /// Opening with the set is refused in one way: nothing was started, trying again is of no use, and nothing of the
    /// database has changed. Gives the error and its message.
    #[track_caller]
    fn refuses(&self, set: impl Into<Attempt>) -> (MigrationError, String) {
        let before = self.contents();
        let error = match set.into().0.and_then(|set| self.open(set)) {
            Err(error) => error,
            Ok(_) => panic!("it was opened"),
        };
        assert_eq!(self.contents(), before);
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
        let message = error.to_string();
        match error {
            Error::Migration(error) => (*error, message),
            other => panic!("another error: {other:?}"),
        }
    }

    /// Opening with the set works. Gives the versions that are applied.
    #[track_caller]
    fn opens(&self, set: Migrations) -> Vec<u64> {
        let store = self.open(set).unwrap();
        let versions = applied(&store);
        store.close().unwrap();
        versions
    }
}

/// A set, or why there is none.
struct Attempt(larder::Result<Migrations>);

impl From<Migrations> for Attempt {
    fn from(set: Migrations) -> Self {
        Self(Ok(set))
    }
}

impl From<larder::Result<Migrations>> for Attempt {
    fn from(set: larder::Result<Migrations>) -> Self {
        Self(set)
    }
}

fn contents(path: &Path) -> BTreeSet<String> {
    let conn = Connection::open(path).unwrap();
    let rows = |sql: &str| -> Vec<Vec<Value>> {
        let mut statement = conn.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement
            .query_map([], |row| (0..columns).map(|n| row.get(n)).collect())
            .unwrap();
        rows.map(Result::unwrap).collect()
    };
    let mut all: BTreeSet<_> = ["SELECT type, name, sql FROM sqlite_schema", "PRAGMA user_version"]
        .iter()
        .flat_map(|sql| rows(sql))
        .map(|row| format!("{row:?}"))
        .collect();
    for table in rows("SELECT name FROM sqlite_schema WHERE type = 'table'") {
        let [Value::Text(table)] = &table[..] else {
            unreachable!()
        };
        all.extend(
            rows(&format!("SELECT * FROM \"{table}\""))
                .iter()
                .map(|row| format!("{table}: {row:?}")),
        );
    }
    all
}

const USERS: (&str, &str) = (
    "001_users.sql",
    "-- migrate:up\nCREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;\n\
     -- migrate:down\nDROP TABLE users;\n",
);
const EMAIL: (&str, &str) = (
    "002_email.sql",
    "-- migrate:up\nALTER TABLE users ADD COLUMN email TEXT;\n-- migrate:down\nALTER TABLE users DROP COLUMN email;\n",
);
const ORDERS: (&str, &str) = (
    "003_orders.sql",
    "-- migrate:up\nCREATE TABLE orders(id INTEGER PRIMARY KEY) STRICT;\n-- migrate:down\nDROP TABLE orders;\n",
);

fn one(name: &str, contents: &[u8]) -> larder::Result<Migrations> {
    Migrations::files([(name, contents)])
}

// ---- a newer database ----

#[test]
fn database_newer_than_the_program_is_refused() {
    let ground = Ground::with(files(&[USERS, EMAIL, ORDERS]));
    for older in [files(&[USERS, EMAIL]), files(&[USERS, EMAIL]).allow_gaps(true)] {
        let (error, message) = ground.refuses(older);
        assert!(
            matches!(error, MigrationError::Newer { version: 3, newest: 2 }),
            "{error:?}"
        );
        assert_has(
            &message,
            &["migration 3", "newest", "is 2", "run the newer program", "migrate down"],
        );
    }
    assert_eq!(ground.opens(files(&[USERS, EMAIL, ORDERS])), [1, 2, 3]);
}

#[test]
fn newer_program_can_undo_for_the_older() {
    let ground = Ground::with(files(&[USERS, EMAIL, ORDERS]));
    let store = ground.open(files(&[USERS, EMAIL, ORDERS])).unwrap();
    store.migrate_to(2).unwrap();
    store.close().unwrap();
    assert_eq!(ground.opens(files(&[USERS, EMAIL])), [1, 2]);
}

// ---- a file that has changed ----

#[test]
fn changed_file_is_refused_original_opens() {
    let ground = Ground::with(files(&[USERS, EMAIL]));
    let changed = (EMAIL.0, "-- migrate:up\nALTER TABLE users ADD COLUMN mail TEXT;\n");
    let (error, message) = ground.refuses(files(&[USERS, changed, ORDERS]));
    let MigrationError::Changed { file, version } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((file.as_str(), version.as_str()), ("002_email.sql", "002"));
    assert_has(
        &message,
        &[
            "002_email.sql",
            "has changed",
            "restore it",
            "new migration",
            "version = '002'",
        ],
    );
    assert_eq!(
        ground.opens(files(&[USERS, EMAIL, ORDERS])),
        [1, 2, 3],
        "ORDERS was still pending"
    );
}

#[test]
fn changed_migration_in_list_is_refused_by_name() {
    let list = |sql| Migrations::new([Migration::new(1, "users", sql)]);
    let ground = Ground::with(list("CREATE TABLE users(name TEXT)"));
    let (error, message) = ground.refuses(list("CREATE TABLE users(name TEXT NOT NULL)"));
    assert!(matches!(error, MigrationError::Changed { .. }), "{error:?}");
    assert_has(&message, &["migration 1 (users) has changed", "WHERE version = '1'"]);
}

#[test]
fn change_is_accepted_by_steps_in_its_message() {
    let ground = Ground::with(files(&[USERS]));
    let commented = (USERS.0, &*USERS.1.replace("CREATE", "-- Who may log in.\nCREATE"));
    let (_, message) = ground.refuses(files(&[commented]));
    let from = message.find("DELETE FROM").unwrap();
    let until = from + message[from..].find(',').unwrap();
    ground.by_hand(&message[from..until]);
    assert_eq!(ground.opens(files(&[commented])), [1]);
    assert!(matches!(
        ground.refuses(files(&[USERS])).0,
        MigrationError::Changed { .. }
    ));
}

#[test]
fn change_is_refused_by_every_call() {
    let ground = Ground::with(files(&[USERS]));
    let changed = (USERS.0, "CREATE TABLE users(name TEXT)");
    let store = ground.open(files(&[changed, EMAIL]).at_open(false)).unwrap();
    for (call, result) in [
        ("migrate", store.migrate()),
        ("migrate_to", store.migrate_to(2)),
        ("down", store.migrate_to(0)),
        ("dry run on the schema", store.migrate_dry_run(DryRun::Schema)),
        ("dry run on a backup", store.migrate_dry_run(DryRun::Backup)),
    ] {
        match result {
            Err(Error::Migration(error)) if matches!(*error, MigrationError::Changed { .. }) => {}
            other => panic!("{call}: {other:?}"),
        }
    }
    assert_eq!(applied(&store), [1], "to look is allowed");
}

// ---- gaps ----

#[test]
fn gap_in_versions_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    let (error, message) = ground.refuses(files(&[USERS, ORDERS]));
    assert!(matches!(error, MigrationError::Gap { version: 2, .. }), "{error:?}");
    assert_has(
        &message,
        &[
            "after migration 001_users.sql comes 003_orders.sql",
            "restore the migrations between them",
            "number them consecutively",
            "allow_gaps(true)",
        ],
    );
    assert_eq!(ground.opens(files(&[USERS, EMAIL, ORDERS])), [1, 2, 3]);
}

#[test]
fn gap_in_versions_may_be_allowed() {
    let ground = Ground::with(files(&[USERS]));
    assert_eq!(ground.opens(files(&[USERS, ORDERS]).allow_gaps(true)), [1, 3]);
}

#[test]
fn dates_have_no_gaps() {
    let ground = Ground::new();
    let dates = [
        ("20260401_a.sql", "SELECT 1"),
        ("20260601120000_b.sql", "SELECT 1"),
        ("001_c.sql", "SELECT 1"),
        ("1780000000_unix.sql", "SELECT 1"),
    ];
    assert_eq!(ground.opens(files(&dates)), [1, 20260401, 1780000000, 20260601120000]);
}

#[test]
fn applied_migration_missing_from_set_is_refused() {
    let ground = Ground::with(files(&[USERS, EMAIL, ORDERS]));
    let dated = ("20260401_later.sql", "SELECT 1");
    for gone in [files(&[EMAIL, ORDERS]), files(&[EMAIL, ORDERS, dated])] {
        let (error, message) = ground.refuses(gone);
        assert!(matches!(error, MigrationError::Gap { version: 1, .. }), "{error:?}");
        assert_has(
            &message,
            &[
                "migration 1 (users) was applied",
                "not in the set",
                "restore it",
                "allow_gaps(true)",
            ],
        );
    }
    assert_eq!(ground.opens(files(&[USERS, EMAIL, ORDERS])), [1, 2, 3]);
}

#[test]
fn applied_migration_missing_from_set_may_be_allowed() {
    let ground = Ground::with(files(&[USERS, EMAIL, ORDERS]));
    let squashed = files(&[EMAIL, ORDERS, ("004_more.sql", "CREATE TABLE more(n)")]).allow_gaps(true);
    assert_eq!(ground.opens(squashed.clone()), [1, 2, 3, 4]);
    let store = ground.open(squashed).unwrap();
    assert_eq!(
        store.migrations().unwrap().applied[0].name,
        "users",
        "as it was recorded"
    );
}

#[test]
fn pending_version_below_applied_one_is_refused() {
    let dated = |name, table: &str| (name, format!("CREATE TABLE {table}(name TEXT)"));
    let (first, late, last) = (
        dated("20260401_users.sql", "users"),
        dated("20260402_late.sql", "late"),
        dated("20260403_last.sql", "last"),
    );
    let set = |files: &[&(&'static str, String)]| {
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Migrations::files(files).unwrap()
    };
    let ground = Ground::with(set(&[&first, &last]));
    let (error, message) = ground.refuses(set(&[&first, &late, &last]));
    assert!(
        matches!(error, MigrationError::Gap { version: 20260402, .. }),
        "{error:?}"
    );
    assert_has(
        &message,
        &[
            "20260402_late.sql is pending",
            "20260403",
            "give it a version above",
            "allow_gaps(true)",
        ],
    );
    // Both ways out.
    let renamed = ("20260404_late.sql", late.1.clone());
    assert_eq!(
        ground.opens(set(&[&first, &last, &renamed])),
        [20260401, 20260403, 20260404]
    );
    let ground = Ground::with(set(&[&first, &last]));
    let store = ground.open(set(&[&first, &late, &last]).allow_gaps(true)).unwrap();
    assert_eq!(applied(&store), [20260401, 20260402, 20260403]);
    store
        .read(|tx| tx.query_optional("SELECT * FROM late", [], |_| Ok(())))
        .unwrap();
}

/// The message advised to call allow_gaps(true), which had been called, and ORDERS had been undone by then.
#[test]
fn missing_migration_cannot_be_undone_with_gaps_allowed() {
    let ground = Ground::with(files(&[USERS, EMAIL, ORDERS]));
    let before = ground.contents();
    let store = ground.open(files(&[USERS, ORDERS]).allow_gaps(true)).unwrap();
    for target in [0, 1] {
        let error = store.migrate_to(target).unwrap_err();
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
        let message = error.to_string();
        assert_has(
            &message,
            &["2 (email)", "cannot be undone", "missing", "restore a backup"],
        );
        assert!(!message.contains("allow_gaps"), "{message}");
        match error {
            Error::Migration(error) => {
                assert!(matches!(*error, MigrationError::NoDown { version: 2, .. }), "{error:?}")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(applied(&store), [1, 2, 3]);
    }
    store.close().unwrap();
    assert_eq!(ground.contents(), before, "ORDERS was not undone");
    let store = ground.open(files(&[USERS, ORDERS]).allow_gaps(true)).unwrap();
    assert_eq!(
        store.migrate_to(3).unwrap().steps,
        [],
        "what stays need not have a way down"
    );
    store.close().unwrap();
    let store = ground.open(files(&[USERS, EMAIL, ORDERS])).unwrap();
    store.migrate_to(1).unwrap();
    assert_eq!(applied(&store), [1], "with its file it can be undone");
}

// ---- two of one version ----

#[test]
fn duplicate_version_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    for [first, second] in [
        ["001_a.sql", "1_b.sql"],
        ["001_a.sql", "001_b.sql"],
        ["001_a.sql", "001_a.up.sql"],
        ["001-a/up.sql", "001_a.sql"],
        ["v1/001_a.sql", "v2/001_a.sql"],
    ] {
        let pair = Migrations::files([(first, "SELECT 1"), (second, "SELECT 2")]);
        let (error, message) = ground.refuses(pair);
        assert!(
            matches!(error, MigrationError::Duplicate { version: 1, .. }),
            "{error:?}"
        );
        assert_has(
            &message,
            &[first, second, "both have version 1", "give one of them another"],
        );
    }
    let (error, message) = ground.refuses(Migrations::files([
        ("001_a.sql", "SELECT 1"),
        ("001_a.down.sql", "SELECT 1"),
        ("001-a/down.sql", "SELECT 1"),
    ]));
    assert!(
        matches!(error, MigrationError::Duplicate { version: 1, .. }),
        "{error:?}"
    );
    assert_has(&message, &["001_a.down.sql", "001-a/down.sql"]);
    let list = Migrations::new([Migration::new(7, "a", "SELECT 1"), Migration::new(7, "b", "SELECT 2")]);
    let (error, message) = ground.refuses(list.allow_gaps(true));
    assert!(
        matches!(error, MigrationError::Duplicate { version: 7, .. }),
        "{error:?}"
    );
    assert_has(&message, &["7 (a)", "7 (b)", "version 7"]);
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

// ---- unknown formats ----

/// The file is refused with this line, and a message that has all of this.
#[track_caller]
fn refused_format(ground: &Ground, name: &str, contents: &[u8], wanted: Option<usize>, told: &[&str]) {
    let (error, message) = ground.refuses(one(name, contents));
    match &error {
        MigrationError::Format { file, line, .. } => assert_eq!((file.as_str(), *line), (name, wanted), "{message}"),
        other => panic!("{name}: {other:?}"),
    }
    assert_has(&message, told);
    assert_has(&message, &[name]);
    if let Some(line) = wanted {
        assert_has(&message, &[&format!("line {line}:")]);
    }
}

#[test]
fn invalid_file_name_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    let how = &[
        "no version",
        "20260401120000_name.sql",
        "00001_name.sql",
        "001_name.sql",
        "elsewhere",
    ][..];
    for name in [
        "users.sql",
        "schema.sql",
        "up.sql",
        "users/up.sql",
        "V1_users.sql",
        "Version1__users.sql",
        "_001_users.sql",
        "users.down.sql",
    ] {
        refused_format(&ground, name, b"SELECT 1", None, how);
    }
    for (name, told) in [
        (
            "U2__users.sql",
            &["refinery", "Flyway", "V2__name.sql", "allow_gaps"][..],
        ),
        ("R__views.sql", &["repeatable"]),
        ("B5__all.sql", &["baseline", "Adopt::Applied"]),
        ("V1_1__users.sql", &["1_1 is no whole number"]),
        ("v2.3__users.sql", &["2.3 is no whole number"]),
        ("V2__users.rs", &["Rust", "write it in SQL"]),
        ("V0__users.sql", &["versions start at 1"]),
        (
            "2024-03_users.sql",
            &["2024-03 is no whole date", "would be 2024", "2024-03-05_name.sql"],
        ),
        ("2024_03.sql", &["2024_03 is no whole date"]),
        ("2024-3-5_users/up.sql", &["2024-3-5 is no whole date"]),
        ("2024-13-05_users.sql", &["2024-13-05 is no whole date"]),
    ] {
        refused_format(&ground, name, b"SELECT 1", None, told);
    }
    refused_format(
        &ground,
        "00002_add.go",
        b"package migrations",
        None,
        &["Go", "write it in SQL"],
    );
    for name in ["000_users.sql", "0.sql"] {
        refused_format(
            &ground,
            name,
            b"SELECT 1",
            None,
            &["versions start at 1", "0 stands for an empty database"],
        );
    }
    for name in ["9223372036854775808_a.sql", "99999999999999999999999_a.sql"] {
        refused_format(
            &ground,
            name,
            b"SELECT 1",
            None,
            &["too large", "the maximum is 9223372036854775807"],
        );
    }
    refused_format(
        &ground,
        "001_a.down.sql",
        b"SELECT 1",
        None,
        &["down script", "no file of the same name", "up script"],
    );
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

#[test]
fn largest_version_works() {
    let name = format!("{}_last.sql", i64::MAX);
    let ground = Ground::new();
    let largest = || files(&[(&name, "CREATE TABLE users(name TEXT)")]);
    assert_eq!(ground.opens(largest()), [i64::MAX as u64]);
    assert_eq!(ground.opens(largest()), [i64::MAX as u64]);
}

#[test]
fn down_file_must_have_the_same_name() {
    let ground = Ground::with(files(&[USERS]));
    for down in ["001_user.down.sql", "1_users.down.sql", "002_users.down.sql"] {
        let (error, message) = ground.refuses(Migrations::files([USERS, (down, "DROP TABLE users")]));
        assert!(
            matches!(&error, MigrationError::Format { file, .. } if file == down),
            "{error:?}"
        );
        assert_has(&message, &[down, "no file of the same name"]);
    }
    let (error, message) = ground.refuses(Migrations::files([USERS, ("001_users.down.sql", "DROP TABLE users")]));
    assert!(matches!(&error, MigrationError::Format { .. }), "{error:?}");
    assert_has(
        &message,
        &[
            "001_users.down.sql",
            "001_users.sql has a down script already",
            "keep one of the two",
        ],
    );
    let marked = [
        ("001_a.sql", "SELECT 1"),
        ("001_a.down.sql", "-- migrate:down\nSELECT 1"),
    ];
    let (error, message) = ground.refuses(Migrations::files(marked));
    assert!(matches!(&error, MigrationError::Format { .. }), "{error:?}");
    assert_has(&message, &["001_a.down.sql", "has no markers in it", "remove them"]);
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

#[test]
fn file_not_utf8_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    refused_format(
        &ground,
        "001_a.sql",
        b"SELECT 1;\nSELECT 'caf\xe9';",
        Some(2),
        &["not UTF-8", "save it"],
    );
    refused_format(
        &ground,
        "001_a.sql",
        b"SELECT 1;\r\n\r\nSELECT '\0';",
        Some(3),
        &["NUL byte", "UTF-8"],
    );
    refused_format(&ground, "001_a.sql", b"\xff\xfeS\0E\0L\0", Some(1), &["not UTF-8"]);
    refused_format(&ground, "001_a.sql", b"S\0E\0L\0", Some(1), &["NUL byte"]);
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

#[test]
fn down_marker_of_another_tool_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    for marker in [
        "-- +migrate Down",
        "-- !Downs",
        "--- !Downs",
        "-- Down",
        "-- DOWN:",
        "--- Undo ---",
        "-- //@UNDO",
        "-- rollback",
        "--rollback;",
        "-- @down",
        "   -- migrate:down",
        "  --\t+goose\tDown",
        "-- MIGRATE:DOWN",
        "-- ==== down ====",
        "/* migrate:down */",
        "/* Down */",
        "CREATE TABLE b(n); -- Down",
        "CREATE TABLE b(n); /* migrate:down */",
        "---- create above / drop below ----",
        "-- +migrate Down notransaction",
        "-- Down Migration",
        "-- +micrate Down -- drop it",
        "-- @UNDO, and what follows",
    ] {
        let text = format!("CREATE TABLE a(n);\n\n{marker}\nDROP TABLE a;\n");
        let told = [
            &*told_as(marker),
            "looks like a marker",
            "right after the up script",
            "-- migrate:down (Dbmate)",
            "-- +goose Down (Goose)",
            "Migration::down",
            "NNN_name.down.sql",
            "Migrations::plain_comments([1])",
        ];
        refused_format(&ground, "001_a.sql", text.as_bytes(), Some(3), &told);
        let windows = text.replace('\n', "\r\n");
        refused_format(&ground, "001_a.sql", windows.as_bytes(), Some(3), &told);
    }
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

/// The comment on this line, without what makes it one.
fn told_as(line: &str) -> String {
    let from = line.find("--").or(line.find("/*")).unwrap() + 2;
    format!("comment `{}`", line[from..].trim_end_matches("*/").trim())
}

/// A file that had one marker was not looked at for others, so what was below these ran as part of the way up.
#[test]
fn mistyped_down_marker_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    for (up, down) in [
        ("-- +goose Up", "  -- +goose Down"),
        ("-- +goose Up", "\t-- +goose down"),
        ("-- +goose Up", "-- goose Down"),
        ("-- +goose Up", "-- + goose Down"),
        ("-- +goose Up", "/* +goose Down */"),
        ("-- +goose Up", "-- migrate:down"),
        ("-- migrate:up", "  -- migrate:down"),
        ("-- migrate:up", "-- migrate down"),
        ("-- migrate:up", "-- migration:down"),
        ("-- migrate:up", "-- Migrate:Down"),
        ("-- migrate:up", "-- MIGRATE:DOWN transaction:false"),
        ("-- migrate:up", "/* migrate:down transaction:false */"),
        ("-- migrate:up", "-- +goose Down"),
        ("-- migrate:up", "-- +migrate Down notransaction"),
    ] {
        let text = format!("{up}\nCREATE TABLE a(n);\n{down}\nDROP TABLE a;\n");
        let told = [
            &*told_as(down),
            "looks like a marker",
            "right after the up script",
            "-- migrate:down (Dbmate)",
            "-- +goose Down (Goose)",
        ];
        refused_format(&ground, "001_a.sql", text.as_bytes(), Some(3), &told);
        let windows = text.replace('\n', "\r\n");
        refused_format(&ground, "001_a.sql", windows.as_bytes(), Some(3), &told);
    }
    refused_format(
        &ground,
        "001_a.sql",
        b"CREATE TABLE a(n);\n--\t+goose\tDown\nDROP TABLE a;\n",
        Some(2),
        &["-- +goose Down comes before -- +goose Up"],
    );
    let unknown = b"-- +goose Up\nCREATE TABLE a(n);\n-- +goose\tDwn\nDROP TABLE a;\n";
    refused_format(&ground, "001_a.sql", unknown, Some(3), &["+goose dwn", "does not know"]);
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

#[test]
fn goose_marker_with_a_tab_is_accepted() {
    let text = "-- +goose\tUp\nCREATE TABLE a(n);\n-- +goose\tDown\nDROP TABLE a;\n";
    let store = Ground::new().open(files(&[("001_a.sql", text)])).unwrap();
    store
        .read(|tx| tx.query_optional("SELECT n FROM a", [], |_| Ok(())))
        .unwrap();
    assert_eq!(store.migrate_to(0).unwrap().steps.len(), 1);
}

/// The text of a file with markers, by `include_str!`, ran from its beginning to its end: up, then down.
#[test]
fn list_refuses_text_with_markers() {
    let ground = Ground::with(files(&[USERS]));
    for (line, marker, text) in [
        (
            1,
            "-- migrate:up",
            "-- migrate:up\nCREATE TABLE a(n);\n-- migrate:down\nDROP TABLE a;\n",
        ),
        (
            1,
            "-- +goose Up",
            "-- +goose Up\nCREATE TABLE a(n);\n-- +goose Down\nDROP TABLE a;\n",
        ),
        (
            2,
            "-- migrate:down",
            "CREATE TABLE a(n);\n-- migrate:down\nDROP TABLE a;\n",
        ),
        (
            2,
            "-- +migrate Down",
            "CREATE TABLE a(n);\n-- +migrate Down\nDROP TABLE a;\n",
        ),
        (3, "-- rollback", "CREATE TABLE a(n);\n\n  -- rollback\nDROP TABLE a;\n"),
    ] {
        let list = || {
            Migrations::new([
                Migration::new(1, "users", USERS.1.lines().nth(1).unwrap()),
                Migration::new(2, "a", text),
            ])
        };
        for set in [
            list(),
            list().at_open(false),
            list().allow_gaps(true),
            Migrations::new([Migration::new(1, "users", text)
                .down("DROP TABLE a")
                .without_transaction()]),
        ] {
            let (error, message) = ground.refuses(set);
            match &error {
                MigrationError::Format { line: at, .. } => assert_eq!(*at, Some(line), "{message}"),
                other => panic!("{text:?}: {other:?}"),
            }
            assert_has(
                &message,
                &[&told_as(marker), "right after the up script", "Migration::down"],
            );
        }
        let (_, message) = ground.refuses(list());
        assert_has(&message, &[&format!("2 (a), line {line}:")]);
    }
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

#[test]
fn comment_resembling_a_down_marker_is_a_comment() {
    for comment in [
        "-- roll down the blinds and more",
        "-- slow down the writes",
        "/* drops the down payment */",
        "-- what comes below drops nothing",
        "-- How far down the tree a node is",
        "-- and that is all for undo, too",
        "-- 'down' is a column",
        "-- \"up\" or \"down\", nothing else",
        "-- (down, as everybody says)",
        "-- a rollback of this is not meant",
        "-- TODO: down the line, an index",
        "-- https://example.com/users/down",
        "--",
        "/* Up\n * and down the tree\n */",
        "-- migrated by hand",
        "-- the goose goes up",
        "-- slow down",
        "-- - slow down the writes",
        "/* Shut down. */",
        "INSERT INTO a VALUES ('-- migrate:down'), ('/* Down */');",
        "INSERT INTO a VALUES ('# Manual\n-- Down\n');",
    ] {
        let texts = [
            format!("CREATE TABLE a(n);\n{comment}\n/* */ CREATE TABLE b(n);\n"),
            format!(
                "-- migrate:up\nCREATE TABLE a(n);\n{comment}\n/* */ CREATE TABLE b(n);\n-- migrate:down\nSELEKT;\n"
            ),
            format!("-- +goose Up\nCREATE TABLE a(n);\n{comment}\n/* */ CREATE TABLE b(n);\n-- +goose Down\nSELEKT;\n"),
        ];
        let mut sets: Vec<_> = texts.iter().map(|text| files(&[("001_a.sql", text)])).collect();
        sets.push(Migrations::new([Migration::new(1, "a", &texts[0])]));
        for set in sets {
            let store = Options::new()
                .migrations(set)
                .open_temp()
                .unwrap_or_else(|error| panic!("{comment:?}: {error}"));
            store
                .read(|tx| tx.query_optional("SELECT a.n FROM a, b", [], |_| Ok(())))
                .unwrap();
        }
    }
}

#[test]
fn dbmate_file_invalid_to_dbmate_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    const UP: &str = "-- migrate:up\nSELECT 1;\n";
    for (line, told, text) in [
        (
            1,
            &["SQL before -- migrate:up", "move it below"][..],
            format!("SELECT 0;\n\n{UP}"),
        ),
        (
            3,
            &["second -- migrate:up", "a migration of its own"],
            format!("{UP}{UP}"),
        ),
        (
            1,
            &["-- migrate:down comes before -- migrate:up"],
            format!("-- migrate:down\nSELECT 0;\n{UP}"),
        ),
        (
            1,
            &["-- migrate:down comes before -- migrate:up"],
            "-- migrate:down\nSELECT 0;\n".into(),
        ),
        (
            4,
            &["second -- migrate:down"],
            format!("{UP}-- migrate:down\n-- migrate:down\n"),
        ),
        (
            1,
            &["does not know the option transaction:no", "transaction:false"],
            "-- migrate:up transaction:no\nSELECT 1;\n".into(),
        ),
        (
            3,
            &["does not know the option later"],
            format!("{UP}-- migrate:down transaction:false later\nSELECT 1;\n"),
        ),
        (
            3,
            &["migrate:sideways", "neither"],
            format!("{UP}-- migrate:sideways\n"),
        ),
        (1, &["migrate:", "neither"], format!("-- migrate:\n{UP}")),
    ] {
        refused_format(&ground, "001_a.sql", text.as_bytes(), Some(line), told);
        let windows = text.replace('\n', "\r\n");
        refused_format(&ground, "001_a.sql", windows.as_bytes(), Some(line), told);
    }
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

#[test]
fn sql_before_first_marker_is_named_by_line() {
    let ground = Ground::new();
    for (line, before) in [
        (1, "SELECT 0;"),
        (2, "\nSELECT 0;"),
        (3, "-- Users.\n\nSELECT 0;"),
        (2, "/* Users,\n   and more */ SELECT 0;"),
        (4, "/* Users,\n   and more */\n\n  SELECT\n 0;"),
    ] {
        for marker in ["-- migrate:up", "-- +goose Up"] {
            let text = format!("{before}\n{marker}\nSELECT 1;\n");
            let told = [&*format!("SQL before {marker}"), "move it below"];
            for text in [text.replace('\n', "\r\n"), text] {
                refused_format(&ground, "001_a.sql", text.as_bytes(), Some(line), &told);
            }
        }
    }
}

#[test]
fn version_zero_is_refused_in_list() {
    let ground = Ground::with(files(&[USERS]));
    let zero = Migrations::new([Migration::new(0, "nothing", "SELECT 1")]);
    let (error, message) = ground.refuses(zero);
    assert!(matches!(error, MigrationError::Format { line: None, .. }), "{error:?}");
    assert_has(&message, &["0 (nothing)", "versions start at 1"]);
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

/// It was applied and recorded, and then the record could not be read: no program opened the database any more.
#[test]
fn version_too_large_is_refused_in_list() {
    let ground = Ground::with(files(&[USERS]));
    for version in [i64::MAX as u64 + 1, u64::MAX] {
        let list = || {
            let users = Migration::new(1, "users", USERS.1.lines().nth(1).unwrap());
            let last = Migration::new(version, "last", "CREATE TABLE t(n)").down("DROP TABLE t");
            Migrations::new([users, last])
        };
        for list in [list(), list().allow_gaps(true), list().at_open(false)] {
            let (error, message) = ground.refuses(list);
            assert!(matches!(error, MigrationError::Format { line: None, .. }), "{error:?}");
            assert_has(
                &message,
                &[
                    &format!("{version} (last)"),
                    "version is too large",
                    "the maximum is 9223372036854775807",
                ],
            );
        }
    }
    let ground = Ground::new();
    let largest = || Migrations::new([Migration::new(i64::MAX as u64, "last", "SELECT 1")]);
    assert_eq!(ground.opens(largest()), [i64::MAX as u64]);
    assert_eq!(ground.opens(largest()), [i64::MAX as u64]);
}

// ---- nothing ----

#[test]
fn empty_set_is_refused_and_undoes_nothing() {
    let empty_folder = tempdir().unwrap();
    fs::write(empty_folder.path().join("README.md"), "Soon.").unwrap();
    let folder = empty_folder.path().to_str().unwrap();
    for ground in [Ground::new(), Ground::with(files(&[USERS, EMAIL]))] {
        for (empty, origin) in [
            (Migrations::new([]), "the list"),
            (files(&[]), "the embedded files"),
            (files(&[("README.md", "Soon.")]), "the embedded files"),
            (Migrations::folder(folder).unwrap(), folder),
            (Migrations::new([]).allow_gaps(true), "the list"),
            (Migrations::new([]).at_open(false), "the list"),
        ] {
            let (error, message) = ground.refuses(empty);
            assert!(matches!(error, MigrationError::Empty { .. }), "{error:?}");
            assert_has(
                &message,
                &[
                    "no migrations in",
                    origin,
                    "an empty set undoes nothing",
                    "open with the full set and call migrate_to(0)",
                ],
            );
        }
        assert_eq!(ground.opens(files(&[USERS, EMAIL])), [1, 2]);
    }
}

#[test]
fn refused_set_creates_no_file() {
    let ground = Ground::new();
    ground.refuses(Migrations::new([]));
    ground.refuses(files(&[USERS, ORDERS]));
    assert!(!ground.path.exists());
}

#[test]
fn migration_with_empty_up_part_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    let told = ["the up script has no statement", "write one", "SELECT 1"];
    for blank in [
        "",
        "\u{feff}",
        " \r\n\t",
        "-- Later.\n",
        "/* Later. */ ;;\n",
        "-- migrate:up\n-- migrate:down\nDROP TABLE users;\n",
        "-- migrate:up transaction:false\n-- Later.\n-- migrate:down\nDROP TABLE users;\n",
        "-- +goose Up\n-- +goose StatementBegin\n-- +goose StatementEnd\n-- +goose Down\nDROP TABLE users;\n",
    ] {
        refused_format(&ground, "002_later.sql", blank.as_bytes(), None, &told);
    }
    let list = |sql: &str| {
        let users = Migration::new(1, "users", USERS.1.lines().nth(1).unwrap());
        Migrations::new([users, Migration::new(2, "later", sql).down("DROP TABLE users")])
    };
    for list in [list(""), list("-- Later."), list(";").at_open(false)] {
        let (error, message) = ground.refuses(list);
        assert!(matches!(error, MigrationError::Format { line: None, .. }), "{error:?}");
        assert_has(&message, &told);
        assert_has(&message, &["2 (later)"]);
    }
    assert_eq!(ground.opens(files(&[USERS, ("002_later.sql", "SELECT 1")])), [1, 2]);
}

#[test]
fn empty_migration_is_refused_before_any_is_applied() {
    let ground = Ground::new();
    let create = "CREATE TABLE users(name TEXT)";
    let list = [Migration::new(1, "users", create), Migration::new(2, "later", "")];
    let (error, _) = ground.refuses(Migrations::new(list));
    assert!(matches!(error, MigrationError::Format { .. }), "{error:?}");
    assert!(!ground.path.exists());
}

/// What came after the NUL was left out, and the migration recorded as applied.
#[test]
fn nul_in_sql_of_list_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    for sql in [
        "CREATE TABLE a(n);\0CREATE TABLE b(n)",
        "CREATE TABLE a(n)\0",
        "\0CREATE TABLE a(n)",
    ] {
        let (error, message) = ground.refuses(Migrations::new([Migration::new(1, "a", sql)]));
        assert!(matches!(error, MigrationError::Format { .. }), "{error:?}");
        assert_has(&message, &["1 (a)", "NUL"]);
    }
    assert_eq!(ground.opens(files(&[USERS])), [1]);
}

// ---- ways down ----

#[test]
fn migration_without_down_part_is_not_undone() {
    let no_way_back = ("002_email.sql", "ALTER TABLE users ADD COLUMN email TEXT");
    let all = || files(&[USERS, no_way_back, ORDERS]);
    let ground = Ground::with(files(&[USERS, no_way_back]));
    let before = ground.contents();
    let store = ground.open(files(&[USERS, no_way_back])).unwrap();
    for target in [0, 1] {
        let error = store.migrate_to(target).unwrap_err();
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
        assert_has(
            &error.to_string(),
            &[
                "002_email.sql cannot be undone",
                "write it (or restore its file), or restore a backup",
            ],
        );
        match error {
            Error::Migration(error) => {
                assert!(matches!(*error, MigrationError::NoDown { version: 2, .. }), "{error:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    store.close().unwrap();
    assert_eq!(ground.contents(), before);
    let store = ground.open(all()).unwrap();
    store.migrate_to(2).unwrap();
    assert_eq!(applied(&store), [1, 2], "what has one is");
}

/// What came after it was undone, and then it was found.
#[test]
fn undo_is_checked_before_its_first_step() {
    let no_way_back = ("002_email.sql", "ALTER TABLE users ADD COLUMN email TEXT");
    let more = (
        "004_more.sql",
        "-- migrate:up\nCREATE TABLE more(n);\n-- migrate:down\nDROP TABLE more;\n",
    );
    let ground = Ground::with(files(&[USERS, no_way_back, ORDERS, more]));
    let before = ground.contents();
    let store = ground.open(files(&[USERS, no_way_back, ORDERS, more])).unwrap();
    for target in [1, 0] {
        let error = store.migrate_to(target).unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotStarted);
        assert_has(&error.to_string(), &["002_email.sql cannot be undone"]);
        assert_eq!(applied(&store), [1, 2, 3, 4]);
    }
    store.close().unwrap();
    assert_eq!(ground.contents(), before);
}

#[test]
fn unknown_target_version_is_refused() {
    let ground = Ground::with(files(&[USERS, EMAIL]));
    let before = ground.contents();
    let store = ground.open(files(&[USERS, EMAIL, ORDERS]).at_open(false)).unwrap();
    for target in [4, 20260401, u64::MAX] {
        let error = store.migrate_to(target).unwrap_err();
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
        assert_has(
            &error.to_string(),
            &[&format!("version {target}"), "Store::migrations", "0 to undo all"],
        );
        match error {
            Error::Migration(error) => match *error {
                MigrationError::NoSuchVersion { version } => assert_eq!(version, target),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
    store.close().unwrap();
    assert_eq!(ground.contents(), before);
    let store = ground.open(files(&[USERS, EMAIL, ORDERS])).unwrap();
    store.migrate_to(1).unwrap();
    assert_eq!(applied(&store), [1]);
}

// ---- a record that larder cannot keep ----

#[test]
fn table_of_another_tool_as_record_is_refused() {
    // golang-migrate's.
    let ground = Ground::made_by(
        "CREATE TABLE schema_migrations (version uint64, dirty bool);
         CREATE UNIQUE INDEX version_unique ON schema_migrations (version);
         INSERT INTO schema_migrations VALUES (1, 0);
         CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL); INSERT INTO users VALUES (1, 'ann')",
    );
    let (error, message) = ground.refuses(files(&[USERS, EMAIL]));
    assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
    assert_has(
        &message,
        &[
            "golang-migrate",
            "schema_migrations",
            "version, dirty",
            "RENAME TO former_migrations",
            "Adopt::Applied(versions)",
        ],
    );
    // The way out.
    ground.by_hand("ALTER TABLE schema_migrations RENAME TO former_migrations");
    assert_eq!(
        ground.opens(files(&[USERS, EMAIL]).adopt(Adopt::Applied(vec![1]))),
        [1, 2]
    );
}

#[test]
fn recorded_version_not_a_number_is_refused() {
    for (value, told) in [
        ("'v1'", "\"v1\""),
        ("''", "\"\""),
        ("NULL", "\"\""),
        ("'-1'", "\"-1\""),
        ("'1.5'", "\"1.5\""),
    ] {
        let ground = Ground::with(files(&[USERS]));
        ground.by_hand(&format!("INSERT INTO schema_migrations VALUES ({value})"));
        let (error, message) = ground.refuses(files(&[USERS, EMAIL]));
        assert!(matches!(error, MigrationError::Record { .. }), "{error:?}");
        assert_has(
            &message,
            &["schema_migrations", told, "not a version", "correct or delete it"],
        );
        ground.by_hand("DELETE FROM schema_migrations WHERE version IS NOT '001'");
        assert_eq!(ground.opens(files(&[USERS, EMAIL])), [1, 2]);
    }
}

#[test]
fn duplicate_version_in_record_is_refused() {
    for (first, second) in [("1", "001"), ("0001", "01")] {
        let ground = Ground::made_by(&format!(
            "CREATE TABLE schema_migrations(version varchar(128) primary key);
             INSERT INTO schema_migrations VALUES ('{first}'), ('{second}');
             CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL)"
        ));
        let (error, message) = ground.refuses(files(&[USERS, EMAIL]));
        assert!(
            matches!(
                error,
                MigrationError::Record {
                    table: "schema_migrations",
                    ..
                }
            ),
            "{error:?}"
        );
        assert_has(
            &message,
            &["schema_migrations", "version 1 twice", "delete one of them"],
        );
        assert!(message.contains(&format!("{first:?}")) || message.contains(&format!("{second:?}")));
        ground.by_hand(&format!("DELETE FROM schema_migrations WHERE version = '{second}'"));
        assert_eq!(ground.opens(files(&[USERS, EMAIL])), [1, 2]);
    }
}

#[test]
fn foreign_table_named_larder_migrations_is_refused() {
    for columns in [
        "id INTEGER, what TEXT",
        "version TEXT, name TEXT",
        "version TEXT, name TEXT, checksum TEXT, applied_at TEXT, duration_us INTEGER",
    ] {
        let ground = Ground::made_by(&format!("CREATE TABLE larder_migrations({columns})"));
        let (error, message) = ground.refuses(files(&[USERS]));
        assert!(
            matches!(
                error,
                MigrationError::Record {
                    table: "larder_migrations",
                    ..
                }
            ),
            "{error:?}"
        );
        let names: Vec<_> = columns
            .split(", ")
            .map(|column| column.split(' ').next().unwrap())
            .collect();
        assert_has(
            &message,
            &[
                "larder_migrations",
                &names.join(", "),
                "another tool created it",
                "rename it",
            ],
        );
        let store = ground.open(files(&[USERS]).at_open(false)).unwrap();
        for error in [store.migrate().unwrap_err(), store.migrations().unwrap_err()] {
            assert_has(&error.to_string(), &["larder_migrations", "rename it"]);
        }
        store.close().unwrap();
        ground.by_hand("ALTER TABLE larder_migrations RENAME TO other");
        assert_eq!(ground.opens(files(&[USERS])), [1]);
    }
}

#[test]
fn extra_column_in_larder_migrations_is_accepted() {
    let ground = Ground::with(files(&[USERS]));
    ground.by_hand("ALTER TABLE larder_migrations ADD COLUMN more TEXT");
    assert_eq!(ground.opens(files(&[USERS, EMAIL])), [1, 2]);
}

#[test]
fn negative_user_version_counts_no_migrations() {
    for user_version in [-1, i32::MIN] {
        let ground = Ground::made_by(&format!("PRAGMA user_version = {user_version}"));
        let (error, message) = ground.refuses(files(&[USERS]).adopt(Adopt::UserVersion));
        assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
        assert_has(
            &message,
            &[
                &format!("user_version {user_version}"),
                "is no count of migrations",
                "Adopt::Nothing",
            ],
        );
        assert_eq!(ground.opens(files(&[USERS]).adopt(Adopt::Nothing)), [1]);
    }
}

#[test]
fn migration_that_changes_the_record_is_named() {
    for (sql, told) in [
        ("DELETE FROM schema_migrations", "a change of schema_migrations"),
        (
            "INSERT INTO schema_migrations VALUES ('002')",
            "a change of schema_migrations",
        ),
        (
            "INSERT INTO schema_migrations VALUES ('7')",
            "a change of schema_migrations",
        ),
        (
            "UPDATE schema_migrations SET version = '7'",
            "a change of schema_migrations",
        ),
        ("DROP TABLE schema_migrations", "a change of schema_migrations"),
        (
            "INSERT INTO schema_migrations VALUES ('head')",
            "schema_migrations is not a valid record",
        ),
        (
            "ALTER TABLE schema_migrations ADD COLUMN dirty",
            "schema_migrations is not a valid record",
        ),
    ] {
        let ground = Ground::with(files(&[USERS]));
        let before = ground.contents();
        let text = format!("-- migrate:up\nCREATE TABLE a(n);\n{sql};\n");
        let error = ground.open(files(&[USERS, ("002_a.sql", &text)])).unwrap_err();
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::RolledBack, false));
        assert_has(&error.to_string(), &["002_a.sql", told]);
        match error {
            Error::Migration(error) => {
                assert!(
                    matches!(
                        *error,
                        MigrationError::Failed {
                            version: 2,
                            kept: 0,
                            ..
                        }
                    ),
                    "{error:?}"
                )
            }
            other => panic!("{sql}: {other:?}"),
        }
        assert_eq!(ground.contents(), before);
        assert_eq!(ground.opens(files(&[USERS])), [1]);
    }
    // On its way down, too.
    let ground = Ground::with(files(&[USERS]));
    let down = "-- migrate:up\nCREATE TABLE a(n);\n-- migrate:down\nDROP TABLE a;\nDELETE FROM schema_migrations;\n";
    let store = ground.open(files(&[USERS, ("002_a.sql", down)])).unwrap();
    let error = store.migrate_to(1).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_has(&error.to_string(), &["002_a.sql", "a change of schema_migrations"]);
    assert_eq!(applied(&store), [1, 2]);
}

// ---- what cannot be read ----

#[test]
fn unreadable_folder_or_file_is_refused() {
    let ground = Ground::with(files(&[USERS]));
    let folder = tempdir().unwrap();
    let missing = folder.path().join("missing");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let with_link = folder.path().join("with_link");
    fs::create_dir(&with_link).unwrap();
    let link = with_link.join("001_users.sql");
    std::os::unix::fs::symlink("gone", &link).unwrap();
    for (path, told) in [(&missing, &missing), (&file, &file), (&with_link, &link)] {
        let (error, message) = ground.refuses(Migrations::folder(path));
        match &error {
            MigrationError::Read { path, .. } => assert_eq!(path, told),
            other => panic!("{other:?}"),
        }
        assert_has(&message, &[told.to_str().unwrap(), "cannot be read", "os error"]);
    }
    fs::remove_file(&link).unwrap();
    fs::write(&link, USERS.1).unwrap();
    assert_eq!(ground.opens(Migrations::folder(&with_link).unwrap()), [1]);
}

// ---- what was begun and not finished ----

fn outside_a_transaction(sql: &'static str) -> Migrations {
    let users =
        Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT)").down("DROP TABLE users");
    let second = Migration::new(2, "loose", sql)
        .down("DROP TABLE a; DROP TABLE b")
        .without_transaction();
    Migrations::new([users, second])
}

/// Waits for another process that might be running the migration, but not for a minute.
fn impatient() -> Options {
    Options::new().migration_timeout(Duration::from_millis(1))
}

#[test]
fn failed_migration_outside_transaction_is_not_repeated() {
    let ground = Ground::with(Migrations::new(outside_a_transaction("").iter().take(1).cloned()));
    let error = ground
        .open(outside_a_transaction("CREATE TABLE a(n); CREATE TABLE a(n)"))
        .unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Partial, false));
    assert_has(
        &error.to_string(),
        &["2 (loose)", "table a already exists", "stay", "undo it by hand"],
    );

    let before = ground.contents();
    let mended = || outside_a_transaction("CREATE TABLE a(n); CREATE TABLE b(n)");
    let error = impatient().migrations(mended()).open(&ground.path).unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
    let message = error.to_string();
    assert_has(
        &message,
        &[
            "2 (loose)",
            "started (up) and not finished",
            "check the database",
            "by hand",
        ],
    );
    match error {
        Error::Migration(error) => match *error {
            MigrationError::Unfinished {
                file,
                version,
                direction,
            } => assert_eq!((&*file, &*version, direction), ("2 (loose)", "2", Direction::Up)),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    assert_eq!(ground.contents(), before);

    // Both ways out, as the message has them.
    let finished = Ground::new();
    fs::copy(&ground.path, &finished.path).unwrap();
    finished.by_hand(&format!(
        "CREATE TABLE b(n); {}",
        sql_of(&message, "if you finished it by hand")
    ));
    let as_it_was_begun = outside_a_transaction("CREATE TABLE a(n); CREATE TABLE a(n)");
    assert_eq!(finished.opens(as_it_was_begun), [1, 2]);
    ground.by_hand(&format!(
        "DROP TABLE a; {}",
        sql_of(&message, "if you undid it by hand")
    ));
    assert_eq!(ground.opens(mended()), [1, 2]);
}

/// The statements that a message tells to run in this case.
#[track_caller]
fn sql_of<'m>(message: &'m str, case: &str) -> &'m str {
    let rest = &message[message.find(case).unwrap()..];
    let rest = &rest[rest.find("run ").unwrap() + "run ".len()..];
    &rest[..rest.find("; if ").unwrap_or(rest.len())]
}

/// "Mend it and try again", it said, and the mended one was refused as begun and not finished.
#[test]
fn repaired_first_statement_outside_transaction_is_retried() {
    let ground = Ground::with(Migrations::new(outside_a_transaction("").iter().take(1).cloned()));
    let error = ground.open(outside_a_transaction("CREAT TABLE a(n)")).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_has(
        &error.to_string(),
        &["the database is unchanged", "fix the migration, then try again"],
    );
    let mended = outside_a_transaction("CREATE TABLE a(n); CREATE TABLE b(n)");
    let opened = impatient().migrations(mended).open(&ground.path);
    assert_eq!(
        opened.map(|store| applied(&store)).map_err(|error| error.to_string()),
        Ok(vec![1, 2])
    );
}

/// The mark was replaced at the next step: the database counted as fully migrated, with half of it undone.
#[test]
fn failed_undo_outside_transaction_is_unfinished() {
    let set = || outside_a_transaction("CREATE TABLE a(n)");
    let ground = Ground::with(set());
    let store = impatient().migrations(set()).open(&ground.path).unwrap();
    let error = store.migrate_to(1).unwrap_err();
    assert_eq!(
        error.outcome(),
        Outcome::Partial,
        "a is dropped, b was never there: {error}"
    );
    for (call, result) in [("down", store.migrate_to(1)), ("up", store.migrate())] {
        match result {
            Err(Error::Migration(error)) if matches!(*error, MigrationError::Unfinished { .. }) => {}
            other => panic!("{call}: {other:?}"),
        }
    }
    store.close().unwrap();
    let before = ground.contents();
    for _ in 0..2 {
        let error = impatient().migrations(set()).open(&ground.path).unwrap_err();
        assert_has(&error.to_string(), &["2 (loose)", "started (down) and not finished"]);
    }
    assert_eq!(ground.contents(), before, "the mark is still there");

    // Both ways out, as the message has them.
    let error = impatient().migrations(set()).open(&ground.path).unwrap_err();
    let message = error.to_string();
    let finished = Ground::new();
    fs::copy(&ground.path, &finished.path).unwrap();
    finished.by_hand(sql_of(&message, "if you finished it by hand"));
    let store = finished.open(set().at_open(false)).unwrap();
    assert_eq!(applied(&store), [1]);
    assert_eq!(store.migrate().unwrap().steps.len(), 1);
    store.close().unwrap();
    ground.by_hand(&format!(
        "CREATE TABLE a(n); {}",
        sql_of(&message, "if you undid it by hand")
    ));
    let store = ground.open(set()).unwrap();
    let again = store.migrations().unwrap().applied;
    assert_eq!(again.len(), 2);
    assert!(
        again[1].applied_at.is_some() && again[1].duration.is_some(),
        "{again:?}"
    );
    assert!(
        before
            .unwrap()
            .iter()
            .any(|row| row.starts_with("larder_migrations: ") && row.ends_with("Integer(2)]"))
    );
}

#[test]
fn unfinished_migration_blocks_every_call() {
    let third = || Migration::new(3, "third", "CREATE TABLE c(n)").down("DROP TABLE c");
    let set = |sql| Migrations::new(outside_a_transaction(sql).iter().cloned().chain([third()]));
    let ground = Ground::with(Migrations::new(outside_a_transaction("").iter().take(1).cloned()));
    ground.open(set("CREATE TABLE a(n); CREATE TABLE a(n)")).unwrap_err();
    let before = ground.contents();
    let mended = || set("CREATE TABLE a(n); CREATE TABLE b(n)");
    let options = || impatient().migrations(mended().at_open(false));
    let store = options().open(&ground.path).unwrap();
    for (call, result) in [
        ("migrate", store.migrate()),
        ("up to it", store.migrate_to(2)),
        ("past it", store.migrate_to(3)),
        ("to before it", store.migrate_to(1)),
        ("down from before it", store.migrate_to(0)),
        ("dry run on the schema", store.migrate_dry_run(DryRun::Schema)),
        ("dry run on a backup", store.migrate_dry_run(DryRun::Backup)),
    ] {
        match result {
            Err(Error::Migration(error)) => match &*error {
                MigrationError::Unfinished { file, version, .. } => {
                    assert_eq!((file.as_str(), version.as_str()), ("2 (loose)", "2"), "{call}");
                }
                other => panic!("{call}: {other:?}"),
            },
            other => panic!("{call}: {other:?}"),
        }
    }
    let status = store.migrations().unwrap();
    let pending: Vec<_> = status.pending.iter().map(|migration| migration.version).collect();
    assert_eq!(pending, [2, 3], "to look is allowed");
    store.close().unwrap();
    assert_eq!(ground.contents(), before);
    // Also where it is not the next one.
    let late = Migrations::new(mended().iter().cloned()).allow_gaps(true);
    ground.by_hand("UPDATE larder_migrations SET version = '3', name = 'third' WHERE version = '2'");
    let error = impatient().migrations(late).open(&ground.path).unwrap_err();
    assert_has(
        &error.to_string(),
        &["3 (third)", "started (up) and not finished", "WHERE version = '3'"],
    );
    ground.by_hand("DELETE FROM larder_migrations WHERE version = '3'; DROP TABLE a");
    assert_eq!(ground.opens(mended()), [1, 2, 3]);
}

/// It named the version as the file had it by now, and what it told to run did nothing.
#[test]
fn recovery_message_has_the_recorded_version() {
    let text = "-- migrate:up transaction:false\nCREATE TABLE a(n);\nSELEKT 1;\n";
    let mended = text.replace("SELEKT", "SELECT");
    for (first, then) in [
        ("002_a.sql", "002_a.sql"),
        ("02_a.sql", "0002_a.sql"),
        ("2_a.sql", "002_a.sql"),
    ] {
        let ground = Ground::with(files(&[USERS]));
        let error = ground.open(files(&[USERS, (first, text)])).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Partial);
        let recorded = first.strip_suffix("_a.sql").unwrap();
        let unfinished = impatient()
            .migrations(files(&[USERS, (then, &mended)]))
            .open(&ground.path);
        let message = unfinished.unwrap_err().to_string();
        assert_has(&message, &[then, &format!("version = '{recorded}'")]);
        ground.by_hand(&format!(
            "DROP TABLE a; {}",
            sql_of(&message, "if you undid it by hand")
        ));
        assert_eq!(ground.opens(files(&[USERS, (then, &mended)])), [1, 2]);
    }
}

/// A mark was left under the version as the file had it, and no program opened the database any more.
#[test]
fn undo_outside_transaction_accepts_other_leading_zeros() {
    let text = "-- migrate:up\nCREATE TABLE a(n);\n-- migrate:down transaction:false\nDROP TABLE a;\n";
    let ground = Ground::with(files(&[USERS, ("02_a.sql", text)]));
    let renamed = || files(&[USERS, ("002_a.sql", text)]);
    let store = impatient().migrations(renamed()).open(&ground.path).unwrap();
    assert_eq!(store.migrate_to(1).unwrap().steps.len(), 1);
    assert_eq!(applied(&store), [1]);
    store.close().unwrap();
    assert_eq!(ground.opens(renamed()), [1, 2]);
}

#[test]
fn undo_failed_at_first_statement_is_retried() {
    let set = |down: &str| {
        let users = Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT)");
        Migrations::new([
            users,
            Migration::new(2, "loose", "CREATE TABLE a(n)")
                .down(down)
                .without_transaction(),
        ])
    };
    let ground = Ground::with(set("DROP TABLE typo"));
    let before = ground.contents();
    let store = impatient()
        .migrations(set("DROP TABLE typo"))
        .open(&ground.path)
        .unwrap();
    for _ in 0..2 {
        let error = store.migrate_to(1).unwrap_err();
        assert_eq!(error.outcome(), Outcome::RolledBack);
        assert_has(
            &error.to_string(),
            &["2 (loose)", "no such table: typo", "fix the migration, then try again"],
        );
        assert_eq!(applied(&store), [1, 2]);
    }
    store.close().unwrap();
    assert_eq!(
        ground.contents(),
        before,
        "also when it was applied, and how long that took"
    );
    let store = impatient().migrations(set("DROP TABLE a")).open(&ground.path).unwrap();
    assert_eq!(store.migrate_to(1).unwrap().steps.len(), 1);
    assert_eq!(applied(&store), [1]);
}

// ---- a store without migrations ----

#[test]
fn migrating_without_migrations_fails_and_store_works() {
    let store = Store::open_temp().unwrap();
    for error in [
        store.migrations().unwrap_err(),
        store.migrate().unwrap_err(),
        store.migrate_to(1).unwrap_err(),
        store.migrate_to(0).unwrap_err(),
        store.migrate_dry_run(DryRun::Schema).unwrap_err(),
        store.migrate_dry_run(DryRun::Backup).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                Error::Options {
                    option: "migrations",
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
        assert_has(
            &error.to_string(),
            &["migrations", "opened without them", "Options::migrations"],
        );
    }
    store.write(|tx| tx.execute_batch("CREATE TABLE t(n)")).unwrap();
}

#[test]
fn store_without_migrations_opens_any_database() {
    let ground = Ground::with(files(&[USERS, EMAIL]));
    let before = ground.contents();
    let store = Store::open(&ground.path).unwrap();
    store.close().unwrap();
    assert_eq!(ground.contents(), before);
}

#[test]
fn store_without_writes_leaves_file_unchanged() {
    let ground = Ground::with(files(&[USERS]));
    ground.by_hand(
        "DROP TABLE IF EXISTS sqlite_stat4; DROP TABLE IF EXISTS sqlite_stat1;
         CREATE INDEX by_name ON users(name);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO users(name) SELECT 'user ' || i FROM n",
    );
    let before = fs::read(&ground.path).unwrap();
    let failing = "SELECT * FROM users WHERE name = 'ann';\nSELEKT 1;\n";
    let error = ground.open(files(&[USERS, ("002_a.sql", failing)])).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert!(
        fs::read(&ground.path).unwrap() == before,
        "after a migration that failed"
    );
    ground.refuses(files(&[ORDERS]));
    assert!(fs::read(&ground.path).unwrap() == before, "after a refusal");
    assert_eq!(ground.opens(files(&[USERS])), [1]);
    assert!(fs::read(&ground.path).unwrap() == before, "after a look");
}

// ---- after any refusal ----

#[test]
fn refused_file_opens_at_once_in_same_process() {
    let ground = Ground::with(files(&[USERS, EMAIL]));
    for _ in 0..5 {
        ground.refuses(files(&[USERS]));
        assert_eq!(ground.opens(files(&[USERS, EMAIL])), [1, 2]);
    }
}

#[test]
fn store_without_migration_at_open_survives_refusal() {
    let ground = Ground::with(files(&[USERS, EMAIL, ORDERS]));
    let store = ground.open(files(&[USERS, EMAIL]).at_open(false)).unwrap();
    store.migrate().unwrap_err();
    store
        .write(|tx| tx.execute("INSERT INTO users(name) VALUES ('cat')", []))
        .unwrap();
    let rows: i64 = store
        .read(|tx| tx.query_row("SELECT count(*) FROM users", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(rows, 3);
    assert_eq!(applied(&store), [1, 2, 3]);
}

// ---- a record that does not keep what is entered ----

/// Without an error, the same step would be made again and again, since the record says that it was not.
#[test]
fn record_that_loses_entries_is_an_error() {
    for (table, by) in [
        (
            "schema_migrations",
            "CREATE TRIGGER lost AFTER INSERT ON schema_migrations BEGIN
                 DELETE FROM schema_migrations WHERE version = new.version;
             END",
        ),
        (
            "schema_migrations",
            "CREATE TRIGGER lost BEFORE INSERT ON schema_migrations BEGIN SELECT raise(IGNORE); END",
        ),
        (
            "larder_migrations",
            "DELETE FROM larder_migrations;
             CREATE TRIGGER lost AFTER INSERT ON larder_migrations BEGIN
                 DELETE FROM larder_migrations WHERE version = new.version;
             END",
        ),
        (
            "larder_migrations",
            "DELETE FROM larder_migrations; CREATE UNIQUE INDEX lost ON larder_migrations(checksum IS NULL)",
        ),
    ] {
        let ground = Ground::with(files(&[USERS, EMAIL]));
        ground.by_hand(by);
        let before = ground.contents();
        let third = (
            "003_any.sql",
            "CREATE TABLE IF NOT EXISTS any(a); INSERT INTO any VALUES (1);",
        );
        let error = ground.open(files(&[USERS, EMAIL, third])).unwrap_err();
        assert_has(&error.to_string(), &[table, "does not keep", "drop it"]);
        assert_eq!(ground.contents(), before, "{by}");
        let kind = if by.contains("TRIGGER") { "TRIGGER" } else { "INDEX" };
        ground.by_hand(&format!("DROP {kind} lost"));
        assert_eq!(ground.opens(files(&[USERS, EMAIL, third])), [1, 2, 3]);
    }
}
