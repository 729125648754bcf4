//! Many rows beside a caller that writes one row every 2 ms: `cargo bench --bench bulk`.
//!
//! Each row goes into a table with an index in random order. The ways take turns: all rows in one transaction; a loop of
//! transactions of 1000 rows, on larder and on a `Mutex<Connection>`; `Store::bulk`. Each is measured alone and beside the
//! caller, then the rows are deleted again. The same with tokio-rusqlite, in one run:
//! `cargo run --release --manifest-path benches/peers/bulk/Cargo.toml`.
//!
//! The output has the medians of all rounds: rows a second, what part that is of one transaction alone, how long the
//! caller's writes took, and how large the log became. Of larder's ways, the writes during which no checkpoint ended are
//! reported apart, too (`no cp`). A log larger than twice `Options::wal_limit` is marked.
//!
//! `LARDER_BENCH_ROWS` (default 400,000), `LARDER_BENCH_ROUNDS` (default 5), `LARDER_BENCH_DIR` (default: the target
//! folder), `LARDER_BENCH_WAYS` (parts of their names, with `;` between; before a full stop stands a whole name). Ten million rows in, and out again, once:
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
