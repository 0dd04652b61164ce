//! Guest programs whose cost is measured: in time by cpu/benches, in host instructions by benches/counts.

use crate::{End, Machine, Random, User, assemble, layout::*};
use iced_x86::{IcedError, code_asm::*};
use softmetal_cpu::CpuState;

/// A program that runs RCX times through a loop and halts. It finds [`KERNEL_DATA`] in RBX and RSI, [`FRAMES`] in RDI.
pub struct Loop {
    /// The machine, with the program at [`KERNEL_CODE`].
    pub machine: Machine,
    /// The state that each run begins with, but for RCX; to be changed before the first.
    pub state: CpuState,
    user: Option<User>,
    per_turn: u64,
}

impl Loop {
    /// A loop at CPL 0.
    pub fn new(body: impl FnMut(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        Loop::on(Machine::default(), body)
    }

    /// A loop at CPL 0 on a machine that has been prepared.
    pub fn on(
        mut machine: Machine,
        mut body: impl FnMut(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        let mut n = 0;
        let code = assemble(KERNEL_CODE, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            let before = a.instructions().len();
            body(a)?;
            n = (a.instructions().len() - before) as u64;
            a.dec(rcx)?;
            a.jne(again)?;
            a.hlt()
        });
        machine.program(&code);
        let mut state = machine.cpu.state();
        state.gpr[3] = KERNEL_DATA;
        state.gpr[6] = KERNEL_DATA;
        state.gpr[7] = FRAMES;
        Loop { machine, state, user: None, per_turn: n + 2 }
    }

    /// Instructions of one time through, where the body has no branches but over the next ones.
    pub fn per_turn(&self) -> u64 {
        self.per_turn
    }

    /// Sets the registers for so many times through. What the TLBs hold stays.
    pub fn prepare(&mut self, turns: u64) {
        let cpu = &mut self.machine.cpu;
        let user = self.user.get_or_insert_with(|| {
            cpu.set_state(&self.state);
            cpu.user()
        });
        user.gpr[1] = turns;
        cpu.load_user(user);
        cpu.wake();
    }

    /// Runs what is prepared.
    ///
    /// # Panics
    /// If it does not come to its end.
    pub fn run(&mut self) {
        let end = self.machine.run();
        assert!(matches!(end, End::Halt(_)), "the program ended with {end:?}");
    }
}

/// Copies, sums and counts through memory, by name.
pub fn loops() -> impl Iterator<Item = (&'static str, fn() -> Loop)> {
    let loops: [fn() -> Loop; 3] = [sum, bytes, hash];
    ["sum", "bytes", "hash"].into_iter().zip(loops)
}

fn sum() -> Loop {
    Loop::new(|a| {
        a.mov(edx, ecx)?;
        a.and(edx, 0xfff)?;
        a.add(rax, qword_ptr(rsi + rdx * 8))?;
        a.mov(qword_ptr(rdi), rax)
    })
}

fn bytes() -> Loop {
    Loop::new(|a| {
        let mut skip = a.create_label();
        a.movzx(eax, byte_ptr(rsi))?;
        a.inc(rsi)?;
        a.and(esi, 0x30_ffffu32 as i32)?;
        a.cmp(eax, 10)?;
        a.je(skip)?;
        a.add(r8d, eax)?;
        a.set_label(&mut skip)?;
        a.mov(byte_ptr(rdi), al)
    })
}

fn hash() -> Loop {
    Loop::new(|a| {
        a.mov(edx, dword_ptr(rbx))?;
        a.imul_3(edx, edx, 0x0101_0193)?;
        a.xor(edx, ecx)?;
        a.mov(eax, edx)?;
        a.shr(eax, 16)?;
        a.xor(edx, eax)?;
        a.mov(dword_ptr(rbx), edx)
    })
}

/// A loop around [`typical`] code.
pub fn straight(n: usize) -> Loop {
    Loop::new(|a| typical(a, n))
}

/// So many instructions in a mix as compilers make it.
pub fn typical(a: &mut CodeAssembler, n: usize) -> Result<(), IcedError> {
    let registers = [rax, rdx, rbp, r8, r9, r10, r11, r12, r13, r14, r15];
    let registers32 = [eax, edx, ebp, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];
    let mut random = Random::new(7);
    let mut left = n;
    while left > 0 {
        let (x, y) = (random.pick(&registers), random.pick(&registers));
        let (x32, y32) = (random.pick(&registers32), random.pick(&registers32));
        let displacement = 8 * random.below(256) as i32;
        left -= 1;
        match random.below(16) {
            0..3 => a.mov(x, qword_ptr(rbx + displacement))?,
            3..5 => a.mov(qword_ptr(rdi + displacement), x)?,
            5 => a.mov(x32, dword_ptr(rbx + displacement))?,
            6 => a.add(x, y)?,
            7 => a.add(x32, displacement)?,
            8 => a.lea(x, ptr(y + 16))?,
            9 => a.mov(x, y)?,
            10 => a.xor(x32, y32)?,
            11 => a.shl(x32, 3)?,
            12 => a.movzx(x32, byte_ptr(rsi + displacement))?,
            13 => a.sub(x, qword_ptr(rbx + displacement))?,
            14 => a.and(x32, 0xffff)?,
            _ => {
                let mut skip = a.create_label();
                a.test(x32, y32)?;
                a.je(skip)?;
                a.set_label(&mut skip)?;
                a.nop()?;
                left = left.saturating_sub(2);
            }
        }
    }
    Ok(())
}
