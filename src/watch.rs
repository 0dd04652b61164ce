//! Watchpoints: what the user asks to be watched, and the lines that say who touched it.

use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use softmetal_cpu::{Cpu, Watch, Watched};

use crate::config::UseError;

/// How many accesses are told of. Then the guest runs on at its usual speed.
const LIMIT: u64 = 1000;

/// Memory to be watched, as `--watch` takes it: `[phys:]ADDRESS[+LENGTH][:r|:w|:rw]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchRange(pub(crate) Watch);

impl FromStr for WatchRange {
    type Err = UseError;

    fn from_str(text: &str) -> Result<Self, UseError> {
        let wrong = || {
            UseError::new(format!(
                "'{text}' is no range to watch; write for example 0xffffffff82a00000+8:w, or phys:0xb8000+4096"
            ))
        };
        let (rest, physical) = text.strip_prefix("phys:").map_or((text, false), |rest| (rest, true));
        let (rest, read, write) = match rest.rsplit_once(':') {
            None => (rest, true, true),
            Some((rest, "r")) => (rest, true, false),
            Some((rest, "w")) => (rest, false, true),
            Some((rest, "rw")) => (rest, true, true),
            Some(_) => return Err(wrong()),
        };
        let (at, len) = rest.split_once('+').unwrap_or((rest, "1"));
        let (at, len) = (number(at).ok_or_else(wrong)?, number(len).ok_or_else(wrong)?);
        if len == 0 || at.checked_add(len - 1).is_none() {
            return Err(wrong());
        }
        Ok(Self(Watch { at, len, physical, read, write }))
    }
}

/// A number as C writes it, without sign.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        _ if text.contains(['+', '-']) => None,
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Has all CPUs watch these ranges.
pub(crate) fn start(cpus: &mut [Box<Cpu>], ranges: &[WatchRange]) {
    if ranges.is_empty() {
        return;
    }
    let list: Vec<Watch> = ranges.iter().map(|range| range.0).collect();
    let told = Arc::new(AtomicU64::new(0));
    for cpu in cpus {
        let told = Arc::clone(&told);
        let sink = move |watched: &Watched| {
            let number = told.fetch_add(1, Ordering::Relaxed);
            if number < LIMIT {
                // A closed standard error is no reason to stop.
                let _ = writeln!(std::io::stderr(), "softmetal: watch: {}", line(watched));
            }
            if number == LIMIT {
                let _ = writeln!(std::io::stderr(), "softmetal: watch: that was enough, no more is watched");
            }
            number < LIMIT
        };
        cpu.watch_memory(list.clone(), Box::new(sink));
    }
}

fn line(watched: &Watched) -> String {
    let Watched { cpu, rip, linear, physical, size, write, before, after } = *watched;
    let digits = 2 + 2 * size.min(8) as usize;
    let value = |value: Option<u64>| match value {
        Some(value) => format!("{value:#0digits$x}"),
        None => "device memory".into(),
    };
    let what = match write {
        true => format!("writes {} over {}", value(after), value(before)),
        false => format!("reads {}", value(before)),
    };
    format!("CPU {cpu} at rip {rip:#x} {what}: {size} bytes at {linear:#x} (physical {physical:#x})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_addresses_lengths_and_kinds() {
        let watch = |at, len, physical, read, write| WatchRange(Watch { at, len, physical, read, write });
        for (text, expected) in [
            ("0x1000", watch(0x1000, 1, false, true, true)),
            ("phys:753664+4096", watch(0xb8000, 4096, true, true, true)),
            ("0xffffffff81000000+0x10:w", watch(0xffff_ffff_8100_0000, 16, false, false, true)),
            ("phys:0x0+1:r", watch(0, 1, true, true, false)),
            ("0xffffffffffffffff:rw", watch(u64::MAX, 1, false, true, true)),
        ] {
            assert_eq!(text.parse::<WatchRange>().unwrap(), expected, "{text}");
        }
        for text in
            ["", "x", "0x", "-1", "1+0", "1+", "1:x", "virt:1", "0xffffffffffffffff+2", "1++2", "0x+1"]
        {
            let message = text.parse::<WatchRange>().unwrap_err().to_string();
            assert!(message.contains("is no range to watch"), "{text}: {message}");
        }
    }

    #[test]
    fn a_line_says_who_did_what_where() {
        let watched = Watched {
            cpu: 1,
            rip: 0x10_0005,
            linear: 0xffff_8000_0000_1000,
            physical: 0x1000,
            size: 2,
            write: true,
            before: Some(5),
            after: Some(0x1234),
        };
        assert_eq!(
            line(&watched),
            "CPU 1 at rip 0x100005 writes 0x1234 over 0x0005: 2 bytes at 0xffff800000001000 (physical 0x1000)"
        );
        let read = Watched { write: false, before: None, ..watched };
        assert!(line(&read).contains("reads device memory: 2 bytes"));
    }
}
