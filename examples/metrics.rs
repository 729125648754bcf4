//! Metrics of a store, for Prometheus, to copy: a web service with only these pages, and its own load.
//!
//! ```sh
//! cargo run --release --features metrics,serde --example metrics     # or with an ADDRESS, instead of 127.0.0.1:9464
//!
//! curl localhost:9464/metrics     # for Prometheus
//! curl localhost:9464/stats       # `Store::stats`
//! curl localhost:9464/advice      # `Store::advice`
//! ```
//!
//! In `prometheus.yml`:
//!
//! ```yaml
//! scrape_configs:
//!   - job_name: larder
//!     scrape_interval: 15s
//!     static_configs:
//!       - targets: ["127.0.0.1:9464"]
//! ```
//!
//! Ctrl-C or SIGTERM ends it. Where to look: `recorder` and `upkeep` are all that a service needs for its metrics, and
//! `metrics` serves them. The documentation of `larder::metrics` lists their names, with points for underscores.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use larder::{Finding, Migration, Migrations, Options, ReadOptions, Stats, Store, WriteOptions};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

const INDEX: &str = "\
A store under a small load.

/metrics   for Prometheus
/stats     what Store::stats says
/advice    what Store::advice says
";

/// OpenTelemetry's buckets for `db.client.operation.duration`, and smaller ones for SQLite's typical latencies.
const SECONDS: &[f64] = &[
    0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];
const WRITES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0];

fn main() -> ExitCode {
    let address = std::env::args().nth(1);
    match run(address.as_deref().unwrap_or("127.0.0.1:9464")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("metrics: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: &str) -> Result<(), Box<dyn Error>> {
    // Installed before the store opens: metrics do not include what happens without a recorder.
    let metrics = recorder()?;
    // A service uses a path: `.open("app.db")`.
    let store = Options::new().migrations(migrations()).open_temp()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for first in [0, 50] {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || load(stop, first, |n| visit(store, n)));
            scope.spawn(move || load(stop, first, |n| look(store, n)));
        }
        let served = Runtime::new().map_err(Into::into);
        let served = served.and_then(|runtime| runtime.block_on(serve(address, store.clone(), metrics)));
        stop.store(true, Relaxed);
        served
    })?;
    println!("closed: {}", store.close()?);
    Ok(())
}

// ---- metrics ----

/// Uses histograms, which Prometheus can aggregate over several processes; the default is summaries, which it cannot.
fn recorder() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets_for_metric(Matcher::Full("larder.transaction.writes".into()), WRITES)?
        .set_buckets_for_metric(Matcher::Prefix("larder.".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Prefix("db.".into()), SECONDS)?
        .install_recorder()
}

/// Without this the exporter keeps every value of a histogram until the next scrape.
async fn upkeep(metrics: PrometheusHandle) {
    let mut now_and_then = tokio::time::interval(Duration::from_secs(5));
    loop {
        now_and_then.tick().await;
        metrics.run_upkeep();
    }
}

// ---- the service ----

#[derive(Clone)]
struct App {
    store: Store,
    metrics: PrometheusHandle,
}

async fn serve(address: &str, store: Store, metrics: PrometheusHandle) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    tokio::spawn(upkeep(metrics.clone()));
    let routes = Router::new()
        .route("/", get(INDEX))
        .route("/metrics", get(prometheus))
        .route("/stats", get(stats))
        .route("/advice", get(advice))
        .with_state(App { store, metrics });
    tokio::select! {
        served = axum::serve(listener, routes) => served?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn prometheus(State(app): State<App>) -> impl IntoResponse {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], app.metrics.render())
}

async fn stats(State(app): State<App>) -> Json<Stats> {
    Json(app.store.stats())
}

/// Reads the schema, so it does not run on a thread that serves other requests.
async fn advice(State(app): State<App>) -> Result<Json<Vec<Finding>>, StatusCode> {
    let advice = spawn_blocking(move || app.store.advice()).await;
    advice.map(Json).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

// ---- the load ----

const PAGES: i64 = 100;

fn migrations() -> Migrations {
    let schema = format!(
        "CREATE TABLE pages(id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, views INTEGER NOT NULL DEFAULT 0) STRICT;
         CREATE TABLE visits(id INTEGER PRIMARY KEY, page INTEGER NOT NULL REFERENCES pages(id)) STRICT;
         CREATE INDEX visits_page ON visits(page);
         WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {PAGES})
         INSERT INTO pages(id, path) SELECT n, '/page/' || n FROM n"
    );
    Migrations::new([Migration::new(1, "visits", schema)])
}

/// Failures are visible in the metrics.
fn load(stop: &AtomicBool, first: i64, once: impl Fn(i64) -> larder::Result<()>) {
    for n in first.. {
        if stop.load(Relaxed) {
            return;
        }
        let _ = once(n);
        thread::sleep(Duration::from_millis(5));
    }
}

/// One visit in a hundred is to a missing page.
fn visit(store: &Store, n: i64) -> larder::Result<()> {
    let page = n % (PAGES + 1);
    store.write_with(WriteOptions::new().label("visit"), move |tx| {
        let id = tx.insert("INSERT INTO visits(page) VALUES (?1)", [page])?;
        tx.execute("UPDATE pages SET views = views + 1 WHERE id = ?1", [page])?;
        tx.execute("DELETE FROM visits WHERE id <= ?1", [id - 10_000])?;
        Ok(())
    })
}

fn look(store: &Store, n: i64) -> larder::Result<()> {
    let by_id = "SELECT path, views FROM pages WHERE id = ?1";
    store.read_with(ReadOptions::new().label("page"), |tx| {
        tx.one::<(String, i64)>(by_id, [1 + n % PAGES])
    })?;
    let most_viewed = "SELECT path, views FROM pages ORDER BY views DESC LIMIT 10";
    store.read_with(ReadOptions::new().label("most viewed"), |tx| {
        tx.all::<(String, i64)>(most_viewed, [])
    })?;
    Ok(())
}
