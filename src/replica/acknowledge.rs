//! The task that acknowledges: it replies to the writes that wait for the replica (`write/held.rs`).
//!
//! It is woken by each change of what was reached, and wakes by itself when the time of the first job is over. Only this
//! task takes held jobs, so each of them is finished once. It finishes them on a thread for short blocking work, not on
//! `larder-replica`: a waker, and the drop of a result that no caller wants, run a user's code. That code may not wait for
//! the store, as on the writer thread.
//!
//! # Every job gets its reply
//!
//! A job that is held has a deadline. The task ends after the task that uploads; with it ends the holding
//! ([`HeldReplies::end`]), and what is held after that is refused by the thread that wants to hold it.

use std::time::Duration;

use super::replication::Replication;
use super::runtime;
use crate::error::Error;
use crate::runtime::sync::{Arc, Instant};
use crate::write::held::Ready;

/// How long the task sleeps if no job is held.
const IDLE: Duration = Duration::from_secs(3600);

impl Replication {
    /// The life of the task.
    pub(super) async fn acknowledge_until_ended(self: Arc<Self>) {
        loop {
            let (uploaded, has_ended) = {
                let progress = self.progress();
                (progress.uploaded, progress.ended)
            };
            let mut ready = self.held.take(uploaded, Instant::now());
            if has_ended {
                ready.late.extend(self.held.end());
            } else if self.is_poisoned() {
                ready.late.extend(self.held.take_unsealed());
            }
            self.finish(ready).await;
            if has_ended {
                return;
            }
            let until = self.held.next_deadline();
            let pause = until.map_or(IDLE, |until| until.saturating_duration_since(Instant::now()));
            self.pause(&self.reached, pause).await;
        }
    }

    async fn finish(self: &Arc<Self>, ready: Ready) {
        if ready.replicated.is_empty() && ready.late.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        runtime::short(move || this.reply(ready)).await;
    }

    fn reply(&self, ready: Ready) {
        let shared = self.shared.upgrade();
        let _works = shared.as_ref().and_then(|shared| shared.queue.work_here());
        for held in ready.replicated {
            self.figures().acknowledged(held.waited());
            held.acknowledge();
        }
        if !ready.late.is_empty() {
            let reason = self.why_not_replicated();
            for held in ready.late {
                held.refuse(&reason);
            }
        }
        self.figures().holds(self.held.length());
    }

    /// For jobs that were committed and are not in the replica.
    pub(super) fn why_not_replicated(&self) -> String {
        let shared = self.shared.upgrade();
        match shared.and_then(|shared| shared.poison()) {
            Some(Error::Fenced { by, .. }) => {
                format!("the replica was taken over by {by}, so this database alone has it")
            }
            Some(Error::Diverged { problem, .. }) => problem,
            Some(_) => "the store is poisoned, so what it committed last is not read from the WAL".to_owned(),
            None => {
                let behind = self.behind();
                let reason = behind.as_deref().unwrap_or("the upload goes on");
                format!("{reason}; it goes up later")
            }
        }
    }
}
