//! Distributions of latencies as SVG: the quantile to the right, each mark a tenth of what is left of
//! the former; the latency upwards, both logarithmic.

use plotters::prelude::*;

use super::table::time;

const SIZE: (u32, u32) = (900, 520);
/// The right end: what lies beyond is shown there.
const NINES_MAX: f64 = 5.0;
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
    RGBColor(127, 127, 127),
];

/// Quantiles (0 to 1, rising) and their latencies in microseconds.
#[derive(Clone, Debug)]
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The text of an SVG file.
pub fn plot(title: &str, curves: &[Curve]) -> Result<String, String> {
    let mut svg = String::new();
    draw(title, curves, &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}

/// 0.9 is 1, 0.99 is 2.
fn nines(quantile: f64) -> f64 {
    (-(1.0 - quantile).log10()).clamp(0.0, NINES_MAX)
}

fn draw(title: &str, curves: &[Curve], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let latencies = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let low = latencies().fold(f64::INFINITY, f64::min).clamp(0.1, 1e9) / 1.5;
    let high = latencies().fold(0.0, f64::max).max(low * 10.0) * 1.5;
    let right = curves.iter().flat_map(|curve| &curve.points).map(|point| nines(point.0));
    let right = right.fold(2.0, f64::max);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..right, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .x_labels(right as usize + 1)
        .x_label_formatter(&|nines| percent(*nines))
        .y_label_formatter(&|us| time(*us))
        .x_desc("quantile")
        .y_desc("latency")
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let points = curve.points.iter().map(|&(quantile, us)| (nines(quantile), us.max(low)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    area.present()?;
    Ok(())
}

fn percent(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    format!("{}%", (percent * 1e4).round() / 1e4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_svg_with_its_words_as_text() {
        let points = (0..40).map(|n| (1.0 - 0.7f64.powi(n), 100.0 * 1.2f64.powi(n))).collect();
        let curves = [Curve { name: "put".to_owned(), points }];
        let svg = plot("the title", &curves).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for word in ["the title", "put", "99.9%", "quantile", "latency", "<text", "<polyline"] {
            assert!(svg.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        plot("empty", &[]).unwrap();
        plot("one", &[Curve { name: "x".to_owned(), points: vec![(0.0, 0.0)] }]).unwrap();
    }

    #[test]
    fn marks_are_the_quantiles_that_people_speak_of() {
        let marks: Vec<_> = (0..5).map(|mark| percent(f64::from(mark))).collect();
        assert_eq!(marks, ["0%", "90%", "99%", "99.9%", "99.99%"]);
        assert!((nines(0.999) - 3.0).abs() < 1e-9);
        assert_eq!(nines(1.0), NINES_MAX);
    }
}
