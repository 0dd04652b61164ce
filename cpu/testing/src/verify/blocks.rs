//! Short runs of instructions, so that flags and registers pass from each to the others, and the emulated CPU runs them as it
//! runs programs: as blocks, with handlers for two instructions in one. Their memory does not depend on registers.

use super::{
    Part,
    difference::{Outcome, describe, parts, same},
    line::begin,
    plan::{self, Class},
    quirks,
    run::{Case, Verifier},
    state,
    subject::Subject,
    values::{self, Lanes},
};
use crate::{Segments, compare::text, forms, layout::*};
use iced_x86::{Decoder, DecoderOptions};
use softmetal_cpu::testing::User;
use std::fmt::Write;

/// The most instructions of a run, and the states that each runs from.
const LONGEST: u64 = 12;
const STATES: usize = 8;
/// Runs that differ of which the smallest part is looked for.
const SHRUNK: usize = 5;

impl Verifier {
    /// One run of instructions, from some states.
    pub(super) fn block(&mut self) {
        let length = 2 + self.random.below(LONGEST - 1);
        let mut pieces = Vec::new();
        for _ in 0..length {
            pieces.extend(self.piece());
        }
        if pieces.len() < 2 {
            return;
        }
        for _ in 0..STATES.min(self.left()) {
            let user = self.block_state();
            let mut scratch = vec![0; SCRATCH_SIZE as usize];
            self.theirs.read(SCRATCH, &mut scratch);
            let (ours, theirs) = self.run_block(&pieces, &user);
            self.tally.cases += 1;
            self.tally.blocks += 1;
            self.tally.faults += u64::from(theirs.fault.is_some());
            if same(&ours, &theirs) && self.memory_agrees() {
                continue;
            }
            self.tally.differences += 1;
            if self.tally.different_blocks.len() < SHRUNK {
                let told = self.shrink_block(pieces.clone(), user, &scratch);
                self.tally.different_blocks.push(told);
            }
            self.set_scratch(&scratch);
        }
    }

    /// An instruction that may stand in a run.
    fn piece(&mut self) -> Option<Vec<u8>> {
        let code = self.plan[self.random.below(self.plan.len() as u64) as usize];
        if !code.op_code().mode64() || plan::class(code, 64) != Class::Compared {
            return None;
        }
        let form = forms::form(code, &mut self.random)?;
        let subject = Subject::new(Segments::LONG, code, &form.bytes);
        let fits = !subject.faults
            && self.planned[subject.code as usize]
            && plan::may_run(Segments::LONG, &subject.insn)
            && subject.stays()
            && quirks::everywhere_alike(&subject);
        fits.then_some(subject.bytes)
    }

    fn block_state(&mut self) -> User {
        let mut user = state::base(&mut self.random);
        user.gpr.iter_mut().for_each(|r| *r = self.random.operand());
        user.gpr[4] = USER_STACK;
        user.rflags = 0x202 | self.random.next() & 0xcd5;
        let lanes = self.random.pick(&[Lanes::SINGLE, Lanes::DOUBLE, Lanes::Int(8), Lanes::Int(32)]);
        let mut other = user.xmm[0];
        for v in user.xmm.iter_mut().chain(&mut user.ymm_high) {
            other = values::vector(&mut self.random, lanes, other);
            *v = other;
        }
        user.mxcsr = values::mxcsr(&mut self.random);
        user
    }

    fn run_block(&mut self, pieces: &[Vec<u8>], before: &User) -> (Outcome, Outcome) {
        let code = pieces.concat();
        self.place(Segments::LONG, &code);
        let (mut ours, mut theirs) = (*before, *before);
        let our_fault = self.ours.run_block(&mut ours, code.len()).err();
        let their_fault = self.theirs.run_block(&mut theirs, code.len()).err();
        (
            Outcome { user: ours, fault: our_fault, selectors: None },
            Outcome { user: theirs, fault: their_fault, selectors: None },
        )
    }

    /// What differs, from this memory.
    fn block_parts(&mut self, pieces: &[Vec<u8>], user: &User, scratch: &[u8]) -> (Vec<Part>, String) {
        self.set_scratch(scratch);
        let (ours, theirs) = self.run_block(pieces, user);
        let mut different = parts(&ours, &theirs);
        if !self.memory_agrees() {
            different.push(Part::Memory);
        }
        let told = describe(&different, &ours, &theirs);
        (different, told)
    }

    /// Leaves out what can be left out while something differs, and says what is left.
    fn shrink_block(&mut self, mut pieces: Vec<Vec<u8>>, mut user: User, scratch: &[u8]) -> String {
        for k in (0..pieces.len()).rev() {
            let mut fewer = pieces.clone();
            fewer.remove(k);
            if !fewer.is_empty() && !self.block_parts(&fewer, &user, scratch).0.is_empty() {
                pieces = fewer;
            }
        }
        for k in 0..48 {
            let mut simpler = user;
            match k {
                4 => {}
                0..16 => simpler.gpr[k] = 0,
                16..32 => simpler.xmm[k - 16] = 0,
                _ => simpler.ymm_high[k - 32] = 0,
            }
            if !self.block_parts(&pieces, &simpler, scratch).0.is_empty() {
                user = simpler;
            }
        }
        let (_, told) = self.block_parts(&pieces, &user, scratch);
        let mut out = String::new();
        let mut ip = INSN;
        for bytes in &pieces {
            let insn = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode();
            let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let _ = writeln!(out, "#   [{}] {}", hex.join(" "), text(&insn));
            ip += bytes.len() as u64;
        }
        let case = Case { bytes: Vec::new(), segments: Segments::LONG, before: user, scratch: Vec::new() };
        let _ = writeln!(out, "#   from {}", begin(&case));
        for line in told.lines() {
            let _ = writeln!(out, "# {line}");
        }
        out
    }
}
