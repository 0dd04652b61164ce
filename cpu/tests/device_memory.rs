//! Device memory: what reaches the bus, in which pieces, and how often.

use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu_testing::{End, Level, Machine, assemble, bus::Access, layout::*, options, pte};

/// Where the device is, physically and linearly.
const DEVICE: u64 = 0xfed0_0000;
const THERE: u64 = 0xa000_0000;

fn accesses(build: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<(Vec<Access>, [u64; 16])> {
    let code = assemble(KERNEL_CODE, |a| {
        a.mov(rbx, THERE)?;
        build(a)?;
        a.hlt()
    });
    options()
        .into_iter()
        .map(|options| {
            let mut m = Machine::new(options);
            m.map(THERE, DEVICE, Level::Small, pte::P | pte::W);
            m.map(THERE + 0x1000, FRAMES, Level::Small, pte::P | pte::W);
            m.write_u64(FRAMES, 0x8877_6655_4433_2211);
            m.program(&code);
            let end = m.run();
            assert!(matches!(end, End::Halt(rip) if rip == KERNEL_CODE + code.len() as u64), "{end:?}");
            (m.bus.take(), m.cpu.user().gpr)
        })
        .collect()
}

#[test]
fn loads_and_stores_keep_their_width() {
    let all = accesses(|a| {
        a.mov(al, byte_ptr(rbx + 0x10))?;
        a.mov(cx, word_ptr(rbx + 0x12))?;
        a.mov(edx, dword_ptr(rbx + 0x14))?;
        a.mov(rsi, qword_ptr(rbx + 0x18))?;
        a.mov(byte_ptr(rbx + 0x20), 1)?;
        a.mov(word_ptr(rbx + 0x22), 2)?;
        a.mov(dword_ptr(rbx + 0x24), 3)?;
        a.mov(qword_ptr(rbx + 0x28), 4)
    });
    for (found, gpr) in all {
        let want = [
            Access::MmioRead(DEVICE + 0x10, 1),
            Access::MmioRead(DEVICE + 0x12, 2),
            Access::MmioRead(DEVICE + 0x14, 4),
            Access::MmioRead(DEVICE + 0x18, 8),
            Access::MmioWrite(DEVICE + 0x20, vec![1]),
            Access::MmioWrite(DEVICE + 0x22, vec![2, 0]),
            Access::MmioWrite(DEVICE + 0x24, vec![3, 0, 0, 0]),
            Access::MmioWrite(DEVICE + 0x28, vec![4, 0, 0, 0, 0, 0, 0, 0]),
        ];
        assert_eq!(found, want);
        assert_eq!((gpr[0], gpr[1], gpr[2], gpr[6]), (0x10, 0x1312, 0x1716_1514, 0x1f1e_1d1c_1b1a_1918));
    }
}

#[test]
fn read_modify_write_reads_once_and_writes_once() {
    let all = accesses(|a| {
        a.add(dword_ptr(rbx + 0x40), 1)?;
        a.lock().or(dword_ptr(rbx + 0x44), 0x100)?;
        a.mov(eax, 7)?;
        a.xchg(dword_ptr(rbx + 0x48), eax)?;
        a.mov(eax, 0x4f4e_4d4c)?;
        a.mov(edx, 9)?;
        a.lock().cmpxchg(dword_ptr(rbx + 0x4c), edx)?;
        a.push(qword_ptr(rbx + 0x50))?;
        a.pop(qword_ptr(rbx + 0x58))
    });
    for (found, _) in all {
        let want = [
            Access::MmioRead(DEVICE + 0x40, 4),
            Access::MmioWrite(DEVICE + 0x40, vec![0x41, 0x41, 0x42, 0x43]),
            Access::MmioRead(DEVICE + 0x44, 4),
            Access::MmioWrite(DEVICE + 0x44, vec![0x44, 0x45, 0x46, 0x47]),
            Access::MmioRead(DEVICE + 0x48, 4),
            Access::MmioWrite(DEVICE + 0x48, vec![7, 0, 0, 0]),
            Access::MmioRead(DEVICE + 0x4c, 4),
            Access::MmioWrite(DEVICE + 0x4c, vec![9, 0, 0, 0]),
            Access::MmioRead(DEVICE + 0x50, 8),
            Access::MmioWrite(DEVICE + 0x58, vec![0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57]),
        ];
        assert_eq!(found, want);
    }
}

#[test]
fn an_access_across_the_devices_end() {
    let all = accesses(|a| {
        a.mov(rax, qword_ptr(rbx + 0xffc))?;
        a.mov(qword_ptr(rbx + 0xffe), rax)?;
        a.mov(rcx, qword_ptr(rbx + 0x1000))
    });
    for (found, gpr) in all {
        assert_eq!(
            found,
            [Access::MmioRead(DEVICE + 0xffc, 4), Access::MmioWrite(DEVICE + 0xffe, vec![0xfc, 0xfd])]
        );
        assert_eq!(gpr[0], 0x4433_2211_fffe_fdfc);
        assert_eq!(gpr[1], 0x8877_4433_2211_fffe);
    }
}

#[test]
fn strings_reach_devices_element_by_element() {
    let all = accesses(|a| {
        a.mov(rsi, rbx)?;
        a.mov(edi, KERNEL_DATA as u32)?;
        a.mov(ecx, 3)?;
        a.rep().movsd()?;
        a.mov(rsi, KERNEL_DATA)?;
        a.lea(rdi, ptr(rbx + 0x100))?;
        a.mov(ecx, 2)?;
        a.rep().movsw()?;
        a.mov(al, 0x77)?;
        a.mov(ecx, 2)?;
        a.rep().stosb()?;
        a.mov(dx, 0x3f8)?;
        a.mov(ecx, 2)?;
        a.mov(rsi, KERNEL_DATA)?;
        a.rep().outsb()?;
        a.mov(ecx, 2)?;
        a.mov(edi, KERNEL_DATA as u32 + 0x10)?;
        a.rep().insw()
    });
    for (found, _) in all {
        let want = [
            Access::MmioRead(DEVICE, 4),
            Access::MmioRead(DEVICE + 4, 4),
            Access::MmioRead(DEVICE + 8, 4),
            Access::MmioWrite(DEVICE + 0x100, vec![0, 1]),
            Access::MmioWrite(DEVICE + 0x102, vec![2, 3]),
            Access::MmioWrite(DEVICE + 0x104, vec![0x77]),
            Access::MmioWrite(DEVICE + 0x105, vec![0x77]),
            Access::PortWrite(0x3f8, vec![0]),
            Access::PortWrite(0x3f8, vec![1]),
            Access::PortRead(0x3f8, 2),
            Access::PortRead(0x3f8, 2),
        ];
        assert_eq!(found, want);
    }
}

/// A store that faults in its second page must not have reached the device in its first.
#[test]
fn a_fault_behind_a_device_keeps_the_store_from_it() {
    for options in options() {
        let mut m = Machine::new(options);
        m.map(THERE, DEVICE, Level::Small, pte::P | pte::W);
        let code = assemble(KERNEL_CODE, |a| {
            a.mov(rbx, THERE)?;
            a.mov(qword_ptr(rbx + 0xffc), rax)
        });
        m.program(&code);
        assert_eq!(m.run(), End::Vector(14));
        assert_eq!(m.cpu.state().cr2, THERE + 0x1000);
        assert_eq!(m.bus.take(), []);
    }
}

#[test]
fn sixteen_bytes_go_in_two_pieces() {
    let all = accesses(|a| {
        a.movups(xmm0, xmmword_ptr(rbx + 0x60))?;
        a.movups(xmmword_ptr(rbx + 0x70), xmm0)
    });
    for (found, _) in all {
        let bytes = |from: u8| (from..from + 8).collect::<Vec<u8>>();
        let want = [
            Access::MmioRead(DEVICE + 0x60, 8),
            Access::MmioRead(DEVICE + 0x68, 8),
            Access::MmioWrite(DEVICE + 0x70, bytes(0x60)),
            Access::MmioWrite(DEVICE + 0x78, bytes(0x68)),
        ];
        assert_eq!(found, want);
    }
}

/// The recorder's bytes are code too: 50h to 57h are pushes.
#[test]
fn code_in_device_memory() {
    for options in options() {
        let mut m = Machine::new(options);
        m.map(THERE, DEVICE, Level::Small, pte::P | pte::W);
        let code = assemble(KERNEL_CODE, |a| {
            a.mov(rbx, THERE + 0x50)?;
            a.jmp(rbx)
        });
        m.program(&code);
        // Pushes of RAX to RDI (50 to 57), pops (58 to 5f) that lead RSP astray, then 60h, undefined in 64-bit mode.
        m.gate(6, HANDLERS + 0x60, 1, 0, 0xe);
        assert_eq!(m.run(), End::Vector(6));
        assert_eq!(m.pushed(6).rip, THERE + 0x60);
    }
}

/// What goes to a device again and again is translated anew, as a call, and does the same as before.
#[test]
fn loops_over_a_register_of_a_device() {
    const TIMES: usize = 2500;
    let code = assemble(KERNEL_CODE, |a| {
        let mut again = a.create_label();
        a.mov(rbx, THERE)?;
        a.mov(ecx, TIMES as i32)?;
        a.set_label(&mut again)?;
        a.mov(eax, dword_ptr(rbx + 0x10))?;
        a.add(dword_ptr(rbx + 0x14), ecx)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    for options in options() {
        let mut m = Machine::new(options);
        m.map(THERE, DEVICE, Level::Small, pte::P | pte::W);
        m.program(&code);
        assert_eq!(m.run(), End::Halt(KERNEL_CODE + code.len() as u64));
        let found = m.bus.take();
        assert_eq!(found.len(), 3 * TIMES);
        for (k, three) in found.chunks(3).enumerate() {
            let sum = 0x1716_1514 + (TIMES - k) as u32;
            let want = [
                Access::MmioRead(DEVICE + 0x10, 4),
                Access::MmioRead(DEVICE + 0x14, 4),
                Access::MmioWrite(DEVICE + 0x14, sum.to_le_bytes().to_vec()),
            ];
            assert_eq!(three, want, "round {k}");
        }
        assert_eq!(m.cpu.user().gpr[0], 0x1312_1110);
        if let Some((_, ops)) = m.cpu.translations() {
            let called = |name: &str| ops.iter().find(|op| op.name == name).map_or(0, |op| op.called);
            assert!(called("mov") >= 1400 && called("add") >= 400, "{ops:?}");
        }
    }
}

/// Which page of a device an address leads to may be known without a walk, for no longer than a TLB may know it.
#[test]
fn a_devices_page_is_another_when_its_translation_is_dropped() {
    const OTHER: u64 = DEVICE + 0x5000;
    /// Begins with what drops a translation, or a NOP; then reads and writes the page.
    fn snippet(at: u64, change: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
        assemble(at, |a| {
            change(a)?;
            a.mov(eax, dword_ptr(rbx + 0x10))?;
            a.mov(dword_ptr(rbx + 0x14), 5)?;
            a.hlt()
        })
    }
    let snippets = [
        snippet(KERNEL_CODE, |a| a.nop()),
        snippet(KERNEL_CODE + 0x100, |a| a.invlpg(ptr(rbx))),
        snippet(KERNEL_CODE + 0x200, |a| {
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)
        }),
    ];
    let both =
        |page: u64| [Access::MmioRead(page + 0x10, 4), Access::MmioWrite(page + 0x14, vec![5, 0, 0, 0])];
    for options in options() {
        let mut m = Machine::new(options);
        m.map(THERE, DEVICE, Level::Small, pte::P | pte::W);
        m.program(&snippets[0]);
        for (k, code) in snippets.iter().enumerate() {
            m.write(KERNEL_CODE + 0x100 * k as u64, code);
        }
        let run = |m: &mut Machine, k: usize| {
            let mut regs = m.cpu.user();
            regs.rip = KERNEL_CODE + 0x100 * k as u64;
            regs.gpr[3] = THERE;
            m.cpu.load_user(&regs);
            m.cpu.wake();
            (m.run(), m.bus.take())
        };
        let halted = |k: usize| End::Halt(KERNEL_CODE + 0x100 * k as u64 + snippets[k].len() as u64);
        for _ in 0..3 {
            assert_eq!(run(&mut m, 0), (halted(0), both(DEVICE).to_vec()));
        }
        m.map(THERE, OTHER, Level::Small, pte::P | pte::W);
        assert_eq!(run(&mut m, 1), (halted(1), both(OTHER).to_vec()), "INVLPG");
        assert_eq!(run(&mut m, 0), (halted(0), both(OTHER).to_vec()));
        m.map(THERE, DEVICE, Level::Small, pte::P | pte::W);
        assert_eq!(run(&mut m, 2), (halted(2), both(DEVICE).to_vec()), "MOV CR3");
        // Where it may be read, it may not be written.
        m.map(THERE, DEVICE, Level::Small, pte::P);
        assert_eq!(run(&mut m, 1), (End::Vector(14), both(DEVICE)[..1].to_vec()));
        m.map(THERE, FRAMES, Level::Small, pte::P | pte::W);
        m.cpu.flush();
        assert_eq!(run(&mut m, 1), (halted(1), vec![]), "RAM");
        assert_eq!(m.read_u64(FRAMES + 0x10) >> 32, 5);
    }
}
