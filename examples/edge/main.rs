//! Reads near the reader: a primary and two followers, each with a web service, and what happens when a primary fails.
//!
//! ```sh
//! cargo run --example edge --features replicate                # all of it in one terminal, in a temporary folder
//! cargo run --example edge --features replicate -- demo FOLDER # in this folder, which is kept
//! ```
//!
//! That starts three processes of this program, writes, reads, kills and promotes, and logs who does what.
//!
//! # By hand
//!
//! In three terminals:
//!
//! ```sh
//! cargo build --example edge --features replicate
//! target/debug/examples/edge primary frankfurt/app.db /tmp/replica 127.0.0.1:3001
//! target/debug/examples/edge follower london/app.db /tmp/replica 127.0.0.1:3002
//! target/debug/examples/edge follower tokyo/app.db /tmp/replica 127.0.0.1:3003
//! ```
//!
//! In a fourth one:
//!
//! ```sh
//! curl -i localhost:3001/notes -d tea                 # 201, and a header `larder-token`
//! curl -i localhost:3002/notes/1 -H 'larder-token: ..' # that note: london has waited until it had it
//! curl -iL localhost:3003/notes -d coffee             # 307: tokyo knows where the primary is
//! curl localhost:3003/                                # how far tokyo is
//! # Kill the first process with SIGKILL, then:
//! curl -i -X POST localhost:3002/promote              # london is the primary, and tokyo follows it
//! # Start the first one again as it was started before: it says who owns the replica now.
//! ```
//!
//! Where to look:
//!
//! - `node.rs`: the service, to copy. `Node::read` waits for the reader's own write; `Node::elsewhere` sends a write to
//!   the primary; `Node::become_primary` promotes;
//! - `demo.rs`: what the demonstration does; `process.rs`, `client.rs`: its processes, and its requests.

mod client;
mod demo;
mod node;
mod process;

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use crate::node::Begin;

const USAGE: &str = "\
usage: edge [demo FOLDER] | primary DATABASE REPLICA ADDRESS | follower DATABASE REPLICA ADDRESS

  FOLDER     is made, and must be empty
  DATABASE   an SQLite file; made if it is not there
  REPLICA    a folder, or the URL of a bucket (with the feature of its cloud)
  ADDRESS    where to listen; with port 0 any that is free, which stdout tells";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [] => demo::run_in_temporary_folder(),
        ["demo", folder] => demo::run(Path::new(folder)),
        ["primary", database, replica, address] => node::run(Begin::Primary, database, replica, address),
        ["follower", database, replica, address] => node::run(Begin::Follower, database, replica, address),
        _ => Err(USAGE.into()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("edge: {error}");
        ExitCode::FAILURE
    })
}
