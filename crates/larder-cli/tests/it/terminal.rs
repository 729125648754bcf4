//! The line of progress: on a terminal only, and gone before the result.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{BINARY, Place, Run};

/// As the command clears its line.
const CLEAR: &str = "\r\x1b[K";

/// As it turns line wrap off: a terminal cuts what is too wide for it.
const CUT: &str = "\x1b[?7l";

/// Python's `script`: the arguments are the command.
const PYTHON: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The line of a shell, on a terminal of its own: util-linux's `script`, or Python's `pty`. `None` (said visibly) where
/// there is neither. What the terminal shows is on stdout. The stdin of the process is the file descriptor 3 of the shell.
fn on_terminal(place: &Place, line: &str) -> Option<Child> {
    let terminal = if runs("script", &["--quiet", "--return", "--command", "true", "/dev/null"]) {
        "exec script --quiet --return --command \"$LINE\" /dev/null 3<&0 </dev/null"
    } else if runs("python3", &["-c", PYTHON, "true"]) {
        "exec python3 -c \"$PYTHON\" sh -c \"$LINE\" 3<&0 </dev/null"
    } else {
        let _ = writeln!(
            std::io::stderr().lock(),
            "skipped: there is neither util-linux's script nor python3, for a terminal"
        );
        return None;
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", terminal])
        .current_dir(place.folder.path())
        .envs([
            ("LINE", line),
            ("PYTHON", PYTHON),
            ("LARDER", BINARY),
            ("SHELL", "/bin/sh"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Some(command.spawn().expect("sh runs"))
}

/// Three thousand pages, so that a backup has several steps.
fn with_pages() -> Place {
    let place = Place::with_database();
    place.execute("app.db", "CREATE TABLE filler AS SELECT randomblob(12000000) AS x");
    place
}

/// The line was shown and cleared, and the result stands alone after it.
#[track_caller]
fn assert_shown_and_cleared(screen: &str, shown: &str, result: &str) {
    let at = screen.rfind(shown).unwrap_or_else(|| panic!("{shown}: {screen:?}"));
    assert!(screen[..at].ends_with(&format!("{CLEAR}{CUT}")), "{screen:?}");
    let after = &screen[at..];
    assert!(after.contains("\x1b[?7h"), "{screen:?}");
    let (_, rest) = after
        .rsplit_once(CLEAR)
        .unwrap_or_else(|| panic!("not cleared: {screen:?}"));
    assert!(rest.starts_with(result), "{screen:?}");
}

/// Each step is followed by a pause, so the copy lasts longer than a command may without a line.
const SLOW_BACKUP: &str = "backup app.db copy.db --pause 300ms";

#[test]
fn backup_shows_its_progress_on_a_terminal() {
    let place = with_pages();
    let Some(child) = on_terminal(&place, &format!("exec \"$LARDER\" {SLOW_BACKUP}")) else {
        return;
    };
    let run = Run::of(child.wait_with_output().unwrap()).assert_code(0);
    assert_shown_and_cleared(&run.out, "copying: ", place.path("copy.db").to_str().unwrap());
    assert!(run.out.contains(" pages ("), "a share of the whole: {run:?}");
}

#[test]
fn backup_shows_no_progress_elsewhere() {
    let place = with_pages();
    let run = place.say(SLOW_BACKUP).assert_code(0);
    assert_eq!(run.err, "");
    assert_eq!(run.out.lines().count(), 1, "{run:?}");
    assert!(!run.out.contains('\r') && !run.out.contains('\x1b'), "{run:?}");
    // Not with --quiet, on a terminal either.
    let line = format!("exec \"$LARDER\" {SLOW_BACKUP} --quiet --overwrite");
    let Some(child) = on_terminal(&place, &line) else {
        return;
    };
    let run = Run::of(child.wait_with_output().unwrap()).assert_code(0);
    assert!(!run.out.contains('\x1b'), "{run:?}");
}

/// Reads what a terminal shows until it shows this, or the command has ended.
fn read_until(out: &mut impl Read, screen: &mut Vec<u8>, wanted: &str) -> bool {
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(screen).contains(wanted) {
        match out.read(&mut bytes) {
            Ok(0) => return false,
            Ok(count) => screen.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
    true
}

/// Gives an import one line after another, until its terminal shows how far it is.
fn import_until_shown(mut child: Child) -> (Run, usize) {
    let mut stdin = child.stdin.take().unwrap();
    let mut out: BufReader<ChildStdout> = BufReader::new(child.stdout.take().unwrap());
    let (mut screen, is_shown) = (Vec::new(), AtomicBool::new(false));
    let lines = thread::scope(|scope| {
        let feeds = scope.spawn(|| {
            stdin.write_all(b"id,name\n").unwrap();
            let give_up = Instant::now() + Duration::from_secs(120);
            let mut lines = 0;
            while !is_shown.load(Ordering::Relaxed) && Instant::now() < give_up {
                lines += 1;
                // A pipe that is full waits; so does a reader that is fast, and the disk is not filled.
                if writeln!(stdin, "{},name", 100 + lines).is_err() {
                    break;
                }
                if lines % 1000 == 0 {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            drop(stdin);
            lines
        });
        read_until(&mut out, &mut screen, "importing ");
        is_shown.store(true, Ordering::Relaxed);
        feeds.join().unwrap()
    });
    out.read_to_end(&mut screen).unwrap();
    let mut output = child.wait_with_output().unwrap();
    output.stdout = screen;
    (Run::of(output).assert_code(0), lines)
}

#[test]
fn import_shows_its_progress_on_a_terminal() {
    for way in ["", " --slices"] {
        let place = Place::with_database();
        let line = format!("exec \"$LARDER\" import app.db - --table owner{way} <&3");
        let Some(child) = on_terminal(&place, &line) else {
            return;
        };
        let (run, lines) = import_until_shown(child);
        assert_shown_and_cleared(
            &run.out,
            "importing stdin: ",
            &format!("stdin -> owner: {lines} lines, 0 bad"),
        );
        assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3 + lines as i64);
    }
}
