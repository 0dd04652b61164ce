//! Where makers differ: what the manuals leave undefined, and what they do in different ways. The emulated CPU does what
//! Intel's do; on hosts of other makers exactly this is not compared.

use super::{Maker, difference::Outcome, subject::Subject};
use softmetal_cpu::testing::User;

/// Whether a case is one for comparison.
pub(super) fn comparable(_: Maker, _: &Subject, _: &User) -> bool {
    true
}

/// Whether registers and flags differ only by what the makers do differently.
pub(super) fn forgiven(_: Maker, _: &Subject, _: &User, _: &Outcome, _: &Outcome) -> bool {
    false
}

/// Whether memory does.
pub(super) fn memory_forgiven(_: Maker, _: &Subject, _: &User, _: &[u8], _: &[u8]) -> bool {
    false
}
