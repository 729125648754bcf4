use std::env;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::clients::Clients;
use crate::{Case, Peer, Result};

/// Answers each case on standard input with a line of JSON, until the input ends.
pub fn main<P: Peer>() {
    let path = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .expect("the path of the rows is given");
    for line in io::stdin().lock().lines() {
        let line = line.expect("standard input can be read");
        let answer = slice::<P>(&path, &line).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        println!("{answer}");
    }
}

/// Opens, runs and closes, so that each slice begins with an empty WAL and leaves nothing running.
fn slice<P: Peer>(path: &Path, line: &str) -> Result<Value> {
    let case: Case = line.parse()?;
    let runtime = Runtime::new()?;
    // A peer may hand work to its runtime as it is dropped.
    let _entered = runtime.enter();
    let peer = Arc::new(runtime.block_on(P::open(path, &case))?);
    let sqlite = runtime.block_on(peer.sqlite())?;
    let clients = Clients::of::<P>(&case);
    let tally = clients.run(&runtime, &peer, case)?;
    let peer = Arc::into_inner(peer).expect("every client has ended");
    runtime.block_on(peer.close())?;
    Ok(json!({
        "clients": clients.to_string(),
        "per_second": tally.done as f64 / case.time.as_secs_f64(),
        "p50": tally.waits.percentile(0.5),
        "p99": tally.waits.percentile(0.99),
        "p999": tally.waits.percentile(0.999),
        "worst": tally.waits.worst(),
        "sqlite": sqlite,
    }))
}
