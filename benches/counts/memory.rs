//! Addresses that the first TLB does not know.

use iced_x86::code_asm::*;
use softmetal_cpu::state::cr4;
use softmetal_cpu_testing::workloads::Loop;
use softmetal_cpu_testing::{Level, Machine, layout::*, pte};

use crate::work::{Entry, Work};

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("tlb/second-level", "page", || {
            sweep(small_pages(SECOND_LEVEL), SECOND_LEVEL, Touch::Read)
        }),
        Entry::new("tlb/load-cr3", "turn", load_cr3),
        Entry::new("tlb/invlpg", "turn", invlpg),
        Entry::new("tlb/access-across-pages", "access", across_pages),
        Entry::new("walk/4-levels", "page", || sweep(small_pages(WALKED), WALKED, Touch::Read)),
        Entry::new("walk/2-mib-pages", "page", || sweep(large_pages(), WALKED, Touch::Read)),
        Entry::new("walk/5-levels", "page", || sweep(five_levels(), WALKED, Touch::Read)),
        Entry::new("walk/set-accessed", "page", || first_touch(Touch::Read, pte::P | pte::W)),
        Entry::new("walk/set-dirty", "page", || first_touch(Touch::Write, pte::P | pte::W | pte::A)),
    ]
}

/// Where pages are mapped: a GiB that nothing else lies in.
const PAGES: u64 = 0x4000_0000;
/// Twice as many pages as the first TLB holds, half as many as the second: read in turn, each misses one and hits the other.
const SECOND_LEVEL: u64 = 2048;
/// Twice as many pages as the second TLB holds.
const WALKED: u64 = 8192;

#[derive(Clone, Copy)]
enum Touch {
    Read,
    Write,
}

/// A machine with so many pages of 4 KiB, a frame behind several.
fn small_pages(count: u64) -> Machine {
    let mut machine = Machine::default();
    map_small(&mut machine, count, pte::P | pte::W);
    machine
}

fn map_small(machine: &mut Machine, count: u64, flags: u64) {
    for k in 0..count {
        machine.map(PAGES + 0x1000 * k, FRAMES + 0x1000 * (k % 256), Level::Small, flags);
    }
}

fn large_pages() -> Machine {
    let mut machine = Machine::default();
    for k in 0..WALKED / 512 {
        let physical = (k << 21) % RAM;
        machine.map(PAGES + (k << 21), physical, Level::Large, pte::P | pte::W);
    }
    machine
}

fn five_levels() -> Machine {
    let mut machine = small_pages(WALKED);
    let pml5 = machine.frame();
    machine.write_u64(pml5, PML4 | pte::P | pte::W);
    let mut state = machine.cpu.state();
    state.cr4 |= cr4::LA57;
    state.cr3 = pml5;
    machine.cpu.set_state(&state);
    machine
}

/// A loop that touches a page each time.
fn touching(machine: Machine, touch: Touch) -> Loop {
    let mut program = Loop::on(machine, |a| {
        match touch {
            Touch::Read => a.mov(rax, qword_ptr(rsi))?,
            Touch::Write => a.mov(qword_ptr(rsi), rax)?,
        }
        a.add(rsi, 0x1000)
    });
    program.state.gpr[6] = PAGES;
    program
}

/// Pages in turn, a second time.
fn sweep(machine: Machine, pages: u64, touch: Touch) -> Work {
    Work::turns(touching(machine, touch), pages)
}

/// Pages whose entries are `flags` when they are touched.
fn first_touch(touch: Touch, flags: u64) -> Work {
    let mut program = touching(small_pages(WALKED), touch);
    program.prepare(WALKED);
    program.run();
    map_small(&mut program.machine, WALKED, flags);
    program.machine.cpu.flush();
    program.prepare(WALKED);
    Work::new(WALKED, move || program.run())
}

/// The address space is loaded again, and an address in it translated.
fn load_cr3() -> Work {
    let program = Loop::on(small_pages(1), |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.mov(rdx, qword_ptr(rbx))
    });
    Work::turns(program, 1000)
}

fn invlpg() -> Work {
    let mut program = Loop::on(small_pages(1), |a| {
        a.invlpg(ptr(rsi))?;
        a.mov(rdx, qword_ptr(rsi))
    });
    program.state.gpr[6] = PAGES;
    Work::turns(program, 1000)
}

fn across_pages() -> Work {
    let mut program = Loop::on(small_pages(2), |a| a.mov(rax, qword_ptr(rsi + 0xffc)));
    program.state.gpr[6] = PAGES;
    Work::turns(program, 1000)
}
