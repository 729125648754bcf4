#![no_main]
//! Any text is a URL of a replica, or refused with a reason; and no secret in a URL is repeated.

use larder::replica::storage::{Environment, Storage};
use libfuzzer_sys::fuzz_target;

const CANARY: &str = "C4NARY";

/// What a user sees of it.
fn shown(url: &str) -> String {
    let nothing = Environment {
        variables: Vec::new(),
        ..Environment::of_process()
    };
    match Storage::connect_in(url, &nothing) {
        Ok(storage) => format!("{storage} {storage:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}

fuzz_target!(|text: &str| {
    // A name in memory stays as long as the process.
    if !text.trim_start().to_ascii_lowercase().starts_with("memory:") {
        assert!(!shown(text).is_empty());
    }
    for url in [
        format!("s3://key:{CANARY}@{text}"),
        format!("abs://account:{CANARY}@{text}"),
        format!("s3://bucket/app?{text}={CANARY}"),
        format!("s3://bucket/app?secret-access-key={CANARY}&{text}"),
        format!("s3://bucket/app?{text}#{CANARY}"),
    ] {
        let shown = shown(&url);
        assert!(!shown.contains(CANARY) || text.contains(CANARY), "{url:?}: {shown}");
    }
});
