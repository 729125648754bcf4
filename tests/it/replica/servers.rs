//! Servers on loopback: moto and rclone, which speak the S3 protocol, Azurite, and one that answers as a test tells it.

use std::env;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use larder::replica::storage::Environment;

use crate::support::child::{self, PATIENCE};

/// A program that serves until this is dropped.
pub(super) struct Service {
    process: process::Child,
    /// `http://127.0.0.1:9000`
    pub(super) url: String,
}

impl Service {
    /// The moto that `LARDER_MOTO` names, or the one on the `PATH`, with a bucket. None is said visibly.
    pub(super) fn moto(bucket: &str) -> Option<Self> {
        let program = env::var_os("LARDER_MOTO").unwrap_or_else(|| "moto_server".into());
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        let service = Self::start(command, "put it on the PATH, or its path into LARDER_MOTO")?;
        ureq::put(format!("{}/{bucket}", service.url)).send_empty().unwrap();
        Some(service)
    }

    /// The rclone that `LARDER_RCLONE` names, or the one on the `PATH`, over a folder of buckets.
    pub(super) fn rclone(folder: &Path, key: &str, secret: &str) -> Option<Self> {
        let program = env::var_os("LARDER_RCLONE").unwrap_or_else(|| "rclone".into());
        let mut command = Command::new(&program);
        command.args(["serve", "s3", "--addr", "127.0.0.1:0", "--auth-key"]);
        command.arg(format!("{key},{secret}")).arg(folder);
        Self::start(command, "put it on the PATH, or its path into LARDER_RCLONE")
    }

    /// The Azurite that `LARDER_AZURITE` names, or the one on the `PATH`: Microsoft's own server of the protocol, with the
    /// account that it always has, over a folder.
    #[cfg(feature = "azure")]
    pub(super) fn azurite(folder: &Path) -> Option<Self> {
        let program = env::var_os("LARDER_AZURITE").unwrap_or_else(|| "azurite-blob".into());
        let mut command = Command::new(&program);
        command.args([
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            "0",
            "--disableTelemetry",
            "--location",
        ]);
        command.arg(folder);
        Self::start(command, "put it on the PATH, or its path into LARDER_AZURITE")
    }

    /// Starts a program that says its address on stderr or stdout.
    fn start(mut command: Command, advice: &str) -> Option<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut process) = started else {
            child::skipped(&format!("there is no {program} here: {advice}"));
            return None;
        };
        let (tell, told) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(process.stdout.take().unwrap()),
            Box::new(process.stderr.take().unwrap()),
        ];
        for output in outputs {
            let tell = tell.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Some((_, address)) = line.split_once("http://") {
                        let end = address.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
                        let _ = tell.send(format!("http://{}", &address[..end.unwrap_or(address.len())]));
                    }
                }
            });
        }
        let url = told
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{program} says no address"));
        Some(Self { process, url })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends requests on to a server, each on a connection of its own, and changes the heads of its answers. Dropped, its port
/// is closed.
pub(super) struct Proxy {
    address: SocketAddr,
    stops: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// At that address, for the server at that URL. `change` gets the heads of a request and of its answer.
    pub(super) fn start(
        address: &str,
        url: &str,
        change: impl Fn(&str, String) -> String + Send + Sync + 'static,
    ) -> Self {
        let began = Instant::now();
        let listener = loop {
            match TcpListener::bind(address) {
                // The port was closed, and another test may have got it for a connection.
                Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PATIENCE => thread::yield_now(),
                listener => break listener.unwrap(),
            }
        };
        let address = listener.local_addr().unwrap();
        let stops = Arc::new(AtomicBool::new(false));
        let (server, stopped) = (url.trim_start_matches("http://").to_owned(), Arc::clone(&stops));
        let change = Arc::new(change);
        let accepting = thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (server, change) = (server.clone(), Arc::clone(&change));
                thread::spawn(move || pass_on(connection, &server, &*change));
            }
        });
        Self {
            address,
            stops,
            accepting: Some(accepting),
        }
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(thread::JoinHandle::join);
    }
}

fn pass_on(mut connection: TcpStream, server: &str, change: &dyn Fn(&str, String) -> String) -> Option<()> {
    let (head, body) = read_request(&connection)?;
    let mut server = TcpStream::connect(server).ok()?;
    let (first, rest) = head.split_once("\r\n")?;
    write!(server, "{first}\r\nConnection: close\r\n{rest}").ok()?;
    server.write_all(&body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 2;
    let answered = change(&head, String::from_utf8_lossy(&answer[..end]).into_owned());
    connection.write_all(answered.as_bytes()).ok()?;
    connection.write_all(&answer[end..]).ok()
}

/// What the server does with a request.
pub(super) enum Answer {
    /// A status such as `200 OK`, and a body.
    Reply(&'static str, String),
    /// The same with a header, such as `ETag: "1"`.
    WithHeader(&'static str, &'static str, String),
    /// Nothing, and the connection stays open.
    Silence,
    /// The connection is closed.
    Close,
}

impl Answer {
    /// The error of an S3 server.
    pub(super) fn error(status: &'static str, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
             <AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign></Error>"
        );
        Self::Reply(status, body)
    }

    pub(super) fn created() -> Self {
        Self::WithHeader("200 OK", "ETag: \"1\"", String::new())
    }
}

/// Credentials that no text may contain.
pub(super) const KEY: &str = "AKIACANARY";
pub(super) const SECRET: &str = "canary/secret+canary";

/// Variables with these credentials, and more.
pub(super) fn environment(more: &[(&str, &str)]) -> Environment {
    let credentials = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let variables = credentials.iter().chain(more);
    Environment {
        variables: variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Environment::of_process()
    }
}

/// A server that answers as it is told, and remembers what it was asked.
pub(super) struct Scripted {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// The script gets the head of a request, and how many came before it.
    pub(super) fn start(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, seen) = (Arc::new(script), Arc::clone(&requests));
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                thread::spawn(move || serve(connection, &*script, &seen));
            }
        });
        Self { address, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of the requests.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// A request: its head, and its body. `None` if the client has gone.
fn read_request(connection: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(connection);
    let (mut head, mut body, mut length) = (String::new(), Vec::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return None;
        }
        let line = head[begin..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    reader.take(length).read_to_end(&mut body).ok()?;
    Some((head, body))
}

fn serve(mut connection: TcpStream, script: &dyn Fn(&str, usize) -> Answer, seen: &Mutex<Vec<String>>) {
    let Some((head, _)) = read_request(&connection) else {
        return;
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(head.clone());
        seen.len() - 1
    };
    let (status, header, body) = match script(&head, before) {
        Answer::Reply(status, body) => (status, "X-Test: 1", body),
        Answer::WithHeader(status, header, body) => (status, header, body),
        // Until the client has given up.
        Answer::Silence => return drop(connection.read(&mut [0])),
        Answer::Close => return,
    };
    let length = body.len();
    let _ = write!(
        connection,
        "HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {length}\r\nLast-Modified: Mon, 21 Sep 2026 14:13:20 GMT\r\n\
         Connection: close\r\n\r\n{body}"
    );
}
