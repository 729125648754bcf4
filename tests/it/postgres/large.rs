//! Many rows and large ones: how long a move takes, and that its memory has a bound.
//!
//! Few in the suite of every change. `.ci/nightly postgres` sets `LARDER_POSTGRES_ROWS` and `LARDER_BLOB_MB`.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Instant;

use larder::Store;

use crate::support::child::{Child, Task, tell};
use crate::support::postgres::Postgres;

/// The most memory of a process that moves rows, which is mostly that of two batches and of SQLite's caches.
const MAX_MEMORY: u64 = 200 << 20;

fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Moves a database by a process of its own, and says how long that took and its greatest memory.
pub(crate) fn child(task: &Task) {
    let [from, to] = task.args.as_slice() else {
        panic!("a source and a target");
    };
    let began = Instant::now();
    let rows = match task.role.as_str() {
        "export" => {
            let store = Store::open(from).unwrap();
            store.export_to_postgres(to).schema("back").run().unwrap().rows()
        }
        "dump" => imported(Store::import_from_pg_dump(from, to).run().unwrap()),
        _ => imported(Store::import_from_postgres(from, to).run().unwrap()),
    };
    tell(rows);
    tell(began.elapsed().as_secs_f64());
    tell(greatest_memory());
}

fn imported(report: larder::PostgresImportReport) -> u64 {
    report.tables.iter().map(|table| table.rows).sum()
}

/// In bytes. 0 where the system does not say.
fn greatest_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

#[track_caller]
fn moves(role: &str, from: &str, to: &str, rows: usize) {
    let child = Child::start("postgres::large", role, &[from, to]);
    let found: usize = child.long_line().parse().unwrap();
    let seconds: f64 = child.line().parse().unwrap();
    let memory: u64 = child.line().parse().unwrap();
    child.finish();
    println!(
        "{role}: {rows} rows in {seconds:.1} s, {:.0} rows/s, {} MiB",
        rows as f64 / seconds,
        memory >> 20
    );
    assert_eq!(found, rows, "{role}");
    assert!(memory < MAX_MEMORY, "{role}: {} MiB", memory >> 20);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn many_rows_move_in_bounded_memory() {
    let Some(server) = Postgres::start() else { return };
    let rows = setting("LARDER_POSTGRES_ROWS", 50_000);
    let url = server.database("many");
    server.run(
        "many",
        &format!(
            "CREATE TABLE t AS SELECT i::bigint AS id, 'row ' || i AS s, i / 7.0::float8 AS f, i / 100.0 AS n, i % 3 = 0 AS b,
                timestamptz '2020-01-01 00:00:00+00' + i * interval '1 second' AS at, nullif(i % 10, 0) AS few
             FROM generate_series(1, {rows}) i;
             ALTER TABLE t ADD PRIMARY KEY (id)"
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    moves("import", &url, text(&file("live.db")), rows);
    fs::remove_file(file("live.db")).unwrap();
    server.dump("many", &file("d.sql"), &[]);
    moves("dump", text(&file("d.sql")), text(&file("app.db")), rows);
    fs::remove_file(file("d.sql")).unwrap();
    moves("export", text(&file("app.db")), &url, rows);
    let hash = |schema: &str| {
        server.run(
            "many",
            &format!("SELECT count(*), sum(hashtext(concat_ws('|', id, s, f, n::text, few))) FROM {schema}.t"),
        )
    };
    assert_eq!(hash("back"), hash("public"));
}

#[test]
fn large_rows_move_in_bounded_memory() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("wide");
    // 256 KiB of text and 64 KiB of bytes, which have twice their size on the way.
    let rows = setting("LARDER_BLOB_MB", 16) * 4;
    server.run(
        "wide",
        &format!(
            "CREATE TABLE t AS SELECT i AS id, repeat(md5(i::text), 8192) AS s, decode(repeat(md5(i::text), 4096), 'hex') AS b
             FROM generate_series(1, {rows}) i"
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    moves("import", &url, text(&file("live.db")), rows);
    server.dump("wide", &file("d.sql"), &[]);
    moves("dump", text(&file("d.sql")), text(&file("app.db")), rows);
    moves("export", text(&file("app.db")), &url, rows);
}
