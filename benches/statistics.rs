//! The overhead of statistics: `cargo bench --bench statistics`.
//!
//! The same store with the optional statistics on and off, in turns, as in `ratios`: a ratio of 0.98 is an overhead of
//! 2 %. An argument after `--` selects the pairs with that text in their name. `LARDER_BENCH_SECS` is the time for each
//! pair (default 10), `LARDER_BENCH_DIR` the folder.

mod data;
mod measure;

use std::time::Duration;

use data::{Data, INSERT, Random, SELECT};
use larder::{Options, Store};
use measure::{compare, repeat, submitted, threads};

const ROUNDS: u32 = 31;

fn main() {
    // `cargo test --benches` runs this, too, only to check that it works.
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let seconds: f64 = if quick { 0.1 } else { seconds.unwrap_or(10.0) };
    let slice = Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0);
    let data = Data::make();
    println!(
        "{:<58} {:>11} {:>11} {:>7}  lowest..highest of {ROUNDS}",
        "", "on/s", "off/s", "ratio"
    );
    let on = Options::new();
    let off = || Options::new().max_call_sites(0).monitor_interval(Duration::ZERO);
    let pairs = [
        ("call sites and alerts / none", on.clone(), off()),
        (
            "statements, too / call sites and alerts",
            on.clone().max_statements(1000),
            on.clone(),
        ),
        ("everything / nothing", on.max_statements(1000), off()),
    ];
    for (name, on, off) in pairs {
        let on = data.store("on.db", on);
        let off = data.store("off.db", off);
        pair(&format!("read of one row: {name}"), &on, &off, |store| {
            reads(slice, store)
        });
        pair(&format!("read of one row, 2 threads: {name}"), &on, &off, |store| {
            threads(slice, 2, |_| Random::new(), |ids| read(store, ids.user()))
        });
        pair(&format!("write of one row: {name}"), &on, &off, |store| {
            repeat(slice, || write(store))
        });
        pair(&format!("1024 writes in flight: {name}"), &on, &off, |store| {
            submitted(slice, 1024, store, INSERT)
        });
    }
}

fn reads(slice: Duration, store: &Store) -> f64 {
    let mut ids = Random::new();
    repeat(slice, || read(store, ids.user()))
}

fn read(store: &Store, id: i64) {
    let name: String = store
        .read(|tx| tx.query_row(SELECT, [id], |row| row.get(0)))
        .expect("found");
    drop(name);
}

fn write(store: &Store) {
    store.write(|tx| tx.insert(INSERT, (1, "click"))).expect("written");
}

fn pair(name: &str, on: &Store, off: &Store, mut run: impl FnMut(&Store) -> f64 + Copy) {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    if wanted.is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let mut other = run;
    let found = compare(ROUNDS, || run(on), || other(off));
    println!(
        "{name:<58} {:>11.0} {:>11.0} {:>7.3}  {:.2}..{:.2}",
        found.ours, found.theirs, found.ratio, found.lowest, found.highest
    );
}
