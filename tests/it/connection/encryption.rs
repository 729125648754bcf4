//! `Options::key`: no byte of an encrypted store is plain, wrong keys are named, and SQLCipher of another program agrees.

use std::fs;
use std::path::Path;

use larder::{Error, Key, Options, Store};
use tempfile::tempdir;

/// All connections are opened in one file, which gives each its key. Unit tests open their own.
#[test]
fn connections_are_opened_in_one_file() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut opening = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let opens = |line: &str| {
                !line.trim_start().starts_with("//")
                    && (line.contains("Connection::open") || line.contains("source.connect()"))
            };
            if !path.ends_with("tests.rs") && code.lines().any(opens) {
                opening.push(path);
            }
        }
    }
    let names: Vec<_> = opening
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["connect.rs"], "{opening:?}");
}

#[test]
fn key_does_not_show_itself() {
    let options = Options::new().key("correct horse");
    for shown in [format!("{options:?}"), format!("{:?}", Key::raw([65; 32]))] {
        assert!(shown.contains("Key(..)"), "{shown}");
        assert!(
            !shown.contains("horse") && !shown.contains("AAAA") && !shown.contains("65, 65"),
            "{shown}"
        );
    }
}

#[test]
fn unusable_keys_are_refused_without_being_named() {
    for passphrase in ["", "horse\0battery", "x'horse'"] {
        let error = Options::new().key(passphrase).open_temp().unwrap_err();
        assert!(matches!(error, Error::Options { option: "key", .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("horse"), "{error}");
    }
}

/// A file of SQLCipher begins with its salt: bytes without a form.
#[test]
fn encrypted_file_is_named_without_key() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let bytes: Vec<u8> = (0..8192_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("it is encrypted") && error.contains("Options::key"),
        "{error}"
    );
    assert_eq!(
        error.contains("enable larder's feature `sqlcipher`"),
        !cfg!(feature = "sqlcipher"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// An SQLite without encryption ignores a key, and would write a plain file.
#[cfg(not(feature = "sqlcipher"))]
#[test]
fn key_is_refused_without_sqlcipher() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let options = Options::new().key("correct horse");
    let errors = [
        options.clone().open(&path).unwrap_err(),
        options.clone().read_only(true).open(&path).unwrap_err(),
        options.restore(&path, folder.path().join("restored.db")).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Options { option: "key", .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("feature `sqlcipher`") && !text.contains("horse"),
            "{text}"
        );
    }
    assert!(
        fs::read_dir(folder.path()).unwrap().next().is_none(),
        "nothing was created"
    );
}

#[cfg(feature = "replicate")]
#[test]
fn replication_is_refused_with_key() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let replica = folder.path().join("replica");
    let replica = replica.to_str().unwrap();
    let options = Options::new().key("correct horse");
    let errors = [
        options.clone().replicate_to(replica).open(&path).unwrap_err(),
        options.clone().follow(replica, &path).unwrap_err(),
        options.restore_from(replica).to(&path).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Options { option: "key", .. }), "{error}");
    }
    assert!(
        fs::read_dir(folder.path()).unwrap().next().is_none(),
        "nothing was created"
    );
}

#[cfg(feature = "sqlcipher")]
mod encrypted {
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use larder::{Access, DryRun, Migration, Migrations, Outcome, ReadOnly};

    use super::*;
    use crate::support::log;

    const KEY: &str = "correct 'horse' battery";
    const CANARY: &str = "canary-7d1f0c9e";

    /// Every file under the folder.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push(path);
            }
        }
        found
    }

    /// No file has the canary, the key, or the header of a plain database. Another process reads them: closing a file that
    /// is open would drop SQLite's locks.
    #[track_caller]
    fn nothing_is_plain(folder: &Path) -> usize {
        let plain = [CANARY, "horse", "SQLite format 3", "CREATE TABLE"].map(|text| format!("--regexp={text}"));
        let mut grep = Command::new("grep");
        grep.args(["--recursive", "--text", "--fixed-strings", "--files-with-matches"])
            .args(plain)
            .arg(folder);
        let found = grep.output().unwrap();
        assert_eq!(
            found.status.code(),
            Some(1),
            "{}",
            String::from_utf8_lossy(&found.stdout)
        );
        files(folder).len()
    }

    /// The search finds what is plain.
    #[test]
    fn canary_is_found_in_plain_file() {
        let folder = tempdir().unwrap();
        let store = filled(Options::new(), &folder.path().join("app.db"));
        std::panic::catch_unwind(|| nothing_is_plain(folder.path())).unwrap_err();
        drop(store);
    }

    fn filled(options: Options, path: &Path) -> Store {
        let store = options.open(path).unwrap();
        store
            .write(|tx| {
                tx.execute_batch(
                    "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT NOT NULL, n INTEGER CHECK (n >= 0)) STRICT;
                     CREATE INDEX by_x ON t(x);
                     CREATE VIRTUAL TABLE docs USING fts5(body);",
                )?;
                for n in 0..3000 {
                    tx.insert("INSERT INTO t(x, n) VALUES (?1, ?2)", (format!("{CANARY}-{n}"), n))?;
                }
                tx.execute("INSERT INTO docs SELECT x FROM t", [])
            })
            .unwrap();
        store
    }

    fn rows(store: &Store) -> i64 {
        store
            .read(|tx| tx.scalar("SELECT count(*) FROM t WHERE x LIKE 'canary%'", []))
            .unwrap()
    }

    fn encrypted() -> Options {
        Options::new().key(KEY)
    }

    /// In the files of a store, and of all that copies it, at each moment when they can be read.
    #[test]
    fn canary_is_in_no_file() {
        log::collect();
        let folder = tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let migrations =
            Migrations::new([Migration::new(1, "u", "CREATE TABLE u(x TEXT) STRICT").down("DROP TABLE u")]);
        let options = encrypted().migrations(migrations.at_open(false));
        // The log is not emptied meanwhile.
        let store = filled(options.clone().checkpoint_pages(1_000_000), &place("app.db"));
        assert!(
            nothing_is_plain(folder.path()) >= 3,
            "the database, its log and its index"
        );
        store.migrate_dry_run(DryRun::Schema).unwrap();
        store.migrate_dry_run(DryRun::Backup).unwrap();
        store.migrate().unwrap();
        let backup = store.backup(place("backup.db")).checksum(true).run().unwrap();
        let compact = store.backup_compact(place("compact.db")).run().unwrap();
        assert_eq!((backup.rows, compact.rows), (backup.rows, backup.rows));
        store
            .write(|tx| tx.execute("DELETE FROM t WHERE id > 2900", []))
            .unwrap();
        store.vacuum().run().unwrap();
        let check = store.check().run().unwrap();
        assert!(check.is_ok() && check.not_checked.is_empty(), "{check:?}");
        fs::create_dir(place("backups")).unwrap();
        let schedule = store
            .backup_every(std::time::Duration::from_secs(3600), 3, place("backups"))
            .unwrap();
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while store
            .stats()
            .last_backup
            .is_none_or(|last| !last.path.starts_with(place("backups")))
        {
            assert!(std::time::Instant::now() < give_up);
            std::thread::yield_now();
        }
        drop(schedule);
        nothing_is_plain(folder.path());
        let failed = store
            .write(|tx| tx.execute("INSERT INTO t(id, x) VALUES (1, ?1)", [CANARY]))
            .unwrap_err();
        assert_eq!(failed.outcome(), Outcome::RolledBack);
        assert!(!format!("{failed} {failed:?} {store:?}").contains(CANARY));
        store.close().unwrap();
        let report = options.restore(place("backup.db"), place("restored.db")).unwrap();
        assert_eq!(report.checksum, backup.checksum.unwrap());
        encrypted()
            .restore(place("compact.db"), place("restored-compact.db"))
            .unwrap();
        assert!(nothing_is_plain(folder.path()) >= 6);
        for name in ["restored.db", "restored-compact.db"] {
            assert_eq!(rows(&encrypted().open(place(name)).unwrap()), 3000, "{name}");
        }
        let told = log::events(|event| event.mentions(CANARY) || event.mentions("horse"));
        assert!(told.is_empty(), "{told:?}");
    }

    /// What a process that was killed leaves is as encrypted, and is read again.
    #[test]
    fn log_of_killed_process_is_played_back() {
        let folder = tempdir().unwrap();
        let store = filled(encrypted().checkpoint_pages(1_000_000), &folder.path().join("app.db"));
        let copy = tempdir().unwrap();
        // No checkpoint empties the log between the two.
        let copied = store.read(|tx| {
            tx.scalar::<i64>("SELECT count(*) FROM t", [])?;
            for name in ["app.db", "app.db-wal"] {
                fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
            }
            Ok(())
        });
        copied.unwrap();
        nothing_is_plain(copy.path());
        assert_eq!(rows(&encrypted().open(copy.path().join("app.db")).unwrap()), 3000);
        drop(store);
    }

    #[test]
    fn each_wrong_opening_is_named() {
        let folder = tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let (secret, plain) = (place("secret.db"), place("plain.db"));
        filled(encrypted(), &secret).backup(place("backup.db")).run().unwrap();
        filled(Options::new(), &plain)
            .backup(place("plain-backup.db"))
            .run()
            .unwrap();
        let bytes = (fs::read(&secret).unwrap(), fs::read(&plain).unwrap());
        let another = || Options::new().key("another");
        let (not_its_key, is_plain, no_key) = (
            "Options::key is not its key",
            "it is a plain database, and Options::key is set",
            "give Options::key",
        );
        let opened = [
            (another().open(&secret), not_its_key),
            (another().read_only(true).open(&secret), not_its_key),
            (another().access(Access::Exclusive).open(&secret), not_its_key),
            (Options::new().key(Key::raw([1; 32])).open(&secret), not_its_key),
            (
                encrypted().page_size(8192).open(&secret),
                "Options::page_size is not its page size",
            ),
            (encrypted().open(&plain), is_plain),
            (encrypted().read_only(true).open(&plain), is_plain),
            (Store::open(&secret), no_key),
        ];
        for (opened, wanted) in opened {
            let error = opened.unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(error, Error::Open { .. }) && text.contains(wanted),
                "{text}: {wanted}"
            );
            assert!(!text.contains("horse") && !text.contains("another"), "{text}");
            assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
        }
        let restored = [
            (Store::restore(place("backup.db"), place("a")), no_key),
            (another().restore(place("backup.db"), place("b")), not_its_key),
            (encrypted().restore(place("plain-backup.db"), place("c")), is_plain),
        ];
        for (restored, wanted) in restored {
            let text = restored.unwrap_err().to_string();
            assert!(text.contains(wanted), "{text}: {wanted}");
        }
        assert_eq!(
            bytes,
            (fs::read(&secret).unwrap(), fs::read(&plain).unwrap()),
            "nothing was written"
        );
        assert_eq!(rows(&encrypted().open(&secret).unwrap()), 3000);
        assert_eq!(rows(&Store::open(&plain).unwrap()), 3000);
    }

    #[test]
    fn each_kind_of_store_is_encrypted() {
        let folder = tempdir().unwrap();
        let kinds = [
            encrypted().access(Access::Exclusive),
            encrypted().page_size(8192),
            Options::new().key(Key::raw([9; 32])).page_size(1024),
        ];
        for (at, options) in kinds.into_iter().enumerate() {
            let path = folder.path().join(format!("{at}.db"));
            filled(options.clone(), &path)
                .backup(folder.path().join(format!("{at}-copy.db")))
                .run()
                .unwrap();
            let store = options.clone().open(&path).unwrap();
            assert_eq!(rows(&store), 3000);
            // SQLCipher reports it as text.
            let pages: String = store.read(|tx| tx.scalar("PRAGMA page_size", [])).unwrap();
            assert_eq!(pages, ["4096", "8192", "1024"][at]);
            store.close().unwrap();
            nothing_is_plain(folder.path());
            options
                .restore(
                    folder.path().join(format!("{at}-copy.db")),
                    folder.path().join(format!("{at}-new.db")),
                )
                .unwrap();
        }
        assert_eq!(rows(&filled(encrypted(), &folder.path().join("temp.db"))), 3000);
        let temporary = encrypted().open_temp().unwrap();
        temporary.write(|tx| tx.execute_batch("CREATE TABLE t(x)")).unwrap();
        nothing_is_plain(temporary.path().parent().unwrap());
    }

    /// SQLCipher would write it, and not read it again.
    #[test]
    fn smallest_page_is_refused_with_key() {
        let error = encrypted().page_size(512).open_temp().unwrap_err();
        assert!(
            matches!(
                error,
                Error::Options {
                    option: "page_size",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn snapshot_is_read_only_with_key() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let store = filled(encrypted(), &path);
        let beside = encrypted().read_only(true).open(folder.path().join("app.db"));
        assert!(matches!(beside, Err(Error::AlreadyOpen { .. })));
        store.close().unwrap();
        let reader = encrypted().read_only(true).open(&path).unwrap();
        assert_eq!(rows(&reader), 3000);
        assert_eq!(reader.stats().read_only, Some(ReadOnly::Live));
    }

    #[test]
    fn closures_cannot_change_the_key() {
        let store = encrypted().open_temp().unwrap();
        for pragma in [
            "PRAGMA key = 'x'",
            "PRAGMA rekey = 'x'",
            "PRAGMA cipher_page_size = 512",
            "PRAGMA cipher_salt",
        ] {
            let refused = store.write(move |tx| tx.execute_batch(pragma)).unwrap_err();
            assert!(matches!(refused, Error::Refused { .. }), "{pragma}: {refused}");
            let refused = store.read(move |tx| tx.query_row(pragma, [], |_| Ok(()))).unwrap_err();
            assert!(matches!(refused, Error::Refused { .. }), "{pragma}: {refused}");
        }
    }

    /// `LARDER_SQLCIPHER` is a Python that has the package `sqlcipher3`.
    #[test]
    fn sqlcipher3_and_larder_open_each_others_files() {
        let Some(python) = std::env::var_os("LARDER_SQLCIPHER") else {
            return crate::support::child::skipped("LARDER_SQLCIPHER is not set: a Python with sqlcipher3 (PyPI)");
        };
        let folder = tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours.db"), folder.path().join("theirs.db"));
        let store = filled(encrypted(), &ours);
        let script = "
import sys
from sqlcipher3 import dbapi2 as db
ours, theirs, key = sys.argv[1:]
conn = db.connect(ours)
conn.execute(\"PRAGMA key = '%s'\" % key.replace(\"'\", \"''\"))
print(conn.execute('SELECT count(*), max(x) FROM t').fetchone())
conn.execute(\"INSERT INTO t(x, n) VALUES ('canary of python', 1)\")
conn.commit()
print(conn.execute('PRAGMA cipher_integrity_check').fetchall())
conn.close()
conn = db.connect(theirs)
conn.execute(\"PRAGMA key = '%s'\" % key.replace(\"'\", \"''\"))
conn.executescript(\"CREATE TABLE t(x TEXT); INSERT INTO t VALUES ('canary of python')\")
conn.close()
";
        let run = Command::new(python)
            .args(["-c", script])
            .args([&ours, &theirs])
            .arg(KEY)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let said = String::from_utf8(run.stdout).unwrap();
        assert_eq!(said, format!("(3000, '{CANARY}-999')\n[]\n"));
        assert_eq!(rows(&store), 3001, "the store sees the commit of the other process");
        nothing_is_plain(folder.path());
        assert_eq!(rows(&encrypted().open(&theirs).unwrap()), 1);
    }
}
