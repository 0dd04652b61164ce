//! Stores that hit decoded code: in the same block, in the next, across pages, by every kind of store.

use iced_x86::code_asm::*;
use softmetal_cpu_testing::{End, Level, Machine, assemble, layout::*, options, pte};

/// Runs a program at [`KERNEL_CODE`] under each set of options; gives RAX at its HLT, the same under all.
fn run_each(code: &[u8], prepare: impl Fn(&mut Machine)) -> u64 {
    let results: Vec<u64> = options()
        .into_iter()
        .map(|options| {
            let mut m = Machine::new(options);
            prepare(&mut m);
            m.program(code);
            assert!(matches!(m.run(), End::Halt(_)), "{:x?}", m.cpu.state());
            m.cpu.user().gpr[0]
        })
        .collect();
    assert!(results.iter().all(|&result| result == results[0]), "{results:x?}");
    results[0]
}

#[test]
fn the_next_instruction_of_the_same_block() {
    let code = assemble(KERNEL_CODE, |a| {
        let mut patched = a.create_label();
        a.lea(rbx, ptr(patched))?;
        // The immediate of the MOV right behind the store.
        a.mov(byte_ptr(rbx + 1), 7)?;
        a.set_label(&mut patched)?;
        a.mov(eax, 1)?;
        a.hlt()
    });
    assert_eq!(run_each(&code, |_| ()), 7);
}

#[test]
fn a_loop_that_changes_its_own_body_each_time() {
    let code = assemble(KERNEL_CODE, |a| {
        let (mut again, mut patched) = (a.create_label(), a.create_label());
        a.xor(eax, eax)?;
        a.mov(ecx, 1000)?;
        a.lea(rbx, ptr(patched))?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rbx + 1), ecx)?;
        a.set_label(&mut patched)?;
        a.mov(edx, 0x1234_5678)?;
        a.add(rax, rdx)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    assert_eq!(run_each(&code, |_| ()), 1000 * 1001 / 2);
}

#[test]
fn a_function_in_another_page_written_and_called_by_turns() {
    let there = KERNEL_CODE + 0x5000;
    let code = assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.xor(esi, esi)?;
        a.mov(ecx, 300)?;
        a.mov(rbx, there)?;
        // mov eax, imm32; ret
        a.mov(byte_ptr(rbx), 0xb8u32 as i32)?;
        a.mov(byte_ptr(rbx + 5), 0xc3u32 as i32)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rbx + 1), ecx)?;
        a.call(rbx)?;
        a.add(rsi, rax)?;
        a.call(rbx)?;
        a.add(rsi, rax)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.mov(rax, rsi)?;
        a.hlt()
    });
    assert_eq!(run_each(&code, |_| ()), 300 * 301);
}

/// The page is written through another mapping than the one that runs.
#[test]
fn through_another_linear_address() {
    let there = 0x9000_0000u64;
    let frame = KERNEL_CODE + 0x6000;
    let code = assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.xor(esi, esi)?;
        a.mov(ecx, 50)?;
        a.mov(rbx, there)?;
        a.mov(rdi, frame)?;
        a.mov(byte_ptr(rdi), 0xb8u32 as i32)?;
        a.mov(byte_ptr(rdi + 5), 0xc3u32 as i32)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.call(rbx)?;
        a.add(rsi, rax)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.mov(rax, rsi)?;
        a.hlt()
    });
    let sums = run_each(&code, |m| m.map(there, frame, Level::Small, pte::P | pte::W));
    assert_eq!(sums, 50 * 51 / 2);
}

/// Every instruction that stores: each overwrites the immediate of `mov eax, imm32` in code that has just run.
#[test]
fn by_every_kind_of_store() {
    type Store = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    // RBX: the immediate's address, EDX: the new value, which replaces 1.
    let stores: &[(&str, Store)] = &[
        ("mov", |a| a.mov(dword_ptr(rbx), edx)),
        ("add", |a| a.add(dword_ptr(rbx), 0x1110)),
        ("lock add", |a| a.lock().add(dword_ptr(rbx), 0x1110)),
        ("xchg", |a| a.xchg(dword_ptr(rbx), edx)),
        ("cmpxchg", |a| a.lock().cmpxchg(dword_ptr(rbx), edx)),
        ("stosd", |a| {
            a.mov(rdi, rbx)?;
            a.mov(eax, edx)?;
            a.stosd()
        }),
        ("rep stosd", |a| {
            a.mov(rdi, rbx)?;
            a.mov(eax, edx)?;
            a.mov(ecx, 1)?;
            a.rep().stosd()
        }),
        ("rep movsb", |a| {
            a.mov(rdi, rbx)?;
            a.mov(rsi, KERNEL_DATA)?;
            a.mov(dword_ptr(rsi), edx)?;
            a.mov(ecx, 4)?;
            a.rep().movsb()
        }),
        ("push", |a| {
            a.mov(rbp, rsp)?;
            a.lea(rsp, ptr(rbx + 4))?;
            a.mov(ecx, dword_ptr(rbx - 4))?;
            a.shl(rdx, 32)?;
            a.or(rdx, rcx)?;
            a.push(rdx)?;
            a.mov(rsp, rbp)
        }),
        ("movups", |a| {
            a.movups(xmm0, xmmword_ptr(rbx))?;
            a.movd(xmm1, edx)?;
            a.movss(xmm0, xmm1)?;
            a.movups(xmmword_ptr(rbx), xmm0)
        }),
        ("movnti", |a| a.movnti(dword_ptr(rbx), edx)),
        ("btc", |a| {
            a.mov(ecx, 4)?;
            a.btc(dword_ptr(rbx), ecx)?;
            a.mov(ecx, 8)?;
            a.btc(dword_ptr(rbx), ecx)?;
            a.mov(ecx, 12)?;
            a.lock().btc(dword_ptr(rbx), ecx)
        }),
        ("cmpxchg16b", |a| {
            a.lea(rdi, ptr(rbx - 1))?;
            a.and(rdi, -16)?;
            a.mov(rax, qword_ptr(rdi))?;
            a.mov(rdx, qword_ptr(rdi + 8))?;
            a.mov(rcx, rdx)?;
            a.mov(rsi, rax)?;
            a.add(rsi, 0x11_1000)?;
            a.push(rbx)?;
            a.mov(rbx, rsi)?;
            a.lock().cmpxchg16b(xmmword_ptr(rdi))?;
            a.pop(rbx)
        }),
        ("fst", |a| {
            a.mov(qword_ptr(rsp - 8), rdx)?;
            a.fild(dword_ptr(rsp - 8))?;
            a.fistp(dword_ptr(rbx))
        }),
    ];
    for (name, store) in stores {
        let code = assemble(KERNEL_CODE, |a| {
            let (mut function, mut main) = (a.create_label(), a.create_label());
            a.jmp(main)?;
            while a.instructions().len() < 2 {
                a.nop()?;
            }
            a.set_label(&mut main)?;
            a.mov(rbx, KERNEL_CODE + 0x101)?;
            a.mov(edx, 0x1111)?;
            a.call(KERNEL_CODE + 0x100)?;
            a.call(KERNEL_CODE + 0x100)?;
            store(a)?;
            a.call(KERNEL_CODE + 0x100)?;
            a.hlt()?;
            let _ = &mut function;
            Ok(())
        });
        let patched = |m: &mut Machine| m.write(KERNEL_CODE + 0x100, &[0xb8, 1, 0, 0, 0, 0xc3]);
        assert_eq!(run_each(&code, patched), 0x1111, "{name}");
    }
}

/// An instruction that lies in two pages, and changes in either.
#[test]
fn an_instruction_across_pages() {
    let there = KERNEL_CODE + 0x2ffd;
    for offset in [1u64, 4] {
        let code = assemble(KERNEL_CODE, |a| {
            a.mov(rbx, there)?;
            a.call(rbx)?;
            a.call(rbx)?;
            a.mov(esi, eax)?;
            a.mov(byte_ptr(rbx + offset as i32), 0x55)?;
            a.call(rbx)?;
            a.hlt()
        });
        let place = |m: &mut Machine| m.write(there, &[0xb8, 1, 0, 0, 0, 0xc3]);
        let want = if offset == 1 { 0x55 } else { 0x5500_0001 };
        assert_eq!(run_each(&code, place), want);
    }
}

/// Code that goes on in a page which is mapped now here, now there: by a loop, and by an instruction that lies in both.
#[test]
fn code_whose_second_page_is_mapped_elsewhere() {
    const HERE: u64 = 0x0000_0081_4060_3000;
    let begin = HERE + 0xff0;
    for options in options() {
        let mut m = Machine::new(options);
        let frames: [u64; 3] = std::array::from_fn(|_| m.frame());
        // Both have the same code but for the numbers.
        let code = |number: i32| {
            assemble(begin, |a| {
                let mut again = a.create_label();
                a.mov(ecx, 20)?;
                a.set_label(&mut again)?;
                a.nop_1(dword_ptr(rax + rax + 0x1000_0000))?;
                // It begins at 0xffd.
                a.lea(esi, dword_ptr(rsi + 0x1000 * number))?;
                a.add(eax, number)?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.ret()
            })
        };
        let (first, second) = (code(1), code(2));
        m.write(frames[0] + 0xff0, &first[..16]);
        m.write(frames[1], &first[16..]);
        m.write(frames[2], &second[16..]);
        m.map(HERE, frames[0], Level::Small, pte::P | pte::W);
        m.map(HERE + 0x1000, frames[1], Level::Small, pte::P | pte::W);
        let entry = m.entry(HERE + 0x1000, Level::Small);
        m.program(&assemble(KERNEL_CODE, |a| {
            let mut again = a.create_label();
            a.xor(eax, eax)?;
            a.xor(esi, esi)?;
            a.mov(ebp, 1000)?;
            a.mov(rbx, begin)?;
            a.mov(rdi, entry)?;
            a.mov(rdx, HERE + 0x1000)?;
            a.set_label(&mut again)?;
            a.call(rbx)?;
            a.xor(qword_ptr(rdi), (frames[1] ^ frames[2]) as i32)?;
            a.invlpg(qword_ptr(rdx))?;
            a.dec(ebp)?;
            a.jne(again)?;
            a.hlt()
        }));
        m.run();
        let user = m.cpu.user();
        assert_eq!((user.gpr[0], user.gpr[6]), (30_000, 30_000 << 12), "{options:?}");
    }
}

/// Data beside code, and code that jumps into the middle of what was decoded before.
#[test]
fn stores_beside_code_leave_it_alone() {
    let code = assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 1000)?;
        a.xor(eax, eax)?;
        a.mov(rbx, KERNEL_CODE + 0x200)?;
        a.set_label(&mut again)?;
        a.inc(dword_ptr(rbx))?;
        a.add(eax, dword_ptr(rbx))?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        m.run();
        assert_eq!(m.cpu.user().gpr[0], 1000 * 1001 / 2);
        assert_eq!(m.cpu.statistics().invalidations, 0);
    }
}

/// More versions of a piece of code than there are graves for dropped blocks.
#[test]
fn thousands_of_versions() {
    let code = assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.xor(esi, esi)?;
        a.mov(ecx, 5000)?;
        a.mov(rbx, KERNEL_CODE + 0x1000)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rbx + 1), ecx)?;
        a.call(rbx)?;
        a.add(rsi, rax)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.mov(rax, rsi)?;
        a.hlt()
    });
    let place = |m: &mut Machine| m.write(KERNEL_CODE + 0x1000, &[0xb8, 0, 0, 0, 0, 0xc3]);
    assert_eq!(run_each(&code, place), 5000 * 5001 / 2);
}
