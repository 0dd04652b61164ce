//! How the CPU sees the world: the board implements this, the CPU crate defines it.

use crate::state::Cpu;

/// An access that the SDM answers with #GP(0): a reserved bit, an illegal transition, a register that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// What comes to a CPU from outside, between two instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt with this vector is about to be delivered.
    Interrupt(u8),
    /// A non-maskable interrupt is about to be delivered.
    Nmi,
    /// INIT is about to take effect.
    Init,
}

/// Everything that is not CPU state or RAM. `cpu` is the index of the virtual CPU that asks, since each has a local APIC.
///
/// A bus always answers: reads of nothing give all ones, writes of nothing vanish. Data is little-endian; ports see 1, 2
/// or 4 bytes, memory-mapped registers 1 to 8 (an access wider than 8 bytes arrives in pieces of 8). It computes in integers
/// only: where translated code asks, the host's floating point rounds as the guest's does, and raises the guest's flags.
pub trait Bus: Send + Sync {
    /// Reads device memory at guest-physical address `at`.
    fn mmio_read(&self, cpu: usize, at: u64, data: &mut [u8]);
    /// Writes device memory at guest-physical address `at`.
    fn mmio_write(&self, cpu: usize, at: u64, data: &[u8]);
    /// IN.
    fn port_read(&self, cpu: usize, port: u16, data: &mut [u8]);
    /// OUT.
    fn port_write(&self, cpu: usize, port: u16, data: &[u8]);

    /// Whether an external interrupt waits that [`Bus::acknowledge`] would deliver (its priority is above the TPR's).
    fn has_interrupt(&self, cpu: usize) -> bool;
    /// Takes the vector to deliver now: the APIC's IRR to ISR step, or the 8259's INTA cycle.
    fn acknowledge(&self, cpu: usize) -> Option<u8>;
    /// CR8: bits 7:4 of the task-priority register.
    fn cr8(&self, cpu: usize) -> u8;
    /// Writes CR8; `value` is below 16.
    fn set_cr8(&self, cpu: usize, value: u8);
    /// IA32_APIC_BASE (1Bh).
    fn apic_base(&self, cpu: usize) -> u64;
    /// Writes IA32_APIC_BASE; `Gp` for reserved bits and illegal mode transitions.
    fn set_apic_base(&self, cpu: usize, value: u64) -> Result<(), Gp>;
    /// Reads an x2APIC register, MSRs 800h to 8FFh.
    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, Gp>;
    /// Writes an x2APIC register, MSRs 800h to 8FFh.
    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), Gp>;
    /// IA32_TSC_DEADLINE (6E0h), in units of the board's TSC (the CPU applies its own offset).
    fn tsc_deadline(&self, cpu: usize) -> u64;
    /// Writes IA32_TSC_DEADLINE; 0 disarms.
    fn set_tsc_deadline(&self, cpu: usize, value: u64);

    /// Says what is about to come to `cpu` from outside, and between which instructions: for logs. The other inputs of a CPU
    /// are the answers of this trait, and what devices write into RAM.
    fn event(&self, cpu: &Cpu, event: Event) {
        let _ = (cpu, event);
    }

    /// The board's time-stamp counter, before the CPU's TSC offset.
    fn tsc(&self) -> u64;
    /// The TSC's frequency in Hz; constant for the life of the machine.
    fn tsc_hz(&self) -> u64;
    /// A random number for RDRAND and RDSEED; None where there is none at the moment.
    fn random(&self, cpu: usize) -> Option<u64>;
    /// The local APIC timer's input clock in Hz, CPUID 15h's crystal.
    fn apic_timer_hz(&self) -> u64;
}
