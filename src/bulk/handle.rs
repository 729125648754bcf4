//! What a job holds of its store: enough to read and to write, and nothing that keeps the store open. Once the store is
//! closed or dropped, both fail with [`Error::Closed`](crate::Error::Closed).

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::Result;
use crate::options::{Settings, WhenFull, WriteOptions};
use crate::queue::Submission;
use crate::queue::pending::{Pending, Queue};
use crate::queue::slot::Caller;
use crate::read::Readers;
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;
use crate::transaction::{ReadTx, WriteTx};
use crate::write::Shared;
use crate::write::context::WriteOrder;

#[derive(Clone)]
pub(super) struct Handle {
    pub(super) options: Settings,
    pub(super) shared: Arc<Shared>,
    pub(super) telemetry: Arc<Telemetry>,
    readers: Arc<Readers>,
}

impl Handle {
    pub(super) fn new(engine: &Engine) -> Self {
        Self {
            options: engine.options.clone(),
            shared: Arc::clone(&engine.shared),
            telemetry: Arc::clone(&engine.telemetry),
            readers: Arc::clone(&engine.readers),
        }
    }

    /// Runs larder's own queries in one snapshot.
    pub(super) fn read<T>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        let site = CallSite::Label("larder: bulk".into());
        let is_worker = self.shared.queue.is_worker();
        self.readers
            .read_internal(self.options.read_queue_timeout, site, is_worker, f)
    }

    /// Runs larder's own write, and waits for it.
    pub(super) fn write<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let submission = Submission {
            call: "bulk",
            site: CallSite::Label("larder: bulk".into()),
            timeout: self.options.queue_timeout,
            caller: Caller::Thread,
            when_full: WhenFull::Wait,
        };
        let order = WriteOrder::of(&WriteOptions::new(), self.options.durability);
        self.enqueue(submission, order, f)?.wait()
    }

    pub(super) fn enqueue<T, F>(&self, submission: Submission, order: WriteOrder, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.shared.enqueue_write(submission, order, f)
    }
}
