//! The progress line, on a terminal only, and Ctrl-C.
//!
//! A signal that was ignored as the command began stays ignored: SIGHUP under `nohup`, SIGINT in a background job of a
//! shell script. Only unsafe code can ask the system for that, so Linux's `/proc` is read. Elsewhere SIGHUP keeps what
//! it does, which is nothing under `nohup` and else the end of the process, and SIGINT is handled in any case.

use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, INTERRUPTED, Result};

/// How often the callbacks of the library are called.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// Work that takes less shows no line.
const PATIENCE: Duration = Duration::from_millis(300);

/// The line of a command on stderr, cleared when it is dropped.
pub(crate) struct Progress {
    is_shown: bool,
    is_written: bool,
    began: Instant,
    last: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Progress {
    /// From now on the first Ctrl-C asks the work to stop and to leave nothing behind. A second one ends the process.
    pub(crate) fn begin(is_quiet: bool) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let ignored = ignored();
        let is_heeded = |signal: i32| match ignored {
            Some(mask) => mask & (1 << (signal - 1)) == 0,
            None => signal != SIGHUP,
        };
        for signal in [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter(|signal| is_heeded(*signal))
        {
            let end = flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&interrupted));
            let ask = flag::register(signal, Arc::clone(&interrupted));
            end.and(ask)
                .map_err(|error| Failure::io("signals cannot be handled", error))?;
        }
        let now = Instant::now();
        Ok(Self {
            is_shown: !is_quiet && stderr().is_terminal(),
            is_written: false,
            began: now,
            last: now,
            interrupted,
        })
    }

    /// Shows the line, and says whether to go on.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) -> ControlFlow<()> {
        if self.is_shown && self.began.elapsed() >= PATIENCE && self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            self.is_written = true;
            // Without line wrap, because the rest of a line that is wider than the terminal would not be cleared with it.
            let line = format!("\r\x1b[K\x1b[?7l{}\x1b[?7h", text());
            let _ = stderr().write_all(line.as_bytes());
        }
        if self.is_interrupted() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Whether a signal has asked the work to stop, for work that asks by itself.
    pub(crate) fn stop(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let interrupted = Arc::clone(&self.interrupted);
        move || interrupted.load(Ordering::Relaxed)
    }

    /// Whether a signal has asked the work to stop.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// The signals that are ignored, as bits from that of signal 1 on. `None` where there is no `/proc`.
fn ignored() -> Option<u64> {
    let status = std::fs::read("/proc/self/status").ok()?;
    let status = String::from_utf8_lossy(&status);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_written {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// `12 of 345 (3 %)`, and nothing of an unknown total.
pub(crate) fn share(done: u64, total: u64, what: &str) -> String {
    match (u128::from(done) * 100).checked_div(u128::from(total)) {
        Some(percent) => format!("{done} of {total} {what} ({percent} %)"),
        None => format!("{done} {what}"),
    }
}
