//! What the demonstration does. Every statement that it logs is checked: where one does not hold, it ends with an error.
//!
//! It is client, proxy and operator at once. The operator decides who is the primary: larder never does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::Result;
use crate::client::{Answer, Client};
use crate::process::{Ended, Process, log};

const CLIENTS: usize = 4;
/// Acknowledged notes before the primary is killed.
const ENOUGH: usize = 200;

pub(crate) fn run_in_temporary_folder() -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    run(folder.path())
}

pub(crate) fn run(folder: &Path) -> Result<ExitCode> {
    fs::create_dir_all(folder)?;
    if fs::read_dir(folder)?.next().is_some() {
        return Err(format!("{} is not empty", folder.display()).into());
    }
    let mut demo = Demo {
        folder: folder.canonicalize()?,
        client: Client::new(),
        nodes: BTreeMap::new(),
        notes: BTreeMap::new(),
        token: None,
    };
    demo.read_own_write()?;
    demo.kill_primary("frankfurt", "london")?;
    demo.come_back("frankfurt")?;
    demo.hang_and_wake("london", "tokyo")?;
    demo.end(["tokyo", "frankfurt", "london"])
}

struct Demo {
    folder: PathBuf,
    client: Client,
    nodes: BTreeMap<&'static str, Process>,
    /// Every note that was acknowledged.
    notes: BTreeMap<i64, String>,
    /// That of the last answer.
    token: Option<String>,
}

impl Demo {
    fn read_own_write(&mut self) -> Result<()> {
        title("A write in frankfurt, and reads in london and tokyo");
        self.start("frankfurt", "primary")?;
        self.start("london", "follower")?;
        self.start("tokyo", "follower")?;
        self.write("frankfurt", "tea")?;
        for name in ["london", "tokyo"] {
            let answer = self.client.get(&self.url(name, "/notes/1")?, self.token.as_deref())?;
            check(answer.status == 200 && answer.body == "tea", &answer)?;
            let after = answer.after;
            log(
                "client",
                format_args!("GET {name}/notes/1 with the token: 200 after {after:.0?}, \"tea\""),
            );
        }
        self.write("tokyo", "coffee")
    }

    /// Kills the primary while clients write, and promotes a follower.
    fn kill_primary(&mut self, primary: &'static str, follower: &'static str) -> Result<()> {
        title(&format!(
            "{primary} is killed while {CLIENTS} clients write, and {follower} is promoted"
        ));
        let (acknowledge, acknowledged) = channel();
        let url = self.url(primary, "/notes")?;
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|client| {
                let (url, acknowledge) = (url.clone(), acknowledge.clone());
                thread::spawn(move || write_until_killed(client, &url, &acknowledge))
            })
            .collect();
        drop(acknowledge);
        let before: Vec<_> = acknowledged.iter().take(ENOUGH).collect();
        let killed = self.nodes.remove(primary).ok_or("it runs")?;
        log("operator", format_args!("$ kill -9 {}", killed.id()));
        killed.signal(Signal::KILL)?;
        killed.ended()?;
        let all: Vec<_> = before.into_iter().chain(acknowledged).collect();
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        log(
            "clients",
            format_args!(
                "{} notes were acknowledged; then {CLIENTS} requests had no answer",
                all.len()
            ),
        );
        self.notes.extend(all);
        self.promote(follower)?;
        self.has_all(follower)?;
        self.write(follower, "after the kill")?;
        self.has_all("tokyo")?;
        self.write("tokyo", "after the kill, by way of tokyo")
    }

    /// The killed process is started again: by a supervisor that knows nothing, and then as a follower.
    fn come_back(&mut self, name: &'static str) -> Result<()> {
        title(&format!("{name} comes back, is refused as a primary, and follows"));
        match Process::start(name, "primary", &self.folder)? {
            Ok(_) => return Err(format!("{name} must not be a primary again").into()),
            Err(ended) => {
                log(name, ended.status);
                check_said(&ended, "cannot be a primary")?;
            }
        }
        self.rejoin(name)?;
        self.has_all(name)
    }

    /// A primary that is not dead, but does not answer, is replaced, and learns of it by its next write.
    fn hang_and_wake(&mut self, primary: &'static str, follower: &'static str) -> Result<()> {
        title(&format!(
            "{primary} hangs, {follower} is promoted, and {primary} wakes up"
        ));
        let hung = self.nodes.remove(primary).ok_or("it runs")?;
        log("operator", format_args!("$ kill -STOP {}", hung.id()));
        hung.signal(Signal::STOP)?;
        self.promote(follower)?;
        self.write(follower, "while the other one hangs")?;
        log("operator", format_args!("$ kill -CONT {}", hung.id()));
        hung.signal(Signal::CONT)?;
        let answer = self.client.post(&format!("{}/notes", hung.url), None, "too late")?;
        log(
            "client",
            format_args!("POST {primary}/notes \"too late\": {}: {}", answer.status, answer.body),
        );
        check(answer.status >= 500 && answer.body.contains("taken over by"), &answer)?;
        let ended = hung.ended()?;
        log(primary, ended.status);
        check_said(&ended, "has taken the replica over")?;
        self.rejoin(primary)?;
        self.has_all(primary)?;
        self.has_all("frankfurt")
    }

    fn end<const N: usize>(mut self, names: [&'static str; N]) -> Result<ExitCode> {
        title("All have the same, and end");
        for name in names {
            self.has_all(name)?;
        }
        for name in names {
            let process = self.nodes.remove(name).ok_or("it runs")?;
            log("operator", format_args!("$ kill -TERM {}", process.id()));
            process.signal(Signal::TERM)?;
            let ended = process.ended()?;
            if !ended.status.success() {
                return Err(format!("{name}: {}", ended.status).into());
            }
        }
        let mut list = File::create(self.folder.join("acknowledged.txt"))?;
        for (id, text) in &self.notes {
            writeln!(list, "{id}\t{text}")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    // ---- what is done in several places ----

    fn start(&mut self, name: &'static str, role: &str) -> Result<()> {
        match Process::start(name, role, &self.folder)? {
            Ok(process) => {
                self.nodes.insert(name, process);
                Ok(())
            }
            Err(ended) => Err(format!("{name} has ended, with {}", ended.status).into()),
        }
    }

    /// Starts a former primary as a follower. If its file may have what the replica lacks, the operator keeps it, and the
    /// follower begins again.
    fn rejoin(&mut self, name: &'static str) -> Result<()> {
        match Process::start(name, "follower", &self.folder)? {
            Ok(process) => {
                self.nodes.insert(name, process);
            }
            Err(ended) => {
                log(name, ended.status);
                check_said(&ended, "it may have what the replica lacks")?;
                let aside = format!("{name}.aside");
                log("operator", format_args!("$ mv {name} {aside}"));
                fs::rename(self.folder.join(name), self.folder.join(aside))?;
                self.start(name, "follower")?;
            }
        }
        Ok(())
    }

    fn promote(&mut self, name: &'static str) -> Result<()> {
        let answer = self.client.post(&self.url(name, "/promote")?, None, "")?;
        let (status, after) = (answer.status, answer.after);
        log(
            "operator",
            format_args!("POST {name}/promote: {status} after {after:.0?}, {}", answer.body),
        );
        check(status == 200, &answer)?;
        self.token = answer.token;
        Ok(())
    }

    /// Writes a note by way of a node, which may send the client to the primary.
    fn write(&mut self, name: &str, text: &str) -> Result<()> {
        let said = format!("POST {name}/notes \"{text}\"");
        let mut answer = self
            .client
            .post(&self.url(name, "/notes")?, self.token.as_deref(), text)?;
        if let Some(primary) = answer.location.take() {
            log("client", format_args!("{said}: {} to {primary}", answer.status));
            answer = self.client.post(&primary, None, text)?;
            log("client", format_args!("POST {primary}: {}", written(&answer)));
        } else {
            log("client", format_args!("{said}: {}", written(&answer)));
        }
        check(answer.status == 201, &answer)?;
        self.notes.insert(id(&answer.body)?, text.to_owned());
        self.token = answer.token;
        Ok(())
    }

    /// Reads every acknowledged note from a node.
    fn has_all(&self, name: &str) -> Result<()> {
        for (id, text) in &self.notes {
            let answer = self
                .client
                .get(&self.url(name, &format!("/notes/{id}"))?, self.token.as_deref())?;
            check(answer.status == 200 && answer.body == *text, &answer)?;
        }
        log(
            "client",
            format_args!("{name} has all {} acknowledged notes", self.notes.len()),
        );
        Ok(())
    }

    fn url(&self, name: &str, path: &str) -> Result<String> {
        let process = self.nodes.get(name).ok_or_else(|| format!("{name} does not run"))?;
        Ok(format!("{}{path}", process.url))
    }
}

/// One of the clients. It ends with the primary, whose last answer does not come.
fn write_until_killed(
    client: usize,
    url: &str,
    acknowledge: &Sender<(i64, String)>,
) -> std::result::Result<(), String> {
    let requests = Client::new();
    for n in 1.. {
        let text = format!("note {n} of client {client}");
        let Ok(answer) = requests.post(url, None, &text) else {
            break;
        };
        check(answer.status == 201, &answer)
            .and_then(|()| Ok(acknowledge.send((id(&answer.body)?, text))?))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn id(body: &str) -> Result<i64> {
    let body: Value = serde_json::from_str(body)?;
    body["id"].as_i64().ok_or_else(|| format!("no id in {body}").into())
}

fn written(answer: &Answer) -> String {
    let token = answer.token.as_deref().unwrap_or_default();
    format!(
        "{} after {:.0?}, {}, larder-token: {}..",
        answer.status,
        answer.after,
        answer.body,
        &token[..token.len().min(8)]
    )
}

fn check(holds: bool, answer: &Answer) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(format!("unexpected answer {}: {}", answer.status, answer.body).into()),
    }
}

fn check_said(ended: &Ended, what: &str) -> Result<()> {
    match !ended.status.success() && ended.said.contains(what) {
        true => Ok(()),
        false => Err(format!("it did not end with `{what}`: {}", ended.said).into()),
    }
}

fn title(title: &str) {
    println!("\n== {title}");
}
