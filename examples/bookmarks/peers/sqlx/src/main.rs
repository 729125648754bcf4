//! The service of `examples/bookmarks` on sqlx, with a pool of one connection for writes and one of four for reads.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::types::Json as JsonText;
use sqlx::{FromRow, SqliteConnection};
use tokio::net::TcpListener;
use tokio::sync::mpsc::channel;
use tokio_stream::wrappers::ReceiverStream;
use url::Url;

// # errors

#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{0}")]
    Taken(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("an internal error")]
    Sqlx(#[from] sqlx::Error),
    #[error("an internal error")]
    Csv(#[from] csv::Error),
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Taken(_) => StatusCode::CONFLICT,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Sqlx(sqlx::Error::PoolTimedOut) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Sqlx(_) | Self::Csv(_) => {
                eprintln!("{self:?}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, self.to_string()).into_response()
    }
}

fn or_taken(error: sqlx::Error, taken: &'static str) -> AppError {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => AppError::Taken(taken),
        _ => error.into(),
    }
}

// # opening, routes

#[derive(Clone)]
struct Db {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Db {
    async fn open(path: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        sqlx::migrate!().run(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { writer, readers })
    }
}

// # rows

#[derive(FromRow, Serialize)]
struct Bookmark {
    id: i64,
    url: String,
    title: String,
    note: String,
    tags: JsonText<Vec<String>>,
    added: i64,
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
    let added = sqlx::query("INSERT INTO users(name) VALUES (?1)")
        .bind(new.name)
        .execute(&db.writer)
        .await;
    let id = added
        .map_err(|error| or_taken(error, "the name is taken"))?
        .last_insert_rowid();
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

async fn check_user(tx: &mut SqliteConnection, user: i64) -> Result<(), AppError> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM users WHERE id = ?1")
        .bind(user)
        .fetch_optional(tx)
        .await?;
    found.map(drop).ok_or(AppError::NotFound("user"))
}

async fn insert(tx: &mut SqliteConnection, user: i64, new: &NewBookmark) -> Result<i64, AppError> {
    let added = sqlx::query("INSERT INTO bookmarks(user, url, title, note) VALUES (?1, ?2, ?3, ?4)")
        .bind(user)
        .bind(new.url.as_str())
        .bind(&new.title)
        .bind(&new.note)
        .execute(&mut *tx)
        .await;
    let added = added.map_err(|error| or_taken(error, "the address is kept already"))?;
    let id = added.last_insert_rowid();
    for tag in &new.tags {
        sqlx::query("INSERT OR IGNORE INTO tags(bookmark, tag) VALUES (?1, ?2)")
            .bind(id)
            .bind(tag)
            .execute(&mut *tx)
            .await?;
    }
    Ok(id)
}

async fn add(
    State(db): State<Db>,
    Path(user): Path<i64>,
    Json(new): Json<NewBookmark>,
) -> Result<impl IntoResponse, AppError> {
    let mut tx = db.writer.begin_with("BEGIN IMMEDIATE").await?;
    check_user(&mut tx, user).await?;
    let id = insert(&mut tx, user, &new).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

async fn import(
    State(db): State<Db>,
    Path(user): Path<i64>,
    Json(all): Json<Vec<NewBookmark>>,
) -> Result<impl IntoResponse, AppError> {
    let mut tx = db.writer.begin_with("BEGIN IMMEDIATE").await?;
    check_user(&mut tx, user).await?;
    for new in &all {
        insert(&mut tx, user, new).await?;
    }
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(json!({ "added": all.len() }))))
}

async fn remove(State(db): State<Db>, Path(id): Path<i64>) -> Result<StatusCode, AppError> {
    let removed = sqlx::query("DELETE FROM bookmarks WHERE id = ?1")
        .bind(id)
        .execute(&db.writer)
        .await?;
    match removed.rows_affected() {
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

const NEWEST: &str = "SELECT id, url, title, note, added,
        (SELECT json_group_array(tag) FROM tags WHERE bookmark = id) AS tags
    FROM bookmarks WHERE user = ?1 ORDER BY id DESC LIMIT ?2";

const FOUND: &str = "SELECT id, url, bookmarks.title, bookmarks.note, added,
        (SELECT json_group_array(tag) FROM tags WHERE bookmark = id) AS tags
    FROM search JOIN bookmarks ON id = search.rowid
    WHERE search MATCH ?3 AND user = ?1 ORDER BY rank LIMIT ?2";

async fn list(
    State(db): State<Db>,
    Path(user): Path<i64>,
    Query(search): Query<Search>,
) -> Result<Json<Vec<Bookmark>>, AppError> {
    let mut tx = db.readers.begin().await?;
    check_user(&mut tx, user).await?;
    let found = match search.q.as_deref().map(all_words) {
        Some(words) if words.is_empty() => vec![],
        Some(words) => {
            sqlx::query_as(FOUND)
                .bind(user)
                .bind(search.limit)
                .bind(words)
                .fetch_all(&mut *tx)
                .await?
        }
        None => {
            sqlx::query_as(NEWEST)
                .bind(user)
                .bind(search.limit)
                .fetch_all(&mut *tx)
                .await?
        }
    };
    Ok(Json(found))
}

// # download

type Line = (String, String, i64);

fn lines(rows: Vec<Result<Line, sqlx::Error>>) -> Result<Vec<u8>, AppError> {
    let mut lines = csv::WriterBuilder::new().has_headers(false).from_writer(vec![]);
    for row in rows {
        lines.serialize(row?)?;
    }
    Ok(lines
        .into_inner()
        .map_err(|error| csv::Error::from(error.into_error()))?)
}

async fn download(State(db): State<Db>, Path(user): Path<i64>) -> Result<impl IntoResponse, AppError> {
    check_user(&mut *db.readers.acquire().await?, user).await?;
    let (to, rows) = channel(200);
    tokio::spawn(async move {
        let select = "SELECT url, title, added FROM bookmarks WHERE user = ?1 ORDER BY id";
        let mut rows = sqlx::query_as(select).bind(user).fetch(&db.readers);
        while let Some(row) = rows.next().await {
            if to.send(row).await.is_err() {
                break;
            }
        }
    });
    let head = stream::once(async { Ok("url,title,added\n".into()) });
    let body = head.chain(ReceiverStream::new(rows).ready_chunks(200).map(lines));
    Ok(([(header::CONTENT_TYPE, "text/csv")], Body::from_stream(body)))
}

// # opening, routes

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [database, address] = <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "usage: bookmarks DATABASE ADDRESS")?;
    let db = Db::open(&database).await?;
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
