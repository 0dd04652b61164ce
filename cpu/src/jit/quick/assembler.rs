//! Machine code of x86-64 hosts: the few dozen instructions that one-pass translation needs.

use crate::width::Width;

/// A general register of the host, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host(pub(super) u8);

pub(super) const RAX: Host = Host(0);
pub(super) const RCX: Host = Host(1);
pub(super) const RDX: Host = Host(2);
pub(super) const RBX: Host = Host(3);
pub(super) const RSP: Host = Host(4);
pub(super) const RBP: Host = Host(5);
pub(super) const RSI: Host = Host(6);
pub(super) const RDI: Host = Host(7);

/// A vector register of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Xmm(pub(super) u8);

/// Memory of the host: base, index with its shift, displacement.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) base: Option<Host>,
    pub(super) index: Option<(Host, u8)>,
    pub(super) disp: i32,
}

impl At {
    pub(super) fn new(base: Host, disp: i32) -> Self {
        At { base: Some(base), index: None, disp }
    }
    pub(super) fn sum(base: Host, index: Host) -> Self {
        At { base: Some(base), index: Some((index, 0)), disp: 0 }
    }
    /// So many bytes behind.
    pub(super) fn behind(self, bytes: i32) -> Self {
        At { disp: self.disp + bytes, ..self }
    }
}

/// A register, or memory.
#[derive(Clone, Copy, Debug)]
enum Place {
    Register(u8),
    Memory(At),
}

/// Operations of two operands, by the number that they have in opcodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alu {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts and rotates, by the number that they have in opcodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    RotateLeft = 0,
    RotateRight = 1,
    Left = 4,
    Right = 5,
    Signed = 7,
}

/// Conditions, the low nibble of opcodes.
pub(super) mod cond {
    pub(in crate::jit::quick) const OVERFLOW: u8 = 0;
    pub(in crate::jit::quick) const BELOW: u8 = 2;
    pub(in crate::jit::quick) const NOT_BELOW: u8 = 3;
    pub(in crate::jit::quick) const EQUAL: u8 = 4;
    pub(in crate::jit::quick) const NOT_EQUAL: u8 = 5;
    pub(in crate::jit::quick) const NOT_ABOVE: u8 = 6;
    pub(in crate::jit::quick) const ABOVE: u8 = 7;
    pub(in crate::jit::quick) const SIGN: u8 = 8;
    pub(in crate::jit::quick) const PARITY: u8 = 10;
    pub(in crate::jit::quick) const LESS: u8 = 12;
    pub(in crate::jit::quick) const NOT_GREATER: u8 = 14;
}

/// Opcodes of two bytes have 0F above their last one, those of three bytes 0F 38 or 0F 3A.
pub(super) const TWO: u32 = 0x0f00;
pub(super) const THREE_38: u32 = 0x0f_3800;
pub(super) const THREE_3A: u32 = 0x0f_3a00;

/// Code as it grows.
#[derive(Debug)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
    at: usize,
    /// Branches that have been told where they lead.
    patched: Vec<(usize, usize)>,
    /// There was no room for all of it.
    pub(super) full: bool,
}

impl Assembler {
    pub(super) fn new(room: usize) -> Self {
        Assembler { bytes: vec![0; room], at: 0, patched: Vec::new(), full: false }
    }

    /// How much there is.
    pub(super) fn len(&self) -> usize {
        self.at
    }
    /// Begins anew, or goes back to where it was.
    pub(super) fn cut(&mut self, at: usize) {
        self.at = at;
        self.patched.retain(|(place, _)| *place < at);
    }
    /// Changes a byte that has been written.
    pub(super) fn set_byte(&mut self, at: usize, byte: u8) {
        if let Some(place) = self.bytes.get_mut(at) {
            *place = byte;
        }
    }

    /// All of it.
    pub(super) fn code(&self) -> &[u8] {
        &self.bytes[..self.at.min(self.bytes.len())]
    }

    /// The lowest `n` of eight bytes.
    #[inline(always)]
    fn put(&mut self, bytes: u64, n: usize) {
        match self.bytes.get_mut(self.at..self.at + 8) {
            Some(place) => {
                place.copy_from_slice(&bytes.to_le_bytes());
                self.at += n;
            }
            None => self.full = true,
        }
    }

    /// An instruction with its operands in a ModRM byte. `byte`: an operand is the low byte of a register.
    #[inline(always)]
    fn modrm(&mut self, (prefix, wide, opcode): (u8, bool, u32), byte: bool, reg: u8, place: Place) {
        let (b, x) = match place {
            Place::Register(r) => (r, 0),
            Place::Memory(at) => (at.base.map_or(0, |b| b.0), at.index.map_or(0, |(x, _)| x.0)),
        };
        let rex = 0x40
            | u64::from(wide) << 3
            | u64::from(reg >> 3) << 2
            | u64::from(x >> 3) << 1
            | u64::from(b >> 3);
        let low_byte = byte && ((4..8).contains(&reg) || matches!(place, Place::Register(4..8)));
        let (mut head, mut n) = (0, 0);
        if prefix != 0 {
            (head, n) = (u64::from(prefix), 1);
        }
        if rex != 0x40 || low_byte {
            head |= rex << (8 * n);
            n += 1;
        }
        if opcode >= TWO {
            head |= 0x0f << (8 * n);
            n += 1;
        }
        if opcode >= THREE_38 {
            head |= u64::from(opcode >> 8 & 0xff) << (8 * n);
            n += 1;
        }
        head |= u64::from(opcode & 0xff) << (8 * n);
        self.put(head, n + 1);
        let field = u64::from(reg & 7) << 3;
        match place {
            Place::Register(r) => self.put(0xc0 | field | u64::from(r & 7), 1),
            Place::Memory(at) => self.memory(field, at),
        }
    }

    #[inline(always)]
    fn memory(&mut self, field: u64, At { base, index, disp }: At) {
        let displacement = u64::from(disp as u32);
        let Some(base) = base else {
            // No base: a displacement of 32 bits.
            let (x, shift) = index.unwrap_or((RSP, 0));
            let sib = u64::from(shift) << 6 | u64::from(x.0 & 7) << 3 | 5;
            return self.put(field | 4 | sib << 8 | displacement << 16, 6);
        };
        let low = u64::from(base.0 & 7);
        let (form, size) = match disp {
            0 if low != 5 => (0, 0),
            -128..128 => (0x40, 1),
            _ => (0x80, 4),
        };
        let small = if size == 1 { displacement & 0xff } else { displacement };
        let small = if size == 0 { 0 } else { small };
        match index {
            None if low != 4 => self.put(form | field | low | small << 8, 1 + size),
            _ => {
                let (x, shift) = index.unwrap_or((RSP, 0));
                let sib = u64::from(shift) << 6 | u64::from(x.0 & 7) << 3 | low;
                self.put(form | field | 4 | sib << 8 | small << 16, 2 + size);
            }
        }
    }

    /// Prefix, REX.W and opcode of an instruction whose opcode for bytes is one less.
    fn sized(w: Width, opcode: u32) -> (u8, bool, u32) {
        match w.0 {
            1 => (0, false, opcode - 1),
            2 => (0x66, false, opcode),
            4 => (0, false, opcode),
            _ => (0, true, opcode),
        }
    }

    // Moves.

    /// All 64 bits.
    pub(super) fn copy(&mut self, to: Host, from: Host) {
        self.modrm((0, true, 0x8b), false, to.0, Place::Register(from.0));
    }
    /// The low 32 bits, zeros above.
    pub(super) fn copy32(&mut self, to: Host, from: Host) {
        self.modrm((0, false, 0x8b), false, to.0, Place::Register(from.0));
    }
    /// The low part; what is above stays.
    pub(super) fn merge(&mut self, w: Width, to: Host, from: Host) {
        self.modrm(Self::sized(w, 0x8b), w.0 == 1, to.0, Place::Register(from.0));
    }
    pub(super) fn constant(&mut self, to: Host, k: u64) {
        let (r, b) = (u64::from(to.0 & 7), u64::from(to.0 >> 3));
        if k <= u64::from(u32::MAX) {
            if b != 0 {
                self.put(0x41, 1);
            }
            self.put(0xb8 | r | k << 8, 5);
        } else if k as i64 == i64::from(k as i32) {
            self.put(0x48 | b | 0xc7 << 8 | (0xc0 | r) << 16 | (k & 0xffff_ffff) << 24, 7);
        } else {
            self.put(0x48 | b | (0xb8 | r) << 8, 2);
            self.put(k, 8);
        }
    }
    /// Loads with zeros above.
    pub(super) fn load(&mut self, w: Width, to: Host, at: At) {
        let form = match w.0 {
            1 => (0, false, TWO | 0xb6),
            2 => (0, false, TWO | 0xb7),
            4 => (0, false, 0x8b),
            _ => (0, true, 0x8b),
        };
        self.modrm(form, false, to.0, Place::Memory(at));
    }
    pub(super) fn store(&mut self, w: Width, from: Host, at: At) {
        self.modrm(Self::sized(w, 0x89), w.0 == 1, from.0, Place::Memory(at));
    }
    /// Stores a constant, sign-extended from 32 bits.
    pub(super) fn store_constant(&mut self, w: Width, k: i32, at: At) {
        self.modrm(Self::sized(w, 0xc7), false, 0, Place::Memory(at));
        self.immediate(w, k);
    }
    fn immediate(&mut self, w: Width, k: i32) {
        self.put(u64::from(k as u32), usize::from(w.0.min(4)));
    }
    /// Zeros above the low part.
    pub(super) fn zero_extend(&mut self, w: Width, to: Host, from: Host) {
        match w.0 {
            1 => self.modrm((0, false, TWO | 0xb6), true, to.0, Place::Register(from.0)),
            2 => self.modrm((0, false, TWO | 0xb7), false, to.0, Place::Register(from.0)),
            4 => self.copy32(to, from),
            _ => self.copy(to, from),
        }
    }
    /// The sign above the low part, 64 bits.
    pub(super) fn sign_extend(&mut self, w: Width, to: Host, from: Host) {
        match w.0 {
            1 => self.modrm((0, true, TWO | 0xbe), true, to.0, Place::Register(from.0)),
            2 => self.modrm((0, true, TWO | 0xbf), false, to.0, Place::Register(from.0)),
            4 => self.modrm((0, true, 0x63), false, to.0, Place::Register(from.0)),
            _ => self.copy(to, from),
        }
    }
    pub(super) fn lea(&mut self, w: Width, to: Host, at: At) {
        self.modrm((0, w.0 == 8, 0x8d), false, to.0, Place::Memory(at));
    }
    pub(super) fn push(&mut self, r: Host) {
        if r.0 >= 8 {
            self.put(0x41, 1);
        }
        self.put(0x50 | u64::from(r.0 & 7), 1);
    }
    pub(super) fn pop(&mut self, r: Host) {
        if r.0 >= 8 {
            self.put(0x41, 1);
        }
        self.put(0x58 | u64::from(r.0 & 7), 1);
    }

    // Arithmetic.

    pub(super) fn alu(&mut self, op: Alu, w: Width, to: Host, from: Host) {
        self.modrm(Self::sized(w, (op as u32) << 3 | 3), w.0 == 1, to.0, Place::Register(from.0));
    }
    pub(super) fn alu_load(&mut self, op: Alu, w: Width, to: Host, at: At) {
        self.modrm(Self::sized(w, (op as u32) << 3 | 3), w.0 == 1, to.0, Place::Memory(at));
    }
    pub(super) fn alu_constant(&mut self, op: Alu, w: Width, to: Host, k: i32) {
        self.with_constant(op, w, Place::Register(to.0), k);
    }
    pub(super) fn alu_memory(&mut self, op: Alu, w: Width, at: At, k: i32) {
        self.with_constant(op, w, Place::Memory(at), k);
    }
    /// 32 bits of memory := themselves less a register.
    pub(super) fn subtract_from(&mut self, at: At, from: Host) {
        self.modrm((0, false, 0x29), false, from.0, Place::Memory(at));
    }
    fn with_constant(&mut self, op: Alu, w: Width, place: Place, k: i32) {
        let short = i8::try_from(k).is_ok();
        let (prefix, wide, opcode) = Self::sized(w, 0x81);
        let opcode = if short && w.0 > 1 { 0x83 } else { opcode };
        self.modrm((prefix, wide, opcode), w.0 == 1, op as u8, place);
        if short { self.put(u64::from(k as u8), 1) } else { self.immediate(w, k) }
    }
    pub(super) fn test(&mut self, w: Width, a: Host, b: Host) {
        self.modrm(Self::sized(w, 0x85), w.0 == 1, a.0, Place::Register(b.0));
    }
    pub(super) fn test_constant(&mut self, w: Width, a: Host, k: i32) {
        self.modrm(Self::sized(w, 0xf7), w.0 == 1, 0, Place::Register(a.0));
        self.immediate(w, k);
    }
    /// CF := bit n of 64.
    pub(super) fn bit_test(&mut self, a: Host, n: Host) {
        self.modrm((0, true, TWO | 0xa3), false, n.0, Place::Register(a.0));
    }
    pub(super) fn bit_test_constant(&mut self, a: Host, n: u8) {
        self.modrm((0, true, TWO | 0xba), false, 4, Place::Register(a.0));
        self.put(n.into(), 1);
    }
    pub(super) fn shift(&mut self, op: Shift, w: Width, a: Host, n: u8) {
        self.modrm(Self::sized(w, 0xc1), w.0 == 1, op as u8, Place::Register(a.0));
        self.put(n.into(), 1);
    }
    /// By CL.
    pub(super) fn shift_by_cl(&mut self, op: Shift, w: Width, a: Host) {
        self.modrm(Self::sized(w, 0xd3), w.0 == 1, op as u8, Place::Register(a.0));
    }
    /// SHLD or SHRD; the width of the operands is 2, 4 or 8 bytes.
    pub(super) fn double_shift(&mut self, left: bool, w: Width, to: Host, from: Host, n: u8) {
        let opcode = TWO | if left { 0xa4 } else { 0xac };
        self.modrm(Self::sized(w, opcode), false, from.0, Place::Register(to.0));
        self.put(n.into(), 1);
    }
    pub(super) fn double_shift_by_cl(&mut self, left: bool, w: Width, to: Host, from: Host) {
        let opcode = TWO | if left { 0xa5 } else { 0xad };
        self.modrm(Self::sized(w, opcode), false, from.0, Place::Register(to.0));
    }
    /// LOCK CMPXCHG: where RAX is what stands there, `new` does from now on.
    pub(super) fn exchange_if_equal(&mut self, w: Width, place: At, new: Host) {
        self.put(0xf0, 1);
        self.modrm(Self::sized(w, TWO | 0xb1), w.0 == 1, new.0, Place::Memory(place));
    }
    /// CMPXCHG16B: where RDX:RAX is what stands there, RCX:RBX does from now on.
    pub(super) fn exchange_pair_if_equal(&mut self, place: At, locked: bool) {
        if locked {
            self.put(0xf0, 1);
        }
        self.modrm((0, true, TWO | 0xc7), false, 1, Place::Memory(place));
    }
    /// The low half of a product; 32 or 64 bits.
    pub(super) fn multiply(&mut self, w: Width, to: Host, from: Host) {
        self.modrm((0, w.0 == 8, TWO | 0xaf), false, to.0, Place::Register(from.0));
    }
    /// RDX:RAX := RAX * a.
    pub(super) fn multiply_wide(&mut self, a: Host, signed: bool) {
        self.modrm((0, true, 0xf7), false, if signed { 5 } else { 4 }, Place::Register(a.0));
    }
    /// RAX, RDX := RDX:RAX by a, 32 or 64 bits.
    pub(super) fn divide(&mut self, w: Width, a: Host, signed: bool) {
        self.modrm((0, w.0 == 8, 0xf7), false, if signed { 7 } else { 6 }, Place::Register(a.0));
    }
    /// RDX := the sign of RAX.
    pub(super) fn sign_of_rax(&mut self) {
        self.put(0x9948, 2);
    }
    pub(super) fn negate(&mut self, w: Width, a: Host) {
        self.modrm(Self::sized(w, 0xf7), w.0 == 1, 3, Place::Register(a.0));
    }
    pub(super) fn swap_bytes(&mut self, w: Width, a: Host) {
        let rex = 0x40 | u64::from(w.0 == 8) << 3 | u64::from(a.0 >> 3);
        self.put(rex | 0x0f << 8 | (0xc8 | u64::from(a.0 & 7)) << 16, 3);
    }
    /// Number of the lowest or highest bit, of 64.
    pub(super) fn scan(&mut self, highest: bool, to: Host, from: Host) {
        self.modrm((0, true, TWO | 0xbc | u32::from(highest)), false, to.0, Place::Register(from.0));
    }
    /// How many bits are set, for hosts that can say.
    pub(super) fn count_bits(&mut self, to: Host, from: Host) {
        self.modrm((0xf3, true, TWO | 0xb8), false, to.0, Place::Register(from.0));
    }

    // Conditions.

    /// The low byte := the condition.
    pub(super) fn set(&mut self, cc: u8, to: Host) {
        self.modrm((0, false, TWO | 0x90 | u32::from(cc)), true, 0, Place::Register(to.0));
    }
    pub(super) fn move_if(&mut self, cc: u8, to: Host, from: Host) {
        self.modrm((0, true, TWO | 0x40 | u32::from(cc)), false, to.0, Place::Register(from.0));
    }

    // Branches: each gives the place of its distance.

    pub(super) fn jump(&mut self) -> usize {
        self.put(0xe9, 5);
        self.at - 4
    }
    /// To an address in memory.
    pub(super) fn jump_through(&mut self, at: At) {
        self.modrm((0, false, 0xff), false, 4, Place::Memory(at));
    }
    pub(super) fn jump_if(&mut self, cc: u8) -> usize {
        self.put(0x0f | (0x80 | u64::from(cc)) << 8, 6);
        self.at - 4
    }
    pub(super) fn call(&mut self) -> usize {
        self.put(0xe8, 5);
        self.at - 4
    }
    pub(super) fn call_register(&mut self, r: Host) {
        self.modrm((0, false, 0xff), false, 2, Place::Register(r.0));
    }
    /// Has the branch at `place` lead to `to`.
    pub(super) fn patch(&mut self, place: usize, to: usize) {
        self.patched.push((place, to));
        let distance = to.wrapping_sub(place + 4) as u32;
        match self.bytes.get_mut(place..place + 4) {
            Some(field) => field.copy_from_slice(&distance.to_le_bytes()),
            None => self.full = true,
        }
    }

    /// Distances that lead from the part in front of a place to the part behind it, or back.
    pub(super) fn across(&self, boundary: usize) -> impl Iterator<Item = usize> {
        let across = self.patched.iter().filter(move |(place, to)| (*place < boundary) != (*to < boundary));
        across.map(|(place, _)| *place)
    }

    // x87, by the 11 bits of the opcode.

    /// An instruction with memory: no more of the ModRM byte counts than the opcode's part.
    pub(super) fn x87_memory(&mut self, opcode: u16, at: At) {
        let first = 0xd8 | u32::from(opcode >> 8 & 7);
        self.modrm((0, false, first), false, (opcode >> 3 & 7) as u8, Place::Memory(at));
    }
    pub(super) fn x87_register(&mut self, opcode: u16) {
        self.put(0xd8 | u64::from(opcode >> 8 & 7) | u64::from(opcode & 0xff) << 8, 2);
    }

    // Vectors.

    /// An SSE2 operation with the 66 prefix.
    pub(super) fn vector(&mut self, opcode: u8, to: Xmm, from: Xmm) {
        self.modrm((0x66, false, TWO | u32::from(opcode)), false, to.0, Place::Register(from.0));
    }
    /// PSHUFD.
    pub(super) fn shuffle(&mut self, to: Xmm, from: Xmm, order: u8) {
        self.vector(0x70, to, from);
        self.put(order.into(), 1);
    }
    /// A shift of all lanes: opcode and its extension.
    pub(super) fn shift_vector(&mut self, (opcode, extension): (u8, u8), a: Xmm, n: u8) {
        self.modrm((0x66, false, TWO | u32::from(opcode)), false, extension, Place::Register(a.0));
        self.put(n.into(), 1);
    }
    pub(super) fn copy_vector(&mut self, to: Xmm, from: Xmm) {
        self.modrm((0, false, TWO | 0x28), false, to.0, Place::Register(from.0));
    }
    /// MOVUPS.
    pub(super) fn load_vector(&mut self, to: Xmm, at: At) {
        self.modrm((0, false, TWO | 0x10), false, to.0, Place::Memory(at));
    }
    pub(super) fn store_vector(&mut self, from: Xmm, at: At) {
        self.modrm((0, false, TWO | 0x11), false, from.0, Place::Memory(at));
    }
    /// MOVQ to a general register.
    pub(super) fn copy_out_of_vector(&mut self, to: Host, from: Xmm) {
        self.modrm((0x66, true, TWO | 0x7e), false, from.0, Place::Register(to.0));
    }
    /// MOVD or MOVQ to a general register, zeros above.
    pub(super) fn lane_out_of_vector(&mut self, w: Width, to: Host, from: Xmm) {
        self.modrm((0x66, w.0 == 8, TWO | 0x7e), false, from.0, Place::Register(to.0));
    }
    /// MOVQ from one, zeros above.
    pub(super) fn copy_into_vector(&mut self, to: Xmm, from: Host) {
        self.modrm((0x66, true, TWO | 0x6e), false, to.0, Place::Register(from.0));
    }
    /// MOVSD between registers: the low half.
    pub(super) fn merge_low(&mut self, to: Xmm, from: Xmm) {
        self.modrm((0xf2, false, TWO | 0x10), false, to.0, Place::Register(from.0));
    }
    /// An operation on two vector registers, or from the second to the first: prefix and opcode.
    pub(super) fn sse(&mut self, (prefix, opcode): (u8, u32), to: Xmm, from: Xmm) {
        self.modrm((prefix, false, opcode), false, to.0, Place::Register(from.0));
    }
    /// One with an immediate.
    pub(super) fn sse_immediate(&mut self, form: (u8, u32), to: Xmm, from: Xmm, k: u8) {
        self.sse(form, to, from);
        self.put(k.into(), 1);
    }
    /// MOVSS or MOVSD from memory: zeros above.
    pub(super) fn load_lane(&mut self, w: Width, to: Xmm, at: At) {
        let prefix = if w.0 == 4 { 0xf3 } else { 0xf2 };
        self.modrm((prefix, false, TWO | 0x10), false, to.0, Place::Memory(at));
    }
    /// CVTSI2SS or CVTSI2SD, by the prefix, from 32 or 64 bits; what is above the lane stays.
    pub(super) fn convert_in(&mut self, prefix: u8, w: Width, to: Xmm, from: Host) {
        self.modrm((prefix, w.0 == 8, TWO | 0x2a), false, to.0, Place::Register(from.0));
    }
    /// CVTSS2SI, CVTSD2SI and the truncating ones, by prefix and opcode, to 32 bits, zeros above, or 64.
    pub(super) fn convert_out(&mut self, (prefix, opcode): (u8, u32), w: Width, to: Host, from: Xmm) {
        self.modrm((prefix, w.0 == 8, opcode), false, to.0, Place::Register(from.0));
    }
    /// FMA: an opcode behind 0F 38; c := a * b + c or a relative of it. `wide`: f64.
    pub(super) fn fused(&mut self, opcode: u8, wide: bool, c: Xmm, a: Xmm, b: Xmm) {
        let [r, v, m] = [c, a, b].map(|x| u64::from(x.0 & 15));
        // VEX of three bytes: R and B are inverse, X is not needed; the map is 0F 38; W, the inverse of a, the prefix 66.
        let second = 2 | (r >> 3 ^ 1) << 7 | 1 << 6 | (m >> 3 ^ 1) << 5;
        let third = u64::from(wide) << 7 | (v ^ 15) << 3 | 1;
        let field = 0xc0 | (r & 7) << 3 | m & 7;
        self.put(0xc4 | second << 8 | third << 16 | u64::from(opcode) << 24 | field << 32, 5);
    }
    /// LAHF: AH := SF, ZF, AF, PF and CF.
    pub(super) fn flags_to_ah(&mut self) {
        self.put(0x9f, 1);
    }
    /// SAHF, the inverse: OF stays.
    pub(super) fn flags_from_ah(&mut self) {
        self.put(0x9e, 1);
    }
    /// PMOVMSKB, MOVMSKPS or MOVMSKPD.
    pub(super) fn mask(&mut self, (prefix, opcode): (u8, u8), to: Host, from: Xmm) {
        self.modrm((prefix, false, TWO | u32::from(opcode)), false, to.0, Place::Register(from.0));
    }
}

#[cfg(test)]
#[path = "assembler_tests.rs"]
mod tests;
