//! What test harnesses need of a CPU and nobody else: one instruction at a time, registers without ceremony.

use crate::{
    attention::Request,
    fault::Fault,
    flags::bits,
    state::{Activity, Cpu, Why, X87},
    statistics::Flush,
};

/// The registers that user code sees: what a test sets, runs and compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct User {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Offset of the instruction in CS.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// XMM0 to XMM15: the lower halves of YMM0 to YMM15.
    pub xmm: [u128; 16],
    /// Their upper halves.
    pub ymm_high: [u128; 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// x87.
    pub x87: X87,
}

impl Cpu {
    /// Sets the user registers. Translations of addresses stay as they are.
    pub fn load_user(&mut self, user: &User) {
        self.gpr[..16].copy_from_slice(&user.gpr);
        let system = (self.eflags ^ user.rflags) & !(bits::STATUS | bits::FIXED | bits::DF | bits::ID);
        self.set_rflags(user.rflags);
        if system != 0 {
            self.refresh_mode();
        }
        self.xmm[..16].copy_from_slice(&user.xmm);
        self.xmm[16..].copy_from_slice(&user.ymm_high);
        self.mxcsr = user.mxcsr;
        self.x87 = user.x87;
        self.set_ip(user.rip);
    }

    /// The user registers.
    pub fn user(&self) -> User {
        User {
            gpr: std::array::from_fn(|k| self.gpr[k]),
            rip: self.ip(),
            rflags: self.rflags(),
            xmm: std::array::from_fn(|k| self.xmm[k]),
            ymm_high: std::array::from_fn(|k| self.xmm[16 + k]),
            mxcsr: self.mxcsr,
            x87: self.x87,
        }
    }

    /// Runs one instruction (a REP string instruction may need several steps). Its exception is given, not delivered.
    pub fn step(&mut self) -> Result<(), Fault> {
        self.why = Why::Continue;
        self.enter_guest();
        self.drop_written();
        self.bury();
        self.step_blocks(true);
        self.leave_guest();
        match self.why {
            Why::Fault => Err(self.fault),
            _ => Ok(()),
        }
    }

    /// Runs the block at RIP, or its translation, as far as direct branches do not lead back into it; what is behind its last
    /// instruction, and for the rest as [`Cpu::step`].
    pub fn pass(&mut self) -> Result<(), Fault> {
        // Decoding drops what is cached, and comes back.
        const TURNS: u32 = 4;
        for _ in 0..TURNS {
            self.why = Why::Continue;
            self.attention_ref().grant(0);
            let before = self.instructions();
            self.enter_guest();
            self.drop_written();
            self.serve_translations();
            self.bury();
            self.step_blocks(false);
            self.leave_guest();
            match self.why {
                Why::Fault => return Err(self.fault),
                Why::Continue if self.instructions() == before => {}
                _ => break,
            }
        }
        Ok(())
    }

    /// What translations ask for, as [`Cpu::run`] does it: without it code that is full would stay so, and all be interpreted.
    fn serve_translations(&mut self) {
        let requests = self.attention_owner.take();
        if requests.contains(Request::TRANSLATED) {
            self.install_translations();
        }
        let others = requests - Request::TRANSLATED - Request::ANY;
        if !others.is_empty() {
            self.attention_owner.mention(others);
        }
    }

    /// Runs code, as blocks, until it raises an exception, which is given and not delivered. None where it goes on for too long.
    pub fn run_to_fault(&mut self) -> Option<Fault> {
        const TURNS: u32 = 1 << 12;
        for _ in 0..TURNS {
            self.why = Why::Continue;
            self.attention_ref().grant(1 << 12);
            self.enter_guest();
            self.drop_written();
            self.serve_translations();
            self.bury();
            self.step_blocks(false);
            self.leave_guest();
            if self.why == Why::Fault {
                return Some(self.fault);
            }
        }
        None
    }

    /// One turn of [`Cpu::run`]: delivers what waits, runs for about `budget` instructions at most, delivers an exception.
    /// False once the CPU halts or has shut down.
    pub fn turn(&mut self, single: bool, budget: i32) -> bool {
        if self.activity != Activity::Active {
            return false;
        }
        self.attention_ref().grant(budget);
        let single = self.between_instructions() || single;
        self.bury();
        self.step_blocks(single);
        match self.why {
            Why::Fault => self.deliver_fault(),
            Why::Halt => self.activity = Activity::Halted,
            Why::Continue | Why::TripleFault | Why::Outside => {}
        }
        self.activity == Activity::Active
    }

    /// The harness has written `len` bytes of RAM, within one page, behind the CPU's back.
    pub fn ram_written(&mut self, physical: u64, len: u64) {
        self.stored(physical, len);
    }

    /// Ends a HLT as an interrupt would, without one.
    pub fn wake(&mut self) {
        self.activity = Activity::Active;
    }

    /// Drops all translations of addresses.
    pub fn flush(&mut self) {
        self.flush_all(Flush::Other);
    }
}

/// Decodes a block as the CPU does, at an offset in a page that has room for the bytes; gives the lengths of its
/// instructions. Panics where what the handlers rely on does not hold.
pub fn decode(bytes: &[u8], offset: u16, mode: u16) -> Vec<u8> {
    use crate::{decode::block, mode::Mode, model::Model, state::reg};
    const LIMIT: usize = 64;
    assert!(bytes.len() + usize::from(offset) <= 4096);
    let decoded = block(bytes, offset, Mode::from_bits_truncate(mode), Model::Max, LIMIT);
    let count = decoded.n as usize;
    assert!(count <= LIMIT && decoded.insns.len() - count <= 1);
    let file = size_of::<[u64; 18]>();
    for insn in &decoded.insns {
        assert!(insn.base <= reg::PAGE && insn.index <= reg::PAGE, "an address has registers");
        assert!(usize::from(insn.dst.max(insn.src)) + 8 <= file, "operands lie within the register file");
    }
    let lengths: Vec<u8> = decoded.insns[..count].iter().map(|insn| insn.len).collect();
    let sum: usize = lengths.iter().map(|&len| usize::from(len)).sum();
    assert!(lengths.iter().all(|len| (1..=15).contains(len)) && sum <= bytes.len());
    assert_eq!(usize::from(decoded.end), usize::from(offset) + sum);
    lengths
}

pub use crate::effects::Effects;

/// What 64-bit code of one instruction reads and writes, as its semantics say; None where the bytes hold none.
pub fn effects(bytes: &[u8]) -> Option<Effects> {
    use crate::{decode::one, mode::Mode, sem::effects};
    let decoded = one(bytes, 0, Mode::LONG | Mode::PROTECTED | Mode::FLAT, crate::Model::Max)?;
    Some(effects(decoded.insns.first()?))
}

/// Whether the first instruction of these bytes means something, to a model in protected-mode code of 16, 32 or 64 bits whose
/// system has enabled all there is.
pub fn is_defined(bytes: &[u8], bitness: u32, model: crate::Model) -> bool {
    use crate::{decode::one, mode::Mode, sem::Op};
    let mode = Mode::PROTECTED
        | match bitness {
            64 => Mode::LONG,
            32 => Mode::CODE32 | Mode::STACK32 | Mode::FLAT,
            _ => Mode::empty(),
        };
    let decoded = one(bytes, 0, mode, model);
    let first = decoded.as_ref().and_then(|decoded| decoded.insns.first());
    first.is_some_and(|insn| !matches!(Op::from_number(insn.op), Op::Undefined | Op::TooLong))
}

/// A handler of the interpreter.
#[derive(Clone, Debug)]
pub struct Handler {
    /// Semantics, width and operand kinds.
    pub name: String,
    /// Where its machine code is.
    pub address: usize,
    /// Whether the instruction ends its block, so that the handler returns.
    pub ends_block: bool,
}

/// All handlers, each once.
pub fn handlers() -> Vec<Handler> {
    use crate::{
        insn::Kind,
        sem::{Op, general, specialised},
    };
    let mut found = std::collections::BTreeMap::new();
    let kinds = [Kind::Reg, Kind::Mem, Kind::Imm, Kind::Far, Kind::Flat32];
    for n in 0..Op::COUNT {
        let op = Op::from_number(n);
        let mut note = |step: crate::insn::Step, form: &dyn Fn() -> String| {
            let address = step as usize;
            found.entry(address).or_insert_with(|| {
                let name = format!("{op:?} {}", form());
                Handler { name, address, ends_block: op.ends_block() }
            });
        };
        note(general(n), &|| "in general".into());
        for w in [1, 2, 4, 8, 16, 32] {
            // What is numbered by its operation is of vector registers.
            let numbers = if w == 16 { 0..=u8::MAX } else { 0..=0 };
            for dst in kinds {
                for src in kinds {
                    for c in numbers.clone() {
                        note(specialised(op, w, dst, src, c), &|| format!("{w} {dst:?} {src:?} {c}"));
                    }
                }
            }
        }
    }
    for (n, (step, ends_block)) in crate::sem::pairs::all().enumerate() {
        let address = step as usize;
        found.entry(address).or_insert(Handler { name: format!("pair {n}"), address, ends_block });
    }
    found.into_values().collect()
}
