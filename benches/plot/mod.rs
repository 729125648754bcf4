//! Lines over an axis with a scale of one's own, on a logarithmic scale, as SVG.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::path::Path;

use plotters::prelude::*;

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

pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// The labels of the axes.
    pub(crate) axes: (&'a str, &'a str),
    /// Where the first axis begins, and the number of its ticks.
    pub(crate) left: f64,
    pub(crate) ticks: usize,
    pub(crate) label: fn(&f64) -> String,
    pub(crate) lines: Vec<(&'a str, Vec<(f64, f64)>)>,
}

impl Plot<'_> {
    pub(crate) fn draw(self, path: &Path) {
        self.try_draw(path).expect("the plot is drawn");
    }

    fn try_draw(self, path: &Path) -> Drawn {
        assert!(self.lines.len() <= COLORS.len(), "each line has a colour of its own");
        let all = || self.lines.iter().flat_map(|(_, points)| points);
        let right = all().map(|(x, _)| *x).fold(self.left + 1.0, f64::max);
        let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
        let root = SVGBackend::new(path, (1200, 700)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(self.left..right, (low / 1.5..high * 1.5).log_scale())?;
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
