//! Configuration space of a function: the type 0 header of the PCI Local Bus Specification 3.0, chapter 6, and the
//! capabilities behind it.
//!
//! Every byte has a mask of the bits that the guest can write. That alone makes base address registers answer sizing
//! as they should: the bits below the size stay what they are.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// Bytes of configuration space that conventional accesses reach.
pub const CONVENTIONAL_SIZE: usize = 256;
/// Bytes of configuration space per function in the memory-mapped window. Above the conventional part functions here
/// have nothing, which reads as "no extended capability".
pub const EXTENDED_SIZE: usize = 4096;
/// Base address registers of a type 0 header.
pub const BAR_COUNT: usize = 6;

/// Offsets in the type 0 header.
pub mod register {
    /// Vendor ID.
    pub const VENDOR: usize = 0x00;
    /// Device ID.
    pub const DEVICE: usize = 0x02;
    /// Command.
    pub const COMMAND: usize = 0x04;
    /// Status.
    pub const STATUS: usize = 0x06;
    /// Revision ID, then programming interface, subclass, class.
    pub const REVISION: usize = 0x08;
    /// Cache line size.
    pub const CACHE_LINE: usize = 0x0c;
    /// Header type; bit 7 of function 0 tells that there are more functions.
    pub const HEADER_TYPE: usize = 0x0e;
    /// First base address register.
    pub const BAR0: usize = 0x10;
    /// Subsystem vendor ID.
    pub const SUBSYSTEM_VENDOR: usize = 0x2c;
    /// Subsystem ID.
    pub const SUBSYSTEM: usize = 0x2e;
    /// Offset of the first capability.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line: a note that firmware leaves for drivers.
    pub const INTERRUPT_LINE: usize = 0x3c;
    /// Interrupt pin: 0 none, 1 to 4 INTA# to INTD#.
    pub const INTERRUPT_PIN: usize = 0x3d;
    /// First byte behind the header.
    pub const HEADER_END: usize = 0x40;
}

const HEADER_MULTIFUNCTION: u8 = 1 << 7;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BAR_IO: u32 = 1 << 0;
const BAR_64_BITS: u32 = 2 << 1;
const BAR_PREFETCHABLE: u32 = 1 << 3;

bitflags! {
    /// The command register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Command: u16 {
        /// The function answers I/O accesses.
        const IO = 1 << 0;
        /// The function answers memory accesses.
        const MEMORY = 1 << 1;
        /// The function may access memory and send messages.
        const BUS_MASTER = 1 << 2;
        /// Parity error response.
        const PARITY = 1 << 6;
        /// SERR# enable.
        const SERR = 1 << 8;
        /// The function may not assert its interrupt pin.
        const INTX_DISABLE = 1 << 10;
    }
}

/// Who a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// What a base address register decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers.
    Memory64,
    /// Memory anywhere that may be prefetched; takes two registers.
    Memory64Prefetchable,
}

impl BarKind {
    fn flags(self) -> u32 {
        match self {
            Self::Io => BAR_IO,
            Self::Memory32 => 0,
            Self::Memory64 => BAR_64_BITS,
            Self::Memory64Prefetchable => BAR_64_BITS | BAR_PREFETCHABLE,
        }
    }

    fn is_64_bits(self) -> bool {
        matches!(self, Self::Memory64 | Self::Memory64Prefetchable)
    }

    fn smallest(self) -> u64 {
        match self {
            Self::Io => 4,
            _ => 16,
        }
    }

    fn largest(self) -> u64 {
        match self {
            Self::Io => 256,
            Self::Memory32 => 1 << 31,
            Self::Memory64 | Self::Memory64Prefetchable => 1 << 62,
        }
    }
}

/// A base address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// How much: a power of two.
    pub size: u64,
}

/// A range of addresses that a function answers at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Number of the base address register.
    pub index: usize,
    /// The register.
    pub bar: Bar,
    /// Where the guest has put it.
    pub base: u64,
}

/// What configuration space remembers: what the guest has written, among what it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    bytes: Vec<u8>,
}

/// Configuration space of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; CONVENTIONAL_SIZE],
    /// As built, for reset.
    initial: [u8; CONVENTIONAL_SIZE],
    writable: [u8; CONVENTIONAL_SIZE],
    bars: [Option<Bar>; BAR_COUNT],
    /// Where the pointer to the next capability goes.
    last_pointer: usize,
    next_capability: usize,
}

impl ConfigSpace {
    /// The header of a function without address ranges, interrupt pin and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONVENTIONAL_SIZE],
            initial: [0; CONVENTIONAL_SIZE],
            writable: [0; CONVENTIONAL_SIZE],
            bars: [None; BAR_COUNT],
            last_pointer: register::CAPABILITIES,
            next_capability: register::HEADER_END,
        };
        let [class, subclass, interface] = identity.class;
        space.define(register::VENDOR, &identity.vendor.to_le_bytes(), &[]);
        space.define(register::DEVICE, &identity.device.to_le_bytes(), &[]);
        space.define(register::REVISION, &[identity.revision, interface, subclass, class], &[]);
        space.define(register::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes(), &[]);
        space.define(register::SUBSYSTEM, &identity.subsystem.to_le_bytes(), &[]);
        space.define(register::COMMAND, &[0, 0], &Command::all().bits().to_le_bytes());
        space.define(register::CACHE_LINE, &[0], &[0xff]);
        space.define(register::INTERRUPT_LINE, &[0], &[0xff]);
        space
    }

    /// Adds base address register `index`.
    ///
    /// # Panics
    /// If the register is taken or does not exist, or the size is not a power of two that the specification allows. Devices
    /// are built by us, so this is a mistake of ours.
    #[must_use]
    pub fn with_bar(mut self, index: usize, kind: BarKind, size: u64) -> Self {
        assert!(
            size.is_power_of_two() && (kind.smallest()..=kind.largest()).contains(&size),
            "BAR size {size:#x}"
        );
        let last = if kind.is_64_bits() { index + 1 } else { index };
        assert!(last < BAR_COUNT && (index..=last).all(|at| self.is_bar_free(at)), "BAR {index} is taken");
        let mask = !(size - 1);
        self.define(bar_offset(index), &kind.flags().to_le_bytes(), &(mask as u32).to_le_bytes());
        if kind.is_64_bits() {
            self.define(bar_offset(last), &[0; 4], &((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[index] = Some(Bar { kind, size });
        self
    }

    /// Gives the function an interrupt pin.
    #[must_use]
    pub fn with_interrupt_pin(mut self, pin: super::Pin) -> Self {
        self.define(register::INTERRUPT_PIN, &[pin.number()], &[]);
        self
    }

    /// Adds a capability: its ID, the bytes after the next-pointer, and which of their bits the guest can write. Returns
    /// the offset of the capability.
    ///
    /// # Panics
    /// If configuration space is full, which is a mistake of ours.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.next_capability;
        let end = at + 2 + body.len();
        assert!(end <= CONVENTIONAL_SIZE, "no room for capability {id:#x}");
        self.define(at, &[id, 0], &[]);
        self.define(at + 2, body, writable);
        self.define(self.last_pointer, &[at as u8], &[]);
        let status = self.bytes[register::STATUS] | STATUS_CAPABILITIES;
        self.define(register::STATUS, &[status], &[]);
        self.last_pointer = at + 1;
        self.next_capability = end.next_multiple_of(4);
        at
    }

    /// Defines registers of the function's own: their values after reset and which of their bits the guest can write
    /// (none where `writable` is shorter).
    ///
    /// # Panics
    /// If they lie outside configuration space, which is a mistake of ours.
    pub fn define(&mut self, offset: usize, values: &[u8], writable: &[u8]) {
        self.bytes[offset..offset + values.len()].copy_from_slice(values);
        self.initial[offset..offset + values.len()].copy_from_slice(values);
        self.writable[offset..offset + writable.len()].copy_from_slice(writable);
    }

    /// Reads bytes, as the guest does. What lies beyond the conventional part reads as zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the writable bits of bytes, as the guest does.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            if let (Some(old), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = *old & !mask | byte & mask;
            }
        }
    }

    /// The byte at `offset`.
    pub fn read_u8(&self, offset: usize) -> u8 {
        let mut data = [0; 1];
        self.read(offset, &mut data);
        data[0]
    }

    /// The word at `offset`.
    pub fn read_u16(&self, offset: usize) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The double word at `offset`.
    pub fn read_u32(&self, offset: usize) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits_truncate(self.read_u16(register::COMMAND))
    }

    /// Shows in the status register that the function wants an interrupt.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let status = &mut self.bytes[register::STATUS];
        *status = if pending { *status | STATUS_INTERRUPT } else { *status & !STATUS_INTERRUPT };
    }

    /// Tells in the header that the device has more than one function.
    pub fn set_multifunction(&mut self) {
        let header_type = self.bytes[register::HEADER_TYPE] | HEADER_MULTIFUNCTION;
        self.define(register::HEADER_TYPE, &[header_type], &[]);
    }

    /// The base address registers that exist, by number.
    pub fn bars(&self) -> impl Iterator<Item = (usize, Bar)> + '_ {
        self.bars.iter().enumerate().filter_map(|(index, bar)| bar.map(|bar| (index, bar)))
    }

    /// Where base address register `index` points, whether or not the function decodes it.
    pub fn bar_base(&self, index: usize) -> Option<u64> {
        let bar = self.bars.get(index).copied().flatten()?;
        let low = u64::from(self.read_u32(bar_offset(index)));
        let high = if bar.kind.is_64_bits() { u64::from(self.read_u32(bar_offset(index + 1))) } else { 0 };
        Some((high << 32 | low) & !(bar.size - 1))
    }

    /// The ranges that the function answers: what the command register enables and the guest has placed. Address zero
    /// is where a register points before anybody places it, and ports end at 64 KiB.
    pub fn decoded(&self) -> Vec<Decoded> {
        let command = self.command();
        let enabled = |bar: &Bar| match bar.kind {
            BarKind::Io => command.contains(Command::IO),
            _ => command.contains(Command::MEMORY),
        };
        self.bars()
            .filter(|(_, bar)| enabled(bar))
            .filter_map(|(index, bar)| self.bar_base(index).map(|base| Decoded { index, bar, base }))
            .filter(|decoded| decoded.base != 0)
            .filter(|decoded| decoded.bar.kind != BarKind::Io || decoded.base <= u64::from(u16::MAX))
            .collect()
    }

    /// Puts all registers back to their values after reset.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// The state, to be saved.
    pub fn save(&self) -> ConfigState {
        ConfigState { bytes: self.bytes.to_vec() }
    }

    /// Takes over what the guest had written. What it cannot write stays as this function has it.
    pub fn load(&mut self, state: &ConfigState) {
        self.reset();
        self.write(0, &state.bytes);
    }

    fn is_bar_free(&self, index: usize) -> bool {
        let below_is_64_bits = index > 0 && self.bars[index - 1].is_some_and(|bar| bar.kind.is_64_bits());
        self.bars[index].is_none() && !below_is_64_bits
    }
}

fn bar_offset(index: usize) -> usize {
    register::BAR0 + 4 * index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Pin;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: [0x01, 0x80, 0x02],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    };

    fn write_u32(space: &mut ConfigSpace, offset: usize, value: u32) {
        space.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn header_tells_who_it_is_and_cannot_be_overwritten() {
        let mut space = ConfigSpace::new(IDENTITY).with_interrupt_pin(Pin::C);
        space.write(0, &[0xff; 256]);
        assert_eq!(space.read_u32(0x00), 0x1042_1af4);
        assert_eq!(space.read_u32(0x08), 0x0180_0201);
        assert_eq!(space.read_u32(0x2c), 0x1100_1af4);
        assert_eq!(space.read_u16(0x3c), 0x03ff, "the line is a scratch byte, the pin is fixed");
        assert_eq!(space.read_u16(0x04), 0x0547);
        assert_eq!(space.read_u16(0x06), 0);
        assert_eq!(space.read_u32(0x10), 0, "no BAR");
        assert_eq!(space.read_u32(0x30), 0, "no ROM");
        let mut data = [0xcc; 8];
        space.read(0xfc, &mut data);
        assert_eq!(data, [0; 8]);
    }

    /// What Linux does to find out about a register: writes ones, reads, puts back.
    fn probe(space: &mut ConfigSpace, index: usize) -> (u32, u64) {
        let offset = 0x10 + 4 * index;
        let old = space.read_u32(offset);
        write_u32(space, offset, u32::MAX);
        let low = space.read_u32(offset);
        write_u32(space, offset, old);
        assert_eq!(space.read_u32(offset), old);
        let flags = low & if low & 1 == 1 { 3 } else { 15 };
        let mut mask = u64::from(low & !flags);
        if flags & 0b111 == 0b100 {
            let old = space.read_u32(offset + 4);
            write_u32(space, offset + 4, u32::MAX);
            mask |= u64::from(space.read_u32(offset + 4)) << 32;
            write_u32(space, offset + 4, old);
        } else {
            mask |= 0xffff_ffff << 32;
        }
        (flags, mask.wrapping_neg())
    }

    #[test]
    fn every_size_of_every_kind_probes_as_built() {
        let kinds = [
            (BarKind::Io, 0b0001, 2..=8),
            (BarKind::Memory32, 0b0000, 4..=31),
            (BarKind::Memory64, 0b0100, 4..=62),
            (BarKind::Memory64Prefetchable, 0b1100, 4..=62),
        ];
        for (kind, flags, sizes) in kinds {
            for bits in sizes {
                for index in 0..=4 {
                    let size = 1u64 << bits;
                    let mut space = ConfigSpace::new(IDENTITY).with_bar(index, kind, size);
                    write_u32(&mut space, 0x10 + 4 * index, 0xa5a5_a5a5);
                    assert_eq!(probe(&mut space, index), (flags, size), "{kind:?} {bits}");
                }
            }
        }
    }

    #[test]
    fn placed_bases_are_aligned_and_kept_whatever_is_written() {
        let mut seed = 7u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed ^ seed >> 29
        };
        let mut space = ConfigSpace::new(IDENTITY)
            .with_bar(0, BarKind::Io, 32)
            .with_bar(1, BarKind::Memory32, 0x1000)
            .with_bar(2, BarKind::Memory64Prefetchable, 1 << 33)
            .with_bar(4, BarKind::Memory64, 0x4000);
        for _ in 0..10_000 {
            let (value, offset, width) = (next(), 0x04 + next() as usize % 0x30, 1 << (next() % 4));
            space.write(offset, &value.to_le_bytes()[..width]);
            for decoded in space.decoded() {
                assert_eq!(decoded.base % decoded.bar.size, 0);
                assert!(decoded.base.checked_add(decoded.bar.size - 1).is_some());
            }
            assert_eq!(space.read_u32(0x10) & 0x1f, 1);
            assert_eq!(space.read_u32(0x14) & 0xfff, 0);
            assert_eq!(space.read_u32(0x18), 0b1100, "8 GiB leave nothing in the lower half");
            assert_eq!(space.read_u32(0x1c) & 1, 0);
        }
        space.write(0x20, &0xffff_fff0_1234_5678u64.to_le_bytes());
        assert_eq!(space.bar_base(4), Some(0xffff_fff0_1234_4000));
        assert_eq!(space.bar_base(3), None, "the upper half of another");
        assert_eq!(space.bar_base(6), None);
    }

    #[test]
    fn command_register_gates_decoding() {
        let mut space =
            ConfigSpace::new(IDENTITY).with_bar(0, BarKind::Io, 8).with_bar(1, BarKind::Memory32, 0x100);
        let decoded =
            |space: &ConfigSpace| space.decoded().iter().map(|d| (d.index, d.base)).collect::<Vec<_>>();
        space.write(0x04, &[7]);
        assert_eq!(decoded(&space), [], "nothing is placed yet");
        write_u32(&mut space, 0x10, 0xc001);
        write_u32(&mut space, 0x14, 0xe000_0100);
        assert_eq!(decoded(&space), [(0, 0xc000), (1, 0xe000_0100)]);
        space.write(0x04, &[1]);
        assert_eq!(decoded(&space), [(0, 0xc000)]);
        space.write(0x04, &[2]);
        assert_eq!(decoded(&space), [(1, 0xe000_0100)]);
        space.write(0x04, &[1]);
        write_u32(&mut space, 0x10, 0x1_0000);
        assert_eq!(decoded(&space), [], "no such port");
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut space = ConfigSpace::new(IDENTITY);
        assert_eq!((space.read_u8(0x34), space.read_u16(0x06)), (0, 0));
        let first = space.add_capability(0x09, &[1, 2, 3], &[0, 0xf0]);
        let second = space.add_capability(0x11, &[0; 10], &[]);
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(space.read_u16(0x06), 0x0010);
        let mut seen = Vec::new();
        let mut at = space.read_u8(0x34);
        while at != 0 {
            seen.push((at, space.read_u8(at.into())));
            at = space.read_u8(usize::from(at) + 1);
        }
        assert_eq!(seen, [(0x40, 0x09), (0x48, 0x11)]);
        space.write(0x40, &[0xff; 6]);
        assert_eq!(space.read_u32(0x40), 0xf201_4809);
    }

    #[test]
    fn save_and_load_keep_what_the_guest_wrote() {
        let build = || ConfigSpace::new(IDENTITY).with_bar(0, BarKind::Memory32, 0x1000);
        let mut space = build();
        space.write(0x04, &[6, 4]);
        write_u32(&mut space, 0x10, 0xfebc_d000);
        space.write(0x3c, &[11]);
        let saved = rmp_serde::to_vec_named(&space.save()).unwrap();
        let mut other = build();
        write_u32(&mut other, 0x10, 0x1000_0000);
        other.load(&rmp_serde::from_slice(&saved).unwrap());
        assert_eq!(other.save(), space.save());
        assert_eq!(other.decoded(), space.decoded());
        // A forged state can neither change what is read-only nor reach beyond the end.
        other.load(&ConfigState { bytes: vec![0xff; 5000] });
        assert_eq!(other.read_u32(0), 0x1042_1af4);
        other.reset();
        assert_eq!(other.save(), build().save());
    }
}
