//! The report for people: a table with a column for each CPU, and lists of what there was most of.

use std::fmt;
use std::time::Duration;

use softmetal_cpu::{AddressSpace, Doing, Flush, Statistics};
use softmetal_devices::virtio::balloon::BalloonReport;

use super::{CpuReport, Report, name};

/// CPUs that have columns of their own. Where there are more, the sum stands alone.
const COLUMNS: usize = 4;
/// Entries of a list.
const SHOWN: usize = 8;
/// Kinds of instructions that the translator leaves to the interpreter.
const NOT_INLINE: usize = 12;
/// Address spaces.
const SPACES: usize = 6;

/// The names of exceptions, by vector.
const EXCEPTIONS: [&str; 22] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP", "#PF",
    "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.sum();
        let mut columns: Vec<(String, &CpuReport)> = Vec::new();
        if (2..=COLUMNS).contains(&self.cpus.len()) {
            columns.extend(self.cpus.iter().enumerate().map(|(index, cpu)| (format!("CPU {index}"), cpu)));
        }
        let all = match self.cpus.len() {
            1 => "CPU 0".into(),
            n => format!("all {n} CPUs"),
        };
        columns.push((all, &sum));
        self.head(f, &sum.statistics)?;
        table(f, &columns)?;
        self.lists(f, &sum)
    }
}

impl Report {
    fn head(&self, f: &mut fmt::Formatter<'_>, sum: &Statistics) -> fmt::Result {
        write!(f, "{} instructions", Grouped(sum.instructions))?;
        if !self.duration.is_zero() {
            write!(f, " in {}", Seconds(self.duration))?;
        }
        if self.power_ons > 1 {
            write!(f, ", switched on {} times", self.power_ons)?;
        }
        writeln!(f)
    }

    fn lists(&self, f: &mut fmt::Formatter<'_>, sum: &CpuReport) -> fmt::Result {
        let statistics = &sum.statistics;
        let exception = |vector: usize| {
            EXCEPTIONS.get(vector).map_or_else(|| format!("{vector}"), |name| (*name).to_owned())
        };
        let number = |vector: usize| format!("{vector:#x}");
        top(f, "exceptions", vectors(&statistics.exceptions, exception))?;
        top(f, "interrupts", vectors(&statistics.interrupts, number))?;
        top(f, "INT n", vectors(&statistics.software_interrupts, number))?;
        top(
            f,
            "TLB flushes",
            Flush::ALL.map(|flush| (cause(flush).into(), statistics.flushes[flush as usize])),
        )?;
        let devices = self.devices.iter().map(|device| (device.label.clone(), device.reads + device.writes));
        top(f, "devices", devices)?;
        if self.dma_writes > 0 {
            line(
                f,
                "DMA",
                &format!("{} written in {} pieces", Bytes(self.dma_bytes), Count(self.dma_writes)),
            )?;
        }
        if let Some(balloon) = &self.balloon {
            line(f, "balloon", &balloon_in_words(balloon))?;
        }
        if let Some(kvm) = &sum.kvm {
            top(f, "KVM left for", kvm.iter().map(|&(name, count)| (name.to_owned(), count)))?;
        }
        if let Some(translator) = &sum.translator {
            line(f, "translator", &translator.to_string())?;
            for left in sum.not_inline.iter().take(NOT_INLINE) {
                let (interpreted, called) = (Count(left.interpreted), Count(left.called));
                line(
                    f,
                    "  not inline",
                    &format!("{}: {interpreted} interpreted, {called} called", left.name),
                )?;
            }
        }
        spaces(f, &sum.spaces)
    }
}

/// What the balloon holds, what went back to the host, and what the guest says of its memory.
pub(crate) fn balloon_in_words(balloon: &BalloonReport) -> String {
    let BalloonReport { inflated, given, reported, statistics } = balloon;
    let mut text = format!(
        "holds {}; back to the host {} by it, {} unused",
        Bytes(*inflated),
        Bytes(*given),
        Bytes(*reported)
    );
    let statistics = statistics.unwrap_or_default();
    let known = [
        ("total", statistics.total),
        ("free", statistics.free),
        ("available", statistics.available),
        ("caches", statistics.caches),
    ];
    let known: Vec<String> =
        known.iter().filter_map(|(name, bytes)| Some(format!("{name} {}", Bytes((*bytes)?)))).collect();
    if !known.is_empty() {
        text.push_str(&format!("; the guest has {}", known.join(", ")));
    }
    text
}

/// How wide the words on the left are.
const LEFT: usize = 28;
/// How wide a column is.
const COLUMN: usize = 20;

/// One row for each number, one column for each CPU. A row of zeros says nothing and is left out.
fn table(f: &mut fmt::Formatter<'_>, columns: &[(String, &CpuReport)]) -> fmt::Result {
    let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: Vec<String>| {
        write!(f, "  {name:<LEFT$}")?;
        cells.iter().try_for_each(|cell| write!(f, "{cell:>COLUMN$}"))?;
        writeln!(f)
    };
    row(f, "", columns.iter().map(|(name, _)| name.clone()).collect())?;
    for doing in Doing::ALL {
        let time = |cpu: &CpuReport| cpu.times[doing as usize];
        if columns.iter().any(|(_, cpu)| !time(cpu).is_zero()) {
            let cell = |(_, cpu): &(String, &CpuReport)| {
                let share = share(time(cpu).as_secs_f64(), cpu.times.iter().sum::<Duration>().as_secs_f64());
                format!("{}{share:>9}", Seconds(time(cpu)))
            };
            row(f, name(doing), columns.iter().map(cell).collect())?;
        }
    }
    let working = |cpu: &CpuReport| -> f64 {
        let work = Doing::ALL.iter().filter(|doing| doing.is_work());
        work.map(|doing| cpu.times[*doing as usize].as_secs_f64()).sum()
    };
    if columns.iter().any(|(_, cpu)| working(cpu) > 0.0) {
        let speed = |cpu: &CpuReport| (cpu.statistics.instructions as f64 / working(cpu).max(1e-9)) as u64;
        let cell = |(_, cpu): &(String, &CpuReport)| format!("{}/s", Count(speed(cpu)));
        row(f, "instructions while working", columns.iter().map(cell).collect())?;
    }
    for (name, count) in ROWS {
        if columns.iter().any(|(_, cpu)| count(&cpu.statistics) > 0) {
            let cell = |(_, cpu): &(String, &CpuReport)| Count(count(&cpu.statistics)).to_string();
            row(f, name, columns.iter().map(cell).collect())?;
        }
    }
    Ok(())
}

/// The rows of counters.
type Row = (&'static str, fn(&Statistics) -> u64);
const ROWS: &[Row] = &[
    ("instructions", |s| s.instructions),
    ("  at CPL 3", |s| s.user_instructions),
    ("instructions decoded", |s| s.decoded),
    ("  in blocks", |s| s.blocks),
    ("blocks in the jump cache", |s| s.jumps),
    ("  looked up", |s| s.lookups),
    ("  crossing pages, in devices", |s| s.loose),
    ("  linked", |s| s.links),
    ("  dropped when written", |s| s.invalidations),
    ("  entered after that", |s| s.stale),
    ("TLB misses of data", |s| s.tlb_misses),
    ("  of code", |s| s.fetch_misses),
    ("  filled", |s| s.tlb_fills),
    ("  from the second level", |s| s.second_level),
    ("page walks", |s| s.walks),
    ("loads of CR3", |s| s.switches),
    ("exceptions", |s| s.exceptions.iter().sum()),
    ("interrupts", |s| s.interrupts.iter().sum()),
    ("INT n", |s| s.software_interrupts.iter().sum()),
    ("device accesses", |s| s.device_accesses),
    ("local APIC by MSR", |s| s.apic_msrs),
    ("alone with memory", |s| s.stops),
];

/// Why translations were dropped, in words.
fn cause(flush: Flush) -> &'static str {
    match flush {
        Flush::Cr3 => "MOV to CR3",
        Flush::Page => "INVLPG",
        Flush::LargePage => "INVLPG of a large page",
        Flush::Invpcid => "INVPCID",
        Flush::Control => "CR0, CR4, EFER, PKRU",
        Flush::Evicted => "too many address spaces",
        Flush::Decoded => "code decoded",
        Flush::Map => "memory map",
        Flush::Other => "breakpoints, RESET, INIT",
    }
}

fn vectors(counts: &[u64], name: impl Fn(usize) -> String) -> Vec<(String, u64)> {
    counts.iter().enumerate().map(|(vector, count)| (name(vector), *count)).collect()
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {name:<14}{text}")
}

/// What there was most of, in one line.
fn top(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    counts: impl IntoIterator<Item = (String, u64)>,
) -> fmt::Result {
    let mut list: Vec<(String, u64)> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    if list.is_empty() {
        return Ok(());
    }
    list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut items: Vec<String> =
        list.iter().take(SHOWN).map(|(name, count)| format!("{name} {}", Count(*count))).collect();
    if list.len() > SHOWN {
        let rest = list.iter().skip(SHOWN).map(|(_, count)| count).sum();
        items.push(format!("{} others {}", list.len() - SHOWN, Count(rest)));
    }
    line(f, name, &items.join(", "))
}

/// The address spaces in which most of the user code ran.
fn spaces(f: &mut fmt::Formatter<'_>, spaces: &[AddressSpace]) -> fmt::Result {
    if spaces.is_empty() {
        return Ok(());
    }
    const WIDTH: usize = 13;
    write!(f, "  {:<14}", "user code by")?;
    let titles =
        ["instructions", "entries", "system calls", "page faults", "exceptions", "interrupts", "gates"];
    titles.iter().try_for_each(|title| write!(f, "{title:>WIDTH$}"))?;
    writeln!(f)?;
    for space in spaces.iter().take(SPACES) {
        let root = space.root.map_or("others".into(), |root| format!("CR3 {root:#x}"));
        write!(f, "  {root:<14}")?;
        let [calls, faults, exceptions, interrupts, gates] = space.traps;
        for count in [space.instructions, space.entries, calls, faults, exceptions, interrupts, gates] {
            write!(f, "{:>WIDTH$}", Count(count).to_string())?;
        }
        writeln!(f)?;
    }
    if let Some(rest) = spaces.get(SPACES..).filter(|rest| !rest.is_empty()) {
        let instructions = Count(rest.iter().map(|space| space.instructions).sum()).to_string();
        writeln!(f, "  {:<14}{instructions:>WIDTH$}", format!("{} others", rest.len()))?;
    }
    Ok(())
}

fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", 100.0 * part / whole) } else { "-".into() }
}

/// A number in groups of three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (k, digit) in digits.chars().enumerate() {
            let comma = k > 0 && (digits.len() - k).is_multiple_of(3);
            write!(f, "{}{digit}", if comma { "," } else { "" })?;
        }
        Ok(())
    }
}

/// A number in a few digits: whole up to six of them, then in millions and so on.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M")];
        match UNITS.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, letter)) => write!(f, "{:.1} {letter}", self.0 as f64 / *unit as f64),
            None => Grouped(self.0).fmt(f),
        }
    }
}

/// A number of bytes.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match UNITS.iter().find(|(shift, _)| self.0 >> shift > 0) {
            Some((shift, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / (1u64 << shift) as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// A time in seconds, or milliseconds where it is short.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 0.9995 { write!(f, "{:.0} ms", seconds * 1e3) } else { write!(f, "{seconds:.2} s") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use softmetal_devices::bus::Traffic;

    #[test]
    fn units_are_for_people() {
        let text = |count| Count(count).to_string();
        assert_eq!([text(0), text(999_999), text(1_234_567)], ["0", "999,999", "1.2 M"]);
        assert_eq!([text(2_500_000_000), text(7_000_000_000_000)], ["2.5 G", "7.0 T"]);
        assert_eq!([Bytes(5).to_string(), Bytes(3 << 20).to_string()], ["5 bytes", "3.0 MiB"]);
        let time = |millis| Seconds(Duration::from_millis(millis)).to_string();
        assert_eq!([time(12), time(12_345)], ["12 ms", "12.35 s"]);
    }

    fn report(cpus: usize) -> Report {
        let mut statistics = Statistics { instructions: 1_234_567, walks: 999, ..Statistics::default() };
        statistics.exceptions[14] = 5;
        statistics.interrupts[0xec] = 77;
        let mut times = super::super::Times::default();
        times[Doing::Interpreter as usize] = Duration::from_millis(750);
        times[Doing::Idle as usize] = Duration::from_millis(250);
        let spaces = (1..10)
            .map(|root| AddressSpace { root: Some(root << 12), instructions: 10, ..AddressSpace::default() })
            .collect();
        let cpu = CpuReport { statistics, times, spaces, ..CpuReport::default() };
        let devices = (0..12).map(|n| Traffic { label: format!("chip {n}"), reads: n, writes: 1 }).collect();
        Report {
            duration: Duration::from_secs(1),
            power_ons: 1,
            cpus: vec![cpu; cpus],
            devices,
            ..Report::default()
        }
    }

    #[test]
    fn one_cpu_is_one_column() {
        let text = report(1).to_string();
        assert!(text.starts_with("1,234,567 instructions in 1.00 s\n"), "{text}");
        let has = |words: &[&str]| {
            text.lines().any(|line| line.split_whitespace().eq(words.iter().flat_map(|w| w.split(' '))))
        };
        assert!(has(&["interpreter", "750 ms", "75.0 %"]), "{text}");
        assert!(has(&["halted", "250 ms", "25.0 %"]), "{text}");
        assert!(has(&["page walks", "999"]) && !text.contains("devices  0"), "{text}");
        assert!(has(&["exceptions", "#PF 5"]) && has(&["interrupts", "0xec 77"]), "{text}");
        // 1.2 million in three quarters of a second.
        assert!(has(&["instructions while working", "1.6 M/s"]), "{text}");
        assert!(
            text.contains("devices       chip 11 12, chip 10 11") && text.contains("4 others 10"),
            "{text}"
        );
        assert!(has(&["CR3 0x1000", "10", "0 0 0 0 0 0"]) && has(&["3 others", "30"]), "{text}");
    }

    #[test]
    fn several_cpus_have_columns_and_many_a_sum() {
        let text = report(2).to_string();
        let has = |row: &str| text.lines().any(|line| line.split_whitespace().eq(row.split(' ')));
        assert!(has("CPU 0 CPU 1 all 2 CPUs") && has("page walks 999 999 1,998"), "{text}");
        assert!(has("halted 250 ms 25.0 % 250 ms 25.0 % 500 ms 25.0 %"), "{text}");
        let width = text.lines().nth(1).map(str::len);
        assert!(text.lines().skip(1).take(3).all(|line| Some(line.len()) == width), "{text}");
        let text = report(200).to_string();
        assert!(text.contains("all 200 CPUs") && text.lines().all(|line| line.len() < 120), "{text}");
    }
}
