//! From the processor to the devices of a PC and back.

use iced_x86::{IcedError, code_asm::*};
use softmetal::config::{Config, KernelSource};
use softmetal::testing::Bench;
use softmetal_cpu::Exit;
use softmetal_cpu_testing::assemble_for;

use crate::work::{Entry, Work};

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("device/port-read", "access", || accesses(|a| a.in_(al, INTERRUPT_MASK))),
        Entry::new("device/port-write", "access", || accesses(|a| a.out(INTERRUPT_MASK, al))),
        Entry::new("device/port-without-device", "access", || accesses(|a| a.out(0x80, al))),
        Entry::new("device/pci-configuration", "turn", pci_configuration),
        Entry::new("device/memory-read", "access", || accesses(|a| a.mov(eax, dword_ptr(IO_APIC + 0x10)))),
        Entry::new("device/memory-write", "access", || accesses(|a| a.mov(dword_ptr(IO_APIC), eax))),
        Entry::new("device/clock-read", "access", || accesses(|a| a.mov(eax, dword_ptr(HPET + 0xf0)))),
        Entry::new("device/local-apic-read", "access", || {
            accesses(|a| a.mov(eax, dword_ptr(LOCAL_APIC + 0x80)))
        }),
        Entry::new("device/local-apic-write", "access", || {
            accesses(|a| a.mov(dword_ptr(LOCAL_APIC + 0x80), eax))
        }),
        Entry::new("device/time-stamp-counter", "turn", || accesses(|a| a.rdtsc())),
        Entry::new("device/interrupt", "interrupt", interrupt),
    ]
}

/// Mask of the first 8259.
const INTERRUPT_MASK: i32 = 0x21;
const IO_APIC: u64 = 0xfec0_0000;
const HPET: u64 = 0xfed0_0000;
const LOCAL_APIC: u64 = 0xfee0_0000;

/// Where the kernel lies, and where it is entered: behind its multiboot header.
const KERNEL: u32 = 0x10_0000;
const ENTRY: u32 = KERNEL + 0x20;
/// Tables of the guest's.
const IDT: u32 = 0x20_0000;
const STACK: u32 = 0x30_0000;

type Build<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A thousand accesses.
fn accesses(body: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Work {
    pc(&|_| Ok(()), &body)
}

/// Address and data, as drivers read the configuration of the host bridge.
fn pci_configuration() -> Work {
    accesses(|a| {
        a.mov(eax, 0x8000_0000u32)?;
        a.mov(edx, 0xcf8)?;
        a.out(dx, eax)?;
        a.mov(edx, 0xcfc)?;
        a.in_(eax, dx)
    })
}

/// The processor sends itself an interrupt: local APIC, delivery, the handler's EOI, IRET.
fn interrupt() -> Work {
    const VECTOR: u32 = 0x40;
    let set_up = |a: &mut CodeAssembler| {
        let mut over = a.create_label();
        a.mov(esp, STACK)?;
        a.call(over)?;
        // The handler: EOI.
        a.mov(dword_ptr(LOCAL_APIC + 0xb0), 0)?;
        a.iretd()?;
        a.set_label(&mut over)?;
        // A 32-bit interrupt gate, to where the CALL would return.
        a.pop(eax)?;
        a.mov(word_ptr(IDT + 8 * VECTOR), ax)?;
        a.mov(word_ptr(IDT + 8 * VECTOR + 2), cs)?;
        a.mov(word_ptr(IDT + 8 * VECTOR + 4), 0x8e00)?;
        a.shr(eax, 16)?;
        a.mov(word_ptr(IDT + 8 * VECTOR + 6), ax)?;
        a.mov(word_ptr(STACK), 0x7ff)?;
        a.mov(dword_ptr(STACK + 2), IDT)?;
        a.lidt(ptr(STACK))?;
        // The local APIC's spurious vector and its switch.
        a.mov(dword_ptr(LOCAL_APIC + 0xf0), 0x1ff)?;
        a.sti()
    };
    // Fixed delivery, to itself.
    pc(&set_up, &|a| a.mov(dword_ptr(LOCAL_APIC + 0x300), 0x4_0000 | VECTOR))
}

/// A PC on whose first processor a loop of 32-bit code runs a thousand times, after what comes first.
fn pc(first: Build, body: Build) -> Work {
    const TURNS: u64 = 1000;
    let code = assemble_for(32, ENTRY.into(), |a| {
        first(a)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        body(a)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.cli()?;
        a.hlt()
    });
    const MAGIC: u32 = 0x1bad_b002;
    const WITH_ADDRESSES: u32 = 0x1_0000;
    let checksum = 0u32.wrapping_sub(MAGIC + WITH_ADDRESSES);
    let header = [MAGIC, WITH_ADDRESSES, checksum, KERNEL, KERNEL, 0, 0, ENTRY];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend(code);
    // It lives as long as the process, which does no other work.
    let config = Config { memory: 4 << 20, ..Config::new(KernelSource::BuiltIn(image.leak())) };
    let mut bench = Bench::new(config).expect("the PC can be built");
    let mut state = bench.cpu().state();
    state.gpr[1] = TURNS;
    let mut run = move || {
        bench.cpu().set_state(&state);
        assert_eq!(bench.cpu().run(), Exit::Halted, "the loop comes to its end");
    };
    run();
    Work::new(TURNS, run)
}
