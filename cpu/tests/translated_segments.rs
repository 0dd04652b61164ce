//! Code whose segments have bases and limits, by every engine: accesses up to a limit and one byte beyond, addresses and stacks
//! that wrap, segments that expand down, branches to the last byte of a code segment and behind it.

mod legacy_machine;

use iced_x86::{IcedError, code_asm::*};
use legacy_machine::*;
use softmetal_cpu::{CpuState, state::Segment};
use softmetal_cpu_testing::{End, Machine, layout::*, options};

const GP: u64 = 13;
const STACK_FAULT: u64 = 12;

/// How a program in real mode has ended: the vector of the exception, and the IP of its instruction.
fn real_fault(m: &Machine) -> (u64, u16) {
    let state = m.cpu.state();
    let handler = (u64::from(state.segments[1].selector) << 4).wrapping_sub(HANDLERS);
    (handler / 16, read16(m, REAL_STACK + (state.gpr[4] & 0xffff)))
}

/// Runs a program in real mode, under each set of options.
fn each_real(
    build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    prepare: impl Fn(&mut Machine),
    test: impl Fn(&Machine, CpuState),
) {
    let program = code(16, 0, build);
    for options in options() {
        let mut m = real(options);
        m.write(REAL_CODE, &program);
        prepare(&mut m);
        let end = m.run();
        assert!(matches!(end, End::Halt(_)), "{end:?}");
        test(&m, m.cpu.state());
    }
}

#[test]
fn words_are_read_and_written_up_to_the_limit() {
    // The program itself is at the other end of the segment.
    for (width, last) in [(1u64, 0x10000u64), (2, 0xffff), (4, 0xfffd)] {
        for write in [false, true] {
            each_real(
                |a| {
                    let mut again = a.create_label();
                    a.mov(bx, 0xfff0u32 as i32)?;
                    a.set_label(&mut again)?;
                    match (width, write) {
                        (1, false) => a.mov(dl, byte_ptr(bx))?,
                        (1, true) => a.mov(byte_ptr(bx), cl)?,
                        (2, false) => a.mov(dx, word_ptr(bx))?,
                        (2, true) => a.mov(word_ptr(bx), cx)?,
                        (_, false) => a.mov(edx, dword_ptr(bx))?,
                        (_, true) => a.mov(dword_ptr(bx), ecx)?,
                    }
                    a.inc(cx)?;
                    a.inc(bx)?;
                    a.jne(again)?;
                    a.hlt()
                },
                |m| m.write(0x2_0000, &[0x11; 8]),
                |m, state| {
                    assert_eq!(state.gpr[1], last - 0xfff0, "of {width} bytes");
                    if width > 1 {
                        assert_eq!(real_fault(m), (GP, 3));
                        assert_eq!(state.gpr[3], last);
                    }
                    // What lies behind the segment.
                    assert_eq!(m.bytes(0x2_0000, 4), [0x11; 4]);
                    if write {
                        assert_eq!(m.bytes(0x1_fff0, 1), [0]);
                    }
                },
            );
        }
    }
}

#[test]
fn addresses_wrap_at_64_kib() {
    each_real(
        |a| {
            let mut again = a.create_label();
            a.mov(ax, 0x3000)?;
            a.mov(ds, eax)?;
            a.mov(bx, 0xfff0u32 as i32)?;
            a.set_label(&mut again)?;
            a.add(dx, word_ptr(bx + si + 4))?;
            a.add(word_ptr(bx + si + 4), 1)?;
            a.add(si, 2)?;
            a.cmp(si, 0x40)?;
            a.jne(again)?;
            a.hlt()
        },
        |m| {
            m.write(0x3_fff4, &[3, 0, 3, 0, 3, 0, 3, 0, 3, 0, 3, 0]);
            m.write(0x4_0000, &[0xff; 0x40]);
        },
        |m, state| {
            assert_eq!((state.gpr[2], state.gpr[6]), (18, 0x40));
            assert_eq!(m.bytes(0x3_fff4, 12), [4, 0].repeat(6));
            assert_eq!(m.bytes(0x3_0000, 0x36), [[1, 0].repeat(26), vec![0; 2]].concat());
            assert_eq!(m.bytes(0x4_0000, 0x40), [0xff; 0x40]);
        },
    );
}

#[test]
fn stacks_wrap_at_64_kib() {
    each_real(
        |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(sp, 4)?;
            a.push(cx)?;
            a.push(0x1234)?;
            a.push(cx)?;
            a.push(0x5678)?;
            a.mov(bp, sp)?;
            a.pop(ax)?;
            a.pop(bx)?;
            a.pop(dx)?;
            a.pop(si)?;
            a.inc(cx)?;
            a.cmp(cx, 20)?;
            a.jne(again)?;
            a.hlt()
        },
        |_| (),
        |m, state| {
            assert_eq!([0, 3, 2, 6].map(|r| state.gpr[r]), [0x5678, 19, 0x1234, 19]);
            assert_eq!((state.gpr[4], state.gpr[5]), (4, 0xfffc));
            assert_eq!(m.bytes(REAL_STACK, 4), [0x34, 0x12, 19, 0]);
            assert_eq!(m.bytes(REAL_STACK + 0xfffc, 4), [0x78, 0x56, 19, 0]);
        },
    );
    // Calls from and to a segment that does not begin at 0.
    each_real(
        |a| {
            let (mut again, mut function) = (a.create_label(), a.create_label());
            a.mov(sp, 2)?;
            a.set_label(&mut again)?;
            a.call(function)?;
            a.cmp(cx, 20)?;
            a.jne(again)?;
            a.hlt()?;
            a.set_label(&mut function)?;
            a.inc(cx)?;
            a.mov(bp, sp)?;
            a.mov(dx, word_ptr(bp))?;
            a.ret()
        },
        |_| (),
        |_, state| assert_eq!((state.gpr[1], state.gpr[2], state.gpr[4]), (20, 6, 2)),
    );
}

#[test]
fn a_pop_over_the_end_of_the_stack_segment_is_ss() {
    each_real(
        |a| {
            let mut again = a.create_label();
            a.mov(dx, 0xfff0u32 as i32)?;
            a.set_label(&mut again)?;
            a.mov(sp, dx)?;
            a.pop(ax)?;
            a.inc(cx)?;
            a.inc(dx)?;
            a.jmp(again)
        },
        |_| (),
        |m, state| {
            assert_eq!((state.gpr[1], state.gpr[2]), (15, 0xffff));
            assert_eq!(real_fault(m), (STACK_FAULT, 5));
            assert_eq!(state.gpr[4], 0xfff9);
        },
    );
}

#[test]
fn a_jump_back_over_the_beginning_of_the_segment_wraps() {
    each_real(
        |a| {
            a.inc(cx)?;
            // jmp -16
            a.db(&[0xe9, 0xf0, 0xff])
        },
        |m| m.write(REAL_CODE + 0xfff4, &[0xf4]),
        |_, state| assert_eq!((state.rip, state.gpr[1]), (0xfff5, 1)),
    );
}

/// A code segment of 16 or 32 bits at [`KERNEL_CODE`], whose last byte is at this offset.
const LAST: u64 = 0x7ff;

/// Runs a program in protected mode in a code segment that ends at [`LAST`], DS as given, under each set of options.
fn each_protected(
    bits: u32,
    data: Segment,
    build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    test: impl Fn(&Machine, End, CpuState),
) {
    let program = code(bits, 0, build);
    for options in options() {
        let mut m = protected(options);
        m.write(KERNEL_CODE, &program);
        m.write(KERNEL_CODE + LAST, &[0xf4, 0xf4]);
        let mut s = state();
        let big = if bits == 32 { 0x4000 } else { 0 };
        s.segments[1] = Segment {
            selector: legacy_machine::CODE,
            base: KERNEL_CODE,
            limit: LAST as u32,
            attributes: 0x9b | big,
        };
        s.segments[3] = data;
        s.rip = 0;
        m.cpu.set_state(&s);
        let end = m.run();
        test(&m, end, m.cpu.state());
    }
}

/// Offset of the instruction that raised an exception with an error code, by the frame of a 32-bit gate.
fn faulted_at(m: &Machine, state: &CpuState) -> u32 {
    read32(m, state.gpr[4] + 4)
}

fn data(limit: u32, attributes: u32) -> Segment {
    Segment { selector: DATA32, base: KERNEL_DATA, limit, attributes }
}

#[test]
fn branches_reach_the_last_byte_of_a_code_segment_and_no_further() {
    let plain = data(u32::MAX, 0xc093);
    for bits in [16, 32] {
        for beyond in [0, 1] {
            let to = (LAST + beyond) as i32;
            type Build = fn(&mut CodeAssembler, i32) -> Result<(), IcedError>;
            let direct: Build = |a, to| a.jmp(to as u64);
            let conditional: Build = |a, to| a.je(to as u64);
            let called: Build = |a, to| a.call(to as u64);
            let computed: Build = |a, _| if a.bitness() == 16 { a.jmp(ax) } else { a.jmp(eax) };
            let computed_call: Build = |a, _| if a.bitness() == 16 { a.call(ax) } else { a.call(eax) };
            let returned: Build = |a, to| {
                a.push(to)?;
                a.ret()
            };
            let all = [direct, conditional, called, computed, computed_call, returned];
            for (k, branch) in all.into_iter().enumerate() {
                each_protected(
                    bits,
                    plain,
                    |a| {
                        let mut again = a.create_label();
                        a.set_label(&mut again)?;
                        a.inc(ecx)?;
                        a.mov(eax, to)?;
                        a.cmp(ecx, 5)?;
                        a.jne(again)?;
                        branch(a, to)
                    },
                    |m, end, state| {
                        let at = format!("branch {k} of {bits} bits to {to:#x}");
                        assert_eq!(state.gpr[1], 5, "{at}");
                        if beyond == 0 {
                            assert_eq!(end, End::Halt(LAST + 1), "{at}");
                            return;
                        }
                        assert_eq!(end, End::Vector(GP as u8), "{at}");
                        let from = faulted_at(m, &state);
                        assert!(from < 0x40, "{at} faulted at {from:#x}, not where it led");
                        let pushed = if k == 5 { bits / 8 } else { 0 };
                        assert_eq!(state.gpr[4], STACK - 0x800 - 16 - u64::from(pushed), "{at}");
                    },
                );
            }
        }
    }
}

#[test]
fn limits_of_data_segments_hold() {
    // A double word, upwards from 18h bytes below the limit.
    for (segment, good) in [
        (data(0xfff, 0x4093), 0x15),
        (data(0xfff, 0x4091), 0x15),
        (data(0xffe, 0x4093), 0x14),
        // Rights: code that cannot be read.
        (data(0xfff, 0x4099), 0),
        (data(0xfff, 0x409b), 0x15),
        // Down from FFFFFFFFh, its limit is its lower end: nothing of it is here.
        (data(0xfff, 0x4097), 0),
    ] {
        for bits in [16, 32] {
            each_protected(
                bits,
                segment,
                |a| {
                    let mut again = a.create_label();
                    a.mov(esi, 0xfe8)?;
                    a.set_label(&mut again)?;
                    a.mov(eax, dword_ptr(esi))?;
                    a.inc(ecx)?;
                    a.inc(esi)?;
                    a.jmp(again)
                },
                |m, end, state| {
                    assert_eq!(end, End::Vector(GP as u8));
                    assert_eq!((state.gpr[1], state.gpr[6]), (good, 0xfe8 + good), "{segment:?}");
                    assert_eq!(faulted_at(m, &state), if bits == 16 { 6 } else { 5 });
                },
            );
        }
    }
}

#[test]
fn segments_that_expand_down_begin_behind_their_limit() {
    for (attributes, write) in [(0x97, true), (0x97, false), (0x95, false)] {
        each_protected(
            32,
            data(0x7ff, attributes),
            |a| {
                let mut again = a.create_label();
                a.mov(esi, 0x810)?;
                a.set_label(&mut again)?;
                if write {
                    a.mov(byte_ptr(esi), cl)?
                } else {
                    a.mov(al, byte_ptr(esi))?
                }
                a.inc(ecx)?;
                a.dec(esi)?;
                a.jmp(again)
            },
            |m, end, state| {
                assert_eq!(end, End::Vector(GP as u8));
                assert_eq!((state.gpr[1], state.gpr[6]), (0x11, 0x7ff));
                assert_eq!(m.bytes(KERNEL_DATA + 0x800, 1)[0], if write { 0x10 } else { 0 });
            },
        );
    }
}

#[test]
fn what_may_not_be_written_is_not() {
    for attributes in [0x4091, 0x409b] {
        each_protected(
            32,
            data(0xfff, attributes),
            |a| {
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.add(eax, dword_ptr(esi))?;
                a.inc(ecx)?;
                a.cmp(ecx, 9)?;
                a.jne(again)?;
                a.mov(dword_ptr(esi), ecx)?;
                a.hlt()
            },
            |m, end, state| {
                assert_eq!((end, state.gpr[1]), (End::Vector(GP as u8), 9));
                assert_eq!(m.bytes(KERNEL_DATA, 1), [0]);
            },
        );
    }
}

#[test]
fn fs_has_its_own_base_and_limit_beside_flat_segments() {
    let program = code(32, KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.mov(esi, 0)?;
        a.set_label(&mut again)?;
        a.add(eax, dword_ptr(esi).fs())?;
        a.inc(ecx)?;
        a.add(esi, 4)?;
        a.jmp(again)
    });
    for options in options() {
        let mut m = protected(options);
        m.write(KERNEL_CODE, &program);
        for k in 0..8 {
            m.write(KERNEL_DATA + 0x100 + 4 * k, &[1, 0, 0, 0]);
        }
        let mut s = state();
        s.segments[4] =
            Segment { selector: DATA32, base: KERNEL_DATA + 0x100, limit: 0x1b, attributes: 0x4093 };
        m.cpu.set_state(&s);
        assert_eq!(m.run(), End::Vector(GP as u8));
        let gpr = m.cpu.state().gpr;
        assert_eq!((gpr[0], gpr[1], gpr[6]), (7, 7, 0x1c));
    }
}
