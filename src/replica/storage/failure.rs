//! What a request to the storage failed with: the place, what was tried, the reason, and the way out.

use std::error::Error as StdError;
use std::{fmt, io};

use super::bucket::Access;
use crate::error::Error;

/// A request failed. No credential is in its text or its source.
#[derive(Debug)]
pub struct StorageError {
    /// The replica, without the query of its URL.
    pub(super) url: String,
    /// What failed, to which object: `level 0 could not be listed`.
    pub(super) what: String,
    /// The reason and the way out.
    pub(super) reason: String,
    pub(super) kind: FailureKind,
    pub(super) source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// There is no such object.
    NotFound,
    /// The same request may succeed later: the storage is away, slow or overloaded.
    Transient,
    /// The user must change something: credentials, a URL, a folder's owner.
    Permanent,
}

impl StorageError {
    /// What can be done about it.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == FailureKind::NotFound
    }

    /// An error of a URL or of a setting.
    pub(super) fn invalid(url: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            what: "cannot be used".into(),
            reason: reason.into(),
            kind: FailureKind::Permanent,
            source: None,
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {}: {}: {}", self.url, self.what, self.reason)
    }
}

impl StdError for StorageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Error::Replica {
            what: format!("{}: {}", error.what, error.reason),
            url: error.url,
            retryable: error.kind == FailureKind::Transient,
            source: error.source,
        }
    }
}

/// The kind and the reason of an error of `object_store`.
pub(super) fn explain(error: &object_store::Error, access: Option<&Access>) -> (FailureKind, String) {
    let Some(access) = access else {
        return explain_local(error);
    };
    let (kind, reason) = explain_bucket(error, access);
    (kind, access.clean(&reason))
}

fn explain_local(error: &object_store::Error) -> (FailureKind, String) {
    use object_store::Error as Store;
    if let Some(error) = io_error(error) {
        return (kind_of_io(error), error.to_string());
    }
    match error {
        Store::NotFound { .. } => (FailureKind::NotFound, "there is no such object".into()),
        Store::Generic { source, .. } => (FailureKind::Transient, source.to_string()),
        other => (FailureKind::Permanent, other.to_string()),
    }
}

/// The answer of a server, or why there was none.
fn explain_bucket(error: &object_store::Error, access: &Access) -> (FailureKind, String) {
    use FailureKind::{NotFound, Permanent, Transient};
    let Access {
        target,
        credentials,
        region,
        ..
    } = access;
    let answer = Answer::of(error);
    let told = answer.told();
    let code = answer.code.as_str();
    if let Some(issuer) = issuer_of(error, access) {
        // It answered, or nothing did: that says nothing of the bucket.
        let told = match io_error(error) {
            Some(error) if answer.status.is_none() => error.to_string(),
            _ => told,
        };
        return match (answer.status, issuer) {
            (Some(408 | 410 | 429 | 500..), _) | (None, Issuer::Server) => (
                Transient,
                format!("the server that has the credentials fails ({told}): {credentials}"),
            ),
            // A machine without a role has no such address.
            _ => (Permanent, format!("there are no credentials ({told}): {credentials}")),
        };
    }
    // https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    let wrong_region = [
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    ];
    if (wrong_region.contains(&code) || answer.is_redirect) && !region.is_empty() {
        let reason = format!("{target} is in another region ({told}): {region}");
        return (Permanent, reason);
    }
    match (answer.status, code) {
        (_, "NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName") => (
            Permanent,
            format!("there is no {target} ({told}): create it, or correct the URL"),
        ),
        (_, "RequestTimeTooSkewed") => (
            Permanent,
            format!("the clock of this machine is wrong ({told}): set it, and keep it set by NTP"),
        ),
        (Some(404), _) if matches!(error, object_store::Error::NotFound { .. }) => {
            (NotFound, format!("there is no such object in {target}"))
        }
        // Of a list, which no object can be missing for.
        (Some(404), _) => (Permanent, no_storage(target, &told)),
        (Some(401 | 403), _) => {
            let advice = "they must be valid, and may list, read, write and delete objects below the prefix";
            (
                Permanent,
                format!("{target} denies access ({told}): {credentials}; {advice}"),
            )
        }
        (Some(409 | 429 | 500..), _) => (Transient, format!("{target} is overloaded or fails ({told})")),
        (Some(_), _) => (Permanent, format!("{target} refuses the request ({told})")),
        (None, _) => match io_error(error) {
            Some(error) => (Transient, format!("there is no connection to {target}: {error}")),
            None => match last_cause(error) {
                // A proxy may have answered, so it may be another one's answer the next time.
                cause if cause.ends_with("missing from response") => (Transient, no_storage(target, &cause)),
                cause => (Transient, format!("the request to {target} failed: {cause}")),
            },
        },
    }
}

/// What is said of a server that answers as no object storage does: the console of one, or the website of a company.
pub(super) fn no_storage(target: &str, told: &str) -> String {
    format!(
        "{target} is missing, or what answers there is no storage for objects ({told}): correct the URL, its parameter \
         `endpoint`, or the variable that names the endpoint"
    )
}

/// Whether a write failed because its place is missing, of which the server says no more.
pub(super) fn has_no_place(error: &object_store::Error) -> Option<String> {
    let answer = Answer::of(error);
    let is_missing = matches!(error, object_store::Error::NotFound { .. }) && answer.code.is_empty();
    is_missing.then(|| answer.told())
}

/// What a server answered.
struct Answer {
    status: Option<u16>,
    /// The code in the body: `NoSuchBucket`.
    code: String,
    message: String,
    is_redirect: bool,
    /// The whole error, where there was no answer.
    text: String,
}

impl Answer {
    /// `object_store` has its type for this to itself, so this reads its text.
    fn of(error: &object_store::Error) -> Self {
        let text = error.to_string();
        let field = |name: &str| {
            let after = text.split_once(&format!("<{name}>"))?.1;
            after
                .split_once(&format!("</{name}>"))
                .map(|(field, _)| field.trim().to_owned())
        };
        let status = text
            .split_once("status code: ")
            .and_then(|(_, rest)| rest.get(..3)?.parse().ok());
        Self {
            status,
            code: field("Code").unwrap_or_default(),
            message: field("Message").unwrap_or_default(),
            is_redirect: text.contains("redirect without LOCATION") || matches!(status, Some(301 | 307)),
            text,
        }
    }

    fn told(&self) -> String {
        match (self.status, self.code.as_str(), self.message.as_str()) {
            (None, "", _) if self.is_redirect => "it redirects".into(),
            (None, "", _) => self.text.clone(),
            (Some(status), "", _) => format!("status {status}"),
            (Some(status), code, "") => format!("status {status}, {code}"),
            (Some(status), code, message) => format!("status {status}, {code}: {}", message.trim_end_matches('.')),
            (None, code, message) => format!("{code}: {}", message.trim_end_matches('.')),
        }
    }
}

/// Whether a write with a condition met another one that is under way, and says nothing of the condition. Azure answers
/// with the same status where an object exists.
pub(super) fn is_conflict(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Generic { .. }
    ) && Answer::of(error).status == Some(409)
        && Answer::of(error).code != "BlobAlreadyExists"
}

/// What has the credentials.
enum Issuer {
    /// The machine or the container itself: a file, or an address that only those with a role have.
    Machine,
    /// A server, which may be away.
    Server,
}

/// Whose answer it is, if the request for credentials failed, which every request makes first.
///
/// The bucket's own answers have variants of their own, but for those to a list and for failures of the server. The rest is
/// told apart by the URL, in which the names of the bucket and of its objects must not count: they may have any words in
/// them.
fn issuer_of(error: &object_store::Error, access: &Access) -> Option<Issuer> {
    let object_store::Error::Generic { source, .. } = error else {
        return None;
    };
    let text = source.to_string();
    if text.contains("DeleteObjects") {
        return None;
    }
    // Of an identity that comes as a token, whose URL has that token in it.
    if text.starts_with("Error performing POST REDACTED") {
        return Some(Issuer::Server);
    }
    // What was requested, then the answer.
    let request = text.split_once(" - ").map_or(text.as_str(), |(request, _)| request);
    let Some(at) = request.find("://") else {
        let signs = ["credential", "token", "Token", "AssumeRole", "instance metadata"];
        return signs
            .iter()
            .any(|sign| request.contains(sign))
            .then_some(Issuer::Machine);
    };
    let url = &request[request[..at].rfind(' ').map_or(0, |space| space + 1)..];
    let url = url.split([' ', '?']).next().unwrap_or_default();
    let (host, path) = url
        .split_once("://")
        .map_or((url, ""), |(_, rest)| rest.split_once('/').unwrap_or((rest, "")));
    let begins_with_one = |text: &str, beginnings: &[&str]| beginnings.iter().any(|known| text.starts_with(known));
    let machines = ["169.254.", "[fd00:ec2:", "metadata.google.internal"];
    let paths = [
        "latest/api/token",
        "latest/meta-data/iam/",
        "computeMetadata/v1/",
        "metadata/identity/oauth2/token",
    ];
    if begins_with_one(host, &machines) || begins_with_one(path, &paths) {
        return Some(Issuer::Machine);
    }
    if access.issuers.iter().any(|issuer| url.starts_with(issuer.as_str())) {
        return Some(Issuer::Server);
    }
    let servers = [
        "accounts.google.com",
        "oauth2.googleapis.com",
        "iamcredentials.googleapis.com",
        "sts.googleapis.com",
        "login.microsoftonline.com",
    ];
    // `sts` may be the name of a bucket, too.
    let is_sts = host.starts_with("sts.") && host.contains(".amazonaws.com") && !host.contains(".s3");
    (begins_with_one(host, &servers) || is_sts).then_some(Issuer::Server)
}

/// The text of the error at the bottom of it.
fn last_cause(error: &object_store::Error) -> String {
    let mut last: &dyn StdError = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// The error of the operating system at the bottom of it.
fn io_error(error: &object_store::Error) -> Option<&io::Error> {
    let mut found = None;
    let mut cause = error.source();
    while let Some(error) = cause {
        found = error.downcast_ref().or(found);
        cause = error.source();
    }
    found
}

fn kind_of_io(error: &io::Error) -> FailureKind {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        PermissionDenied | ReadOnlyFilesystem | NotADirectory | Unsupported => FailureKind::Permanent,
        _ => FailureKind::Transient,
    }
}

#[cfg(all(test, any(feature = "s3", feature = "gcs", feature = "azure")))]
mod tests {
    use super::*;

    #[test]
    fn issuers_of_credentials_are_told_from_buckets() {
        let is_server = |text: &str| {
            let error = object_store::Error::Generic {
                store: "S3",
                source: text.into(),
            };
            issuer_of(&error, &Access::default()).map(|issuer| matches!(issuer, Issuer::Server))
        };
        for (request, found) in [
            ("PUT http://169.254.169.254/latest/api/token", Some(false)),
            ("GET http://metadata.google.internal/computeMetadata/v1/x", Some(false)),
            ("POST REDACTED", Some(true)),
            ("POST https://sts.eu-west-1.amazonaws.com/", Some(true)),
            ("POST https://accounts.google.com/o/oauth2/token", Some(true)),
            ("POST https://login.microsoftonline.com/t/oauth2/v2.0/token", Some(true)),
            ("GET https://sts.s3.eu-west-1.amazonaws.com/app/0001.ltx", None),
            ("GET http://127.0.0.1:9000/metadata/identity/ltx/0/1.ltx", None),
            ("GET http://127.0.0.1:9000/credential/token", None),
        ] {
            let text = format!("Error performing {request} in 1s, after 0 retries - the answer");
            assert_eq!(is_server(&text), found, "{request}");
        }
    }
}
