//! The call site of a read or a write: its label, or else its line of code.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::panic::Location;
use std::{fmt, ptr};

/// The maximum length of a label, in bytes.
const MAX_LABEL: usize = 256;

#[derive(Clone, Debug)]
pub(crate) enum CallSite {
    Line(&'static Location<'static>),
    Label(Cow<'static, str>),
}

impl CallSite {
    pub(crate) fn new(label: Option<Cow<'static, str>>, line: &'static Location<'static>) -> Self {
        label.map_or(CallSite::Line(line), |label| CallSite::Label(bounded_label(label)))
    }
}

impl From<&CallSite> for CallSite {
    fn from(site: &CallSite) -> Self {
        site.clone()
    }
}

/// A label is kept in statistics and in every job, so it is cut to [`MAX_LABEL`] bytes.
fn bounded_label(label: Cow<'static, str>) -> Cow<'static, str> {
    if label.len() <= MAX_LABEL {
        return label;
    }
    Cow::Owned(beginning(&label, MAX_LABEL).to_owned())
}

/// As much of the text as fits into so many bytes.
pub(super) fn beginning(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
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
