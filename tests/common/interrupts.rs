//! Which interrupts processors have had, by the guest's account.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Guest;

/// For printing the table.
const SOON: Duration = Duration::from_secs(60);

/// The rows of `/proc/interrupts` by their name: a count for each processor.
pub(crate) fn interrupts(guest: &mut Guest) -> Result<BTreeMap<String, Vec<u64>>> {
    let table = guest.run("cat /proc/interrupts", SOON)?;
    let rows = table.lines().filter_map(|line| line.split_once(':')).map(|(name, counts)| {
        let counts = counts.split_whitespace().map_while(|word| word.parse().ok()).collect();
        (name.trim().to_owned(), counts)
    });
    Ok(rows.collect())
}

/// Each of so many processors has had interrupts from its own timer, and from other processors where there are any.
pub(crate) fn check_interrupts(guest: &mut Guest, cpus: usize) -> Result<()> {
    let rows = interrupts(guest)?;
    let row = |name| rows.get(name).with_context(|| format!("no row {name} in {rows:?}"));
    let timers = row("LOC")?;
    ensure!(timers.len() == cpus && !timers.contains(&0), "timer interrupts: {timers:?}");
    let (reschedule, call, shootdown) = (row("RES")?, row("CAL")?, row("TLB")?);
    let from_others = (0..cpus).map(|cpu| reschedule[cpu] + call[cpu] + shootdown[cpu]);
    ensure!(cpus == 1 || from_others.clone().all(|count| count > 0), "no interrupt from others: {rows:?}");
    eprintln!("LOC {timers:?} RES {reschedule:?} CAL {call:?} TLB {shootdown:?}");
    Ok(())
}
