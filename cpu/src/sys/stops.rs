//! Where a debugger stops the CPU, whatever the guest's own debug registers hold.
//!
//! Decoded blocks end before an address at which it stops, and have [`crate::sem::Op::Stop`] there in place of what memory holds: it sends
//! the CPU to the dispatcher, which looks whether the linear address is one of those. As blocks are found by physical addresses
//! too, each instruction at the same offset of a page is asked so; all other code runs at its usual speed. Blocks of one
//! instruction (`Mode::SINGLE`) come by the dispatcher anyhow.

use crate::{
    cpu::Exit,
    decode::Decoded,
    fault::{Done, Stop},
    insn::Insn,
    mode::Mode,
    ram::PAGE,
    state::{Activity, Cpu, Why, seg},
};

/// Where a debugger stops the CPU.
#[derive(Default)]
pub(crate) struct Stops {
    /// Linear addresses, in order.
    places: Vec<u64>,
    /// It has stopped at this one, and goes on from there.
    passing: Option<u64>,
    /// One instruction runs, and nothing interrupts it.
    pub(crate) alone: bool,
}

impl Stops {
    /// Whether a debugger stops the CPU anywhere.
    pub(crate) fn any(&self) -> bool {
        !self.places.is_empty()
    }

    /// Cuts a block off before the first instruction at which the CPU may have to stop.
    pub(crate) fn plant(&self, decoded: &mut Decoded) {
        let asked = |i: &Insn| self.places.iter().any(|at| (at & (PAGE - 1)) as u16 == i.ip);
        if let Some(first) = decoded.insns.iter().take(decoded.n as usize).position(asked) {
            decoded.cut(first);
        }
    }
}

/// In the place of an instruction: the dispatcher looks whether the CPU stops there. If not, the instruction runs alone.
pub(crate) fn stop(c: &mut Cpu, _: &Insn) -> Done {
    c.breakpoints.again = true;
    c.why = Why::Continue;
    Err(Stop)
}

impl Cpu {
    /// The CPU stops before the instructions at these linear addresses, with [`Exit::Breakpoint`], in place of earlier ones: that is
    /// not seen by the guest. It goes on with that instruction, without an interrupt before it. What a fault begins
    /// anew stops anew. Between runs.
    pub fn set_stops(&mut self, places: &[u64]) {
        self.stops.places = places.to_vec();
        self.stops.places.sort_unstable();
        self.stops.places.dedup();
        self.forget_code();
        self.forget_loose_blocks();
    }

    /// Where it stops: linear addresses in order, each once.
    pub fn stops(&self) -> &[u64] {
        &self.stops.places
    }

    /// Linear address of the next instruction.
    pub fn next_linear(&self) -> u64 {
        match self.mode.is_64() {
            true => self.rip,
            false => u64::from((self.segments[seg::CS].base as u32).wrapping_add(self.ip() as u32)),
        }
    }

    /// For an engine that has stopped in this one's place, whose state this one has: it goes on with the next instruction.
    pub fn pass_stop(&mut self) {
        self.stops.passing = Some(self.next_linear());
    }

    /// For such an engine: it has run that instruction.
    pub fn stop_passed(&mut self) {
        self.stops.passing = None;
    }

    /// Whether it has stopped at the next instruction and not gone on yet.
    pub fn is_passing(&self) -> bool {
        self.stops.passing == Some(self.next_linear())
    }

    /// Runs one instruction, also where it stops; no interrupt is delivered before or behind it. A fault of it is: then
    /// the next one is the handler's first. [`Exit::Counted`] when it has run; a CPU that is halted stays so without something that wakes it.
    pub fn single_step(&mut self) -> Exit {
        self.stops.passing = None;
        // The interrupt that ends HLT is delivered.
        self.stops.alone = self.activity == Activity::Active;
        let before = std::mem::take(&mut self.stops.places);
        let exit = self.run_for(1);
        self.stops.places = before;
        self.stops.alone = false;
        exit
    }

    /// The dispatcher: whether the CPU stops before the next instruction.
    #[cold]
    pub(crate) fn stops_here(&mut self) -> bool {
        if self.stops.places.binary_search(&self.next_linear()).is_err() {
            return false;
        }
        self.pass_stop();
        true
    }

    /// Runs the instruction at which it has stopped. What else may come before the CPU goes on.
    #[cold]
    pub(crate) fn go_past(&mut self) -> Option<Exit> {
        let here = self.stops.passing.take();
        if here != Some(self.next_linear()) {
            return None;
        }
        let exit = self.single_step();
        if exit == Exit::Counted {
            return None;
        }
        if here == Some(self.next_linear()) {
            // It has not run.
            self.stops.passing = here;
        }
        Some(exit)
    }

    /// Whether it is about to go on from where it has stopped.
    #[inline]
    pub(crate) fn has_stopped(&self) -> bool {
        self.stops.passing.is_some()
    }

    /// Plants what a debugger wants into a block that has just been decoded.
    #[inline]
    pub(crate) fn plant_stops(&self, decoded: &mut Decoded) {
        if self.stops.any() && !self.mode.contains(Mode::SINGLE) {
            self.stops.plant(decoded);
        }
    }
}
