//! The x87 environment in memory: SDM 1 "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE".

use crate::{
    fault::{Done, Stop},
    float::{Class, F80},
    insn::Insn,
    mode::Mode,
    state::{Cpu, X87},
};

/// Bytes of the longest environment, and of the registers behind it.
const LONGEST: usize = 28;
const REGISTERS: usize = 80;

/// Which of the four layouts: 32- or 16-bit fields (`w` of the instruction is 4 or 2), pointers as selector and offset or
/// as real mode has them. 64-bit mode uses the protected ones.
#[derive(Clone, Copy)]
struct Layout {
    wide: bool,
    real: bool,
}

impl Layout {
    fn of(c: &Cpu, i: &Insn) -> Layout {
        Layout { wide: i.w.0 == 4, real: !c.mode.is_64() && !c.mode.contains(Mode::PROTECTED) }
    }
    fn size(self) -> usize {
        if self.wide { 28 } else { 14 }
    }
    /// Puts field n, whose upper half is ones where the layout is wide and says nothing of it.
    fn put(self, out: &mut [u8; LONGEST], n: usize, v: u32) {
        if self.wide {
            out[4 * n..4 * n + 4].copy_from_slice(&v.to_le_bytes());
        } else {
            out[2 * n..2 * n + 2].copy_from_slice(&(v as u16).to_le_bytes());
        }
    }
    fn get(self, from: &[u8], n: usize) -> u32 {
        let byte = |k: usize| u32::from(from.get(k).copied().unwrap_or(0));
        if self.wide {
            (0..4).fold(0, |v, k| v | byte(4 * n + k) << (8 * k))
        } else {
            byte(2 * n) | byte(2 * n + 1) << 8
        }
    }
}

/// The upper halves of fields that have 16 bits.
const RESERVED: u32 = 0xffff_0000;

/// The tag word: two bits a register, from what is in it. SDM 1 "x87 FPU Tag Word".
fn tag_word(x: &X87) -> u16 {
    (0..8).fold(0, |word, k| {
        let tag = if x.tags >> k & 1 == 0 {
            3
        } else {
            match x.regs[k].class() {
                Class::Normal => 0,
                Class::Zero => 1,
                _ => 2,
            }
        };
        word | tag << (2 * k)
    })
}

fn pack(x: &X87, layout: Layout) -> [u8; LONGEST] {
    let mut out = [0; LONGEST];
    layout.put(&mut out, 0, RESERVED | u32::from(x.control));
    layout.put(&mut out, 1, RESERVED | u32::from(x.status));
    layout.put(&mut out, 2, RESERVED | u32::from(tag_word(x)));
    let opcode = u32::from(x.opcode);
    if layout.real {
        let linear = |selector: u16, offset: u64| (u32::from(selector) << 4).wrapping_add(offset as u32);
        let (ip, dp) = (linear(x.cs, x.ip), linear(x.ds, x.dp));
        let upper = |v: u32| v >> 16 << 12;
        let low = |v: u32| RESERVED | v & 0xffff;
        let mask = if layout.wide { 0x0fff_f000 } else { 0xf000 };
        layout.put(&mut out, 3, low(ip));
        layout.put(&mut out, 4, upper(ip) & mask | opcode);
        layout.put(&mut out, 5, low(dp));
        layout.put(&mut out, 6, upper(dp) & mask);
    } else {
        layout.put(&mut out, 3, x.ip as u32);
        layout.put(&mut out, 4, if layout.wide { opcode << 16 } else { 0 } | u32::from(x.cs));
        layout.put(&mut out, 5, x.dp as u32);
        layout.put(&mut out, 6, RESERVED | u32::from(x.ds));
    }
    out
}

/// The state with its environment from memory.
fn unpack(x: &X87, layout: Layout, from: &[u8]) -> X87 {
    let mut x = X87 { status: layout.get(from, 1) as u16, ..*x };
    let tags = layout.get(from, 2);
    x.tags = (0..8).fold(0, |all, k| all | u8::from(tags >> (2 * k) & 3 != 3) << k);
    if layout.real {
        let pointer =
            |n: usize| layout.get(from, n) & 0xffff | (layout.get(from, n + 1) >> 12 & 0xffff) << 16;
        (x.cs, x.ds) = (0, 0);
        (x.ip, x.dp) = (pointer(3).into(), pointer(5).into());
        x.opcode = layout.get(from, 4) as u16 & 0x7ff;
    } else {
        (x.ip, x.dp) = (layout.get(from, 3).into(), layout.get(from, 5).into());
        (x.cs, x.ds) = (0, 0);
        x.opcode = if layout.wide { (layout.get(from, 4) >> 16) as u16 & 0x7ff } else { 0 };
    }
    // Last, because it decides with the status word whether an exception is pending.
    x.set_control(layout.get(from, 0) as u16);
    x
}

/// Where an image is. It consists of words or doublewords: SDM 3A "Interrupt 17—Alignment Check Exception (#AC)".
fn image_address(c: &mut Cpu, i: &Insn, layout: Layout, size: usize, write: bool) -> Result<u64, Stop> {
    let at = c.operand_address(i, size as u64, write)?;
    c.check_alignment(at, if layout.wide { 4 } else { 2 })?;
    Ok(at)
}

fn read(c: &mut Cpu, i: &Insn, layout: Layout, out: &mut [u8]) -> Result<(), Stop> {
    let at = image_address(c, i, layout, out.len(), false)?;
    c.read_bytes(at, out).map_err(|stop| c.operand_fault(i, stop))
}

fn write(c: &mut Cpu, i: &Insn, layout: Layout, bytes: &[u8]) -> Done {
    let at = image_address(c, i, layout, bytes.len(), true)?;
    c.write_bytes(at, bytes).map_err(|stop| c.operand_fault(i, stop))
}

/// FNSTENV: SDM 2A "FSTENV/FNSTENV". All exceptions are masked after.
pub(crate) fn fnstenv(c: &mut Cpu, i: &Insn) -> Done {
    let layout = Layout::of(c, i);
    let bytes = pack(&c.x87, layout);
    write(c, i, layout, &bytes[..layout.size()])?;
    c.x87.set_control(c.x87.control | 0x3f);
    Ok(())
}

/// FLDENV: SDM 2A "FLDENV".
pub(crate) fn fldenv(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    let layout = Layout::of(c, i);
    let mut bytes = [0; LONGEST];
    read(c, i, layout, &mut bytes[..layout.size()])?;
    c.x87 = unpack(&c.x87, layout, &bytes);
    Ok(())
}

/// FNSAVE: SDM 2A "FSAVE/FNSAVE". The unit is initialised after.
pub(crate) fn fnsave(c: &mut Cpu, i: &Insn) -> Done {
    let layout = Layout::of(c, i);
    let mut bytes = [0; LONGEST + REGISTERS];
    let size = layout.size();
    bytes[..LONGEST].copy_from_slice(&pack(&c.x87, layout));
    for k in 0..8 {
        let v = c.x87.regs[c.x87.physical(k)];
        bytes[size + 10 * k..][..10].copy_from_slice(&v.to_le_bytes());
    }
    write(c, i, layout, &bytes[..size + REGISTERS])?;
    super::fninit(c, i)
}

/// FRSTOR: SDM 2A "FRSTOR".
pub(crate) fn frstor(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    let layout = Layout::of(c, i);
    let mut bytes = [0; LONGEST + REGISTERS];
    let size = layout.size();
    read(c, i, layout, &mut bytes[..size + REGISTERS])?;
    c.x87 = unpack(&c.x87, layout, &bytes);
    for k in 0..8 {
        let value = std::array::from_fn(|n| bytes[size + 10 * k + n]);
        let r = c.x87.physical(k);
        c.x87.regs[r] = F80::from_le_bytes(value);
    }
    Ok(())
}
