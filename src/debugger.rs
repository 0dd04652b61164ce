//! Breakpoints: where the machine stops, whatever engine runs it, and who is told; `--break`.
//!
//! Our own engines plant breakpoints into decoded code (`Cpu::set_stops`); KVM has them in its breakpoint registers, four at most, in
//! the place of the guest's own: with more the machine moves to another engine. A machine that stands is out of KVM, so single
//! steps are always our own. A KVM in software may not see breakpoints in user code.

use std::io::Write;
use std::process::id;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use softmetal_cpu::{Cpu, CpuState, Exit};

use crate::accel::Switchboard;
use crate::config::{Config, UseError};
use crate::profile::Symbols;

/// How many stops `--break` tells of. Then the guest runs on at its usual speed.
const LIMIT: u64 = 1000;

/// A place to stop at, as `--break` takes it: `ADDRESS|SYMBOL[:stop]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakAt {
    place: Place,
    /// The machine stands there until it gets SIGCONT.
    stand: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A linear address.
    Address(u64),
    /// A function of `--symbols`.
    Symbol(String),
}

impl FromStr for BreakAt {
    type Err = UseError;

    fn from_str(text: &str) -> Result<Self, UseError> {
        let (name, stand) = text.strip_suffix(":stop").map_or((text, false), |name| (name, true));
        let wrong = || {
            UseError::new(format!(
                "'{text}' is no place to stop at; write for example 0xffffffff81000000, or start_kernel:stop with --symbols"
            ))
        };
        let place = match name.strip_prefix("0x") {
            Some(digits) if digits.starts_with('+') => return Err(wrong()),
            Some(digits) => Place::Address(u64::from_str_radix(digits, 16).map_err(|_| wrong())?),
            None if name.is_empty()
                || name.contains(':')
                || name.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                return Err(wrong());
            }
            None => Place::Symbol(name.into()),
        };
        Ok(Self { place, stand })
    }
}

/// A processor that has stopped before an instruction.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Which one.
    pub cpu: usize,
    /// What for.
    pub why: StopReason,
    /// Linear address of the next instruction.
    pub linear: u64,
    /// Its state.
    pub state: CpuState,
}

/// What a processor has stopped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The next instruction has a breakpoint.
    Breakpoint,
    /// It has run the one instruction that it was asked to.
    Step,
    /// It is halted, and has run none.
    Halted,
}

/// What becomes of a machine whose processor has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    GoOn,
    /// It stands until [`crate::Handle::resume`].
    Stand,
    /// It goes on, and no breakpoint stops it any more.
    Enough,
}

/// Told of each stop, by the processor's thread: it must not wait for the machine.
pub type StopSink = Box<dyn FnMut(&Stopped) -> Verdict + Send>;

/// The breakpoints of a machine.
#[derive(Default)]
pub(crate) struct Debugger(Mutex<State>);

#[derive(Default)]
struct State {
    /// Linear addresses.
    places: Vec<u64>,
    sink: Option<StopSink>,
}

impl Debugger {
    /// With the breakpoints of `--break`.
    pub(crate) fn new(config: &Config) -> Result<Arc<Self>, UseError> {
        if config.breaks.is_empty() {
            return Ok(Arc::default());
        }
        let symbols = Symbols::load(&config.symbols)?;
        let mut breaks = Vec::new();
        for BreakAt { place, stand } in &config.breaks {
            let address = match place {
                Place::Address(address) => *address,
                Place::Symbol(name) => symbols.address(name).ok_or_else(|| {
                    UseError::new(format!("--break: no function '{name}' is in the files of --symbols"))
                })?,
            };
            breaks.push((address, *stand));
        }
        let places = breaks.iter().map(|(address, _)| *address).collect();
        let sink = Some(printer(symbols, breaks));
        Ok(Arc::new(Self(Mutex::new(State { places, sink }))))
    }

    /// Gives a processor that does not run the breakpoints.
    pub(crate) fn arm(&self, cpu: &mut Cpu) {
        let state = self.0.lock();
        if cpu.stops() != state.places {
            cpu.set_stops(&state.places);
        }
    }

    pub(crate) fn set_places(&self, places: &[u64]) {
        let mut places = places.to_vec();
        places.sort_unstable();
        places.dedup();
        self.0.lock().places = places;
    }

    pub(crate) fn set_sink(&self, sink: StopSink) {
        self.0.lock().sink = Some(sink);
    }

    /// Takes over from the one of a machine that was reset; whether processors have other breakpoints now.
    pub(crate) fn succeed(&self, old: &Self) -> bool {
        let (old, mut state) = (std::mem::take(&mut *old.0.lock()), self.0.lock());
        let other = old.places != state.places;
        *state = old;
        other
    }

    /// A processor has stopped at a breakpoint. By its thread.
    pub(crate) fn stopped(&self, index: usize, cpu: &mut Cpu, switchboard: &Arc<Switchboard>) {
        let mut state = self.0.lock();
        let stopped = Stopped {
            cpu: index,
            why: StopReason::Breakpoint,
            linear: cpu.next_linear(),
            state: cpu.state(),
        };
        let State { places, sink } = &mut *state;
        let verdict = match sink {
            // Another processor's stop may have been enough.
            Some(sink) if !places.is_empty() => sink(&stopped),
            _ => Verdict::GoOn,
        };
        match verdict {
            Verdict::GoOn => {}
            Verdict::Stand => switchboard.stand(),
            Verdict::Enough => places.clear(),
        }
        drop(state);
        self.arm(cpu);
    }
}

/// Runs one instruction of a processor of a machine that stands.
pub(crate) fn single_step(index: usize, cpu: &mut Cpu) -> Stopped {
    let why = match cpu.single_step() {
        Exit::Halted | Exit::WaitForSipi => StopReason::Halted,
        _ => StopReason::Step,
    };
    Stopped { cpu: index, why, linear: cpu.next_linear(), state: cpu.state() }
}

fn say(line: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "softmetal: break: {line}");
}

/// Prints each stop.
fn printer(symbols: Symbols, breaks: Vec<(u64, bool)>) -> StopSink {
    let mut told = 0;
    Box::new(move |stopped| {
        told += 1;
        let name = symbols.find(stopped.linear).map_or_else(String::new, |name| format!(" ({name})"));
        say(&format!("CPU {} is at {:#x}{name}", stopped.cpu, stopped.linear));
        stopped.state.to_string().lines().for_each(|line| say(&format!("  {line}")));
        if told == LIMIT {
            say("that was enough, nothing stops any more");
            return Verdict::Enough;
        }
        if breaks.contains(&(stopped.linear, true)) {
            say(&format!("the machine stands until it gets SIGCONT (kill -CONT {})", id()));
            return Verdict::Stand;
        }
        Verdict::GoOn
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_or_symbols() {
        let at = |place, stand| BreakAt { place, stand };
        for (text, expected) in [
            ("0xffffffff81000000", at(Place::Address(0xffff_ffff_8100_0000), false)),
            ("0x7c00:stop", at(Place::Address(0x7c00), true)),
            ("start_kernel", at(Place::Symbol("start_kernel".into()), false)),
            ("do_fork.part.0:stop", at(Place::Symbol("do_fork.part.0".into()), true)),
        ] {
            assert_eq!(text.parse::<BreakAt>().unwrap(), expected, "{text}");
        }
        for text in ["", ":stop", "0x", "0x+1", "12", "a:b", "0x1g", "0x10000000000000000"] {
            let message = text.parse::<BreakAt>().unwrap_err().to_string();
            assert!(message.contains("is no place to stop at"), "{text}: {message}");
        }
    }
}
