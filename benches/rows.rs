//! Rows into values: a struct of ten fields by `#[derive(FromRow)]`, by a tuple and by `TryFrom<&Row>`, beside the same
//! struct from `row.get(0)`, `row.get(1)` and so on in `query_map`.
//!
//! `cargo bench --features derive --bench rows`
//!
//! The sides of a pair run in turns. The output is the median of the ratios of neighbouring slices, with the lowest and
//! the highest. `LARDER_BENCH_SECS` is the time for each pair (default 6).
//!
//! `benches/measure/row_instructions` counts the instructions of a read of one row instead, which a busy machine does not
//! change. It calls the program with `--reads derived 6000`.

mod measure;

use std::hint::black_box;
use std::time::Duration;

use larder::rusqlite::{self, Row};
use larder::{FromRow, Store};
use measure::{compare, repeat};

const ROUNDS: u32 = 21;
const SCHEMA: &str = "
    CREATE TABLE orders(
        id INTEGER PRIMARY KEY, customer INTEGER NOT NULL, article TEXT NOT NULL, count INTEGER NOT NULL,
        price REAL NOT NULL, note TEXT, paid INTEGER NOT NULL, created INTEGER NOT NULL, sent INTEGER, place TEXT NOT NULL
    ) STRICT;
    WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
    INSERT INTO orders
    SELECT i, i % 77, 'article ' || i, i % 5, i * 0.5, iif(i % 2, NULL, 'note ' || i), i % 2, 1700000000 + i,
           iif(i % 3, 1700000900 + i, NULL), 'place ' || i % 10
    FROM n";
const ALL: &str = "SELECT id, customer, article, count, price, note, paid, created, sent, place FROM orders";
const ONE: &str =
    "SELECT id, customer, article, count, price, note, paid, created, sent, place FROM orders WHERE id = ?1";

#[derive(FromRow)]
#[allow(dead_code, reason = "it is read, and not used")]
struct Order {
    id: i64,
    customer: i64,
    article: String,
    count: u32,
    price: f64,
    note: Option<String>,
    paid: bool,
    created: i64,
    sent: Option<i64>,
    place: String,
}

type Tuple = (
    i64,
    i64,
    String,
    u32,
    f64,
    Option<String>,
    bool,
    i64,
    Option<i64>,
    String,
);

/// The same struct, as rusqlite's users read it by name.
#[allow(dead_code, reason = "it is read, and not used")]
struct ByName(Order);

impl TryFrom<&Row<'_>> for ByName {
    type Error = rusqlite::Error;

    fn try_from(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self(Order {
            id: row.get("id")?,
            customer: row.get("customer")?,
            article: row.get("article")?,
            count: row.get("count")?,
            price: row.get("price")?,
            note: row.get("note")?,
            paid: row.get("paid")?,
            created: row.get("created")?,
            sent: row.get("sent")?,
            place: row.get("place")?,
        }))
    }
}

fn by_hand(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get(0)?,
        customer: row.get(1)?,
        article: row.get(2)?,
        count: row.get(3)?,
        price: row.get(4)?,
        note: row.get(5)?,
        paid: row.get(6)?,
        created: row.get(7)?,
        sent: row.get(8)?,
        place: row.get(9)?,
    })
}

/// Nothing but these reads, for a program that counts instructions.
fn read_one_by_one(store: &Store, by: &str, reads: u32) {
    for _ in 0..reads {
        match by {
            "hand" => drop(black_box(
                store.read(|tx| tx.query_row(ONE, [500], by_hand)).expect("a row"),
            )),
            "tuple" => drop(black_box(store.read(|tx| tx.one::<Tuple>(ONE, [500])).expect("a row"))),
            "derived" => drop(black_box(store.read(|tx| tx.one::<Order>(ONE, [500])).expect("a row"))),
            other => panic!("read by hand, tuple or derived, not by {other}"),
        }
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let seconds: f64 = if quick { 0.1 } else { seconds.unwrap_or(6.0) };
    let slice = Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0);
    let store = Store::open_temp().expect("a store");
    store.write(|tx| tx.execute_batch(SCHEMA)).expect("the rows");

    let mut args = std::env::args().skip_while(|arg| arg != "--reads").skip(1);
    if let (Some(by), Some(reads)) = (args.next(), args.next()) {
        return read_one_by_one(&store, &by, reads.parse().expect("a number of reads"));
    }
    println!(
        "{:<44} {:>11} {:>11} {:>7}  lowest..highest of {ROUNDS}",
        "", "ours/s", "by hand/s", "ratio"
    );
    let print = |name: &str, ours: &mut dyn FnMut(), by_hand: &mut dyn FnMut()| {
        let c = compare(ROUNDS, || repeat(slice, &mut *ours), || repeat(slice, &mut *by_hand));
        println!(
            "{name:<44} {:>11.0} {:>11.0} {:>7.3}  {:.3}..{:.3}",
            c.ours, c.theirs, c.ratio, c.lowest, c.highest
        );
    };
    let mut all_by_hand = || {
        drop(black_box(
            store.read(|tx| tx.query_map(ALL, [], by_hand)).expect("rows"),
        ))
    };
    let mut derived = || drop(black_box(store.read(|tx| tx.all::<Order>(ALL, [])).expect("rows")));
    let mut tuples = || drop(black_box(store.read(|tx| tx.all::<Tuple>(ALL, [])).expect("rows")));
    let mut by_name = || drop(black_box(store.read(|tx| tx.all::<ByName>(ALL, [])).expect("rows")));
    print("1000 rows, derived", &mut derived, &mut all_by_hand);
    print("1000 rows, tuples", &mut tuples, &mut all_by_hand);
    print(
        "1000 rows, TryFrom with row.get(\"name\")",
        &mut by_name,
        &mut all_by_hand,
    );

    let mut one_by_hand = || {
        drop(black_box(
            store.read(|tx| tx.query_row(ONE, [500], by_hand)).expect("a row"),
        ))
    };
    let mut derived = || drop(black_box(store.read(|tx| tx.one::<Order>(ONE, [500])).expect("a row")));
    let mut tuple = || drop(black_box(store.read(|tx| tx.one::<Tuple>(ONE, [500])).expect("a row")));
    print("one row, derived", &mut derived, &mut one_by_hand);
    print("one row, tuple", &mut tuple, &mut one_by_hand);
}
