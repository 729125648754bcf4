//! Readers that go away, and streams that are closed or full.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::support::{BINARY, Place, Run};

#[test]
fn reader_that_goes_away_is_no_error() {
    let place = Place::with_database();
    // Far more than a pipe holds.
    let many =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i, 'text' FROM n";
    for format in ["--csv", "--json", "--quiet"] {
        let mut child = place
            .command()
            .args(["sql", "app.db", many, "--limit", "99999", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 10]).unwrap();
        drop(out);
        let run = Run::of(child.wait_with_output().unwrap()).assert_code(0);
        assert!(
            !run.err.contains("Broken pipe") && !run.err.contains("panicked"),
            "{run:?}"
        );
    }
}

#[test]
fn verdict_stays_without_a_reader() {
    let place = Place::with_database();
    place.execute("app.db", "PRAGMA foreign_keys = OFF; DELETE FROM owner");
    let mut child = place
        .command()
        .args(["check", "app.db"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn closed_and_full_stdout() {
    let place = Place::with_database();
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env("LARDER", BINARY)
            .current_dir(place.folder.path());
        Run::of(command.output().unwrap())
    };
    shell("exec \"$LARDER\" check app.db >&-").assert_code(0);
    shell("exec \"$LARDER\" check app.db --json >&- 2>&-").assert_code(0);
    shell("exec \"$LARDER\" check missing.db >&- 2>&-").assert_code(3);
    if std::path::Path::new("/dev/full").exists() {
        let run = shell("exec \"$LARDER\" check app.db >/dev/full").assert_code(3);
        assert!(run.err.contains("stdout cannot be written: No space left"), "{run:?}");
        shell("exec \"$LARDER\" check missing.db 2>/dev/full").assert_code(3);
    }
}
