//! SDM 1 "Trigonometric Instructions", "Logarithmic, Exponential, and Scale".

use super::{
    arithmetic::{binary, unary},
    status,
};
use crate::{
    fault::Done,
    float::{Env, F80, Unpacked, x87},
    insn::Insn,
    state::Cpu,
};

/// FSIN and FCOS. An operand that is too large stays as it is, and C2 tells.
fn of_angle(c: &mut Cpu, i: &Insn, f: fn(&Unpacked, &mut Env) -> Option<F80>) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1 | status::C2, 0);
    let Some(a) = c.x87.st(0) else {
        if c.x87.stack_fault(false) {
            c.x87.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    };
    let mut env = c.x87.env();
    let Some(v) = f(&a.unpack(), &mut env) else {
        c.x87.set_codes(status::C2, status::C2);
        return Ok(());
    };
    c.x87.take(&env);
    if !env.x87_keeps_register() {
        c.x87.set_st(0, v);
    }
    Ok(())
}

/// FSIN: SDM 2A "FSIN".
pub(crate) fn fsin(c: &mut Cpu, i: &Insn) -> Done {
    of_angle(c, i, x87::sin)
}
/// FCOS: SDM 2A "FCOS".
pub(crate) fn fcos(c: &mut Cpu, i: &Insn) -> Done {
    of_angle(c, i, x87::cos)
}

/// FSINCOS and FPTAN: one result replaces ST(0), one is pushed. The stack is checked before the operand.
fn two_of_angle(c: &mut Cpu, i: &Insn, f: fn(&Unpacked, &mut Env) -> Option<(F80, F80)>) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1 | status::C2, 0);
    let results = match (c.x87.st(0), c.x87.st(7)) {
        (Some(a), None) => {
            let mut env = c.x87.env();
            let Some(results) = f(&a.unpack(), &mut env) else {
                c.x87.set_codes(status::C2, status::C2);
                return Ok(());
            };
            c.x87.take(&env);
            (!env.x87_keeps_register()).then_some(results)
        }
        (a, _) => c.x87.stack_fault(a.is_some()).then_some((F80::INDEFINITE, F80::INDEFINITE)),
    };
    if let Some((replaces, pushed)) = results {
        c.x87.set_st(0, replaces);
        c.x87.push(pushed);
    }
    Ok(())
}

/// FSINCOS: SDM 2A "FSINCOS".
pub(crate) fn fsincos(c: &mut Cpu, i: &Insn) -> Done {
    two_of_angle(c, i, x87::sin_cos)
}
/// FPTAN: SDM 2A "FPTAN".
pub(crate) fn fptan(c: &mut Cpu, i: &Insn) -> Done {
    two_of_angle(c, i, x87::tan)
}

/// FPATAN: SDM 2A "FPATAN". Decode gives ST(1) and ST(0) as operands, here and below, and pops.
pub(crate) fn fpatan(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::atan)
}
/// FYL2X: SDM 2A "FYL2X".
pub(crate) fn fyl2x(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::y_log2_x)
}
/// FYL2XP1: SDM 2A "FYL2XP1".
pub(crate) fn fyl2xp1(c: &mut Cpu, i: &Insn) -> Done {
    binary(c, i, x87::y_log2_x_plus_1)
}
/// F2XM1: SDM 2A "F2XM1".
pub(crate) fn f2xm1(c: &mut Cpu, i: &Insn) -> Done {
    unary(c, i, x87::exp2_minus_1)
}
