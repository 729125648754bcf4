//! A web service on larder, to copy: a shop's stock and orders, with axum and tokio.
//!
//! ```sh
//! cargo run --example axum --features async -- shop.db 127.0.0.1:3000
//!
//! curl -i localhost:3000/items --json '{"name": "flour", "quantity": 10}'
//! curl -i localhost:3000/orders --json '{"item": 1, "quantity": 3}' -H 'Idempotency-Key: my-first'   # 201
//! curl -i localhost:3000/orders --json '{"item": 1, "quantity": 3}' -H 'Idempotency-Key: my-first'   # 200: that one
//! curl -i localhost:3000/orders --json '{"item": 1, "quantity": 8}'                                  # 409
//! curl -i localhost:3000/items --json '{"name": " ", "quantity": 1}'                                 # 422
//! curl -i 'localhost:3000/items?after=0&limit=10'
//! curl -i localhost:3000/items.csv
//! curl -i localhost:3000/healthz
//! ```
//!
//! Ctrl-C or SIGTERM ends it: it finishes the requests, closes the store, and logs the result.
//!
//! Where to look:
//!
//! - `run`: open, listen, stop, drain, close, within a deadline;
//! - `App::write`: a write from a task, retried where that is safe, and the end of the service if the disk fails;
//! - `place_order`: several statements, all or nothing, that a client may safely repeat;
//! - `download_items`: all rows as CSV, in bounded memory, for as long as the client reads them;
//! - `Failure`, the error type of the service: closures return it, and `From<larder::Error>` is the one place where a
//!   larder error becomes a status code.
//!
//! It limits requests, not connections: put it behind a proxy that limits connections, and slow clients.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use larder::rusqlite::{self, Row, params};
use larder::{Error, Migration, Migrations, Options, ReadOptions, ReadTx, Store, WhenFull, WriteOptions, WriteTx};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::Level;

const USAGE: &str = "\
usage: axum DATABASE [ADDRESS]

  DATABASE   an SQLite file; made if it is not there
  ADDRESS    where to listen (127.0.0.1:3000); with port 0 any that is free, which stdout tells

environment:
  SHOP_LOG             error, warn, info, debug or trace (info); to stderr
  SHOP_QUEUE           writes that may be queued (4096); past it, 503
  SHOP_SHUTDOWN_SECS   how long it may take to end (8)";

const MAX_REQUESTS: usize = 1024;
const MAX_BODY: usize = 16 * 1024;
const QUANTITY: RangeInclusive<i64> = 1..=1_000_000;

// A write waits in the queue, then perhaps for a lock of another process, and may run twice. All that fits into a
// request's timeout, so that larder reports "not started" before `bounded` has to report "unknown".
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may take for a download. The write-ahead log cannot be emptied meanwhile.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Applied as the store opens. Never change a released migration: add another.
fn migrations() -> Migrations {
    let items = "CREATE TABLE items(
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        quantity INTEGER NOT NULL CHECK (quantity >= 0)
    ) STRICT";
    let orders = "CREATE TABLE orders(
        id INTEGER PRIMARY KEY,
        item INTEGER NOT NULL REFERENCES items(id),
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        idempotency_key TEXT UNIQUE
    ) STRICT;
    CREATE INDEX orders_item ON orders(item)";
    Migrations::new([Migration::new(1, "items", items), Migration::new(2, "orders", orders)])
}

#[tokio::main]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|error| {
        eprintln!("axum: {error}");
        ExitCode::FAILURE
    })
}

async fn run() -> Result<ExitCode, Box<dyn StdError>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (database, address) = match &arguments[..] {
        [database] if !database.starts_with('-') => (database, "127.0.0.1:3000"),
        [database, address] => (database, address.as_str()),
        _ => return Err(USAGE.into()),
    };
    let shutdown = Duration::from_secs(setting::<u16>("SHOP_SHUTDOWN_SECS", 8)?.into());
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    log.with_max_level(setting("SHOP_LOG", Level::INFO)?).init();

    let store = Options::new()
        .migrations(migrations())
        .require_strict(true)
        .queue_capacity(setting("SHOP_QUEUE", 4096)?)
        .queue_timeout(QUEUE_TIMEOUT)
        .read_queue_timeout(QUEUE_TIMEOUT)
        .busy_timeout(BUSY_TIMEOUT)
        .open(database)?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let app = App {
        store,
        requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
        stop: watch::Sender::new(None),
    };
    stop_on_signals(app.stop.clone())?;
    say(format_args!("listening on http://{}", listener.local_addr()?));
    let server = axum::serve(listener, routes(app.clone())).with_graceful_shutdown(app.stopped());
    let server = tokio::spawn(server.into_future());

    app.stopped().await;
    let deadline = Instant::now() + shutdown;
    say("stopping");
    // A client that sends half a request, or does not read its response, cannot delay this.
    if timeout(shutdown * 3 / 4, server).await.is_err() {
        tracing::warn!("closing the store though clients are still connected");
    }
    let closed = app.store.close_async_within(deadline - Instant::now()).await?;
    let dropped = MAX_REQUESTS - app.requests.available_permits();
    say(format_args!("closed: {closed}; requests dropped: {dropped}"));
    Ok(app.stop.borrow().unwrap_or(ExitCode::SUCCESS))
}

fn stop_on_signals(stop: watch::Sender<Option<ExitCode>>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_modify(|stop| *stop = stop.or(Some(ExitCode::SUCCESS)));
    });
    Ok(())
}

fn setting<T: FromStr<Err: Display>>(name: &str, default: T) -> Result<T, String> {
    let Ok(value) = std::env::var(name) else {
        return Ok(default);
    };
    value.parse().map_err(|error| format!("{name} is `{value}`: {error}"))
}

/// Not `println!`, which panics if stdout is closed.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

// ---- shared by the handlers ----

#[derive(Clone)]
struct App {
    store: Store,
    /// One permit per request: the limit also counts them.
    requests: Arc<Semaphore>,
    /// Set once the service must end.
    stop: watch::Sender<Option<ExitCode>>,
}

impl App {
    /// Commits `f`, or returns an error that says it did not. `f` runs again if SQLite rolled it back through no fault
    /// of its own: nothing was written then. A full queue sheds load: the write fails at once instead of waiting for
    /// room.
    #[track_caller]
    fn write<T, F>(&self, f: F) -> impl Future<Output = Result<T, Failure>> + Send + use<T, F>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T, Failure> + Clone + Send + 'static,
        T: Send + 'static,
    {
        // Neither future does anything before it is awaited. Created here, both record the handler's line, for the log.
        let options = WriteOptions::new().when_full(WhenFull::Fail);
        let first = self.store.transact_async_with(options.clone(), f.clone());
        let again = self.store.transact_async_with(options, f);
        let stop = self.stop.clone();
        async move {
            let mut result = first.await;
            if let Some(error @ Error::RolledBack { .. }) = cause(&result)
                && error.is_retryable()
            {
                result = again.await;
            }
            if let Some(Error::CommitUnknown { .. } | Error::Poisoned { .. } | Error::Fenced { .. }) = cause(&result) {
                // SQLite recovers the file when it is reopened: the supervisor must restart this service. (A store
                // that is fenced has lost its replica to another process.)
                stop.send_replace(Some(ExitCode::FAILURE));
            }
            result
        }
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.subscribe();
        async move {
            let _ = stop.wait_for(Option::is_some).await;
        }
    }
}

// ---- requests ----

fn routes(app: App) -> Router {
    // larder enters this span around closures, on its own threads, so events logged there belong to a request. The span
    // has the level of an error, or `SHOP_LOG=warn` would remove it from the errors, too.
    let trace = TraceLayer::new_for_http().make_span_with(|request: &Request| {
        let (method, path) = (request.method(), request.uri().path());
        tracing::error_span!("request", id = request_id(), %method, path)
    });
    let trace = trace
        .on_response(DefaultOnResponse::new().level(Level::INFO))
        .on_failure(());
    Router::new()
        .route("/items", post(create_item).get(list_items))
        .route("/items/{id}", get(get_item))
        .route("/items.csv", get(download_items))
        .route("/orders", post(create_order))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(app.clone(), bounded))
        .layer(trace)
        .layer(from_fn(identified))
        // Added after the layers, so it is outside of them: neither bounded nor logged.
        .route("/healthz", get(health).fallback(no_such_method))
        .with_state(app)
}

async fn no_such_page() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "there is no such page")
}

/// axum adds the header that lists the methods.
async fn no_such_method() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "the page does not have this method")
}

/// Limits the number of requests, and the time of each.
async fn bounded(State(app): State<App>, request: Request, next: Next) -> Response {
    let Ok(_in_progress) = app.requests.try_acquire() else {
        return Failure::unavailable("too many requests: nothing was done").into_response();
    };
    let response = timeout(REQUEST_TIMEOUT, next.run(request)).await;
    // The handler was dropped. A running write continues; a queued one is withdrawn.
    let unknown = "no answer in time: what it should have done may or may not be done";
    response.unwrap_or_else(|_| Failure::new(StatusCode::GATEWAY_TIMEOUT, unknown).into_response())
}

tokio::task_local! {
    static REQUEST_ID: u64;
}

async fn identified(request: Request, next: Next) -> Response {
    // Starts at the current time, so that the ids continue above those of the previous run.
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(UNIX_EPOCH.elapsed().map_or(0, |time| time.as_micros() as u64)));
    REQUEST_ID.scope(NEXT.fetch_add(1, Relaxed), next.run(request)).await
}

fn request_id() -> Option<String> {
    REQUEST_ID.try_with(|id| format!("{id:x}")).ok()
}

/// Healthy if the disk has not failed the store, and reads succeed.
async fn health(State(app): State<App>) -> Result<&'static str, Failure> {
    if app.stop.borrow().is_some() {
        return Err(Failure::unavailable("stopping"));
    }
    if let Some(poisoned) = app.store.poisoned() {
        return Err(poisoned.into());
    }
    let options = ReadOptions::new()
        .queue_timeout(Duration::from_millis(500))
        .label("health");
    let read = |tx: &ReadTx<'_>| tx.exists("SELECT 1 FROM items", []);
    app.store.read_async_with(options, read).await?;
    Ok("ok\n")
}

// ---- items: one row at a time ----

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewItem {
    name: String,
    quantity: i64,
}

#[derive(Serialize)]
struct Item {
    id: i64,
    name: String,
    quantity: i64,
}

async fn create_item(State(app): State<App>, body: Body<NewItem>) -> Result<impl IntoResponse, Failure> {
    let Json(NewItem { name, quantity }) = body?;
    check("name", !name.trim().is_empty(), "must not be empty")?;
    check("name", name.chars().count() <= 100, "must be at most 100 characters")?;
    check("quantity", QUANTITY.contains(&quantity), "must be from 1 to 1000000")?;
    let insert = "INSERT INTO items(name, quantity) VALUES (?1, ?2)";
    let write = app.write(move |tx| {
        let id = tx.insert(insert, params![name, quantity])?;
        Ok(Item { id, name, quantity })
    });
    Ok((StatusCode::CREATED, Json(write.await?)))
}

async fn get_item(State(app): State<App>, id: Result<Path<i64>, PathRejection>) -> Result<Json<Item>, Failure> {
    let Path(id) = id?;
    let select = "SELECT id, name, quantity FROM items WHERE id = ?1";
    let item = app.store.read_async(move |tx| tx.optional(select, [id])).await?;
    let not_found = || Failure::new(StatusCode::NOT_FOUND, "there is no such item");
    Ok(Json(item.ok_or_else(not_found)?))
}

#[derive(Deserialize)]
struct Page {
    after: Option<i64>,
    limit: Option<u32>,
}

/// Pages by key: the last page costs no more than the first, and concurrent changes make none skip or repeat an item.
async fn list_items(
    State(app): State<App>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<impl IntoResponse, Failure> {
    let Query(page) = page?;
    let (after, limit) = (page.after.unwrap_or(0), page.limit.unwrap_or(20));
    check("limit", (1..=100).contains(&limit), "must be from 1 to 100")?;
    let select = "SELECT id, name, quantity FROM items WHERE id > ?1 ORDER BY id LIMIT ?2";
    let items: Vec<Item> = app
        .store
        .read_async(move |tx| tx.all(select, params![after, limit]))
        .await?;
    let full = items.len() == limit as usize;
    let next = items.last().filter(|_| full).map(|item| item.id);
    Ok(Json(json!({ "items": items, "next": next })))
}

impl TryFrom<&Row<'_>> for Item {
    type Error = rusqlite::Error;

    fn try_from(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (id, name, quantity) = row.try_into()?;
        Ok(Self { id, name, quantity })
    }
}

// ---- a download: all rows, in bounded memory ----

/// All items of one moment, as fast as the client reads them. If it goes away, axum drops the stream, which ends the
/// query. At most as many as larder runs at once are sent, and further clients get a 503.
async fn download_items(State(app): State<App>) -> Result<impl IntoResponse, Failure> {
    let options = ReadOptions::new().execution_timeout(DOWNLOAD_TIMEOUT);
    let select = "SELECT id, name, quantity FROM items ORDER BY id";
    let mut items = app.store.read_stream_with::<Item>(options, select, []);
    // Awaited here, so that what fails before the first row has a status.
    let first = items.next().await.transpose()?;
    let items = stream::iter(first).map(Ok).chain(items);
    let lines = items.ready_chunks(256).map(csv_lines);
    // The client sees that the response breaks off; why is for the log.
    let lines = lines.inspect_err(|error| tracing::error!(%error, "a download was cut off"));
    let heading = stream::once(async { Ok(b"id,name,quantity\n".to_vec()) });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"items.csv\""),
    ];
    Ok((headers, axum::body::Body::from_stream(heading.chain(lines))))
}

fn csv_lines(items: Vec<larder::Result<Item>>) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
    let mut lines = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    for item in items {
        lines.serialize(item?)?;
    }
    Ok(lines.into_inner()?)
}

// ---- orders: several statements, all or nothing ----

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrder {
    item: i64,
    quantity: i64,
}

async fn create_order(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body<NewOrder>,
) -> Result<impl IntoResponse, Failure> {
    let Json(new) = body?;
    let NewOrder { item, quantity } = new;
    check("quantity", QUANTITY.contains(&quantity), "must be from 1 to 1000000")?;
    let key = headers.get(KEY).map(|key| key.to_str().unwrap_or_default().to_owned());
    let fits = key.as_ref().is_none_or(|key| (1..=64).contains(&key.len()));
    check(KEY, fits, "must be 1 to 64 visible ASCII characters")?;
    let (status, id) = app.write(move |tx| place_order(tx, new, key.as_deref())).await?;
    Ok((status, Json(json!({ "id": id, "item": item, "quantity": quantity }))))
}

const KEY: &str = "Idempotency-Key";

/// A client that got no response repeats the request with the same key, and gets the order that it has made, if it has.
/// Here keys belong to the whole shop; with user accounts they belong to each client.
fn place_order(tx: &WriteTx<'_>, new: NewOrder, key: Option<&str>) -> Result<(StatusCode, i64), Failure> {
    let select = "SELECT id, item, quantity FROM orders WHERE idempotency_key = ?1";
    let before = tx.optional(select, [key])?;
    if let Some((id, item, quantity)) = before {
        let the_same = (item, quantity) == (new.item, new.quantity);
        check(KEY, the_same, "was used for another order")?;
        return Ok((StatusCode::OK, id));
    }
    let stock: Option<i64> = tx.optional_scalar("SELECT quantity FROM items WHERE id = ?1", [new.item])?;
    let stock = stock.ok_or_else(|| Failure::invalid("item", "there is no such item"))?;
    if stock < new.quantity {
        return Err(Failure::new(StatusCode::CONFLICT, format!("only {stock} in stock")));
    }
    let update = "UPDATE items SET quantity = quantity - ?2 WHERE id = ?1";
    tx.execute(update, params![new.item, new.quantity])?;
    let insert = "INSERT INTO orders(item, quantity, idempotency_key) VALUES (?1, ?2, ?3)";
    let id = tx.insert(insert, params![new.item, new.quantity, key])?;
    Ok((StatusCode::CREATED, id))
}

// ---- failures ----

/// A response other than success. A closure that returns it is rolled back.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
struct Failure {
    status: StatusCode,
    field: Option<&'static str>,
    /// For the client.
    reason: String,
    /// For the log only: it names the line of the call and the statement.
    #[source]
    cause: Option<Box<Error>>,
}

fn cause<T>(result: &Result<T, Failure>) -> Option<&Error> {
    result.as_ref().err()?.cause.as_deref()
}

/// The one place where a larder error becomes a status code.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = match &error {
            Error::Closed | Error::Poisoned { .. } | Error::Fenced { .. } => {
                Self::unavailable("stopping: nothing was written")
            }
            // Only of a store that was opened with `Options::read_only`.
            Error::SnapshotChanged { .. } => Self::unavailable("the data has changed: nothing was written"),
            // Only with a replica, and `Durability::Replicated`.
            Error::NotReplicated { .. } => {
                Self::new(StatusCode::ACCEPTED, "written, but not replicated: do not repeat it")
            }
            // A full queue, a timeout, another process's lock: larder guarantees that nothing was written.
            error if error.is_retryable() => Self::unavailable("busy: nothing was written"),
            error if error.is_unique_violation() => Self::new(StatusCode::CONFLICT, "it exists already"),
            // `CommitUnknown` too: it may or may not be written.
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        };
        Self {
            cause: Some(error.into()),
            ..failure
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            let cause = self.cause.as_ref().map(tracing::field::display);
            tracing::error!(status = self.status.as_u16(), cause, "{self}");
        }
        let body = json!({ "error": self.reason, "field": self.field, "request_id": request_id() });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, 1.into());
        }
        response
    }
}

impl Failure {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            field: None,
            reason: reason.into(),
            cause: None,
        }
    }

    fn invalid(field: &'static str, reason: &str) -> Self {
        Self {
            field: Some(field),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
        }
    }

    /// Only if nothing was done, so that the client may retry.
    fn unavailable(reason: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    }
}

fn check(field: &'static str, holds: bool, reason: &str) -> Result<(), Failure> {
    holds.then_some(()).ok_or_else(|| Failure::invalid(field, reason))
}

type Body<T> = Result<Json<T>, JsonRejection>;

/// axum's rejections of what a client has sent, in the same form: 400, 413, 415, 422.
macro_rules! rejections {
    ($($rejection:ident),*) => {
        $(impl From<$rejection> for Failure {
            fn from(rejection: $rejection) -> Self {
                Self::new(rejection.status(), rejection.body_text())
            }
        })*
    };
}

rejections!(JsonRejection, PathRejection, QueryRejection);

/// Cases that no client can cause. The rest of the service is tested from outside.
#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use larder::Outcome;
    use larder::rusqlite::ffi;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::sync::oneshot;

    use super::*;

    fn app(store: Store) -> App {
        App {
            store,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            stop: watch::Sender::new(None),
        }
    }

    /// Writes submitted meanwhile join the same group.
    fn one_group() -> App {
        let options = Options::new().max_group_time(Duration::from_secs(60));
        app(options.migrations(migrations()).open_temp().unwrap())
    }

    /// The client's view: a status, and when to retry.
    fn told(failure: Failure) -> (u16, Option<String>) {
        let response = failure.into_response();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), retry_after)
    }

    /// Writes an item. `culprits` times, a neighbour in its group rolls back the whole transaction.
    async fn write_beside(app: &App, culprits: usize) -> Result<i64, Failure> {
        let (running, mut runs) = unbounded_channel();
        let write = tokio::spawn(app.write(move |tx| {
            let (let_go, held) = channel::<()>();
            // Held until the neighbour is queued behind it, while a receiver exists.
            let _ = running.send(let_go);
            let _ = held.recv();
            Ok(tx.insert("INSERT INTO items(name, quantity) VALUES ('flour', 10)", [])?)
        }));
        for _ in 0..culprits {
            let let_go = runs.recv().await.expect("it is run again");
            let fatal = "INSERT OR ROLLBACK INTO items VALUES (7, 'salt', 1), (7, 'sugar', 1)";
            let culprit = app.store.submit(move |tx| tx.execute(fatal, [])).unwrap();
            drop(let_go);
            culprit.await.unwrap_err();
        }
        drop(runs);
        write.await.unwrap()
    }

    fn names(app: &App) -> Vec<String> {
        let names = |tx: &ReadTx<'_>| tx.scalars("SELECT name FROM items", []);
        app.store.read(names).unwrap()
    }

    #[tokio::test]
    async fn write_rolled_back_by_neighbour_is_retried_once() {
        let app = one_group();
        assert_eq!(write_beside(&app, 1).await.unwrap(), 1);
        assert_eq!(names(&app), ["flour"]);
        assert_eq!(app.stop.borrow().map(|_| "stopping"), None);
    }

    #[tokio::test]
    async fn write_rolled_back_twice_gives_503() {
        let app = one_group();
        let failure = write_beside(&app, 2).await.unwrap_err();
        assert!(
            failure
                .cause
                .as_ref()
                .is_some_and(|cause| cause.to_string().contains("was rolled back")),
            "{failure:?}"
        );
        assert_eq!(told(failure), (503, Some("1".into())));
        assert!(names(&app).is_empty());
        assert_eq!(write_beside(&app, 0).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn exhausted_reader_pool_gives_503_and_unhealthy() {
        let options = Options::new().readers(1).read_queue_timeout(Duration::from_millis(1));
        let app = app(options.open_temp().unwrap());
        let (let_go, held) = channel::<()>();
        let (reading, reads) = oneshot::channel();
        let patient = ReadOptions::new().queue_timeout(Duration::from_secs(60));
        let holder = app.store.read_async_with(patient, move |_| {
            reading.send(()).unwrap();
            let _ = held.recv();
            Ok(())
        });
        let holder = tokio::spawn(holder);
        reads.await.unwrap();
        let page = Page {
            after: None,
            limit: None,
        };
        let list = list_items(State(app.clone()), Ok(Query(page))).await;
        let failures = [
            get_item(State(app.clone()), Ok(Path(1))).await.map(drop),
            list.map(drop),
            health(State(app.clone())).await.map(drop),
        ];
        for failure in failures.map(Result::unwrap_err) {
            let cause = failure.cause.as_ref().map(ToString::to_string).unwrap_or_default();
            assert!(cause.starts_with("no reader became available in "), "{failure:?}");
            assert_eq!(told(failure), (503, Some("1".into())));
        }
        drop(let_go);
        holder.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn stopping_or_closed_service_is_unhealthy() {
        let app = app(Store::open_temp().unwrap());
        app.stop.send_replace(Some(ExitCode::SUCCESS));
        let stopping = health(State(app.clone())).await.unwrap_err();
        assert_eq!(told(stopping), (503, Some("1".into())));
        app.stop.send_replace(None);
        app.store.close().unwrap();
        let closed = health(State(app)).await.unwrap_err();
        assert_eq!(told(closed), (503, Some("1".into())));
    }

    #[test]
    fn only_errors_that_wrote_nothing_invite_retry() {
        let sqlite = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let (waited, source) = (QUEUE_TIMEOUT, Arc::new(sqlite(ffi::SQLITE_IOERR_FSYNC)));
        let rolled_back = |caused_by_closure| Error::RolledBack {
            reason: "a test's",
            caused_by_closure,
            source: None,
            context: None,
        };
        let rolled_back_by_sqlite = |code| Error::from(sqlite(code));
        let late = Error::ReadQueueTimeout {
            waited,
            readers: 4,
            held_here: 0,
            last_error: None,
            context: None,
        };
        let full = Error::WalFull {
            wal_bytes: 2,
            limit: 1,
            oldest: None,
        };
        let poisoned = Error::Poisoned {
            source: Arc::clone(&source),
        };
        let fenced = Error::Fenced {
            by: "another process".into(),
            since: UNIX_EPOCH,
        };
        let changed = Error::SnapshotChanged {
            path: "shop.db".into(),
            changed: "shop.db-wal".into(),
        };
        let local = Error::NotReplicated {
            waited,
            reason: "a test's".into(),
        };
        for (error, status) in [
            (fenced, 503),
            (changed, 503),
            (local, 202),
            (
                Error::QueueFull {
                    capacity: 1,
                    context: None,
                },
                503,
            ),
            (Error::QueueTimeout { waited, context: None }, 503),
            (late, 503),
            (full, 503),
            (rolled_back(false), 503),
            (rolled_back(true), 500),
            (Error::Closed, 503),
            (poisoned, 503),
            (Error::CommitUnknown { source }, 500),
            (rolled_back_by_sqlite(ffi::SQLITE_CONSTRAINT_UNIQUE), 409),
            (rolled_back_by_sqlite(ffi::SQLITE_CONSTRAINT_CHECK), 500),
        ] {
            let said = error.to_string();
            let wrote_nothing = matches!(error.outcome(), Outcome::NotStarted | Outcome::RolledBack);
            let failure = Failure::from(error);
            assert!(wrote_nothing || !failure.reason.contains("nothing"), "{failure:?}");
            let retry_after = (status == 503).then(|| "1".to_owned());
            assert_eq!(told(failure), (status, retry_after), "{said}");
        }
    }
}
