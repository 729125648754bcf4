//! Many rows beside a caller that writes one row every 2 ms: `cargo bench --bench bulk`.
//!
//! The ways to insert rows into a table with an index in random order: all of them in one transaction; a loop of
//! transactions of 1000 rows, on larder and on a `Mutex<Connection>`; `Store::bulk`. And a deletion by one `DELETE` and by
//! `Store::bulk`, of a table that was filled before the measurement. Each way runs alone and beside the caller, on a new
//! database each time, and the ways take turns. The same with tokio-rusqlite, in one run:
//! `cargo run --release --manifest-path benches/peers/bulk/Cargo.toml`.
//!
//! The output has the medians of all rounds: rows a second, and as a part of those of one transaction (of one `DELETE`)
//! alone; the times of the caller's writes; the largest size of the log. For larder it also has the times of the writes
//! during which no checkpoint ended (`no cp`). A log larger than twice `Options::wal_limit` is marked.
//!
//! `LARDER_BENCH_ROWS` (default 400,000), `LARDER_BENCH_ROUNDS` (default 5), `LARDER_BENCH_DIR` (default: the target
//! folder), `LARDER_BENCH_WAYS` (parts of names, with `;` between; a name with a full stop behind it is a whole one). Ten
//! million rows in, and ten million out, once:
//!
//! ```sh
//! LARDER_BENCH_ROWS=10000000 LARDER_BENCH_ROUNDS=1 LARDER_BENCH_WAYS='bulk, beside.;bulk delete, beside.' \
//!     cargo bench --bench bulk
//! ```

mod ways;

fn main() -> larder::Result<()> {
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    ways::run(is_bench, ways::all())
}
