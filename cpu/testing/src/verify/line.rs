//! A case as a line of an `.ins` file, with what is right behind the arrow.

use super::{difference::Outcome, run::Case};
use crate::{
    Segments,
    compare::{FLAG_NAMES, blank, text},
    ins::{Expected, Item, Line, Mode, Place},
    layout::*,
};
use iced_x86::{Decoder, DecoderOptions};
use softmetal_cpu::{float::F80, state::X87, testing::User};

fn item(place: Place, value: impl Into<u128>) -> Item {
    Item { place, value: value.into(), bytes: Vec::new() }
}

fn extended(v: F80) -> u128 {
    u128::from(v.sign_exponent) << 64 | u128::from(v.significand)
}

/// Everything of `new` that differs from `old`.
fn registers(old: &User, new: &User) -> Vec<Item> {
    let mut items = Vec::new();
    for k in (0..16).filter(|&k| old.gpr[k] != new.gpr[k]) {
        items.push(item(Place::Gpr(k), new.gpr[k]));
    }
    for (_, bit) in FLAG_NAMES {
        if (old.rflags ^ new.rflags) & bit != 0 {
            items.push(item(Place::Flag(bit), u64::from(new.rflags & bit != 0)));
        }
    }
    for k in 0..16 {
        if old.xmm[k] != new.xmm[k] {
            items.push(item(Place::Xmm(k), new.xmm[k]));
        }
        if old.ymm_high[k] != new.ymm_high[k] {
            items.push(item(Place::YmmHigh(k), new.ymm_high[k]));
        }
    }
    if old.mxcsr != new.mxcsr {
        items.push(item(Place::Mxcsr, new.mxcsr));
    }
    let (a, b): (&X87, &X87) = (&old.x87, &new.x87);
    for k in (0..8).filter(|&k| a.regs[k] != b.regs[k]) {
        items.push(item(Place::St(k), extended(b.regs[k])));
    }
    let words = [
        (Place::Fcw, a.control, b.control),
        (Place::Fsw, a.status, b.status),
        (Place::Ftw, a.tags.into(), b.tags.into()),
    ];
    items.extend(words.iter().filter(|(_, x, y)| x != y).map(|(place, _, y)| item(*place, *y)));
    items
}

/// Runs of bytes that differ; runs less than four bytes apart are one.
pub(super) fn runs(old: &[u8], new: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for k in (0..old.len()).filter(|&k| old[k] != new[k]) {
        match runs.last_mut() {
            Some((_, end)) if k < *end + 4 => *end = k + 1,
            _ => runs.push((k, k + 1)),
        }
    }
    runs
}

/// They as items.
fn memory(old: &[u8], new: &[u8]) -> Vec<Item> {
    let bytes = |(a, b): (usize, usize)| Item {
        place: Place::Memory(SCRATCH + a as u64),
        value: 0,
        bytes: new[a..b].to_vec(),
    };
    runs(old, new).into_iter().map(bytes).collect()
}

/// The registers that a line begins with where it names nothing.
pub(super) fn usual(segments: Segments) -> User {
    let mut user = blank();
    user.rip = segments.ip();
    if segments != Segments::LONG {
        user.gpr[4] = USER_STACK - segments.base(segments.ss);
    }
    user
}

/// The registers that a case begins with, where they are not the usual ones.
pub(super) fn begin(case: &Case) -> String {
    let items = registers(&usual(case.segments), &case.before);
    items.iter().map(Item::to_string).collect::<Vec<_>>().join(" ")
}

/// The line. `right` and `memory_right` are what the side that is right left.
pub(super) fn line(case: &Case, right: &Outcome, memory_right: &[u8]) -> String {
    let insn =
        Decoder::with_ip(case.segments.bitness(), &case.bytes, case.segments.ip(), DecoderOptions::NONE)
            .decode();
    let empty = vec![0; SCRATCH_SIZE as usize];
    let mut inputs = registers(&usual(case.segments), &case.before);
    inputs.extend(memory(&empty, &case.scratch));
    let mut outputs = registers(&case.before, &right.user);
    outputs.extend(memory(&case.scratch, memory_right));
    let fault = right.fault.map(|fault| {
        let coded = matches!(fault.vector, 8 | 10..=14 | 17 | 21);
        if fault.vector == 14 && fault.cr2 != 0 {
            outputs.push(item(Place::Cr(2), fault.cr2));
        }
        Expected { vector: fault.vector, error: coded.then_some(fault.error) }
    });
    let usual = if fault.is_some() { 0 } else { case.bytes.len() as u64 };
    let distance = right.user.rip.wrapping_sub(case.before.rip);
    if distance != usual {
        outputs.push(item(Place::Rip, i128::from(distance as i64) as u128));
    }
    let line = Line {
        number: 0,
        mode: Mode::User,
        bytes: case.bytes.clone(),
        text: text(&insn),
        inputs,
        fault,
        outputs,
    };
    // What the files' machine does not have.
    if case.segments != Segments::LONG {
        let Segments { cs, ss, ds, es } = case.segments;
        let bits = case.segments.bitness();
        let after = right
            .selectors
            .map_or(String::new(), |s| format!(" cs={:x} ss={:x} ds={:x} es={:x}", s.cs, s.ss, s.ds, s.es));
        return format!("# {bits}-bit code, cs={cs:x} ss={ss:x} ds={ds:x} es={es:x}: {line}{after}");
    }
    let long = if case.bytes.len() > 15 { "# more than 15 bytes: " } else { "" };
    format!("{long}{line}")
}
