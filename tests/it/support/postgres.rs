//! A real PostgreSQL in a temporary folder: on a unix socket, as an unprivileged user, stopped when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use larder::Store;
use tempfile::TempDir;

use super::child::{PATIENCE, is_root, set_mode, skipped};
use super::ports::free_port;

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

    /// As [`run`](Self::run), for SQL that may fail: then it gives the first line of the error.
    pub(crate) fn try_run(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.psql(database, sql);
        let first = |text: &[u8]| {
            String::from_utf8_lossy(text)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            false => Err(first(&output.stderr)),
        }
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

/// A store of a copy of the Chinook database in that folder. Without one in `LARDER_CHINOOK`, a database of the same shape
/// is made: as many tables, keys and rows, of the same types.
pub(crate) fn chinook(folder: &Path) -> Store {
    let path = folder.join("chinook.db");
    if let Ok(file) = env::var("LARDER_CHINOOK") {
        fs::copy(file, &path).unwrap();
        return Store::open(path).unwrap();
    }
    let store = Store::open(path).unwrap();
    store.write(|tx| tx.execute_batch(MUSIC)).unwrap();
    store
}

/// A shop of music.
const MUSIC: &str = "
    CREATE TABLE Singer (SingerId INTEGER NOT NULL, Name NVARCHAR(120), CONSTRAINT PK_Singer PRIMARY KEY (SingerId));
    CREATE TABLE Record (RecordId INTEGER NOT NULL, Title NVARCHAR(160) NOT NULL, SingerId INTEGER NOT NULL,
        CONSTRAINT PK_Record PRIMARY KEY (RecordId),
        FOREIGN KEY (SingerId) REFERENCES Singer (SingerId) ON DELETE NO ACTION ON UPDATE NO ACTION);
    CREATE TABLE Style (StyleId INTEGER NOT NULL, Name NVARCHAR(120), CONSTRAINT PK_Style PRIMARY KEY (StyleId));
    CREATE TABLE Format (FormatId INTEGER NOT NULL, Name NVARCHAR(120), CONSTRAINT PK_Format PRIMARY KEY (FormatId));
    CREATE TABLE Song (SongId INTEGER NOT NULL, Name NVARCHAR(200) NOT NULL, RecordId INTEGER, FormatId INTEGER NOT NULL,
        StyleId INTEGER, Writer NVARCHAR(220), Milliseconds INTEGER NOT NULL, Bytes INTEGER, UnitPrice NUMERIC(10,2) NOT NULL,
        CONSTRAINT PK_Song PRIMARY KEY (SongId), FOREIGN KEY (RecordId) REFERENCES Record (RecordId),
        FOREIGN KEY (StyleId) REFERENCES Style (StyleId), FOREIGN KEY (FormatId) REFERENCES Format (FormatId));
    CREATE TABLE Worker (WorkerId INTEGER NOT NULL, Name NVARCHAR(20) NOT NULL, ReportsTo INTEGER, BirthDate DATETIME,
        CONSTRAINT PK_Worker PRIMARY KEY (WorkerId), FOREIGN KEY (ReportsTo) REFERENCES Worker (WorkerId));
    CREATE TABLE Client (ClientId INTEGER NOT NULL, Name NVARCHAR(40) NOT NULL, Company NVARCHAR(80), City NVARCHAR(40),
        PostalCode NVARCHAR(10), Email NVARCHAR(60) NOT NULL, WorkerId INTEGER,
        CONSTRAINT PK_Client PRIMARY KEY (ClientId), FOREIGN KEY (WorkerId) REFERENCES Worker (WorkerId));
    CREATE TABLE Bill (BillId INTEGER NOT NULL, ClientId INTEGER NOT NULL, BillDate DATETIME NOT NULL,
        Total NUMERIC(10,2) NOT NULL, CONSTRAINT PK_Bill PRIMARY KEY (BillId),
        FOREIGN KEY (ClientId) REFERENCES Client (ClientId));
    CREATE TABLE BillLine (BillLineId INTEGER NOT NULL, BillId INTEGER NOT NULL, SongId INTEGER NOT NULL,
        UnitPrice NUMERIC(10,2) NOT NULL, Quantity INTEGER NOT NULL, CONSTRAINT PK_BillLine PRIMARY KEY (BillLineId),
        FOREIGN KEY (BillId) REFERENCES Bill (BillId), FOREIGN KEY (SongId) REFERENCES Song (SongId));
    CREATE TABLE List (ListId INTEGER NOT NULL, Name NVARCHAR(120), CONSTRAINT PK_List PRIMARY KEY (ListId));
    CREATE TABLE ListSong (ListId INTEGER NOT NULL, SongId INTEGER NOT NULL,
        CONSTRAINT PK_ListSong PRIMARY KEY (ListId, SongId), FOREIGN KEY (ListId) REFERENCES List (ListId),
        FOREIGN KEY (SongId) REFERENCES Song (SongId));
    CREATE INDEX IFK_RecordSingerId ON Record (SingerId);
    CREATE INDEX IFK_SongRecordId ON Song (RecordId);
    CREATE INDEX IFK_BillClientId ON Bill (ClientId);
    CREATE INDEX IFK_ListSongSongId ON ListSong (SongId);
    CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) SELECT i FROM n;
    INSERT INTO Singer SELECT i, iif(i % 50 = 0, NULL, 'Künstler \u{1F3B5} ' || i) FROM n WHERE i <= 275;
    INSERT INTO Record SELECT i, 'It''s record \"' || i || '\"', i * 7 % 275 + 1 FROM n WHERE i <= 347;
    INSERT INTO Style SELECT i, 'Style ' || i FROM n WHERE i <= 25;
    INSERT INTO Format SELECT i, 'Format ' || i FROM n WHERE i <= 5;
    INSERT INTO Song SELECT i, 'Song' || char(10) || i, iif(i % 9 = 0, NULL, i * 11 % 347 + 1), i % 5 + 1, i % 25 + 1,
        iif(i % 3 = 0, NULL, 'Ä. \\N ' || i), i * 7919 % 5000000, i * 65537, iif(i % 4 = 0, 1.99, 0.99) FROM n WHERE i <= 3503;
    INSERT INTO Worker SELECT i, 'Worker ' || i, nullif(i / 2, 0), (1950 + i) || '-02-18 00:00:00' FROM n WHERE i <= 8;
    INSERT INTO Client SELECT i, 'Client ' || i, iif(i % 2, NULL, 'Ltd'), 'São Paulo', '0' || i, i || '@example.com', i % 8 + 1
        FROM n WHERE i <= 59;
    INSERT INTO Bill SELECT i, i % 59 + 1, datetime('2009-01-01', i || ' days'), i * 0.99 FROM n WHERE i <= 412;
    INSERT INTO BillLine SELECT i, i % 412 + 1, i % 3503 + 1, iif(i % 4 = 0, 1.99, 0.99), 1 FROM n WHERE i <= 2240;
    INSERT INTO List SELECT i, 'List ' || i FROM n WHERE i <= 18;
    INSERT INTO ListSong SELECT i % 18 + 1, i * 17 % 3503 + 1 FROM n WHERE i <= 8715 ON CONFLICT DO NOTHING;
    DROP TABLE n;
";
