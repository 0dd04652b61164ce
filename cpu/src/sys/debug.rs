//! Breakpoints: SDM 3B "Debug Registers" and "Debug Exceptions".
//!
//! Instruction breakpoints make every block one instruction long (`Mode::SINGLE`), so that the dispatcher looks at each
//! address. Pages with data breakpoints get no tag in the TLB, so that their accesses come to the slow path, which ends the
//! instruction where one hits, and has it run again alone: then the hit is noted, and the trap follows the instruction.

use crate::{
    fault::{Done, Fault, Stop, vector},
    flags::bits::RF,
    mmu::Class,
    mode::Mode,
    ram::PAGE,
    state::{Cpu, Shadow, Why, cr4},
    statistics::Flush,
};

/// Bits of DR6.
pub(crate) mod dr6 {
    /// A debug register was touched with DR7.GD set.
    pub(crate) const BD: u64 = 1 << 13;
    /// Single step.
    pub(crate) const BS: u64 = 1 << 14;
    /// A switch to a task whose TSS has its T bit set.
    pub(crate) const BT: u64 = 1 << 15;
}

/// DR7.GD: the next access to a debug register traps.
pub(crate) const GENERAL_DETECT: u64 = 1 << 13;

/// What a breakpoint waits for, DR7's R/W field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    /// With CR4.DE.
    Port,
    /// Reads and writes, not fetches.
    Access,
}

/// One of the four breakpoints, switched on.
#[derive(Clone, Copy, Debug)]
struct Breakpoint {
    number: u32,
    kind: Kind,
    /// First byte, aligned to the length.
    start: u64,
    len: u64,
}

/// What of DR7 others want to know fast, and what waits for the end of an instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breakpoints {
    /// An instruction breakpoint is on.
    pub(crate) code: bool,
    /// A data breakpoint or watchpoint is on.
    pub(crate) data: bool,
    /// An I/O breakpoint is on.
    pub(crate) port: bool,
    /// DR6 bits of the traps behind the current instruction; behind MOV SS they wait for one more.
    pub(crate) pending: u64,
    /// Instructions run one by one inside the block in execution, so a hit may be noted.
    pub(crate) alone: bool,
    /// An instruction was ended because it hits a data breakpoint: it must run again alone.
    pub(crate) again: bool,
}

impl Breakpoints {
    /// Whether any is on, or a trap waits.
    pub(crate) fn any(&self) -> bool {
        self.code || self.data || self.port || self.pending != 0
    }
}

impl Cpu {
    /// The breakpoints that DR7 switches on.
    fn breakpoints_on(&self) -> impl Iterator<Item = Breakpoint> + use<> {
        let (dr, ports) = (self.dr, self.cr4 & cr4::DE != 0);
        (0..4u32).filter_map(move |number| {
            let control = dr[7] >> (16 + 4 * number);
            let kind = match control & 3 {
                _ if dr[7] >> (2 * number) & 3 == 0 => return None,
                0 => Kind::Execute,
                1 => Kind::Write,
                2 if ports => Kind::Port,
                2 => return None,
                _ => Kind::Access,
            };
            let len = match control >> 2 & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            Some(Breakpoint { number, kind, start: dr[number as usize & 3] & !(len - 1), len })
        })
    }

    /// After a change of a debug register or CR4.DE.
    pub(crate) fn refresh_breakpoints(&mut self) {
        let watched = self.breakpoints.data;
        let (mut code, mut data, mut port) = (false, self.watchpoints.any(), false);
        for b in self.breakpoints_on() {
            match b.kind {
                Kind::Execute => code = true,
                Kind::Write | Kind::Access => data = true,
                Kind::Port => port = true,
            }
        }
        self.breakpoints = Breakpoints { code, data, port, ..self.breakpoints };
        if watched || data {
            // Tags of pages that are watched now must go.
            self.flush_all(Flush::Other);
        }
    }

    /// Whether a page must not be tagged in the TLB, for the sake of a data breakpoint or watchpoint.
    pub(crate) fn page_is_watched(&self, linear: u64, physical: u64) -> bool {
        self.watchpoints.hold(linear, physical)
            || self.breakpoints_on().any(|b| {
                matches!(b.kind, Kind::Write | Kind::Access) && (b.start ^ linear) & !(PAGE - 1) == 0
            })
    }

    /// An access with data breakpoints or watchpoints on. Ends the instruction if it hits one and must run again alone.
    #[cold]
    #[inline(never)]
    pub(crate) fn watch(&mut self, linear: u64, size: u64, write: bool, class: Class) -> Done {
        let hits = self.hits(linear, size, |kind| kind == Kind::Access || write && kind == Kind::Write);
        let watched = self.watched(linear, size, write, class)?;
        if hits == 0 && watched.is_none() {
            return Ok(());
        }
        if self.breakpoints.alone {
            self.breakpoints.pending |= hits;
            if let Some(watched) = watched {
                self.note_watched(watched);
            }
            return Ok(());
        }
        Err(self.again_alone())
    }

    /// As [`Cpu::watch`] for a store that is only being checked.
    #[cold]
    #[inline(never)]
    pub(crate) fn watch_later(&mut self, linear: u64, size: u64, class: Class) -> Done {
        let hits = self.hits(linear, size, |kind| matches!(kind, Kind::Access | Kind::Write));
        let watched = self.watched(linear, size, true, class)?;
        if hits == 0 && watched.is_none() || self.breakpoints.alone {
            Ok(())
        } else {
            Err(self.again_alone())
        }
    }

    fn again_alone(&mut self) -> Stop {
        self.breakpoints.again = true;
        self.why = Why::Continue;
        Stop
    }

    /// B0 to B3 for those that overlap.
    fn hits(&self, at: u64, size: u64, wanted: impl Fn(Kind) -> bool) -> u64 {
        self.breakpoints_on()
            .filter(|b| wanted(b.kind) && b.start.wrapping_sub(at).wrapping_add(b.len - 1) < size + b.len - 1)
            .fold(0, |bits, b| bits | 1 << b.number)
    }

    /// IN or OUT with I/O breakpoints on. The instruction is the last of its block.
    pub(crate) fn watch_port(&mut self, port: u16, size: u64) {
        self.breakpoints.pending |= self.hits(port.into(), size, |kind| kind == Kind::Port);
    }

    /// Whether string instructions stop after each iteration, because a trap may follow it.
    pub(crate) fn iterations_trap(&self) -> bool {
        let b = &self.breakpoints;
        self.mode.contains(Mode::TRAP) || b.port || b.data && b.alone
    }

    /// Raises #DB if the instruction at RIP has a breakpoint: a fault, before it runs.
    pub(crate) fn break_before(&mut self, shadow: Shadow) -> bool {
        if !self.breakpoints.code || shadow == Shadow::MovSs || self.eflags & RF != 0 {
            return false;
        }
        let hits = self.hits(self.rip, 1, |kind| kind == Kind::Execute);
        if hits == 0 {
            return false;
        }
        self.debug_exception(hits);
        true
    }

    /// The traps behind an instruction that did not fault; `step` if it began with TF set. Behind MOV SS, what is noted
    /// waits for the next instruction, and the single-step trap never comes.
    pub(crate) fn trap_behind(&mut self, step: bool) {
        if self.why == Why::Fault {
            self.breakpoints.pending = 0;
            return;
        }
        if self.shadow == Shadow::MovSs {
            return;
        }
        if step {
            self.breakpoints.pending |= dr6::BS;
        }
        let pending = std::mem::take(&mut self.breakpoints.pending);
        if pending != 0 {
            if self.why == Why::Halt {
                self.activity = crate::state::Activity::Active;
            }
            self.debug_exception(pending);
        }
    }

    /// #DB with its reasons in DR6.
    pub(crate) fn debug_exception(&mut self, reasons: u64) {
        self.dr[6] |= reasons;
        self.raise(Fault::new(vector::DB));
    }
}
