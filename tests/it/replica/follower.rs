//! A follower: its database is that of the primary, and each read is a state that the primary was in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use larder::replica::ltx::{Decoder, merge};
use larder::replica::storage::{Storage, Txids};
use larder::rusqlite::{Connection, OpenFlags};
use larder::{AlertKind, At, Error, Follower, FollowerOptions, OnDivergence, Options, Replica, Store, Token};

use super::litestream::{Litestream, put};
use super::lying::{Lie, Lying};
pub(super) use super::store::fill;
use super::store::{Place, wait_until};
use crate::support::child::{self, Child, PATIENCE, Task, listen, tell};
use crate::support::{RaiseOnDrop, log};

/// Longer than any test waits for it by itself.
const NEVER: Duration = Duration::from_secs(3600);

pub(super) fn copy(place: &Place) -> PathBuf {
    place.database().with_file_name("follower.db")
}

pub(super) fn of(place: &Place) -> FollowerOptions {
    FollowerOptions::of(place.replica().to_str().unwrap()).interval(Duration::from_millis(10))
}

pub(super) fn options() -> Options {
    Options::new().monitor_interval(Duration::from_millis(10))
}

pub(super) fn follow(place: &Place) -> Follower {
    options().follow(of(place), copy(place)).unwrap()
}

#[track_caller]
fn refused(place: &Place) -> String {
    let error = options().follow(of(place), copy(place)).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    error.to_string()
}

#[track_caller]
pub(super) fn catch_up(store: &Store, follower: &Follower) -> Token {
    let token = store.replica().unwrap().token();
    follower.wait_for(token, PATIENCE).unwrap();
    token
}

/// Without waiting for the lock of the spool, which the first one has.
#[test]
fn second_one_in_a_process_is_refused_as_already_open() {
    let place = Place::new();
    let already_open = |error: Error| assert!(matches!(error, Error::AlreadyOpen { closing: None, .. }), "{error}");
    let options = Options::new().busy_timeout(NEVER);
    let store = place.open();
    upload(&store, 3);
    already_open(
        options
            .clone()
            .replicate_to(place.to())
            .open(place.database())
            .unwrap_err(),
    );
    already_open(options.clone().follow(of(&place), place.database()).unwrap_err());
    let follower = follow(&place);
    already_open(options.clone().follow(of(&place), copy(&place)).unwrap_err());
    already_open(options.clone().replicate_to(place.to()).open(copy(&place)).unwrap_err());
    catch_up(&store, &follower);
    follower.close().unwrap();
    follow(&place).close().unwrap();
    store.close().unwrap();
}

/// Writes rows, and waits until they are in the replica.
pub(super) fn upload(store: &Store, rows: u32) -> u64 {
    fill(store, rows);
    store.replica().unwrap().flush(PATIENCE).unwrap()
}

pub(super) fn rows(follower: &Follower) -> u32 {
    follower
        .read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)))
        .unwrap()
}

/// Compares two closed databases, but for what SQLite sets in page 1.
#[track_caller]
fn compare(one: &Path, other: &Path) {
    let read = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[24..28].fill(0);
        bytes[92..100].fill(0);
        bytes
    };
    let (one, other) = (read(one), read(other));
    let size = match u16::from_be_bytes([one[16], one[17]]) {
        1 => 65536,
        size => usize::from(size),
    };
    let pages = (1..).zip(one.chunks(size).zip(other.chunks(size)));
    let differ: Vec<u32> = pages.filter(|(_, (one, other))| one != other).map(|(n, _)| n).collect();
    assert_eq!(
        (differ, one.len()),
        (vec![], other.len()),
        "pages of {size} bytes that differ"
    );
}

#[track_caller]
pub(super) fn close(follower: &Follower) {
    let report = follower.close().unwrap();
    assert!(report.wal_truncated && report.replicated.is_none(), "{report}");
}

/// Closes the primary, and the follower once it has everything; the two files are the same then.
fn close_both(place: &Place, store: Store, follower: &Follower) {
    super::store::close(store);
    wait_until("the last file", || follower.lag().txid == newest(place));
    close(follower);
    compare(&place.database(), &copy(place));
}

pub(super) fn resyncs(follower: &Follower) -> u64 {
    follower.stats().follower.unwrap().resyncs
}

#[test]
fn follower_reads_what_primary_writes() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 100);
    let follower = follow(&place);
    assert_eq!(rows(&follower), 100);
    for n in 1..=20 {
        fill(&store, 10);
        catch_up(&store, &follower);
        assert_eq!(rows(&follower), 100 + 10 * n);
    }
    // The follower may be faster than the answer to the upload.
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let (lag, stats) = (follower.lag(), follower.stats().follower.unwrap());
    assert_eq!(lag.txid, store.replica().unwrap().uploaded());
    assert_eq!(
        (stats.txid, stats.resyncs, stats.problem.as_deref()),
        (lag.txid, 0, None)
    );
    assert!(
        stats.pages > 0 && stats.transactions > 0 && stats.bytes > 0,
        "{stats:?}"
    );
    assert!(lag.committed <= std::time::SystemTime::now());
    assert!(lag.to_string().contains(&format!("{:016x}", lag.txid)), "{lag}");
    super::store::close(store);
    close(&follower);
    compare(&place.database(), &copy(&place));
}

/// Opened again, it goes on from where it was, and applies nothing twice.
#[test]
fn follower_goes_on_after_closing() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 50);
    close(&follow(&place));
    let first = store.replica().unwrap().uploaded();
    let last = upload(&store, 50);
    let follower = follow(&place);
    let stats = follower.stats().follower.unwrap();
    assert_eq!((stats.transactions, stats.resyncs), (last - first, 0), "{stats:?}");
    assert_eq!(rows(&follower), 100);
    drop(follower);
    let follower = follow(&place);
    assert_eq!(follower.stats().follower.unwrap().transactions, 0);
    super::store::close(store);
    close(&follower);
    compare(&place.database(), &copy(&place));
}

#[cfg(feature = "async")]
#[test]
fn follower_is_read_as_a_store_is() {
    use futures_executor::block_on;
    use larder::ReadOptions;

    let place = Place::new();
    let store = place.open();
    upload(&store, 7);
    let follower = options()
        .slow_read_threshold(Duration::ZERO)
        .follow(of(&place), copy(&place))
        .unwrap();
    let count = |tx: &larder::ReadTx<'_>| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u32>(0));
    assert_eq!(block_on(follower.read_async(count)).unwrap(), 7);
    let labelled = ReadOptions::new().label("counts the entries");
    assert_eq!(follower.read_with(labelled, count).unwrap(), 7);
    wait_until("both are counted", || {
        let stats = follower.stats();
        let is_named = stats.call_sites.iter().any(|site| site.site == "counts the entries");
        is_named && stats.readers.slow_reads >= 2
    });
    let each = |sum: &mut i64, (n,): (i64,)| -> larder::Result<()> {
        *sum += n;
        Ok(())
    };
    let mut sums = [0; 3];
    let select = "SELECT n FROM entry ORDER BY n";
    follower
        .query_each(select, [], |row: (i64,)| each(&mut sums[0], row))
        .unwrap();
    let (give, told) = std::sync::mpsc::channel();
    let asynchronous = follower.query_each_async(select, [], move |(n,): (i64,)| {
        give.send(n).unwrap();
        Ok::<_, Error>(())
    });
    block_on(asynchronous).unwrap();
    sums[1] = told.iter().sum();
    let mut stream = follower.read_stream::<(i64,)>(select, []);
    while let Some(row) = block_on(stream.next()) {
        each(&mut sums[2], row.unwrap()).unwrap();
    }
    assert!(sums[0] > 0 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    let insert = "INSERT INTO entry(n) VALUES (99) RETURNING n";
    let error = follower
        .read(|tx| tx.query_row(insert, [], |row| row.get::<_, u32>(0)))
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let mut endless = follower.read_stream::<(i64,)>("SELECT a.n FROM entry a, entry b, entry c, entry d, entry e", []);
    block_on(endless.next()).unwrap().unwrap();
    assert!(block_on(follower.close_async()).unwrap().wal_truncated);
    let error = block_on(async {
        loop {
            if let Err(error) = endless.next().await.expect("it does not end well") {
                break error;
            }
        }
    });
    assert!(matches!(error, Error::Closed), "{error:?}");
    assert!(matches!(follower.read(count).unwrap_err(), Error::Closed));
    assert!(matches!(
        follower.wait_for(store.replica().unwrap().token(), PATIENCE),
        Ok(()) | Err(Error::Closed)
    ));
}

/// A new table, another schema, and other statistics of the query planner reach connections that have read before.
#[test]
fn schema_and_statistics_reach_open_readers() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 100);
    let follower = follow(&place);
    let plan = |follower: &Follower| {
        let explained = "EXPLAIN QUERY PLAN SELECT * FROM t WHERE a = 1 AND b = 1";
        follower
            .read(|tx| tx.query_row(explained, [], |row| row.get::<_, String>(3)))
            .unwrap()
    };
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(a, b); CREATE INDEX by_a ON t(a); CREATE INDEX by_b ON t(b);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                 INSERT INTO t SELECT i, 1 FROM n; ANALYZE;",
            )
        })
        .unwrap();
    catch_up(&store, &follower);
    assert!(plan(&follower).contains("by_a"), "{}", plan(&follower));
    store
        .write(|tx| tx.execute_batch("UPDATE t SET b = a, a = 1; ANALYZE;"))
        .unwrap();
    catch_up(&store, &follower);
    assert!(plan(&follower).contains("by_b"), "{}", plan(&follower));
    store
        .write(|tx| tx.execute_batch("ALTER TABLE t RENAME COLUMN b TO c"))
        .unwrap();
    catch_up(&store, &follower);
    let sum = |column: &str| {
        let sql = format!("SELECT total({column}) FROM t");
        follower.read(|tx| tx.query_row(&sql, [], |row| row.get::<_, f64>(0)))
    };
    assert_eq!(sum("c").unwrap(), 2_001_000.0);
    assert!(sum("b").is_err());
}

#[test]
fn token_names_what_is_committed() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 1);
    let replica = store.replica().unwrap();
    let follower = options().follow(of(&place).interval(NEVER), copy(&place)).unwrap();
    // Nothing is to come, and nothing is waited for.
    let idle = replica.token();
    assert_eq!(idle.txid(), replica.uploaded());
    follower.wait_for(idle, Duration::ZERO).unwrap();
    let header = idle.to_string();
    assert_eq!(header.parse::<Token>().unwrap(), idle);
    for _ in 0..20 {
        fill(&store, 1);
        let token = replica.token();
        assert_eq!(token, replica.token().to_string().parse().unwrap());
        let uploaded = replica.flush(PATIENCE).unwrap();
        assert_eq!(uploaded, token.txid(), "it comes without a further write");
        follower.wait_for(token, PATIENCE).unwrap();
    }
    assert_eq!(rows(&follower), 21);
    // Of another replica.
    let other = Place::new();
    let others = other.open();
    upload(&others, 1);
    let error = follower
        .wait_for(others.replica().unwrap().token(), PATIENCE)
        .unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    // What never comes.
    let later: Token = format!("{}-{:016x}", &header[..16], 1u64 << 40).parse().unwrap();
    let error = follower.wait_for(later, Duration::from_millis(1)).unwrap_err();
    assert!(
        matches!(error, Error::Behind { wanted, .. } if wanted == 1 << 40),
        "{error}"
    );
    assert!(error.is_retryable());
}

/// The primary's load: transfers that keep the sum, rows that come and go, DDL and VACUUM. `generation` counts up.
fn load(store: &Store, rounds: u32) {
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE generation(n INTEGER);
                 INSERT INTO generation VALUES (0);
                 CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, note TEXT);
                 CREATE INDEX by_balance ON account(balance);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                 INSERT INTO account SELECT i, 100, hex(randomblob(50)) FROM n;
                 CREATE TABLE bulk(data BLOB);",
            )
        })
        .unwrap();
    for round in 0..rounds {
        store
            .write(move |tx| {
                tx.execute("UPDATE generation SET n = n + 1", [])?;
                for n in 0..20 {
                    let (from, to) = ((round * 31 + n) % 500 + 1, (round * 17 + 7 * n) % 500 + 1);
                    tx.execute("UPDATE account SET balance = balance - 1 WHERE id = ?1", [from])?;
                    tx.execute("UPDATE account SET balance = balance + 1 WHERE id = ?1", [to])?;
                }
                match round % 10 {
                    3 => tx.execute_batch(&format!("CREATE TABLE extra_{round} AS SELECT * FROM account")),
                    6 => tx.execute_batch(&format!("DROP TABLE extra_{}", round - 3)),
                    9 => tx.execute("DELETE FROM bulk", []).map(drop),
                    _ => {
                        (0..40).try_for_each(|_| tx.execute("INSERT INTO bulk VALUES (randomblob(3000))", []).map(drop))
                    }
                }
            })
            .unwrap();
        if round % 50 == 49 {
            store.vacuum().run().unwrap();
        }
    }
}

/// What one snapshot shows: the generation, if it is not torn.
fn look(conn: &Connection, checks: bool) -> u64 {
    conn.execute_batch("BEGIN").unwrap();
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let generation = number("SELECT n FROM generation");
    assert_eq!(number("SELECT sum(balance) FROM account NOT INDEXED"), 50_000);
    assert_eq!(
        number("SELECT sum(balance) FROM account INDEXED BY by_balance WHERE balance IS NOT NULL"),
        50_000
    );
    if checks {
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
    assert_eq!(number("SELECT n FROM generation"), generation, "one snapshot");
    conn.execute_batch("COMMIT").unwrap();
    generation.unsigned_abs()
}

/// Four threads and another process read meanwhile: no snapshot is torn, none is older than the one before it.
#[test]
fn snapshots_are_whole_and_in_order() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 1);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let follower = options()
        .checkpoint_pages(100)
        .follow(of(&place).interval(Duration::ZERO), copy(&place))
        .unwrap();
    let (is_over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut outside = child::has_python().then(|| {
        let script = "
conn = sqlite3.connect('file:' + args[0] + '?mode=ro', uri=True, timeout=60, isolation_level=None)
last = 0
tell('ready')
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    conn.execute('BEGIN')
    if not conn.execute(\"SELECT 1 FROM sqlite_schema WHERE name = 'generation'\").fetchone():
        conn.execute('COMMIT')
        continue
    (now,) = conn.execute('SELECT n FROM generation').fetchone()
    (total,) = conn.execute('SELECT sum(balance) FROM account').fetchone()
    (check,) = conn.execute('PRAGMA integrity_check').fetchone()
    conn.execute('COMMIT')
    assert total == 50000 and check == 'ok' and now >= last, (total, check, now, last)
    last = now
tell(last)
";
        Child::python(script, &[copy(&place).to_str().unwrap()])
    });
    if let Some(outside) = &outside {
        outside.expect("ready");
    }
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'generation'";
    thread::scope(|scope| {
        let _over = RaiseOnDrop(&is_over);
        for reader in 0..4 {
            let (follower, is_over, looks) = (&follower, &is_over, &looks);
            let path = copy(&place);
            scope.spawn(move || {
                // One of them beside the pool, as another program.
                let own =
                    (reader == 3).then(|| Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap());
                let mut last = 0;
                while !is_over.load(Relaxed) {
                    let now = match &own {
                        Some(conn) => {
                            conn.busy_timeout(PATIENCE).unwrap();
                            let is_there = conn.query_row(there, [], |row| row.get::<_, u32>(0)).unwrap() == 1;
                            if is_there { look(conn, true) } else { 0 }
                        }
                        None => follower
                            .read(|tx| {
                                if tx.query_row(there, [], |row| row.get::<_, u32>(0))? == 0 {
                                    return Ok(0);
                                }
                                let number = |sql: &str| tx.query_row(sql, [], |row| row.get::<_, i64>(0));
                                let generation = number("SELECT n FROM generation")?;
                                assert_eq!(number("SELECT sum(balance) FROM account NOT INDEXED")?, 50_000);
                                let indexed = "SELECT sum(balance) FROM account INDEXED BY by_balance
                                               WHERE balance IS NOT NULL";
                                assert_eq!(number(indexed)?, 50_000);
                                assert_eq!(number("SELECT n FROM generation")?, generation);
                                Ok(generation.unsigned_abs())
                            })
                            .unwrap(),
                    };
                    assert!(now >= last, "{now} after {last}");
                    last = now;
                    looks.fetch_add(1, Relaxed);
                }
            });
        }
        load(&store, 300);
        catch_up(&store, &follower);
    });
    if let Some(mut outside) = outside.take() {
        outside.say("end");
        assert!(outside.line().parse::<u64>().unwrap() <= 300);
        outside.finish();
    }
    println!("{} snapshots, {}", looks.into_inner(), follower.lag());
    let stats = follower.stats();
    let following = stats.follower.unwrap();
    assert_eq!((following.resyncs, following.problem), (0, None));
    assert!(stats.checkpoints > 0, "the log was moved meanwhile");
    close_both(&place, store, &follower);
}

pub(super) fn newest(place: &Place) -> u64 {
    place.transactions().last().unwrap().header.max_txid
}

/// A checkpoint of another process changes nothing; a commit of another process ends following, and nothing is mixed.
#[test]
fn foreign_commit_ends_following() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let follower = follow(&place);
    let foreign = Connection::open(copy(&place)).unwrap();
    foreign.busy_timeout(PATIENCE).unwrap();
    foreign
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    fill(&store, 10);
    catch_up(&store, &follower);
    assert_eq!(rows(&follower), 20);
    assert!(follower.stopped().is_none());
    // The primary replaces the change, so nothing of it is left.
    let write = "UPDATE entry SET noise = x'01' WHERE n = 1";
    foreign.execute(&write.replace("01", "02"), []).unwrap();
    store.write(move |tx| tx.execute(write, [])).unwrap();
    catch_up(&store, &follower);
    let noise = "SELECT noise FROM entry WHERE n = 1";
    let noise = follower
        .read(|tx| tx.query_row(noise, [], |row| row.get::<_, Vec<u8>>(0)))
        .unwrap();
    assert_eq!((noise, resyncs(&follower)), (vec![1], 1));
    assert!(follower.stopped().is_none());
    foreign.execute(&write.replace("01", "02"), []).unwrap();
    fill(&store, 10);
    let error = follower
        .wait_for(store.replica().unwrap().token(), PATIENCE)
        .unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    let told = error.to_string();
    assert!(
        told.contains("another program has written to it") && told.contains("Move the file"),
        "{told}"
    );
    assert!(follower.stopped().is_some());
    assert_eq!(rows(&follower), 20, "reads go on");
    wait_until("the alert", || {
        let alerts = follower.stats().alerts;
        alerts.iter().any(|alert| alert.kind == AlertKind::FollowerBehind)
    });
    let path = copy(&place).display().to_string();
    let stopped = log::wait_for(|event| event.message.contains("the follower has stopped") && event.mentions(&path));
    assert_eq!(stopped.target, "larder::follow");
    drop((foreign, follower));
    assert!(refused(&place).contains("Move the file"));
}

/// What was changed while it was closed, in a page that no transaction since has.
#[test]
fn change_of_closed_database_is_noticed() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 300);
    close(&follow(&place));
    let change = |sql: &str| {
        let conn = Connection::open(copy(&place)).unwrap();
        conn.execute_batch(sql).unwrap();
    };
    // A program that reads, and moves the log as it closes, is none.
    change("BEGIN; SELECT count(*) FROM entry; COMMIT");
    upload(&store, 1);
    let follower = follow(&place);
    assert_eq!(resyncs(&follower), 0);
    close(&follower);
    change("UPDATE entry SET noise = x'00' WHERE n = 5");
    upload(&store, 1);
    let told = refused(&place);
    assert!(
        told.contains("its page ") && told.contains("Move the file away"),
        "{told}"
    );
    let before = fs::read(copy(&place)).unwrap();
    assert!(refused(&place).contains("its page "));
    assert!(fs::read(copy(&place)).unwrap() == before, "it is left as it is");
}

/// The files of an open follower are gone: nothing is applied any more, which a health check and all who wait see.
#[test]
fn follower_whose_files_were_removed_stops() {
    for ending in ["", "-wal", "-shm"] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 10);
        let follower = follow(&place);
        upload(&store, 10);
        let token = catch_up(&store, &follower);
        // The primary writes nothing meanwhile.
        let replica = token.to_string()[..16].to_owned();
        let later: Token = format!("{replica}-{:016x}", token.txid() + 1000).parse().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| follower.wait_for(later, PATIENCE));
            let mut file = copy(&place).into_os_string();
            file.push(ending);
            fs::remove_file(file).unwrap();
            let error = waiter.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        });
        let stopped = follower.stopped().unwrap();
        assert!(matches!(stopped, Error::Poisoned { .. }), "{stopped}");
        assert!(stopped.to_string().contains("was deleted or renamed"), "{stopped}");
        wait_until("the task has ended", || follower.stats().follower.unwrap().has_stopped);
        let path = copy(&place).display().to_string();
        let told = log::wait_for(|event| event.message.contains("the follower has stopped") && event.mentions(&path));
        assert_eq!(told.target, "larder::follow");
        assert!(told.expect("error").contains("was deleted or renamed"), "{told:?}");
        upload(&store, 10);
        let error = follower
            .wait_for(store.replica().unwrap().token(), PATIENCE)
            .unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        drop(follower);
        if ending.is_empty() {
            assert_eq!(rows(&follow(&place)), 30, "it is restored");
        }
    }
}

fn cut(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(8192).unwrap();
}

/// What SQLite does not take for a sound database any more, closed or after a kill: the way out is another restore.
#[test]
fn unreadable_database_is_refused_with_the_way_out() {
    let garbage = |path: &Path| fs::write(path, [7; 40960]).unwrap();
    for change in [&garbage as &dyn Fn(&Path), &|path| cut(path)] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 300);
        close(&follow(&place));
        change(&copy(&place));
        let told = refused(&place);
        assert!(told.contains("Move the file away"), "{told}");
        assert_eq!(refused(&place), told);
        fs::remove_file(copy(&place)).unwrap();
        assert_eq!(rows(&follow(&place)), 300);
    }
}

/// The follower's own file is sound.
#[test]
fn other_database_of_on_connect_is_named_as_it_is() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 3);
    close(&follow(&place));
    let garbage = copy(&place).with_file_name("lookup.db");
    fs::write(&garbage, [7; 40960]).unwrap();
    let attach = move |conn: &Connection, _: larder::Role| {
        conn.execute("ATTACH ?1 AS lookup", [garbage.to_str()])?;
        Ok(conn.query_row("SELECT count(*) FROM lookup.sqlite_schema", [], |_| Ok(()))?)
    };
    let error = options()
        .on_connect(attach)
        .follow(of(&place), copy(&place))
        .unwrap_err();
    assert!(!matches!(error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("on_connect"), "{error}");
    assert_eq!(rows(&follow(&place)), 3);
}

/// The file was cut after a kill, and the log has none of the pages: they are not believed to be there.
#[test]
fn cut_file_beside_its_log_is_noticed() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 300);
    let mut child = start(&place, "follows");
    child.say("go on");
    store
        .write(|tx| tx.execute("DELETE FROM entry WHERE n = 300", []))
        .unwrap();
    let txid = store.replica().unwrap().flush(PATIENCE).unwrap();
    while child.line().parse::<u64>().unwrap() < txid {}
    drop(child.kill());
    cut(&copy(&place));
    let told = refused(&place);
    assert!(told.contains("Move the file away"), "{told}");
}

/// After the follower has looked at the file, and before its first transaction.
#[test]
fn change_during_opening_is_noticed() {
    for is_behind in [false, true] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 300);
        close(&follow(&place));
        if is_behind {
            upload(&store, 1);
        }
        let (path, is_done) = (copy(&place), AtomicBool::new(false));
        let change = move |_: &Connection, _: larder::Role| {
            if !is_done.swap(true, Relaxed) {
                let conn = Connection::open(&path)?;
                conn.execute("UPDATE entry SET noise = x'00' WHERE n = 5", [])?;
                // The log is as it was.
                conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            }
            Ok(())
        };
        let error = options()
            .on_connect(change)
            .follow(of(&place), copy(&place))
            .unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        assert!(error.to_string().contains("as the follower opened it"), "{error}");
    }
}

#[test]
fn other_files_are_refused() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    // A database that no follower has made.
    drop(Store::open(copy(&place)).unwrap());
    assert!(refused(&place).contains("it is not as a follower has left it"));
    fs::remove_file(copy(&place)).unwrap();
    // Another program has the lock of its spool.
    let spool = super::store::spool_of(&copy(&place));
    fs::create_dir_all(&spool).unwrap();
    let lock = fs::File::create(spool.join("lock")).unwrap();
    lock.lock().unwrap();
    let impatient = options().busy_timeout(Duration::from_millis(1));
    let error = impatient.follow(of(&place), copy(&place)).unwrap_err();
    assert!(error.to_string().contains("-replica"), "{error}");
    drop(lock);
    // An empty replica.
    let empty = FollowerOptions::of(place.replica().with_file_name("empty").to_str().unwrap());
    let error = options().follow(empty, copy(&place)).unwrap_err();
    assert!(error.to_string().contains("the replica has no files"), "{error}");
    assert!(!copy(&place).exists());
    // A path that no store takes. Nothing is made there.
    let missing = place.replica().with_file_name("missing");
    for path in [Path::new(""), Path::new(":memory:"), &missing.join("follower.db")] {
        let error = options().follow(of(&place), path).unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
        let other = place.replica().with_file_name("others");
        let error = Options::new()
            .replicate_to(other.to_str().unwrap())
            .open(path)
            .unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
        assert!(!other.exists());
    }
    assert!(!missing.exists() && !Path::new(":memory:-replica").exists());
    drop(follow(&place));
    let error = options()
        .follow(of(&place).interval(2 * NEVER), copy(&place))
        .unwrap_err();
    assert!(matches!(error, Error::Options { option: "follow", .. }), "{error}");
}

/// The old primary's file, after it closed with everything uploaded; and after it has committed something since.
#[test]
fn former_primary_follows_if_it_has_nothing_else() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    assert_eq!(store.close().unwrap().replicated, Some(true));
    let follower = options().follow(of(&place), place.database()).unwrap();
    assert_eq!(rows(&follower), 10);
    close(&follower);
    // As a primary again, on the follower's file.
    let store = place.open();
    fill(&store, 10);
    super::store::close(store);
    let plain = Store::open(place.database()).unwrap();
    fill(&plain, 1);
    plain.close().unwrap();
    let error = options().follow(of(&place), place.database()).unwrap_err();
    assert!(
        error.to_string().contains("it may have what the replica lacks"),
        "{error}"
    );
}

/// The replica was emptied, and another database is replicated there.
#[test]
fn other_lineage_ends_following() {
    for rows in [1, 30] {
        let place = Place::new();
        let store = place.open();
        for _ in 0..10 {
            upload(&store, 1);
        }
        super::store::close(store);
        let follower = options().follow(of(&place).interval(NEVER), copy(&place)).unwrap();
        fs::remove_dir_all(place.replica()).unwrap();
        let other = Place::new();
        let others = Options::new().replicate_to(place.to()).open(other.database()).unwrap();
        for _ in 0..rows {
            upload(&others, 1);
        }
        if rows > 10 {
            let token = others.replica().unwrap().token();
            let numberless: Token = format!("{:016x}-{:016x}", 0, token.txid()).parse().unwrap();
            let error = follower.wait_for(numberless, PATIENCE).unwrap_err();
            assert!(matches!(error, Error::Diverged { .. }), "{error}");
            assert!(
                error.to_string().contains("another database was replicated there"),
                "{error}"
            );
        }
        drop(follower);
        assert!(refused(&place).contains("another database was replicated there"));
    }
}

/// A damaged file is named, and the follower stays where it is, until another file has its transactions.
#[test]
fn damaged_file_is_named_and_replaced_by_others() {
    let place = Place::new();
    let store = place.open();
    let first = upload(&store, 10);
    let follower = options().follow(of(&place).interval(NEVER), copy(&place)).unwrap();
    let (damaged, last) = (upload(&store, 10), upload(&store, 10));
    let name = format!("{damaged:016x}-{damaged:016x}.ltx");
    let path = place.replica().join("ltx/0").join(&name);
    let whole = fs::read(&path).unwrap();
    let files: Vec<Vec<u8>> = place.transactions().iter().map(super::File::encode).collect();
    let token = store.replica().unwrap().token();
    let behind = |contents: Option<&[u8]>, reason: &str| {
        match contents {
            Some(contents) => fs::write(&path, contents).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        wait_until(reason, || {
            let error = follower.wait_for(token, Duration::from_millis(50)).unwrap_err();
            let Error::Behind {
                reason: told, reached, ..
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!(*reached, first, "it stays where it is");
            told.as_ref()
                .is_some_and(|told| told.contains(reason) && told.contains(&format!("{damaged:016x}")))
        });
        assert_eq!(rows(&follower), 10);
    };
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    behind(Some(&flipped), &name);
    behind(None, "no file has transaction");
    // A list of the levels finds the merged file.
    let merged = |from: u64, to: u64| {
        let inputs = files[from as usize - 1..to as usize].iter();
        let inputs = inputs.map(|file| Decoder::new(file.as_slice()).unwrap()).collect();
        let (bytes, _) = merge(inputs, Vec::new()).unwrap();
        (*Decoder::new(bytes.as_slice()).unwrap().header(), bytes)
    };
    let (header, bytes) = merged(damaged, last);
    put(&place.replica(), 1, &header, &bytes);
    follower.wait_for(token, PATIENCE).unwrap();
    assert_eq!((rows(&follower), resyncs(&follower)), (30, 0));
}

/// Opening says which file it is, and leaves the database as it is.
#[test]
fn opening_names_the_damaged_file() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    close(&follow(&place));
    let damaged = upload(&store, 10);
    let name = format!("{damaged:016x}-{damaged:016x}.ltx");
    let path = place.replica().join("ltx/0").join(&name);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = options().follow(of(&place), copy(&place)).unwrap_err();
    assert!(matches!(error, Error::Replica { .. }), "{error}");
    assert!(error.to_string().contains(&name), "{error}");
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(rows(&follow(&place)), 20);
}

/// What was deleted by retention is in a snapshot alone.
#[test]
fn gap_is_bridged_by_snapshot() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 200);
    close(&follow(&place));
    for n in 0..10 {
        store
            .write(move |tx| {
                tx.execute_batch("DELETE FROM entry WHERE n % 1000 > 300; CREATE TABLE IF NOT EXISTS later(n)")?;
                tx.execute("INSERT INTO later VALUES (?1)", [n]).map(drop)
            })
            .unwrap();
        store.replica().unwrap().flush(PATIENCE).unwrap();
    }
    store.vacuum().run().unwrap();
    super::store::close(store);
    let files: Vec<Vec<u8>> = place.transactions().iter().map(super::File::encode).collect();
    let inputs = files
        .iter()
        .map(|file| Decoder::new(file.as_slice()).unwrap())
        .collect();
    let (bytes, _) = merge(inputs, Vec::new()).unwrap();
    let header = *Decoder::new(bytes.as_slice()).unwrap().header();
    put(&place.replica(), 9, &header, &bytes);
    // The newest stays.
    for txid in 1..header.max_txid {
        fs::remove_file(place.replica().join(format!("ltx/0/{txid:016x}-{txid:016x}.ltx"))).unwrap();
    }
    let follower = follow(&place);
    assert_eq!((follower.lag().txid, resyncs(&follower)), (header.max_txid, 1));
    close(&follower);
    compare(&place.database(), &copy(&place));
}

/// The child follows until it is killed.
pub(crate) fn child(task: &Task) {
    let [replica, path] = task.args.as_slice() else {
        panic!()
    };
    let replica = FollowerOptions::of(replica).interval(Duration::ZERO);
    let options = match task.role.as_str() {
        "follows" => options(),
        "moves its log" => options().checkpoint_pages(1),
        other => panic!("{other}"),
    };
    let follower = options.follow(replica, path).unwrap();
    // Before the parent writes: a transaction may be applied while another one is told.
    let mut told = follower.lag().txid;
    tell("open");
    match listen().as_str() {
        "position cannot be written" => {
            fs::remove_dir_all(format!("{path}-replica/tmp")).unwrap();
            if task.role == "follows" {
                keep_log(follower.clone());
            }
            tell("so be it");
        }
        "go on" => {}
        other => panic!("{other}"),
    }
    loop {
        wait_until("another transaction", || follower.lag().txid > told);
        told = follower.lag().txid;
        tell(told);
    }
}

/// Reads one snapshot until the end. A follower that is idle for a second moves its log, and the next transaction would
/// begin it again.
fn keep_log(follower: Follower) {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        follower.read(|tx| -> larder::Result<()> {
            tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u32>(0))?;
            tell.send(()).unwrap();
            loop {
                thread::park();
            }
        })
    });
    told.recv().unwrap();
}

fn start(place: &Place, role: &str) -> Child {
    let args = [place.replica(), copy(place)].map(|path| path.to_str().unwrap().to_owned());
    let child = Child::start("replica::follower", role, &[&args[0], &args[1]]);
    child.expect("open");
    child
}

/// Killed between the COMMIT and its note of where it is: all from the last note on is applied once more.
#[test]
fn commit_without_position_is_applied_again() {
    for (role, killed_with) in [("follows", false), ("moves its log", false), ("follows", true)] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 100);
        let mut child = start(&place, role);
        child.say("position cannot be written");
        child.expect("so be it");
        let mut applied = BTreeSet::new();
        for n in 0..20 {
            store
                .write(move |tx| tx.execute("UPDATE entry SET noise = randomblob(900) WHERE n % 20 = ?1", [n]))
                .unwrap();
            let txid = store.replica().unwrap().flush(PATIENCE).unwrap();
            while applied.last().is_none_or(|last| *last < txid) {
                applied.insert(child.line().parse::<u64>().unwrap());
            }
        }
        drop(child.kill());
        if killed_with {
            // Another program opens the database, moves the log, and closes.
            let conn = Connection::open(copy(&place)).unwrap();
            let _: u32 = conn
                .query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
                .unwrap();
        }
        upload(&store, 1);
        let follower = follow(&place);
        assert!(follower.stopped().is_none());
        if role == "follows" && !killed_with {
            assert_eq!(resyncs(&follower), 0, "the log shows it");
        }
        close_both(&place, store, &follower);
    }
}

/// SIGKILL at any moment while it applies: the next opening goes on, and has every row.
#[test]
fn killed_follower_goes_on() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 20);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = RaiseOnDrop(&is_over);
        scope.spawn(|| {
            let mut n = 0;
            while !is_over.load(Relaxed) {
                n += 1;
                fill(&store, 5);
                if n % 100 == 0 {
                    store.vacuum().run().unwrap();
                }
            }
        });
        for round in 0..12 {
            let mut child = start(&place, ["follows", "moves its log"][round % 2]);
            child.say("go on");
            for _ in 0..=round % 5 {
                child.line();
            }
            thread::sleep(Duration::from_micros(700 * round as u64));
            child.kill();
            let conn = Connection::open(copy(&place)).unwrap();
            let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
            // The last to close moves the log, unless it is left as a killed process leaves it.
            if round % 3 == 0 {
                std::mem::forget(conn);
            }
        }
    });
    let follower = follow(&place);
    catch_up(&store, &follower);
    let here: u32 = store
        .read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(rows(&follower), here);
    close_both(&place, store, &follower);
}

/// The first look is a list. One that is out of date shows less than the follower has.
#[test]
fn list_that_is_out_of_date_stops_no_follower() {
    let lying = Lying::new(Lie::Hides);
    Storage::set_memory("hides", Arc::clone(&lying) as _);
    let folder = tempfile::tempdir().unwrap();
    let store = Options::new()
        .replicate_to(super::store::unmerged("memory:hides"))
        .open(folder.path().join("app.db"))
        .unwrap();
    let follow = || {
        let replica = FollowerOptions::of("memory:hides").interval(Duration::from_millis(10));
        options().follow(replica, folder.path().join("follower.db")).unwrap()
    };
    let last = (1..=5).fold(0, |_, n| upload(&store, n));
    close(&follow());
    for txid in 2..=last {
        lying.hide(format!("ltx/0/{}", Txids::one(txid).file_name()), u32::MAX);
    }
    let follower = follow();
    assert_eq!((rows(&follower), follower.lag().txid), (15, last));
    upload(&store, 6);
    catch_up(&store, &follower);
    assert_eq!(rows(&follower), 21);
    close(&follower);
    store.close().unwrap();
}

/// Followers of many databases share the thread for requests.
#[test]
fn many_followers_share_their_threads() {
    let places: Vec<Place> = (0..20).map(|_| Place::new()).collect();
    let stores: Vec<Store> = places.iter().map(Place::open).collect();
    for store in &stores {
        upload(store, 3);
    }
    let followers: Vec<Follower> = places.iter().map(follow).collect();
    for (store, follower) in stores.iter().zip(&followers) {
        fill(store, 4);
        catch_up(store, follower);
        assert_eq!(rows(follower), 7);
    }
    if let Ok(tasks) = fs::read_dir("/proc/self/task") {
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let names: Vec<String> = names.map(|name| name.trim_end().to_owned()).collect();
        let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
        assert_eq!(count("larder-replica"), 1, "{names:?}");
        assert!(count("larder-ltx") <= 6, "{names:?}");
    }
}

/// Pages of other sizes, and files that give back their free pages with each commit.
#[test]
fn follower_has_every_page_size() {
    for (page_size, auto_vacuum) in [
        (512, larder::AutoVacuum::Full),
        (4096, larder::AutoVacuum::Full),
        (65536, larder::AutoVacuum::None),
    ] {
        let place = Place::new();
        let store = place
            .options()
            .page_size(page_size)
            .auto_vacuum(auto_vacuum)
            .open(place.database())
            .unwrap();
        upload(&store, 50);
        let follower = follow(&place);
        for n in 0..20 {
            fill(&store, 60);
            store
                .write(move |tx| tx.execute("DELETE FROM entry WHERE n % 20 <> ?1", [n]))
                .unwrap();
            catch_up(&store, &follower);
        }
        close_both(&place, store, &follower);
    }
}

/// The old primary still runs: it is fenced, and another follower goes on with the new one.
#[test]
fn replica_that_was_begun_again_is_not_mixed() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    upload(&store, 10);
    let follower = follow(&place);
    catch_up(&store, &follower);
    let at = follower.lag().txid;
    close(&follower);
    store.close().unwrap();
    fs::remove_dir_all(place.replica().join("ltx")).unwrap();
    let again = Options::new().replicate_to(place.to().on_divergence(OnDivergence::Rebase));
    let store = again.open(place.database()).unwrap();
    while upload(&store, 1) <= at {}
    let error = options().follow(of(&place), copy(&place)).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("begun again"), "{error}");
}

#[test]
fn primary_that_leaves_full_auto_vacuum_is_followed() {
    let place = Place::new();
    let full = place.options().auto_vacuum(larder::AutoVacuum::Full);
    let store = full.open(place.database()).unwrap();
    upload(&store, 500);
    let follower = follow(&place);
    let position = follower.lag().txid;
    close(&follower);
    let beside = Connection::open(place.database()).unwrap();
    beside.busy_timeout(PATIENCE).unwrap();
    beside.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").unwrap();
    fill(&store, 2000);
    beside.execute("DELETE FROM entry WHERE n % 1000 > 300", []).unwrap();
    let free: u32 = beside.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap();
    assert!(free > 0, "there are pages that FULL would give back");
    store.replica().unwrap().flush(PATIENCE).unwrap();
    // All of it is one transaction here.
    let follower = follow(&place);
    assert!(follower.lag().txid > position);
    assert!(follower.check().run().unwrap().is_ok());
    assert_eq!(
        rows(&follower),
        store
            .read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u32>(0)))
            .unwrap()
    );
    drop(beside);
    close_both(&place, store, &follower);
}

/// The sizes of the database after each commit in its log, in pages.
fn sizes_in_log(database: &Path) -> Vec<u32> {
    let log = fs::read(database.with_file_name("follower.db-wal")).unwrap();
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let frame = 24 + number(&log[8..12]) as usize;
    let frames = log[32..]
        .chunks_exact(frame)
        .filter(|frame| frame[8..16] == log[16..24]);
    frames
        .map(|frame| number(&frame[4..8]))
        .filter(|size| *size > 0)
        .collect()
}

/// The database grows and shrinks while the follower is closed. In the end it is larger than it was, or as large.
#[test]
fn database_that_grew_and_shrank_is_cut() {
    for kept in [100, 300] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 100);
        store.vacuum().run().unwrap();
        upload(&store, 0);
        let follower = follow(&place);
        catch_up(&store, &follower);
        close(&follower);
        let before = fs::metadata(copy(&place)).unwrap().len() / 4096;
        upload(&store, 2000);
        let delete = format!("DELETE FROM entry WHERE n > {kept}");
        store.write(move |tx| tx.execute(&delete, [])).unwrap();
        store.vacuum().run().unwrap();
        upload(&store, 0);
        let sizes: Vec<u32> = place.transactions().iter().map(|file| file.header.commit).collect();
        let (most, last) = (*sizes.iter().max().unwrap(), *sizes.last().unwrap());
        assert!(before <= u64::from(last) && last < most / 2, "{before}: {sizes:?}");
        let follower = follow(&place);
        assert_eq!((rows(&follower), resyncs(&follower)), (kept, 0));
        assert_eq!(sizes_in_log(&copy(&place)), [last], "one commit");
        let promoted = follower.promote(Options::new().replicate_to(place.to())).unwrap();
        for _ in 0..3 {
            upload(&promoted, 1);
        }
        assert_eq!(promoted.stats().replica.unwrap().rebases, 0);
        assert!(promoted.check().run().unwrap().is_ok());
        let report = promoted.close().unwrap();
        assert_eq!(report.replicated, Some(true), "{report}");
        assert!(
            fs::read(copy(&place)).unwrap() == place.restored(),
            "the replica is the database"
        );
    }
}

#[test]
fn changed_follower_is_not_promoted() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let follower = follow(&place);
    let foreign = Connection::open(copy(&place)).unwrap();
    foreign.busy_timeout(PATIENCE).unwrap();
    foreign
        .execute("UPDATE entry SET noise = x'02' WHERE n = 1", [])
        .unwrap();
    let before = newest(&place);
    let error = follower.promote(Options::new().replicate_to(place.to())).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert_eq!(newest(&place), before);
    upload(&store, 10);
    assert_eq!(store.close().unwrap().replicated, Some(true));
}

#[test]
fn database_that_came_after_a_failed_opening_is_kept() {
    let place = Place::new();
    let error = options().follow(of(&place), copy(&place)).unwrap_err();
    assert!(!copy(&place).exists(), "{error}");
    let made = Connection::open(copy(&place)).unwrap();
    made.execute_batch("CREATE TABLE precious(n)").unwrap();
    drop(made);
    let store = place.open();
    upload(&store, 10);
    let told = refused(&place);
    assert!(told.contains("it is not as a follower has left it"), "{told}");
    let kept = Connection::open(copy(&place)).unwrap();
    assert!(kept.table_exists(None, "precious").unwrap());
    drop(kept);
    // The way out that the error names.
    fs::rename(copy(&place), copy(&place).with_file_name("precious.db")).unwrap();
    let follower = follow(&place);
    assert_eq!(rows(&follower), 10);
    close(&follower);
}

/// In another process while it is followed, and in this one afterwards.
#[test]
fn read_only_store_reads_followers_file() {
    let place = Place::new();
    let store = place.open();
    let upload_one = |batch: &'static str| {
        store.write(move |tx| tx.execute_batch(batch)).unwrap();
        store.replica().unwrap().flush(PATIENCE).unwrap();
    };
    upload_one("CREATE TABLE t(x); INSERT INTO t VALUES (0)");
    let follower = follow(&place);
    let path = copy(&place);
    let mut beside = Child::start("store::read_only", "goes on reading", &[path.to_str().unwrap()]);
    beside.expect("Live");
    for rows in 1..=5 {
        beside.say("read");
        assert_eq!(beside.line(), rows.to_string());
        upload_one("INSERT INTO t VALUES (1)");
        catch_up(&store, &follower);
    }
    beside.say("end");
    beside.finish();
    close(&follower);
    let reader = Options::new().read_only(true).open(&path).unwrap();
    let count = |tx: &larder::ReadTx<'_>| tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0));
    assert_eq!(reader.read(count).unwrap(), 6);
    reader.close().unwrap();
    // It has left the file as it was.
    let follower = follow(&place);
    assert_eq!((follower.read(count).unwrap(), resyncs(&follower)), (6, 0));
    close_both(&place, store, &follower);
}

#[test]
fn promoted_follower_fences_the_old_primary() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let beside = place.database().with_file_name("beside.db");
    let other = options().follow(of(&place), &beside).unwrap();
    let follower = follow(&place);
    upload(&store, 10);
    let clone = follower.clone();
    let promoted = follower.promote(Options::new().replicate_to(place.to())).unwrap();
    assert!(matches!(clone.read(|_| Ok(())).unwrap_err(), Error::Closed));
    upload(&promoted, 5);
    catch_up(&promoted, &other);
    assert_eq!((rows(&other), resyncs(&other)), (25, 0));
    // It may commit until it notices.
    wait_until("the fence", || {
        let write = store.write(|tx| tx.execute("INSERT INTO entry(noise) VALUES (x'00')", []));
        matches!(write, Err(Error::Fenced { .. }))
    });
    assert!(other.stopped().is_none());
    drop((store, clone));
    // The old one comes back, and has something that the replica lacks.
    let error = options().follow(of(&place), place.database()).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    upload(&promoted, 5);
    catch_up(&promoted, &other);
    assert!(other.check().run().unwrap().is_ok());
    let report = promoted.close().unwrap();
    assert_eq!(report.replicated, Some(true), "{report}");
    wait_until("the last file", || other.lag().txid == newest(&place));
    close(&other);
    compare(&copy(&place), &beside);
    // The new one follows after that, and the next one takes over from a primary that has closed.
    let follower = follow(&place);
    assert_eq!(rows(&follower), 30);
    let again = follower.promote(Options::new()).unwrap();
    upload(&again, 1);
    assert_eq!(again.close().unwrap().replicated, Some(true));
}

#[test]
fn backup_of_follower_is_the_primary() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 30);
    let follower = follow(&place);
    let backup = place.database().with_file_name("backup.db");
    follower.backup(&backup).run().unwrap();
    let copied = Store::open(&backup).unwrap();
    let count = copied.read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u32>(0)));
    assert_eq!(count.unwrap(), 30);
}

/// Waits for the next millisecond but one.
fn later_than(time: std::time::SystemTime) -> std::time::SystemTime {
    let later = time + Duration::from_millis(2);
    wait_until("the clock goes on", || std::time::SystemTime::now() > later);
    later
}

/// A branch has the past, and neither replica sees what the other adds.
#[test]
fn branch_begins_with_a_state_of_the_past() {
    let place = Place::new();
    let store = place.open();
    let first = upload(&store, 10);
    // A transaction has a time in milliseconds, which a state before that time does not reach.
    let middle = later_than(std::time::SystemTime::now());
    later_than(middle);
    upload(&store, 10);
    let replica = Replica::open(place.replica().to_str().unwrap()).unwrap();
    let at = |name: &str| place.replica().with_file_name(name).to_str().unwrap().to_owned();
    for (name, state, txid) in [
        ("by time", At::Time(middle), first),
        ("by txid", At::Txid(first), first),
        ("newest", At::Newest, newest(&place)),
    ] {
        let url = at(name);
        let report = replica.branch(state, &url).unwrap();
        assert_eq!(report.txid, txid, "{report}");
        let to = super::store::unmerged(&url).interval(Duration::from_millis(20));
        let path = place.database().with_file_name(format!("{name}.db"));
        let branch = Options::new()
            .replicate_to(to.restore_if_missing(true))
            .open(&path)
            .unwrap();
        upload(&branch, 7);
        let beside = place.database().with_file_name(format!("{name} follower.db"));
        let follower = options().follow(url.as_str(), &beside).unwrap();
        let wanted = if name == "newest" { 27 } else { 17 };
        assert_eq!(rows(&follower), wanted);
        let error = follower
            .wait_for(store.replica().unwrap().token(), PATIENCE)
            .unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "another number: {error}");
        assert_eq!(branch.close().unwrap().replicated, Some(true));
        let verified = Replica::open(&url).unwrap().verify().restore(true).run().unwrap();
        assert!(verified.is_ok(), "{verified}");
    }
    upload(&store, 1);
    let verified = store.replica().unwrap().verify().restore(true).run().unwrap();
    assert!(verified.is_ok(), "{verified}");
    let error = replica.branch(At::Txid(1 << 40), &at("none")).unwrap_err();
    assert!(error.to_string().contains("does not have this transaction"), "{error}");
    assert!(!Path::new(&at("none")).join("ltx").exists());
}

/// Rows of the store come to a database that another program writes.
#[track_caller]
pub(super) fn follows(store: &Store, path: &Path, version: &str) {
    let count = "SELECT count(*) FROM entry";
    for round in 0..6 {
        upload(store, 20);
        if round == 3 {
            store.vacuum().run().unwrap();
            upload(store, 1);
        }
        let wanted: u32 = store.read(|tx| tx.query_row(count, [], |row| row.get(0))).unwrap();
        wait_until(&format!("{version} follows"), || {
            let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
            let there = conn.and_then(|conn| conn.query_row(count, [], |row| row.get::<_, u32>(0)));
            there.is_ok_and(|there| there == wanted)
        });
    }
}

/// `litestream restore -f` follows what a store writes.
#[test]
fn litestream_follows_a_store() {
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        let place = Place::new();
        let store = place.open();
        upload(&store, 10);
        let path = copy(&place);
        let mut restoring = litestream.follow(&place.replica(), &path);
        follows(&store, &path, &litestream.version);
        super::litestream::end(&mut restoring);
        super::store::close(store);
        let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}

/// The real daemon writes the replica, with checkpoints and compaction of its own.
#[test]
fn follower_follows_the_daemon() {
    for litestream in Litestream::all() {
        let folder = tempfile::tempdir().unwrap();
        let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
        let conn = Connection::open(&path).unwrap();
        conn.busy_timeout(PATIENCE).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE entry(n INTEGER PRIMARY KEY, noise BLOB)")
            .unwrap();
        let mut daemon = litestream.replicate(&path, &replica);
        wait_until("the daemon's first file", || {
            !super::litestream::files(&replica, 0).is_empty()
        });
        let following = FollowerOptions::of(replica.to_str().unwrap()).interval(Duration::from_millis(10));
        let follower = options()
            .follow(following.clone(), folder.path().join("follower.db"))
            .unwrap();
        let mut written = 0;
        for round in 0..30 {
            for _ in 0..20 {
                conn.execute("INSERT INTO entry(noise) VALUES (randomblob(2000))", [])
                    .unwrap();
                written += 1;
            }
            if round % 10 == 9 {
                conn.execute_batch("DELETE FROM entry WHERE n % 2 = 0").unwrap();
                written = conn
                    .query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
                    .unwrap();
            }
        }
        wait_until(&format!("{} is followed", litestream.version), || {
            rows(&follower) == written
        });
        // A file that was merged as it was read is a problem until the next look.
        wait_until("there is no problem", || {
            follower.stats().follower.unwrap().problem.is_none()
        });
        assert_eq!(resyncs(&follower), 0, "{}", litestream.version);
        super::litestream::end(&mut daemon);
        close(&follower);
    }
}
