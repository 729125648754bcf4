//! The reference service, `examples/axum.rs`, as a separate process: driven over HTTP, stopped and killed by signals
//! under load, and restarted on the same file.
//!
//! Each answer states the truth, whatever happens to the process: a 2xx is stored, exactly once; a 4xx or a 503 is not
//! stored; a request without an answer may be either, and a retry with the same key stores it exactly once.
//!
//! Cases that no client can cause, such as a rolled back neighbour in the same group, are tested inside the example.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use ureq::Agent;
use ureq::http::Response;

use crate::support::child::{self, PATIENCE, succeeds};
use crate::support::stalls::unless_stalled;

const CLIENTS: usize = 64;
/// Acknowledged writes of a round, before the signal.
const ENOUGH: usize = 8 * CLIENTS;
const SIGTERM: &str = "TERM";
const SIGINT: &str = "INT";
const SIGKILL: &str = "KILL";

// ---- the process ----

/// The service, which does not outlive this.
struct Service {
    process: process::Child,
    /// What it says on stdout.
    lines: Receiver<String>,
    /// What it says on stderr.
    log: PathBuf,
    url: String,
}

/// How it ended.
struct Ended {
    status: ExitStatus,
    lines: Vec<String>,
    log: String,
}

impl Service {
    /// Starts it on the database in `folder`, and waits until it listens.
    fn start(folder: &TempDir) -> Self {
        Self::start_with(folder, &[])
    }

    fn start_with(folder: &TempDir, settings: &[(&str, &str)]) -> Self {
        Self::start_by(Command::new(binary()), folder, settings)
    }

    /// By a command that runs it with the arguments that are added.
    fn start_by(mut command: Command, folder: &TempDir, settings: &[(&str, &str)]) -> Self {
        let log = folder.path().join("service.log");
        command.arg(database(folder)).arg("127.0.0.1:0");
        command.env("SHOP_LOG", "warn").envs(settings.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(&log).unwrap());
        let mut process = command.spawn().unwrap_or_else(|e| panic!("{command:?} starts: {e}"));
        let out = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut service = Self {
            process,
            lines,
            log,
            url: String::new(),
        };
        service.url = service.line("listening on ");
        service
    }

    /// Waits for a line, which must begin so, and gives the rest of it.
    #[track_caller]
    fn line(&self, beginning: &str) -> String {
        let line = self.next_line().expect("the service says something before it ends");
        let rest = line.strip_prefix(beginning);
        rest.unwrap_or_else(|| panic!("{line:?} does not begin with {beginning:?}"))
            .to_owned()
    }

    /// `None` once it has ended.
    fn next_line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the service neither says anything nor ends"),
        }
    }

    fn signal(&self, signal: &str) {
        let command = format!("kill -{signal} {}", self.process.id());
        assert!(succeeds(Command::new("sh").args(["-c", &command])), "{command}");
    }

    /// Waits until it has ended by itself.
    fn ended(mut self) -> Ended {
        let mut lines = Vec::new();
        while let Some(line) = self.next_line() {
            lines.push(line);
        }
        let status = self.process.wait().unwrap();
        let log = self.log();
        Ended { status, lines, log }
    }

    /// What it has said on stderr so far.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn stop(self) -> Ended {
        self.signal(SIGTERM);
        self.ended()
    }

    fn client(&self) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build();
        Client {
            agent: config.into(),
            url: self.url.clone(),
        }
    }

    /// A connection on which a test says what it likes.
    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let log: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the service's log, the newest first: {log:#?}");
        }
    }
}

impl Ended {
    /// It ended well, without dropping anything.
    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(self.status.code(), Some(0), "{:?}\n{}", self.lines, self.log);
        assert_eq!(self.lines[0], "stopping");
        let closed = self.closed();
        assert!(closed.contains(" 0 never started, the WAL was truncated"), "{closed}");
        assert!(closed.ends_with("; requests dropped: 0"), "{closed}");
    }

    /// The last line, which tells how it closed.
    #[track_caller]
    fn closed(&self) -> &str {
        let closed = self.lines.last().and_then(|line| line.strip_prefix("closed: "));
        closed.unwrap_or_else(|| panic!("no `closed: `: {:?}\n{}", self.lines, self.log))
    }
}

fn binary() -> PathBuf {
    child::example("axum")
}

fn database(folder: &TempDir) -> PathBuf {
    folder.path().join("shop.db")
}

// ---- a client ----

/// Keeps its connection alive from one request to the next.
struct Client {
    agent: Agent,
    url: String,
}

struct Answer {
    status: u16,
    retry_after: Option<String>,
    body: Value,
    /// Until its head was there.
    waited: Duration,
}

impl Client {
    fn get(&self, path: &str) -> Result<Answer, ureq::Error> {
        answer(|| self.agent.get(format!("{}{path}", self.url)).call())
    }

    fn post(&self, path: &str, body: impl AsRef<str>) -> Result<Answer, ureq::Error> {
        let request = self.agent.post(format!("{}{path}", self.url));
        answer(|| request.content_type("application/json").send(body.as_ref()))
    }

    fn create_item(&self, name: &str, quantity: i64) -> Result<Answer, ureq::Error> {
        self.post("/items", json!({ "name": name, "quantity": quantity }).to_string())
    }

    fn order(&self, key: &str, order: Order) -> Result<Answer, ureq::Error> {
        let request = self.agent.post(format!("{}/orders", self.url));
        let body = json!({ "item": order.item, "quantity": order.quantity });
        answer(|| request.header("Idempotency-Key", key).send_json(body))
    }
}

/// The time for which the service lets a request wait, for the queue and for a lock, before it says that it is busy.
const SERVICE_WAITS: Duration = Duration::from_secs(2);

/// Asks again as long as the service was overloaded. It may be on a busy machine, and nothing was done then.
#[track_caller]
fn settled(ask: impl Fn() -> Answer) -> Answer {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if answer.status != 503 {
            return answer;
        }
        answer.assert_overload();
        assert!(Instant::now() < give_up, "{}", answer.body);
    }
}

fn answer(ask: impl FnOnce() -> Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, ureq::Error> {
    let asked = Instant::now();
    let mut response = ask()?;
    let waited = asked.elapsed();
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
    // An answer that was cut off is none.
    let text = response.body_mut().read_to_string()?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer {
        status,
        retry_after,
        body,
        waited,
    })
}

impl Answer {
    #[track_caller]
    fn id(&self) -> i64 {
        self.body["id"].as_i64().unwrap_or_else(|| panic!("{}", self.body))
    }

    /// It is a 503 for a request that was kept waiting for as long as the service waits.
    #[track_caller]
    fn assert_overload(&self) {
        self.assert_refused(503, None, "busy: nothing was written");
        assert!(self.waited >= SERVICE_WAITS, "after {:?}: {}", self.waited, self.body);
    }

    fn is_of_a_stopping_service(&self) -> bool {
        let said = self.body["error"].as_str().unwrap_or_default();
        self.status == 503 && said.starts_with("stopping")
    }

    /// It has this status, and names what is wrong.
    #[track_caller]
    fn assert_refused(&self, status: u16, field: Option<&str>, error: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body["field"].as_str(), field, "{}", self.body);
        let said = self.body["error"].as_str().unwrap_or_default();
        assert!(said.contains(error), "{}", self.body);
        assert_eq!(self.retry_after.as_deref(), (status == 503).then_some("1"));
    }
}

// ---- what clients were told, and whether it is true ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    item: i64,
    quantity: i64,
}

const STOCK: i64 = 100_000;

/// What was asked for, by name or by key, and what was answered.
#[derive(Default)]
struct Told {
    /// 2xx: items by name, with their ids.
    items: BTreeMap<String, i64>,
    /// 2xx: orders by key, with their ids.
    orders: BTreeMap<String, (Order, i64)>,
    /// No answer.
    unclear_items: BTreeMap<String, i64>,
    unclear_orders: BTreeMap<String, Order>,
    /// 4xx or 503: names and keys.
    refused: BTreeSet<String>,
}

impl Told {
    fn merge(&mut self, other: Self) {
        self.items.extend(other.items);
        self.orders.extend(other.orders);
        self.unclear_items.extend(other.unclear_items);
        self.unclear_orders.extend(other.unclear_orders);
        self.refused.extend(other.refused);
    }

    fn acknowledged(&self) -> usize {
        self.items.len() + self.orders.len()
    }

    /// Asks for a new item; `None` if there was no answer.
    fn create_item(&mut self, client: &Client, name: String, quantity: i64) -> Option<()> {
        match client.create_item(&name, quantity) {
            Ok(answer) if answer.status == 201 => {
                self.items.insert(name, answer.id());
            }
            Ok(answer) => self.refuse(name, &answer),
            Err(_) => {
                self.unclear_items.insert(name, quantity);
                return None;
            }
        }
        Some(())
    }

    fn order(&mut self, client: &Client, key: String, order: Order) -> Option<()> {
        match client.order(&key, order) {
            Ok(answer) if answer.status == 201 => {
                self.orders.insert(key, (order, answer.id()));
            }
            Ok(answer) => self.refuse(key, &answer),
            Err(_) => {
                self.unclear_orders.insert(key, order);
                return None;
            }
        }
        Some(())
    }

    fn refuse(&mut self, what: String, answer: &Answer) {
        match answer.status {
            409 | 422 => {}
            _ if answer.is_of_a_stopping_service() => {}
            _ => answer.assert_overload(),
        }
        self.refused.insert(what);
    }

    /// Everything that was acknowledged is answered as it was before. What had no answer is asked for again.
    fn assert_kept_and_settle(&mut self, client: &Client) {
        for (name, id) in &self.items {
            let item = settled(|| client.get(&format!("/items/{id}")).unwrap());
            assert_eq!(
                (item.status, item.body["name"].as_str()),
                (200, Some(name.as_str())),
                "{id} is lost"
            );
        }
        for (key, (order, id)) in &self.orders {
            let again = settled(|| client.order(key, *order).unwrap());
            assert_eq!((again.status, again.id()), (200, *id), "{key} is lost");
        }
        for (name, quantity) in mem::take(&mut self.unclear_items) {
            let again = settled(|| client.create_item(&name, quantity).unwrap());
            match again.status {
                201 => drop(self.items.insert(name, again.id())),
                409 => drop(self.items.insert(name.clone(), find_item(client, &name))),
                _ => self.refuse(name, &again),
            }
        }
        for (key, order) in mem::take(&mut self.unclear_orders) {
            let again = settled(|| client.order(&key, order).unwrap());
            match again.status {
                200 | 201 => drop(self.orders.insert(key, (order, again.id()))),
                _ => self.refuse(key, &again),
            }
        }
    }

    /// The file has what was acknowledged, once, and nothing else; and each order has been taken out of the stock once.
    fn assert_all_of(&self, database: &Path) {
        assert!(self.unclear_items.is_empty() && self.unclear_orders.is_empty());
        let file = Connection::open(database).unwrap();
        let items = rows(&file, "SELECT name, id FROM items");
        assert_eq!(items.len(), self.items.len());
        for (name, id) in items {
            assert_eq!(self.items.get(&name), Some(&id), "{name}");
            assert!(!self.refused.contains(&name), "{name}");
        }
        let orders = rows(&file, "SELECT idempotency_key, id FROM orders");
        assert_eq!(orders.len(), self.orders.len());
        for (key, id) in orders {
            assert_eq!(self.orders.get(&key).map(|(_, id)| *id), Some(id), "{key}");
            assert!(!self.refused.contains(&key), "{key}");
        }
        let mut sold = BTreeMap::<i64, i64>::new();
        for (order, _) in self.orders.values() {
            *sold.entry(order.item).or_default() += order.quantity;
        }
        for (name, id) in &self.items {
            let stock = rows(&file, &format!("SELECT name, quantity FROM items WHERE id = {id}"));
            let sold = sold.get(id).unwrap_or(&0);
            assert_eq!(stock, [(name.clone(), STOCK - sold)]);
        }
        let check: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}

fn rows(file: &Connection, sql: &str) -> Vec<(String, i64)> {
    let mut statement = file.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.try_into()).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Turns the pages of the list until it is found.
fn find_item(client: &Client, name: &str) -> i64 {
    let mut after = 0;
    loop {
        let page = client.get(&format!("/items?after={after}&limit=100")).unwrap().body;
        let mut items = page["items"].as_array().unwrap().iter();
        if let Some(item) = items.find(|item| item["name"] == name) {
            return item["id"].as_i64().unwrap();
        }
        after = page["next"]
            .as_i64()
            .unwrap_or_else(|| panic!("{name} is not in the list"));
    }
}

// ---- load ----

/// Clients that read and write until they get no answer; the signal ends the service when all of them are at it.
fn end_under_load(mut service: Service, round: &str, signal: &str) -> (Told, Ended) {
    let (started, acknowledged) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut told = Told::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (client, started, acknowledged) = (service.client(), &started, &acknowledged);
                scope.spawn(move || drive(&client, &format!("{round}-{number}"), started, acknowledged))
            })
            .collect();
        let give_up = Instant::now() + PATIENCE;
        while started.load(Relaxed) < CLIENTS || acknowledged.load(Relaxed) < ENOUGH {
            if Instant::now() > give_up {
                // Or the clients would go on for ever.
                service.process.kill().unwrap();
                panic!("{started:?} clients have started, {acknowledged:?} writes were acknowledged");
            }
            thread::yield_now();
        }
        service.signal(signal);
        for client in clients {
            told.merge(client.join().unwrap());
        }
    });
    (told, service.ended())
}

fn drive(client: &Client, name: &str, started: &AtomicUsize, acknowledged: &AtomicUsize) -> Told {
    let mut told = Told::default();
    let item = format!("{name}-item");
    let made = settled(|| {
        let answer = client.create_item(&item, STOCK);
        answer.expect("the service answers before it is stopped")
    });
    assert_eq!(made.status, 201, "{}", made.body);
    let own = made.id();
    told.items.insert(item, own);
    started.fetch_add(1, Relaxed);
    let ask = |n: usize, told: &mut Told| {
        let name = format!("{name}-{n}");
        match n % 6 {
            0 => told.create_item(client, name, STOCK),
            // The first item is everybody's.
            1 => told.order(client, name, Order { item: 1, quantity: 2 }),
            2 => told.order(client, name, Order { item: own, quantity: 3 }),
            3 => {
                // A client's reads see its writes.
                let item = client.get(&format!("/items/{own}")).ok()?;
                if item.status != 200 && !item.is_of_a_stopping_service() {
                    item.assert_overload();
                }
                client.get("/items?limit=100").ok().map(drop)
            }
            4 => told.create_item(client, name, -1),
            _ => told.order(
                client,
                name,
                Order {
                    item: own,
                    quantity: 999_999,
                },
            ),
        }
    };
    for n in 0.. {
        let before = told.acknowledged();
        if ask(n, &mut told).is_none() {
            break;
        }
        acknowledged.fetch_add(told.acknowledged() - before, Relaxed);
    }
    told
}

#[test]
fn acknowledged_requests_survive_sigterm_under_load() {
    let folder = tempdir().unwrap();
    let mut told = Told::default();
    for round in ["one", "two", "three"] {
        let service = Service::start(&folder);
        told.assert_kept_and_settle(&service.client());
        let (more, ended) = end_under_load(service, round, SIGTERM);
        ended.assert_clean();
        told.merge(more);
    }
    let service = Service::start(&folder);
    told.assert_kept_and_settle(&service.client());
    service.stop().assert_clean();
    told.assert_all_of(&database(&folder));
}

#[test]
fn acknowledged_requests_survive_sigkill_under_load() {
    let folder = tempdir().unwrap();
    let mut told = Told::default();
    for round in ["one", "two"] {
        let service = Service::start(&folder);
        told.assert_kept_and_settle(&service.client());
        let (more, ended) = end_under_load(service, round, SIGKILL);
        assert_eq!(
            (ended.status.signal(), ended.lines.len()),
            (Some(9), 0),
            "{:?}",
            ended.lines
        );
        told.merge(more);
    }
    let service = Service::start(&folder);
    told.assert_kept_and_settle(&service.client());
    service.stop().assert_clean();
    told.assert_all_of(&database(&folder));
}

// ---- one thing at a time ----

#[test]
fn invalid_request_gets_status_and_field() {
    let folder = tempdir().unwrap();
    let service = Service::start(&folder);
    let client = service.client();
    let long = json!({ "name": "x".repeat(101), "quantity": 1 }).to_string();
    let large = json!({ "name": "x".repeat(20_000), "quantity": 1 }).to_string();
    let item = |body: &str| client.post("/items", body).unwrap();
    item(r#"{"name": " ", "quantity": 1}"#).assert_refused(422, Some("name"), "must not be empty");
    item(&long).assert_refused(422, Some("name"), "at most 100 characters");
    item(r#"{"name": "x", "quantity": -1}"#).assert_refused(422, Some("quantity"), "from 1 to 1000000");
    item(r#"{"name": "x"}"#).assert_refused(422, None, "missing field `quantity`");
    item(r#"{"name": "x", "quantity": "1"}"#).assert_refused(422, None, "quantity: invalid type");
    item(r#"{"name": "x", "quantity": 1, "price": 2}"#).assert_refused(422, None, "unknown field `price`");
    item(r#"{"name": "x", "#).assert_refused(400, None, "EOF while parsing");
    item(&large).assert_refused(413, None, "length limit exceeded");
    let order = |body: &str| client.post("/orders", body).unwrap();
    order(r#"{"item": 1, "quantity": 0}"#).assert_refused(422, Some("quantity"), "from 1 to 1000000");
    order(r#"{"item": 1, "quantity": 1}"#).assert_refused(422, Some("item"), "no such item");
    let keyed = |key: &str| client.order(key, Order { item: 1, quantity: 1 }).unwrap();
    keyed("").assert_refused(422, Some("Idempotency-Key"), "1 to 64");
    keyed(&"k".repeat(65)).assert_refused(422, Some("Idempotency-Key"), "1 to 64");

    let get = |path: &str| client.get(path).unwrap();
    get("/items?limit=0").assert_refused(422, Some("limit"), "from 1 to 100");
    get("/items?limit=101").assert_refused(422, Some("limit"), "from 1 to 100");
    get("/items/1").assert_refused(404, None, "no such item");
    get("/items/one").assert_refused(400, None, "Cannot parse `one`");
    get("/items/%ff").assert_refused(400, None, "UTF-8");
    get("/items?limit=ten").assert_refused(400, None, "limit: invalid digit");
    get("/items?after=x").assert_refused(400, None, "after: invalid digit");
    get("/items?after=%ff").assert_refused(400, None, "after: invalid digit");
    get("/nowhere").assert_refused(404, None, "no such page");
    get("/").assert_refused(404, None, "no such page");
    get("/orders").assert_refused(405, None, "does not have this method");
    let delete = |path: &str| answer(|| client.agent.delete(format!("{}{path}", client.url)).call()).unwrap();
    for path in ["/items", "/items/1", "/orders", "/healthz"] {
        delete(path).assert_refused(405, None, "does not have this method");
    }
    for path in ["/items", "/orders"] {
        let post = || client.agent.post(format!("{}{path}", client.url));
        let plain = answer(|| post().content_type("text/plain").send("{}")).unwrap();
        plain.assert_refused(415, None, "Content-Type: application/json");
        let untyped = answer(|| post().send_empty()).unwrap();
        untyped.assert_refused(415, None, "Content-Type: application/json");
        let empty = answer(|| post().content_type("application/json").send("")).unwrap();
        empty.assert_refused(400, None, "EOF while parsing");
        let not_utf8 = answer(|| post().content_type("application/json").send(&b"\xff"[..])).unwrap();
        not_utf8.assert_refused(400, None, "Failed to parse the request body as JSON");
    }
    assert_eq!(get("/items").body, json!({ "items": [], "next": null }));
    let ended = service.stop();
    ended.assert_clean();
    assert_eq!(ended.log, "", "what the client did wrong is not for the log");
}

#[test]
fn items_are_paged_and_names_are_unique() {
    let folder = tempdir().unwrap();
    let service = Service::start(&folder);
    let client = service.client();
    assert_eq!(client.get("/healthz").unwrap().status, 200);
    for n in 1..=5 {
        let item = client.create_item(&format!("item {n}"), n).unwrap();
        assert_eq!((item.status, item.id()), (201, n), "{}", item.body);
    }
    let taken = client.create_item("item 3", 1).unwrap();
    taken.assert_refused(409, None, "exists already");
    let page = |query: &str| {
        let body = client.get(&format!("/items?{query}")).unwrap().body;
        let items = body["items"].as_array().unwrap().iter();
        let ids: Vec<i64> = items.map(|item| item["id"].as_i64().unwrap()).collect();
        (ids, body["next"].as_i64())
    };
    assert_eq!(page("limit=2"), (vec![1, 2], Some(2)));
    assert_eq!(page("limit=2&after=2"), (vec![3, 4], Some(4)));
    assert_eq!(page("limit=2&after=4"), (vec![5], None));
    assert_eq!(page(""), (vec![1, 2, 3, 4, 5], None));
    let third = client.get("/items/3").unwrap().body;
    assert_eq!(third, json!({ "id": 3, "name": "item 3", "quantity": 3 }));
    service.stop().assert_clean();
}

#[test]
fn repeated_order_with_one_key_is_made_once() {
    let folder = tempdir().unwrap();
    let service = Service::start(&folder);
    let client = service.client();
    client.create_item("flour", 10).unwrap();
    let order = Order { item: 1, quantity: 3 };
    let answers: Vec<Answer> = thread::scope(|scope| {
        let ask = |client: Client| scope.spawn(move || client.order("key", order).unwrap());
        let clients: Vec<_> = (0..16).map(|_| ask(service.client())).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let shown = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((made, shown), (1, 15));
    assert!(answers.iter().all(|answer| answer.id() == 1));
    assert_eq!(client.get("/items/1").unwrap().body["quantity"], 7);

    let other = client.order("key", Order { item: 1, quantity: 4 }).unwrap();
    other.assert_refused(422, Some("Idempotency-Key"), "used for another order");
    let too_many = client.order("another key", Order { item: 1, quantity: 8 }).unwrap();
    too_many.assert_refused(409, None, "only 7 in stock");
    // Without a key each is an order of its own.
    for id in [2, 3] {
        let order = client.post("/orders", r#"{"item": 1, "quantity": 1}"#).unwrap();
        assert_eq!((order.status, order.id()), (201, id));
    }
    assert_eq!(client.get("/items/1").unwrap().body["quantity"], 5);
    service.stop().assert_clean();
}

#[test]
fn full_queue_gives_503_and_writes_nothing() {
    let folder = tempdir().unwrap();
    let service = Service::start_with(&folder, &[("SHOP_QUEUE", "1")]);
    // Another process has SQLite's lock: the writer waits for it with one write in its hands, and one is queued.
    let other = Connection::open(database(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (send, answers) = channel();
    let answers: Vec<(String, Answer)> = thread::scope(|scope| {
        for n in 0..8 {
            let (send, client) = (send.clone(), service.client());
            scope.spawn(move || {
                let name = format!("item {n}");
                let answer = client.create_item(&name, STOCK).unwrap();
                send.send((name, answer)).unwrap();
            });
        }
        let mut told: Vec<_> = (0..6).map(|_| answers.recv_timeout(PATIENCE).unwrap()).collect();
        for (_, answer) in &told {
            answer.assert_refused(503, None, "nothing was written");
        }
        // Reads do not wait for writers.
        let healthy = service.client().get("/healthz").unwrap();
        assert_eq!((healthy.status, healthy.body), (200, json!("ok\n")));
        other.execute_batch("ROLLBACK").unwrap();
        told.extend((0..2).map(|_| answers.recv_timeout(PATIENCE).unwrap()));
        told
    });
    // The writer may have taken the first one after all others had come: then the queue was full for seven.
    let has_waited = |answer: &Answer| answer.status == 201 || answer.waited >= SERVICE_WAITS;
    assert!(answers[6..].iter().any(|(_, answer)| has_waited(answer)));
    let mut told = Told::default();
    for (name, answer) in answers {
        if answer.status == 201 {
            told.items.insert(name, answer.id());
        } else {
            // On a slow machine one has waited too long for the lock.
            answer.assert_refused(503, None, "busy: nothing was written");
            told.refused.insert(name);
        }
    }
    let client = service.client();
    let after = settled(|| client.create_item("after it", STOCK).unwrap());
    assert_eq!(after.status, 201, "{}", after.body);
    told.items.insert("after it".into(), find_item(&client, "after it"));
    let ended = service.stop();
    ended.assert_clean();
    assert!(
        ended.log.contains("the queue is full: all 1 places are taken"),
        "{}",
        ended.log
    );
    told.assert_all_of(&database(&folder));
}

/// Another process has SQLite's lock until all are answered. Who is first gets the lock's time-out, and those behind it that
/// of the queue.
#[test]
fn queue_timeout_gives_503_and_writes_nothing() {
    let folder = tempdir().unwrap();
    let service = Service::start(&folder);
    let other = Connection::open(database(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    // If each came just when the one before it was through, all would have the lock's: then once more.
    while !service.log().contains("in the queue and did not start") {
        assert!(began.elapsed() < PATIENCE, "{}", service.log());
        thread::scope(|scope| {
            for n in 0..8 {
                let client = service.client();
                scope.spawn(move || {
                    let answer = client.create_item(&format!("item {n}"), STOCK).unwrap();
                    answer.assert_overload();
                });
            }
        });
    }
    other.execute_batch("ROLLBACK").unwrap();
    let client = service.client();
    assert_eq!(client.get("/items").unwrap().body["items"], json!([]));
    let after = settled(|| client.create_item("after it", STOCK).unwrap());
    assert_eq!(after.status, 201, "{}", after.body);
    service.stop().assert_clean();
}

#[test]
fn stopping_service_reports_unhealthy() {
    let began = Instant::now();
    loop {
        let folder = tempdir().unwrap();
        // Nobody is in a hurry here.
        let service = Service::start_with(&folder, &[("SHOP_SHUTDOWN_SECS", "600")]);
        let mut probe = service.connect();
        let (half, other_half) = (b"GET /healthz HTTP/1.1\r\nHost: shop\r\n", b"\r\n");
        probe.get_mut().write_all(half).unwrap();
        assert_eq!(service.client().get("/healthz").unwrap().status, 200);
        service.signal(SIGTERM);
        service.line("stopping");
        let _ = probe.get_mut().write_all(other_half);
        let answer = rest(probe);
        let ended = service.ended();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        // One that it had not come to read before the signal is closed without an answer: then once more.
        if !answer.is_empty() {
            assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
            assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
            assert!(answer.contains(r#""error":"stopping""#), "{answer}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no probe is answered");
    }
}

/// Sends the head of a request, and waits until the service asks for its body.
fn begin_item(service: &Service, body: &str) -> BufReader<TcpStream> {
    let mut connection = service.connect();
    write!(
        connection.get_mut(),
        "POST /items HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        body.len()
    )
    .unwrap();
    let (mut line, mut empty) = (String::new(), String::new());
    connection.read_line(&mut line).unwrap();
    connection.read_line(&mut empty).unwrap();
    assert_eq!((line.as_str(), empty.as_str()), ("HTTP/1.1 100 Continue\r\n", "\r\n"));
    connection
}

fn rest(mut connection: BufReader<TcpStream>) -> String {
    let mut rest = String::new();
    // A reset ends it as well.
    let _ = connection.read_to_string(&mut rest);
    rest
}

/// Begins a download, and reads as far as the first line of the response.
fn begin_download(service: &Service) -> BufReader<TcpStream> {
    let mut connection = service.connect();
    let request = b"GET /items.csv HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    connection.get_mut().write_all(request).unwrap();
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    connection
}

/// What ends a response that is sent in chunks.
const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

#[test]
fn download_lasts_as_long_as_its_client() {
    const ITEMS: usize = 150_000;
    let folder = tempdir().unwrap();
    let service = Service::start_with(&folder, &[("SHOP_SHUTDOWN_SECS", "4")]);
    let insert = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO items(name, quantity) SELECT format('%0200d, \"%d\"', i, i), i FROM n";
    let file = Connection::open(database(&folder)).unwrap();
    file.execute(insert, [ITEMS as i64]).unwrap();
    drop(file);

    let csv = service
        .client()
        .agent
        .get(format!("{}/items.csv", service.url))
        .call()
        .unwrap();
    assert_eq!(csv.headers()["content-type"], "text/csv; charset=utf-8");
    let mut csv = csv::Reader::from_reader(csv.into_body().into_reader());
    assert_eq!(csv.headers().unwrap(), vec!["id", "name", "quantity"]);
    let mut items = 0;
    for (item, id) in csv.deserialize::<(usize, String, usize)>().zip(1..) {
        let (number, name, quantity) = item.unwrap();
        assert_eq!((number, quantity), (id, id));
        assert!(name.ends_with(&format!("0{id}, \"{id}\"")), "{name}");
        items += 1;
    }
    assert_eq!(items, ITEMS);

    // Far more clients than streams run at once: each that goes makes room for the next.
    for _ in 0..20 {
        drop(begin_download(&service));
    }
    // One that reads nothing is cut off at the end, and delays it no longer than it may.
    let stalled = begin_download(&service);
    let ended = service.stop();
    ended.assert_clean();
    let rest = rest(stalled);
    assert!(!rest.ends_with(LAST_CHUNK), "it has {} bytes", rest.len());
    assert!(rest.len() < 200 * ITEMS);
}

#[test]
fn request_in_progress_at_signal_is_finished() {
    for signal in [SIGTERM, SIGINT] {
        let folder = tempdir().unwrap();
        let service = Service::start(&folder);
        let mut half = service.connect();
        half.get_mut()
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: shop\r\n")
            .unwrap();
        // Kept alive, and idle.
        let idle = service.client();
        assert_eq!(idle.get("/healthz").unwrap().status, 200);
        let body = r#"{"name": "flour", "quantity": 10}"#;
        let mut connection = begin_item(&service, body);
        service.signal(signal);
        service.line("stopping");
        connection.get_mut().write_all(body.as_bytes()).unwrap();
        let answer = rest(connection);
        assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
        // Nothing listens, or a connection that was accepted before is told so.
        let answer = idle.get("/healthz");
        assert!(answer.as_ref().is_ok_and(|answer| answer.status == 503) || answer.is_err());
        // If the service had not come to read it before the signal it is closed without an answer.
        let _ = half.get_mut().write_all(b"\r\n");
        let answer = rest(half);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503 "), "{answer}");

        let ended = service.ended();
        assert_eq!(ended.status.code(), Some(0));
        assert!(ended.closed().ends_with("; requests dropped: 0"), "{:?}", ended.lines);
        let file = Connection::open(database(&folder)).unwrap();
        assert_eq!(rows(&file, "SELECT name, id FROM items"), [("flour".to_owned(), 1)]);
    }
}

/// It may take two seconds, and has to sync and to close its files. A machine that is slow tells nothing: then once more.
#[test]
fn silent_client_does_not_delay_shutdown() {
    unless_stalled(Duration::from_secs(1), || {
        let folder = tempdir().unwrap();
        let service = Service::start_with(&folder, &[("SHOP_SHUTDOWN_SECS", "2")]);
        let body = r#"{"name": "flour", "quantity": 10}"#;
        let stuck = [begin_item(&service, body), begin_item(&service, body)];
        // One that has sent nothing, and one that has sent half a head.
        let mut silent = [service.connect(), service.connect()];
        silent[1].get_mut().write_all(b"GET /items HTTP/1.1\r\n").unwrap();
        let asked = Instant::now();
        let ended = service.stop();
        let took = asked.elapsed();
        assert_eq!(ended.status.code(), Some(0));
        assert!(ended.closed().ends_with("; requests dropped: 2"), "{:?}", ended.lines);
        assert!(ended.log.contains("clients are still connected"), "{}", ended.log);
        for connection in stuck.into_iter().chain(silent) {
            assert_eq!(rest(connection), "");
        }
        let file = Connection::open(database(&folder)).unwrap();
        assert_eq!(rows(&file, "SELECT name, id FROM items"), []);
        // The time-out of a request is 10 s.
        let is_soon = took < Duration::from_secs(8);
        is_soon.then_some(()).ok_or_else(|| format!("it ended after {took:?}"))
    });
}

#[test]
fn locked_write_does_not_delay_shutdown() {
    let folder = tempdir().unwrap();
    let service = Service::start_with(&folder, &[("SHOP_SHUTDOWN_SECS", "1")]);
    let other = Connection::open(database(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let body = r#"{"name": "flour", "quantity": 10}"#;
    let mut connection = begin_item(&service, body);
    connection.get_mut().write_all(body.as_bytes()).unwrap();
    let ended = service.stop();
    assert_eq!(ended.status.code(), Some(0), "{:?}", ended.lines);
    assert!(ended.closed().contains("the WAL was kept"), "{:?}", ended.lines);
    assert!(ended.closed().ends_with("; requests dropped: 1"), "{:?}", ended.lines);
    assert_eq!(rest(connection), "");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(rows(&other, "SELECT name, id FROM items"), []);
}

/// A write past a size fails: see `it/write/poison.rs`. `None` (said visibly) where that cannot be.
fn start_on_a_disk_that_fails(folder: &TempDir) -> Option<Service> {
    let limit = "trap '' XFSZ; ulimit -f 512";
    if !succeeds(Command::new("sh").args(["-c", limit])) {
        child::skipped("this shell cannot limit the size of files");
        return None;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limit}; exec \"$@\""), "sh"]).arg(binary());
    Some(Service::start_by(shell, folder, &[]))
}

#[test]
fn failed_commit_gives_500_and_restart_recovers() {
    let folder = tempdir().unwrap();
    let Some(service) = start_on_a_disk_that_fails(&folder) else {
        return;
    };
    let client = service.client();
    let mut told = Told::default();
    let failed = loop {
        let name = format!("item {}", told.items.len());
        let answer = client.create_item(&name, STOCK).unwrap();
        if answer.status != 201 {
            told.unclear_items.insert(name, STOCK);
            break answer;
        }
        told.items.insert(name, answer.id());
    };
    failed.assert_refused(500, None, "internal error");
    let id = failed.body["request_id"].as_str().unwrap();
    let ended = service.ended();
    assert_eq!(ended.status.code(), Some(1), "{:?}", ended.lines);
    assert!(ended.closed().contains("the WAL was kept"), "{:?}", ended.lines);
    let line = ended.log.lines().find(|line| line.contains("COMMIT failed"));
    assert!(line.is_some_and(|line| line.contains(id)), "{id}: {}", ended.log);
    assert!(told.items.len() > 10, "{}", told.items.len());

    let service = Service::start(&folder);
    told.assert_kept_and_settle(&service.client());
    service.stop().assert_clean();
    told.assert_all_of(&database(&folder));
}

/// The write before it was acknowledged, and no request is there to be told: the probe of health is what notices.
#[test]
fn failed_checkpoint_makes_unhealthy_and_next_write_exits() {
    let folder = tempdir().unwrap();
    Service::start(&folder).stop().assert_clean();
    // Past either limit, so that the end of the file cannot be written.
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO items(name, quantity) SELECT format('%0100d', i), 1 FROM n";
    Connection::open(database(&folder))
        .unwrap()
        .execute_batch(fill)
        .unwrap();
    let size = fs::metadata(database(&folder)).unwrap().len();
    assert!(size > 1024 * 1024, "{size}");
    let Some(service) = start_on_a_disk_that_fails(&folder) else {
        return;
    };
    let client = service.client();
    let kept = settled(|| client.create_item("kept", STOCK).unwrap());
    assert_eq!(kept.status, 201, "{}", kept.body);
    // The writer makes a checkpoint once nobody writes any more.
    let began = Instant::now();
    let unhealthy = loop {
        let health = client.get("/healthz").unwrap();
        if health.body["error"] == "stopping: nothing was written" {
            break health;
        }
        assert!(began.elapsed() < PATIENCE, "{}", health.body);
        thread::yield_now();
    };
    unhealthy.assert_refused(503, None, "stopping");
    let refused = client.create_item("refused", STOCK).unwrap();
    refused.assert_refused(503, None, "stopping: nothing was written");
    let ended = service.ended();
    assert_eq!(ended.status.code(), Some(1), "{:?}", ended.lines);
    let line = ended
        .log
        .lines()
        .find(|line| line.contains("read-only after a disk error"));
    assert!(line.is_some(), "{}", ended.log);

    let service = Service::start(&folder);
    let client = service.client();
    let item = settled(|| client.get(&format!("/items/{}", kept.id())).unwrap());
    assert_eq!((item.status, item.body["name"].as_str()), (200, Some("kept")));
    let again = settled(|| client.create_item("refused", STOCK).unwrap());
    assert_eq!(again.status, 201, "{}", again.body);
    service.stop().assert_clean();
}

#[test]
fn startup_failure_is_one_line_on_stderr() {
    let folder = tempdir().unwrap();
    let database = database(&folder);
    let database = database.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let nowhere = folder.path().join("nowhere/shop.db");
    for (arguments, (name, value), wanted) in [
        (vec![], ("SHOP_LOG", "warn"), "usage: axum DATABASE [ADDRESS]"),
        (vec!["--help"], ("SHOP_LOG", "warn"), "usage: axum DATABASE [ADDRESS]"),
        (
            vec![database, "a", "b"],
            ("SHOP_LOG", "warn"),
            "usage: axum DATABASE [ADDRESS]",
        ),
        (
            vec![database],
            ("SHOP_QUEUE", "many"),
            "SHOP_QUEUE is `many`: invalid digit",
        ),
        (
            vec![database],
            ("SHOP_QUEUE", "0"),
            "option `queue_capacity`: 0 is out of range",
        ),
        (vec![database], ("SHOP_LOG", "loud"), "SHOP_LOG is `loud`: "),
        (
            vec![database],
            ("SHOP_SHUTDOWN_SECS", "-1"),
            "SHOP_SHUTDOWN_SECS is `-1`: ",
        ),
        (
            vec![database, &taken],
            ("SHOP_LOG", "warn"),
            "cannot listen on 127.0.0.1:",
        ),
        (
            vec![nowhere.to_str().unwrap()],
            ("SHOP_LOG", "warn"),
            "nowhere cannot be used; create it first",
        ),
    ] {
        let mut command = Command::new(binary());
        let output = command
            .args(&arguments)
            .env("SHOP_LOG", "warn")
            .env(name, value)
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!((output.status.code(), &*out), (Some(1), ""), "{arguments:?}: {err}");
        assert!(
            err.starts_with("axum: ") && err.contains(wanted),
            "{arguments:?}: {err}"
        );
    }
}
