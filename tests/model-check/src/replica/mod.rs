//! Replication: the fence and the task that uploads are larder's own files, and so is the order of retention's steps.
//! Stand-ins replace the log of SQLite, the spool and the storage; `acknowledge.rs` is another one, for the replies.

mod acknowledge;
mod levels;
mod nodes;
mod replication;
mod spool;
mod storage;

#[path = "../../../../src/replica/enter.rs"]
mod enter;
#[expect(dead_code, reason = "a follower claims as well")]
#[path = "../../../../src/replica/fence.rs"]
mod fence;
#[path = "../../../../src/replica/upload.rs"]
mod upload;

pub(crate) use self::acknowledge::Replica;
pub(crate) use self::nodes::{Reached, WEAKENED, Weakness, one_history};
pub(crate) use self::storage::IS_SHOWN;

/// Replaces `ltx/`: a file of level 0, which has one write.
mod ltx {
    use std::io::{self, Read};

    use super::spool::Transaction;

    pub(super) struct Decoder(Transaction);

    impl Decoder {
        pub(super) fn new(mut from: impl Read) -> io::Result<Self> {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            Ok(Self(Transaction::parse(&bytes)))
        }

        pub(super) fn header(&self) -> &Transaction {
            &self.0
        }
    }
}

/// Replaces `runtime.rs`: what is long there is a step here.
mod runtime {
    use std::io;

    pub(super) async fn blocking<T>(work: impl FnOnce() -> T) -> io::Result<T> {
        shuttle::future::yield_now().await;
        Ok(work())
    }
}

mod open {
    use std::path::Path;

    use super::options::OnDivergence;

    pub(super) fn ways_out(_: &Path, _: OnDivergence, _: u64) -> String {
        String::new()
    }

    pub(super) fn is_other_replica(known: u64, there: u64) -> bool {
        known != 0 && there != 0 && known != there
    }

    pub(super) fn other_replica(_: &Path, _: u64, _: u64) -> String {
        String::new()
    }
}

mod options {
    #[derive(Clone, Copy, PartialEq)]
    pub(super) enum OnDivergence {
        Refuse,
        Rebase,
    }

    pub(super) struct ReplicaOptions {
        pub(super) take_over: bool,
        pub(super) unconditional: bool,
        pub(super) on_divergence: OnDivergence,
    }
}
