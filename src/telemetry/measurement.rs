//! A measured value, its threshold and its unit, for alerts and findings alike.

use std::fmt;

/// A measurement and its threshold. See [`Finding::measurement`](crate::Finding::measurement).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Measurement {
    /// The measured value.
    pub value: f64,
    /// The threshold from which the value is a problem.
    pub threshold: f64,
    /// The unit of both: `s`, `B`, `1/s`, `%`, or the noun that is counted.
    pub unit: &'static str,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: f64| {
            if n == n.trunc() {
                format!("{n:.0}")
            } else {
                format!("{n:.3}")
            }
        };
        let (value, threshold) = (number(self.value), number(self.threshold));
        write!(f, "{value} {unit}, threshold {threshold} {unit}", unit = self.unit)
    }
}
