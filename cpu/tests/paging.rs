//! Address translation: rights at every level, error codes, CR2, accessed and dirty bits, page sizes, TLB invalidation.

use iced_x86::code_asm::*;
use softmetal_cpu::{
    Fault,
    state::{cr0, cr4},
};
use softmetal_cpu_testing::{Level, Machine, assemble, flag, layout::*, options, pte};

/// A linear address that has an entry of its own at each level.
const HERE: u64 = 0x0000_0081_4060_3000;

fn page_fault(error: u32, address: u64) -> Result<(), Fault> {
    Err(Fault { vector: 14, error_code: Some(error), address })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Access {
    Read,
    Write,
    Modify,
    Fetch,
}

/// Data is stored before the code, so that it stays code.
fn place(kind: Access) -> u64 {
    if kind == Access::Fetch { HERE + 64 } else { HERE }
}

/// Puts the three data accesses through RBX at fixed places of both code pages.
fn place_accesses(m: &mut Machine) {
    for (k, code) in [[0x8a, 0x03], [0x88, 0x03], [0x00, 0x03]].into_iter().enumerate() {
        m.write(KERNEL_CODE + 16 * k as u64, &code);
        m.write(CODE_FRAME + (INSN - CODE) + 16 * k as u64, &code);
    }
}

/// Runs one access to `at` from the current privilege.
fn access(m: &mut Machine, user: bool, kind: Access, at: u64) -> Result<(), Fault> {
    let mut regs = m.cpu.user();
    let code = if user { INSN } else { KERNEL_CODE };
    regs.rip = match kind {
        Access::Read => code,
        Access::Write => code + 16,
        Access::Modify => code + 32,
        Access::Fetch => at,
    };
    regs.gpr[3] = at;
    m.run_user(&mut regs)
}

/// SDM 3A "Determination of Access Rights", written down once more.
fn expected(
    user: bool,
    kind: Access,
    rights: (bool, bool, bool),
    (wp, smep, smap, ac): (bool, bool, bool, bool),
) -> Result<(), Fault> {
    let (user_page, writable, no_execute) = rights;
    let ok = match (user, kind) {
        (true, Access::Fetch) => user_page && !no_execute,
        (true, Access::Read) => user_page,
        (true, _) => user_page && writable,
        (false, Access::Fetch) => !(no_execute || user_page && smep),
        (false, Access::Read) => !(user_page && smap && !ac),
        (false, _) => !(user_page && smap && !ac) && (writable || !wp),
    };
    let write = matches!(kind, Access::Write | Access::Modify);
    let error = 1 | u32::from(write) << 1 | u32::from(user) << 2 | u32::from(kind == Access::Fetch) << 4;
    if ok { Ok(()) } else { page_fault(error, place(kind)) }
}

/// Runs the four accesses under all of CPL, WP, SMEP, SMAP and AC.
fn all_contexts(m: &mut Machine, rights: (bool, bool, bool), entries: &[u64], clean: &[u64]) {
    for context in 0..32 {
        let bit = |n: u32| context >> n & 1 != 0;
        let (user, wp, smep, smap, ac) = (bit(0), bit(1), bit(2), bit(3), bit(4));
        let mut state = if user { Machine::user_state() } else { Machine::supervisor_state() };
        state.cr0 = if wp { state.cr0 | cr0::WP } else { state.cr0 & !cr0::WP };
        state.cr4 |= if smep { cr4::SMEP } else { 0 } | if smap { cr4::SMAP } else { 0 };
        state.rflags |= if ac { flag::AC } else { 0 };
        m.cpu.set_state(&state);
        for kind in [Access::Read, Access::Write, Access::Modify, Access::Fetch] {
            for (&at, &e) in entries.iter().zip(clean) {
                m.write_u64(at, e);
            }
            m.cpu.flush();
            let want = expected(user, kind, rights, (wp, smep, smap, ac));
            let got = access(m, user, kind, place(kind));
            assert_eq!(got, want, "{kind:?} {rights:?} user {user} wp {wp} smep {smep} smap {smap} ac {ac}");
            let Some((&leaf, above)) = entries.split_last() else { continue };
            if got.is_ok() {
                let all = above.iter().all(|&at| m.read_u64(at) & pte::A != 0);
                assert!(all, "A is set in every entry");
                let write = matches!(kind, Access::Write | Access::Modify);
                let marks = pte::A | if write { pte::D } else { 0 };
                assert_eq!(m.read_u64(leaf) & (pte::A | pte::D), marks, "{kind:?}");
            } else {
                assert_eq!(m.read_u64(leaf) & pte::D, 0, "a fault dirties nothing");
            }
        }
    }
}

fn every_combination(level: Level) {
    let mut m = Machine::default();
    place_accesses(&mut m);
    let frame = match level {
        Level::Small => m.frame(),
        Level::Large => 0x60_0000,
        Level::Huge => unreachable!("HERE lies beyond the RAM of a page of 1 GiB"),
    };
    m.write(frame | if level == Level::Small { 0 } else { HERE & 0x1f_f000 }, &[0x90; 128]);
    m.map(HERE & !((1 << (12 + 9 * (level as u64 - 1))) - 1), frame, level, pte::P);
    let mut entries = vec![PML4 + (HERE >> 39 & 511) * 8];
    for l in [Level::Huge, Level::Large, Level::Small] {
        if l as u64 >= level as u64 {
            entries.push(m.entry(HERE, l));
        }
    }
    let base: Vec<u64> = entries.iter().map(|&at| m.read_u64(at) & !(pte::W | pte::U | pte::NX)).collect();
    let n = entries.len();
    for combination in 0..1u32 << (3 * n) {
        // All combinations of rights at few levels; for four levels those where one level differs from the others.
        let of = |k: usize| combination >> (3 * k) & 7;
        let plain = (0..n).filter(|&k| of(k) != 3).count();
        if n > 2 && plain > 2 {
            continue;
        }
        let clean: Vec<u64> = (0..n)
            .map(|k| {
                let bits = of(k);
                base[k]
                    | if bits & 1 != 0 { pte::W } else { 0 }
                    | if bits & 2 != 0 { pte::U } else { 0 }
                    | if bits & 4 != 0 { pte::NX } else { 0 }
            })
            .collect();
        let rights =
            ((0..n).all(|k| of(k) & 2 != 0), (0..n).all(|k| of(k) & 1 != 0), (0..n).any(|k| of(k) & 4 != 0));
        all_contexts(&mut m, rights, &entries, &clean);
    }
}

#[test]
fn rights_of_4_kib_pages() {
    every_combination(Level::Small);
}

#[test]
fn rights_of_2_mib_pages() {
    every_combination(Level::Large);
}

#[test]
fn not_present_and_reserved_bits_at_each_level() {
    let mut m = Machine::default();
    place_accesses(&mut m);
    let frame = m.frame();
    m.map(HERE, frame, Level::Small, pte::P | pte::W | pte::U);
    let mut entries = vec![PML4 + (HERE >> 39 & 511) * 8];
    for l in [Level::Huge, Level::Large, Level::Small] {
        entries.push(m.entry(HERE, l));
    }
    for user in [false, true] {
        let state = if user { Machine::user_state() } else { Machine::supervisor_state() };
        m.cpu.set_state(&state);
        let u = if user { 4 } else { 0 };
        for (k, &at) in entries.iter().enumerate() {
            let good = m.read_u64(at);
            for kind in [Access::Read, Access::Write, Access::Modify, Access::Fetch] {
                let w = if matches!(kind, Access::Write | Access::Modify) { 2 } else { 0 };
                let i = if kind == Access::Fetch { 16 } else { 0 };
                m.write_u64(at, good & !pte::P);
                m.cpu.flush();
                assert_eq!(access(&mut m, user, kind, HERE), page_fault(w | u | i, HERE), "level {k}");
                // Reserved: an address bit beyond the width, and PS in a PML4E.
                let reserved: &[u64] =
                    if k == 0 { &[1 << 51, 1 << 46, pte::PS] } else { &[1 << 51, 1 << 46] };
                for bit in reserved {
                    m.write_u64(at, good | bit);
                    m.cpu.flush();
                    assert_eq!(
                        access(&mut m, user, kind, HERE),
                        page_fault(9 | w | u | i, HERE),
                        "level {k}"
                    );
                }
                // A large page whose address is not aligned.
                if k == 1 || k == 2 {
                    m.write_u64(at, good & 0xfff | pte::PS | 1 << 13);
                    m.cpu.flush();
                    assert_eq!(
                        access(&mut m, user, kind, HERE),
                        page_fault(9 | w | u | i, HERE),
                        "level {k}"
                    );
                }
                m.write_u64(at, good);
                m.cpu.flush();
            }
        }
    }
}

#[test]
fn nx_is_reserved_without_nxe_and_errors_have_no_i_bit() {
    let mut m = Machine::default();
    place_accesses(&mut m);
    let frame = m.frame();
    let mut state = Machine::supervisor_state();
    state.efer &= !0x800;
    m.cpu.set_state(&state);
    m.map(HERE, frame, Level::Small, pte::P | pte::W | pte::NX);
    m.cpu.flush();
    assert_eq!(access(&mut m, false, Access::Read, HERE), page_fault(9, HERE));
    assert_eq!(access(&mut m, false, Access::Fetch, HERE), page_fault(9, HERE));
    m.map(HERE, frame, Level::Small, 0);
    m.cpu.flush();
    assert_eq!(access(&mut m, false, Access::Fetch, HERE), page_fault(0, HERE));
}

#[test]
fn page_sizes_lead_to_their_physical_addresses() {
    for options in options() {
        let mut m = Machine::new(options);
        m.map(0x8000_0000, 0x60_0000, Level::Large, pte::P | pte::W);
        m.map(0x1_0000_0000, 0, Level::Huge, pte::P | pte::W);
        m.write_u64(0x61_2348, 0x1122_3344_5566_7788);
        let code = assemble(KERNEL_CODE, |a| {
            a.mov(rbx, 0x8001_2348u64)?;
            a.mov(rax, qword_ptr(rbx))?;
            a.mov(rbx, 0x1_0061_2348u64)?;
            a.mov(rcx, qword_ptr(rbx))?;
            a.inc(qword_ptr(rbx))?;
            a.hlt()
        });
        m.program(&code);
        m.run();
        let gpr = m.cpu.state().gpr;
        assert_eq!((gpr[0], gpr[1]), (0x1122_3344_5566_7788, 0x1122_3344_5566_7788));
        assert_eq!(m.read_u64(0x61_2348), 0x1122_3344_5566_7789);
    }
}

/// A fill of two pages side by side in which each page has other rights.
#[test]
fn accesses_across_pages_fault_at_the_right_place_and_write_nothing() {
    for options in options() {
        let mut m = Machine::new(options);
        place_accesses(&mut m);
        let frames = [m.frame(), m.frame()];
        m.map(HERE, frames[0], Level::Small, pte::P | pte::W);
        let store = assemble(KERNEL_CODE, |a| a.mov(qword_ptr(rbx), rax));
        let load = assemble(KERNEL_CODE + 16, |a| a.mov(rax, qword_ptr(rbx)));
        let add = assemble(KERNEL_CODE + 32, |a| a.add(qword_ptr(rbx), rax));
        let locked = assemble(KERNEL_CODE + 48, |a| a.lock().add(qword_ptr(rbx), rax));
        let exchange = assemble(KERNEL_CODE + 64, |a| a.xchg(qword_ptr(rbx), rax));
        let read_only = pte::P;
        for (k, code) in [&store, &load, &add, &locked, &exchange].into_iter().enumerate() {
            m.write(KERNEL_CODE + 16 * k as u64, code);
            for (second, first, error) in [
                (0, pte::P | pte::W, 0),
                (read_only, pte::P | pte::W, 1),
                (pte::P | pte::W, read_only, 1),
                (pte::P | pte::W, 0, 0),
            ] {
                m.map(HERE, frames[0], Level::Small, first);
                m.map(HERE + 0x1000, frames[1], Level::Small, second);
                m.cpu.flush();
                m.write_u64(frames[0] + 0xff8, 0x1111_1111_1111_1111);
                m.write_u64(frames[1], 0x2222_2222_2222_2222);
                let mut regs = m.cpu.user();
                regs.rip = KERNEL_CODE + 16 * k as u64;
                regs.gpr[0] = 0x0101_0101_0101_0101;
                regs.gpr[3] = HERE + 0xffd;
                let loads = k == 1;
                let at = if first == pte::P | pte::W { HERE + 0x1000 } else { HERE + 0xffd };
                let got = m.run_user(&mut regs);
                if loads && error == 1 {
                    assert_eq!(got, Ok(()));
                    assert_eq!(regs.gpr[0], 0x2222_2222_2211_1111);
                    continue;
                }
                let write = if loads { 0 } else { 2 };
                assert_eq!(got, page_fault(error | write, at), "instruction {k}");
                assert_eq!(regs.gpr[0], 0x0101_0101_0101_0101);
                assert_eq!(m.read_u64(frames[0] + 0xff8), 0x1111_1111_1111_1111, "instruction {k}");
                assert_eq!(m.read_u64(frames[1]), 0x2222_2222_2222_2222, "instruction {k}");
            }
            // Both writable: it works.
            m.map(HERE, frames[0], Level::Small, pte::P | pte::W);
            m.map(HERE + 0x1000, frames[1], Level::Small, pte::P | pte::W);
            m.cpu.flush();
            let mut regs = m.cpu.user();
            regs.rip = KERNEL_CODE + 16 * k as u64;
            regs.gpr[3] = HERE + 0xffd;
            assert_eq!(m.run_user(&mut regs), Ok(()), "instruction {k}");
        }
    }
}

#[test]
fn dirty_is_set_by_the_first_write_after_reads() {
    for options in options() {
        let mut m = Machine::new(options);
        place_accesses(&mut m);
        let frame = m.frame();
        m.map(HERE, frame, Level::Small, pte::P | pte::W);
        let leaf = m.entry(HERE, Level::Small);
        m.cpu.flush();
        for _ in 0..3 {
            assert_eq!(access(&mut m, false, Access::Read, HERE + 8), Ok(()));
            assert_eq!(m.read_u64(leaf) & (pte::A | pte::D), pte::A);
        }
        assert_eq!(access(&mut m, false, Access::Modify, HERE + 8), Ok(()));
        assert_eq!(m.read_u64(leaf) & (pte::A | pte::D), pte::A | pte::D);
    }
}

/// What the manual promises without INVLPG: an entry that was not present, or that forbade, is never cached for good.
#[test]
fn more_rights_need_no_invalidation() {
    for options in options() {
        let mut m = Machine::new(options);
        place_accesses(&mut m);
        let frame = m.frame();
        m.map(HERE, frame, Level::Small, 0);
        assert_eq!(access(&mut m, false, Access::Read, HERE), page_fault(0, HERE));
        m.map(HERE, frame, Level::Small, pte::P);
        assert_eq!(access(&mut m, false, Access::Read, HERE), Ok(()));
        assert_eq!(access(&mut m, false, Access::Write, HERE), page_fault(3, HERE));
        m.map(HERE, frame, Level::Small, pte::P | pte::W);
        assert_eq!(access(&mut m, false, Access::Write, HERE), Ok(()));
        assert_eq!(access(&mut m, false, Access::Fetch, HERE), Ok(()));
    }
}

/// A machine whose program reads [HERE] to RAX after running `change`.
fn reads_after(
    m: &mut Machine,
    change: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> u64 {
    let code = assemble(KERNEL_CODE + 0x100, |a| {
        change(a)?;
        a.mov(rbx, HERE)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.hlt()
    });
    m.write(KERNEL_CODE + 0x100, &code);
    let mut regs = m.cpu.user();
    regs.rip = KERNEL_CODE + 0x100;
    m.cpu.load_user(&regs);
    m.cpu.wake();
    m.run();
    m.cpu.user().gpr[0]
}

#[test]
fn invlpg_drops_one_page_and_moves_of_cr3_all_but_global_ones() {
    for options in options() {
        let mut m = Machine::new(options);
        let (one, two) = (m.frame(), m.frame());
        m.write_u64(one, 1);
        m.write_u64(two, 2);
        for global in [0, pte::G] {
            for level in [Level::Small, Level::Large] {
                let (a, b) = if level == Level::Small { (one, two) } else { (0x60_0000, 0x40_0000) };
                let within = if level == Level::Large { HERE & 0x1f_f000 } else { 0 };
                m.write_u64(a | within, 1);
                m.write_u64(b | within, 2);
                let base = if level == Level::Small { HERE } else { HERE & !0x1f_ffff };
                let l2 = m.entry(HERE, Level::Large);
                m.write_u64(l2, 0);
                m.map(base, a, level, pte::P | pte::W | global);
                m.cpu.flush();
                assert_eq!(reads_after(&mut m, |_| Ok(())), 1);
                m.map(base, b, level, pte::P | pte::W | global);
                let invlpg = |a: &mut CodeAssembler| {
                    a.mov(rbx, HERE)?;
                    a.invlpg(ptr(rbx))
                };
                assert_eq!(reads_after(&mut m, invlpg), 2, "INVLPG");
                m.map(base, a, level, pte::P | pte::W | global);
                let load_cr3 = |a: &mut CodeAssembler| {
                    a.mov(rax, cr3)?;
                    a.mov(cr3, rax)
                };
                let got = reads_after(&mut m, load_cr3);
                if global == 0 {
                    assert_eq!(got, 1, "MOV CR3");
                }
                let toggle_pge = |a: &mut CodeAssembler| {
                    a.mov(rax, cr4)?;
                    a.btc(rax, 7)?;
                    a.mov(cr4, rax)?;
                    a.btc(rax, 7)?;
                    a.mov(cr4, rax)
                };
                assert_eq!(reads_after(&mut m, toggle_pge), 1, "CR4.PGE");
            }
        }
    }
}

/// Any 4 KiB piece of a large page may be named by INVLPG, from any address space, if the page is global.
#[test]
fn invlpg_drops_all_of_a_large_page() {
    for options in options() {
        for global in [0, pte::G] {
            let mut m = Machine::new(options);
            let mut state = Machine::supervisor_state();
            state.cr4 |= cr4::PCIDE;
            m.cpu.set_state(&state);
            let base = HERE & !0x1f_ffff;
            m.write_u64(0x60_0000 | HERE & 0x1f_f000, 1);
            m.write_u64(0x40_0000 | HERE & 0x1f_f000, 2);
            m.map(base, 0x60_0000, Level::Large, pte::P | pte::W | global);
            // Cached under PCID 1, and again under PCID 2 where it comes from the global entries.
            let visit = |pcid: u32| {
                move |a: &mut CodeAssembler| {
                    a.mov(rcx, PML4 | u64::from(pcid))?;
                    a.mov(rdx, 1u64 << 63)?;
                    a.or(rcx, rdx)?;
                    a.mov(cr3, rcx)
                }
            };
            assert_eq!(reads_after(&mut m, visit(1)), 1);
            assert_eq!(reads_after(&mut m, visit(2)), 1);
            m.map(base, 0x40_0000, Level::Large, pte::P | pte::W | global);
            let elsewhere = |a: &mut CodeAssembler| {
                a.mov(rbx, base + 0x5000)?;
                a.invlpg(ptr(rbx))
            };
            assert_eq!(reads_after(&mut m, elsewhere), 2, "INVLPG of another piece, global {global}");
            if global != 0 {
                assert_eq!(reads_after(&mut m, visit(1)), 2, "global pages go from every address space");
            }
        }
    }
}

#[test]
fn pcids_keep_address_spaces_apart() {
    for options in options() {
        let mut m = Machine::new(options);
        let mut state = Machine::supervisor_state();
        state.cr4 |= cr4::PCIDE;
        m.cpu.set_state(&state);
        // Twelve address spaces, more than there are slots: each has its own PML4 with its own page at HERE.
        let mut roots = Vec::new();
        for n in 0..12u64 {
            let (root, frame) = (m.frame(), m.frame());
            let tables = [m.frame(), m.frame(), m.frame()];
            for k in 0..512 {
                let e = m.read_u64(PML4 + 8 * k);
                m.write_u64(root + 8 * k, e);
            }
            let all = pte::P | pte::W | pte::U;
            m.write_u64(root + (HERE >> 39 & 511) * 8, tables[0] | all);
            m.write_u64(tables[0] + (HERE >> 30 & 511) * 8, tables[1] | all);
            m.write_u64(tables[1] + (HERE >> 21 & 511) * 8, tables[2] | all);
            m.write_u64(tables[2] + (HERE >> 12 & 511) * 8, frame | all);
            m.write_u64(frame, 100 + n);
            roots.push((root, frame, tables[2]));
        }
        let switch = |root: u64, pcid: u64, keep: bool| {
            move |a: &mut CodeAssembler| {
                a.mov(rcx, root | pcid | u64::from(keep) << 63)?;
                a.mov(cr3, rcx)
            }
        };
        for round in 0..3 {
            for (n, &(root, ..)) in roots.iter().enumerate() {
                let got = reads_after(&mut m, switch(root, n as u64 + 1, round > 0));
                assert_eq!(got, 100 + n as u64);
            }
        }
        // INVPCID of each kind drops what it says, and the new mapping is seen.
        let (root, frame, table) = roots[11];
        let other = roots[10].1;
        let slot = table + (HERE >> 12 & 511) * 8;
        for kind in 0..4u64 {
            m.write_u64(slot, frame | pte::P | pte::W);
            assert_eq!(reads_after(&mut m, switch(root, 12, false)), 111);
            m.write_u64(slot, other | pte::P | pte::W);
            m.write_u64(KERNEL_DATA, 12);
            m.write_u64(KERNEL_DATA + 8, HERE);
            let invpcid = |a: &mut CodeAssembler| {
                a.mov(rbx, KERNEL_DATA)?;
                a.mov(rcx, kind)?;
                a.invpcid(rcx, xmmword_ptr(rbx))
            };
            assert_eq!(reads_after(&mut m, invpcid), 110, "INVPCID {kind}");
        }
    }
}

/// Code that was cached by its address must not run after the address leads elsewhere.
#[test]
fn remapped_code_is_fetched_anew() {
    for options in options() {
        let mut m = Machine::new(options);
        let (one, two) = (m.frame(), m.frame());
        for (frame, n) in [(one, 1), (two, 2)] {
            let code = assemble(HERE, |a| {
                a.mov(eax, n)?;
                a.ret()
            });
            m.write(frame, &code);
        }
        m.map(HERE, one, Level::Small, pte::P | pte::W);
        let leaf = m.entry(HERE, Level::Small);
        // Calls the page ten times, remaps it, calls it again.
        let code = assemble(KERNEL_CODE, |a| {
            a.mov(rbx, HERE)?;
            a.mov(rsi, leaf)?;
            for _ in 0..10 {
                a.call(rbx)?;
            }
            a.mov(r8d, eax)?;
            a.mov(rcx, two | pte::P)?;
            a.mov(qword_ptr(rsi), rcx)?;
            a.invlpg(ptr(rbx))?;
            a.call(rbx)?;
            a.mov(r9d, eax)?;
            a.mov(rcx, one | pte::P)?;
            a.mov(qword_ptr(rsi), rcx)?;
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)?;
            a.call(rbx)?;
            a.hlt()
        });
        m.program(&code);
        m.run();
        let gpr = m.cpu.state().gpr;
        assert_eq!((gpr[8], gpr[9], gpr[0]), (1, 2, 1));
    }
}
