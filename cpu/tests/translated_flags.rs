//! Flags that one block leaves and another looks at, where the operands they follow from are known to the translator in part.

use iced_x86::code_asm::*;
use softmetal_cpu_testing::{End, Machine, assemble, layout::*, options};

/// Values that are constants in the code, and those that are loaded.
const VALUES: [u64; 10] =
    [0, 1, 0x0f, 0x13, 0x80, 0xf3, 0x8000, 0x7fff_ffff, 0x8000_0000_0000_0013, u64::MAX];

#[test]
fn known_operands() {
    let code = assemble(KERNEL_CODE, |a| {
        for known in VALUES {
            for (n, _) in VALUES.iter().enumerate() {
                for width in [1, 2, 4, 8] {
                    for operation in 0..5 {
                        a.mov(rax, known)?;
                        a.mov(rcx, qword_ptr(KERNEL_DATA as i32 + 8 * n as i32))?;
                        match (operation, width) {
                            (0, 1) => a.cmp(al, cl)?,
                            (0, 2) => a.cmp(ax, cx)?,
                            (0, 4) => a.cmp(eax, ecx)?,
                            (0, _) => a.cmp(rax, rcx)?,
                            (1, 1) => a.cmp(cl, al)?,
                            (1, 2) => a.cmp(cx, ax)?,
                            (1, 4) => a.cmp(ecx, eax)?,
                            (1, _) => a.cmp(rcx, rax)?,
                            (2, 1) => a.add(al, cl)?,
                            (2, 2) => a.add(ax, cx)?,
                            (2, 4) => a.add(eax, ecx)?,
                            (2, _) => a.add(rax, rcx)?,
                            (3, 1) => a.sub(al, cl)?,
                            (3, 2) => a.sub(ax, cx)?,
                            (3, 4) => a.sub(eax, ecx)?,
                            (3, _) => a.sub(rax, rcx)?,
                            (_, 1) => a.and(al, cl)?,
                            (_, 2) => a.and(ax, cx)?,
                            (_, 4) => a.and(eax, ecx)?,
                            (_, _) => a.and(rax, rcx)?,
                        }
                        let mut next = a.create_label();
                        a.jmp(next)?;
                        a.set_label(&mut next)?;
                        a.pushfq()?;
                        a.pop(rdx)?;
                        a.add(rdi, rdx)?;
                        a.rol(rdi, 5)?;
                        a.add(rdi, rax)?;
                        // A word for each, so that the first that differs is found.
                        a.mov(qword_ptr(rbx), rdi)?;
                        a.add(rbx, 8)?;
                    }
                }
            }
        }
        a.hlt()
    });
    let cases = VALUES.len() * VALUES.len() * 4 * 5;
    let results = KERNEL_DATA + 0x1000;
    let mut first = None;
    for options in options() {
        let mut m = Machine::new(options);
        m.program(&code);
        for (n, v) in VALUES.into_iter().enumerate() {
            m.write_u64(KERNEL_DATA + 8 * n as u64, v);
        }
        let mut state = Machine::supervisor_state();
        state.gpr[3] = results;
        m.cpu.set_state(&state);
        assert!(matches!(m.run(), End::Halt(_)), "{options:?}");
        let got: Vec<u64> =
            m.bytes(results, 8 * cases).as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        let want = first.get_or_insert_with(|| got.clone());
        let differs = (0..cases).find(|&k| got[k] != want[k]);
        let place =
            differs.map(|k| (VALUES[k / 20 / VALUES.len()], VALUES[k / 20 % VALUES.len()], k / 5 % 4, k % 5));
        assert_eq!(place, None, "known, loaded, width, operation; {options:?}");
    }
}
