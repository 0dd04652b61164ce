//! x87 comparison and classification: SDM 1 "Comparison and Classification Instructions".

use super::{arithmetic_operand, operand, status};
use crate::{
    fault::Done,
    flags::bits,
    float::{Class, F80, Invalid, Relation, Unpacked, x87},
    insn::Insn,
    state::Cpu,
};

/// ST(0) compared with b; unordered, and a stack fault, if one of them is empty. None if an unmasked exception forbids to
/// pop.
fn relation(c: &mut Cpu, b: Option<Unpacked>, invalid: Invalid) -> (Relation, bool) {
    let (Some(a), Some(b)) = (c.x87.st(0), b) else {
        return (Relation::Unordered, c.x87.stack_fault(false));
    };
    let mut env = c.x87.env();
    let relation = x87::compare(&a.unpack(), &b, invalid, &mut env);
    c.x87.take(&env);
    (relation, !env.x87_keeps_register())
}

/// Comparisons that set C3, C2 and C0. Silicon sets them with an unmasked exception too.
fn compare(c: &mut Cpu, i: &Insn, b: Option<Unpacked>, invalid: Invalid) -> Done {
    let (relation, pops) = relation(c, b, invalid);
    let codes = match relation {
        Relation::Greater => 0,
        Relation::Less => status::C0,
        Relation::Equal => status::C3,
        Relation::Unordered => status::C3 | status::C2 | status::C0,
    };
    c.x87.set_codes(status::C3 | status::C2 | status::C0, codes);
    if pops {
        c.x87.pop_as(i.cc);
    }
    Ok(())
}

fn compare_operand(c: &mut Cpu, i: &Insn, invalid: Invalid) -> Done {
    c.x87_pending()?;
    let kind = i.cc & operand::KIND;
    let memory = if kind == operand::REGISTER { None } else { Some(c.x87_read(i)?) };
    c.x87_commit(i);
    let b = match memory {
        Some(raw) => Some(arithmetic_operand(kind, raw)),
        None => c.x87.st(i.src).map(F80::unpack),
    };
    compare(c, i, b, invalid)
}

/// FCOM, FCOMP, FCOMPP, FICOM, FICOMP: SDM 2A "FCOM/FCOMP/FCOMPP".
pub(crate) fn fcom(c: &mut Cpu, i: &Insn) -> Done {
    compare_operand(c, i, Invalid::AnyNan)
}
/// FUCOM, FUCOMP, FUCOMPP.
pub(crate) fn fucom(c: &mut Cpu, i: &Insn) -> Done {
    compare_operand(c, i, Invalid::SignallingNan)
}
/// FTST: ST(0) with 0.
pub(crate) fn ftst(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    compare(c, i, Some(F80::ZERO.unpack()), Invalid::AnyNan)
}

/// Comparisons that set ZF, PF and CF, and clear OF, SF and AF.
fn compare_to_flags(c: &mut Cpu, i: &Insn, invalid: Invalid) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    c.x87.set_codes(status::C1, 0);
    let b = c.x87.st(i.src).map(F80::unpack);
    let (relation, pops) = relation(c, b, invalid);
    let flags = match relation {
        Relation::Greater => 0,
        Relation::Less => bits::CF,
        Relation::Equal => bits::ZF,
        Relation::Unordered => bits::ZF | bits::PF | bits::CF,
    };
    c.flags = crate::flags::Flags::from_bits(flags);
    if pops {
        c.x87.pop_as(i.cc);
    }
    Ok(())
}

/// FCOMI, FCOMIP: SDM 2A "FCOMI/FCOMIP/FUCOMI/FUCOMIP".
pub(crate) fn fcomi(c: &mut Cpu, i: &Insn) -> Done {
    compare_to_flags(c, i, Invalid::AnyNan)
}
/// FUCOMI, FUCOMIP.
pub(crate) fn fucomi(c: &mut Cpu, i: &Insn) -> Done {
    compare_to_flags(c, i, Invalid::SignallingNan)
}

/// FXAM: SDM 2A "FXAM". C1 is the sign, of an empty register too.
pub(crate) fn fxam(c: &mut Cpu, i: &Insn) -> Done {
    c.x87_pending()?;
    c.x87_commit(i);
    let v = c.x87.regs[c.x87.physical(0)];
    let class = match c.x87.st(0).map(F80::class) {
        None => status::C3 | status::C0,
        Some(Class::Unsupported) => 0,
        Some(Class::QuietNan | Class::SignallingNan) => status::C0,
        Some(Class::Normal) => status::C2,
        Some(Class::Infinity) => status::C2 | status::C0,
        Some(Class::Zero) => status::C3,
        Some(Class::Denormal) => status::C3 | status::C2,
    };
    let sign = if v.is_negative() { status::C1 } else { 0 };
    c.x87.set_codes(status::CODES, class | sign);
    Ok(())
}
