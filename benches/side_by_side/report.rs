//! The measurements: ratios, means, the table, JSON, the picture.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

/// The times of a row under one engine, in seconds, one for each round.
pub(crate) type Times = BTreeMap<String, Vec<f64>>;

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) name: String,
    /// By engine.
    pub(crate) seconds: Times,
}

/// All that was measured, and on what.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) host: String,
    pub(crate) qemu: String,
    /// The flags of CPUID that each guest sees.
    pub(crate) flags: BTreeMap<String, String>,
    /// /proc/loadavg and stolen time at the beginning and the end.
    pub(crate) load: [String; 2],
    pub(crate) steal_seconds: f64,
    /// How much of each row's work was done, in per cent.
    pub(crate) percent: u32,
    pub(crate) rounds: usize,
    pub(crate) rows: Vec<Row>,
}

fn median(times: &[f64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
}

impl Row {
    pub(crate) fn median(&self, engine: &str) -> Option<f64> {
        median(self.seconds.get(engine)?)
    }

    /// QEMU's time over softmetal's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(self.median("qemu")? / self.median("softmetal")?)
    }
}

fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

impl Report {
    fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !groups.contains(&row.group.as_str()) {
                groups.push(&row.group);
            }
        }
        groups
    }

    fn group_ratio(&self, group: &str) -> Option<f64> {
        geometric_mean(self.rows.iter().filter(|row| row.group == group).filter_map(Row::ratio))
    }

    /// The table, as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from(
            "| group | row | native s | QEMU s | softmetal s | QEMU / softmetal |\n|---|---|---:|---:|---:|---:|\n",
        );
        let cell = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
        for group in self.groups() {
            for row in self.rows.iter().filter(|row| row.group == group) {
                let [native, qemu, softmetal] = ["native", "qemu", "softmetal"].map(|e| cell(row.median(e)));
                let ratio = cell(row.ratio());
                let _ =
                    writeln!(out, "| {group} | {} | {native} | {qemu} | {softmetal} | {ratio} |", row.name);
            }
            let _ = writeln!(
                out,
                "| **{group}** | geometric mean | | | | **{}** |",
                cell(self.group_ratio(group))
            );
        }
        out
    }

    /// A bar for each row on a logarithmic scale, 1 in the middle: to the right softmetal is faster.
    pub(crate) fn svg(&self) -> String {
        const LINE: f64 = 18.0;
        const LEFT: f64 = 190.0;
        const HALF: f64 = 230.0;
        let ratios: Vec<(&Row, f64)> = self.rows.iter().filter_map(|row| Some((row, row.ratio()?))).collect();
        let widest = ratios.iter().map(|(_, r)| r.log10().abs()).fold(1.0, f64::max);
        let height = LINE * (ratios.len() as f64 + 2.0);
        let middle = LEFT + HALF;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{middle:.0}\" y=\"14\" text-anchor=\"middle\">QEMU's time / softmetal's time; bars to the right: \
             softmetal is faster</text>\n",
            LEFT + 2.0 * HALF + 60.0
        );
        for (k, (row, ratio)) in ratios.iter().enumerate() {
            let y = LINE * (k as f64 + 1.5);
            let length = ratio.log10().abs() / widest * HALF;
            let (x, colour) = if *ratio >= 1.0 { (middle, "#2a7") } else { (middle - length, "#c54") };
            let _ = writeln!(
                out,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{} {}</text>\
                 <rect x=\"{x:.1}\" y=\"{:.0}\" width=\"{length:.1}\" height=\"12\" fill=\"{colour}\"/>\
                 <text x=\"{:.0}\" y=\"{:.0}\">{ratio:.2}</text>",
                LEFT - 8.0,
                y + 10.0,
                row.group,
                row.name,
                y,
                middle + HALF + 8.0,
                y + 10.0
            );
        }
        let _ = writeln!(
            out,
            "<line x1=\"{middle:.0}\" y1=\"{LINE:.0}\" x2=\"{middle:.0}\" y2=\"{height:.0}\" stroke=\"#444\"/>\n</svg>"
        );
        out
    }
}
