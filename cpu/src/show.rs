//! The state of a CPU as people read it.

use crate::state::{CpuState, Segment, TableRegister};
use std::fmt;

const GPR: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14",
    "R15",
];

fn segment(f: &mut fmt::Formatter<'_>, name: &str, s: &Segment) -> fmt::Result {
    writeln!(f, "{name:4} {:04x} {:016x} {:08x} {:05x}", s.selector, s.base, s.limit, s.attributes)
}

fn table(f: &mut fmt::Formatter<'_>, name: &str, t: &TableRegister) -> fmt::Result {
    writeln!(f, "{name:4}      {:016x} {:08x}", t.base, t.limit)
}

/// Registers in columns, as crash messages show them. Vector and x87 registers are left out.
impl fmt::Display for CpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, names) in GPR.chunks(4).enumerate() {
            for (k, name) in names.iter().enumerate() {
                write!(f, "{name} {:016x}{}", self.gpr[4 * row + k], if k == 3 { "\n" } else { "  " })?;
            }
        }
        writeln!(f, "RIP {:016x}  RFLAGS {:08x}", self.rip, self.rflags)?;
        writeln!(
            f,
            "CR0 {:08x}  CR2 {:016x}  CR3 {:016x}  CR4 {:08x}",
            self.cr0, self.cr2, self.cr3, self.cr4
        )?;
        writeln!(f, "EFER {:04x}  DR6 {:08x}  DR7 {:08x}", self.efer, self.dr[6], self.dr[7])?;
        for (name, s) in ["ES", "CS", "SS", "DS", "FS", "GS"].iter().zip(&self.segments) {
            segment(f, name, s)?;
        }
        segment(f, "LDTR", &self.ldtr)?;
        segment(f, "TR", &self.tr)?;
        table(f, "GDTR", &self.gdtr)?;
        table(f, "IDTR", &self.idtr)
    }
}
