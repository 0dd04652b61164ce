//! Whether a guest's time is ours.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::Guest;

/// For sleeping two seconds, on a busy host.
const SOON: Duration = Duration::from_secs(60);

/// A second is a second, by the guest's clock and by ours.
pub(crate) fn check_time(guest: &mut Guest) -> Result<()> {
    let start = Instant::now();
    let times = guest.run("cut -d' ' -f1 /proc/uptime; sleep 2; cut -d' ' -f1 /proc/uptime", SOON)?;
    let real = start.elapsed().as_secs_f64();
    let times: Vec<f64> = times.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [before, after] = times[..] else { bail!("/proc/uptime says {times:?}") };
    let slept = after - before;
    ensure!((1.95..6.0).contains(&slept), "sleep 2 takes {slept} s of the guest's time");
    ensure!(real >= 1.95 && slept <= real + 0.05, "sleep 2 takes {slept} s in the guest and {real} s here");
    Ok(())
}
