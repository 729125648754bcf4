use std::time::Duration;

/// Buckets per power of two, so that a percentile is exact to 1 in 64.
const STEPS: u64 = 64;

/// The number of occurrences of each duration. The maximum is exact.
pub(crate) struct Histogram {
    counts: Vec<u32>,
    worst: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; slot(u64::MAX) + 1],
            worst: 0,
        }
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = duration.as_nanos() as u64;
        self.counts[slot(nanos)] += 1;
        self.worst = self.worst.max(nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.worst = self.worst.max(other.worst);
    }

    /// The duration, in microseconds, that this part of all did not exceed.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let total: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        let rank = (total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (slot, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank && seen > 0 {
                return micros(upper_end(slot).min(self.worst));
            }
        }
        0.0
    }

    pub(crate) fn worst(&self) -> f64 {
        micros(self.worst)
    }
}

/// The bucket of a duration. Durations from `STEPS` to twice that get a bucket each, those to twice that every second
/// one, and so on.
fn slot(nanos: u64) -> usize {
    let nanos = nanos.max(STEPS);
    let doublings = nanos.ilog2() - STEPS.ilog2();
    (u64::from(doublings) * STEPS + (nanos >> doublings) - STEPS) as usize
}

fn upper_end(slot: usize) -> u64 {
    let (doublings, step) = (slot as u64 / STEPS, slot as u64 % STEPS);
    ((STEPS + step) << doublings) + ((1 << doublings) - 1)
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_falls_into_nearest_slot_above() {
        for nanos in [64, 65, 127, 128, 129, 1_000, 999_999, 1 << 40, u64::MAX] {
            let end = upper_end(slot(nanos));
            assert!(end >= nanos && end - nanos <= nanos / STEPS, "{nanos}: {end}");
            assert_eq!(slot(end), slot(nanos));
        }
    }

    #[test]
    fn percentile_is_the_value_at_its_rank() {
        let mut histogram = Histogram::new();
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (part, exact) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            let found = histogram.percentile(part);
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 64.0), "{part}: {found}");
        }
    }
}
