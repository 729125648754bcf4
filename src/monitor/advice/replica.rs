//! Findings about the replica of a store. What is wrong with it now is an alert.

use std::time::Duration;

use super::{Finding, Severity};
use crate::telemetry::replica::ReplicaSample;
use crate::telemetry::stats::ReplicaStats;

/// A clock that differs by more spoils restores by time. In seconds.
const CLOCK: f64 = 300.0;

/// The last file may be so much after now: the clock goes on meanwhile, and the times of files stand still. In seconds.
const SET_BACK: f64 = 60.0;

pub(super) fn look(sample: &ReplicaSample, stats: &ReplicaStats) -> Vec<Finding> {
    let findings = [
        not_verified(stats),
        without_snapshot(sample, stats),
        unconditional(sample, stats),
        clock(sample),
        set_back(sample),
    ];
    findings.into_iter().flatten().collect()
}

fn not_verified(stats: &ReplicaStats) -> Option<Finding> {
    let is_news = stats.uploaded > 0 && stats.last_verify.is_none();
    is_news.then(|| {
        let message = format!("the replica {} was never verified from here", stats.replica);
        let remedy = "Verify it: store.replica()?.verify().restore(true).run(), or ReplicaOptions::verify_every";
        Finding::new(Severity::Note, "replica_not_verified", message, remedy)
    })
}

fn without_snapshot(sample: &ReplicaSample, stats: &ReplicaStats) -> Option<Finding> {
    let every = sample.opened.snapshot_every;
    // The one that is missing was due an interval after the last.
    (sample.snapshot_overdue > every).then(|| {
        let since = every.saturating_add(sample.snapshot_overdue);
        let message = format!(
            "the replica {} has got no snapshot for more than two intervals, so a restore takes longer, and what is older \
             than the retention stays",
            stats.replica
        );
        let remedy = "Look for the event \"the levels of the replica could not be brought up to date\", and do what it says; \
                      ReplicaOptions::snapshot_every is the interval";
        Finding::new(Severity::Warning, "replica_without_snapshot", message, remedy).with_measurement(
            since.as_secs_f64(),
            (2 * every).as_secs_f64(),
            "s",
        )
    })
}

fn unconditional(sample: &ReplicaSample, stats: &ReplicaStats) -> Option<Finding> {
    sample.opened.unconditional.then(|| {
        let message = format!(
            "the replica {} is written without conditions, so two processes that replicate to it would not notice each \
             other",
            stats.replica
        );
        let remedy = "Let one process ever replicate to it; or use a storage with conditional writes, and leave out \
                      ReplicaOptions::unconditional";
        Finding::new(Severity::Note, "replica_unconditional", message, remedy)
    })
}

/// One that is ahead is an alert.
fn clock(sample: &ReplicaSample) -> Option<Finding> {
    let behind = sample.opened.clock_behind as f64 / 1000.0;
    (behind > CLOCK).then(|| {
        let by = Duration::from_secs_f64(behind.floor());
        let message =
            format!("as the store was opened, the clock of this machine was {by:?} behind that of the replica's storage");
        let remedy = "Set the clock, and keep it right (NTP): a restore by time goes by the clock of the machine that wrote, \
                      and retention by that of the storage";
        Finding::new(Severity::Warning, "replica_clock", message, remedy).with_measurement(behind, CLOCK, "s")
    })
}

fn set_back(sample: &ReplicaSample) -> Option<Finding> {
    let ahead = sample.sealed_ahead as f64 / 1000.0;
    (ahead > SET_BACK).then(|| {
        let by = Duration::from_secs_f64(ahead.floor());
        let message = format!(
            "the newest transaction of the replica has a time that is {by:?} after now, because the clock was set back; \
             until then a restore by time cannot tell the transactions apart"
        );
        let remedy = "If the clock is right now, nothing: restore by transaction (ReplicaRestore::txid) until it has caught \
                      up. If not, set it";
        Finding::new(Severity::Warning, "replica_clock_set_back", message, remedy).with_measurement(ahead, SET_BACK, "s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::replica::{ReplicaFigures, ReplicaOpened};
    use std::time::SystemTime;

    const DAY: Duration = Duration::from_secs(86_400);

    fn topics(change: impl FnOnce(&ReplicaFigures)) -> Vec<&'static str> {
        let figures = ReplicaFigures::default();
        figures.begin("s3://bucket/app".into(), Duration::from_secs(1), 7, 7);
        figures.verified(SystemTime::now(), None);
        change(&figures);
        let found = look(&figures.sample().unwrap(), &figures.stats().unwrap());
        assert!(found.iter().all(|finding| finding.remedy.len() > 30));
        found.iter().map(|finding| finding.topic).collect()
    }

    fn opened(opened: ReplicaOpened) -> Vec<&'static str> {
        topics(|figures| figures.opened(opened))
    }

    #[test]
    fn sound_replica_has_no_advice() {
        assert!(topics(|_| {}).is_empty());
        assert!(
            opened(ReplicaOpened {
                clock_behind: 299_000,
                ..ReplicaOpened::default()
            })
            .is_empty()
        );
    }

    #[test]
    fn replica_that_was_never_verified_is_told() {
        let never = |uploaded| {
            topics(|figures| figures.begin("s3://bucket/app".into(), Duration::from_secs(1), uploaded, uploaded))
        };
        assert_eq!(never(1), ["replica_not_verified"]);
        assert!(never(0).is_empty(), "there is nothing to verify");
    }

    #[test]
    fn missing_snapshot_is_told_after_two_intervals() {
        let due = |ago: Duration| {
            topics(|figures| {
                let now = SystemTime::now();
                figures.opened(ReplicaOpened {
                    snapshot_every: DAY,
                    ..ReplicaOpened::default()
                });
                figures.snapshots(Some(now - ago - DAY), Some(now - ago));
            })
        };
        assert!(due(DAY / 2).is_empty());
        assert_eq!(due(DAY * 2), ["replica_without_snapshot"]);
    }

    #[test]
    fn unconditional_storage_and_wrong_clocks_are_told() {
        let unconditional = ReplicaOpened {
            unconditional: true,
            ..ReplicaOpened::default()
        };
        assert_eq!(opened(unconditional), ["replica_unconditional"]);
        let behind = ReplicaOpened {
            clock_behind: 400_000,
            ..ReplicaOpened::default()
        };
        assert_eq!(opened(behind), ["replica_clock"]);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let later = i64::try_from((since + Duration::from_secs(3600)).as_millis()).unwrap();
        assert_eq!(
            topics(|figures| figures.sealed(8, later, 0)),
            ["replica_clock_set_back"]
        );
    }
}
