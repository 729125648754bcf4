//! One node: a web service on the primary's store, or on a follower of it.
//!
//! Each answer to a write has a header `larder-token`. A request with that header waits until the node has what the token
//! stands for. A cookie would do as well.
//!
//! Writes are not forwarded. Where the primary is stands in a row of the database, so every follower knows it: it answers
//! a write with a redirect. Behind a proxy that can send a request elsewhere (`fly-replay`), answer with its header.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::path::Path;
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{FromRequestParts, Path as UrlPath, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use larder::{
    Durability, Error, Follower, Migration, Migrations, Options, Outcome, ParseTokenError, ReadTx, ReplicaOptions,
    Store, Token,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::Level;

const TOKEN: &str = "larder-token";

/// The longest wait for what a token stands for. After it the primary is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest wait for clients as the service ends.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// What a process begins as.
#[derive(Clone, Copy)]
pub(crate) enum Begin {
    Primary,
    Follower,
}

pub(crate) fn run(begin: Begin, database: &str, replica: &str, address: &str) -> crate::Result<ExitCode> {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false);
    log.without_time().with_max_level(Level::WARN).init();
    Runtime::new()?.block_on(serve(begin, Path::new(database), replica, address))
}

async fn serve(begin: Begin, database: &Path, replica: &str, address: &str) -> crate::Result<ExitCode> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let url = format!("http://{}", listener.local_addr()?);
    if let Some(folder) = database.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let role = match begin {
        Begin::Primary => {
            let replica = ReplicaOptions::to(replica).restore_if_missing(true);
            let store = primary().replicate_to(replica).open(database)?;
            announce(&store, &url)?;
            Role::Primary(store)
        }
        Begin::Follower => Role::Follower(Follower::open(replica, database)?),
    };
    let node = Node {
        role: Arc::new(RwLock::new(role)),
        promotion: Arc::new(Mutex::new(())),
        url,
        stop: watch::Sender::new(None),
    };
    stop_on_signals(node.stop.clone())?;
    say(format_args!(
        "{} at {}, process {}",
        node.role(),
        node.url,
        process::id()
    ));
    let server = axum::serve(listener, routes(node.clone())).with_graceful_shutdown(node.stopped());
    let server = tokio::spawn(server.into_future());
    node.stopped().await;
    let _ = timeout(LAST_ANSWERS, server).await;
    let report = match node.role() {
        Role::Primary(store) => store.close_async().await?,
        Role::Follower(follower) => follower.close_async().await?,
    };
    say(format_args!("closed: {report}"));
    Ok(node.stop.borrow().unwrap_or(ExitCode::SUCCESS))
}

/// A write is acknowledged once it is in the replica, so no acknowledged one is lost with the primary.
fn primary() -> Options {
    let notes = "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT";
    let primary = "CREATE TABLE primary_at(one INTEGER PRIMARY KEY CHECK (one = 1), url TEXT NOT NULL) STRICT";
    Options::new()
        .durability(Durability::Replicated)
        .migrations(Migrations::new([
            Migration::new(1, "notes", notes),
            Migration::new(2, "primary", primary),
        ]))
}

/// Tells every follower where the primary is.
fn announce(store: &Store, url: &str) -> larder::Result<()> {
    let url = url.to_owned();
    let here = "INSERT INTO primary_at VALUES (1, ?1) ON CONFLICT(one) DO UPDATE SET url = excluded.url";
    store.write(move |tx| tx.execute(here, [url]))?;
    Ok(())
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

/// Not `println!`, which panics if stdout is closed.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

// ---- the node ----

#[derive(Clone)]
enum Role {
    Primary(Store),
    Follower(Follower),
}

#[derive(Clone)]
struct Node {
    role: Arc<RwLock<Role>>,
    /// Held by the one promotion.
    promotion: Arc<Mutex<()>>,
    /// Where this node is.
    url: String,
    /// Set once the service must end.
    stop: watch::Sender<Option<ExitCode>>,
}

impl Node {
    fn role(&self) -> Role {
        self.role.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads here. A follower first waits for what the reader has seen elsewhere, such as its own write.
    async fn read<T, F>(&self, asked: &Asked, f: F) -> Result<T, Failure>
    where
        F: FnOnce(&ReadTx<'_>) -> larder::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        match self.role() {
            Role::Primary(store) => Ok(store.read_async(f).await?),
            Role::Follower(follower) => match wait_for(&follower, asked).await {
                Err(Error::Behind { .. }) => Err(self.elsewhere(&follower, asked).await),
                Err(error) => Err(error.into()),
                Ok(()) => Ok(follower.read_async(f).await?),
            },
        }
    }

    /// The primary, to which this request is sent.
    async fn elsewhere(&self, follower: &Follower, asked: &Asked) -> Failure {
        let primary = follower.read_async(|tx| tx.scalar("SELECT url FROM primary_at", []));
        match primary.await {
            Ok(url) => Failure::Elsewhere(format!("{}{}", String::as_str(&url), asked.path)),
            Err(error) => error.into(),
        }
    }

    /// Ends the service if its store takes no more writes: another process has taken over, or the disk has failed. Its
    /// supervisor starts it again, as a follower.
    fn check(&self, store: &Store) {
        if store.poisoned().is_some() {
            self.stop.send_replace(Some(ExitCode::FAILURE));
        }
    }

    /// Makes this follower the primary. Blocks.
    fn become_primary(&self) -> larder::Result<Token> {
        let _one = self.promotion.lock().unwrap_or_else(PoisonError::into_inner);
        let follower = match self.role() {
            Role::Primary(store) => return Ok(store.replica()?.token()),
            Role::Follower(follower) => follower,
        };
        let promoted = follower.clone().promote(primary()).and_then(|store| {
            announce(&store, &self.url)?;
            Ok(store)
        });
        let store = promoted.inspect_err(|_| {
            // It may have failed before the follower was closed: then that goes on.
            if matches!(follower.read(|_| Ok(())), Err(Error::Closed)) {
                self.stop.send_replace(Some(ExitCode::FAILURE));
            }
        })?;
        let token = store.replica()?.token();
        *self.role.write().unwrap_or_else(PoisonError::into_inner) = Role::Primary(store);
        say(format_args!("primary at {}, promoted", self.url));
        Ok(token)
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.subscribe();
        async move {
            let _ = stop.wait_for(Option::is_some).await;
        }
    }
}

/// Waits until a follower has what the token of a request stands for.
async fn wait_for(follower: &Follower, asked: &Asked) -> larder::Result<()> {
    let Some(token) = asked.token else { return Ok(()) };
    follower.wait_for_async(token, PATIENCE).await
}

impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary(_) => "primary",
            Self::Follower(_) => "follower",
        })
    }
}

// ---- requests ----

fn routes(node: Node) -> Router {
    Router::new()
        .route("/", get(status))
        .route("/notes", post(add).get(newest))
        .route("/notes/{id}", get(note))
        // Not for the public: in production on an address of its own, or with a key.
        .route("/promote", post(promote))
        .with_state(node)
}

/// How far the node is. 503 once it cannot go on, so that no more readers are sent here.
async fn status(State(node): State<Node>) -> Result<String, Failure> {
    Ok(match node.role() {
        Role::Primary(store) => match store.poisoned() {
            Some(error) => return Err(error.into()),
            None => format!(
                "primary, {} transactions are in the replica\n",
                store.replica()?.uploaded()
            ),
        },
        Role::Follower(follower) => match follower.stopped() {
            Some(error) => return Err(error.into()),
            None => format!("follower {}\n", follower.lag()),
        },
    })
}

async fn add(State(node): State<Node>, asked: Asked, text: String) -> Result<impl IntoResponse, Failure> {
    let store = match node.role() {
        Role::Primary(store) => store,
        Role::Follower(follower) => {
            // The newest primary that is known here. However late it is, the primary answers.
            let _ = wait_for(&follower, &asked).await;
            return Err(node.elsewhere(&follower, &asked).await);
        }
    };
    let written = store.write_async(move |tx| tx.insert("INSERT INTO note(text) VALUES (?1)", [text]));
    let id = written.await.inspect_err(|_| node.check(&store))?;
    let token = store.replica()?.token().to_string();
    Ok((StatusCode::CREATED, [(TOKEN, token)], Json(json!({ "id": id }))))
}

async fn note(State(node): State<Node>, asked: Asked, UrlPath(id): UrlPath<i64>) -> Result<String, Failure> {
    let select = "SELECT text FROM note WHERE id = ?1";
    let text = node.read(&asked, move |tx| tx.query_optional(select, [id], |row| row.get(0)));
    text.await?
        .ok_or_else(|| Failure::Failed(StatusCode::NOT_FOUND, "there is no such note".into()))
}

async fn newest(State(node): State<Node>, asked: Asked) -> Result<Json<Vec<(i64, String)>>, Failure> {
    let select = "SELECT id, text FROM note ORDER BY id DESC LIMIT 20";
    let notes = node.read(&asked, move |tx| tx.all(select, []));
    Ok(Json(notes.await?))
}

async fn promote(State(node): State<Node>) -> Result<impl IntoResponse, Failure> {
    // It goes on if the client does not wait for its end.
    let promoted = spawn_blocking(move || node.become_primary()).await;
    let token = promoted.map_err(|error| Failure::Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    Ok(([(TOKEN, token.to_string())], "this is the primary now\n"))
}

/// What a handler needs to know of a request.
struct Asked {
    token: Option<Token>,
    path: String,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let token = parts.headers.get(TOKEN);
        let token = token.map(|token| token.to_str().unwrap_or_default().parse::<Token>());
        let bad_request = |error: ParseTokenError| Failure::Failed(StatusCode::BAD_REQUEST, error.to_string());
        Ok(Self {
            token: token.transpose().map_err(bad_request)?,
            path: parts.uri.to_string(),
        })
    }
}

// ---- failures ----

/// A response other than success.
enum Failure {
    /// The primary has to be asked, at this address.
    Elsewhere(String),
    Failed(StatusCode, String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.outcome() {
            Outcome::NotStarted | Outcome::RolledBack => StatusCode::SERVICE_UNAVAILABLE,
            // It may be here, and nowhere else.
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // Others may name a file or a statement of this service, so they are for its log.
        let is_for_clients = matches!(
            error,
            Error::Fenced { .. } | Error::NotReplicated { .. } | Error::Behind { .. } | Error::Closed
        );
        let reason = if is_for_clients {
            error.to_string()
        } else {
            let _ = writeln!(io::stderr(), "edge: {status}: {error}");
            "the node cannot do that now: its log says why".into()
        };
        Self::Failed(status, reason)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Elsewhere(url) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url)]).into_response(),
            Self::Failed(status, reason) => (status, format!("{reason}\n")).into_response(),
        }
    }
}
