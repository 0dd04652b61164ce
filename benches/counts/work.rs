//! What a piece of work is.

use std::hint::black_box;

use iced_x86::{IcedError, code_asm::CodeAssembler};
use softmetal_cpu_testing::workloads::Loop;

/// A piece of work by name.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// What it is counted by.
    pub(crate) unit: &'static str,
    make: fn() -> Work,
}

impl Entry {
    pub(crate) const fn new(name: &'static str, unit: &'static str, make: fn() -> Work) -> Self {
        Entry { name, unit, make }
    }

    /// Does the work once; gives the number of units.
    pub(crate) fn measure(&self) -> u64 {
        let mut work = (self.make)();
        counted_region(&mut *work.run);
        work.units
    }
}

/// Work that is prepared: tables are filled, code is decoded, unless that is the work.
pub(crate) struct Work {
    /// How many units [`Work::run`] does.
    units: u64,
    run: Box<dyn FnMut()>,
}

impl Work {
    pub(crate) fn new(units: u64, run: impl FnMut() + 'static) -> Self {
        Work { units, run: Box::new(run) }
    }

    /// So many turns of a loop, by turns.
    pub(crate) fn turns(mut program: Loop, turns: u64) -> Self {
        program.prepare(turns);
        program.run();
        program.prepare(turns);
        Work::new(turns, move || program.run())
    }

    /// Each unit counts as so many.
    pub(crate) fn times(self, units: u64) -> Self {
        Work { units: self.units * units, ..self }
    }

    /// So many turns of a loop, by guest instructions.
    pub(crate) fn instructions(program: Loop, turns: u64) -> Self {
        let per_turn = program.per_turn();
        Work::turns(program, turns).times(per_turn)
    }
}

/// A thousand turns of a loop on the plain machine.
pub(crate) fn looped(body: impl FnMut(&mut CodeAssembler) -> Result<(), IcedError>) -> Work {
    Work::turns(Loop::new(body), 1000)
}

/// Callgrind counts from the entry into this function to its return.
#[inline(never)]
fn counted_region(run: &mut dyn FnMut()) {
    run();
    // A call in the last place would be a jump, after which callgrind takes this function for left.
    black_box(());
}
