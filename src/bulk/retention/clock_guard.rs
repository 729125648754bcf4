//! The time by which a retention deletes. It is the time of day, unless that has jumped.
//!
//! A clock that is set a year ahead by mistake makes every row too old. So the time of a retention advances with the uptime
//! of the machine, which cannot be set, and follows the time of day only where both agree to within a tolerance. What else
//! the clock says is held: it is followed after a time of its own, at the lowest time that the clock has kept throughout.
//! So of two mistakes in a row, the second is held in its turn. A clock that goes back is obeyed at once, as it deletes
//! less, and the time that was reached is kept for as long as a jump ahead is held: the clock may come back to it.
//!
//! ```text
//! time of day  ____/~~~~~~~~~~~~~~~~~   a jump
//!                 /      held         |
//! retention    __/___________________/  follows once it is over
//! ```
//!
//! The state is kept in the table `larder_retention` (`record.rs`), with the boot and its uptime: a process that comes back
//! on the same boot knows how long it was away. After another boot it does not, and a long absence is a jump.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::runtime::clock::{boot_id, uptime};
use crate::telemetry::retention::HeldClock;

/// The longest time for which a jump is held by default. It is never longer than rows are kept: by then, all rows from
/// before the jump are old.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(86_400);

/// The part of the time for which rows are kept by which the clock may jump.
const TOLERATED_PART: u32 = 10;
const LEAST_TOLERANCE: Duration = Duration::from_secs(1);
const MOST_TOLERANCE: Duration = Duration::from_secs(3 * 86_400);

/// How often the state is saved, if nothing has happened. While a clock is held it is the shortest: what a process has
/// waited since the last save is lost as it ends, and one that never runs for long has to come to the end of a hold.
const SHORTEST_SAVE: Duration = Duration::from_secs(60);
const LONGEST_SAVE: Duration = Duration::from_secs(3600);

/// What the clocks of the machine say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reading {
    /// The time of day, since 1970.
    pub(super) wall: Duration,
    pub(super) uptime: Duration,
    /// Empty if it is not known.
    pub(super) boot: String,
}

impl Reading {
    pub(super) fn now() -> Self {
        Self {
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            uptime: uptime(),
            boot: boot_id(),
        }
    }
}

/// What is saved.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// The time that is believed, since 1970. It advances with the uptime.
    pub(super) believed: Duration,
    pub(super) other: Option<Other>,
    /// When both were so.
    pub(super) uptime: Duration,
    pub(super) boot: String,
}

/// Another time that the clock says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Other {
    /// It advances with the uptime, too.
    pub(super) time: Duration,
    /// For how long the clock has kept it.
    pub(super) held: Duration,
}

/// A clock that is not followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Held {
    pub(super) wall: Duration,
    pub(super) believed: Duration,
    /// The time until it is followed.
    pub(super) left: Duration,
}

impl Held {
    pub(super) fn is_ahead(&self) -> bool {
        self.wall > self.believed
    }

    pub(super) fn figures(&self) -> HeldClock {
        HeldClock {
            ahead: self.wall.saturating_sub(self.believed),
            left: self.left,
        }
    }
}

#[derive(Debug)]
pub(super) struct ClockGuard {
    hold: Duration,
    tolerance: Duration,
    state: State,
    /// The uptime of the last save, and whether a clock was held then. `None` if it was never saved, or on another boot.
    saved: Option<(Duration, bool)>,
}

/// How long a jump is held, of rows that are kept for so long.
pub(super) fn default_hold(keep: Duration) -> Duration {
    keep.min(LONGEST_HOLD)
}

impl ClockGuard {
    /// Begins with the time of day; nothing is known yet that it could be compared with.
    pub(super) fn new(keep: Duration, hold: Duration, reading: &Reading) -> Self {
        let state = State {
            believed: reading.wall,
            other: None,
            uptime: reading.uptime,
            boot: reading.boot.clone(),
        };
        Self::with(keep, hold, state)
    }

    /// Goes on from what was saved.
    pub(super) fn resume(keep: Duration, hold: Duration, saved: State, reading: &Reading) -> Self {
        let same_boot = !saved.boot.is_empty() && saved.boot == reading.boot && saved.uptime <= reading.uptime;
        let is_held = saved.other.is_some();
        let saved_at = saved.uptime;
        let mut guard = Self::with(keep, hold, saved);
        if same_boot {
            guard.saved = Some((saved_at, is_held));
        } else {
            guard.state.uptime = reading.uptime;
            guard.state.boot.clone_from(&reading.boot);
        }
        guard
    }

    fn with(keep: Duration, hold: Duration, state: State) -> Self {
        Self {
            hold,
            tolerance: (keep / TOLERATED_PART).clamp(LEAST_TOLERANCE, MOST_TOLERANCE),
            state,
            saved: None,
        }
    }

    /// Reads the clock. Returns the time by which rows are old.
    pub(super) fn observe(&mut self, reading: &Reading) -> Duration {
        let passed = reading.uptime.saturating_sub(self.state.uptime);
        self.state.uptime = reading.uptime;
        self.state.believed = self.state.believed.saturating_add(passed);
        if let Some(other) = &mut self.state.other {
            other.time = other.time.saturating_add(passed);
            other.held = other.held.saturating_add(passed);
        }
        let wall = reading.wall;
        if self.hold.is_zero() || self.is_near(wall) {
            self.trust(reading);
            return wall;
        }
        let other = self.other(wall);
        if other.held < self.hold {
            self.state.other = Some(other);
        } else {
            self.state.believed = other.time;
            self.state.other = None;
            if self.is_near(wall) {
                self.state.believed = wall;
            } else {
                self.state.other = Some(self.other(wall));
            }
        }
        wall.min(self.state.believed)
    }

    fn is_near(&self, wall: Duration) -> bool {
        wall.abs_diff(self.state.believed) <= self.tolerance
    }

    /// What the clock says other than is believed, and for how long it has.
    fn other(&self, wall: Duration) -> Other {
        let new = Other {
            time: wall,
            held: Duration::ZERO,
        };
        let Some(other) = self.state.other else { return new };
        let is_ahead = wall > self.state.believed;
        let was_ahead = other.time > self.state.believed;
        // One that goes back again is on its way to a right time.
        let rises = !is_ahead && wall > other.time.saturating_add(self.tolerance);
        if is_ahead != was_ahead || rises {
            return new;
        }
        Other {
            time: other.time.min(wall),
            held: other.held,
        }
    }

    /// Follows the clock from now on.
    pub(super) fn trust(&mut self, reading: &Reading) {
        self.state.believed = reading.wall;
        self.state.other = None;
    }

    /// The clock, if it is not followed.
    pub(super) fn held(&self, reading: &Reading) -> Option<Held> {
        let other = self.state.other?;
        Some(Held {
            wall: reading.wall,
            believed: self.state.believed,
            left: self.hold.saturating_sub(other.held),
        })
    }

    /// The state, if it is to be saved.
    pub(super) fn to_save(&self) -> Option<&State> {
        let interval = match self.state.other {
            Some(_) => SHORTEST_SAVE,
            None => (self.tolerance / 2).clamp(SHORTEST_SAVE, LONGEST_SAVE),
        };
        let is_saved = self.saved.is_some_and(|(uptime, held)| {
            held == self.state.other.is_some() && self.state.uptime.saturating_sub(uptime) < interval
        });
        (!is_saved).then_some(&self.state)
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn saved(&mut self) {
        self.saved = Some((self.state.uptime, self.state.other.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    const MONTH: Duration = Duration::from_secs(30 * 86_400);
    const START: Duration = Duration::from_secs(1_775_044_805);

    /// A machine whose clock can be set.
    struct Machine {
        reading: Reading,
        guard: ClockGuard,
        saved: State,
        /// For each save, whether a clock was held.
        saves: Vec<bool>,
    }

    impl Machine {
        fn new(keep: Duration) -> Self {
            let reading = Reading {
                wall: START,
                uptime: DAY,
                boot: "one".into(),
            };
            let guard = ClockGuard::new(keep, default_hold(keep), &reading);
            Self {
                reading,
                saved: guard.state().clone(),
                guard,
                saves: Vec::new(),
            }
        }

        fn look(&mut self) -> Duration {
            let time = self.guard.observe(&self.reading);
            if let Some(state) = self.guard.to_save() {
                self.saved = state.clone();
                self.guard.saved();
                self.saves.push(self.is_held());
            }
            time
        }

        /// Lets time pass, a look a minute.
        fn pass(&mut self, time: Duration) -> Duration {
            for _ in 0..time.as_secs() / 60 {
                self.reading.wall += MINUTE;
                self.reading.uptime += MINUTE;
                self.look();
            }
            self.look()
        }

        fn ahead(&mut self, by: Duration) {
            self.reading.wall += by;
        }

        fn back(&mut self, by: Duration) {
            self.reading.wall -= by;
        }

        /// The process ends. The state is what was saved last.
        fn restart(&mut self, boot: &str, keep: Duration) {
            let saved = self.saved.clone();
            if boot != self.reading.boot {
                self.reading.boot = boot.into();
                self.reading.uptime = MINUTE;
            }
            self.guard = ClockGuard::resume(keep, default_hold(keep), saved, &self.reading);
        }

        fn is_held(&self) -> bool {
            self.guard.held(&self.reading).is_some()
        }
    }

    #[test]
    fn clock_that_runs_is_followed() {
        let mut machine = Machine::new(MONTH);
        assert_eq!(machine.pass(40 * DAY), START + 40 * DAY);
        machine.ahead(HOUR);
        assert_eq!(machine.pass(MINUTE), START + 40 * DAY + HOUR + MINUTE);
        machine.back(2 * HOUR);
        assert_eq!(machine.look(), machine.reading.wall);
        assert!(!machine.is_held());
    }

    #[test]
    fn jump_of_a_year_is_held_for_a_day_and_then_followed() {
        let mut machine = Machine::new(MONTH);
        machine.pass(HOUR);
        machine.ahead(YEAR);
        assert_eq!(machine.look(), START + HOUR);
        let held = machine.guard.held(&machine.reading).unwrap();
        assert!(held.is_ahead() && held.left == DAY, "{held:?}");
        assert_eq!(machine.pass(DAY - MINUTE), START + DAY + HOUR - MINUTE);
        assert_eq!(machine.pass(MINUTE), machine.reading.wall);
        assert!(!machine.is_held());
    }

    #[test]
    fn jump_of_days_is_held_although_rows_are_kept_for_ten_years() {
        let mut machine = Machine::new(10 * YEAR);
        machine.ahead(3 * DAY);
        assert_eq!(machine.look(), START + 3 * DAY);
        machine.ahead(4 * DAY);
        assert_eq!(machine.look(), START + 3 * DAY);
        assert!(machine.is_held());
    }

    #[test]
    fn jump_that_is_corrected_leaves_no_trace() {
        let mut machine = Machine::new(MONTH);
        machine.ahead(YEAR);
        machine.pass(20 * HOUR);
        machine.back(YEAR);
        assert_eq!(machine.look(), START + 20 * HOUR);
        assert!(!machine.is_held());
        // The next one is held for the whole time.
        machine.ahead(YEAR);
        machine.pass(23 * HOUR);
        assert!(machine.is_held());
    }

    #[test]
    fn second_jump_is_held_in_its_turn() {
        let mut machine = Machine::new(MONTH);
        machine.ahead(YEAR);
        machine.look();
        machine.pass(23 * HOUR);
        machine.ahead(YEAR);
        machine.look();
        assert_eq!(machine.pass(HOUR), START + YEAR + DAY);
        assert!(machine.is_held());
        assert_eq!(machine.pass(DAY), machine.reading.wall);
    }

    #[test]
    fn lower_one_of_two_jumps_is_followed() {
        let mut machine = Machine::new(MONTH);
        machine.ahead(YEAR);
        machine.look();
        machine.pass(20 * HOUR);
        // A VM that was off for two months, set to the wrong year first.
        machine.back(YEAR - 2 * MONTH);
        assert_eq!(machine.pass(3 * HOUR), START + 23 * HOUR);
        assert_eq!(machine.pass(HOUR), START + 2 * MONTH + DAY);
        assert!(!machine.is_held());
    }

    #[test]
    fn rows_of_an_hour_are_never_lost_to_a_clock() {
        // The time of the retention is never more than the real one and the tolerance, for as long as rows are kept.
        let mut machine = Machine::new(HOUR);
        machine.ahead(YEAR);
        assert!(machine.pass(59 * MINUTE) <= START + HOUR + 6 * MINUTE);
    }

    #[test]
    fn clock_that_goes_back_is_obeyed_and_may_come_back() {
        let mut machine = Machine::new(MONTH);
        machine.back(YEAR);
        assert_eq!(machine.pass(HOUR), START + HOUR - YEAR);
        assert!(!machine.guard.held(&machine.reading).unwrap().is_ahead());
        // A board without a clock of its own, which the network sets.
        machine.ahead(YEAR);
        assert_eq!(machine.look(), START + HOUR);
        assert!(!machine.is_held());
        machine.back(YEAR);
        machine.look();
        machine.pass(DAY);
        assert!(!machine.is_held());
        machine.ahead(YEAR);
        assert_eq!(machine.pass(HOUR), START + DAY + 2 * HOUR - YEAR);
        assert!(machine.is_held(), "by now it was the right one");
    }

    #[test]
    fn board_that_starts_in_1970_is_set_by_the_network() {
        let mut machine = Machine::new(MONTH);
        machine.pass(HOUR);
        let right = machine.reading.wall + HOUR;
        machine.restart("two", MONTH);
        machine.reading.wall = Duration::from_secs(10);
        assert_eq!(machine.look(), Duration::from_secs(10));
        machine.reading.wall = right;
        assert_eq!(machine.look(), right);
        // Off for longer, the time is held, but not that of 1970.
        machine.restart("three", MONTH);
        machine.reading.wall = Duration::from_secs(10);
        machine.look();
        machine.reading.wall = right + MONTH;
        assert_eq!(machine.look(), right);
        assert_eq!(machine.pass(DAY), machine.reading.wall);
    }

    #[test]
    fn process_that_comes_back_on_the_same_boot_knows_how_long_it_was_away() {
        let mut machine = Machine::new(HOUR);
        machine.pass(HOUR);
        machine.reading.wall += MONTH;
        machine.reading.uptime += MONTH;
        machine.restart("one", HOUR);
        assert_eq!(machine.look(), START + HOUR + MONTH);
        assert!(!machine.is_held());
    }

    #[test]
    fn service_that_was_off_for_a_month_follows_after_a_day_of_running() {
        let mut machine = Machine::new(MONTH);
        machine.ahead(MONTH);
        machine.restart("two", MONTH);
        assert_eq!(machine.look(), START);
        machine.pass(12 * HOUR);
        // Off for the night.
        machine.ahead(12 * HOUR);
        machine.restart("three", MONTH);
        machine.pass(11 * HOUR);
        assert!(machine.is_held());
        machine.pass(HOUR);
        assert_eq!(machine.look(), machine.reading.wall);
        // A weekend is no jump.
        machine.ahead(2 * DAY);
        machine.restart("four", MONTH);
        assert_eq!(machine.look(), machine.reading.wall);
    }

    #[test]
    fn hold_ends_although_no_process_runs_for_an_hour() {
        let mut machine = Machine::new(MONTH);
        machine.pass(HOUR);
        machine.ahead(YEAR);
        machine.look();
        let mut runs = 0;
        while machine.is_held() {
            runs += 1;
            assert!(runs <= 38, "the hold does not end");
            machine.restart(&runs.to_string(), MONTH);
            machine.look();
            machine.pass(40 * MINUTE);
        }
        assert_eq!(runs, 36, "24 h");
        assert_eq!(machine.look(), machine.reading.wall);
    }

    #[test]
    fn boot_that_is_not_known_is_another() {
        let mut machine = Machine::new(MONTH);
        machine.reading.boot.clear();
        machine.saved.boot.clear();
        machine.restart("", MONTH);
        machine.reading.uptime += YEAR;
        machine.restart("", MONTH);
        machine.ahead(YEAR);
        assert_eq!(machine.look(), START);
        // A machine that was resumed from an older image of itself.
        let mut machine = Machine::new(MONTH);
        machine.reading.uptime -= HOUR;
        machine.restart("one", MONTH);
        machine.ahead(YEAR);
        assert_eq!(machine.look(), START);
    }

    #[test]
    fn told_to_trust_it_follows_at_once() {
        let mut machine = Machine::new(MONTH);
        machine.ahead(YEAR);
        machine.look();
        machine.guard.trust(&machine.reading);
        assert_eq!(machine.look(), machine.reading.wall);
        assert!(!machine.is_held());
        let mut guard = ClockGuard::new(MONTH, Duration::ZERO, &machine.reading);
        machine.ahead(YEAR);
        assert_eq!(guard.observe(&machine.reading), machine.reading.wall);
        // A hold without an end.
        let mut guard = ClockGuard::new(MONTH, Duration::MAX, &machine.reading);
        let before = machine.reading.wall;
        machine.ahead(YEAR);
        machine.reading.uptime += 10 * YEAR;
        machine.reading.wall += 10 * YEAR;
        assert_eq!(guard.observe(&machine.reading), before + 10 * YEAR);
    }

    #[test]
    fn state_is_saved_as_it_changes_once_an_hour_and_each_minute_of_a_hold() {
        let mut machine = Machine::new(MONTH);
        machine.look();
        machine.pass(119 * MINUTE);
        assert_eq!(machine.saves, [false, false]);
        machine.ahead(YEAR);
        machine.look();
        machine.back(YEAR);
        machine.look();
        assert_eq!(machine.saves, [false, false, true, false]);
        // Each minute of a hold.
        machine.saves.clear();
        machine.ahead(YEAR);
        machine.look();
        machine.pass(10 * MINUTE);
        assert_eq!(machine.saves, [true; 11]);
    }
}
