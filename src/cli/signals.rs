//! What softmetal does when it is told to end, to stop or to go on.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::console;

/// What signals do to the machine.
pub(crate) struct Wired<P, T, W, A> {
    /// Answers whether the guest listens to it.
    pub(crate) power_button: P,
    /// Ends the machine.
    pub(crate) terminate: T,
    /// The terminal's window has another size.
    pub(crate) window_changed: W,
    /// The process goes on; answers whether the guest stood.
    pub(crate) try_again: A,
}

/// The signal that has ended the machine, if one has.
#[derive(Clone, Default)]
pub(crate) struct EndedBy(Arc<AtomicI32>);

impl EndedBy {
    /// All is written: the process ends by that signal, as those who wait for it expect.
    pub(crate) fn finish(&self) {
        match self.0.load(SeqCst) {
            0 => {}
            signal => drop(emulate_default_handler(signal)),
        }
    }
}

/// Handles signals on a thread of its own from now on. The first SIGTERM or SIGINT presses the power button, the second ends the
/// machine, and with it the process, which still says what it has to; the third, and SIGHUP, end the process at once. Stopping gives
/// the terminal back for as long as it lasts.
pub(crate) fn handle<P, T, W, A>(wired: Wired<P, T, W, A>) -> Result<EndedBy>
where
    P: Fn() -> bool + Send + 'static,
    T: Fn() + Send + 'static,
    W: Fn() + Send + 'static,
    A: Fn() -> bool + Send + 'static,
{
    let Wired { power_button, terminate, window_changed, try_again } = wired;
    let ended_by = EndedBy::default();
    let ended = ended_by.clone();
    let ignored = ignored_signals();
    // What the parent has set to be ignored (nohup, a shell's background job) stays ignored, but SIGTERM is for us.
    let wanted = [SIGTERM, SIGINT, SIGHUP, SIGTSTP, SIGCONT, SIGWINCH];
    let wanted = wanted.into_iter().filter(|&signal| signal == SIGTERM || ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(wanted).context("cannot handle signals")?;
    let work = move || {
        let mut asked = false;
        for signal in &mut signals {
            match signal {
                SIGTERM | SIGINT if !asked => {
                    asked = true;
                    if power_button() {
                        log::info!(
                            "the guest's power button is pressed; a second signal ends the machine at once"
                        );
                    } else {
                        log::warn!(
                            "the guest does not listen to its power button; a second signal ends it at once"
                        );
                    }
                }
                SIGTERM | SIGINT if ended.0.swap(signal, SeqCst) == 0 => terminate(),
                SIGTSTP => {
                    console::suspend();
                    let _ = emulate_default_handler(SIGTSTP);
                }
                SIGCONT => {
                    console::resume();
                    window_changed();
                    if try_again() {
                        log::info!("the guest goes on");
                    }
                }
                SIGWINCH => window_changed(),
                _ => {
                    console::clean_up();
                    let _ = emulate_default_handler(signal);
                }
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(work).context("cannot start the signal thread")?;
    Ok(ended_by)
}

/// The signals that were set to be ignored when the process started, bit 0 for signal 1. Read before any handler is set.
fn ignored_signals() -> u64 {
    parse_ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn parse_ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_found() {
        let status =
            "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n";
        assert_eq!(parse_ignored(status), 0x1001);
        assert_eq!(parse_ignored(""), 0);
    }
}
