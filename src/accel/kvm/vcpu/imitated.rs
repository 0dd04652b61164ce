//! Where KVM imitates virtualization in software, the processor itself runs 64-bit user code only: KVM gets that and nothing else.
//! The rest the interpreter runs, which is faster and knows more instructions, but for what is the local APIC's or a device's.

use std::mem;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_regs};
use softmetal_cpu::state::{Segment, Shadow, cr0, cr4, seg};
use softmetal_cpu::{Activity, Apart, Attention, Cpu, CpuState, Exit, Fault};
use softmetal_devices::interrupts::LapicPage;

use super::super::leaked::Thread;
use super::super::{Error, extended, kick, registers, tsc};
use super::{Left, Vcpu};
use crate::accel::Trouble;

/// How many instructions of system code the interpreter runs at a time: a millisecond or two, for which interrupts wait.
const SYSTEM_STRETCH: u64 = 1 << 17;

/// After this time KVM comes back from user code, which interrupts wait for,
const USER: Duration = Duration::from_micros(250);
/// from system code where it does not stop behind the first instruction by itself,
const SYSTEM: Duration = Duration::from_millis(1);
/// and so long a processor that waits sleeps before KVM is asked whether something wakes it.
const WAITING: Duration = Duration::from_micros(250);

/// RFLAGS.TF, IF and RF.
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const RF: u64 = 1 << 16;
/// Flags that user code has not in KVM as its system has set them: TF, IOPL, NT, AC.
const NOT_APART: u64 = TF | 3 << 12 | 1 << 14 | 1 << 18;
/// In the local APIC's base.
const APIC_PAGE: u64 = ((1 << 52) - 1) & !0xfff;
/// DR7: the breakpoints that are on.
const ARMED: u64 = 0xff;

const DB: u8 = 1;
const BP: u8 = 3;
const PF: u8 = 14;
/// Exceptions of what the processor computes, or reads and writes: divide error, floating-point errors, alignment check. Others may
/// be KVM's own answer to what it does not know.
const SURE: [u8; 4] = [0, 16, 17, 19];
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Code of one byte that traps.
const ICEBP: u8 = 0xf1;
const INT3: u8 = 0xcc;

/// What is next.
pub(super) enum Next {
    /// To look at what is asked for, and go on.
    Again,
    /// KVM runs the next instruction, or waits.
    Kvm,
    /// Somebody has asked to come back.
    Leave,
    Ended(Exit),
}

impl Vcpu {
    /// Runs what is not KVM's, and user code in KVM. An alarm brings this thread back from KVM, if that is next.
    pub(super) fn run_apart(&mut self, cpu: &mut Cpu, attention: &Attention) -> Result<Next, Trouble> {
        // What was served comes to its end, and an interrupt that waits is taken, which it is not in single steps. The interpreter
        // delivers it: KVM would go on behind the handler's end, too, in user code whose SYSCALL it gets wrong.
        self.set_single(false)?;
        self.pass()?;
        if self.waits {
            // It is awake now, if something wakes it, and takes that.
            self.pass()?;
        }
        // The signal of that. Who else has sent one has asked for something.
        self.fd.set_kvm_immediate_exit(0);
        self.offer_8259()?;
        if attention.is_requested() {
            return Ok(Next::Again);
        }
        let mut known = self.read_settled(cpu)?;
        cpu.set_state(&known);
        self.waits = known.activity != Activity::Active;
        if self.waits {
            kick::wait(WAITING);
            return Ok(Next::Again);
        }
        let calm = known.injected.is_none() && known.shadow == Shadow::None;
        let mut apart =
            Apart { system_only: false, interrupt: false, local_apic: self.apic.base & APIC_PAGE };
        // Where it could be taken, it was.
        if !calm || known.rflags & IF == 0 {
            apart.interrupt =
                self.vm.intr.load(SeqCst) && self.index == 0 || has_interrupt(&self.lapic_registers()?);
        }
        let is_apart = calm
            && is_user(&known)
            && known.rflags & NOT_APART == 0
            && known.cr0 & (cr0::TS | cr0::EM) == 0
            && known.dr[7] & ARMED == 0
            && cpu.stops().is_empty()
            && !cpu.is_passing();
        let mut exit = Exit::Outside;
        if is_apart {
            known = self.run_user_code(cpu, &known)?;
            if self.redo {
                let before = cpu.state();
                exit = self.run_stretch(cpu, |cpu| cpu.run_apart(1, apart));
                let after = cpu.state();
                if exit == Exit::Outside && after == before {
                    self.write_changes(&known, &after)?;
                    let place = format!("{:x}:{:x}", after.segments[seg::CS].selector, after.rip);
                    return Err(Trouble::Stuck(format!(
                        "KVM cannot run the instruction at {place}, and the interpreter may not run it in its place"
                    )));
                }
            }
        } else if is_at_user_code(&known) {
            exit = self.run_stretch(cpu, |cpu| cpu.run_apart(SYSTEM_STRETCH, apart));
        }
        if exit == Exit::Outside || exit == Exit::Counted && is_apart {
            exit = match is_at_user_code(&cpu.state()) {
                true => Exit::Counted,
                false => self.run_system_code(cpu, apart),
            };
        }
        if exit == Exit::TripleFault {
            return Ok(Next::Ended(exit));
        }
        let state = cpu.state();
        let is_kvms = exit == Exit::Outside && !is_at_user_code(&state);
        self.set_single(is_kvms && state.rflags & TF == 0)?;
        self.write_changes(&known, &state)?;
        self.waits = exit == Exit::Halted;
        Ok(match exit {
            Exit::Requested => Next::Leave,
            Exit::Breakpoint => Next::Ended(exit),
            _ if is_kvms => {
                kick::set_alarm(SYSTEM);
                Next::Kvm
            }
            _ => {
                self.settled = Some(state);
                Next::Again
            }
        })
    }

    /// The state. Where KVM has run nothing since it was set, only an event can be new, or all of it by INIT and start-up messages.
    fn read_settled(&mut self, cpu: &Cpu) -> Result<CpuState, Error> {
        if let Some(mut state) = self.settled.take() {
            let refused = |error| Error::refused("to tell what it has", error);
            // First: to answer it, KVM takes those messages.
            let runs = self.fd.get_mp_state().map_err(refused)?.mp_state == KVM_MP_STATE_RUNNABLE;
            let same = |regs: kvm_regs| kvm_regs { rflags: regs.rflags | RF, ..regs };
            let now = same(self.fd.get_regs().map_err(refused)?);
            if runs && now == same(registers::general(&state)) {
                state.activity = Activity::Active;
                registers::take_events(&mut state, &self.fd.get_vcpu_events().map_err(refused)?);
                return Ok(state);
            }
        }
        self.read_state(cpu, tsc::tsc_base(&self.board.clock), false)
    }

    fn run_system_code(&mut self, cpu: &mut Cpu, apart: Apart) -> Exit {
        let start = cpu.instructions();
        let apart = Apart { system_only: true, ..apart };
        let exit = self.run_stretch(cpu, |cpu| cpu.run_apart(SYSTEM_STRETCH, apart));
        self.counts.imitated += cpu.instructions() - start;
        exit
    }

    /// Runs 64-bit user code in KVM, from this state, until it does something that is its system's. `cpu` has the state then, and
    /// the answer is what KVM has.
    ///
    /// What KVM makes of that is not right: SYSCALL goes to the system without its privilege, INT n is undefined. So it gets an
    /// empty interrupt table: whatever is to be delivered shuts the processor down, which changes nothing. And interrupts are off:
    /// user code does not see that, and an interrupt is not taken that cannot be delivered.
    fn run_user_code(&mut self, cpu: &mut Cpu, state: &CpuState) -> Result<CpuState, Trouble> {
        self.bring_leaked(state)?;
        let mut shut = state.clone();
        shut.idtr.limit = 0;
        shut.rflags &= !IF;
        self.set_special(&shut)?;
        self.set_general(&shut)?;
        self.redo = false;
        self.counts.entries += 1;
        kick::set_alarm(USER);
        let mut left = self.step();
        kick::clear_alarm();
        loop {
            match left {
                Ok(Left::Ports) => self.port_access(),
                Ok(Left::Served | Left::Window) => {}
                _ => break,
            }
            // It finishes the instruction.
            self.fd.set_kvm_immediate_exit(1);
            left = self.step();
        }
        let mut known = state.clone();
        let events = self.read_for_user_code(&mut known)?;
        self.keep_leaked(state);
        let mut now = known.clone();
        now.idtr = state.idtr;
        let flags = |flags: u64| flags & !(IF | RF) | state.rflags & IF;
        now.rflags = flags(known.rflags);
        now.cr2 = state.cr2;
        now.injected = None;
        if known.nmi_blocked && !state.nmi_blocked {
            // One that another processor has sent, and that could not be delivered.
            (now.nmi_blocked, now.nmi_pending) = (false, true);
        }
        match left {
            Ok(_) if self.has_called(cpu, state, &known) => {
                // Once more: what SYSCALL changes of registers is as it will be then.
                now.rip = now.gpr[1].wrapping_sub(SYSCALL.len() as u64);
                now.rflags = flags(now.gpr[11]);
                self.redo = true;
            }
            // Delivered in vain, or about to be.
            Ok(left) if matches!(left, Left::Shutdown) || events.exception.injected != 0 => {
                let exception = events.exception;
                let code = (exception.has_error_code != 0).then_some(exception.error_code);
                match exception.nr {
                    PF => now.injected = Some(Fault { vector: PF, error_code: code, address: known.cr2 }),
                    vector if SURE.contains(&vector) => {
                        now.injected = Some(Fault { vector, error_code: code, address: 0 });
                    }
                    vector => {
                        let mut byte = [0];
                        let trap = match vector {
                            DB => Some(ICEBP),
                            BP => Some(INT3),
                            _ => None,
                        };
                        cpu.set_state(&now);
                        if let Some(trap) = trap
                            && cpu.examine(now.rip.wrapping_sub(1), &mut byte) == 1
                            && byte == [trap]
                        {
                            now.rip = now.rip.wrapping_sub(1);
                        }
                        self.redo = true;
                    }
                }
            }
            Ok(Left::Unable(_)) => {
                self.counts.rescues += 1;
                self.counts.rescued += 1;
                self.redo = true;
            }
            Err(trouble) => {
                self.write_changes(&known, &now)?;
                return Err(trouble);
            }
            Ok(_) => {}
        }
        cpu.set_state(&now);
        Ok(known)
    }

    /// Whether user code that began at `state` has ended in KVM with SYSCALL, which has gone where the system is entered, but not to its
    /// privilege.
    fn has_called(&self, cpu: &mut Cpu, state: &CpuState, now: &CpuState) -> bool {
        if now.rip != now.msrs.lstar || state.rip == now.rip {
            return false;
        }
        cpu.set_state(now);
        let mut code = [0; SYSCALL.len()];
        let read = cpu.examine(now.gpr[1].wrapping_sub(SYSCALL.len() as u64), &mut code);
        read == code.len() && code == SYSCALL
    }

    /// What user code at this state has of vector registers that its system does not know comes into KVM, and what it has of the
    /// others.
    fn bring_leaked(&mut self, state: &CpuState) -> Result<(), Error> {
        if !self.vm.host.xsave {
            return Ok(());
        }
        match self.vm.leaked.lock().get(thread(state)) {
            Some(area) => *self.spare = *area,
            None => self.spare.fill(0),
        }
        extended::write(state, &mut self.spare, self.vm.layout, known_components(state));
        if self.spare != self.area {
            mem::swap(&mut self.spare, &mut self.area);
            self.set_area()?;
        }
        Ok(())
    }

    /// User code that has begun at this state has left KVM.
    fn keep_leaked(&self, state: &CpuState) {
        let rest = extended::used(&self.area) & !known_components(state);
        let mut leaked = self.vm.leaked.lock();
        leaked.put(thread(state), (rest != 0).then_some(&*self.area));
    }

    /// KVM has shut the processor down in the one instruction that it was given: it does not know the mode. As it was before; the
    /// answer is what is wrong.
    pub(super) fn take_back(&mut self, cpu: &mut Cpu) -> Result<Trouble, Trouble> {
        let good = cpu.state();
        let broken = self.read_state(cpu, tsc::tsc_base(&self.board.clock), false)?;
        self.write_changes(&broken, &good)?;
        let place = format!("{:x}:{:x}", good.segments[seg::CS].selector, good.rip);
        Ok(Trouble::Stuck(format!(
            "KVM cannot run the instruction at {place} in the mode that the guest is in"
        )))
    }
}

fn is_64(state: &CpuState) -> bool {
    state.segments[seg::CS].attributes & Segment::LONG != 0
}

/// Whether it is at 64-bit user code.
fn is_user(state: &CpuState) -> bool {
    is_64(state) && state.segments[seg::SS].dpl() == 3
}

/// Whether that runs next, and no event is delivered first.
fn is_at_user_code(state: &CpuState) -> bool {
    is_user(state) && state.injected.is_none()
}

/// The state components that the guest's system saves and restores, as XCR0 counts them.
fn known_components(state: &CpuState) -> u64 {
    const LEGACY: u64 = 0b11;
    // PKRU is not in the system's hands alone.
    const PKRU: u64 = 1 << 9;
    PKRU | if state.cr4 & cr4::OSXSAVE != 0 { state.xcr0 | LEGACY } else { LEGACY }
}

/// The process-context identifier in CR3 is no part of it: the system may give a program another.
fn thread(state: &CpuState) -> Thread {
    const PCID: u64 = 0xfff;
    (state.cr3 & !PCID, state.segments[seg::FS].base)
}

/// Whether a local APIC with these registers has an interrupt for its processor: SDM 3A "Task and Processor Priorities".
fn has_interrupt(registers: &[u32; LapicPage::COUNT]) -> bool {
    const TPR: usize = 0x08;
    const SVR: usize = 0x0f;
    const ISR: usize = 0x10;
    const IRR: usize = 0x20;
    const ENABLED: u32 = 1 << 8;
    let class = |first: usize| {
        let words = &registers[first..first + 8];
        let highest = (0..8).rev().find(|&word| words[word] != 0);
        highest.map_or(0, |word| (32 * word as u32 + words[word].ilog2()) >> 4)
    };
    registers[SVR] & ENABLED != 0 && class(IRR) > class(ISR).max(registers[TPR] >> 4 & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_comes_before_its_class_is_masked_or_served() {
        let page = |entries: &[(usize, u32)]| {
            let mut page = [0; LapicPage::COUNT];
            page[0x0f] = 0x1ff;
            entries.iter().for_each(|&(number, value)| page[number] = value);
            page
        };
        let requested = (0x23, 1 << 0x11); // vector 71h
        for (entries, expected) in [
            (vec![], false),
            (vec![requested], true),
            (vec![requested, (0x08, 0x6f)], true),
            (vec![requested, (0x08, 0x70)], false),
            (vec![requested, (0x13, 1)], true),          // 60h is in service
            (vec![requested, (0x13, 1 << 0x10)], false), // 70h is
            (vec![requested, (0x0f, 0xff)], false),
        ] {
            assert_eq!(has_interrupt(&page(&entries)), expected, "{entries:x?}");
        }
    }
}
