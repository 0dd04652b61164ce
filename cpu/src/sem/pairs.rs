//! Instructions that often stand next to each other, two in one handler: half the jumps that the host has to predict, which
//! is what large code waits for.
//!
//! A pair's handler stands in its first instruction and runs both; the second keeps the handler that it would have alone,
//! for the case that the first needs its general form. So nothing else knows of pairs.

use super::{Op, ids};
use crate::{
    insn::{Insn, Kind, Step, attr},
    interp::{At, Cc, Form, Straight, pair, pair_ending},
};

/// An instruction in one of its specialised forms.
trait Hot {
    type Semantics: Straight;
    type Form: Form;
}

/// The members: name, semantics, width, kinds of both operands.
macro_rules! members {
    (
        any { $($name:ident: $op:ident $w:literal $dst:ident $src:ident;)* }
        before_jcc { $($test:ident: $top:ident $tw:literal $tdst:ident $tsrc:ident;)* }
    ) => {
        $(
            struct $name;
            impl Hot for $name {
                type Semantics = ids::$op;
                type Form = At<$w, { Kind::$dst as u8 }, { Kind::$src as u8 }>;
            }
        )*
        $(
            struct $test;
            impl Hot for $test {
                type Semantics = ids::$top;
                type Form = At<$tw, { Kind::$tdst as u8 }, { Kind::$tsrc as u8 }>;
            }
        )*

        /// Places in [`PAIRS`].
        enum Any { $($name),* }
        /// Places in [`WITH_JCC`].
        enum BeforeJcc { $($test),* }

        const ANY: usize = [$(Any::$name),*].len();
        const BEFORE_JCC: usize = [$(BeforeJcc::$test),*].len();

        fn any(i: &Insn) -> Option<usize> {
            match (Op::from_number(i.op), i.w.0, i.dst_kind(), i.src_kind()) {
                $((Op::$op, $w, Kind::$dst, Kind::$src) => Some(Any::$name as usize),)*
                _ => None,
            }
        }
        fn before_jcc(i: &Insn) -> Option<usize> {
            match (Op::from_number(i.op), i.w.0, i.dst_kind(), i.src_kind()) {
                $((Op::$top, $tw, Kind::$tdst, Kind::$tsrc) => Some(BeforeJcc::$test as usize),)*
                _ => None,
            }
        }

        /// All that may follow `A`.
        const fn after<A: Hot>() -> [Step; ANY] {
            [$(pair::<A::Semantics, A::Form, <$name as Hot>::Semantics, <$name as Hot>::Form>),*]
        }

        static PAIRS: [[Step; ANY]; ANY] = [$(after::<$name>()),*];
        static WITH_JCC: [[Step; 16]; BEFORE_JCC] = [$(conditions::<$test>()),*];
    };
}

/// A Jcc after `A`, by condition.
const fn conditions<A: Hot>() -> [Step; 16] {
    macro_rules! each {
        ($($c:literal)*) => { [$(pair_ending::<A::Semantics, A::Form, ids::Jcc, Cc<$c>>),*] };
    }
    each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

// What the boots of Debian's kernels and their user space run most.
members! {
    any {
        Mov8RR: Mov 8 Reg Reg;
        Mov8RM: Mov 8 Reg Mem;
        Mov8MR: Mov 8 Mem Reg;
        Mov4RR: Mov 4 Reg Reg;
        Mov4RM: Mov 4 Reg Mem;
        Mov4MR: Mov 4 Mem Reg;
        Mov4RI: Mov 4 Reg Imm;
        Add8RR: Add 8 Reg Reg;
        Add8RM: Add 8 Reg Mem;
        Add8RI: Add 8 Reg Imm;
        Add4RR: Add 4 Reg Reg;
        Add4RI: Add 4 Reg Imm;
        Sub8RR: Sub 8 Reg Reg;
        Sub8RM: Sub 8 Reg Mem;
        Lea8RM: Lea 8 Reg Mem;
        Shr8RI: Shr 8 Reg Imm;
        Shl8RI: Shl 8 Reg Imm;
        Shl4RI: Shl 4 Reg Imm;
        Xor4RR: Xor 4 Reg Reg;
        And4RI: And 4 Reg Imm;
        MovzxB4RR: MovzxB 4 Reg Reg;
        MovzxB4RM: MovzxB 4 Reg Mem;
        Movsxd8RR: Movsxd 8 Reg Reg;
        Imul8RR: Imul 8 Reg Reg;
        Push8R: Push 8 Reg Reg;
        Pop8R: Pop 8 Reg Reg;
    }
    before_jcc {
        Cmp8RR: Cmp 8 Reg Reg;
        Cmp8RI: Cmp 8 Reg Imm;
        Cmp8RM: Cmp 8 Reg Mem;
        Cmp8MR: Cmp 8 Mem Reg;
        Cmp4RR: Cmp 4 Reg Reg;
        Cmp4RI: Cmp 4 Reg Imm;
        Cmp4RM: Cmp 4 Reg Mem;
        Cmp1RI: Cmp 1 Reg Imm;
        Cmp1MI: Cmp 1 Mem Imm;
        Test8RR: Test 8 Reg Reg;
        Test4RR: Test 4 Reg Reg;
        Test1RR: Test 1 Reg Reg;
        Test1RI: Test 1 Reg Imm;
        Test1MI: Test 1 Mem Imm;
        Dec8R: Dec 8 Reg Reg;
        Counted4RI: Add 4 Reg Imm;
        Counted8RI: Sub 8 Reg Imm;
    }
}

/// The handler for `first` and what follows it, where they have one.
fn of(first: &Insn, second: &Insn) -> Option<Step> {
    let plain = |i: &Insn| !i.has(attr::LOCK | attr::IMM64 | attr::RIP);
    if !plain(first) || !plain(second) {
        return None;
    }
    if Op::from_number(second.op) == Op::Jcc {
        return Some(WITH_JCC[before_jcc(first)?][usize::from(second.cc & 15)]);
    }
    Some(PAIRS[any(first)?][any(second)?])
}

/// Puts pairs into a block so that it takes the fewest jumps from its start to its end.
pub(crate) fn fuse(insns: &[Insn]) {
    // Jumps from the instruction at hand to the end, and from the one behind it.
    let (mut from_next, mut from_second) = (1, 0);
    for (k, first) in insns.iter().enumerate().rev() {
        let mut jumps = from_next + 1;
        if let Some(second) = insns.get(k + 1)
            && let Some(step) = of(first, second)
            && from_second <= from_next
        {
            first.step.set(step);
            jumps = from_second + 1;
        }
        (from_next, from_second) = (jumps, from_next);
    }
}

/// Every handler of a pair, for the test that reads their machine code.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn all() -> impl Iterator<Item = (Step, bool)> {
    let straight = PAIRS.iter().flatten().map(|&step| (step, false));
    straight.chain(WITH_JCC.iter().flatten().map(|&step| (step, true)))
}
