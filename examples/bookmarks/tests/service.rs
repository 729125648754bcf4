//! What a client sees of the service. The same file tests the service as it is written on larder, sqlx and rusqlite.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;

struct Service {
    process: Child,
    address: String,
    agent: Agent,
}

impl Service {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bookmarks"))
            .arg(folder.join("bookmarks.db"))
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        let agent = Agent::config_builder().http_status_as_error(false).build().into();
        Self {
            process,
            address,
            agent,
        }
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let sent = self.agent.post(format!("{}{path}", self.address)).send_json(body);
        answer(sent.unwrap())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        answer(self.agent.get(format!("{}{path}", self.address)).call().unwrap())
    }

    fn delete(&self, path: &str) -> u16 {
        let sent = self.agent.delete(format!("{}{path}", self.address)).call();
        sent.unwrap().status().as_u16()
    }

    fn text(&self, path: &str) -> String {
        let mut response = self.agent.get(format!("{}{path}", self.address)).call().unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        let mut text = String::new();
        response.body_mut().as_reader().read_to_string(&mut text).unwrap();
        text
    }

    fn user(&self, name: &str) -> i64 {
        let (status, body) = self.post("/users", json!({ "name": name }));
        assert_eq!(status, 201, "{body}");
        body["id"].as_i64().unwrap()
    }

    fn add(&self, user: i64, url: &str, title: &str, tags: &[&str]) -> (u16, Value) {
        let body = json!({ "url": url, "title": title, "note": "", "tags": tags });
        self.post(&format!("/users/{user}/bookmarks"), body)
    }

    /// The titles that a search finds.
    fn search(&self, user: i64, words: &str) -> Vec<String> {
        let mut sent = self
            .agent
            .get(format!("{}/users/{user}/bookmarks", self.address))
            .query("q", words)
            .call()
            .unwrap();
        assert_eq!(sent.status().as_u16(), 200, "{words:?}");
        let found: Value = sent.body_mut().read_json().unwrap();
        let titles = found.as_array().unwrap().iter();
        titles
            .map(|found| found["title"].as_str().unwrap().to_owned())
            .collect()
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn started() -> (TempDir, Service) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    (folder, service)
}

#[test]
fn a_bookmark_is_kept_and_listed() {
    let (_folder, service) = started();
    let ada = service.user("Ada");
    let (status, first) = service.add(ada, "https://example.org/a", "First", &["maths", "art"]);
    assert_eq!(status, 201, "{first}");
    assert_eq!(service.add(ada, "https://example.org/b", "Second", &[]).0, 201);
    let (status, all) = service.get(&format!("/users/{ada}/bookmarks"));
    assert_eq!(status, 200);
    let titles: Vec<_> = all.as_array().unwrap().iter().map(|one| &one["title"]).collect();
    assert_eq!(titles, ["Second", "First"], "newest first");
    assert_eq!(all[1]["tags"], json!(["art", "maths"]));
    assert_eq!(all[0]["tags"], json!([]));
    assert!(all[0]["added"].as_i64().unwrap() > 1_700_000_000);

    let id = first["id"].as_i64().unwrap();
    assert_eq!(service.delete(&format!("/bookmarks/{id}")), 204);
    assert_eq!(service.delete(&format!("/bookmarks/{id}")), 404);
    assert_eq!(service.search(ada, "first"), [""; 0], "the index forgets it, too");
}

#[test]
fn mistakes_have_their_status() {
    let (_folder, service) = started();
    let ada = service.user("Ada");
    assert_eq!(
        service.post("/users", json!({ "name": "Ada" })),
        (409, json!("the name is taken"))
    );
    assert_eq!(service.post("/users", json!({ "name": " " })).0, 422);
    assert_eq!(service.add(ada, "no address", "", &[]).0, 422);
    assert_eq!(
        service.add(ada + 1, "https://example.org", "", &[]),
        (404, json!("there is no such user"))
    );
    assert_eq!(service.add(ada, "https://example.org", "One", &["a"]).0, 201);
    let twice = service.add(ada, "https://example.org", "Two", &["b"]);
    assert_eq!(twice, (409, json!("the address is kept already")));
    let (_, all) = service.get(&format!("/users/{ada}/bookmarks"));
    assert_eq!(
        (all.as_array().unwrap().len(), &all[0]["tags"]),
        (1, &json!(["a"])),
        "nothing of it was kept"
    );
}

#[test]
fn any_text_can_be_searched_for() {
    let (_folder, service) = started();
    let (ada, bob) = (service.user("Ada"), service.user("Bob"));
    service.add(ada, "https://a.example", "The \"analytical\" engine", &[]);
    service.add(ada, "https://b.example", "Notes on an engine", &[]);
    service.add(bob, "https://a.example", "Bob's engine", &[]);
    assert_eq!(service.search(ada, "engine").len(), 2, "and not Bob's");
    assert_eq!(service.search(ada, "engine analytical"), ["The \"analytical\" engine"]);
    for text in [
        "\"",
        "engine\"",
        "AND",
        "engine OR",
        "(",
        "title:engine",
        "*",
        "^",
        "-engine",
        "'; DROP",
        "é\u{301}",
    ] {
        service.search(ada, text);
    }
}

#[test]
fn a_large_list_is_downloaded() {
    let (_folder, service) = started();
    let ada = service.user("Ada");
    let bookmark = |n: usize| json!({ "url": format!("https://example.org/{n}"), "title": format!("a, \"{n}\"") });
    for thousand in 0..5 {
        let all: Vec<_> = (0..1000).map(|n| bookmark(thousand * 1000 + n)).collect();
        assert_eq!(
            service.post(&format!("/users/{ada}/import"), json!(all)),
            (201, json!({ "added": 1000 }))
        );
    }
    let text = service.text(&format!("/users/{ada}/bookmarks.csv"));
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(rows.headers().unwrap(), &["url", "title", "added"][..]);
    let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 5000);
    assert_eq!(
        (&rows[4999][0], &rows[4999][1]),
        ("https://example.org/4999", "a, \"4999\"")
    );
}

#[test]
fn what_was_answered_outlives_a_kill() {
    let (folder, service) = started();
    let ada = service.user("Ada");
    for n in 0..20 {
        assert_eq!(service.add(ada, &format!("https://{n}.example"), "kept", &["a"]).0, 201);
    }
    service.kill();
    let service = Service::start(folder.path());
    assert_eq!(service.search(ada, "kept").len(), 20);
}
