//! Replicas in S3: the real protocol with moto, a server without conditions, and what a server may answer otherwise.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use larder::Error;
use larder::replica::runtime;
use larder::replica::storage::{Created, Environment, FailureKind, Storage, StorageError, Txids, Written};
use tempfile::tempdir;

use super::litestream::{Litestream, Replicated};
use super::servers::{Answer, KEY, Proxy, SECRET, Scripted, Service, environment};

const TIME: i64 = 1_790_000_000_123;

macro_rules! ask {
    ($storage:expr, $method:ident($($argument:expr),*)) => {{
        let storage = $storage.clone();
        runtime::wait(async move { storage.$method($($argument),*).await }).unwrap()
    }};
}

fn connect(url: &str, prefix: &str, environment: &Environment) -> Storage {
    Storage::connect_in(&format!("s3://bucket/{prefix}?endpoint={url}"), environment).unwrap()
}

pub(super) fn create(storage: &Storage, txid: u64, contents: &str) -> Result<Created, StorageError> {
    let bytes = Bytes::from(contents.to_owned());
    ask!(storage, create(0, Txids::one(txid), TIME, bytes))
}

/// A text that a user sees: it names the storage, and has no credential.
#[track_caller]
fn shown(error: &StorageError) -> String {
    let text = error.to_string();
    for canary in [KEY, SECRET, "canary"] {
        assert!(
            !text.contains(canary) && !format!("{error:?}").contains(canary),
            "{error:?}"
        );
    }
    assert!(text.starts_with("replica s3://bucket/app: "), "{text}");
    text
}

#[test]
fn moto_keeps_a_replica() {
    let Some(moto) = Service::moto("bucket") else { return };
    let storage = connect(&moto.url, "app", &environment(&[]));
    keeps_a_replica(&storage);

    let keys = ureq::get(format!("{}/bucket?list-type=2", moto.url)).call().unwrap();
    let keys = keys.into_body().read_to_string().unwrap();
    for key in [
        "app/0000/00000000000000ff-00000000000000ff.ltx",
        "app/0009/0000000000000001-0000000000000002.ltx",
    ] {
        assert!(keys.contains(&format!("<Key>{key}</Key>")), "{key} in {keys}");
    }

    let other = Storage::connect_in(&format!("s3://no-bucket/app?endpoint={}", moto.url), &environment(&[])).unwrap();
    for error in [ask!(other, list(0)).unwrap_err(), create(&other, 1, "one").unwrap_err()] {
        assert_eq!(error.kind(), FailureKind::Permanent);
        assert!(error.to_string().contains("there is no bucket no-bucket"), "{error}");
    }
}

/// What is asked of every server.
pub(super) fn keeps_a_replica(storage: &Storage) {
    let server_time = ask!(storage, probe()).unwrap();
    let now = SystemTime::now();
    assert!(server_time > now - Duration::from_secs(600) && server_time < now + Duration::from_secs(5));
    ask!(storage, probe()).unwrap();

    for txid in [2, 0xff, 1] {
        assert_eq!(create(storage, txid, &format!("file {txid}")).unwrap(), Created::New);
        assert_eq!(create(storage, txid, "another").unwrap(), Created::Exists);
    }
    ask!(
        storage,
        put(9, Txids { min: 1, max: 2 }, TIME, Bytes::from_static(b"snapshot"))
    )
    .unwrap();
    let files = ask!(storage, list(0)).unwrap();
    let found: Vec<_> = files.iter().map(|file| (file.txids.min, file.size)).collect();
    assert_eq!(found, [(1, 6), (2, 6), (0xff, 8)]);
    assert_eq!(ask!(storage, get(0, Txids::one(2))).unwrap(), "file 2");
    assert_eq!(ask!(storage, timestamp(0, Txids::one(2))).unwrap(), TIME);
    ask!(storage, delete(0, Txids::one(2))).unwrap();
    ask!(storage, delete(0, Txids::one(2))).unwrap();
    assert!(ask!(storage, get(0, Txids::one(2))).unwrap_err().is_not_found());

    owner_is_written_over_its_version(storage);
    large_files_go_in_parts(storage);
}

fn owner_is_written_over_its_version(storage: &Storage) {
    assert!(ask!(storage, read_owner()).unwrap().is_none());
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let Written::Done(first) = ask!(storage, write_owner(text("1"), None)).unwrap() else {
        panic!("it is new");
    };
    assert_eq!(ask!(storage, write_owner(text("2"), None)).unwrap(), Written::Changed);
    let old = first.clone();
    let Written::Done(second) = ask!(storage, write_owner(text("2"), Some(first))).unwrap() else {
        panic!("it is of that version");
    };
    assert_eq!(
        ask!(storage, write_owner(text("3"), Some(old))).unwrap(),
        Written::Changed
    );
    assert_eq!(ask!(storage, read_owner()).unwrap().unwrap(), (text("2"), second));
}

fn large_files_go_in_parts(storage: &Storage) {
    const SIZE: usize = (64 << 20) + 12_345;
    let mut file = tempfile::tempfile().unwrap();
    let block: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    (0..=SIZE / block.len()).for_each(|_| file.write_all(&block).unwrap());
    file.set_len(SIZE as u64).unwrap();
    let file = Arc::new(file);
    let upload = |level, txid| {
        let (sent, txids) = (Arc::clone(&file), Txids::one(txid));
        match level {
            0 => assert_eq!(ask!(storage, create(0, txids, TIME, sent)).unwrap(), Created::New),
            _ => ask!(storage, put(9, txids, TIME, sent)).unwrap(),
        }
        let mut reader = ask!(storage, reader(level, txids)).unwrap();
        assert_eq!(reader.size(), SIZE as u64);
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents).unwrap();
        assert!(contents == local(&file), "level {level}");
    };
    for level in [0, 9] {
        upload(level, 0x100);
        assert_eq!(ask!(storage, timestamp(level, Txids::one(0x100))).unwrap(), TIME);
    }
    let again = Arc::clone(&file);
    assert_eq!(
        ask!(storage, create(0, Txids::one(0x100), TIME, again)).unwrap(),
        Created::Exists
    );
}

/// An object that comes while the parts go up is not overwritten.
#[test]
fn end_of_a_large_upload_has_the_condition() {
    let Some(moto) = Service::moto("bucket") else { return };
    let direct = connect(&moto.url, "app", &environment(&[]));
    create(&direct, 7, "another's").unwrap();
    // The look before the first part does not see it yet.
    let proxy = Proxy::start("127.0.0.1:0", &moto.url, |request, answer| {
        match request.starts_with("HEAD") {
            true => answer.replace(" 200 OK", " 404 NOT FOUND"),
            false => answer,
        }
    });
    let storage = connect(&format!("http://{}", proxy.address()), "app", &environment(&[]));
    let file = tempfile::tempfile().unwrap();
    file.set_len((64 << 20) + 1).unwrap();
    let file = Arc::new(file);
    for (txid, created) in [(7, Created::Exists), (8, Created::New), (8, Created::Exists)] {
        let sent = Arc::clone(&file);
        assert_eq!(ask!(storage, create(0, Txids::one(txid), TIME, sent)).unwrap(), created);
    }
    assert_eq!(ask!(direct, get(0, Txids::one(7))).unwrap(), "another's");
    // Nothing is left of the uploads that did not come to their end.
    let uploads = ureq::get(format!("{}/bucket?uploads", moto.url)).call().unwrap();
    let uploads = uploads.into_body().read_to_string().unwrap();
    assert!(!uploads.contains("<UploadId>"), "{uploads}");
}

/// A part that fails ends the upload: neither an object nor parts are left, and the next upload is a new one.
#[test]
fn large_upload_that_fails_in_the_middle_leaves_nothing() {
    let Some(moto) = Service::moto("bucket") else { return };
    let direct = connect(&moto.url, "app", &environment(&[]));
    let proxy = Proxy::start("127.0.0.1:0", &moto.url, |request, answer| {
        match request.contains("partNumber=3") {
            true => answer.replace(" 200 OK", " 403 FORBIDDEN"),
            false => answer,
        }
    });
    let failing = connect(&format!("http://{}", proxy.address()), "app", &environment(&[]));
    let file = tempfile::tempfile().unwrap();
    file.set_len((64 << 20) + 1).unwrap();
    let file = Arc::new(file);
    for level in [0, 9] {
        let (sent, txids) = (Arc::clone(&file), Txids::one(7));
        let error = match level {
            0 => ask!(failing, create(level, txids, TIME, sent)).map(drop).unwrap_err(),
            _ => ask!(failing, put(level, txids, TIME, sent)).unwrap_err(),
        };
        assert_eq!(error.kind(), FailureKind::Permanent, "{error}");
        assert!(!ask!(direct, has(level, txids)).unwrap());
        let uploads = ureq::get(format!("{}/bucket?uploads", moto.url)).call().unwrap();
        let uploads = uploads.into_body().read_to_string().unwrap();
        assert!(!uploads.contains("<UploadId>"), "{uploads}");
        let sent = Arc::clone(&file);
        assert_eq!(ask!(direct, create(level, txids, TIME, sent)).unwrap(), Created::New);
        assert_eq!(ask!(direct, find(level, txids)).unwrap().unwrap().size, (64 << 20) + 1);
    }
}

#[test]
fn leftovers_go_once_they_are_old() {
    let Some(moto) = Service::moto("bucket") else { return };
    let storage = connect(&moto.url, "app", &environment(&[]));
    let url = format!("{}/bucket/app/larder/tmp/left", moto.url);
    ureq::put(&url).send("left").unwrap();
    let now = ask!(storage, time()).unwrap();
    for (before, is_left) in [
        (now - Duration::from_secs(86400), true),
        (now + Duration::from_secs(5), false),
    ] {
        ask!(storage, delete_unfinished(before)).unwrap();
        let listed = ureq::get(format!("{}/bucket?list-type=2", moto.url)).call().unwrap();
        let listed = listed.into_body().read_to_string().unwrap();
        assert_eq!(listed.contains("larder/tmp/left"), is_left, "{listed}");
    }
}

fn local(file: &File) -> Vec<u8> {
    let mut file = file.try_clone().unwrap();
    let mut contents = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut contents).unwrap();
    contents
}

#[test]
fn litestream_restores_from_a_bucket() {
    let litestreams = Litestream::all();
    let Some(newest) = litestreams.iter().max_by_key(|litestream| litestream.patch()) else {
        return;
    };
    let Some(moto) = Service::moto("bucket") else { return };
    // The same variables for both, in Litestream's names.
    let variables = [
        ("LITESTREAM_ACCESS_KEY_ID", "key"),
        ("LITESTREAM_SECRET_ACCESS_KEY", "secret"),
    ];
    let environment = Environment {
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Environment::of_process()
    };
    let storage = connect(&moto.url, "deep/app", &environment);
    let replicated = Replicated::run(4096, 5);
    for (txid, bytes) in (1..).zip(&replicated.files) {
        let bytes = Bytes::from(bytes.clone());
        ask!(storage, create(0, Txids::one(txid), TIME + txid.cast_signed(), bytes)).unwrap();
    }
    let folder = tempdir().unwrap();
    let target = folder.path().join("restored.db");
    let mut command = Command::new(newest.program());
    // With it Litestream does not start.
    command.env_remove("AWS_CA_BUNDLE");
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .envs(variables);
    command.arg("restore").arg("-o").arg(&target);
    command.arg(format!("s3://bucket/deep/app?endpoint={}&region=us-east-1", moto.url));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(target).unwrap() == replicated.last());
}

#[test]
fn rclone_is_refused_by_name() {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("bucket")).unwrap();
    let Some(rclone) = Service::rclone(folder.path(), KEY, SECRET) else {
        return;
    };
    let storage = connect(&rclone.url, "app", &environment(&[]));
    let error = ask!(storage, probe()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    let text = shown(&error);
    assert!(
        text.contains("ignores the condition If-None-Match") && text.contains("unconditional(true)"),
        "{text}"
    );

    // Who accepts that, can use it, and does not overwrite what is there.
    let storage = storage.unconditional();
    ask!(storage, probe()).unwrap();
    assert_eq!(create(&storage, 1, "one").unwrap(), Created::New);
    assert_eq!(create(&storage, 1, "two").unwrap(), Created::Exists);
    assert_eq!(ask!(storage, get(0, Txids::one(1))).unwrap(), "one");
    let path = folder
        .path()
        .join("bucket/app/0000/0000000000000001-0000000000000001.ltx");
    assert_eq!(fs::read_to_string(path).unwrap(), "one");
}

#[test]
fn refusals_name_their_cause_and_remedy() {
    for (status, code, message, parts) in [
        (
            "403 Forbidden",
            "AccessDenied",
            "User: arn:aws:iam::1:user/app is not authorized to perform: s3:PutObject",
            &[
                "denies access",
                "status 403, AccessDenied: User: arn:aws:iam",
                "AWS_ACCESS_KEY_ID",
            ][..],
        ),
        (
            "403 Forbidden",
            "SignatureDoesNotMatch",
            "The request signature does not match: canary/secret+canary",
            &["SignatureDoesNotMatch", "***"],
        ),
        (
            "403 Forbidden",
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            &["the clock of this machine is wrong", "NTP"],
        ),
        (
            "404 Not Found",
            "NoSuchBucket",
            "The specified bucket does not exist",
            &["there is no bucket bucket at http"],
        ),
        (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            "the region 'us-east-1' is wrong; expecting 'eu-west-1'",
            &[
                "in another region",
                "expecting 'eu-west-1'",
                "it is us-east-1; set the parameter `region`",
            ],
        ),
        (
            "301 Moved Permanently",
            "PermanentRedirect",
            "use another endpoint",
            &["in another region", "AWS_REGION"],
        ),
        (
            "400 Bad Request",
            "EntityTooLarge",
            "too large",
            &["refuses the request", "EntityTooLarge: too large"],
        ),
    ] {
        let server = Scripted::start(move |_, _| Answer::error(status, code, message));
        let storage = connect(&server.url(), "app", &environment(&[]));
        let failures = [
            create(&storage, 1, "one").unwrap_err(),
            ask!(storage, list(0)).unwrap_err(),
            ask!(storage, get(0, Txids::one(1))).unwrap_err(),
            ask!(storage, probe()).unwrap_err(),
        ];
        for error in failures {
            let text = shown(&error);
            assert_eq!(error.kind(), FailureKind::Permanent, "{text}");
            assert!(!Error::from(error).is_retryable(), "{text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        assert_eq!(server.requests().len(), 4, "nothing is sent again");
    }
}

#[test]
fn storage_that_is_away_is_transient() {
    let closed = Scripted::start(|_, _| Answer::Close);
    let overloaded = Scripted::start(|_, _| Answer::error("503 Slow Down", "SlowDown", "Reduce your request rate."));
    let silent = Scripted::start(|_, _| Answer::Silence);
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let mut impatient = environment(&[]);
    impatient.patience = Duration::from_millis(300);
    for (url, environment, reason) in [
        (
            closed.url(),
            environment(&[]),
            "failed: connection closed before message completed",
        ),
        (
            overloaded.url(),
            environment(&[]),
            "is overloaded or fails (status 503, SlowDown: Reduce your request rate)",
        ),
        (refused, environment(&[]), "Connection refused"),
        (
            "http://no-host.invalid".into(),
            environment(&[]),
            "there is no connection",
        ),
        (silent.url(), impatient, "did not answer within 300ms"),
    ] {
        let storage = connect(&url, "app", &environment);
        let error = create(&storage, 1, "").unwrap_err();
        assert_eq!(error.kind(), FailureKind::Transient, "{error}");
        let text = shown(&error);
        assert!(text.contains(reason), "{text}");
        assert!(Error::from(error).is_retryable(), "{text}");
    }
}

/// No test listens on a port of the system's.
const NO_SERVER: &str = "http://127.0.0.1:1";

#[test]
fn words_of_a_name_are_no_failure_of_credentials() {
    let storage = connect(NO_SERVER, "credential/latest/api/token", &environment(&[]));
    for error in [
        create(&storage, 1, "").unwrap_err(),
        ask!(storage, list(0)).unwrap_err(),
        ask!(storage, get(0, Txids::one(1))).unwrap_err(),
    ] {
        assert_eq!(error.kind(), FailureKind::Transient, "{error}");
        let text = error.to_string();
        assert!(text.contains("there is no connection to bucket bucket at"), "{text}");
    }
}

#[test]
fn answer_of_the_machines_role_is_not_the_buckets() {
    for (status, kind, reason) in [
        (
            "404 Not Found",
            FailureKind::Permanent,
            "there are no credentials (status 404)",
        ),
        (
            "403 Forbidden",
            FailureKind::Permanent,
            "there are no credentials (status 403)",
        ),
        (
            "503 Service Unavailable",
            FailureKind::Transient,
            "the server that has the credentials fails (status 503)",
        ),
    ] {
        // A machine without a role has a token, and no name of a role.
        let metadata = Scripted::start(move |head, _| match head.starts_with("PUT") {
            true => Answer::Reply("200 OK", "token".into()),
            false => Answer::Reply(status, "<html></html>".into()),
        });
        let bucket = Scripted::start(|_, _| Answer::error("404 Not Found", "NoSuchKey", "no such key"));
        let environment = Environment {
            variables: vec![("AWS_METADATA_ENDPOINT".into(), metadata.url())],
            ..Environment::of_process()
        };
        let storage = connect(&bucket.url(), "app", &environment);
        for error in [
            create(&storage, 1, "").unwrap_err(),
            ask!(storage, list(0)).unwrap_err(),
            ask!(storage, get(0, Txids::one(1))).unwrap_err(),
            ask!(storage, read_owner()).unwrap_err(),
        ] {
            let text = shown(&error);
            assert_eq!(error.kind(), kind, "{text}");
            assert!(
                text.contains(reason) && text.contains("neither AWS_ACCESS_KEY_ID"),
                "{text}"
            );
        }
        assert_eq!(bucket.requests(), [""; 0]);
    }
}

#[test]
fn website_is_no_storage() {
    let page = || Answer::Reply("200 OK", "<html>Console</html>".into());
    let website = Scripted::start(move |_, _| page());
    let storage = connect(&website.url(), "app", &environment(&[]));
    // Each object is there, so the search for the newest would not end.
    let error = ask!(storage, find(0, Txids::one(1))).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    let text = shown(&error);
    assert!(
        text.contains("no storage for objects (it has each object that it is asked for") && text.contains("`endpoint`"),
        "{text}"
    );
    let error = create(&storage, 1, "").unwrap_err();
    assert!(shown(&error).contains("no storage for objects"), "{}", shown(&error));

    let strange = Scripted::start(|_, _| Answer::Reply("404 Not Found", "<html>Not here</html>".into()));
    let storage = connect(&strange.url(), "app", &environment(&[]));
    for error in [
        create(&storage, 1, "").unwrap_err(),
        ask!(storage, list(0)).unwrap_err(),
    ] {
        let text = shown(&error);
        assert_eq!(error.kind(), FailureKind::Permanent, "{text}");
        assert!(text.contains("no storage for objects (status 404)"), "{text}");
    }
    // An object may be missing all the same.
    let found = ask!(storage, find(0, Txids::one(1))).unwrap();
    assert!(found.is_none(), "{found:?}");
}

/// A repeated Create whose first answer was lost would be told that its own object exists.
#[test]
fn write_with_a_condition_is_sent_once() {
    for answer in [
        || Answer::Close,
        || Answer::error("500 Internal Server Error", "InternalError", "try again"),
    ] {
        let server = Scripted::start(move |_, _| answer());
        let storage = connect(&server.url(), "app", &environment(&[]));
        create(&storage, 1, "one").unwrap_err();
        ask!(storage, write_owner(Bytes::new(), None)).unwrap_err();
        let requests = server.requests();
        assert_eq!(requests.len(), 2, "{requests:?}");
        assert!(
            requests[0].starts_with("PUT /bucket/app/0000/0000000000000001-0000000000000001.ltx"),
            "{requests:?}"
        );
        // Others are sent again.
        ask!(storage, list(0)).unwrap_err();
        assert!(server.requests().len() > 3);
    }
}

#[test]
fn conflict_with_a_write_under_way_is_tried_again() {
    let conflict = || Answer::error("409 Conflict", "ConditionalRequestConflict", "another is under way");
    let server = Scripted::start(move |_, before| if before < 3 { conflict() } else { Answer::created() });
    let storage = connect(&server.url(), "app", &environment(&[]));
    assert_eq!(create(&storage, 1, "one").unwrap(), Created::New);
    assert_eq!(server.requests().len(), 4);

    // After a conflict the other one may have won.
    let precondition = || Answer::error("412 Precondition Failed", "PreconditionFailed", "it is there");
    let server = Scripted::start(move |_, before| if before < 1 { conflict() } else { precondition() });
    let storage = connect(&server.url(), "app", &environment(&[]));
    assert_eq!(create(&storage, 1, "one").unwrap(), Created::Exists);

    // A server whose answer to each Create is a conflict is asked whether the object is there.
    for (found, result) in [("200 OK", Some(Created::Exists)), ("404 Not Found", None)] {
        let server = Scripted::start(move |request, _| match request.starts_with("HEAD") {
            true => Answer::WithHeader(found, "ETag: \"1\"", String::new()),
            false => conflict(),
        });
        let storage = connect(&server.url(), "app", &environment(&[]));
        match (create(&storage, 1, "one"), result) {
            (Ok(created), Some(expected)) => assert_eq!(created, expected),
            (Err(error), None) => assert_eq!(error.kind(), FailureKind::Transient, "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn credentials_are_looked_for_in_order() {
    let server = Scripted::start(|_, _| Answer::error("403 Forbidden", "AccessDenied", "Access Denied"));
    let told = |variables: &[(&str, &str)]| {
        let environment = Environment {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Environment::of_process()
        };
        let url = format!("s3://bucket/app?endpoint={}", server.url());
        match Storage::connect_in(&url, &environment) {
            Ok(storage) => shown(&create(&storage, 1, "one").unwrap_err()),
            Err(error) => shown(&error),
        }
    };
    let aws = [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", "canary-token"),
    ];
    let litestream = [
        ("LITESTREAM_ACCESS_KEY_ID", KEY),
        ("LITESTREAM_SECRET_ACCESS_KEY", SECRET),
    ];
    let both = [aws.as_slice(), litestream.as_slice()].concat();
    assert!(told(&both).contains("those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;"));
    assert!(told(&litestream).contains("those of LITESTREAM_ACCESS_KEY_ID and LITESTREAM_SECRET_ACCESS_KEY;"));
    assert!(told(&aws[..1]).contains("AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not"));
    assert!(
        told(&litestream[1..]).contains("LITESTREAM_SECRET_ACCESS_KEY is set, and LITESTREAM_ACCESS_KEY_ID is not")
    );
    // The machine's role is asked at an address where nobody listens.
    let nobody = [("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")];
    let text = told(&nobody);
    assert!(
        text.contains("there are no credentials") && text.contains("neither AWS_ACCESS_KEY_ID and"),
        "{text}"
    );
    assert!(env::var_os("AWS_ACCESS_KEY_ID").is_none() || !text.contains("those of AWS_ACCESS_KEY_ID;"));
}

#[test]
fn storage_shows_no_credential() {
    let storage = connect("https://canary-free.example", "app", &environment(&[]));
    let debug = format!("{storage:?} {storage}");
    assert!(
        debug.contains("s3://bucket/app") && !debug.contains(KEY) && !debug.contains("secret"),
        "{debug}"
    );
    assert!(!debug.contains("endpoint"), "{debug}");
}
