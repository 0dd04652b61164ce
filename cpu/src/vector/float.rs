//! Floating-point operations under MXCSR.

use super::{
    fused::Fused,
    lanes::{dwords, from_dwords, from_qwords, qwords},
    wide::{self, Wide},
};
use crate::{
    fault::{Fault, Stop, vector},
    float::{
        Env, F32, F64, HostFormat, Invalid, Relation, ToInteger, add, add_by_host, compare, compare_by_host,
        compare_predicate, div, div_by_host, f16_to_f32, f32_to_f16, f32_to_f64, f32_to_f64_by_host,
        f64_to_f32, f64_to_f32_by_host, from_i64, i32_to_f64, max, min, mul, mul_by_host, round, sqrt,
        sqrt_by_host, sub, sub_by_host, to_i32, to_i64, truncate_by_host,
    },
    state::{Cpu, cr4},
};
use std::array::from_fn;

/// An enumeration, and its members by number.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $member:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum $name { $($(#[$inner])* $member,)* }

        impl $name {
            const MEMBERS: &[$name] = &[$($name::$member,)*];

            /// The inverse of `as u8`.
            pub(crate) fn from_number(n: u8) -> $name {
                $name::MEMBERS[usize::from(n).min($name::MEMBERS.len() - 1)]
            }
        }
    };
}

numbered! {
    /// Which lanes a floating-point operation works on; the others come from the first operand.
    Lanes {
        /// The low f32.
        Ss,
        /// The low f64.
        Sd,
        /// Four f32.
        Ps,
        /// Two f64.
        Pd,
    }
}

numbered! {
    /// Floating-point operations. Those with one operand take the second.
    FloatOp {
        Add,
        Sub,
        Mul,
        Div,
        Min,
        Max,
        Sqrt,
        /// All ones where predicate `imm` holds, one of AVX's 32.
        Cmp,
        /// COMISS, COMISD of the low lanes: 4 unordered, 2 equal, 1 less, 0 greater.
        Comi,
        /// UCOMISS, UCOMISD.
        Ucomi,
        /// From signed 32-bit lanes, counted from the lowest.
        FromD,
        /// From a signed 64-bit integer, to the low lane.
        FromQ,
        /// To signed 32-bit lanes; zeros above them. `Lanes` says of what.
        ToD,
        /// The same, toward zero.
        ToDTruncated,
        /// The low lane to a signed 64-bit integer.
        ToQ,
        ToQTruncated,
        /// f32 to f64: `Ss` keeps the first operand's high half, `Ps` makes two.
        Widen,
        /// f64 to f32: `Sd` keeps the rest of the first operand, `Pd` makes two and zeros above.
        Narrow,
        /// Four f16 to f32.
        WidenHalf,
        /// Four f32 to f16, rounded as `imm` says, and zeros above.
        NarrowHalf,
        /// Differences in even lanes, sums in odd ones.
        AddSub,
        /// Sums of two lanes side by side, of the first operand and then of the second.
        HAdd,
        /// The lower lane less the higher.
        HSub,
        /// DPPS, DPPD: the sum of the products that bits 7:4 of `imm` choose, in the lanes that bits 3:0 choose.
        Dot,
        /// ROUNDPS and its relatives: to an integer as `imm` says.
        Round,
    }
}

/// The low 32 bits replaced.
#[inline(always)]
fn low_d(a: u128, v: u32) -> u128 {
    a & !0xffff_ffff | u128::from(v)
}
/// The low 64 bits replaced.
#[inline(always)]
fn low_q(a: u128, v: u64) -> u128 {
    a & !u128::from(u64::MAX) | u128::from(v)
}

/// A function of two elements and the environment on the lanes asked for.
macro_rules! on_lanes {
    ($lanes:ident, $a:ident, $b:ident, |$format:ident, $x:ident, $y:ident| $result:expr) => {
        match $lanes {
            Lanes::Ss => {
                type $format = F32;
                let ($x, $y) = ($a as u32, $b as u32);
                low_d($a, $result)
            }
            Lanes::Sd => {
                type $format = F64;
                let ($x, $y) = ($a as u64, $b as u64);
                low_q($a, $result)
            }
            Lanes::Ps => {
                type $format = F32;
                let (a, b) = (dwords($a), dwords($b));
                from_dwords([0, 1, 2, 3].map(|k: usize| {
                    let ($x, $y) = (a[k], b[k]);
                    $result
                }))
            }
            Lanes::Pd => {
                type $format = F64;
                let (a, b) = (qwords($a), qwords($b));
                from_qwords([0, 1].map(|k: usize| {
                    let ($x, $y) = (a[k], b[k]);
                    $result
                }))
            }
        }
    };
}

/// All ones or all zeros in an element.
trait Truth {
    fn of(truth: bool) -> Self;
}
impl Truth for u32 {
    #[inline(always)]
    fn of(truth: bool) -> u32 {
        if truth { u32::MAX } else { 0 }
    }
}
impl Truth for u64 {
    #[inline(always)]
    fn of(truth: bool) -> u64 {
        if truth { u64::MAX } else { 0 }
    }
}

#[inline(always)]
fn relation(lanes: Lanes, a: u128, b: u128, invalid: Invalid, env: &mut Env) -> u128 {
    let relation = match lanes {
        Lanes::Ss | Lanes::Ps => compare::<F32>(a as u32, b as u32, invalid, env),
        Lanes::Sd | Lanes::Pd => compare::<F64>(a as u64, b as u64, invalid, env),
    };
    number(relation).into()
}

/// A relation as semantics see it.
#[inline(always)]
fn number(relation: Relation) -> u64 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => 1,
        Relation::Equal => 2,
        Relation::Unordered => 4,
    }
}

#[inline(always)]
fn from_integers(lanes: Lanes, a: u128, b: u128, env: &mut Env) -> u128 {
    let ints = dwords(b).map(|v| v as i32);
    match lanes {
        Lanes::Ss => low_d(a, from_i64::<F32>(ints[0].into(), env)),
        Lanes::Sd => low_q(a, i32_to_f64(ints[0])),
        Lanes::Ps => from_dwords(ints.map(|v| from_i64::<F32>(v.into(), env))),
        Lanes::Pd => from_qwords([i32_to_f64(ints[0]), i32_to_f64(ints[1])]),
    }
}

#[inline(always)]
fn to_integers(lanes: Lanes, b: u128, how: ToInteger, env: &mut Env) -> u128 {
    match lanes {
        Lanes::Ss => u128::from(to_i32::<F32>(b as u32, how, env) as u32),
        Lanes::Sd => u128::from(to_i32::<F64>(b as u64, how, env) as u32),
        Lanes::Ps => from_dwords(dwords(b).map(|v| to_i32::<F32>(v, how, env) as u32)),
        Lanes::Pd => {
            let [low, high] = qwords(b).map(|v| to_i32::<F64>(v, how, env) as u32);
            from_dwords([low, high, 0, 0])
        }
    }
}

#[inline(always)]
fn to_integer(lanes: Lanes, b: u128, how: ToInteger, env: &mut Env) -> u128 {
    let v = match lanes {
        Lanes::Ss | Lanes::Ps => to_i64::<F32>(b as u32, how, env),
        Lanes::Sd | Lanes::Pd => to_i64::<F64>(b as u64, how, env),
    };
    u128::from(v as u64)
}

impl FloatOp {
    /// The operation on values.
    #[inline(always)]
    pub(crate) fn eval(self, lanes: Lanes, a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
        match self {
            FloatOp::Add => on_lanes!(lanes, a, b, |F, x, y| add::<F>(x, y, env)),
            FloatOp::Sub => on_lanes!(lanes, a, b, |F, x, y| sub::<F>(x, y, env)),
            FloatOp::Mul => on_lanes!(lanes, a, b, |F, x, y| mul::<F>(x, y, env)),
            FloatOp::Div => on_lanes!(lanes, a, b, |F, x, y| div::<F>(x, y, env)),
            FloatOp::Min => on_lanes!(lanes, a, b, |F, x, y| min::<F>(x, y, env)),
            FloatOp::Max => on_lanes!(lanes, a, b, |F, x, y| max::<F>(x, y, env)),
            FloatOp::Sqrt => on_lanes!(lanes, a, b, |F, _x, y| sqrt::<F>(y, env)),
            FloatOp::Cmp => {
                on_lanes!(lanes, a, b, |F, x, y| Truth::of(compare_predicate::<F>(x, y, imm & 31, env)))
            }
            FloatOp::Comi => relation(lanes, a, b, Invalid::AnyNan, env),
            FloatOp::Ucomi => relation(lanes, a, b, Invalid::SignallingNan, env),
            FloatOp::FromD => from_integers(lanes, a, b, env),
            FloatOp::FromQ => match lanes {
                Lanes::Ss | Lanes::Ps => low_d(a, from_i64::<F32>(b as i64, env)),
                Lanes::Sd | Lanes::Pd => low_q(a, from_i64::<F64>(b as i64, env)),
            },
            FloatOp::ToD => to_integers(lanes, b, ToInteger::Round, env),
            FloatOp::ToDTruncated => to_integers(lanes, b, ToInteger::Truncate, env),
            FloatOp::ToQ => to_integer(lanes, b, ToInteger::Round, env),
            FloatOp::ToQTruncated => to_integer(lanes, b, ToInteger::Truncate, env),
            FloatOp::Widen => match lanes {
                Lanes::Ss | Lanes::Sd => low_q(a, f32_to_f64(b as u32, env)),
                Lanes::Ps | Lanes::Pd => {
                    from_qwords([f32_to_f64(b as u32, env), f32_to_f64((b >> 32) as u32, env)])
                }
            },
            FloatOp::WidenHalf => {
                from_dwords([0, 1, 2, 3].map(|k: usize| f16_to_f32((b >> (16 * k)) as u16, env)))
            }
            FloatOp::NarrowHalf => {
                let halves = dwords(b).map(|v| f32_to_f16(v, imm, env));
                (0..4).fold(0, |all, k: usize| all | u128::from(halves[k]) << (16 * k))
            }
            FloatOp::Narrow => match lanes {
                Lanes::Ss | Lanes::Sd => low_d(a, f64_to_f32(b as u64, env)),
                Lanes::Ps | Lanes::Pd => {
                    let [low, high] = qwords(b).map(|v| f64_to_f32(v, env));
                    from_dwords([low, high, 0, 0])
                }
            },
            FloatOp::AddSub => match lanes {
                Lanes::Ss | Lanes::Ps => from_dwords(add_and_subtract::<F32, 4>(dwords(a), dwords(b), env)),
                Lanes::Sd | Lanes::Pd => from_qwords(add_and_subtract::<F64, 2>(qwords(a), qwords(b), env)),
            },
            FloatOp::HAdd => side_by_side(lanes, a, b, add::<F32>, add::<F64>, env),
            FloatOp::HSub => side_by_side(lanes, a, b, sub::<F32>, sub::<F64>, env),
            FloatOp::Dot => match lanes {
                Lanes::Ss | Lanes::Ps => from_dwords(dot::<F32, 4, 1>([dwords(a)], [dwords(b)], imm, env)[0]),
                Lanes::Sd | Lanes::Pd => from_qwords(dot::<F64, 2, 1>([qwords(a)], [qwords(b)], imm, env)[0]),
            },
            FloatOp::Round => on_lanes!(lanes, a, b, |F, _x, y| round::<F>(y, imm, env)),
        }
    }
}

fn add_and_subtract<F: HostFormat, const N: usize>(
    a: [F::Bits; N],
    b: [F::Bits; N],
    env: &mut Env,
) -> [F::Bits; N] {
    from_fn(|k| if k & 1 == 0 { sub::<F>(a[k], b[k], env) } else { add::<F>(a[k], b[k], env) })
}

/// f on the pairs of lanes of a, then of b.
fn side_by_side(
    lanes: Lanes,
    a: u128,
    b: u128,
    single: fn(u32, u32, &mut Env) -> u32,
    double: fn(u64, u64, &mut Env) -> u64,
    env: &mut Env,
) -> u128 {
    match lanes {
        Lanes::Ss | Lanes::Ps => {
            let (a, b) = (dwords(a), dwords(b));
            from_dwords(
                [[a[0], a[1]], [a[2], a[3]], [b[0], b[1]], [b[2], b[3]]].map(|[x, y]| single(x, y, env)),
            )
        }
        Lanes::Sd | Lanes::Pd => from_qwords([qwords(a), qwords(b)].map(|[x, y]| double(x, y, env))),
    }
}

/// Products, sums of two of them, the sum of those, in one half or in both side by side. Each step is as an instruction of its
/// own: an unmasked exception ends all after the step that raised it, and the flags of the steps before stay.
fn dot<F: HostFormat, const N: usize, const H: usize>(
    a: [[F::Bits; N]; H],
    b: [[F::Bits; N]; H],
    imm: u8,
    env: &mut Env,
) -> [[F::Bits; N]; H] {
    let zero = F::from_u64(0);
    let mut terms: [[F::Bits; N]; H] = from_fn(|h| {
        from_fn(|k| if imm >> (4 + k) & 1 != 0 { mul::<F>(a[h][k], b[h][k], env) } else { zero })
    });
    let mut count = N;
    while count > 1 && env.unmasked() == 0 {
        count /= 2;
        *env = Env::sse(env.mxcsr());
        for half in &mut terms {
            for k in 0..count {
                half[k] = add::<F>(half[2 * k], half[2 * k + 1], env);
            }
        }
    }
    terms.map(|half| from_fn(|k| if imm >> k & 1 != 0 { half[0] } else { zero }))
}

/// A function of two elements on each lane, for [`FloatOp::by_host`].
macro_rules! by_lanes {
    ($lanes:ident, $a:ident, $b:ident, |$format:ident, $x:ident, $y:ident| $result:expr) => {
        match $lanes {
            Lanes::Ss => {
                type $format = F32;
                let (low, $y) = (wide::lane($a, 0), wide::lane($b, 0) as u32);
                let $x = low as u32;
                wide::with_lane($a, 0, low & !0xffff_ffff | u64::from($result))
            }
            Lanes::Sd => {
                type $format = F64;
                let ($x, $y) = (wide::lane($a, 0), wide::lane($b, 0));
                wide::with_lane($a, 0, $result)
            }
            Lanes::Ps => {
                type $format = F32;
                let mut halves = [0; 2];
                for (n, half) in halves.iter_mut().enumerate() {
                    let (a, b) = (wide::lane($a, n as u8), wide::lane($b, n as u8));
                    let ($x, $y) = (a as u32, b as u32);
                    let low: u32 = $result;
                    let ($x, $y) = ((a >> 32) as u32, (b >> 32) as u32);
                    let high: u32 = $result;
                    *half = u64::from(low) | u64::from(high) << 32;
                }
                wide::with_lane(wide::alone(halves[0]), 1, halves[1])
            }
            Lanes::Pd => {
                type $format = F64;
                let ($x, $y) = (wide::lane($a, 0), wide::lane($b, 0));
                let low: u64 = $result;
                let ($x, $y) = (wide::lane($a, 1), wide::lane($b, 1));
                let high: u64 = $result;
                wide::with_lane(wide::alone(low), 1, high)
            }
        }
    };
}

impl FloatOp {
    /// The operation where the host's own arithmetic is certain to be right and nothing needs more than a
    /// few instructions; else None, and nothing has changed.
    #[inline(always)]
    pub(crate) fn by_host(self, lanes: Lanes, a: Wide, b: Wide, mxcsr: &mut u32) -> Option<Wide> {
        let mut env = Env::sse(*mxcsr);
        let env_ref = &mut env;
        let r = match self {
            FloatOp::Add => by_lanes!(lanes, a, b, |F, x, y| add_by_host::<F>(x, y, env_ref)?),
            FloatOp::Sub => by_lanes!(lanes, a, b, |F, x, y| sub_by_host::<F>(x, y, env_ref)?),
            FloatOp::Mul => by_lanes!(lanes, a, b, |F, x, y| mul_by_host::<F>(x, y, env_ref)?),
            FloatOp::Div => by_lanes!(lanes, a, b, |F, x, y| div_by_host::<F>(x, y, env_ref)?),
            FloatOp::Sqrt => by_lanes!(lanes, a, b, |F, _x, y| sqrt_by_host::<F>(y, env_ref)?),
            FloatOp::Min => by_lanes!(lanes, a, b, |F, x, y| {
                if compare_by_host::<F>(x, y)? == Relation::Less { x } else { y }
            }),
            FloatOp::Max => by_lanes!(lanes, a, b, |F, x, y| {
                if compare_by_host::<F>(x, y)? == Relation::Greater { x } else { y }
            }),
            FloatOp::Comi | FloatOp::Ucomi => {
                let (x, y) = (wide::lane(a, 0), wide::lane(b, 0));
                let relation = match lanes {
                    Lanes::Ss | Lanes::Ps => compare_by_host::<F32>(x as u32, y as u32)?,
                    Lanes::Sd | Lanes::Pd => compare_by_host::<F64>(x, y)?,
                };
                wide::alone(number(relation))
            }
            FloatOp::FromD | FloatOp::FromQ => {
                let v = wide::lane(b, 0);
                let v = if self == FloatOp::FromD { i64::from(v as i32) } else { v as i64 };
                // What fits the significand is exact.
                match lanes {
                    Lanes::Sd if v.unsigned_abs() >> 53 == 0 => wide::with_lane(a, 0, (v as f64).to_bits()),
                    Lanes::Ss if v.unsigned_abs() >> 24 == 0 => {
                        let low = wide::lane(a, 0) & !0xffff_ffff | u64::from((v as f32).to_bits());
                        wide::with_lane(a, 0, low)
                    }
                    _ => return None,
                }
            }
            FloatOp::ToDTruncated | FloatOp::ToQTruncated => {
                let x = wide::lane(b, 0);
                let x = match lanes {
                    Lanes::Ss => f64::from_bits(f32_to_f64_by_host(x as u32)?),
                    Lanes::Sd => f64::from_bits(x),
                    Lanes::Ps | Lanes::Pd => return None,
                };
                let v = truncate_by_host(x, env_ref)?;
                if self == FloatOp::ToQTruncated {
                    wide::alone(v as u64)
                } else {
                    wide::alone(i32::try_from(v).ok()? as u32 as u64)
                }
            }
            FloatOp::Widen if lanes == Lanes::Ss => {
                wide::with_lane(a, 0, f32_to_f64_by_host(wide::lane(b, 0) as u32)?)
            }
            FloatOp::Narrow if lanes == Lanes::Sd => {
                let v = f64_to_f32_by_host(wide::lane(b, 0), env_ref)?;
                wide::with_lane(a, 0, wide::lane(a, 0) & !0xffff_ffff | u64::from(v))
            }
            _ => return None,
        };
        *mxcsr = env.mxcsr();
        Some(r)
    }
}

impl Cpu {
    /// Runs a floating-point operation under MXCSR; #XM, and nothing written but the flags, where an unmasked exception
    /// arises.
    #[inline(always)]
    pub(crate) fn sse_float(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: u128,
        b: u128,
        imm: u8,
    ) -> Result<u128, Stop> {
        let mut env = Env::sse(self.mxcsr);
        let r = op.eval(lanes, a, b, imm, &mut env);
        self.commit(env)?;
        Ok(r)
    }

    /// The same on both halves of YMM registers, in one environment.
    #[inline(never)]
    pub(crate) fn avx_float(
        &mut self,
        op: FloatOp,
        lanes: Lanes,
        a: [u128; 2],
        b: [u128; 2],
        imm: u8,
    ) -> Result<[u128; 2], Stop> {
        let mut env = Env::sse(self.mxcsr);
        let r = match op {
            FloatOp::Dot => dot::<F32, 4, 2>(a.map(dwords), b.map(dwords), imm, &mut env).map(from_dwords),
            op => [0, 1].map(|k: usize| op.eval(lanes, a[k], b[k], imm, &mut env)),
        };
        self.commit(env)?;
        Ok(r)
    }

    /// x * y + z on as many halves as asked for.
    #[inline(never)]
    pub(crate) fn avx_fused(
        &mut self,
        form: Fused,
        lanes: Lanes,
        halves: usize,
        x: [u128; 2],
        y: [u128; 2],
        z: [u128; 2],
    ) -> Result<[u128; 2], Stop> {
        let mut env = Env::sse(self.mxcsr);
        let mut r = [0; 2];
        for k in 0..halves.min(2) {
            r[k] = form.eval(lanes, [x[k], y[k], z[k]], &mut env);
        }
        self.commit(env)?;
        Ok(r)
    }

    /// Takes over the flags; #XM if one is unmasked.
    fn commit(&mut self, env: Env) -> Result<(), Stop> {
        self.mxcsr = env.mxcsr();
        if env.unmasked() != 0 {
            return Err(self.numeric_exception());
        }
        Ok(())
    }

    /// #XM, or #UD where the system does not expect it.
    #[cold]
    #[inline(never)]
    fn numeric_exception(&mut self) -> Stop {
        let expected = self.cr4 & cr4::OSXMMEXCPT != 0;
        self.raise(if expected { Fault::new(vector::XM) } else { Fault::UD })
    }
}
