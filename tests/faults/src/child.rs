//! This program again as a child process. Parent and child exchange lines: the child writes to stdout, one `write(2)` a
//! line, and the parent to the child's stdin, which ends when the parent has ended.

use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::path::PathBuf;
use std::process::{self, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crate::{bulk, found, kill, oom, partition, replica, retain, second_process};

/// The first argument of a child. The second is its role.
const MARK: &str = "--child";

/// The roles of children.
const ROLES: &[(&str, fn(&[String]))] = &[
    ("kill", kill::child),
    ("bulk", bulk::child),
    ("retain", retain::child),
    ("second-process", second_process::child),
    ("descriptors", second_process::descriptors::child),
    ("oom", oom::child),
    ("found", found::child),
    ("replica", replica::child),
    ("replica-other", replica::other),
    ("replica-full", replica::fill),
    ("replica-follower", replica::follow),
    ("partition-primary", partition::primary),
    ("partition-follower", partition::follower),
    ("partition-restore", partition::restore),
];

/// Does a child's work, if this process is a child.
pub fn work() -> Option<ExitCode> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [mark, role, arguments @ ..] = given.as_slice() else {
        return None;
    };
    if mark != MARK {
        return None;
    }
    let (_, work) = ROLES
        .iter()
        .find(|(name, _)| name == role)
        .expect("a role that there is");
    let (send, heard) = channel();
    assert!(HEARD.set(Mutex::new(heard)).is_ok(), "once");
    thread::spawn(|| follow_the_parent(send));
    work(arguments);
    Some(ExitCode::SUCCESS)
}

/// The lines from the parent.
static HEARD: OnceLock<Mutex<Receiver<String>>> = OnceLock::new();

/// Ends the child with its parent, so that a parent aborted by its watchdog leaves no process behind.
fn follow_the_parent(heard: Sender<String>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let _ = heard.send(line);
    }
    process::exit(3);
}

/// In the child: waits for the parent's next line.
pub fn listen() -> String {
    let heard = HEARD.get().expect("this is a child");
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    // The sender lives as long as this process.
    heard.recv().unwrap_or_default()
}

/// In the child: sends a line to the parent in one `write(2)`, as a whole or not at all. (A write shorter than
/// `PIPE_BUF` is not torn, and a line that ends in a newline is not buffered.)
pub fn tell(line: &str) {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).expect("the parent reads");
}

/// This program.
pub fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// A running child. Dropping this kills it.
pub struct Child {
    process: process::Child,
    lines: Receiver<String>,
}

impl Child {
    pub fn start(role: &str, arguments: &[String]) -> io::Result<Self> {
        Self::start_by(Command::new(program()?), role, arguments)
    }

    /// Starts it by a command that takes the arguments of this program.
    pub fn start_by(mut command: Command, role: &str, arguments: &[String]) -> io::Result<Self> {
        command.arg(MARK).arg(role).args(arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut out = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        let (send, lines) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            // The last line may be incomplete: the child did not finish sending it.
            while out.read_line(&mut line).is_ok() && line.ends_with('\n') {
                if send.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Ok(Self { process, lines })
    }

    /// The next line. If none arrives in time: `Err`, with whether the child has ended.
    pub fn line(&self, patience: Duration) -> Result<String, bool> {
        self.lines
            .recv_timeout(patience)
            .map_err(|error| error == RecvTimeoutError::Disconnected)
    }

    /// Sends a line to the child.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.process.stdin.as_mut().expect("stdin is a pipe");
        stdin.write_all(format!("{line}\n").as_bytes())
    }

    /// The lines that have arrived and were not read yet.
    pub fn told(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.try_iter()
    }

    /// Sends `SIGSTOP`. Returns when the child is stopped or has ended, so that its state can be examined.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        // SAFETY: all zeros are a `siginfo_t`, which is written to. `WNOWAIT` leaves the end of the child to `rest`.
        unsafe {
            let mut information = mem::zeroed();
            let what = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
            while libc::waitid(libc::P_PID, self.process.id(), &mut information, what) != 0 {
                assert_eq!(
                    io::Error::last_os_error().kind(),
                    io::ErrorKind::Interrupted,
                    "waiting for a child"
                );
            }
        }
    }

    /// Continues after [`stop`](Self::stop).
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        // SAFETY: it takes no pointer, and the child was not waited for, so the number is still the child's.
        unsafe { libc::kill(self.process.id() as i32, signal) };
    }

    /// Sends `SIGKILL`. Does not wait for the child: see [`rest`](Self::rest).
    pub fn kill(&mut self) {
        let _ = self.process.kill();
    }

    /// Waits for the child's end. Returns its remaining lines and its exit status.
    pub fn rest(mut self) -> (Vec<String>, ExitStatus) {
        let lines = self.lines.iter().collect();
        let status = self.process.wait().expect("the child can be waited for");
        (lines, status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
