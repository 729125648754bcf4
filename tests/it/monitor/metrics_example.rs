//! `examples/metrics.rs` as a separate process: the pages it serves, and its shutdown.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::metrics::documented;
use crate::support::child::{PATIENCE, example, succeeds};
use crate::support::prometheus::{Scrape, fetch};

/// The process, which does not outlive this.
struct Example {
    process: Child,
    out: BufReader<ChildStdout>,
    url: String,
}

impl Example {
    fn start() -> Self {
        let mut command = Command::new(example("metrics"));
        command.arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("listening on ");
        let url = url.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { process, out, url }
    }

    fn fetch(&self, page: &str) -> String {
        fetch(&format!("{}{page}", self.url))
    }

    /// What it says until it has ended, which it must do well.
    fn stop(mut self) -> Vec<String> {
        let command = format!("kill -TERM {}", self.process.id());
        assert!(succeeds(Command::new("sh").args(["-c", &command])), "{command}");
        let lines = (&mut self.out).lines().map(Result::unwrap).collect();
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "{lines:?}");
        lines
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn example_serves_metrics_and_closes_at_signal() {
    let example = Example::start();
    let index = example.fetch("/");
    assert!(
        ["/metrics", "/stats", "/advice"]
            .iter()
            .all(|page| index.contains(page)),
        "{index}"
    );
    let advice: Vec<Value> = serde_json::from_str(&example.fetch("/advice")).unwrap();
    assert!(
        advice.iter().all(|finding| finding["message"].is_string()),
        "{advice:?}"
    );

    // Both grow: once there is something, and then on.
    let (mut scraped, mut stats) = (0.0, 0);
    for _ in 0..2 {
        scraped = grown(scraped, || committed(&Scrape::parse(&example.fetch("/metrics"))));
        stats = grown(stats, || {
            let stats: Value = serde_json::from_str(&example.fetch("/stats")).unwrap();
            stats["committed_writes"].as_u64().unwrap()
        });
    }
    let scrape = Scrape::parse(&example.fetch("/metrics"));
    for row in &documented() {
        let family = &scrape.0[&row.scraped_name()];
        assert_eq!(
            (family.kind.as_str(), family.help.as_str()),
            (row.kind, row.meaning),
            "{}",
            row.name
        );
    }
    let lines = example.stop();
    let [closed] = &lines[..] else { panic!("{lines:?}") };
    assert!(
        closed.starts_with("closed: ") && closed.contains("the WAL was truncated"),
        "{closed}"
    );
}

fn committed(scrape: &Scrape) -> f64 {
    let family = scrape.0.get("larder_write_committed_total");
    family.map_or(0.0, |family| family.samples.values().sum())
}

/// Waits for more.
fn grown<T: PartialOrd + std::fmt::Debug>(before: T, now: impl Fn() -> T) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let now = now();
        if now > before {
            return now;
        }
        assert!(Instant::now() < give_up, "{now:?} was {before:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
