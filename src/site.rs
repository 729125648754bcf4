//! Who asked: the label of a read or a write, or the line of code that called.

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;

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

impl fmt::Display for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallSite::Line(line) => write!(f, "{}:{}", line.file(), line.line()),
            CallSite::Label(label) => f.write_str(label),
        }
    }
}
