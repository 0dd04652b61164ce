//! CMPXCHG8B and CMPXCHG16B: SDM 2A.

use crate::{
    fault::{Done, Fault},
    insn::Insn,
    state::{Cpu, reg},
    width::{D, Q},
};

/// CMPXCHG8B.
pub(crate) fn cmpxchg8b(c: &mut Cpu, i: &Insn) -> Done {
    let at = c.operand_address(i, 8, true)?;
    let expected = c.get(D, reg::RAX) | c.get(D, reg::RDX) << 32;
    let new = c.get(D, reg::RBX) | c.get(D, reg::RCX) << 32;
    let (found, _) = c
        .modify(Q, at, true, |_, found| if found == expected { new } else { found })
        .map_err(|stop| c.operand_fault(i, stop))?;
    let same = found == expected;
    c.flags.set_zf(same);
    if !same {
        c.set(D, reg::RAX, found);
        c.set(D, reg::RDX, found >> 32);
    }
    Ok(())
}

/// CMPXCHG16B: the operand must be aligned.
pub(crate) fn cmpxchg16b(c: &mut Cpu, i: &Insn) -> Done {
    let at = c.operand_address(i, 16, true)?;
    if at & 15 != 0 {
        return Err(c.raise(Fault::gp(0)));
    }
    let expected = u128::from(c.gpr[0]) | u128::from(c.gpr[2]) << 64;
    let new = u128::from(c.gpr[3]) | u128::from(c.gpr[1]) << 64;
    let found = c.exchange_128(at, expected, new).map_err(|stop| c.operand_fault(i, stop))?;
    let same = found == expected;
    c.flags.set_zf(same);
    if !same {
        c.gpr[0] = found as u64;
        c.gpr[2] = (found >> 64) as u64;
    }
    Ok(())
}
