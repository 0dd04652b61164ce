//! Who is compared with whom.

use super::{Emulated, Maker, Verifier, plan};
use crate::Host;
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

/// Every speed-up of the emulated CPU on.
pub(super) fn plain() -> Options {
    Options { cpus: 1, ..Options::default() }
}

/// Every speed-up off that can be switched off.
fn slow() -> Options {
    Options { no_chain: true, no_fuse: true, no_specialise: true, no_tlb: true, ..plain() }
}

/// The emulated CPU and the host's own. None where the host is no x86-64 under Linux, or forbids what that needs.
pub fn against_host(seed: u64, wanted: Wanted) -> Option<Setup> {
    let (host, maker) = plan::host()?;
    let theirs = Host::new()?;
    let mut ours = Emulated::new(plain());
    let features = plan::features(|leaf, subleaf| ours.cpuid(leaf, subleaf));
    let both: BTreeSet<CpuidFeature> = features.intersection(&host).copied().collect();
    let verifier = Verifier::new(Box::new(ours), Box::new(theirs), maker, &both, wanted, seed);
    Some(Setup { verifier, lacking: features.difference(&host).copied().collect() })
}

/// The emulated CPU with its speed-ups, and without.
pub fn against_itself(seed: u64, wanted: Wanted) -> Setup {
    let (mut ours, theirs) = (Emulated::new(plain()), Emulated::new(slow()));
    let features = plan::features(|leaf, subleaf| ours.cpuid(leaf, subleaf));
    Setup {
        verifier: Verifier::new(Box::new(ours), Box::new(theirs), Maker::Intel, &features, wanted, seed),
        lacking: Vec::new(),
    }
}
