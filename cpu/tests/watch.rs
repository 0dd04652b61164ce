//! Watchpoints: every access to a range is told of, and nothing changes for the guest.

use iced_x86::code_asm::*;
use softmetal_cpu::{Exit, Options, Watch, Watched};
use softmetal_cpu_testing::{Level, Machine, assemble, layout::*, pte};
use std::sync::{Arc, Mutex};

/// Where the page at [`FRAMES`] can be seen, too.
const ALIAS: u64 = 0x4000_0000;

/// Runs the program and gives the accesses that were told: offset of the instruction, address, size, write, before, after.
fn told(options: Options, list: Vec<Watch>, most: usize) -> (Vec<Watched>, Machine) {
    let mut machine = Machine::new(options);
    machine.map(ALIAS, FRAMES, Level::Small, pte::P | pte::W);
    machine.write(FRAMES, &[0x22; 0x100]);
    machine.program(&assemble(KERNEL_CODE, |a| {
        a.mov(rbx, FRAMES)?;
        a.mov(rdx, ALIAS)?;
        // Beside the range, across its start, in it by both addresses.
        a.mov(qword_ptr(rbx + 0x38), 7)?;
        a.mov(dword_ptr(rbx + 0x3e), 0x0403_0201)?;
        a.add(qword_ptr(rbx + 0x40), 1)?;
        a.mov(word_ptr(rdx + 0x44), 9)?;
        a.movzx(eax, byte_ptr(rdx + 0x47))?;
        // Three elements, of which the last two are in the range.
        a.lea(rdi, ptr(rbx + 0x38))?;
        a.mov(ecx, 3)?;
        a.mov(eax, 5)?;
        a.rep().stosq()?;
        a.hlt()
    }));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let seen = Arc::clone(&seen);
        Box::new(move |watched: &Watched| {
            let mut seen = seen.lock().unwrap();
            seen.push(*watched);
            seen.len() < most
        })
    };
    machine.cpu.watch_memory(list, sink);
    assert_eq!(machine.cpu.run(), Exit::Halted);
    let seen = seen.lock().unwrap().clone();
    (seen, machine)
}

fn watch(at: u64, physical: bool) -> Watch {
    Watch { at, len: 16, physical, read: true, write: true }
}

/// Address, size, write, before and after.
type Short = (u64, u64, bool, Option<u64>, Option<u64>);

fn short(watched: &[Watched]) -> Vec<Short> {
    watched.iter().map(|w| (w.linear, w.size, w.write, w.before, w.after)).collect()
}

#[test]
fn linear_and_physical_ranges() {
    for options in [
        Options { cpus: 1, ..Options::default() },
        Options { cpus: 1, no_chain: true, no_specialise: true, ..Options::default() },
        Options { cpus: 1, no_tlb: true, ..Options::default() },
    ] {
        let (plain, untouched) = told(options, vec![], 1);
        assert_eq!(plain, []);

        let (seen, machine) = told(options, vec![watch(FRAMES + 0x40, false)], 100);
        let twos = 0x2222_2222_2222_2222_u64;
        let changed = twos & !0xffff | 0x0403;
        let by_alias = (changed + 1) & !0xffff_0000_0000 | 9 << 32;
        let own = [
            (FRAMES + 0x3e, 4, true, Some(0x2222_0000), Some(0x0403_0201)),
            (FRAMES + 0x40, 8, true, Some(changed), Some(changed + 1)),
            (FRAMES + 0x40, 8, true, Some(by_alias), Some(5)),
            (FRAMES + 0x48, 8, true, Some(twos), Some(5)),
        ];
        assert_eq!(short(&seen), own);
        assert_eq!(machine.bytes(FRAMES, 0x100), untouched.bytes(FRAMES, 0x100));

        let (seen, _) = told(options, vec![watch(FRAMES + 0x40, true)], 100);
        let alias = [
            (ALIAS + 0x44, 2, true, Some(0x2222), Some(9)),
            (ALIAS + 0x47, 1, false, Some(0x22), Some(0x22)),
        ];
        assert_eq!(short(&seen), [&own[..2], &alias[..], &own[2..]].concat());
        assert!(seen.iter().all(|w| w.physical == FRAMES + (w.linear & 0xfff)));
        // Each names its own instruction; the iterations of one share it.
        let mut rips: Vec<u64> = seen.iter().map(|w| w.rip - KERNEL_CODE).collect();
        rips.dedup();
        assert_eq!(rips.len(), 5, "{rips:x?}");
        assert_eq!(rips[0], 10 + 10 + 8, "behind two loads of addresses and a store of eight bytes");
    }
}

#[test]
fn reads_or_writes_alone_and_no_more_than_wanted() {
    let options = Options { cpus: 1, ..Options::default() };
    let reads = Watch { write: false, ..watch(FRAMES + 0x40, true) };
    let (seen, _) = told(options, vec![reads], 100);
    assert_eq!(seen.iter().map(|w| w.linear).collect::<Vec<_>>(), [ALIAS + 0x47]);
    let writes = Watch { read: false, ..watch(FRAMES + 0x40, true) };
    let (seen, machine) = told(options, vec![writes], 2);
    assert_eq!(seen.len(), 2);
    assert_eq!(machine.read_u64(FRAMES + 0x48), 5);
}
