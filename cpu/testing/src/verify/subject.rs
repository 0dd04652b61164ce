//! What is run: an instruction's bytes, with what must be known of it to make states for it.

use super::values::Lanes;
use crate::{Random, Segments, compare::loads_segment, forms, forms_legacy, layout::*};
use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, Instruction, InstructionInfoFactory, MemorySize, Mnemonic,
    OpAccess, OpKind, Register,
};
use softmetal_cpu::testing::User;

/// Memory that an instruction uses: an address made of registers, and bytes from there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    base: Register,
    index: Register,
    scale: u64,
    displacement: u64,
    /// Offsets are cut to this.
    mask: u64,
    /// What is added to the offset then; the sum is cut to `linear`.
    segment: u64,
    linear: u64,
    /// All that the segment reaches is the scratch memory and empty pages.
    local: bool,
    /// Vector indexes: bytes of each, and how many there are.
    lanes: Option<(usize, usize)>,
    pub(super) size: u64,
    pub(super) writes: bool,
}

impl Touch {
    /// The lowest and the highest address at which the access begins.
    fn addresses(&self, user: &User) -> (u64, u64) {
        let base = self.displacement.wrapping_add(part(user, self.base));
        match self.lanes {
            None => {
                let offset = base.wrapping_add(part(user, self.index).wrapping_mul(self.scale)) & self.mask;
                let at = offset.wrapping_add(self.segment) & self.linear;
                (at, at)
            }
            Some((bytes, count)) => {
                let number = self.index.number();
                let vector = [user.xmm[number], user.ymm_high[number]];
                let lane = |k: usize| {
                    let v = (vector[k * bytes / 16] >> (k * bytes % 16 * 8)) as u64;
                    let v = if bytes == 4 { i64::from(v as i32) as u64 } else { v };
                    base.wrapping_add(v.wrapping_mul(self.scale)) & self.mask
                };
                (0..count).map(lane).fold((u64::MAX, 0), |(low, high), at| (low.min(at), high.max(at)))
            }
        }
    }
}

/// The value of a register as addresses use it.
fn part(user: &User, r: Register) -> u64 {
    crate::compare::register(user, r).unwrap_or(0)
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// As it decodes; for bytes that are no instruction, the one that they were made from.
    pub(super) code: Code,
    pub(super) insn: Instruction,
    /// In what segments it stands.
    pub(super) segments: Segments,
    pub(super) bytes: Vec<u8>,
    pub(super) touches: Vec<Touch>,
    /// Numbers of the general registers that it reads, and of the vector registers.
    pub(super) reads: Vec<usize>,
    pub(super) vectors: Vec<usize>,
    pub(super) lanes: Lanes,
    /// It uses YMM registers.
    pub(super) wide: bool,
    /// It uses x87 or MMX registers.
    pub(super) x87: bool,
    /// Its memory operand must be aligned to this.
    pub(super) alignment: u64,
    /// It always faults: no instruction, or none for user code.
    pub(super) faults: bool,
    /// It may write a segment register.
    pub(super) loads_segment: bool,
}

/// Legacy prefixes that mean little or nothing, or forbid the instruction.
const PREFIXES: [u8; 12] = [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0x40];

/// Bytes that stand before the opcode: how many legacy prefixes, and whether a REX prefix follows.
fn prefixes(bytes: &[u8]) -> (usize, bool) {
    let legacy = bytes
        .iter()
        .take_while(|b| {
            matches!(b, 0x66 | 0x67 | 0xf2 | 0xf3 | 0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65)
        })
        .count();
    (legacy, bytes.get(legacy).is_some_and(|b| b & 0xf0 == 0x40))
}

/// Adds prefixes that are redundant or wrong, in places where they are legal or not, up to 15 bytes and beyond.
fn decorate(segments: Segments, bytes: &mut Vec<u8>, random: &mut Random) {
    let mut r = random.next();
    if segments != Segments::LONG && matches!(r & 7, 2 | 3) {
        // There is no REX prefix.
        r ^= 6;
    }
    let (legacy, rex) = prefixes(bytes);
    match r & 7 {
        // The longest that there is, and one that is too long.
        0 | 1 => {
            let filler = random.pick(&[0x2e, 0x36, 0x3e, 0x26]);
            let goal = if r >> 8 & 15 == 0 { 16 } else { 15 - (r >> 12 & 3) as usize };
            while bytes.len() < goal {
                bytes.insert(0, filler);
            }
        }
        // A REX prefix that is not the last prefix means nothing.
        2 => bytes.insert((r >> 8) as usize % (legacy + 1), 0x40 | (r >> 16) as u8 & 15),
        // One where there was none, or bits that mean nothing there.
        3 if rex => bytes[legacy] ^= 1 << (r >> 8 & 3),
        3 => bytes.insert(legacy, 0x40 | (r >> 16) as u8 & 15),
        4 => bytes.insert(legacy + usize::from(rex), random.pick(&PREFIXES)),
        _ => {
            for _ in 0..=(r >> 8 & 1) {
                bytes.insert((r >> 16) as usize % (legacy + 1), random.pick(&PREFIXES));
            }
        }
    }
}

impl Subject {
    /// A random form of `code`, some of them with strange prefixes; None where there is none that may run.
    pub(super) fn random(
        segments: Segments,
        code: Code,
        random: &mut Random,
        allowed: &dyn Fn(&Instruction) -> bool,
    ) -> Option<Subject> {
        let form = forms::form_in(segments, code, random)?;
        let mut bytes = form.bytes;
        let plain = Subject::new(segments, code, &bytes);
        if !allowed(&plain.insn) {
            return None;
        }
        if random.next() >> 62 != 0 {
            return Some(plain);
        }
        decorate(segments, &mut bytes, random);
        let strange = Subject::new(segments, code, &bytes);
        // What is no instruction for us faults; on the host too, but for instructions that iced does not know.
        let good = if strange.insn.is_invalid() { true } else { allowed(&strange.insn) };
        Some(if good { strange } else { plain })
    }

    /// What these bytes mean; `origin` stands for those that mean nothing.
    pub(super) fn new(segments: Segments, origin: Code, bytes: &[u8]) -> Subject {
        // A prefix may have made immediates longer or shorter.
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().max(16) + 8, 0);
        let insn = Decoder::with_ip(segments.bitness(), &bytes, segments.ip(), DecoderOptions::NONE).decode();
        let invalid = insn.is_invalid();
        bytes.truncate(if invalid { 24 } else { insn.len() });
        let code = if invalid { origin } else { insn.code() };
        let mut subject = Subject {
            code,
            insn,
            segments,
            loads_segment: loads_segment(&insn),
            bytes,
            touches: Vec::new(),
            reads: Vec::new(),
            vectors: Vec::new(),
            lanes: lanes(code),
            wide: false,
            x87: false,
            alignment: 1,
            faults: invalid,
        };
        if !invalid {
            subject.learn();
        }
        subject
    }

    /// What iced's tables say of it.
    fn learn(&mut self) {
        let insn = &self.insn;
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(insn);
        for used in info.used_registers() {
            let reads =
                !matches!(used.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::NoMemAccess);
            let r = used.register();
            let full = r.full_register();
            if full.is_gpr() && reads && !self.reads.contains(&full.number()) {
                self.reads.push(full.number());
            } else if full.is_vector_register()
                && full.number() < 16
                && !self.vectors.contains(&full.number())
            {
                self.vectors.push(full.number());
                self.wide |= r.is_ymm();
            } else if r.is_mm() || r.is_st() {
                self.x87 = true;
            }
        }
        self.x87 |= self.code.cpuid_features().iter().any(|f| {
            use iced_x86::CpuidFeature as F;
            matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::FXSR)
        });
        let reach = self.reach();
        for memory in info.used_memory() {
            let lanes = (memory.vsib_size() != 0).then(|| {
                let bytes = memory.vsib_size() as usize;
                let vector = memory.index().size();
                (bytes, vector / bytes)
            });
            let size = match memory.memory_size().size() {
                0 if matches!(memory.memory_size(), MemorySize::Xsave | MemorySize::Xsave64) => 0x1000,
                0 => 64,
                n => n,
            };
            let frame = matches!(insn.mnemonic(), Mnemonic::Enter | Mnemonic::Leave);
            let stack = memory.segment() == Register::SS
                && match memory.base().full_register() {
                    Register::RSP => frame || insn.stack_pointer_increment() != 0,
                    Register::RBP => frame,
                    _ => false,
                };
            let long = self.segments == Segments::LONG;
            let whole = |r: Register| if stack { r.full_register() } else { r };
            self.touches.push(Touch {
                segment: if long { 0 } else { forms_legacy::base(self.segments, memory.segment()) },
                linear: if long { u64::MAX } else { u32::MAX.into() },
                local: !long && forms_legacy::is_local(self.segments, memory.segment()),
                base: whole(memory.base()),
                index: memory.index(),
                scale: memory.scale().into(),
                displacement: memory.displacement(),
                mask: match memory.address_size() {
                    // iced takes the stack to be as wide as the code.
                    _ if stack && !long && self.segments.narrow_stack() => 0xffff,
                    _ if stack && !long => 0xffff_ffff,
                    iced_x86::CodeSize::Code16 => 0xffff,
                    iced_x86::CodeSize::Code32 => 0xffff_ffff,
                    _ => u64::MAX,
                },
                lanes,
                size: size as u64 + reach,
                writes: matches!(
                    memory.access(),
                    OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
                ),
            });
        }
        let size = insn.memory_size().size() as u64;
        let vector = insn.code().op_code().encoding() == EncodingKind::Legacy && !self.vectors.is_empty();
        let cmpxchg16b = insn.mnemonic() == Mnemonic::Cmpxchg16b;
        let saves = matches!(insn.memory_size(), MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte);
        if vector && size == 16 || cmpxchg16b || saves {
            self.alignment = 16;
        } else if matches!(insn.memory_size(), MemorySize::Xsave | MemorySize::Xsave64) {
            self.alignment = 64;
        } else if size >= 16 {
            // Aligned loads and stores of VEX encoding; others do not mind.
            self.alignment = size;
        }
    }

    /// How far a repeated string instruction goes beyond one element, in either direction.
    fn reach(&self) -> u64 {
        if self.insn.has_rep_prefix() || self.insn.has_repne_prefix() { MAX_COUNT * 8 } else { 0 }
    }

    pub(super) fn repeats(&self) -> bool {
        self.insn.is_string_instruction() && self.reach() != 0
    }

    pub(super) fn writes_memory(&self) -> bool {
        self.touches.iter().any(|touch| touch.writes)
    }

    /// Whether it goes on to the next instruction with the same segments and stack, and uses memory at fixed places only.
    pub(super) fn stays(&self) -> bool {
        let fixed = |touch: &Touch| {
            touch.index == Register::None
                && matches!(touch.base, Register::None | Register::RIP | Register::EIP)
                && touch.lanes.is_none()
                && touch.mask == u64::MAX
        };
        // What is relative to the instruction moves with it.
        let aligned = self.alignment == 1 || !self.insn.is_ip_rel_memory_operand();
        self.touches.iter().all(fixed)
            && aligned
            && self.bit_offset().is_none()
            && !self.loads_segment
            && !self.insn.is_string_instruction()
            && self.insn.stack_pointer_increment() == 0
    }

    /// Where its first memory operand lies.
    pub(super) fn first_address(&self, user: &User) -> Option<u64> {
        self.touches.first().map(|touch| touch.addresses(user).0)
    }

    /// The register that says which bit of a string in memory is meant.
    pub(super) fn bit_offset(&self) -> Option<Register> {
        use Mnemonic as M;
        let string = matches!(self.insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
            && self.insn.op0_kind() == OpKind::Memory
            && self.insn.op1_kind() == OpKind::Register;
        string.then(|| self.insn.op1_register())
    }

    /// The memory that the case uses, as ranges of linear addresses with what lies near; None where some of it is neither in
    /// the scratch memory nor in the empty pages beside it nor at an address that is not canonical.
    pub(super) fn ranges(&self, user: &User, out: &mut Vec<(u64, u64, bool)>) -> bool {
        out.clear();
        let bits = self.bit_offset().map_or(0, |r| {
            let size = 8 * r.size() as u32;
            ((part(user, r) << (64 - size)) as i64 >> (64 - size)) >> 3
        });
        if self.repeats() && user.gpr[1] & self.count_mask() > MAX_COUNT {
            return false;
        }
        let down = self.reach();
        for touch in &self.touches {
            let (low, high) = touch.addresses(user);
            // What a bit string adds to an offset wraps with it.
            let shifted = |at: u64| {
                let offset = at.wrapping_sub(touch.segment).wrapping_add(bits as u64) & touch.mask;
                offset.wrapping_add(touch.segment) & touch.linear
            };
            let (low, high) = (shifted(low), shifted(high));
            if self.touches.len() == 1 && low == high && NEVER_CANONICAL.contains(&(low >> 57)) {
                continue;
            }
            if touch.local {
                // Wherever it leads, nothing of the process is there.
                let (from, to) = (low.saturating_sub(down + 16), high.saturating_add(touch.size + 16));
                out.push((from.max(SCRATCH), to.min(SCRATCH + SCRATCH_SIZE), touch.writes));
                continue;
            }
            let (from, to) = (low.wrapping_sub(down + 16), high.wrapping_add(touch.size + 16));
            if from < SCRATCH - 0x1000 || from > to || to > SCRATCH + SCRATCH_SIZE + 0x1000 || low > high {
                return false;
            }
            out.push((from.max(SCRATCH), to.min(SCRATCH + SCRATCH_SIZE), touch.writes));
        }
        true
    }

    /// Which bits of RCX a repeated instruction counts with.
    fn count_mask(&self) -> u64 {
        self.touches.first().map_or(u64::MAX, |touch| touch.mask)
    }
}

/// The most that a repeated instruction counts.
pub(super) const MAX_COUNT: u64 = 40;

/// Bits 63:57 of addresses that are canonical with neither 48 nor 57 bits.
const NEVER_CANONICAL: std::ops::Range<u64> = 1..0x7f;

/// What the lanes of a code's operands are.
fn lanes(code: Code) -> Lanes {
    let size = match code.op_code().memory_size() {
        MemorySize::Unknown => return Lanes::Int(64),
        size => size.info().element_type(),
    };
    match size {
        MemorySize::Float16 => Lanes::HALF,
        MemorySize::Float32 => Lanes::SINGLE,
        MemorySize::Float64 => Lanes::DOUBLE,
        other => match other.size() {
            1 => Lanes::Int(8),
            2 => Lanes::Int(16),
            4 => Lanes::Int(32),
            _ => Lanes::Int(64),
        },
    }
}
