//! The measurements as text: Markdown, and a line for each row while it goes on.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::report::{Basis, NATIVE, OTHER, QEMU, Report, Row, SOFTMETAL, geometric_mean};

/// What a column says of a row.
type Value<'a> = Box<dyn Fn(&Row) -> Option<f64> + 'a>;

/// A column of numbers: its title, and its value for a row.
struct Column<'a> {
    title: &'static str,
    digits: usize,
    /// Means are shown of ratios only.
    ratio: bool,
    value: Value<'a>,
}

impl<'a> Column<'a> {
    fn seconds(title: &'static str, side: &'static str) -> Self {
        Self { title, digits: 2, ratio: false, value: Box::new(move |row| row.median(side)) }
    }

    fn ratio(title: &'static str, value: impl Fn(&Row) -> Option<f64> + 'a) -> Self {
        Self { title, digits: 2, ratio: true, value: Box::new(value) }
    }

    fn cell(&self, value: Option<f64>) -> String {
        value.map_or_else(|| "-".to_owned(), |v| format!("{v:.*}", self.digits))
    }
}

fn columns<'a>(report: &Report, against: Option<&'a Report>) -> Vec<Column<'a>> {
    let mut columns = Vec::new();
    if report.has(NATIVE) {
        columns.push(Column::seconds("native s", NATIVE));
    }
    if report.has(QEMU) {
        columns.push(Column::seconds("QEMU s", QEMU));
    }
    columns.push(Column::seconds("softmetal s", SOFTMETAL));
    if report.has(NATIVE) {
        columns.push(Column::ratio("softmetal / native", |row| row.over(SOFTMETAL, NATIVE)));
    }
    if report.has(QEMU) {
        columns.push(Column::ratio("QEMU / softmetal", Row::ratio));
    }
    if report.has_other() {
        columns.push(Column::seconds("other s", OTHER));
        columns.push(Column::ratio("softmetal / other", |row| row.over(SOFTMETAL, OTHER)));
        if report.has(QEMU) {
            columns.push(Column::ratio("QEMU / other", |row| row.over(QEMU, OTHER)));
        }
    }
    if let Some(before) = against {
        // As long as it was the same work.
        let then = move |row: &Row, side: &str| {
            let then = before.row(&row.group, &row.name).filter(|then| then.work == row.work)?;
            then.median(side)
        };
        let over = move |row: &Row, side: &str| Some(then(row, side)? / row.median(side)?);
        columns.push(Column {
            title: "before s",
            digits: 2,
            ratio: false,
            value: Box::new(move |row| then(row, SOFTMETAL)),
        });
        columns.push(Column::ratio("before / now", move |row| over(row, SOFTMETAL)));
        if report.has(QEMU) && before.has(QEMU) {
            columns.push(Column::ratio("QEMU before / now", move |row| over(row, QEMU)));
        }
    }
    columns
}

/// Everything: what was measured on what, the rows, the groups' means, what failed, what the guests see.
pub(crate) fn markdown(report: &Report, against: Option<&Report>) -> String {
    let mut out = String::new();
    let columns = columns(report, against);
    about(&mut out, report, against);
    out.push_str("\n| group | row |");
    columns.iter().for_each(|column| out.push_str(&format!(" {} |", column.title)));
    out.push_str(" spread |\n|---|---|");
    columns.iter().for_each(|_| out.push_str("---:|"));
    out.push_str("---:|\n");
    for group in report.groups() {
        for row in report.of_group(group) {
            let _ = write!(out, "| {group} | {} |", row.name);
            columns
                .iter()
                .for_each(|column| out.push_str(&format!(" {} |", column.cell((column.value)(row)))));
            out.push_str(
                &row.spread().map_or_else(|| " - |\n".to_owned(), |s| format!(" {:.0} % |\n", s * 100.0)),
            );
        }
        means(&mut out, &columns, &format!("**{group}**"), &report.of_group(group).collect::<Vec<_>>());
    }
    if report.groups().len() > 1 {
        means(&mut out, &columns, "**all**", &report.rows.iter().collect::<Vec<_>>());
    }
    for (row, side, why) in report.failures() {
        let _ = writeln!(
            out,
            "\n**Failed:** {} {} under {side}: {}",
            row.group,
            row.name,
            why.replace('\n', " ")
        );
    }
    seen(&mut out, report);
    out
}

fn about(out: &mut String, report: &Report, against: Option<&Report>) {
    let steal = 100.0 * report.stolen / report.ticks.max(1.0);
    let times = match report.basis {
        Basis::Clock => "by the host's clock",
        Basis::Cpu => "of the host's processors: what the process used",
    };
    let _ = writeln!(
        out,
        "Seconds {times}. Medians of {} rounds, {} % of each row's work; *spread* is the greatest distance between two rounds \
         of an emulator.\n\n\
         - Host: {}; load {} before, {} after; {steal:.1} % of its time stolen by its own hypervisor.\n\
         - softmetal {}; {}.",
        report.rounds,
        report.percent,
        report.host,
        report.load[0],
        report.load[1],
        report.softmetal,
        report.qemu
    );
    for (side, how) in report.sides.iter().filter(|(_, how)| !how.is_empty()) {
        let _ = writeln!(out, "- {side}: `{how}`");
    }
    if let Some(before) = against {
        let _ = writeln!(
            out,
            "- before: softmetal {}, on {}, load {}",
            before.softmetal, before.host, before.load[0]
        );
    }
}

fn means(out: &mut String, columns: &[Column<'_>], title: &str, rows: &[&Row]) {
    let _ = write!(out, "| {title} | *geometric mean* |");
    for column in columns {
        let mean = geometric_mean(rows.iter().filter_map(|row| (column.value)(row))).filter(|_| column.ratio);
        match mean {
            Some(mean) => out.push_str(&format!(" **{}** |", column.cell(Some(mean)))),
            None => out.push_str(" |"),
        }
    }
    out.push_str(" |\n");
}

/// The processors and clocks that the guests find.
fn seen(out: &mut String, report: &Report) {
    for (side, seen) in &report.seen {
        let _ = writeln!(out, "\n{side}'s guest keeps time by `{}`.", seen.clock_source);
    }
    let flags = |side| {
        let seen = report.seen.get(side)?;
        Some(seen.flags.split_whitespace().collect::<BTreeSet<&str>>())
    };
    let (Some(ours), Some(theirs)) = (flags(SOFTMETAL), flags(QEMU)) else { return };
    let list = |flags: Vec<&&str>| flags.into_iter().copied().collect::<Vec<_>>().join(" ");
    let _ = writeln!(
        out,
        "\nFlags of CPUID, as Linux names them. Both guests have: `{}`.\n\nOnly softmetal's: `{}`.\n\nOnly QEMU's: `{}`.",
        list(ours.intersection(&theirs).collect()),
        list(ours.difference(&theirs).collect()),
        list(theirs.difference(&ours).collect())
    );
}

/// A row while others still run.
pub(crate) fn line(row: &Row) -> String {
    let mut out = format!("{} {}:", row.group, row.name);
    for side in row.seconds.keys() {
        match row.median(side) {
            Some(median) => out.push_str(&format!("  {side} {median:.2} s")),
            None => out.push_str(&format!("  {side} failed")),
        }
    }
    row.failures.iter().for_each(|(side, why)| out.push_str(&format!("\n    {side}: {why}")));
    if let Some(ratio) = row.ratio() {
        out.push_str(&format!("  QEMU / softmetal {ratio:.2}"));
    }
    if let Some(ratio) = row.over(SOFTMETAL, OTHER) {
        out.push_str(&format!("  softmetal / other {ratio:.2}"));
    }
    out
}
