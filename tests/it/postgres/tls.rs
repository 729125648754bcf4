//! TLS, and passwords that nothing shows.

use std::error::Error as _;
use std::fs;
use std::process::Command;

use larder::{Error, Store};

use crate::support::child::{Child, Task, set_mode, tell, this_binary};
use crate::support::log;
use crate::support::postgres::Postgres;

const CANARY: &str = "canary-in-a-coal-mine";

/// All that an error shows, with its causes.
fn shown(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    text
}

#[test]
fn certificates_are_verified_and_passwords_not_shown() {
    let Some(server) = Postgres::start_with_tls(CANARY) else {
        return;
    };
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)"))
        .unwrap();
    let export = |database: &str, host: &str, password: &str, options: &str| {
        let port = server.port();
        let url = format!("postgres://ada:{password}@{host}:{port}/{database}?{options}");
        let export = store.export_to_postgres(&url);
        assert!(!format!("{export:?}").contains(CANARY));
        export.run()
    };
    let root = |name: &str| format!("sslrootcert={}", server.file(name).display());
    let verified = format!("sslmode=verify-full&{}", root("ca.crt"));
    for (database, host, options) in [
        ("full", "localhost", verified.clone()),
        ("chain", "127.0.0.1", format!("sslmode=verify-ca&{}", root("ca.crt"))),
        ("encrypted", "127.0.0.1", "sslmode=require".to_owned()),
        ("preferred", "localhost", "sslmode=prefer".to_owned()),
    ] {
        server.database(database);
        let report = export(database, host, CANARY, &options).unwrap();
        assert!(
            report.is_written && !format!("{report} {report:?}").contains(CANARY),
            "{options}"
        );
    }
    let failed = "the connection failed";
    for (host, password, options, wanted) in [
        ("127.0.0.1", CANARY, verified.clone(), failed),
        (
            "localhost",
            CANARY,
            format!("sslmode=verify-full&{}", root("other.crt")),
            failed,
        ),
        (
            "localhost",
            CANARY,
            "sslmode=verify-full&sslrootcert=/nowhere".to_owned(),
            "sslrootcert /nowhere",
        ),
        ("localhost", CANARY, "sslmode=disable".to_owned(), failed),
        ("localhost", "canary-in-a-coal-mine-2", verified.clone(), failed),
        (
            "localhost",
            CANARY,
            format!("{verified}&connect_timeout=x"),
            "option `url`",
        ),
    ] {
        let import = Store::import_from_postgres(
            &format!("postgres://ada:{password}@{host}:{}/full?{options}", server.port()),
            server.file("none.db"),
        );
        assert!(!format!("{import:?}").contains("canary"));
        let exported = export("full", host, password, &options).unwrap_err();
        for error in [exported, import.run().unwrap_err()] {
            let text = shown(&error);
            assert!(text.contains(wanted), "{options}: {text}");
            assert!(!error.is_retryable(), "{options}: {text}");
            assert!(!text.contains("canary"), "{options}: {text}");
        }
    }
    let log = std::fs::read_to_string(server.file("log")).unwrap();
    assert!(!log.contains("canary-in-a-coal-mine-2"), "{log}");
}

/// Exports and imports, and tells all that is shown of it.
pub(crate) fn child(task: &Task) {
    let [url, to] = task.args.as_slice() else {
        panic!("a server and a target");
    };
    log::collect();
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)"))
        .unwrap();
    let exported = store.export_to_postgres(url).schema(&task.role).run();
    let imported = Store::import_from_postgres(url, to).run();
    tell(exported.is_ok() && imported.is_ok());
    let exported = exported.map_or_else(|error| shown(&error), |report| format!("{report} {report:?}"));
    let imported = imported.map_or_else(|error| shown(&error), |report| format!("{report} {report:?}"));
    tell(format!("{exported:?}"));
    tell(format!("{imported:?}"));
    tell(format!("{:?}", log::events(|event| event.mentions("canary"))));
    // As `ps` shows it.
    tell(format!(
        "{:?}",
        fs::read_to_string("/proc/self/cmdline").unwrap_or_default()
    ));
}

#[test]
fn password_from_the_environment_or_a_file_is_shown_nowhere() {
    let Some(server) = Postgres::start_with_tls(CANARY) else {
        return;
    };
    server.database("app");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, password: &str, mode| {
        let path = folder.path().join(name);
        fs::write(&path, format!("localhost:*:app:ada:{password}\n")).unwrap();
        set_mode(&path, mode);
        path.into_os_string()
    };
    let wrong = "canary-that-sings";
    let cases = [
        ("environment", "PGPASSWORD", CANARY.into(), true),
        ("file", "PGPASSFILE", file("good", CANARY, 0o600), true),
        ("open_file", "PGPASSFILE", file("open", CANARY, 0o644), false),
        ("wrong_password", "PGPASSWORD", wrong.into(), false),
        ("wrong_file", "PGPASSFILE", file("wrong", wrong, 0o600), false),
    ];
    let url = format!("postgres://ada@localhost:{}/app?sslmode=require", server.port());
    for (role, name, value, is_let_in) in cases {
        let mut command = Command::new(this_binary());
        command.env(name, value).env("HOME", folder.path());
        let to = folder.path().join(role);
        let child = Child::start_by(command, "postgres::tls", role, &[&url, to.to_str().unwrap()]);
        child.expect(&is_let_in.to_string());
        let said = child.finish();
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(!said.iter().any(|line| line.contains("canary")), "{role}: {said:?}");
        assert_eq!(to.exists(), is_let_in, "{role}");
    }
    let log = fs::read_to_string(server.file("log")).unwrap();
    assert!(!log.contains("canary"), "{log}");
}
