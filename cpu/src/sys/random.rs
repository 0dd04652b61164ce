//! RDRAND and RDSEED: SDM 2B.

use crate::{fault::Done, flags::Flags, flags::bits, insn::Insn, state::Cpu};

/// RDRAND, RDSEED: CF tells whether there was a number; where there was none the destination is 0. The other status flags
/// are cleared.
pub(crate) fn rdrand(c: &mut Cpu, i: &Insn) -> Done {
    let number = c.bus.random(c.id);
    c.set(i.w, i.dst, i.w.mask(number.unwrap_or(0)));
    c.flags = Flags::from_bits(if number.is_some() { bits::CF } else { 0 });
    Ok(())
}
