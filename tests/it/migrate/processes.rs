//! Migrations and other processes: simultaneous opens, a slow migration, a killed one, `dbmate` itself, and the example
//! as a command-line tool.
//!
//! rusqlite is built without SQL functions here, so SQLite's update hook reports the progress of a migration: a row
//! inserted into a table named `gate` makes the process wait for its parent, and a row that the parent has named makes
//! the process kill itself.

use std::fmt::{Debug, Write as _};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdout, Command, Output, Stdio};
use std::rc::Rc;
use std::time::Duration;
use std::{env, fs};

use larder::rusqlite::Connection;
use larder::rusqlite::hooks::Action;
use larder::rusqlite::types::ValueRef;
use larder::{Adopt, DryRun, Error, MigrationError, Migrations, Options, Outcome, Store};
use tempfile::{TempDir, tempdir};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::support::child::{self, Child, listen, succeeds, tell};
use crate::support::log;
use crate::support::migrations::{GOOSE_TABLE, made_by};

const LONG: &str = "60000";
const SHORT: &str = "200";
/// Where no process is to kill itself.
const NOWHERE: &str = "nowhere";
/// In a connection to a copy that is there already.
const CHECKING_A_BACKUP: &str = "checking a backup";

// ---- the child ----

pub(crate) fn child(task: &child::Task) {
    assert_eq!(task.role, "program");
    let args: Vec<&str> = task.args.iter().map(String::as_str).collect();
    let [folder, patience, point, how] = args[..] else {
        panic!("{args:?}")
    };
    let patience = Duration::from_millis(patience.parse().unwrap());
    if point.starts_with("started") || point.starts_with("finished") {
        tracing::subscriber::set_global_default(Deadly { point: point.into() }).unwrap();
    } else {
        log::collect();
    }
    let options = |database: &str, at_open| {
        let mut set = Migrations::folder(folder).unwrap().at_open(at_open);
        match how {
            "plain" => {}
            "with a backup" => set = set.backup_to(Path::new(database).parent().unwrap()),
            "after Goose" => set = set.adopt(Adopt::Goose),
            _ => panic!("{how}"),
        }
        let (point, database) = (point.to_owned(), database.to_owned());
        Options::new()
            .migrations(set)
            .migration_timeout(patience)
            .busy_timeout(patience.min(Duration::from_secs(5)))
            // Pages go to the log before COMMIT.
            .cache_size(16 * 1024)
            .on_connect(move |conn, _| {
                if point == CHECKING_A_BACKUP && has_partial_backup(&database) {
                    conn.progress_handler(1, Some(|| die(CHECKING_A_BACKUP)))?;
                }
                watch(conn, point.clone())
            })
    };
    let mut store: Option<Store> = None;
    let mut told = 0;
    loop {
        let command = listen();
        let words: Vec<&str> = command.split(' ').collect();
        let done = match (&words[..], &store) {
            ([""], _) => return,
            ([how @ ("open" | "look"), path], None) => {
                options(path, *how == "open").open(path).map(|new| store = Some(new))
            }
            (["migrate"], Some(store)) => store.migrate().map(drop),
            (["to", version], Some(store)) => store.migrate_to(version.parse().unwrap()).map(drop),
            (["dry-run"], Some(store)) => store.migrate_dry_run(DryRun::Backup).map(drop),
            (["wait"], None) => Ok(()),
            (["close"], Some(_)) => store.take().unwrap().close().map(drop),
            _ => panic!("{command}"),
        };
        let steps = log::events(|event| event.target == "larder::migrate" && event.message == "migration finished");
        let mut reply = match done {
            Ok(()) => "ok".to_owned(),
            Err(error) => explained(&error),
        };
        for step in &steps[told..] {
            let _ = write!(reply, ", {} {}", step.expect("direction"), step.expect("version"));
        }
        told = steps.len();
        tell(reply.replace('\n', " "));
    }
}

fn explained(error: &Error) -> String {
    let kind = match error {
        Error::Migration(error) => first_word(error),
        other => first_word(other),
    };
    let retry = if error.is_retryable() { "retry" } else { "no retry" };
    format!("{kind}, {retry}, {:?}: {error}", error.outcome())
}

fn first_word(error: &impl Debug) -> String {
    let text = format!("{error:?}");
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// Waits at the gate, and dies at the point.
fn watch(conn: &Connection, point: String) -> larder::Result<()> {
    let hook = move |action, _: &str, table: &str, row: i64| {
        let action = match action {
            Action::SQLITE_INSERT => "insert",
            Action::SQLITE_DELETE => "delete",
            _ => "update",
        };
        if action == "insert" && table == "gate" {
            tell("at the gate");
            assert_eq!(listen(), "go");
        }
        if point == format!("{action} {table} {row}") {
            die(&point);
        }
    };
    Ok(conn.update_hook(Some(hook))?)
}

/// Whether pages have been copied already.
fn has_partial_backup(database: &str) -> bool {
    let folder = Path::new(database).parent().unwrap();
    let unfinished = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let copies = unfinished.map(|path| path.join("copy.db"));
    copies
        .into_iter()
        .any(|copy| fs::metadata(copy).is_ok_and(|copy| copy.len() > 0))
}

/// `SIGKILL` to this process, by a shell whose parent it is.
fn die(point: &str) -> ! {
    tell(format!("dies: {point}"));
    loop {
        // A machine that is busy may have no process for it at once.
        let _ = Command::new("sh").args(["-c", "kill -9 $PPID"]).status();
    }
}

/// Dies when larder reports that a migration started, or that it finished.
struct Deadly {
    point: String,
}

impl Subscriber for Deadly {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "larder::migrate"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        #[derive(Default)]
        struct Said(String, String);
        impl Visit for Said {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                match field.name() {
                    "message" => self.0 = format!("{value:?}"),
                    "version" => self.1 = format!("{value:?}"),
                    _ => {}
                }
            }
        }
        let mut said = Said::default();
        event.record(&mut said);
        if format!("migration {}", self.point) == format!("{} {}", said.0, said.1) {
            die(&self.point);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The child, seen from its parent.
struct Program(Child);

impl Program {
    /// Migrations from this folder. Waits for others for so many milliseconds, and kills itself at a point: `insert TABLE
    /// ROW`, `started VERSION`, `finished VERSION`.
    fn start(how: &str, folder: &TempDir, patience: &str, point: &str) -> Self {
        let folder = folder.path().to_str().unwrap();
        let args = [folder, patience, point, how];
        Self(Child::start("migrate::processes", "program", &args))
    }

    fn say(&mut self, command: &str) {
        self.0.say(command);
    }

    /// Gives the reply to a command.
    #[track_caller]
    fn does(&mut self, command: &str) -> String {
        self.say(command);
        self.0.line()
    }

    #[track_caller]
    fn expect(&self, line: &str) {
        self.0.expect(line);
    }

    #[track_caller]
    fn finish(self) {
        assert_eq!(self.0.finish(), Vec::<String>::new());
    }

    /// It kills itself.
    #[track_caller]
    fn dies(self, point: &str) {
        self.0.expect(&format!("dies: {point}"));
        assert_eq!(self.0.next(), None);
        // Its output ends a little before the system has given its locks back.
        self.0.kill();
    }
}

// ---- files and what is in them ----

/// A folder of migrations.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempdir().unwrap();
    for (name, sql) in files {
        fs::write(folder.path().join(name), sql).unwrap();
    }
    folder
}

fn database(folder: &TempDir) -> String {
    folder.path().join("app.db").to_str().unwrap().to_owned()
}

/// The names and sizes of all files in the folder of the database, but those that say whose backups are there.
fn files_beside(database: &str) -> Vec<(String, u64)> {
    let folder = fs::read_dir(Path::new(database).parent().unwrap()).unwrap();
    let entries = folder.map(Result::unwrap);
    let file = |entry: fs::DirEntry| {
        let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
        (entry.file_name().into_string().unwrap(), bytes)
    };
    let mut files: Vec<_> = entries.map(file).collect();
    files.retain(|(name, _)| !name.starts_with(".larder-series-") && !name.ends_with("-series"));
    files.sort();
    files
}

fn options(folder: &TempDir) -> Options {
    Options::new().migrations(Migrations::folder(folder.path()).unwrap())
}

/// Everything in a database that nobody has open, as text: the schema, the rows, the record. Looks at a copy, so that
/// the next to open the file is also the one that recovers it.
#[track_caller]
fn contents(path: &str) -> String {
    let folder = tempdir().unwrap();
    let copy = database(&folder);
    fs::copy(path, &copy).unwrap();
    if Path::new(&format!("{path}-wal")).exists() {
        fs::copy(format!("{path}-wal"), format!("{copy}-wal")).unwrap();
    }
    let conn = Connection::open(copy).unwrap();
    assert_sound(&conn);
    let mut text = String::new();
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1, 2";
    for row in rows(&conn, sql) {
        let (kind, name) = (&row[0], &row[1]);
        let _ = writeln!(text, "{row:?}");
        if kind == "table" {
            let columns = match name.as_str() {
                "larder_migrations" => "version, name, checksum, unfinished",
                _ => "*",
            };
            for row in rows(&conn, &format!("SELECT {columns} FROM \"{name}\" ORDER BY 1")) {
                let _ = writeln!(text, "{name}: {row:?}");
            }
        }
    }
    text
}

/// Every row, as text.
fn rows(conn: &Connection, sql: &str) -> Vec<Vec<String>> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let text = |value: ValueRef<'_>| match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    };
    let rows = statement.query_map([], |row| (0..columns).map(|i| Ok(text(row.get_ref(i)?))).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

/// The one row of one column.
#[track_caller]
fn one(path: &str, sql: &str) -> String {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(child::PATIENCE).unwrap();
    assert_sound(&conn);
    let rows = rows(&conn, sql);
    assert!(rows.len() == 1 && rows[0].len() == 1, "{rows:?}");
    rows[0][0].clone()
}

#[track_caller]
fn assert_sound(conn: &Connection) {
    assert_eq!(rows(conn, "PRAGMA integrity_check"), [["ok"]]);
    assert_eq!(rows(conn, "PRAGMA foreign_key_check"), Vec::<Vec<String>>::new());
}

/// How often each migration was made, by what it has written into `log` itself, and what the record has.
const LOGGED: &str = "SELECT group_concat(version || ' x ' || times, ', ') FROM
    (SELECT version, count(*) AS times FROM log GROUP BY version ORDER BY version)";
const RECORDED: &str = "SELECT group_concat(version, ' ') FROM (SELECT version FROM schema_migrations ORDER BY 1)";

const RECORDED_COUNT: &str = "SELECT count(*) FROM schema_migrations";

/// Five migrations, each of which logs that it was made. Twice means two rows.
const FIVE: &[(&str, &str)] = &[
    (
        "20260101000001_log.sql",
        "-- migrate:up
         CREATE TABLE log(id INTEGER PRIMARY KEY, version INTEGER NOT NULL) STRICT;
         INSERT INTO log(version) VALUES (20260101000001);
         -- the way down is below
-- migrate:down
         DROP TABLE log;
        ",
    ),
    (
        "20260101000002_family.sql",
        "-- migrate:up
         CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
         CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parent(id) ON DELETE CASCADE)
             STRICT;
         INSERT INTO parent VALUES (1, 'Ada'), (2, 'Grace');
         INSERT INTO child(parent) VALUES (1), (1), (2);
         INSERT INTO log(version) VALUES (20260101000002);
-- migrate:down
         DROP TABLE child;
         DROP TABLE parent;
         DELETE FROM log WHERE version = 20260101000002;
        ",
    ),
    (
        "20260101000003_rebuild.sql",
        "-- migrate:up
         CREATE TABLE parent_new(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT) STRICT;
         INSERT INTO parent_new(id, name) SELECT id, name FROM parent;
         DROP TABLE parent;
         ALTER TABLE parent_new RENAME TO parent;
         INSERT INTO log(version) VALUES (20260101000003);
-- migrate:down
         ALTER TABLE parent DROP COLUMN email;
         DELETE FROM log WHERE version = 20260101000003;
        ",
    ),
    (
        "20260101000004_column.sql",
        "-- migrate:up
         ALTER TABLE child ADD COLUMN born TEXT;
         INSERT INTO log(version) VALUES (20260101000004);
-- migrate:down
         ALTER TABLE child DROP COLUMN born;
         DELETE FROM log WHERE version = 20260101000004;
        ",
    ),
    (
        "20260101000005_index.sql",
        "-- migrate:up
         CREATE INDEX child_parent ON child(parent);
         INSERT INTO log(version) VALUES (20260101000005);
-- migrate:down
         DROP INDEX child_parent;
         DELETE FROM log WHERE version = 20260101000005;
        ",
    ),
];

const VERSIONS: [&str; 5] = [
    "20260101000001",
    "20260101000002",
    "20260101000003",
    "20260101000004",
    "20260101000005",
];

/// The SQL of the way up.
fn up(sql: &str) -> &str {
    sql.split("-- migrate:down").next().unwrap()
}

/// A file as Dbmate leaves it after its first two of five: not in WAL mode, and larder has never seen it.
fn made_by_another_tool(path: &str) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("CREATE TABLE \"schema_migrations\" (version varchar(128) primary key)")
        .unwrap();
    for (sql, version) in FIVE.iter().map(|(_, sql)| sql).zip(VERSIONS).take(2) {
        conn.execute_batch(up(sql)).unwrap();
        conn.execute("INSERT INTO schema_migrations VALUES (?1)", [version])
            .unwrap();
    }
}

/// A folder of migrations, a database, and the programs that open it.
struct Race {
    migrations: Rc<TempDir>,
    folder: TempDir,
    path: String,
}

impl Race {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::with(Rc::new(folder(files)))
    }

    /// The same migrations and another database: a program may take part in many races.
    fn again(&self) -> Self {
        Self::with(Rc::clone(&self.migrations))
    }

    fn with(migrations: Rc<TempDir>) -> Self {
        let folder = tempdir().unwrap();
        let path = database(&folder);
        Self {
            migrations,
            folder,
            path,
        }
    }

    fn open(&self) -> String {
        format!("open {}", self.path)
    }

    fn look(&self) -> String {
        format!("look {}", self.path)
    }

    fn program(&self, patience: &str) -> Program {
        Program::start("plain", &self.migrations, patience, NOWHERE)
    }

    fn program_as(&self, how: &str) -> Program {
        Program::start(how, &self.migrations, LONG, NOWHERE)
    }

    fn programs(&self, count: usize, patience: &str) -> Vec<Program> {
        (0..count).map(|_| self.program(patience)).collect()
    }

    /// Programs that are opening the database.
    fn openers(&self, count: usize, patience: &str) -> Vec<Program> {
        let mut programs = self.programs(count, patience);
        programs.iter_mut().for_each(|program| program.say(&self.open()));
        programs
    }

    /// A program that waits at the gate, in the middle of a migration.
    fn at_the_gate(&self, patience: &str) -> Program {
        let mut program = self.program(patience);
        program.say(&self.open());
        program.expect("at the gate");
        program
    }

    /// A program that kills itself at the point.
    fn mortal(&self, point: &str) -> Program {
        Program::start("plain", &self.migrations, LONG, point)
    }

    /// A program opens the database and kills itself at the point.
    #[track_caller]
    fn dies_opening(&self, how: &str, point: &str) {
        let mut program = Program::start(how, &self.migrations, LONG, point);
        program.say(&self.open());
        program.dies(point);
    }

    /// Has every program open the database at once. Gives all the steps that they have made.
    #[track_caller]
    fn open_all(&self, programs: &mut [Program], together: bool) -> Vec<String> {
        for program in programs.iter_mut() {
            program.say(&self.open());
            if !together {
                program.say("close");
            }
        }
        let mut steps = Vec::new();
        for program in programs.iter() {
            let reply = program.0.line();
            let (ok, made) = reply.split_once(", ").unwrap_or((&reply, ""));
            assert_eq!(ok, "ok", "{reply}");
            steps.extend(made.split(", ").filter(|step| !step.is_empty()).map(str::to_owned));
        }
        if together {
            programs.iter_mut().for_each(|program| program.say("close"));
        }
        programs.iter().for_each(|program| program.expect("ok"));
        steps.sort();
        steps
    }

    /// Opens and closes the database in this process.
    #[track_caller]
    fn migrate(&self) {
        options(&self.migrations).open(&self.path).unwrap().close().unwrap();
    }

    /// Opens it in this process, which waits for no other.
    fn hasty_open(&self) -> larder::Result<Store> {
        let patience = Duration::from_millis(100);
        options(&self.migrations).migration_timeout(patience).open(&self.path)
    }

    /// Opens it in this process and applies nothing.
    fn store(&self) -> Store {
        let set = Migrations::folder(self.migrations.path()).unwrap().at_open(false);
        Options::new().migrations(set).open(&self.path).unwrap()
    }

    /// The error of opening it in this process.
    #[track_caller]
    fn refused(&self) -> Error {
        options(&self.migrations).open(&self.path).map(drop).unwrap_err()
    }

    /// Goes to each version in turn, in this process, and closes.
    fn go_to(&self, versions: &[u64]) {
        let store = self.store();
        for version in versions {
            store.migrate_to(*version).unwrap();
        }
        store.close().unwrap();
    }

    fn write(&self, (name, sql): (&str, &str)) {
        fs::write(self.migrations.path().join(name), sql).unwrap();
    }

    /// The lock of another process.
    fn lock(&self) -> Lock {
        let conn = Connection::open(&self.path).unwrap();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        Lock(conn)
    }

    #[track_caller]
    fn contents(&self) -> String {
        contents(&self.path)
    }

    #[track_caller]
    fn one(&self, sql: &str) -> String {
        one(&self.path, sql)
    }

    #[track_caller]
    fn assert_each_once(&self, versions: &[&str]) {
        let logged: Vec<_> = versions.iter().map(|version| format!("{version} x 1")).collect();
        assert_eq!(self.one(LOGGED), logged.join(", "));
        assert_eq!(self.one(RECORDED), versions.join(" "));
    }

    /// larder reports so many migrations as applied and so many as pending.
    #[track_caller]
    fn assert_status(&self, applied: usize, pending: usize) {
        let store = self.store();
        let status = store.migrations().unwrap();
        let versions = status.applied.iter().map(|applied| applied.version);
        let versions = versions.chain(status.pending.iter().map(|pending| pending.version));
        let files = VERSIONS.iter().map(|version| version.parse::<u64>().unwrap());
        assert_eq!(
            versions.collect::<Vec<_>>(),
            files.take(applied + pending).collect::<Vec<_>>()
        );
        assert_eq!((status.applied.len(), status.pending.len()), (applied, pending));
        store.close().unwrap();
    }

    fn dbmate(&self) -> Option<Dbmate<'_>> {
        Dbmate::find(&self.path, &self.migrations)
    }

    fn tool(&self) -> Option<Tool<'_>> {
        Tool::find(&self.path, self.migrations.path())
    }
}

struct Lock(Connection);

impl Lock {
    fn release(self) {
        self.0.execute_batch("COMMIT").unwrap();
    }
}

// ---- many at once ----

#[test]
fn thirty_processes_apply_each_migration_once() {
    let race = Race::new(FIVE);
    let mut programs = race.programs(30, LONG);
    for round in 0..30 {
        let race = race.again();
        let applied = match round % 4 {
            1 => {
                race.go_to(&[20260101000002]);
                2
            }
            3 => {
                made_by_another_tool(&race.path);
                2
            }
            _ => 0,
        };
        // Half of the time all have it open together; else each closes at once, while others still open.
        let steps = race.open_all(&mut programs, round / 4 % 2 == 0);
        let pending: Vec<_> = VERSIONS[applied..]
            .iter()
            .map(|version| format!("up {version}"))
            .collect();
        assert_eq!(steps, pending, "round {round}");
        race.assert_each_once(&VERSIONS);
        assert_eq!(
            race.one("SELECT count(*) || ' of ' || count(DISTINCT parent) FROM child"),
            "3 of 2"
        );
        assert_eq!(
            race.one("SELECT count(*) FROM larder_migrations WHERE NOT unfinished"),
            "5"
        );
        let by_larder = race.one("SELECT count(*) FROM larder_migrations WHERE duration_us IS NOT NULL");
        assert_eq!(by_larder, if round % 4 == 3 { "3" } else { "5" });
        let status = {
            let store = options(&race.migrations).open(&race.path).unwrap();
            store.migrations().unwrap()
        };
        assert_eq!((status.applied.len(), status.pending.len()), (5, 0));
    }
    programs.into_iter().for_each(Program::finish);
}

#[test]
fn migration_outside_transaction_runs_once_in_ten_processes() {
    let mut files = FIVE.to_vec();
    files.truncate(2);
    files.push((
        "20260101000003_outside.sql",
        "-- migrate:up transaction:false
         CREATE INDEX child_parent ON child(parent);
         VACUUM;
         INSERT INTO log(version) VALUES (20260101000003);
        ",
    ));
    files.push((
        "20260101000004_after.sql",
        "-- migrate:up
         CREATE TABLE after(id INTEGER PRIMARY KEY) STRICT;
         INSERT INTO log(version) VALUES (20260101000004);
        ",
    ));
    let race = Race::new(&files);
    // If one of them fails, the others give up before the parent does.
    let mut programs = race.programs(10, "20000");
    for round in 0..6 {
        let race = race.again();
        let steps = race.open_all(&mut programs, round % 2 == 0);
        let once: Vec<_> = VERSIONS[..4].iter().map(|version| format!("up {version}")).collect();
        assert_eq!(steps, once, "round {round}");
        race.assert_each_once(&VERSIONS[..4]);
    }
    programs.into_iter().for_each(Program::finish);
}

#[test]
fn repeated_open_migrate_close_by_processes_succeeds() {
    let race = Race::new(FIVE);
    let mut programs = race.programs(6, LONG);
    // The commands are read as fast as they can be done: the last close of one meets the opening of another.
    for _ in 0..25 {
        for program in &mut programs {
            program.say(&race.open());
            program.say("close");
        }
    }
    let mut steps = Vec::new();
    for program in &programs {
        for _ in 0..25 {
            let opened = program.0.line();
            let made = opened.strip_prefix("ok").unwrap_or_else(|| panic!("{opened}"));
            steps.extend(made.split(", ").skip(1).map(str::to_owned));
            program.expect("ok");
        }
    }
    steps.sort();
    assert_eq!(steps, VERSIONS.map(|version| format!("up {version}")));
    race.assert_each_once(&VERSIONS);
    programs.into_iter().for_each(Program::finish);
}

#[test]
fn older_program_succeeds_or_finds_newer_database() {
    let (old, new) = (Race::new(&FIVE[..3]), Race::new(FIVE));
    let (mut older, mut newer) = (old.programs(4, LONG), new.programs(4, LONG));
    for _ in 0..10 {
        let race = new.again();
        for program in older.iter_mut().chain(&mut newer) {
            program.say(&race.open());
        }
        for program in &mut newer {
            let reply = program.0.line();
            assert!(reply.starts_with("ok"), "{reply}");
            assert_eq!(program.does("close"), "ok");
        }
        for program in &mut older {
            let reply = program.0.line();
            if reply.starts_with("ok") {
                assert_eq!(program.does("close"), "ok");
            } else {
                assert!(reply.starts_with("Newer, no retry, NotStarted: "), "{reply}");
                assert!(reply.contains("20260101000003"), "{reply}");
            }
        }
        race.assert_each_once(&VERSIONS);
    }
    older.into_iter().chain(newer).for_each(Program::finish);
}

#[test]
fn conflicting_migrations_of_one_version_apply_once() {
    let table = |name: &str| format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY) STRICT");
    let (left, right) = (
        Race::new(&[("1_one.sql", &table("one")), ("2_two.sql", &table("left"))]),
        Race::new(&[("1_one.sql", &table("one")), ("2_two.sql", &table("right"))]),
    );
    let mut programs = [left.program(LONG), right.program(LONG)];
    for _ in 0..10 {
        let race = left.again();
        programs.iter_mut().for_each(|program| program.say(&race.open()));
        let replies = [programs[0].0.line(), programs[1].0.line()];
        let won = replies.iter().position(|reply| reply.starts_with("ok")).unwrap();
        let lost = &replies[1 - won];
        assert!(
            lost.starts_with("Changed, no retry, NotStarted: migration 2_two.sql has changed"),
            "{lost}"
        );
        assert_eq!(programs[won].does("close"), "ok");
        let tables = "SELECT group_concat(name) FROM sqlite_schema WHERE name IN ('left', 'right')";
        assert_eq!(race.one(tables), ["left", "right"][won]);
        assert_eq!(race.one(RECORDED), "1 2");
    }
    programs.into_iter().for_each(Program::finish);
}

#[test]
fn undo_beside_migrating_processes_runs_between_steps() {
    let race = Race::new(FIVE);
    let mut programs = race.programs(3, LONG);
    for program in &mut programs {
        assert!(program.does(&race.look()).starts_with("ok"));
    }
    let mut level = 0i64;
    for _ in 0..10 {
        let commands = ["migrate", "to 0", "to 20260101000003"];
        for (program, command) in programs.iter_mut().zip(commands) {
            program.say(command);
        }
        for program in &programs {
            let reply = program.0.line();
            // They may go on undoing each other's steps, so one that makes a step twice gives up.
            assert!(
                reply.starts_with("ok") || reply.starts_with("Crossed, no retry, "),
                "{reply}"
            );
            level += reply.matches(", up ").count() as i64 - reply.matches(", down ").count() as i64;
        }
        // Where they have left it is the sum of all their steps.
        assert_eq!(race.one(RECORDED_COUNT), level.to_string());
        if level > 0 {
            race.assert_each_once(&VERSIONS[..level as usize]);
        }
    }
    let last = programs[0].does("migrate");
    assert!(last.starts_with("ok"), "{last}");
    race.assert_each_once(&VERSIONS);
    programs.into_iter().for_each(Program::finish);
}

#[test]
fn simultaneous_opens_with_backups_leave_whole_ones() {
    let race = Race::new(FIVE);
    let mut programs: Vec<_> = (0..4).map(|_| race.program_as("with a backup")).collect();
    for _ in 0..4 {
        let race = race.again();
        race.go_to(&[20260101000002]);
        let before = race.contents();
        let steps = race.open_all(&mut programs, true);
        assert_eq!(steps.len(), 3);
        race.assert_each_once(&VERSIONS);
        let first = backups(&race.path, VERSIONS[2]);
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(contents(&first[0]), before);
        // Whoever makes a later step first makes a backup before that.
        let mut all = first.len();
        for version in &VERSIONS[3..] {
            for backup in backups(&race.path, version) {
                all += 1;
                let contents = contents(&backup);
                assert!(
                    !contents.contains(&format!("schema_migrations: [\"{version}\"]")),
                    "{contents}"
                );
            }
        }
        let files = files_beside(&race.path);
        assert_eq!(files.len(), 1 + all, "{files:?}");
    }
    programs.into_iter().for_each(Program::finish);
}

/// The finished backups from before this version.
fn backups(path: &str, version: &str) -> Vec<String> {
    let begin = format!("app.db.before-{version}.");
    let names = files_beside(path).into_iter().map(|(name, _)| name);
    names
        .filter(|name| name.starts_with(&begin) && name.ends_with('Z'))
        .map(|name| path.replace("app.db", &name))
        .collect()
}

// ---- one that is slow, and those that wait for it ----

/// Waits at the gate in the middle of its second migration, with the write lock.
const SLOW: &[(&str, &str)] = &[
    (
        "1_log.sql",
        "CREATE TABLE log(version INTEGER NOT NULL) STRICT; INSERT INTO log VALUES (1)",
    ),
    (
        "2_slow.sql",
        "CREATE TABLE gate(id INTEGER PRIMARY KEY) STRICT; INSERT INTO gate VALUES (1); INSERT INTO log VALUES (2)",
    ),
    ("3_after.sql", "INSERT INTO log VALUES (3)"),
];

/// The same outside a transaction: at the gate, which is temporary, it has no lock.
const SLOW_OUTSIDE: &[(&str, &str)] = &[
    SLOW[0],
    (
        "2_slow.sql",
        "-- migrate:up transaction:false
         CREATE TABLE first_half(id INTEGER PRIMARY KEY) STRICT;
         CREATE TEMP TABLE gate(id INTEGER PRIMARY KEY) STRICT;
         INSERT INTO gate VALUES (1);
         CREATE TABLE second_half(id INTEGER PRIMARY KEY) STRICT;
         INSERT INTO log VALUES (2);
        ",
    ),
    SLOW[2],
];

#[test]
fn openers_during_slow_migration_time_out_or_succeed() {
    let race = Race::new(SLOW);
    let mut slow = race.at_the_gate(LONG);

    // The lock is held for as long as nobody says "go", so this one has waited.
    let mut hasty = race.program(SHORT);
    let reply = hasty.does(&race.open());
    assert!(reply.starts_with("InUse, retry, NotStarted: "), "{reply}");
    assert!(
        reply.contains("another process") && reply.contains("try again"),
        "{reply}"
    );
    // What was committed before is there to be read meanwhile.
    let seen = race.one("SELECT group_concat(version) FROM log");
    assert_eq!(seen, "1");

    let patient = race.openers(3, LONG);
    slow.say("go");
    let mut steps = slow.0.line();
    patient
        .iter()
        .for_each(|program| steps += program.0.line().strip_prefix("ok").unwrap());
    assert_eq!(steps.matches("up 1").count(), 1, "{steps}");
    assert_eq!(steps.matches("up 2").count(), 1, "{steps}");
    assert_eq!(steps.matches("up 3").count(), 1, "{steps}");
    // Their checkpoints would be in its way, which waits for 200 ms only.
    patient.into_iter().chain([slow]).for_each(Program::finish);
    // As it was told: it tries again.
    assert_eq!(hasty.does(&race.open()), "ok");
    race.assert_each_once(&["1", "2", "3"]);
    hasty.finish();
}

#[test]
fn migrating_while_another_does_reports_the_lock() {
    let race = Race::new(SLOW);
    let mut hasty = race.program(SHORT);
    assert_eq!(hasty.does(&race.look()), "ok");
    let mut slow = race.at_the_gate(LONG);

    for command in ["migrate", "to 2", "migrate"] {
        let reply = hasty.does(command);
        assert!(reply.starts_with("Locked, retry, NotStarted: "), "{reply}");
        assert!(
            reply.contains("200ms") && reply.contains("Options::migration_timeout"),
            "{reply}"
        );
    }
    slow.say("go");
    let reply = slow.0.line();
    assert_eq!(reply, "ok, up 1, up 2, up 3");
    slow.finish();
    assert_eq!(hasty.does("migrate"), "ok");
    race.assert_each_once(&["1", "2", "3"]);
    hasty.finish();
}

#[test]
fn waiting_for_migration_outside_transaction_sees_its_result() {
    let race = Race::new(SLOW_OUTSIDE);
    let mut slow = race.at_the_gate(LONG);
    assert_eq!(race.one("SELECT version FROM larder_migrations WHERE unfinished"), "2");

    let mut hasty = race.program(SHORT);
    let reply = hasty.does(&race.open());
    assert!(
        reply.starts_with("Unfinished, no retry, NotStarted: migration 2_slow.sql"),
        "{reply}"
    );
    assert!(reply.contains("another process still runs it"), "{reply}");

    let patient = race.openers(3, LONG);
    slow.say("go");
    let mut steps = slow.0.line();
    patient
        .iter()
        .for_each(|program| steps += program.0.line().strip_prefix("ok").unwrap());
    assert_eq!(steps.matches("up 2").count(), 1, "{steps}");
    assert_eq!(steps.matches("up 3").count(), 1, "{steps}");
    patient.into_iter().chain([slow]).for_each(Program::finish);
    assert_eq!(hasty.does(&race.open()), "ok");
    race.assert_each_once(&["1", "2", "3"]);
    assert_eq!(race.one("SELECT count(*) FROM larder_migrations WHERE unfinished"), "0");
    hasty.finish();
}

#[test]
fn killed_migration_is_redone_by_next_process() {
    let race = Race::new(SLOW);
    let start = || {
        let mut program = race.program(LONG);
        program.say(&race.open());
        program
    };
    let mut first = start();
    first.expect("at the gate");
    for _ in 0..4 {
        let next = start();
        assert_eq!(first.0.kill(), Vec::<String>::new());
        // It has the lock now, and comes as far as the first did.
        next.expect("at the gate");
        first = next;
    }
    let last = start();
    first.say("go");
    // The third is made by either of them.
    let replies = [first.0.line(), last.0.line()];
    assert!(replies[0].starts_with("ok, up 2"), "{replies:?}");
    assert_eq!(replies.concat().replace("ok", ""), ", up 2, up 3");
    race.assert_each_once(&["1", "2", "3"]);
    [first, last].into_iter().for_each(Program::finish);
}

#[test]
fn killed_processes_do_not_disturb_other_openers() {
    let race = Race::new(FIVE);
    for round in 0..12 {
        let race = race.again();
        let mut programs = race.programs(8, LONG);
        // All are up and listening, so what is killed is in the middle of opening, migrating or closing.
        for program in &mut programs {
            assert!(program.does("wait").starts_with("ok"));
        }
        for program in &mut programs {
            program.say(&race.open());
        }
        let killed: Vec<_> = programs.drain(..3).collect();
        // Earlier and later, by how many of the others have been told already.
        let mut told = programs
            .iter()
            .take(round % 4)
            .map(|program| program.0.line())
            .collect::<Vec<_>>();
        let rest = &programs[told.len()..];
        let by_the_killed: String = killed.into_iter().map(|program| program.0.kill().concat()).collect();
        told.extend(rest.iter().map(|program| program.0.line()));
        assert!(told.iter().all(|reply| reply.starts_with("ok")), "{told:?}");
        let steps = told.concat() + &by_the_killed;
        assert!(
            VERSIONS.iter().all(|version| steps.matches(version).count() <= 1),
            "{steps}"
        );
        for program in &mut programs {
            assert_eq!(program.does("close"), "ok");
        }
        race.assert_each_once(&VERSIONS);
        programs.into_iter().for_each(Program::finish);
    }
}

#[test]
fn killed_migration_outside_transaction_is_not_repeated() {
    let race = Race::new(SLOW_OUTSIDE);
    let killed = race.at_the_gate(LONG);
    let mut waits = race.openers(2, "1500");
    killed.0.kill();
    for program in &mut waits {
        let reply = program.0.line();
        assert!(
            reply.starts_with("Unfinished, no retry, NotStarted: migration 2_slow.sql"),
            "{reply}"
        );
        assert!(
            reply.contains("DELETE FROM larder_migrations WHERE version = '2'"),
            "{reply}"
        );
    }
    assert_eq!(race.one(RECORDED), "1");
    assert_eq!(
        race.one("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%\\_half' ESCAPE '\\'"),
        "1"
    );
    // By hand, as the message says: undone, and to be run again.
    made_by(
        &race.path,
        "DROP TABLE first_half; DELETE FROM larder_migrations WHERE version = '2'",
    );
    waits[0].say(&race.open());
    waits[0].expect("at the gate");
    waits[0].say("go");
    assert_eq!(waits[0].0.line(), "ok, up 2, up 3");
    race.assert_each_once(&["1", "2", "3"]);
    waits.into_iter().for_each(Program::finish);
}

#[test]
fn migration_that_cannot_be_recorded_counts_as_started() {
    // All of its statements have run, and then somebody else has the lock for longer than there is to wait.
    let race = Race::new(SLOW_OUTSIDE);
    let outside = SLOW_OUTSIDE[1].1.replace("INSERT INTO log VALUES (2);", "");
    let outside = outside.replace("CREATE TABLE second_half(id INTEGER PRIMARY KEY) STRICT;", "");
    race.write(("2_slow.sql", &outside));
    let mut program = race.at_the_gate(SHORT);
    let other = race.lock();
    program.say("go");
    let reply = program.0.line();
    other.release();
    assert_eq!(
        race.one("SELECT count(*) FROM sqlite_schema WHERE name = 'first_half'"),
        "1"
    );
    assert!(!reply.contains("NotStarted") && !reply.contains(", retry, "), "{reply}");
    assert!(reply.contains("2_slow.sql"), "{reply}");
    program.finish();
}

#[test]
fn lock_in_own_transaction_is_reported_with_mark() {
    let race = Race::new(SLOW_OUTSIDE);
    let own_transaction = "-- migrate:up transaction:false
         BEGIN;
         CREATE TEMP TABLE gate(id INTEGER PRIMARY KEY) STRICT;
         INSERT INTO gate VALUES (1);
         INSERT INTO log VALUES (2);
         COMMIT;
        ";
    race.write(("2_slow.sql", own_transaction));
    let mut program = race.at_the_gate(SHORT);
    let other = race.lock();
    program.say("go");
    let reply = program.0.line();
    other.release();
    assert!(reply.contains("2_slow.sql, line 5: database is locked"), "{reply}");
    // Nothing of it was committed. Whether larder could take its mark away or not, it says what is so.
    let unfinished = race.one("SELECT count(*) FROM larder_migrations WHERE unfinished") == "1";
    let message = if unfinished {
        "DELETE FROM larder_migrations WHERE version = '2'"
    } else {
        "try again"
    };
    assert!(reply.contains(message), "unfinished: {unfinished}, and told: {reply}");
    program.finish();
}

#[test]
fn first_open_waits_for_tool_in_rollback_mode() {
    let race = Race::new(FIVE);
    made_by_another_tool(&race.path);
    // As Dbmate in the middle of its third.
    let other = Connection::open(&race.path).unwrap();
    other.execute_batch("BEGIN").unwrap();
    other.execute_batch(up(FIVE[2].1)).unwrap();
    let mut hasty = race.program(SHORT);
    let reply = hasty.does(&race.open());
    assert!(
        reply.contains("NotStarted") && reply.contains("another process"),
        "{reply}"
    );
    assert!(
        reply.contains("then open again") || reply.contains("then try again"),
        "{reply}"
    );

    let patient = race.openers(3, LONG);
    other
        .execute("INSERT INTO schema_migrations VALUES (?1)", [VERSIONS[2]])
        .unwrap();
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    let mut steps = String::new();
    for program in &patient {
        let reply = program.0.line();
        steps += reply.strip_prefix("ok").unwrap_or_else(|| panic!("{reply}"));
    }
    assert_eq!(steps.matches("up").count(), 2, "{steps}");
    patient.into_iter().for_each(Program::finish);
    assert_eq!(hasty.does(&race.open()), "ok");
    race.assert_each_once(&VERSIONS);
    hasty.finish();
}

/// It was an Error::Pragma that said not to try again.
#[test]
fn lock_by_tool_in_rollback_mode_is_retryable() {
    let race = Race::new(FIVE);
    made_by_another_tool(&race.path);
    let _other = race.lock();
    let mut hasty = race.program(SHORT);
    let reply = hasty.does(&race.open());
    assert!(reply.starts_with("Pragma, retry, "), "{reply}");
    hasty.finish();
}

#[test]
fn service_write_and_other_processs_migrations_take_turns() {
    let race = Race::new(SLOW);
    let service = Options::new().busy_timeout(child::PATIENCE).open(&race.path).unwrap();
    let mut slow = race.at_the_gate(LONG);
    // Queued behind the migration, by a process that knows nothing of it.
    let pending = service
        .submit(|tx| tx.execute("INSERT INTO log VALUES (100)", []))
        .unwrap();
    let seen: i64 = service
        .read(|tx| tx.query_row("SELECT sum(version) FROM log", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(seen, 1);
    slow.say("go");
    assert_eq!(slow.0.line(), "ok, up 1, up 2, up 3");
    assert_eq!(pending.wait().unwrap(), 1);
    let seen: i64 = service
        .read(|tx| tx.query_row("SELECT sum(version) FROM log", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(seen, 106);
    slow.finish();
    service.close().unwrap();
    drop(service);
    assert_eq!(race.one(RECORDED), "1 2 3");
}

// ---- kill -9 ----

/// Rows that are named as points stand in `mark`.
const MORTAL: &[(&str, &str)] = &[
    (
        "1_tables.sql",
        "-- migrate:up
         CREATE TABLE mark(id INTEGER PRIMARY KEY) STRICT;
         INSERT INTO mark VALUES (1);
         CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
         CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parent(id) ON DELETE CASCADE,
             name TEXT) STRICT;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200)
             INSERT INTO parent SELECT i, hex(zeroblob(200)) || i FROM n;
         INSERT INTO child(parent) SELECT id FROM parent UNION ALL SELECT id FROM parent;
         INSERT INTO mark VALUES (2);
        ",
    ),
    (
        "2_rebuild.sql",
        "-- migrate:up
         CREATE TABLE parent_new(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT) STRICT;
         INSERT INTO parent_new SELECT id, name, id || '@example.org' FROM parent;
         DROP TABLE parent;
         INSERT INTO mark VALUES (3);
         ALTER TABLE parent_new RENAME TO parent;
         INSERT INTO mark VALUES (4);
         CREATE UNIQUE INDEX parent_email ON parent(email);
         INSERT INTO mark VALUES (5);
-- migrate:down
         CREATE TABLE parent_old(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
         INSERT INTO parent_old SELECT id, name FROM parent;
         DROP TABLE parent;
         INSERT INTO mark VALUES (6);
         ALTER TABLE parent_old RENAME TO parent;
         DELETE FROM mark WHERE id > 2;
        ",
    ),
    (
        "3_trigger.sql",
        "-- migrate:up
         CREATE TABLE audit(id INTEGER PRIMARY KEY, child INTEGER NOT NULL) STRICT;
         CREATE TRIGGER child_name AFTER UPDATE ON child BEGIN INSERT INTO audit(child) VALUES (new.id); END;
         UPDATE child SET name = 'child of ' || (SELECT email FROM parent WHERE id = child.parent);
-- migrate:down
         DROP TRIGGER child_name;
         DROP TABLE audit;
         UPDATE child SET name = NULL;
        ",
    ),
];

/// A process that comes from the versions `before`, goes to `target` and kills itself at the point leaves exactly what
/// one leaves that has gone to the versions `edge`; and the next makes what is left to be made.
#[track_caller]
fn dies_and_is_followed(before: &[u64], target: &str, point: &str, edge: &[u64]) {
    let race = Race::new(MORTAL);
    let clean = |steps: &[u64]| {
        let other = race.again();
        other.go_to(steps);
        other.contents()
    };
    race.go_to(before);
    let mut program = race.mortal(point);
    if target == "newest" {
        program.say(&race.open());
    } else {
        assert_eq!(program.does(&race.look()), "ok");
        program.say(&format!("to {target}"));
    }
    program.dies(point);
    assert_eq!(race.contents(), clean(edge), "after {point}");

    let store = options(&race.migrations).open(&race.path).unwrap();
    let status = store.migrations().unwrap();
    assert_eq!((status.applied.len(), status.pending.len()), (3, 0));
    let orphans = "SELECT count(*) FROM child LEFT JOIN parent ON parent.id = child.parent WHERE parent.id IS NULL";
    let (children, orphans): (i64, i64) = store
        .read(|tx| {
            let children = tx.query_row("SELECT count(*) FROM child", [], |row| row.get(0))?;
            Ok((children, tx.query_row(orphans, [], |row| row.get(0))?))
        })
        .unwrap();
    assert_eq!((children, orphans), (400, 0));
    store.close().unwrap();
    drop(store);
    let whole: Vec<u64> = edge.iter().copied().chain([3]).collect();
    assert_eq!(race.contents(), clean(&whole), "after {point} and what was left");
}

#[test]
fn kill_before_first_statement_leaves_empty_database() {
    dies_and_is_followed(&[], "newest", "started 1", &[]);
}

#[test]
fn kill_between_first_statements_leaves_empty_database() {
    dies_and_is_followed(&[], "newest", "insert mark 1", &[]);
}

#[test]
fn kill_in_last_statement_leaves_empty_database() {
    dies_and_is_followed(&[], "newest", "insert mark 2", &[]);
}

#[test]
fn kill_at_recording_leaves_no_migration_nor_record() {
    dies_and_is_followed(&[], "newest", "insert schema_migrations 1", &[]);
    dies_and_is_followed(&[1], "newest", "insert schema_migrations 2", &[1]);
}

#[test]
fn kill_after_commit_leaves_migration_applied() {
    dies_and_is_followed(&[], "newest", "finished 1", &[1]);
    dies_and_is_followed(&[], "newest", "finished 2", &[2]);
    dies_and_is_followed(&[], "newest", "finished 3", &[3]);
}

#[test]
fn kill_before_second_migration_leaves_the_first() {
    dies_and_is_followed(&[], "newest", "started 2", &[1]);
}

#[test]
fn kill_while_copying_rows_leaves_old_table() {
    dies_and_is_followed(&[], "newest", "insert parent_new 1", &[1]);
    dies_and_is_followed(&[1], "newest", "insert parent_new 200", &[1]);
}

#[test]
fn kill_after_dropping_parent_leaves_its_children() {
    dies_and_is_followed(&[1], "newest", "insert mark 3", &[1]);
}

#[test]
fn kill_after_renaming_parent_leaves_old_one() {
    dies_and_is_followed(&[1], "newest", "insert mark 4", &[1]);
    dies_and_is_followed(&[1], "newest", "insert mark 5", &[1]);
}

#[test]
fn kill_in_trigger_leaves_the_state_before() {
    dies_and_is_followed(&[2], "newest", "insert audit 300", &[2]);
}

#[test]
fn kill_during_undo_leaves_migration_applied() {
    dies_and_is_followed(&[3], "1", "started 2", &[3, 2]);
    dies_and_is_followed(&[3], "1", "insert parent_old 100", &[3, 2]);
    dies_and_is_followed(&[3], "1", "insert mark 6", &[3, 2]);
    dies_and_is_followed(&[3], "1", "delete mark 6", &[3, 2]);
    dies_and_is_followed(&[3], "1", "delete schema_migrations 2", &[3, 2]);
    dies_and_is_followed(&[3], "1", "finished 2", &[3, 1]);
}

#[test]
fn kill_during_backup_check_leaves_database_unchanged() {
    let race = Race::new(MORTAL);
    race.go_to(&[1]);
    let before = race.contents();
    race.dies_opening("with a backup", CHECKING_A_BACKUP);
    assert_eq!(race.contents(), before);
    assert!(has_partial_backup(&race.path));
    assert_eq!(backups(&race.path, "2"), Vec::<String>::new());

    let mut program = race.program_as("with a backup");
    assert_eq!(program.does(&race.open()), "ok, up 2, up 3");
    assert_eq!(program.does("close"), "ok");
    program.finish();
    let made = backups(&race.path, "2");
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(contents(&made[0]), before);
    // What the killed one has begun is as large as the database, and is not to pile up.
    let files = files_beside(&race.path);
    assert_eq!(files.len(), 2, "{files:?}");
}

/// The folders of unfinished dry runs.
fn dry_runs(database: &str) -> usize {
    let files = files_beside(database);
    let names = files.iter().map(|(name, _)| name);
    names.filter(|name| name.starts_with(".larder-dry-run-")).count()
}

/// Its half of a database stayed beside the file for good.
#[test]
fn killed_dry_run_is_removed_by_whoever_comes() {
    let files = [(
        "1_gate.sql",
        "CREATE TABLE gate(id INTEGER PRIMARY KEY); INSERT INTO gate VALUES (1)",
    )];
    let (migrations, place) = (folder(&files), tempdir().unwrap());
    let path = database(&place);
    let fill = "CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(100000))";
    Store::open(&path)
        .unwrap()
        .write(move |tx| tx.execute_batch(fill))
        .unwrap();
    let set = Migrations::folder(migrations.path()).unwrap().at_open(false);
    let killed = |meanwhile: &dyn Fn()| {
        let mut program = Program::start("plain", &migrations, LONG, NOWHERE);
        assert_eq!(program.does(&format!("look {path}")), "ok");
        program.say("dry-run");
        program.expect("at the gate");
        assert_eq!(dry_runs(&path), 1);
        meanwhile();
        assert_eq!(dry_runs(&path), 1, "it is in use");
        program.0.kill();
        assert_eq!(dry_runs(&path), 1);
    };
    let store = || Options::new().migrations(set.clone()).open(&path).unwrap();
    killed(&|| drop(store().migrate_dry_run(DryRun::Backup).unwrap()));
    store().migrate_dry_run(DryRun::Backup).unwrap();
    assert_eq!(dry_runs(&path), 0);

    killed(&|| drop(store()));
    let mut another = Program::start("plain", &migrations, LONG, NOWHERE);
    assert_eq!(another.does(&format!("look {path}")), "ok");
    assert_eq!(dry_runs(&path), 0);
    another.finish();

    // A backup into the folder does it, too.
    killed(&|| drop(store()));
    store().backup(place.path().join("copy")).run().unwrap();
    assert_eq!(dry_runs(&path), 0);
}

/// A file as Goose leaves it after the first two of five.
fn made_by_goose(path: &str) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(GOOSE_TABLE).unwrap();
    for ((_, sql), version) in FIVE.iter().zip(VERSIONS).take(2) {
        conn.execute_batch(up(sql)).unwrap();
        let enter = "INSERT INTO goose_db_version(version_id, is_applied) VALUES (?1, 1)";
        conn.execute(enter, [version]).unwrap();
    }
}

#[test]
fn ten_processes_adopt_goose_record_once() {
    let race = Race::new(FIVE);
    let mut programs: Vec<_> = (0..10).map(|_| race.program_as("after Goose")).collect();
    for round in 0..6 {
        let race = race.again();
        made_by_goose(&race.path);
        let steps = race.open_all(&mut programs, round % 2 == 0);
        let made: Vec<_> = VERSIONS[2..].iter().map(|version| format!("up {version}")).collect();
        assert_eq!(steps, made);
        race.assert_each_once(&VERSIONS);
        assert_eq!(race.one("SELECT count(*) FROM goose_db_version"), "3");
    }
    programs.into_iter().for_each(Program::finish);
}

#[test]
fn kill_while_adopting_goose_record_leaves_none() {
    let race = Race::new(FIVE);
    made_by_goose(&race.path);
    let before = race.contents();
    let point = "insert schema_migrations 2";
    race.dies_opening("after Goose", point);
    assert_eq!(race.contents(), before);
    let mut program = race.program_as("after Goose");
    assert_eq!(program.does(&race.open()).matches(", up ").count(), 3);
    program.finish();
    race.assert_each_once(&VERSIONS);
}

#[test]
fn kill_after_noting_dbmate_record_keeps_it() {
    let race = Race::new(FIVE);
    made_by_another_tool(&race.path);
    race.dies_opening("plain", "started 20260101000003");
    let left = race.contents();
    for name in ["20260101000001\", \"log", "20260101000002\", \"family"] {
        assert!(left.contains(&format!("larder_migrations: [\"{name}\"")), "{left}");
    }
    race.migrate();
    race.assert_each_once(&VERSIONS);
    let by_another = "SELECT count(*) FROM larder_migrations WHERE applied_at IS NULL AND NOT unfinished";
    assert_eq!(race.one(by_another), "2");
}

/// A migration outside a transaction, between two others, with a way down outside one, too.
const OUTSIDE: &[(&str, &str)] = &[
    ("1_mark.sql", "CREATE TABLE mark(id INTEGER PRIMARY KEY) STRICT"),
    (
        "2_outside.sql",
        "-- migrate:up transaction:false
         CREATE TABLE one(id INTEGER PRIMARY KEY) STRICT;
         INSERT INTO mark VALUES (1);
         CREATE TABLE two(id INTEGER PRIMARY KEY) STRICT;
-- migrate:down transaction:false
         DROP TABLE two;
         DELETE FROM mark WHERE id = 1;
         DROP TABLE one;
        ",
    ),
    (
        "3_after.sql",
        "-- migrate:up
         CREATE TABLE three(id INTEGER PRIMARY KEY) STRICT;
-- migrate:down
         DROP TABLE three;
        ",
    ),
];

/// The tables of the migrations in [`OUTSIDE`] that are there.
fn tables(path: &str) -> String {
    one(
        path,
        "SELECT coalesce(group_concat(name, ' '), '') FROM
            (SELECT name FROM sqlite_schema WHERE name IN ('one', 'two', 'three') ORDER BY rowid)",
    )
}

#[track_caller]
fn assert_unfinished(opened: larder::Result<Store>) {
    let error = opened.map(drop).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("2_outside.sql") && message.contains("larder_migrations WHERE version = '2'"),
        "{message}"
    );
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
    let Error::Migration(error) = error else {
        panic!("{error:?}")
    };
    assert!(matches!(*error, MigrationError::Unfinished { .. }), "{error:?}");
}

#[test]
fn kill_outside_transaction_is_reported_until_repaired() {
    let race = Race::new(OUTSIDE);
    race.dies_opening("plain", "insert mark 1");
    for _ in 0..2 {
        assert_unfinished(race.hasty_open());
    }
    assert_eq!((tables(&race.path).as_str(), race.one(RECORDED).as_str()), ("one", "1"));
    made_by(
        &race.path,
        "DROP TABLE one; DELETE FROM larder_migrations WHERE version = '2'",
    );
    race.hasty_open().unwrap().close().unwrap();
    assert_eq!(
        (tables(&race.path).as_str(), race.one(RECORDED).as_str()),
        ("one two three", "1 2 3")
    );
}

#[test]
fn kill_before_mark_or_after_record_is_harmless() {
    for (point, left) in [("started 2", "1"), ("finished 2", "1 2")] {
        let race = Race::new(OUTSIDE);
        race.dies_opening("plain", point);
        assert_eq!(race.one(RECORDED), left);
        race.hasty_open().unwrap().close().unwrap();
        assert_eq!(
            (tables(&race.path).as_str(), race.one(RECORDED).as_str()),
            ("one two three", "1 2 3")
        );
    }
}

#[test]
fn kill_during_undo_outside_transaction_is_reported() {
    let race = Race::new(OUTSIDE);
    race.go_to(&[3]);
    let mut program = race.mortal("delete mark 1");
    assert_eq!(program.does(&race.look()), "ok");
    program.say("to 1");
    program.dies("delete mark 1");
    // Half of it is undone. Nobody may take it for applied, nor for pending.
    assert_eq!(tables(&race.path), "one");
    for _ in 0..2 {
        assert_unfinished(race.hasty_open());
    }
    assert_eq!(tables(&race.path), "one");
}
// ---- dbmate ----

/// The real `dbmate`, on one database and one folder of migrations.
struct Dbmate<'a> {
    program: PathBuf,
    path: &'a str,
    migrations: &'a TempDir,
}

impl<'a> Dbmate<'a> {
    /// `None`, said visibly, if there is none: `LARDER_DBMATE` names it, or it is on the `PATH`.
    fn find(path: &'a str, migrations: &'a TempDir) -> Option<Self> {
        let program = env::var_os("LARDER_DBMATE").map_or_else(|| "dbmate".into(), PathBuf::from);
        if !succeeds(Command::new(&program).arg("--version")) {
            child::skipped("there is no dbmate here: put it on the PATH, or its path into LARDER_DBMATE");
            return None;
        }
        Some(Self {
            program,
            path,
            migrations,
        })
    }

    fn command(&self, command: &str) -> Command {
        let mut process = Command::new(&self.program);
        process
            .arg("-d")
            .arg(self.migrations.path())
            .args(["--no-dump-schema", command])
            .env("DATABASE_URL", format!("sqlite:{}", self.path))
            // It would read a file .env there.
            .current_dir(self.migrations.path());
        process
    }

    /// What it says, if it succeeds.
    #[track_caller]
    fn does(&self, command: &str) -> String {
        let output = self.command(command).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "dbmate {command}: {out}{err}");
        out
    }

    /// Starts `up`.
    fn start_up(&self) -> Running {
        let mut command = self.command("up");
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let told = String::new();
        Running { process, out, told }
    }

    /// It says of the first so many of the files that they are applied, and of the others that they are pending.
    #[track_caller]
    fn says_applied(&self, applied: usize) {
        let mut files: Vec<_> = fs::read_dir(self.migrations.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut wanted = String::new();
        for (at, file) in files.iter().enumerate() {
            let _ = writeln!(wanted, "[{}] {file}", if at < applied { 'X' } else { ' ' });
        }
        let _ = write!(wanted, "\nApplied: {applied}\nPending: {}\n", files.len() - applied);
        assert_eq!(self.does("status"), wanted);
    }
}

/// A `dbmate up` that runs.
struct Running {
    process: Process,
    out: BufReader<ChildStdout>,
    told: String,
}

impl Running {
    /// Waits until it says that it applies this file; `false` if it ends without.
    fn comes_to(&mut self, file: &str) -> bool {
        let applying = format!("Applying: {file}\n");
        while !self.told.ends_with(&applying) {
            if self.out.read_line(&mut self.told).unwrap() == 0 {
                return false;
            }
        }
        true
    }

    /// Whether it succeeds, and all that it has said.
    fn end(mut self) -> (bool, String, String) {
        let mut err = String::new();
        self.out.read_to_string(&mut self.told).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.process.wait().unwrap().success(), self.told, err)
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn dbmate_undoes_and_larder_reapplies_larders_migrations() {
    let race = Race::new(FIVE);
    let Some(dbmate) = race.dbmate() else { return };
    race.migrate();
    dbmate.says_applied(5);
    assert_eq!(dbmate.does("up"), "");
    let whole = race.contents();

    dbmate.does("down");
    dbmate.says_applied(4);
    assert_eq!(
        race.one("SELECT count(*) FROM sqlite_schema WHERE name = 'child_parent'"),
        "0"
    );
    race.assert_status(4, 1);
    dbmate.does("down");
    race.assert_status(3, 2);

    race.migrate();
    dbmate.says_applied(5);
    race.assert_each_once(&VERSIONS);
    let lines = |text: &str| {
        text.lines()
            .filter(|line| !line.starts_with("log:"))
            .map(str::to_owned)
            .collect()
    };
    let (before, after): (Vec<String>, Vec<String>) = (lines(&whole), lines(&race.contents()));
    assert_eq!(before, after);
}

#[test]
fn dbmate_undoes_larders_files_to_empty_schema() {
    let race = Race::new(FIVE);
    let Some(dbmate) = race.dbmate() else { return };
    race.migrate();
    for applied in (0..5).rev() {
        dbmate.does("down");
        dbmate.says_applied(applied);
        race.assert_status(applied, 5 - applied);
    }
    let left = "SELECT group_concat(name) FROM sqlite_schema 
         WHERE type = 'table' AND name NOT LIKE '%migrations' AND name NOT LIKE 'sqlite%'";
    assert_eq!(race.one(left), "NULL");
    race.migrate();
    race.assert_each_once(&VERSIONS);
}

#[test]
fn larder_continues_after_dbmate_and_keeps_data() {
    let race = Race::new(&FIVE[..2]);
    let Some(dbmate) = race.dbmate() else { return };
    dbmate.does("up");
    {
        let conn = Connection::open(&race.path).unwrap();
        assert_eq!(rows(&conn, "PRAGMA journal_mode"), [["delete"]]);
        conn.execute_batch("INSERT INTO parent VALUES (3, 'Barbara'); INSERT INTO child(parent) VALUES (3)")
            .unwrap();
    }
    FIVE[2..].iter().for_each(|file| race.write(*file));
    race.assert_status(2, 3);
    race.migrate();
    race.assert_each_once(&VERSIONS);
    assert_eq!(
        race.one("SELECT count(*) || ' of ' || count(DISTINCT parent) FROM child"),
        "4 of 3"
    );
    dbmate.says_applied(5);

    let store = race.store();
    let status = store.migrations().unwrap();
    let by_larder: Vec<_> = status
        .applied
        .iter()
        .map(|m| m.applied_at.is_some() && m.duration.is_some())
        .collect();
    assert_eq!(by_larder, [false, false, true, true, true]);
    assert_eq!(status.applied[0].name, "log");
    // All the way down, by larder, also through what Dbmate has applied.
    let report = store.migrate_to(0).unwrap();
    assert_eq!(report.steps.len(), 5);
    store.close().unwrap();
    drop(store);
    dbmate.says_applied(0);
    assert_eq!(race.one("SELECT count(*) FROM larder_migrations"), "0");
}

#[test]
fn dbmate_applies_what_larder_undid_and_newer() {
    let race = Race::new(&FIVE[..4]);
    let Some(dbmate) = race.dbmate() else { return };
    race.go_to(&[20260101000004, 20260101000002]);
    dbmate.says_applied(2);
    race.write(FIVE[4]);
    dbmate.does("up");
    dbmate.says_applied(5);
    race.assert_each_once(&VERSIONS);
    race.assert_status(5, 0);
    let store = options(&race.migrations).open(&race.path).unwrap();
    assert_eq!(store.migrate().unwrap().steps.len(), 0);
}

#[test]
fn file_applied_by_one_is_seen_by_other() {
    let race = Race::new(&FIVE[..2]);
    let Some(dbmate) = race.dbmate() else { return };
    race.migrate();
    for (at, file) in FIVE.iter().enumerate().skip(2) {
        race.write(*file);
        dbmate.says_applied(at);
        race.assert_status(at, 1);
        if at % 2 == 0 {
            dbmate.does("up");
        } else {
            race.migrate();
        }
        dbmate.says_applied(at + 1);
        race.assert_status(at + 1, 0);
    }
    race.assert_each_once(&VERSIONS);
}

#[test]
fn file_edited_after_dbmate_applied_it_has_changed() {
    let race = Race::new(FIVE);
    let Some(dbmate) = race.dbmate() else { return };
    dbmate.does("up");
    let (name, sql) = FIVE[3];
    // Before larder has seen it nobody can know.
    race.write((name, &sql.replace("born TEXT", "born  TEXT")));
    race.migrate();

    race.write((name, &sql.replace("born TEXT", "born INTEGER")));
    let error = race.refused();
    let message = error.to_string();
    assert!(message.contains(name) && message.contains("has changed"), "{message}");
    assert!(message.contains("WHERE version = '20260101000004'"), "{message}");
    let Error::Migration(error) = error else {
        panic!("{error:?}")
    };
    assert!(matches!(*error, MigrationError::Changed { .. }), "{error:?}");
    // The way down is not what was applied, and neither is how a line ends.
    let sql = sql.replace("born TEXT", "born  TEXT");
    let other_way_down = format!("{sql}SELECT 1;\n").replace('\n', "\r\n");
    race.write((name, &other_way_down));
    race.migrate();
    dbmate.says_applied(5);
}

#[test]
fn reapplied_edit_by_dbmate_is_reported_with_fix() {
    let race = Race::new(FIVE);
    let Some(dbmate) = race.dbmate() else { return };
    race.migrate();
    dbmate.does("down");
    let (name, sql) = FIVE[4];
    race.write((name, &sql.replace("ON child(parent)", "ON child(parent, born)")));
    dbmate.does("up");
    // larder's row is the one of its own application. Whether the schema is that of the old file or the new, it cannot
    // know; the message says what to do in either case.
    let error = race.refused();
    let message = error.to_string();
    let way_out = "DELETE FROM larder_migrations WHERE version = '20260101000005'";
    assert!(
        message.contains("has changed") && message.contains(way_out),
        "{message}"
    );
    made_by(&race.path, way_out);
    race.migrate();
    race.assert_each_once(&VERSIONS);
}

/// The five, of which the third takes Dbmate a while.
fn slow_five() -> Race {
    let race = Race::new(FIVE);
    let (name, sql) = FIVE[2];
    let count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000)
         UPDATE parent SET name = name || (SELECT substr(max(i), 1, 0) FROM n);";
    let slow = sql.replacen(
        "ALTER TABLE parent_new",
        &format!("{count}\n         ALTER TABLE parent_new"),
        1,
    );
    let slow = slow.replacen("UPDATE parent ", "UPDATE parent_new ", 1);
    race.write((name, &slow));
    race
}

#[test]
fn dbmate_and_larder_at_once_apply_each_once() {
    let race = slow_five();
    let mut program = race.program(LONG);
    for round in 0..9 {
        let race = race.again();
        let Some(dbmate) = race.dbmate() else { return };
        match round % 3 {
            0 => {}
            1 => race.go_to(&[20260101000001]),
            _ => made_by_another_tool(&race.path),
        }
        let mut running = dbmate.start_up();
        // Together from the start, or while Dbmate is in the middle of its third.
        if round >= 3 {
            assert!(running.comes_to(FIVE[2].0), "{}", running.end().2);
        }
        let reply = program.does(&race.open());
        let (success, out, err) = running.end();
        // larder looks again at what is applied once it has the lock. Dbmate does not, so it may be the one to lose.
        assert!(reply.starts_with("ok"), "round {round}: {reply}; dbmate: {out}{err}");
        assert!(success || !err.is_empty(), "round {round}: dbmate fails without a word");
        assert_eq!(program.does("close"), "ok");
        race.assert_each_once(&VERSIONS);
        let family = "SELECT count(*) || ' of ' || count(DISTINCT parent) FROM child";
        assert_eq!(race.one(family), "3 of 2");
        dbmate.says_applied(5);
        assert_eq!(dbmate.does("up"), "");
        race.assert_status(5, 0);
    }
    program.finish();
}

#[test]
fn dbmate_during_larders_migration_fails_with_a_lock() {
    let race = Race::new(FIVE);
    let (name, sql) = FIVE[1];
    let gate = "CREATE TABLE gate(id INTEGER PRIMARY KEY) STRICT; INSERT INTO gate VALUES (1);";
    race.write((name, &sql.replacen("INSERT", &format!("{gate} INSERT"), 1)));
    let Some(dbmate) = race.dbmate() else { return };
    let mut program = race.at_the_gate(LONG);
    let mut running = dbmate.start_up();
    // It has listed what is pending by then: what larder is just at, too.
    assert!(running.comes_to(name), "{}", running.end().2);
    program.say("go");
    assert_eq!(program.0.line().matches(", up ").count(), 5);
    let (success, out, err) = running.end();
    assert!(!success && !err.is_empty(), "{out}{err}");
    assert_eq!(program.does("close"), "ok");
    program.finish();
    race.assert_each_once(&VERSIONS);
    dbmate.says_applied(5);
}

#[test]
fn migration_outside_transaction_is_same_to_dbmate() {
    let outside = (
        "20260101000003_outside.sql",
        "-- migrate:up transaction:false
         CREATE INDEX child_parent ON child(parent);
         VACUUM;
         INSERT INTO log(version) VALUES (20260101000003);
-- migrate:down transaction:false
         DROP INDEX child_parent;
         DELETE FROM log WHERE version = 20260101000003;
         VACUUM;
        ",
    );
    let race = Race::new(&[FIVE[0], FIVE[1], outside]);
    let Some(dbmate) = race.dbmate() else { return };
    dbmate.does("up");
    race.assert_status(3, 0);
    race.go_to(&[20260101000002]);
    dbmate.says_applied(2);
    race.migrate();
    dbmate.says_applied(3);
    race.assert_each_once(&VERSIONS[..3]);
    dbmate.does("down");
    dbmate.says_applied(2);
    race.assert_status(2, 1);
}

// ---- the example ----

/// The example `migrate`, on one database and one folder.
struct Tool<'a> {
    program: PathBuf,
    path: &'a str,
    migrations: &'a Path,
}

impl<'a> Tool<'a> {
    /// `cargo test` builds it beside this binary. `None`, said visibly, if it is not there.
    fn find(path: &'a str, migrations: &'a Path) -> Option<Self> {
        let binary = env::current_exe().unwrap();
        let program = binary.parent().unwrap().parent().unwrap().join("examples/migrate");
        if !program.exists() {
            child::skipped("the example `migrate` was not built: `cargo build --example migrate`");
            return None;
        }
        Some(Self {
            program,
            path,
            migrations,
        })
    }

    fn run(&self, command: &str) -> Output {
        Command::new(&self.program)
            .arg(self.path)
            .arg(self.migrations)
            .args(command.split_whitespace())
            .output()
            .unwrap()
    }

    /// What it says, if it succeeds; without the times, which it says after the names.
    #[track_caller]
    fn says(&self, command: &str) -> Vec<String> {
        let output = self.run(command);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{command}: {out}{err}");
        assert_eq!(err, "", "{command}");
        let untimed = |line: &str| match line.split_once(" in ").or_else(|| line.split_once(" (2")) {
            Some((step, _)) => step.to_owned(),
            None => line.to_owned(),
        };
        out.lines().map(untimed).collect()
    }

    /// What it says on stderr, having failed and said nothing else.
    #[track_caller]
    fn refuses(&self, command: &str) -> String {
        let output = self.run(command);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {out}{err}");
        assert_eq!(out, "", "{command}");
        assert!(err.starts_with("migrate: ") && err.ends_with('\n'), "{command}: {err}");
        assert_eq!(err.lines().count(), 1, "{command}: {err}");
        err
    }
}

#[test]
fn example_applies_shows_and_undoes_migrations() {
    let race = Race::new(FIVE);
    let Some(tool) = race.tool() else { return };
    assert_eq!(
        tool.says("up 20260101000002"),
        ["up 20260101000001 log", "up 20260101000002 family"]
    );
    assert_eq!(
        tool.says("status"),
        [
            "[X] 20260101000001 log",
            "[X] 20260101000002 family",
            "[ ] 20260101000003 rebuild",
            "[ ] 20260101000004 column",
            "[ ] 20260101000005 index",
            "",
            "Applied: 2",
            "Pending: 3",
        ]
    );
    let before = race.contents();
    assert_eq!(
        tool.says("dry-run"),
        [
            "up 20260101000003 rebuild",
            "up 20260101000004 column",
            "up 20260101000005 index",
            "(on a copy; the database is as it was)",
        ]
    );
    assert_eq!(race.contents(), before);
    assert_eq!(files_beside(&race.path).len(), 1, "{:?}", files_beside(&race.path));

    assert_eq!(tool.says("up").len(), 3);
    assert_eq!(tool.says("up"), ["nothing to do"]);
    race.assert_each_once(&VERSIONS);
    assert_eq!(tool.says("down"), ["down 20260101000005 index"]);
    assert_eq!(
        tool.says("down 20260101000002"),
        ["down 20260101000004 column", "down 20260101000003 rebuild"]
    );
    // A table that was renamed has its name in quotes.
    assert_eq!(race.contents().replace(r#"\"parent\""#, "parent"), before);
    assert_eq!(tool.says("down 20260101000002"), ["nothing to do"]);
    assert_eq!(
        tool.says("down 0"),
        ["down 20260101000002 family", "down 20260101000001 log"]
    );
    assert_eq!(tool.says("up").len(), 5);
    race.assert_each_once(&VERSIONS);
}

/// Two of one second had one version, and no database could be opened.
#[test]
fn example_creates_files_with_different_versions() {
    let folder = tempdir().unwrap();
    let (path, migrations) = (database(&folder), folder.path().join("migrations"));
    let Some(tool) = Tool::find(&path, &migrations) else {
        return;
    };
    // One after the other, and all at once.
    for n in 0..3 {
        tool.says(&format!("new step_{n}"));
    }
    std::thread::scope(|scope| {
        for n in 3..8 {
            let tool = &tool;
            scope.spawn(move || tool.says(&format!("new step_{n}")));
        }
    });
    let names = fs::read_dir(&migrations)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let versions: std::collections::BTreeSet<_> = names
        .map(|name| name.to_str().unwrap().split('_').next().unwrap().to_owned())
        .collect();
    assert_eq!(versions.len(), 8, "{versions:?}");
}

#[test]
fn example_creates_file_refused_while_empty() {
    let folder = tempdir().unwrap();
    let (path, migrations) = (database(&folder), folder.path().join("db/migrations"));
    let Some(tool) = Tool::find(&path, &migrations) else {
        return;
    };
    let said = tool.says("new add_users");
    let file = said[0].strip_prefix("created ").unwrap_or_else(|| panic!("{said:?}"));
    let name = Path::new(file).file_name().unwrap().to_str().unwrap();
    let (version, rest) = name.split_once('_').unwrap();
    assert!(
        version.len() == 14 && version.bytes().all(|byte| byte.is_ascii_digit()),
        "{name}"
    );
    assert_eq!(rest, "add_users.sql");
    assert!(!Path::new(&path).exists());
    let made = fs::read_to_string(file).unwrap();
    assert!(
        made.contains("-- migrate:up\n") && made.contains("-- migrate:down\n"),
        "{made}"
    );

    fs::write(
        file,
        "-- migrate:up\nCREATE TABLE users(id INTEGER PRIMARY KEY) STRICT;\n\n-- migrate:down\n\n",
    )
    .unwrap();
    assert_eq!(tool.says("up"), [format!("up {version} add_users")]);
    // Its way down is still empty.
    let error = tool.refuses("down");
    assert!(error.contains(name) && error.contains("cannot be undone"), "{error}");
    for name in ["../users", "users.sql", "a/b", "ä"] {
        let error = tool.refuses(&format!("new {name}"));
        assert!(error.contains("use letters, digits, _ and -"), "{error}");
    }
    assert_eq!(fs::read_dir(&migrations).unwrap().count(), 1);
}

#[test]
fn example_locates_error_and_keeps_earlier_migrations() {
    let race = Race::new(&FIVE[..2]);
    let Some(tool) = race.tool() else { return };
    let broken = "-- migrate:up\nINSERT INTO log(version) VALUES (3);\n\nINSERT INTO\n    nowhere VALUES (1);\n";
    race.write(("20260101000003_broken.sql", broken));
    let error = tool.refuses("up");
    assert!(error.contains("20260101000003_broken.sql, line 4"), "{error}");
    assert!(
        error.contains("no such table: nowhere") && error.contains("rolled back"),
        "{error}"
    );
    race.assert_each_once(&VERSIONS[..2]);
    let before = race.contents();
    let dry = tool.refuses("dry-run");
    assert!(dry.contains("20260101000003_broken.sql, line 4"), "{dry}");
    assert_eq!(race.contents(), before);
    assert_eq!(files_beside(&race.path).len(), 1, "{:?}", files_beside(&race.path));
}

#[test]
fn example_refuses_invalid_arguments_with_advice() {
    let race = Race::new(FIVE);
    let Some(tool) = race.tool() else { return };
    for command in ["status", "down", "dry-run"] {
        let error = tool.refuses(command);
        assert!(
            error.contains(&race.path) && error.contains("`up` creates it"),
            "{error}"
        );
        assert!(!Path::new(&race.path).exists(), "{command} has made a database");
    }
    tool.says("up 20260101000002");
    for (command, wanted) in [
        ("up 20260101000001", "use down"),
        ("down 20260101000003", "use up"),
        ("up two", "two is not a version"),
        ("up 20260101000009", "no migration has version 20260101000009"),
        ("down 20260101000000", "no migration has version 20260101000000"),
        ("", "usage: migrate DATABASE FOLDER"),
        ("sideways", "usage: migrate DATABASE FOLDER"),
        ("up 1 2", "usage: migrate DATABASE FOLDER"),
        ("new", "usage: migrate DATABASE FOLDER"),
    ] {
        let error = tool.refuses(command);
        assert!(error.contains(wanted), "{command}: {error}");
    }
    race.assert_each_once(&VERSIONS[..2]);
    tool.says("down 0");
    let error = tool.refuses("down");
    assert!(error.contains("nothing to undo"), "{error}");

    let elsewhere = race.folder.path().join("elsewhere");
    let tool = Tool::find(&race.path, &elsewhere).unwrap();
    for command in ["up", "status"] {
        let error = tool.refuses(command);
        assert!(error.contains("elsewhere cannot be read"), "{error}");
    }
    fs::create_dir(&elsewhere).unwrap();
    let error = tool.refuses("up");
    assert!(
        error.contains("there are no migrations in") && error.contains("elsewhere"),
        "{error}"
    );
    fs::write(elsewhere.join("users.sql"), "SELECT 1").unwrap();
    let error = tool.refuses("up");
    assert!(error.contains("users.sql: the name has no version"), "{error}");

    let usage = Command::new(&tool.program).output().unwrap();
    assert_eq!(usage.status.code(), Some(1));
    assert!(texts(&usage).1.contains("usage: migrate DATABASE FOLDER"));
}

#[test]
fn example_creates_no_database_for_unknown_command() {
    let race = Race::new(FIVE);
    let Some(tool) = race.tool() else { return };
    for command in ["sideways", "down 1 2", "up 1 2", "up two"] {
        tool.refuses(command);
        assert!(!Path::new(&race.path).exists(), "{command} has made a database");
    }
}

#[test]
fn example_and_running_service_take_turns() {
    let race = Race::new(FIVE);
    let Some(tool) = race.tool() else { return };
    tool.says("up 20260101000001");
    let store = race.store();
    let read = || {
        store
            .read(|tx| tx.query_row("SELECT * FROM parent", [], |row| row.get_ref(1).map(|_| ())))
            .is_ok()
    };
    assert!(!read());
    assert_eq!(tool.says("up").len(), 4);
    // The service's statements are prepared again for the schema that another process has made.
    assert!(read());
    assert_eq!(store.migrations().unwrap().applied.len(), 5);
    assert_eq!(tool.says("down 20260101000001").len(), 4);
    assert!(!read());
    assert_eq!(store.migrate().unwrap().steps.len(), 4);
    store.close().unwrap();
    drop(store);
    race.assert_each_once(&VERSIONS);
}
