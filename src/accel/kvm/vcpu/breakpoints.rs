//! A debugger's breakpoints in KVM: its documentation's "KVM_SET_GUEST_DEBUG".

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    kvm_guest_debug, kvm_guest_debug_arch,
};
use softmetal_cpu::{Cpu, CpuState, Exit, Fault};

use super::super::{Error, tsc};
use super::{Left, Vcpu};
use crate::accel::Trouble;

/// DR6: a debug register was touched, a single step, a task switch.
const DR6_OTHERS: u64 = 7 << 13;

impl Vcpu {
    /// Brings the breakpoints of `cpu` into KVM's registers, where the guest's own do nothing meanwhile.
    pub(super) fn arm(&mut self, cpu: &Cpu) -> Result<(), Trouble> {
        const MOST: usize = 4;
        let wanted = cpu.stops();
        if self.armed == wanted {
            return Ok(());
        }
        if wanted.len() > MOST {
            return Err(Trouble::Stuck(format!("KVM has {MOST} breakpoints, not {}", wanted.len())));
        }
        self.set_breakpoints(wanted)?;
        self.armed = wanted.to_vec();
        Ok(())
    }

    /// Four at most.
    fn set_breakpoints(&self, places: &[u64]) -> Result<(), Error> {
        /// DR7: its bit that is always set, and the first breakpoint at each processor's instructions.
        const DR7: u64 = 1 << 10;
        const ON: u64 = 1 << 1;
        let mut registers = [0; 8];
        for (number, &place) in places.iter().enumerate() {
            registers[number] = place;
            registers[7] |= DR7 | ON << (2 * number);
        }
        let breakpoints = if places.is_empty() { 0 } else { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP };
        let single = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        if !self.single {
            return self.guest_debug(breakpoints, registers);
        }
        // Since Linux 5.15. Without it an interrupt that comes in between pushes RFLAGS with the step's TF.
        let blocks = KVM_GUESTDBG_BLOCKIRQ;
        let set = self.guest_debug(breakpoints | single | blocks, registers);
        set.or_else(|_| self.guest_debug(breakpoints | single, registers))
    }

    /// KVM_RUN comes back behind each instruction of system code, and takes no interrupt, or no more. Meanwhile KVM does not tell RFLAGS.TF.
    pub(super) fn set_single(&mut self, single: bool) -> Result<(), Error> {
        if self.single == single {
            return Ok(());
        }
        self.single = single;
        let armed = self.armed.clone();
        self.set_breakpoints(&armed)
    }

    fn guest_debug(&self, control: u32, debugreg: [u64; 8]) -> Result<(), Error> {
        let debug = kvm_guest_debug { control, pad: 0, arch: kvm_guest_debug_arch { debugreg } };
        self.fd.set_guest_debug(&debug).map_err(|error| Error::refused("breakpoints", error))
    }

    /// Gives the guest the #DB that is its own, of a single step maybe, and not ours.
    pub(super) fn debug_exception(&mut self, state: &CpuState, dr6: u64) -> Result<(), Error> {
        let mut state = state.clone();
        state.dr[6] |= dr6 & DR6_OTHERS;
        state.injected.get_or_insert(Fault::new(1));
        self.set_debug(&state)?;
        self.set_events(&state)
    }

    /// Runs the instruction at which it has stopped: the interpreter does, or where that may not, KVM by a single step. False where
    /// it has not run because somebody asked for something.
    pub(super) fn go_past(&mut self, cpu: &mut Cpu) -> Result<bool, Trouble> {
        let before = self.read_state(cpu, tsc::tsc_base(&self.board.clock), false)?;
        cpu.set_state(&before);
        let exit = cpu.run_confined(1);
        let after = cpu.state();
        if exit != Exit::Outside || after != before {
            self.write_changes(&before, &after)?;
            return Ok(exit != Exit::Requested);
        }
        let step = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        // The latter since Linux 5.15.
        self.guest_debug(step | KVM_GUESTDBG_BLOCKIRQ, [0; 8]).or_else(|_| self.guest_debug(step, [0; 8]))?;
        let stepped = self.step_in_kvm();
        let armed = self.armed.clone();
        self.set_breakpoints(&armed)?;
        if stepped? {
            cpu.stop_passed();
            return Ok(true);
        }
        Ok(false)
    }

    /// With single steps switched on; whether one was made.
    fn step_in_kvm(&mut self) -> Result<bool, Trouble> {
        self.fd.set_kvm_immediate_exit(0);
        loop {
            match self.step()? {
                Left::Served | Left::Window => {}
                Left::Ports => self.port_access(),
                Left::Debug(_) => return Ok(true),
                Left::Interrupted => return Ok(false),
                // It comes again, and is seen to where breakpoints are on.
                Left::Shutdown | Left::Unable(_) => return Ok(true),
            }
        }
    }
}
