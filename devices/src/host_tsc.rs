//! The frequency of the host's time-stamp counter, which the guest's counter copies.
#![allow(unsafe_code)]

/// The host's TSC frequency in Hz, a whole number of MHz; `None` where the host has no such counter.
#[cfg(target_arch = "x86_64")]
pub(crate) fn frequency() -> Option<u64> {
    let hz = x86::enumerated().unwrap_or_else(x86::calibrated);
    let mhz = (hz + MHZ / 2) / MHZ;
    (mhz > 0).then_some(mhz * MHZ)
}

/// The host's TSC frequency in Hz, a whole number of MHz; `None` where the host has no such counter.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn frequency() -> Option<u64> {
    None
}

/// Whether the host's TSC counts at one rate, on all processors together.
pub(crate) fn even() -> bool {
    #[cfg(target_arch = "x86_64")]
    let even = x86::invariant() && x86::kernel_trusts_it();
    #[cfg(not(target_arch = "x86_64"))]
    let even = false;
    even
}

/// The host's TSC, read behind all that stands before it.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn read() -> u64 {
    // SAFETY: LFENCE is there on all x86-64 processors; RDTSC only reads a counter, and Linux lets user mode execute it unless
    // a process asked otherwise.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_rdtsc()
    }
}

/// Nobody asks where [`even`] says no.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn read() -> u64 {
    0
}

#[cfg(target_arch = "x86_64")]
const MHZ: u64 = 1_000_000;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__cpuid, _rdtsc};
    use std::time::{Duration, Instant};

    const LEAF_TSC: u32 = 0x15;
    const LEAF_FREQUENCY: u32 = 0x16;
    const CALIBRATION: Duration = Duration::from_millis(4);

    /// SDM 2A "CPUID": leaf 15h gives the crystal and its ratio to the TSC, leaf 16h the base frequency in MHz.
    pub(super) fn enumerated() -> Option<u64> {
        let max_leaf = __cpuid(0).eax;
        if max_leaf >= LEAF_TSC {
            let leaf = __cpuid(LEAF_TSC);
            if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
                return Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax));
            }
        }
        if max_leaf >= LEAF_FREQUENCY {
            let base_mhz = __cpuid(LEAF_FREQUENCY).eax & 0xffff;
            if base_mhz != 0 {
                return Some(u64::from(base_mhz) * super::MHZ);
            }
        }
        None
    }

    /// SDM 2A "CPUID": the TSC ticks at a constant rate in all states of the processor.
    pub(super) fn invariant() -> bool {
        const LEAF_POWER: u32 = 0x8000_0007;
        const INVARIANT_TSC: u32 = 1 << 8;
        __cpuid(0x8000_0000).eax >= LEAF_POWER && __cpuid(LEAF_POWER).edx & INVARIANT_TSC != 0
    }

    /// Linux derives its own time from the TSC, which it does not where processors were seen to disagree.
    pub(super) fn kernel_trusts_it() -> bool {
        const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let source = std::fs::read_to_string(SOURCE).unwrap_or_default();
        matches!(source.trim(), "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page")
    }

    /// Counts TSC ticks over a few milliseconds of the host's monotonic clock.
    pub(super) fn calibrated() -> u64 {
        let (tsc_start, start) = stamp();
        while start.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let (tsc_end, end) = stamp();
        let elapsed_ns = end.duration_since(start).as_nanos().max(1);
        (u128::from(tsc_end.wrapping_sub(tsc_start)) * 1_000_000_000 / elapsed_ns) as u64
    }

    /// A TSC value and the time at which it was read. The tightest of a few tries, lest a preemption part the two.
    fn stamp() -> (u64, Instant) {
        let mut best = (u64::MAX, 0, Instant::now());
        for _ in 0..8 {
            let before = rdtsc();
            let time = Instant::now();
            let width = rdtsc().wrapping_sub(before);
            if width < best.0 {
                best = (width, before.wrapping_add(width / 2), time);
            }
        }
        (best.1, best.2)
    }

    fn rdtsc() -> u64 {
        // SAFETY: RDTSC only reads a counter; Linux lets user mode execute it unless a process asked otherwise.
        unsafe { _rdtsc() }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn calibration_agrees_with_itself_within_a_percent() {
        let (a, b) = (x86::calibrated(), x86::calibrated());
        assert!(a.abs_diff(b) < a / 100, "{a} and {b}");
        let hz = frequency().unwrap();
        assert_eq!(hz % MHZ, 0);
        assert!(hz > 100 * MHZ);
    }
}
