//! The chips of this crate in the places of a q35, seen through the address spaces as a guest sees them.

use std::sync::Arc;

use parking_lot::Mutex;
use softmetal_devices::bus::{AddressSpace, SharedDevice};
use softmetal_devices::char::Capture;
use softmetal_devices::chipset::acpi_pm::{self, AcpiPm, PmTimerWidth, SmiCommand};
use softmetal_devices::chipset::debug_console::{DEBUG_CONSOLE_PORT, DebugConsole};
use softmetal_devices::chipset::debug_exit::{DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit};
use softmetal_devices::chipset::i8042::{self, CommandPort, DataPort, I8042};
use softmetal_devices::chipset::reset::{ResetControl, SYSTEM_CONTROL_A_PORT, SystemControlA};
use softmetal_devices::chipset::uart::{COM1, COM1_IRQ, UART_PORTS, Uart};
use softmetal_devices::clock::{Alarm, Clock};
use softmetal_devices::irq::Recorder;
use softmetal_devices::pci::access::{CONFIG_PORT, CONFIG_PORTS, ConfigPorts, ECAM_SIZE, Ecam};
use softmetal_devices::pci::bus::PciDevice;
use softmetal_devices::pci::config::{BarKind, ConfigSpace, Identity};
use softmetal_devices::pci::host_bridge::{HOST_BRIDGE_SLOT, HostBridge};
use softmetal_devices::pci::isa_bridge::{ISA_BRIDGE_SLOT, IsaBridge};
use softmetal_devices::pci::{Intx, IntxRouter, Msix, PciBus, Pin, Slot};
use softmetal_devices::power::PowerSink;

const ECAM_BASE: u64 = 0xb000_0000;
const CARD: Slot = Slot::new(2, 0);

/// Wishes as text, in order.
#[derive(Default)]
struct Power(Mutex<Vec<String>>);

impl PowerSink for Power {
    fn power_off(&self) {
        self.0.lock().push("off".into());
    }

    fn reset(&self) {
        self.0.lock().push("reset".into());
    }

    fn debug_exit(&self, value: u8) {
        self.0.lock().push(format!("exit {value}"));
    }
}

/// A card with two MSI-X vectors and a pin: a write at offset 0 of its registers asks for an interrupt.
struct Card {
    config: ConfigSpace,
    msix: Msix,
    intx: Intx,
}

const TABLE: u64 = 0x1000;
const PENDING: u64 = 0x2000;

impl Card {
    fn new(irqs: &Arc<Recorder>, router: &Arc<IntxRouter>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1041,
            revision: 1,
            class: [0x02, 0, 0],
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        })
        .with_bar(0, BarKind::Memory64Prefetchable, 0x4000)
        .with_interrupt_pin(Pin::A);
        let msix = Msix::new(2, 0, TABLE as u32, PENDING as u32, &mut config, irqs.clone());
        Self { config, msix, intx: Intx::new(router.line(CARD, Pin::A)) }
    }
}

impl PciDevice for Card {
    fn name(&self) -> &str {
        "card"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        self.msix.sync(&self.config);
        self.intx.sync(&mut self.config);
    }

    fn read_bar(&mut self, _index: usize, offset: u64, data: &mut [u8]) {
        match offset {
            TABLE..PENDING => self.msix.read_table(offset - TABLE, data),
            PENDING.. => self.msix.read_pending(offset - PENDING, data),
            _ => data.fill(0),
        }
    }

    fn write_bar(&mut self, _index: usize, offset: u64, data: &[u8]) {
        match offset {
            0 if self.msix.is_enabled() => self.msix.notify(data[0].into()),
            0 => self.intx.set(data[0] != 0, &mut self.config),
            TABLE..PENDING => self.msix.write_table(offset - TABLE, data),
            _ => {}
        }
    }
}

struct Board {
    ports: Arc<AddressSpace>,
    memory: Arc<AddressSpace>,
    irqs: Arc<Recorder>,
    power: Arc<Power>,
    serial: Capture,
    console: Capture,
    pci: Arc<Mutex<PciBus>>,
}

fn shared<T: softmetal_devices::bus::Device + 'static>(device: T) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

fn board() -> Board {
    let (ports, memory) = (Arc::new(AddressSpace::new("ports")), Arc::new(AddressSpace::new("memory")));
    let (irqs, clock, power) = (Recorder::new(), Clock::manual(1_000_000_000), Arc::new(Power::default()));
    let (serial, console) = (Capture::default(), Capture::default());
    let port = |base, len, label, device| ports.insert(base, len, label, device).unwrap();

    let uart = Uart::new(irqs.line(COM1_IRQ), clock.clone(), Alarm::silent(), Box::new(serial.clone()));
    port(COM1, UART_PORTS, "serial port 1", shared(uart));

    let keyboard = I8042::new(irqs.line(i8042::KEYBOARD_IRQ), irqs.line(i8042::MOUSE_IRQ), power.clone());
    let keyboard = Arc::new(Mutex::new(keyboard));
    port(i8042::DATA_PORT, 1, "keyboard data", shared(DataPort(keyboard.clone())));
    port(i8042::COMMAND_PORT, 1, "keyboard command", shared(CommandPort(keyboard)));

    let sci = irqs.line(acpi_pm::SCI_IRQ);
    let pm = AcpiPm::new(sci, clock, Alarm::silent(), power.clone(), PmTimerWidth::Bits32);
    let pm = Arc::new(Mutex::new(pm));
    port(acpi_pm::PM_BASE, acpi_pm::PM_PORTS, "ACPI", pm.clone());
    port(acpi_pm::SMI_COMMAND_PORT, acpi_pm::SMI_PORTS, "SMI command", shared(SmiCommand::new(pm)));

    port(SYSTEM_CONTROL_A_PORT, 1, "system control A", shared(SystemControlA::new(power.clone())));
    port(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, "debug exit", shared(DebugExit::new(power.clone())));
    port(DEBUG_CONSOLE_PORT, 1, "debug console", shared(DebugConsole::new(Box::new(console.clone()))));

    let router = IntxRouter::new(irqs.clone());
    let mut pci = PciBus::new(ports.clone(), memory.clone());
    pci.plug(HOST_BRIDGE_SLOT, Arc::new(Mutex::new(HostBridge::new(ECAM_BASE, Box::new(|_| ()))))).unwrap();
    pci.plug(ISA_BRIDGE_SLOT, Arc::new(Mutex::new(IsaBridge::new(router.clone())))).unwrap();
    pci.plug(CARD, Arc::new(Mutex::new(Card::new(&irqs, &router)))).unwrap();
    let pci = Arc::new(Mutex::new(pci));
    let reset = Arc::new(Mutex::new(ResetControl::new(power.clone())));
    port(CONFIG_PORT, CONFIG_PORTS, "PCI configuration", shared(ConfigPorts::new(pci.clone(), reset)));
    memory.insert(ECAM_BASE, ECAM_SIZE, "PCI configuration", shared(Ecam::new(pci.clone()))).unwrap();
    Board { ports, memory, irqs, power, serial, console, pci }
}

impl Board {
    fn in32(&self, port: u64) -> u32 {
        let mut data = [0; 4];
        self.ports.read(port, &mut data);
        u32::from_le_bytes(data)
    }

    fn read32(&self, addr: u64) -> u32 {
        let mut data = [0; 4];
        self.memory.read(addr, &mut data);
        u32::from_le_bytes(data)
    }

    fn write32(&self, addr: u64, value: u32) {
        self.memory.write(addr, &value.to_le_bytes());
    }

    fn config_by_ports(&self, slot: Slot, register: u32) -> u32 {
        let address = 1 << 31 | u32::from(slot.devfn()) << 8 | register;
        self.ports.write(CONFIG_PORT, &address.to_le_bytes());
        self.in32(CONFIG_PORT + 4)
    }
}

fn ecam(slot: Slot, register: u64) -> u64 {
    ECAM_BASE + (u64::from(slot.devfn()) << 12) + register
}

#[test]
fn both_ways_to_configuration_space_find_the_same_functions() {
    let board = board();
    let mut found = Vec::new();
    for devfn in 0..=255 {
        let slot = Slot::from_devfn(devfn);
        let id = board.config_by_ports(slot, 0);
        assert_eq!(board.read32(ecam(slot, 0)), id);
        if id != u32::MAX {
            found.push((slot.to_string(), id));
        }
    }
    let expected = [("00:00.0", 0x29c0_8086), ("00:02.0", 0x1041_1af4), ("00:1f.0", 0x2918_8086)];
    assert_eq!(found, expected.map(|(slot, id)| (slot.to_owned(), id)));
}

#[test]
fn a_card_is_placed_and_interrupts_by_pin_and_by_message() {
    let board = board();
    let base = 0x40_0000_0000u64;
    board.memory.write(ecam(CARD, 0x10), &base.to_le_bytes());
    board.write32(ecam(CARD, 0x04), 0x0006);
    assert_eq!(board.memory.label_at(base).as_deref(), Some("card 00:02.0 BAR 0"));

    board.write32(base, 1);
    assert!(board.irqs.level(18), "slot 2, pin A");
    assert_eq!(board.read32(ecam(CARD, 0x04)) >> 16 & 8, 8);
    board.write32(ecam(ISA_BRIDGE_SLOT, 0x60), 0x0b0a_0b0a);
    assert!(board.irqs.level(10), "and at the PIC, once routed");
    board.write32(base, 0);
    assert!(!board.irqs.level(18) && !board.irqs.level(10));

    // The vector control first: an entry may be written in any order while the function is masked.
    board.write32(ecam(CARD, 0x40), 0xc000_0000);
    board.write32(base + TABLE + 16 + 12, 0);
    board.memory.write(base + TABLE + 16, &0xfee0_0000u64.to_le_bytes());
    board.write32(base + TABLE + 16 + 8, 0x31);
    board.write32(base, 1);
    assert_eq!(board.read32(base + PENDING), 0b10);
    assert_eq!(board.irqs.take_messages(), []);
    board.write32(ecam(CARD, 0x40), 0x8000_0000);
    assert_eq!(board.irqs.take_messages(), [(0xfee0_0000, 0x31)]);
    assert!(!board.irqs.level(18), "the pin stays quiet");
}

#[test]
fn firmware_style_placement_reaches_the_card() {
    let board = board();
    let left_over = board.pci.lock().assign_ranges((0xc000, 0xffff), (0xe000_0000, 0xfebf_ffff));
    assert_eq!(left_over, []);
    assert_eq!(board.memory.label_at(0xe000_0000).as_deref(), Some("card 00:02.0 BAR 0"));
}

#[test]
fn ports_reach_their_chips_at_every_width() {
    let board = board();
    for &byte in b"hi" {
        board.ports.write(COM1, &[byte]);
        board.ports.write(DEBUG_CONSOLE_PORT, &[byte]);
    }
    assert_eq!((board.serial.take(), board.console.take()), (b"hi".to_vec(), b"hi".to_vec()));
    // LSR and MSR in one word.
    let mut data = [0; 2];
    board.ports.read(COM1 + 5, &mut data);
    assert_eq!(data, [0x60, 0xb0]);
    // Keyboard status, with nothing behind it.
    board.ports.read(i8042::COMMAND_PORT, &mut data);
    assert_eq!(data, [0x14, 0xff]);
    assert_eq!(board.in32(0x80), u32::MAX);
}

#[test]
fn every_way_to_end_a_machine_arrives() {
    let board = board();
    board.ports.write(DEBUG_EXIT_PORT, &0x10u32.to_le_bytes());
    board.ports.write(0xcf9, &[0x02]);
    board.ports.write(0xcf9, &[0x06]);
    board.ports.write(i8042::COMMAND_PORT, &[0xfe]);
    board.ports.write(SYSTEM_CONTROL_A_PORT, &[0x03]);
    board.ports.write(acpi_pm::PM1A_CONTROL_PORT, &0x2000u16.to_le_bytes());
    assert_eq!(*board.power.0.lock(), ["exit 16", "reset", "reset", "reset", "off"]);
}
