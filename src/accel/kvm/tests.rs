//! States of processors that go to KVM and come back.

use std::sync::Arc;

use softmetal_cpu::state::{Segment, Shadow, TableRegister, X87, cr0, cr4, efer, seg};
use softmetal_cpu::{Activity, CpuState, Fault, Options, float::F80};
use softmetal_cpu::{Cpu, Model};
use softmetal_devices::interrupts::LapicPage;

use super::{Vcpu, Vm, lacking};
use crate::bare;
use crate::board::Board;
use crate::config::{Config, KernelSource};
use crate::console::Console;
use crate::journal::Journal;
use crate::machine::Ends;
use crate::pc::Pc;
use crate::ram_port::RamPort;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    fn canonical(&mut self) -> u64 {
        ((self.next() << 16) as i64 >> 16) as u64
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.next() % of.len() as u64) as usize]
    }
}

/// A mode in which a processor can be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Real,
    Protected,
    Long,
}

fn segment(r: &mut Random, mode: Mode, kind: u32, dpl: u32) -> Segment {
    if mode == Mode::Real {
        let code = kind & 8 != 0;
        return Segment { attributes: if code { 0x9b } else { 0x93 }, ..Segment::real(r.next() as u16) };
    }
    let granular = r.next() & 1 != 0;
    let limit = r.next() as u32 & 0xf_ffff;
    let big = if mode == Mode::Long && kind & 8 != 0 { Segment::LONG } else { Segment::BIG };
    Segment {
        selector: (r.next() as u16 & !3) | dpl as u16,
        base: if mode == Mode::Long { 0 } else { u64::from(r.next() as u32) },
        limit: if granular { limit << 12 | 0xfff } else { limit },
        attributes: kind | 0x90 | dpl << 5 | big | u32::from(granular) << 15,
    }
}

/// A state in which a processor can be.
fn state(r: &mut Random) -> CpuState {
    let mode = r.pick(&[Mode::Real, Mode::Protected, Mode::Long]);
    let mut s = CpuState::reset();
    s.gpr = std::array::from_fn(|_| r.next());
    s.rip = if mode == Mode::Long { r.canonical() } else { r.next() & 0xffff };
    s.rflags = 2 | r.next() & 0x0020_0ed5;
    let dpl = if mode == Mode::Real { 0 } else { r.pick(&[0, 3]) };
    for number in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
        s.segments[number] = segment(r, mode, 3, dpl);
    }
    s.segments[seg::CS] = segment(r, mode, 11, dpl);
    if mode == Mode::Long {
        (s.segments[seg::FS].base, s.segments[seg::GS].base) = (r.canonical(), r.canonical());
    }
    s.tr = Segment { selector: 0x40, base: r.canonical() >> 17, limit: 0x67, attributes: 0x8b };
    s.ldtr = Segment { selector: 0x48, base: r.canonical() >> 17, limit: 0xff, attributes: 0x82 };
    s.gdtr = TableRegister { base: r.canonical(), limit: r.next() as u16 };
    s.idtr = TableRegister { base: r.canonical(), limit: r.next() as u16 };
    s.cr0 = cr0::ET | cr0::NE | r.next() & (cr0::MP | cr0::TS | cr0::AM | cr0::WP);
    s.cr2 = r.next();
    s.cr4 = r.next() & (cr4::DE | cr4::PSE | cr4::MCE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::TSD);
    match mode {
        Mode::Real => {}
        Mode::Protected => s.cr0 |= cr0::PE,
        Mode::Long => {
            s.cr0 |= cr0::PE | cr0::PG;
            s.cr4 |= cr4::PAE;
            s.cr3 = r.next() & 0x0001_ffff_f000;
            s.efer = efer::LME | efer::LMA | r.next() & (efer::SCE | efer::NXE);
        }
    }
    for k in 0..4 {
        s.dr[k] = r.canonical();
    }
    s.dr[6] = 0xffff_0ff0 | r.next() & 15;
    s.dr[7] = 0x400;
    let m = &mut s.msrs;
    (m.star, m.lstar, m.cstar) = (r.next(), r.canonical(), r.canonical());
    (m.fmask, m.kernel_gs_base) = (r.next() >> 32, r.canonical());
    (m.sysenter_cs, m.sysenter_esp, m.sysenter_eip) = (r.next() >> 48, r.canonical(), r.canonical());
    m.pat = (0..8).fold(0, |pat, k| pat | r.pick(&[0_u64, 1, 4, 5, 6, 7]) << (8 * k));
    m.tsc_adjust = r.next();
    m.mtrr_def_type = 0xc00 | r.pick(&[0_u64, 1, 4, 5, 6]);
    for pair in &mut m.mtrr_variable {
        *pair = (r.next() & 0x3fff_ffff_f000 | r.pick(&[0, 6]), r.next() & 0x3fff_ffff_f000 | 1 << 11);
    }
    for fixed in &mut m.mtrr_fixed {
        *fixed = r.pick(&[0, 0x0606_0606_0606_0606, 0x0505_0606_0001_0404]);
    }
    s.tsc_offset = r.next() >> 20;
    s.xmm = std::array::from_fn(|_| r.wide());
    s.mxcsr = r.next() as u32 & 0xffff;
    let status = r.next() as u16 & 0x7f7f;
    s.x87 = X87 { control: r.next() as u16 & 0x0f3f | 0x40, status, tags: r.next() as u8, ..X87::default() };
    s.x87.refresh_summary();
    for register in &mut s.x87.regs {
        *register = F80 { significand: r.next(), sign_exponent: r.next() as u16 };
    }
    if r.next() & 3 == 0 {
        s.shadow = r.pick(&[Shadow::Sti, Shadow::MovSs]);
    }
    s.nmi_blocked = r.next() & 3 == 0;
    s.nmi_pending = r.next() & 3 == 0;
    s.activity = r.pick(&[Activity::Active, Activity::Active, Activity::Halted]);
    s.injected = match r.next() & 7 {
        0 => Some(Fault { vector: 14, error_code: Some(r.next() as u32 & 7), address: s.cr2 }),
        1 => Some(Fault { address: s.cr2, ..Fault::UD }),
        2 => Some(Fault::new(r.next() as u8 | 0x80)),
        _ => None,
    };
    s
}

/// A state without what processors and KVM do not keep.
fn kept(state: &CpuState, missing: &dyn Fn(u32) -> bool) -> CpuState {
    let mut s = state.clone();
    // Processors of AMD's keep the last instruction's place only while an exception is pending.
    (s.x87.opcode, s.x87.ip, s.x87.dp, s.x87.cs, s.x87.ds) = (0, 0, 0, 0, 0);
    s.pdptrs = [0; 4];
    s.pending_debug = 0;
    // AMD's processors have one shadow for both.
    if s.shadow != Shadow::None {
        s.shadow = Shadow::Sti;
    }
    for entry in super::registers::msrs(&s) {
        if missing(entry.index) {
            super::registers::take_msr(&mut s, &kvm_bindings::kvm_msr_entry { data: 0, ..entry });
        }
    }
    s
}

/// What differs, a line each.
fn differences(before: &CpuState, after: &CpuState) -> Vec<String> {
    let [before, after] = [before, after].map(|state| format!("{state:#?}"));
    let pairs = before.lines().zip(after.lines()).enumerate();
    pairs.filter(|(_, (a, b))| a != b).map(|(n, (a, b))| format!("{n}: {a} -> {b}")).collect()
}

/// A processor here and in KVM; None, said, where there is no KVM.
fn pair() -> Option<(Arc<Board>, Box<Cpu>, Vcpu)> {
    let config = Config::new(KernelSource::BuiltIn(bare::kernel(&[0xf4]).leak()));
    let serial = Ends::new(&Console::new());
    let (board, ram, ..) = Pc::build(&config, &serial, &Journal::None, &[]).unwrap().parts();
    let leaks = match lacking(Model::V2) {
        Ok(leaks) => leaks,
        Err(error) => {
            eprintln!("not tested: {error}");
            return None;
        }
    };
    let options = Options { model: Model::V2, lacking: leaks.without, ..Options::default() };
    let cpu = Cpu::new(0, options, Arc::clone(&ram), board.clone());
    let vm = Vm::new(&RamPort::new(Arc::clone(&ram), Vec::new()), cpu.attention(), false).unwrap();
    vm.align(&board.clock);
    let vcpu = Vcpu::new(&vm, &board, 0, &cpu).unwrap();
    Some((board, cpu, vcpu))
}

#[test]
fn states_survive_kvm() {
    let Some((board, mut cpu, mut vcpu)) = pair() else { return };
    let page = board.interrupts.take_lapic_page(0);
    let mut random = Random(1);
    for number in 0..2000 {
        let before = state(&mut random);
        cpu.set_state(&before);
        // What the processor itself makes of it: flags that are always set.
        let before = cpu.state();
        vcpu.enter(&cpu, &page).unwrap_or_else(|error| panic!("state {number}: {error}\n{before}"));
        cpu.set_state(&CpuState::reset());
        // As it is: on the way to the next instruction KVM would take up what is pending.
        let registers = vcpu.lapic_registers().unwrap();
        vcpu.give_back(&mut cpu, registers, None).unwrap();
        let missing = |msr| vcpu.is_missing(msr);
        let mut after = cpu.state();
        if vcpu.has_fixed_tsc() {
            after.tsc_offset = before.tsc_offset;
        }
        let different = differences(&kept(&before, &missing), &kept(&after, &missing));
        assert!(different.is_empty(), "state {number}: {}\n{before}", different.join("\n"));
    }
}

#[test]
fn local_apics_survive_kvm() {
    let Some((board, mut cpu, mut vcpu)) = pair() else { return };
    board.interrupts.enter_virtual_wire_mode();
    let mut page = board.interrupts.take_lapic_page(0);
    let mut random = Random(2);
    for _ in 0..200 {
        set_apic(&mut page, &mut random);
        let offset = cpu.state().tsc_offset;
        vcpu.enter(&cpu, &page).unwrap();
        let after = vcpu.leave(&mut cpu).unwrap();
        board.interrupts.set_lapic_page(0, &after);
        let again = board.interrupts.take_lapic_page(0);
        for number in APIC_REGISTERS {
            assert_eq!(after.registers[number], page.registers[number], "KVM: register {number:#x}");
            assert_eq!(again.registers[number], page.registers[number], "register {number:#x}");
        }
        assert_eq!((after.apic_base, again.apic_base), (page.apic_base, page.apic_base));
        // The guest's own TSC is ahead of the clock's by the offset.
        let guests = |page: &LapicPage, offset: u64| page.tsc_deadline.wrapping_add(offset);
        let (now, before) = (guests(&after, cpu.state().tsc_offset), guests(&page, offset));
        assert!(now.abs_diff(before) <= 1, "{now:#x}, {before:#x}");
        assert_eq!(again.tsc_deadline, after.tsc_deadline);
    }
}

/// TPR, LDR, DFR, SVR, ISR, IRR, ICR, LVT but for CMCI, initial count and divider.
const APIC_REGISTERS: [usize; 30] = [
    0x08, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x20, 0x21, 0x22, 0x23, 0x24,
    0x25, 0x26, 0x27, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e,
];

fn set_apic(page: &mut LapicPage, r: &mut Random) {
    const DEADLINE: u32 = 2 << 17;
    page.registers[0x08] = r.next() as u32 & 0xff;
    page.registers[0x0d] = r.next() as u32 & 0xff00_0000;
    page.registers[0x0e] = u32::MAX;
    page.registers[0x0f] = 0x1ff;
    for k in 1..8 {
        page.registers[0x10 + k] = r.next() as u32;
        page.registers[0x20 + k] = r.next() as u32;
    }
    page.registers[0x30] = r.next() as u32 & 0x000c_cfff;
    page.registers[0x31] = r.next() as u32 & 0xff00_0000;
    page.registers[0x32] = DEADLINE | 0x1_0000 | 0xec;
    page.registers[0x35] = 0x1_0700;
    page.registers[0x3e] = 0b1011;
    // Far away, so that it does not come meanwhile.
    page.tsc_deadline = 1 << 60 | r.next() >> 10;
}
