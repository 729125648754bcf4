//! Idle connections, and which of the waiting reads gets the next one.

use std::time::Duration;

use super::openings::Openings;
use crate::runtime::clock::Tick;

/// The longest time between two turns of sleeping reads, however few connections are returned.
const TURN: Duration = Duration::from_millis(8);

/// One returned connection in so many is reserved for a sleeping read.
const SLEEPERS_SHARE: u32 = 64;

/// The idle connections, and the reads that sleep until there is one.
pub(super) struct Idle<C> {
    /// The connection used last is on top.
    pub(super) connections: Vec<C>,
    /// Connections reserved for sleepers.
    pub(super) kept: Vec<C>,
    /// Number of connections returned while a read slept.
    came_back: u32,
    /// Time of the last sleeper's turn, or of the first sleeper's arrival.
    pub(super) last_turn: Option<Tick>,
    pub(super) sleepers: usize,
    /// A sleeper was woken and has not checked yet.
    pub(super) waking: bool,
    pub(super) openings: Openings,
}

impl<C> Idle<C> {
    pub(super) fn new(size: u32) -> Self {
        Self {
            connections: Vec::new(),
            kept: Vec::new(),
            came_back: 0,
            last_turn: None,
            sleepers: 0,
            waking: false,
            openings: Openings::new(size),
        }
    }

    /// Whether some sleeper will find no connection here, nor get the one that was just opened.
    pub(super) fn wants_more(&self) -> bool {
        self.sleepers > self.connections.len() + self.kept.len() + 1
    }

    pub(super) fn pop(&mut self) -> Option<C> {
        let kept_for_nobody = || (self.sleepers == 0).then(|| self.kept.pop()).flatten();
        self.connections.pop().or_else(kept_for_nobody)
    }

    /// Awake reads take nearly all connections, which is the fastest way. From time to time one is reserved for a
    /// sleeper.
    pub(super) fn is_a_sleepers_turn(&mut self) -> bool {
        if self.sleepers <= self.kept.len() {
            return false;
        }
        self.came_back = self.came_back.wrapping_add(1);
        let turn =
            self.came_back.is_multiple_of(SLEEPERS_SHARE) || self.last_turn.is_some_and(|last| last.elapsed() >= TURN);
        if turn {
            self.last_turn = Some(Tick::now());
        }
        turn
    }

    /// Whether to wake a sleeper. One is woken at a time: awake reads may take the returned connections meanwhile, and
    /// the woken sleeper wakes the next if there are more.
    pub(super) fn may_wake(&mut self) -> bool {
        let wake = self.sleepers > 0 && !self.waking;
        self.waking |= wake;
        wake
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Mirrors `check_in`: returns whether a sleeper is woken.
    fn come_back(idle: &mut Idle<u32>, connection: u32) -> bool {
        let wake = idle.may_wake();
        if idle.is_a_sleepers_turn() {
            idle.kept.push(connection);
            return true;
        }
        idle.connections.push(connection);
        wake
    }

    #[test]
    fn last_used_connection_is_taken_first() {
        let mut idle = Idle::new(1);
        assert!(!come_back(&mut idle, 1), "there is nobody to wake");
        come_back(&mut idle, 2);
        assert_eq!([idle.pop(), idle.pop(), idle.pop()], [Some(2), Some(1), None]);
    }

    #[test]
    fn sleeping_readers_are_woken_one_at_a_time() {
        let mut idle = Idle::new(1);
        idle.sleepers = 3;
        assert!(come_back(&mut idle, 1));
        assert!(!come_back(&mut idle, 2), "one is on its way");
        // The sleeper has checked.
        (idle.sleepers, idle.waking) = (2, false);
        assert!(come_back(&mut idle, 3));
    }

    #[test]
    fn sleeping_reader_gets_its_turn_after_a_time() {
        let mut idle = Idle::new(1);
        idle.sleepers = 1;
        idle.last_turn = Some(Tick::now());
        // The subject of the test: time passes.
        thread::sleep(3 * TURN);
        assert!(come_back(&mut idle, 7));
        assert_eq!(idle.kept, [7]);
    }

    #[test]
    fn every_nth_connection_is_reserved_for_a_sleeper() {
        let mut idle = Idle::new(1);
        idle.sleepers = 1;
        let for_those_awake = (1..SLEEPERS_SHARE).filter(|connection| {
            come_back(&mut idle, *connection);
            idle.pop() == Some(*connection)
        });
        assert_eq!(for_those_awake.count() as u32, SLEEPERS_SHARE - 1);
        assert!(come_back(&mut idle, 7), "a sleeper is woken for it");
        assert_eq!(idle.pop(), None);
        assert_eq!(idle.kept, [7]);
        // The sleeper gave up before it was woken.
        idle.sleepers = 0;
        assert_eq!(idle.pop(), Some(7));
    }
}
