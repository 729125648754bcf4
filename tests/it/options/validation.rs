//! Validation of `Options`, and their serialized form.

use std::fs;
use std::time::Duration;

use larder::{Error, Options, ReadOptions, WriteOptions};
use tempfile::tempdir;

/// An option that has a range by itself: how it is set, the least and the most.
enum Range {
    Number(fn(Options, u64) -> Options, u64, u64),
    Time(fn(Options, Duration) -> Options, Duration, Duration),
}

use Range::{Number, Time};

const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

#[rustfmt::skip]
const RANGES: &[(&str, Range)] = &[
    ("readers", Number(|o, n| o.readers(n as u32), 1, 1024)),
    ("queue_capacity", Number(|o, n| o.queue_capacity(n as usize), 1, 1_000_000)),
    ("max_group_size", Number(|o, n| o.max_group_size(n as usize), 1, 1_000_000)),
    ("statement_cache_capacity", Number(|o, n| o.statement_cache_capacity(n as usize), 16, 10_000)),
    ("max_call_sites", Number(|o, n| o.max_call_sites(n as usize), 0, 10_000)),
    ("max_statements", Number(|o, n| o.max_statements(n as usize), 0, 10_000)),
    ("checkpoint_pages", Number(|o, n| o.checkpoint_pages(n as u32), 1, i32::MAX as u64)),
    ("page_size", Number(Options::page_size, 512, 65_536)),
    ("cache_size", Number(Options::cache_size, 1024, i32::MAX as u64 * 1024)),
    ("mmap_size", Number(Options::mmap_size, 0, i64::MAX as u64)),
    ("journal_size_limit", Number(Options::journal_size_limit, 0, i64::MAX as u64)),
    ("wal_limit", Number(Options::wal_limit, 64 * 1024, i64::MAX as u64)),
    ("busy_timeout", Time(Options::busy_timeout, MS, LONGEST)),
    ("queue_timeout", Time(Options::queue_timeout, US, LONGEST)),
    ("read_queue_timeout", Time(Options::read_queue_timeout, US, LONGEST)),
    ("close_timeout", Time(Options::close_timeout, US, LONGEST)),
    ("max_group_time", Time(Options::max_group_time, Duration::ZERO, MINUTE)),
    ("spin_time", Time(Options::spin_time, Duration::ZERO, MS)),
    ("optimize_interval", Time(Options::optimize_interval, MS, Duration::MAX)),
    ("migration_timeout", Time(Options::migration_timeout, MS, LONGEST)),
    ("max_reader_age", Time(Options::max_reader_age, MS, Duration::MAX)),
    ("stream_idle_timeout", Time(Options::stream_idle_timeout, MS, Duration::MAX)),
];

impl Range {
    /// Options with a value just below the range, just above it, and far above.
    fn outside(&self) -> Vec<Options> {
        match self {
            Number(set, least, most) => [least.checked_sub(1), most.checked_add(1), Some(u64::MAX)]
                .into_iter()
                .flatten()
                .map(|value| set(Options::new(), value))
                .collect(),
            Time(set, least, most) => {
                let ns = Duration::from_nanos(1);
                [
                    least.checked_sub(ns),
                    (!least.is_zero()).then_some(Duration::ZERO),
                    most.checked_add(ns),
                    most.checked_add(ns).map(|_| Duration::MAX),
                ]
                .into_iter()
                .flatten()
                .map(|value| set(Options::new(), value))
                .collect()
            }
        }
    }

    fn words(&self) -> String {
        match self {
            Number(_, least, most) => format!("is out of range: from {least} to {most}"),
            Time(_, least, most) => format!("is out of range: from {least:?} to {most:?}"),
        }
    }

    fn set_least(&self, options: Options) -> Options {
        match self {
            Number(set, least, _) => set(options, *least),
            Time(set, least, _) => set(options, *least),
        }
    }

    fn set_most(&self, options: Options) -> Options {
        match self {
            Number(set, _, most) => set(options, *most),
            Time(set, _, most) => set(options, *most),
        }
    }
}

#[test]
fn value_out_of_range_is_refused_by_name() {
    let o = Options::new;
    let mut wrong: Vec<(&str, Options)> = vec![
        ("page_size", o().page_size(0)),
        ("page_size", o().page_size(256)),
        ("page_size", o().page_size(1000)),
        ("cache_size", o().cache_size(0)),
        ("wal_limit", o().wal_limit(0)),
        ("wal_hard_limit", o().wal_hard_limit(1)),
        ("wal_hard_limit", o().wal_limit(2 << 20).wal_hard_limit(1 << 20)),
        ("monitor_interval", o().monitor_interval(Duration::from_nanos(1))),
        ("monitor_interval", o().monitor_interval(Duration::MAX)),
    ];
    for (name, range) in RANGES {
        wrong.extend(range.outside().into_iter().map(|options| (*name, options)));
    }
    let folder = tempdir().unwrap();
    for (name, options) in wrong {
        let told = format!("{options:?}");
        let error = options.clone().open(folder.path().join("app.db")).unwrap_err();
        match &error {
            Error::Options { option, problem } => {
                assert_eq!(*option, name, "{told}");
                assert!(!problem.is_empty());
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            0,
            "{name} has created a file"
        );
        assert!(
            matches!(options.open_temp(), Err(Error::Options { .. })),
            "{name} in open_temp"
        );
    }
}

#[test]
fn refused_value_is_shown_with_the_allowed_range() {
    for (options, words) in [
        (Options::new().readers(0), ["0 is out of range", "from 1 to 1024"]),
        (Options::new().page_size(1000), ["1000", "power of two"]),
        (Options::new().busy_timeout(Duration::ZERO), ["0ns", "from 1ms"]),
        (Options::new().wal_hard_limit(1), ["below wal_limit", "raise it"]),
    ] {
        let message = options.open_temp().unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    for (name, range) in RANGES {
        for options in range.outside() {
            let message = options.open_temp().unwrap_err().to_string();
            assert!(message.contains(&range.words()), "{name}: {message}");
        }
    }
}

#[test]
fn values_at_the_ends_of_ranges_are_accepted() {
    let least = RANGES
        .iter()
        .fold(Options::new(), |options, (_, range)| range.set_least(options))
        .close_timeout(Duration::from_secs(30))
        .wal_hard_limit(64 * 1024)
        .slow_read_threshold(Duration::MAX)
        .slow_write_threshold(Duration::MAX)
        .slow_events_per_second(0)
        .monitor_interval(MS);
    let most = RANGES
        .iter()
        // SQLite allows no map as large as that, see the next test.
        .filter(|(name, _)| *name != "mmap_size")
        .fold(Options::new(), |options, (_, range)| range.set_most(options))
        .wal_hard_limit(i64::MAX as u64)
        .slow_events_per_second(u32::MAX)
        .monitor_interval(Duration::from_secs(24 * 60 * 60))
        .interrupt_old_readers(true);
    let patient = Duration::from_secs(60);
    for options in [least, most] {
        let store = options.open_temp().unwrap();
        store
            .write_with(WriteOptions::new().queue_timeout(patient), |tx| {
                tx.execute_batch("CREATE TABLE t(n INTEGER); INSERT INTO t VALUES (7)")
            })
            .unwrap();
        let n: i64 = store
            .read_with(ReadOptions::new().queue_timeout(patient), |tx| {
                tx.query_row("SELECT n FROM t", [], |row| row.get(0))
            })
            .unwrap();
        assert_eq!(n, 7);
        store.close().unwrap();
    }
}

#[test]
fn guide_gives_the_ranges() {
    let guide = include_str!("../../../docs/guide/tuning.md");
    let row = |name: &str| guide.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
    for (name, range) in RANGES {
        let row = row(name).unwrap_or_else(|| panic!("{name} is not in the guide"));
        if let Number(_, least, most @ ..=1_000_000) = range {
            let (least, most) = (thousands(*least), thousands(*most));
            let range = if least == "0" {
                format!("up to {most}")
            } else {
                format!("{least} to {most}")
            };
            assert!(row.contains(&range), "{range}: {row}");
        }
    }
}

fn thousands(number: u64) -> String {
    match (number / 1_000_000, number / 1000 % 1000, number % 1000) {
        (0, 0..10, _) => number.to_string(),
        (0, thousands, ones) => format!("{thousands},{ones:03}"),
        (millions, thousands, ones) => format!("{millions},{thousands:03},{ones:03}"),
    }
}

#[test]
fn map_larger_than_sqlite_allows_is_refused() {
    let error = Options::new().mmap_size(1 << 50).open_temp().unwrap_err();
    assert!(matches!(error, Error::Pragma { name: "mmap_size", .. }), "{error:?}");
    assert!(error.to_string().contains("lower Options::mmap_size"), "{error}");
}

#[test]
fn debug_shows_every_value_and_hides_the_function() {
    let shown = format!("{:?}", Options::new().readers(3).on_connect(|_, _| Ok(())));
    assert!(
        shown.contains("readers: 3") && shown.contains(r#"on_connect: Some("Fn")"#),
        "{shown}"
    );
}

#[cfg(feature = "serde")]
mod from_a_file {
    use std::time::Duration;

    use larder::{Access, AutoVacuum, Checkpoints, Durability, Options};
    use serde_json::{Value, json};

    fn parse(value: Value) -> Result<Options, serde_json::Error> {
        serde_json::from_str(&value.to_string())
    }

    #[track_caller]
    fn survives(options: Options) {
        let text = serde_json::to_string(&options).unwrap();
        let back: Options = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(format!("{back:?}"), format!("{options:?}"), "{text}");
    }

    fn changed() -> Options {
        Options::new()
            .access(Access::Exclusive)
            .durability(Durability::Full)
            .readers(17)
            .queue_capacity(3)
            .max_group_size(5)
            .max_group_time(Duration::from_micros(1500))
            .queue_timeout(Duration::from_millis(2001))
            .read_queue_timeout(Duration::from_secs(61))
            .close_timeout(Duration::from_secs(3600))
            .busy_timeout(Duration::from_millis(1))
            .spin_time(Duration::ZERO)
            .slow_write_threshold(Duration::from_nanos(1))
            .slow_read_threshold(Duration::from_secs(86_400 * 400))
            .slow_events_per_second(1)
            .max_call_sites(7)
            .max_statements(8)
            .monitor_interval(Duration::ZERO)
            .incremental_vacuum(false)
            .optimize_interval(Duration::from_secs(60))
            .max_reader_age(Duration::from_millis(50))
            .interrupt_old_readers(true)
            .stream_idle_timeout(Duration::from_secs(3))
            .page_size(512)
            .auto_vacuum(AutoVacuum::Full)
            .cache_size(1_234_567)
            .mmap_size(0)
            .statement_cache_capacity(99)
            .foreign_keys(false)
            .trusted_schema(true)
            .double_quoted_strings(true)
            .checkpoints(Checkpoints::Left)
            .checkpoint_pages(1)
            .wal_limit(100_000_000)
            .wal_hard_limit(3 << 40)
            .journal_size_limit(i64::MAX as u64)
            .create(false)
            .read_only(true)
            .allow_unsupported_filesystem(true)
            .allow_linked_file(true)
            .migration_timeout(Duration::from_secs(7))
            .require_strict(true)
    }

    #[test]
    fn defaults_survive_serialization() {
        survives(Options::new());
    }

    #[test]
    fn changed_values_survive_serialization() {
        survives(changed());
        let plain = serde_json::to_value(Options::new()).unwrap();
        let other = serde_json::to_value(changed()).unwrap();
        for (name, value) in plain.as_object().unwrap() {
            assert_ne!(other[name], *value, "{name} is not tried here");
        }
    }

    #[test]
    fn longest_duration_and_largest_size_survive_serialization() {
        survives(
            Options::new()
                .max_reader_age(Duration::MAX)
                .wal_limit(u64::MAX)
                .mmap_size(u64::MAX),
        );
    }

    #[test]
    fn sizes_and_durations_are_written_readably() {
        let options = Options::new()
            .wal_limit(64 << 20)
            .max_group_time(Duration::from_millis(250));
        let written = serde_json::to_value(options).unwrap();
        assert_eq!(written["max_group_time"], "250ms");
        let size = written["wal_limit"].as_str().expect("a size with a unit");
        assert!(size.starts_with("64") && size.ends_with("MiB"), "{size}");
    }

    #[test]
    fn sizes_and_durations_are_read_in_common_forms() {
        let read = parse(json!({
            "wal_limit": "64 MiB", "mmap_size": "1GiB", "cache_size": "2 MB", "page_size": 8192,
            "max_group_time": "250ms", "queue_timeout": "1m 30s", "wal_hard_limit": "1 GiB",
        }));
        let meant = Options::new()
            .wal_limit(64 << 20)
            .mmap_size(1 << 30)
            .cache_size(2_000_000)
            .page_size(8192)
            .max_group_time(Duration::from_millis(250))
            .queue_timeout(Duration::from_secs(90))
            .wal_hard_limit(1 << 30);
        assert_eq!(format!("{:?}", read.unwrap()), format!("{meant:?}"));
    }

    #[test]
    fn choices_are_read_in_lower_case() {
        let read =
            parse(json!({"access": "exclusive", "durability": "full", "auto_vacuum": "none", "checkpoints": "left"}));
        let meant = Options::new()
            .access(Access::Exclusive)
            .durability(Durability::Full)
            .auto_vacuum(AutoVacuum::None)
            .checkpoints(Checkpoints::Left);
        assert_eq!(format!("{:?}", read.unwrap()), format!("{meant:?}"));
    }

    #[test]
    fn empty_object_gives_the_defaults() {
        assert_eq!(
            format!("{:?}", parse(json!({})).unwrap()),
            format!("{:?}", Options::new())
        );
    }

    #[test]
    fn unknown_key_is_refused_by_name() {
        for key in ["raeders", "on_connect"] {
            let error = parse(json!({ key: 4 })).unwrap_err().to_string();
            assert!(error.contains("unknown field") && error.contains(key), "{error}");
        }
    }

    #[test]
    fn duration_without_a_unit_is_refused() {
        for value in [json!(5), json!(5.5), json!("5")] {
            let error = parse(json!({ "busy_timeout": value })).unwrap_err().to_string();
            let expected = r#"a duration with a unit, such as "5s" or "250ms""#;
            assert!(error.contains(expected), "{value}: {error}");
        }
    }

    #[test]
    fn invalid_size_or_choice_is_refused() {
        for (name, value) in [
            ("wal_limit", json!("64 miles")),
            ("wal_limit", json!(-1)),
            ("access", json!("private")),
            ("readers", json!("many")),
            ("busy_timeout", json!("-5s")),
        ] {
            parse(json!({ name: value })).expect_err(name);
        }
        for value in [json!("64 miles"), json!(-1), json!(1.5), json!(true)] {
            for name in ["wal_limit", "wal_hard_limit"] {
                let error = parse(json!({ name: value })).unwrap_err().to_string();
                let expected = r#"a size with a unit, such as "64 MiB", or a number of bytes"#;
                assert!(error.contains(expected), "{name}: {value}: {error}");
            }
        }
    }

    #[test]
    fn value_out_of_range_is_refused_by_open() {
        let error = parse(json!({"readers": 0})).unwrap().open_temp().unwrap_err();
        assert!(
            matches!(error, larder::Error::Options { option: "readers", .. }),
            "{error:?}"
        );
    }
}
