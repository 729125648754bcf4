//! A service that keeps bookmarks: three tables, full-text search, errors of its own, and a download that streams.
//!
//! ```sh
//! cargo run --manifest-path examples/bookmarks/Cargo.toml -- bookmarks.db 127.0.0.1:3000
//!
//! curl -i localhost:3000/users --json '{"name": "Ada"}'                                                      # 201
//! curl -i localhost:3000/users --json '{"name": "Ada"}'                                                      # 409
//! curl -i localhost:3000/users/1/bookmarks --json '{"url": "https://sqlite.org", "title": "SQLite", "tags": ["db"]}'
//! curl -i 'localhost:3000/users/1/bookmarks?q=sqlite'
//! curl -i localhost:3000/users/1/bookmarks.csv
//! ```

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use larder::rusqlite::params;
use larder::{FromRow, Migration, Migrations, Options, ReadTx, Store, WriteTx, fts5};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
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
    Db(#[from] larder::Error),
    #[error("an internal error")]
    Csv(#[from] csv::Error),
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Taken(_) => StatusCode::CONFLICT,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Db(error) if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Db(_) | Self::Csv(_) => {
                tracing::error!("{self:?}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, self.to_string()).into_response()
    }
}

fn or_taken(error: larder::Error, taken: &'static str) -> AppError {
    match error.is_unique_violation() {
        true => AppError::Taken(taken),
        false => error.into(),
    }
}

// # rows

#[derive(FromRow, Serialize)]
struct Bookmark {
    id: i64,
    url: String,
    title: String,
    note: String,
    #[larder(json)]
    tags: Vec<String>,
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

async fn add_user(State(db): State<Store>, Json(new): Json<NewUser>) -> Result<impl IntoResponse, AppError> {
    if new.name.trim().is_empty() {
        return Err(AppError::Invalid("a user has a name".into()));
    }
    let added = db.write_async(|tx| tx.insert("INSERT INTO users(name) VALUES (?1)", [new.name]));
    let id = added.await.map_err(|error| or_taken(error, "the name is taken"))?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

fn check_user(tx: &ReadTx<'_>, user: i64) -> Result<(), AppError> {
    let found = tx.optional_scalar::<i64>("SELECT 1 FROM users WHERE id = ?1", [user])?;
    found.map(drop).ok_or(AppError::NotFound("user"))
}

fn insert(tx: &WriteTx<'_>, user: i64, new: &NewBookmark) -> Result<i64, AppError> {
    let sql = "INSERT INTO bookmarks(user, url, title, note) VALUES (?1, ?2, ?3, ?4)";
    let added = tx.insert(sql, params![user, new.url.as_str(), new.title, new.note]);
    let id = added.map_err(|error| or_taken(error, "the address is kept already"))?;
    for tag in &new.tags {
        tx.execute(
            "INSERT OR IGNORE INTO tags(bookmark, tag) VALUES (?1, ?2)",
            params![id, tag],
        )?;
    }
    Ok(id)
}

async fn add(
    State(db): State<Store>,
    Path(user): Path<i64>,
    Json(new): Json<NewBookmark>,
) -> Result<impl IntoResponse, AppError> {
    let id = db.transact_async(move |tx| {
        check_user(tx, user)?;
        insert(tx, user, &new)
    });
    Ok((StatusCode::CREATED, Json(json!({ "id": id.await? }))))
}

async fn import(
    State(db): State<Store>,
    Path(user): Path<i64>,
    Json(all): Json<Vec<NewBookmark>>,
) -> Result<impl IntoResponse, AppError> {
    let added = db.transact_async(move |tx| -> Result<_, AppError> {
        check_user(tx, user)?;
        for new in &all {
            insert(tx, user, new)?;
        }
        Ok(all.len())
    });
    Ok((StatusCode::CREATED, Json(json!({ "added": added.await? }))))
}

async fn remove(State(db): State<Store>, Path(id): Path<i64>) -> Result<StatusCode, AppError> {
    let removed = db.write_async(move |tx| tx.execute("DELETE FROM bookmarks WHERE id = ?1", [id]));
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

const NEWEST: &str = "SELECT id, url, title, note, added,
        (SELECT json_group_array(tag) FROM tags WHERE bookmark = id) AS tags
    FROM bookmarks WHERE user = ?1 ORDER BY id DESC LIMIT ?2";

const FOUND: &str = "SELECT id, url, bookmarks.title, bookmarks.note, added,
        (SELECT json_group_array(tag) FROM tags WHERE bookmark = id) AS tags
    FROM search JOIN bookmarks ON id = search.rowid
    WHERE search MATCH ?3 AND user = ?1 ORDER BY rank LIMIT ?2";

async fn list(
    State(db): State<Store>,
    Path(user): Path<i64>,
    Query(search): Query<Search>,
) -> Result<Json<Vec<Bookmark>>, AppError> {
    let found = db.query_async(move |tx| -> Result<Vec<Bookmark>, AppError> {
        check_user(tx, user)?;
        Ok(match &search.q {
            Some(words) => tx.all(FOUND, params![user, search.limit, fts5::all_words(words)])?,
            None => tx.all(NEWEST, params![user, search.limit])?,
        })
    });
    Ok(Json(found.await?))
}

// # download

type Line = (String, String, i64);

fn lines(rows: Vec<larder::Result<Line>>) -> Result<Vec<u8>, AppError> {
    let mut lines = csv::WriterBuilder::new().has_headers(false).from_writer(vec![]);
    for row in rows {
        lines.serialize(row?)?;
    }
    Ok(lines
        .into_inner()
        .map_err(|error| csv::Error::from(error.into_error()))?)
}

async fn download(State(db): State<Store>, Path(user): Path<i64>) -> Result<impl IntoResponse, AppError> {
    db.query_async(move |tx| check_user(tx, user)).await?;
    let select = "SELECT url, title, added FROM bookmarks WHERE user = ?1 ORDER BY id";
    let head = stream::once(async { Ok("url,title,added\n".into()) });
    let body = head.chain(db.read_stream(select, [user]).ready_chunks(200).map(lines));
    Ok(([(header::CONTENT_TYPE, "text/csv")], Body::from_stream(body)))
}

// # opening, routes

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let [database, address] = <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "usage: bookmarks DATABASE ADDRESS")?;
    let schema = Migration::new(1, "bookmarks", include_str!("schema.sql"));
    let db = Options::new().migrations(Migrations::new([schema])).open(database)?;
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
