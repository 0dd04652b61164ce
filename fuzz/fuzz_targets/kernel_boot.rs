//! A kernel of any kind, a module and a command line: each is refused, or all of it fits into the guest's memory.
//! Input: three bytes say how long the module and the command line at its end are, and how much memory there is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softmetal_firmware::memory_map::MemoryMap;
use softmetal_firmware::{Boot, BootError, Kernel, Module, load};
use vm_memory::{GuestAddress, GuestMemoryMmap};

fuzz_target!(|bytes: &[u8]| {
    let [module_length, command_line_length, memory, rest @ ..] = bytes else { return };
    let (rest, command_line) = rest.split_at(rest.len().saturating_sub((*command_line_length).into()));
    let (kernel, module) = rest.split_at(rest.len().saturating_sub((*module_length).into()));
    let Ok(kernel) = Kernel::parse("kernel", kernel) else { return };
    let memory = (2 + u64::from(*memory)) << 20;
    let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), memory as usize)]).unwrap();
    let command_line = String::from_utf8_lossy(command_line);
    let modules = [Module { file: "module", command_line: &command_line, bytes: module }];
    let boot = Boot {
        modules: if module.is_empty() { &[] } else { &modules },
        command_line: &command_line,
        memory_map: &MemoryMap::pc(memory, &softmetal::memory_map::layout()),
        rsdp: 0xe_0000,
        rng_seed: None,
    };
    if let Err(error) = load(&kernel, &boot, &ram) {
        assert!(!matches!(error, BootError::Memory(_)), "a plan that does not fit into memory: {error}");
    }
});
