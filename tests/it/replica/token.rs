//! A token stands for what its primary has committed: it is reached, or an error says that it may be lost.

use std::time::{Duration, Instant};

use larder::{Error, Options, Store, Token};

use super::follower::{catch_up, close, copy, fill, follow, of, options, rows, upload};
use super::store::{Place, unmerged};
use crate::support::child::PATIENCE;

/// Ends a store whose storage is away, as a kill would.
fn end(store: Store) {
    store.close_within(Duration::from_millis(1)).unwrap();
}

#[track_caller]
fn lost(follower: &larder::Follower, token: Token) {
    let began = Instant::now();
    let error = follower.wait_for(token, PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("may be lost"), "{error}");
    assert!(began.elapsed() < PATIENCE / 2, "it is told at once");
}

/// The old primary had committed it, and the new one has other transactions of these numbers.
#[test]
fn token_of_a_lost_write_is_an_error() {
    let place = Place::new();
    // The old primary's way to the replica, which is closed to it alone.
    let way = place.replica().with_file_name("way");
    std::fs::create_dir(place.replica()).unwrap();
    std::os::unix::fs::symlink(place.replica(), &way).unwrap();
    let to = unmerged(way.to_str().unwrap()).interval(Duration::from_millis(20));
    let store = Options::new().replicate_to(to).open(place.database()).unwrap();
    upload(&store, 10);
    let beside = place.database().with_file_name("beside.db");
    let other = options().follow(of(&place), &beside).unwrap();
    let follower = follow(&place);
    let kept = catch_up(&store, &follower);
    let barrier = way.with_extension("closed");
    std::fs::write(&barrier, "not a folder").unwrap();
    std::fs::rename(barrier, way).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..5 {
        fill(&store, 1);
        tokens.push(store.replica().unwrap().token());
    }
    end(store);
    let promoted = follower.promote(Options::new().replicate_to(place.to())).unwrap();
    catch_up(&promoted, &other);
    assert!(other.lag().txid >= tokens[0].txid(), "the number is another's");
    for token in &tokens {
        lost(&other, *token);
    }
    other.wait_for(kept, PATIENCE).unwrap();
    for _ in 0..10 {
        upload(&promoted, 1);
    }
    let newer = catch_up(&promoted, &other);
    // As for a follower that has just been opened, and does not know who has made what it has.
    close(&other);
    let other = options().follow(of(&place), &beside).unwrap();
    for token in &tokens {
        lost(&other, *token);
    }
    for token in [kept, newer] {
        other.wait_for(token, PATIENCE).unwrap();
        let text: Token = token.to_string().parse().unwrap();
        other.wait_for(text, Duration::ZERO).unwrap();
    }
}

/// The store is closed and opened, and killed and opened. What had been captured is uploaded by the next opening.
#[test]
fn token_outlives_its_opening() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let follower = follow(&place);
    let mut tokens = vec![catch_up(&store, &follower)];
    super::store::close(store);
    let store = place.open();
    tokens.push(catch_up(&store, &follower));
    upload(&store, 1);
    tokens.push(catch_up(&store, &follower));
    let outage = place.outage();
    for _ in 0..5 {
        let sealed = store.stats().replica.unwrap().sealed;
        fill(&store, 1);
        tokens.push(store.replica().unwrap().token());
        super::store::wait_until("it is captured", || store.stats().replica.unwrap().sealed > sealed);
    }
    end(store);
    outage.end();
    let store = place.open();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    for token in &tokens {
        follower.wait_for(*token, PATIENCE).unwrap();
    }
    assert_eq!(rows(&follower), 16);
    upload(&store, 1);
    catch_up(&store, &follower);
    close(&follower);
    let follower = follow(&place);
    upload(&store, 1);
    catch_up(&store, &follower);
    for token in &tokens {
        follower.wait_for(*token, PATIENCE).unwrap();
    }
}

/// What waited was dropped, and one file has all of it: its number may be below that of the token.
#[test]
fn token_of_a_dropped_file_is_reached() {
    let place = Place::new();
    let store = Options::new()
        .replicate_to(place.to().spool_limit(1 << 20))
        .open(place.database())
        .unwrap();
    upload(&store, 10);
    let follower = options().follow(of(&place), copy(&place)).unwrap();
    catch_up(&store, &follower);
    let outage = place.outage();
    let mut tokens: Vec<Token> = Vec::new();
    // Until the numbers begin again.
    loop {
        let sealed = store.stats().replica.unwrap().sealed;
        fill(&store, 100);
        let token = store.replica().unwrap().token();
        let begins_again = tokens.last().is_some_and(|last| last.txid() > token.txid());
        tokens.push(token);
        if begins_again {
            break;
        }
        super::store::wait_until("it is captured", || store.stats().replica.unwrap().sealed != sealed);
        assert!(tokens.len() < 1000, "the spool has no bound");
    }
    let committed: u32 = store
        .read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)))
        .unwrap();
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let last = *tokens.iter().max_by_key(|token| token.txid()).unwrap();
    for token in tokens {
        follower.wait_for(token, PATIENCE).unwrap();
    }
    assert_eq!(rows(&follower), committed);
    assert!(follower.lag().txid < last.txid(), "the number does not come by itself");
    // Another opening goes on.
    super::store::close(store);
    let store = place.open();
    upload(&store, 1);
    catch_up(&store, &follower);
    follower.wait_for(last, PATIENCE).unwrap();
}
