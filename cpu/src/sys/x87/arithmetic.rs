//! x87 arithmetic: SDM 1 "Basic Arithmetic Instructions".

use super::{arithmetic_operand, operand, status};
use crate::{
    fault::Done,
    float::{
        Class, Env, F80, Unpacked,
        x87::{self, Remainder},
    },
    insn::Insn,
    state::Cpu,
};

type Binary = fn(&Unpacked, &Unpacked, &mut Env) -> F80;
type Unary = fn(&Unpacked, &mut Env) -> F80;

/// Destination := f(destination, source): ST(0) and memory, or two registers of which one is ST(0).
pub(super) fn binary(c: &mut Cpu, i: &Insn, f: Binary) -> Done {
    c.x87_pending()?;
    let kind = i.cc & operand::KIND;
    let (to, b) = if kind == operand::REGISTER {
        (i.dst, None)
    } else {
        let raw = c.x87_read(i)?;
        (0, Some(arithmetic_operand(kind, raw)))
    };
    c.x87_commit(i);
    let a = c.x87.st(to).map(F80::unpack);
    let b = if kind == operand::REGISTER { c.x87.st(i.src).map(F80::unpack) } else { b };
    let result = if let (Some(a), Some(b)) = (a, b) {
        let mut env = c.x87.env();
        let v = f(&a, &b, &mut env);
        c.x87.take(&env);
        (!env.x87_keeps_register()).then_some(v)
    } else {
        c.x87.stack_fault(false).then_some(F80::INDEFINITE)
    };
    if let Some(v) = result {
        c.x87.set_st(to, v);
        c.x87.pop_as(i.cc);
    }
    Ok(())
}

/// ST(0) := f(ST(0)).
pub(super) fn unary(c: &mut Cpu, i: &Insn, f: Unary) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    let result = match c.x87.st(0) {
        Some(a) => {
            let mut env = c.x87.env();
            let v = f(&a.unpack(), &mut env);
            c.x87.take(&env);
            (!env.x87_keeps_register()).then_some(v)
        }
        None => c.x87.stack_fault(false).then_some(F80::INDEFINITE),
    };
    if let Some(v) = result {
        c.x87.set_st(0, v);
    }
    Ok(())
}

/// FADD, FADDP, FIADD: SDM 2A "FADD/FADDP/FIADD".
pub(crate) fn fadd(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::add)
}
/// FMUL, FMULP, FIMUL.
pub(crate) fn fmul(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::mul)
}
/// FSUB, FSUBP, FISUB.
pub(crate) fn fsub(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::sub)
}
/// FSUBR, FSUBRP, FISUBR.
pub(crate) fn fsubr(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, |a, b, env| x87::sub(b, a, env))
}
/// FDIV, FDIVP, FIDIV.
pub(crate) fn fdiv(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::div)
}
/// FDIVR, FDIVRP, FIDIVR.
pub(crate) fn fdivr(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, |a, b, env| x87::div(b, a, env))
}
/// FSCALE: ST(0) and ST(1), which decode gives as operands.
pub(crate) fn fscale(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::scale)
}
/// FSQRT.
pub(crate) fn fsqrt(c: &mut Cpu, i: &Insn) -> Done {
    unary(c, i, x87::sqrt)
}
/// FRNDINT.
pub(crate) fn frndint(c: &mut Cpu, i: &Insn) -> Done {
    unary(c, i, x87::round_to_integral)
}

/// FABS and FCHS change the sign bit of whatever is there.
fn sign(c: &mut Cpu, i: &Insn, f: fn(F80) -> F80) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    match c.x87.st(0) {
        Some(a) => c.x87.set_st(0, f(a)),
        None if c.x87.stack_fault(false) => c.x87.set_st(0, F80::INDEFINITE),
        None => {}
    }
    Ok(())
}
/// FABS.
pub(crate) fn fabs(c: &mut Cpu, i: &Insn) -> Done {
    sign(c, i, F80::abs)
}
/// FCHS.
pub(crate) fn fchs(c: &mut Cpu, i: &Insn) -> Done {
    sign(c, i, F80::negated)
}

/// FPREM and FPREM1: the quotient's low bits go to the condition codes.
fn remainder(c: &mut Cpu, i: &Insn, f: fn(&Unpacked, &Unpacked, &mut Env) -> Remainder) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1 | status::C2, 0);
    let (Some(a), Some(b)) = (c.x87.st(0), c.x87.st(1)) else {
        if c.x87.stack_fault(false) {
            c.x87.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    };
    let mut env = c.x87.env();
    let r = f(&a.unpack(), &b.unpack(), &mut env);
    c.x87.take(&env);
    let stopped = env.x87_keeps_register();
    if !stopped {
        c.x87.set_st(0, r.value);
    }
    // Without a quotient, C0 and C3 stay as they were.
    if !stopped && !matches!(r.value.class(), Class::QuietNan) {
        let bit = |n: u8, code: u16| if r.quotient >> n & 1 != 0 { code } else { 0 };
        let partial = if r.partial { status::C2 } else { 0 };
        let codes = bit(2, status::C0) | bit(1, status::C3) | bit(0, status::C1) | partial;
        c.x87.set_codes(status::CODES, codes);
    }
    Ok(())
}
/// FPREM: SDM 2A "FPREM".
pub(crate) fn fprem(c: &mut Cpu, i: &Insn) -> Done {
    remainder(c, i, x87::prem)
}
/// FPREM1: SDM 2A "FPREM1".
pub(crate) fn fprem1(c: &mut Cpu, i: &Insn) -> Done {
    remainder(c, i, x87::prem1)
}

/// FXTRACT: SDM 2A "FXTRACT". The exponent replaces ST(0), the significand is pushed.
pub(crate) fn fxtract(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    let result = match (c.x87.st(0), c.x87.st(7)) {
        (Some(a), None) => {
            let mut env = c.x87.env();
            let parts = x87::extract(&a.unpack(), &mut env);
            c.x87.take(&env);
            (!env.x87_keeps_register()).then_some(parts)
        }
        (a, _) => c.x87.stack_fault(a.is_some()).then_some((F80::INDEFINITE, F80::INDEFINITE)),
    };
    if let Some((exponent, significand)) = result {
        c.x87.set_st(0, exponent);
        c.x87.push(significand);
    }
    Ok(())
}
