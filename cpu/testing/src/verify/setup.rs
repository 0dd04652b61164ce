//! Who is compared with whom.

use super::{Emulated, Maker, Verifier, plan};
use crate::{Host, translated, translated_alone};
use iced_x86::{Code, CpuidFeature};
use softmetal_cpu::Options;
use std::collections::BTreeSet;

/// Which codes the user wants.
pub(super) type Wanted<'a> = &'a dyn Fn(Code) -> bool;

/// A tester that is ready, and what it leaves out.
pub struct Setup {
    /// The tester.
    pub verifier: Verifier,
    /// Extensions that the emulated CPU has and the other side lacks.
    pub lacking: Vec<CpuidFeature>,
}

/// What runs the emulated CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The interpreter.
    #[default]
    Interp,
    /// The translator, which translates each case before it runs.
    Jit,
    /// The same in one pass.
    OnePass,
}

impl Engine {
    /// The options of a CPU that it runs.
    pub(super) fn options(self) -> Options {
        match self {
            Engine::Interp => plain(),
            Engine::Jit => translated(0),
            Engine::OnePass => translated_alone(u32::MAX),
        }
    }

    /// States that one encoding runs from.
    fn states(self) -> usize {
        match self {
            Engine::Interp | Engine::OnePass => 16,
            // Each encoding has to be translated.
            Engine::Jit => 128,
        }
    }
}

/// Every speed-up of the interpreter on.
pub(super) fn plain() -> Options {
    Options { cpus: 1, ..Options::default() }
}

/// Every speed-up off that can be switched off.
fn slow() -> Options {
    Options { no_chain: true, no_fuse: true, no_specialise: true, no_tlb: true, ..plain() }
}

/// The emulated CPU and the host's own. None where the host is no x86-64 under Linux, or forbids what that needs.
pub fn against_host(engine: Engine, seed: u64, wanted: Wanted) -> Option<Setup> {
    let (host, maker) = plan::host()?;
    let theirs = Host::new()?;
    let mut ours = Emulated::new(engine.options());
    let features = plan::features(|leaf, subleaf| ours.cpuid(leaf, subleaf));
    let both: BTreeSet<CpuidFeature> = features.intersection(&host).copied().collect();
    let verifier = Verifier::new(Box::new(ours), Box::new(theirs), maker, &both, wanted, seed)
        .with_states(engine.states());
    Some(Setup { verifier, lacking: features.difference(&host).copied().collect() })
}

/// The emulated CPU, and its interpreter without speed-ups.
pub fn against_itself(engine: Engine, seed: u64, wanted: Wanted) -> Setup {
    let (mut ours, theirs) = (Emulated::new(engine.options()), Emulated::new(slow()));
    let features = plan::features(|leaf, subleaf| ours.cpuid(leaf, subleaf));
    Setup {
        verifier: Verifier::new(Box::new(ours), Box::new(theirs), Maker::Intel, &features, wanted, seed)
            .with_states(engine.states()),
        lacking: Vec::new(),
    }
}
