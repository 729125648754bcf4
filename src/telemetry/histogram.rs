//! Lock-free histograms of durations and amounts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use histogram::{AtomicHistogram, Histogram};

/// A distribution of durations since the store was opened.
///
/// Percentiles are at most 3 % too high, and never higher than `max`, which is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Latency {
    /// Number of samples.
    pub count: u64,
    /// Median.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub p50: Duration,
    /// 95th percentile.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub p95: Duration,
    /// 99th percentile.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub p99: Duration,
    /// Maximum.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub max: Duration,
}

/// A distribution of amounts since the store was opened.
///
/// Percentiles are at most 3 % too high, and never higher than `max`, which is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Distribution {
    /// Number of samples.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 95th percentile.
    pub p95: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Maximum.
    pub max: u64,
}

impl From<Distribution> for Latency {
    fn from(nanos: Distribution) -> Self {
        Self {
            count: nanos.count,
            p50: Duration::from_nanos(nanos.p50),
            p95: Duration::from_nanos(nanos.p95),
            p99: Duration::from_nanos(nanos.p99),
            max: Duration::from_nanos(nanos.max),
        }
    }
}

/// A histogram of numbers of any size; times are in nanoseconds.
#[derive(Debug)]
pub(crate) struct Amounts {
    histogram: AtomicHistogram,
    max: AtomicU64,
}

/// 32 buckets per power of two: 15 KiB, percentiles at most 3 % too high.
impl Default for Amounts {
    fn default() -> Self {
        Self::with_grouping(5)
    }
}

impl Amounts {
    /// 8 buckets per power of two: 4 KiB, percentiles at most 13 % too high.
    pub(crate) fn coarse() -> Self {
        Self::with_grouping(3)
    }

    fn with_grouping(power: u8) -> Self {
        Self {
            histogram: AtomicHistogram::new(power, 64).expect("these are in the ranges that it takes"),
            max: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(&self, amount: u64) {
        // Every number has a bucket, so this cannot fail.
        let _ = self.histogram.increment(amount);
        if amount > self.max.load(Relaxed) {
            self.max.fetch_max(amount, Relaxed);
        }
    }

    pub(crate) fn add_time(&self, time: Duration) {
        self.add(nanos(time));
    }

    /// A copy of the whole histogram.
    pub(crate) fn load(&self) -> Histogram {
        self.histogram.load()
    }

    pub(crate) fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    pub(crate) fn distribution(&self) -> Distribution {
        distribution(&self.load(), self.max())
    }

    pub(crate) fn latency(&self) -> Latency {
        self.distribution().into()
    }
}

/// The sum of all amounts, each taken as the middle of its bucket.
pub(crate) fn sum(amounts: &Histogram) -> u64 {
    let buckets = amounts.into_iter().filter(|bucket| bucket.count() > 0);
    buckets.fold(0, |sum: u64, bucket| {
        let middle = bucket.start() + (bucket.end() - bucket.start()) / 2;
        sum.saturating_add(bucket.count().saturating_mul(middle))
    })
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The distribution of a histogram whose maximum is known.
pub(crate) fn distribution(amounts: &Histogram, max: u64) -> Distribution {
    let Ok(Some(found)) = amounts.quantiles(&[0.5, 0.95, 0.99]) else {
        return Distribution::default();
    };
    let at: Vec<_> = found.entries().values().map(|bucket| bucket.end().min(max)).collect();
    Distribution {
        count: u64::try_from(found.total_count()).unwrap_or(u64::MAX),
        p50: at[0],
        p95: at[1],
        p99: at[2],
        max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_samples_give_zero_times() {
        assert_eq!(Amounts::default().latency(), Latency::default());
    }

    #[test]
    fn percentiles_are_within_three_percent() {
        let times = Amounts::default();
        for micros in 1..=1000 {
            times.add_time(Duration::from_micros(micros));
        }
        let found = times.latency();
        assert_eq!(found.count, 1000);
        for (got, wanted) in [(found.p50, 500), (found.p95, 950), (found.p99, 990), (found.max, 1000)] {
            let wanted = Duration::from_micros(wanted);
            assert!(got >= wanted && got <= wanted.mul_f64(1.032), "{got:?} for {wanted:?}");
        }
    }

    #[test]
    fn any_duration_has_a_bucket() {
        let times = Amounts::default();
        times.add_time(Duration::ZERO);
        times.add_time(Duration::MAX);
        assert_eq!(times.latency().count, 2);
    }
}
