//! The server, and the network of one machine: a proxy that sends requests on, or loses, delays and repeats them.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{self, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

const PATIENCE: Duration = Duration::from_secs(60);

/// moto, until it is stopped.
pub struct Moto {
    process: Mutex<process::Child>,
    address: String,
    bucket: String,
    /// One write at a time: between the condition of a write and the write moto lets others in.
    turn: Mutex<()>,
}

impl Moto {
    pub fn start(program: &OsStr, bucket: &str) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{}: {error}", program.display());
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let (send, told) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            process.stdout.take().map(|out| Box::new(out) as _),
            process.stderr.take().map(|out| Box::new(out) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let send = send.clone();
            // To its end, or moto would block.
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Some((_, address)) = line.split_once("http://") {
                        let end = address.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
                        let _ = send.send(address[..end.unwrap_or(address.len())].to_owned());
                    }
                }
            });
        }
        let address = told.recv_timeout(PATIENCE);
        let mut moto = Self {
            process: Mutex::new(process),
            address: String::new(),
            bucket: bucket.to_owned(),
            turn: Mutex::default(),
        };
        moto.address = address.map_err(|_| format!("{} tells no address", program.display()))?;
        let create = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n",
            moto.address
        );
        moto.exchange(&create, &[]).map_err(failed)?;
        Ok(moto)
    }

    /// Sends a request, of which the empty line after the head is missing, and returns the whole answer.
    fn exchange(&self, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        // Reads need no turn, and one who writes all the time would take it from them.
        let reads = head.starts_with("GET ") || head.starts_with("HEAD ");
        let _turn = (!reads).then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        let mut server = TcpStream::connect(&self.address)?;
        server.set_nodelay(true)?;
        let mut request = format!("{head}Connection: close\r\n\r\n").into_bytes();
        request.extend_from_slice(body);
        server.write_all(&request)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

impl Moto {
    /// Ends the server. The proxies stay, and reach nothing.
    pub fn stop(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How the network of a machine is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Nothing gets through.
    pub is_cut: bool,
    /// Requests in a hundred to which something happens.
    pub faults: u32,
}

impl Weather {
    pub const CUT: Self = Self {
        is_cut: true,
        faults: 0,
    };

    /// And for how long it is so.
    pub fn any(rng: &mut Rng) -> (Self, Duration) {
        let weather = Self {
            is_cut: rng.u32(0..3) == 0,
            faults: [0, 3, 8, 25][rng.usize(0..4)],
        };
        let most = if rng.u32(0..6) == 0 { 8000 } else { 2000 };
        (weather, Duration::from_millis(rng.u64(100..most)))
    }
}

/// What becomes of a request.
#[derive(Clone, Copy)]
enum Fate {
    Good,
    /// The connection is closed, after this time.
    Lost(Duration),
    /// It takes effect, and the connection is closed.
    Unanswered,
    /// The connection is closed, and the request arrives after this time.
    Late(Duration),
    /// It is answered, and arrives once more after this time.
    Twice(Duration),
    Slow(Duration),
}

/// A machine's way to the server.
pub struct Proxy {
    address: SocketAddr,
    bucket: String,
    way: Arc<Way>,
}

struct Way {
    moto: Arc<Moto>,
    state: Mutex<State>,
}

struct State {
    weather: Weather,
    /// The weather is fair from then on.
    until: Instant,
    rng: Rng,
}

impl State {
    fn weather(&self) -> Weather {
        if Instant::now() < self.until {
            self.weather
        } else {
            Weather::default()
        }
    }
}

impl Proxy {
    pub fn start(moto: &Arc<Moto>, rng: Rng) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let way = Arc::new(Way {
            moto: Arc::clone(moto),
            state: Mutex::new(State {
                weather: Weather::default(),
                until: Instant::now(),
                rng,
            }),
        });
        let its_way = Arc::clone(&way);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let way = Arc::clone(&its_way);
                // One that cannot be passed on is lost.
                thread::spawn(move || drop(way.pass_on(connection)));
            }
        });
        Ok(Self {
            address,
            bucket: moto.bucket.clone(),
            way,
        })
    }

    /// The replica, as this machine reaches it.
    pub fn url(&self) -> String {
        format!("s3://{}/app?endpoint=http://{}", self.bucket, self.address)
    }

    pub fn turns(&self, weather: Weather, time: Duration) {
        let mut state = self.way.state();
        (state.weather, state.until) = (weather, Instant::now() + time);
    }
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self) -> bool {
        self.state().weather().is_cut
    }

    fn fate(&self) -> Fate {
        let mut state = self.state();
        let (weather, rng) = (state.weather(), &mut state.rng);
        let mut time = |most: u64| Duration::from_millis(rng.u64(0..most));
        if weather.is_cut {
            // At once, or after a while in which nothing is heard.
            return Fate::Lost(time(400));
        }
        let (soon, late) = (time(300), time(3000));
        if rng.u32(0..100) >= weather.faults {
            return Fate::Good;
        }
        match rng.u32(0..6) {
            0 => Fate::Lost(soon),
            1 | 2 => Fate::Unanswered,
            3 => Fate::Late(late),
            4 => Fate::Twice(late),
            _ => Fate::Slow(soon),
        }
    }

    fn pass_on(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let (head, body) = read_request(&connection)?;
        let fate = self.fate();
        let later = |time: Duration| {
            let (moto, head, body) = (Arc::clone(&self.moto), head.clone(), body.clone());
            thread::spawn(move || {
                thread::sleep(time);
                drop(moto.exchange(&head, &body));
            });
        };
        match fate {
            Fate::Lost(time) => {
                thread::sleep(time);
                return Ok(());
            }
            Fate::Late(time) => {
                later(time);
                return Ok(());
            }
            Fate::Slow(time) => thread::sleep(time),
            _ => {}
        }
        let answer = self.moto.exchange(&head, &body)?;
        match fate {
            _ if self.is_cut() => return Ok(()),
            Fate::Unanswered => return Ok(()),
            Fate::Twice(time) => later(time),
            _ => {}
        }
        connection.write_all(&answer)
    }
}

/// A request: its head without the empty line after it and without `Connection`, and its body.
fn read_request(connection: &TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(connection);
    let (mut head, mut body, mut length) = (String::new(), Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    reader.take(length).read_to_end(&mut body)?;
    Ok((head, body))
}
