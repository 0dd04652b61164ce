//! The root bus: which function sits where, and where the guest has mapped its address ranges.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::debug;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Slot;
use super::config::{BarKind, Command, ConfigSpace, Decoded, register};
use super::intx::{PIRQ_COUNT, PIRQ_NOT_ROUTED, Pin, pirq_of};
use crate::bus::{AddressSpace, Device};

/// Interrupt line of a pin that does not reach the PIC.
const LINE_UNKNOWN: u8 = 0xff;

/// A PCI function.
///
/// Lock order: the bus, then a function, then the table of an address space. So a function never asks for the bus.
pub trait PciDevice: Send {
    /// The name that address maps show.
    fn name(&self) -> &str;
    /// Configuration space.
    fn config(&self) -> &ConfigSpace;
    /// Configuration space, to be changed.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// The guest reads configuration space; `data.len()` is 1, 2 or 4.
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// The guest writes configuration space. A function whose state depends on its registers looks at them here.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config_mut().write(offset, data);
    }

    /// The guest reads at `offset` of the range of a base address register.
    fn read_bar(&mut self, _index: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// The guest writes at `offset` of the range of a base address register.
    fn write_bar(&mut self, _index: usize, _offset: u64, _data: &[u8]) {}

    /// The bus is reset.
    fn reset(&mut self) {
        self.config_mut().reset();
    }
}

/// A function as the bus holds it.
pub type SharedPciDevice = Arc<Mutex<dyn PciDevice>>;

/// Why a function cannot be plugged in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PCI slot {slot} holds {taken} already; choose another slot for {wanted}")]
pub struct SlotTaken {
    /// The slot.
    pub slot: Slot,
    /// What is there.
    pub taken: String,
    /// What was to go there.
    pub wanted: String,
}

/// Where a range of a function is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Port(u64),
    Memory(u64),
}

impl Place {
    fn of(decoded: &Decoded) -> Self {
        match decoded.bar.kind {
            BarKind::Io => Self::Port(decoded.base),
            _ => Self::Memory(decoded.base),
        }
    }
}

/// What the bus itself remembers; its functions save theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciBusState {
    /// The configuration address register of port 0xCF8.
    pub(super) config_address: u32,
}

/// The root bus.
pub struct PciBus {
    pub(super) state: PciBusState,
    functions: BTreeMap<Slot, SharedPciDevice>,
    /// What each base address register of each function is mapped at.
    mapped: BTreeMap<(Slot, usize), Place>,
    ports: Arc<AddressSpace>,
    memory: Arc<AddressSpace>,
}

impl PciBus {
    /// An empty bus whose functions answer in the two address spaces.
    pub fn new(ports: Arc<AddressSpace>, memory: Arc<AddressSpace>) -> Self {
        let state = PciBusState::default();
        Self { state, functions: BTreeMap::new(), mapped: BTreeMap::new(), ports, memory }
    }

    /// Plugs a function in.
    pub fn plug(&mut self, slot: Slot, device: SharedPciDevice) -> Result<(), SlotTaken> {
        if let Some(other) = self.functions.get(&slot) {
            let taken = other.lock().name().to_owned();
            return Err(SlotTaken { slot, taken, wanted: device.lock().name().to_owned() });
        }
        self.functions.insert(slot, device);
        // Function 0 tells whether it is worth looking for others.
        let siblings = self.functions.keys().filter(|other| other.device() == slot.device()).count();
        if siblings > 1
            && let Some(first) = self.functions.get(&Slot::new(slot.device(), 0))
        {
            first.lock().config_mut().set_multifunction();
        }
        self.update_mappings();
        Ok(())
    }

    /// The functions, by slot.
    pub fn functions(&self) -> impl Iterator<Item = (Slot, &SharedPciDevice)> {
        self.functions.iter().map(|(&slot, device)| (slot, device))
    }

    /// Reads `data.len()` (1, 2 or 4) bytes of a function's configuration space; all ones where there is none.
    pub fn read_config(&self, bus: u8, slot: Slot, offset: usize, data: &mut [u8]) {
        match self.function(bus, slot) {
            Some(device) => device.lock().read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes a function's configuration space, and moves its address ranges when that asks for it.
    pub fn write_config(&mut self, bus: u8, slot: Slot, offset: usize, data: &[u8]) {
        let Some(device) = self.function(bus, slot) else { return };
        let moved = {
            let mut device = device.lock();
            let before = device.config().decoded();
            device.write_config(offset, data);
            device.config().decoded() != before
        };
        if moved {
            self.update_mappings();
        }
    }

    /// Resets the bus and everything on it.
    pub fn reset(&mut self) {
        self.state = PciBusState::default();
        for device in self.functions.values() {
            device.lock().reset();
        }
        self.update_mappings();
    }

    /// Does what firmware does with the functions' address ranges: places each in the window (first, last address) for
    /// its kind, largest first, and enables it. What does not fit stays off, and its function is returned.
    pub fn assign_ranges(&mut self, ports: (u64, u64), memory: (u64, u64)) -> Vec<(Slot, usize)> {
        let mut wanted: Vec<_> = self
            .functions
            .iter()
            .flat_map(|(&slot, device)| {
                device.lock().config().bars().map(|(index, bar)| (bar, slot, index)).collect::<Vec<_>>()
            })
            .collect();
        wanted.sort_by_key(|&(bar, slot, index)| (std::cmp::Reverse(bar.size), slot, index));
        let (mut next_port, mut next_memory) = (ports.0, memory.0);
        let mut left_over = Vec::new();
        for (bar, slot, index) in wanted {
            let (next, last, enable) = match bar.kind {
                BarKind::Io => (&mut next_port, ports.1, Command::IO),
                _ => (&mut next_memory, memory.1, Command::MEMORY),
            };
            let base = next.checked_next_multiple_of(bar.size);
            let Some((base, end)) = base.and_then(|base| Some((base, base.checked_add(bar.size - 1)?)))
            else {
                left_over.push((slot, index));
                continue;
            };
            if end > last {
                left_over.push((slot, index));
                continue;
            }
            *next = end.saturating_add(1);
            let offset = register::BAR0 + 4 * index;
            self.write_config(0, slot, offset, &(base as u32).to_le_bytes());
            if matches!(bar.kind, BarKind::Memory64 | BarKind::Memory64Prefetchable) {
                self.write_config(0, slot, offset + 4, &((base >> 32) as u32).to_le_bytes());
            }
            if let Some(device) = self.function(0, slot) {
                let command = device.lock().config().command() | enable;
                self.write_config(0, slot, register::COMMAND, &command.bits().to_le_bytes());
            }
        }
        left_over
    }

    /// Does what firmware does for drivers that use the PIC: notes in each function which interrupt its pin reaches, given
    /// the route registers of the ISA bridge.
    pub fn note_interrupt_lines(&mut self, routes: [u8; PIRQ_COUNT]) {
        for (slot, device) in &self.functions {
            let mut device = device.lock();
            if let Some(pin) = Pin::from_number(device.config().read_u8(register::INTERRUPT_PIN)) {
                let route = routes[pirq_of(slot.device(), pin)];
                let line = if route & PIRQ_NOT_ROUTED == 0 { route } else { LINE_UNKNOWN };
                device.write_config(register::INTERRUPT_LINE, &[line]);
            }
        }
    }

    /// The state, to be saved.
    pub fn save(&self) -> PciBusState {
        self.state
    }

    /// Takes over a saved state and maps what the functions decode; they must have been loaded before.
    pub fn load(&mut self, state: PciBusState) {
        self.state = state;
        self.update_mappings();
    }

    fn function(&self, bus: u8, slot: Slot) -> Option<&SharedPciDevice> {
        if bus == 0 { self.functions.get(&slot) } else { None }
    }

    /// Makes the address spaces agree with what the functions decode. A range that is in another's way waits until that
    /// has gone.
    fn update_mappings(&mut self) {
        let mut wanted = BTreeMap::new();
        for (&slot, device) in &self.functions {
            for decoded in device.lock().config().decoded() {
                wanted.insert((slot, decoded.index), decoded);
            }
        }
        let (ports, memory) = (&self.ports, &self.memory);
        self.mapped.retain(|key, &mut place| {
            let stays = wanted.get(key).is_some_and(|decoded| Place::of(decoded) == place);
            if !stays {
                match place {
                    Place::Port(base) => ports.remove(base),
                    Place::Memory(base) => memory.remove(base),
                };
            }
            stays
        });
        for (key, decoded) in wanted {
            let (slot, index) = key;
            let Some(device) = self.functions.get(&slot) else { continue };
            if self.mapped.contains_key(&key) {
                continue;
            }
            let label = format!("{} {slot} BAR {index}", device.lock().name());
            let window = Arc::new(Mutex::new(BarWindow { device: device.clone(), index }));
            let place = Place::of(&decoded);
            let space = match place {
                Place::Port(_) => ports,
                Place::Memory(_) => memory,
            };
            match space.insert(decoded.base, decoded.bar.size, &label, window) {
                Ok(()) => drop(self.mapped.insert(key, place)),
                Err(overlap) => debug!("PCI: {overlap}"),
            }
        }
    }
}

/// A range of a function in an address space.
struct BarWindow {
    device: SharedPciDevice,
    index: usize,
}

impl Device for BarWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.device.lock().read_bar(self.index, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.device.lock().write_bar(self.index, offset, data);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pci::config::Identity;

    /// A function with 256 ports, 4 KiB below 4 GiB and 64 KiB anywhere; reads give the number of the BAR.
    pub(crate) struct Probe {
        pub(crate) config: ConfigSpace,
        pub(crate) writes: Vec<(usize, u64, Vec<u8>)>,
    }

    impl Probe {
        pub(crate) fn new(device: u16) -> Arc<Mutex<Self>> {
            let config = ConfigSpace::new(Identity {
                vendor: 0x1234,
                device,
                revision: 0,
                class: [0xff, 0, 0],
                subsystem_vendor: 0,
                subsystem: 0,
            })
            .with_bar(0, BarKind::Io, 256)
            .with_bar(1, BarKind::Memory32, 0x1000)
            .with_bar(2, BarKind::Memory64, 0x1_0000)
            .with_interrupt_pin(Pin::B);
            Arc::new(Mutex::new(Self { config, writes: Vec::new() }))
        }
    }

    impl PciDevice for Probe {
        fn name(&self) -> &str {
            "probe"
        }

        fn config(&self) -> &ConfigSpace {
            &self.config
        }

        fn config_mut(&mut self) -> &mut ConfigSpace {
            &mut self.config
        }

        fn read_bar(&mut self, index: usize, _offset: u64, data: &mut [u8]) {
            data.fill(index as u8);
        }

        fn write_bar(&mut self, index: usize, offset: u64, data: &[u8]) {
            self.writes.push((index, offset, data.to_vec()));
        }
    }

    struct Bench {
        bus: PciBus,
        ports: Arc<AddressSpace>,
        memory: Arc<AddressSpace>,
    }

    fn bench() -> Bench {
        let (ports, memory) = (Arc::new(AddressSpace::new("ports")), Arc::new(AddressSpace::new("memory")));
        Bench { bus: PciBus::new(ports.clone(), memory.clone()), ports, memory }
    }

    impl Bench {
        fn write32(&mut self, slot: Slot, offset: usize, value: u32) {
            self.bus.write_config(0, slot, offset, &value.to_le_bytes());
        }

        fn read32(&self, bus: u8, slot: Slot, offset: usize) -> u32 {
            let mut data = [0; 4];
            self.bus.read_config(bus, slot, offset, &mut data);
            u32::from_le_bytes(data)
        }

        fn memory_byte(&self, addr: u64) -> u8 {
            let mut data = [0];
            self.memory.read(addr, &mut data);
            data[0]
        }
    }

    const FIRST: Slot = Slot::new(3, 0);
    const SECOND: Slot = Slot::new(4, 0);

    #[test]
    fn absent_functions_read_as_ones() {
        let mut b = bench();
        b.bus.plug(FIRST, Probe::new(1)).unwrap();
        assert_eq!(b.read32(0, FIRST, 0), 0x0001_1234);
        assert_eq!(b.read32(0, SECOND, 0), u32::MAX);
        assert_eq!(b.read32(0, Slot::new(3, 1), 0), u32::MAX);
        assert_eq!(b.read32(1, FIRST, 0), u32::MAX, "another bus");
        b.bus.write_config(1, FIRST, 4, &[7]);
        assert_eq!(b.read32(0, FIRST, 4), 0);
        let error = b.bus.plug(FIRST, Probe::new(2)).unwrap_err();
        assert_eq!(error.to_string(), "PCI slot 00:03.0 holds probe already; choose another slot for probe");
    }

    #[test]
    fn second_function_makes_the_device_multifunction() {
        let mut b = bench();
        b.bus.plug(Slot::new(5, 2), Probe::new(3)).unwrap();
        b.bus.plug(Slot::new(5, 0), Probe::new(1)).unwrap();
        assert_eq!(b.read32(0, Slot::new(5, 0), 0x0c), 0x0080_0000);
        b.bus.plug(FIRST, Probe::new(1)).unwrap();
        assert_eq!(b.read32(0, FIRST, 0x0c), 0);
    }

    #[test]
    fn ranges_follow_their_registers() {
        let mut b = bench();
        let device = Probe::new(1);
        b.bus.plug(FIRST, device.clone()).unwrap();
        b.write32(FIRST, 0x10, 0xc000);
        b.write32(FIRST, 0x14, 0xfeb0_0000);
        b.write32(FIRST, 0x18, 0x1234_0000);
        b.write32(FIRST, 0x1c, 0x0000_0080);
        assert!(b.memory.map().is_empty());
        b.bus.write_config(0, FIRST, 4, &[3]);
        assert_eq!(b.memory_byte(0xfeb0_0fff), 1);
        assert_eq!(b.memory_byte(0x80_1234_0000), 2);
        b.ports.write(0xc0ff, &[9]);
        assert_eq!(device.lock().writes, [(0, 0xff, vec![9])]);
        b.write32(FIRST, 0x14, 0xfeb1_0000);
        assert_eq!((b.memory_byte(0xfeb0_0000), b.memory_byte(0xfeb1_0000)), (0xff, 1));
        // Sizing with decoding left on moves the range to the top for a moment.
        b.write32(FIRST, 0x14, u32::MAX);
        assert_eq!(b.read32(0, FIRST, 0x14), 0xffff_f000);
        b.write32(FIRST, 0x14, 0xfeb1_0000);
        assert_eq!(b.memory_byte(0xfeb1_0000), 1);
        b.bus.write_config(0, FIRST, 4, &[0]);
        assert!(b.memory.map().is_empty() && b.ports.map().is_empty());
    }

    #[test]
    fn a_range_in_the_way_waits() {
        let mut b = bench();
        b.bus.plug(FIRST, Probe::new(1)).unwrap();
        b.bus.plug(SECOND, Probe::new(2)).unwrap();
        for slot in [FIRST, SECOND] {
            b.write32(slot, 0x14, 0xfeb0_0000);
            b.bus.write_config(0, slot, 4, &[2]);
        }
        assert_eq!(b.memory.label_at(0xfeb0_0000).as_deref(), Some("probe 00:03.0 BAR 1"));
        b.write32(FIRST, 0x14, 0xfeb1_0000);
        assert_eq!(b.memory.label_at(0xfeb0_0000).as_deref(), Some("probe 00:04.0 BAR 1"));
        assert_eq!(b.memory.label_at(0xfeb1_0000).as_deref(), Some("probe 00:03.0 BAR 1"));
        // The two change places, which takes a moment in which one is in the other's way.
        b.write32(FIRST, 0x14, 0xfeb0_0000);
        b.write32(SECOND, 0x14, 0xfeb1_0000);
        assert_eq!(b.memory.label_at(0xfeb0_0000).as_deref(), Some("probe 00:03.0 BAR 1"));
        assert_eq!(b.memory.label_at(0xfeb1_0000).as_deref(), Some("probe 00:04.0 BAR 1"));
    }

    #[test]
    fn firmware_assignment_places_everything_that_fits() {
        let mut b = bench();
        for device in 0..4 {
            b.bus.plug(Slot::new(device, 0), Probe::new(device.into())).unwrap();
        }
        let left_over = b.bus.assign_ranges((0xc001, 0xc2ff), (0xe000_8000, 0xe003_ffff));
        assert_eq!(b.ports.map().iter().map(|entry| entry.base).collect::<Vec<_>>(), [0xc100, 0xc200]);
        let bases: Vec<_> = b.memory.map().iter().map(|entry| entry.base).collect();
        assert_eq!(bases, [0xe001_0000, 0xe002_0000, 0xe003_0000], "64 KiB each, no room behind them");
        assert_eq!(left_over.len(), 12 - 5);
        assert_eq!(b.read32(0, Slot::new(0, 0), 4) & 3, 3);
    }

    #[test]
    fn interrupt_lines_are_noted_for_drivers() {
        let mut b = bench();
        b.bus.plug(FIRST, Probe::new(1)).unwrap();
        b.bus.plug(SECOND, Probe::new(2)).unwrap();
        b.bus.note_interrupt_lines([10, PIRQ_NOT_ROUTED, 5, 11]);
        assert_eq!((b.read32(0, FIRST, 0x3c), b.read32(0, SECOND, 0x3c)), (0x020a, 0x02ff));
    }

    #[test]
    fn reset_and_load_put_the_ranges_where_they_belong() {
        let mut b = bench();
        let device = Probe::new(1);
        b.bus.plug(FIRST, device.clone()).unwrap();
        b.write32(FIRST, 0x14, 0xfeb0_0000);
        b.bus.write_config(0, FIRST, 4, &[2]);
        let saved = rmp_serde::to_vec_named(&(b.bus.save(), device.lock().config.save())).unwrap();
        b.bus.reset();
        assert!(b.memory.map().is_empty());

        let mut other = bench();
        let device = Probe::new(1);
        other.bus.plug(FIRST, device.clone()).unwrap();
        let (bus, config) = rmp_serde::from_slice(&saved).unwrap();
        device.lock().config.load(&config);
        other.bus.load(bus);
        assert_eq!(other.memory_byte(0xfeb0_0000), 1);
    }

    #[test]
    fn address_spaces_stay_consistent_whatever_is_written() {
        let mut b = bench();
        b.memory.insert(0xfee0_0000, 0x1000, "interrupts", Arc::new(Mutex::new(Nothing))).unwrap();
        for device in 0..3 {
            b.bus.plug(Slot::new(device, 0), Probe::new(device.into())).unwrap();
        }
        let mut seed = 1u32;
        let mut next = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        let interesting = [0, 2, 3, 0xfee0_0000, 0xfee0_1000, 0xffff_ffff, 0xc000, 0x1_0000];
        for _ in 0..5_000 {
            let value = interesting[next() as usize % interesting.len()];
            let offset = 4 * (1 + next() as usize % 7);
            b.write32(Slot::new((next() % 3) as u8, 0), offset, value);
            let held = b.memory.map().len() + b.ports.map().len();
            assert_eq!(held, 1 + b.bus.mapped.len());
        }
        b.bus.reset();
        assert_eq!(b.memory.map().len() + b.ports.map().len(), 1);
    }

    struct Nothing;

    impl Device for Nothing {
        fn read(&mut self, _: u64, _: &mut [u8]) {}
        fn write(&mut self, _: u64, _: &[u8]) {}
    }
}
