//! A follower that has much to catch up, or whose storage does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use larder::rusqlite::Connection;
use larder::{Error, Follower, FollowerOptions, Options, Store};
use tokio::sync::Semaphore;

use super::follower::{catch_up, close, fill, options, rows, upload};
use super::hooked::{Hooked, away};
use super::store::wait_until;
use crate::support::child::{Child, PATIENCE, Task, after_mounting, tell};

/// Longer than any test waits for it by itself.
const NEVER: Duration = Duration::from_secs(3600);

fn primary(folder: &std::path::Path, url: &str) -> Store {
    let to = super::store::unmerged(url).interval(Duration::from_millis(20));
    Options::new().replicate_to(to).open(folder.join("app.db")).unwrap()
}

fn follower(folder: &std::path::Path, url: &str) -> Follower {
    let replica = FollowerOptions::of(url).interval(NEVER);
    options().follow(replica, folder.join("follower.db")).unwrap()
}

/// Files are downloaded before the database is locked.
#[test]
fn others_lock_the_database_during_a_download() {
    let (folder, hooked) = (tempfile::tempdir().unwrap(), Hooked::named("slow-storage"));
    let store = primary(folder.path(), "memory:slow-storage");
    upload(&store, 10);
    let copy = folder.path().join("follower.db");
    let follow = || follower(folder.path(), "memory:slow-storage");
    close(&follow());
    upload(&store, 1);
    let tip = upload(&store, 1);
    let (there, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (asked, goes_on) = (Arc::clone(&there), Arc::clone(&may));
    let key = format!("ltx/0/{tip:016x}-{tip:016x}.ltx");
    hooked.before(move |verb, asked_for| {
        let (there, may) = (Arc::clone(&there), Arc::clone(&may));
        let is_held = verb == "GET" && asked_for == key;
        async move {
            if is_held {
                there.add_permits(1);
                may.acquire().await.unwrap().forget();
            }
            Ok(())
        }
        .boxed()
    });
    std::thread::scope(|scope| {
        let following = scope.spawn(follow);
        let asked = larder::replica::runtime::wait(async move { asked.acquire().await.unwrap().forget() });
        asked.unwrap();
        // The look at whose transaction it is asks for the same file.
        goes_on.add_permits(1);
        let conn = Connection::open(&copy).unwrap();
        for _ in 0..20 {
            conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
            std::thread::yield_now();
        }
        drop(conn);
        goes_on.add_permits(100);
        assert_eq!(rows(&following.join().unwrap()), 12);
    });
}

/// A long gap is applied in portions, each of which is a state that the primary was in.
#[test]
fn long_gap_is_applied_in_portions() {
    crate::support::log::collect();
    let (folder, _hooked) = (tempfile::tempdir().unwrap(), Hooked::named("long-gap"));
    let store = primary(folder.path(), "memory:long-gap");
    upload(&store, 10);
    let copy = folder.path().join("follower.db");
    let follow = || follower(folder.path(), "memory:long-gap");
    close(&follow());
    for _ in 0..5 {
        store
            .write(|tx| {
                tx.execute_batch("CREATE TABLE IF NOT EXISTS large(x); INSERT INTO large VALUES (randomblob(7000000))")
            })
            .unwrap();
        upload(&store, 1);
    }
    let follower = follow();
    let of_copy = copy.display().to_string();
    let applied = crate::support::log::events(|event| {
        event.message == "transactions of the replica applied" && event.mentions(&of_copy)
    });
    // 35 MB, and 16 MiB at a time.
    assert!((3..=6).contains(&applied.len()), "{}", applied.len());
    assert_eq!(rows(&follower), 15);
    let tables = follower.read(|tx| tx.query_row("SELECT count(*) FROM large", [], |row| row.get::<_, u32>(0)));
    assert_eq!(tables.unwrap(), 5);
    close(&follower);
}

/// Those who wait do not make a request each while the storage fails, nor for what is not there.
#[test]
fn waiting_callers_make_few_requests() {
    let (folder, hooked) = (tempfile::tempdir().unwrap(), Hooked::named("failing-storage"));
    let store = primary(folder.path(), "memory:failing-storage");
    upload(&store, 10);
    let follower = follower(folder.path(), "memory:failing-storage");
    let token = catch_up(&store, &follower);
    let later = format!("{}-{:016x}", &token.to_string()[..16], token.txid() + 1)
        .parse()
        .unwrap();
    for is_away in [false, true] {
        if is_away {
            hooked.before(|verb, _| async move { if verb == "GET" { Err(away()) } else { Ok(()) } }.boxed());
        }
        hooked.requests();
        for _ in 0..150 {
            let error = follower.wait_for(later, Duration::from_millis(2)).unwrap_err();
            assert!(matches!(error, Error::Behind { .. }), "{error}");
        }
        let requests = hooked.requests();
        assert!(requests.len() < 75, "{}: {requests:?}", requests.len());
    }
    hooked.before(|_, _| async { Ok(()) }.boxed());
    fill(&store, 1);
    catch_up(&store, &follower);
    assert_eq!(rows(&follower), 11);
}

/// Whose a transaction is has to be asked, and the storage does not answer for a while.
#[test]
fn wait_outlasts_a_failure_of_the_storage() {
    let (folder, hooked) = (tempfile::tempdir().unwrap(), Hooked::named("failing-owner"));
    let store = primary(folder.path(), "memory:failing-owner");
    upload(&store, 10);
    let follower = follower(folder.path(), "memory:failing-owner");
    super::store::close(store);
    let store = primary(folder.path(), "memory:failing-owner");
    upload(&store, 1);
    let (failed, fails) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, asked) = (Arc::clone(&failed), Arc::clone(&fails));
    hooked.before(move |verb, key| {
        let fails = verb == "GET" && key == "larder/owner.json" && asked.load(Relaxed);
        counted.fetch_add(fails.into(), Relaxed);
        async move { if fails { Err(away()) } else { Ok(()) } }.boxed()
    });
    let token = store.replica().unwrap().token();
    let waited = thread::scope(|scope| {
        let waiting = scope.spawn(|| follower.wait_for(token, PATIENCE));
        wait_until("it is asked", || failed.load(Relaxed) > 0);
        fails.store(false, Relaxed);
        waiting.join().unwrap()
    });
    waited.unwrap();
    assert_eq!(rows(&follower), 11);
}

#[test]
fn follower_waits_for_room_on_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=8m larder '{disk}'");
    let Some(command) = after_mounting(&mount) else {
        return;
    };
    let child = Child::start_by(command, "replica::far_behind", "small disk", &[disk]);
    child.expect("done");
    child.finish();
}

pub(crate) fn child(task: &Task) {
    let disk = std::path::Path::new(&task.args[0]);
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let replica = folder.path().join("replica");
    let store = primary(folder.path(), replica.to_str().unwrap());
    upload(&store, 10);
    let following = FollowerOptions::of(replica.to_str().unwrap()).interval(Duration::from_millis(10));
    let follower = options().follow(following.clone(), disk.join("follower.db")).unwrap();
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 5 << 20]).unwrap();
    upload(&store, 2000);
    let token = store.replica().unwrap().token();
    super::store::wait_until("it says why", || {
        let error = follower.wait_for(token, Duration::from_millis(50)).unwrap_err();
        assert!(error.is_retryable(), "{error}");
        error
            .to_string()
            .contains("make room, and the follower goes on by itself")
    });
    close(&follower);
    let error = options()
        .follow(following.clone(), disk.join("follower.db"))
        .unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("make room"),
        "{error}"
    );
    std::fs::remove_file(&ballast).unwrap();
    let follower = options().follow(following, disk.join("follower.db")).unwrap();
    follower.wait_for(token, PATIENCE).unwrap();
    assert_eq!(rows(&follower), 2010);
    close(&follower);
    tell("done");
}
