//! The emulated CPU against recorded vectors: on any host.

use super::{
    Emulated, Limit, Side, Tally,
    difference::{Part, describe, parts},
    line::line,
    plan::{self, Class},
    quirks::{self, Verdict},
    run::{Seen, run},
    setup::{Engine, Wanted},
    subject::Subject,
    vectors::{Recorded, VectorError, Vectors},
};
use crate::{Segments, layout::*};
use iced_x86::Code;
use std::{collections::BTreeSet, time::Instant};

/// Runs all that a file holds, of the codes that are wanted.
///
/// # Errors
/// Where the file cannot be read to its end.
pub fn replay(
    engine: Engine,
    vectors: &mut Vectors,
    wanted: Wanted,
    limit: Limit,
    progress: &mut dyn FnMut(&Tally) -> bool,
) -> Result<Tally, VectorError> {
    let started = Instant::now();
    let mut ours = Emulated::new(engine.options());
    let features = plan::features(|leaf, subleaf| ours.cpuid(leaf, subleaf));
    let mut planned = BTreeSet::new();
    for bitness in [64, 32, 16] {
        let runs = |code: &Code| !matches!(plan::class(*code, bitness), Class::Elsewhere(_));
        let codes = plan::codes(&features, bitness).into_iter().filter(runs).filter(|code| wanted(*code));
        planned.extend(codes.map(|code| format!("{code:?}")));
    }
    let mut tally = Tally { planned: planned.len(), ..Tally::default() };
    let mut place = None;
    while let Some(recorded) = vectors.next()? {
        let subject = Subject::new(recorded.0.segments, Code::INVALID, &recorded.0.bytes);
        if !wanted(subject.code) {
            continue;
        }
        compare(&mut ours, &mut place, vectors, &subject, &recorded, &mut tally);
        let over = match limit {
            Limit::Time(time) => started.elapsed() >= time,
            Limit::Count(count) => tally.cases >= count,
        };
        if over {
            break;
        }
        if tally.cases.is_multiple_of(1024) {
            tally.elapsed = started.elapsed();
            tally.covered = tally.codes.len();
            if !progress(&tally) {
                break;
            }
        }
    }
    tally.elapsed = started.elapsed();
    tally.covered = tally.codes.len();
    tally.missed = planned.into_iter().filter(|name| !tally.codes.contains_key(name)).collect();
    Ok(tally)
}

/// Runs one case.
fn compare(
    ours: &mut Emulated,
    place: &mut Option<Segments>,
    vectors: &Vectors,
    subject: &Subject,
    (case, right, right_memory): &Recorded,
    tally: &mut Tally,
) {
    if *place != Some(case.segments) {
        ours.enter(case.segments);
        *place = Some(case.segments);
    }
    ours.load(&case.bytes);
    ours.set_scratch(&case.scratch);
    let outcome = run(ours, &case.before, subject.loads_segment);
    let mut memory = vec![0; SCRATCH_SIZE as usize];
    ours.read(SCRATCH, &mut memory);
    let mut different = parts(&outcome, right);
    let verdict = quirks::judge(vectors.maker, subject, &outcome, right);
    if verdict != Verdict::Wrong {
        different.clear();
    }
    if memory != *right_memory && !quirks::memory_allowed(vectors.maker, subject, &memory, right_memory) {
        different.push(Part::Memory);
    }
    let seen = tally.codes.entry(format!("{:?}", subject.code)).or_default();
    let (faults, near) = (u64::from(right.fault.is_some()), u64::from(verdict == Verdict::Near));
    tally.cases += 1;
    tally.faults += faults;
    tally.near += near;
    seen.cases += 1;
    seen.faults += faults;
    seen.near += near;
    if different.is_empty() {
        return;
    }
    tally.differences += 1;
    note(seen, &different);
    let text = line(case, right, right_memory);
    if seen.smallest.as_ref().is_none_or(|(smallest, _)| text.len() < smallest.len()) {
        seen.smallest = Some((text, describe(&different, &outcome, right)));
    }
}

/// Counts a case that differs.
pub(super) fn note(seen: &mut Seen, different: &[Part]) {
    seen.differences += 1;
    for &part in different {
        *seen.kinds.entry(part).or_default() += 1;
    }
}
