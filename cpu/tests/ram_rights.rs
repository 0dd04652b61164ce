//! Pages of RAM that become ROM, holes, or write-only while CPUs run.

use iced_x86::code_asm::*;
use softmetal_cpu::{Exit, Options, Request, Rights};
use softmetal_cpu_testing::{Machine, assemble, bus::Access, layout::*};
use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};
use vm_memory::{Bytes, GuestAddress};

const ROM: Rights = Rights { read: true, write: false };
const HOLE: Rights = Rights { read: false, write: false };
const WRITE_ONLY: Rights = Rights { read: false, write: true };

/// The page in question, and its address without the low byte's tricks: the bus answers with the address's low bytes.
const PAGE: u64 = FRAMES;

fn run(machine: &mut Machine) {
    let mut state = machine.cpu.state();
    state.rip = KERNEL_CODE;
    state.activity = Default::default();
    machine.cpu.set_state(&state);
    assert_eq!(machine.cpu.run(), Exit::Halted);
}

/// Reads, writes and changes the page; what it finds in RAX, RBX.
fn program() -> Vec<u8> {
    assemble(KERNEL_CODE, |a| {
        a.mov(rdx, PAGE)?;
        a.mov(eax, dword_ptr(rdx + 0x20))?;
        a.mov(dword_ptr(rdx + 0x40), 0x1234_5678)?;
        a.inc(dword_ptr(rdx + 0x60))?;
        a.lock().add(dword_ptr(rdx + 0x80), 1)?;
        a.mov(ebx, dword_ptr(rdx + 0x60))?;
        a.hlt()
    })
}

#[test]
fn rights_decide_what_answers() {
    for no_tlb in [false, true] {
        let mut machine = Machine::new(Options { cpus: 1, no_tlb, ..Options::default() });
        machine.program(&program());
        let word = |machine: &Machine, at: u64| machine.read_u64(PAGE + at) as u32;
        machine.write(PAGE, &[0x11; 0x100]);
        run(&mut machine);
        assert_eq!(machine.cpu.state().gpr[0], 0x1111_1111);
        assert_eq!([0x40, 0x60, 0x80].map(|at| word(&machine, at)), [0x1234_5678, 0x1111_1112, 0x1111_1112]);
        assert_eq!(machine.bus.take(), []);

        machine.write(PAGE, &[0x11; 0x100]);
        machine.ram().set_rights(PAGE..PAGE + 0x1000, ROM);
        run(&mut machine);
        assert_eq!((machine.cpu.state().gpr[0], machine.cpu.state().gpr[3]), (0x1111_1111, 0x1111_1111));
        assert_eq!([0x40, 0x60, 0x80].map(|at| word(&machine, at)), [0x1111_1111; 3]);
        let written: Vec<u64> = machine
            .bus
            .take()
            .iter()
            .filter_map(|access| if let Access::MmioWrite(at, _) = access { Some(*at) } else { None })
            .collect();
        assert_eq!(written, [PAGE + 0x40, PAGE + 0x60, PAGE + 0x80]);

        machine.ram().set_rights(PAGE..PAGE + 0x1000, HOLE);
        run(&mut machine);
        assert_eq!((machine.cpu.state().gpr[0], machine.cpu.state().gpr[3]), (0x2322_2120, 0x6362_6160));
        assert!(!machine.ram().read(PAGE, &mut [0]));
        assert_eq!(machine.bus.take().len(), 7, "two loads, a store, two that read and write");

        machine.ram().set_rights(PAGE..PAGE + 0x1000, WRITE_ONLY);
        run(&mut machine);
        assert_eq!(machine.cpu.state().gpr[0], 0x2322_2120);
        machine.ram().set_rights(PAGE..PAGE + 0x1000, Rights::ALL);
        assert_eq!([0x40, 0x60, 0x80].map(|at| word(&machine, at)), [0x1234_5678, 0x6362_6161, 0x8382_8181]);
        machine.bus.take();
        run(&mut machine);
        assert_eq!(machine.cpu.state().gpr[3], 0x6362_6162);
        assert_eq!(machine.bus.take(), []);
    }
}

#[test]
fn code_goes_with_its_page() {
    let mut machine = Machine::default();
    // At this address the bus answers with a RET.
    let target = PAGE + 0xc3;
    machine.program(&assemble(KERNEL_CODE, |a| {
        a.xor(eax, eax)?;
        a.call(target)?;
        a.hlt()
    }));
    machine.write(
        target,
        &assemble(target, |a| {
            a.mov(eax, 5)?;
            a.ret()
        }),
    );
    for (rights, expected) in [(Rights::ALL, 5), (HOLE, 0), (ROM, 5), (WRITE_ONLY, 0), (Rights::ALL, 5)] {
        machine.ram().set_rights(PAGE..PAGE + 0x1000, rights);
        for _ in 0..3 {
            run(&mut machine);
            assert_eq!(machine.cpu.state().gpr[0], expected, "{rights:?}");
        }
    }
}

#[test]
fn a_page_table_in_a_hole_is_no_page_table() {
    let mut machine = Machine::default();
    let linear = SCRATCH;
    machine.program(&assemble(KERNEL_CODE, |a| {
        a.mov(rax, linear)?;
        a.mov(eax, dword_ptr(rax))?;
        a.hlt()
    }));
    run(&mut machine);
    let table = machine.entry(linear, softmetal_cpu_testing::Level::Small) & !0xfff;
    machine.ram().set_rights(table..table + 0x1000, HOLE);
    machine.cpu.flush();
    let mut state = machine.cpu.state();
    state.rip = KERNEL_CODE;
    state.activity = Default::default();
    machine.cpu.set_state(&state);
    assert_eq!(machine.run(), softmetal_cpu_testing::End::Vector(14));
}

/// A CPU that counts in the page as fast as it can. Once it is a hole, not one more step reaches the RAM.
#[test]
fn a_running_cpu_sees_the_change_at_once() {
    let mut machine = Machine::new(Options { cpus: 2, ..Options::default() });
    machine.program(&assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.mov(rdx, PAGE)?;
        a.set_label(&mut again)?;
        a.inc(qword_ptr(rdx))?;
        a.inc(qword_ptr(rdx + 8))?;
        a.jmp(again)
    }));
    let (ram, bus) = (machine.ram().clone(), machine.bus.clone());
    let attention = machine.cpu.attention();
    let over = AtomicBool::new(false);
    let count = || ram.memory().read_obj::<u64>(GuestAddress(PAGE)).unwrap();
    thread::scope(|scope| {
        let cpu = &mut machine.cpu;
        let over = &over;
        scope.spawn(move || {
            while !over.load(SeqCst) {
                assert_eq!(cpu.run(), Exit::Requested);
            }
        });
        for _ in 0..100 {
            let before = count();
            while count() < before + 100 {
                thread::yield_now();
            }
            ram.set_rights(PAGE..PAGE + 0x1000, HOLE);
            let stood = count();
            bus.take();
            while bus.take().is_empty() {
                thread::yield_now();
            }
            assert_eq!(count(), stood);
            ram.set_rights(PAGE..PAGE + 0x1000, Rights::ALL);
        }
        over.store(true, SeqCst);
        attention.request(Request::EXIT);
    });
}
