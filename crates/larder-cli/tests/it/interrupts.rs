//! Ctrl-C, and kills.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{BINARY, PATIENCE, Place, Run};

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Sends a signal, and waits until the process has handled it, where `/proc` tells: it is pending no more, and no thread
/// is in its handler, which blocks it.
fn signal_and_wait(child: &Child, name: &str) {
    signal(child, name);
    let bit = 1
        << match name {
            "HUP" => 0,
            "INT" => 1,
            _ => 14,
        };
    until("the signal", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id()));
        let mut threads = threads.into_iter().flatten().flatten();
        !threads.any(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let masks = status.lines().filter_map(|line| {
                let mask = ["SigPnd:", "ShdPnd:", "SigBlk:"]
                    .iter()
                    .find_map(|name| line.strip_prefix(name))?;
                u64::from_str_radix(mask.trim(), 16).ok()
            });
            masks.fold(0, |all, mask| all | mask) & bit != 0
        })
    });
}

/// Sends a second signal until the process has ended: as long as the first one is not handled, it counts as that.
fn signal_until_it_ends(child: &mut Child, name: &str) {
    until("the end of the process", || {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        signal(child, name);
        false
    });
}

/// Waits until something holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether another process has begun to write.
fn is_locked(place: &Place) -> bool {
    let conn = place.connect("app.db");
    conn.busy_timeout(Duration::ZERO).unwrap();
    let begun = conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK");
    begun.is_err()
}

fn spawn(place: &Place, line: &str) -> Child {
    place
        .command()
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn interrupted_import_leaves_no_row() {
    for name in ["INT", "TERM"] {
        let place = Place::with_database();
        let mut child = spawn(&place, "import app.db - --table owner");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"id,name\n").unwrap();
        let mut lines = (10..1_000_000).map(|n| format!("{n},name\n"));
        for line in lines.by_ref().take(5000) {
            stdin.write_all(line.as_bytes()).unwrap();
        }
        until("the transaction", || is_locked(&place));
        signal(&child, name);
        // It looks every few lines, and ends.
        let refused = lines.any(|line| stdin.write_all(line.as_bytes()).is_err());
        assert!(refused, "it has read all lines");
        drop(stdin);
        let run = Run::of(child.wait_with_output().unwrap()).assert_code(130);
        assert!(
            run.err.contains("interrupted") && run.err.contains("nothing was imported"),
            "{run:?}"
        );
        assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
        place.say("check app.db --full").assert_code(0);
    }
}

/// A read that is blocked does not see the signal. The end of the file after it commits nothing.
#[test]
fn interrupted_import_of_few_lines_leaves_no_row() {
    let place = Place::with_database();
    let mut child = spawn(&place, "import app.db - --table owner");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"id,name\n10,ten\n11,eleven\n").unwrap();
    until("the transaction", || is_locked(&place));
    signal_and_wait(&child, "INT");
    drop(stdin);
    let run = Run::of(child.wait_with_output().unwrap()).assert_code(130);
    assert!(run.err.contains("nothing was imported"), "{run:?}");
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
}

#[test]
fn interrupted_import_in_slices_says_how_far_it_came() {
    let place = Place::with_database();
    let mut child = spawn(&place, "import app.db - --table owner --slices");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"id,name\n").unwrap();
    let mut lines = (10..10_000_000).map(|n| format!("{n},name\n"));
    for line in lines.by_ref().take(5000) {
        stdin.write_all(line.as_bytes()).unwrap();
    }
    until("a slice", || place.count("app.db", "SELECT count(*) FROM owner") > 1000);
    signal(&child, "INT");
    let refused = lines.any(|line| stdin.write_all(line.as_bytes()).is_err());
    assert!(refused, "it has read all lines");
    drop(stdin);
    let run = Run::of(child.wait_with_output().unwrap()).assert_code(130);
    let rows = place.count("app.db", "SELECT count(*) FROM owner") - 3;
    assert!(
        run.err.contains(&format!(
            "the first {rows} lines of stdin are done, and {rows} rows are committed"
        )),
        "{rows}: {run:?}"
    );
    // The rows are the first ones, without a gap.
    assert_eq!(place.count("app.db", "SELECT max(id) - 9 FROM owner"), rows);
}

/// What is there after a kill is counted, and the same command goes on behind it.
#[test]
fn killed_resumable_import_goes_on_without_a_gap() {
    // On a busy machine each import may end before it is killed.
    let was_killed = (0..20).any(|_| goes_on_after_kills());
    assert!(was_killed, "each import had ended before");
}

/// Whether an import was killed before its end.
fn goes_on_after_kills() -> bool {
    let line = "import app.db log.csv --slices --resumable";
    let place = Place::with_database();
    place.execute("app.db", "CREATE TABLE log(n INTEGER, text TEXT) STRICT");
    let text: String = (0..60_000).map(|n| format!("{n},the text of line {n}\n")).collect();
    place.write("log.csv", format!("n,text\n{text}"));
    let mut killed = 0;
    for n in 1..4 {
        let mut child = spawn(&place, line);
        until("a slice", || {
            place.count("app.db", "SELECT count(*) FROM log") > n * 5000 || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        let status = child.wait().unwrap();
        // One that has ended before was not killed.
        assert!(status.success() || status.signal() == Some(9), "{status}");
        killed += usize::from(!status.success());
    }
    place.say(line).assert_code(0);
    let there = "SELECT count(DISTINCT n) FROM log WHERE n BETWEEN 0 AND 59999";
    assert_eq!(place.count("app.db", there), 60_000);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM log"), 60_000);
    place.say("check app.db --full").assert_code(0);
    killed > 0
}

/// The table belongs to the import that has created it, wherever it was killed or interrupted.
#[test]
fn killed_resumable_import_goes_on_in_the_table_that_it_has_created() {
    // On a busy machine each import may end before it is killed.
    let was_killed = (0..20).any(|_| resumes_in_its_own_table());
    assert!(was_killed, "each import had ended before");
}

/// Whether an import was killed or interrupted before its end.
fn resumes_in_its_own_table() -> bool {
    let place = Place::with_database();
    let text: String = (0..60_000).map(|n| format!("{n},the text of line {n}\n")).collect();
    place.write("log.csv", format!("n,text\n{text}"));
    let line = "import app.db log.csv --slices --resumable --create-table --infer";
    let rows = || {
        let exists = place.count("app.db", "SELECT count(*) FROM sqlite_schema WHERE name = 'log'") > 0;
        exists.then(|| place.count("app.db", "SELECT count(*) FROM log"))
    };
    let mut ended_early = 0;
    for (n, name, number) in [
        (-1, "KILL", 9),
        (5000, "INT", 2),
        (10_000, "KILL", 9),
        (15_000, "TERM", 15),
    ] {
        let mut child = spawn(&place, line);
        // First with the table alone, then with more and more rows.
        until("the table and its rows", || {
            rows().is_some_and(|rows| rows > n) || child.try_wait().unwrap().is_some()
        });
        if child.try_wait().unwrap().is_none() {
            signal(&child, name);
        }
        let output = child.wait_with_output().unwrap();
        let ended_by = output.status.signal();
        let run = Run::of(output);
        match run.code {
            // The signal was late.
            Some(0) => assert_eq!(run.err, "", "{run:?}"),
            Some(130) => assert!(run.err.contains("the same command goes on behind them"), "{run:?}"),
            // It has not come as far as to handle them, or cannot.
            _ => assert_eq!(ended_by, Some(number), "{run:?}"),
        }
        ended_early += usize::from(run.code != Some(0));
        let cursor = "SELECT coalesce(max(rows), 0) FROM larder_bulk";
        assert_eq!(rows(), Some(place.count("app.db", cursor)), "{run:?}");
    }
    let imported = place.json(line, 0);
    assert_eq!(imported["files"][0]["created"], false);
    assert_eq!(place.count("app.db", "SELECT count(DISTINCT n) FROM log"), 60_000);
    assert_eq!(rows(), Some(60_000));
    place.say("check app.db --full").assert_code(0);
    ended_early > 0
}

#[test]
fn interrupted_backup_and_restore_leave_no_file() {
    let place = Place::new();
    // 30 steps of 1024 pages.
    place.execute(
        "app.db",
        "PRAGMA page_size = 512; CREATE TABLE t(x BLOB) STRICT;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 15000)
         INSERT INTO t SELECT randomblob(900) FROM n",
    );
    let child = spawn(&place, "backup app.db copy.db --pause 200ms");
    until("the unfinished copy", || {
        place.names().iter().any(|name| name.starts_with(".larder-backup-"))
    });
    signal(&child, "INT");
    let run = Run::of(child.wait_with_output().unwrap()).assert_code(130);
    assert!(
        run.err
            .contains("interrupted: the backup was stopped, and left nothing behind"),
        "{run:?}"
    );
    assert_eq!(place.names(), ["app.db"]);

    let error = {
        let child = spawn(&place, "backup app.db copy.db --pause 200ms --json");
        until("the unfinished copy", || place.names().len() > 1);
        signal(&child, "INT");
        Run::of(child.wait_with_output().unwrap()).assert_code(130).json()
    };
    assert_eq!(error["error"]["kind"], "interrupted");

    // A restore cannot be slowed down, and may be done before the signal.
    let interrupted = (0..20).find_map(|_| {
        let child = spawn(&place, "restore app.db new.db");
        until("the unfinished copy", || place.names().len() > 1);
        signal(&child, "INT");
        let run = Run::of(child.wait_with_output().unwrap());
        match run.code {
            Some(0) => {
                std::fs::remove_file(place.path("new.db")).unwrap();
                None
            }
            _ => Some(run.assert_code(130)),
        }
    });
    let run = interrupted.expect("a restore was interrupted");
    assert!(run.err.contains("interrupted: the restore was stopped"), "{run:?}");
    assert_eq!(place.names(), ["app.db"]);
}

#[test]
fn second_interrupt_ends_the_process_at_once() {
    let place = Place::with_database();
    let mut child = spawn(&place, "import app.db - --table owner");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"id,name\n10,ten\n").unwrap();
    until("the transaction", || is_locked(&place));
    // It waits for stdin, and cannot look at the first one.
    signal_and_wait(&child, "INT");
    signal_until_it_ends(&mut child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
    place.say("check app.db --full").assert_code(0);
}

/// As under `nohup`, and in a background job of a script.
#[cfg(target_os = "linux")]
#[test]
fn signals_that_were_ignored_stay_ignored() {
    let place = Place::with_database();
    let mut child = Command::new("sh")
        .args([
            "-c",
            r#"trap "" HUP INT; exec "$0" import app.db - --table owner"#,
            BINARY,
        ])
        .current_dir(place.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"id,name\n10,ten\n").unwrap();
    until("the transaction", || is_locked(&place));
    signal(&child, "HUP");
    signal(&child, "INT");
    drop(stdin);
    Run::of(child.wait_with_output().unwrap()).assert_code(0);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 4);

    // A hangup that is not ignored asks the import to stop, as Ctrl-C does.
    let mut child = spawn(&place, "import app.db - --table owner");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"id,name\n11,eleven\n").unwrap();
    until("the transaction", || is_locked(&place));
    signal_and_wait(&child, "HUP");
    drop(stdin);
    Run::of(child.wait_with_output().unwrap()).assert_code(130);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 4);
}

const SIGNALS: &[&str] = if cfg!(target_os = "linux") {
    &["INT", "TERM", "HUP"]
} else {
    &["INT", "TERM"]
};

/// Takes a while.
const LONG: &str = "INSERT INTO made SELECT i FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
                    WHERE i < 1000000) SELECT i FROM n);";

/// Two migrations, and what each does beside creating or dropping its table.
fn migrations(place: &Place, up_of_first: &str, down_of_second: &str) {
    place.write(
        "migrations/001_made.sql",
        format!(
            "-- migrate:up\nCREATE TABLE made(n INTEGER) STRICT;\n{up_of_first}\n-- migrate:down\nDROP TABLE made;\n"
        ),
    );
    place.write(
        "migrations/002_more.sql",
        format!(
            "-- migrate:up\nCREATE TABLE more(n INTEGER) STRICT;\n-- migrate:down\n{down_of_second}\nDROP TABLE more;\n"
        ),
    );
}

/// Interrupts a command until that is between two migrations. The lock that another process finds may also be that of the
/// opening, and then none has been made; and the signal may come after the last one.
fn interrupt_between_two(prepare: impl Fn(&Place), command: &str, name: &str) -> (Place, Run) {
    for _ in 0..20 {
        let place = Place::with_database();
        prepare(&place);
        let child = spawn(&place, command);
        until("the first migration", || is_locked(&place));
        signal_and_wait(&child, name);
        let run = Run::of(child.wait_with_output().unwrap());
        if run.code == Some(0) {
            // The signal was late.
            continue;
        }
        let run = run.assert_code(130);
        assert!(
            run.out.is_empty() && run.err.contains("interrupted between two migrations"),
            "{run:?}"
        );
        if !run.err.contains("this run has made 0") {
            return (place, run);
        }
    }
    panic!("no migration was interrupted");
}

/// The migration that runs is completed, and the next one is not begun.
#[test]
fn interrupted_migrations_stop_between_two() {
    for name in SIGNALS {
        let (place, run) = interrupt_between_two(|place| migrations(place, LONG, ""), "migrate up app.db", name);
        for part in ["this run has made 1", "1 made is the newest", "pending: 1"] {
            assert!(run.err.contains(part), "{name}: {run:?}");
        }
        assert_eq!(place.count("app.db", "SELECT count(*) FROM made"), 1_000_000);
        place.say("migrate up app.db").assert_code(0);
        assert_eq!(place.count("app.db", "SELECT count(*) FROM more"), 0);
        place.say("check app.db --full").assert_code(0);
    }
}

/// On the way down, too: the one that runs is undone whole.
#[test]
fn interrupted_ways_down_stop_between_two() {
    for name in SIGNALS {
        let prepare = |place: &Place| {
            migrations(place, "", LONG);
            place.say("migrate up app.db").assert_code(0);
        };
        let (place, run) = interrupt_between_two(prepare, "migrate down app.db 0", name);
        for part in ["this run has made 1", "1 made is the newest", "pending: 1"] {
            assert!(run.err.contains(part), "{name}: {run:?}");
        }
        // What the way down did before it dropped its table.
        assert_eq!(place.count("app.db", "SELECT count(*) FROM made"), 1_000_000);
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'more'";
        assert_eq!(place.count("app.db", tables), 0);
        place.say("migrate down app.db 0").assert_code(0);
        assert_eq!(
            place.count("app.db", "SELECT count(*) FROM sqlite_schema WHERE name = 'made'"),
            0
        );
        place.say("check app.db --full").assert_code(0);
    }
}

/// The error has a kind of its own for programs.
#[test]
fn interrupted_migration_is_told_as_json() {
    let prepare = |place: &Place| migrations(place, LONG, "");
    for _ in 0..20 {
        let place = Place::with_database();
        prepare(&place);
        let child = spawn(&place, "migrate up app.db --json");
        until("the first migration", || is_locked(&place));
        signal_and_wait(&child, "TERM");
        let run = Run::of(child.wait_with_output().unwrap());
        if run.code == Some(0) {
            continue;
        }
        let run = run.assert_code(130);
        let error = &run.json()["error"];
        assert_eq!(error["kind"], "interrupted", "{run:?}");
        if error["message"].as_str().unwrap().contains("this run has made 1") {
            return;
        }
    }
    panic!("no migration was interrupted");
}

/// A second signal ends the process in the midst of a migration, of which nothing is left.
#[test]
fn second_interrupt_undoes_the_running_migration() {
    let endless = "INSERT INTO made SELECT count(*) FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) \
                   SELECT i FROM n);";
    for name in ["INT", "TERM"] {
        // The lock may be that of the opening. Then the first signal ends the process, too, if it is given the time.
        let ended_by_second = (0..20).any(|_| {
            let place = Place::with_database();
            migrations(&place, endless, "");
            let mut child = spawn(&place, "migrate up app.db");
            until("the migration", || is_locked(&place));
            signal_and_wait(&child, name);
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(500) && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            signal_until_it_ends(&mut child, name);
            let run = Run::of(child.wait_with_output().unwrap()).assert_code(130);
            let status = place.json("migrate status app.db", 0);
            let length = |list: &str| status[list].as_array().unwrap().len();
            assert_eq!((length("applied"), length("pending")), (0, 2));
            place.say("check app.db --full").assert_code(0);
            assert!(run.err.is_empty() || run.err.contains("this run has made 0"), "{run:?}");
            run.err.is_empty()
        });
        assert!(ended_by_second, "{name}: no migration was interrupted");
    }
}
