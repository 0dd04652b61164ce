//! What two sides left, compared.

use crate::{
    Segments,
    compare::{FLAG_NAMES, GPR_NAMES, flags_text},
    host::HostFault,
    machine::flag,
};
use softmetal_cpu::testing::User;
use std::fmt::{self, Write};

/// What a case left.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) user: User,
    pub(super) fault: Option<HostFault>,
    /// Of instructions that may write segment registers.
    pub(super) selectors: Option<Segments>,
}

/// One thing that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// One faulted and the other did not, or they raised different exceptions, error codes or addresses.
    Fault,
    /// RIP.
    Rip,
    /// A general register by number.
    Gpr(u8),
    /// These flags, as bits of RFLAGS.
    Flags(u64),
    /// An XMM register.
    Xmm(u8),
    /// The upper half of a YMM register.
    YmmHigh(u8),
    /// MXCSR.
    Mxcsr,
    /// A physical x87 register.
    St(u8),
    /// The x87 control word.
    Control,
    /// The x87 status word.
    Status,
    /// Which x87 registers are in use.
    Tags,
    /// Segment registers.
    Selectors,
    /// Memory.
    Memory,
}

impl Part {
    /// What kind of thing it is, for reports.
    pub fn kind(self) -> &'static str {
        match self {
            Part::Fault => "fault",
            Part::Rip => "rip",
            Part::Gpr(_) => "register",
            Part::Flags(_) => "flags",
            Part::Xmm(_) | Part::YmmHigh(_) => "vector",
            Part::Mxcsr => "mxcsr",
            Part::St(_) => "x87 register",
            Part::Control | Part::Status | Part::Tags => "x87 state",
            Part::Selectors => "segment",
            Part::Memory => "memory",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Fault => f.write_str("fault"),
            Part::Rip => f.write_str("rip"),
            Part::Gpr(k) => f.write_str(GPR_NAMES[usize::from(*k)]),
            Part::Flags(bits) => {
                let names = FLAG_NAMES.iter().filter(|(_, bit)| bits & bit != 0);
                f.write_str(&names.map(|&(n, _)| n).collect::<Vec<_>>().join("+"))
            }
            Part::Xmm(k) => write!(f, "xmm{k}"),
            Part::YmmHigh(k) => write!(f, "ymm{k}'s upper half"),
            Part::Mxcsr => f.write_str("mxcsr"),
            Part::St(k) => write!(f, "st{k}"),
            Part::Control => f.write_str("fcw"),
            Part::Status => f.write_str("fsw"),
            Part::Tags => f.write_str("ftw"),
            Part::Selectors => f.write_str("segment registers"),
            Part::Memory => f.write_str("memory"),
        }
    }
}

/// Flags that user code changes.
pub(super) const FLAGS: u64 = flag::STATUS | flag::DF;

/// Whether all of it is the same. It is what nearly every case comes to.
#[inline]
pub(super) fn same(ours: &Outcome, theirs: &Outcome) -> bool {
    let (a, b) = (&ours.user, &theirs.user);
    ours.fault == theirs.fault
        && ours.selectors == theirs.selectors
        && a.gpr == b.gpr
        && a.rip == b.rip
        && (a.rflags ^ b.rflags) & FLAGS == 0
        && a.xmm == b.xmm
        && a.ymm_high == b.ymm_high
        && a.mxcsr == b.mxcsr
        && a.x87.regs == b.x87.regs
        && (a.x87.control, a.x87.status, a.x87.tags) == (b.x87.control, b.x87.status, b.x87.tags)
}

/// Everything that differs, memory left out.
pub(super) fn parts(ours: &Outcome, theirs: &Outcome) -> Vec<Part> {
    let (a, b) = (&ours.user, &theirs.user);
    let mut found = Vec::new();
    let mut note = |differs: bool, part: Part| {
        if differs {
            found.push(part);
        }
    };
    note(ours.fault != theirs.fault, Part::Fault);
    note(a.rip != b.rip, Part::Rip);
    note(ours.selectors != theirs.selectors, Part::Selectors);
    for k in 0..16 {
        note(a.gpr[k] != b.gpr[k], Part::Gpr(k as u8));
    }
    let flags = (a.rflags ^ b.rflags) & FLAGS;
    note(flags != 0, Part::Flags(flags));
    for k in 0..16 {
        note(a.xmm[k] != b.xmm[k], Part::Xmm(k as u8));
    }
    for k in 0..16 {
        note(a.ymm_high[k] != b.ymm_high[k], Part::YmmHigh(k as u8));
    }
    note(a.mxcsr != b.mxcsr, Part::Mxcsr);
    for k in 0..8 {
        note(a.x87.regs[k] != b.x87.regs[k], Part::St(k as u8));
    }
    note(a.x87.control != b.x87.control, Part::Control);
    note(a.x87.status != b.x87.status, Part::Status);
    note(a.x87.tags != b.x87.tags, Part::Tags);
    found
}

/// Both values of each part, a line each.
pub(super) fn describe(parts: &[Part], ours: &Outcome, theirs: &Outcome) -> String {
    let (a, b) = (&ours.user, &theirs.user);
    let mut out = String::new();
    for part in parts {
        let _ = match *part {
            Part::Fault => {
                writeln!(out, "  ended: {}, expected {}", fault_text(ours.fault), fault_text(theirs.fault))
            }
            Part::Rip => writeln!(out, "  rip: {:x}, expected {:x}", a.rip, b.rip),
            Part::Gpr(k) => {
                let k = usize::from(k);
                writeln!(out, "  {}: {:x}, expected {:x}", GPR_NAMES[k], a.gpr[k], b.gpr[k])
            }
            Part::Flags(_) => {
                let (ours, theirs) = (flags_text(a.rflags), flags_text(b.rflags));
                writeln!(out, "  flags: {ours}, expected {theirs}; different: {part}")
            }
            Part::Xmm(k) => {
                let k = usize::from(k);
                writeln!(out, "  xmm{k}: {:032x}, expected {:032x}", a.xmm[k], b.xmm[k])
            }
            Part::YmmHigh(k) => {
                let k = usize::from(k);
                writeln!(out, "  {part}: {:032x}, expected {:032x}", a.ymm_high[k], b.ymm_high[k])
            }
            Part::Mxcsr => writeln!(out, "  mxcsr: {:x}, expected {:x}", a.mxcsr, b.mxcsr),
            Part::St(k) => {
                let (x, y) = (a.x87.regs[usize::from(k)], b.x87.regs[usize::from(k)]);
                writeln!(
                    out,
                    "  physical st{k}: {:04x}:{:016x}, expected {:04x}:{:016x}",
                    x.sign_exponent, x.significand, y.sign_exponent, y.significand
                )
            }
            Part::Control => writeln!(out, "  fcw: {:x}, expected {:x}", a.x87.control, b.x87.control),
            Part::Status => writeln!(out, "  fsw: {:x}, expected {:x}", a.x87.status, b.x87.status),
            Part::Tags => writeln!(out, "  ftw: {:x}, expected {:x}", a.x87.tags, b.x87.tags),
            Part::Selectors => {
                writeln!(out, "  selectors: {:x?}, expected {:x?}", ours.selectors, theirs.selectors)
            }
            Part::Memory => writeln!(out, "  memory"),
        };
    }
    out
}

fn fault_text(fault: Option<HostFault>) -> String {
    match fault {
        None => "without exception".into(),
        Some(HostFault { vector: 14, error, cr2 }) => format!("#PF({error:x}) at {cr2:x}"),
        Some(HostFault { vector, error, .. }) => format!("vector {vector}({error:x})"),
    }
}
