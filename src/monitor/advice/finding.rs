//! [`Finding`]: one piece of advice.

use std::fmt;

use crate::telemetry::Measurement;

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Severity {
    /// It could be better.
    Note,
    /// It costs something, or will.
    Warning,
    /// Something does not work.
    Critical,
}

/// One thing that is wrong, or will be, and what to do about it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about, in kebab case: for a program, since it stays the same.
    pub topic: &'static str,
    /// What it is, with the name of the table, the statement or the call site.
    pub message: String,
    /// What was measured, and from where on it matters.
    pub measurement: Option<Measurement>,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn new(severity: Severity, topic: &'static str, message: String, remedy: impl Into<String>) -> Self {
        Self {
            severity,
            topic,
            message,
            measurement: None,
            remedy: remedy.into(),
        }
    }

    pub(crate) fn with_measurement(mut self, value: f64, threshold: f64, unit: &'static str) -> Self {
        self.measurement = Some(Measurement { value, threshold, unit });
        self
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        if let Some(measurement) = self.measurement {
            write!(f, " ({measurement})")?;
        }
        write!(f, ". {}", self.remedy)
    }
}
