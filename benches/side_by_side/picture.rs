//! The pictures, on a logarithmic scale: a bar for each row, by groups with their means; and the groups alone, for README.

use std::fmt::Write;

use crate::report::{Basis, Report, Row, geometric_mean};

/// Places, in the picture's units.
const LINE: f64 = 17.0;
const TOP: f64 = 92.0;
const NAMES: f64 = 218.0;
const WIDTH: f64 = 860.0;
const RIGHT: f64 = WIDTH - 78.0;

/// Colours that differ for every kind of eye (after Okabe and Ito), on a card that brings its own ground in light and dark.
const STYLE: &str = "
  text { font: 12px -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif; fill: #24292f; }
  .title { font-size: 17px; font-weight: 600; }
  .small { font-size: 11px; fill: #57606a; }
  .group { font-weight: 600; }
  .card { fill: #ffffff; stroke: #d0d7de; }
  .grid { stroke: #d8dee4; stroke-width: 1; }
  .one { stroke: #57606a; stroke-width: 1.5; }
  .faster { fill: #0072b2; }
  .slower { fill: #d55e00; }
  .mean { opacity: 0.35; }
  .dot { fill: #ffffff; stroke: #24292f; stroke-width: 1.2; }
  .failed { fill: #57606a; font-style: italic; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .small, .failed { fill: #9198a1; }
    .card { fill: #0d1117; stroke: #3d444d; }
    .grid { stroke: #2a313c; }
    .one { stroke: #9198a1; }
    .dot { fill: #0d1117; stroke: #e6edf3; }
    .faster { fill: #56b4e9; }
    .slower { fill: #e69f00; }
  }
";

/// From ratios to places.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    /// Whole powers of two around all ratios, and 1 among them.
    fn around(ratios: &[f64]) -> Self {
        let low = ratios.iter().copied().fold(0.5, f64::min).log2().floor() as i32;
        let high = ratios.iter().copied().fold(2.0, f64::max).log2().ceil() as i32;
        Self { low, high }
    }

    fn x(&self, ratio: f64) -> f64 {
        let part = (ratio.log2() - f64::from(self.low)) / f64::from(self.high - self.low);
        NAMES + part.clamp(0.0, 1.0) * (RIGHT - NAMES)
    }
}

/// "4x" and "1/4x".
fn times(power: i32) -> String {
    if power < 0 { format!("1/{}×", 1u64 << -power) } else { format!("{}×", 1u64 << power) }
}

fn bar(out: &mut String, scale: &Scale, y: f64, ratio: f64, mean: bool) {
    let (one, end) = (scale.x(1.0), scale.x(ratio));
    let class = if ratio >= 1.0 { "faster" } else { "slower" };
    let (height, mean) = if mean { (LINE - 2.0, " mean") } else { (LINE - 6.0, "") };
    let _ = writeln!(
        out,
        "<rect class=\"{class}{mean}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height}\" rx=\"2\"/>",
        one.min(end),
        y - height / 2.0,
        (one - end).abs().max(1.0)
    );
}

fn text(out: &mut String, x: f64, y: f64, class: &str, anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{what}</text>",
        y + 4.0
    );
}

/// The card with its title and scale, for so many lines of rows and groups; behind it the drawing goes on.
fn begin(report: &Report, scale: &Scale, about: &str, bottom: f64) -> String {
    let height = bottom + 34.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"softmetal's speed against QEMU's\">\n\
         <style>{STYLE}</style>\n\
         <rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"8\"/>\n",
        WIDTH - 1.0,
        height - 1.0
    );
    text(&mut out, 20.0, 26.0, "title", "start", "softmetal against QEMU without KVM (TCG)");
    let all = geometric_mean(report.rows.iter().filter_map(Row::ratio));
    let all = all.map_or_else(String::new, |mean| format!(" All rows: {mean:.2}×."));
    let time = match report.basis {
        Basis::Clock => "time",
        Basis::Cpu => "processor time",
    };
    let about = format!("QEMU's {time} over softmetal's for the same work. {about}{all}");
    text(&mut out, 20.0, 46.0, "small", "start", &about);
    for power in scale.low..=scale.high {
        let x = scale.x(2f64.powi(power));
        let class = if power == 0 { "one" } else { "grid" };
        let _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>",
            TOP - 12.0
        );
        // Where the steps are narrow, every second one has a number.
        if scale.high - scale.low <= 9 || power % 2 == 0 {
            text(&mut out, x, TOP - 20.0, "small", "middle", &times(power));
        }
    }
    text(&mut out, scale.x(1.0) + 8.0, bottom + 12.0, "small", "start", "softmetal faster →");
    text(&mut out, scale.x(1.0) - 8.0, bottom + 12.0, "small", "end", "← QEMU faster");
    out
}

fn scale(report: &Report) -> Scale {
    Scale::around(&report.rows.iter().filter_map(Row::ratio).collect::<Vec<_>>())
}

/// A bar for each row. To the right softmetal is faster than QEMU, to the left slower.
pub(crate) fn rows(report: &Report) -> String {
    let scale = scale(report);
    let lines = report.rows.len() + report.groups().len();
    let bottom = TOP + LINE * (lines as f64 + 0.6 * report.groups().len() as f64) + 6.0;
    let mut out = begin(report, &scale, "Pale bars: geometric means.", bottom);
    let mut y = TOP;
    for group in report.groups() {
        y += LINE * 0.6;
        let mean = geometric_mean(report.of_group(group).filter_map(Row::ratio));
        text(&mut out, 20.0, y, "group", "start", group);
        if let Some(mean) = mean {
            bar(&mut out, &scale, y, mean, true);
            text(&mut out, RIGHT + 12.0, y, "group", "start", &format!("{mean:.2}×"));
        }
        y += LINE;
        for row in report.of_group(group) {
            text(&mut out, NAMES - 10.0, y, "", "end", &row.name);
            match row.ratio() {
                Some(ratio) => {
                    bar(&mut out, &scale, y, ratio, false);
                    text(&mut out, RIGHT + 12.0, y, "", "start", &format!("{ratio:.2}×"));
                }
                None => text(&mut out, RIGHT + 12.0, y, "failed", "start", "-"),
            }
            y += LINE;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// What a group is about, for those who have not read its rows.
fn subject(group: &str) -> &str {
    match group {
        "integer" => "integer programs",
        "float" => "floating point",
        "vector" => "SSE, strings",
        "memory" => "copies",
        "system" => "system calls, processes",
        "code" => "new and changing code",
        "threads" => "two processors, atomics",
        "programs" => "python, gcc, openssl, ..",
        "boot" => "boots of Debian's kernels",
        "bare" => "MMU, interrupts, modes",
        other => other,
    }
}

/// A bar for each group's mean, with a dot for each of its rows.
pub(crate) fn groups(report: &Report) -> String {
    const STEP: f64 = 26.0;
    let scale = scale(report);
    let bottom = TOP + STEP * report.groups().len() as f64 - 4.0;
    let about = "Bars: geometric means; dots: rows.";
    let mut out = begin(report, &scale, about, bottom);
    for (k, group) in report.groups().into_iter().enumerate() {
        let y = TOP + STEP * (k as f64 + 0.3);
        text(&mut out, NAMES - 10.0, y, "group", "end", subject(group));
        let ratios: Vec<f64> = report.of_group(group).filter_map(Row::ratio).collect();
        let Some(mean) = geometric_mean(ratios.iter().copied()) else { continue };
        bar(&mut out, &scale, y, mean, false);
        text(&mut out, RIGHT + 12.0, y, "group", "start", &format!("{mean:.2}×"));
        for ratio in ratios {
            let _ =
                writeln!(out, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\"/>", scale.x(ratio));
        }
    }
    out.push_str("</svg>\n");
    out
}
