//! Guest memory in translated code: the probe of the TLB, and the way out where it misses.

use super::emitter::{Bit, Emitter, GUEST, Untranslatable, Val, at, integer};
use crate::{
    insn::{Insn, Kind, attr},
    mmu::near::{self, Near},
    state::{Cpu, reg},
    width::{Q, Width},
};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, condcodes::IntCC, types::*};
use std::mem::offset_of;

/// On hosts that order stores and loads less than x86 does, guest accesses are acquire and release.
const WEAK: bool = !cfg!(target_arch = "x86_64");

impl Emitter<'_, '_> {
    /// The memory operand's offset, as its address arithmetic gives it.
    pub(super) fn operand_offset(&mut self, i: &Insn) -> Val {
        if i.has(attr::IMM64) {
            return Val::Known(i.imm64());
        }
        let mut sum = None;
        if usize::from(i.base) < 16 {
            sum = Some(self.register(i.base.into()));
        } else if i.base == reg::PAGE {
            sum = Some(self.page());
        }
        if usize::from(i.index) < 16 {
            let x = self.register(i.index.into());
            sum = Some(match sum {
                Some(base) => self.base_and_index(base, x, i.scale & 3),
                None if i.scale & 3 != 0 => self.b.ins().ishl_imm_u(x, i64::from(i.scale & 3)),
                None => x,
            });
        }
        let mut displacement = i64::from(i.disp);
        if i.has(attr::RIP) {
            displacement += i64::from(i.ip) + i64::from(i.len);
        }
        let a = match sum {
            Some(sum) if displacement != 0 => Val::Computed(self.sum(sum, displacement)),
            Some(sum) => Val::Computed(sum),
            None => Val::Known(displacement as u64),
        };
        self.cut(i.asize, a)
    }

    /// An offset of the address size.
    fn cut(&mut self, asize: u8, a: Val) -> Val {
        match (asize, a) {
            (2 | 4, Val::Known(k)) => Val::Known(Width(asize).mask(k)),
            (2 | 4, Val::Computed(v)) => {
                let v = self.b.ins().ireduce(integer(Width(asize)), v);
                Val::Computed(self.b.ins().uextend(I64, v))
            }
            _ => a,
        }
    }

    /// The memory operand's linear address, `by` bytes on, for so many bytes.
    pub(super) fn operand_address(&mut self, i: &Insn, by: Option<Val>, size: u64, write: bool) -> Value {
        let offset = self.operand_offset(i);
        let mut a = self.wide(Q, offset);
        if let Some(by) = by {
            let by = self.wide(Q, by);
            a = self.b.ins().iadd(a, by);
            if matches!(i.asize, 2 | 4) {
                let cut = self.cut(i.asize, Val::Computed(a));
                a = self.wide(Q, cut);
            }
        }
        if !self.region.mode.is_64() {
            return self.in_segment(i.seg.into(), a, size, write);
        }
        if self.memory_kind(i) == Kind::Far && i.seg < 6 {
            let base = self.load_state(I64, at(offset_of!(Cpu, seg_base)) + 8 * i32::from(i.seg));
            a = self.b.ins().iadd(a, base);
        }
        a
    }

    /// What the address of the memory operand begins with, for [`Near`].
    pub(super) fn begins_with(i: &Insn) -> u8 {
        match (i.base, i.index) {
            (base, _) if base < reg::ZERO => base,
            (_, index) if index < reg::ZERO => index,
            (reg::PAGE, _) => near::BY_RIP,
            _ => near::ABSOLUTE,
        }
    }

    /// Host address of an access; where the TLB does not vouch for it and cannot be made to, the interpreter runs the
    /// instruction.
    pub(super) fn host_address(&mut self, linear: Value, size: u64, write: bool, begin: u8) -> Value {
        let index = Near::index(begin, write);
        self.look_near(linear, size, index, (index as u64) << 8 | size << 1 | u64::from(write))
    }

    /// Loads from guest memory.
    pub(super) fn guest_load(&mut self, t: Type, linear: Value, begin: u8) -> Value {
        let host = self.host_address(linear, u64::from(t.bytes()), false, begin);
        self.load_host(t, host)
    }

    /// Stores to guest memory.
    pub(super) fn guest_store(&mut self, v: Value, linear: Value, begin: u8) {
        let size = self.b.func.dfg.value_type(v).bytes();
        let host = self.host_address(linear, u64::from(size), true, begin);
        self.store_host(v, host);
    }

    pub(super) fn load_host(&mut self, t: Type, host: Value) -> Value {
        if WEAK && t.bytes() > 1 {
            // Where it is not aligned, x86 promises less too.
            let v = self.b.ins().load(t, GUEST, host, 0);
            self.b.ins().fence();
            return v;
        }
        if WEAK {
            return self.b.ins().atomic_load(t, MemFlagsData::trusted(), host);
        }
        self.b.ins().load(t, GUEST, host, 0)
    }

    pub(super) fn store_host(&mut self, v: Value, host: Value) {
        if WEAK {
            self.b.ins().fence();
        }
        self.b.ins().store(GUEST, v, host, 0);
    }

    /// Reads, computes, writes; atomically if the instruction is LOCKed.
    pub(super) fn guest_modify(
        &mut self,
        w: Width,
        i: &Insn,
        linear: Value,
        f: impl Fn(&mut Self, Val) -> Val,
    ) -> Result<(Val, Val), Untranslatable> {
        let t = integer(w);
        let locked = i.has(attr::LOCK);
        if locked && w.0 > 1 {
            // The interpreter knows how the host does that to operands that are not aligned.
            let low = self.b.ins().band_imm_u(linear, i64::from(w.0) - 1);
            self.bail_if(low);
        }
        let host = self.host_address(linear, w.0.into(), true, Self::begins_with(i));
        if !locked {
            let old = Val::Computed(self.load_host(t, host));
            let new = f(self, old);
            let v = self.value(w, new);
            self.store_host(v, host);
            return Ok((old, new));
        }
        let (again, done) = (self.b.create_block(), self.b.create_block());
        let first = self.b.ins().atomic_load(t, MemFlagsData::trusted(), host);
        self.b.append_block_param(again, t);
        self.b.ins().jump(again, &[first.into()]);
        self.b.switch_to_block(again);
        let old = self.b.block_params(again)[0];
        let new = f(self, Val::Computed(old));
        let new = self.value(w, new);
        let found = self.b.ins().atomic_cas(MemFlagsData::trusted(), host, old, new);
        let same = self.b.ins().icmp(IntCC::Equal, found, old);
        self.b.ins().brif(same, done, &[], again, &[found.into()]);
        self.b.seal_block(again);
        self.to(done);
        if WEAK {
            // Without LSE a later load may read before the exclusive store is seen, which no x86 lets happen behind LOCK.
            self.b.ins().fence();
        }
        Ok((Val::Computed(old), Val::Computed(new)))
    }

    /// Leaves the instruction to the interpreter where a vector operand that must be aligned is not.
    pub(super) fn check_aligned(&mut self, i: &Insn, linear: Value, size: u64) {
        if i.has(attr::ALIGNED) {
            let low = self.b.ins().band_imm_u(linear, size as i64 - 1);
            self.bail_if(low);
        }
    }

    /// Leaves the instruction to the interpreter unless `c`.
    pub(super) fn demand(&mut self, c: Bit) {
        let c = self.not_bit(c);
        let c = self.bit_as(I8, c);
        self.bail_if(c);
    }
}
