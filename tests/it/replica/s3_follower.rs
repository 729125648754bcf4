//! Followers, promotion and branches over the protocol of S3, by moto; and followers of and by the real Litestream.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{At, Error, FollowerOptions, Options, Replica};

use super::follower::{catch_up, close, options, rows, upload};
use super::litestream::Litestream;
use super::servers::{KEY, Proxy, SECRET, Service};
use crate::support::child::{Child, Task, tell, this_binary};

/// Runs a role in a process with credentials. Returns the first lines of its requests.
fn run(role: &str) -> Option<Vec<String>> {
    let moto = Service::moto("bucket")?;
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let proxy = Proxy::start("127.0.0.1:0", &moto.url, move |request, answer| {
        let source = request
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("x-amz-copy-source"));
        let first = request.lines().next().unwrap_or_default();
        seen.lock()
            .unwrap()
            .push(format!("{first} {}", source.unwrap_or_default()));
        answer
    });
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(this_binary());
    command
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET);
    let args = [&proxy.address(), folder.path().to_str().unwrap()].map(str::to_owned);
    let child = Child::start_by(command, "replica::s3_follower", role, &[&args[0], &args[1]]);
    child.expect("done");
    child.finish();
    drop(proxy);
    Some(Arc::into_inner(requests).map_or_else(Vec::new, |seen| seen.into_inner().unwrap()))
}

#[test]
fn follower_and_promotion_work_over_s3() {
    run("promotes");
}

/// The bucket copies the files, and none is downloaded.
#[test]
fn bucket_copies_the_files_of_a_branch() {
    let Some(requests) = run("branches") else { return };
    let copies = requests
        .iter()
        .filter(|request| request.contains("copy-source"))
        .count();
    assert!(copies > 0, "{requests:?}");
    let begun = requests
        .iter()
        .position(|request| request.contains("copy-source"))
        .unwrap();
    let last = requests
        .iter()
        .rposition(|request| request.contains("copy-source"))
        .unwrap();
    let between = &requests[begun..last];
    let is_file = |request: &&String| request.contains(".ltx") && !request.contains("copy-source");
    let others: Vec<_> = between
        .iter()
        .filter(is_file)
        .filter(|request| !request.starts_with("HEAD"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn litestream_follows_over_s3() {
    if !Litestream::all().is_empty() {
        run("is followed");
    }
}

pub(crate) fn child(task: &Task) {
    let [address, folder] = task.args.as_slice() else {
        panic!()
    };
    let at = |name: &str| std::path::Path::new(folder).join(name);
    let url = |name: &str| format!("s3://bucket/{name}?endpoint=http://{address}");
    let to = |name: &str| super::store::unmerged(url(name)).interval(Duration::from_millis(20));
    let store = Options::new().replicate_to(to("app")).open(at("app.db")).unwrap();
    upload(&store, 10);
    let following = FollowerOptions::of(url("app")).interval(Duration::from_millis(20));
    match task.role.as_str() {
        "promotes" => {
            let follower = options().follow(following.clone(), at("one.db")).unwrap();
            let other = options().follow(following, at("two.db")).unwrap();
            for _ in 0..5 {
                upload(&store, 10);
                catch_up(&store, &follower);
            }
            assert_eq!(rows(&follower), 60);
            let promoted = follower.promote(Options::new().replicate_to(to("app"))).unwrap();
            upload(&promoted, 5);
            catch_up(&promoted, &other);
            assert_eq!(rows(&other), 65);
            super::store::wait_until("the fence", || {
                let write = store.write(|tx| tx.execute("DELETE FROM entry WHERE n = 1", []));
                matches!(write, Err(Error::Fenced { .. }))
            });
            assert_eq!(promoted.close().unwrap().replicated, Some(true));
            close(&other);
            let other = options().follow(url("app").as_str(), at("two.db")).unwrap();
            assert_eq!(rows(&other), 65);
        }
        "branches" => {
            upload(&store, 10);
            super::store::close(store);
            let source = Replica::open(&url("app")).unwrap();
            let report = source.branch(At::Newest, &url("branch")).unwrap();
            assert!(report.files > 1, "{report}");
            let error = source.branch(At::Newest, &url("branch")).unwrap_err();
            assert!(error.to_string().contains("it has an owner already"), "{error}");
            let branch = to("branch").restore_if_missing(true);
            let branch = Options::new().replicate_to(branch).open(at("branch.db")).unwrap();
            upload(&branch, 5);
            assert!(branch.replica().unwrap().verify().restore(true).run().unwrap().is_ok());
            let follower = options().follow(url("branch").as_str(), at("one.db")).unwrap();
            assert_eq!(rows(&follower), 25);
        }
        "is followed" => {
            for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
                let path = at(&format!("{}.db", litestream.version));
                let mut restore = Command::new(litestream.program());
                restore
                    .args(["restore", "-f", "-follow-interval", "50ms", "-o"])
                    .arg(&path)
                    .arg(format!("{}&region=us-east-1", url("app")))
                    // With it Litestream does not start.
                    .env_remove("AWS_CA_BUNDLE");
                let mut restoring = restore.spawn().unwrap();
                super::follower::follows(&store, &path, &litestream.version);
                super::litestream::end(&mut restoring);
            }
        }
        other => panic!("{other}"),
    }
    tell("done");
}
