//! Debian's kernels with command lines that users of real machines reach for, and on larger machines: each option has the
//! effect that it is for, and the machine works on.
//!
//! Only a few of them run each time; `cargo test --release --test boot_options -- --include-ignored` runs all, on the cloud
//! kernel and on the generic one. The kernels come by apt. Where that cannot work, the tests are ignored and say so.

mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::{Guest, Options, check_time, check_warnings, initramfs, interrupts, kernel, run};
use libtest_mimic::{Completion, Failed, Trial};
use softmetal::cli::debian::{Flavour, Guests};

/// For a boot, on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// For a small command.
const SOON: Duration = Duration::from_secs(60);

/// A machine and what must be seen in it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    append: &'static str,
    cpus: usize,
    memory: &'static str,
    check: fn(&mut Guest) -> Result<()>,
    /// Not only when all are asked for.
    always: bool,
}

/// A case with two processors.
const fn case(name: &'static str, append: &'static str, check: fn(&mut Guest) -> Result<()>) -> Case {
    Case { name, append, cpus: 2, memory: "256M", check, always: false }
}

impl Case {
    const fn always(self) -> Self {
        Self { always: true, ..self }
    }
}

const CASES: &[Case] = &[
    case("nosmp", "nosmp", |guest| online(guest, "0")),
    case("noapic", "noapic", |guest| serial_by(guest, "XT-PIC")).always(),
    // Where there is no local APIC, Linux complains of drivers that ask for MSIs unless it is told that there are none.
    case("nolapic", "nolapic pci=nomsi", nolapic).always(),
    case("acpi_off", "acpi=off pci=nomsi", |guest| log_lacks(guest, "ACPI: RSDP")).always(),
    case("nox2apic", "nox2apic", |guest| log_lacks(guest, "x2apic enabled")),
    case("pci_nomsi", "pci=nomsi", |guest| serial_by(guest, "IO-APIC")),
    case("clocksource_hpet", "clocksource=hpet", |guest| clock_source(guest, "hpet")).always(),
    case("clocksource_acpi_pm", "clocksource=acpi_pm", |guest| clock_source(guest, "acpi_pm")),
    case("tsc_unstable", "tsc=unstable", |guest| clock_source(guest, "hpet")),
    case("notsc", "notsc", |guest| clock_source(guest, "hpet")),
    case("lapic_timer_not_by_tsc", "lapic=notscdeadline", |guest| log_lacks(guest, "TSC deadline")),
    case("mitigations_off", "mitigations=off", |guest| online(guest, "0-1")),
    case("nopti", "nopti", |guest| online(guest, "0-1")),
    case("clearcpuid_smap", "clearcpuid=smap", |guest| lacks_flag(guest, "smap")),
    case("nopcid", "nopcid", |guest| lacks_flag(guest, "pcid")),
    case("no5lvl", "no5lvl", |guest| lacks_flag(guest, "la57")).always(),
    case("maxcpus_1", "maxcpus=1", maxcpus).always(),
    Case { memory: "5G", ..case("five_gib", "", five_gib).always() },
    Case { cpus: 8, ..case("eight_processors", "", |guest| online(guest, "0-7")).always() },
];

fn main() -> ExitCode {
    let hindrance = Guests::hindrance().map(|why| format!("Debian's kernels cannot be fetched: {why}"));
    let mut trials = Vec::new();
    for flavour in [Flavour::Cloud, Flavour::Generic] {
        for case in CASES {
            let hindrance = hindrance.clone();
            let name = format!("{flavour:?}_{}", case.name).to_lowercase();
            let trial = Trial::ignorable_test(name, move || match &hindrance {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => boot(flavour, case)
                    .map(|()| Completion::Completed)
                    .map_err(|error| Failed::from(format!("{error:#}"))),
            });
            trials.push(trial.with_ignored_flag(flavour != Flavour::Cloud || !case.always));
        }
    }
    run(trials)
}

fn boot(flavour: Flavour, case: &Case) -> Result<()> {
    let kernel = kernel(flavour)?;
    let folder = tempfile::tempdir()?;
    let initrd = Some(initramfs(&kernel, folder.path(), None, false)?);
    let options = Options {
        kernel: kernel.image,
        initrd,
        memory: case.memory,
        append: case.append,
        cpus: case.cpus,
        ..Options::default()
    };
    let start = Instant::now();
    let mut guest = Guest::boot(&options, BOOT)?;
    eprintln!("{flavour:?} {}: shell after {:.1} s", case.name, start.elapsed().as_secs_f64());
    (case.check)(&mut guest)?;
    check_time(&mut guest)?;
    check_warnings(&mut guest)?;
    // Without ACPI a kernel cannot switch the machine off.
    if case.append.contains("acpi=off") { Ok(()) } else { guest.power_off() }
}

fn online(guest: &mut Guest, expected: &str) -> Result<()> {
    let online = guest.run("cat /sys/devices/system/cpu/online", SOON)?;
    ensure!(online.trim() == expected, "processors {online} are there, not {expected}");
    Ok(())
}

/// Which controller the serial port's interrupts come through.
fn serial_by(guest: &mut Guest, controller: &str) -> Result<()> {
    let line = guest.run("grep ttyS0 /proc/interrupts", SOON)?;
    ensure!(line.contains(controller), "not by {controller}: {line}");
    Ok(())
}

/// Timer interrupts come from the PIT.
fn nolapic(guest: &mut Guest) -> Result<()> {
    serial_by(guest, "XT-PIC")?;
    online(guest, "0")?;
    let rows = interrupts(guest)?;
    ensure!(rows.get("0").is_some_and(|counts| counts[0] > 10), "no timer interrupts from the PIT: {rows:?}");
    ensure!(rows.get("LOC").is_none_or(|counts| counts[0] == 0), "the local APIC's timer runs: {rows:?}");
    Ok(())
}

fn log_lacks(guest: &mut Guest, text: &str) -> Result<()> {
    let found = guest.run(&format!("dmesg | grep '{text}' || true"), SOON)?;
    ensure!(found.trim().is_empty(), "{found}");
    Ok(())
}

fn clock_source(guest: &mut Guest, expected: &str) -> Result<()> {
    let source = guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource", SOON)?;
    ensure!(source.trim() == expected, "the clock source is {source}, not {expected}");
    Ok(())
}

fn lacks_flag(guest: &mut Guest, flag: &str) -> Result<()> {
    let found = guest.run(&format!("grep -c '^flags.* {flag}\\b' /proc/cpuinfo || true"), SOON)?;
    ensure!(found.trim() == "0", "{found} processors have {flag}");
    Ok(())
}

/// The second processor is left alone, and can be had later.
fn maxcpus(guest: &mut Guest) -> Result<()> {
    online(guest, "0")?;
    guest.run("echo 1 > /sys/devices/system/cpu/cpu1/online", SOON)?;
    online(guest, "0-1")
}

/// Memory above 4 GiB is used like the rest.
fn five_gib(guest: &mut Guest) -> Result<()> {
    let total = guest.run("awk '/MemTotal/ { print $2 }' /proc/meminfo", SOON)?;
    let total: u64 = total.trim().parse()?;
    ensure!((4_700_000..5_242_880).contains(&total), "MemTotal is {total} KiB");
    let above = guest.run("grep -c '^1[0-9a-f]\\{8\\}-.* : System RAM' /proc/iomem", SOON)?;
    ensure!(above.trim() == "1", "{above} areas of RAM begin at 4 GiB");
    Ok(())
}
