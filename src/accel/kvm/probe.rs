//! A tiny guest that shows whether a KVM works. It runs in a process of its own: a KVM that hangs costs a deadline and no more.
#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use softmetal_cpu::CpuidLeaf;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::vcpu::cpuid_entry;
use super::{Error, Host};

/// The hidden command that runs the guest, and its word for a guest that never ends.
pub(crate) const COMMAND: &str = "probe-kvm";
pub(crate) const FOR_EVER: &str = "--for-ever";

/// What the probe has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// What an instruction costs in real mode, in nanoseconds.
    pub(crate) nanoseconds: f64,
    /// What user code sees of CPUID though nothing was offered; None where the guest did not get there.
    pub(crate) seen: Option<Seen>,
    /// Processors that a machine can have.
    pub(crate) processors: usize,
}

impl Findings {
    /// Whether the processor does not run the guest's system code itself: an imitation of virtualization in software.
    pub(crate) fn is_software(&self) -> bool {
        is_software(self.nanoseconds)
    }
}

/// Words of CPUID in user code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) leaf1_ecx: u32,
    pub(crate) leaf7_ebx: u32,
    pub(crate) leaf7_ecx: u32,
}

fn is_software(nanoseconds: f64) -> bool {
    // The slowest processors with virtualization take a nanosecond for such an instruction.
    nanoseconds > 20.0
}

/// Whether the processor does not run the guest's system code itself, for a machine that is about to be in KVM: the tiny guest runs
/// in this process, once.
pub(super) fn imitates(kvm: &Kvm) -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER
        .get_or_init(|| TinyGuest::new(kvm).and_then(|mut tiny| tiny.add_up(&sum())).is_ok_and(is_software))
}

/// Runs the probe by `program`, which is this one, for at most `deadline`. The error is a sentence.
pub(crate) fn probe(program: &Path, deadline: Duration, for_ever: bool) -> Result<Findings, String> {
    let mut command = Command::new(program);
    command.arg(COMMAND).args(for_ever.then_some(FOR_EVER));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("the probe of KVM does not start: {error}"))?;
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if start.elapsed() > deadline {
            // A process that is stuck in the kernel does not go at once: nobody waits for it.
            let _ = child.kill();
            let _ = child.try_wait();
            return Err(format!("KVM hangs: a tiny guest did not end within {} ms", deadline.as_millis()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        let _ = output.read_to_string(&mut text);
    }
    let answer: Result<Result<Findings, String>, _> = serde_json::from_str(&text);
    answer.unwrap_or_else(|_| Err("the probe of KVM ended without an answer".into()))
}

/// The other side: runs the guest, and writes what it has found.
pub(crate) fn run_probe(for_ever: bool, output: &mut dyn Write) -> std::io::Result<()> {
    let answer = examine(for_ever).map_err(|error| error.to_string());
    serde_json::to_writer(&mut *output, &answer)?;
    output.flush()
}

/// Guest memory, and where in it what is.
const MEMORY: u64 = 0x1_0000;
const TABLES: u64 = 0x1000;
const TASK: u64 = 0x5000;
const CODE: u64 = 0x8000;
const PORT: u16 = 0xf4;

/// Turns of the loop of three instructions that is timed.
const TURNS: u32 = 4_000;

/// Real mode: adds up the numbers to TURNS, and sends the sum.
fn sum() -> Vec<u8> {
    let mut code = vec![0x66, 0x31, 0xc0]; // xor eax, eax
    code.extend([0x66, 0xb9]); // mov ecx, TURNS
    code.extend(TURNS.to_le_bytes());
    code.extend([0x66, 0x01, 0xc8]); // again: add eax, ecx
    code.extend([0x66, 0x49]); // dec ecx
    code.extend([0x75, 0xf9]); // jnz again
    code.extend([0x66, 0xe7, PORT as u8]); // out PORT, eax
    code.push(0xf4); // hlt
    code
}

/// Real mode: never ends.
const LOOP: [u8; 2] = [0xeb, 0xfe];

/// 64-bit user mode with the right to use ports: sends words of CPUID.
#[rustfmt::skip]
const ASK: [u8; 36] = [
    0xb8, 1, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, // mov eax, 1; xor ecx, ecx; cpuid
    0x89, 0xc8, 0xe7, PORT as u8, // mov eax, ecx; out PORT, eax
    0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, // mov eax, 7; xor ecx, ecx; cpuid
    0x41, 0x89, 0xc8, // mov r8d, ecx
    0x89, 0xd8, 0xe7, PORT as u8, // mov eax, ebx; out PORT, eax
    0x44, 0x89, 0xc0, 0xe7, PORT as u8, // mov eax, r8d; out PORT, eax
    0xeb, 0xfe, // jmp $
];

fn examine(for_ever: bool) -> Result<Findings, Error> {
    let (kvm, host) = Host::open()?;
    let mut tiny = TinyGuest::new(&kvm)?;
    let code = if for_ever { LOOP.to_vec() } else { sum() };
    let nanoseconds = tiny.add_up(&code)?;
    let seen = user_cpuid(&tiny.vm, &tiny.ram).ok();
    Ok(Findings { nanoseconds, seen, processors: host.processors })
}

/// A machine with a little memory.
struct TinyGuest {
    vcpu: VcpuFd,
    vm: VmFd,
    /// Mapped for longer than KVM has it.
    ram: GuestMemoryMmap<()>,
}

impl TinyGuest {
    fn new(kvm: &Kvm) -> Result<Self, Error> {
        let refused = |what: &'static str| move |error: kvm_ioctls::Error| Error::refused(what, error);
        let vm = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
        let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY as usize)])
            .map_err(|_| Error::Lacks("memory for a tiny guest"))?;
        let host_address = ram.iter().next().map_or(0, |region| region.as_ptr() as u64);
        let region = kvm_userspace_memory_region {
            memory_size: MEMORY,
            userspace_addr: host_address,
            ..kvm_userspace_memory_region::default()
        };
        // SAFETY: the memory stays mapped as long as the machine, which is dropped before it; nobody has a reference into it.
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
        Ok(Self { vcpu, vm, ram })
    }

    /// Runs [`sum`], or what takes its place, in real mode; what an instruction costs, in nanoseconds.
    fn add_up(&mut self, code: &[u8]) -> Result<f64, Error> {
        let Self { vcpu, ram, .. } = self;
        let written = ram.write_slice(code, GuestAddress(CODE));
        written.map_err(|_| Error::Lacks("memory for a tiny guest"))?;
        let sregs = vcpu.get_sregs();
        let mut sregs = sregs.map_err(|error| Error::refused("to tell special registers", error))?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        start(vcpu, &sregs, 2)?;
        let begin = Instant::now();
        let result = next_word(vcpu)?;
        let nanoseconds = begin.elapsed().as_nanos() as f64 / (3.0 * f64::from(TURNS));
        match result == TURNS.wrapping_mul(TURNS + 1) / 2 {
            true => Ok(nanoseconds),
            false => Err(Error::Lacks("the right result of a tiny guest")),
        }
    }
}

fn start(vcpu: &VcpuFd, sregs: &kvm_bindings::kvm_sregs, rflags: u64) -> Result<(), Error> {
    vcpu.set_sregs(sregs).map_err(|error| Error::refused("special registers", error))?;
    let regs = kvm_bindings::kvm_regs { rip: CODE, rsp: MEMORY, rflags, ..Default::default() };
    vcpu.set_regs(&regs).map_err(|error| Error::refused("registers", error))
}

/// The next word that the guest sends.
fn next_word(vcpu: &mut VcpuFd) -> Result<u32, Error> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, &[a, b, c, d])) => return Ok(u32::from_le_bytes([a, b, c, d])),
            Ok(VcpuExit::Intr) => {}
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Ok(_) => return Err(Error::Lacks("what a tiny guest needs")),
            Err(error) => return Err(Error::refused("KVM_RUN", error)),
        }
    }
}

/// What 64-bit user code sees of CPUID when it is offered nothing but long mode.
fn user_cpuid(vm: &VmFd, ram: &GuestMemoryMmap<()>) -> Result<Seen, Error> {
    const PRESENT_WRITABLE_USER: u64 = 7;
    const LARGE: u64 = 1 << 7;
    let leaf = |leaf, values| cpuid_entry(&CpuidLeaf { leaf, subleaf: 0, indexed: leaf == 7, values });
    const BASIC: u32 = 0x0388_0171 | 1 << 5 | 1 << 6; // what a processor with long mode has
    let leaves = [
        leaf(0, [7, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(1, [0x000e_06f8, 0, 0, BASIC]),
        leaf(7, [0; 4]),
        leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        leaf(0x8000_0001, [0, 0, 0, 1 << 29 | 1 << 20 | 1 << 11]),
        leaf(0x8000_0008, [0x3028, 0, 0, 0]),
    ];
    let cpuid = CpuId::from_entries(&leaves).map_err(|_| Error::Lacks("room for CPUID's leaves"))?;
    // A processor of its own: kernels take no other CPUID from one that has run.
    let mut vcpu = vm.create_vcpu(1).map_err(|error| Error::refused("KVM_CREATE_VCPU", error))?;
    vcpu.set_cpuid2(&cpuid).map_err(|error| Error::refused("KVM_SET_CPUID2", error))?;
    let mut sregs = vcpu.get_sregs().map_err(|error| Error::refused("to tell special registers", error))?;
    let entries = [
        (TABLES, (TABLES + 0x1000) | PRESENT_WRITABLE_USER),
        (TABLES + 0x1000, (TABLES + 0x2000) | PRESENT_WRITABLE_USER),
        (TABLES + 0x2000, PRESENT_WRITABLE_USER | LARGE),
    ];
    let unwritten = |_| Error::Lacks("memory for a tiny guest");
    for (at, entry) in entries {
        ram.write_obj(entry, GuestAddress(at)).map_err(unwritten)?;
    }
    ram.write_slice(&ASK, GuestAddress(CODE)).map_err(unwritten)?;
    let flat = kvm_segment { limit: u32::MAX, present: 1, dpl: 3, s: 1, g: 1, ..kvm_segment::default() };
    sregs.cs = kvm_segment { type_: 11, l: 1, selector: 0x1b, ..flat };
    let data = kvm_segment { type_: 3, db: 1, selector: 0x23, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: TASK,
        limit: 0x67,
        selector: 0x28,
        type_: 11,
        present: 1,
        ..kvm_segment::default()
    };
    sregs.cr0 = 0x8000_0031;
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
    const IOPL_3: u64 = 0x3000;
    start(&vcpu, &sregs, IOPL_3 | 2)?;
    let mut next = || next_word(&mut vcpu);
    Ok(Seen { leaf1_ecx: next()?, leaf7_ebx: next()?, leaf7_ecx: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_is_told_by_its_speed() {
        let findings = |nanoseconds| Findings { nanoseconds, seen: None, processors: 1 };
        assert!(findings(250.0).is_software() && !findings(0.8).is_software());
    }

    #[test]
    fn a_probe_that_does_not_start_or_answer_is_a_sentence() {
        let deadline = Duration::from_secs(10);
        let missing = probe(Path::new("/nonexistent"), deadline, false).unwrap_err();
        assert!(missing.contains("does not start"), "{missing}");
        let silent = probe(Path::new("/bin/true"), deadline, false).unwrap_err();
        assert!(silent.contains("without an answer"), "{silent}");
    }

    #[test]
    fn a_probe_that_hangs_costs_its_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("hangs");
        std::fs::write(&script, "#!/bin/sh\nexec sleep 100\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let start = Instant::now();
        let hangs = probe(&script, Duration::from_millis(100), false).unwrap_err();
        assert!(hangs.contains("hangs"), "{hangs}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
