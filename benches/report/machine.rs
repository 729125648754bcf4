//! The machine that the report was measured on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use larder::rusqlite::Connection;

pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) disk: String,
    /// `fdatasync` of 4 KiB appended: median, 99th percentile.
    pub(crate) fsync: (Duration, Duration),
    /// The round trip of a cache line between two cores, before and after the measurements.
    pub(crate) round_trip: (Duration, Duration),
    pub(crate) sqlite: String,
    pub(crate) options: Vec<String>,
    /// The reason why the numbers are less reliable than they look.
    pub(crate) warning: Option<String>,
}

impl Machine {
    pub(crate) fn look(folder: &Path) -> Self {
        let (device, filesystem) = mount(folder);
        let in_memory = ["tmpfs", "ramfs"].contains(&filesystem.as_str());
        let conn = Connection::open_in_memory().expect("SQLite opens");
        let mut options = conn
            .prepare("SELECT compile_options FROM pragma_compile_options ORDER BY 1")
            .expect("SQLite knows its options");
        let options = options
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect)
            .expect("SQLite knows its options");
        Self {
            cpu: line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            disk: format!("{device}, {filesystem}{}", model(&device)),
            fsync: crate::measure::fsync(folder),
            round_trip: (crate::measure::line(), Duration::ZERO),
            sqlite: larder::rusqlite::version().to_owned(),
            options,
            warning: in_memory.then(|| {
                "the databases are in memory (tmpfs): nothing here says what a disk gives; set LARDER_BENCH_DIR"
                    .to_owned()
            }),
        }
    }
}

fn line(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The device and the file system of the folder.
fn mount(folder: &Path) -> (String, String) {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut best = (0, ("unknown".to_owned(), "unknown".to_owned()));
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(at), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if folder.starts_with(at) && at.len() >= best.0 {
            best = (at.len(), (device.to_owned(), kind.to_owned()));
        }
    }
    best.1
}

/// The system's name for a disk.
fn model(device: &str) -> String {
    let name = device
        .trim_start_matches("/dev/")
        .trim_end_matches(|c: char| c.is_ascii_digit());
    let name = name
        .strip_suffix('p')
        .filter(|name| name.starts_with("nvme"))
        .unwrap_or(name);
    let read = |what: &str| fs::read_to_string(format!("/sys/block/{name}/{what}")).ok();
    let model = read("device/model")
        .map(|model| format!(", {}", model.trim()))
        .unwrap_or_default();
    match read("queue/rotational").as_deref().map(str::trim) {
        Some("1") => format!("{model}, rotating"),
        Some("0") => format!("{model}, not rotating"),
        _ => model,
    }
}
