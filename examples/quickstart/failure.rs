//! Errors as one line of text for a person.

use std::error::Error;
use std::fmt;

use larder::rusqlite;

type AnyError = Box<dyn Error + Send + Sync>;

pub(crate) type Result<T, E = AnyError> = std::result::Result<T, E>;

/// An activity, and the error that stopped it.
#[derive(Debug)]
struct Failure {
    doing: String,
    source: AnyError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// Adds the activity to an error.
pub(crate) trait Context<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<AnyError>> Context<T> for Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| {
            Box::new(Failure {
                doing: doing(),
                source: source.into(),
            })
            .into()
        })
    }
}

/// The message, then its causes'.
pub(crate) fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Without repetition: larder's messages include SQLite's, whose own cause is only the same as a number.
        if !line.contains(&message) && !error.is::<rusqlite::ffi::Error>() {
            line.push_str(": ");
            line.push_str(&message);
        }
        cause = error.source();
    }
    line.replace(['\r', '\n'], " ")
}
