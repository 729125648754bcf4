//! [`Finding`]: one piece of advice.

use std::fmt;

use crate::telemetry::Measurement;

/// The severity of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Severity {
    /// An improvement is possible.
    Note,
    /// A problem costs performance, space or safety, or soon will.
    Warning,
    /// A part of the store does not work.
    Critical,
}

/// A present or coming problem of a store, with a remedy. See [`Store::advice`](crate::Store::advice).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Finding {
    /// Severity of the problem.
    pub severity: Severity,
    /// Stable identifier of the kind of problem, in snake case. That of an alert is the name of its kind.
    pub topic: &'static str,
    /// Description of the problem. It names the table, the statement or the call site.
    pub message: String,
    /// The measured value and its threshold, if there is one.
    pub measurement: Option<Measurement>,
    /// Remedy: what to do about the problem.
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
