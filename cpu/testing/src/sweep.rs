//! Random forms of many instructions, each from several random states, on the test machine and on the host.

use crate::{
    compare::{Differences, Pair, blank},
    forms::{self, aim, form, form_in},
    forms_legacy,
    host::{runs_in, runs_on_host},
    layout::SCRATCH_SIZE,
    machine::flag,
    random::{Random, cases},
    segments::Segments,
    undefined::rflags,
};
use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use softmetal_cpu::{Options, testing::User};

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
    /// Speed-ups of the emulated CPU that are off.
    pub options: Options,
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
        self.run_in(Segments::LONG)
    }

    /// As [`Sweep::run`], in code of other segments. None where the host has none of that kind, too.
    pub fn run_in(&self, segments: Segments) -> Option<Swept> {
        let mut pair = Pair::with_options(self.options)?;
        if !pair.enter(segments) {
            return None;
        }
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
                let Some(form) = form_in(segments, code, &mut random) else { continue };
                if !runs_in(segments, &form.insn) {
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
            let mut user = match pair.segments() {
                Segments::LONG => aim(form, random, &blank()),
                segments => forms_legacy::aim(segments, form, random, &blank()),
            };
            (self.prepare)(&mut user, random, &form.insn);
            forms::aim_indices(form, random, &mut user);
            if pair.confined(&user) {
                found.check(pair, &user);
            }
        }
    }
}

/// Whether an instruction may stand in a run of them: it leaves nothing undefined but AF, and nothing reads that; its memory
/// does not depend on registers; it leaves the stack pointer alone.
fn fits_block(insn: &Instruction) -> bool {
    let undefined = rflags(insn.rflags_undefined()) & !flag::AF;
    let reads_af = matches!(insn.mnemonic(), Mnemonic::Lahf | Mnemonic::Cmpxchg16b);
    let fixed = insn.memory_index() == Register::None
        && matches!(insn.memory_base(), Register::None | Register::RIP | Register::EIP);
    let bit_string = matches!(insn.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && insn.op0_kind() == OpKind::Memory;
    use Mnemonic as M;
    // Rotates and shifts by other counts than 1 leave OF undefined.
    let shift = matches!(
        insn.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    ) && (insn.op_kind(insn.op_count() - 1) == OpKind::Register
        || insn.immediate(insn.op_count() - 1) != 1);
    let scan = matches!(insn.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr | Mnemonic::Bswap);
    let mut factory = InstructionInfoFactory::new();
    let stack = factory
        .info(insn)
        .used_registers()
        .iter()
        .any(|used| used.register().full_register() == Register::RSP && used.access() != OpAccess::Read);
    undefined == 0
        && !reads_af
        && fixed
        && !bit_string
        && !scan
        && !shift
        && !stack
        && !insn.is_string_instruction()
        && insn.stack_pointer_increment() == 0
        && runs_on_host(insn)
}

/// Random runs of instructions from `codes`, run as blocks. None where the host cannot serve.
pub fn blocks(codes: &[Code], seed: u64, count: u64, options: Options) -> Option<Differences> {
    let mut pair = Pair::with_options(options)?;
    let mut random = Random::new(seed);
    let mut found = Differences::default();
    let mut bytes = vec![0; SCRATCH_SIZE as usize];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.operand().to_le_bytes());
    }
    pair.set_scratch(&bytes);
    for _ in 0..cases(count) {
        let mut code = Vec::new();
        let length = 1 + random.below(40);
        for _ in 0..length {
            let code_of = random.pick(codes);
            // RIP-relative operands count from where forms are made for, so those must stay before the page's end.
            if let Some(form) = form(code_of, &mut random).filter(|form| fits_block(&form.insn)) {
                code.extend(form.bytes);
            }
        }
        if code.is_empty() {
            continue;
        }
        for _ in 0..3 {
            let mut user = blank();
            user.gpr.iter_mut().for_each(|r| *r = random.operand());
            user.gpr[4] = crate::layout::USER_STACK;
            user.rflags = 0x202 | random.next() & flag::STATUS;
            let result = pair.check_block(&code, &user);
            found.note("block".into(), result);
        }
    }
    Some(found)
}
