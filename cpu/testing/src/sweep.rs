//! Random forms of many instructions, each from several random states, on the test machine and on the host.

use crate::{
    compare::{Differences, Pair, blank},
    forms::{self, aim, form},
    host::runs_on_host,
    layout::SCRATCH_SIZE,
    random::{Random, cases},
};
use iced_x86::{Code, Instruction};
use softmetal_cpu::testing::User;

/// A sweep over codes. `prepare` gives vector registers, MXCSR and x87 state to each case; the general registers are set
/// so that addresses lead to the scratch memory.
pub struct Sweep<'a> {
    /// The codes, for example of [`forms::codes`].
    pub codes: &'a [Code],
    /// Where the random sequence starts.
    pub seed: u64,
    /// Encodings of each code; SOFTMETAL_ORACLE_FACTOR multiplies them.
    pub forms: u64,
    /// States that each encoding runs from.
    pub states: u64,
    /// Sets what the instruction needs beyond general registers.
    pub prepare: &'a dyn Fn(&mut User, &mut Random, &Instruction),
    /// Compare undefined flags and results too.
    pub strict: bool,
}

/// What a sweep found.
#[derive(Default)]
pub struct Swept {
    /// Differences.
    pub differences: Differences,
    /// Each code that ran, with the status flags that ever differed, undefined ones included.
    pub ran: Vec<(Code, u64)>,
    /// Codes of which no case ran: they may not run on the host, or have operands that forms are not made of.
    pub skipped: Vec<Code>,
}

impl Sweep<'_> {
    /// Runs it. None where the host cannot serve.
    pub fn run(&self) -> Option<Swept> {
        let mut pair = Pair::new()?;
        let mut random = Random::new(self.seed);
        let mut swept = Swept::default();
        let mut bytes = vec![0; SCRATCH_SIZE as usize];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random.operand().to_le_bytes());
        }
        pair.set_scratch(&bytes);
        pair.strict = self.strict;
        for &code in self.codes {
            pair.differing_flags = 0;
            let before = swept.differences.cases;
            for _ in 0..cases(self.forms) {
                let Some(form) = form(code, &mut random) else { continue };
                if !runs_on_host(&form.insn) {
                    break;
                }
                self.cases(&mut pair, &mut random, &form, &mut swept.differences);
            }
            if swept.differences.cases > before {
                swept.ran.push((code, pair.differing_flags));
            } else {
                swept.skipped.push(code);
            }
        }
        Some(swept)
    }

    fn cases(&self, pair: &mut Pair, random: &mut Random, form: &forms::Form, found: &mut Differences) {
        pair.load(&form.bytes);
        for _ in 0..self.states {
            let mut user = aim(form, random, &blank());
            (self.prepare)(&mut user, random, &form.insn);
            if pair.confined(&user) {
                found.check(pair, &user);
            }
        }
    }
}
