//! Written pages, whatever engine writes them.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use softmetal_cpu::{HAS_TRANSLATOR, Model};
use vm_memory::{Bytes, GuestAddress};

use super::kvm;
use crate::bare;
use crate::config::{Accel, Config, KernelSource, SerialTarget};
use crate::console::Console;
use crate::dirty::PAGE;
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::statistics::Report;

/// What the guest writes over and over: each third page from here on, so many.
const FIRST: u64 = 0x20_0000;
const COUNT: u64 = 32;

fn guest() -> Vec<u8> {
    let mut code = vec![0xb9]; // again: mov ecx, COUNT
    code.extend((COUNT as u32).to_le_bytes());
    code.push(0xbf); // mov edi, FIRST
    code.extend((FIRST as u32).to_le_bytes());
    code.extend([0x42, 0x89, 0x17]); // next: inc edx; mov [edi], edx
    code.extend([0x81, 0xc7]); // add edi, 3 pages
    code.extend((3 * PAGE as u32).to_le_bytes());
    code.extend([0x49, 0x75, 0xf4]); // dec ecx; jnz next
    code.push(0xbe); // mov esi, 5000
    code.extend(5000_u32.to_le_bytes());
    code.extend([0x4e, 0x75, 0xfd]); // wait: dec esi; jnz wait
    code.extend([0xeb, 0xe0]); // jmp again
    code
}

#[test]
fn pages_that_change_are_among_the_written_ones_under_every_engine() {
    let mut engines = vec![Accel::Interp];
    if HAS_TRANSLATOR {
        engines.push(Accel::Jit);
    }
    match kvm::lacking(Model::V2) {
        Ok(_) => engines.push(Accel::Kvm),
        Err(error) => eprintln!("not tested in KVM: {error}"),
    }
    let mut config = Config::new(KernelSource::BuiltIn(bare::kernel(&guest()).leak()));
    (config.accel, config.cpu, config.leak) = (Accel::Interp, Model::V2, true);
    (config.memory, config.serial) = (8 << 20, SerialTarget::None);
    let machine = Machine::build(&config, &Console::new()).unwrap();
    let (handle, switchboard) = (machine.handle(), machine.switchboard());
    let running = thread::spawn(move || machine.run(&mut Report::default()).unwrap());

    let memory = || {
        let mut bytes = vec![0; 4 << 20];
        switchboard.memory.ram.memory().read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    };
    let expected: BTreeSet<u64> = (0..COUNT).map(|n| FIRST + 3 * n * PAGE).collect();
    let mut before = memory();
    assert!(handle.written_pages().unwrap().is_empty(), "nobody has asked for it");
    handle.log_writes(true).unwrap();
    for (number, &engine) in engines.iter().cycle().take(4 * engines.len()).enumerate() {
        handle.switch_accel(engine).unwrap();
        assert_eq!(handle.accel(), engine);
        let mut seen = BTreeSet::new();
        let device = (number as u64 + 1) * PAGE;
        switchboard.memory.write(device, &[number as u8 + 1]);
        for _ in 0..2000 {
            thread::sleep(Duration::from_millis(2));
            switchboard.run.pause();
            let written: BTreeSet<u64> = handle.written_pages().unwrap().into_iter().collect();
            let now = memory();
            switchboard.run.resume();
            let pages =
                now.chunks(PAGE as usize).zip(before.chunks(PAGE as usize)).zip((0..).step_by(PAGE as usize));
            let changed: BTreeSet<u64> = pages.filter(|((a, b), _)| a != b).map(|(_, at)| at).collect();
            assert!(
                changed.is_subset(&written),
                "{engine:?}: {changed:x?} changed, {written:x?} are written"
            );
            seen.extend(written);
            before = now;
            if seen.is_superset(&expected) && changed.len() > 1 {
                break;
            }
        }
        let all: BTreeSet<u64> = expected.iter().copied().chain([device]).collect();
        assert_eq!(seen, all, "{engine:?}");
    }
    handle.log_writes(false).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert!(handle.written_pages().unwrap().is_empty());
    handle.terminate();
    assert_eq!(running.join().unwrap(), Outcome::Terminated);
}
