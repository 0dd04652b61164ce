//! What a run has found, for people.

use super::run::{Seen, Tally};
use std::fmt::Write;

/// Lines of the table of differences.
const TABLE: usize = 60;

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (k, digit) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The whole report.
pub fn report(tally: &Tally) -> String {
    let mut out = String::new();
    let seconds = tally.elapsed.as_secs_f64();
    let rate = tally.cases as f64 / seconds.max(0.001);
    let _ = writeln!(
        out,
        "{} cases in {seconds:.1} s, {} a second; {:.1} % of them ended with an exception.",
        grouped(tally.cases),
        grouped(rate as u64),
        100.0 * tally.faults as f64 / tally.cases.max(1) as f64,
    );
    let _ = writeln!(out, "{} of {} instructions were met.", tally.codes.len(), tally.planned);
    if !tally.missed.is_empty() {
        let _ = writeln!(out, "Not met: {}", tally.missed.join(" "));
    }
    if tally.blocks > 0 {
        let _ = writeln!(out, "{} cases were runs of several instructions.", grouped(tally.blocks));
    }
    if tally.near > 0 {
        let _ = writeln!(
            out,
            "{} results that need not be exact (approximations, transcendental functions) were near enough.",
            grouped(tally.near)
        );
    }
    if tally.differences == 0 {
        out.push_str("Nothing differs.\n");
        return out;
    }
    for told in &tally.different_blocks {
        let _ = writeln!(out, "\nA run of instructions differs:\n{told}");
    }
    let mut different: Vec<(&String, &Seen)> =
        tally.codes.iter().filter(|(_, seen)| seen.differences > 0).collect();
    different.sort_by_key(|(name, seen)| (std::cmp::Reverse(seen.differences), *name));
    if different.is_empty() {
        return out;
    }
    let _ = writeln!(
        out,
        "{} cases of {} instructions differ:\n\n{:36} {:>9} {:>9}  what",
        grouped(tally.differences),
        different.len(),
        "instruction",
        "cases",
        "differ"
    );
    for (name, seen) in different.iter().take(TABLE) {
        let _ = writeln!(
            out,
            "{name:36} {:>9} {:>9}  {}",
            grouped(seen.cases),
            grouped(seen.differences),
            kinds(seen)
        );
    }
    if different.len() > TABLE {
        let _ = writeln!(out, "and {} more", different.len() - TABLE);
    }
    out.push_str(
        "\nThe smallest case of each, as lines for .ins files; behind the arrow stands what is right:\n\n",
    );
    for (line, text) in different.iter().filter_map(|(_, seen)| seen.smallest.as_ref()).take(TABLE) {
        let comment = text.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        let _ = writeln!(out, "# {comment}\n{line}");
    }
    out
}

/// How often each kind of thing differed.
fn kinds(seen: &Seen) -> String {
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    for (part, n) in &seen.kinds {
        match kinds.iter_mut().find(|(kind, _)| *kind == part.kind()) {
            Some((_, sum)) => *sum = (*sum).max(*n),
            None => kinds.push((part.kind(), *n)),
        }
    }
    kinds.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
