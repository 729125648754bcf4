//! Streams: all rows in order and in bounded memory, and what ends them early.

use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::stream::{FusedStream, StreamExt, TryStreamExt};
use larder::rusqlite::{self, Row, params_from_iter};
use larder::{AlertKind, Error, Options, Outcome, ReadOptions, RowStream, Store};

use crate::support::tasks::{
    Dice, ENDLESS, PATIENCE, TellTale, counting, finish, hear, insert, many_threads, on_every_runtime, store_with,
};
use crate::support::{count, read_or_fail, until, with_longer_limits};

/// The numbers from 1 on.
const NUMBERS: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT i FROM n";

/// How many rows a stream may hold: twice the 256 of its channel, one more, and those that its ends are handling.
const AHEAD: usize = 2 * 256 + 8;

fn numbers(store: &Store, count: i64) -> RowStream<(i64,)> {
    store.read_stream(NUMBERS, [count])
}

/// More than any test reads.
fn many(store: &Store) -> RowStream<(i64,)> {
    numbers(store, 1_000_000_000)
}

#[track_caller]
fn next<T>(stream: &mut RowStream<T>) -> Option<larder::Result<T>> {
    finish(stream.next())
}

/// Takes what comes until the stream ends, by an error or not.
fn drain(stream: &mut RowStream<(i64,)>) -> (Vec<i64>, Option<Error>) {
    let mut rows = Vec::new();
    while let Some(row) = next(stream) {
        match row {
            Ok((number,)) => rows.push(number),
            Err(error) => {
                assert!(next(stream).is_none(), "an error is the last item");
                assert!(next(stream).is_none() && stream.is_terminated());
                return (rows, Some(error));
            }
        }
    }
    assert!(next(stream).is_none() && stream.is_terminated());
    (rows, None)
}

#[track_caller]
fn is_sequence(rows: &[i64], from: i64) {
    assert!(rows.iter().zip(from..).all(|(row, number)| *row == number));
}

/// No connection is in use.
#[track_caller]
fn is_idle(store: &Store) {
    until(store, |stats| stats.readers.in_use == 0 && stats.readers.queued == 0);
}

// ---- all rows ----

/// A row that is counted while it lives.
struct Counted<const TEST: usize> {
    number: i64,
    /// A row may be large.
    _blob: Vec<u8>,
}

static LIVING: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
static MOST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

impl<const TEST: usize> TryFrom<&Row<'_>> for Counted<TEST> {
    type Error = rusqlite::Error;

    fn try_from(row: &Row<'_>) -> rusqlite::Result<Self> {
        let _blob = row.get(1)?;
        let number = row.get(0)?;
        MOST[TEST].fetch_max(LIVING[TEST].fetch_add(1, SeqCst) + 1, SeqCst);
        Ok(Self { number, _blob })
    }
}

impl<const TEST: usize> Drop for Counted<TEST> {
    fn drop(&mut self) {
        LIVING[TEST].fetch_sub(1, SeqCst);
    }
}

#[test]
fn million_rows_come_in_order_in_bounded_memory() {
    let store = Store::open_temp().unwrap();
    let sql = NUMBERS.replace("SELECT i FROM n", "SELECT i, x'00' FROM n");
    let mut stream = store.read_stream::<Counted<0>>(sql, [1_000_000]);
    let mut expected = 1;
    while let Some(row) = next(&mut stream) {
        assert_eq!(row.unwrap().number, expected);
        expected += 1;
    }
    assert_eq!(expected, 1_000_001);
    drop(stream);
    let most = MOST[0].load(SeqCst);
    assert!((1..=AHEAD).contains(&most), "{most} rows at a time");
    assert_eq!(LIVING[0].load(SeqCst), 0);
    is_idle(&store);
}

#[test]
fn large_rows_are_bounded_by_their_bytes() {
    let store = Store::open_temp().unwrap();
    let sql = NUMBERS.replace("SELECT i FROM n", "SELECT i, zeroblob(200000) FROM n");
    let mut stream = store.read_stream::<Counted<1>>(sql, [200]);
    let first = next(&mut stream).unwrap().unwrap();
    assert_eq!(first.number, 1);
    let mut rows = 1;
    loop {
        // Its thread goes as far as it may before each row is taken: the first one lives, two are in the channel, and one
        // waits. Only a few more are to come in the end.
        until(&store, |_| rows >= 190 || LIVING[1].load(SeqCst) >= 4);
        let Some(row) = next(&mut stream) else { break };
        rows += 1;
        assert_eq!(row.unwrap().number, rows);
    }
    assert_eq!(rows, 200);
    drop(first);
    // Two rows are 256 KiB: so many in the channel and as many with the task, one that waits, and the first.
    let most = MOST[1].load(SeqCst);
    assert!(most <= 2 + 2 + 3, "{most} rows at a time");
}

#[test]
fn stream_has_each_number_of_rows() {
    let store = Store::open_temp().unwrap();
    for count in [0, 1, 2, 255, 256, 257, 511, 512, 513, 5000] {
        let sql = "SELECT value FROM json_each(?1)";
        let list = format!("{:?}", (1..=count).collect::<Vec<i64>>());
        let (rows, error) = drain(&mut store.read_stream(sql, [list]));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(rows, (1..=count).collect::<Vec<_>>());
    }
}

#[test]
fn stream_runs_on_every_runtime() {
    on_every_runtime(|| async {
        let store = Store::open_temp().unwrap();
        let rows: Vec<(i64,)> = numbers(&store, 1000).try_collect().await.unwrap();
        assert_eq!(rows.len(), 1000);
        let mut stream = pin!(numbers(&store, 1000).ready_chunks(256));
        let mut rows = 0;
        while let Some(chunk) = stream.next().await {
            assert!(chunk.len() <= 256 && chunk.iter().all(Result::is_ok));
            rows += chunk.len();
        }
        assert_eq!(rows, 1000);
        store.close_async().await.unwrap();
    });
}

#[test]
fn parameters_may_be_of_several_types() {
    let store = Store::open_temp().unwrap();
    let sql = "SELECT ?1 || '-' || ?2";
    let mut texts = Vec::new();
    for mut stream in [
        store.read_stream::<(String,)>(sql, (1, String::from("a"))),
        store.read_stream(sql.to_owned(), ["1", "a"]),
        store.read_stream(sql, params_from_iter(vec![String::from("1"), String::from("a")])),
    ] {
        texts.push(next(&mut stream).unwrap().unwrap().0);
    }
    assert_eq!(texts, ["1-a", "1-a", "1-a"]);
}

#[test]
fn stream_is_one_snapshot_and_begins_at_first_poll() {
    let store = store_with(Options::new());
    let sql = "SELECT count(*) OVER (), value FROM t, json_each('[1,2,3]')";
    let mut stream = store.read_stream::<(i64, i64)>(sql, []);
    store.write(|tx| insert(tx, 1)).unwrap();
    assert_eq!(next(&mut stream).unwrap().unwrap(), (3, 1));
    store.write(|tx| insert(tx, 2)).unwrap();
    assert_eq!(next(&mut stream).unwrap().unwrap(), (3, 2));
    assert_eq!(next(&mut stream).unwrap().unwrap(), (3, 3));
    assert!(next(&mut stream).is_none());
}

// ---- the consumer ----

#[test]
fn slow_consumer_holds_back_its_thread_and_the_log() {
    let options = Options::new().max_reader_age(Duration::from_millis(20));
    let store = store_with(options.monitor_interval(Duration::from_millis(5)));
    let label = ReadOptions::new().label("slow download");
    let mut stream = store.read_stream_with::<(i64,)>(label, NUMBERS, [100_000]);
    next(&mut stream).unwrap().unwrap();
    store.write(|tx| insert(tx, 1)).unwrap();
    let stats = until(&store, |stats| {
        stats.alerts.iter().any(|alert| alert.kind == AlertKind::OldRead)
    });
    assert_eq!(stats.readers.oldest_read.unwrap().site, "slow download");
    assert_eq!(stats.readers.in_use, 1);
    let advice = store.advice();
    assert!(
        advice
            .iter()
            .any(|finding| finding.to_string().contains("slow download")),
        "{advice:?}"
    );
    let rows = drain(&mut stream).0;
    assert_eq!(rows.len(), 99_999);
    is_sequence(&rows, 2);
    // The log can be emptied again.
    is_idle(&store);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn wait_for_consumer_is_no_slow_read() {
    // If the wait counted, each read would be slow, however long the wait. A machine that stalls may make one slow, too,
    // and is given longer ones.
    for drops in [false, true] {
        let waits = std::iter::successors(Some(Duration::from_millis(50)), |pause| Some(*pause * 2));
        let is_fast = |pause| !waits_as_slow_read(pause, drops);
        assert!(waits.take(9).any(is_fast), "drops: {drops}");
    }
}

/// Whether a read counts as slow whose consumer waits for longer than a slow read takes.
fn waits_as_slow_read(pause: Duration, drops: bool) -> bool {
    let store = Options::new().slow_read_threshold(pause / 2).open_temp().unwrap();
    let mut stream = store.read_stream_with::<(i64,)>(ReadOptions::new().label("slow"), NUMBERS, [2000]);
    next(&mut stream).unwrap().unwrap();
    thread::sleep(pause);
    assert!(store.stats().readers.oldest_read.unwrap().age >= pause);
    if drops {
        drop(stream);
    } else {
        assert_eq!(drain(&mut stream).0.len(), 1999);
    }
    is_idle(&store);
    let stats = store.stats();
    let site = stats.call_sites.iter().find(|site| site.site == "slow").unwrap();
    assert_eq!(site.calls, 1);
    stats.readers.slow_reads > 0 || site.total_time >= pause
}

#[test]
fn dropped_stream_returns_its_connection() {
    let store = store_with(Options::new().readers(1));
    store.write(|tx| insert(tx, 1)).unwrap();
    for taken in [1, 2, 256, 300] {
        let mut stream = many(&store);
        for number in 1..=taken {
            assert_eq!(next(&mut stream).unwrap().unwrap(), (number,));
        }
        drop(stream);
        assert_eq!(count(&store), 1);
    }
    is_idle(&store);
}

#[test]
fn dropped_stream_interrupts_its_statement() {
    let store = store_with(Options::new().readers(1));
    for limit in [None, Some(PATIENCE)] {
        let mut options = ReadOptions::new();
        if let Some(limit) = limit {
            options = options.execution_timeout(limit);
        }
        let mut stream = store.read_stream_with::<(i64,)>(options, ENDLESS, []);
        begin(&mut stream);
        until(&store, |stats| stats.readers.in_use == 1);
        drop(stream);
        is_idle(&store);
        assert_eq!(count(&store), 0);
    }
}

/// Polls once a stream that cannot have a row yet: its statement never ends, or it waits for a connection.
fn begin<T: std::fmt::Debug>(stream: &mut RowStream<T>) {
    let mut context = Context::from_waker(Waker::noop());
    let polled = pin!(stream.next()).poll(&mut context);
    assert!(polled.is_pending(), "{polled:?}");
}

#[test]
fn stream_that_was_never_polled_never_runs() {
    let store = Store::open_temp().unwrap();
    let stream = store.read_stream::<(i64,)>("SELECT no such column", []);
    assert!(format!("{stream:?}").contains("not started"), "{stream:?}");
    drop(stream);
    assert!(store.stats().call_sites.is_empty());
}

#[test]
fn dropped_future_of_next_loses_no_row() {
    let store = Store::open_temp().unwrap();
    let mut stream = numbers(&store, 3000);
    let mut rows = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while rows.len() < 3000 {
        // Dropped each time.
        if let Poll::Ready(row) = pin!(stream.next()).poll(&mut context) {
            rows.push(row.unwrap().unwrap().0);
        } else {
            thread::yield_now();
        }
    }
    is_sequence(&rows, 1);
    assert!(next(&mut stream).is_none());
}

#[test]
fn stream_moves_between_tasks() {
    let store = Store::open_temp().unwrap();
    let mut stream = numbers(&store, 100_000);
    // Polled here first, and then by each task.
    assert_eq!(next(&mut stream).unwrap().unwrap(), (1,));
    let rows = many_threads().block_on(async move {
        let mut rows = Vec::new();
        for _ in 0..50 {
            let task = tokio::spawn(async move {
                let chunk: Vec<_> = stream.by_ref().take(1000).try_collect().await.unwrap();
                (stream, chunk)
            });
            let chunk: Vec<(i64,)>;
            (stream, chunk) = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            rows.extend(chunk.into_iter().map(|(number,)| number));
        }
        rows
    });
    assert_eq!(rows.len(), 50_000);
    is_sequence(&rows, 2);
    is_idle(&store);
}

#[test]
fn waker_that_panics_harms_no_stream() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker's");
        }
    }
    let store = Store::open_temp().unwrap();
    let mut stream = numbers(&store, 10_000);
    let waker = Waker::from(Arc::new(Panics));
    let _ = pin!(stream.next()).poll(&mut Context::from_waker(&waker));
    let (rows, error) = drain(&mut stream);
    assert!(error.is_none(), "{error:?}");
    assert!(rows.len() >= 9_999);
    is_idle(&store);
}

// ---- errors ----

/// Fails or panics at a row.
struct Picky(i64);

impl TryFrom<&Row<'_>> for Picky {
    type Error = rusqlite::Error;

    fn try_from(row: &Row<'_>) -> rusqlite::Result<Self> {
        match row.get(0)? {
            number if number == row.get::<_, i64>(1)? => panic!("at {number}"),
            number => Ok(Self(number)),
        }
    }
}

#[test]
fn error_in_the_middle_is_the_last_item() {
    let store = Store::open_temp().unwrap();
    for at in [1, 2, 256, 257, 700] {
        let sql = NUMBERS.replace("SELECT i FROM n", "SELECT iif(i = ?2, 'text', i) AS number FROM n");
        let label = ReadOptions::new().label("export");
        let mut stream = store.read_stream_with::<(i64,)>(label, sql, [1000, at]);
        let (rows, error) = drain(&mut stream);
        assert_eq!(rows, (1..at).collect::<Vec<_>>());
        let error = error.unwrap();
        assert_eq!((error.site(), error.outcome()), (Some("export"), Outcome::NotStarted));
        assert!(error.to_string().contains("column `number` is TEXT"), "{error}");
        assert!(error.statement().unwrap().starts_with("WITH RECURSIVE"));
    }
    // SQLite's own.
    let sql = NUMBERS.replace(
        "SELECT i FROM n",
        "SELECT abs(iif(i = 300, -9223372036854775807 - 1, i)) FROM n",
    );
    let (rows, error) = drain(&mut store.read_stream(sql, [1000]));
    assert_eq!(rows.len(), 299);
    assert!(error.unwrap().to_string().contains("integer overflow"));
}

#[test]
fn stream_that_cannot_begin_has_one_item() {
    let store = Store::open_temp().unwrap();
    for (sql, message) in [
        ("SELECT missing", "no such column: missing"),
        ("CREATE TABLE t(a)", "CREATE"),
        ("SELECT 1 WHERE ?1", "parameter"),
        ("SELECT 1\0", "NUL"),
    ] {
        let (rows, error) = drain(&mut store.read_stream(sql, []));
        assert!(rows.is_empty());
        let error = error.unwrap().to_string();
        assert!(error.contains(message), "{error}");
    }
    #[cfg(feature = "derive")]
    {
        #[derive(Debug, larder::FromRow)]
        struct Named {
            #[expect(dead_code, reason = "it is missing")]
            name: String,
        }
        // Also while there is no row.
        for sql in ["SELECT 1 AS id", "SELECT 1 AS id WHERE false"] {
            let mut stream = store.read_stream::<Named>(sql, []);
            let error = next(&mut stream).unwrap().unwrap_err();
            assert!(error.to_string().contains("`name`"), "{error}");
            assert!(next(&mut stream).is_none());
        }
    }
    is_idle(&store);
}

#[test]
fn panic_in_the_middle_resumes_after_the_rows_before() {
    let store = store_with(Options::new().readers(1));
    for at in [1, 2, 300] {
        let sql = NUMBERS.replace("SELECT i FROM n", "SELECT i, ?2 FROM n");
        let mut stream = store.read_stream::<Picky>(sql, [1000, at]);
        for number in 1..at {
            assert_eq!(next(&mut stream).unwrap().unwrap().0, number);
        }
        let panic = catch_unwind(AssertUnwindSafe(|| next(&mut stream).map(drop))).unwrap_err();
        assert_eq!(*panic.downcast::<String>().unwrap(), format!("at {at}"));
        assert!(next(&mut stream).is_none());
        assert_eq!(count(&store), 0);
    }
    is_idle(&store);
}

// ---- time limits ----

/// Takes the first row, or gives `None` if the limit was over before it came.
#[track_caller]
fn first_row_within(time: Duration, stream: &mut RowStream<(i64,)>) -> Option<()> {
    match next(stream).unwrap() {
        Ok(row) => {
            assert_eq!(row, (1,));
            Some(())
        }
        Err(Error::Interrupted { limit, .. }) if limit == time => None,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn time_limit_ends_a_stream_that_waits_for_its_consumer() {
    let error = with_longer_limits(Duration::from_millis(50), |time| {
        let store = store_with(Options::new());
        let options = ReadOptions::new().execution_timeout(time);
        let mut stream = store.read_stream_with::<(i64,)>(options.label("late"), NUMBERS, [1_000_000_000]);
        first_row_within(time, &mut stream)?;
        // Without the consumer.
        is_idle(&store);
        let waited = store.stats().readers.streams.consumer_wait;
        let (rows, error) = drain(&mut stream);
        is_sequence(&rows, 2);
        assert!(rows.len() < AHEAD, "{}", rows.len());
        let error = error.unwrap();
        assert!(
            matches!(error, Error::Interrupted { limit, .. } if limit == time),
            "{error:?}"
        );
        if waited.is_zero() {
            // The time was over before the channel was full.
            return None;
        }
        assert!(rows.len() >= 255, "{}", rows.len());
        Some(error)
    });
    assert_eq!(error.site(), Some("late"));
    assert!(error.statement().unwrap().starts_with("WITH RECURSIVE"), "{error:?}");
    // In the middle of a statement.
    let store = store_with(Options::new());
    let options = ReadOptions::new().execution_timeout(Duration::from_millis(20));
    let (rows, error) = drain(&mut store.read_stream_with(options, ENDLESS, []));
    assert!(
        rows.is_empty() && matches!(error, Some(Error::Interrupted { .. })),
        "{error:?}"
    );
}

// ---- the idle limit ----

#[test]
fn idle_consumer_loses_its_stream_and_not_its_rows() {
    let limit = Duration::from_millis(30);
    let of_the_store = Options::new().stream_idle_timeout(limit);
    let of_the_call = ReadOptions::new().idle_timeout(limit);
    for (options, call) in [
        (of_the_store, ReadOptions::new()),
        (Options::new(), of_the_call.clone()),
        (Options::new().stream_idle_timeout(PATIENCE), of_the_call),
    ] {
        let store = store_with(options.readers(2));
        let mut stream = store.read_stream_with::<(i64,)>(call.label("forgotten"), NUMBERS, [1_000_000_000]);
        next(&mut stream).unwrap().unwrap();
        // Without the consumer.
        is_idle(&store);
        let streams = store.stats().readers.streams;
        assert_eq!((streams.open, streams.begun, streams.idle_timeouts), (0, 1, 1));
        assert!(streams.consumer_wait >= limit, "{streams:?}");
        // The order of the call sites is that of their times: on a busy machine the write that made the table is the
        // first.
        let sites = store.stats().call_sites;
        let site = sites.iter().find(|site| site.site == "forgotten").unwrap();
        assert_eq!((site.calls, site.errors), (1, 1));
        // The only connection that streams may use is free, and so is the log.
        assert_eq!(drain(&mut numbers(&store, 3)).0, [1, 2, 3]);
        let (rows, error) = drain(&mut stream);
        is_sequence(&rows, 2);
        assert!((255..AHEAD).contains(&rows.len()), "{}", rows.len());
        let error = error.unwrap();
        assert!(
            matches!(error, Error::Interrupted { limit: after, .. } if after == limit),
            "{error:?}"
        );
        assert_eq!(error.site(), Some("forgotten"));
        assert!(error.statement().unwrap().starts_with("WITH RECURSIVE"), "{error:?}");
        let text = error.to_string();
        for part in [
            "30ms",
            "did not poll",
            "Options::stream_idle_timeout",
            "ReadOptions::idle_timeout",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(store.close().unwrap().wal_truncated);
    }
}

#[test]
fn idle_limit_names_the_line_of_the_call() {
    let store = store_with(Options::new().stream_idle_timeout(Duration::from_millis(1)));
    let line = line!() + 1;
    let mut stream = store.read_stream::<(i64,)>(NUMBERS, [1_000_000_000]);
    next(&mut stream).unwrap().unwrap();
    is_idle(&store);
    let error = drain(&mut stream).1.unwrap();
    assert_eq!(error.site(), Some(format!("{}:{line}", file!()).as_str()));
}

#[test]
fn consumer_that_polls_slowly_is_not_idle() {
    // A machine that stalls may keep the consumer from polling, and is given longer limits.
    let limits = std::iter::successors(Some(Duration::from_millis(250)), |limit| Some(*limit * 2));
    assert!(limits.take(6).any(outlives_idle_limit));
}

/// Whether a stream goes on whose consumer takes a row ten times per limit, so that it takes none from the channel for
/// three times the limit. One that ends was without a poll for most of the limit.
fn outlives_idle_limit(limit: Duration) -> bool {
    let store = store_with(Options::new().stream_idle_timeout(limit));
    let mut stream = numbers(&store, 2000);
    let mut rows = Vec::new();
    let (mut polled, mut longest) = (Instant::now(), Duration::ZERO);
    // Whether a row came.
    let mut take = |stream: &mut RowStream<(i64,)>| {
        longest = longest.max(mem::replace(&mut polled, Instant::now()).elapsed());
        match next(stream) {
            Some(Ok((row,))) => rows.push(row),
            None => return false,
            Some(Err(Error::Interrupted { limit: over, .. })) if over == limit => {
                // The producer looks up to 50 ms after a poll, which counts from then on.
                assert!(longest > limit / 2, "idle after {longest:?} of {limit:?}");
                return false;
            }
            Some(Err(error)) => panic!("{error:?}"),
        }
        true
    };
    take(&mut stream);
    // The consumer has the rows of a full channel, and the channel is full again.
    let waits = |before: Duration| {
        until(&store, |stats| {
            stats.readers.streams.consumer_wait > before || stats.readers.streams.idle_timeouts > 0
        })
    };
    let before = waits(Duration::ZERO).readers.streams.consumer_wait;
    take(&mut stream);
    waits(before);
    let began = Instant::now();
    while began.elapsed() < 3 * limit && store.stats().readers.in_use == 1 {
        take(&mut stream);
        thread::sleep(limit / 10);
    }
    while take(&mut stream) {}
    is_sequence(&rows, 1);
    if store.stats().readers.streams.idle_timeouts > 0 {
        return false;
    }
    assert_eq!(rows.len(), 2000);
    true
}

#[test]
fn result_that_fits_needs_no_consumer() {
    let store = store_with(Options::new().stream_idle_timeout(Duration::from_millis(1)));
    let mut stream = numbers(&store, 200);
    assert_eq!(next(&mut stream).unwrap().unwrap(), (1,));
    is_idle(&store);
    let (rows, error) = drain(&mut stream);
    assert!(error.is_none(), "{error:?}");
    is_sequence(&rows, 2);
    assert_eq!(rows.len(), 199);
    assert_eq!(store.stats().readers.streams.idle_timeouts, 0);
}

#[test]
fn earlier_of_the_two_limits_ends_a_stream() {
    let store = store_with(Options::new().stream_idle_timeout(Duration::from_millis(20)));
    let long = ReadOptions::new().execution_timeout(PATIENCE);
    let short = ReadOptions::new()
        .execution_timeout(Duration::from_millis(20))
        .idle_timeout(PATIENCE);
    for (options, option) in [
        (long, "ReadOptions::idle_timeout"),
        (short, "ReadOptions::execution_timeout"),
    ] {
        let mut stream = store.read_stream_with::<(i64,)>(options, NUMBERS, [1_000_000_000]);
        // A machine that stalls may let the time pass before the first row.
        let error = match next(&mut stream).unwrap() {
            Err(error) => error,
            Ok(_) => {
                is_idle(&store);
                drain(&mut stream).1.unwrap()
            }
        };
        let error = error.to_string();
        assert!(error.contains(option), "{error}");
    }
    assert_eq!(store.stats().readers.streams.idle_timeouts, 1);
}

// ---- statistics ----

#[test]
fn streams_their_rows_and_their_waits_are_counted() {
    let store = store_with(Options::new().readers(4));
    assert_eq!(store.stats().readers.streams, larder::StreamStats::default());
    let mut open = [many(&store), many(&store)];
    for stream in &mut open {
        next(stream).unwrap().unwrap();
    }
    let stats = until(&store, |stats| stats.readers.streams.consumer_wait > Duration::ZERO);
    assert_eq!((stats.readers.streams.open, stats.readers.streams.begun), (2, 2));
    // It grows while they wait.
    let before = stats.readers.streams.consumer_wait;
    until(&store, |stats| {
        stats.readers.streams.consumer_wait > before + Duration::from_millis(100)
    });
    let taken = store.stats().readers.streams.rows;
    assert!((2..=2 * 257).contains(&taken), "{taken}");
    let mut all = numbers(&store, 5000);
    assert_eq!(drain(&mut all).0.len(), 5000);
    let streams = store.stats().readers.streams;
    assert_eq!((streams.open, streams.begun, streams.rows), (2, 3, taken + 5000));
    drop(open);
    is_idle(&store);
    let streams = store.stats().readers.streams;
    assert_eq!((streams.open, streams.begun, streams.rows), (0, 3, taken + 5000));
    assert_eq!(streams.idle_timeouts, 0);
    // A stream that was never polled has not begun, and one that cannot begin has not either.
    drop(many(&store));
    store.close().unwrap();
    drain(&mut many(&store)).1.unwrap();
    assert_eq!(store.stats().readers.streams, streams);
}

#[test]
fn old_streams_are_interrupted_as_reads_are() {
    let error = with_longer_limits(Duration::from_millis(50), |age| {
        let options = Options::new().max_reader_age(age).interrupt_old_readers(true);
        let store = store_with(options);
        let mut stream = many(&store);
        first_row_within(age, &mut stream)?;
        is_idle(&store);
        let error = drain(&mut stream).1.unwrap();
        assert!(
            matches!(error, Error::Interrupted { limit, .. } if limit == age),
            "{error:?}"
        );
        Some(error)
    });
    assert!(error.to_string().contains("Options::max_reader_age"), "{error}");
}

// ---- closing ----

#[test]
fn closing_ends_streams_after_the_rows_that_were_read() {
    for drops in [false, true] {
        let store = store_with(Options::new().close_timeout(PATIENCE));
        let mut waiting = many(&store);
        next(&mut waiting).unwrap().unwrap();
        let mut computing = store.read_stream::<(i64,)>(ENDLESS, []);
        begin(&mut computing);
        until(&store, |stats| stats.readers.in_use == 2);
        // The other one has no row, so its channel is full.
        until(&store, |stats| stats.readers.streams.consumer_wait > Duration::ZERO);
        let began = Instant::now();
        if drops {
            drop(store);
        } else {
            let report = store.close().unwrap();
            assert!(report.wal_truncated, "{report}");
        }
        assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
        let (rows, error) = drain(&mut waiting);
        is_sequence(&rows, 2);
        assert!((255..AHEAD).contains(&rows.len()), "{}", rows.len());
        assert!(matches!(error, Some(Error::Closed)), "{error:?}");
        let (none, error) = drain(&mut computing);
        assert!(none.is_empty() && matches!(error, Some(Error::Closed)), "{error:?}");
    }
}

#[test]
fn closing_wakes_a_task_that_waits_for_a_row() {
    let store = store_with(Options::new().readers(2));
    let mut first = store.read_stream::<(i64,)>(ENDLESS, []);
    begin(&mut first);
    until(&store, |stats| stats.readers.in_use == 1);
    // In line behind it.
    let second = store.read_stream::<(i64,)>(ENDLESS, []);
    let tasks = [first, second].map(|mut stream| thread::spawn(move || drain(&mut stream).1));
    until(&store, |stats| stats.readers.queued == 1);
    store.close().unwrap();
    for task in tasks {
        let error = task.join().unwrap();
        assert!(matches!(error, Some(Error::Closed)), "{error:?}");
    }
    let late = drain(&mut numbers(&store, 1)).1;
    assert!(matches!(late, Some(Error::Closed)), "{late:?}");
}

#[test]
fn closing_inside_a_conversion_is_refused() {
    static STORE: Mutex<Option<Store>> = Mutex::new(None);
    struct Closes;
    impl TryFrom<&Row<'_>> for Closes {
        type Error = rusqlite::Error;
        fn try_from(_: &Row<'_>) -> rusqlite::Result<Self> {
            let store = STORE.lock().unwrap().clone().unwrap();
            let error = store.close().unwrap_err();
            assert!(matches!(error, Error::Reentrant { .. }), "{error:?}");
            let nested = finish(numbers(&store, 1).next()).unwrap().unwrap_err();
            assert!(matches!(nested, Error::Reentrant { .. }), "{nested:?}");
            Ok(Closes)
        }
    }
    let store = Store::open_temp().unwrap();
    *STORE.lock().unwrap() = Some(store.clone());
    let mut stream = store.read_stream::<Closes>("SELECT 1", []);
    next(&mut stream).unwrap().unwrap();
    *STORE.lock().unwrap() = None;
}

// ---- many ----

#[test]
fn more_streams_than_readers_take_turns() {
    let store = store_with(Options::new().readers(3));
    many_threads().block_on(async {
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let mut stream = numbers(&store, 5000);
                tokio::spawn(async move {
                    let mut rows = Vec::new();
                    while let Some(row) = stream.next().await {
                        rows.push(row.unwrap().0);
                    }
                    assert_eq!(rows.len(), 5000);
                    is_sequence(&rows, 1);
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        }
    });
    is_idle(&store);
}

#[test]
fn stalled_streams_leave_a_connection_for_reads() {
    let store = store_with(Options::new().readers(3));
    let mut stalled = [many(&store), many(&store)];
    for stream in &mut stalled {
        next(stream).unwrap().unwrap();
    }
    // A third one waits in line, and other reads pass it.
    let patience = Duration::from_millis(30);
    let mut third = store.read_stream_with::<(i64,)>(ReadOptions::new().queue_timeout(patience), NUMBERS, [1]);
    begin(&mut third);
    for _ in 0..20 {
        assert_eq!(count(&store), 0);
        assert_eq!(finish(counting(&store)).unwrap(), 0);
    }
    let (rows, error) = drain(&mut third);
    assert!(rows.is_empty());
    let error = error.unwrap();
    assert!(
        matches!(&error, Error::ReadQueueTimeout { waited, readers: 3, .. } if *waited >= patience),
        "{error:?}"
    );
    assert!(error.is_retryable() && error.outcome() == Outcome::NotStarted);
    assert!(store.stats().readers.timeouts >= 1);
    // One that is dropped in line never runs.
    let mut fourth = numbers(&store, 1);
    begin(&mut fourth);
    drop(fourth);
    assert_eq!(store.stats().readers.queued, 0);
    let [first, _second] = stalled;
    drop(first);
    assert_eq!(drain(&mut numbers(&store, 3)).0, [1, 2, 3]);
}

#[test]
fn full_line_refuses_stream_that_does_not_wait() {
    let store = store_with(Options::new().readers(2).queue_capacity(1));
    let mut stalled = many(&store);
    next(&mut stalled).unwrap().unwrap();
    let mut queued = numbers(&store, 2);
    begin(&mut queued);
    let mut refused = store.read_stream_with::<(i64,)>(read_or_fail(), NUMBERS, [1]);
    let error = next(&mut refused).unwrap().unwrap_err();
    assert!(matches!(error, Error::QueueFull { capacity: 1, .. }), "{error:?}");
    assert!(next(&mut refused).is_none());
    assert_eq!(store.stats().readers.refused, 1);
    drop(stalled);
    assert_eq!(drain(&mut queued).0, [1, 2]);
}

#[test]
fn stream_waits_while_the_pool_is_busy() {
    let store = store_with(Options::new().readers(1));
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            store
                .read(|_| {
                    running.send(()).unwrap();
                    hear(&told);
                    Ok(())
                })
                .unwrap();
        });
        hear(&runs);
        let patience = ReadOptions::new().queue_timeout(Duration::from_millis(60));
        let error = drain(&mut store.read_stream_with(patience, NUMBERS, [1])).1.unwrap();
        assert!(matches!(error, Error::ReadQueueTimeout { .. }), "{error:?}");
        let mut patient = numbers(store, 3);
        begin(&mut patient);
        let_go.send(()).unwrap();
        assert_eq!(drain(&mut patient).0, [1, 2, 3]);
    });
}

/// Streams that end, fail and are dropped at any moment, beside reads and writes; and the store closes in the end.
#[test]
fn streams_dropped_at_random_leave_nothing_behind() {
    let store = store_with(Options::new().readers(4));
    let told = Arc::new(AtomicUsize::new(0));
    many_threads().block_on(async {
        let tasks: Vec<_> = (0..24)
            .map(|task| {
                let (store, told) = (store.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    let mut dice = Dice::new(task);
                    for _ in 0..60 {
                        let total = dice.roll(2000) as i64;
                        let taken = dice.roll(2500) as usize;
                        let mut stream = numbers(&store, total);
                        let mut rows = Vec::new();
                        while rows.len() < taken {
                            if dice.roll(50) == 0 {
                                // Elsewhere meanwhile.
                                tokio::task::yield_now().await;
                            }
                            match stream.next().await {
                                Some(row) => rows.push(row.unwrap().0),
                                None => break,
                            }
                        }
                        is_sequence(&rows, 1);
                        if taken > rows.len() {
                            assert_eq!(rows.len() as i64, total.max(1));
                            told.fetch_add(1, SeqCst);
                        }
                        drop(stream);
                        if dice.roll(4) == 0 {
                            store.read_async(|tx| tx.scalar::<i64>("SELECT 1", [])).await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        }
    });
    assert!(told.load(SeqCst) > 100);
    is_idle(&store);
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
}

/// Rows that were not taken are dropped with the stream, and so are its parameters.
#[test]
fn dropped_stream_drops_its_rows() {
    static TELLS: Mutex<Vec<TellTale>> = Mutex::new(Vec::new());
    struct Tells {
        _tale: TellTale,
    }
    impl TryFrom<&Row<'_>> for Tells {
        type Error = rusqlite::Error;
        fn try_from(_: &Row<'_>) -> rusqlite::Result<Self> {
            let _tale = TELLS.lock().unwrap().pop().ok_or(rusqlite::Error::InvalidQuery)?;
            Ok(Tells { _tale })
        }
    }
    let store = Store::open_temp().unwrap();
    let (tales, dropped): (Vec<_>, Vec<_>) = (0..300).map(|_| TellTale::new()).unzip();
    *TELLS.lock().unwrap() = tales;
    let mut stream = store.read_stream::<Tells>(NUMBERS, [300]);
    let first = next(&mut stream).unwrap().unwrap();
    drop(stream);
    is_idle(&store);
    drop(first);
    TELLS.lock().unwrap().clear();
    dropped.iter().for_each(hear);
}

/// A stream is `Send`, and may be pinned anywhere.
#[test]
fn stream_is_send_and_unpin() {
    fn is<T: Send + Unpin + 'static>(_: &T) {}
    let store = Store::open_temp().unwrap();
    let mut stream = store.read_stream::<(String,)>("SELECT 'a'", []);
    is(&stream);
    let mut boxed: Pin<Box<dyn futures_util::Stream<Item = larder::Result<(String,)>> + Send>> = Box::pin(stream);
    assert_eq!(finish(boxed.next()).unwrap().unwrap().0, "a");
    stream = store.read_stream("SELECT 'b'", []);
    assert_eq!(next(&mut stream).unwrap().unwrap().0, "b");
}
