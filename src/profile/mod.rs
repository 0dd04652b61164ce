//! `--debug profile`: in which functions the guest's time goes, from the samples that the CPUs have taken.

mod perf_map;
mod symbols;

use std::collections::BTreeMap;
use std::fmt::Write;

use softmetal_cpu::{Profile, Sample};

pub(crate) use perf_map::PerfMap;
pub use symbols::{SymbolFile, Symbols};

/// Functions in the list for people.
const SHOWN: usize = 20;

/// Samples by whose code it is and function.
type Functions = BTreeMap<(String, String), u64>;

fn functions(profile: &Profile, symbols: &Symbols) -> Functions {
    let mut functions = Functions::new();
    for (&Sample { user, linear }, count) in &profile.samples {
        let whose = user.map_or("kernel".into(), |root| format!("user CR3 {root:#x}"));
        // A semicolon ends a frame.
        let name = symbols.find(linear).map_or_else(|| format!("{linear:#x}"), |name| name.replace(';', ":"));
        *functions.entry((whose, name)).or_default() += count;
    }
    if profile.others > 0 {
        functions.insert(("others".into(), "no room".into()), profile.others);
    }
    functions
}

/// Lines of "frame;frame count", which flame graphs are made of.
pub(crate) fn folded(profile: &Profile, symbols: &Symbols) -> String {
    let mut text = String::new();
    for ((whose, name), count) in functions(profile, symbols) {
        let _ = writeln!(text, "{whose};{name} {count}");
    }
    text
}

/// The functions with most samples, for people.
pub(crate) fn top(profile: &Profile, symbols: &Symbols) -> String {
    let mut list: Vec<_> = functions(profile, symbols).into_iter().collect();
    list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let all: u64 = list.iter().map(|(_, count)| count).sum();
    let mut text =
        format!("{all} samples, about one each millisecond of work, in {} functions\n", list.len());
    for ((whose, name), count) in list.iter().take(SHOWN) {
        let share = 100.0 * *count as f64 / all as f64;
        let _ = writeln!(text, "  {share:5.1} %  {whose:<20} {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_lines_by_function() {
        let map = b"ffffffff81000000 T _text\nffffffff81000000 T first\nffffffff81000100 T second;x\n";
        let symbols = Symbols::parse(map, None).unwrap();
        let mut profile = Profile { others: 1, ..Profile::default() };
        for (user, linear, count) in [
            (None, 0xffff_ffff_8100_0010, 3),
            (None, 0xffff_ffff_8100_0020, 4),
            (None, 0xffff_ffff_8100_0100, 1),
            (Some(0x1000), 0x40_1000, 2),
            (Some(0x2000), 0x40_1000, 9),
        ] {
            profile.samples.insert(Sample { user, linear }, count);
        }
        assert_eq!(
            folded(&profile, &symbols),
            "kernel;first 7\n\
             kernel;second:x 1\n\
             others;no room 1\n\
             user CR3 0x1000;0x401000 2\n\
             user CR3 0x2000;0x401000 9\n"
        );
        let top = top(&profile, &symbols);
        assert!(top.starts_with("20 samples"), "{top}");
        let lines: Vec<&str> = top.lines().collect();
        assert!(lines[1].contains("45.0 %") && lines[1].ends_with("user CR3 0x2000      0x401000"), "{top}");
        assert!(lines[2].contains("35.0 %") && lines[2].ends_with("kernel               first"), "{top}");
    }
}
