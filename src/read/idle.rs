//! The connections that nobody uses, and who sleeps until there is one: whose turn it is.

use std::time::Duration;

use super::openings::Openings;
use crate::runtime::clock::Tick;

/// A sleeper's turn comes after this at the latest, however few connections come back.
const TURN: Duration = Duration::from_millis(8);

/// Every so many connections that come back, one is for a read that sleeps.
const SLEEPERS_SHARE: u32 = 64;

/// The connections that nobody uses, and who sleeps until there is one.
pub(super) struct Idle<C> {
    /// The one last used is on top.
    pub(super) connections: Vec<C>,
    /// For sleepers alone.
    pub(super) kept: Vec<C>,
    /// How many connections came back while somebody slept.
    came_back: u32,
    /// When a sleeper had its turn, or the first went to sleep.
    pub(super) last_turn: Option<Tick>,
    pub(super) sleepers: usize,
    /// One sleeper has been woken and has not looked yet.
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

    /// Whether some who sleep will find no connection here, nor in the one that is just opened.
    pub(super) fn wants_more(&self) -> bool {
        self.sleepers > self.connections.len() + self.kept.len() + 1
    }

    pub(super) fn pop(&mut self) -> Option<C> {
        let kept_for_nobody = || (self.sleepers == 0).then(|| self.kept.pop()).flatten();
        self.connections.pop().or_else(kept_for_nobody)
    }

    /// Those who are awake take nearly all connections, which is the quickest way. Now and then one is for a sleeper.
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

    /// Whether a sleeper is to be woken. One at a time: meanwhile those who are awake may have taken what came back, and
    /// the one who was woken wakes the next if there is more.
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

    /// As `check_in` does it: whether a sleeper is woken.
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
        // It has looked.
        (idle.sleepers, idle.waking) = (2, false);
        assert!(come_back(&mut idle, 3));
    }

    #[test]
    fn sleeping_reader_gets_its_turn_after_a_time() {
        let mut idle = Idle::new(1);
        idle.sleepers = 1;
        idle.last_turn = Some(Tick::now());
        // The subject: time goes by.
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
        // It gave up before it was woken.
        idle.sleepers = 0;
        assert_eq!(idle.pop(), Some(7));
    }
}
