//! A board with nothing on it that writes down what the CPU asks for.

use softmetal_cpu::{Bus, Gp};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// An access that reached the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Device memory was read: address and bytes.
    MmioRead(u64, usize),
    /// Device memory was written.
    MmioWrite(u64, Vec<u8>),
    /// IN: port and bytes.
    PortRead(u16, usize),
    /// OUT.
    PortWrite(u16, Vec<u8>),
}

#[derive(Default)]
struct Inner {
    accesses: Vec<Access>,
    interrupts: VecDeque<u8>,
    cr8: u8,
    tsc: u64,
    numbers: u64,
    tsc_deadline: u64,
}

/// See the module. Reads give the low bytes of the address or port, each plus its place: 10h, 11h, 12h from port 10h.
#[derive(Default)]
pub struct Recorder(Mutex<Inner>, OnceLock<Box<dyn Fn() + Send + Sync>>);

impl Recorder {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked for since the last call.
    pub fn take(&self) -> Vec<Access> {
        std::mem::take(&mut self.inner().accesses)
    }

    /// Has this called within each OUT, once for all.
    pub fn on_port_write(&self, call: impl Fn() + Send + Sync + 'static) {
        assert!(self.1.set(Box::new(call)).is_ok(), "one caller");
    }

    /// Queues an external interrupt. The CPU's attention is the caller's business.
    pub fn interrupt(&self, vector: u8) {
        self.inner().interrupts.push_back(vector);
    }
}

impl Bus for Recorder {
    fn mmio_read(&self, _: usize, at: u64, data: &mut [u8]) {
        self.inner().accesses.push(Access::MmioRead(at, data.len()));
        data.iter_mut().enumerate().for_each(|(k, byte)| *byte = (at as u8).wrapping_add(k as u8));
    }
    fn mmio_write(&self, _: usize, at: u64, data: &[u8]) {
        self.inner().accesses.push(Access::MmioWrite(at, data.to_vec()));
    }
    fn port_read(&self, _: usize, port: u16, data: &mut [u8]) {
        self.inner().accesses.push(Access::PortRead(port, data.len()));
        data.iter_mut().enumerate().for_each(|(k, byte)| *byte = (port as u8).wrapping_add(k as u8));
    }
    fn port_write(&self, _: usize, port: u16, data: &[u8]) {
        self.inner().accesses.push(Access::PortWrite(port, data.to_vec()));
        if let Some(call) = self.1.get() {
            call();
        }
    }
    fn has_interrupt(&self, _: usize) -> bool {
        let inner = self.inner();
        inner.interrupts.front().is_some_and(|&v| v >> 4 > inner.cr8)
    }
    fn acknowledge(&self, cpu: usize) -> Option<u8> {
        if self.has_interrupt(cpu) { self.inner().interrupts.pop_front() } else { None }
    }
    fn cr8(&self, _: usize) -> u8 {
        self.inner().cr8
    }
    fn set_cr8(&self, _: usize, value: u8) {
        self.inner().cr8 = value;
    }
    fn apic_base(&self, _: usize) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&self, _: usize, value: u64) -> Result<(), Gp> {
        if value == 0xfee0_0900 { Ok(()) } else { Err(Gp) }
    }
    fn apic_msr_read(&self, _: usize, _: u32) -> Result<u64, Gp> {
        Err(Gp)
    }
    fn apic_msr_write(&self, _: usize, _: u32, _: u64) -> Result<(), Gp> {
        Err(Gp)
    }
    fn tsc_deadline(&self, _: usize) -> u64 {
        self.inner().tsc_deadline
    }
    fn set_tsc_deadline(&self, _: usize, value: u64) {
        self.inner().tsc_deadline = value;
    }
    fn tsc(&self) -> u64 {
        let mut inner = self.inner();
        inner.tsc += 100;
        inner.tsc
    }
    fn tsc_hz(&self) -> u64 {
        1_000_000_000
    }
    /// What looks random is the same in each run. Every tenth time there is nothing.
    fn random(&self, _: usize) -> Option<u64> {
        let mut inner = self.inner();
        inner.numbers += 1;
        let number = inner.numbers.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (!inner.numbers.is_multiple_of(10)).then_some(number)
    }
    fn apic_timer_hz(&self) -> u64 {
        25_000_000
    }
}
