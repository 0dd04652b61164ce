//! What travels between I/O APIC, MSI writers and local APICs: interrupt messages and their destinations.
//! SDM 3A "Advanced Programmable Interrupt Controller (APIC)".

use serde::{Deserialize, Serialize};

/// What a vCPU thread is told when something happened to its local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuEvent {
    /// An interrupt can now be acknowledged.
    Interrupt,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: the CPU resets and waits for a start-up message. Its local APIC is reset already.
    Init,
    /// Start-up at the page with this number; CPUs that do not wait for it ignore it.
    Startup(u8),
    /// A system-management interrupt.
    Smi,
}

/// Kicks vCPU threads.
pub trait Wake: Send + Sync {
    /// Tells a CPU of an event. May be called with chip locks held, from any thread, the CPU's own included: it must
    /// only take a note and kick, and never call back into the interrupt fabric.
    fn wake(&self, cpu: usize, event: CpuEvent);
}

/// Delivery mode: bits 10:8 of ICR, LVT entries, redirection entries and MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To every destination, with the vector.
    Fixed,
    /// To the one destination that runs at the lowest priority.
    LowestPriority,
    /// System-management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up; the vector is the page where the CPU starts.
    Startup,
    /// The vector comes from the 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    /// From its three bits; `None` for the reserved value.
    pub fn from_bits(bits: u32) -> Option<DeliveryMode> {
        Some(match bits & 0b111 {
            0b000 => DeliveryMode::Fixed,
            0b001 => DeliveryMode::LowestPriority,
            0b010 => DeliveryMode::Smi,
            0b100 => DeliveryMode::Nmi,
            0b101 => DeliveryMode::Init,
            0b110 => DeliveryMode::Startup,
            0b111 => DeliveryMode::ExtInt,
            _ => return None,
        })
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this ID.
    Physical(u32),
    /// 8-bit logical address, as xAPIC, I/O APIC and MSI send it.
    LogicalByte(u8),
    /// 32-bit logical address, as x2APIC sends it: cluster in the upper half, a bit for each member in the lower.
    LogicalWide(u32),
    /// Everyone.
    Broadcast,
}

impl Destination {
    /// From the 8 bits that xAPIC, I/O APIC and MSI have for it.
    pub fn from_byte(destination: u8, logical: bool) -> Destination {
        match (logical, destination) {
            (true, _) => Destination::LogicalByte(destination),
            (false, 0xff) => Destination::Broadcast,
            (false, id) => Destination::Physical(id.into()),
        }
    }

    /// From the 32 bits that x2APIC has for it.
    pub fn from_wide(destination: u32, logical: bool) -> Destination {
        match (logical, destination) {
            (_, 0xffff_ffff) => Destination::Broadcast,
            (true, _) => Destination::LogicalWide(destination),
            (false, id) => Destination::Physical(id),
        }
    }
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The vector, or the page of a start-up.
    pub vector: u8,
    /// How it is delivered.
    pub mode: DeliveryMode,
    /// Level-triggered: the end of interrupt is broadcast to I/O APICs.
    pub level: bool,
    /// Whom it is for.
    pub destination: Destination,
}

impl Message {
    /// The message of an MSI write; `None` if it is none. SDM 3A "Message Signalled Interrupts".
    pub fn from_msi(address: u64, data: u32) -> Option<Message> {
        const WINDOW: u64 = 0xfee0_0000;
        const WINDOW_MASK: u64 = 0xffff_ffff_fff0_0000;
        const DESTINATION_SHIFT: u32 = 12;
        const REDIRECTION_HINT: u64 = 1 << 3;
        const DESTINATION_MODE: u64 = 1 << 2;
        const TRIGGER_LEVEL: u32 = 1 << 15;

        if address & WINDOW_MASK != WINDOW {
            return None;
        }
        let mode = DeliveryMode::from_bits(data >> 8)?;
        // The hint asks for one of the destinations instead of all of them.
        let redirect = address & REDIRECTION_HINT != 0 && mode == DeliveryMode::Fixed;
        Some(Message {
            vector: data as u8,
            mode: if redirect { DeliveryMode::LowestPriority } else { mode },
            level: data & TRIGGER_LEVEL != 0,
            // The manual lets the mode bit count only together with the hint; silicon heeds it always, and Linux
            // counts on that.
            destination: Destination::from_byte(
                (address >> DESTINATION_SHIFT) as u8,
                address & DESTINATION_MODE != 0,
            ),
        })
    }
}

impl Message {
    /// The MSI write that says the same: address and data. The upper 24 bits of a 32-bit ID are in the address's upper half, as
    /// in KVM's documentation of x2APIC.
    pub fn to_msi(self) -> (u64, u32) {
        const WINDOW: u64 = 0xfee0_0000;
        const LOGICAL: u64 = 1 << 2;
        const ASSERT: u32 = 1 << 14;
        const LEVEL: u32 = 1 << 15;
        let (id, logical) = match self.destination {
            Destination::Physical(id) => (id, 0),
            Destination::LogicalByte(address) => (address.into(), LOGICAL),
            Destination::LogicalWide(address) => (address, LOGICAL),
            Destination::Broadcast => (0xff, 0),
        };
        let mode = match self.mode {
            DeliveryMode::Fixed => 0b000,
            DeliveryMode::LowestPriority => 0b001,
            DeliveryMode::Smi => 0b010,
            DeliveryMode::Nmi => 0b100,
            DeliveryMode::Init => 0b101,
            DeliveryMode::Startup => 0b110,
            DeliveryMode::ExtInt => 0b111,
        };
        let address = WINDOW | u64::from(id & 0xff) << 12 | logical | u64::from(id & !0xff) << 32;
        let level = if self.level { LEVEL } else { 0 };
        (address, u32::from(self.vector) | mode << 8 | ASSERT | level)
    }
}

/// Destination shorthand: bits 19:18 of ICR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// The destination field says it.
    None,
    /// The sender.
    Myself,
    /// Everyone.
    All,
    /// Everyone but the sender.
    Others,
}

impl Shorthand {
    /// From its two bits.
    pub fn from_bits(bits: u32) -> Shorthand {
        match bits & 0b11 {
            0b00 => Shorthand::None,
            0b01 => Shorthand::Myself,
            0b10 => Shorthand::All,
            _ => Shorthand::Others,
        }
    }
}

/// What a CPU sends through its interrupt command register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// Overrides the message's destination unless it is [`Shorthand::None`].
    pub shorthand: Shorthand,
    /// What is sent.
    pub message: Message,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_address_and_data_are_decoded() {
        let message = Message::from_msi(0xfee0_3000, 0x0041).unwrap();
        assert_eq!(
            message,
            Message {
                vector: 0x41,
                mode: DeliveryMode::Fixed,
                level: false,
                destination: Destination::Physical(3)
            }
        );
        let message = Message::from_msi(0xfee0_500c, 0x8142).unwrap();
        assert_eq!(
            message,
            Message {
                vector: 0x42,
                mode: DeliveryMode::LowestPriority,
                level: true,
                destination: Destination::LogicalByte(5)
            }
        );
        assert_eq!(Message::from_msi(0xfeef_f000, 0x0433).unwrap().destination, Destination::Broadcast);
        assert_eq!(Message::from_msi(0xfee0_0000, 0x0300), None, "reserved delivery mode");
        assert_eq!(Message::from_msi(0xfed0_0000, 0x0041), None, "not the interrupt window");
        assert_eq!(Message::from_msi(0x1_fee0_0000, 0x0041), None);
    }

    #[test]
    fn messages_survive_being_msis() {
        use DeliveryMode::*;
        for mode in [Fixed, LowestPriority, Smi, Nmi, Init, Startup, ExtInt] {
            let destinations =
                [Destination::Physical(7), Destination::LogicalByte(0x5a), Destination::Broadcast];
            for destination in destinations {
                for level in [false, true] {
                    let message = Message { vector: 0x91, mode, level, destination };
                    let (address, data) = message.to_msi();
                    assert_eq!(Message::from_msi(address, data), Some(message));
                }
            }
        }
    }

    #[test]
    fn a_redirection_hint_picks_one_destination() {
        assert_eq!(Message::from_msi(0xfee0_300c, 0x50).unwrap().mode, DeliveryMode::LowestPriority);
        assert_eq!(Message::from_msi(0xfee0_3004, 0x50).unwrap().mode, DeliveryMode::Fixed);
    }
}
