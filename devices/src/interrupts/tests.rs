//! The fabric as vCPUs and devices see it.

use super::*;
use crate::chipset::lapic::{X2APIC_MSR_BASE, apic_base};

const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const TPR: u64 = 0x80;
const PPR: u64 = 0xa0;
const EOI: u64 = 0xb0;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const SVR: u64 = 0xf0;
const ISR_40: u64 = 0x120;
const IRR_40: u64 = 0x220;
const ESR: u64 = 0x280;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const LVT_ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

const MASKED: u32 = 1 << 16;
const ENABLED: u32 = 0x1ff;
const DIVIDE_BY_1: u32 = 0b1011;

#[derive(Default)]
struct Woken(Mutex<Vec<(usize, CpuEvent)>>);

impl Wake for Woken {
    fn wake(&self, cpu: usize, event: CpuEvent) {
        self.0.lock().push((cpu, event));
    }
}

struct Board {
    clock: Arc<Clock>,
    woken: Arc<Woken>,
    irq: Arc<Interrupts>,
}

impl Board {
    /// Local APICs enabled by software, in flat logical mode.
    fn new(cpus: usize) -> Board {
        let board = Board::after_reset(cpus);
        for cpu in 0..cpus {
            board.write(cpu, SVR, ENABLED);
            board.write(cpu, LDR, 1 << (24 + cpu % 8));
        }
        board
    }

    fn after_reset(cpus: usize) -> Board {
        let clock = Clock::manual(2_000_000_000);
        let woken = Arc::new(Woken::default());
        let irq = Interrupts::new(cpus, clock.clone(), woken.clone());
        Board { clock, woken, irq }
    }

    fn x2apic(cpus: usize) -> Board {
        let board = Board::new(cpus);
        for cpu in 0..cpus {
            let base = board.irq.apic_base(cpu);
            board.irq.set_apic_base(cpu, base | apic_base::EXTD).unwrap();
        }
        board
    }

    fn read(&self, cpu: usize, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.irq.mmio_read(cpu, offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, cpu: usize, offset: u64, value: u32) {
        self.irq.mmio_write(cpu, offset, &value.to_le_bytes());
    }

    fn wrmsr(&self, cpu: usize, offset: u64, value: u64) -> Result<(), Gp> {
        self.irq.x2apic_write(cpu, X2APIC_MSR_BASE + (offset >> 4) as u32, value)
    }

    fn rdmsr(&self, cpu: usize, offset: u64) -> Result<u64, Gp> {
        self.irq.x2apic_read(cpu, X2APIC_MSR_BASE + (offset >> 4) as u32)
    }

    fn ipi(&self, cpu: usize, destination: u32, low: u32) {
        self.write(cpu, ICR_HIGH, destination << 24);
        self.write(cpu, ICR_LOW, low);
    }

    fn fixed(&self, vector: u8) {
        self.irq.send(0xfee0_0000, vector.into());
    }

    fn take_woken(&self) -> Vec<(usize, CpuEvent)> {
        std::mem::take(&mut self.woken.0.lock())
    }

    /// The CPUs that have an interrupt; each acknowledges and ends it.
    fn take_interrupts(&self) -> Vec<(usize, u8)> {
        self.take_woken();
        let cpus = (0..self.irq.cpus()).filter(|cpu| self.irq.has_interrupt(*cpu));
        cpus.map(|cpu| {
            let vector = self.irq.acknowledge(cpu).unwrap();
            let _ = self.wrmsr(cpu, EOI, 0);
            self.write(cpu, EOI, 0);
            (cpu, vector)
        })
        .collect()
    }

    fn advance(&self, ns: u64) {
        self.clock.advance(ns);
        self.irq.expire(self.clock.now());
    }

    fn ioapic(&self, pin: u32, entry: u64) {
        let mut window = self.irq.ioapic_window();
        for (index, value) in [(0x11 + 2 * pin, (entry >> 32) as u32), (0x10 + 2 * pin, entry as u32)] {
            window.write(0x00, &index.to_le_bytes());
            window.write(0x10, &value.to_le_bytes());
        }
    }

    fn ioapic_low(&self, pin: u32) -> u32 {
        let mut window = self.irq.ioapic_window();
        window.write(0x00, &(0x10 + 2 * pin).to_le_bytes());
        let mut data = [0; 4];
        window.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    fn initialise_pic(&self) {
        for (block, base, wiring) in [(PicBlock::Master, 0x30, 4), (PicBlock::Slave, 0x38, 2)] {
            let mut ports = self.irq.pic_ports(block);
            ports.write(0, &[0x11]);
            for value in [base, wiring, 1, 0] {
                ports.write(1, &[value]);
            }
        }
    }
}

#[test]
fn registers_after_power_on() {
    let board = Board::after_reset(2);
    assert_eq!(board.irq.apic_base(0), 0xfee0_0900);
    assert_eq!(board.irq.apic_base(1), 0xfee0_0800);
    assert_eq!((board.read(0, ID), board.read(1, ID)), (0, 1 << 24));
    assert_eq!(board.read(0, VERSION), 0x0106_0014);
    assert_eq!((board.read(0, SVR), board.read(0, DFR), board.read(0, TPR)), (0xff, u32::MAX, 0));
    for lvt in [0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
        assert_eq!(board.read(0, lvt), MASKED);
    }
    board.write(0, LVT_TIMER, 0x41);
    assert_eq!(board.read(0, LVT_TIMER), MASKED | 0x41, "masked while disabled by software");
    board.fixed(0x41);
    assert!(!board.irq.has_interrupt(0));
}

#[test]
fn interrupts_nest_by_class() {
    let board = Board::new(1);
    board.fixed(0x41);
    board.fixed(0x45);
    assert_eq!(board.take_woken(), [(0, CpuEvent::Interrupt)], "one wake for both");
    assert_eq!(board.read(0, IRR_40), 1 << 1 | 1 << 5);
    assert_eq!(board.irq.acknowledge(0), Some(0x45));
    assert_eq!((board.read(0, IRR_40), board.read(0, ISR_40), board.read(0, PPR)), (1 << 1, 1 << 5, 0x40));
    assert!(!board.irq.has_interrupt(0), "the same class waits");
    assert_eq!(board.irq.acknowledge(0), None);
    board.fixed(0x51);
    assert_eq!(board.take_woken(), [(0, CpuEvent::Interrupt)]);
    assert_eq!(board.irq.acknowledge(0), Some(0x51));
    board.write(0, EOI, 0);
    assert!(!board.irq.has_interrupt(0));
    board.write(0, EOI, 0);
    assert_eq!(board.irq.acknowledge(0), Some(0x41));
}

#[test]
fn task_priority_holds_back_and_cr8_is_its_upper_half() {
    let board = Board::new(1);
    board.irq.set_cr8(0, 4);
    assert_eq!((board.read(0, TPR), board.read(0, PPR)), (0x40, 0x40));
    board.fixed(0x4f);
    assert!(!board.irq.has_interrupt(0));
    board.write(0, TPR, 0x3f);
    assert_eq!(board.irq.cr8(0), 3);
    assert!(board.irq.has_interrupt(0));
    assert_eq!(board.take_woken(), [(0, CpuEvent::Interrupt)]);
}

#[test]
fn one_shot_timer_and_its_mask() {
    let board = Board::new(1);
    board.write(0, DIVIDE, DIVIDE_BY_1);
    board.write(0, LVT_TIMER, 0x41);
    board.write(0, INITIAL_COUNT, 1_000);
    assert_eq!(board.irq.deadline(), Some(40_000));
    board.advance(39_999);
    assert_eq!((board.read(0, CURRENT_COUNT), board.irq.has_interrupt(0)), (1, false));
    board.advance(1);
    assert_eq!(board.take_interrupts(), [(0, 0x41)]);
    assert_eq!((board.irq.deadline(), board.read(0, CURRENT_COUNT)), (None, 0));

    board.write(0, LVT_TIMER, 0x41 | MASKED);
    board.write(0, INITIAL_COUNT, 10);
    board.advance(1_000);
    assert!(!board.irq.has_interrupt(0));
}

#[test]
fn the_timer_calibrates_against_the_tsc() {
    let board = Board::new(1);
    board.write(0, DIVIDE, 0b0011);
    board.write(0, LVT_TIMER, MASKED);
    board.write(0, INITIAL_COUNT, u32::MAX);
    let tsc = board.clock.tsc();
    board.advance(50_000_000);
    let ticks = u64::from(u32::MAX - board.read(0, CURRENT_COUNT)) * 16;
    let cycles = board.clock.tsc() - tsc;
    assert_eq!(ticks, APIC_TIMER_HZ * cycles / board.clock.tsc_hz());
}

#[test]
fn periodic_timer_rings_the_alarm_when_it_is_set_and_not_each_period() {
    let board = Board::new(2);
    let rung = Arc::new(Mutex::new(Vec::new()));
    let heard = rung.clone();
    board.irq.set_alarm(Alarm::new(move |deadline| heard.lock().push(deadline)));
    board.write(1, DIVIDE, DIVIDE_BY_1);
    board.write(1, LVT_TIMER, 0x50 | 0b01 << 17);
    board.write(1, INITIAL_COUNT, 25_000);
    assert_eq!((board.irq.deadline_of(0), board.irq.deadline_of(1)), (None, Some(1_000_000)));
    for _ in 0..5 {
        board.advance(1_000_000);
        assert_eq!(board.take_interrupts(), [(1, 0x50)]);
    }
    assert_eq!(*rung.lock(), [1_000_000]);
}

#[test]
fn tsc_deadline_mode() {
    let board = Board::new(1);
    board.irq.set_tsc_deadline(0, 1_000, 0);
    assert_eq!(board.irq.tsc_deadline(0), 0, "ignored outside its mode");
    board.write(0, LVT_TIMER, 0x41 | 0b10 << 17);
    board.irq.set_tsc_deadline(0, 10_000, 0);
    assert_eq!((board.irq.tsc_deadline(0), board.irq.deadline()), (10_000, Some(5_000)));
    board.irq.tsc_offset_changed(0, 2_000);
    assert_eq!(board.irq.deadline(), Some(4_000));
    board.advance(3_999);
    assert!(!board.irq.has_interrupt(0));
    board.advance(1);
    assert_eq!((board.take_interrupts(), board.irq.tsc_deadline(0)), (vec![(0, 0x41)], 0));
    board.irq.set_tsc_deadline(0, 1, 0);
    assert_eq!(board.take_interrupts(), [(0, 0x41)], "a deadline in the past acts at once");
    board.irq.set_tsc_deadline(0, 1 << 40, 0);
    board.irq.set_tsc_deadline(0, 0, 0);
    assert_eq!(board.irq.deadline(), None);
}

#[test]
fn errors_are_latched_by_writing_the_esr() {
    let board = Board::new(1);
    board.write(0, LVT_ERROR, 0xfe);
    board.ipi(0, 0, 0x0000_000f);
    assert_eq!(board.read(0, ESR), 0);
    board.write(0, ESR, 0);
    assert_eq!(board.read(0, ESR), 1 << 5, "send illegal vector");
    assert_eq!(board.take_interrupts(), [(0, 0xfe)]);
    board.fixed(3);
    board.read(0, 0x3d0);
    board.write(0, ESR, 0);
    assert_eq!(board.read(0, ESR), 1 << 6 | 1 << 7, "received illegal vector, illegal register");
    board.write(0, ESR, 0);
    assert_eq!(board.read(0, ESR), 0);

    board.take_interrupts();
    board.write(0, LVT_ERROR, 0x05);
    board.fixed(3);
    assert_eq!(board.take_interrupts(), [], "an illegal vector in the error entry itself");
}

#[test]
fn physical_ipis_shorthands_and_broadcast() {
    let board = Board::new(3);
    board.ipi(0, 2, 0x41);
    assert_eq!(board.take_interrupts(), [(2, 0x41)]);
    board.ipi(0, 7, 0x41);
    assert_eq!(board.take_interrupts(), [], "nobody has this ID");
    board.ipi(1, 0xff, 0x42);
    assert_eq!(board.take_interrupts(), [(0, 0x42), (1, 0x42), (2, 0x42)]);
    board.ipi(1, 0, 0x43 | 0b01 << 18);
    assert_eq!(board.take_interrupts(), [(1, 0x43)]);
    board.ipi(1, 0, 0x44 | 0b10 << 18);
    assert_eq!(board.take_interrupts(), [(0, 0x44), (1, 0x44), (2, 0x44)]);
    board.ipi(1, 0, 0x45 | 0b11 << 18);
    assert_eq!(board.take_interrupts(), [(0, 0x45), (2, 0x45)]);
    assert_eq!(board.read(1, ICR_LOW), 0x45 | 0b11 << 18);
}

#[test]
fn logical_destinations_flat_and_cluster() {
    let board = Board::new(4);
    board.ipi(0, 0b1010, 0x41 | 1 << 11);
    assert_eq!(board.take_interrupts(), [(1, 0x41), (3, 0x41)]);
    for cpu in 0..4 {
        board.write(cpu, DFR, 0x0fff_ffff);
        board.write(cpu, LDR, [0x11, 0x12, 0x21, 0x22][cpu] << 24);
    }
    board.ipi(0, 0x23, 0x42 | 1 << 11);
    assert_eq!(board.take_interrupts(), [(2, 0x42), (3, 0x42)]);
    board.ipi(0, 0xf2, 0x43 | 1 << 11);
    assert_eq!(board.take_interrupts(), [(1, 0x43), (3, 0x43)]);
}

#[test]
fn lowest_priority_takes_turns_and_avoids_the_busy() {
    let board = Board::new(3);
    board.write(1, TPR, 0x20);
    let mut taken = Vec::new();
    for _ in 0..4 {
        board.ipi(0, 0xff, 0x61 | 0b001 << 8 | 1 << 11);
        taken.extend(board.take_interrupts());
    }
    assert_eq!(taken, [(0, 0x61), (2, 0x61), (0, 0x61), (2, 0x61)]);
    board.write(0, SVR, 0xff);
    board.write(2, SVR, 0xff);
    board.ipi(0, 0xff, 0x61 | 0b001 << 8 | 1 << 11);
    assert_eq!(board.take_interrupts(), [(1, 0x61)], "disabled by software, they do not arbitrate");
}

#[test]
fn init_startup_nmi_and_smi_reach_the_cpu() {
    let board = Board::new(2);
    board.write(1, TPR, 0x20);
    board.ipi(0, 1, 0b101 << 8 | 1 << 14 | 1 << 15);
    board.ipi(0, 1, 0b101 << 8 | 1 << 15); // level de-assert
    board.ipi(0, 1, 0b110 << 8 | 0x9a);
    board.ipi(0, 1, 0b100 << 8);
    board.ipi(0, 1, 0b010 << 8);
    let events = [CpuEvent::Init, CpuEvent::Startup(0x9a), CpuEvent::Nmi, CpuEvent::Smi];
    assert_eq!(board.take_woken(), events.map(|event| (1, event)));
    assert_eq!((board.read(1, TPR), board.read(1, SVR)), (0, 0xff));

    board.ipi(0, 0, 0b101 << 8 | 1 << 14 | 0b11 << 18);
    assert_eq!(board.take_woken(), [(1, CpuEvent::Init)]);
    board.irq.send(0xfee0_1000, 0b100 << 8);
    assert_eq!(board.take_woken(), [(1, CpuEvent::Nmi)]);
}

#[test]
fn init_keeps_the_x2apic_mode_and_reset_does_not() {
    let board = Board::x2apic(2);
    board.wrmsr(1, TPR, 0x30).unwrap();
    board.wrmsr(0, ICR_LOW, 1 << 32 | 0b101 << 8 | 1 << 14).unwrap();
    assert_eq!((board.irq.apic_base(1), board.rdmsr(1, TPR)), (0xfee0_0c00, Ok(0)));
    assert_eq!(board.rdmsr(1, ID), Ok(1));
    board.irq.reset();
    assert_eq!((board.irq.apic_base(0), board.irq.apic_base(1)), (0xfee0_0900, 0xfee0_0800));
}

#[test]
fn apic_base_obeys_the_transition_rules() {
    let board = Board::new(1);
    let (disabled, xapic, x2apic) = (0xfee0_0100, 0xfee0_0900, 0xfee0_0d00);
    assert_eq!(board.irq.set_apic_base(0, 0xfee0_0500), Err(Gp), "x2APIC without enable");
    assert_eq!(board.irq.set_apic_base(0, xapic | 1), Err(Gp));
    assert_eq!(board.irq.set_apic_base(0, xapic | 1 << 9), Err(Gp));
    assert_eq!(board.irq.set_apic_base(0, xapic | 1 << 52), Err(Gp));
    board.irq.set_apic_base(0, x2apic).unwrap();
    assert_eq!(board.irq.set_apic_base(0, xapic), Err(Gp));
    assert_eq!(board.read(0, ID), u32::MAX, "no register page in x2APIC mode");
    board.irq.set_apic_base(0, disabled).unwrap();
    assert_eq!(board.irq.set_apic_base(0, x2apic), Err(Gp));
    assert_eq!(board.rdmsr(0, ID), Err(Gp));
    assert_eq!(board.read(0, ID), u32::MAX);
    board.irq.set_apic_base(0, xapic | 1 << 40).unwrap();
    assert_eq!(board.irq.apic_base(0), xapic | 1 << 40);
    assert_eq!(board.read(0, SVR), 0xff, "enabled again, it is as after reset");
}

#[test]
fn x2apic_registers_and_their_faults() {
    let board = Board::x2apic(2);
    assert_eq!((board.rdmsr(1, ID), board.rdmsr(1, LDR)), (Ok(1), Ok(0b10)));
    assert_eq!(board.rdmsr(0, VERSION), Ok(0x0106_0014));
    for absent in [DFR, ICR_HIGH, 0x90, 0xc0, 0x3d0, 0x000, 0x3f00] {
        assert_eq!(board.rdmsr(0, absent), Err(Gp), "{absent:x}");
        assert_eq!(board.wrmsr(0, absent, 0), Err(Gp), "{absent:x}");
    }
    for write_only in [EOI, 0x3f0] {
        assert_eq!(board.rdmsr(0, write_only), Err(Gp));
    }
    for read_only in [ID, VERSION, PPR, LDR, ISR_40, IRR_40, CURRENT_COUNT] {
        assert_eq!(board.wrmsr(0, read_only, 0), Err(Gp));
    }
    for (offset, reserved) in [
        (TPR, 0x100),
        (EOI, 1),
        (ESR, 1),
        (SVR, 1 << 10),
        (LVT_TIMER, 1 << 8),
        (LVT_TIMER, 1 << 32),
        (LVT_ERROR, 1 << 15),
        (ICR_LOW, 1 << 20),
        (DIVIDE, 1 << 2),
    ] {
        assert_eq!(board.wrmsr(0, offset, reserved), Err(Gp), "{offset:x} {reserved:x}");
    }
    let lint0 = board.rdmsr(0, LVT_LINT0).unwrap() | 1 << 12 | 1 << 14;
    assert_eq!(board.wrmsr(0, LVT_LINT0, lint0), Ok(()), "read-only bits may be written back");
    board.irq.x2apic_read(0, X2APIC_MSR_BASE - 1).unwrap_err();
}

#[test]
fn x2apic_ipis() {
    let board = Board::x2apic(18);
    board.wrmsr(0, ICR_LOW, 17 << 32 | 0x41).unwrap();
    assert_eq!(board.take_interrupts(), [(17, 0x41)]);
    board.wrmsr(0, ICR_LOW, 0x0001_0003 << 32 | 0x42 | 1 << 11).unwrap();
    assert_eq!(board.take_interrupts(), [(16, 0x42), (17, 0x42)]);
    board.wrmsr(3, ICR_LOW, 0xff << 32 | 0x43).unwrap();
    assert_eq!(board.take_interrupts(), [], "ID 255 is nobody, not everybody");
    board.wrmsr(3, ICR_LOW, 0xffff_ffff << 32 | 0x43).unwrap();
    assert_eq!(board.take_interrupts().len(), 18);
    board.wrmsr(5, 0x3f0, 0x44).unwrap();
    assert_eq!(board.take_interrupts(), [(5, 0x44)]);
    board.irq.send(0xfee1_1000, 0x45);
    assert_eq!(board.take_interrupts(), [(17, 0x45)]);
}

#[test]
fn a_level_interrupt_ends_at_the_io_apic() {
    let board = Board::new(2);
    board.ioapic(16, 1 << 56 | 1 << 15 | 0x61);
    board.irq.set_line(16, true);
    assert_eq!((board.irq.has_interrupt(0), board.irq.acknowledge(1)), (false, Some(0x61)));
    assert_eq!(board.ioapic_low(16) & 1 << 14, 1 << 14);
    board.write(1, EOI, 0);
    assert_eq!(board.irq.acknowledge(1), Some(0x61), "still asserted");
    board.irq.set_line(16, false);
    board.write(1, EOI, 0);
    assert!(!board.irq.has_interrupt(1));
    assert_eq!(board.ioapic_low(16) & 1 << 14, 0);
}

#[test]
fn a_level_interrupt_waits_for_a_cpu_that_accepts_it() {
    let board = Board::new(1);
    board.write(0, SVR, 0xff);
    board.ioapic(16, 1 << 15 | 0x61);
    board.irq.set_line(16, true);
    assert_eq!((board.irq.has_interrupt(0), board.ioapic_low(16) & 1 << 14), (false, 0));
    board.write(0, SVR, ENABLED);
    assert_eq!((board.irq.acknowledge(0), board.ioapic_low(16) & 1 << 14), (Some(0x61), 1 << 14));
}

#[test]
fn eoi_broadcasts_can_be_suppressed() {
    let board = Board::new(1);
    board.write(0, SVR, ENABLED | 1 << 12);
    board.ioapic(17, 1 << 15 | 0x61);
    board.irq.set_line(17, true);
    board.irq.acknowledge(0);
    board.write(0, EOI, 0);
    assert!(!board.irq.has_interrupt(0));
    board.irq.ioapic_window().write(0x40, &0x61u32.to_le_bytes());
    assert_eq!(board.irq.acknowledge(0), Some(0x61));
}

#[test]
fn isa_interrupts_reach_both_controllers_and_irq_0_is_pin_2() {
    let board = Board::new(1);
    board.ioapic(2, 0x50);
    board.ioapic(4, 0x54);
    board.irq.set_line(0, true);
    assert_eq!(board.take_interrupts(), [(0, 0x50)]);
    board.irq.set_line(4, true);
    assert_eq!(board.take_interrupts(), [(0, 0x54)]);
    board.irq.set_line(2, true);
    assert_eq!(board.take_interrupts(), [], "there is no ISA interrupt 2");
    let mut data = [0];
    board.irq.pic_ports(PicBlock::Master).read(0, &mut data);
    assert_eq!(data, [0b1_0001]);
    board.irq.set_line(24, true);
    board.irq.set_line(u32::MAX, true);
}

#[test]
fn the_8259_reaches_a_cpu_whose_apic_is_disabled() {
    let board = Board::after_reset(2);
    board.initialise_pic();
    board.irq.set_line(4, true);
    assert_eq!(board.take_woken(), [(0, CpuEvent::Interrupt)]);
    assert_eq!(board.irq.acknowledge(0), Some(0x34));
    assert!(!board.irq.has_interrupt(0));
    board.irq.pic_ports(PicBlock::Master).write(0, &[0x20]);
    board.irq.set_apic_base(0, 0).unwrap();
    board.irq.set_line(12, true);
    assert_eq!(board.irq.acknowledge(0), Some(0x3c));
    assert!(!board.irq.has_interrupt(1));
}

#[test]
fn the_8259_reaches_an_enabled_apic_through_lint0_only() {
    let board = Board::new(1);
    board.initialise_pic();
    board.irq.set_line(4, true);
    assert!(!board.irq.has_interrupt(0), "LINT0 is masked");
    board.irq.enter_virtual_wire_mode();
    assert!(board.irq.has_interrupt(0));
    board.irq.set_line(4, false);
    assert!(!board.irq.has_interrupt(0));
    board.irq.set_line(4, true);
    board.irq.set_line(5, true);
    assert_eq!(board.irq.acknowledge(0), Some(0x34));
    board.irq.pic_ports(PicBlock::Master).write(0, &[0x20]);
    assert_eq!(board.irq.acknowledge(0), Some(0x35));
    board.write(0, LVT_LINT0, 0x700 | MASKED);
    board.irq.pic_ports(PicBlock::Master).write(0, &[0x20]);
    board.irq.set_line(1, true);
    assert!(!board.irq.has_interrupt(0));
}

#[test]
fn lint0_as_a_fixed_interrupt() {
    let board = Board::new(1);
    board.initialise_pic();
    board.write(0, LVT_LINT0, 0x40);
    board.irq.set_line(0, true);
    assert_eq!(board.take_interrupts(), [(0, 0x40)], "an edge of INTR, not acknowledged at the 8259");
    board.write(0, LVT_LINT0, 0x42 | 1 << 15);
    assert_eq!(board.irq.acknowledge(0), Some(0x42), "INTR is still high");
    assert_eq!(board.read(0, LVT_LINT0) & 1 << 14, 1 << 14);
    board.irq.set_line(0, false);
    board.write(0, EOI, 0);
    assert_eq!(board.read(0, LVT_LINT0) & 1 << 14, 0);
    assert!(!board.irq.has_interrupt(0));
}

#[test]
fn the_8259_through_pin_0_of_the_io_apic() {
    let board = Board::new(2);
    board.initialise_pic();
    board.ioapic(0, 1 << 56 | 0b111 << 8);
    board.irq.set_line(3, true);
    board.irq.set_line(5, true);
    assert!(!board.irq.has_interrupt(0));
    assert_eq!(board.irq.acknowledge(1), Some(0x33));
    assert!(!board.irq.has_interrupt(1));
    board.irq.pic_ports(PicBlock::Master).write(0, &[0x20]);
    assert_eq!(board.irq.acknowledge(1), Some(0x35));
    board.irq.pic_ports(PicBlock::Master).write(0, &[0x20]);
    board.irq.set_line(1, true);
    board.irq.set_line(1, false);
    assert_eq!(board.irq.acknowledge(1), Some(0x37), "gone away: spurious");
}

#[test]
fn polling_the_8259_takes_the_interrupt_from_the_cpu() {
    let board = Board::after_reset(1);
    board.initialise_pic();
    board.irq.set_line(3, true);
    assert!(board.irq.has_interrupt(0));
    let mut ports = board.irq.pic_ports(PicBlock::Master);
    ports.write(0, &[0x0c]);
    let mut data = [0];
    ports.read(0, &mut data);
    assert_eq!((data, board.irq.has_interrupt(0)), ([0x83], false));
}

#[test]
fn the_nmi_wire_goes_through_lint1() {
    let board = Board::new(2);
    board.write(0, LVT_LINT1, 0b100 << 8);
    board.irq.set_nmi_line(true);
    board.irq.set_nmi_line(true);
    assert_eq!(board.take_woken(), [(0, CpuEvent::Nmi)], "masked on the other CPU");
}

#[test]
fn odd_accesses_do_no_harm() {
    let board = Board::new(1);
    for offset in 0..0x1000 {
        for size in [0, 1, 2, 3, 4, 8, 16] {
            board.irq.mmio_read(0, offset, &mut vec![0; size]);
            if offset != ICR_LOW {
                board.irq.mmio_write(0, offset, &vec![0xa5; size]);
            }
        }
    }
    let mut data = [0; 2];
    board.irq.mmio_read(0, VERSION + 2, &mut data);
    assert_eq!(data, [0x06, 0x01]);
    board.irq.mmio_read(0, u64::MAX, &mut data);
    for msr in 0..0x2000 {
        let _ = board.irq.x2apic_read(0, msr);
    }
}

#[test]
fn every_icr_value_is_survived() {
    let board = Board::new(3);
    for low in 0..0x10_0000u32 {
        if low & 0xff < 4 || low & 0xff == 0xff {
            board.ipi((low % 3) as usize, low % 5, low);
            board.take_woken();
        }
    }
}

#[test]
fn survives_a_round_trip_in_the_middle_of_everything() {
    let board = Board::new(2);
    board.initialise_pic();
    board.ioapic(16, 1 << 15 | 0x61);
    board.irq.set_line(16, true);
    board.irq.set_line(4, true);
    assert_eq!(board.irq.acknowledge(0), Some(0x61));
    board.fixed(0x71);
    board.write(1, DIVIDE, DIVIDE_BY_1);
    board.write(1, LVT_TIMER, 0x50 | 0b01 << 17);
    board.write(1, INITIAL_COUNT, 25_000);
    board.advance(400_000);
    let bytes = rmp_serde::to_vec_named(&(board.clock.save(), board.irq.save())).unwrap();

    let loaded = Board::after_reset(2);
    let (clock, interrupts) = rmp_serde::from_slice(&bytes).unwrap();
    loaded.clock.load(&clock);
    loaded.irq.load(interrupts).unwrap();
    assert_eq!(loaded.irq.save(), board.irq.save());
    assert_eq!(loaded.take_woken(), [(0, CpuEvent::Interrupt)]);
    assert_eq!(loaded.irq.deadline_of(1), Some(1_000_000));
    assert_eq!(loaded.read(1, CURRENT_COUNT), 15_000);
    assert_eq!(loaded.irq.acknowledge(0), Some(0x71));
    loaded.write(0, EOI, 0);
    loaded.write(0, EOI, 0);
    assert_eq!(loaded.irq.acknowledge(0), Some(0x61), "the wire is still asserted");
    loaded.advance(600_000);
    assert_eq!(loaded.irq.acknowledge(1), Some(0x50));

    let other = Board::after_reset(3);
    let state = board.irq.save();
    assert_eq!(other.irq.load(state), Err(LoadError::CpuCount { saved: 2, here: 3 }));
}

/// Local APICs elsewhere: what has come to them.
#[derive(Default)]
struct Elsewhere {
    messages: Mutex<Vec<(u64, u32)>>,
    ends: Mutex<Vec<u32>>,
    intr: AtomicBool,
}

impl LocalApics for Elsewhere {
    fn send(&self, address: u64, data: u32) -> bool {
        self.messages.lock().push((address, data));
        true
    }

    fn tell_ends(&self, pins: &[Option<(u64, u32)>; IOAPIC_PINS]) {
        *self.ends.lock() = pins.iter().flatten().map(|(_, data)| data & 0xff).collect();
    }

    fn set_intr(&self, level: bool) {
        self.intr.store(level, Ordering::SeqCst);
    }
}

#[test]
fn a_timer_that_is_due_when_its_apic_goes_away_is_not_lost() {
    const PERIODIC: u32 = 0b01 << 17;
    const DEADLINE: u32 = 0b10 << 17;
    for mode in [0, PERIODIC, DEADLINE] {
        let board = Board::new(1);
        board.write(0, DIVIDE, DIVIDE_BY_1);
        board.write(0, LVT_TIMER, 0x50 | mode);
        match mode {
            DEADLINE => board.irq.set_tsc_deadline(0, board.clock.tsc() + 2_000_000, 0),
            _ => board.write(0, INITIAL_COUNT, 25_000),
        }
        // Nobody has looked at the timer since.
        board.clock.advance(1_200_000);
        let elsewhere = Arc::new(Elsewhere::default());
        board.irq.give_away(elsewhere.clone());
        let page = board.irq.take_lapic_page(0);
        assert_eq!(page.registers[0x22], 1 << 16, "{mode:#x}: the request is among those that go");
        let rest = if mode == PERIODIC { 20_000 } else { 0 };
        assert_eq!((page.registers[0x39], page.tsc_deadline), (rest, 0), "{mode:#x}");
        assert!(!board.irq.has_interrupt(0) && board.irq.deadline_of(0).is_none());

        board.take_woken();
        board.irq.set_lapic_page(0, &page);
        board.irq.take_back();
        assert_eq!(board.take_woken(), [(0, CpuEvent::Interrupt)]);
        assert_eq!(board.take_interrupts(), [(0, 0x50)], "{mode:#x}");
        assert!(board.take_interrupts().is_empty(), "once");
        let next = (mode == PERIODIC).then_some(2_000_000);
        assert_eq!(board.irq.deadline_of(0), next, "{mode:#x}");
        assert!(elsewhere.messages.lock().is_empty());
    }
}

#[test]
fn the_8259_may_move_while_the_local_apics_come_back() {
    let board = Board::new(1);
    board.initialise_pic();
    board.write(0, LVT_LINT0, 0x700);
    let elsewhere = Arc::new(Elsewhere::default());
    board.irq.give_away(elsewhere.clone());
    let page = board.irq.take_lapic_page(0);
    board.irq.set_line(4, true);
    assert!(elsewhere.intr.load(Ordering::SeqCst));
    board.irq.set_line(4, false);
    assert!(!elsewhere.intr.load(Ordering::SeqCst));
    // Behind the state, and before the way back.
    board.irq.set_lapic_page(0, &page);
    board.irq.set_line(4, true);
    assert!(!board.irq.has_interrupt(0));
    board.irq.take_back();
    assert!(board.irq.has_interrupt(0));
    assert_eq!(board.irq.acknowledge(0), Some(0x34));
}

#[test]
fn a_level_that_was_raised_here_ends_elsewhere_and_comes_again_here() {
    let board = Board::new(1);
    board.ioapic(16, 1 << 15 | 0x61);
    board.irq.set_line(16, true);
    assert_eq!(board.irq.acknowledge(0), Some(0x61));
    let elsewhere = Arc::new(Elsewhere::default());
    board.irq.give_away(elsewhere.clone());
    assert_eq!(*elsewhere.ends.lock(), [0x61]);
    let mut page = board.irq.take_lapic_page(0);
    assert_eq!((page.registers[0x13], page.registers[0x1b]), (1 << 1, 1 << 1), "in service, as a level");
    // The wire is still asserted at its end: the message is sent again, to those who have the local APICs.
    board.irq.end_of_interrupt(0x61);
    assert_eq!(elsewhere.messages.lock().len(), 1);
    page.registers[0x13] = 0;
    board.irq.set_lapic_page(0, &page);
    board.irq.take_back();
    for (address, data) in elsewhere.messages.lock().drain(..) {
        board.irq.send(address, data);
    }
    assert_eq!(board.irq.acknowledge(0), Some(0x61));
    board.irq.set_line(16, false);
    board.write(0, EOI, 0);
    assert!(!board.irq.has_interrupt(0));
    board.irq.set_line(16, true);
    assert_eq!(board.irq.acknowledge(0), Some(0x61), "the I/O APIC knows that it has ended");
}
