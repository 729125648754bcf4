//! TLS, and passwords that nothing shows.

use std::error::Error as _;

use larder::{Error, Store};

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
