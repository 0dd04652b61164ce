//! The pair of 8259A interrupt controllers of a PC, with the chipset's edge/level control registers (ELCR).
//! Intel 8259A data sheet; the ELCR as in Intel's ICH data sheets.

use serde::{Deserialize, Serialize};

/// Which of the pair's register blocks an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PicBlock {
    /// Ports 20h and 21h.
    Master,
    /// Ports A0h and A1h.
    Slave,
    /// Ports 4D0h and 4D1h.
    Elcr,
}

/// The master's input on which the slave hangs.
const CASCADE: u8 = 2;

/// The input whose vector an acknowledge gets when no request is left.
const SPURIOUS: u8 = 7;

/// ICW1, recognised by bit 4 at address 0.
mod icw1 {
    pub(super) const SELECT: u8 = 1 << 4;
    pub(super) const SINGLE: u8 = 1 << 1;
    pub(super) const NEEDS_ICW4: u8 = 1 << 0;
}

mod icw4 {
    pub(super) const SPECIAL_FULLY_NESTED: u8 = 1 << 4;
    pub(super) const AUTO_EOI: u8 = 1 << 1;
}

/// OCW3, recognised by bit 3 (and bit 4 clear) at address 0.
mod ocw3 {
    pub(super) const SELECT: u8 = 1 << 3;
    pub(super) const ENABLE_SPECIAL_MASK: u8 = 1 << 6;
    pub(super) const SPECIAL_MASK: u8 = 1 << 5;
    pub(super) const POLL: u8 = 1 << 2;
    pub(super) const READ_REGISTER: u8 = 1 << 1;
    pub(super) const READ_ISR: u8 = 1 << 0;
}

/// OCW2's command in bits 7:5: rotate, specific, end of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ocw2 {
    RotateInAutoEoiClear,
    NonSpecificEoi,
    NoOperation,
    SpecificEoi,
    RotateInAutoEoiSet,
    RotateOnNonSpecificEoi,
    SetPriority,
    RotateOnSpecificEoi,
}

impl Ocw2 {
    fn from_bits(value: u8) -> Ocw2 {
        match value >> 5 {
            0b000 => Ocw2::RotateInAutoEoiClear,
            0b001 => Ocw2::NonSpecificEoi,
            0b010 => Ocw2::NoOperation,
            0b011 => Ocw2::SpecificEoi,
            0b100 => Ocw2::RotateInAutoEoiSet,
            0b101 => Ocw2::RotateOnNonSpecificEoi,
            0b110 => Ocw2::SetPriority,
            _ => Ocw2::RotateOnSpecificEoi,
        }
    }
}

/// What a write to address 1 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    Icw2,
    Icw3,
    Icw4,
    /// Initialised: the mask.
    Ocw1,
}

/// One 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pic {
    /// Levels of the input pins.
    lines: u8,
    /// Inputs that are level-triggered.
    elcr: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    icw1: u8,
    /// The vector base.
    icw2: u8,
    icw3: u8,
    icw4: u8,
    expect: Expect,
    /// The input that has the lowest priority.
    lowest: u8,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    rotate_in_auto_eoi: bool,
}

impl Pic {
    fn new() -> Pic {
        Pic {
            lines: 0,
            elcr: 0,
            irr: 0,
            imr: 0,
            isr: 0,
            icw1: 0,
            icw2: 0,
            icw3: 0,
            icw4: 0,
            expect: Expect::Ocw1,
            lowest: 7,
            read_isr: false,
            poll: false,
            special_mask: false,
            rotate_in_auto_eoi: false,
        }
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        let rose = level && self.lines & bit == 0;
        if level {
            self.lines |= bit;
            if rose || self.elcr & bit != 0 {
                self.irr |= bit;
            }
        } else {
            // A request must stay until it is acknowledged, edge-triggered or not.
            self.lines &= !bit;
            self.irr &= !bit;
        }
    }

    fn set_elcr(&mut self, elcr: u8) {
        self.elcr = elcr;
        self.irr = self.irr & !elcr | self.lines & elcr;
    }

    /// The input of highest priority among those in `set`, with its rank (0 is highest).
    fn first(&self, set: u8) -> Option<(u8, u8)> {
        (0..8)
            .map(|rank| (self.lowest.wrapping_add(1 + rank) & 7, rank))
            .find(|(input, _)| set >> input & 1 != 0)
    }

    /// The request that may interrupt what is in service.
    fn request(&self) -> Option<u8> {
        let (input, rank) = self.first(self.irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.icw4 & icw4::SPECIAL_FULLY_NESTED != 0 {
            // Requests of the slave interrupt each other: their order is the slave's business.
            in_service &= !self.icw3;
        }
        match self.first(in_service) {
            Some((_, serviced)) if serviced <= rank => None,
            _ => Some(input),
        }
    }

    /// INTA: the request goes into service; `None` if it has gone away.
    fn acknowledge(&mut self) -> Option<u8> {
        let input = self.request()?;
        let bit = 1 << input;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if self.icw4 & icw4::AUTO_EOI == 0 {
            self.isr |= bit;
        } else if self.rotate_in_auto_eoi {
            self.lowest = input;
        }
        Some(input)
    }

    fn vector(&self, input: u8) -> u8 {
        self.icw2 & 0xf8 | input
    }

    fn read(&mut self, address: u8) -> u8 {
        const POLL_PENDING: u8 = 1 << 7;
        if std::mem::take(&mut self.poll) {
            return self.acknowledge().map_or(0, |input| POLL_PENDING | input);
        }
        match address {
            0 if self.read_isr => self.isr,
            0 => self.irr,
            _ => self.imr,
        }
    }

    fn write(&mut self, address: u8, value: u8) {
        match address {
            0 if value & icw1::SELECT != 0 => self.initialise(value),
            0 if value & ocw3::SELECT != 0 => self.ocw3(value),
            0 => self.ocw2(value),
            _ => self.write_sequence(value),
        }
    }

    /// ICW1. Edges seen before count no more; the pins and the chipset's ELCR stay.
    fn initialise(&mut self, icw1: u8) {
        *self = Pic {
            lines: self.lines,
            elcr: self.elcr,
            irr: self.lines & self.elcr,
            icw1,
            icw2: self.icw2,
            icw3: self.icw3,
            expect: Expect::Icw2,
            ..Pic::new()
        };
    }

    fn write_sequence(&mut self, value: u8) {
        let needs_icw4 = self.icw1 & icw1::NEEDS_ICW4 != 0;
        let after_icw3 = if needs_icw4 { Expect::Icw4 } else { Expect::Ocw1 };
        match self.expect {
            Expect::Icw2 => {
                self.icw2 = value;
                self.expect = if self.icw1 & icw1::SINGLE != 0 { after_icw3 } else { Expect::Icw3 };
            }
            Expect::Icw3 => {
                self.icw3 = value;
                self.expect = after_icw3;
            }
            Expect::Icw4 => {
                self.icw4 = value;
                self.expect = Expect::Ocw1;
            }
            Expect::Ocw1 => self.imr = value,
        }
    }

    fn ocw2(&mut self, value: u8) {
        let level = value & 7;
        match Ocw2::from_bits(value) {
            Ocw2::RotateInAutoEoiClear => self.rotate_in_auto_eoi = false,
            Ocw2::RotateInAutoEoiSet => self.rotate_in_auto_eoi = true,
            Ocw2::NoOperation => {}
            Ocw2::NonSpecificEoi => {
                self.end_highest();
            }
            Ocw2::RotateOnNonSpecificEoi => {
                if let Some(input) = self.end_highest() {
                    self.lowest = input;
                }
            }
            Ocw2::SpecificEoi => self.isr &= !(1 << level),
            Ocw2::RotateOnSpecificEoi => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
            Ocw2::SetPriority => self.lowest = level,
        }
    }

    fn end_highest(&mut self) -> Option<u8> {
        // In special mask mode, masked levels are passed over.
        let candidates = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let (input, _) = self.first(candidates)?;
        self.isr &= !(1 << input);
        Some(input)
    }

    fn ocw3(&mut self, value: u8) {
        if value & ocw3::ENABLE_SPECIAL_MASK != 0 {
            self.special_mask = value & ocw3::SPECIAL_MASK != 0;
        }
        if value & ocw3::POLL != 0 {
            self.poll = true;
        } else if value & ocw3::READ_REGISTER != 0 {
            self.read_isr = value & ocw3::READ_ISR != 0;
        }
    }
}

/// Master and slave, cascaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicPair {
    master: Pic,
    slave: Pic,
}

impl Default for PicPair {
    fn default() -> Self {
        PicPair::new()
    }
}

impl PicPair {
    /// Inputs for which level triggering can be chosen: not those of timer, keyboard and cascade, RTC and FPU.
    const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];

    /// The pair after power-on, not yet initialised.
    pub fn new() -> PicPair {
        PicPair { master: Pic::new(), slave: Pic::new() }
    }

    /// RESET: as after power-on; the pins keep their levels.
    pub fn reset(&mut self) {
        for chip in [&mut self.master, &mut self.slave] {
            *chip = Pic { lines: chip.lines, ..Pic::new() };
        }
        self.cascade();
    }

    /// Drives ISA interrupt 0 to 15; 2 is the cascade and belongs to the slave.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(irq, level),
            8..16 => self.slave.set_line(irq - 8, level),
            _ => {}
        }
        self.cascade();
    }

    /// Whether an ISA interrupt's request waits for its acknowledge; `None` if it is masked.
    pub fn is_requested(&self, irq: u8) -> Option<bool> {
        let (chip, bit) = if irq < 8 { (&self.master, 1 << irq) } else { (&self.slave, 1 << (irq & 7)) };
        let masked = chip.imr & bit != 0 || (irq >= 8 && self.master.imr >> CASCADE & 1 != 0);
        (!masked).then_some(chip.irr & bit != 0)
    }

    /// The level of the pair's INTR output.
    pub fn intr(&self) -> bool {
        self.master.request().is_some()
    }

    /// The two INTA cycles: the vector. Without a request left it is that of IRQ 7, or of IRQ 15 when the slave's
    /// request has gone away, and nothing goes into service in that chip.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.acknowledge() else { return self.master.vector(SPURIOUS) };
        if input != CASCADE || self.master.icw3 >> CASCADE & 1 == 0 {
            return self.master.vector(input);
        }
        let slave_input = self.slave.acknowledge().unwrap_or(SPURIOUS);
        self.pulse_cascade();
        self.slave.vector(slave_input)
    }

    /// Reads a register of a block; `address` is 0 or 1.
    pub fn read(&mut self, block: PicBlock, address: u8) -> u8 {
        match block {
            PicBlock::Master => self.master.read(address),
            PicBlock::Slave => {
                let polled = self.slave.poll;
                let value = self.slave.read(address);
                if polled {
                    self.pulse_cascade();
                }
                value
            }
            PicBlock::Elcr => {
                if address == 0 {
                    self.master.elcr
                } else {
                    self.slave.elcr
                }
            }
        }
    }

    /// Writes a register of a block; `address` is 0 or 1.
    pub fn write(&mut self, block: PicBlock, address: u8, value: u8) {
        let [master_elcr, slave_elcr] = PicPair::ELCR_WRITABLE;
        match block {
            PicBlock::Master => self.master.write(address, value),
            PicBlock::Slave => self.slave.write(address, value),
            PicBlock::Elcr if address == 0 => self.master.set_elcr(value & master_elcr),
            PicBlock::Elcr => self.slave.set_elcr(value & slave_elcr),
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        self.master.set_line(CASCADE, self.slave.request().is_some());
    }

    /// The slave's output falls with its acknowledge, and rises again for the next request.
    fn pulse_cascade(&mut self) {
        self.master.set_line(CASCADE, false);
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::PicBlock::{Elcr, Master, Slave};
    use super::*;

    const EOI: u8 = 0x20;
    const SPECIFIC_EOI: u8 = 0x60;

    fn initialised(icw4: u8) -> PicPair {
        let mut pic = PicPair::new();
        for (block, base, wiring) in [(Master, 0x30, 1 << 2), (Slave, 0x38, 2)] {
            pic.write(block, 0, 0x11);
            for value in [base, wiring, icw4, 0] {
                pic.write(block, 1, value);
            }
        }
        pic
    }

    #[test]
    fn priorities_nest_and_eoi_ends_the_highest() {
        let mut pic = initialised(0x01);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.set_line(5, true);
        assert!(!pic.intr(), "lower priority waits");
        pic.set_line(1, true);
        assert!(pic.intr(), "higher priority nests");
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(Master, 0, 0x0b);
        assert_eq!(pic.read(Master, 0), 0b1_0010);
        pic.write(Master, 0, EOI);
        assert_eq!(pic.read(Master, 0), 0b1_0000);
        assert!(!pic.intr());
        pic.write(Master, 0, EOI);
        assert_eq!(pic.acknowledge(), 0x35);
    }

    #[test]
    fn the_slave_comes_through_input_2() {
        let mut pic = initialised(0x01);
        pic.set_line(12, true);
        assert!(pic.intr());
        assert_eq!(pic.acknowledge(), 0x3c);
        pic.set_line(8, true);
        assert!(!pic.intr(), "the master's input 2 is in service");
        pic.write(Slave, 0, EOI);
        pic.write(Master, 0, EOI);
        assert_eq!(pic.acknowledge(), 0x38);
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_nest() {
        let mut pic = initialised(0x11);
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), 0x3c);
        pic.set_line(8, true);
        assert_eq!((pic.intr(), pic.acknowledge()), (true, 0x38));
    }

    #[test]
    fn masks_hold_back_but_do_not_forget() {
        let mut pic = initialised(0x01);
        pic.write(Master, 1, 0xff);
        pic.set_line(3, true);
        assert!(!pic.intr());
        assert_eq!((pic.read(Master, 0), pic.read(Master, 1)), (1 << 3, 0xff));
        pic.write(Master, 1, 0xf7);
        assert_eq!(pic.acknowledge(), 0x33);
    }

    #[test]
    fn an_edge_counts_once_and_a_level_as_long_as_it_lasts() {
        let mut pic = initialised(0x01);
        pic.set_line(3, true);
        pic.acknowledge();
        pic.write(Master, 0, EOI);
        assert!(!pic.intr(), "held high is no new edge");

        pic.write(Elcr, 1, 0xff);
        pic.write(Elcr, 0, 0xff);
        assert_eq!((pic.read(Elcr, 0), pic.read(Elcr, 1)), (0xf8, 0xde));
        pic.set_line(10, true);
        assert_eq!(pic.acknowledge(), 0x3a);
        pic.write(Slave, 0, EOI);
        pic.write(Master, 0, EOI);
        assert_eq!(pic.acknowledge(), 0x3a, "still asserted");
        pic.set_line(10, false);
        pic.write(Slave, 0, EOI);
        pic.write(Master, 0, EOI);
        assert_eq!(pic.acknowledge(), 0x33, "input 3 is a level now");
    }

    #[test]
    fn a_request_that_goes_away_is_spurious() {
        let mut pic = initialised(0x01);
        pic.set_line(3, true);
        pic.set_line(3, false);
        assert!(!pic.intr());
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(Master, 0, 0x0b);
        assert_eq!(pic.read(Master, 0), 0, "nothing is in service");
    }

    #[test]
    fn a_slave_request_that_goes_away_is_irq_15_with_the_master_in_service() {
        let mut pic = initialised(0x01);
        pic.set_line(9, true);
        // Between the master's choice and the slave's answer.
        pic.slave.irr = 0;
        assert_eq!(pic.acknowledge(), 0x3f);
        pic.write(Master, 0, 0x0b);
        pic.write(Slave, 0, 0x0b);
        assert_eq!((pic.read(Master, 0), pic.read(Slave, 0)), (1 << 2, 0));
    }

    #[test]
    fn rotation_gives_everyone_a_turn() {
        let mut pic = initialised(0x01);
        pic.set_line(3, true);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x33);
        pic.write(Master, 0, 0xa0); // rotate on non-specific EOI: 3 is now lowest
        pic.set_line(3, false);
        pic.set_line(3, true);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(Master, 0, 0xe4); // rotate on specific EOI
        assert_eq!(pic.acknowledge(), 0x33);
        pic.write(Master, 0, SPECIFIC_EOI | 3);
        pic.write(Master, 0, 0xc0 | 5); // set priority: 6 is highest
        for input in [0, 6] {
            pic.set_line(input, true);
        }
        assert_eq!(pic.acknowledge(), 0x36);
    }

    #[test]
    fn automatic_eoi_leaves_nothing_in_service() {
        let mut pic = initialised(0x03);
        pic.write(Master, 0, 0x80); // rotate in automatic EOI mode
        pic.set_line(1, true);
        pic.set_line(5, true);
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(Master, 0, 0x0b);
        assert_eq!(pic.read(Master, 0), 0);
        pic.set_line(1, false);
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x35, "input 1 went to the end of the queue");
    }

    #[test]
    fn special_mask_mode_lets_lower_priorities_in() {
        let mut pic = initialised(0x01);
        pic.set_line(3, true);
        pic.acknowledge();
        pic.set_line(6, true);
        pic.write(Master, 1, 1 << 3);
        assert!(!pic.intr());
        pic.write(Master, 0, 0x68);
        assert_eq!((pic.intr(), pic.acknowledge()), (true, 0x36));
        pic.write(Master, 0, EOI);
        pic.write(Master, 0, 0x0b);
        assert_eq!(pic.read(Master, 0), 1 << 3, "the masked level is passed over");
        pic.write(Master, 0, 0x48);
        pic.write(Master, 0, EOI);
        assert_eq!(pic.read(Master, 0), 0);
    }

    #[test]
    fn poll_acknowledges_by_reading() {
        let mut pic = initialised(0x01);
        pic.write(Master, 0, 0x0c);
        assert_eq!(pic.read(Master, 0), 0, "nothing pending");
        pic.set_line(10, true);
        pic.write(Slave, 0, 0x0c);
        assert_eq!(pic.read(Slave, 0), 0x82);
        assert!(!pic.intr(), "polled away");
        assert_eq!(pic.read(Slave, 1), 0, "one read only");
    }

    #[test]
    fn icw1_forgets_edges_and_masks() {
        let mut pic = initialised(0x01);
        pic.write(Master, 1, 0x55);
        pic.set_line(4, true);
        pic.write(Master, 0, 0x13); // single, with ICW4
        pic.write(Master, 1, 0x40);
        pic.write(Master, 1, 0x01);
        assert_eq!((pic.read(Master, 0), pic.read(Master, 1), pic.intr()), (0, 0, false));
        pic.set_line(4, false);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x44);
    }

    #[test]
    fn survives_a_round_trip_within_initialisation_and_service() {
        let mut pic = initialised(0x01);
        pic.set_line(4, true);
        pic.acknowledge();
        pic.set_line(1, true);
        pic.write(Slave, 0, 0x11);
        pic.write(Slave, 1, 0x70);
        let bytes = rmp_serde::to_vec_named(&pic).unwrap();
        let mut loaded: PicPair = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(loaded, pic);
        for value in [2, 1] {
            loaded.write(Slave, 1, value);
        }
        assert_eq!(loaded.acknowledge(), 0x31);
        loaded.write(Master, 0, EOI);
        loaded.write(Master, 0, EOI);
        loaded.set_line(8, true);
        assert_eq!(loaded.acknowledge(), 0x70);
    }

    #[test]
    fn no_input_number_upsets_it() {
        let mut pic = initialised(0x01);
        pic.set_line(2, true);
        pic.set_line(16, true);
        pic.set_line(255, true);
        assert!(!pic.intr());
    }
}
