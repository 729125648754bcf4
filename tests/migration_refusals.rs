//! probe
use larder::rusqlite::Connection;
use larder::{Adopt, DryRun, Migration, Migrations, Options};
use std::time::{Duration, Instant};
use tempfile::tempdir;

fn show<T: std::fmt::Debug>(what: &str, r: larder::Result<T>) {
    match r {
        Ok(v) => println!("## {what}: OK {v:?}"),
        Err(e) => println!("## {what}: {e}\n     [{:?} retry {}]", e.outcome(), e.is_retryable()),
    }
}
fn ms() -> Vec<Migration> {
    vec![
        Migration::new(1, "a", "CREATE TABLE a(x) STRICT").down("DROP TABLE a"),
        Migration::new(2, "b", "CREATE TABLE b(x INTEGER) STRICT").down("DROP TABLE b"),
    ]
}
#[test]
fn probe() {
    let f = tempdir().unwrap();
    let p = |n: &str| f.path().join(n);
    let ok = || {
        vec![
            Migration::new(1, "a", "CREATE TABLE a(x INTEGER) STRICT").down("DROP TABLE a"),
            Migration::new(2, "b", "CREATE TABLE b(x INTEGER) STRICT").down("DROP TABLE b"),
        ]
    };
    show(
        "failed",
        Options::new()
            .migrations(Migrations::new(ms()))
            .open(p("0.db"))
            .map(|_| ()),
    );
    // adopt uv then down to 0
    Connection::open(p("1.db"))
        .unwrap()
        .execute_batch("CREATE TABLE a(x); CREATE TABLE b(x); PRAGMA user_version=2")
        .unwrap();
    let s = Options::new()
        .migrations(Migrations::new(ok()).adopt(Adopt::UserVersion).at_open(false))
        .open(p("1.db"))
        .unwrap();
    show("status before adoption", s.migrations());
    show("dry schema", s.migrate_dry_run(DryRun::Schema));
    show("dry backup", s.migrate_dry_run(DryRun::Backup));
    show("migrate", s.migrate());
    show("status", s.migrations());
    show("to 0 after adoption", s.migrate_to(0));
    show("status", s.migrations());
    drop(s);
    // goose
    Connection::open(p("2.db")).unwrap().execute_batch("CREATE TABLE a(x); CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL, is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')));
      INSERT INTO goose_db_version(version_id,is_applied) VALUES (0,1),(1,1)").unwrap();
    show(
        "goose not adopted",
        Options::new()
            .migrations(Migrations::new(ok()))
            .open(p("2.db"))
            .map(|_| ()),
    );
    let s = Options::new()
        .migrations(Migrations::new(ok()).adopt(Adopt::Goose).at_open(false))
        .open(p("2.db"))
        .unwrap();
    show("goose status", s.migrations());
    show("goose dry schema", s.migrate_dry_run(DryRun::Schema));
    show("goose dry backup", s.migrate_dry_run(DryRun::Backup));
    show("goose migrate", s.migrate());
    show("goose status", s.migrations());
    show("goose to 0", s.migrate_to(0));
    show("goose status", s.migrations());
    drop(s);
    // user_version set inside
    let s = Options::new()
        .migrations(Migrations::new([Migration::new(
            1,
            "a",
            "CREATE TABLE a(x); PRAGMA user_version=7",
        )
        .down("DROP TABLE a")]))
        .open(p("3.db"))
        .unwrap();
    show("uv inside, to 0", s.migrate_to(0));
    drop(s);
    // big version
    show(
        "u64 max",
        Options::new()
            .migrations(Migrations::new([Migration::new(u64::MAX, "a", "CREATE TABLE a(x)")]))
            .open(p("4.db"))
            .map(|_| ()),
    );
    // no transaction
    let nt = |sql: &'static str| {
        Options::new()
            .migration_timeout(Duration::from_millis(60))
            .migrations(Migrations::new([Migration::new(1, "a", sql).without_transaction()]))
    };
    show("nt first fails", nt("CREAT TABLE a(x)").open(p("5.db")).map(|_| ()));
    show(
        "nt first fails, again mended",
        nt("CREATE TABLE a(x)").open(p("5.db")).map(|_| ()),
    );
    show(
        "nt second fails",
        nt("CREATE TABLE a(x); CREAT TABLE b(x)").open(p("6.db")).map(|_| ()),
    );
    show(
        "nt second fails, again mended",
        nt("CREATE TABLE a(x)").open(p("6.db")).map(|_| ()),
    );
    show(
        "nt begin",
        nt("BEGIN; CREATE TABLE a(x); CREAT").open(p("7.db")).map(|_| ()),
    );
    // no transaction down
    let mk = || {
        Options::new()
            .migration_timeout(Duration::from_millis(60))
            .migrations(Migrations::new([Migration::new(
                1,
                "a",
                "CREATE TABLE a(x); INSERT INTO a VALUES (1)",
            )
            .without_transaction()
            .down("DELETE FROM a; CREAT")]))
    };
    let s = mk().open(p("8.db")).unwrap();
    show("nt down fails", s.migrate_to(0));
    show("status", s.migrations());
    show("nt down again", s.migrate_to(0));
    show("up", s.migrate());
    drop(s);
    show("open again", mk().open(p("8.db")).map(|_| ()));
    // allow gaps + down to gone
    drop(
        Options::new()
            .migrations(Migrations::new([
                Migration::new(1, "a", "SELECT 1").down("SELECT 1"),
                Migration::new(2, "b", "SELECT 1").down("SELECT 1"),
                Migration::new(3, "c", "SELECT 1").down("SELECT 1"),
            ]))
            .open(p("9.db"))
            .unwrap(),
    );
    let s = Options::new()
        .migrations(
            Migrations::new([
                Migration::new(1, "a", "SELECT 1").down("SELECT 1"),
                Migration::new(3, "c", "SELECT 1").down("SELECT 1"),
            ])
            .allow_gaps(true),
        )
        .open(p("9.db"))
        .unwrap();
    show("gone, allow gaps, to 1", s.migrate_to(1));
    show("status", s.migrations());
    drop(s);
    // markers
    for (n, t) in [
        (
            "migrate notransaction",
            "-- +migrate Up notransaction\nCREATE TABLE a(x);\n-- +migrate Down notransaction\nDROP TABLE a;",
        ),
        (
            "node-pg",
            "-- Up Migration\nCREATE TABLE a(x);\n-- Down Migration\nDROP TABLE a;",
        ),
        (
            "goose indented",
            "-- +goose Up\nCREATE TABLE a(x);\n  -- +goose Down\nDROP TABLE a;",
        ),
        (
            "goose tab",
            "-- +goose Up\nCREATE TABLE a(x);\n-- +goose\tDown\nDROP TABLE a;",
        ),
        (
            "dbmate indented",
            "-- migrate:up\nCREATE TABLE a(x);\n  -- migrate:down\nDROP TABLE a;",
        ),
        (
            "dbmate typo",
            "-- migrate:up\nCREATE TABLE a(x);\n-- migrate down\nDROP TABLE a;",
        ),
        (
            "dbmate upper",
            "-- migrate:up\nCREATE TABLE a(x);\n-- MIGRATE:DOWN\nDROP TABLE a;",
        ),
        (
            "goose no plus",
            "-- +goose Up\nCREATE TABLE a(x);\n-- goose Down\nDROP TABLE a;",
        ),
        (
            "block comment marker",
            "-- migrate:up\nCREATE TABLE a(x);\n/* migrate:down */\nDROP TABLE a;",
        ),
        (
            "mixed",
            "-- migrate:up\nCREATE TABLE a(x);\n-- +goose Down\nDROP TABLE a;",
        ),
        (
            "liquibase",
            "--liquibase formatted sql\n--changeset a:1\nCREATE TABLE a(x);\n--rollback DROP TABLE a;",
        ),
        ("empty", ""),
        ("template", "-- migrate:up\n\n\n-- migrate:down\n\n"),
    ] {
        let r = Migrations::files([("001_a.sql", t)]).and_then(|m| Options::new().migrations(m).open_temp());
        show(
            n,
            r.map(|s| {
                s.read(|tx| {
                    tx.query_row(
                        "SELECT group_concat(name) FROM sqlite_schema WHERE type='table'",
                        [],
                        |r| r.get::<_, String>(0),
                    )
                })
                .unwrap()
            }),
        );
    }
    show(
        "static markers",
        Options::new()
            .migrations(Migrations::new([Migration::new(
                1,
                "a",
                "-- migrate:up\nCREATE TABLE a(x);\n-- migrate:down\nDROP TABLE a;",
            )]))
            .open_temp()
            .map(|s| s.migrations()),
    );
    show(
        "no ext",
        Migrations::files([("001_users", "CREATE TABLE a(x)")])
            .and_then(|m| Options::new().migrations(m).open_temp())
            .map(|_| ()),
    );
    // folder
    let d = p("mig");
    std::fs::create_dir(&d).unwrap();
    std::fs::write(d.join("001_a.sql"), "CREATE TABLE a(x)").unwrap();
    std::os::unix::fs::symlink("user@host.1234", d.join(".#001_a.sql")).unwrap();
    show("emacs", Migrations::folder(&d).map(|_| ()));
    // performance
    for n in [2000usize, 4000, 8000] {
        let sql: String = "CREATE TABLE t(x);".to_owned() + &(0..n).map(|i| format!("INSERT INTO t VALUES ({i}, 'some text that makes it a bit longer than that, about 100 bytes'); \n").replace("VALUES (", "SELECT ").replace(");", " ;").replacen(", 'some", " || 'some", 1)).collect::<String>();
        let t = Instant::now();
        show(
            "many",
            Options::new()
                .migrations(Migrations::new([Migration::new(1, "m", sql)]))
                .open_temp()
                .map(|_| ()),
        );
        println!("{n}: {:?}", t.elapsed());
    }
    // BOM in the middle
    show(
        "bom mid",
        Options::new()
            .migrations(Migrations::new([Migration::new(
                1,
                "m",
                "CREATE TABLE a(x);\n\u{feff};CREATE TABLE b(ä);SELECT 1",
            )]))
            .open_temp()
            .map(|_| ()),
    );
    show(
        "bom start",
        Options::new()
            .migrations(Migrations::new([Migration::new(1, "m", "\u{feff}CREATE TABLE a(x);")]))
            .open_temp()
            .map(|_| ()),
    );
}
