//! URLs of replicas.

use std::collections::BTreeMap;
use std::path::{self, PathBuf};

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::failure::StorageError;
use crate::runtime::process_mutex::ProcessMutex;
use crate::runtime::sync::Arc;

/// Where a replica is.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    Folder(PathBuf),
    /// In the memory of this process, by name.
    Memory(String),
    Bucket(BucketUrl),
}

/// The services that have buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Service {
    S3,
    Gcs,
    Azure,
}

impl Service {
    /// The feature of larder that it needs.
    #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
    pub(super) fn feature(self) -> &'static str {
        match self {
            Service::S3 => "s3",
            Service::Gcs => "gcs",
            Service::Azure => "azure",
        }
    }

    /// The parameters of its URLs.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Service::S3 => &[
                "endpoint",
                "region",
                "force-path-style",
                "sign-payload",
                "skip-verify",
                "sse-kms-key-id",
            ],
            Service::Gcs => &["endpoint", "skip-verify", "skip-signature"],
            Service::Azure => &["endpoint", "skip-verify"],
        }
    }

    /// Where its credentials belong.
    fn variables(self) -> &'static str {
        match self {
            Service::S3 => {
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or LITESTREAM_ACCESS_KEY_ID and \
                            LITESTREAM_SECRET_ACCESS_KEY)"
            }
            Service::Gcs => "GOOGLE_APPLICATION_CREDENTIALS",
            Service::Azure => {
                "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN (or LITESTREAM_AZURE_ACCOUNT_KEY, \
                               LITESTREAM_AZURE_SAS_TOKEN)"
            }
        }
    }
}

/// Parameters of Litestream's that change nothing in what is stored.
const IGNORED: &[&str] = &["concurrency", "part-size", "require-content-md5"];

/// The URL of a bucket, taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct BucketUrl {
    /// Without its query.
    pub(super) shown: String,
    pub(super) service: Service,
    /// The bucket or container.
    pub(super) host: String,
    /// Before the `@`: Azure's account.
    pub(super) user: Option<String>,
    pub(super) prefix: Path,
    parameters: BTreeMap<String, String>,
}

impl BucketUrl {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// A parameter that is true or false, as Litestream writes them.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, StorageError> {
        let Some(value) = self.parameter(name) else {
            return Ok(None);
        };
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" | "yes" => Ok(Some(true)),
            "false" | "0" | "f" | "no" => Ok(Some(false)),
            _ => Err(self.refuse(format!("the parameter `{name}` is `true` or `false`"))),
        }
    }

    pub(super) fn refuse(&self, reason: impl Into<String>) -> StorageError {
        StorageError::invalid(self.shown.clone(), reason)
    }

    fn parse(url: &str, service: Service, rest: &str) -> Result<Self, StorageError> {
        let shown = shown(url);
        let refuse = |reason: String| StorageError::invalid(shown.clone(), reason);
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        if rest.contains('#') {
            return Err(refuse(
                "a URL of a bucket has no part after `#`: write %23 for a hash sign".into(),
            ));
        }
        let secret = || {
            let advice = "it has a secret in it, which would be seen in lists of processes and in logs: put it into";
            refuse(format!("{advice} {}", service.variables()))
        };
        let (user, place) = match user_info(place) {
            Some((user, _)) if user.contains(':') || service != Service::Azure => return Err(secret()),
            Some((user, place)) => (decoded(user), place),
            None => (None, place),
        };
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._$".contains(c);
        let (name, port) = match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        };
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
        if name.is_empty() || !name.chars().all(is_name) || port.is_some_and(|port| !is_port(port)) {
            return Err(refuse("it names no bucket: SCHEME://BUCKET/PREFIX".into()));
        }
        // `bucket.localhost:9000`, as Litestream writes it; any other port belongs to a server.
        let is_local = service == Service::S3 && name.len() > ".localhost".len() && name.ends_with(".localhost");
        if port.is_some() && !is_local {
            return Err(refuse(
                "it has a server in the place of the bucket: SCHEME://BUCKET/PREFIX?endpoint=HOST:PORT".into(),
            ));
        }
        let prefix = decoded(path).ok_or_else(|| {
            refuse("it has a per cent sign without two hexadecimal digits, or what they make is not UTF-8".into())
        })?;
        let segments = prefix.split('/').filter(|segment| !["", "."].contains(segment));
        let prefix = segments.collect::<Vec<_>>().join("/");
        if prefix.is_empty() {
            let advice = "it has no prefix: add the name of the database to it, one for each";
            return Err(refuse(format!(
                "{advice}, as in {}://{host}/app",
                url.split(':').next().unwrap_or_default()
            )));
        }
        let prefix = Path::parse(&prefix).map_err(|_| {
            refuse(
                "a part of its prefix has a character that keys should not have, or is `..`: use letters and digits"
                    .into(),
            )
        })?;
        let mut parsed = Self {
            shown: shown.clone(),
            service,
            host: host.to_owned(),
            user,
            prefix,
            parameters: BTreeMap::new(),
        };
        for parameter in query
            .unwrap_or_default()
            .split('&')
            .filter(|parameter| !parameter.is_empty())
        {
            let Some((name, value)) = parameter.split_once('=') else {
                return Err(refuse("a parameter of its query has no value".into()));
            };
            let name = kebab_case(name);
            if is_secret(&name) {
                return Err(secret());
            }
            let value = decoded(value).ok_or_else(|| refuse(format!("the parameter `{name}` is not UTF-8")))?;
            if service.parameters().contains(&name.as_str()) {
                if value.is_empty() {
                    return Err(refuse(format!(
                        "the parameter `{name}` is empty: give it a value, or leave it out"
                    )));
                }
                parsed.parameters.insert(name, value);
            } else if !IGNORED.contains(&name.as_str()) {
                let known = service.parameters().join("`, `");
                return Err(refuse(format!(
                    "it has no parameter of that name; the parameters are `{known}`"
                )));
            }
        }
        match parsed.parameter("endpoint") {
            Some(endpoint) if endpoint.contains('@') => Err(secret()),
            Some(endpoint) if endpoint.contains(['?', '#', ' ']) || has_other_scheme(endpoint) => Err(refuse(
                "the parameter `endpoint` is a host, or the URL of one, with http:// or https://".into(),
            )),
            _ => Ok(parsed),
        }
    }
}

fn has_other_scheme(endpoint: &str) -> bool {
    let scheme = endpoint.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !["http", "https"].contains(&scheme))
}

/// `forcePathStyle` is another spelling of `force-path-style`.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::new();
    let mut was_small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && was_small {
            kebab.push('-');
        }
        was_small = c.is_ascii_lowercase();
        kebab.push(if c == '_' { '-' } else { c.to_ascii_lowercase() });
    }
    kebab
}

/// Names of parameters whose values are credentials.
fn is_secret(name: &str) -> bool {
    let exact = ["sig", "sv", "se", "sp", "sas"];
    let parts = [
        "secret",
        "access-key",
        "token",
        "password",
        "account-key",
        "customer-key",
        "credential",
        "signature",
    ];
    name != "skip-signature" && (exact.contains(&name) || parts.iter().any(|part| name.contains(part)))
}

/// The stores of `memory:` URLs, for as long as the process lives.
static MEMORY: ProcessMutex<BTreeMap<String, Arc<dyn ObjectStore>>> = ProcessMutex::new(BTreeMap::new());

pub(super) fn memory(name: &str) -> Arc<dyn ObjectStore> {
    let mut memory = MEMORY.lock();
    let store = memory
        .entry(name.to_owned())
        .or_insert_with(|| Arc::new(InMemory::new()));
    Arc::clone(store)
}

/// Puts another store behind `memory:NAME`.
pub(super) fn set_memory(name: &str, store: Arc<dyn ObjectStore>) {
    MEMORY.lock().insert(name.to_owned(), store);
}

/// Parses a URL, or the path of a folder.
pub(super) fn parse(url: &str) -> Result<Place, StorageError> {
    let Some((scheme, rest)) = scheme(url) else {
        if is_misspelt(url) {
            let reason =
                "it is neither a URL, which begins with s3://, gs://, abs:// or file://, nor the path of a folder";
            return Err(StorageError::invalid(shown(url), reason));
        }
        return folder(url, url.to_owned());
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => file(url, rest),
        "memory" => Ok(Place::Memory(rest.to_owned())),
        "s3" | "gs" | "abs" => {
            let service = match scheme.to_ascii_lowercase().as_str() {
                "s3" => Service::S3,
                "gs" => Service::Gcs,
                _ => Service::Azure,
            };
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            BucketUrl::parse(url, service, rest).map(Place::Bucket)
        }
        other => {
            let reason = format!("there is no storage {other}: use s3, gs, abs, file, a path or memory");
            Err(StorageError::invalid(shown(url), reason))
        }
    }
}

/// A URL without what may be secret: its query, and what stands before an `@`.
pub(super) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = scheme(url) else {
        // A path; or a URL that is written wrong, with a user before its host all the same.
        return match url.rsplit_once('@') {
            Some((before, host)) if before.contains(':') => format!("***@{}", without_query(host)),
            _ if is_misspelt(url) => without_query(url).to_owned(),
            _ => url.to_owned(),
        };
    };
    let Some(place) = without_query(rest).strip_prefix("//") else {
        return format!("{scheme}:{}", without_query(rest));
    };
    let (start, after) = rest.split_at(place.len() + 2);
    if after.contains('@') && !place.contains('@') && place.contains(':') {
        // A password with a question mark in it.
        let host = after.rsplit('@').next().unwrap_or_default();
        let scheme_end = start.len().min(2);
        return format!("{scheme}:{}***@{}", &start[..scheme_end], without_query(host));
    }
    match user_info(place) {
        // `abs://account@container`: an account is no secret.
        Some((user, place)) if scheme.eq_ignore_ascii_case("abs") && !user.contains(':') => {
            format!("{scheme}://{user}@{place}")
        }
        Some((_, place)) => format!("{scheme}://***@{place}"),
        None => format!("{scheme}://{place}"),
    }
}

/// Whether a text without a scheme is meant for a URL.
fn is_misspelt(url: &str) -> bool {
    let schemes = ["s3:", "gs:", "abs:", "http:", "https:"];
    let text = url.trim_start().to_ascii_lowercase();
    url.contains("://") || schemes.iter().any(|scheme| text.starts_with(scheme))
}

fn without_query(url: &str) -> &str {
    &url[..url.find(['?', '#']).unwrap_or(url.len())]
}

/// Divides at the `@` of a user with or without a password. A password may have slashes in it.
fn user_info(place: &str) -> Option<(&str, &str)> {
    let (user, rest) = place.rsplit_once('@')?;
    (user.contains(':') || !user.contains('/')).then_some((user, rest))
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
            ("s3://", "no bucket"),
            ("s3:///app", "no bucket"),
            ("s3://bu cket/app", "no bucket"),
            ("s3://bucket", "no prefix"),
            ("s3://bucket/", "no prefix"),
            ("s3://bucket//./?region=x", "no prefix"),
            ("gs://bucket/?", "no prefix"),
            ("s3://bucket/a/../b", "`..`"),
            ("s3://bucket/a%2", "per cent sign"),
            ("s3://bucket/a#b", "no part after"),
            ("s3://bucket/a?region", "has no value"),
            ("s3://bucket/a?path=b", "the parameters are `endpoint`, `region`"),
            ("s3://bucket/a?endpoint=", "`endpoint` is empty"),
            ("s3://bucket/a?region=&endpoint=host", "`region` is empty"),
            ("s3://bucket/a?endpoint=ftp://host", "is a host"),
            ("s3://localhost:9000/bucket/a", "?endpoint=HOST:PORT"),
            ("s3://.localhost:9000/a", "?endpoint=HOST:PORT"),
            ("s3://bucket.localhost:/a", "no bucket"),
            ("gs://bucket.localhost:9000/a", "?endpoint=HOST:PORT"),
            ("abs://account@container", "no prefix"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    fn bucket_of(url: &str) -> BucketUrl {
        match parse(url).unwrap() {
            Place::Bucket(bucket) => bucket,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn buckets_have_litestreams_parameters() {
        let url = "S3://my.bucket/apps//./a%20b/?endpoint=http%3A%2F%2F127.0.0.1:9000&region=eu-west-1\
                   &forcePathStyle=false&sign-payload=1&skipVerify=YES&partSize=5&concurrency=3&requireContentMD5=true";
        let bucket = bucket_of(url);
        assert_eq!((bucket.service, bucket.host.as_str()), (Service::S3, "my.bucket"));
        assert_eq!(bucket.prefix.to_string(), "apps/a b");
        assert_eq!(bucket.parameter("endpoint"), Some("http://127.0.0.1:9000"));
        assert_eq!(bucket.parameter("region"), Some("eu-west-1"));
        for (flag, is_set) in [
            ("force-path-style", false),
            ("sign-payload", true),
            ("skip-verify", true),
        ] {
            assert_eq!(bucket.flag(flag).unwrap(), Some(is_set), "{flag}");
        }
        let bucket = bucket_of("abs://account@container/app");
        assert_eq!(
            (bucket.user.as_deref(), bucket.host.as_str()),
            (Some("account"), "container")
        );
        assert_eq!(bucket.flag("skip-verify").unwrap(), None);
        let unclear = bucket_of("s3://bucket/app?skip-verify=maybe")
            .flag("skip-verify")
            .unwrap_err();
        assert!(unclear.to_string().contains("`true` or `false`"), "{unclear}");
    }

    #[test]
    fn urls_with_a_secret_are_refused_without_it() {
        for url in [
            "s3://key:canary@bucket/app",
            "s3://canary@bucket/app",
            "s3://key:ca/nary/canary@bucket/app",
            "abs://account:canary@container/app",
            "s3://bucket/app?access-key-id=canary",
            "s3://bucket/app?secretAccessKey=canary",
            "s3://bucket/app?AWS_SECRET_ACCESS_KEY=canary",
            "s3://bucket/app?session-token=canary",
            "s3://bucket/app?sse-customer-key=canary",
            "s3://bucket/app?endpoint=https://user:canary@host",
            "s3://bucket/app?endpoint=https%3A%2F%2Fuser%3Acanary%40host",
            "abs://account@container/app?sv=2024&sig=canary",
            "gs://canary@bucket/app",
        ] {
            let error = parse(url).unwrap_err();
            let (text, debug) = (error.to_string(), format!("{error:?}"));
            assert!(
                text.contains("a secret in it") && text.contains("put it into"),
                "{url}: {text}"
            );
            assert!(!text.contains("canary") && !debug.contains("canary"), "{text} {debug}");
        }
        // What is not understood is not repeated.
        for url in [
            "s3://bucket/app?canary",
            "s3://bucket/app?x=canary",
            "s3://bucket/app?canary=x",
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn shown_urls_have_no_secret() {
        for (url, seen) in [
            ("s3://bucket/a?secret=canary", "s3://bucket/a"),
            ("s3://key:canary@bucket/a", "s3://***@bucket/a"),
            ("s3://key:ca/nary@bucket/a", "s3://***@bucket/a"),
            ("s3://canary@bucket/a", "s3://***@bucket/a"),
            ("s3://bucket/me@example", "s3://bucket/me@example"),
            ("abs://account@container/a/b", "abs://account@container/a/b"),
            ("abs://account:canary@container/a/b", "abs://***@container/a/b"),
            ("https://a.blob/c#canary", "https://a.blob/c"),
            ("memory:name", "memory:name"),
            ("/a?b", "/a?b"),
        ] {
            assert_eq!(shown(url), seen);
        }
    }

    proptest::proptest! {
        #[test]
        fn planted_secrets_are_never_repeated(text in "[a-z0-9:/?#@&=%._+ -]{0,24}") {
            for url in [
                format!("s3://key:C4NARY@{text}"),
                format!("abs://account:C4NARY@{text}"),
                format!("gs://key:C4NARY@{text}"),
                format!("s3://bucket/app?{text}=C4NARY"),
                format!("s3://bucket/app?secret-access-key=C4NARY&{text}"),
                format!("s3://bucket/app?{text}#C4NARY"),
            ] {
                let told = parse(&url).map_or_else(|error| format!("{error} {error:?}"), |_| shown(&url));
                proptest::prop_assert!(!told.contains("C4NARY"), "{url}: {told}");
            }
        }
    }

    #[test]
    fn memory_is_shared_by_its_name() {
        let (a, again, b) = (memory("url-a"), memory("url-a"), memory("url-b"));
        assert!(Arc::ptr_eq(&a, &again) && !Arc::ptr_eq(&a, &b));
        assert_eq!(parse("memory:x").unwrap(), Place::Memory("x".into()));
    }
}
