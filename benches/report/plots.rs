//! The plots.

use std::path::Path;

use plotters::prelude::*;

use crate::load::Load;
use crate::rows::Curve;

type Drawn = Result<(), Box<dyn std::error::Error>>;

const COLORS: [RGBColor; 16] = [
    RGBColor(31, 119, 180),
    RGBColor(174, 199, 232),
    RGBColor(214, 39, 40),
    RGBColor(255, 152, 150),
    RGBColor(44, 160, 44),
    RGBColor(152, 223, 138),
    RGBColor(148, 103, 189),
    RGBColor(197, 176, 213),
    RGBColor(140, 86, 75),
    RGBColor(196, 156, 148),
    RGBColor(227, 119, 194),
    RGBColor(247, 182, 210),
    RGBColor(127, 127, 127),
    RGBColor(188, 189, 34),
    RGBColor(23, 190, 207),
    RGBColor(158, 218, 229),
];

struct Plot<'a> {
    title: &'a str,
    /// The labels of the axes, and the number of ticks on the first.
    axes: (&'a str, &'a str),
    ticks: usize,
    label: fn(&f64) -> String,
    lines: Vec<(&'a str, Vec<(f64, f64)>)>,
}

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
        ticks: 7,
        label: |power| format!("{}", power.exp2()),
        lines: lines.collect(),
    };
    plot.draw(path).expect("the plot is drawn");
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
    plot.draw(path).expect("the plot is drawn");
}

impl Plot<'_> {
    /// Lines on a logarithmic scale.
    fn draw(self, path: &Path) -> Drawn {
        assert!(self.lines.len() <= COLORS.len(), "each line has a colour of its own");
        let all = || self.lines.iter().flat_map(|(_, points)| points);
        let right = all().map(|(x, _)| *x).fold(1.0, f64::max);
        let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
        let root = SVGBackend::new(path, (1200, 700)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..right, (low / 1.5..high * 1.5).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.axes.0)
            .x_labels(self.ticks)
            .x_label_formatter(&self.label)
            .y_desc(self.axes.1)
            .y_label_formatter(&|y| format!("{y}"))
            .draw()?;
        for ((name, points), color) in self.lines.into_iter().zip(COLORS) {
            let series = LineSeries::new(points, color.stroke_width(2));
            let drawn = chart.draw_series(series)?.label(name);
            drawn.legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        root.present()?;
        Ok(())
    }
}
