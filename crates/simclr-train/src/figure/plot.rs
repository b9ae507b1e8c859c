//! Curves over one axis.

use std::fmt::Write as _;

use super::{STYLE, escape};

/// A line of a plot.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// x and y; points that are not finite leave a gap.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Series over one x axis, and constants to compare them with.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// The first is the main one and lies on top of the others.
    pub(crate) series: Vec<Series>,
    /// Name and height of horizontal lines.
    pub(crate) baselines: Vec<(String, f64)>,
}

/// Size of a plot, in units that are CSS pixels at its natural size: small enough that text is readable on a phone.
const WIDTH: f64 = 440.0;
const AREA_HEIGHT: f64 = 200.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 48.0;
const BELOW_AREA: f64 = 44.0;
const LEGEND_LINE: f64 = 18.0;

/// With more points than this, dots would hide the line.
const MOST_DOTS: usize = 40;

/// The plots one below the other, as one SVG document that can also stand inside an HTML page.
pub(crate) fn svg(plots: &[Plot]) -> String {
    let height: f64 = plots.iter().map(height).sum();
    let mut out = String::new();
    let titles: Vec<String> = plots.iter().map(|plot| escape(&plot.title)).collect();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"figure\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\"><style>{STYLE}</style>\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>",
        titles.join("; ")
    );
    let mut top = 0.0;
    for plot in plots {
        draw(&mut out, plot, top);
        top += self::height(plot);
    }
    out.push_str("</svg>\n");
    out
}

fn height(plot: &Plot) -> f64 {
    TOP + AREA_HEIGHT + BELOW_AREA + LEGEND_LINE * (plot.series.len() + plot.baselines.len()) as f64 + 8.0
}

fn draw(out: &mut String, plot: &Plot, top: f64) {
    let points =
        || plot.series.iter().flat_map(|series| &series.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let heights = plot.baselines.iter().map(|(_, y)| *y).filter(|y| y.is_finite());
    let x = Axis::over(points().map(|(x, _)| *x));
    let y = Axis::over(points().map(|(_, y)| *y).chain(heights));
    let (area_bottom, area_right) = (top + TOP + AREA_HEIGHT, WIDTH - RIGHT);
    let place_x = |v: f64| LEFT + x.share(v) * (area_right - LEFT);
    let place_y = |v: f64| area_bottom - y.share(v) * AREA_HEIGHT;

    let (title, y_label) = (escape(&plot.title), escape(&plot.y_label));
    let _ = write!(out, "<text class=\"title\" x=\"8\" y=\"{}\">{title}</text>", top + 20.0);
    let _ = write!(out, "<text x=\"8\" y=\"{}\">{y_label}</text>", top + 38.0);
    for tick in y.ticks() {
        let (at, text) = (place_y(tick), y.format(tick));
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{area_right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for tick in x.ticks() {
        let (at, text) = (place_x(tick), x.format(tick));
        let text_y = area_bottom + 16.0;
        let _ = write!(out, "<text x=\"{at:.1}\" y=\"{text_y}\" text-anchor=\"middle\">{text}</text>");
    }
    let (middle, label_y) = ((LEFT + area_right) / 2.0, area_bottom + 34.0);
    let x_label = escape(&plot.x_label);
    let _ = write!(out, "<text x=\"{middle}\" y=\"{label_y}\" text-anchor=\"middle\">{x_label}</text>");

    for (i, (_, height)) in plot.baselines.iter().enumerate().filter(|(_, (_, height))| height.is_finite()) {
        let at = place_y(*height);
        let _ = write!(
            out,
            "<line class=\"base\" style=\"stroke:var(--b{})\" x1=\"{LEFT}\" x2=\"{area_right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            i % 3
        );
    }
    for (i, series) in plot.series.iter().enumerate().rev() {
        let class = if i == 0 { "line" } else { "line other" };
        for run in series.points.split(|(x, y)| !x.is_finite() || !y.is_finite()).filter(|run| !run.is_empty()) {
            let places: Vec<String> =
                run.iter().map(|(x, y)| format!("{:.1},{:.1}", place_x(*x), place_y(*y))).collect();
            let places = places.join(" ");
            let _ =
                write!(out, "<polyline class=\"{class}\" style=\"stroke:var(--s{})\" points=\"{places}\"/>", i.min(1));
            if (i == 0 && run.len() <= MOST_DOTS) || run.len() == 1 {
                for (x, y) in run {
                    let (x, y) = (place_x(*x), place_y(*y));
                    let _ = write!(
                        out,
                        "<circle style=\"fill:var(--s{})\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>",
                        i.min(1)
                    );
                }
            }
        }
    }

    let mut line_y = area_bottom + BELOW_AREA + 10.0;
    let mut legend = |class: &str, colour: String, text: String| {
        let swatch = line_y - 4.0;
        let _ = write!(
            out,
            "<line class=\"{class}\" style=\"stroke:var(--{colour})\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{swatch}\" y2=\"{swatch}\"/>\
             <text class=\"legend\" x=\"{}\" y=\"{line_y}\">{}</text>",
            LEFT + 24.0,
            LEFT + 32.0,
            escape(&text)
        );
        line_y += LEGEND_LINE;
    };
    for (i, series) in plot.series.iter().enumerate() {
        legend(if i == 0 { "line" } else { "line other" }, format!("s{}", i.min(1)), series.name.clone());
    }
    for (i, (name, height)) in plot.baselines.iter().enumerate() {
        legend("base", format!("b{}", i % 3), format!("{name}: {height:.2}"));
    }
}

/// From one round number to another, with round numbers between.
#[derive(Clone, Copy, Debug)]
struct Axis {
    from: f64,
    to: f64,
    step: f64,
}

impl Axis {
    /// The smallest that has all `values`; 0 to 1 without any.
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = match (low.is_finite(), low < high) {
            (false, _) => (0.0, 1.0),
            (true, true) => (low, high),
            // One value: room on both sides of it.
            (true, false) => (low - 0.5 * low.abs().max(1.0), low + 0.5 * low.abs().max(1.0)),
        };
        let rough = (high - low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        Self { from: (low / step).floor() * step, to: (high / step).ceil() * step, step }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.to - self.from) / self.step).round() as u32;
        (0..=count).map(|i| self.from + f64::from(i) * self.step)
    }

    /// With as many decimals as tell two ticks apart.
    fn format(&self, tick: f64) -> String {
        let decimals = (-self.step.log10().floor()).clamp(0.0, 6.0) as usize;
        // No "-0".
        format!("{:.decimals$}", if tick.abs() < self.step / 2.0 { 0.0 } else { tick })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> Plot {
        Plot {
            title: "Loss <of & \"all\">".into(),
            x_label: "epoch".into(),
            y_label: "nats".into(),
            series: vec![Series { name: "mean".into(), points: points.into() }],
            baselines: vec![("random".into(), 2.0)],
        }
    }

    #[test]
    fn points_lie_where_the_axes_say() {
        let svg = svg(&[plot(&[(0.0, 0.0), (5.0, 10.0)])]);
        // The corners of the area: (0, 0) below left, (5, 10) above right, the baseline a fifth of the way up.
        assert!(svg.contains("points=\"52.0,248.0 426.0,48.0\""), "{svg}");
        assert!(svg.contains("y1=\"208.0\" y2=\"208.0\"/>"), "{svg}");
        assert!(svg.contains("Loss &lt;of &amp; &quot;all&quot;&gt;") && !svg.contains("<of"), "{svg}");
        assert!(svg.contains(">random: 2.00<"), "{svg}");
    }

    #[test]
    fn what_is_not_a_number_leaves_a_gap() {
        let svg = svg(&[plot(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 3.0)])]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_one_point_and_a_constant_can_be_drawn() {
        for points in [&[][..], &[(1.0, 1.0)], &[(1.0, 0.0), (2.0, 0.0)], &[(1.0, f64::INFINITY)]] {
            let svg = svg(&[Plot { baselines: Vec::new(), ..plot(points) }, plot(points)]);
            assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.ends_with("</svg>\n"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_told_apart() {
        let labels = |values: &[f64]| {
            let axis = Axis::over(values.iter().copied());
            axis.ticks().map(|tick| axis.format(tick)).collect::<Vec<_>>()
        };
        assert_eq!(labels(&[0.0, 10.0]), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(&[3.41, 3.78]), ["3.4", "3.5", "3.6", "3.7", "3.8"]);
        assert_eq!(labels(&[-1.0, 1.0]), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(&[0.0, 20_000.0]), ["0", "5000", "10000", "15000", "20000"]);
    }
}
