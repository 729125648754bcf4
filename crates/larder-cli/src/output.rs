//! What a command prints: its result on stdout, as text or as one JSON object; all else on stderr.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::progress::Progress;

pub(crate) struct Output {
    is_json: bool,
    is_quiet: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool, is_quiet: bool) -> Self {
        Self { is_json, is_quiet }
    }

    /// Prints the result of a command.
    pub(crate) fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        self.print(|to| {
            if self.is_json {
                serde_json::to_writer(&mut *to, value)?;
                return to.write_all(b"\n");
            }
            text(to)
        })
    }

    /// Prints to stdout. A reader that has gone away, as `head` does, is no error: the command goes on to its end, and its
    /// exit code is that of its work.
    fn print(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let mut to = BufWriter::new(io::stdout().lock());
        let written = write(&mut to).and_then(|()| to.flush());
        // A failed flush would be tried again as the buffer is dropped.
        let (_, _) = to.into_parts();
        match written {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::io("stdout cannot be written", error)),
            _ => Ok(()),
        }
    }

    /// Prints a remark to stderr.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_quiet {
            let _ = writeln!(io::stderr(), "larder: {text}");
        }
    }

    /// Prints the error, to stderr in any case.
    pub(crate) fn failed(&self, failure: &Failure) -> ExitCode {
        let _ = writeln!(io::stderr(), "larder: {failure}");
        if self.is_json {
            let _ = self.print(|to| writeln!(to, "{}", failure.as_json()));
        }
        ExitCode::from(failure.exit_code())
    }

    /// The progress of the command, which Ctrl-C stops from now on.
    pub(crate) fn progress(&self) -> Result<Progress> {
        Progress::begin(self.is_quiet)
    }
}

/// A text without line ends and other control characters, which would move a terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => plain.push_str("\\n"),
            '\r' => plain.push_str("\\r"),
            '\t' => plain.push_str("\\t"),
            c if c.is_control() => plain.extend(c.escape_unicode()),
            c => plain.push(c),
        }
    }
    plain
}

/// A size in bytes, such as `4.2 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "B" => format!("{bytes} B"),
        unit => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        let sizes = [0, 1023, 1024, 1_500_000, u64::MAX];
        assert_eq!(sizes.map(size), ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "16384.0 PiB"]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(plain("a\nb\tc\u{1b}[2Jä"), "a\\nb\\tc\\u{1b}[2Jä");
    }
}
