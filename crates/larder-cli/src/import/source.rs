//! A CSV file or stdin, and how much of it is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::{Failure, Result};

pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

pub(crate) fn display(path: &Path) -> String {
    match is_stdin(path) {
        true => "stdin".to_owned(),
        false => path.display().to_string(),
    }
}

/// A file that is open.
pub(crate) struct Source {
    path: PathBuf,
    from: Box<dyn Read + Send>,
    /// Of a regular file.
    size: Option<u64>,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if is_stdin(path) {
            let from = Box::new(io::stdin());
            return Ok(Self {
                path: path.to_owned(),
                from,
                size: None,
            });
        }
        let name = display(path);
        let cannot = |error| Failure::io(format!("{name} cannot be read"), error);
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(Failure::Other(format!("{name} is a folder: give the files in it")));
        }
        Ok(Self {
            path: path.to_owned(),
            from: Box::new(file),
            size: metadata.is_file().then_some(metadata.len()),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether it can be opened a second time.
    pub(crate) fn is_file(&self) -> bool {
        self.size.is_some()
    }

    /// The reader, and how many bytes it has read. It fails once `stop` says so.
    pub(crate) fn into_reader(self, stop: impl Fn() -> bool + Send + 'static) -> (Reader, Arc<AtomicU64>) {
        let read = Arc::new(AtomicU64::new(0));
        let reader = Reader {
            from: self.from,
            read: Arc::clone(&read),
            stop: Box::new(stop),
        };
        (reader, read)
    }
}

pub(crate) struct Reader {
    from: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    stop: Box<dyn Fn() -> bool + Send>,
}

impl Read for Reader {
    /// A read that was blocked tells of no signal, so `stop` is asked after it.
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        if (self.stop)() {
            return Err(io::Error::other("interrupted"));
        }
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
