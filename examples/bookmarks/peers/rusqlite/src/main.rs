//! The service of `examples/bookmarks` on rusqlite, with a writer behind a mutex and a pool of readers.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::{JoinError, spawn_blocking};
use tokio_stream::wrappers::ReceiverStream;
use url::Url;

// # opening, routes

const SCHEMA: &str = include_str!("../../../src/schema.sql");

// # errors

#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{0}")]
    Taken(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("the service is busy")]
    Busy,
    #[error("an internal error")]
    Sqlite(#[from] rusqlite::Error),
    #[error("an internal error")]
    Csv(#[from] csv::Error),
    #[error("an internal error")]
    Task(#[from] JoinError),
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Taken(_) => StatusCode::CONFLICT,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Sqlite(_) | Self::Csv(_) | Self::Task(_) => {
                eprintln!("{self:?}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, self.to_string()).into_response()
    }
}

impl From<r2d2::Error> for AppError {
    fn from(_: r2d2::Error) -> Self {
        Self::Busy
    }
}

fn is_unique_violation(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::ConstraintViolation
            && [
                rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE,
                rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
            ]
            .contains(&error.extended_code)
    })
}

// # opening, routes

#[derive(Clone)]
struct Db {
    writer: Arc<Mutex<Connection>>,
    readers: Pool<SqliteConnectionManager>,
}

impl Db {
    fn open(path: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let writer = Connection::open(path)?;
        prepare(&writer)?;
        writer.pragma_update(None, "journal_mode", "wal")?;
        migrate(&writer)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let manager = SqliteConnectionManager::file(path)
            .with_flags(flags)
            .with_init(|conn| prepare(conn));
        let readers = Pool::builder().max_size(4).build(manager)?;
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            readers,
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, AppError> + Send + 'static,
    ) -> Result<T, AppError> {
        let writer = Arc::clone(&self.writer);
        spawn_blocking(move || {
            let mut writer = writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let made = f(&tx)?;
            tx.commit()?;
            Ok(made)
        })
        .await?
    }

    async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, AppError> + Send + 'static,
    ) -> Result<T, AppError> {
        let readers = self.readers.clone();
        spawn_blocking(move || f(&readers.get()?.transaction()?)).await?
    }
}

fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL;")
}

fn migrate(conn: &Connection) -> rusqlite::Result<()> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        conn.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = 1; COMMIT;"))?;
    }
    Ok(())
}

// # rows

#[derive(Serialize)]
struct Bookmark {
    id: i64,
    url: String,
    title: String,
    note: String,
    tags: Vec<String>,
    added: i64,
}

impl TryFrom<&Row<'_>> for Bookmark {
    type Error = rusqlite::Error;

    fn try_from(row: &Row<'_>) -> rusqlite::Result<Self> {
        let tags: String = row.get("tags")?;
        Ok(Self {
            id: row.get("id")?,
            url: row.get("url")?,
            title: row.get("title")?,
            note: row.get("note")?,
            tags: serde_json::from_str(&tags).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(error))
            })?,
            added: row.get("added")?,
        })
    }
}

// # writes

#[derive(Deserialize)]
struct NewUser {
    name: String,
}

#[derive(Deserialize)]
struct NewBookmark {
    url: Url,
    title: String,
    #[serde(default)]
    note: String,
    #[serde(default)]
    tags: Vec<String>,
}

async fn add_user(State(db): State<Db>, Json(new): Json<NewUser>) -> Result<impl IntoResponse, AppError> {
    if new.name.trim().is_empty() {
        return Err(AppError::Invalid("a user has a name".into()));
    }
    let id = db.write(
        move |tx| match tx.execute("INSERT INTO users(name) VALUES (?1)", [new.name]) {
            Err(error) if is_unique_violation(&error) => Err(AppError::Taken("the name is taken")),
            added => Ok(added.map(|_| tx.last_insert_rowid())?),
        },
    );
    Ok((StatusCode::CREATED, Json(json!({ "id": id.await? }))))
}

fn check_user(tx: &Transaction<'_>, user: i64) -> Result<(), AppError> {
    let found = tx.prepare_cached("SELECT 1 FROM users WHERE id = ?1")?.exists([user])?;
    found.then_some(()).ok_or(AppError::NotFound("user"))
}

fn insert(tx: &Transaction<'_>, user: i64, new: &NewBookmark) -> Result<i64, AppError> {
    let mut added = tx.prepare_cached("INSERT INTO bookmarks(user, url, title, note) VALUES (?1, ?2, ?3, ?4)")?;
    match added.execute(params![user, new.url.as_str(), new.title, new.note]) {
        Err(error) if is_unique_violation(&error) => return Err(AppError::Taken("the address is kept already")),
        added => added?,
    };
    let id = tx.last_insert_rowid();
    let mut tags = tx.prepare_cached("INSERT OR IGNORE INTO tags(bookmark, tag) VALUES (?1, ?2)")?;
    for tag in &new.tags {
        tags.execute(params![id, tag])?;
    }
    Ok(id)
}

async fn add(
    State(db): State<Db>,
    Path(user): Path<i64>,
    Json(new): Json<NewBookmark>,
) -> Result<impl IntoResponse, AppError> {
    let id = db.write(move |tx| {
        check_user(tx, user)?;
        insert(tx, user, &new)
    });
    Ok((StatusCode::CREATED, Json(json!({ "id": id.await? }))))
}

async fn import(
    State(db): State<Db>,
    Path(user): Path<i64>,
    Json(all): Json<Vec<NewBookmark>>,
) -> Result<impl IntoResponse, AppError> {
    let added = db.write(move |tx| {
        check_user(tx, user)?;
        for new in &all {
            insert(tx, user, new)?;
        }
        Ok(all.len())
    });
    Ok((StatusCode::CREATED, Json(json!({ "added": added.await? }))))
}

async fn remove(State(db): State<Db>, Path(id): Path<i64>) -> Result<StatusCode, AppError> {
    let removed = db.write(move |tx| Ok(tx.execute("DELETE FROM bookmarks WHERE id = ?1", [id])?));
    match removed.await? {
        0 => Err(AppError::NotFound("bookmark")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

// # reads

#[derive(Deserialize)]
struct Search {
    q: Option<String>,
    #[serde(default = "fifty")]
    limit: u32,
}

fn fifty() -> u32 {
    50
}

/// Each word as a string of FTS5, so that none is an operator.
fn all_words(text: &str) -> String {
    let quoted = |word: &str| format!("\"{}\"", word.replace('"', "\"\""));
    text.replace('\0', " ")
        .split_whitespace()
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

async fn list(
    State(db): State<Db>,
    Path(user): Path<i64>,
    Query(search): Query<Search>,
) -> Result<Json<Vec<Bookmark>>, AppError> {
    let found = db.read(move |tx| {
        check_user(tx, user)?;
        let columns = "id, url, bookmarks.title, bookmarks.note, added,
            (SELECT json_group_array(tag) FROM tags WHERE bookmark = id) AS tags";
        let made = |row: &Row<'_>| Bookmark::try_from(row);
        let found: Result<Vec<_>, _> = match search.q.as_deref().map(all_words) {
            Some(words) if words.is_empty() => Ok(vec![]),
            Some(words) => tx
                .prepare_cached(&format!(
                    "SELECT {columns} FROM search JOIN bookmarks ON id = search.rowid
                     WHERE search MATCH ?2 AND user = ?1 ORDER BY rank LIMIT ?3"
                ))?
                .query_map(params![user, words, search.limit], made)?
                .collect(),
            None => tx
                .prepare_cached(&format!(
                    "SELECT {columns} FROM bookmarks WHERE user = ?1 ORDER BY id DESC LIMIT ?2"
                ))?
                .query_map(params![user, search.limit], made)?
                .collect(),
        };
        Ok(found?)
    });
    Ok(Json(found.await?))
}

// # download

/// Lines of CSV, each sent once there is room for it.
fn write_csv(readers: &Pool<SqliteConnectionManager>, user: i64, to: &Sender<Result<Vec<u8>, AppError>>) {
    let send_all = || -> Result<(), AppError> {
        let mut reader = readers.get()?;
        let tx = reader.transaction()?;
        let mut rows = tx.prepare_cached("SELECT url, title, added FROM bookmarks WHERE user = ?1 ORDER BY id")?;
        let mut rows = rows.query([user])?;
        let mut first = Some(("url", "title", "added"));
        loop {
            let mut lines = csv::WriterBuilder::new().has_headers(false).from_writer(vec![]);
            if let Some(names) = first.take() {
                lines.serialize(names)?;
            }
            let mut has_ended = false;
            for _ in 0..200 {
                let Some(row) = rows.next()? else {
                    has_ended = true;
                    break;
                };
                let line: (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                lines.serialize(line)?;
            }
            let lines = lines
                .into_inner()
                .map_err(|error| csv::Error::from(error.into_error()))?;
            if to.blocking_send(Ok(lines)).is_err() || has_ended {
                return Ok(());
            }
        }
    };
    if let Err(error) = send_all() {
        let _ = to.blocking_send(Err(error));
    }
}

async fn download(State(db): State<Db>, Path(user): Path<i64>) -> Result<impl IntoResponse, AppError> {
    db.read(move |tx| check_user(tx, user)).await?;
    let (to, lines) = channel(4);
    spawn_blocking(move || write_csv(&db.readers, user, &to));
    Ok((
        [(header::CONTENT_TYPE, "text/csv")],
        Body::from_stream(ReceiverStream::new(lines)),
    ))
}

// # opening, routes

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [database, address] = <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "usage: bookmarks DATABASE ADDRESS")?;
    let db = Db::open(&database)?;
    let routes = Router::new()
        .route("/users", post(add_user))
        .route("/users/{id}/bookmarks", post(add).get(list))
        .route("/users/{id}/import", post(import))
        .route("/users/{id}/bookmarks.csv", get(download))
        .route("/bookmarks/{id}", delete(remove))
        .with_state(db);
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, routes).await?)
}
