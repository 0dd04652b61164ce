//! A CPU knows which pages it writes: all that change are among them, however often it is asked.

use std::collections::BTreeSet;

use iced_x86::code_asm::*;
use softmetal_cpu::{Exit, Options};
use softmetal_cpu_testing::{Machine, assemble, layout::*};

const PAGE: u64 = 4096;

/// Stores of every kind: plain ones to the same pages over and over, across pages, strings, read-modify-write, locked ones, vectors,
/// pushes, one into a page with code.
fn program() -> Vec<u8> {
    assemble(KERNEL_CODE, |a| {
        let (mut again, mut site) = (a.create_label(), a.create_label());
        a.mov(ebp, 60)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(FRAMES + 16), ebp)?;
        a.mov(rdi, FRAMES + 2 * PAGE - 3)?;
        a.mov(qword_ptr(rdi), rbp)?;
        a.inc(dword_ptr(FRAMES + 4 * PAGE))?;
        a.lock().add(dword_ptr(FRAMES + 5 * PAGE), ebp)?;
        a.movd(xmm0, ebp)?;
        a.movdqu(xmmword_ptr(FRAMES + 6 * PAGE + 1), xmm0)?;
        a.mov(edi, (FRAMES + 7 * PAGE) as i32)?;
        a.mov(eax, ebp)?;
        a.mov(ecx, 20)?;
        a.rep().stosd()?;
        a.push(rbp)?;
        a.pop(rdx)?;
        a.set_label(&mut site)?;
        a.add(ebx, 1)?;
        a.mov(byte_ptr(site) + 2, bl)?;
        a.dec(ebp)?;
        a.jne(again)?;
        a.hlt()
    })
}

/// The pages of RAM that are not as they were.
fn changed(machine: &Machine, before: &mut Vec<u8>) -> BTreeSet<u64> {
    let now = machine.bytes(0, before.len());
    let pages = now.chunks(PAGE as usize).zip(before.chunks(PAGE as usize)).enumerate();
    let changed = pages.filter(|(_, (a, b))| a != b).map(|(number, _)| number as u64 * PAGE).collect();
    *before = now;
    changed
}

fn watch(options: Options, slice: u64) {
    let mut machine = Machine::new(options);
    machine.program(&program());
    let size = machine.ram().bytes() as usize;
    let mut before = machine.bytes(0, size);
    assert!(machine.cpu.written_pages().is_empty(), "nobody has asked for it");
    machine.cpu.log_writes();
    let mut rounds = 0;
    loop {
        let exit = machine.cpu.run_for(slice);
        let written: BTreeSet<u64> = machine.cpu.written_pages().into_iter().collect();
        let changed: BTreeSet<u64> = changed(&machine, &mut before);
        assert!(changed.is_subset(&written), "{options:?}: {changed:x?} changed, {written:x?} were written");
        // Not just everything.
        assert!(written.len() < 24, "{written:x?}");
        rounds += usize::from(!changed.is_empty());
        if exit == Exit::Halted {
            break;
        }
        assert_eq!(exit, Exit::Counted);
    }
    assert!(slice > 1 || rounds > 60 * 8, "{rounds}");
    assert!(machine.cpu.written_pages().is_empty(), "nothing has run since");
}

#[test]
fn a_log_ends_and_begins_anew() {
    let mut machine = Machine::new(Options::default());
    machine.program(&program());
    machine.cpu.log_writes();
    machine.cpu.run_for(500);
    assert!(!machine.cpu.written_pages().is_empty());
    machine.cpu.stop_logging_writes();
    machine.cpu.run_for(500);
    assert!(machine.cpu.written_pages().is_empty());
    // What has been written meanwhile is not in it; what is written from here on is, tags or no tags.
    machine.cpu.log_writes();
    machine.cpu.run_for(500);
    assert!(machine.cpu.written_pages().contains(&FRAMES));
}

#[test]
fn what_changes_is_among_the_written_pages() {
    for options in [
        Options::default(),
        Options { no_specialise: true, ..Options::default() },
        Options { no_tlb: true, ..Options::default() },
    ] {
        for slice in [1, 7, 300, u64::MAX] {
            watch(options, slice);
        }
    }
}
