//! Plots: bars beside each other, as SVG that needs nothing to be looked at.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::Figure;
use crate::figure::short;

const WIDTH: f64 = 860.0;
/// Where bars begin; labels end before it.
const LEFT: f64 = 400.0;
/// Room behind the longest bar for its value.
const RIGHT: f64 = 110.0;
const ROW: f64 = 26.0;
const TOP: f64 = 34.0;

const OURS: &str = "#2f6f9f";
const OTHERS: &str = "#b9c3cc";

/// The names of all plots.
pub(super) fn names(figures: &[Figure]) -> BTreeSet<String> {
    figures
        .iter()
        .filter_map(|figure| figure.plot.clone())
        .collect()
}

/// The figures of one plot.
pub(super) fn of<'a>(figures: &'a [Figure], name: &'a str) -> impl Iterator<Item = &'a Figure> {
    figures
        .iter()
        .filter(move |figure| figure.plot.as_deref() == Some(name))
}

/// A plot: a bar for each figure, with a line from its smallest to its largest measurement.
pub(super) fn svg(bars: &[&Figure]) -> String {
    let most = bars
        .iter()
        .map(|bar| bar.max.max(bar.value))
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let height = TOP + ROW * bars.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let unit = bars.first().map_or("", |bar| bar.unit.as_str());
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"20\" fill=\"#5a6570\">{}</text>",
        escape(unit)
    );
    for (index, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        let middle = y + ROW / 2.0;
        let length = (bar.value * scale).max(1.0);
        let (low, high) = (LEFT + bar.min * scale, LEFT + bar.max * scale);
        let color = if is_ours(bar) { OURS } else { OTHERS };
        let end = high.max(LEFT + length) + 8.0;
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#1d2329\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{color}\"/>\n\
             <line x1=\"{low:.1}\" y1=\"{middle:.1}\" x2=\"{high:.1}\" y2=\"{middle:.1}\" stroke=\"#1d2329\"/>\n\
             <text x=\"{end:.1}\" y=\"{:.1}\" fill=\"#1d2329\">{}</text>",
            LEFT - 10.0,
            middle + 4.5,
            escape(&bar.label),
            y + 4.0,
            ROW - 8.0,
            middle + 4.5,
            short(bar.value),
        );
    }
    svg + "</svg>\n"
}

/// What is not a peer, a bound or a machine's limit is ours.
fn is_ours(figure: &Figure) -> bool {
    let others = [
        "Flower", "PyTorch", "NVFLARE", "NATS", "gRPC", "native", "reading", "Python", "fixed",
        "oracle",
    ];
    !others.iter().any(|other| figure.label.starts_with(other))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Samples;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let figure = |value: f64| {
            let samples = Samples::new(vec![value]).unwrap();
            Figure::new("a.b", "a < b", "s", &samples)
        };
        let (one, two) = (figure(1.0), figure(2.0));
        let svg = svg(&[&one, &two]);
        let full = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width=\"{full:.1}\"")), "{svg}");
        assert!(
            svg.contains(&format!("width=\"{:.1}\"", full / 2.0)),
            "{svg}"
        );
        assert!(svg.contains("a &lt; b"), "{svg}");
    }
}
