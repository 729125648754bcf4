//! [`Server`]: where a PostgreSQL server is, as libpq takes it: a URL or `key=value` pairs, what is missing from the
//! environment (`PGHOST`, `PGPASSWORD` and the like) and the password from `~/.pgpass`.
//!
//! A password is in the configuration of the driver alone. `Debug`, `Display` and every error show the server, its
//! database and the user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fmt, io, thread};

use postgres::config::{Host, SslMode};
use postgres::{CancelToken, Client, Config, NoTls};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Outcome, Result};

/// How long one address is tried, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Folders in which servers make their sockets.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// A server, its database and the user.
#[derive(Clone)]
pub(crate) struct Server {
    config: Config,
    tls: Tls,
}

/// `sslmode` as libpq means it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Debug)]
struct Tls {
    mode: Mode,
    root: Option<PathBuf>,
}

impl Server {
    /// Parses a URL or `key=value` pairs. What is missing comes from the environment.
    ///
    /// # Errors
    ///
    /// [`Error::Options`], without the text itself, which may have a password.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::parse_in(text, &|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn parse_in(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let mut own = Own::default();
        let rest = own
            .take(text)
            .ok_or_else(|| invalid("a quote or a backslash is not ended"))?;
        let parsed = Config::from_str(&rest);
        let mut config = parsed.map_err(|error| match describe(&error) {
            // The name may be the rest of a password with blanks.
            known if known.contains("unknown option") => {
                invalid("an option is not known; a value with blanks needs single quotes")
            }
            known => invalid(&known),
        })?;
        let mode = own.mode.or_else(|| environment("PGSSLMODE"));
        let mode = Mode::parse(mode.as_deref().unwrap_or("prefer"))?;
        let root = own.root.or_else(|| environment("PGSSLROOTCERT")).map(PathBuf::from);
        complete(&mut config, environment)?;
        config.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        });
        if config.get_password().is_none() {
            let password = environment("PGPASSWORD").or_else(|| {
                let default = || Some(PathBuf::from(environment("HOME")?).join(".pgpass"));
                let file = own.passfile.or_else(|| environment("PGPASSFILE")).map(PathBuf::from);
                password_of(&file.or_else(default)?, &config)
            });
            if let Some(password) = password {
                config.password(password);
            }
        }
        Ok(Self {
            config,
            tls: Tls { mode, root },
        })
    }

    /// Connects. The name of the application at the server is `larder`, unless it was given one.
    ///
    /// # Errors
    ///
    /// [`Error::Postgres`].
    pub(crate) fn connect(&self) -> Result<Client> {
        let connected = match self.tls.mode {
            Mode::Disable => self.config.connect(NoTls),
            _ => self.config.connect(MakeRustlsConnect::new(
                self.tls.config().map_err(|what| self.failed(&what))?,
            )),
        };
        connected.map_err(|error| self.error("the connection failed", error, Outcome::NotStarted))
    }

    /// Asks the server to end the statement that runs on a connection. A failure is ignored: the statement ends by itself
    /// then.
    pub(crate) fn cancel(&self, token: &CancelToken) {
        let _ = match self.tls.mode {
            Mode::Disable => token.cancel_query(NoTls),
            _ => match self.tls.config() {
                Ok(config) => token.cancel_query(MakeRustlsConnect::new(config)),
                Err(_) => return,
            },
        };
    }

    /// An error of the driver or the server, during `what`.
    pub(crate) fn error(&self, what: &str, source: postgres::Error, outcome: Outcome) -> Error {
        Error::Postgres {
            what: format!("{what}: {}", describe(&source)),
            server: self.to_string(),
            outcome,
            retryable: outcome != Outcome::Unknown && is_transient(&source),
            source: Some(Box::new(source)),
        }
    }

    /// An error while rows are read or written, during `what`: of the driver, or of the form of the rows.
    pub(crate) fn broken(&self, what: &str, error: io::Error) -> Error {
        match error.downcast::<postgres::Error>() {
            Ok(error) => self.error(what, error, Outcome::RolledBack),
            Err(error) => self.failed(&format!("{what}: {error}")),
        }
    }

    /// An error that larder found.
    pub(crate) fn failed(&self, what: &str) -> Error {
        Error::Postgres {
            what: what.to_owned(),
            server: self.to_string(),
            outcome: Outcome::RolledBack,
            retryable: false,
            source: None,
        }
    }
}

/// Runs work of the driver on a thread of its own: the driver blocks on a runtime, which a thread of another runtime would
/// refuse. `what` and the path are for the error if there is no thread.
pub(crate) fn on_a_thread<T: Send>(
    name: &str,
    path: &Path,
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let started = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
        let thread = started.map_err(|error| Error::no_thread(path, what, error))?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.config.get_user().unwrap_or_default())?;
        match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => f.write_str(name)?,
            Some(Host::Unix(folder)) => write!(f, "[{}]", folder.display())?,
            None => f.write_str("localhost")?,
        }
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        write!(f, ":{port}/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self}, {:?})", self.tls.mode)
    }
}

/// The message of the server, or that of the driver with its cause.
pub(crate) fn describe(error: &postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        let detail = error.detail().map_or(String::new(), |detail| format!(" ({detail})"));
        return format!("{}{detail} [{}]", error.message(), error.code().code());
    }
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    format!(
        "{error}{}",
        if cause.len() > 2 && error.to_string().ends_with(&cause[2..]) {
            ""
        } else {
            &cause
        }
    )
}

fn is_transient(error: &postgres::Error) -> bool {
    if let Some(code) = error.code() {
        // Class 08: connection exceptions; 57P0x: the server stops or starts; 53300: too many connections.
        let code = code.code();
        return code.starts_with("08") || code.starts_with("57P0") || code == "53300";
    }
    // A certificate that is not trusted is InvalidData. What lacks TLS or a password is no error of the system.
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    error.is_closed() || cause.is_some_and(|cause| cause.kind() != io::ErrorKind::InvalidData)
}

fn invalid(problem: &str) -> Error {
    Error::Options {
        option: "url",
        problem: format!(
            "{problem}: give a URL (postgres://user@host:5432/database) or pairs (host=.. dbname=.. user=..), and the \
             password by PGPASSWORD or ~/.pgpass"
        ),
    }
}

/// What the driver does not know, or knows in part.
#[derive(Default)]
struct Own {
    mode: Option<String>,
    root: Option<String>,
    passfile: Option<String>,
}

impl Own {
    /// Takes its own parameters out of the text. `None` if that cannot be read.
    fn take(&mut self, text: &str) -> Option<String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // As the driver: a `?` before the first `@` is one of the password.
            let host = text.find('@').unwrap_or(0);
            let Some(mark) = text[host..].find('?') else {
                return Some(text.to_owned());
            };
            let (before, query) = (&text[..host + mark], &text[host + mark + 1..]);
            let is_left = |pair: &&str| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                !self.is_own(name, || percent_decoded(value))
            };
            let left: Vec<&str> = query.split('&').filter(is_left).collect();
            let mark = if left.is_empty() { "" } else { "?" };
            return Some(format!("{before}{mark}{}", left.join("&")));
        }
        let mut left = String::new();
        for (name, value) in pairs(text)? {
            if !self.is_own(&name, || value.clone()) {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                left.push_str(&format!("{name}='{value}' "));
            }
        }
        Some(left)
    }

    fn is_own(&mut self, name: &str, value: impl FnOnce() -> String) -> bool {
        let place = match name {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.root,
            "passfile" => &mut self.passfile,
            _ => return false,
        };
        *place = Some(value());
        true
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The pairs of `key=value` text: values in single quotes may have spaces, a backslash takes the next character.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Some(found);
        }
        let mut name = String::new();
        loop {
            match rest.next()? {
                '=' => break,
                c => name.push(c),
            }
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                Some('\\') => value.push(rest.next()?),
                Some('\'') if quoted => break,
                Some(c) if quoted || !c.is_whitespace() => value.push(c),
                None if quoted => return None,
                _ => break,
            }
        }
        found.push((name.trim().to_owned(), value));
    }
}

/// Fills what is missing from the environment.
fn complete(config: &mut Config, environment: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let socket = |folder: &&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
        let local = || {
            SOCKET_FOLDERS
                .iter()
                .find(|folder| socket(folder))
                .map(ToString::to_string)
        };
        config.host(environment("PGHOST").or_else(local).as_deref().unwrap_or("localhost"));
    }
    if config.get_ports().is_empty()
        && let Some(port) = environment("PGPORT")
    {
        config.port(port.parse().map_err(|_| invalid("PGPORT is no number of a port"))?);
    }
    if config.get_user().is_none()
        && let Some(user) = environment("PGUSER").or_else(|| environment("USER"))
    {
        config.user(&user);
    }
    if config.get_dbname().is_none()
        && let Some(name) = environment("PGDATABASE").or_else(|| config.get_user().map(str::to_owned))
    {
        config.dbname(&name);
    }
    if config.get_application_name().is_none() {
        config.application_name(environment("PGAPPNAME").as_deref().unwrap_or("larder"));
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    Ok(())
}

/// The password of the first line of a `.pgpass` that fits. As libpq, it ignores a file that others may read.
fn password_of(file: &Path, config: &Config) -> Option<String> {
    let metadata = fs::metadata(file).ok()?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return None;
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(folder)) if SOCKET_FOLDERS.iter().any(|known| Path::new(known) == folder) => "localhost".into(),
        Some(Host::Unix(folder)) => folder.to_string_lossy().into_owned(),
        None => "localhost".into(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    let wanted = [
        host.as_str(),
        &port,
        config.get_dbname().unwrap_or_default(),
        config.get_user().unwrap_or_default(),
    ];
    let text = fs::read_to_string(file).ok()?;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, fields) = fields.split_last()?;
        let fits = fields.len() == 4
            && fields
                .iter()
                .zip(wanted)
                .all(|(field, wanted)| field == "*" || field == wanted);
        fits.then(|| password.clone())
    })
}

/// The five fields of a line, which colons part. A backslash takes the next character.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            ':' => fields.push(std::mem::take(&mut field)),
            '\\' => field.extend(rest.next()),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

impl Mode {
    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "disable" => Mode::Disable,
            "allow" | "prefer" => Mode::Prefer,
            "require" => Mode::Require,
            "verify-ca" => Mode::VerifyCa,
            "verify-full" => Mode::VerifyFull,
            _ => {
                return Err(invalid(
                    "sslmode is none of disable, allow, prefer, require, verify-ca and verify-full",
                ));
            }
        })
    }
}

impl Tls {
    /// As libpq, `require` verifies the certificate if a root certificate is given, and only encrypts otherwise.
    fn config(&self) -> std::result::Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let verifies = match self.mode {
            Mode::VerifyFull | Mode::VerifyCa => true,
            Mode::Require => self.root.is_some(),
            Mode::Disable | Mode::Prefer => false,
        };
        let verifier = Verifier {
            inner: verifies.then(|| self.verifier(&provider)).transpose()?,
            has_any_name: self.mode != Mode::VerifyFull,
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        Ok(builder.with_no_client_auth())
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> std::result::Result<Arc<WebPkiServerVerifier>, String> {
        let mut roots = RootCertStore::empty();
        match &self.root {
            Some(path) if path != Path::new("system") => {
                let unreadable = |error| format!("sslrootcert {}: {error}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))? {
                    let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
                    roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
                }
            }
            _ => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        built.map_err(|error| format!("the root certificates cannot be used: {error}; name a file by sslrootcert"))
    }
}

/// Verifies as much of the server's certificate as `sslmode` asks for. Signatures of the handshake are always verified.
#[derive(Debug)]
struct Verifier {
    /// `None` accepts any certificate.
    inner: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the certificate may be of another server.
    has_any_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.has_any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, environment: &[(&str, &str)]) -> Result<Server> {
        Server::parse_in(text, &|name| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn password_is_shown_nowhere() {
        for text in [
            "postgres://ada:secret@db.example:6432/app?sslmode=verify-full",
            "host=db.example port=6432 user=ada password='secret' dbname=app sslmode=verify-full",
        ] {
            let server = parsed(text, &[]).unwrap();
            assert_eq!(server.to_string(), "postgres://ada@db.example:6432/app");
            let shown = format!("{server:?} {:?} {:?}", server.config, server.failed("it failed"));
            assert!(!shown.contains("secret"), "{shown}");
            assert_eq!(server.config.get_password(), Some(&b"secret"[..]));
            assert_eq!(server.tls.mode, Mode::VerifyFull);
        }
        for wrong in [
            "postgres://ada:secret@db/app?sslmode=no",
            "password='secret",
            "postgres://ada:secret@db:x/app",
            "password=correct secret=staple",
            "password=correct secret battery=staple",
        ] {
            let error = format!("{0} {0:?}", parsed(wrong, &[]).unwrap_err());
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn mode_is_found_behind_a_password_with_a_question_mark() {
        let server = parsed("postgres://ada:pa?ss@db/app?sslmode=require", &[]).unwrap();
        assert_eq!(server.tls.mode, Mode::Require);
        assert_eq!(server.config.get_password(), Some(&b"pa?ss"[..]));
        assert_eq!(server.to_string(), "postgres://ada@db:5432/app");
    }

    #[test]
    fn environment_fills_what_is_missing() {
        let environment = [
            ("PGHOST", "/run/pg"),
            ("PGPORT", "6000"),
            ("PGUSER", "ada"),
            ("PGPASSWORD", "it's"),
        ];
        let server = parsed("", &environment).unwrap();
        assert_eq!(server.to_string(), "postgres://ada@[/run/pg]:6000/ada");
        assert_eq!(server.config.get_password(), Some(&b"it's"[..]));
    }

    #[test]
    fn password_file_is_read_if_it_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "# a comment\nelsewhere:*:*:*:no\ndb:5432:app:ada:a\\:b\\\\c\n",
        )
        .unwrap();
        let environment = [("PGPASSFILE", file.path().to_str().unwrap())];
        let password = || {
            parsed("postgres://ada@db/app", &environment)
                .unwrap()
                .config
                .get_password()
                .map(<[u8]>::to_vec)
        };
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(password().as_deref(), Some(&b"a:b\\c"[..]));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(password(), None);
    }
}
