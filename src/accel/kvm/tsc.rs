//! The guest's TSC: KVM adds an offset to the host's, where it can.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use softmetal_devices::clock::Clock;

use super::{Error, Host};

pub(super) const MSR: u32 = 0x10;

/// How the guest's TSC is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// By its offset from the host's, exactly.
    Offset,
    /// By writing it, as a guest does (before Linux 5.16): about right.
    Written,
    /// Not at all: it is the host's, because user code runs on the host's processor as it is.
    Fixed,
}

impl Setting {
    /// Finds out, by a vCPU that has not run.
    pub(super) fn of(fd: &VcpuFd) -> Self {
        /// Anything but what it would be by itself.
        const SOMEWHERE: u64 = 1 << 50;
        let (mut offset, mut back) = (SOMEWHERE, 0);
        if attribute(fd, Attribute::Set, &mut offset)
            && attribute(fd, Attribute::Get, &mut back)
            && back == offset
        {
            return Self::Offset;
        }
        // A new vCPU's counts from 0. It is not written: that would confuse one that is the host's.
        const NEAR: u64 = 1 << 26;
        let entry = kvm_msr_entry { index: MSR, ..kvm_msr_entry::default() };
        let read = Msrs::from_entries(&[entry]).ok().and_then(|mut list| {
            fd.get_msrs(&mut list).ok()?;
            list.as_slice().first().map(|entry| entry.data)
        });
        match read {
            Some(tsc) if tsc.abs_diff(host()) < NEAR => Self::Fixed,
            _ => Self::Written,
        }
    }
}

/// What is known of the guest's TSC before there is a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TscFacts {
    /// Its frequency.
    pub(crate) hz: u64,
    /// It is always the host's.
    pub(crate) fixed: bool,
}

/// What this host's KVM makes of a guest's TSC.
pub(crate) fn tsc_facts() -> Result<TscFacts, Error> {
    let (kvm, _) = Host::open()?;
    let vm = kvm.create_vm().map_err(|error| Error::refused("KVM_CREATE_VM", error))?;
    let vcpu = vm.create_vcpu(0).map_err(|error| Error::refused("KVM_CREATE_VCPU", error))?;
    let khz = vcpu.get_tsc_khz().map_err(|error| Error::refused("KVM_GET_TSC_KHZ", error))?;
    Ok(TscFacts { hz: u64::from(khz.max(1)) * 1000, fixed: Setting::of(&vcpu) == Setting::Fixed })
}

/// The host's TSC.
fn host() -> u64 {
    // SAFETY: RDTSC only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The clock's TSC minus the host's, at this moment.
pub(crate) fn tsc_base(clock: &Clock) -> u64 {
    /// On a busy host a thread is held up between two looks now and then, but not each time.
    const LOOKS: usize = 8;
    let look = |_| {
        let (before, clocks, after) = (host(), clock.tsc(), host());
        let width = after.wrapping_sub(before);
        (width, clocks.wrapping_sub(before.wrapping_add(width / 2)))
    };
    (0..LOOKS).map(look).min_by_key(|(width, _)| *width).map_or(0, |(_, base)| base)
}

/// What is done with an attribute of a vCPU: the numbers of the calls, `_IOW(KVMIO, .., struct kvm_device_attr)`.
#[derive(Clone, Copy)]
enum Attribute {
    Set = 0x4018_aee1,
    Get = 0x4018_aee2,
}

const _: () = assert!(size_of::<kvm_device_attr>() == 0x18);

/// The offset of the guest's TSC from the host's, where it is set so.
pub(super) fn offset(fd: &VcpuFd) -> Option<u64> {
    let mut offset = 0;
    attribute(fd, Attribute::Get, &mut offset).then_some(offset)
}

/// Sets the offset of the guest's TSC from the host's; whether that worked.
pub(super) fn set_offset(fd: &VcpuFd, mut offset: u64) -> bool {
    attribute(fd, Attribute::Set, &mut offset)
}

fn attribute(fd: &VcpuFd, what: Attribute, offset: &mut u64) -> bool {
    let mut attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: &raw mut *offset as u64,
    };
    // SAFETY: the kernel reads the attribute, and reads or writes the u64 that it leads to, which is borrowed for that.
    unsafe { libc::ioctl(fd.as_raw_fd(), what as libc::c_ulong, &raw mut attribute) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_and_the_host_are_not_set_apart_by_who_is_held_up() {
        let clock = Clock::host_with_tsc(2_000_000_000);
        let direct = || clock.tsc().wrapping_sub(host());
        // The clock may run at another frequency: what is found lies between two looks.
        let between = (0..1000).filter(|_| {
            let looks = [direct(), tsc_base(&clock), direct()].map(|base| base as i64);
            let slack = 50_000;
            looks[1] >= looks[0].min(looks[2]) - slack && looks[1] <= looks[0].max(looks[2]) + slack
        });
        assert!(between.count() > 900);
    }
}
