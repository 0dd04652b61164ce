//! Registers between [`CpuState`] and KVM's structures.
//!
//! Not kept are what KVM has no place for: PDPTE registers, which it reads from memory again; FCS and FDS; debug traps that
//! wait behind MOV SS. Processors do not keep all of what an unusable segment register holds, and some mark every data segment
//! accessed.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events,
};
use softmetal_cpu::state::{Segment, Shadow, TableRegister, seg};
use softmetal_cpu::{Activity, CpuState, Fault};

/// Interrupt vectors that are no exceptions'.
const FIRST_EXTERNAL: u8 = 32;
const NMI: u8 = 2;

pub(super) fn segment(s: &Segment) -> kvm_segment {
    let bit = |n: u32| (s.attributes >> n & 1) as u8;
    let unusable = s.attributes & Segment::UNUSABLE != 0;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (s.attributes & 15) as u8,
        s: bit(4),
        dpl: (s.attributes >> 5 & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: unusable.into(),
        padding: 0,
    }
}

pub(super) fn from_segment(s: &kvm_segment) -> Segment {
    let bit = |value: u8, n: u32| u32::from(value & 1) << n;
    let attributes = u32::from(s.type_ & 15)
        | bit(s.s, 4)
        | u32::from(s.dpl & 3) << 5
        | bit(s.present, 7)
        | bit(s.avl, 12)
        | bit(s.l, 13)
        | bit(s.db, 14)
        | bit(s.g, 15)
        | if s.unusable & 1 != 0 { Segment::UNUSABLE } else { 0 };
    Segment { selector: s.selector, base: s.base, limit: s.limit, attributes }
}

fn table(t: &TableRegister) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

fn from_table(t: &kvm_dtable) -> TableRegister {
    TableRegister { base: t.base, limit: t.limit }
}

pub(super) fn general(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags,
    }
}

pub(super) fn take_general(state: &mut CpuState, r: &kvm_regs) {
    state.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ];
    (state.rip, state.rflags) = (r.rip, r.rflags);
}

/// What is the local APIC's in these registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfApic {
    pub(super) base: u64,
    pub(super) cr8: u64,
}

pub(super) fn special(state: &CpuState, apic: OfApic) -> kvm_sregs {
    let s = &state.segments;
    kvm_sregs {
        es: segment(&s[seg::ES]),
        cs: segment(&s[seg::CS]),
        ss: segment(&s[seg::SS]),
        ds: segment(&s[seg::DS]),
        fs: segment(&s[seg::FS]),
        gs: segment(&s[seg::GS]),
        tr: segment(&state.tr),
        ldt: segment(&state.ldtr),
        gdt: table(&state.gdtr),
        idt: table(&state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: apic.cr8,
        efer: state.efer,
        apic_base: apic.base,
        interrupt_bitmap: [0; 4],
    }
}

pub(super) fn take_special(state: &mut CpuState, s: &kvm_sregs) -> OfApic {
    for (number, from) in [
        (seg::ES, &s.es),
        (seg::CS, &s.cs),
        (seg::SS, &s.ss),
        (seg::DS, &s.ds),
        (seg::FS, &s.fs),
        (seg::GS, &s.gs),
    ] {
        state.segments[number] = from_segment(from);
    }
    (state.tr, state.ldtr) = (from_segment(&s.tr), from_segment(&s.ldt));
    (state.gdtr, state.idtr) = (from_table(&s.gdt), from_table(&s.idt));
    (state.cr0, state.cr2, state.cr3, state.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    state.efer = s.efer;
    OfApic { base: s.apic_base, cr8: s.cr8 }
}

pub(super) fn debug(state: &CpuState) -> kvm_debugregs {
    let [a, b, c, d, _, _, dr6, dr7] = state.dr;
    kvm_debugregs { db: [a, b, c, d], dr6, dr7, ..kvm_debugregs::default() }
}

pub(super) fn take_debug(state: &mut CpuState, d: &kvm_debugregs) {
    state.dr[..4].copy_from_slice(&d.db);
    (state.dr[6], state.dr[7]) = (d.dr6, d.dr7);
}

pub(super) fn events(state: &CpuState) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    };
    events.interrupt.shadow = match state.shadow {
        Shadow::None => 0,
        Shadow::Sti => KVM_X86_SHADOW_INT_STI as u8,
        Shadow::MovSs => KVM_X86_SHADOW_INT_MOV_SS as u8,
    };
    events.nmi.masked = state.nmi_blocked.into();
    events.nmi.pending = state.nmi_pending.into();
    match state.injected {
        Some(fault) if fault.vector >= FIRST_EXTERNAL => {
            (events.interrupt.injected, events.interrupt.nr) = (1, fault.vector);
        }
        Some(fault) if fault.vector == NMI => events.nmi.injected = 1,
        Some(fault) => {
            (events.exception.injected, events.exception.nr) = (1, fault.vector);
            events.exception.has_error_code = fault.error_code.is_some().into();
            events.exception.error_code = fault.error_code.unwrap_or(0);
        }
        None => {}
    }
    events
}

/// `state` has CR2 already.
pub(super) fn take_events(state: &mut CpuState, events: &kvm_vcpu_events) {
    let shadow = u32::from(events.interrupt.shadow);
    // AMD's processors have one shadow for both, which delays external interrupts only.
    state.shadow = match () {
        () if shadow & KVM_X86_SHADOW_INT_STI != 0 => Shadow::Sti,
        () if shadow & KVM_X86_SHADOW_INT_MOV_SS != 0 => Shadow::MovSs,
        () => Shadow::None,
    };
    state.nmi_blocked = events.nmi.masked != 0;
    state.nmi_pending = events.nmi.pending != 0;
    state.pending_debug = 0;
    let exception = &events.exception;
    state.injected = match () {
        () if exception.injected != 0 => Some(Fault {
            vector: exception.nr,
            error_code: (exception.has_error_code != 0).then_some(exception.error_code),
            address: state.cr2,
        }),
        () if events.interrupt.injected != 0 => Some(Fault::new(events.interrupt.nr)),
        () if events.nmi.injected != 0 => Some(Fault::new(NMI)),
        () => None,
    };
}

pub(super) fn activity(state: &CpuState) -> kvm_mp_state {
    let mp_state = match state.activity {
        Activity::Active | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        // A vCPU that KVM calls uninitialized does not hear start-up messages.
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    };
    kvm_mp_state { mp_state }
}

pub(super) fn take_activity(state: &mut CpuState, mp: kvm_mp_state) {
    state.activity = match mp.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Active,
    };
}

/// The MSRs of [`CpuState`], but for those that are segment bases, EFER, and the TSC's.
pub(super) fn msrs(state: &CpuState) -> Vec<kvm_msr_entry> {
    let m = &state.msrs;
    let mut list = vec![
        (0x3b, m.tsc_adjust),
        (0x48, m.spec_ctrl),
        (0x8b, m.bios_sign_id),
        (0x174, m.sysenter_cs),
        (0x175, m.sysenter_esp),
        (0x176, m.sysenter_eip),
        (0x1a0, m.misc_enable),
        (0x277, m.pat),
        (0xda0, m.xss),
        (0xc000_0081, m.star),
        (0xc000_0082, m.lstar),
        (0xc000_0083, m.cstar),
        (0xc000_0084, m.fmask),
        (0xc000_0102, m.kernel_gs_base),
        (0xc000_0103, m.tsc_aux.into()),
    ];
    for (at, &(base, mask)) in (0x200..).step_by(2).zip(&m.mtrr_variable) {
        list.extend([(at, base), (at + 1, mask)]);
    }
    list.extend(MTRR_FIXED.into_iter().zip(m.mtrr_fixed));
    list.push((0x2ff, m.mtrr_def_type));
    list.into_iter().map(|(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() }).collect()
}

/// Whether other instructions than RDMSR and WRMSR read or write an MSR of the list.
pub(super) fn is_used_by_code(index: u32) -> bool {
    matches!(index, 0x174..=0x176 | 0xc000_0081..)
}

/// The fixed-range MTRRs in the order of [`softmetal_cpu::state::Msrs::mtrr_fixed`].
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

pub(super) fn take_msr(state: &mut CpuState, entry: &kvm_msr_entry) {
    let (m, data) = (&mut state.msrs, entry.data);
    let plain = match entry.index {
        0x3b => &mut m.tsc_adjust,
        0x48 => &mut m.spec_ctrl,
        0x8b => &mut m.bios_sign_id,
        0x174 => &mut m.sysenter_cs,
        0x175 => &mut m.sysenter_esp,
        0x176 => &mut m.sysenter_eip,
        0x1a0 => &mut m.misc_enable,
        0x277 => &mut m.pat,
        0xda0 => &mut m.xss,
        0xc000_0081 => &mut m.star,
        0xc000_0082 => &mut m.lstar,
        0xc000_0083 => &mut m.cstar,
        0xc000_0084 => &mut m.fmask,
        0xc000_0102 => &mut m.kernel_gs_base,
        0xc000_0103 => {
            m.tsc_aux = data as u32;
            return;
        }
        0x2ff => &mut m.mtrr_def_type,
        index @ 0x200..=0x20f => {
            let pair = &mut m.mtrr_variable[(index as usize - 0x200) / 2];
            if index & 1 == 0 { &mut pair.0 } else { &mut pair.1 }
        }
        index => match MTRR_FIXED.iter().position(|&known| known == index) {
            Some(place) => &mut m.mtrr_fixed[place],
            None => return,
        },
    };
    *plain = data;
}
