//! Accesses beside each other in one-pass translation: fields of a structure, a frame on the stack. What is near the first is
//! looked at with it, and the others of the group find their page in a host register.
//!
//! Addresses are compared by their origins: a value that a guest register had, and a constant. What was found holds until plain
//! Rust runs, or ways join.

use super::{
    Cold, Writer,
    assembler::{At, Host, RAX},
    memory::STACK,
    values::{HELD, Node, Two, Val},
};
use crate::{
    insn::{Insn, Kind},
    jit::region::{Step, Way},
    mmu::near::{self, Near, SPAN},
    sem::Op,
    state::reg,
    width::Q,
};

/// How many instructions behind an access others of its group are looked for.
const AHEAD: usize = 16;

/// A value that a guest register had at some time, and what was added to it.
pub(super) type Origin = (u32, i64);

/// A group of accesses: up to [`SPAN`] bytes of one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    id: u32,
    /// The first of the bytes and the end, relative to the origin.
    low: i64,
    high: i64,
    /// They may be written.
    write: bool,
    /// Holds what is added to a linear address for the host's.
    host: Host,
}

/// What is known of the accesses of a piece of code.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Groups {
    groups: [Option<Group>; 2],
    /// Which of them goes next.
    turn: bool,
    /// Where the values of guest registers come from.
    origins: [Origin; HELD],
}

impl Groups {
    /// Host registers that hold something for a group.
    pub(super) fn registers(&self) -> u16 {
        self.groups.iter().flatten().fold(0, |set, group| set | 1 << group.host.0)
    }

    /// What was found holds no more, but for groups whose registers are among these.
    pub(super) fn drop_but(&mut self, registers: u16) {
        for group in &mut self.groups {
            if group.is_some_and(|group| registers >> group.host.0 & 1 == 0) {
                *group = None;
            }
        }
    }
}

/// An access of an instruction to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    /// The register that its address begins with, 16 where it has no such address, and the displacement.
    base: u8,
    displacement: i64,
    size: u8,
    write: bool,
    /// General registers that the instruction changes, and by how much RSP, where that is known.
    writes: u16,
    moves_stack: i64,
    /// Plain Rust runs.
    called: bool,
}

impl Touch {
    fn new(i: &Insn, step: &Step) -> Self {
        let op = Op::from_number(i.op);
        let memory = |kind: Kind| kind == Kind::Mem;
        let operand = memory(i.dst_kind()) || memory(i.src_kind());
        let width = i64::from(i.w.0);
        let stack = match op {
            Op::Push => Some((-width, -width)),
            Op::Pop => Some((0, width)),
            Op::Call | Op::CallTo => Some((-8, -8)),
            Op::Ret => Some((0, 8)),
            _ => None,
        };
        let mut touch = Touch {
            base: reg::ZERO,
            displacement: 0,
            size: i.w.0,
            write: step.memory[1],
            writes: step.writes as u16,
            moves_stack: 0,
            called: step.way != Way::Emit,
        };
        if let Some((displacement, moves)) = stack {
            (touch.base, touch.displacement, touch.moves_stack) = (STACK, displacement, moves);
            touch.writes &= !(1 << STACK);
        }
        if operand {
            let plain = i.base < reg::ZERO && i.index >= reg::ZERO && i.asize == 8;
            (touch.base, touch.displacement) =
                if plain { (i.base, i64::from(i.disp)) } else { (reg::ZERO, 0) };
        }
        touch
    }
}

impl Writer {
    /// Another block begins: what its instructions will touch.
    pub(super) fn look_for_touches(&mut self, insns: &[Insn], steps: &[Step]) {
        self.touches.clear();
        self.touches.extend(insns.iter().zip(steps).map(|(i, step)| Touch::new(i, step)));
    }

    /// Nothing is known of any address.
    pub(super) fn forget_origins(&mut self) {
        self.groups.groups = [None; 2];
        for guest in 0..HELD {
            self.new_origin(guest);
        }
    }

    fn new_origin(&mut self, guest: usize) {
        self.last_origin += 1;
        self.groups.origins[guest] = (self.last_origin, 0);
    }

    /// A guest register has another value: one of this origin, if that is known.
    pub(super) fn set_origin(&mut self, guest: usize, origin: Option<Origin>) {
        match origin {
            Some(origin) => self.groups.origins[guest] = origin,
            None => self.new_origin(guest),
        }
    }

    /// Where a value comes from.
    pub(super) fn origin(&self, v: Val) -> Option<Origin> {
        let Val::Node(n) = v else { return None };
        match *self.nodes.get(usize::from(n))? {
            Node::In(host) => match self.holds[usize::from(host.0 & 15)] {
                Some(guest) if self.holds_all(guest.into(), host) => {
                    Some(self.groups.origins[usize::from(guest)])
                }
                _ => self.known_as[usize::from(host.0 & 15)],
            },
            Node::Two(Two::Add, Q, a, Val::Known(k)) => {
                self.origin(a).map(|(id, offset)| (id, offset.wrapping_add(k as i64)))
            }
            Node::Two(Two::Sub, Q, a, Val::Known(k)) => {
                self.origin(a).map(|(id, offset)| (id, offset.wrapping_sub(k as i64)))
            }
            _ => None,
        }
    }

    /// Where in the host's memory an access goes that is in a group, or begins one.
    pub(super) fn probe_in_group(&mut self, linear: Val, size: u64, write: bool, begin: u8) -> Option<At> {
        if !self.mode.is_64() {
            return None;
        }
        let (id, offset) = self.origin(linear)?;
        let end = offset.checked_add(size as i64)?;
        let known = self.groups.groups.iter().flatten().find(|group| {
            group.id == id && (group.write || !write) && group.low <= offset && end <= group.high
        });
        if let Some(group) = known.copied() {
            self.pinned |= 1 << group.host.0;
            return Some(self.address_in(group.host, linear));
        }
        let (before, behind) = self.extent(size, write)?;
        let (low, high) = (offset.checked_add(before)?, offset.checked_add(behind)?);
        let extent = (high - low) as u64;
        let linear = self.host(linear);
        let first = match before as i32 {
            0 => linear,
            back => {
                let first = self.temporary();
                self.asm.lea(Q, first, At::new(linear, back));
                first
            }
        };
        let noted = Near::index(begin, write);
        let site = match begin {
            near::ABSOLUTE => self.look_in_tlb(first, extent, write),
            _ => self.look_near(first, noted, extent),
        };
        let back = self.asm.len();
        let what = (noted as u64) << 8 | extent << 1 | u64::from(write);
        let bail = self.bails.len() - 1;
        // The register is chosen now: what is evicted for it is not needed out of line.
        let host = self.group_register();
        self.miss(Cold::Miss { site, back, linear: first, what, bail });
        self.asm.copy(host, RAX);
        let turn = usize::from(self.groups.turn);
        self.groups.groups[turn] = Some(Group { id, low, high, write, host });
        self.groups.turn ^= true;
        self.pinned |= 1 << host.0;
        Some(At::sum(host, linear))
    }

    /// A register for the group that is to come.
    fn group_register(&mut self) -> Host {
        let turn = usize::from(self.groups.turn);
        match self.groups.groups[turn].take() {
            Some(old) if self.pinned >> old.host.0 & 1 == 0 => old.host,
            _ => self.temporary(),
        }
    }

    fn address_in(&mut self, group: Host, linear: Val) -> At {
        if let Val::Node(n) = linear
            && let Some(&Node::Two(op, Q, a, Val::Known(k))) = self.nodes.get(usize::from(n))
        {
            let displacement = match op {
                Two::Add => i32::try_from(k as i64).ok(),
                Two::Sub => i32::try_from((k as i64).wrapping_neg()).ok(),
                _ => None,
            };
            if let Some(disp) = displacement {
                let a = self.host(a);
                return At { base: Some(group), index: Some((a, 0)), disp };
            }
        }
        let linear = self.host(linear);
        At::sum(group, linear)
    }

    /// Where the group of the access in hand begins and ends, relative to it; None if nothing follows that would be in it.
    fn extent(&self, size: u64, write: bool) -> Option<(i64, i64)> {
        let this = self.touches.get(self.index).filter(|touch| touch.base < reg::ZERO)?;
        let (mut low, mut high) = (0, size as i64);
        let mut moved = this.moves_stack;
        let mut any = false;
        if this.writes >> this.base & 1 != 0 {
            return None;
        }
        for touch in self.touches.iter().skip(self.index + 1).take(AHEAD) {
            if touch.called {
                break;
            }
            if touch.base == this.base && (write || !touch.write) {
                let stack = if this.base == STACK { moved } else { 0 };
                let from = touch.displacement - this.displacement + stack;
                let (new_low, new_high) = (low.min(from), high.max(from + i64::from(touch.size)));
                if new_high - new_low <= SPAN as i64 {
                    (low, high, any) = (new_low, new_high, true);
                }
            }
            if touch.writes >> this.base & 1 != 0 {
                break;
            }
            moved += touch.moves_stack;
        }
        any.then_some((low, high))
    }
}
