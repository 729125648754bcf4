//! Each crate that the README lists beside larder, with a store. `.ci/nightly companions` runs it.

use std::time::Duration;

use larder::rusqlite::{Connection, params_from_iter};
use larder::{Adopt, Migration, Migrations, Options, Store};
use tempfile::tempdir;

const USERS: &str = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER) STRICT";

fn users() -> Store {
    let store = Store::open_temp().unwrap();
    let fill = "INSERT INTO users(name, age) VALUES ('Ada', 36), ('Grace', 85)";
    store
        .write(move |tx| tx.execute_batch(&format!("{USERS}; {fill}")))
        .unwrap();
    store
}

mod rows {
    use serde::{Deserialize, Serialize};
    use serde_rusqlite::{from_rows, to_params_named};

    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct User {
        id: Option<i64>,
        name: String,
        age: Option<i64>,
    }

    #[test]
    fn serde_rusqlite_reads_and_writes_structs() {
        let store = users();
        store
            .write(|tx| {
                let user = User {
                    id: None,
                    name: "Linus".into(),
                    age: None,
                };
                let values = to_params_named(&user).map_err(larder::Error::app)?;
                let insert = "INSERT INTO users(id, name, age) VALUES (:id, :name, :age)";
                tx.prepare_cached(insert)?.execute(values.to_slice().as_slice())?;
                Ok(())
            })
            .unwrap();
        let all: Vec<User> = store
            .read(|tx| {
                let mut select = tx.prepare_cached("SELECT id, name, age FROM users ORDER BY id")?;
                let rows = from_rows(select.query([])?).collect::<Result<_, _>>();
                rows.map_err(larder::Error::app)
            })
            .unwrap();
        let names: Vec<_> = all.iter().map(|user| (user.name.as_str(), user.age)).collect();
        assert_eq!(names, [("Ada", Some(36)), ("Grace", Some(85)), ("Linus", None)]);
        assert_eq!(all[2].id, Some(3));
    }
}

mod migrations {
    use super::*;

    /// It takes a connection of its own, before the store opens; larder goes on from its `user_version`.
    #[test]
    fn store_continues_after_rusqlite_migration() {
        use rusqlite_migration::{M, Migrations as Theirs};

        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let mut conn = Connection::open(&path).unwrap();
        let theirs = Theirs::new(vec![M::up(USERS), M::up("CREATE INDEX by_name ON users(name)")]);
        theirs.to_latest(&mut conn).unwrap();
        drop(conn);
        let ours = Migrations::new([
            Migration::new(1, "users", USERS),
            Migration::new(2, "index", "CREATE INDEX by_name ON users(name)"),
            Migration::new(3, "notes", "CREATE TABLE notes(x TEXT) STRICT"),
        ]);
        let options = Options::new().migrations(ours.adopt(Adopt::UserVersion));
        goes_on(&options.open(&path).unwrap());
    }

    #[test]
    fn store_continues_after_refinery() {
        use refinery::{Migration as Theirs, Runner};

        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let mut conn = Connection::open(&path).unwrap();
        let theirs = [
            Theirs::unapplied("V1__users", USERS).unwrap(),
            Theirs::unapplied("V2__index", "CREATE INDEX by_name ON users(name)").unwrap(),
        ];
        Runner::new(&theirs).run(&mut conn).unwrap();
        drop(conn);
        let ours = Migrations::new([
            Migration::new(1, "users", USERS),
            Migration::new(2, "index", "CREATE INDEX by_name ON users(name)"),
            Migration::new(3, "notes", "CREATE TABLE notes(x TEXT) STRICT"),
        ]);
        let options = Options::new().migrations(ours.adopt(Adopt::Refinery));
        goes_on(&options.open(&path).unwrap());
    }

    fn goes_on(store: &Store) {
        let status = store.migrations().unwrap();
        let versions: Vec<_> = status.applied.iter().map(|migration| migration.version).collect();
        assert_eq!((versions, status.pending.len()), (vec![1, 2, 3], 0));
        store
            .write(|tx| tx.insert("INSERT INTO notes(x) VALUES ('a')", []))
            .unwrap();
    }
}

mod queries {
    use larder::rusqlite::types::Value as Bound;
    use sea_query::{Expr, ExprTrait, Iden, Order, Query, SqliteQueryBuilder, Value, Values};

    use super::*;

    #[derive(Iden)]
    enum Users {
        Table,
        Name,
        Age,
    }

    /// `sea-query-rusqlite` 0.8 is for another rusqlite; these lines are what it does.
    fn bound(values: Values) -> impl Iterator<Item = Bound> {
        values.into_iter().map(|value| match value {
            Value::BigInt(Some(number)) => Bound::Integer(number),
            Value::Int(Some(number)) => Bound::Integer(number.into()),
            Value::BigUnsigned(Some(number)) => Bound::Integer(number.try_into().expect("below 2^63")),
            Value::String(Some(text)) => Bound::Text(text),
            other => panic!("{other:?} is not used here"),
        })
    }

    #[test]
    fn sea_query_builds_the_statements_of_a_store() {
        let store = users();
        store
            .write(|tx| {
                let (sql, values) = Query::insert()
                    .into_table(Users::Table)
                    .columns([Users::Name, Users::Age])
                    .values_panic(["Linus".into(), 56_i64.into()])
                    .build(SqliteQueryBuilder);
                tx.insert(&sql, params_from_iter(bound(values)))
            })
            .unwrap();
        let (sql, values) = Query::select()
            .column(Users::Name)
            .from(Users::Table)
            .and_where(Expr::col(Users::Age).gt(40_i64))
            .order_by(Users::Name, Order::Desc)
            .limit(10)
            .build(SqliteQueryBuilder);
        let names: Vec<String> = store
            .read(|tx| tx.scalars(&sql, params_from_iter(bound(values))))
            .unwrap();
        assert_eq!(names, ["Linus", "Grace"]);
    }
}

/// `sqlite-vec` is an extension in C, linked in. `on_connect` starts it on each connection.
mod vectors {
    use std::ffi::{c_char, c_int};
    use std::{mem, ptr};

    use larder::rusqlite::ffi;

    use super::*;

    type Init = unsafe extern "C" fn(*mut ffi::sqlite3, *mut *mut c_char, *const ffi::sqlite3_api_routines) -> c_int;

    fn load(conn: &Connection) -> larder::Result<()> {
        // SAFETY: the crate declares the entry point of an extension without its parameters, which are these: "extension
        // entry points", <https://sqlite.org/loadext.html>. SQLite is linked in, so there are no routines to pass.
        let code = unsafe {
            let init: Init = mem::transmute(sqlite_vec::sqlite3_vec_init as *const ());
            init(conn.handle(), ptr::null_mut(), ptr::null())
        };
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(larder::rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
        }
    }

    fn options() -> Options {
        let vectors = "CREATE VIRTUAL TABLE vectors USING vec0(id INTEGER PRIMARY KEY, place FLOAT[3])";
        let migrations = Migrations::new([Migration::new(1, "vectors", vectors).down("DROP TABLE vectors")]);
        Options::new().on_connect(|conn, _| load(conn)).migrations(migrations)
    }

    fn blob(vector: [f32; 3]) -> Vec<u8> {
        vector.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn nearest(store: &Store, to: [f32; 3]) -> Vec<i64> {
        let select = "SELECT id FROM vectors WHERE place MATCH ?1 AND k = 2 ORDER BY distance";
        store.read(|tx| tx.scalars(select, [blob(to)])).unwrap()
    }

    #[test]
    fn sqlite_vec_searches_through_groups_and_backups() {
        let folder = tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let store = options().open(place("app.db")).unwrap();
        // One group: the middle one fails, and only its row is gone.
        let pending: Vec<_> = [[0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [1.0, 1.0, 1.0], [5.0, 5.0, 5.0]]
            .into_iter()
            .map(|vector| {
                store.submit(move |tx| {
                    let id = tx.insert("INSERT INTO vectors(place) VALUES (?1)", [blob(vector)])?;
                    if vector[0] == 9.0 {
                        return Err(larder::Error::app("not this one"));
                    }
                    Ok(id)
                })
            })
            .collect();
        let ids: Vec<_> = pending
            .into_iter()
            .map(|pending| pending.unwrap().wait().ok())
            .collect();
        assert_eq!(ids.iter().flatten().count(), 3, "{ids:?}");
        let (origin, one) = (ids[0].unwrap(), ids[2].unwrap());
        assert_eq!(nearest(&store, [0.2, 0.2, 0.2]), [origin, one]);
        // A savepoint that is rolled back.
        let rolled_back = store.write(move |tx| {
            let failed = tx.savepoint(|tx| {
                tx.execute("DELETE FROM vectors WHERE id = ?1", [origin])?;
                Err::<(), _>(larder::Error::app("keep it"))
            });
            Ok(failed.is_err())
        });
        assert!(rolled_back.unwrap());
        assert_eq!(nearest(&store, [0.2, 0.2, 0.2]), [origin, one]);
        // What the guide says of triggers and of other lengths.
        let trigger = "CREATE TABLE notes(id INTEGER PRIMARY KEY);
            CREATE TRIGGER gone AFTER DELETE ON notes BEGIN DELETE FROM vectors WHERE id = old.id; END;
            INSERT INTO notes VALUES (1); DELETE FROM notes";
        let unsafe_use = store.write(|tx| tx.execute_batch(trigger)).unwrap_err();
        assert!(
            unsafe_use.to_string().contains("unsafe use of virtual table"),
            "{unsafe_use}"
        );
        let insert = "INSERT INTO vectors(place) VALUES (?1)";
        let short = store.write(|tx| tx.insert(insert, [vec![0_u8; 8]])).unwrap_err();
        assert!(short.to_string().to_lowercase().contains("dimension"), "{short}");
        let report = store.backup(place("backup.db")).checksum(true).run().unwrap();
        store.backup_compact(place("compact.db")).run().unwrap();
        assert!(store.check().run().unwrap().problems.is_empty());
        store.vacuum().run().unwrap();
        store.close().unwrap();
        for name in ["backup.db", "compact.db"] {
            let to = place(&format!("from-{name}"));
            options().restore(place(name), &to).unwrap();
            let restored = options().open(to).unwrap();
            assert_eq!(nearest(&restored, [4.0, 4.0, 4.0])[1], one, "{name}");
            assert_eq!(nearest(&restored, [0.2, 0.2, 0.2]), [origin, one], "{name}");
        }
        assert!(report.rows > 0);
        // Without the extension, its tables are restored like others, and `vectors` is not checked.
        let plain = Store::restore(place("backup.db"), place("plain.db")).unwrap();
        assert!(plain.check.is_ok(), "{plain}");
        assert!(plain.check.not_checked[0].contains("no such module: vec0"), "{plain}");
        let found = options().open(place("plain.db")).unwrap();
        assert_eq!(nearest(&found, [0.2, 0.2, 0.2]), [origin, one]);
    }
}

/// Connections of their own to the file of a store: their writes wait for SQLite's lock, and are in no group.
mod beside_a_store {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn sessions_of_tower_are_in_the_file_of_a_store() {
        use std::collections::HashMap;

        use tower_sessions::SessionStore;
        use tower_sessions::cookie::time::{Duration as Age, OffsetDateTime};
        use tower_sessions::session::{Id, Record};
        use tower_sessions_rusqlite_store::RusqliteStore;

        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = Store::open(&path).unwrap();
        store.write(|tx| tx.execute_batch(USERS)).unwrap();
        let conn = tokio_rusqlite::Connection::open(&path).await.unwrap();
        conn.call(|conn| conn.busy_timeout(Duration::from_secs(5)))
            .await
            .unwrap();
        let sessions = RusqliteStore::new(conn);
        sessions.migrate().await.unwrap();
        let mut record = Record {
            id: Id::default(),
            data: HashMap::from([("user".to_owned(), 7.into())]),
            expiry_date: OffsetDateTime::now_utc() + Age::hours(1),
        };
        sessions.create(&mut record).await.unwrap();
        let add_user = "INSERT INTO users(name) VALUES ('Ada')";
        let writes: Vec<_> = (0..50)
            .map(|_| store.write_async(move |tx| tx.insert(add_user, [])))
            .collect();
        for write in writes {
            sessions.save(&record).await.unwrap();
            write.await.unwrap();
        }
        let loaded = sessions.load(&record.id).await.unwrap().expect("the session");
        assert_eq!(loaded.data["user"], 7);
        let there: i64 = store
            .read(|tx| tx.scalar("SELECT count(*) FROM tower_sessions", []))
            .unwrap();
        assert_eq!(there, 1);
        let backup = store.backup(folder.path().join("backup.db")).run().unwrap();
        assert_eq!(backup.rows, 51);
        assert!(store.poisoned().is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn deadpool_reads_and_writes_the_file_of_a_store() {
        use deadpool_sqlite::{Config, Runtime};

        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = Store::open(&path).unwrap();
        store.write(|tx| tx.execute_batch(USERS)).unwrap();
        let pool = Config::new(&path).create_pool(Runtime::Tokio1).unwrap();
        for _ in 0..20 {
            let conn = pool.get().await.unwrap();
            let theirs = conn.interact(|conn| {
                conn.busy_timeout(Duration::from_secs(60))?;
                conn.execute("INSERT INTO users(name) VALUES ('theirs')", [])
            });
            let ours = store.write_async(|tx| tx.insert("INSERT INTO users(name) VALUES ('ours')", []));
            assert_eq!(theirs.await.unwrap().unwrap(), 1);
            ours.await.unwrap();
        }
        let names: Vec<(String, i64)> = store
            .read(|tx| tx.all("SELECT name, count(*) FROM users GROUP BY name ORDER BY name", []))
            .unwrap();
        assert_eq!(names, [("ours".to_owned(), 20), ("theirs".to_owned(), 20)]);
        drop(pool);
        assert!(store.poisoned().is_none());
        store.close().unwrap();
    }
}
