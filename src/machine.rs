//! The PC put together, and run.

use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use softmetal_cpu::{Cpu, Options, Ram};
use softmetal_devices::bus::AddressSpace;
use softmetal_devices::char::Discard;
use softmetal_devices::chipset::acpi_pm::{
    AcpiPm, PM_BASE, PM_PORTS, PmTimerWidth, SCI_IRQ, SMI_COMMAND_PORT, SMI_PORTS, SmiCommand,
};
use softmetal_devices::chipset::debug_console::{DEBUG_CONSOLE_PORT, DebugConsole};
use softmetal_devices::chipset::debug_exit::{DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit};
use softmetal_devices::chipset::pic::PicBlock;
use softmetal_devices::chipset::pit::Pit;
use softmetal_devices::chipset::reset::{ResetControl, SYSTEM_CONTROL_A_PORT, SystemControlA};
use softmetal_devices::chipset::uart::{COM1, COM1_IRQ, COM2, COM2_IRQ, UART_PORTS, Uart};
use softmetal_devices::clock::Clock;
use softmetal_devices::interrupts::Interrupts;
use softmetal_devices::irq::{IrqLine, IrqSink};
use softmetal_devices::pci::access::{CONFIG_PORT, CONFIG_PORTS, ConfigPorts, ECAM_SIZE, Ecam};
use softmetal_devices::pci::host_bridge::{HOST_BRIDGE_SLOT, HostBridge};
use softmetal_devices::pci::isa_bridge::{FIRMWARE_ROUTES, ISA_BRIDGE_SLOT, IsaBridge};
use softmetal_devices::pci::{IntxRouter, PciBus};
use softmetal_devices::power::PowerSink;

use crate::board::{Board, CpuSockets, LocalTimers};
use crate::config::{Config, DebugFlags};
use crate::console::{Console, Output};
use crate::debug_log::DebugLog;
use crate::memory_map::{ECAM, IOAPIC, PCI32};
use crate::outcome::{Outcome, Run};
use crate::timers::{Timers, Waker};
use crate::{boot, guest_ram, vcpu};

/// A machine that is built and not yet running.
pub struct Machine {
    config: Config,
    serial: SerialEnd,
    pc: Pc,
    handle: Handle,
}

impl Machine {
    /// Builds the machine that `config` describes, its first serial port connected to `console`.
    pub fn build(config: &Config, console: &Console) -> Result<Self> {
        let serial = SerialEnd::new(console);
        let pc = Pc::build(config, &serial)?;
        let handle = Handle(Arc::new(Mutex::new(Wires { ended: false, pc: pc.front_panel() })));
        Ok(Self { config: config.clone(), serial, pc, handle })
    }

    /// What works on the machine from outside while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs the machine to its end. A guest that resets it finds it as after power-on, unless `no_reboot` is set.
    pub fn run(self) -> Result<Outcome> {
        let Self { config, serial, mut pc, handle } = self;
        loop {
            let outcome = pc.run()?;
            if outcome != Outcome::Reset || config.no_reboot {
                return Ok(outcome);
            }
            log::info!("the guest resets the machine");
            pc = Pc::build(&config, &serial).context("the machine cannot start again")?;
            if !handle.connect(pc.front_panel()) {
                return Ok(Outcome::Terminated);
            }
        }
    }
}

/// Works on a running machine from other threads; it stays right when the guest resets the machine.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Wires>>);

struct Wires {
    ended: bool,
    pc: FrontPanel,
}

/// What of a PC is reached from outside.
#[derive(Clone)]
struct FrontPanel {
    run: Arc<Run>,
    clock: Arc<Clock>,
    timers: Waker,
    com1: Arc<Mutex<Uart>>,
    pm: Arc<Mutex<AcpiPm>>,
}

impl Handle {
    /// Presses the power button. False when the guest does not listen to it.
    pub fn press_power_button(&self) -> bool {
        let pm = Arc::clone(&self.0.lock().pc.pm);
        pm.lock().press_power_button()
    }

    /// Offers input to the first serial port, which takes as much as it has room for: so many bytes.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        let com1 = Arc::clone(&self.0.lock().pc.com1);
        com1.lock().receive(bytes)
    }

    /// Stops the guest between two instructions, and its clock with it. Returns when it stands.
    pub fn pause(&self) {
        let pc = self.0.lock().pc.clone();
        pc.run.pause();
        pc.clock.pause();
    }

    /// Lets the guest go on after [`Handle::pause`]; it does not notice that time has passed.
    pub fn resume(&self) {
        let pc = self.0.lock().pc.clone();
        pc.clock.resume();
        pc.timers.resumed();
        pc.run.resume();
    }

    /// Ends the machine at once.
    pub fn terminate(&self) {
        let mut wires = self.0.lock();
        wires.ended = true;
        wires.pc.run.end(Outcome::Terminated);
    }

    /// Turns to the PC that has taken the place of the last one. False when the machine was ended meanwhile.
    fn connect(&self, pc: FrontPanel) -> bool {
        let mut wires = self.0.lock();
        wires.pc = pc;
        !wires.ended
    }
}

/// The console's side of the first serial port, for one PC after the other.
struct SerialEnd {
    output: Output,
    input_wanted: Arc<Mutex<Box<dyn Fn() + Send>>>,
}

impl SerialEnd {
    fn new(console: &Console) -> Self {
        Self { output: console.output(), input_wanted: Arc::new(Mutex::new(console.input_wanted())) }
    }
}

/// The PC, from power-on to its end.
struct Pc {
    run: Arc<Run>,
    board: Arc<Board>,
    timers: Timers,
    cpus: Vec<Cpu>,
    com1: Arc<Mutex<Uart>>,
    pm: Arc<Mutex<AcpiPm>>,
}

impl Pc {
    /// The story: RAM, interrupt chips, devices, board, CPUs, and what firmware leaves behind.
    fn build(config: &Config, serial: &SerialEnd) -> Result<Self> {
        let ram = Arc::new(Ram::new(guest_ram::allocate(config.memory)?));
        let clock = Clock::host();
        let run = Arc::new(Run::default());
        let power: Arc<dyn PowerSink> = run.clone();
        let (ports, memory) = (Arc::new(AddressSpace::new("ports")), Arc::new(AddressSpace::new("memory")));
        let mut timers = Timers::new(Arc::clone(&clock));

        let sockets = Arc::new(CpuSockets::default());
        let interrupts = Interrupts::new(config.cpus as usize, Arc::clone(&clock), sockets.clone());
        let irq = |number| IrqLine::new(interrupts.clone(), number);
        interrupts.set_alarm(timers.alarm());
        timers.add(shared(LocalTimers(Arc::clone(&interrupts))));
        ports.insert(0x20, 2, "PIC master", shared(interrupts.pic_ports(PicBlock::Master)))?;
        ports.insert(0xa0, 2, "PIC slave", shared(interrupts.pic_ports(PicBlock::Slave)))?;
        ports.insert(0x4d0, 2, "PIC edge/level control", shared(interrupts.pic_ports(PicBlock::Elcr)))?;
        memory.insert(IOAPIC, 0x1000, "I/O APIC", shared(interrupts.ioapic_window()))?;

        let pit = shared(Pit::new(Arc::clone(&clock), irq(0), timers.alarm()));
        ports.insert(0x40, 4, "PIT", pit.clone())?;
        ports.insert(0x61, 1, "system control port B", shared(Pit::port61(&pit)))?;
        timers.add(pit);

        let uart = |irq_number, output| {
            shared(Uart::new(irq(irq_number), Arc::clone(&clock), timers.alarm(), output))
        };
        let com1 = uart(COM1_IRQ, Box::new(serial.output.clone()));
        let com2 = uart(COM2_IRQ, Box::new(Discard));
        let wanted = Arc::clone(&serial.input_wanted);
        com1.lock().on_input_wanted(Box::new(move || (*wanted.lock())()));
        ports.insert(COM1, UART_PORTS, "COM1", com1.clone())?;
        ports.insert(COM2, UART_PORTS, "COM2", com2.clone())?;
        timers.add(com1.clone());
        timers.add(com2);

        let pm = AcpiPm::new(
            irq(SCI_IRQ),
            Arc::clone(&clock),
            timers.alarm(),
            Arc::clone(&power),
            PmTimerWidth::Bits32,
        );
        let pm = shared(pm);
        ports.insert(PM_BASE, PM_PORTS, "ACPI power management", pm.clone())?;
        ports.insert(SMI_COMMAND_PORT, SMI_PORTS, "SMI command", shared(SmiCommand::new(pm.clone())))?;
        timers.add(pm.clone());

        let reset = shared(ResetControl::new(Arc::clone(&power)));
        ports.insert(SYSTEM_CONTROL_A_PORT, 1, "port 92", shared(SystemControlA::new(Arc::clone(&power))))?;
        ports.insert(
            DEBUG_CONSOLE_PORT,
            1,
            "debug console",
            shared(DebugConsole::new(Box::<DebugLog>::default())),
        )?;
        if config.debug_exit {
            let debug_exit = shared(DebugExit::new(Arc::clone(&power)));
            ports.insert(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, "debug exit", debug_exit)?;
        }

        let pins = IntxRouter::new(interrupts.clone() as Arc<dyn IrqSink>);
        let mut pci = PciBus::new(Arc::clone(&ports), Arc::clone(&memory));
        pci.plug(HOST_BRIDGE_SLOT, shared(HostBridge::new(ECAM.start)))?;
        pci.plug(ISA_BRIDGE_SLOT, shared(IsaBridge::new(pins)))?;
        const FIRST_PCI_PORT: u64 = 0xc000;
        let homeless = pci.assign_ranges((FIRST_PCI_PORT, 0xffff), (PCI32.start, PCI32.end - 1));
        log::debug!("PCI address ranges that found no place: {homeless:?}");
        pci.note_interrupt_lines(FIRMWARE_ROUTES);
        let pci = shared(pci);
        ports.insert(
            CONFIG_PORT,
            CONFIG_PORTS,
            "PCI configuration",
            shared(ConfigPorts::new(pci.clone(), reset)),
        )?;
        memory.insert(ECAM.start, ECAM_SIZE, "PCI configuration", shared(Ecam::new(pci)))?;

        let board = Arc::new(Board { clock, interrupts, ports, memory });
        let options = Options {
            no_chain: config.debug.contains(DebugFlags::NO_CHAIN),
            no_specialise: config.debug.contains(DebugFlags::NO_SPECIALISE),
            no_tlb: config.debug.contains(DebugFlags::NO_TLB),
            cpus: config.cpus as usize,
        };
        let mut cpus: Vec<Cpu> = (0..config.cpus as usize)
            .map(|index| Cpu::new(index, Arc::clone(&ram), board.clone(), options))
            .collect();
        sockets.plug(cpus.iter().map(Cpu::attention).collect());

        let entry = boot::load(config, ram.memory())?;
        boot::set_up_chips(&board);
        boot::set_up_processors(&mut cpus, &entry);
        Ok(Self { run, board, timers, cpus, com1, pm })
    }

    fn front_panel(&self) -> FrontPanel {
        FrontPanel {
            run: Arc::clone(&self.run),
            clock: Arc::clone(&self.board.clock),
            timers: self.timers.waker(),
            com1: Arc::clone(&self.com1),
            pm: Arc::clone(&self.pm),
        }
    }

    /// Runs the CPUs until the guest or the user ends it.
    fn run(self) -> Result<Outcome> {
        let Self { run, board, timers, cpus, .. } = self;
        let timers = timers.start().context("cannot start the timer thread")?;
        let mut threads = Vec::new();
        let started = cpus.into_iter().enumerate().try_for_each(|(index, cpu)| {
            threads.push(vcpu::start(index, cpu, &run)?);
            Ok::<_, std::io::Error>(())
        });
        if started.is_err() {
            run.end(Outcome::Terminated);
        }
        let outcome = run.wait();
        for (index, thread) in threads.into_iter().enumerate() {
            match thread.join() {
                Ok(cpu) => log::info!("CPU {index}: {:?}", cpu.statistics()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        drop(timers);
        board.take_apart();
        started.context("cannot start a thread for each vCPU")?;
        Ok(outcome)
    }
}

/// A device as its address range, the timers and its wires share it.
fn shared<T>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}
