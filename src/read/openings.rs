//! The number of connections in the pool, and whether another may be opened.
//!
//! Plain data, guarded by the lock of the idle connections. One connection is opened at a time. An opening runs user
//! code and waits for the disk, so it may be slow. It counts as a connection from its beginning.

use std::time::{Duration, Instant};

/// The pause after a failed opening. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// An opening that takes longer is slow: most take less than a millisecond.
const SLOW: Duration = Duration::from_millis(20);

pub(super) struct Openings {
    /// Upper bound of `connections`.
    size: u32,
    /// Connections that are open, and the one that is being opened.
    connections: u32,
    /// When the current opening began.
    began: Option<Instant>,
    /// The failures since the last successful opening.
    failure: Option<Failure>,
}

struct Failure {
    reason: String,
    pause: Duration,
    /// The next opening may begin then.
    until: Instant,
}

impl Openings {
    pub(super) fn new(size: u32) -> Self {
        Self {
            size,
            connections: 0,
            began: None,
            failure: None,
        }
    }

    /// Whether the pool is full and no opening is in progress.
    pub(super) fn is_full(&self) -> bool {
        self.connections == self.size && self.began.is_none()
    }

    /// Whether an opening is to begin now. If so, it is recorded.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let pauses = self.failure.as_ref().is_some_and(|failure| now < failure.until);
        if pauses || self.began.is_some() || self.connections == self.size {
            return false;
        }
        self.connections += 1;
        self.began = Some(now);
        true
    }

    /// The current opening has produced a connection.
    pub(super) fn succeeded(&mut self) {
        self.began = None;
        self.failure = None;
    }

    /// The current opening has failed.
    pub(super) fn failed(&mut self, reason: String, now: Instant) {
        self.began = None;
        self.connections -= 1;
        let before = self.failure.as_ref();
        let pause = before.map_or(FIRST_PAUSE, |failure| (2 * failure.pause).min(LONGEST_PAUSE));
        self.failure = Some(Failure {
            reason,
            pause,
            until: now + pause,
        });
    }

    /// A connection has been closed.
    pub(super) fn closed(&mut self) {
        self.connections -= 1;
    }

    /// Why there is no further connection, if openings are the reason.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let failed = self.failure.as_ref().map(|failure| failure.reason.clone());
        let Some(began) = self.began else {
            return failed;
        };
        let so_far = now.saturating_duration_since(began);
        let slow =
            || format!("opening a connection has taken {so_far:.1?} so far: Options::on_connect or the disk is slow");
        match failed {
            Some(reason) if so_far < SLOW => Some(reason),
            Some(reason) => Some(format!("{reason}; once more, {}", slow())),
            None if so_far < SLOW => Some("a connection is being opened".to_owned()),
            None => Some(slow()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_opens_one_connection_at_a_time() {
        let mut openings = Openings::new(2);
        let now = Instant::now();
        assert!(openings.begin(now));
        assert!(!openings.begin(now), "one goes on");
        openings.succeeded();
        assert!(openings.begin(now));
        assert!(!openings.is_full(), "the second is not there yet");
        openings.succeeded();
        assert!(openings.is_full() && !openings.begin(now));
        openings.closed();
        assert!(openings.begin(now));
    }

    #[test]
    fn failed_opening_is_retried_with_growing_pauses() {
        let mut openings = Openings::new(1);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for n in 0..7 {
            assert!(openings.begin(now));
            openings.failed(format!("failure {n}"), now);
            assert_eq!(openings.trouble(now), Some(format!("failure {n}")));
            let pause = openings.failure.as_ref().unwrap().pause;
            assert!(!openings.begin(now + pause / 2));
            now += pause;
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        assert!(openings.begin(now));
        openings.succeeded();
        assert_eq!(openings.trouble(now), None);
    }

    #[test]
    fn slow_opening_is_the_reported_reason() {
        let mut openings = Openings::new(1);
        let began = Instant::now();
        openings.begin(began);
        let reason = openings.trouble(began + Duration::from_micros(145)).unwrap();
        assert_eq!(reason, "a connection is being opened");
        let reason = openings.trouble(began + Duration::from_secs(5)).unwrap();
        assert!(reason.contains("5.0s") && reason.contains("on_connect"), "{reason}");
        // What is known of the one before is not lost while another goes on.
        openings.failed("no such table".into(), began);
        let again = began + Duration::from_secs(10);
        assert!(openings.begin(again));
        assert_eq!(openings.trouble(again).unwrap(), "no such table");
        let reason = openings.trouble(again + Duration::from_secs(1)).unwrap();
        assert!(
            reason.starts_with("no such table; once more, opening a connection has taken 1.0s"),
            "{reason}"
        );
    }
}
