//! Threads that run together until one of them ends the run or finds a problem.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub struct Together {
    over: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl Together {
    /// Runs some work. The first problem ends everything.
    pub fn guard(&self, work: impl FnOnce() -> Result<(), String>) {
        if let Err(problem) = work() {
            self.problem
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(problem);
            self.end();
        }
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Returns the first problem, if any.
    pub fn judge(&self) -> Result<(), String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        problem.map_or(Ok(()), Err)
    }
}
