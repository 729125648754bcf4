//! Separate processes: this test binary again, or `python3` as a process without larder.
//!
//! A module that needs a second process has a function `child`, listed in [`CHILDREN`]. The parent starts the process
//! with [`Child::start`], by the name of the module. The process runs the test `child` of this module, which calls that
//! function. Parent and child exchange lines over stdin and stdout. Lines of the child begin with a mark, since the test
//! harness prints to stdout as well.

use std::env;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use std::{fs, thread};

const MODULE: &str = "LARDER_TEST_MODULE";
const ROLE: &str = "LARDER_TEST_ROLE";
const ARGS: &str = "LARDER_TEST_ARGS";
const MARK: char = '\u{1}';

/// Long enough for any machine; past it the other side hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

type Run = fn(&Task);

/// The work of child processes, by module.
const CHILDREN: &[(&str, Run)] = &[
    ("backup::backups", crate::backup::backups::child),
    ("backup::restore", crate::backup::restore::child),
    #[cfg(target_os = "linux")]
    ("bulk::checkpoints", crate::bulk::checkpoints::child),
    #[cfg(feature = "csv")]
    ("bulk::csv", crate::bulk::csv::child),
    ("bulk::inserts", crate::bulk::inserts::child),
    ("bulk::misuse", crate::bulk::misuse::child),
    ("bulk::retention", crate::bulk::retention::child),
    #[cfg(target_os = "linux")]
    ("bulk::stalled", crate::bulk::stalled::child),
    ("connection::causes", crate::connection::causes::child),
    ("connection::file_changes", crate::connection::file_changes::child),
    ("maintenance::vacuum", crate::maintenance::vacuum::child),
    #[cfg(target_os = "linux")]
    ("migrate::formats", crate::migrate::formats::child),
    ("migrate::processes", crate::migrate::processes::child),
    #[cfg(feature = "postgres")]
    ("postgres::breaks", crate::postgres::breaks::child),
    #[cfg(feature = "postgres")]
    ("postgres::export", crate::postgres::export::child),
    #[cfg(feature = "postgres")]
    ("postgres::large", crate::postgres::large::child),
    #[cfg(feature = "postgres")]
    ("postgres::resume", crate::postgres::resume::child),
    #[cfg(feature = "postgres")]
    ("postgres::tls", crate::postgres::tls::child),
    ("process::access", crate::process::access::child),
    ("process::forking", crate::process::forking::child),
    ("process::thread_locals", crate::process::thread_locals::child),
    #[cfg(feature = "async")]
    ("read::async_reads", crate::read::async_reads::child),
    #[cfg(target_os = "linux")]
    ("read::memory_map", crate::read::memory_map::child),
    ("regressions::harness", crate::regressions::harness::child),
    ("regressions::store", crate::regressions::store::child),
    #[cfg(feature = "s3")]
    ("replica::late", crate::replica::late::child),
    #[cfg(feature = "s3")]
    ("replica::s3_follower", crate::replica::s3_follower::child),
    #[cfg(feature = "replicate")]
    ("replica::far_behind", crate::replica::far_behind::child),
    #[cfg(feature = "replicate")]
    ("replica::follower", crate::replica::follower::child),
    #[cfg(feature = "replicate")]
    ("replica::replicated", crate::replica::replicated::child),
    #[cfg(feature = "replicate")]
    ("replica::store", crate::replica::store::child),
    #[cfg(feature = "replicate")]
    ("replica::storage", crate::replica::storage::child),
    ("store::opening", crate::store::opening::child),
    ("store::read_only", crate::store::read_only::child),
    ("store::temporary", crate::store::temporary::child),
    ("telemetry::stats", crate::telemetry::stats::child),
    ("telemetry::subscribers", crate::telemetry::subscribers::child),
    ("write::overload", crate::write::overload::child),
    ("write::poison", crate::write::poison::child),
];

/// What a child was started for.
pub(crate) struct Task {
    pub(crate) role: String,
    pub(crate) args: Vec<String>,
}

/// Runs in each child process, and returns at once in any other.
#[test]
fn child() {
    let Ok(module) = env::var(MODULE) else { return };
    let task = Task {
        role: env::var(ROLE).expect("a child has a role"),
        args: env::var(ARGS).unwrap_or_default().lines().map(str::to_owned).collect(),
    };
    let (_, run) = CHILDREN
        .iter()
        .find(|(name, _)| *name == module)
        .expect("its module is listed");
    run(&task);
}

/// In the child: a line to the parent.
pub(crate) fn tell(line: impl Display) {
    let mut out = stdout().lock();
    // The harness may have left a line unfinished.
    writeln!(out, "\n{MARK}{line}").expect("the parent reads");
    out.flush().expect("the parent reads");
}

/// In the child: waits for a line from the parent, or for its end.
pub(crate) fn listen() -> String {
    let mut line = String::new();
    stdin().lock().read_line(&mut line).expect("stdin is text");
    line.trim_end().to_owned()
}

/// A running child, which does not outlive this.
pub(crate) struct Child {
    process: process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Child {
    /// Starts this binary as a child of a module, in a role.
    pub(crate) fn start(module: &str, role: &str, args: &[&str]) -> Self {
        Self::start_by(Command::new(this_binary()), module, role, args)
    }

    /// As [`start`](Self::start), through a shell that does `prelude` first.
    pub(crate) fn start_in_shell(prelude: &str, module: &str, role: &str, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{prelude}; exec \"$@\""), "sh"]);
        command.arg(this_binary());
        Self::start_by(command, module, role, args)
    }

    /// As [`start`](Self::start), by a command that runs this binary (or a copy of it) with the arguments that
    /// are added.
    pub(crate) fn start_by(mut command: Command, module: &str, role: &str, args: &[&str]) -> Self {
        command.args(["--exact", "support::child::child", "--nocapture", "--test-threads=1"]);
        command.env(MODULE, module).env(ROLE, role).env(ARGS, args.join("\n"));
        Self::run(command)
    }

    /// Starts `python3`, whose `tell(..)` and `listen()` are as here, and `args` is a list.
    pub(crate) fn python(script: &str, args: &[&str]) -> Self {
        let prelude = format!(
            "import sqlite3, sys\nargs = sys.argv[1:]\n\
             def tell(x): print('\\n{MARK}' + str(x), flush=True)\n\
             def listen(): return sys.stdin.readline().rstrip()\n"
        );
        let mut command = Command::new("python3");
        command.arg("-c").arg(prelude + script).args(args);
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} starts: {e}"));
        let stdin = process.stdin.take();
        let out = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix(MARK)
                    && send.send(line.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { process, stdin, lines }
    }

    /// The next line that the child tells; `None` once it has ended.
    pub(crate) fn next(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the child neither tells anything nor ends"),
        }
    }

    /// The next line, which must come.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.next().expect("the child tells something before it ends")
    }

    /// The next line, however long the child works for it: minutes in the nightly suite.
    #[cfg(feature = "postgres")]
    #[track_caller]
    pub(crate) fn long_line(&self) -> String {
        self.lines.recv().expect("the child tells something before it ends")
    }

    /// Waits for this very line.
    #[track_caller]
    pub(crate) fn expect(&self, line: &str) {
        assert_eq!(self.line(), line);
    }

    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the child listens");
        writeln!(stdin, "{line}").expect("the child listens");
        stdin.flush().expect("the child listens");
    }

    /// `SIGKILL`: no destructor runs, nothing is flushed. Gives what the child had told and nobody has read.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().expect("the child can be killed");
        self.process.wait().expect("the child can be waited for");
        self.lines.iter().collect()
    }

    /// Ends the child's input and waits until it has ended well. Gives what nobody has read.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.stdin = None;
        let mut rest = Vec::new();
        while let Some(line) = self.next() {
            rest.push(line);
        }
        let status = self.process.wait().expect("the child can be waited for");
        assert!(status.success(), "the child failed ({status}): its stderr says why");
        rest
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether this machine has a `python3` with SQLite; says so if not.
pub(crate) fn has_python() -> bool {
    let found = succeeds(Command::new("python3").args(["-c", "import sqlite3"]));
    if !found {
        skipped("there is no python3 with sqlite3 here");
    }
    found
}

/// Says visibly that a test could not be made, and why.
pub(crate) fn skipped(why: &str) {
    // Past the harness's capture, which hides what a test that passes has printed.
    let _ = writeln!(std::io::stderr().lock(), "skipped: {why}");
}

pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().as_ref().is_ok_and(ExitStatus::success)
}

/// Whether file modes mean nothing to this process.
pub(crate) fn is_root() -> bool {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().metadata().expect("its metadata").uid() == 0
}

/// A command that runs this binary as a user to whom file modes mean something, or `None` (said visibly). The
/// binary is copied into `folder`, since that user may not be able to enter the one where it was built.
pub(crate) fn as_ordinary_user(folder: &Path) -> Option<Command> {
    as_user(65534, folder)
}

/// As [`as_ordinary_user`], but as the user with that number, if this one may choose.
pub(crate) fn as_user(id: u32, folder: &Path) -> Option<Command> {
    if !is_root() {
        return Some(Command::new(this_binary()));
    }
    let user = [
        format!("--reuid={id}"),
        format!("--regid={id}"),
        "--clear-groups".to_owned(),
    ];
    if !succeeds(Command::new("setpriv").args(&user).arg("true")) {
        skipped("root needs setpriv to become an ordinary user");
        return None;
    }
    set_mode(folder, 0o777);
    let copy = folder.join("test-binary");
    // By a process of its own: a descriptor that is open for writing here could be inherited by a child that
    // another test starts, and the copy would be "busy".
    assert!(succeeds(Command::new("cp").arg(this_binary()).arg(&copy)), "cp works");
    let mut command = Command::new("setpriv");
    command.args(user).arg(copy);
    Some(command)
}

/// A command that runs this binary where `folder` is mounted read-only, or `None` (said visibly).
pub(crate) fn with_read_only_mount(folder: &Path) -> Option<Command> {
    let folder = folder.to_str().expect("a plain path").to_owned();
    after_mounting(&format!(
        "mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    ))
}

/// A command that runs this binary in a mount namespace of its own, after that shell command; or `None` (said visibly).
/// Only root may make one.
pub(crate) fn after_mounting(mount: &str) -> Option<Command> {
    let in_namespace = |run: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", run, "sh"]);
        command
    };
    if !succeeds(&mut in_namespace(mount)) {
        skipped("this user may mount nothing in a namespace of its own");
        return None;
    }
    let mut command = in_namespace(&format!("{mount} && exec \"$@\""));
    command.arg(this_binary());
    Some(command)
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
}

/// The binary of an example: `cargo test` and `cargo nextest run` build it beside this one.
#[cfg(any(feature = "async", feature = "csv", all(feature = "metrics", feature = "serde")))]
pub(crate) fn example(name: &str) -> PathBuf {
    let folder = this_binary().parent().and_then(Path::parent).map(Path::to_owned);
    let binary = folder.expect("this is in a folder").join("examples").join(name);
    assert!(
        binary.exists(),
        "there is no {}: build it by `cargo build --examples --features full`",
        binary.display()
    );
    binary
}

pub(crate) fn this_binary() -> PathBuf {
    env::current_exe().expect("the path of this binary")
}
