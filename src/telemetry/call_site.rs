//! The call site of a read or a write: its label, or else its line of code.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::panic::Location;
use std::{fmt, ptr};

#[derive(Clone, Debug)]
pub(crate) enum CallSite {
    Line(&'static Location<'static>),
    Label(Cow<'static, str>),
}

impl CallSite {
    pub(crate) fn new(label: Option<Cow<'static, str>>, line: &'static Location<'static>) -> Self {
        label.map_or(CallSite::Line(line), CallSite::Label)
    }
}

/// Compares lines by their address, which is cheap; the compiler may give one line several addresses.
impl PartialEq for CallSite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (CallSite::Line(a), CallSite::Line(b)) => ptr::eq(*a, *b),
            (CallSite::Label(a), CallSite::Label(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for CallSite {}

impl Hash for CallSite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            CallSite::Line(line) => ptr::from_ref(*line).hash(state),
            CallSite::Label(label) => label.hash(state),
        }
    }
}

impl fmt::Display for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallSite::Line(line) => write!(f, "{}:{}", line.file(), line.line()),
            CallSite::Label(label) => f.write_str(label),
        }
    }
}
