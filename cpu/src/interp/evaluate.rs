//! The semantics with integers for values.
#![allow(unsafe_code)]

use super::{
    form::Form,
    links::{links, pause, pause_at, through_cache},
};
use crate::{
    emit::{Emit, HIGH},
    fault::{Done, Fault, Stop, vector},
    flags::Arith,
    insn::{Insn, Kind, attr},
    planted::{self, Bug},
    state::{Cpu, Why},
    vector::{
        FloatOp, Fused, Lanes, TernaryOp, VecOp,
        wide::{self, Wide},
    },
    width::{Q, Width},
};
use std::{marker::PhantomData, ptr::null};

/// The interpreting instance: a CPU seen through a form.
#[repr(transparent)]
pub(crate) struct Interp<F>(Cpu, PhantomData<F>);

impl<F> Interp<F> {
    #[inline(always)]
    pub(super) fn of(c: &mut Cpu) -> &mut Self {
        // SAFETY: transparent, so a reference to one is a reference to the other.
        unsafe { &mut *std::ptr::from_mut(c).cast() }
    }
}

impl<F: Form> Interp<F> {
    #[inline(always)]
    fn operand(&mut self, k: Kind, w: Width, i: &Insn, write: bool) -> Result<u64, Stop> {
        match k {
            Kind::Mem => Ok(self.0.flat_address(i)),
            Kind::Flat32 => Ok(self.0.flat_address(i) as u32 as u64),
            _ => self.0.far_address(i, 0, w.0.into(), write),
        }
    }

    #[inline(always)]
    fn read(&mut self, k: Kind, w: Width, i: &Insn) -> Result<u64, Stop> {
        let a = self.operand(k, w, i, false)?;
        self.load(w, i, a)
    }

    /// Ends the instruction with an exception: in the general form, if this one is fast.
    #[inline(always)]
    fn fail(&mut self, fault: Fault) -> Stop {
        if F::FAST { Stop } else { self.0.raise(fault) }
    }

    /// Counts the block and picks where to go on.
    #[inline(always)]
    fn go(&mut self, i: &Insn, taken: bool) -> *const Insn {
        // SAFETY: only semantics that end blocks call this, and decode ends the block after them.
        let l = unsafe { links(i) };
        let to = if taken {
            // A branch of the host, not a conditional move: the host predicts it.
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            // SAFETY: no instructions.
            unsafe {
                core::arch::asm!("", options(nomem, nostack, preserves_flags));
            }
            l.taken.get()
        } else {
            l.fall.get()
        };
        if self.0.attention_ref().due(l.n) {
            return pause(&mut self.0, l, taken);
        }
        to
    }
}

#[allow(clippy::missing_docs_in_private_items)]
impl<F: Form> Emit for Interp<F> {
    type Val = u64;
    type Bit = bool;
    type Vec = Wide;
    type Stop = Stop;
    type Flow = *const Insn;

    #[inline(always)]
    fn width(&self, i: &Insn) -> Width {
        F::w(i)
    }
    #[inline(always)]
    fn number(&self, i: &Insn) -> u8 {
        F::cc(i)
    }
    #[inline(always)]
    fn target_kind(&self, i: &Insn) -> Kind {
        F::dst(i)
    }
    #[inline(always)]
    fn source_w(&mut self, w: Width, i: &Insn) -> Result<u64, Stop> {
        match F::src(i) {
            Kind::Reg => Ok(self.0.get(w, i.src)),
            Kind::Imm => Ok(w.mask(F::imm(i))),
            k => self.read(k, w, i),
        }
    }
    #[inline(always)]
    fn target(&mut self, i: &Insn) -> Result<u64, Stop> {
        match F::dst(i) {
            Kind::Reg => Ok(self.0.get(F::w(i), i.dst)),
            k => self.read(k, F::w(i), i),
        }
    }
    #[inline(always)]
    fn put(&mut self, i: &Insn, v: u64) -> Done {
        let w = F::w(i);
        match F::dst(i) {
            Kind::Reg => {
                self.0.set(w, i.dst, v);
                Ok(())
            }
            k => {
                let a = self.operand(k, w, i, true)?;
                self.store(w, i, a, v)
            }
        }
    }
    #[inline(always)]
    fn update(&mut self, i: &Insn, f: impl Fn(&mut Self, u64) -> u64) -> Result<(u64, u64), Stop> {
        let w = F::w(i);
        match F::dst(i) {
            Kind::Reg => {
                let old = self.0.get(w, i.dst);
                let new = f(self, old);
                self.0.set(w, i.dst, new);
                Ok((old, new))
            }
            k => {
                let a = self.operand(k, w, i, true)?;
                self.modify(w, i, a, f)
            }
        }
    }
    #[inline(always)]
    fn imm(&mut self, w: Width, i: &Insn) -> u64 {
        w.mask(F::imm(i))
    }
    #[inline(always)]
    fn address(&mut self, i: &Insn, by: Option<u64>, size: u8, write: bool) -> Result<u64, Stop> {
        let k = match (F::dst(i), F::src(i)) {
            (Kind::Mem, _) | (_, Kind::Mem) => Kind::Mem,
            _ => Kind::Far,
        };
        let by = by.unwrap_or(0);
        if k == Kind::Mem {
            Ok(self.0.flat_address(i).wrapping_add(by))
        } else {
            self.0.far_address(i, by, size.into(), write)
        }
    }
    #[inline(always)]
    fn offset(&mut self, i: &Insn) -> u64 {
        match F::src(i) {
            Kind::Mem => self.0.flat_address(i),
            Kind::Flat32 => self.0.flat_address(i) as u32 as u64,
            _ => self.0.far_offset(i),
        }
    }
    #[inline(always)]
    fn get(&mut self, w: Width, r: u8) -> u64 {
        self.0.get(w, r)
    }
    #[inline(always)]
    fn set(&mut self, w: Width, r: u8, v: u64) {
        self.0.set(w, r, v)
    }
    #[inline(always)]
    fn set_if(&mut self, c: bool, w: Width, r: u8, v: u64) {
        if c {
            self.0.set(w, r, v)
        }
    }
    #[inline(always)]
    fn load(&mut self, w: Width, i: &Insn, at: u64) -> Result<u64, Stop> {
        if F::FAST {
            return self.0.read_hit(w, at).ok_or(Stop);
        }
        self.0.read(w, at).map_err(|stop| self.0.operand_fault(i, stop))
    }
    #[inline(always)]
    fn store(&mut self, w: Width, i: &Insn, at: u64, v: u64) -> Done {
        if F::FAST {
            return self.0.write_hit(w, at, v).ok_or(Stop);
        }
        self.0.write(w, at, v).map_err(|stop| self.0.operand_fault(i, stop))
    }
    #[inline(always)]
    fn modify(
        &mut self,
        w: Width,
        i: &Insn,
        at: u64,
        f: impl Fn(&mut Self, u64) -> u64,
    ) -> Result<(u64, u64), Stop> {
        if F::FAST {
            return self.0.modify_hit(w, at, |c, v| f(Self::of(c), v)).ok_or(Stop);
        }
        self.0
            .modify(w, at, F::locked(i), |c, v| f(Self::of(c), v))
            .map_err(|stop| self.0.operand_fault(i, stop))
    }
    #[inline(always)]
    fn stack_load(&mut self, w: Width, at: u64) -> Result<u64, Stop> {
        if F::FAST {
            return self.0.read_hit(w, at).ok_or(Stop);
        }
        self.0.read(w, at).map_err(|stop| self.0.stack_fault(stop))
    }
    #[inline(always)]
    fn stack_store(&mut self, w: Width, at: u64, v: u64) -> Done {
        if F::FAST {
            return self.0.write_hit(w, at, v).ok_or(Stop);
        }
        self.0.write(w, at, v).map_err(|stop| self.0.stack_fault(stop))
    }

    #[inline(always)]
    fn int(&mut self, w: Width, k: u64) -> u64 {
        w.mask(k)
    }
    #[inline(always)]
    fn add(&mut self, w: Width, a: u64, b: u64) -> u64 {
        w.mask(a.wrapping_add(b))
    }
    #[inline(always)]
    fn sub(&mut self, w: Width, a: u64, b: u64) -> u64 {
        w.mask(a.wrapping_sub(b))
    }
    #[inline(always)]
    fn and(&mut self, _: Width, a: u64, b: u64) -> u64 {
        a & b
    }
    #[inline(always)]
    fn or(&mut self, _: Width, a: u64, b: u64) -> u64 {
        a | b
    }
    #[inline(always)]
    fn xor(&mut self, _: Width, a: u64, b: u64) -> u64 {
        a ^ b
    }
    #[inline(always)]
    fn mul(&mut self, w: Width, a: u64, b: u64) -> u64 {
        w.mask(a.wrapping_mul(b))
    }
    #[inline(always)]
    fn umulh(&mut self, w: Width, a: u64, b: u64) -> u64 {
        w.mask((u128::from(a) * u128::from(b) >> w.bits()) as u64)
    }
    #[inline(always)]
    fn smulh(&mut self, w: Width, a: u64, b: u64) -> u64 {
        w.mask((i128::from(w.sext(a) as i64) * i128::from(w.sext(b) as i64) >> w.bits()) as u64)
    }
    #[inline(always)]
    fn udivrem(&mut self, w: Width, hi: u64, lo: u64, d: u64) -> Result<(u64, u64), Stop> {
        // hi >= d says both "zero" and "does not fit".
        if hi >= d {
            return Err(self.fail(Fault::new(vector::DE)));
        }
        Ok(if w.0 == 8 {
            let (n, d) = (u128::from(hi) << 64 | u128::from(lo), u128::from(d));
            if hi == 0 { (lo / d as u64, lo % d as u64) } else { ((n / d) as u64, (n % d) as u64) }
        } else {
            let n = hi << w.bits() | lo;
            (n / d, n % d)
        })
    }
    #[inline(always)]
    fn sdivrem(&mut self, w: Width, hi: u64, lo: u64, d: u64) -> Result<(u64, u64), Stop> {
        let d = i128::from(w.sext(d) as i64);
        let n = i128::from(w.sext(hi) as i64) << w.bits() | i128::from(lo);
        let q = n.checked_div(d).filter(|&q| i128::from(w.sext(q as u64) as i64) == q);
        match q {
            Some(q) => Ok((w.mask(q as u64), w.mask((n - q * d) as u64))),
            None => Err(self.fail(Fault::new(vector::DE))),
        }
    }
    #[inline(always)]
    fn shl(&mut self, w: Width, a: u64, n: u64) -> u64 {
        w.mask(a << (n & 63))
    }
    #[inline(always)]
    fn shr(&mut self, _: Width, a: u64, n: u64) -> u64 {
        a >> (n & 63)
    }
    #[inline(always)]
    fn sar(&mut self, w: Width, a: u64, n: u64) -> u64 {
        w.mask(((w.sext(a) as i64) >> (n & 63)) as u64)
    }
    #[inline(always)]
    fn rotl(&mut self, w: Width, a: u64, n: u64) -> u64 {
        match w.0 {
            1 => (a as u8).rotate_left(n as u32 & 7).into(),
            2 => (a as u16).rotate_left(n as u32 & 15).into(),
            4 => (a as u32).rotate_left(n as u32 & 31).into(),
            _ => a.rotate_left(n as u32 & 63),
        }
    }
    #[inline(always)]
    fn rem(&mut self, n: u64, m: u64) -> u64 {
        n % m
    }
    #[inline(always)]
    fn zext(&mut self, _: Width, _: Width, a: u64) -> u64 {
        a
    }
    #[inline(always)]
    fn sext(&mut self, from: Width, to: Width, a: u64) -> u64 {
        to.mask(from.sext(a))
    }
    #[inline(always)]
    fn trunc(&mut self, _: Width, to: Width, a: u64) -> u64 {
        to.mask(a)
    }
    #[inline(always)]
    fn bswap(&mut self, w: Width, a: u64) -> u64 {
        a.swap_bytes() >> (64 - w.bits())
    }
    #[inline(always)]
    fn lowest(&mut self, _: Width, a: u64) -> u64 {
        a.trailing_zeros().into()
    }
    #[inline(always)]
    fn highest(&mut self, _: Width, a: u64) -> u64 {
        (63 ^ a.leading_zeros() & 63).into()
    }

    #[inline(always)]
    fn popcount(&mut self, _: Width, a: u64) -> u64 {
        a.count_ones().into()
    }
    #[inline(always)]
    fn helper(&mut self, f: fn(u64, u64) -> u64, a: u64, b: u64) -> u64 {
        f(a, b)
    }

    #[inline(always)]
    fn eq(&mut self, _: Width, a: u64, b: u64) -> bool {
        a == b
    }
    #[inline(always)]
    fn ult(&mut self, _: Width, a: u64, b: u64) -> bool {
        a < b
    }
    #[inline(always)]
    fn sign(&mut self, w: Width, a: u64) -> bool {
        (w.sext(a) as i64) < 0
    }
    #[inline(always)]
    fn bit(&mut self, _: Width, a: u64, n: u64) -> bool {
        a >> (n & 63) & 1 != 0
    }
    #[inline(always)]
    fn truth(&mut self, k: bool) -> bool {
        k
    }
    #[inline(always)]
    fn not(&mut self, a: bool) -> bool {
        !a
    }
    #[inline(always)]
    fn xor_bit(&mut self, a: bool, b: bool) -> bool {
        a ^ b
    }
    #[inline(always)]
    fn or_bit(&mut self, a: bool, b: bool) -> bool {
        a | b
    }
    #[inline(always)]
    fn and_bit(&mut self, a: bool, b: bool) -> bool {
        a & b
    }
    #[inline(always)]
    fn select(&mut self, _: Width, c: bool, a: u64, b: u64) -> u64 {
        if c { a } else { b }
    }
    #[inline(always)]
    fn bit_value(&mut self, _: Width, c: bool) -> u64 {
        c.into()
    }

    #[inline(always)]
    fn set_flags(&mut self, w: Width, f: Arith<u64, bool>) {
        self.0.flags.set(w, f)
    }
    #[inline(always)]
    fn set_flags_if(&mut self, c: bool, w: Width, f: Arith<u64, bool>) {
        if c {
            self.0.flags.set(w, f)
        }
    }
    #[inline(always)]
    fn set_carry(&mut self, c: bool) {
        self.0.flags.set_cf(c)
    }
    #[inline(always)]
    fn set_carry_overflow_if(&mut self, c: bool, cf: bool, of: bool) {
        if c {
            let af = self.0.flags.af();
            self.0.flags.set_carries(cf, of, af)
        }
    }
    #[inline(always)]
    fn set_zero(&mut self, z: bool) {
        self.0.flags.set_zf(z)
    }
    #[inline(always)]
    fn carry(&mut self) -> bool {
        self.0.flags.cf()
    }
    #[inline(always)]
    fn overflow(&mut self) -> bool {
        self.0.flags.of()
    }
    #[inline(always)]
    fn zero(&mut self) -> bool {
        self.0.flags.z == 0
    }
    #[inline(always)]
    fn condition(&mut self, i: &Insn) -> bool {
        self.0.flags.condition(F::cc(i))
    }

    #[inline(always)]
    fn branch(&mut self, i: &Insn, c: bool) -> *const Insn {
        self.go(i, c)
    }
    #[inline(always)]
    fn jump(&mut self, i: &Insn) -> *const Insn {
        self.go(i, true)
    }
    #[inline(always)]
    fn check_target(&mut self, to: u64) -> Done {
        if (to as i64) << 16 >> 16 != to as i64 && !self.0.canonical(to) {
            return Err(self.fail(Fault::gp(0)));
        }
        Ok(())
    }
    #[inline(always)]
    fn jump_to(&mut self, i: &Insn, to: u64) -> *const Insn {
        // SAFETY: only semantics that end blocks call this.
        let l = unsafe { links(i) };
        if self.0.attention_ref().due(l.n) {
            return pause_at(&mut self.0, i, to);
        }
        through_cache(&mut self.0, to)
    }
    #[inline(always)]
    fn next_rip(&mut self, i: &Insn) -> u64 {
        self.0.page_relative(i.ip as i64 + i.len as i64)
    }
    #[inline(always)]
    fn plain(&mut self, i: &Insn, f: fn(&mut Cpu, &Insn) -> Done) -> Done {
        f(&mut self.0, i)
    }
    #[inline(always)]
    fn leave(&mut self, i: &Insn, f: fn(&mut Cpu, &Insn) -> Done) -> Result<*const Insn, Stop> {
        self.0.rip = self.next_rip(i);
        self.0.why = Why::Continue;
        f(&mut self.0, i)?;
        // SAFETY: only semantics that end blocks call this.
        let l = unsafe { links(i) };
        self.0.attention_ref().due(l.n);
        Ok(null())
    }

    #[inline(always)]
    fn xmm(&mut self, r: u8) -> Wide {
        wide::from_bits(self.0.xmm[(r & 31) as usize])
    }
    #[inline(always)]
    fn set_xmm(&mut self, r: u8, v: Wide) {
        self.0.xmm[(r & 31) as usize] = wide::bits(v)
    }
    #[inline(always)]
    fn mm(&mut self, r: u8) -> u64 {
        self.0.x87.regs[(r & 7) as usize].significand
    }
    #[inline(always)]
    fn set_mm(&mut self, r: u8, v: u64) {
        self.0.x87.regs[(r & 7) as usize] = crate::float::F80 { significand: v, sign_exponent: 0xffff };
    }
    #[inline(always)]
    fn source_x(&mut self, i: &Insn) -> Result<Wide, Stop> {
        match F::src(i) {
            Kind::Reg => Ok(self.xmm(i.src)),
            k => {
                let a = self.operand(k, Width(16), i, false)?;
                if i.has(attr::ALIGNED) && a & 15 != 0 {
                    return Err(self.fail(Fault::gp(0)));
                }
                if F::FAST {
                    return self.0.read_128_hit(a).ok_or(Stop);
                }
                self.0.read_128(a).map(wide::from_bits).map_err(|stop| self.0.operand_fault(i, stop))
            }
        }
    }
    #[inline(always)]
    fn source_lane(&mut self, w: Width, i: &Insn) -> Result<u64, Stop> {
        match F::src(i) {
            Kind::Reg => Ok(w.mask(wide::lane(self.xmm(i.src), 0))),
            k => self.read(k, w, i),
        }
    }
    #[inline(always)]
    fn source_mm(&mut self, i: &Insn) -> Result<u64, Stop> {
        match F::src(i) {
            Kind::Reg => Ok(self.mm(i.src)),
            k => self.read(k, Q, i),
        }
    }
    #[inline(always)]
    fn put_x(&mut self, i: &Insn, v: Wide) -> Done {
        match F::dst(i) {
            Kind::Reg => {
                self.set_xmm(i.dst, v);
                Ok(())
            }
            k => {
                let a = self.operand(k, Width(16), i, true)?;
                if i.has(attr::ALIGNED) && a & 15 != 0 {
                    return Err(self.fail(Fault::gp(0)));
                }
                if F::FAST {
                    return self.0.write_128_hit(a, v).ok_or(Stop);
                }
                self.0.write_128(a, wide::bits(v)).map_err(|stop| self.0.operand_fault(i, stop))
            }
        }
    }
    #[inline(always)]
    fn source_y(&mut self, i: &Insn) -> Result<[Wide; 2], Stop> {
        match F::src(i) {
            Kind::Reg => Ok([self.xmm(i.src), self.xmm(i.src | HIGH)]),
            k => {
                let a = self.operand(k, Width(32), i, false)?;
                if i.has(attr::ALIGNED) && a & 31 != 0 {
                    return Err(self.fail(Fault::gp(0)));
                }
                if F::FAST {
                    return self.0.read_256_hit(a).ok_or(Stop);
                }
                self.0.read_256(a).map_err(|stop| self.0.operand_fault(i, stop))
            }
        }
    }
    #[inline(always)]
    fn put_y(&mut self, i: &Insn, v: [Wide; 2]) -> Done {
        match F::dst(i) {
            Kind::Reg => {
                self.set_xmm(i.dst, v[0]);
                self.set_xmm(i.dst | HIGH, v[1]);
                Ok(())
            }
            k => {
                let a = self.operand(k, Width(32), i, true)?;
                if i.has(attr::ALIGNED) && a & 31 != 0 {
                    return Err(self.fail(Fault::gp(0)));
                }
                if F::FAST {
                    return self.0.write_256_hit(a, v).ok_or(Stop);
                }
                self.0.write_256(a, v).map_err(|stop| self.0.operand_fault(i, stop))
            }
        }
    }
    #[inline(always)]
    fn put_lane(&mut self, w: Width, i: &Insn, v: u64) -> Done {
        let a = self.operand(F::dst(i), w, i, true)?;
        self.store(w, i, a, v)
    }
    #[inline(always)]
    fn lane(&mut self, v: Wide, n: u8) -> u64 {
        wide::lane(v, n)
    }
    #[inline(always)]
    fn with_lane(&mut self, v: Wide, n: u8, x: u64) -> Wide {
        wide::with_lane(v, n, x)
    }
    #[inline(always)]
    fn lane_alone(&mut self, x: u64) -> Wide {
        wide::alone(x)
    }
    #[inline(always)]
    fn vec(&mut self, op: VecOp, a: Wide, b: Wide, imm: u8) -> Wide {
        let v = wide::eval(op, a, b, imm);
        if op == VecOp::PackUsWB && planted::is(Bug::PackSaturation) && wide::bits(a) as u16 == 0x8000 {
            return wide::from_bits(wide::bits(v) | 0xff);
        }
        v
    }
    #[inline(always)]
    fn vec_new(&mut self, op: VecOp, a: Wide, b: Wide, imm: u8) -> Result<Wide, Stop> {
        if F::FAST {
            return wide::at_once(op, a, b, imm).ok_or(Stop);
        }
        Ok(wide::eval(op, a, b, imm))
    }
    #[inline(always)]
    fn vec3(&mut self, op: TernaryOp, a: Wide, b: Wide, c: Wide, imm: u8) -> Wide {
        wide::eval3(op, a, b, c, imm)
    }
    #[inline(always)]
    fn vec3_new(&mut self, op: TernaryOp, a: Wide, b: Wide, c: Wide, imm: u8) -> Result<Wide, Stop> {
        if F::FAST {
            return wide::at_once3(op, a, b, c, imm).ok_or(Stop);
        }
        Ok(self.vec3(op, a, b, c, imm))
    }
    #[inline(always)]
    fn float(&mut self, op: FloatOp, lanes: Lanes, a: Wide, b: Wide, imm: u8) -> Result<Wide, Stop> {
        if F::FAST {
            return op.by_host(lanes, a, b, &mut self.0.mxcsr).ok_or(Stop);
        }
        self.0.sse_float(op, lanes, wide::bits(a), wide::bits(b), imm).map(wide::from_bits)
    }
    #[inline(always)]
    fn float_y(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: [Wide; 2],
        b: [Wide; 2],
        imm: u8,
    ) -> Result<[Wide; 2], Stop> {
        let r = self.0.avx_float(op, lanes, a.map(wide::bits), b.map(wide::bits), imm)?;
        Ok(r.map(wide::from_bits))
    }
    #[inline(always)]
    fn fused(
        &mut self,
        form: Fused,
        lanes: Lanes,
        x: &[Wide],
        y: &[Wide],
        z: &[Wide],
    ) -> Result<[Wide; 2], Stop> {
        let bits = |v: &[Wide]| [0, 1].map(|k: usize| wide::bits(v[k.min(v.len() - 1)]));
        let r = self.0.avx_fused(form, lanes, x.len(), bits(x), bits(y), bits(z))?;
        Ok(r.map(wide::from_bits))
    }
}
