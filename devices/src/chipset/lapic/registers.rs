//! The registers of a local APIC and their bits, by the manual's names.

/// Bits of IA32_APIC_BASE. SDM 3A "Local APIC Status and Location".
pub mod apic_base {
    /// This is the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// Global enable.
    pub const EN: u64 = 1 << 11;
    /// Where the register page is, as far as an address can reach; the CPU checks its own address width.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// The address after reset.
    pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;
}

/// The first MSR of the x2APIC register space.
pub const X2APIC_MSR_BASE: u32 = 0x800;

/// The local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lvt {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
    Cmci,
}

impl Lvt {
    pub(super) const COUNT: usize = 7;
    pub(super) const MASKED: u32 = 1 << 16;
    pub(super) const LEVEL: u32 = 1 << 15;
    pub(super) const REMOTE_IRR: u32 = 1 << 14;
    pub(super) const DELIVERY_STATUS: u32 = 1 << 12;
    pub(super) const TIMER_MODE_SHIFT: u32 = 17;

    /// The bits that software can set.
    pub(super) fn writable(self) -> u32 {
        const VECTOR: u32 = 0xff;
        const MODE: u32 = 0x700;
        const POLARITY: u32 = 1 << 13;
        VECTOR
            | Lvt::MASKED
            | match self {
                Lvt::Timer => 0b11 << Lvt::TIMER_MODE_SHIFT,
                Lvt::Thermal | Lvt::Performance | Lvt::Cmci => MODE,
                Lvt::Lint0 | Lvt::Lint1 => MODE | POLARITY | Lvt::LEVEL,
                Lvt::Error => 0,
            }
    }

    /// The bits that may be set in an x2APIC write: those, and the read-only ones that software reads and writes back.
    pub(super) fn allowed(self) -> u32 {
        let remote_irr = if matches!(self, Lvt::Lint0 | Lvt::Lint1) { Lvt::REMOTE_IRR } else { 0 };
        self.writable() | Lvt::DELIVERY_STATUS | remote_irr
    }
}

/// The registers, by the manual's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reg {
    Id,
    Version,
    Tpr,
    Apr,
    Ppr,
    Eoi,
    RemoteRead,
    Ldr,
    Dfr,
    Svr,
    Isr(usize),
    Tmr(usize),
    Irr(usize),
    Esr,
    IcrLow,
    IcrHigh,
    Lvt(Lvt),
    InitialCount,
    CurrentCount,
    DivideConfiguration,
    SelfIpi,
}

impl Reg {
    /// From the register's number: its offset in the page divided by 16, or its MSR relative to 800h.
    pub(super) fn from_number(number: u32) -> Option<Reg> {
        Some(match number {
            0x02 => Reg::Id,
            0x03 => Reg::Version,
            0x08 => Reg::Tpr,
            0x09 => Reg::Apr,
            0x0a => Reg::Ppr,
            0x0b => Reg::Eoi,
            0x0c => Reg::RemoteRead,
            0x0d => Reg::Ldr,
            0x0e => Reg::Dfr,
            0x0f => Reg::Svr,
            0x10..=0x17 => Reg::Isr(number as usize - 0x10),
            0x18..=0x1f => Reg::Tmr(number as usize - 0x18),
            0x20..=0x27 => Reg::Irr(number as usize - 0x20),
            0x28 => Reg::Esr,
            0x2f => Reg::Lvt(Lvt::Cmci),
            0x30 => Reg::IcrLow,
            0x31 => Reg::IcrHigh,
            0x32 => Reg::Lvt(Lvt::Timer),
            0x33 => Reg::Lvt(Lvt::Thermal),
            0x34 => Reg::Lvt(Lvt::Performance),
            0x35 => Reg::Lvt(Lvt::Lint0),
            0x36 => Reg::Lvt(Lvt::Lint1),
            0x37 => Reg::Lvt(Lvt::Error),
            0x38 => Reg::InitialCount,
            0x39 => Reg::CurrentCount,
            0x3e => Reg::DivideConfiguration,
            0x3f => Reg::SelfIpi,
            _ => return None,
        })
    }
}

/// Version 14h (a modern integrated APIC), highest LVT entry 6, EOI broadcasts can be suppressed.
pub(super) const VERSION: u32 = 0x14 | (Lvt::COUNT as u32 - 1) << 16 | 1 << 24;

/// Bits of the spurious-interrupt vector register.
pub(super) mod svr {
    pub(in super::super) const ENABLE: u32 = 1 << 8;
    pub(in super::super) const SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
    pub(in super::super) const WRITABLE: u32 = 0xff | ENABLE | 1 << 9 | SUPPRESS_EOI_BROADCAST;
    pub(in super::super) const RESET: u32 = 0xff;
}

/// Bits of the error status register.
pub(super) mod esr {
    pub(in super::super) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub(in super::super) const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub(in super::super) const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Bits of the interrupt command register.
pub(super) mod icr {
    pub(in super::super) const LOGICAL: u64 = 1 << 11;
    pub(in super::super) const DELIVERY_STATUS: u64 = 1 << 12;
    pub(in super::super) const ASSERT: u64 = 1 << 14;
    pub(in super::super) const LEVEL_TRIGGERED: u64 = 1 << 15;
    pub(in super::super) const SHORTHAND_SHIFT: u32 = 18;
    pub(in super::super) const XAPIC_DESTINATION_SHIFT: u32 = 56;
    pub(in super::super) const X2APIC_DESTINATION_SHIFT: u32 = 32;
    /// Reserved in x2APIC mode. The delivery status is too, but writing back what was read must do.
    pub(in super::super) const X2APIC_RESERVED: u64 = 0xfff0_0000 | 0b11 << 16 | 1 << 13;
    pub(in super::super) const LOW_WRITABLE: u64 = 0x000c_cfff;
}

/// The lowest vector that is an interrupt's.
pub(super) const FIRST_LEGAL_VECTOR: u8 = 16;
