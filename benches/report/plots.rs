//! The two plots.

use std::path::Path;

use plotters::prelude::*;

use crate::load::Load;
use crate::rows::Curve;

type Drawn = Result<(), Box<dyn std::error::Error>>;

const COLORS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(174, 199, 232),
    RGBColor(214, 39, 40),
    RGBColor(255, 152, 150),
    RGBColor(44, 160, 44),
    RGBColor(152, 223, 138),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
];

/// Writes a second by clients.
pub(crate) fn throughput(path: &Path, curves: &[Curve]) {
    let lines = curves.iter().map(|curve| {
        let points = curve.points.iter().map(|(clients, rate)| (*clients as f64, *rate));
        (curve.name, points.collect())
    });
    draw(
        path,
        "writes a second by blocking clients",
        ("clients", "writes/s"),
        lines.collect(),
    )
    .expect("the plot is drawn");
}

/// Latency in milliseconds by percentile: at 1 are 90 % of the operations quicker, at 2 are 99 %, at 3 are 99.9 %.
pub(crate) fn latencies(path: &Path, loads: &[Load]) {
    let lines = loads.iter().map(|load| {
        let points = (1..=40).map(|step| {
            let nines = f64::from(step) / 10.0;
            let time = load.latencies.at(1.0 - 10_f64.powf(-nines));
            (nines, (time.as_secs_f64() * 1000.0).max(0.001))
        });
        (load.name.as_str(), points.collect())
    });
    let axes = ("percentile, as its number of nines", "ms");
    draw(path, "write latency under load", axes, lines.collect()).expect("the plot is drawn");
}

/// Lines on a logarithmic scale.
fn draw(path: &Path, title: &str, axes: (&str, &str), lines: Vec<(&str, Vec<(f64, f64)>)>) -> Drawn {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let right = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..right, (low / 1.5..high * 1.5).log_scale())?;
    chart.configure_mesh().x_desc(axes.0).y_desc(axes.1).draw()?;
    for ((name, points), color) in lines.into_iter().zip(COLORS) {
        let series = LineSeries::new(points, color.stroke_width(2));
        let drawn = chart.draw_series(series)?.label(name);
        drawn.legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}
