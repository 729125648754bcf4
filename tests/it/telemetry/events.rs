//! The `tracing` events that larder emits, and what they must never contain.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::channel;
use std::time::Duration;

use larder::rusqlite::Connection;
use larder::{Error, Options, ReadOptions, Result, Store, WriteOptions, WriteTx};
use tracing::{Level, Span, info, info_span};

use crate::support::{log, write_or_fail};
use crate::write::groups::{Gate, grouping};

fn store_with_row(options: Options) -> Store {
    log::collect();
    let store = options.open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB) STRICT;
                 INSERT INTO t VALUES (1, zeroblob(3800));",
            )
        })
        .unwrap();
    store
}

/// Every write and every read is slow.
fn all_slow() -> Options {
    grouping()
        .slow_write_threshold(Duration::ZERO)
        .slow_read_threshold(Duration::ZERO)
        .slow_events_per_second(1_000_000)
}

fn labelled(label: &'static str) -> WriteOptions {
    WriteOptions::new().label(label)
}

fn slow(label: &'static str) -> log::Event {
    log::wait_for(|event| event.field("site") == Some(label) && event.message.starts_with("slow "))
}

#[test]
fn opening_event_has_path_and_settings() {
    log::collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Options::new().readers(3).queue_capacity(77).open(&path).unwrap();
    let name = store.path().to_str().unwrap();
    let event = log::wait_for(|e| e.target == "larder::open" && e.field("db.namespace") == Some(name));
    assert_eq!(event.level, Level::INFO);
    for (field, value) in [
        ("db.system.name", "sqlite"),
        ("access", "Shared"),
        ("durability", "Normal"),
        ("journal_mode", "wal"),
        ("readers", "3"),
        ("queue_capacity", "77"),
        ("busy_timeout_ms", "5000"),
        ("cache_size", "65536000"),
        ("mmap_size", "268435456"),
        ("foreign_keys", "true"),
        ("journal_size_limit", "67108864"),
        ("checkpoint_pages", "1000"),
        ("wal_limit", "67108864"),
        ("sqlite", larder::rusqlite::version()),
    ] {
        assert_eq!(event.expect(field), value, "{field}");
    }
}

#[test]
fn closing_event_reports_queue_and_log() {
    let store = store_with_row(grouping().queue_capacity(136));
    let gate = Gate::hold(&store);
    // So many that no other test's store closes with them; the gate's write is one more.
    let queued: Vec<_> = (0..136).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| store.close().unwrap());
        // Once the intake is closed, so that all of them are finished "while closing". Until then: QueueFull.
        while !matches!(store.write_with(write_or_fail(), |_| Ok(())), Err(Error::Closed)) {}
        gate.open();
        assert_eq!(closing.join().unwrap().finished, 137);
    });
    queued.into_iter().for_each(|write| write.wait().unwrap());
    let event = log::wait_for(|e| e.target == "larder::close" && e.field("finished") == Some("137"));
    assert_eq!(event.level, Level::INFO);
    assert_eq!(event.expect("db.system.name"), "sqlite");
    assert_eq!(event.expect("never_started"), "0");
    assert_eq!(event.expect("wal_truncated"), "true");
    assert_eq!(event.field("wal_kept_because"), None);
    assert!(event.expect("duration_ms").parse::<u64>().is_ok());
}

#[test]
fn slow_write_is_named_by_its_call_site() {
    let store = store_with_row(all_slow());
    let line = line!() + 1;
    store.write(|_| Ok(())).unwrap();
    let site = format!("{}:{line}", file!());
    let event = log::wait_for(|e| e.message == "slow write" && e.field("site") == Some(&site));
    assert_eq!(event.target, "larder::write");
    assert_eq!(event.level, Level::WARN);
    assert_eq!(event.expect("db.system.name"), "sqlite");
    for field in ["duration_ms", "queue_wait_ms", "group"] {
        assert!(event.expect(field).parse::<u64>().is_ok(), "{field}");
    }
    assert_eq!(event.field("error.type"), None);
}

/// `#[track_caller]` on each of the methods.
#[test]
fn every_call_records_its_call_site() {
    let store = store_with_row(all_slow());
    let ok = |_: &WriteTx<'_>| Ok(());
    let (write, read) = (WriteOptions::new(), ReadOptions::new());
    let mut lines = Vec::new();
    let (line, done) = (line!(), store.write(ok));
    done.unwrap();
    lines.push(line);
    let (line, queued) = (line!(), store.submit(ok));
    queued.unwrap().wait().unwrap();
    lines.push(line);
    let (line, done) = (line!(), store.write_with(write.clone(), ok));
    done.unwrap();
    lines.push(line);
    let (line, queued) = (line!(), store.submit_with(write, ok));
    queued.unwrap().wait().unwrap();
    lines.push(line);
    let (line, done) = (line!(), store.read(|_| Ok(())));
    done.unwrap();
    lines.push(line);
    let (line, done) = (line!(), store.read_with(read, |_| Ok(())));
    done.unwrap();
    lines.push(line);
    for line in lines {
        let site = format!("{}:{line}", file!());
        log::wait_for(|e| e.message.starts_with("slow ") && e.field("site") == Some(&site));
    }
}

#[test]
fn slow_write_shows_only_sql_with_parameters() {
    let store = store_with_row(all_slow());
    let sql = "UPDATE t SET data = ?1 WHERE id = 1";
    store
        .write_with(labelled("with parameters"), move |tx| {
            tx.execute(sql, [7_i64.to_string().into_bytes()])
        })
        .unwrap();
    assert_eq!(slow("with parameters").expect("db.query.text"), sql);
    store
        .write_with(labelled("with a literal"), |tx| {
            tx.execute("UPDATE t SET data = x'00' WHERE id = 1", [])?;
            tx.execute_batch("UPDATE t SET data = x'01' WHERE id = 1")
        })
        .unwrap();
    assert_eq!(slow("with a literal").field("db.query.text"), None);
}

#[test]
fn slow_write_that_failed_says_so() {
    let store = store_with_row(all_slow());
    store
        .write_with(labelled("slow and failing"), |_| Err::<(), _>(Error::app("no")))
        .unwrap_err();
    let event = slow("slow and failing");
    assert!(event.field("error.type").is_some(), "{event:?}");
}

#[test]
fn slow_read_shows_only_sql_with_parameters() {
    let store = store_with_row(all_slow());
    let sql = "SELECT id FROM t WHERE id = ?1";
    let read = |label: &'static str, sql: &str, with: &[i64]| {
        let with = larder::rusqlite::params_from_iter(with);
        store
            .read_with(ReadOptions::new().label(label), |tx| {
                tx.query_row(sql, with, |row| row.get::<_, i64>(0))
            })
            .unwrap();
        slow(label)
    };
    let event = read("a read with parameters", sql, &[1]);
    assert_eq!(event.target, "larder::read");
    assert_eq!(event.level, Level::WARN);
    assert_eq!(event.expect("db.system.name"), "sqlite");
    assert_eq!(event.expect("db.query.text"), sql);
    assert!(event.expect("duration_ms").parse::<u64>().is_ok());
    let event = read("a read with a literal", "SELECT id FROM t WHERE id = 1", &[]);
    assert_eq!(event.field("db.query.text"), None);
}

#[test]
fn failed_slow_read_names_the_kind_of_error() {
    let store = store_with_row(all_slow());
    store
        .read_with(ReadOptions::new().label("a failing read"), |tx| {
            tx.query_row("SELECT nothing", [], |_| Ok(()))
        })
        .unwrap_err();
    assert_eq!(slow("a failing read").expect("error.type"), "sqlite_error");
}

#[test]
fn fast_calls_are_not_reported() {
    let store = store_with_row(
        Options::new()
            .slow_write_threshold(Duration::from_secs(3600))
            .slow_read_threshold(Duration::from_secs(3600)),
    );
    store.write_with(labelled("not slow"), |_| Ok(())).unwrap();
    store
        .read_with(ReadOptions::new().label("not slow"), |_| Ok(()))
        .unwrap();
    store.close().unwrap();
    assert!(log::events(|e| e.mentions("not slow")).is_empty());
}

#[test]
fn rolled_back_group_is_reported_with_its_size() {
    let store = store_with_row(grouping());
    let gate = Gate::hold(&store);
    // A number that no other test has.
    let lost: Vec<_> = (0..113).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    let bad = store
        .submit(|tx| tx.execute("INSERT OR ROLLBACK INTO t VALUES (1, NULL)", []))
        .unwrap();
    gate.open();
    bad.wait().unwrap_err();
    for write in lost {
        write.wait().unwrap_err();
    }
    let event = log::wait_for(|e| e.message == "group rolled back" && e.field("writes") == Some("113"));
    assert_eq!(event.target, "larder::write");
    assert_eq!(event.level, Level::WARN);
    assert_eq!(event.expect("db.system.name"), "sqlite");
    assert!(event.expect("reason").contains("another write"), "{event:?}");
}

fn overwrite(tx: &WriteTx<'_>) -> Result<()> {
    for id in 0..50 {
        tx.execute("INSERT OR REPLACE INTO t VALUES (?1, zeroblob(3800))", [id])?;
    }
    Ok(())
}

#[test]
fn blocked_checkpoint_is_reported_with_the_oldest_read() {
    let store = store_with_row(Options::new().wal_limit(256 * 1024));
    store
        .read_with(ReadOptions::new().label("reads on and on"), |tx| {
            assert!(tx.exists("SELECT 1 FROM t", [])?);
            for _ in 0..10 {
                store.write(overwrite)?;
            }
            Ok(())
        })
        .unwrap();
    let event = log::wait_for(|e| {
        e.target == "larder::checkpoint"
            && e.field("oldest_reader")
                .is_some_and(|oldest| oldest.starts_with("reads on and on, for "))
    });
    assert_eq!(event.level, Level::WARN);
    assert_eq!(event.expect("db.system.name"), "sqlite");
    assert_eq!(event.expect("busy"), "true");
    let bytes: u64 = event.expect("wal_bytes").parse().unwrap();
    assert!(bytes > 256 * 1024);
    assert!(event.expect("moved_pages").parse::<u64>().unwrap() < event.expect("log_pages").parse().unwrap());
}

#[test]
fn span_of_caller_is_current_inside_the_closure() {
    let store = store_with_row(Options::new());
    let here = std::thread::current().id();
    let span = info_span!("request");
    let asked_in = span.id().expect("the collector gives each span a number");
    let look = |_: &WriteTx<'_>| {
        info!(target: "test", "inside the span test");
        Ok((Span::current().id(), std::thread::current().id()))
    };
    let inside = span.in_scope(|| store.write(look)).unwrap();
    assert_eq!(inside.0, Some(asked_in.clone()));
    let submitted = span.in_scope(|| store.submit(look)?.wait()).unwrap();
    assert_eq!(submitted.0, Some(asked_in));
    assert_ne!(submitted.1, here, "it ran on the writer thread");
    let outside = store.write(|_| Ok(Span::current().id())).unwrap();
    assert_eq!(outside, None, "the span is left with the closure");
}

#[test]
fn slow_statement_plan_marks_full_scans() {
    let store = store_with_row(all_slow());
    let scan = "SELECT count(*) FROM t WHERE data = ?1";
    let search = "SELECT count(*) FROM t WHERE id = ?1";
    for (label, sql, scans) in [("scans", scan, "1"), ("searches", search, "0")] {
        store
            .read_with(ReadOptions::new().label(label), |tx| {
                tx.query_row(sql, [1], |row| row.get::<_, i64>(0))
            })
            .unwrap();
        let event = slow(label);
        assert_eq!(event.expect("full_scans"), scans);
        assert!(event.expect("plan").contains(" t"), "{event:?}");
    }
    let update = "UPDATE t SET data = ?1 WHERE data IS NULL";
    store
        .write_with(labelled("an update that scans"), move |tx| tx.execute(update, [b"x"]))
        .unwrap();
    let event = slow("an update that scans");
    assert_eq!((event.expect("plan"), event.expect("full_scans")), ("SCAN t", "1"));
    assert!(event.expect("slowest_statement_ms").parse::<u64>().is_ok());
}

#[test]
fn slow_statement_plan_has_no_data() {
    let store = store_with_row(all_slow());
    let sql = "SELECT count(*) FROM t WHERE data = x'5ec2e7' OR id IN (SELECT value FROM json_each('[5327]'))";
    store
        .read_with(ReadOptions::new().label("a plan without data"), |tx| {
            tx.query_row(sql, [], |row| row.get::<_, i64>(0))
        })
        .unwrap();
    let event = slow("a plan without data");
    assert!(event.expect("plan").contains("SCAN t"), "{event:?}");
    assert!(!event.mentions("5327") && !event.mentions("5ec2e7"), "{event:?}");
}

#[test]
fn slow_write_is_reported_in_its_callers_span() {
    let store = store_with_row(all_slow());
    let span = info_span!("request");
    span.in_scope(|| store.write_with(labelled("slow in a span"), |_| Ok(())))
        .unwrap();
    assert_eq!(slow("slow in a span").span, span.id());
}

#[test]
fn span_is_left_by_a_panicking_closure() {
    let store = store_with_row(Options::new());
    let span = info_span!("request");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        span.in_scope(|| store.write(|_| -> Result<()> { resume_unwind(Box::new("boom")) }))
    }));
    assert!(panicked.is_err());
    assert_eq!(store.write(|_| Ok(Span::current().id())).unwrap(), None);
}

#[test]
fn submitted_write_runs_in_the_span_of_submit() {
    let store = store_with_row(grouping());
    let gate = Gate::hold(&store);
    let spans = [info_span!("one"), info_span!("two")];
    let writes: Vec<_> = spans
        .iter()
        .map(|span| span.in_scope(|| store.submit(|_| Ok(Span::current().id())).unwrap()))
        .collect();
    gate.open();
    for (write, span) in writes.into_iter().zip(&spans) {
        assert_eq!(write.wait().unwrap(), span.id());
    }
}

#[test]
fn every_event_names_sqlite_as_the_system() {
    let store = store_with_row(all_slow());
    store.read(|_| Ok(())).unwrap();
    store.close().unwrap();
    let events = log::events(|e| e.target.starts_with("larder"));
    assert!(events.len() >= 3, "opened, slow, closed");
    for event in events {
        assert_eq!(event.expect("db.system.name"), "sqlite", "{event:?}");
    }
}

/// The canary: what no event may have in it.
const SECRET: &str = "canary-5f2c9a71";

type Closure = fn(&WriteTx<'_>) -> Result<()>;

/// Each does something that larder has an event for, with the secret in a value.
const WRITES_WITH_THE_SECRET: &[(&str, Closure)] = &[
    ("canary: bound", |tx| {
        tx.execute("INSERT OR REPLACE INTO secrets VALUES (?1)", [SECRET])
            .map(drop)
    }),
    ("canary: constraint", |tx| {
        tx.execute("INSERT INTO secrets VALUES (?1), (?1)", [SECRET]).map(drop)
    }),
    ("canary: check", |tx| {
        tx.execute("INSERT INTO short VALUES (?1)", [SECRET]).map(drop)
    }),
    ("canary: raised", |tx| {
        tx.execute("INSERT INTO loud VALUES (?1)", [SECRET]).map(drop)
    }),
    ("canary: rolled back", |tx| {
        tx.execute("INSERT INTO fatal VALUES (?1)", [SECRET]).map(drop)
    }),
    ("canary: match", |tx| {
        let sql = "SELECT 1 FROM words WHERE words MATCH ?1";
        tx.exists(sql, [format!("\"\" {SECRET}:(")]).map(drop)
    }),
    ("canary: json", |tx| {
        tx.query_each("SELECT json_extract('{}', ?1)", [SECRET], |_| Ok(()))
    }),
    ("canary: literal", |tx| {
        tx.execute(&format!("INSERT OR REPLACE INTO secrets VALUES ('{SECRET}')"), [])
            .map(drop)
    }),
    ("canary: batch", |tx| {
        tx.execute_batch(&format!("DELETE FROM secrets; INSERT INTO secrets VALUES ('{SECRET}')"))
    }),
    ("canary: syntax", |tx| {
        tx.execute_batch(&format!("SELECT '{SECRET}' FROM \"{SECRET}\""))
    }),
    ("canary: refused", |tx| {
        tx.execute(&format!("ATTACH '{SECRET}' AS other"), []).map(drop)
    }),
    ("canary: application error", |_| Err(Error::app(SECRET))),
    ("canary: panic", |_| resume_unwind(Box::new(SECRET))),
    ("canary: leaked rows", |tx| {
        let mut statement = tx.prepare("SELECT ?1 UNION ALL SELECT ?1")?;
        let mut rows = statement.query([SECRET])?;
        assert!(rows.next()?.is_some());
        std::mem::forget(rows);
        Ok(())
    }),
    ("canary: deferred", |tx| {
        tx.execute("INSERT INTO child VALUES (?1)", [SECRET]).map(drop)
    }),
];

fn read_with_the_secret(conn: &Connection) -> Result<()> {
    let sql = format!("SELECT '{SECRET}', ?1");
    conn.query_row(&sql, [SECRET], |_| Ok(()))?;
    Ok(conn.query_row(&format!("SELECT \"{SECRET}\""), [], |_| Ok(()))?)
}

#[test]
fn no_event_contains_a_value() {
    let store = store_with_row(all_slow().wal_limit(64 * 1024).checkpoint_pages(1));
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE secrets(s TEXT PRIMARY KEY) STRICT;
                 CREATE TABLE short(s TEXT CHECK (length(s) < 3)) STRICT;
                 CREATE TABLE child(s TEXT REFERENCES secrets(s) DEFERRABLE INITIALLY DEFERRED) STRICT;
                 CREATE TABLE loud(s); CREATE TABLE fatal(s);
                 CREATE TRIGGER loud AFTER INSERT ON loud BEGIN SELECT RAISE(ABORT, new.s); END;
                 CREATE TRIGGER fatal AFTER INSERT ON fatal BEGIN SELECT RAISE(ROLLBACK, new.s); END;
                 CREATE VIRTUAL TABLE words USING fts5(word);",
            )
        })
        .unwrap();
    let mut failed = 0;
    for (label, job) in WRITES_WITH_THE_SECRET {
        // Alone, and in a group.
        for company in [0, 3] {
            let gate = Gate::hold(&store);
            let others: Vec<_> = (0..company).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
            let write = store.submit_with(labelled(label), *job).unwrap();
            gate.open();
            let result = catch_unwind(AssertUnwindSafe(|| write.wait()));
            failed += i32::from(!matches!(result, Ok(Ok(()))));
            others.into_iter().for_each(|other| drop(other.wait()));
        }
    }
    assert!(failed >= 20, "most of them fail: {failed}");
    let (running, is_running) = channel();
    store
        .read_with(ReadOptions::new().label("canary: pinning read"), |tx| {
            assert!(tx.exists("SELECT ?1 FROM t", [SECRET])?);
            running.send(()).unwrap();
            for _ in 0..5 {
                store.write(overwrite)?;
            }
            Ok(())
        })
        .unwrap();
    is_running.recv().unwrap();
    store
        .read_with(ReadOptions::new().label("canary: failing read"), |tx| {
            read_with_the_secret(tx)
        })
        .unwrap_err();
    store
        .read_with(ReadOptions::new().label("canary: application read"), |_| {
            Err::<(), _>(Error::app(SECRET))
        })
        .unwrap_err();
    store.close().unwrap();

    // The collector would have seen it ..
    info!(target: "test", secret = SECRET, "control");
    assert_eq!(log::events(|e| e.target == "test" && e.mentions(SECRET)).len(), 1);
    // .. and has seen the events that might have had it.
    for (label, _) in WRITES_WITH_THE_SECRET {
        assert_eq!(
            log::events(|e| e.message == "slow write" && e.field("site") == Some(label)).len(),
            2,
            "{label}"
        );
    }
    for label in [
        "canary: pinning read",
        "canary: failing read",
        "canary: application read",
    ] {
        slow(label);
    }
    let leaks = log::events(|e| e.target != "test" && e.mentions(SECRET));
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[test]
fn slow_events_are_rate_limited_but_all_counted() {
    let store = store_with_row(all_slow().slow_events_per_second(3));
    for _ in 0..50 {
        store.write_with(labelled("flood"), |_| Ok(())).unwrap();
        store
            .read_with(ReadOptions::new().label("flood of reads"), |_| Ok(()))
            .unwrap();
    }
    let stats = store.stats();
    assert!(stats.slow_writes >= 50 && stats.readers.slow_reads >= 50, "{stats:?}");
    // A second of its own for each: then one more is told, with what was left out.
    let told = |label: &str| log::events(|e| e.field("site") == Some(label) && e.message.starts_with("slow "));
    for label in ["flood", "flood of reads"] {
        let give_up = std::time::Instant::now() + Duration::from_secs(60);
        let suppressed = |event: &log::Event| event.expect("suppressed").parse::<u64>().unwrap();
        while told(label).iter().map(suppressed).sum::<u64>() < 10 {
            assert!(std::time::Instant::now() < give_up, "{:#?}", told(label));
            store.write_with(labelled("flood"), |_| Ok(())).unwrap();
            store
                .read_with(ReadOptions::new().label("flood of reads"), |_| Ok(()))
                .unwrap();
        }
        let told = told(label).len();
        let stats = store.stats();
        assert!(
            (told as u64) < stats.slow_writes.min(stats.readers.slow_reads),
            "{told}"
        );
    }
}

/// The event came before the snapshot had ended: a sink that blocked kept a connection, and the log from being emptied.
#[test]
fn blocking_subscriber_at_slow_read_holds_no_connection() {
    let store = store_with_row(all_slow().readers(1).read_queue_timeout(Duration::from_secs(60)));
    let (blocks, let_go) = log::hold("a read whose sink blocks");
    std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            store.read_with(ReadOptions::new().label("a read whose sink blocks"), |tx| {
                tx.query_row("SELECT count(*) FROM t", [], |_| Ok(()))
            })
        });
        blocks.recv().unwrap();
        let stats = store.stats().readers;
        assert_eq!((stats.in_use, stats.oldest_read), (0, None));
        assert!(store.read(|tx| tx.exists("SELECT 1 FROM t", [])).unwrap());
        drop(let_go);
        read.join().unwrap().unwrap();
    });
}

#[cfg(feature = "async")]
#[test]
fn blocking_subscriber_at_slow_read_delays_no_reply() {
    use crate::support::tasks::{Call, HeldRead, begin, finish};
    let store = store_with_row(all_slow().readers(1).read_queue_timeout(Duration::from_secs(60)));
    let (blocks, let_go) = log::hold("a task's read whose sink blocks");
    let held = HeldRead::hold(&store);
    // The last, so that its group has all that are left.
    let mut reads: Vec<Call<bool>> = (0..5)
        .map(|n| -> Call<bool> {
            let label = if n == 4 {
                "a task's read whose sink blocks"
            } else {
                "a neighbour of it"
            };
            Box::pin(store.read_async_with(ReadOptions::new().label(label), |tx| tx.exists("SELECT 1 FROM t", [])))
        })
        .collect();
    reads.iter_mut().for_each(begin);
    held.let_go();
    blocks.recv().unwrap();
    for read in reads {
        assert!(finish(read).unwrap());
    }
    assert!(store.read(|tx| tx.exists("SELECT 1 FROM t", [])).unwrap());
    drop(let_go);
}

#[test]
fn slow_write_past_its_limit_says_so() {
    let store = store_with_row(all_slow());
    let options = labelled("slow and past its limit").execution_timeout(Duration::from_millis(1));
    store
        .write_with(options, |_| {
            std::thread::sleep(Duration::from_millis(10));
            Ok(())
        })
        .unwrap_err();
    assert_eq!(slow("slow and past its limit").expect("error.type"), "interrupted");
}
