//! Buckets: the clients of `object_store` for S3, Google Cloud Storage and Azure, with the parameters of Litestream's
//! URLs and the credentials of the environment.
//!
//! A bucket has two clients, S3 one more ([`Parts`]). One repeats a request that failed; the others, for writes with a
//! condition, never do: a repeated Create whose first answer was lost finds its own object, and would be told that it
//! exists.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::multipart::MultipartStore;

use super::failure::StorageError;
use super::url::{BucketUrl, Service};

/// What a client is made of, beside its URL.
#[derive(Clone)]
pub struct Environment {
    /// The variables of the process, by name.
    pub variables: Vec<(String, String)>,
    /// How long a request may go without an answer, and each piece of a body.
    pub patience: Duration,
}

impl Environment {
    pub(super) const PATIENCE: Duration = Duration::from_secs(30);

    /// The environment of this process.
    pub fn of_process() -> Self {
        let variables = env::vars_os();
        let variables =
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self {
            variables: variables.collect(),
            patience: Self::PATIENCE,
        }
    }

    /// A variable that is set, and not empty.
    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self
            .variables
            .iter()
            .filter(|(known, value)| known == name && !value.is_empty());
        found.next().map(|(_, value)| value.as_str())
    }

    fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// The servers that issue credentials. One server may be that and the storage, as in tests.
    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    fn issuers(&self, endpoint: Option<&str>) -> Vec<String> {
        let named = ISSUERS.iter().filter_map(|name| self.get(name));
        let alone = named.filter(|issuer| !endpoint.is_some_and(|endpoint| endpoint.starts_with(issuer)));
        alone.map(str::to_owned).collect()
    }
}

/// A bucket that requests can be sent to.
pub(super) struct Bucket {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The client for writes with a condition.
    pub(super) conditional: Arc<dyn ObjectStore>,
    pub(super) parts: Option<Parts>,
    pub(super) access: Access,
}

/// Clients for uploads in parts that never overwrite. S3 takes the condition with the request that makes an object of
/// the parts. `object_store` sends none there but for its own copies, which end at 5 GiB: so a client of its own, whose
/// requests all have the condition, sends that one request.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) store: Arc<dyn MultipartStore>,
    pub(super) ending: Arc<dyn MultipartStore>,
}

/// What an error of a bucket is explained with. It is never printed as a whole.
#[derive(Clone, Default)]
pub(super) struct Access {
    /// The bucket, and where it is: `bucket app at https://s3.eu-west-1.amazonaws.com`.
    pub(super) target: String,
    /// Where the credentials come from.
    pub(super) credentials: String,
    /// How to set the region, and what it is now.
    pub(super) region: String,
    /// What no text may contain.
    pub(super) secrets: Vec<String>,
    /// The URLs of servers that issue credentials, as the environment names them.
    pub(super) issuers: Vec<String>,
}

/// The variables that name such a server.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
const ISSUERS: &[&str] = &[
    "AWS_METADATA_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ENDPOINT_URL_STS",
    "AZURE_MSI_ENDPOINT",
    "AZURE_AUTHORITY_HOST",
];

pub(super) fn connect(url: &BucketUrl, environment: &Environment) -> Result<Bucket, StorageError> {
    match url.service {
        #[cfg(feature = "s3")]
        Service::S3 => s3::connect(url, environment),
        #[cfg(feature = "gcs")]
        Service::Gcs => gcs::connect(url, environment),
        #[cfg(feature = "azure")]
        Service::Azure => azure::connect(url, environment),
        #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
        missing => {
            let feature = missing.feature();
            Err(url.refuse(format!(
                "larder was built without its feature `{feature}`: add it in Cargo.toml, or install the command with \
                 `--features {feature}`"
            )))
        }
    }
}

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod client {
    use object_store::{BackoffConfig, ClientOptions, RetryConfig};

    use super::{Access, Arc, Bucket, BucketUrl, Duration, StorageError};

    /// The time to connect. The time of a request is limited by `Storage`, which knows its size.
    const CONNECT: Duration = Duration::from_secs(10);

    pub(super) fn options(endpoint: Option<&str>, skip_verify: bool) -> ClientOptions {
        ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT)
            .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
            .with_allow_invalid_certificates(skip_verify)
    }

    pub(super) fn retries(max_retries: usize) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries,
            retry_timeout: Duration::from_secs(15),
        }
    }

    /// Makes both clients of a bucket.
    pub(super) fn both<S: object_store::ObjectStore>(
        url: &BucketUrl,
        access: Access,
        build: impl Fn(RetryConfig, ClientOptions) -> object_store::Result<S>,
    ) -> Result<Bucket, StorageError> {
        let options = options(url.parameter("endpoint"), url.flag("skip-verify")?.unwrap_or(false));
        let client = |max_retries| {
            let made = build(retries(max_retries), options.clone());
            made.map(Arc::new)
                .map_err(|error| url.refuse(access.clean(&error.to_string())))
        };
        Ok(Bucket {
            store: client(3)?,
            conditional: client(0)?,
            parts: None,
            access,
        })
    }
}

#[cfg(feature = "s3")]
mod s3 {
    use std::fs;

    use std::sync::Arc;

    use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
    use object_store::{Certificate, HeaderMap, HeaderValue};

    use super::{Access, Bucket, BucketUrl, Environment, Parts, StorageError, client};

    /// Variables of roles: of a container, of a web identity, of the machine.
    const ROLES: &[&str] = &[
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_ENDPOINT_URL_STS",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_METADATA_ENDPOINT",
        "AWS_IMDSV1_FALLBACK",
        "AWS_REQUEST_PAYER",
    ];

    /// The pairs of variables with credentials, the first that is set counts.
    const PAIRS: [(&str, &str); 2] = [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("LITESTREAM_ACCESS_KEY_ID", "LITESTREAM_SECRET_ACCESS_KEY"),
    ];

    pub(super) fn connect(url: &BucketUrl, environment: &Environment) -> Result<Bucket, StorageError> {
        let host = Host::of(&url.host);
        let bucket = host.bucket;
        let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "LITESTREAM_S3_ENDPOINT"];
        let endpoint = url.parameter("endpoint").or(host.endpoint.as_deref());
        let endpoint = endpoint.or_else(|| environment.first(&variables));
        let endpoint = endpoint.map(with_scheme);
        let region = url
            .parameter("region")
            .or(host.region)
            .or_else(|| environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]))
            .unwrap_or("us-east-1");
        // A name with dots does not fit the certificate of `*.s3.amazonaws.com`.
        let is_path_style = url
            .flag("force-path-style")?
            .unwrap_or(endpoint.is_some() || bucket.contains('.'));
        let skip_verify = url.flag("skip-verify")?.unwrap_or(false);
        let mut options = client::options(endpoint.as_deref(), skip_verify);
        if let Some(path) = environment.get("AWS_CA_BUNDLE") {
            for certificate in certificates(path).map_err(|error| url.refuse(error))? {
                options = options.with_root_certificate(certificate);
            }
        }

        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(!is_path_style)
            .with_unsigned_payload(!url.flag("sign-payload")?.unwrap_or(true))
            .with_conditional_put(S3ConditionalPut::ETagMatch);
        if let Some(key) = url.parameter("sse-kms-key-id") {
            builder = builder.with_sse_kms_encryption(key);
        }
        for name in ROLES {
            if let (Some(value), Ok(key)) = (environment.get(name), name.to_ascii_lowercase().parse()) {
                builder = builder.with_config(key, value);
            }
        }
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(if is_path_style {
                endpoint.clone()
            } else {
                hosting(endpoint, bucket)
            });
        }
        let mut access = Access {
            target: match &endpoint {
                Some(endpoint) => format!("bucket {bucket} at {endpoint}"),
                None => format!("bucket {bucket} in {region}"),
            },
            region: format!("it is {region}; set the parameter `region` of the URL, or AWS_REGION"),
            issuers: environment.issuers(endpoint.as_deref()),
            ..Access::default()
        };
        let builder = with_credentials(builder, url, environment, &mut access)?;
        let build = |max_retries, options| {
            let builder = builder.clone().with_retry(client::retries(max_retries));
            let made = builder.with_client_options(options).build();
            made.map(Arc::new).map_err(|error| url.refuse(error.to_string()))
        };
        let store = build(3, options.clone())?;
        let is_new = HeaderMap::from_iter([(
            "if-none-match".parse().expect("a header"),
            HeaderValue::from_static("*"),
        )]);
        Ok(Bucket {
            conditional: build(0, options.clone())?,
            parts: Some(Parts {
                store: Arc::clone(&store) as _,
                ending: build(0, options.with_default_headers(is_new))?,
            }),
            store,
            access,
        })
    }

    fn with_credentials(
        mut builder: AmazonS3Builder,
        url: &BucketUrl,
        environment: &Environment,
        access: &mut Access,
    ) -> Result<AmazonS3Builder, StorageError> {
        for (id_name, secret_name) in PAIRS {
            let (id, secret) = match (environment.get(id_name), environment.get(secret_name)) {
                (None, None) => continue,
                (Some(id), Some(secret)) => (id, secret),
                (Some(_), None) => return Err(url.refuse(format!("{id_name} is set, and {secret_name} is not"))),
                (None, Some(_)) => return Err(url.refuse(format!("{secret_name} is set, and {id_name} is not"))),
            };
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            access.secrets = vec![id.to_owned(), secret.to_owned()];
            if let Some(token) = environment
                .get("AWS_SESSION_TOKEN")
                .filter(|_| id_name.starts_with("AWS"))
            {
                builder = builder.with_token(token);
                access.secrets.push(token.to_owned());
            }
            access.credentials = format!("the credentials are those of {id_name} and {secret_name}");
            return Ok(builder);
        }
        access.credentials =
            "neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set, nor LITESTREAM_ACCESS_KEY_ID \
                              and LITESTREAM_SECRET_ACCESS_KEY, so the credentials are those of the machine's role"
                .to_owned();
        Ok(builder)
    }

    /// The certificates of a file, beside those of the system.
    fn certificates(path: &str) -> Result<Vec<Certificate>, String> {
        let pem = fs::read(path).map_err(|error| format!("AWS_CA_BUNDLE names {path}: {error}"))?;
        Certificate::from_pem_bundle(&pem).map_err(|error| format!("AWS_CA_BUNDLE names {path}: {error}"))
    }

    /// The host of a URL: the name of a bucket, or an address that a provider gives it. They are those that Litestream
    /// knows.
    #[derive(Debug, PartialEq)]
    struct Host<'a> {
        bucket: &'a str,
        region: Option<&'a str>,
        endpoint: Option<String>,
    }

    impl<'a> Host<'a> {
        fn of(host: &'a str) -> Self {
            Self::of_provider(host).unwrap_or(Self {
                bucket: host,
                region: None,
                endpoint: None,
            })
        }

        fn of_provider(host: &'a str) -> Option<Self> {
            if let Some((name, port)) = host.split_once(':') {
                return Some(Self {
                    bucket: name.strip_suffix(".localhost")?,
                    region: None,
                    endpoint: Some(format!("http://localhost:{port}")),
                });
            }
            if let Some(name) = host.strip_suffix(".amazonaws.com") {
                let (bucket, region) = match name.strip_suffix(".s3") {
                    Some(bucket) => (bucket, None),
                    None => name
                        .rsplit_once(".s3.")
                        .map(|(bucket, region)| (bucket, Some(region)))?,
                };
                return Some(Self {
                    bucket,
                    region,
                    endpoint: None,
                });
            }
            if let Some(bucket) = host.strip_suffix(".s3.filebase.com") {
                return Some(Self {
                    bucket,
                    region: None,
                    endpoint: Some("https://s3.filebase.com".into()),
                });
            }
            let providers = [
                (".s3", ".backblazeb2.com"),
                (".s3", ".scw.cloud"),
                ("", ".digitaloceanspaces.com"),
            ];
            providers.iter().find_map(|(before, after)| {
                let (name, region) = host.strip_suffix(after)?.rsplit_once('.')?;
                let bucket = name.strip_suffix(before)?;
                let server = &host[bucket.len() + 1..];
                Some(Self {
                    bucket,
                    region: Some(region),
                    endpoint: Some(format!("https://{server}")),
                })
            })
        }
    }

    /// An endpoint may come without a scheme. On this machine and in private networks it is `http`, as in Litestream.
    fn with_scheme(endpoint: &str) -> String {
        if endpoint.starts_with("http://") || endpoint.starts_with("https://") {
            return endpoint.trim_end_matches('/').to_owned();
        }
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        let is_172 = || {
            let second = host
                .strip_prefix("172.")
                .and_then(|rest| rest.split('.').next()?.parse().ok());
            second.is_some_and(|second: u8| (16..32).contains(&second))
        };
        let is_local = ["localhost", "127.0.0.1"].contains(&host)
            || ["192.168.", "10."].iter().any(|net| host.starts_with(net))
            || [".local", ".localhost"].iter().any(|end| host.ends_with(end))
            || is_172();
        let scheme = if is_local { "http" } else { "https" };
        format!("{scheme}://{}", endpoint.trim_end_matches('/'))
    }

    /// `https://host` becomes `https://bucket.host`.
    fn hosting(endpoint: &str, bucket: &str) -> String {
        match endpoint.split_once("://") {
            Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
            None => endpoint.to_owned(),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn providers_hosts_are_taken_apart() {
            for (host, bucket, region, endpoint) in [
                ("app", "app", None, None),
                ("data.example.com", "data.example.com", None, None),
                ("app.localhost:9000", "app", None, Some("http://localhost:9000")),
                ("app.localhost", "app.localhost", None, None),
                ("app.s3.amazonaws.com", "app", None, None),
                ("a.b.s3.eu-west-1.amazonaws.com", "a.b", Some("eu-west-1"), None),
                ("app.s3.filebase.com", "app", None, Some("https://s3.filebase.com")),
                (
                    "a.b.s3.us-west-000.backblazeb2.com",
                    "a.b",
                    Some("us-west-000"),
                    Some("https://s3.us-west-000.backblazeb2.com"),
                ),
                (
                    "app.s3.fr-par.scw.cloud",
                    "app",
                    Some("fr-par"),
                    Some("https://s3.fr-par.scw.cloud"),
                ),
                (
                    "app.nyc3.digitaloceanspaces.com",
                    "app",
                    Some("nyc3"),
                    Some("https://nyc3.digitaloceanspaces.com"),
                ),
                // Without a bucket it is no address of one.
                ("nyc3.digitaloceanspaces.com", "nyc3.digitaloceanspaces.com", None, None),
            ] {
                let found = Host::of(host);
                assert_eq!((found.bucket, found.region), (bucket, region), "{host}");
                assert_eq!(found.endpoint.as_deref(), endpoint, "{host}");
            }
        }

        #[test]
        fn endpoints_get_litestreams_scheme() {
            for (endpoint, url) in [
                ("https://r2.example/", "https://r2.example"),
                ("fly.storage.tigris.dev", "https://fly.storage.tigris.dev"),
                ("localhost:9000", "http://localhost:9000"),
                ("127.0.0.1:9000", "http://127.0.0.1:9000"),
                ("172.20.0.3:9000", "http://172.20.0.3:9000"),
                ("172.200.0.3:9000", "https://172.200.0.3:9000"),
                ("minio.local", "http://minio.local"),
            ] {
                assert_eq!(with_scheme(endpoint), url);
            }
            assert_eq!(hosting("https://r2.example", "app"), "https://app.r2.example");
        }
    }
}

#[cfg(feature = "gcs")]
mod gcs {
    use object_store::gcp::GoogleCloudStorageBuilder;

    use super::{Access, Bucket, BucketUrl, Environment, StorageError, client};

    const VARIABLES: &[&str] = &[
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ];

    pub(super) fn connect(url: &BucketUrl, environment: &Environment) -> Result<Bucket, StorageError> {
        let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(&url.host);
        let mut access = Access {
            target: format!("bucket {}", url.host),
            credentials: "no variable names credentials, so they are gcloud's own or those of the machine's role"
                .into(),
            issuers: environment.issuers(url.parameter("endpoint")),
            ..Access::default()
        };
        for name in VARIABLES {
            if let (Some(value), Ok(key)) = (environment.get(name), name.to_ascii_lowercase().parse()) {
                builder = builder.with_config(key, value);
                access.credentials = format!("the credentials are those of {name}");
                access.secrets.push(value.to_owned());
            }
        }
        if let Some(endpoint) = url.parameter("endpoint") {
            access.target = format!("{} at {endpoint}", access.target);
            builder = builder.with_base_url(endpoint);
        }
        if url.flag("skip-signature")?.unwrap_or(false) {
            builder = builder.with_skip_signature(true);
        }
        client::both(url, access, |retry, options| {
            builder.clone().with_retry(retry).with_client_options(options).build()
        })
    }
}

#[cfg(feature = "azure")]
mod azure {
    use object_store::azure::MicrosoftAzureBuilder;

    use super::{Access, Bucket, BucketUrl, Environment, StorageError, client};

    /// The variables with credentials, Litestream's last, and the keys of `object_store`.
    const SECRETS: [(&str, &str); 6] = [
        ("AZURE_STORAGE_SAS_TOKEN", "azure_storage_sas_token"),
        ("AZURE_STORAGE_SAS_KEY", "azure_storage_sas_key"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "azure_storage_account_key"),
        ("AZURE_STORAGE_ACCESS_KEY", "azure_storage_access_key"),
        ("LITESTREAM_AZURE_SAS_TOKEN", "azure_storage_sas_token"),
        ("LITESTREAM_AZURE_ACCOUNT_KEY", "azure_storage_account_key"),
    ];

    /// Variables of a service principal and of identities.
    const IDENTITIES: &[(&str, &str)] = &[
        ("AZURE_STORAGE_CLIENT_ID", "azure_storage_client_id"),
        ("AZURE_CLIENT_ID", "azure_client_id"),
        ("AZURE_STORAGE_CLIENT_SECRET", "azure_storage_client_secret"),
        ("AZURE_CLIENT_SECRET", "azure_client_secret"),
        ("AZURE_STORAGE_TENANT_ID", "azure_storage_tenant_id"),
        ("AZURE_TENANT_ID", "azure_tenant_id"),
        ("AZURE_FEDERATED_TOKEN_FILE", "azure_federated_token_file"),
        ("AZURE_AUTHORITY_HOST", "azure_authority_host"),
        ("AZURE_MSI_ENDPOINT", "azure_msi_endpoint"),
    ];

    pub(super) fn connect(url: &BucketUrl, environment: &Environment) -> Result<Bucket, StorageError> {
        let names = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"];
        let Some(account) = url.user.as_deref().or_else(|| environment.first(&names)) else {
            return Err(
                url.refuse("it names no account: abs://ACCOUNT@CONTAINER/PREFIX, or AZURE_STORAGE_ACCOUNT_NAME")
            );
        };
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(account)
            .with_container_name(&url.host);
        let mut access = Access {
            target: format!("container {} of account {account}", url.host),
            credentials: "neither a key nor a SAS token is set (AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, \
                          LITESTREAM_AZURE_ACCOUNT_KEY, LITESTREAM_AZURE_SAS_TOKEN), so the credentials are those of \
                          AZURE_CLIENT_ID or of the machine's identity"
                .into(),
            issuers: environment.issuers(url.parameter("endpoint")),
            ..Access::default()
        };
        let mut secrets = SECRETS.iter();
        if let Some((name, key, value)) = secrets.find_map(|(name, key)| Some((name, key, environment.get(name)?))) {
            builder = builder.with_config(key.parse().expect("a key of object_store"), value);
            access.credentials = format!("the credentials are those of {name}");
            // Each value of a SAS token stands in the URL of each request.
            let parts = value
                .split(['&', '?'])
                .filter_map(|part| part.split_once('='))
                .map(|(_, secret)| secret);
            access.secrets = parts.filter(|secret| secret.len() > 16).map(str::to_owned).collect();
            access.secrets.push(value.to_owned());
        } else {
            for (name, key) in IDENTITIES {
                if let (Some(value), Ok(key)) = (environment.get(name), key.parse()) {
                    builder = builder.with_config(key, value);
                    access
                        .secrets
                        .extend(name.ends_with("SECRET").then(|| value.to_owned()));
                }
            }
        }
        if let Some(endpoint) = url.parameter("endpoint") {
            access.target = format!("{} at {endpoint}", access.target);
            builder = builder.with_endpoint(endpoint.to_owned());
        }
        client::both(url, access, |retry, options| {
            builder.clone().with_retry(retry).with_client_options(options).build()
        })
    }
}

impl Access {
    /// A text without secrets: neither those that are known, nor the query of a URL.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("://") {
            let end = rest[at..]
                .find([' ', '"', '<', '>', '\n'])
                .map_or(rest.len(), |length| at + length);
            let query = rest[at..end].find('?').map_or(end, |length| at + length);
            clean.push_str(&rest[..query]);
            rest = &rest[end..];
        }
        clean.push_str(rest);
        let secrets = self.secrets.iter().filter(|secret| !secret.is_empty());
        secrets.fold(clean, |text, secret| text.replace(secret.as_str(), "***"))
    }
}
