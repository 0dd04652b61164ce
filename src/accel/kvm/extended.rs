//! x87, SSE, AVX and PKRU state between [`CpuState`] and the area that XSAVE would write: SDM 1 "Managing State Using the XSAVE
//! Feature Set". What is in the area besides stays as it is.

use kvm_bindings::kvm_fpu;
use softmetal_cpu::state::X87;
use softmetal_cpu::{CpuState, float::F80};

/// Bytes of KVM's area.
pub(super) const AREA: usize = 4096;

const XSTATE_BV: usize = 512;
const LEGACY: u64 = 0b11;
const AVX: u64 = 1 << 2;
const AVX_AT: usize = 576;
const PKRU: u64 = 1 << 9;
/// MXCSR_MASK of processors with DAZ.
const MXCSR_MASK: u32 = 0xffff;

/// What the host's XSAVE knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// State components that KVM takes.
    pub(super) components: u64,
    /// Where PKRU stands.
    pub(super) pkru: usize,
}

fn put(area: &mut [u8; AREA], at: usize, bytes: &[u8]) {
    if let Some(place) = area.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn get<const N: usize>(area: &[u8; AREA], at: usize) -> [u8; N] {
    area.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// The state components in an area that are not in their initial configuration.
pub(super) fn used(area: &[u8; AREA]) -> u64 {
    u64::from_le_bytes(get(area, XSTATE_BV))
}

/// Writes what `state` has of these components into an area; the others stay as they are. x87 and SSE are always written.
pub(super) fn write(state: &CpuState, area: &mut [u8; AREA], layout: Layout, components: u64) {
    let x = &state.x87;
    put(area, 0, &x.control.to_le_bytes());
    put(area, 2, &x.status.to_le_bytes());
    put(area, 4, &[x.tags, 0]);
    put(area, 6, &x.opcode.to_le_bytes());
    put(area, 8, &x.ip.to_le_bytes());
    put(area, 16, &x.dp.to_le_bytes());
    put(area, 24, &state.mxcsr.to_le_bytes());
    put(area, 28, &MXCSR_MASK.to_le_bytes());
    for k in 0..8 {
        put(area, 32 + 16 * k, &image(&x.regs[x.physical(k)]));
    }
    for (k, xmm) in state.xmm.iter().enumerate() {
        put(area, 160 + 16 * k, &xmm.to_le_bytes());
    }
    let mut used = used(area) | LEGACY;
    let written = layout.components & components;
    if written & AVX != 0 {
        used |= AVX;
        for (k, high) in state.ymm_high.iter().enumerate() {
            put(area, AVX_AT + 16 * k, &high.to_le_bytes());
        }
    }
    if written & PKRU != 0 {
        used |= PKRU;
        put(area, layout.pkru, &state.pkru.to_le_bytes());
    }
    put(area, XSTATE_BV, &(used & layout.components).to_le_bytes());
}

/// Takes the state out of an area. Components that are not in it are in their initial configuration.
pub(super) fn read(state: &mut CpuState, area: &[u8; AREA], layout: Layout) {
    let used = used(area);
    state.mxcsr = u32::from_le_bytes(get(area, 24));
    let mut x = X87::default();
    if used & 1 != 0 {
        x.control = u16::from_le_bytes(get(area, 0));
        x.status = u16::from_le_bytes(get(area, 2));
        [x.tags] = get(area, 4);
        x.opcode = u16::from_le_bytes(get(area, 6));
        x.ip = u64::from_le_bytes(get(area, 8));
        x.dp = u64::from_le_bytes(get(area, 16));
        for k in 0..8 {
            x.regs[x.physical(k)] = from_image(get(area, 32 + 16 * k));
        }
    }
    state.x87 = x;
    let vector = |component: u64, at: usize, k: usize| match used & component {
        0 => 0,
        _ => u128::from_le_bytes(get(area, at + 16 * k)),
    };
    state.xmm = std::array::from_fn(|k| vector(0b10, 160, k));
    state.ymm_high = std::array::from_fn(|k| vector(AVX, AVX_AT, k));
    state.pkru =
        if used & layout.components & PKRU != 0 { u32::from_le_bytes(get(area, layout.pkru)) } else { 0 };
}

/// For hosts without XSAVE.
pub(super) fn fpu(state: &CpuState) -> kvm_fpu {
    let x = &state.x87;
    kvm_fpu {
        fpr: std::array::from_fn(|k| image(&x.regs[x.physical(k)])),
        fcw: x.control,
        fsw: x.status,
        ftwx: x.tags,
        last_opcode: x.opcode,
        last_ip: x.ip,
        last_dp: x.dp,
        xmm: state.xmm.map(u128::to_le_bytes),
        mxcsr: state.mxcsr,
        ..kvm_fpu::default()
    }
}

/// For hosts without XSAVE.
pub(super) fn take_fpu(state: &mut CpuState, f: &kvm_fpu) {
    let mut x = X87 {
        control: f.fcw,
        status: f.fsw,
        tags: f.ftwx,
        opcode: f.last_opcode,
        ip: f.last_ip,
        dp: f.last_dp,
        ..X87::default()
    };
    for (k, &bytes) in f.fpr.iter().enumerate() {
        x.regs[x.physical(k)] = from_image(bytes);
    }
    state.x87 = x;
    state.xmm = f.xmm.map(u128::from_le_bytes);
    (state.ymm_high, state.pkru) = ([0; 16], 0);
    state.mxcsr = f.mxcsr;
}

fn image(register: &F80) -> [u8; 16] {
    (u128::from(register.significand) | u128::from(register.sign_exponent) << 64).to_le_bytes()
}

fn from_image(bytes: [u8; 16]) -> F80 {
    let bits = u128::from_le_bytes(bytes);
    F80 { significand: bits as u64, sign_exponent: (bits >> 64) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> CpuState {
        let mut state = CpuState::reset();
        state.x87 = X87 {
            control: 0x27f,
            status: 5 << 11 | 0x21,
            tags: 0xa5,
            opcode: 0x123,
            ip: 0x1234_5678_9abc,
            dp: 0xffff_8000_0000_1000,
            ..X87::default()
        };
        for (k, register) in (1_u64..).zip(&mut state.x87.regs) {
            *register = F80 { significand: k << 60 | k, sign_exponent: 0x8000 | k as u16 };
        }
        state.xmm = std::array::from_fn(|k| (k as u128 + 1) << 100 | 7);
        state.ymm_high = std::array::from_fn(|k| (k as u128 + 1) << 90 | 9);
        (state.mxcsr, state.pkru) = (0x1fa5, 0x5555_0001);
        state
    }

    #[test]
    fn all_components_come_back() {
        let layout = Layout { components: LEGACY | AVX | PKRU, pkru: 2432 };
        let (before, mut area) = (state(), [0; AREA]);
        write(&before, &mut area, layout, u64::MAX);
        let mut after = CpuState::reset();
        read(&mut after, &area, layout);
        assert_eq!(after, before);
    }

    #[test]
    fn the_stack_is_in_the_order_of_its_top() {
        let mut area = [0; AREA];
        write(&state(), &mut area, Layout { components: LEGACY, pkru: 0 }, u64::MAX);
        // ST(0) is physical register 5.
        assert_eq!(area[32], 6);
        assert_eq!(area[32 + 16 * 3], 1);
    }

    #[test]
    fn what_is_not_ours_stays() {
        let layout = Layout { components: 0xe7, pkru: 0 };
        let mut area = [0; AREA];
        area[XSTATE_BV] = 0xe0;
        area[832] = 0x77;
        write(&state(), &mut area, layout, u64::MAX);
        assert_eq!((area[XSTATE_BV], area[832]), (0xe7, 0x77));
    }

    #[test]
    fn components_that_are_not_there_are_initial() {
        let mut after = state();
        read(&mut after, &[0; AREA], Layout { components: LEGACY, pkru: 0 });
        assert_eq!(after.x87, X87::default());
        assert_eq!((after.xmm, after.ymm_high, after.pkru), ([0; 16], [0; 16], 0));
    }

    #[test]
    fn hosts_without_xsave_keep_x87_and_sse() {
        let before = state();
        let mut after = CpuState::reset();
        take_fpu(&mut after, &fpu(&before));
        assert_eq!((after.x87, after.xmm, after.mxcsr), (before.x87, before.xmm, before.mxcsr));
    }
}
