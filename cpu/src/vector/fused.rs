//! Fused multiply-add: SDM 1 "Fused-Multiply-ADD (FMA) Numeric Behavior".

use super::{
    float::Lanes,
    lanes::{dwords, from_dwords, from_qwords, qwords},
};
use crate::{
    float::{Env, F32, F64, add, fma, mul},
    planted::{self, Bug},
};

/// What is added to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fused {
    /// -(x * y).
    pub(crate) negate_product: bool,
    /// -z, in the even lanes.
    pub(crate) negate_even: bool,
    /// -z, in the odd lanes.
    pub(crate) negate_odd: bool,
}

impl Fused {
    /// In the low bits of a number.
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.negate_product) | u8::from(self.negate_even) << 1 | u8::from(self.negate_odd) << 2
    }
    /// The inverse.
    pub(crate) fn from_bits(bits: u8) -> Fused {
        Fused { negate_product: bits & 1 != 0, negate_even: bits & 2 != 0, negate_odd: bits & 4 != 0 }
    }

    /// x * y + z of 128 bits; lanes that take no part are z's.
    pub(crate) fn eval(self, lanes: Lanes, [x, y, z]: [u128; 3], env: &mut Env) -> u128 {
        let negate = |k: usize| if k & 1 == 0 { self.negate_even } else { self.negate_odd };
        let single = |k: usize, env: &mut Env| {
            let [x, y, z] = [x, y, z].map(|v| dwords(v)[k]);
            fma::<F32>(x, y, z, self.negate_product, negate(k), env)
        };
        let double = |k: usize, env: &mut Env| {
            let [x, y, z] = [x, y, z].map(|v| qwords(v)[k]);
            if planted::is(Bug::FmaRounding) && !self.negate_product && !negate(k) {
                return add::<F64>(mul::<F64>(x, y, env), z, env);
            }
            fma::<F64>(x, y, z, self.negate_product, negate(k), env)
        };
        match lanes {
            Lanes::Ss => z & !u128::from(u32::MAX) | u128::from(single(0, env)),
            Lanes::Sd => z & !u128::from(u64::MAX) | u128::from(double(0, env)),
            Lanes::Ps => from_dwords([0, 1, 2, 3].map(|k| single(k, env))),
            Lanes::Pd => from_qwords([0, 1].map(|k| double(k, env))),
        }
    }
}
