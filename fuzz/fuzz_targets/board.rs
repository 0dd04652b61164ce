//! Whatever a guest does to the devices, and whatever it leaves in memory for them: they answer, and nothing panics or hangs.
//! Input: operations of a byte each with what they need; see `Script`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softmetal::config::{Config, KernelSource};
use softmetal::testing::Bench;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 4 << 20;
/// The smallest kernel: a multiboot header and HLT.
const KERNEL: &[u8] = &{
    const FIELDS: [u32; 8] =
        [0x1bad_b002, 0x1_0000, 0u32.wrapping_sub(0x1bad_b002 + 0x1_0000), 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
    let mut image = [0xf4; 64];
    let mut k = 0;
    while k < 32 {
        image[k] = FIELDS[k / 4].to_le_bytes()[k % 4];
        k += 1;
    }
    image
};

/// Ports with devices behind them.
const PORTS: &[u16] = &[
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0x2f8, 0x3f8, 0x3f9,
    0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0xcf8, 0xcfc, 0xcfe, 0xcf9, 0x600, 0x602, 0x604, 0x608, 0x620, 0xb2, 0xe0, 0xe4, 0xe9,
    0xf4, 0x2000, 0x2017,
];

/// Where devices lie in memory: local APIC, I/O APIC, HPET, configuration space of the first bus, BARs, test buffer.
const PLACES: &[u64] = &[
    0xfee0_0000, 0xfec0_0000, 0xfed0_0000, 0xe000_0000, 0xe000_8000, 0xe001_0000, 0xe00f_8000, 0xc000_0000, 0xc000_4000,
    0xff00_0000, 0x100_0000_0000, 0xb_f000,
];

/// Takes the input apart; zeros behind its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }
    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
    fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }
    fn port(&mut self) -> u16 {
        let which = self.byte();
        PORTS.get(usize::from(which)).copied().unwrap_or_else(|| self.half())
    }
    fn place(&mut self) -> u64 {
        let which = usize::from(self.byte()) % PLACES.len();
        PLACES[which] + u64::from(self.half() & 0x7fff)
    }
    /// Bytes for the devices to find in RAM.
    fn low_memory(&mut self) -> GuestAddress {
        GuestAddress(0x1_0000 + u64::from(self.half()))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let config = Config {
        cpus: 2,
        memory: MEMORY,
        testdev: true,
        debug_exit: true,
        ..Config::new(KernelSource::BuiltIn(KERNEL))
    };
    let bench = Bench::new(config).expect("the machine can be built");
    let bus = bench.bus();
    let mut script = Script(bytes);
    while !script.0.is_empty() {
        let what = script.byte();
        let (cpu, size) = (usize::from(what >> 7), 1 << (what >> 5 & 3));
        let mut data = [0; 8];
        match what & 0x1f {
            0..8 => {
                let (port, value) = (script.port(), script.word());
                bus.port_write(cpu, port, &value.to_le_bytes()[..size.min(4)]);
            }
            8..12 => bus.port_read(cpu, script.port(), &mut data[..size.min(4)]),
            12..20 => {
                let (at, value) = (script.place(), u64::from(script.word()));
                bus.mmio_write(cpu, at, &value.to_le_bytes()[..size]);
            }
            20..23 => bus.mmio_read(cpu, script.place(), &mut data[..size]),
            23 => bench.advance(u64::from(script.word()) << (script.byte() & 15)),
            24 | 25 => {
                let (at, value) = (script.low_memory(), script.word());
                let _ = bench.ram().memory().write_slice(&value.to_le_bytes(), at);
            }
            26 => {
                if bus.has_interrupt(cpu) {
                    assert!(bus.acknowledge(cpu).is_some(), "an interrupt that was announced is there");
                }
            }
            27 => bus.set_cr8(cpu, script.byte() & 15),
            28 => {
                let _ = bus.apic_msr_write(cpu, 0x800 + u32::from(script.byte()), script.word().into());
            }
            29 => {
                let _ = bus.set_apic_base(cpu, 0xfee0_0000 | u64::from(script.half()));
            }
            30 => bus.set_tsc_deadline(cpu, script.word().into()),
            _ => {
                bench.serial_input(&[script.byte(); 4]);
                bench.press_power_button();
            }
        }
    }
});
