//! What is assembled, read back by iced's decoder.

use super::*;
use crate::width::{B, D, Q, W};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

/// The instructions, one a line.
fn text(emit: impl Fn(&mut Assembler)) -> String {
    let mut a = Assembler::new(256);
    emit(&mut a);
    let mut formatter = IntelFormatter::new();
    let mut out = Vec::new();
    for insn in Decoder::with_ip(64, a.code(), 0, DecoderOptions::NONE).iter() {
        let mut line = String::new();
        formatter.format(&insn, &mut line);
        out.push(line);
    }
    out.join("; ")
}

const R8: Host = Host(8);
const R12: Host = Host(12);
const R13: Host = Host(13);

#[test]
fn registers_of_all_widths() {
    let all = text(|a| {
        for w in [B, W, D, Q] {
            a.alu(Alu::Add, w, RAX, RSI);
            a.alu(Alu::Cmp, w, R8, RDI);
        }
        a.merge(B, RSI, RDI);
        a.merge(W, R12, RAX);
        a.zero_extend(B, RAX, RSI);
        a.zero_extend(W, R8, R13);
        a.sign_extend(B, RCX, RDI);
        a.sign_extend(D, R8, RAX);
        a.copy(R12, RSP);
        a.copy32(RAX, R13);
    });
    assert_eq!(
        all,
        "add al,sil; cmp r8b,dil; add ax,si; cmp r8w,di; add eax,esi; cmp r8d,edi; add rax,rsi; cmp r8,rdi; \
         mov sil,dil; mov r12w,ax; movzx eax,sil; movzx r8d,r13w; movsx rcx,dil; movsxd r8,eax; mov r12,rsp; \
         mov eax,r13d"
    );
}

#[test]
fn constants() {
    let all = text(|a| {
        a.constant(RAX, 0xffff_ffff);
        a.constant(R8, 5);
        a.constant(R12, u64::MAX);
        a.constant(R13, 0x1234_5678_9abc);
        a.alu_constant(Alu::And, Q, RCX, -16);
        a.alu_constant(Alu::Sub, D, R8, 0x1000);
        a.alu_constant(Alu::Xor, B, RSI, -1);
        a.alu_constant(Alu::Cmp, W, RAX, 0x1234);
        a.alu_memory(Alu::Sub, D, At::new(RAX, 0), 7);
        a.test_constant(D, R12, 0x100);
        a.test_constant(B, RDI, 1);
        a.store_constant(Q, -1, At::new(RBP, 16));
        a.store_constant(W, 0x1234, At::new(R13, 0));
    });
    assert_eq!(
        all,
        "mov eax,0FFFFFFFFh; mov r8d,5; mov r12,0FFFFFFFFFFFFFFFFh; mov r13,123456789ABCh; \
         and rcx,0FFFFFFFFFFFFFFF0h; sub r8d,1000h; xor sil,0FFh; cmp ax,1234h; sub dword ptr [rax],7; \
         test r12d,100h; test dil,1; mov qword ptr [rbp+10h],0FFFFFFFFFFFFFFFFh; mov word ptr [r13],1234h"
    );
}

#[test]
fn addresses() {
    let all = text(|a| {
        a.load(Q, RAX, At::new(R12, 0));
        a.load(D, R8, At::new(RSP, 8));
        a.load(W, RCX, At::new(R13, 0x1000));
        a.load(B, RDX, At { base: Some(R13), index: Some((R12, 3)), disp: 0 });
        a.store(B, RSI, At { base: None, index: Some((R8, 2)), disp: -4 });
        a.store(Q, R13, At { base: None, index: None, disp: 0x40 });
        a.store(W, RDI, At::sum(RAX, R8));
        a.lea(Q, R8, At { base: Some(RBP), index: Some((RAX, 1)), disp: -128 });
        a.lea(D, RAX, At::new(RDI, 128).behind(1));
        a.alu_load(Alu::Xor, Q, RCX, At::new(RBP, -128));
    });
    assert_eq!(
        all,
        "mov rax,[r12]; mov r8d,[rsp+8]; movzx ecx,word ptr [r13+1000h]; movzx edx,byte ptr [r13+r12*8]; \
         mov [r8*4-4],sil; mov [40h],r13; mov [rax+r8],di; lea r8,[rbp+rax*2-80h]; lea eax,[rdi+81h]; \
         xor rcx,[rbp-80h]"
    );
}

#[test]
fn exchanges_and_double_shifts() {
    let all = text(|a| {
        a.exchange_if_equal(B, At::new(R13, 0), RSI);
        a.exchange_if_equal(W, At::new(RAX, 8), R12);
        a.exchange_if_equal(D, At::new(R8, 0), RCX);
        a.exchange_if_equal(Q, At::new(RSI, 0), R8);
        a.exchange_pair_if_equal(At::new(RDI, 0), true);
        a.exchange_pair_if_equal(At::new(R12, 0), false);
        a.double_shift(true, D, R8, RAX, 5);
        a.double_shift(false, Q, RSI, R13, 40);
        a.double_shift_by_cl(true, Q, R12, RSI);
        a.double_shift_by_cl(false, D, RAX, R8);
    });
    assert_eq!(
        all,
        "lock cmpxchg [r13],sil; lock cmpxchg [rax+8],r12w; lock cmpxchg [r8],ecx; lock cmpxchg [rsi],r8; \
         lock cmpxchg16b [rdi]; cmpxchg16b [r12]; shld r8d,eax,5; shrd rsi,r13,28h; shld r12,rsi,cl; shrd eax,r8d,cl"
    );
}

#[test]
fn the_rest_of_arithmetic() {
    let all = text(|a| {
        a.shift(Shift::Left, D, R8, 5);
        a.shift(Shift::RotateRight, Q, RAX, 8);
        a.shift_by_cl(Shift::Signed, Q, RSI);
        a.shift_by_cl(Shift::RotateLeft, B, RDI);
        a.multiply(D, R8, RAX);
        a.multiply_wide(R12, true);
        a.multiply_wide(RCX, false);
        a.divide(D, RCX, false);
        a.divide(Q, R8, true);
        a.sign_of_rax();
        a.negate(W, R8);
        a.swap_bytes(D, R12);
        a.swap_bytes(Q, RAX);
        a.scan(false, RAX, R8);
        a.scan(true, R8, RCX);
        a.count_bits(R8, RAX);
        a.bit_test(RAX, R12);
        a.bit_test_constant(R12, 63);
        a.set(cond::BELOW, RSI);
        a.move_if(cond::ABOVE, RAX, R8);
        a.test(Q, R8, RAX);
    });
    assert_eq!(
        all,
        "shl r8d,5; ror rax,8; sar rsi,cl; rol dil,cl; imul r8d,eax; imul r12; mul rcx; div ecx; idiv r8; cqo; \
         neg r8w; bswap r12d; bswap rax; bsf rax,r8; bsr r8,rcx; popcnt r8,rax; bt rax,r12; bt r12,3Fh; setb sil; \
         cmova rax,r8; test rax,r8"
    );
}

#[test]
fn vectors() {
    let all = text(|a| {
        a.vector(0xef, Xmm(1), Xmm(9));
        a.shuffle(Xmm(8), Xmm(2), 0xee);
        a.copy_vector(Xmm(3), Xmm(10));
        a.load_vector(Xmm(9), At::new(RDI, 0x200));
        a.store_vector(Xmm(1), At::sum(RAX, R8));
        a.copy_out_of_vector(R8, Xmm(1));
        a.copy_into_vector(Xmm(9), RAX);
        a.merge_low(Xmm(1), Xmm(2));
        a.shift_vector((0x72, 6), Xmm(9), 5);
        a.shift_vector((0x73, 3), Xmm(1), 8);
        a.mask((0x66, 0xd7), R8, Xmm(3));
        a.mask((0, 0x50), RAX, Xmm(11));
    });
    assert_eq!(
        all,
        "pxor xmm1,xmm9; pshufd xmm8,xmm2,0EEh; movaps xmm3,xmm10; movups xmm9,[rdi+200h]; movups [rax+r8],xmm1; \
         movq r8,xmm1; movq xmm9,rax; movsd xmm1,xmm2; pslld xmm9,5; psrldq xmm1,8; pmovmskb r8d,xmm3; movmskps eax,xmm11"
    );
}

#[test]
fn branches_lead_where_they_are_patched_to() {
    let all = text(|a| {
        let (first, second) = (a.jump(), a.jump_if(cond::SIGN));
        let third = a.call();
        a.call_register(RAX);
        a.push(R12);
        a.pop(RSI);
        let end = a.len();
        a.patch(first, end);
        a.patch(second, 0);
        a.patch(third, 5);
    });
    assert_eq!(all, "jmp 0000000000000015h; js 0; call 5; call rax; push r12; pop rsi");
}

#[test]
fn what_does_not_fit_is_said() {
    let mut a = Assembler::new(12);
    a.constant(RAX, u64::MAX - 1);
    assert!(!a.full);
    a.constant(RAX, u64::MAX - 1);
    assert!(a.full && a.code().len() <= 12);
}

#[test]
fn x87() {
    let all = text(|a| {
        a.x87_memory(0x000, At::new(RBP, 16));
        a.x87_memory(0x53f, At::new(R12, 0));
        a.x87_memory(0x33f, At::sum(RAX, R13));
        a.x87_register(0x0c1);
        a.x87_register(0x3f1);
        a.x87_register(0x6d9);
    });
    assert_eq!(
        all,
        "fadd st,dword ptr [rbp+10h]; fnstsw [r12]; fstp tbyte ptr [rax+r13],st; fadd st,st(1); fcomi st,st(1); fcompp"
    );
}

#[test]
fn floating_point() {
    let all = text(|a| {
        a.sse((0xf2, TWO | 0x58), Xmm(9), Xmm(1));
        a.sse((0x66, THREE_38 | 0x29), Xmm(1), Xmm(10));
        a.sse_immediate((0x66, THREE_3A | 0x0b), Xmm(8), Xmm(2), 4);
        a.sse_immediate((0, TWO | 0xc2), Xmm(3), Xmm(4), 6);
        a.load_lane(D, Xmm(9), At::sum(RAX, R8));
        a.load_lane(Q, Xmm(1), At::new(RBP, 16));
        a.convert_in(0xf2, Q, Xmm(9), RAX);
        a.convert_in(0xf3, D, Xmm(1), R8);
        a.convert_out((0xf2, TWO | 0x2c), Q, RAX, Xmm(9));
        a.convert_out((0xf3, TWO | 0x2d), D, R8, Xmm(1));
        a.lane_out_of_vector(D, R8, Xmm(1));
        a.fused(0xb9, true, Xmm(1), Xmm(2), Xmm(3));
        a.fused(0xbc, false, Xmm(9), Xmm(10), Xmm(11));
        a.flags_to_ah();
        a.flags_from_ah();
    });
    assert_eq!(
        all,
        "addsd xmm9,xmm1; pcmpeqq xmm1,xmm10; roundsd xmm8,xmm2,4; cmpnleps xmm3,xmm4; movss xmm9,[rax+r8]; \
         movsd xmm1,[rbp+10h]; cvtsi2sd xmm9,rax; cvtsi2ss xmm1,r8d; cvttsd2si rax,xmm9; cvtss2si r8d,xmm1; \
         movd r8d,xmm1; vfmadd231sd xmm1,xmm2,xmm3; vfnmadd231ps xmm9,xmm10,xmm11; lahf; sahf"
    );
}
