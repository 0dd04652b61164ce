//! The counters, what a CPU says it is doing, and the code that samples find.

use iced_x86::code_asm::*;
use softmetal_cpu::{Doing, Exit, Flush, Sample};
use softmetal_cpu_testing::{End, Machine, assemble, layout::*};
use std::sync::{Arc, Mutex};

#[test]
fn events_are_counted_by_kind() {
    let mut machine = Machine::default();
    machine.program(&assemble(KERNEL_CODE, |a| {
        let (mut again, mut written) = (a.create_label(), a.create_label());
        a.mov(ecx, 100)?;
        a.set_label(&mut again)?;
        a.dec(ecx)?;
        a.jne(again)?;
        // One TLB miss, one walk; then hits.
        a.mov(rbx, KERNEL_DATA)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rax, qword_ptr(rbx + 8))?;
        a.invlpg(ptr(rbx))?;
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        // Writes into its own block.
        a.mov(byte_ptr(written), 0x90)?;
        a.set_label(&mut written)?;
        a.nop()?;
        a.out(0x80, al)?;
        a.hlt()
    }));
    let before = machine.cpu.statistics();
    assert_eq!(before.instructions, 0);
    assert!(matches!(machine.run(), End::Halt(_)));
    let after = machine.cpu.statistics();
    assert_eq!(after.instructions, 1 + 200 + 10);
    assert_eq!(after.user_instructions, 0);
    assert!(after.decoded >= 13 && after.blocks >= 3, "{after:?}");
    // The loop's branch back, once.
    assert!((1..5).contains(&after.links), "{after:?}");
    assert!(after.lookups >= after.blocks && after.lookups < 20, "{after:?}");
    // All that is in the 64 bytes is dropped, and the rest of the block is entered once.
    assert!(after.invalidations >= 1 && after.invalidations < after.blocks, "{after:?}");
    assert_eq!(after.stale, 1);
    assert!(after.tlb_misses >= 2 && after.walks >= 2, "{after:?}");
    assert!(after.tlb_fills <= after.tlb_misses);
    assert!(after.walks + after.second_level <= after.tlb_misses + after.fetch_misses);
    let flushes = |flush| after.flushes[flush as usize] - before.flushes[flush as usize];
    assert_eq!((flushes(Flush::Cr3), flushes(Flush::Evicted)), (1, 0));
    // The page of the code is one of 2 MiB, and so is that of the data.
    assert_eq!((flushes(Flush::LargePage), flushes(Flush::Page)), (1, 0));
    assert_eq!((after.switches, after.device_accesses), (1, 1));
    assert_eq!(after.exceptions, [0; 32]);

    machine.write(KERNEL_CODE, &[0xcc]);
    machine.cpu.set_state(&Machine::supervisor_state());
    assert_eq!(machine.run(), End::Vector(3));
    machine.write(KERNEL_CODE, &[0x0f, 0x0b]);
    machine.cpu.set_state(&Machine::supervisor_state());
    assert_eq!(machine.run(), End::Vector(6));
    machine.cpu.set_state(&Machine::user_state());
    machine.load(&[0x90]);
    machine.interrupt(0x77);
    assert_eq!(machine.run(), End::Vector(0x77));
    let events = machine.cpu.statistics();
    assert_eq!((events.software_interrupts[3], events.exceptions[6], events.interrupts[0x77]), (1, 1, 1));
    for (counts, all) in
        [(&events.software_interrupts[..], 1), (&events.exceptions[..], 1), (&events.interrupts[..], 1)]
    {
        assert_eq!(counts.iter().sum::<u64>(), all);
    }
}

#[test]
fn a_cpu_says_what_it_is_doing_and_samples_find_the_block() {
    let mut machine = Machine::default();
    let out = KERNEL_CODE + 0x100;
    machine.program(&assemble(KERNEL_CODE, |a| a.jmp(out)));
    machine.write(
        out,
        &assemble(out, |a| {
            a.out(0x80, al)?;
            a.nop()?;
            a.jmp(out + 0x100)
        }),
    );
    machine.write(out + 0x100, &assemble(out + 0x100, |a| a.hlt()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let whereabouts = machine.cpu.whereabouts();
    machine.bus.on_port_write({
        let (seen, whereabouts) = (Arc::clone(&seen), Arc::clone(&whereabouts));
        move || {
            seen.lock().unwrap().push(whereabouts.doing());
            whereabouts.sample();
            whereabouts.sample();
        }
    });
    assert_eq!(machine.cpu.run(), Exit::Halted);
    assert_eq!(*seen.lock().unwrap(), [Doing::Device]);
    assert_eq!(whereabouts.doing(), Doing::Dispatch);
    // Both in one place: the block with the OUT, not that behind it.
    let samples: Vec<(Sample, u64)> = machine.cpu.profile().samples.iter().map(|(s, n)| (*s, *n)).collect();
    let [(Sample { user: None, linear }, 2)] = samples[..] else { panic!("{samples:x?}") };
    assert!((out..out + 0x20).contains(&linear), "{linear:#x}");
}

#[test]
fn samples_of_a_loop_are_found_in_it_by_address_space() {
    let mut machine = Machine::default();
    // An endless loop at CPL 3.
    machine.load(&[0xeb, 0xfe]);
    machine.cpu.set_state(&Machine::user_state());
    let whereabouts = machine.cpu.whereabouts();
    let mut found = 0;
    while found < 100 {
        whereabouts.sample();
        assert_eq!(machine.cpu.run_for(1000), Exit::Counted);
        found += 1;
    }
    let profile = machine.cpu.profile();
    // What was asked for between two runs is found at the place where the next begins.
    let total: u64 = profile.samples.values().sum();
    assert_eq!((total, profile.others), (found, 0));
    for sample in profile.samples.keys() {
        assert_eq!(sample.user, Some(PML4), "{sample:x?}");
        assert!((INSN..INSN + 2).contains(&sample.linear), "{sample:x?}");
    }
    assert_eq!(machine.cpu.statistics().user_instructions, 1000 * found);
}
