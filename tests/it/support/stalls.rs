//! How long the machine kept this process waiting, for tests of a time: one that took longer may be made again only then.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Raises the flag when it is dropped. A test whose threads run until a flag is raised takes one in their scope: a failed
/// assertion then ends them, and the test, too.
pub(crate) struct RaiseOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `work`, and says for how long in all a thread that only sleeps was kept from going on meanwhile. A test of a time
/// tells nothing if that was long.
pub(crate) fn with_stalls<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let lose = || {
        let began = Instant::now();
        thread::sleep(Duration::from_millis(1));
        began.elapsed().saturating_sub(Duration::from_millis(3))
    };
    beside(lose, work)
}

/// As [`with_stalls`], and adds by how much the syncs of a small file took longer than 20 ms each.
pub(crate) fn with_stalls_and_syncs<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let mut probe = tempfile::tempfile().expect("a file without a name");
    let lose = move || {
        let began = Instant::now();
        probe.write_all(&[0; 512]).expect("the probe is written");
        probe.sync_data().expect("the probe is synced");
        let lost = began.elapsed().saturating_sub(Duration::from_millis(20));
        thread::sleep(Duration::from_millis(50));
        lost
    };
    let ((done, late), stalled) = with_stalls(|| beside(lose, work));
    (done, late + stalled)
}

/// Makes an attempt, and makes it again if it fails while the machine kept this process waiting for at least so long.
#[track_caller]
pub(crate) fn unless_stalled<T>(least: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    for attempts in 1.. {
        let (done, lost) = with_stalls_and_syncs(&mut attempt);
        match done {
            Ok(done) => return done,
            Err(why) => assert!(
                attempts < 5 && lost >= least,
                "{why}; attempt {attempts}, of which the machine took {lost:?}"
            ),
        }
    }
    unreachable!("an attempt succeeds or is the last")
}

/// The sum of what `lose` gives, again and again, until `work` is done.
fn beside<T>(mut lose: impl FnMut() -> Duration + Send, work: impl FnOnce() -> T) -> (T, Duration) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let raise = RaiseOnDrop(&over);
        let over = &over;
        let losing = scope.spawn(move || {
            let mut lost = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                lost += lose();
            }
            lost
        });
        let done = work();
        drop(raise);
        (done, losing.join().unwrap())
    })
}
