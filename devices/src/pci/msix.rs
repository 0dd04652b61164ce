//! MSI-X: PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structure". Table and pending bits live in one of
//! the function's memory BARs; the function forwards accesses to them here.

use std::sync::Arc;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::config::{Command, ConfigSpace};
use crate::bus::addresses_from;
use crate::irq::MsiSink;

/// Capability ID.
pub const CAPABILITY_MSIX: u8 = 0x11;
/// Vectors that a table can have.
pub const MAX_VECTORS: u16 = 2048;
/// Bytes of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Offset of message control in the capability.
const MESSAGE_CONTROL: usize = 2;

bitflags! {
    /// Message control, without the table size.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    struct Control: u16 {
        /// Every vector is masked.
        const FUNCTION_MASK = 1 << 14;
        /// The function uses MSI-X in place of its pin.
        const ENABLE = 1 << 15;
    }
}

/// Double words of a table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    AddressLow,
    AddressHigh,
    Data,
    VectorControl,
}

impl Word {
    /// Of the bytes from `offset` in an entry.
    fn at(offset: u64) -> Self {
        match offset / 4 % 4 {
            0 => Self::AddressLow,
            1 => Self::AddressHigh,
            2 => Self::Data,
            _ => Self::VectorControl,
        }
    }
}

const VECTOR_MASKED: u32 = 1;
/// The table holds addresses of double words.
const ADDRESS_LOW_WRITABLE: u32 = !3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
}

impl Entry {
    const AFTER_RESET: Self = Self { address: 0, data: 0, masked: true };

    fn word(&self, word: Word) -> u32 {
        match word {
            Word::AddressLow => self.address as u32,
            Word::AddressHigh => (self.address >> 32) as u32,
            Word::Data => self.data,
            Word::VectorControl => self.masked.into(),
        }
    }

    fn set_word(&mut self, word: Word, value: u32) {
        match word {
            Word::AddressLow => {
                self.address = self.address & !0xffff_ffff | u64::from(value & ADDRESS_LOW_WRITABLE);
            }
            Word::AddressHigh => self.address = self.address & 0xffff_ffff | u64::from(value) << 32,
            Word::Data => self.data = value,
            Word::VectorControl => self.masked = value & VECTOR_MASKED != 0,
        }
    }
}

/// What MSI-X remembers beyond configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    entries: Vec<Entry>,
    pending: Vec<bool>,
}

/// MSI-X of one function.
pub struct Msix {
    state: MsixState,
    /// As configuration space had it at the last [`Msix::sync`].
    control: Control,
    bus_master: bool,
    capability: usize,
    sink: Arc<dyn MsiSink>,
}

impl Msix {
    /// Gives the function `vectors` vectors, its table at `table_offset` of BAR `bar`, and its pending bits at
    /// `pending_offset` of the same.
    ///
    /// # Panics
    /// If there are no or too many vectors, or the two structures are misplaced, which is a mistake of ours.
    pub fn new(
        vectors: u16,
        bar: u8,
        table_offset: u32,
        pending_offset: u32,
        config: &mut ConfigSpace,
        sink: Arc<dyn MsiSink>,
    ) -> Self {
        assert!((1..=MAX_VECTORS).contains(&vectors), "MSI-X has 1 to {MAX_VECTORS} vectors");
        assert!(usize::from(bar) < super::config::BAR_COUNT, "no such BAR");
        assert!(
            table_offset.is_multiple_of(8) && pending_offset.is_multiple_of(8),
            "MSI-X structures are aligned"
        );
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table_offset | u32::from(bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(pending_offset | u32::from(bar)).to_le_bytes());
        let capability = config.add_capability(CAPABILITY_MSIX, &body, &Control::all().bits().to_le_bytes());
        let count = usize::from(vectors);
        Self {
            state: MsixState { entries: vec![Entry::AFTER_RESET; count], pending: vec![false; count] },
            control: Control::empty(),
            bus_master: false,
            capability,
            sink,
        }
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> u64 {
        self.state.entries.len() as u64 * ENTRY_SIZE
    }

    /// Bytes of the pending bits.
    pub fn pending_size(&self) -> u64 {
        self.state.entries.len().div_ceil(64) as u64 * 8
    }

    /// The guest has chosen MSI-X, so that the function must leave its pin alone.
    pub fn is_enabled(&self) -> bool {
        self.control.contains(Control::ENABLE)
    }

    /// Sends the message of `vector`, or remembers it while it is masked. While MSI-X is disabled, and for vectors that do
    /// not exist (a guest chooses those), nothing happens.
    pub fn notify(&mut self, vector: u16) {
        if !self.is_enabled() {
            return;
        }
        if let Some(pending) = self.state.pending.get_mut(usize::from(vector)) {
            *pending = true;
            self.deliver(usize::from(vector));
        }
    }

    /// Looks at configuration space again; to be called after each write of it, and after loading.
    pub fn sync(&mut self, config: &ConfigSpace) {
        self.control = Control::from_bits_truncate(config.read_u16(self.capability + MESSAGE_CONTROL));
        self.bus_master = config.command().contains(Command::BUS_MASTER);
        for vector in 0..self.state.pending.len() {
            self.deliver(vector);
        }
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in addresses_from(offset).zip(data) {
            let word =
                self.entry_index(at).map_or(u32::MAX, |index| self.state.entries[index].word(Word::at(at)));
            *byte = word.to_le_bytes()[(at % 4) as usize];
        }
    }

    /// Writes the table. Only whole double words and pairs of them have a meaning; others vanish.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) {
            return;
        }
        for (at, part) in addresses_from(offset).step_by(4).zip(data.chunks_exact(4)) {
            let (Some(index), Ok(bytes)) = (self.entry_index(at), part.try_into()) else { continue };
            self.state.entries[index].set_word(Word::at(at), u32::from_le_bytes(bytes));
            self.deliver(index);
        }
    }

    /// Reads the pending bits, which the guest cannot write.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in addresses_from(offset).zip(data) {
            let first = at.saturating_mul(8);
            let bit = |n: u64| usize::try_from(first.saturating_add(n)).ok();
            let is_pending =
                |n: u64| bit(n).and_then(|n| self.state.pending.get(n)).is_some_and(|&pending| pending);
            *byte = (0..8).filter(|&n| is_pending(n)).fold(0, |byte, n| byte | 1 << n);
        }
    }

    /// Puts table and pending bits back to their state after reset; to be called after the reset of configuration space.
    pub fn reset(&mut self, config: &ConfigSpace) {
        self.state.entries.fill(Entry::AFTER_RESET);
        self.state.pending.fill(false);
        self.sync(config);
    }

    /// The state, to be saved beside that of configuration space.
    pub fn save(&self) -> MsixState {
        self.state.clone()
    }

    /// Takes over a saved state; configuration space must have been loaded before.
    pub fn load(&mut self, mut state: MsixState, config: &ConfigSpace) {
        state.entries.resize(self.state.entries.len(), Entry::AFTER_RESET);
        state.pending.resize(self.state.pending.len(), false);
        self.state = state;
        self.sync(config);
    }

    fn entry_index(&self, offset: u64) -> Option<usize> {
        usize::try_from(offset / ENTRY_SIZE).ok().filter(|&index| index < self.state.entries.len())
    }

    /// Sends what is pending for a vector, if nothing holds it back.
    fn deliver(&mut self, vector: usize) {
        let entry = self.state.entries[vector];
        let open = self.control.contains(Control::ENABLE)
            && !self.control.contains(Control::FUNCTION_MASK)
            && self.bus_master
            && !entry.masked;
        if open && std::mem::take(&mut self.state.pending[vector]) {
            self.sink.send(entry.address, entry.data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Recorder;
    use crate::pci::config::Identity;

    const ENABLE: u8 = 0x80;
    const FUNCTION_MASK: u8 = 0x40;
    const DOORBELL: u64 = 0xfee0_1000;

    struct Bench {
        config: ConfigSpace,
        msix: Msix,
        sink: Arc<Recorder>,
    }

    fn bench(vectors: u16) -> Bench {
        let mut config = ConfigSpace::new(Identity {
            vendor: 1,
            device: 2,
            revision: 0,
            class: [0; 3],
            subsystem_vendor: 0,
            subsystem: 0,
        });
        let sink = Recorder::new();
        let msix = Msix::new(vectors, 4, 0, 0x8000, &mut config, sink.clone());
        let mut bench = Bench { config, msix, sink };
        bench.config_write(0x04, &[4]);
        bench
    }

    impl Bench {
        fn config_write(&mut self, offset: usize, data: &[u8]) {
            self.config.write(offset, data);
            self.msix.sync(&self.config);
        }

        fn control(&mut self, high_byte: u8) {
            self.config_write(0x43, &[high_byte]);
        }

        fn program(&mut self, vector: u64, data: u32) {
            self.msix.write_table(vector * 16, &DOORBELL.to_le_bytes());
            self.msix.write_table(vector * 16 + 8, &data.to_le_bytes());
        }

        fn mask(&mut self, vector: u64, masked: bool) {
            self.msix.write_table(vector * 16 + 12, &u32::from(masked).to_le_bytes());
        }

        fn pending(&self) -> u64 {
            let mut data = [0; 8];
            self.msix.read_pending(0, &mut data);
            u64::from_le_bytes(data)
        }
    }

    #[test]
    fn capability_tells_where_the_structures_are() {
        let b = bench(33);
        assert_eq!(b.config.read_u32(0x40), 0x0020_0011);
        assert_eq!(b.config.read_u32(0x44), 0x0000_0004);
        assert_eq!(b.config.read_u32(0x48), 0x0000_8004);
        assert_eq!((b.msix.table_size(), b.msix.pending_size()), (33 * 16, 8));
        assert_eq!(bench(65).msix.pending_size(), 16);
    }

    #[test]
    fn enabled_and_unmasked_vectors_send() {
        let mut b = bench(3);
        b.program(1, 0x41);
        b.mask(1, false);
        b.msix.notify(1);
        assert_eq!(b.sink.take_messages(), [], "not enabled");
        b.control(ENABLE);
        assert!(b.msix.is_enabled());
        assert_eq!(b.sink.take_messages(), [], "and not remembered");
        b.msix.notify(1);
        b.msix.notify(3);
        b.msix.notify(0xffff);
        assert_eq!(b.sink.take_messages(), [(DOORBELL, 0x41)]);
        assert_eq!(b.pending(), 0);
    }

    #[test]
    fn masked_vectors_wait_and_are_sent_once() {
        let mut b = bench(3);
        b.control(ENABLE | FUNCTION_MASK);
        for vector in 0..3 {
            b.program(vector, 0x50 + vector as u32);
        }
        b.mask(0, false);
        b.mask(2, false);
        for vector in [0, 1, 2, 2] {
            b.msix.notify(vector);
        }
        assert_eq!(b.pending(), 0b111);
        assert_eq!(b.sink.take_messages(), []);
        b.control(ENABLE);
        assert_eq!(b.sink.take_messages(), [(DOORBELL, 0x50), (DOORBELL, 0x52)]);
        assert_eq!(b.pending(), 0b010, "masked on its own");
        // The entry may change while it is masked.
        b.program(1, 0x99);
        b.mask(1, false);
        assert_eq!(b.sink.take_messages(), [(DOORBELL, 0x99)]);
        assert_eq!(b.pending(), 0);
    }

    #[test]
    fn without_bus_mastering_messages_wait() {
        let mut b = bench(1);
        b.control(ENABLE);
        b.program(0, 7);
        b.mask(0, false);
        b.config_write(0x04, &[0]);
        b.msix.notify(0);
        assert_eq!(b.sink.take_messages(), []);
        b.config_write(0x04, &[4]);
        assert_eq!(b.sink.take_messages(), [(DOORBELL, 7)]);
    }

    #[test]
    fn table_reads_back_at_every_width() {
        let mut b = bench(2);
        let mut data = [0; 8];
        b.msix.read_table(24, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 1, 0, 0, 0], "masked after reset");
        b.msix.write_table(16, &0x0123_4567_89ab_cdefu64.to_le_bytes());
        b.msix.read_table(16, &mut data);
        assert_eq!(u64::from_le_bytes(data), 0x0123_4567_89ab_cdec);
        b.msix.write_table(16, &[0xff]);
        b.msix.write_table(17, &[0xff; 4]);
        b.msix.write_table(28, &[0xfe, 0xff, 0xff, 0xff]);
        b.msix.read_table(24, &mut data);
        assert_eq!(data, [0; 8], "only the mask bit exists");
        b.msix.read_table(16, &mut data[..2]);
        assert_eq!(data[..2], [0xec, 0xcd]);
        b.msix.write_table(32, &[0; 4]);
        b.msix.read_table(30, &mut data[..4]);
        assert_eq!(data[..4], [0, 0, 0xff, 0xff], "beyond the table");
        b.msix.read_pending(u64::MAX - 3, &mut data);
        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn save_and_load_with_something_pending() {
        let mut b = bench(4);
        b.control(ENABLE);
        b.program(2, 0x77);
        b.msix.notify(2);
        let saved = rmp_serde::to_vec_named(&(b.config.save(), b.msix.save())).unwrap();
        let mut other = bench(4);
        let (config, state) = rmp_serde::from_slice(&saved).unwrap();
        other.config.load(&config);
        other.msix.load(state, &other.config);
        assert_eq!(other.pending(), 0b100);
        other.mask(2, false);
        assert_eq!(other.sink.take_messages(), [(DOORBELL, 0x77)]);
        other.config.reset();
        other.msix.reset(&other.config);
        assert!(!other.msix.is_enabled());
        assert_eq!(other.msix.save(), bench(4).msix.save());
        other.msix.load(MsixState { entries: Vec::new(), pending: vec![true; 9999] }, &other.config);
        assert_eq!(other.pending(), 0b1111);
    }
}
