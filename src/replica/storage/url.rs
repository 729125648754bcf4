//! URLs of replicas.

use std::collections::BTreeMap;
use std::path::{self, PathBuf};

use super::failure::StorageError;
use crate::runtime::process_mutex::ProcessMutex;
use crate::runtime::sync::Arc;

use object_store::memory::InMemory;

/// Where a replica is.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    Folder(PathBuf),
    /// In the memory of this process, by name.
    Memory(String),
}

/// The stores of `memory:` URLs, for as long as the process lives.
static MEMORY: ProcessMutex<BTreeMap<String, Arc<InMemory>>> = ProcessMutex::new(BTreeMap::new());

pub(super) fn memory(name: &str) -> Arc<InMemory> {
    Arc::clone(MEMORY.lock().entry(name.to_owned()).or_default())
}

/// Parses a URL, or the path of a folder.
pub(super) fn parse(url: &str) -> Result<Place, StorageError> {
    let Some((scheme, rest)) = scheme(url) else {
        return folder(url, url.to_owned());
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => file(url, rest),
        "memory" => Ok(Place::Memory(rest.to_owned())),
        other => {
            let reason = format!("there is no storage {other}: use s3, gs, abs, file, a path or memory");
            Err(StorageError::invalid(shown(url), reason))
        }
    }
}

/// A URL without what may be secret: its query, and a user with a password.
pub(super) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = scheme(url) else {
        return url.to_owned();
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let rest = &rest[..end];
    let begin = rest.strip_prefix("//").map_or(0, |_| 2);
    let host_end = rest[begin..].find('/').map_or(rest.len(), |at| begin + at);
    let host = &rest[begin..host_end];
    let host = match host.rsplit_once('@') {
        // `abs://account@container`: an account is no secret, what follows a colon is.
        Some((user, host)) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        None => host.to_owned(),
    };
    format!("{scheme}:{}{host}{}", &rest[..begin], &rest[host_end..])
}

/// The scheme of a URL, and what follows the colon. A path has none, with a colon in it too.
fn scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let is_url = rest.starts_with("//")
        || ["file", "memory"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known));
    (is_scheme && is_url).then_some((scheme, rest))
}

fn file(url: &str, rest: &str) -> Result<Place, StorageError> {
    let refuse = |reason: &str| Err(StorageError::invalid(shown(url), reason));
    if rest.contains(['?', '#']) {
        return refuse("a file URL has no parameters (write %3F for a question mark, %23 for a hash sign)");
    }
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest
            .strip_prefix("localhost")
            .filter(|path| path.starts_with('/'))
            .unwrap_or(rest),
        None => rest,
    };
    if !path.starts_with('/') {
        return refuse("a file URL has three slashes and an absolute path: file:///folder");
    }
    match decoded(path) {
        Some(path) => folder(url, path),
        None => refuse("it has a per cent sign without two hexadecimal digits, or what they make is not UTF-8"),
    }
}

fn folder(url: &str, path: String) -> Result<Place, StorageError> {
    if path.contains('\0') {
        return Err(StorageError::invalid(
            url.replace('\0', "\\0"),
            "a path has no NUL character",
        ));
    }
    match path::absolute(&path) {
        Ok(path) if path.parent().is_none() => Err(StorageError::invalid(
            url,
            "the root folder cannot be a replica: give it a folder of its own",
        )),
        Ok(path) => Ok(Place::Folder(path)),
        Err(error) => Err(StorageError::invalid(url, format!("it is no path: {error}"))),
    }
}

/// Percent-decoded; `None` if it is no UTF-8 then.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest
            .get(..2)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(url: &str) -> PathBuf {
        match parse(url).unwrap() {
            Place::Folder(path) => path,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn paths_and_file_urls_are_folders() {
        for (url, path) in [
            ("/var/replica", "/var/replica"),
            ("/var/a b?c#d%20", "/var/a b?c#d%20"),
            ("file:///var/replica", "/var/replica"),
            ("FILE:///var/replica", "/var/replica"),
            ("file://localhost/var/replica", "/var/replica"),
            ("file:/var/replica", "/var/replica"),
            ("file:///var/a%20b%3Fc%25/%C3%A9", "/var/a b?c%/\u{e9}"),
            ("/var/12:30/replica", "/var/12:30/replica"),
        ] {
            assert_eq!(folder_of(url), PathBuf::from(path), "{url}");
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(folder_of("a/replica"), here.join("a/replica"));
        assert_eq!(folder_of("12:30"), here.join("12:30"));
    }

    #[test]
    fn unusable_urls_are_refused_with_the_reason() {
        for (url, reason) in [
            ("", "no path"),
            ("/", "root folder"),
            ("file:///", "root folder"),
            ("file://host/folder", "three slashes"),
            ("file:folder", "three slashes"),
            ("file:///a?sync=1", "no parameters"),
            ("file:///a%2", "per cent sign"),
            ("file:///a%ff", "UTF-8"),
            ("file:///a%00b", "NUL"),
            ("sftp://host/folder", "no storage sftp"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn shown_urls_have_no_secret() {
        for (url, seen) in [
            ("s3://bucket/a?secret=canary", "s3://bucket/a"),
            ("s3://key:canary@bucket/a", "s3://key@bucket/a"),
            ("s3://key:ca/nary", "s3://key:ca/nary"),
            ("abs://account:canary@container/a/b", "abs://account@container/a/b"),
            ("https://a.blob/c#canary", "https://a.blob/c"),
            ("memory:name", "memory:name"),
            ("/a?b", "/a?b"),
        ] {
            assert_eq!(shown(url), seen);
        }
    }

    #[test]
    fn memory_is_shared_by_its_name() {
        let (a, again, b) = (memory("url-a"), memory("url-a"), memory("url-b"));
        assert!(Arc::ptr_eq(&a, &again) && !Arc::ptr_eq(&a, &b));
        assert_eq!(parse("memory:x").unwrap(), Place::Memory("x".into()));
    }
}
