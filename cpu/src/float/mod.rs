//! Exact software floating point: what x86 silicon gives, bit for bit, on any host.
//!
//! Every operation is written once over [`Unpacked`] operands with 128-bit intermediate results, and shared by SSE
//! ([`F32`], [`F64`]) and x87 ([`F80`]). SSE operations serve the common case (round to nearest, normal operands and
//! result, PE masked) with the host's own arithmetic, checked so that no visible bit differs.
//!
//! An operation reads its rounding and masks from an [`Env`] and raises its exceptions there; the instruction that
//! calls it decides from [`Env::unmasked`] whether it faults and whether the destination is written.

mod addsub;
mod compare;
mod convert;
mod div;
mod env;
mod format;
mod mul;
mod nan;
mod round;
mod sqrt;
pub mod x87;

pub use addsub::{add, sub};
pub use compare::{Invalid, Relation, compare, compare_predicate, max, min};
pub use convert::{
    ToInteger, f16_to_f32, f32_to_f16, f32_to_f64, f64_to_f32, from_i64, i32_to_f64, round, to_i32, to_i64,
};
pub use div::div;
pub use env::{DE, Env, IE, OE, PE, PRE_COMPUTATION, Rounding, UE, ZE};
pub use format::{Class, F16, F32, F64, Format, HostFormat, Unpacked, unpack};
pub use mul::{fma, mul};
pub use sqrt::sqrt;
pub use x87::F80;

pub(crate) use addsub::{add_by_host, sub_by_host};
pub(crate) use compare::compare_by_host;
pub(crate) use convert::{f32_to_f64_by_host, f64_to_f32_by_host, truncate_by_host};
pub(crate) use div::div_by_host;
pub(crate) use mul::mul_by_host;
pub(crate) use sqrt::sqrt_by_host;
