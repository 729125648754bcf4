//! `examples/edge` as processes: its demonstration from the first write to the last SIGTERM, and what it leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use larder::Store;
use larder::rusqlite::Connection;
use tempfile::tempdir;

use crate::support::child::example;

/// What was logged: who, and what. Long lines are wrapped in the output.
struct Log(Vec<(String, String)>);

impl Log {
    fn parse(output: &str) -> Self {
        let mut lines: Vec<(String, String)> = Vec::new();
        for line in output.lines() {
            let Some((who, what)) = line.split_once(" | ") else {
                continue;
            };
            match (who.trim(), lines.last_mut()) {
                ("", Some((_, said))) => *said += &format!(" {what}"),
                (who, _) => lines.push((who.to_owned(), what.to_owned())),
            }
        }
        Self(lines)
    }

    /// What somebody said that begins so: the rest of it, each time.
    fn said(&self, who: &str, beginning: &str) -> Vec<&str> {
        let own = self.0.iter().filter(|(name, _)| name == who);
        own.filter_map(|(_, what)| what.strip_prefix(beginning)).collect()
    }

    #[track_caller]
    fn once(&self, who: &str, beginning: &str) -> &str {
        let [said] = self.said(who, beginning)[..] else {
            panic!("{who}: {beginning}: {:#?}", self.0)
        };
        said
    }

    /// The number of the first process with that name.
    #[track_caller]
    fn process(&self, name: &str) -> &str {
        let started = self.said(name, "follower at ");
        started[0].split_once(", process ").expect("its number").1
    }
}

fn notes(database: &Path) -> BTreeMap<i64, String> {
    let conn = Connection::open(database).unwrap();
    let mut notes = conn.prepare("SELECT id, text FROM note").unwrap();
    let notes = notes.query_map([], |row| row.try_into()).unwrap();
    notes.map(Result::unwrap).collect()
}

#[test]
fn edge_demo_keeps_every_acknowledged_note() {
    let temporary = tempdir().unwrap();
    let folder = temporary.path().join("demo");
    let ran = Command::new(example("edge")).arg("demo").arg(&folder).output().unwrap();
    let output = String::from_utf8(ran.stdout).unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}\n{output}\n{errors}", ran.status);
    let log = Log::parse(&output);

    // The own write is read on both followers.
    for name in ["london", "tokyo"] {
        let read = log.once("client", &format!("GET {name}/notes/1 with the token: "));
        assert!(read.starts_with("200 ") && read.ends_with("\"tea\""), "{read}");
    }
    let redirected = log.once("client", "POST tokyo/notes \"coffee\": ");
    assert!(redirected.starts_with("307 to http://127.0.0.1:"), "{redirected}");

    // The primary is killed, and the promoted follower takes writes.
    log.once("operator", "$ kill -9 ");
    assert!(log.once("operator", "POST london/promote: ").starts_with("200 "));
    assert!(
        log.once("client", "POST london/notes \"after the kill\": ")
            .starts_with("201 ")
    );

    // Those that were primaries before are told who is the primary now.
    let refused = log.said("frankfurt", "edge: ")[0];
    let by = format!(", process {},", log.process("london"));
    assert!(
        refused.contains("cannot be a primary of") && refused.contains(&by),
        "{refused}"
    );
    let fenced = log.once("client", "POST london/notes \"too late\": ");
    let by = format!(", process {},", log.process("tokyo"));
    assert!(fenced.contains("taken over by") && fenced.contains(&by), "{fenced}");

    // Whatever a client was told is in all databases and in the replica, and what it was refused is in none.
    let acknowledged = fs::read_to_string(folder.join("acknowledged.txt")).unwrap();
    let acknowledged: BTreeMap<i64, &str> = acknowledged
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(id, text)| (id.parse().unwrap(), text))
        .collect();
    assert!(acknowledged.len() > 200, "{}", acknowledged.len());
    let restored = folder.join("restored.db");
    Store::restore_from(folder.join("replica").to_str().unwrap())
        .to(&restored)
        .unwrap();
    let all = notes(&restored);
    for (id, text) in acknowledged {
        assert_eq!(all.get(&id).map(String::as_str), Some(text), "note {id}");
    }
    assert!(all.values().all(|text| text != "too late"));
    for name in ["frankfurt", "london", "tokyo"] {
        assert_eq!(notes(&folder.join(name).join("app.db")), all, "{name}");
    }
}

/// A process of the example, which is killed in the end.
struct Node {
    process: Child,
    address: String,
}

impl Node {
    fn start(role: &str, database: &Path, replica: &Path) -> Self {
        let mut command = Command::new(example("edge"));
        command.arg(role).args([database, replica]).arg("127.0.0.1:0");
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let (_, address) = line.split_once(" at http://").expect("its address");
        let (address, _) = address.split_once(',').expect("its address");
        Self {
            process,
            address: address.to_owned(),
        }
    }

    /// The answer's head and body.
    fn post(&self, token: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head =
            format!("POST /notes HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n{token}content-length: 3\r\n\r\n");
        stream.write_all(format!("{head}tea").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A write needs nothing that the follower lacks: it was answered with 503.
#[test]
fn write_on_a_late_follower_is_redirected() {
    let folder = tempdir().unwrap();
    let replica = folder.path().join("replica");
    let primary = Node::start("primary", &folder.path().join("one/app.db"), &replica);
    let answer = primary.post("");
    let token = answer.lines().find_map(|line| line.strip_prefix("larder-token: "));
    let lineage = token.expect("a write has a token").split('-').next().unwrap();
    let follower = Node::start("follower", &folder.path().join("two/app.db"), &replica);
    let answer = follower.post(&format!("larder-token: {lineage}-00000000000f4240\r\n"));
    assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
    assert!(
        answer.contains(&format!("location: http://{}/notes", primary.address)),
        "{answer}"
    );
}
