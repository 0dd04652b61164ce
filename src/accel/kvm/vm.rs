//! A machine in KVM: guest RAM as slots, and the local APICs, which are the kernel's (split irqchip).
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use kvm_bindings::{
    KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API,
    KVM_CAP_X86_APIC_BUS_CYCLES_NS, KVM_IRQ_ROUTING_MSI, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
    KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi,
    kvm_irq_routing_msi__bindgen_ty_1, kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use parking_lot::Mutex;
use softmetal_cpu::{Attention, Ram, Request, Rights};
use softmetal_devices::clock::{Clock, NS_PER_SEC};
use softmetal_devices::interrupts::{APIC_TIMER_HZ, IOAPIC_PINS, LocalApics};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::features::{self, Offered};
use super::leaked::Leaked;
use super::{Error, Host, extended, kick, probe, tsc};
use crate::dirty::{DirtyPages, PAGE};
use crate::ram_port::{RamMap, RamPort};

/// Where KVM may keep what processors without "unrestricted guest" run real mode in: between the local APICs and the top.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TASK_STATE: usize = 0xfeff_d000;

/// Where a slot comes and goes that nobody uses.
const NOBODYS: u64 = 0xfeff_b000;

/// What the host bridge gives rights to by pieces: SDM-style shadowing of the BIOS area.
const SHADOWED: Range<u64> = 0xc_0000..0x10_0000;
const SHADOW_PIECE: u64 = 0x4000;

/// A run of guest RAM that is a slot of KVM's, or none while the guest may not read it.
struct Slot {
    range: Range<u64>,
    host: u64,
    /// Its flags as KVM knows it.
    flags: Option<u32>,
}

/// A machine in KVM.
pub(crate) struct Vm {
    pub(super) fd: VmFd,
    pub(super) host: Host,
    pub(super) layout: extended::Layout,
    /// CPUID as KVM offers it, where the processors are to be so.
    pub(super) offered: Option<Offered>,
    pub(super) ram: Arc<Ram>,
    /// Pages that were written, as far as KVM does not know of them.
    pub(super) dirty: Arc<DirtyPages>,
    slots: Mutex<Vec<Slot>>,
    /// The 8259 pair's output, and whom to tell.
    pub(super) intr: AtomicBool,
    first: Arc<Attention>,
    /// The board's TSC minus the host's.
    tsc_base: AtomicU64,
    /// Messages that wait until the local APICs have their state; None while they go to KVM at once.
    held: Mutex<Option<Vec<(u64, u32)>>>,
    /// The processor does not run the guest's system code itself: KVM does, slower than the interpreter.
    pub(super) imitates: bool,
    /// Where it does: what user code has of registers that its system does not know.
    pub(super) leaked: Mutex<Leaked>,
    /// Counts of KVM's local APIC timers to one of ours.
    pub(super) timer_ratio: u32,
}

impl Vm {
    /// A machine with this RAM. `first`: the processor that has the 8259 pair's output; `host_cpu`: the processors are as KVM
    /// offers them.
    pub(crate) fn new(memory: &RamPort, first: Arc<Attention>, host_cpu: bool) -> Result<Arc<Self>, Error> {
        kick::prepare().map_err(|error| Error::Refused("a signal handler", error))?;
        let (kvm, host) = Host::open()?;
        let offered = host_cpu.then(|| features::offered(&kvm)).transpose()?;
        let fd = create(&kvm)?;
        let refused = |what: &'static str| move |error: kvm_ioctls::Error| Error::refused(what, error);
        fd.set_identity_map_address(IDENTITY_MAP).map_err(refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TASK_STATE).map_err(refused("KVM_SET_TSS_ADDR"))?;
        let enable = |cap: u32, argument: u64| {
            let cap = kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..kvm_enable_cap::default() };
            fd.enable_cap(&cap)
        };
        enable(KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS as u64).map_err(refused("KVM_CAP_SPLIT_IRQCHIP"))?;
        let wide = u64::from(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
        enable(KVM_CAP_X2APIC_API, wide).map_err(refused("KVM_CAP_X2APIC_API"))?;
        // Since Linux 5.14; before, and without it, the guest gets an undefined opcode where KVM cannot imitate an instruction of
        // its user code, and of its system code both that and the exit.
        if enable(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1).is_err() {
            log::debug!("KVM does not say where it cannot imitate an instruction of user code");
        }
        let timer_ratio = match enable(KVM_CAP_X86_APIC_BUS_CYCLES_NS, NS_PER_SEC / APIC_TIMER_HZ) {
            Ok(()) => 1,
            // Since Linux 6.11; before, KVM's timers always count nanoseconds.
            Err(_) => (NS_PER_SEC / APIC_TIMER_HZ) as u32,
        };
        let vm = Self {
            imitates: probe::imitates(&kvm),
            layout: host.layout(),
            fd,
            host,
            offered,
            ram: Arc::clone(&memory.ram),
            dirty: Arc::clone(memory.dirty()),
            slots: Mutex::new(Vec::new()),
            intr: AtomicBool::new(false),
            first,
            tsc_base: AtomicU64::new(0),
            held: Mutex::new(None),
            leaked: Mutex::default(),
            timer_ratio,
        };
        vm.map_memory()?;
        Ok(Arc::new(vm))
    }

    /// Finds out how the board's TSC stands to the host's. Processors that come to KVM or leave it are stopped, so that all of
    /// them count from the same.
    pub(crate) fn align(&self, clock: &Clock) {
        self.tsc_base.store(tsc::tsc_base(clock), SeqCst);
    }

    /// What [`Vm::align`] has found.
    pub(super) fn tsc_base(&self) -> u64 {
        self.tsc_base.load(SeqCst)
    }

    fn map_memory(&self) -> Result<(), Error> {
        let mut slots = self.slots.lock();
        for region in self.ram.memory().iter() {
            let (start, size) = (region.start_addr().0, region.len());
            let host = region.as_ptr() as u64;
            let end = start + size;
            let mut at = start;
            while at < end {
                let next = match at {
                    _ if at < SHADOWED.start => SHADOWED.start,
                    _ if at < SHADOWED.end => at + SHADOW_PIECE,
                    _ => end,
                };
                let range = at..next.min(end);
                at = range.end;
                slots.push(Slot { host: host + (range.start - start), range, flags: None });
            }
        }
        (0..).zip(slots.iter_mut()).try_for_each(|(number, slot)| self.map(number, slot))
    }

    /// Brings a slot to what the rights of its pages say.
    fn map(&self, number: u32, slot: &mut Slot) -> Result<(), Error> {
        let rights = self.ram.rights(slot.range.start).unwrap_or(Rights::ALL);
        let wanted = match rights {
            Rights::ALL if self.dirty.is_on() => Some(KVM_MEM_LOG_DIRTY_PAGES),
            Rights::ALL => Some(0),
            Rights { read: true, write: false } if self.host.read_only => Some(KVM_MEM_READONLY),
            // What KVM cannot map comes as an access to a device, which looks at the rights.
            _ => None,
        };
        if wanted == slot.flags {
            return Ok(());
        }
        let region = |size: u64, flags: u32| kvm_userspace_memory_region {
            slot: number,
            flags,
            guest_phys_addr: slot.range.start,
            memory_size: size,
            userspace_addr: slot.host,
        };
        // A slot does not change between plain and read-only: it goes and comes, and takes what was written with it.
        self.collect(number, slot)?;
        let logs = |flags: Option<u32>| flags.is_some_and(|flags| flags & !KVM_MEM_LOG_DIRTY_PAGES == 0);
        let stays = logs(slot.flags) && logs(wanted);
        let steps = slot.flags.filter(|_| !stays).map(|flags| region(0, flags)).into_iter();
        let steps = steps.chain(wanted.map(|flags| region(slot.range.end - slot.range.start, flags)));
        for step in steps {
            // SAFETY: the memory is the guest's RAM, which `self.ram` keeps mapped for as long as `self.fd` lives; nobody has a
            // reference into it.
            unsafe { self.fd.set_user_memory_region(step) }
                .map_err(|error| Error::refused("KVM_SET_USER_MEMORY_REGION", error))?;
        }
        slot.flags = wanted;
        Ok(())
    }
}

impl Vm {
    /// KVM learns whether anybody wants to know which pages the guest writes. The machine stands still.
    pub(crate) fn log_writes(&self) -> Result<(), Error> {
        let mut slots = self.slots.lock();
        (0..).zip(slots.iter_mut()).try_for_each(|(number, slot)| self.map(number, slot))
    }

    /// Puts the pages that the guest has written in KVM to the others.
    pub(crate) fn collect_written(&self) -> Result<(), Error> {
        let slots = self.slots.lock();
        (0..).zip(slots.iter()).try_for_each(|(number, slot)| self.collect(number, slot))
    }

    fn collect(&self, number: u32, slot: &Slot) -> Result<(), Error> {
        if slot.flags.is_none_or(|flags| flags & KVM_MEM_LOG_DIRTY_PAGES == 0) {
            return Ok(());
        }
        let size = (slot.range.end - slot.range.start) as usize;
        let log = self.fd.get_dirty_log(number, size);
        let log = log.map_err(|error| Error::refused("KVM_GET_DIRTY_LOG", error))?;
        for (word, mut bits) in (0..).zip(log) {
            while bits != 0 {
                let page = slot.range.start + PAGE * (64 * word + u64::from(bits.trailing_zeros()));
                self.dirty.note(page..page + PAGE);
                bits &= bits - 1;
            }
        }
        Ok(())
    }

    /// Page tables may have been written where KVM did not see it, and the guest has dropped what it had of them: so must KVM, if it
    /// runs the guest by shadows of them. It does when a slot goes.
    pub(super) fn forget_shadows(&self) {
        let slots = self.slots.lock();
        let Some(first) = slots.first() else { return };
        let region = |memory_size: u64| kvm_userspace_memory_region {
            slot: slots.len() as u32,
            flags: if self.host.read_only { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: NOBODYS,
            memory_size,
            userspace_addr: first.host,
        };
        for size in [PAGE, 0] {
            // SAFETY: as in `map`.
            if let Err(error) = unsafe { self.fd.set_user_memory_region(region(size)) } {
                log::error!("KVM may have old page tables: {}", Error::refused("a slot", error));
            }
        }
    }

    /// Interrupt messages wait from here on.
    pub(crate) fn hold(&self) {
        self.held.lock().get_or_insert_default();
    }

    /// Interrupt messages go to the local APICs again, those that have waited first.
    pub(crate) fn release(&self) {
        let mut held = self.held.lock();
        for (address, data) in held.take().unwrap_or_default() {
            self.signal(address, data);
        }
    }

    /// The messages that have waited, for who has the local APICs from here on.
    pub(crate) fn take_held(&self) -> Vec<(u64, u32)> {
        self.held.lock().take().unwrap_or_default()
    }

    fn signal(&self, address: u64, data: u32) -> bool {
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..kvm_msi::default()
        };
        let accepted = self.fd.signal_msi(msi);
        log::trace!("message {data:#x} to KVM: {accepted:?}");
        accepted.is_ok_and(|accepted| accepted > 0)
    }
}

fn create(kvm: &Kvm) -> Result<VmFd, Error> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result.map_err(|error| Error::refused("KVM_CREATE_VM", error)),
        }
    }
}

impl RamMap for Vm {
    fn rights_changed(&self, range: Range<u64>) {
        let mut slots = self.slots.lock();
        for (number, slot) in (0..).zip(slots.iter_mut()) {
            if slot.range.start < range.end
                && range.start < slot.range.end
                && let Err(error) = self.map(number, slot)
            {
                log::error!("memory from {:#x} stays as it was: {error}", slot.range.start);
            }
        }
    }
}

impl LocalApics for Vm {
    fn send(&self, address: u64, data: u32) -> bool {
        match &mut *self.held.lock() {
            // Level-triggered interrupts that nobody accepts are not sent again, so these are accepted.
            Some(held) => {
                log::trace!("message {data:#x} waits");
                held.push((address, data));
                true
            }
            None => self.signal(address, data),
        }
    }

    fn tell_ends(&self, pins: &[Option<(u64, u32)>; IOAPIC_PINS]) {
        let entry = |(gsi, pin): (u32, &Option<(u64, u32)>)| {
            let (address, data) = (*pin)?;
            let msi = kvm_irq_routing_msi {
                address_lo: address as u32,
                address_hi: (address >> 32) as u32,
                data,
                __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1::default(),
            };
            Some(kvm_irq_routing_entry {
                gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
                ..kvm_irq_routing_entry::default()
            })
        };
        let entries: Vec<_> = (0..).zip(pins).filter_map(entry).collect();
        let routing = KvmIrqRouting::from_entries(&entries);
        let set = routing.ok().map(|routing| self.fd.set_gsi_routing(&routing));
        if !matches!(set, Some(Ok(()))) {
            log::error!("KVM does not take the I/O APIC's routes: level-triggered interrupts may hang");
        }
    }

    fn set_intr(&self, level: bool) {
        self.intr.store(level, SeqCst);
        if level {
            self.first.request(Request::INTERRUPT);
        }
    }
}

/// A capability that is asked for by number.
pub(super) fn has(kvm: &Kvm, cap: Cap) -> bool {
    kvm.check_extension(cap)
}
