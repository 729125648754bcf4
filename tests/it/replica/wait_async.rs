//! Waiting for a token in a task: on any runtime, on whose threads nothing blocks.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::future::{Either, join_all, ready, select};
use larder::{Error, Follower, Store, Token};

use super::follower::{close, fill, follow, rows, upload};
use super::store::Place;
use crate::support::child::PATIENCE;

fn both() -> (Place, Store, Follower) {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let follower = follow(&place);
    (place, store, follower)
}

/// A token of the same primary that nothing was committed for.
fn never(store: &Store) -> Token {
    let token = store.replica().unwrap().token();
    let later = format!("{}-{:016x}", &token.to_string()[..16], token.txid() + 1000);
    later.parse().unwrap()
}

/// All of them wait on one thread, which also does other things meanwhile.
#[test]
fn tasks_of_one_thread_read_their_writes() {
    let (_place, store, follower) = both();
    fill(&store, 1);
    let token = store.replica().unwrap().token();
    let waits = join_all((0..200).map(|_| follower.wait_for_async(token, PATIENCE)));
    let other = pin!(follower.wait_for_async(never(&store), PATIENCE));
    block_on(async {
        for waited in waits.await {
            waited.unwrap();
        }
        assert!(matches!(select(other, ready(())).await, Either::Right(_)), "it waits");
    });
    assert_eq!(rows(&follower), 11);
    // It is here already.
    let mut again = pin!(follower.wait_for_async(token, Duration::ZERO));
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(again.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    close(&follower);
}

#[test]
fn task_that_waits_too_long_is_told() {
    let (_place, store, follower) = both();
    let token = never(&store);
    let error = block_on(follower.wait_for_async(token, Duration::from_millis(50))).unwrap_err();
    let Error::Behind { wanted, waited, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(wanted, token.txid());
    assert!(waited >= Duration::from_millis(50));
    let other: Token = "00000000000000aa-0000000000000001".parse().unwrap();
    let error = block_on(follower.wait_for_async(other, PATIENCE)).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    close(&follower);
}

/// It says on which thread it is woken.
#[derive(Default)]
struct Where(Mutex<Option<String>>);

impl Wake for Where {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = Some(thread::current().name().unwrap_or_default().to_owned());
    }
}

/// Closing wakes those who wait. A waker may be slow, and the requests of all replicas run on one thread.
#[test]
fn closing_ends_the_wait() {
    let (_place, store, follower) = both();
    let woken = Arc::new(Where::default());
    let mut wait = pin!(follower.wait_for_async(never(&store), PATIENCE));
    let waker = Waker::from(Arc::clone(&woken));
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    close(&follower);
    let ended = block_on(wait);
    assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
    let name = woken.0.lock().unwrap().take();
    assert_ne!(name.as_deref(), Some("larder-replica"));
}

/// Dropped before its first poll, or while it waits.
#[test]
fn dropped_wait_leaves_nothing() {
    let (_place, store, follower) = both();
    let token = never(&store);
    drop(follower.wait_for_async(token, PATIENCE));
    for _ in 0..100 {
        let mut wait = Box::pin(follower.wait_for_async(token, PATIENCE));
        let polled = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    fill(&store, 1);
    let token = store.replica().unwrap().token();
    block_on(follower.wait_for_async(token, PATIENCE)).unwrap();
    // A future alone does not keep it open.
    let wait = follower.wait_for_async(never(&store), PATIENCE);
    drop(follower);
    assert!(matches!(block_on(wait), Err(Error::Closed)));
}
