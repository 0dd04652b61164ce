//! x87 loads and stores: SDM 1 "Data Transfer Instructions", "Load Constant Instructions".

use super::{Raw, operand, status};
use crate::{
    fault::Done,
    float::{
        Env, F80, ToInteger,
        x87::{self, Constant},
    },
    insn::Insn,
    state::Cpu,
};

/// A value in memory as FLD, FILD and FBLD push it.
fn loaded(kind: u8, raw: Raw, env: &mut Env) -> F80 {
    match (kind, raw) {
        (operand::F32, Raw::Bits(v)) => x87::load_f32(v as u32, env),
        (operand::F64, Raw::Bits(v)) => x87::load_f64(v, env),
        (operand::I16, Raw::Bits(v)) => x87::from_i64((v as i16).into()),
        (operand::I32, Raw::Bits(v)) => x87::from_i64((v as i32).into()),
        (_, Raw::Bits(v)) => x87::from_i64(v as i64),
        (operand::BCD, Raw::Ten(bytes)) => x87::from_bcd(bytes),
        (_, Raw::Ten(bytes)) => F80::from_le_bytes(bytes),
    }
}

/// Pushes what `value` makes; without room, the indefinite value if that is masked.
fn push(c: &mut Cpu, value: impl FnOnce(&mut Cpu) -> Option<F80>) {
    c.x87.set_codes(status::C1, 0);
    let v = if c.x87.st(7).is_some() { c.x87.stack_fault(true).then_some(F80::INDEFINITE) } else { value(c) };
    if let Some(v) = v {
        c.x87.push(v);
    }
}

/// FLD, FILD, FBLD: SDM 2A "FLD".
pub(crate) fn fld(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    let kind = i.cc & operand::KIND;
    if kind == operand::REGISTER {
        return duplicate(c, i);
    }
    let raw = c.x87_read(i)?;
    c.x87_commit(i);
    push(c, |c| {
        let mut env = c.x87.env();
        let v = loaded(kind, raw, &mut env);
        c.x87.take(&env);
        (!env.x87_keeps_stack()).then_some(v)
    });
    Ok(())
}

/// FLD ST(i). An empty source is looked for before the room.
fn duplicate(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_commit(i);
    match c.x87.st(i.src) {
        Some(v) => push(c, |_| Some(v)),
        None if c.x87.stack_fault(false) => c.x87.push(F80::INDEFINITE),
        None => {}
    }
    Ok(())
}

/// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ: the low three bits of the opcode tell which.
pub(crate) fn fld_constant(c: &mut Cpu, i: &Insn) -> Done {
    const CONSTANTS: [Constant; 8] = [
        Constant::One,
        Constant::Log2Of10,
        Constant::Log2OfE,
        Constant::Pi,
        Constant::Log10Of2,
        Constant::LnOf2,
        Constant::Zero,
        Constant::Zero,
    ];
    c.x87_pending()?;
    c.x87_commit(i);
    push(c, |c| Some(x87::constant(CONSTANTS[(i.imm & 7) as usize], &c.x87.env())));
    Ok(())
}

/// ST(0) as FST, FIST, FISTTP and FBSTP store it.
fn stored(cc: u8, v: F80, env: &mut Env) -> Raw {
    let how = if cc & operand::TRUNCATE != 0 { ToInteger::Truncate } else { ToInteger::Round };
    match cc & operand::KIND {
        operand::F32 => Raw::Bits(x87::to_f32(v, env).into()),
        operand::F64 => Raw::Bits(x87::to_f64(v, env)),
        operand::I16 => Raw::Bits(x87::to_i16(v, how, env) as u16 as u64),
        operand::I32 => Raw::Bits(x87::to_i32(v, how, env) as u32 as u64),
        operand::I64 => Raw::Bits(x87::to_i64(v, how, env) as u64),
        operand::BCD => Raw::Ten(x87::to_bcd(v, env)),
        _ => Raw::Ten(v.to_le_bytes()),
    }
}

/// FST, FSTP, FIST, FISTP, FISTTP, FBSTP: SDM 2A "FST/FSTP".
pub(crate) fn fst(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    if i.cc & operand::KIND == operand::REGISTER {
        return copy(c, i);
    }
    let Some(v) = c.x87.st(0) else { return store_empty(c, i) };
    let mut env = c.x87.env();
    let raw = stored(i.cc, v, &mut env);
    let keeps = env.x87_keeps_memory();
    c.x87_write(i, (!keeps).then_some(raw))?;
    c.x87_commit(i);
    c.x87.take(&env);
    if !keeps {
        c.x87.pop_as(i.cc);
    }
    Ok(())
}

/// A store of an empty ST(0): the indefinite value if that is masked.
fn store_empty(c: &mut Cpu, i: &Insn) -> Done {
    // The status word changes only if the store succeeds; masked, the indefinite raises nothing of its own.
    let masked = c.x87.control & status::IE != 0;
    let raw = stored(i.cc, F80::INDEFINITE, &mut Env::x87(c.x87.control, 0));
    c.x87_write(i, masked.then_some(raw))?;
    c.x87_commit(i);
    if c.x87.stack_fault(false) {
        c.x87.pop_as(i.cc);
    }
    Ok(())
}

/// FST ST(i), FSTP ST(i).
fn copy(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    let v = match c.x87.st(0) {
        Some(v) => v,
        None if c.x87.stack_fault(false) => F80::INDEFINITE,
        None => return Ok(()),
    };
    c.x87.set_st(i.dst, v);
    c.x87.pop_as(i.cc);
    Ok(())
}

/// FSTPNCE ST(i), undocumented: FSTP that takes an empty ST(0) without complaint.
pub(crate) fn fstpnce(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    if let Some(v) = c.x87.st(0) {
        c.x87.set_st(i.dst, v);
    }
    c.x87.pop();
    Ok(())
}

/// FXCH: SDM 2A "FXCH". Empty registers count as indefinite if that is masked.
pub(crate) fn fxch(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    let (a, b) = (c.x87.st(0), c.x87.st(i.src));
    if (a.is_none() || b.is_none()) && !c.x87.stack_fault(false) {
        return Ok(());
    }
    c.x87.set_st(0, b.unwrap_or(F80::INDEFINITE));
    c.x87.set_st(i.src, a.unwrap_or(F80::INDEFINITE));
    Ok(())
}

/// FCMOVcc: SDM 2A "FCMOVcc". Decode puts the condition into operand 0, which is always ST(0).
pub(crate) fn fcmov(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    match (c.x87.st(0), c.x87.st(i.src)) {
        (Some(_), Some(b)) => {
            if c.flags.condition(i.dst) {
                c.x87.set_st(0, b);
            }
        }
        _ => {
            if c.x87.stack_fault(false) {
                c.x87.set_st(0, F80::INDEFINITE);
            }
        }
    }
    Ok(())
}
