//! CPUID: what KVM can offer of our processor models, and what it shows whether wanted or not.
#![allow(unsafe_code)]

use std::arch::x86_64::__cpuid_count;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use softmetal_cpu::{CpuidLeaf, FeatureBit, Lacking, Model, Needs, Register};

use super::probe::Seen;
use super::vcpu::cpuid_entry;
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

/// CPUID as KVM offers it.
pub(super) struct Offered {
    entries: Vec<kvm_cpuid_entry2>,
    /// Local APICs in the kernel have the deadline timer, which CPUID does not offer by itself.
    deadline_timer: bool,
}

/// What this host's KVM offers.
pub(super) fn offered(kvm: &Kvm) -> Result<Offered, Error> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let cpuid = cpuid.map_err(|error| Error::refused("KVM_GET_SUPPORTED_CPUID", error))?;
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    Ok(Offered { entries: cpuid.as_slice().to_vec(), deadline_timer })
}

impl Offered {
    /// A processor of a machine, of which `ours` has the topology and the clocks. KVM's documentation, "KVM_GET_SUPPORTED_CPUID",
    /// says what it leaves to be done. Without what has state that nobody carries: nested virtualization, performance
    /// counters, KVM's own interface to its guests.
    pub(super) fn processor(&self, ours: &[CpuidLeaf]) -> Vec<kvm_cpuid_entry2> {
        const VMX: u32 = 1 << 5;
        const DEADLINE_TIMER: u32 = 1 << 24;
        const SEVERAL: u32 = 1 << 28;
        const SVM: u32 = 1 << 2;
        let our = |leaf: u32, subleaf: u32| {
            let found = ours.iter().find(|entry| (entry.leaf, entry.subleaf) == (leaf, subleaf));
            found.map_or([0; 4], |entry| entry.values)
        };
        let ([_, identity, _, features], [package_bits, cpus, _, id]) = (our(1, 0), our(0xb, 1));
        let (sharing, others) = ((1 << package_bits) - 1, cpus.saturating_sub(1));
        let mut entries = Vec::new();
        for entry in &self.entries {
            let mut entry = *entry;
            match entry.function {
                1 => {
                    entry.ebx = entry.ebx & 0xffff | identity & 0xffff_0000;
                    entry.ecx &= !VMX;
                    if self.deadline_timer {
                        entry.ecx |= DEADLINE_TIMER;
                    }
                    entry.edx = entry.edx & !SEVERAL | features & SEVERAL;
                }
                // Caches: the innermost ones belong to a processor, the others to all.
                4 | 0x8000_001d if entry.eax & 31 != 0 => {
                    let level = entry.eax >> 5 & 7;
                    let cores = if entry.function == 4 { sharing.min(63) << 26 } else { 0 };
                    let shared = if level > 2 { sharing } else { 0 };
                    entry.eax = entry.eax & 0x3fff | shared << 14 | cores;
                }
                // Ours follow.
                0xb | 0x1f | 0x15 | 0x16 => continue,
                0xa | 0x8000_000a | 0x4000_0000..0x5000_0000 => continue,
                0x8000_0001 => entry.ecx &= !SVM,
                // Of AMD's processors: how many there are, and who this one is.
                0x8000_0008 if entry.ecx != 0 => entry.ecx = package_bits << 12 | others.min(0xff),
                0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
                _ => {}
            }
            entries.push(entry);
        }
        let has = |leaf| self.entries.iter().any(|entry| entry.function == leaf);
        let more =
            ours.iter().filter(|entry| matches!(entry.leaf, 0xb | 0x1f | 0x15 | 0x16) && has(entry.leaf));
        entries.extend(more.map(cpuid_entry));
        entries
    }
}

/// The name of the host's processor.
pub(crate) fn host_processor_name() -> Option<String> {
    let words = (0x8000_0002..=0x8000_0004_u32).map(|leaf| __cpuid_count(leaf, 0));
    let bytes = words.flat_map(|word| [word.eax, word.ebx, word.ecx, word.edx]).flat_map(u32::to_le_bytes);
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8(bytes).ok()?;
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
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
    fn the_hosts_processor_gets_its_place_in_the_machine() {
        let entry = |function, index, [eax, ebx, ecx, edx]: [u32; 4]| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        };
        let entries = vec![
            entry(0, 0, [0x1f, 1, 2, 3]),
            entry(1, 0, [0xb0f21, 0x4d20_0805, !(1 << 24), u32::MAX]),
            entry(4, 3, [3 | 3 << 5 | 0xff << 14 | 0x3f << 26, 7, 8, 9]),
            entry(0xa, 0, [5; 4]),
            entry(0xb, 0, [1, 2, 0x100, 77]),
            entry(0x4000_0000, 0, [1; 4]),
            entry(0x8000_0001, 0, [0, 0, u32::MAX, 0]),
            entry(0x8000_001e, 0, [77, 77, 77, 0]),
        ];
        let leaf =
            |leaf, subleaf, values| CpuidLeaf { leaf, subleaf, indexed: matches!(leaf, 4 | 0xb), values };
        // The third of three processors.
        let ours = [
            leaf(1, 0, [9, 2 << 24 | 4 << 16 | 0x0800, 0, 1 << 28]),
            leaf(0xb, 0, [0, 1, 0x100, 2]),
            leaf(0xb, 1, [2, 3, 0x201, 2]),
            leaf(0x15, 0, [1, 2, 3, 0]),
        ];
        let made = Offered { entries, deadline_timer: true }.processor(&ours);
        let find = |function, index| {
            let found = made.iter().find(|entry| (entry.function, entry.index) == (function, index));
            found.map(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
        };
        assert_eq!(find(0, 0), Some([0x1f, 1, 2, 3]));
        assert_eq!(find(1, 0), Some([0xb0f21, 0x0204_0805, !(1 << 5), u32::MAX]));
        assert_eq!(find(4, 3), Some([3 | 3 << 5 | 3 << 14 | 3 << 26, 7, 8, 9]));
        assert_eq!((find(0xa, 0), find(0x4000_0000, 0), find(0x15, 0)), (None, None, None));
        assert_eq!(find(0xb, 1), Some([2, 3, 0x201, 2]));
        assert_eq!(find(0x8000_0001, 0), Some([0, 0, !(1 << 2), 0]));
        assert_eq!(find(0x8000_001e, 0), Some([2, 2, 0, 0]));
        assert!(made.iter().filter(|entry| entry.function == 0xb).count() == 2);
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
