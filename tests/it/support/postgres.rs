//! A real PostgreSQL in a temporary folder: on a unix socket, as an unprivileged user, stopped when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use larder::Store;
use tempfile::TempDir;

use super::child::{PATIENCE, is_root, set_mode, skipped};

/// A running server. Its superuser is `larder`, its databases are made by [`database`](Self::database).
pub(crate) struct Postgres {
    bin: PathBuf,
    server: Child,
    folder: TempDir,
    /// The port of TLS on localhost, or that in the name of the socket alone.
    port: u16,
    has_tls: bool,
    settings: &'static [&'static str],
}

/// A server that loses nothing when it is killed, but when the machine is.
const SETTINGS: [&str; 2] = ["fsync=off", "shared_buffers=16MB"];

impl Postgres {
    /// Starts one, or says visibly why there is none.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with_settings(&SETTINGS)
    }

    /// Starts one with other settings.
    pub(crate) fn start_with_settings(settings: &'static [&'static str]) -> Option<Self> {
        Self::start_with(false, settings)
    }

    /// Starts one that listens on localhost too: with TLS, for `ada`, whose password is `password`. Its certificate is
    /// signed by that in `ca.crt`.
    pub(crate) fn start_with_tls(password: &str) -> Option<Self> {
        let has_openssl = Command::new("openssl").arg("version").output();
        if !has_openssl.is_ok_and(|output| output.status.success()) {
            skipped("there is no openssl here to make certificates");
            return None;
        }
        let server = Self::start_with(true, &SETTINGS)?;
        server.run(
            "postgres",
            &format!("CREATE ROLE ada LOGIN SUPERUSER PASSWORD '{password}'"),
        );
        Some(server)
    }

    fn start_with(has_tls: bool, settings: &'static [&'static str]) -> Option<Self> {
        let Some(bin) = folder_of_programs() else {
            skipped("there is no PostgreSQL here: initdb and postgres, in PATH or /usr/lib/postgresql/*/bin");
            return None;
        };
        if is_root()
            && !Command::new("setpriv")
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        {
            skipped("root needs setpriv to become an ordinary user");
            return None;
        }
        // A short path: that of a socket has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        set_mode(folder.path(), 0o777);
        let data = folder.path().join("data");
        let mut init = ordinary(&bin.join("initdb"));
        init.args([
            "--no-sync",
            "--auth=trust",
            "--username=larder",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ]);
        let made = init.arg(&data).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = if has_tls { free_port() } else { 5432 };
        if has_tls {
            certificates(folder.path());
            let rules = "local all all trust\nhostssl all all samehost scram-sha-256\n";
            fs::write(data.join("pg_hba.conf"), rules).unwrap();
        }
        let mut server = Self {
            server: run(&bin, folder.path(), port, has_tls, settings),
            bin,
            folder,
            port,
            has_tls,
            settings,
        };
        server.wait();
        Some(server)
    }

    /// Starts the server that was stopped, and waits until it has recovered.
    pub(crate) fn start_again(&mut self) {
        self.server = run(&self.bin, self.folder.path(), self.port, self.has_tls, self.settings);
        self.wait();
    }

    /// Waits until it answers. One that has ended is started again: another process may have taken its port.
    fn wait(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        let mut starts = 1;
        loop {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < give_up, "{}", log());
            if let Some(status) = self.server.try_wait().unwrap() {
                assert!(starts < 5, "the server ends with {status}: {}", log());
                starts += 1;
                if self.has_tls {
                    self.port = free_port();
                }
                self.server = run(&self.bin, self.folder.path(), self.port, self.has_tls, self.settings);
            }
            let socket = self.folder.path().join(format!(".s.PGSQL.{}", self.port));
            if socket.exists() && self.psql("postgres", "SELECT 1").status.success() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A client of its own version, or that in PATH, which may be a script that looks for one.
    pub(crate) fn client(&self, name: &str) -> Command {
        let own = self.bin.join(name);
        Command::new(if own.exists() { own } else { name.into() })
    }

    /// Dumps a database by `pg_dump`.
    #[track_caller]
    pub(crate) fn dump(&self, database: &str, to: &Path, options: &[&str]) {
        let mut command = self.client("pg_dump");
        command.arg("-d").arg(self.url(database));
        let output = command.args(options).arg("-f").arg(to).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes an empty database and gives its URL.
    pub(crate) fn database(&self, name: &str) -> String {
        self.run("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.url(name)
    }

    /// The port of TLS, or that in the name of the socket.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let folder = self.folder.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://larder@{folder}/{database}")
    }

    /// Runs SQL by `psql`, and gives what it prints: one line a row, `|` between the columns.
    #[track_caller]
    pub(crate) fn run(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql);
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        let mut command = self.client("psql");
        command.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "larder",
            "-d",
            database,
            "-c",
            sql,
        ]);
        command
            .arg("-p")
            .arg(self.port.to_string())
            .arg("-h")
            .arg(self.folder.path())
            .output()
            .expect("psql is installed beside the server")
    }

    /// SIGQUIT: the server stops at once, without closing what is open, and recovers when it is started again.
    pub(crate) fn stop_at_once(&mut self) {
        self.signal("QUIT");
        let _ = self.server.wait();
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.server.id().to_string())
            .status();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop_at_once();
    }
}

/// A port that nothing listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Makes `ca.crt` and a certificate for localhost that it has signed, and `other.crt`, which has signed nothing.
fn certificates(folder: &Path) {
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt",
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout other.key -out other.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout data/server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out data/server.crt",
    ] {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let key = folder.join("data/server.key");
    set_mode(&key, 0o600);
    if is_root() {
        for file in [key, folder.join("data/server.crt")] {
            std::os::unix::fs::chown(file, Some(65534), Some(65534)).unwrap();
        }
    }
}

fn run(bin: &Path, folder: &Path, port: u16, has_tls: bool, settings: &[&str]) -> Child {
    let mut command = tied(&bin.join("postgres"));
    command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    let (listen, tls) = match has_tls {
        true => ("listen_addresses=localhost", "ssl=on"),
        false => ("listen_addresses=", "ssl=off"),
    };
    command.arg("-p").arg(port.to_string());
    command.args(["-c", listen, "-c", tls]);
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    let log = fs::File::create(folder.join("log")).unwrap();
    let command = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().unwrap()
}

/// A command as a user that the server runs as: it refuses root.
fn ordinary(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program);
    command
}

/// As [`ordinary`], a command that ends when this thread does, where there is setpriv: a test that is killed leaves no server.
fn tied(program: &Path) -> Command {
    let help = Command::new("setpriv").arg("--help").output();
    if !help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--pdeathsig")) {
        return ordinary(program);
    }
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=QUIT");
    if is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(program);
    command
}

fn folder_of_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH")?));
    folders
        .into_iter()
        .rev()
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// A store of a copy of the Chinook database in that folder, or `None` (said visibly).
pub(crate) fn chinook(folder: &Path) -> Option<Store> {
    let Ok(file) = env::var("LARDER_CHINOOK") else {
        skipped("LARDER_CHINOOK names no copy of the Chinook database");
        return None;
    };
    let path = folder.join("chinook.db");
    fs::copy(file, &path).unwrap();
    Some(Store::open(path).unwrap())
}
