//! How long something took, each time: a histogram that one thread or many add to and anybody reads, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use histogram::{AtomicHistogram, Bucket};

/// How long something took, each time since the store was opened.
///
/// Percentiles are at most 3 % too high, and never higher than `max`, which is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Latency {
    /// How often.
    pub count: u64,
    /// Half of the times it took no longer than this.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::human::seconds"))]
    pub p50: Duration,
    /// 95 of 100 times it took no longer than this.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::human::seconds"))]
    pub p95: Duration,
    /// 99 of 100 times it took no longer than this.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::human::seconds"))]
    pub p99: Duration,
    /// The longest.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::human::seconds"))]
    pub max: Duration,
}

/// In nanoseconds.
#[derive(Debug)]
pub(crate) struct Latencies {
    /// 32 buckets for each power of two: 15 KiB.
    histogram: AtomicHistogram,
    max: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            histogram: AtomicHistogram::new(5, 64).expect("these are in the ranges that it takes"),
            max: AtomicU64::new(0),
        }
    }
}

impl Latencies {
    pub(crate) fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Every number has a bucket.
        let _ = self.histogram.increment(nanos);
        if nanos > self.max.load(Relaxed) {
            self.max.fetch_max(nanos, Relaxed);
        }
    }

    pub(crate) fn latency(&self) -> Latency {
        let found = self.histogram.load().quantiles(&[0.5, 0.95, 0.99]);
        let Ok(Some(found)) = found else {
            return Latency::default();
        };
        let max = self.max.load(Relaxed);
        let time = |bucket: &Bucket| Duration::from_nanos(bucket.end().min(max));
        let at: Vec<_> = found.entries().values().map(time).collect();
        Latency {
            count: u64::try_from(found.total_count()).unwrap_or(u64::MAX),
            p50: at[0],
            p95: at[1],
            p99: at[2],
            max: Duration::from_nanos(max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_took_no_time() {
        assert_eq!(Latencies::default().latency(), Latency::default());
    }

    #[test]
    fn percentiles_are_within_three_percent() {
        let latencies = Latencies::default();
        for micros in 1..=1000 {
            latencies.add(Duration::from_micros(micros));
        }
        let found = latencies.latency();
        assert_eq!(found.count, 1000);
        for (got, wanted) in [(found.p50, 500), (found.p95, 950), (found.p99, 990), (found.max, 1000)] {
            let wanted = Duration::from_micros(wanted);
            assert!(got >= wanted && got <= wanted.mul_f64(1.032), "{got:?} for {wanted:?}");
        }
    }

    #[test]
    fn any_time_has_a_bucket() {
        let latencies = Latencies::default();
        latencies.add(Duration::ZERO);
        latencies.add(Duration::MAX);
        assert_eq!(latencies.latency().count, 2);
    }
}
