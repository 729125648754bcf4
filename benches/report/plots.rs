//! The plots.

use std::path::Path;

use crate::load::Load;
use crate::plot::Plot;
use crate::rows::Curve;

/// Writes per second by clients.
pub(crate) fn throughput(path: &Path, curves: &[Curve]) {
    let lines = curves.iter().map(|curve| {
        let points = curve
            .points
            .iter()
            .map(|(clients, rate)| ((*clients as f64).log2(), *rate));
        (curve.name, points.collect())
    });
    let plot = Plot {
        title: "writes a second by blocking clients",
        axes: ("clients", "writes/s"),
        left: 0.0,
        ticks: 7,
        label: |power| format!("{}", power.exp2()),
        lines: lines.collect(),
    };
    plot.draw(path);
}

/// Latency in milliseconds by percentile.
pub(crate) fn latencies(path: &Path, title: &str, loads: &[Load]) {
    let lines = loads.iter().map(|load| {
        // Position 1 is the 90th percentile, 2 the 99th, 3 the 99.9th.
        let points = (1..=40).map(|step| {
            let nines = f64::from(step) / 10.0;
            let time = load.latencies.at(1.0 - 10_f64.powf(-nines));
            (nines, (time.as_secs_f64() * 1000.0).max(0.001))
        });
        (load.name.as_str(), points.collect())
    });
    let plot = Plot {
        title,
        axes: ("share of the operations that are quicker", "ms"),
        left: 0.0,
        ticks: 5,
        label: |nines| {
            format!(
                "{:.*} %",
                (*nines as usize).saturating_sub(2),
                100.0 - 10_f64.powf(2.0 - nines)
            )
        },
        lines: lines.collect(),
    };
    plot.draw(path);
}
