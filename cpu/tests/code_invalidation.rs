//! What is known of code by its linear address (decoded blocks in the jump cache, translated code) must go when the manual says
//! that translations of addresses do: INVLPG, INVPCID of each kind, loads of CR3, CR4; and must be each address space's own
//! where pages are not global.

use iced_x86::code_asm::*;
use softmetal_cpu::state::cr4;
use softmetal_cpu_testing::{Level, Machine, assemble, layout::*, options, pte};

/// In the upper half of linear addresses, where kernels are, and in the lower one.
const UPPER: u64 = 0xffff_9000_1234_5000;
const LOWER: u64 = 0x0000_0081_4060_3000;
const BOTH: [u64; 2] = [UPPER, LOWER];
const NO_FLUSH: u64 = 1 << 63;

/// A machine with two address spaces that are the same but for what stands in their top tables at [`UPPER`] and [`LOWER`].
struct Spaces {
    m: Machine,
    /// Their top tables.
    roots: [u64; 2],
}

type Assembled = Result<(), iced_x86::IcedError>;

impl Spaces {
    fn new(options: softmetal_cpu::Options) -> Self {
        let mut m = Machine::new(options);
        let mut state = Machine::supervisor_state();
        state.cr4 |= cr4::PCIDE;
        m.cpu.set_state(&state);
        let second = m.frame();
        let top = m.bytes(PML4, 0x1000);
        m.write(second, &top);
        Spaces { m, roots: [PML4, second] }
    }

    /// A frame with a function that returns a number; `crossing`: its first instruction begins in one frame, and a second one
    /// has the end of it, with the number.
    fn function(&mut self, n: u32, crossing: bool) -> [u64; 2] {
        let frames = [self.m.frame(), self.m.frame()];
        let code = assemble(0, |a| {
            a.mov(eax, n)?;
            a.ret()
        });
        if crossing {
            self.m.write(frames[0] + 0xfff, &code[..1]);
            self.m.write(frames[1], &code[1..]);
        } else {
            self.m.write(frames[0] + 0x40, &code);
        }
        frames
    }

    /// Has an address lead to a frame in one address space, with tables of its own below the top one.
    fn map(&mut self, space: usize, linear: u64, frame: u64, flags: u64) {
        let mut table = self.roots[space];
        for shift in [39, 30, 21] {
            let at = table + (linear >> shift & 511) * 8;
            let mut e = self.m.read_u64(at);
            if e & pte::P == 0 {
                e = self.m.frame() | pte::P | pte::W | pte::U;
                self.m.write_u64(at, e);
            }
            table = e & 0x000f_ffff_ffff_f000;
        }
        self.m.write_u64(table + (linear >> 12 & 511) * 8, frame | pte::P | pte::W | flags);
    }

    /// Runs `change`, then calls the function at an address so often that whatever is kept of it is kept.
    fn call(&mut self, at: u64, change: impl FnOnce(&mut CodeAssembler) -> Assembled) -> u64 {
        let code = assemble(KERNEL_CODE + 0x100, |a| {
            let mut again = a.create_label();
            change(a)?;
            a.mov(rbx, at)?;
            a.mov(esi, 6)?;
            a.set_label(&mut again)?;
            a.call(rbx)?;
            a.dec(esi)?;
            a.jne(again)?;
            a.hlt()
        });
        self.m.write(KERNEL_CODE + 0x100, &code);
        let mut regs = self.m.cpu.user();
        regs.rip = KERNEL_CODE + 0x100;
        self.m.cpu.load_user(&regs);
        self.m.cpu.wake();
        self.m.run();
        self.m.cpu.user().gpr[0]
    }

    /// To an address space, under the PCID of its number and one; what is cached of it stays.
    fn switch(&self, space: usize) -> impl FnOnce(&mut CodeAssembler) -> Assembled + use<> {
        let to = self.roots[space] | (space as u64 + 1) | NO_FLUSH;
        move |a| {
            a.mov(rax, to)?;
            a.mov(cr3, rax)
        }
    }
}

fn nothing(_: &mut CodeAssembler) -> Assembled {
    Ok(())
}

fn invlpg(linear: u64) -> impl FnOnce(&mut CodeAssembler) -> Assembled {
    move |a| {
        a.mov(rbx, linear)?;
        a.invlpg(ptr(rbx))
    }
}

#[test]
fn each_address_space_runs_its_own_code() {
    for options in options() {
        for at in BOTH {
            let mut s = Spaces::new(options);
            for space in 0..2 {
                let [frame, _] = s.function(10 + space as u32, false);
                s.map(space, at, frame, 0);
            }
            for space in [0, 1, 0, 1, 1, 0] {
                let switch = s.switch(space);
                assert_eq!(s.call(at + 0x40, switch), 10 + space as u64, "{at:#x}");
            }
        }
    }
}

/// Code that is global in one address space and not in the other one: what is kept of the former must not serve for the latter
/// once its own page has been seen there.
#[test]
fn code_beside_global_code_is_an_address_spaces_own() {
    for options in options() {
        let mut s = Spaces::new(options);
        let [kernel, _] = s.function(1, false);
        for space in 0..2 {
            s.map(space, UPPER, kernel, pte::G);
            let [own, _] = s.function(20 + space as u32, false);
            s.map(space, UPPER + 0x1000, own, 0);
        }
        for space in [0, 1, 0, 1] {
            let switch = s.switch(space);
            assert_eq!(s.call(UPPER + 0x40, switch), 1);
            assert_eq!(s.call(UPPER + 0x1040, nothing), 20 + space as u64);
            assert_eq!(s.call(UPPER + 0x40, nothing), 1);
        }
    }
}

#[test]
fn an_instruction_that_ends_in_a_page_of_an_address_spaces_own() {
    for options in options() {
        for at in BOTH {
            let mut s = Spaces::new(options);
            let [first, ends_0] = s.function(30, true);
            let [_, ends_1] = s.function(31, true);
            for (space, end) in [ends_0, ends_1].into_iter().enumerate() {
                s.map(space, at, first, pte::G);
                s.map(space, at + 0x1000, end, 0);
            }
            for space in [0, 1, 0, 1] {
                let switch = s.switch(space);
                assert_eq!(s.call(at + 0xfff, switch), 30 + space as u64, "{at:#x}");
            }
            // INVLPG of the page that it ends in.
            s.map(1, at + 0x1000, ends_0, 0);
            assert_eq!(s.call(at + 0xfff, invlpg(at + 0x1000)), 30, "{at:#x}");
        }
    }
}

/// INVLPG drops the page of the current address space, and the global page there in all.
#[test]
fn invlpg_drops_code() {
    for options in options() {
        for at in BOTH {
            for global in [0, pte::G] {
                let mut s = Spaces::new(options);
                let ([one, _], [two, _]) = (s.function(1, false), s.function(2, false));
                for space in 0..2 {
                    s.map(space, at, one, global);
                    let switch = s.switch(space);
                    assert_eq!(s.call(at + 0x40, switch), 1);
                }
                for space in 0..2 {
                    s.map(space, at, two, global);
                }
                assert_eq!(s.call(at + 0x40, invlpg(at + 0xabc)), 2, "{at:#x}, global {global}");
                if global != 0 {
                    let switch = s.switch(0);
                    assert_eq!(s.call(at + 0x40, switch), 2, "{at:#x} in the other address space");
                }
            }
        }
    }
}

/// Any piece of a large global page may be named, and by an address space that has not run it.
#[test]
fn invlpg_drops_code_of_a_large_page() {
    for options in options() {
        for at in BOTH {
            let mut s = Spaces::new(options);
            // Beyond the frames of functions.
            let (base, piece) = (at & !0x1f_ffff, 0x1e_0000);
            let at = base | piece;
            for (frame, n) in [(0x40_0000, 1), (0x60_0000, 2)] {
                let [code, _] = s.function(n, false);
                let bytes = s.m.bytes(code, 0x80);
                s.m.write(frame | piece, &bytes);
            }
            let l2 = s.m.entry(at, Level::Large);
            for space in 0..2 {
                let top = s.m.read_u64(PML4 + (at >> 39 & 511) * 8);
                s.m.write_u64(s.roots[space] + (at >> 39 & 511) * 8, top);
            }
            s.m.write_u64(l2, 0x40_0000 | pte::P | pte::W | pte::PS | pte::G);
            let switch = s.switch(0);
            assert_eq!(s.call(at + 0x40, switch), 1);
            // Ten other address spaces, so that the one that has run it is not remembered.
            let root = s.roots[1];
            for pcid in 5..15u64 {
                s.call(KERNEL_CODE + 0x80, |a| {
                    a.mov(rax, root | pcid | NO_FLUSH)?;
                    a.mov(cr3, rax)?;
                    a.hlt()
                });
            }
            s.m.write_u64(l2, 0x60_0000 | pte::P | pte::W | pte::PS | pte::G);
            assert_eq!(s.call(at + 0x40, invlpg(base + 0x7000)), 2, "{at:#x}");
        }
    }
}

/// Loads of CR3 without bit 63 drop what is not global, for the new PCID.
#[test]
fn cr3_drops_code_that_is_not_global() {
    for options in options() {
        for at in BOTH {
            let mut s = Spaces::new(options);
            let ([one, _], [two, _]) = (s.function(1, false), s.function(2, false));
            s.map(0, at, one, 0);
            let switch = s.switch(0);
            assert_eq!(s.call(at + 0x40, switch), 1);
            s.map(0, at, two, 0);
            let to = s.roots[0] | 1;
            let load = move |a: &mut CodeAssembler| {
                a.mov(rax, to)?;
                a.mov(cr3, rax)
            };
            assert_eq!(s.call(at + 0x40, load), 2, "{at:#x}");
            // For another PCID, as long as it is not the current one.
            s.map(0, at, one, 0);
            let (other, back) = (s.roots[1] | 2, s.roots[0] | 1);
            let there_and_back = move |a: &mut CodeAssembler| {
                a.mov(rax, other)?;
                a.mov(cr3, rax)?;
                a.mov(rax, back)?;
                a.mov(cr3, rax)
            };
            assert_eq!(s.call(at + 0x40, there_and_back), 1, "{at:#x}");
        }
    }
}

/// CR4.PGE and CR4.PCIDE drop everything when they change.
#[test]
fn cr4_drops_code() {
    for options in options() {
        for at in BOTH {
            for bit in [7u32, 17] {
                let mut s = Spaces::new(options);
                let ([one, _], [two, _]) = (s.function(1, false), s.function(2, false));
                s.map(0, at, one, pte::G);
                // PCID 0, without which PCIDE cannot be set again.
                assert_eq!(s.call(at + 0x40, nothing), 1);
                s.map(0, at, two, pte::G);
                let toggle = move |a: &mut CodeAssembler| {
                    for _ in 0..2 {
                        a.mov(rax, cr4)?;
                        a.btc(rax, bit)?;
                        a.mov(cr4, rax)?;
                    }
                    Ok(())
                };
                assert_eq!(s.call(at + 0x40, toggle), 2, "{at:#x}, CR4 bit {bit}");
            }
        }
    }
}

#[test]
fn invpcid_drops_code() {
    for options in options() {
        for at in BOTH {
            // Which kinds drop global pages of this PCID's address.
            for (kind, global) in [(0u64, 0), (1, 0), (2, 0), (2, pte::G), (3, 0)] {
                let mut s = Spaces::new(options);
                let ([one, _], [two, _]) = (s.function(1, false), s.function(2, false));
                s.map(0, at, one, global);
                let switch = s.switch(0);
                assert_eq!(s.call(at + 0x40, switch), 1);
                s.map(0, at, two, global);
                // From the other address space: the PCID is in the descriptor.
                let switch = s.switch(1);
                s.m.write_u64(KERNEL_DATA, 1);
                s.m.write_u64(KERNEL_DATA + 8, at);
                let back = s.switch(0);
                let invalidate = move |a: &mut CodeAssembler| {
                    switch(a)?;
                    a.mov(rbx, KERNEL_DATA)?;
                    a.mov(rcx, kind)?;
                    a.invpcid(rcx, xmmword_ptr(rbx))?;
                    back(a)
                };
                assert_eq!(s.call(at + 0x40, invalidate), 2, "{at:#x}, INVPCID {kind}, global {global}");
            }
        }
    }
}
