//! Loads and stores with conversion: FLD and FST of single and double precision, FILD, FIST, FISTTP. FLD and FSTP of
//! 80 bits convert nothing.

use super::super::convert::{ToInteger, narrow, to_integer};
use super::super::env::{DE, Env, IE};
use super::super::format::{Class, F32, F64, Unpacked, unpack};
use super::F80;

/// FLD m32fp.
pub fn load_f32(bits: u32, env: &mut Env) -> F80 {
    load(&unpack::<F32>(bits), env)
}

/// FLD m64fp.
pub fn load_f64(bits: u64, env: &mut Env) -> F80 {
    load(&unpack::<F64>(bits), env)
}

fn load(value: &Unpacked, env: &mut Env) -> F80 {
    env.set_rounded_up(false);
    if value.is_denormal() {
        env.raise(DE);
    }
    match value.class {
        Class::Zero => F80::zero(value.sign),
        Class::Normal | Class::Denormal => F80::assemble(value.sign, value.exponent, value.significand),
        Class::Infinity => F80::infinity(value.sign),
        Class::QuietNan => F80::quiet_nan(value),
        Class::SignallingNan | Class::Unsupported => {
            env.raise(IE);
            F80::quiet_nan(value)
        }
    }
}

/// FILD.
pub fn from_i64(value: i64) -> F80 {
    let value = Unpacked::from_i64(value);
    if value.is_zero() { F80::ZERO } else { F80::assemble(value.sign, value.exponent, value.significand) }
}

/// FST m32fp, FSTP m32fp.
pub fn to_f32(value: F80, env: &mut Env) -> u32 {
    store(value, env, narrow::<F32>)
}

/// FST m64fp, FSTP m64fp.
pub fn to_f64(value: F80, env: &mut Env) -> u64 {
    store(value, env, narrow::<F64>)
}

fn store<T>(value: F80, env: &mut Env, narrow: impl Fn(&Unpacked, &mut Env) -> T) -> T {
    env.set_rounded_up(false);
    let stored = narrow(&value.unpack(), env);
    env.drop_inexact_of_stopped_store();
    stored
}

/// FIST m16int, FISTP m16int, FISTTP m16int: 0x8000 when invalid.
pub fn to_i16(value: F80, how: ToInteger, env: &mut Env) -> i16 {
    store_integer(value, how, 15, env).unwrap_or(i64::from(i16::MIN)) as i16
}

/// FIST m32int, FISTP m32int, FISTTP m32int: 0x8000_0000 when invalid.
pub fn to_i32(value: F80, how: ToInteger, env: &mut Env) -> i32 {
    store_integer(value, how, 31, env).unwrap_or(i64::from(i32::MIN)) as i32
}

/// FISTP m64int, FISTTP m64int: 0x8000_0000_0000_0000 when invalid.
pub fn to_i64(value: F80, how: ToInteger, env: &mut Env) -> i64 {
    store_integer(value, how, 63, env).unwrap_or(i64::MIN)
}

fn store_integer(value: F80, how: ToInteger, bits: u32, env: &mut Env) -> Option<i64> {
    env.set_rounded_up(false);
    to_integer(&value.unpack(), how.rounding(env), bits, env)
}
