//! The processes of the demonstration, and its log.

use std::env;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// A process that says nothing for so long, and does not end, is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// Columns of the log.
const WIDTH: usize = 92;

/// Logs what somebody does or says.
pub(crate) fn log(who: &str, what: impl Display) {
    let what = what.to_string();
    let mut rest = what.trim_end();
    let mut out = std::io::stdout().lock();
    let mut who = who;
    while !rest.is_empty() {
        let (line, more) = fold(rest, WIDTH - 12);
        let _ = writeln!(out, "{who:9} | {line}");
        (who, rest) = ("", more);
    }
}

/// Splits a text at the last space that fits.
fn fold(text: &str, width: usize) -> (&str, &str) {
    let Some((end, _)) = text.char_indices().nth(width) else {
        return (text, "");
    };
    match text[..=end].rfind(' ') {
        Some(space) => (&text[..space], text[space..].trim_start()),
        None => text.split_at(end),
    }
}

/// A node as a process, which does not outlive this.
pub(crate) struct Process {
    name: &'static str,
    process: Child,
    /// What it says.
    lines: Receiver<String>,
    pub(crate) url: String,
}

/// A process that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) said: String,
}

impl Process {
    /// Starts a node, and waits until it listens. It may end instead.
    pub(crate) fn start(name: &'static str, role: &str, folder: &Path) -> Result<std::result::Result<Self, Ended>> {
        let mut command = Command::new(env::current_exe()?);
        let (database, replica) = (format!("{name}/app.db"), folder.join("replica"));
        log(
            name,
            format_args!("$ edge {role} {database} {} 127.0.0.1:0", replica.display()),
        );
        command.args([role, &database]).arg(replica).arg("127.0.0.1:0");
        command.current_dir(folder).stdin(Stdio::null());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (tell, lines) = channel();
        relay(name, process.stdout.take(), tell.clone());
        relay(name, process.stderr.take(), tell);
        let mut started = Self {
            name,
            process,
            lines,
            url: String::new(),
        };
        let mut said = Vec::new();
        while let Some(line) = started.line()? {
            if let Some(url) = line.strip_prefix(role).and_then(|rest| rest.strip_prefix(" at ")) {
                started.url = url.split(',').next().unwrap_or_default().to_owned();
                return Ok(Ok(started));
            }
            said.push(line);
        }
        let status = started.process.wait()?;
        let said = said.join(" ");
        Ok(Err(Ended { status, said }))
    }

    /// `None` once it has ended.
    fn line(&self) -> Result<Option<String>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(format!("{} neither says anything nor ends", self.name).into()),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    /// Waits until it has ended.
    pub(crate) fn ended(mut self) -> Result<Ended> {
        let mut said = Vec::new();
        while let Some(line) = self.line()? {
            said.push(line);
        }
        Ok(Ended {
            status: self.process.wait()?,
            said: said.join(" "),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Logs what a process says, and passes it on.
fn relay(name: &'static str, from: Option<impl Read + Send + 'static>, to: Sender<String>) {
    thread::spawn(move || {
        let lines = from.into_iter().flat_map(|from| BufReader::new(from).lines());
        for line in lines.map_while(|line| line.ok()) {
            log(name, &line);
            let _ = to.send(line);
        }
    });
}
