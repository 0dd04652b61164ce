//! Values in one-pass translation: what semantics compute is noted as an expression, and becomes code when somebody wants it,
//! so that flags which nobody reads cost nothing.
//!
//! The CPU state is always up to date between instructions; host registers may hold copies of guest registers besides.

use super::{
    Writer,
    assembler::{Alu, At, Host, RAX, RCX, RDX, Shift, cond},
};
use crate::width::{B, D, Q, Width};

/// Host registers that hold values: all but RAX, RCX and RDX, which are used within an operation, the stack pointer, and the
/// two that point to the CPU.
const POOL: u16 = 0xff48;

/// Guest registers that host registers hold copies of: the sixteen, and the page.
pub(super) const HELD: usize = 18;

/// A value of the width in hand, zero-extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Val {
    Known(u64),
    /// A place in [`Writer::nodes`].
    Node(u16),
}

/// A value that is a constant, or stands in a host register that will not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    Known(u64),
    In(Host),
}

/// A truth value: what to compare, and the condition.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bit {
    Known(bool),
    /// After a comparison.
    Compared(u8, Width, Val, Val),
    /// Bit n of a value, or its inverse.
    Of {
        value: Val,
        n: Val,
        inverse: bool,
    },
    /// A condition of the flags as the instruction finds them.
    Flags(u8),
}

/// Operations on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Two {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Multiply,
    HighUnsigned,
    HighSigned,
    ShiftLeft,
    ShiftRight,
    ShiftSigned,
    RotateLeft,
    Remainder,
}

/// And on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum One {
    SignExtend(Width),
    Cut,
    SwapBytes,
    Lowest,
    Highest,
    CountBits,
}

/// An expression.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    In(Host),
    Two(Two, Width, Val, Val),
    One(One, Width, Val),
    Select(Bit, Val, Val),
    Truth(Bit),
    /// Two truth values in one.
    Both(Two, Bit, Bit),
}

/// Where a guest register is besides in the CPU state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Nowhere,
    All(Host),
    /// Its low 32 bits, zeros above.
    Low(Host),
    Known(u64),
}

/// A constant as a sign-extended immediate of an operation at a width.
fn immediate(w: Width, k: u64) -> Option<i32> {
    i32::try_from(w.sext(k) as i64).ok()
}

/// Registers that 32-bit operations are enough for.
fn at_least_32(w: Width) -> Width {
    if w.0 == 8 { Q } else { D }
}

impl Writer {
    // Host registers.

    /// One that nothing is in. It stays what it is until the instruction is done.
    pub(super) fn temporary(&mut self) -> Host {
        let mut taken = self.pinned | self.kept | self.groups.registers();
        if POOL & !taken == 0 {
            self.groups.drop_but(self.pinned);
            taken = self.pinned | self.kept | self.groups.registers();
        }
        let holding = self.holds.iter().enumerate().fold(0, |set, (h, guest)| match guest {
            Some(_) => set | 1 << h,
            None => set,
        });
        let mut free = POOL & !taken & !holding;
        if free == 0 {
            // What copies a guest register can go; not always the same one.
            let evictable = POOL & !taken;
            if evictable == 0 {
                self.failed = true;
                return Host(3);
            }
            let later = evictable & (u16::MAX << (self.victim & 15));
            free = if later == 0 { evictable } else { later };
        }
        let host = Host(free.trailing_zeros() as u8);
        self.victim = host.0.wrapping_add(1);
        self.release(host);
        self.pinned |= 1 << host.0;
        self.bound[usize::from(host.0 & 15)] = 8;
        self.known_as[usize::from(host.0 & 15)] = None;
        host
    }

    /// Whether a host register is a copy of all of a guest register.
    pub(super) fn holds_all(&self, guest: usize, host: Host) -> bool {
        self.held[guest.min(HELD - 1)] == Held::All(host)
    }

    /// A host register is no copy of a guest register any more.
    fn release(&mut self, host: Host) {
        if let Some(guest) = self.holds[usize::from(host.0 & 15)].take() {
            self.held[usize::from(guest)] = Held::Nowhere;
        }
    }

    /// A guest register is held elsewhere from now on.
    pub(super) fn hold(&mut self, guest: usize, held: Held) {
        if let Held::All(old) | Held::Low(old) = self.held[guest] {
            self.holds[usize::from(old.0 & 15)] = None;
        }
        if let Held::All(host) | Held::Low(host) = held {
            self.release(host);
            self.holds[usize::from(host.0 & 15)] = Some(guest as u8);
        }
        self.held[guest] = held;
    }

    /// Nothing is in any host register.
    pub(super) fn forget_copies(&mut self) {
        self.held = [Held::Nowhere; HELD];
        self.holds = [None; 16];
        self.vectors.forget();
        self.forget_origins();
    }

    fn pin(&mut self, host: Host) {
        self.pinned |= 1 << host.0;
    }

    /// A temporary's value fits so many bytes.
    pub(super) fn bind(&mut self, host: Host, bytes: u8) {
        self.bound[usize::from(host.0 & 15)] = bytes;
    }
    fn fits(&self, host: Host, w: Width) -> bool {
        self.bound[usize::from(host.0 & 15)] <= w.0
    }

    pub(super) fn node(&mut self, node: Node) -> Val {
        self.nodes.push(node);
        Val::Node((self.nodes.len() - 1) as u16)
    }
    /// A value that stands in a register.
    pub(super) fn standing(&mut self, host: Host) -> Val {
        self.node(Node::In(host))
    }

    // Guest registers.

    /// All 64 bits of one, as the instructions before have left it.
    fn whole(&mut self, guest: usize) -> Fixed {
        match self.held[guest] {
            Held::Known(k) => Fixed::Known(k),
            Held::All(host) => {
                self.pin(host);
                Fixed::In(host)
            }
            _ => {
                let host = self.temporary();
                self.asm.load(Q, host, Self::register_place(guest));
                self.hold(guest, Held::All(host));
                Fixed::In(host)
            }
        }
    }

    /// All 64 bits of one, as the instruction in hand has it by now.
    pub(super) fn register(&mut self, guest: usize) -> Val {
        if let Some((_, v)) = self.new_registers.iter().rev().find(|(r, _)| usize::from(*r) == guest) {
            return *v;
        }
        match self.whole(guest) {
            Fixed::Known(k) => Val::Known(k),
            Fixed::In(host) => self.standing(host),
        }
    }

    /// Part of one, by its byte offset.
    pub(super) fn part_of_register(&mut self, w: Width, r: u8) -> Val {
        let guest = usize::from(r >> 3).min(HELD - 1);
        let shift = 8 * u64::from(r & 7);
        let changed = self.new_registers.iter().any(|(r, _)| usize::from(*r) == guest);
        if changed || w == Q || matches!(self.held[guest], Held::Known(_)) {
            let v = self.register(guest);
            let v = self.two(Two::ShiftRight, Q, v, Val::Known(shift));
            return self.cut(w, v);
        }
        match self.held[guest] {
            Held::All(host) | Held::Low(host) => {
                self.pin(host);
                let v = self.standing(host);
                let v = self.two(Two::ShiftRight, Q, v, Val::Known(shift));
                let v = self.cut(w, v);
                // Now, before the register changes.
                self.host(v);
                v
            }
            _ => {
                let host = self.temporary();
                self.asm.load(w, host, Self::register_place(guest).behind(i32::from(r & 7)));
                self.bind(host, w.0);
                if w == D {
                    self.hold(guest, Held::Low(host));
                }
                self.standing(host)
            }
        }
    }

    /// Sets part of one, when the instruction is done.
    pub(super) fn set_part_of_register(&mut self, w: Width, r: u8, v: Val) {
        let guest = usize::from(r >> 3).min(HELD - 1);
        if w.0 >= 4 {
            self.new_registers.push((guest as u8, v));
            return;
        }
        let shift = u32::from(r & 7) * 8;
        let mask = w.mask(u64::MAX) << shift;
        let old = self.register(guest);
        let new = match (old, v) {
            (Val::Known(old), Val::Known(v)) => Val::Known(old & !mask | v << shift & mask),
            (Val::Known(old), v) if old & mask == old && shift == 0 => v,
            _ => {
                let (old, v) = (self.host(old), self.host(v));
                let new = self.temporary();
                self.asm.copy(new, old);
                if shift != 0 {
                    self.asm.shift(Shift::RotateRight, Q, new, shift as u8);
                }
                self.asm.merge(w, new, v);
                if shift != 0 {
                    self.asm.shift(Shift::RotateLeft, Q, new, shift as u8);
                }
                self.standing(new)
            }
        };
        self.new_registers.push((guest as u8, new));
    }

    // Expressions.

    /// Two operands; what is known is computed.
    pub(super) fn two(&mut self, op: Two, w: Width, a: Val, b: Val) -> Val {
        use Val::Known;
        match (op, a, b) {
            (Two::Add | Two::Or | Two::Xor, Known(0), v)
            | (Two::Add | Two::Or | Two::Xor | Two::Sub, v, Known(0)) => v,
            (Two::And, Known(0), _) | (Two::And, _, Known(0)) => Known(0),
            (Two::ShiftLeft | Two::ShiftRight | Two::ShiftSigned, v, Known(n)) if n & 63 == 0 => v,
            (Two::Xor | Two::Sub, a, b) if self.same(a, b) => Known(0),
            (Two::And | Two::Or, a, b) if self.same(a, b) => a,
            (_, Known(x), Known(y)) => match known(op, w, x, y) {
                Some(k) => Known(w.mask(k)),
                None => self.node(Node::Two(op, w, a, b)),
            },
            _ => self.node(Node::Two(op, w, a, b)),
        }
    }

    /// Whether two values are the same.
    pub(super) fn same(&self, a: Val, b: Val) -> bool {
        let standing = |v| match v {
            Val::Node(n) => match self.nodes.get(usize::from(n)) {
                Some(Node::In(host)) => Some(*host),
                _ => None,
            },
            Val::Known(_) => None,
        };
        a == b || standing(a).is_some_and(|x| standing(b) == Some(x))
    }

    /// The low part of a value.
    pub(super) fn cut(&mut self, w: Width, v: Val) -> Val {
        match v {
            Val::Known(k) => Val::Known(w.mask(k)),
            _ if w == Q => v,
            _ => self.node(Node::One(One::Cut, w, v)),
        }
    }

    /// As a constant or in a register.
    pub(super) fn fixed(&mut self, v: Val) -> Fixed {
        match v {
            Val::Known(k) => Fixed::Known(k),
            _ => Fixed::In(self.host(v)),
        }
    }

    /// In a register.
    pub(super) fn host(&mut self, v: Val) -> Host {
        let n = match v {
            Val::Known(k) => {
                let host = self.temporary();
                self.asm.constant(host, k);
                let bytes = (8 - k.leading_zeros() / 8) as u8;
                self.bind(host, bytes.next_power_of_two().clamp(1, 8));
                return host;
            }
            Val::Node(n) => usize::from(n),
        };
        let origin = self.origin(v);
        let host = match self.nodes.get(n).copied() {
            Some(Node::In(host)) => return host,
            Some(Node::Two(op, w, a, b)) => self.compute(op, w, a, b),
            Some(Node::One(op, w, a)) => self.compute_one(op, w, a),
            Some(Node::Select(c, a, b)) => self.select_now(c, a, b),
            Some(Node::Truth(bit)) => self.truth_now(bit),
            Some(Node::Both(op, a, b)) => self.both_now(op, a, b),
            None => {
                self.failed = true;
                RAX
            }
        };
        self.nodes[n] = Node::In(host);
        self.known_as[usize::from(host.0 & 15)] = origin;
        host
    }

    fn narrow(&mut self, w: Width, host: Host) {
        if w.0 < 4 {
            self.asm.zero_extend(w, host, host);
        }
        self.bind(host, w.0);
    }

    /// A value in a register that may be changed.
    pub(super) fn copy_of(&mut self, v: Val) -> Host {
        match v {
            Val::Known(k) => {
                let to = self.temporary();
                self.asm.constant(to, k);
                return to;
            }
            Val::Node(n) => {
                // What has not been computed is computed for this alone.
                if let Some(Node::Two(op, w, a, b)) = self.nodes.get(usize::from(n)).copied() {
                    return self.compute(op, w, a, b);
                }
            }
        }
        let from = self.host(v);
        let to = self.temporary();
        self.asm.copy(to, from);
        to
    }

    /// A value in a register for one operation; then give it to [`Writer::unpin`].
    fn operand(&mut self, v: Val) -> (Host, u16) {
        match v {
            Val::Node(n) if !matches!(self.nodes.get(usize::from(n)), Some(Node::Two(..))) => {
                (self.host(v), 0)
            }
            _ => {
                let host = self.copy_of(v);
                (host, 1 << host.0)
            }
        }
    }

    fn unpin(&mut self, hosts: u16) {
        self.pinned &= !hosts;
    }

    fn compute(&mut self, op: Two, w: Width, a: Val, b: Val) -> Host {
        let op_w = at_least_32(w);
        match op {
            Two::Add | Two::Sub => self.sum(op, w, a, b),
            Two::And | Two::Or | Two::Xor => {
                let (a, b) = if let Val::Known(_) = a { (b, a) } else { (a, b) };
                let alu = match op {
                    Two::And => Alu::And,
                    Two::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                let short = match b {
                    Val::Known(k) => immediate(op_w, k),
                    _ => None,
                };
                let Some(k) = short else {
                    let (b, used) = self.operand(b);
                    let to = self.copy_of(a);
                    self.asm.alu(alu, op_w, to, b);
                    self.unpin(used);
                    self.bind(to, w.0);
                    return to;
                };
                let to = self.copy_of(a);
                self.asm.alu_constant(alu, op_w, to, k);
                self.bind(to, w.0);
                to
            }
            Two::Multiply => {
                let b = self.host(b);
                let to = self.copy_of(a);
                self.asm.multiply(op_w, to, b);
                self.narrow(w, to);
                to
            }
            Two::HighUnsigned | Two::HighSigned => self.high(w, a, b, op == Two::HighSigned),
            Two::ShiftLeft | Two::ShiftRight | Two::ShiftSigned => self.shift(op, w, a, b),
            Two::RotateLeft => {
                if let Val::Known(n) = b {
                    let to = self.copy_of(a);
                    self.asm.shift(Shift::RotateLeft, w, to, (n % u64::from(w.bits())) as u8);
                    self.bind(to, w.0);
                    return to;
                }
                let n = self.host(b);
                let to = self.copy_of(a);
                self.asm.copy32(RCX, n);
                self.asm.shift_by_cl(Shift::RotateLeft, w, to);
                self.bind(to, w.0);
                to
            }
            Two::Remainder => {
                let (n, m) = (self.host(a), self.host(b));
                let to = self.temporary();
                self.asm.copy32(RAX, n);
                self.asm.constant(RDX, 0);
                self.asm.divide(D, m, false);
                self.asm.copy32(to, RDX);
                self.bind(to, w.0);
                to
            }
        }
    }

    fn sum(&mut self, op: Two, w: Width, a: Val, b: Val) -> Host {
        let op_w = at_least_32(w);
        let (a, b) = match (op, a) {
            (Two::Add, Val::Known(_)) => (b, a),
            _ => (a, b),
        };
        let displacement = match b {
            Val::Known(k) if op == Two::Add => immediate(op_w, k),
            Val::Known(k) => immediate(op_w, k).and_then(i32::checked_neg),
            Val::Node(_) => None,
        };
        let to = if let Some(k) = displacement {
            let a = self.host(a);
            let to = self.temporary();
            self.asm.lea(op_w, to, At::new(a, k));
            to
        } else if op == Two::Add {
            let ((a, used), (b, also)) = (self.operand(a), self.operand(b));
            self.unpin(used | also);
            let to = self.temporary();
            self.asm.lea(op_w, to, At::sum(a, b));
            to
        } else if a == Val::Known(0) {
            let to = self.copy_of(b);
            self.asm.negate(op_w, to);
            to
        } else {
            let (b, used) = self.operand(b);
            let to = self.copy_of(a);
            self.asm.alu(Alu::Sub, op_w, to, b);
            self.unpin(used);
            to
        };
        self.narrow(w, to);
        to
    }

    /// The upper half of a product.
    fn high(&mut self, w: Width, a: Val, b: Val, signed: bool) -> Host {
        let (a, b) = (self.host(a), self.host(b));
        let to = self.temporary();
        if w.0 == 8 {
            self.asm.copy(RAX, a);
            self.asm.multiply_wide(b, signed);
            self.asm.copy(to, RDX);
            return to;
        }
        if signed {
            self.asm.sign_extend(w, to, a);
            self.asm.sign_extend(w, RAX, b);
        } else {
            self.asm.copy(to, a);
            self.asm.copy(RAX, b);
        }
        self.asm.multiply(Q, to, RAX);
        self.asm.shift(Shift::Right, Q, to, w.bits() as u8);
        self.asm.zero_extend(w, to, to);
        self.bind(to, w.0);
        to
    }

    /// A shift by a count below 64, whatever the width.
    fn shift(&mut self, op: Two, w: Width, a: Val, n: Val) -> Host {
        let shift = match op {
            Two::ShiftLeft => Shift::Left,
            Two::ShiftRight => Shift::Right,
            _ => Shift::Signed,
        };
        let constant = match n {
            Val::Known(n) => Some((n & 63) as u8),
            Val::Node(_) => None,
        };
        let count = match constant {
            None => Some(self.host(n)),
            Some(_) => None,
        };
        let short = constant.is_some_and(|n| w == D && n < 32);
        let to = if op == Two::ShiftSigned && w.0 < 8 && !short {
            let a = self.host(a);
            let to = self.temporary();
            self.asm.sign_extend(w, to, a);
            to
        } else {
            self.copy_of(a)
        };
        match (constant, count) {
            (Some(n), _) => self.asm.shift(shift, if short { D } else { Q }, to, n),
            (None, Some(count)) => {
                self.asm.copy32(RCX, count);
                self.asm.shift_by_cl(shift, Q, to);
            }
            (None, None) => {}
        }
        if op != Two::ShiftRight && w.0 < 8 && !short {
            self.asm.zero_extend(w, to, to);
        }
        self.bind(to, w.0);
        to
    }

    fn compute_one(&mut self, op: One, w: Width, a: Val) -> Host {
        let from = self.host(a);
        match op {
            One::Cut if self.fits(from, w) => return from,
            One::Lowest | One::Highest => {
                let to = self.temporary();
                // A source of 0 leaves the register as it is.
                self.asm.constant(to, 0);
                self.asm.scan(op == One::Highest, to, from);
                self.bind(to, 1);
                return to;
            }
            _ => {}
        }
        let to = self.temporary();
        match op {
            One::Cut => self.asm.zero_extend(w, to, from),
            One::SignExtend(source) => {
                self.asm.sign_extend(source, to, from);
                if w.0 < 8 {
                    self.asm.zero_extend(w, to, to);
                }
            }
            One::SwapBytes => {
                self.asm.copy(to, from);
                match w.0 {
                    1 => {}
                    2 => self.asm.shift(Shift::RotateLeft, w, to, 8),
                    _ => self.asm.swap_bytes(w, to),
                }
            }
            One::CountBits => self.asm.count_bits(to, from),
            One::Lowest | One::Highest => {}
        }
        self.bind(to, w.0);
        to
    }

    // Truth values.

    pub(super) fn inverse(bit: Bit) -> Bit {
        match bit {
            Bit::Known(k) => Bit::Known(!k),
            Bit::Compared(cc, w, a, b) => Bit::Compared(cc ^ 1, w, a, b),
            Bit::Of { value, n, inverse } => Bit::Of { value, n, inverse: !inverse },
            Bit::Flags(cc) => Bit::Flags(cc ^ 1),
        }
    }

    /// As 0 or 1.
    pub(super) fn truth(&mut self, bit: Bit) -> Val {
        match bit {
            Bit::Known(k) => Val::Known(k.into()),
            // It is 0 or 1 as it stands.
            Bit::Compared(cond::NOT_EQUAL, B, v @ Val::Node(n), Val::Known(0))
                if matches!(self.nodes.get(usize::from(n)), Some(Node::Truth(_) | Node::Both(..))) =>
            {
                v
            }
            _ => self.node(Node::Truth(bit)),
        }
    }

    /// A truth value of one that is 0 or 1.
    pub(super) fn bit_of_truth(&self, v: Val) -> Bit {
        match v {
            Val::Known(k) => Bit::Known(k != 0),
            _ => Bit::Compared(cond::NOT_EQUAL, B, v, Val::Known(0)),
        }
    }

    /// Has all that a truth value is made of in registers, so that [`Writer::condition_now`] computes nothing else.
    pub(super) fn prepare(&mut self, bit: Bit) {
        let (a, b) = match bit {
            Bit::Compared(_, _, a, b) => (a, b),
            Bit::Of { value, n, .. } => (value, n),
            Bit::Known(_) | Bit::Flags(_) => return,
        };
        self.fixed(a);
        self.fixed(b);
    }

    /// Compares; gives the condition under which the bit, which is not known, is true. Uses RAX and RCX.
    pub(super) fn condition_now(&mut self, bit: Bit) -> u8 {
        match bit {
            Bit::Known(_) => {
                self.failed = true;
                0
            }
            Bit::Compared(cc, w, a, b) => {
                let (a, b) = (self.fixed(a), self.fixed(b));
                self.compare(w, a, b);
                cc
            }
            Bit::Of { value, n, inverse } => {
                let value = self.host(value);
                let cc = match n {
                    Val::Known(n @ 0..31) => {
                        self.asm.test_constant(D, value, 1 << n);
                        cond::NOT_EQUAL
                    }
                    Val::Known(n) => {
                        self.asm.bit_test_constant(value, n as u8 & 63);
                        cond::BELOW
                    }
                    Val::Node(_) => {
                        let n = self.host(n);
                        self.asm.bit_test(value, n);
                        cond::BELOW
                    }
                };
                cc ^ u8::from(inverse)
            }
            Bit::Flags(cc) => self.pending_condition(cc),
        }
    }

    /// Compares two values of a width. Uses RAX and RCX.
    pub(super) fn compare(&mut self, w: Width, a: Fixed, b: Fixed) {
        let a = match a {
            Fixed::In(host) => host,
            Fixed::Known(k) => {
                self.asm.constant(RAX, w.mask(k));
                RAX
            }
        };
        match b {
            Fixed::In(b) => self.asm.alu(Alu::Cmp, w, a, b),
            Fixed::Known(0) => self.asm.test(w, a, a),
            Fixed::Known(k) => match immediate(w, k) {
                Some(k) => self.asm.alu_constant(Alu::Cmp, w, a, k),
                None => {
                    self.asm.constant(RCX, k);
                    self.asm.alu(Alu::Cmp, w, a, RCX);
                }
            },
        }
    }

    fn select_now(&mut self, c: Bit, a: Val, b: Val) -> Host {
        self.prepare(c);
        let a = self.host(a);
        let to = self.copy_of(b);
        let cc = self.condition_now(c);
        self.asm.move_if(cc, to, a);
        to
    }

    fn both_now(&mut self, op: Two, a: Bit, b: Bit) -> Host {
        self.prepare(b);
        let to = self.truth_now(a);
        let cc = self.condition_now(b);
        self.asm.set(cc, RAX);
        let alu = match op {
            Two::And => Alu::And,
            Two::Or => Alu::Or,
            _ => Alu::Xor,
        };
        self.asm.alu(alu, B, to, RAX);
        to
    }

    fn truth_now(&mut self, bit: Bit) -> Host {
        self.prepare(bit);
        let to = self.temporary();
        let cc = self.condition_now(bit);
        self.asm.set(cc, to);
        self.asm.zero_extend(B, to, to);
        self.bind(to, 1);
        to
    }
}

/// What comes of constants, where that is simple.
fn known(op: Two, w: Width, a: u64, b: u64) -> Option<u64> {
    Some(match op {
        Two::Add => a.wrapping_add(b),
        Two::Sub => a.wrapping_sub(b),
        Two::And => a & b,
        Two::Or => a | b,
        Two::Xor => a ^ b,
        Two::Multiply => a.wrapping_mul(b),
        Two::ShiftLeft => a << (b & 63),
        Two::ShiftRight => a >> (b & 63),
        Two::ShiftSigned => ((w.sext(a) as i64) >> (b & 63)) as u64,
        Two::Remainder => a.checked_rem(b)?,
        Two::HighUnsigned | Two::HighSigned | Two::RotateLeft => return None,
    })
}
