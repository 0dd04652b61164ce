//! The board: the only place where CPUs and devices meet.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use softmetal_cpu::{Attention, Bus, Gp, Request};
use softmetal_devices::bus::{AddressSpace, Traffic};
use softmetal_devices::clock::{Clock, Timed};
use softmetal_devices::interrupts::{APIC_TIMER_HZ, CpuEvent, Interrupts, Wake};

use crate::origin::Random;

/// Wires between CPUs, interrupt controllers and the address spaces.
pub(crate) struct Board {
    pub(crate) clock: Arc<Clock>,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) ports: Arc<AddressSpace>,
    pub(crate) memory: Arc<AddressSpace>,
    /// For RDRAND and RDSEED.
    pub(crate) random: Mutex<Random>,
    /// Reads and writes of local APICs' pages.
    pub(crate) local_apic: (AtomicU64, AtomicU64),
}

impl Board {
    /// Takes all devices off the board. Some hold on to one another by way of it, and would never go.
    pub(crate) fn take_apart(&self) {
        for space in [&self.ports, &self.memory] {
            for entry in space.map() {
                space.remove(entry.base);
            }
        }
    }

    /// How often each device was accessed.
    pub(crate) fn traffic(&self) -> Vec<Traffic> {
        let (reads, writes) = (self.local_apic.0.load(Relaxed), self.local_apic.1.load(Relaxed));
        let apic = Traffic { label: "local APIC".into(), reads, writes };
        [self.ports.traffic(), self.memory.traffic(), vec![apic]].concat()
    }

    /// Where in its local APIC's page an access of this CPU goes, if it goes there.
    fn local_apic_offset(&self, cpu: usize, at: u64) -> Option<u64> {
        const PAGE: u64 = 4096;
        let base = self.interrupts.apic_base(cpu) & !(PAGE - 1);
        at.checked_sub(base).filter(|offset| *offset < PAGE)
    }
}

impl Bus for Board {
    fn mmio_read(&self, cpu: usize, at: u64, data: &mut [u8]) {
        match self.local_apic_offset(cpu, at) {
            Some(offset) => {
                self.local_apic.0.fetch_add(1, Relaxed);
                self.interrupts.mmio_read(cpu, offset, data);
            }
            None => self.memory.read(at, data),
        }
    }

    fn mmio_write(&self, cpu: usize, at: u64, data: &[u8]) {
        match self.local_apic_offset(cpu, at) {
            Some(offset) => {
                self.local_apic.1.fetch_add(1, Relaxed);
                self.interrupts.mmio_write(cpu, offset, data);
            }
            None => self.memory.write(at, data),
        }
    }

    fn port_read(&self, _cpu: usize, port: u16, data: &mut [u8]) {
        self.ports.read(port.into(), data);
    }

    fn port_write(&self, _cpu: usize, port: u16, data: &[u8]) {
        self.ports.write(port.into(), data);
    }

    fn has_interrupt(&self, cpu: usize) -> bool {
        self.interrupts.has_interrupt(cpu)
    }

    fn acknowledge(&self, cpu: usize) -> Option<u8> {
        self.interrupts.acknowledge(cpu)
    }

    fn cr8(&self, cpu: usize) -> u8 {
        self.interrupts.cr8(cpu)
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        self.interrupts.set_cr8(cpu, value);
    }

    fn apic_base(&self, cpu: usize) -> u64 {
        self.interrupts.apic_base(cpu)
    }

    fn set_apic_base(&self, cpu: usize, value: u64) -> Result<(), Gp> {
        self.interrupts.set_apic_base(cpu, value).map_err(|_| Gp)
    }

    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, Gp> {
        self.interrupts.x2apic_read(cpu, msr).map_err(|_| Gp)
    }

    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), Gp> {
        self.interrupts.x2apic_write(cpu, msr, value).map_err(|_| Gp)
    }

    fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.interrupts.tsc_deadline(cpu)
    }

    fn set_tsc_deadline(&self, cpu: usize, value: u64) {
        // The CPU has taken its own offset off: the deadline is in the board's TSC.
        self.interrupts.set_tsc_deadline(cpu, value, 0);
    }

    fn tsc(&self) -> u64 {
        self.clock.tsc()
    }

    fn random(&self, _cpu: usize) -> Option<u64> {
        let mut number = [0; 8];
        let there = (*self.random.lock())(&mut number);
        there.then(|| u64::from_le_bytes(number))
    }

    fn tsc_hz(&self) -> u64 {
        self.clock.tsc_hz()
    }

    fn apic_timer_hz(&self) -> u64 {
        APIC_TIMER_HZ
    }
}

/// Brings the interrupt controllers' events to the CPUs. The controllers are built first, the CPUs plug in later.
#[derive(Default)]
pub(crate) struct CpuSockets(OnceLock<Box<[Arc<Attention>]>>);

impl CpuSockets {
    /// Plugs the CPUs in, by number.
    pub(crate) fn plug(&self, cpus: Box<[Arc<Attention>]>) {
        assert!(self.0.set(cpus).is_ok(), "the CPUs are plugged in once");
    }
}

impl Wake for CpuSockets {
    fn wake(&self, cpu: usize, event: CpuEvent) {
        let Some(attention) = self.0.get().and_then(|cpus| cpus.get(cpu)) else { return };
        match event {
            CpuEvent::Interrupt => attention.request(Request::INTERRUPT),
            CpuEvent::Nmi => attention.request(Request::NMI),
            CpuEvent::Init => attention.request(Request::INIT),
            CpuEvent::Startup(page) => attention.startup(page),
            // There is no firmware that would live in system-management mode.
            CpuEvent::Smi => {}
        }
    }
}

/// The local APICs' timers as one timed device.
pub(crate) struct LocalTimers(pub(crate) Arc<Interrupts>);

impl Timed for LocalTimers {
    fn deadline(&self) -> Option<u64> {
        self.0.deadline()
    }

    fn expire(&mut self, now: u64) {
        self.0.expire(now);
    }
}
