//! A case that differs, made as small as it can be while it differs in the same kind of thing.

use super::line::usual;
use super::{
    difference::{FLAGS, Outcome, Part},
    run::{Case, Verifier},
    subject::Subject,
};
use crate::{compare::blank, layout::*};
use softmetal_cpu::{float::F80, state::Mxcsr, testing::User};

/// Runs at most: each costs both sides all of the scratch memory.
const ATTEMPTS: usize = 4000;

/// What a case comes to on both sides.
pub(super) struct Judged {
    pub(super) parts: Vec<Part>,
    /// Both values of each part.
    pub(super) text: String,
    pub(super) theirs: Outcome,
    pub(super) memory: Vec<u8>,
}

struct Shrinker<'a> {
    verifier: &'a mut Verifier,
    best: Case,
    subject: Subject,
    /// The kind of thing that differs.
    kind: &'static str,
    attempts: usize,
}

/// Gives a smaller case of the same kind of difference.
pub(super) fn shrink(verifier: &mut Verifier, case: Case, parts: &[Part]) -> Case {
    let Some(kind) = parts.first().map(|part| part.kind()) else { return case };
    let code = verifier.code_of(&case);
    let subject = Subject::new(case.segments, code, &case.bytes);
    let mut shrinker = Shrinker { verifier, best: case, subject, kind, attempts: 0 };
    // What is simpler may make something else simpler.
    for _ in 0..2 {
        shrinker.bytes();
        shrinker.memory();
        shrinker.registers();
        shrinker.vectors();
        shrinker.x87();
    }
    shrinker.best
}

impl Shrinker<'_> {
    /// Takes a change if the case still differs in the same way, and stays within its memory.
    fn attempt(&mut self, change: impl FnOnce(&mut Case)) -> bool {
        let mut case = self.best.clone();
        change(&mut case);
        if self.attempts >= ATTEMPTS || case == self.best {
            return false;
        }
        self.attempts += 1;
        let subject = if case.bytes == self.best.bytes {
            self.subject.clone()
        } else {
            Subject::new(case.segments, self.subject.code, &case.bytes)
        };
        case.bytes.clone_from(&subject.bytes);
        if subject.faults != self.subject.faults || !self.verifier.allowed(&subject, &case.before) {
            return false;
        }
        let judged = self.verifier.judge(&subject, &case);
        let same = judged.parts.iter().any(|part| part.kind() == self.kind);
        if same {
            (self.best, self.subject) = (case, subject);
        }
        same
    }

    /// Registers that say nothing.
    fn usual(&self) -> User {
        usual(self.best.segments)
    }

    fn user(&mut self, change: impl FnOnce(&mut User)) -> bool {
        self.attempt(|case| change(&mut case.before))
    }

    /// Prefixes go; immediates and displacements become 0.
    fn bytes(&mut self) {
        let mut at = 0;
        while at < self.best.bytes.len().saturating_sub(1).min(14) {
            let prefix = matches!(
                self.best.bytes[at],
                0x66 | 0x67 | 0xf2 | 0xf3 | 0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0x40..=0x4f
            );
            if !prefix {
                break;
            }
            if !self.attempt(|case| {
                case.bytes.remove(at);
            }) {
                at += 1;
            }
        }
        for back in 1..=4 {
            self.attempt(|case| {
                if let Some(k) = case.bytes.len().checked_sub(back) {
                    case.bytes[k] = 0;
                }
            });
        }
    }

    /// Zeros, from large pieces of the memory to single bytes.
    fn memory(&mut self) {
        let mut pieces = vec![(0, SCRATCH_SIZE as usize)];
        while let Some((start, end)) = pieces.pop() {
            let piece = start..end;
            if self.best.scratch[piece.clone()].iter().all(|b| *b == 0) {
                continue;
            }
            let zeroed = self.attempt(|case| case.scratch[piece.clone()].fill(0));
            if !zeroed && piece.len() > 1 {
                let middle = start + piece.len() / 2;
                pieces.push((start, middle));
                pieces.push((middle, end));
            }
        }
    }

    fn registers(&mut self) {
        for k in 0..16 {
            let usual = self.usual().gpr[k];
            if self.best.before.gpr[k] == usual || self.user(|user| user.gpr[k] = usual) {
                continue;
            }
            for mask in [0xff, 0xffff, 0xffff_ffff, 0xffff_ffff_0000, !0xff] {
                self.user(|user| user.gpr[k] &= mask);
            }
            for bit in (0..64).rev() {
                self.user(|user| user.gpr[k] &= !(1 << bit));
            }
        }
        if !self.user(|user| user.rflags &= !FLAGS) {
            for bit in (0..12).filter(|bit| FLAGS >> bit & 1 == 1) {
                self.user(|user| user.rflags &= !(1 << bit));
            }
        }
    }

    fn vectors(&mut self) {
        self.user(|user| user.mxcsr = Mxcsr::RESET);
        self.user(|user| user.ymm_high = [0; 16]);
        for half in 0..32 {
            let value = move |user: &mut User, f: &dyn Fn(u128) -> u128| {
                let v = if half < 16 { &mut user.xmm[half] } else { &mut user.ymm_high[half - 16] };
                *v = f(*v);
            };
            if self.user(|user| value(user, &|_| 0)) {
                continue;
            }
            for lane in 0..4 {
                self.user(|user| value(user, &|v| v & !(0xffff_ffff << (32 * lane))));
            }
            for byte in 0..16 {
                self.user(|user| value(user, &|v| v & !(0xff << (8 * byte))));
            }
        }
    }

    fn x87(&mut self) {
        if self.user(|user| user.x87 = blank().x87) {
            return;
        }
        self.user(|user| user.x87.control = 0x37f);
        for bit in 0..16 {
            self.user(|user| {
                user.x87.status &= !(1 << bit);
                user.x87.refresh_summary();
            });
        }
        for k in 0..8 {
            self.user(|user| user.x87.regs[k] = F80::ZERO);
            self.user(|user| user.x87.tags &= !(1 << k));
        }
    }
}
