//! How long a file waits for the writes that wait for the replica: whether those that were just acknowledged come again.
//!
//! Callers that write one after another come again as soon as they have their replies. If the next file were sealed at
//! once, it would go without them, and they would wait for that upload, and then for their own. So after an upload the
//! next file waits until as many writes wait for it as were acknowledged, for at most a quarter of an upload and
//! [`LONGEST`]. Where the callers do not come again in that time, as independent ones do not, that is tried ever more
//! rarely.
//!
//! [`Gather`] decides, and knows no thread. The task that uploads begins ([`begin`](Gather::begin)). A thread that commits
//! asks whether to wake the task that seals ([`wakes`](Gather::wakes)): for the first write, from which on the task
//! watches the deadline, and for the last of those that are wanted. The task waits ([`time_left`](Gather::time_left)), and
//! says how it ended ([`end`](Gather::end)).

use std::time::Duration;

use crate::runtime::sync::{Instant, Mutex};

/// Nothing is sealed meanwhile, whatever else wants it.
const LONGEST: Duration = Duration::from_millis(50);

/// After so many uploads it is tried again at the latest.
const LONGEST_REST: u32 = 64;

#[derive(Debug, Default)]
pub(super) struct Gather {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is waited for now.
    wanted: Option<Wanted>,
    /// So many uploads are not waited after.
    rest: u32,
    /// What `rest` becomes if the callers do not come.
    next_rest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    writes: usize,
    until: Instant,
    /// Whether the task that seals was woken since.
    is_watched: bool,
}

impl Gather {
    /// An upload that took this time has acknowledged so many writes, and as many wait for the next one.
    pub(super) fn begin(&self, acknowledged: usize, wait: usize, upload: Duration, now: Instant) {
        let mut state = self.state.lock();
        state.wanted = None;
        if acknowledged == 0 {
            return;
        }
        if state.rest > 0 {
            state.rest -= 1;
            return;
        }
        state.wanted = Some(Wanted {
            writes: acknowledged + wait,
            until: now + (upload / 4).min(LONGEST),
            is_watched: wait > 0,
        });
    }

    /// Whether the task that seals is to be woken for so many writes.
    pub(super) fn wakes(&self, writes: usize, now: Instant) -> bool {
        if writes == 0 {
            return false;
        }
        let mut state = self.state.lock();
        let Some(wanted) = state.wanted.as_mut().filter(|wanted| now < wanted.until) else {
            return true;
        };
        let is_first = !std::mem::replace(&mut wanted.is_watched, true);
        is_first || writes >= wanted.writes
    }

    /// How much longer to wait for more than so many writes; `None` if it is enough.
    pub(super) fn time_left(&self, writes: usize, now: Instant) -> Option<Duration> {
        let wanted = self.state.lock().wanted?;
        let left = wanted.until.saturating_duration_since(now);
        (writes < wanted.writes && !left.is_zero()).then_some(left)
    }

    /// The file is sealed, with so many writes.
    pub(super) fn end(&self, writes: usize) {
        let mut state = self.state.lock();
        let Some(wanted) = state.wanted.take() else { return };
        if writes >= wanted.writes {
            state.next_rest = 0;
        } else {
            state.next_rest = (2 * state.next_rest + 1).min(LONGEST_REST);
            state.rest = state.next_rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLOAD: Duration = Duration::from_millis(40);

    #[test]
    fn waits_for_those_who_were_acknowledged() {
        let (gather, now) = (Gather::default(), Instant::now());
        assert!(gather.wakes(1, now) && !gather.wakes(0, now));
        gather.begin(10, 3, UPLOAD, now);
        assert!(!gather.wakes(12, now) && gather.wakes(13, now));
        assert_eq!(gather.time_left(12, now), Some(UPLOAD / 4));
        assert_eq!(gather.time_left(13, now), None);
        assert_eq!(gather.time_left(12, now + UPLOAD / 4), None);
        gather.end(13);
        assert!(gather.wakes(1, now));
        gather.begin(2, 0, UPLOAD, now);
        assert!(gather.time_left(0, now).is_some(), "it pays, so it goes on");
        assert!(gather.wakes(1, now), "from now on the deadline is watched");
        assert!(!gather.wakes(1, now) && gather.wakes(2, now));
        assert!(gather.wakes(1, now + UPLOAD / 4), "the deadline is over");
        gather.begin(0, 0, UPLOAD, now);
        assert!(gather.wakes(1, now), "no caller is waited for any more");
        gather.begin(2, 0, 10 * LONGEST, now);
        assert_eq!(gather.time_left(0, now), Some(LONGEST));
    }

    #[test]
    fn callers_that_do_not_come_are_waited_for_ever_more_rarely() {
        let (gather, now) = (Gather::default(), Instant::now());
        let waits = |_| {
            gather.begin(10, 0, UPLOAD, now);
            let waits = gather.time_left(1, now).is_some();
            gather.end(1);
            waits
        };
        let waited: Vec<bool> = (0..200).map(waits).collect();
        let at: Vec<usize> = (0..200).filter(|n| waited[*n]).collect();
        assert_eq!(at, [0, 2, 6, 14, 30, 62, 126, 191]);
    }
}
