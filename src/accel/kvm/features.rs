//! CPUID: what KVM can offer of our processor models, and what it shows whether wanted or not.
#![allow(unsafe_code)]

use std::arch::x86_64::__cpuid_count;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;
use softmetal_cpu::{FeatureBit, Lacking, Model, Needs, Register};

use super::probe::Seen;
use super::{Error, Host};

/// State components that KVM takes, and where PKRU stands in the host's XSAVE area: SDM 2A "CPUID", leaf 0Dh.
pub(super) fn components(kvm: &Kvm) -> (u64, usize) {
    const LEAF: u32 = 0xd;
    const PKRU: u32 = 9;
    let offered = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).ok();
    let offered = offered.and_then(|cpuid| {
        let entry = cpuid.as_slice().iter().find(|entry| (entry.function, entry.index) == (LEAF, 0))?;
        Some(u64::from(entry.eax) | u64::from(entry.edx) << 32)
    });
    // x87 and SSE are always there.
    (offered.unwrap_or(0) | 0b11, __cpuid_count(LEAF, PKRU).ebx as usize)
}

fn value(registers: [u32; 4], register: Register) -> u32 {
    let [eax, ebx, ecx, edx] = registers;
    match register {
        Register::Eax => eax,
        Register::Ebx => ebx,
        Register::Ecx => ecx,
        Register::Edx => edx,
    }
}

fn offers(cpuid: &CpuId, feature: &FeatureBit) -> bool {
    let entry = cpuid
        .as_slice()
        .iter()
        .find(|entry| (entry.function, entry.index) == (feature.leaf, feature.subleaf));
    entry.is_some_and(|entry| {
        value([entry.eax, entry.ebx, entry.ecx, entry.edx], feature.register) >> feature.bit & 1 != 0
    })
}

fn silicon_has(feature: &FeatureBit) -> bool {
    let last = __cpuid_count(feature.leaf & 0x8000_0000, 0).eax;
    let answer = __cpuid_count(feature.leaf, feature.subleaf);
    let registers = [answer.eax, answer.ebx, answer.ecx, answer.edx];
    feature.leaf <= last && value(registers, feature.register) >> feature.bit & 1 != 0
}

/// What a KVM makes of a processor model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaks {
    /// What it lacks; without these the model can be offered.
    pub(crate) lacking: Vec<FeatureBit>,
    /// What it does not offer although the silicon has it: user code has it all the same.
    pub(crate) unoffered: Vec<FeatureBit>,
    /// Those of `lacking`, and what says only how the processor is.
    pub(crate) without: Lacking,
}

/// What this host's KVM makes of `model`.
pub(crate) fn lacking(model: Model) -> Result<Leaks, Error> {
    let (kvm, _) = Host::open()?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let cpuid = cpuid.map_err(|error| Error::refused("KVM_GET_SUPPORTED_CPUID", error))?;
    Ok(judge(model, |feature| offers(&cpuid, feature), silicon_has))
}

fn judge(
    model: Model,
    offered: impl Fn(&FeatureBit) -> bool,
    silicon: impl Fn(&FeatureBit) -> bool,
) -> Leaks {
    let mut leaks = Leaks::default();
    for feature in model.features().filter(|feature| !offered(feature)) {
        match feature.needs {
            Needs::Silicon if silicon(&feature) => leaks.unoffered.push(feature),
            Needs::Silicon | Needs::Support => {
                leaks.lacking.push(feature);
                leaks.without = leaks.without.and(feature);
            }
            Needs::Nothing => leaks.without = leaks.without.and(feature),
        }
    }
    leaks
}

/// What user code sees of features that `model` does not have, by leaf, register and bit.
pub(crate) fn leaked(model: Model, seen: &Seen) -> Vec<String> {
    let has = |leaf, register, bit| {
        model.features().any(|f| (f.leaf, f.subleaf, f.register, f.bit) == (leaf, 0, register, bit))
    };
    // OSXSAVE and OSPKE are no features, but what the system has switched on.
    let words = [
        (1, "ECX", Register::Ecx, seen.leaf1_ecx, 1 << 27),
        (7, "EBX", Register::Ebx, seen.leaf7_ebx, 0),
        (7, "ECX", Register::Ecx, seen.leaf7_ecx, 1 << 4),
    ];
    let mut leaks = Vec::new();
    for (leaf, name, register, word, passed) in words {
        for bit in (0..32).filter(|bit| (word & !passed) >> bit & 1 != 0 && !has(leaf, register, *bit)) {
            let known = Model::Max.features().find(|feature| {
                (feature.leaf, feature.subleaf, feature.register, feature.bit) == (leaf, 0, register, bit)
            });
            leaks.push(match known {
                Some(feature) => feature.name.to_uppercase(),
                None => format!("bit {bit} of leaf {leaf:X}h {name}"),
            });
        }
    }
    leaks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kvm_does_not_offer_is_taken_away_or_leaks() {
        let leaks = judge(Model::V2, |feature| feature.leaf != 1 && feature.name != "Ibrs", |_| true);
        let names = |list: &[FeatureBit]| list.iter().map(|feature| feature.name).collect::<Vec<_>>();
        assert!(names(&leaks.lacking).contains(&"Pcid") && !names(&leaks.lacking).contains(&"Ibrs"));
        assert!(names(&leaks.unoffered).contains(&"Sse42"));
        let poor = judge(Model::V2, |_| false, |_| false);
        assert!(poor.unoffered.is_empty() && names(&poor.lacking).contains(&"Sse42"));
        assert!(judge(Model::Max, |_| true, |_| true).lacking.is_empty());
    }

    #[test]
    fn leaks_are_what_the_model_does_not_have() {
        let v2 = Seen { leaf1_ecx: 1 | 1 << 28 | 1 << 27, leaf7_ebx: 1 << 5, leaf7_ecx: 1 << 4 };
        assert_eq!(leaked(Model::V2, &v2), ["AVX", "AVX2"]);
        let other = Seen { leaf7_ebx: 1 << 16, ..Seen::default() };
        assert_eq!(leaked(Model::Max, &other), ["bit 16 of leaf 7h EBX"]);
        assert!(leaked(Model::Max, &v2).is_empty());
    }
}
