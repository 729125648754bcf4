//! Vector search: notes and their vectors in one store, searched with `sqlite-vec`. The guide page "Vector search" has
//! these lines.
//!
//! ```sh
//! cargo run --manifest-path tests/companions/Cargo.toml --example vectors
//! ```

use std::ffi::{c_char, c_int};
use std::{mem, ptr};

use larder::rusqlite::{self, Connection, ffi};
use larder::{Error, FromRow, Migration, Migrations, Options, Result, Store};

// ---- the extension ----

/// Starts `sqlite-vec` on a connection.
fn load_vec(conn: &Connection) -> Result<()> {
    type Init = unsafe extern "C" fn(*mut ffi::sqlite3, *mut *mut c_char, *const ffi::sqlite3_api_routines) -> c_int;
    // SAFETY: the crate declares the entry point of an extension without its parameters, which are these
    // (https://sqlite.org/loadext.html). It is linked to the same SQLite, so there are no routines to pass.
    let code = unsafe {
        let init: Init = mem::transmute(sqlite_vec::sqlite3_vec_init as *const ());
        init(conn.handle(), ptr::null_mut(), ptr::null())
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
    }
}

fn options() -> Options {
    let notes = Migration::new(
        1,
        "notes",
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, text TEXT NOT NULL) STRICT;
         CREATE VIRTUAL TABLE note_vectors USING vec0(
             note INTEGER PRIMARY KEY,
             owner INTEGER PARTITION KEY,
             embedding FLOAT[256] distance_metric=cosine
         );",
    );
    let notes = notes.down("DROP TABLE note_vectors; DROP TABLE notes");
    Options::new()
        .on_connect(|conn, _role| load_vec(conn))
        .migrations(Migrations::new([notes]))
}

// ---- vectors ----

const DIMENSIONS: usize = 256;

/// A vector, as `sqlite-vec` stores it: 32-bit floats, little endian.
fn to_blob(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Stands for a model: texts that share groups of three letters are near each other.
fn embed(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0; DIMENSIONS];
    let letters: Vec<char> = text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    for group in letters.windows(3) {
        let hash = group.iter().fold(17_u32, |hash, letter| {
            hash.wrapping_mul(31).wrapping_add(*letter as u32)
        });
        vector[hash as usize % DIMENSIONS] += 1.0;
    }
    vector
}

// ---- the repository ----

/// A note that was found. The smaller the distance, the nearer.
#[derive(Debug, FromRow)]
struct Hit {
    id: i64,
    text: String,
    distance: f64,
}

/// The note and its vector are one write: neither is there without the other.
fn add(store: &Store, owner: i64, text: &str) -> Result<i64> {
    // The model runs here, and not in the closure, where all other writes would wait for it.
    let (text, embedding) = (text.to_owned(), to_blob(&embed(text)));
    store.write(move |tx| {
        let id = tx.insert("INSERT INTO notes(owner, text) VALUES (?1, ?2)", (owner, &text))?;
        let insert = "INSERT INTO note_vectors(note, owner, embedding) VALUES (?1, ?2, ?3)";
        tx.execute(insert, (id, owner, &embedding))?;
        Ok(id)
    })
}

/// Replaces the text of a note. `sqlite-vec` updates a vector in its place.
fn edit(store: &Store, id: i64, text: &str) -> Result<()> {
    let (text, embedding) = (text.to_owned(), to_blob(&embed(text)));
    store.write(move |tx| {
        tx.execute("UPDATE notes SET text = ?2 WHERE id = ?1", (id, &text))?;
        tx.execute(
            "UPDATE note_vectors SET embedding = ?2 WHERE note = ?1",
            (id, &embedding),
        )?;
        Ok(())
    })
}

fn remove(store: &Store, id: i64) -> Result<()> {
    store.write(move |tx| {
        tx.execute("DELETE FROM note_vectors WHERE note = ?1", [id])?;
        tx.execute("DELETE FROM notes WHERE id = ?1", [id])?;
        Ok(())
    })
}

/// The notes of one owner that are nearest to a text.
fn search(store: &Store, owner: i64, text: &str, limit: u32) -> Result<Vec<Hit>> {
    let embedding = to_blob(&embed(text));
    let nearest = "SELECT notes.id, notes.text, found.distance
                   FROM note_vectors AS found JOIN notes ON notes.id = found.note
                   WHERE found.embedding MATCH ?1 AND found.k = ?2 AND found.owner = ?3
                   ORDER BY found.distance";
    store.read(|tx| tx.all(nearest, (&embedding, limit, owner)))
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::app)?;
    let place = |name: &str| folder.path().join(name);
    let store = options().open(place("notes.db"))?;

    let mut ids = Vec::new();
    for text in ["Water the tomatoes", "Tomato soup for six", "Renew the passport"] {
        ids.push(add(&store, 1, text)?);
    }
    add(&store, 2, "Tomatoes of somebody else")?;
    let found = search(&store, 1, "tomatoes", 2)?;
    for hit in &found {
        println!("{:.2} {} {}", hit.distance, hit.id, hit.text);
    }
    assert_eq!(found.iter().map(|hit| hit.id).collect::<Vec<_>>(), ids[..2]);

    edit(&store, ids[2], "Tomatoes, and the passport")?;
    assert_eq!(search(&store, 1, "tomatoes, passport", 1)?[0].id, ids[2]);
    remove(&store, ids[0])?;
    assert_eq!(search(&store, 1, "water the tomatoes", 9)?.len(), 2);

    // A vector of another length is refused, and takes its note with it.
    let wrong = store.write(|tx| {
        let id = tx.insert("INSERT INTO notes(owner, text) VALUES (1, 'x')", [])?;
        let insert = "INSERT INTO note_vectors(note, owner, embedding) VALUES (?1, 1, ?2)";
        tx.execute(insert, (id, to_blob(&[1.0, 2.0])))
    });
    println!("{}", wrong.expect_err("the length is wrong"));
    assert_eq!(store.read(|tx| tx.scalar::<i64>("SELECT count(*) FROM notes", []))?, 3);

    // A backup has the vectors. A restore opens it with the same `on_connect`.
    let report = store.backup(place("notes.backup")).run()?;
    println!("{report}");
    options().restore(place("notes.backup"), place("restored.db"))?;
    let restored = options().open(place("restored.db"))?;
    assert_eq!(search(&restored, 1, "tomatoes, passport", 1)?[0].id, ids[2]);

    // A program without the extension reads all but the vectors.
    store.close()?;
    let plain = Store::open(place("notes.db"))?;
    assert_eq!(plain.read(|tx| tx.scalar::<i64>("SELECT count(*) FROM notes", []))?, 3);
    println!(
        "{}",
        search(&plain, 1, "tomatoes", 1).expect_err("there is no module vec0")
    );
    println!("{}", plain.check().run()?);
    Ok(())
}
