//! The PC: what is on the board and where.

use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use softmetal_cpu::{Bus, Cpu, Options, Placements, Ram, Rights, Translate};
use softmetal_devices::bus::AddressSpace;
use softmetal_devices::char::{CharBackend, Discard};
use softmetal_devices::chipset::acpi_pm::{
    AcpiPm, PM_BASE, PM_PORTS, PmTimerWidth, SCI_IRQ, SMI_COMMAND_PORT, SMI_PORTS, SmiCommand,
};
use softmetal_devices::chipset::debug_console::{DEBUG_CONSOLE_PORT, DebugConsole};
use softmetal_devices::chipset::debug_exit::{DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit};
use softmetal_devices::chipset::hpet::{Hpet, LegacyRouting};
use softmetal_devices::chipset::i8042::{self, CommandPort, DataPort, I8042};
use softmetal_devices::chipset::pic::PicBlock;
use softmetal_devices::chipset::pit::Pit;
use softmetal_devices::chipset::reset::{ResetControl, SYSTEM_CONTROL_A_PORT, SystemControlA};
use softmetal_devices::chipset::rtc::Rtc;
use softmetal_devices::chipset::uart::{COM1, COM1_IRQ, COM2, COM2_IRQ, UART_PORTS, Uart};
use softmetal_devices::clock::{Alarm, Clock};
use softmetal_devices::dma::Dma;
use softmetal_devices::interrupts::Interrupts;
use softmetal_devices::irq::IrqLine;
use softmetal_devices::pci::access::{CONFIG_PORT, CONFIG_PORTS, ConfigPorts, ECAM_SIZE, Ecam};
use softmetal_devices::pci::host_bridge::{HOST_BRIDGE_SLOT, HostBridge, Shadow};
use softmetal_devices::pci::isa_bridge::{FIRMWARE_ROUTES, ISA_BRIDGE_SLOT, IsaBridge};
use softmetal_devices::pci::{IntxRouter, PciBus, Pin, Slot};
use softmetal_devices::power::PowerSink;
use softmetal_devices::testdev::pc as pc_testdev;
use softmetal_devices::testdev::pci::PciTest;
use softmetal_devices::virtio::balloon::Balloon;
use softmetal_devices::virtio::blk::Blk;
use softmetal_devices::virtio::console::{Console as VirtioConsole, PortEnd};
use softmetal_devices::virtio::gathering::{Gathering, GatheringTimer};
use softmetal_devices::virtio::rng::Rng;
use softmetal_devices::virtio::{VirtioDevice, VirtioPci};
use softmetal_storage::Workers;

use crate::accel::{self, Processor, Switchboard};
use crate::board::{Board, CpuSockets, LocalTimers};
use crate::config::{Accel, Config, DebugFlags, UseError};
use crate::debug_log::DebugLog;
use crate::debugger::Debugger;
use crate::disks::{Attached, Halt, OpenDisk};
use crate::journal::entry::Entry;
use crate::journal::{Answers, Journal, Playback, Recorder, Replayer, Tape, digest_memory};
use crate::lockstep::{self, Lockstep};
use crate::machine::Ends;
use crate::memory_map::{self, ECAM, HPET, IOAPIC, PCI32};
use crate::origin::{Origin, Random};
use crate::outcome::{Outcome, Run};
use crate::profile::PerfMap;
use crate::ram_port::RamPort;
use crate::statistics::{Report, Sampler, Sampling};
use crate::timers::{Ticker, Timers, Waker};
use crate::vcpu::{self, AtStops, Course, Engine};
use crate::{boot, guest_ram, watch};

/// Where the functions sit that are no chips of the board's.
const RNG_SLOT: Slot = Slot::new(1, 0);
const TESTDEV_SLOT: Slot = Slot::new(2, 0);
/// The first disk's; the others follow.
const FIRST_DISK: u8 = 8;
const TERMINAL_SLOT: Slot = Slot::new(3, 0);
const CHANNELS_SLOT: Slot = Slot::new(5, 0);
const BALLOON_SLOT: Slot = Slot::new(4, 0);

/// How often a guest is asked about its memory, in nanoseconds of its time.
const STATISTICS_PERIOD: u64 = 2_000_000_000;

/// The PC, from power-on to its end.
pub(crate) struct Pc {
    board: Arc<Board>,
    timers: Timers,
    engines: Vec<Arc<Mutex<Engine>>>,
    memory: RamPort,
    how: How,
    workers: Vec<Arc<Workers>>,
    front_panel: FrontPanel,
}

/// How a PC runs.
enum How {
    /// By itself; its log, if there is one.
    Live { counted: bool, tape: Option<Arc<Tape>> },
    /// As a log says.
    Replay(Arc<Replayer>),
}

/// What of a PC is reached from outside.
#[derive(Clone)]
pub(crate) struct FrontPanel {
    pub(crate) run: Arc<Run>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) timers: Waker,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) debugger: Arc<Debugger>,
    pub(crate) com1: Arc<Mutex<Uart>>,
    pub(crate) virtio: Virtio,
    /// Told when a processor has nothing to do.
    pub(crate) gathering: Option<Arc<Gathering>>,
    pub(crate) pm: Arc<Mutex<AcpiPm>>,
}

/// A virtio function, shared with what works for it outside.
type Shared<D> = Arc<Mutex<VirtioPci<D>>>;

/// The virtio devices that are reached from outside.
#[derive(Clone)]
pub(crate) struct Virtio {
    pub(crate) terminal: Option<Shared<VirtioConsole>>,
    pub(crate) channels: Option<Shared<VirtioConsole>>,
    pub(crate) balloon: Option<Shared<Balloon>>,
    pub(crate) disks: Vec<Shared<Blk>>,
}

impl Pc {
    /// The story: RAM, interrupt chips, devices, CPUs, and what firmware leaves behind.
    pub(crate) fn build(config: &Config, ends: &Ends, journal: &Journal, disks: &[OpenDisk]) -> Result<Self> {
        let Origin { clock, unix_seconds, uuid, rng_seed, random, processor_random, counter, start } =
            Origin::new(config, journal)?;
        let ram = Arc::new(Ram::new(guest_ram::allocate(config.memory)?));
        let run = Arc::new(Run::default());
        let mut bench = Bench::new(config.cpus as usize, clock, processor_random, run.clone());

        bench.interrupt_controllers()?;
        bench.timer_chips(config.memory, unix_seconds)?;
        let com1 = bench.serial_ports(ends)?;
        let pm = bench.power_management()?;
        bench.keyboard_controller()?;
        let tape = match journal {
            Journal::Record(tape) => Some(Arc::clone(tape)),
            _ => None,
        };
        let follows = config.lockstep.map(|stretch| (stretch, Tape::in_memory()));
        let tapes = tape.iter().chain(follows.iter().map(|(_, tape)| tape)).cloned().collect();
        let memory = RamPort::new(Arc::clone(&ram), tapes);
        // Where instructions are counted, all that happens has its place among them.
        let at_once = config.counts_instructions();
        let clock = Arc::clone(&bench.board.clock);
        let halt = Halt { run: run.clone(), clock };
        let attached =
            disks.iter().enumerate().map(|(number, disk)| disk.attach(number, at_once, halt.clone()));
        let disks = attached.collect::<Result<Vec<_>>>()?;
        // A clock of instructions knows no time that passes while nothing is to do.
        let gathering = (!at_once).then(|| bench.gathering());
        let (virtio, workers) = bench.pci(&memory, random, ends, disks, gathering.as_ref(), config)?;
        bench.debug_ports(config.debug_exit)?;
        if config.testdev {
            bench.test_ports()?;
        }

        let Bench { board, timers, sockets, .. } = bench;
        let board = Arc::new(board);
        let mut bus: Arc<dyn Bus> = match journal {
            Journal::None => board.clone(),
            Journal::Record(tape) => Arc::new(Recorder::new(board.clone(), Arc::clone(tape))),
            Journal::Replay(log) => {
                let log = Playback::new(Arc::clone(&board), Arc::clone(log), memory.clone());
                Arc::new(Answers::new(Arc::clone(&board), Arc::new(log)))
            }
        };
        let options = cpu_options(config)?;
        let follows = follows.map(|(stretch, tape)| (lockstep::Plan::new(options, stretch), tape));
        if let Some((_, tape)) = &follows {
            bus = Arc::new(Recorder::new(bus, Arc::clone(tape)));
        }
        let options = follows.as_ref().map_or(options, |(plan, _)| plan.first);
        let mut cpus: Vec<Box<Cpu>> = (0..config.cpus as usize)
            .map(|index| Cpu::new(index, options, Arc::clone(&ram), Arc::clone(&bus)))
            .collect();
        sockets.plug(cpus.iter().map(|cpu| cpu.attention()).collect());

        if let (Some(counter), Some(cpu)) = (&counter, cpus.first()) {
            // Time begins.
            let _ = counter.set(cpu.attention());
        }

        let entry = boot::load(config, ram.memory(), &boot::Identity { uuid, rng_seed })?;
        boot::set_up_chips(&board);
        // Where KVM shows guests the host's TSC, the machine has that from the beginning.
        let tsc = accel::choice::tsc(config).filter(|tsc| tsc.fixed);
        let tsc_offset = tsc.map_or(0, |_| 0_u64.wrapping_sub(accel::kvm::tsc_base(&board.clock)));
        boot::set_up_processors(&mut cpus, &entry, tsc_offset);

        watch::start(&mut cpus, &config.watch);
        let debugger = Debugger::new(config)?;
        cpus.iter_mut().for_each(|cpu| debugger.arm(cpu));
        if let Some(cpu) = cpus.first() {
            let (memory, registers) = (|| digest_memory(ram.memory()), cpu.digest());
            if let Some(tape) = &tape {
                let (tsc_hz, memory) = (board.clock.tsc_hz(), memory());
                tape.note(Entry::Start { tsc_hz, uuid, rng_seed, memory, registers });
            }
            if start.is_some_and(|start| start.registers != registers || start.memory != memory()) {
                return Err(UseError::new(
                    "--replay: the machine does not begin as in the log; its files should be the same ones, and \
                     so should this program",
                )
                .into());
            }
        }

        let clock = Arc::clone(&board.clock);
        let switchboard = Arc::new(Switchboard {
            board: board.clone(),
            memory: memory.clone(),
            run: run.clone(),
            translate: translate(config),
            fixed: accel::choice::needs_own_engine(config),
            follows_log: config.replay.is_some(),
            only_kvm: config.host_cpu,
            automatic: config.automatic,
            may_enter_kvm: may_enter_kvm(config),
            state: Mutex::new(accel::State::of(config.accel)),
        });
        let waker = timers.waker();
        let front_panel =
            FrontPanel { run, clock, timers: waker, switchboard, debugger, com1, virtio, gathering, pm };
        let how = match journal {
            Journal::Replay(log) => How::Replay(Arc::clone(log)),
            _ => How::Live { counted: counter.is_some(), tape },
        };
        let engines: Vec<Engine> = match (follows, cpus.pop()) {
            (Some((plan, tape)), Some(cpu)) => {
                let both = Lockstep::new(plan, cpu, tape, &ram, &board, &front_panel.run, timers.waker())?;
                vec![Engine::Lockstep(Box::new(both))]
            }
            (_, last) => cpus.into_iter().chain(last).map(|cpu| Engine::One(Processor::new(cpu))).collect(),
        };
        let engines: Vec<_> = engines.into_iter().map(|engine| Arc::new(Mutex::new(engine))).collect();
        let switchboard = &front_panel.switchboard;
        switchboard.open(engines.clone());
        if config.accel == Accel::Kvm {
            switchboard.switch(Accel::Kvm).map_err(|why| UseError::new(format!("--accel kvm: {why}")))?;
        }
        Ok(Self { board, timers, engines, memory, how, workers, front_panel })
    }

    /// The board alone, without the CPUs.
    #[cfg(feature = "testing")]
    pub(crate) fn bench(self) -> crate::testing::Bench {
        let Self { board, timers, engines, memory, front_panel, .. } = self;
        front_panel.switchboard.close();
        let engines = engines.into_iter().filter_map(Arc::into_inner).map(Mutex::into_inner);
        let cpus: Vec<_> = engines.map(Engine::into_cpu).collect();
        let processor = cpus.first().map(|cpu| cpu.attention()).unwrap_or_default();
        crate::testing::Bench { board, timers: timers.follow(processor), cpus, ram: memory.ram, front_panel }
    }

    /// What is not the processor, and the state in which that begins.
    #[cfg(test)]
    pub(crate) fn parts(self) -> (Arc<Board>, Arc<Ram>, FrontPanel, Option<softmetal_cpu::CpuState>) {
        let Self { board, engines, memory, front_panel, .. } = self;
        (board, memory.ram, front_panel, engines.first().map(|engine| engine.lock().cpu().state()))
    }

    pub(crate) fn front_panel(&self) -> FrontPanel {
        self.front_panel.clone()
    }

    /// Tells of translated code, if anybody wants to know. Of two engines in lockstep, nobody does.
    pub(crate) fn tell_placements(&mut self, told: Option<&Arc<PerfMap>>) {
        let Some(told) = told else { return };
        for engine in &self.engines {
            if let Some(processor) = engine.lock().processor() {
                processor.cpu.tell_placements(Arc::clone(told) as Arc<dyn Placements>);
            }
        }
    }

    /// Runs the CPUs until the guest or the user ends it. What they have done is added to `report`; where their time goes,
    /// and in which code, as far as `sampling` says.
    pub(crate) fn run(self, sampling: Sampling, report: &mut Report) -> Result<Outcome> {
        let Self { board, timers, engines, memory, how, workers, front_panel } = self;
        let FrontPanel { run, switchboard, debugger, virtio, gathering, .. } = front_panel;
        let sampler = match sampling {
            Sampling::Nothing => None,
            sampling => {
                let places = engines.iter().map(|engine| engine.lock().cpu().whereabouts()).collect();
                let sampler = Sampler::start(places, sampling == Sampling::Code);
                Some(sampler.context("cannot start the thread that samples")?)
            }
        };
        let mut timers = Some(timers);
        let running = match how {
            How::Live { counted: false, .. } => timers.take().map(Timers::start).transpose(),
            _ => Ok(None),
        };
        let running = running.context("cannot start the timer thread")?;
        let mut threads = Vec::new();
        let started = engines.iter().enumerate().try_for_each(|(index, engine)| {
            let course = match &how {
                How::Live { tape, .. } => {
                    let timers = timers.take().map(|timers| timers.follow(engine.lock().cpu().attention()));
                    Course::Live { tape: tape.clone(), timers, gathering: gathering.clone() }
                }
                How::Replay(log) => Course::Replay(Arc::clone(log), memory.clone()),
            };
            let at_stops = AtStops { debugger: Arc::clone(&debugger), switchboard: Arc::clone(&switchboard) };
            threads.push(vcpu::start(index, Arc::clone(engine), &run, course, at_stops)?);
            Ok::<_, std::io::Error>(())
        });
        if started.is_err() {
            run.end(Outcome::Terminated);
        }
        let mut outcome = run.wait();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        // Nobody changes engines any more, and nobody holds on to them.
        switchboard.close();
        for engine in &engines {
            let mut engine = engine.lock();
            if let How::Live { tape: Some(tape), .. } = &how {
                tape.end(engine.cpu(), &outcome, digest_memory(memory.ram.memory()));
            }
            outcome = engine.finish(outcome);
        }
        let (duration, times) = sampler.map(Sampler::stop).unwrap_or_default();
        report.duration += duration;
        report.power_ons += 1;
        for (index, engine) in engines.iter().enumerate() {
            let engine = engine.lock();
            report.add_cpu(
                index,
                engine.cpu(),
                times.get(index).copied().unwrap_or_default(),
                engine.counts(),
            );
        }
        drop(running);
        workers.iter().for_each(|workers| workers.stop());
        report.add_traffic(board.traffic());
        report.add_dma(memory.count());
        report.balloon = virtio.balloon.map(|balloon| balloon.lock().device().report()).or(report.balloon);
        board.take_apart();
        started.context("cannot start a thread for each vCPU")?;
        Ok(match how {
            How::Live { tape: Some(tape), .. } => tape.failure().map_or(outcome, Outcome::Failed),
            _ => outcome,
        })
    }
}

/// Whether KVM can have the machine that has begun elsewhere. One that begins there was looked at before it was built.
fn may_enter_kvm(config: &Config) -> Box<dyn Fn() -> Result<(), String> + Send + Sync> {
    let config = config.clone();
    Box::new(move || match config.accel {
        Accel::Kvm => Ok(()),
        _ => accel::choice::may_enter_kvm(&config),
    })
}

/// How the translator works.
fn translate(config: &Config) -> Translate {
    let mut translate = match config.debug.contains(DebugFlags::JIT_AT_ONCE) {
        true => Translate { threshold: 0, at_once: true, one_pass: None, paths: None },
        false => Translate::default(),
    };
    if config.debug.contains(DebugFlags::NO_T1) {
        translate.one_pass = None;
        translate.threshold = translate.threshold.min(Translate::FROM_INTERPRETER);
    } else if config.debug.contains(DebugFlags::T1_AT_ONCE) {
        translate.one_pass = Some(0);
        translate.paths = Some(3);
    }
    if config.debug.contains(DebugFlags::NO_PATHS) {
        translate.paths = None;
    }
    translate
}

fn cpu_options(config: &Config) -> Result<Options> {
    Ok(Options {
        jit: (config.accel == Accel::Jit).then_some(translate(config)),
        no_chain: config.debug.contains(DebugFlags::NO_CHAIN),
        no_specialise: config.debug.contains(DebugFlags::NO_SPECIALISE),
        no_fuse: config.debug.contains(DebugFlags::NO_FUSE),
        no_tlb: config.debug.contains(DebugFlags::NO_TLB),
        model: config.cpu,
        lacking: accel::choice::lacking(config)?,
        cpus: config.cpus as usize,
        counting: config.counts_instructions(),
    })
}

/// The board while chips are put on it.
struct Bench {
    board: Board,
    timers: Timers,
    sockets: Arc<CpuSockets>,
    power: Arc<dyn PowerSink>,
}

impl Bench {
    /// A board with this clock and sockets for so many CPUs.
    fn new(cpus: usize, clock: Arc<Clock>, random: Random, power: Arc<dyn PowerSink>) -> Self {
        let sockets = Arc::new(CpuSockets::default());
        let interrupts = Interrupts::new(cpus, Arc::clone(&clock), sockets.clone());
        let timers = Timers::new(Arc::clone(&clock));
        let (ports, memory) = (AddressSpace::new("ports"), AddressSpace::new("memory"));
        let (ports, memory) = (Arc::new(ports), Arc::new(memory));
        let random = Mutex::new(random);
        let board = Board { clock, interrupts, ports, memory, random, local_apic: Default::default() };
        Self { board, timers, sockets, power }
    }

    fn interrupt_controllers(&mut self) -> Result<()> {
        let Board { interrupts, ports, memory, .. } = &self.board;
        ports.insert(0x20, 2, "PIC master", shared(interrupts.pic_ports(PicBlock::Master)))?;
        ports.insert(0xa0, 2, "PIC slave", shared(interrupts.pic_ports(PicBlock::Slave)))?;
        ports.insert(0x4d0, 2, "PIC edge/level control", shared(interrupts.pic_ports(PicBlock::Elcr)))?;
        memory.insert(IOAPIC, 0x1000, "I/O APIC", shared(interrupts.ioapic_window()))?;
        interrupts.set_alarm(self.timers.alarm());
        self.timers.add(shared(LocalTimers(Arc::clone(interrupts))));
        Ok(())
    }

    /// PIT, RTC and HPET, which takes over the others' interrupts when a guest asks it to.
    fn timer_chips(&mut self, memory: u64, unix_seconds: i64) -> Result<()> {
        let legacy = LegacyRouting::new(self.irq(0), self.irq(8));
        let pit = shared(Pit::new(self.clock(), legacy.pit_line(), self.alarm()));
        let owing = Arc::downgrade(&pit);
        self.board.interrupts.set_listener(move || {
            if let Some(pit) = owing.upgrade() {
                pit.lock().taken();
            }
        });
        let mut rtc = Rtc::new(self.clock(), unix_seconds, legacy.rtc_line(), self.alarm());
        let layout = memory_map::layout();
        let (low, high) = (layout.low_ram(memory), layout.high_ram(memory));
        rtc.describe_memory(low.end, high.end - high.start);
        let rtc = shared(rtc);
        let hpet = shared(Hpet::new(self.clock(), self.board.interrupts.clone(), legacy, self.alarm()));

        let Board { ports, memory, .. } = &self.board;
        ports.insert(0x40, 4, "PIT", pit.clone())?;
        ports.insert(0x61, 1, "system control port B", shared(Pit::port61(&pit)))?;
        ports.insert(0x70, 2, "RTC", rtc.clone())?;
        memory.insert(HPET, 0x400, "HPET", hpet.clone())?;
        self.timers.add(pit);
        self.timers.add(rtc);
        self.timers.add(hpet);
        Ok(())
    }

    /// COM1, which it returns, and COM2, which leads nowhere.
    fn serial_ports(&mut self, ends: &Ends) -> Result<Arc<Mutex<Uart>>> {
        let com1 = self.serial_port(COM1, COM1_IRQ, "COM1", ends.output())?;
        self.serial_port(COM2, COM2_IRQ, "COM2", Box::new(Discard))?;
        com1.lock().on_input_wanted(ends.input_wanted());
        Ok(com1)
    }

    fn serial_port(
        &mut self,
        port: u64,
        irq: u32,
        name: &str,
        output: Box<dyn CharBackend>,
    ) -> Result<Arc<Mutex<Uart>>> {
        let uart = shared(Uart::new(self.irq(irq), self.clock(), self.alarm(), output));
        self.board.ports.insert(port, UART_PORTS, name, uart.clone())?;
        self.timers.add(uart.clone());
        Ok(uart)
    }

    fn power_management(&mut self) -> Result<Arc<Mutex<AcpiPm>>> {
        let power = Arc::clone(&self.power);
        let pm = AcpiPm::new(
            self.irq(SCI_IRQ),
            self.clock(),
            self.alarm(),
            Arc::clone(&power),
            PmTimerWidth::Bits32,
        );
        let pm = shared(pm);
        let ports = &self.board.ports;
        ports.insert(PM_BASE, PM_PORTS, "ACPI power management", pm.clone())?;
        ports.insert(SMI_COMMAND_PORT, SMI_PORTS, "SMI command", shared(SmiCommand::new(pm.clone())))?;
        ports.insert(
            SYSTEM_CONTROL_A_PORT,
            1,
            "system control port A",
            shared(SystemControlA::new(power)),
        )?;
        self.timers.add(pm.clone());
        Ok(pm)
    }

    fn keyboard_controller(&mut self) -> Result<()> {
        let (keyboard, mouse) = (self.irq(i8042::KEYBOARD_IRQ), self.irq(i8042::MOUSE_IRQ));
        let controller = shared(I8042::new(keyboard, mouse, Arc::clone(&self.power)));
        let ports = &self.board.ports;
        ports.insert(i8042::DATA_PORT, 1, "keyboard data", shared(DataPort(controller.clone())))?;
        ports.insert(i8042::COMMAND_PORT, 1, "keyboard command", shared(CommandPort(controller)))?;
        Ok(())
    }

    /// The PCI bus and what is plugged in, and the threads that work on disks.
    fn pci(
        &mut self,
        memory: &RamPort,
        random: Random,
        ends: &Ends,
        disks: Vec<Attached>,
        gathering: Option<&Arc<Gathering>>,
        config: &Config,
    ) -> Result<(Virtio, Vec<Arc<Workers>>)> {
        let (chips, freed) = (memory.clone(), memory.clone());
        let dma = Dma::new(memory.ram.memory().clone(), Arc::new(memory.clone()));
        let Board { interrupts, ports, memory, .. } = &self.board;
        let pins = IntxRouter::new(interrupts.clone());
        let mut bus = PciBus::new(Arc::clone(ports), Arc::clone(memory));
        let shadow = move |Shadow { range, read, write }| chips.set_rights(range, Rights { read, write });
        bus.plug(HOST_BRIDGE_SLOT, shared(HostBridge::new(ECAM.start, Box::new(shadow))))?;
        bus.plug(ISA_BRIDGE_SLOT, shared(IsaBridge::new(Arc::clone(&pins))))?;
        let virtio = VirtioSlots {
            pins: Arc::clone(&pins),
            messages: interrupts.clone(),
            dma,
            transitional: config.transitional,
        };
        bus.plug(RNG_SLOT, virtio.function(RNG_SLOT, Rng::new(random)))?;
        let terminal = ends.terminal.clone();
        let terminal = terminal.map(|end| virtio.function(TERMINAL_SLOT, VirtioConsole::terminal(end)));
        if let Some(terminal) = &terminal {
            let (columns, rows) = ends.window.size();
            terminal.lock().resize(columns, rows);
            bus.plug(TERMINAL_SLOT, terminal.clone())?;
        }
        let channels =
            ends.channels.iter().map(|(name, end)| (name.clone(), Box::new(end.clone()) as Box<dyn PortEnd>));
        let channels: Vec<_> = channels.collect();
        let channels =
            (!channels.is_empty()).then(|| virtio.function(CHANNELS_SLOT, VirtioConsole::channels(channels)));
        if let Some(channels) = &channels {
            bus.plug(CHANNELS_SLOT, channels.clone())?;
        }
        let balloon = config.balloon.map(|rest| {
            let balloon = virtio.function(BALLOON_SLOT, Balloon::new(freed));
            balloon.lock().set_target(config.memory.saturating_sub(rest));
            let asked = Arc::downgrade(&balloon);
            self.timers.add(shared(Ticker::new(STATISTICS_PERIOD, move || {
                if let Some(balloon) = asked.upgrade() {
                    balloon.lock().ask_for_statistics();
                }
            })));
            balloon
        });
        if let Some(balloon) = &balloon {
            bus.plug(BALLOON_SLOT, balloon.clone())?;
        }
        let (mut functions, mut workers) = (Vec::new(), Vec::new());
        for (number, disk) in (FIRST_DISK..).zip(disks) {
            let slot = Slot::new(number, 0);
            workers.extend(disk.workers);
            let function = virtio.make(slot, disk.device).shared_with(gathering);
            bus.plug(slot, function.clone())?;
            functions.push(function);
        }
        if config.testdev {
            bus.plug(TESTDEV_SLOT, shared(PciTest::default()))?;
        }

        // As firmware leaves it: address ranges given out, interrupt lines written down.
        const PORTS: (u64, u64) = (0xc000, 0xffff);
        let homeless = bus.assign_ranges(PORTS, (PCI32.start, PCI32.end - 1));
        log::debug!("PCI address ranges that found no place: {homeless:?}");
        bus.note_interrupt_lines(FIRMWARE_ROUTES);

        let bus = shared(bus);
        let reset = shared(ResetControl::new(Arc::clone(&self.power)));
        let config_ports = shared(ConfigPorts::new(bus.clone(), reset));
        ports.insert(CONFIG_PORT, CONFIG_PORTS, "PCI configuration", config_ports)?;
        memory.insert(ECAM.start, ECAM_SIZE, "PCI configuration", shared(Ecam::new(bus)))?;
        Ok((Virtio { terminal, channels, balloon, disks: functions }, workers))
    }

    /// Whose interrupts wait for one another.
    fn gathering(&mut self) -> Arc<Gathering> {
        let gathering = Gathering::new(self.clock(), self.alarm());
        self.timers.add(shared(GatheringTimer(Arc::clone(&gathering))));
        gathering
    }

    fn debug_ports(&mut self, with_exit: bool) -> Result<()> {
        let ports = &self.board.ports;
        let console = shared(DebugConsole::new(Box::<DebugLog>::default()));
        ports.insert(DEBUG_CONSOLE_PORT, 1, "debug console", console)?;
        if with_exit {
            let exit = shared(DebugExit::new(Arc::clone(&self.power)));
            ports.insert(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, "debug exit", exit)?;
        }
        Ok(())
    }

    /// What test suites expect at fixed ports and addresses.
    fn test_ports(&mut self) -> Result<()> {
        let Board { interrupts, ports, memory, .. } = &self.board;
        let lines = (0..pc_testdev::IRQ_PORTS as u32).map(|gsi| IrqLine::new(interrupts.clone(), gsi));
        let lines = shared(pc_testdev::IrqPorts::new(lines.collect()));
        let echo = shared(pc_testdev::Echo::default());
        ports.insert(pc_testdev::ECHO_PORT, pc_testdev::ECHO_PORTS, "test echo", echo)?;
        let flush = shared(pc_testdev::Flush);
        ports.insert(pc_testdev::FLUSH_PORT, pc_testdev::FLUSH_PORTS, "test flush", flush)?;
        ports.insert(pc_testdev::IRQ_PORT, pc_testdev::IRQ_PORTS, "test interrupts", lines)?;
        let buffer = shared(pc_testdev::Buffer::default());
        memory.insert(pc_testdev::BUFFER_BASE, pc_testdev::BUFFER_SIZE, "test buffer", buffer)?;
        Ok(())
    }

    fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.board.clock)
    }

    fn alarm(&self) -> Alarm {
        self.timers.alarm()
    }

    fn irq(&self, number: u32) -> IrqLine {
        IrqLine::new(self.board.interrupts.clone(), number)
    }
}

/// What virtio functions are made with.
struct VirtioSlots {
    pins: Arc<IntxRouter>,
    messages: Arc<Interrupts>,
    dma: Dma,
    transitional: bool,
}

impl VirtioSlots {
    /// A device as the function in a slot.
    fn function<D: VirtioDevice + 'static>(&self, slot: Slot, device: D) -> Shared<D> {
        self.make(slot, device).shared()
    }

    fn make<D: VirtioDevice>(&self, slot: Slot, device: D) -> VirtioPci<D> {
        let (pin, messages, dma) = (self.pins.line(slot, Pin::A), self.messages.clone(), self.dma.clone());
        match self.transitional {
            true => VirtioPci::transitional(device, pin, messages, dma),
            false => VirtioPci::new(device, pin, messages, dma),
        }
    }
}

/// A device as its address range, the timers and its wires share it.
fn shared<T>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KernelSource;
    use crate::console::Console;
    use softmetal_cpu::Whereabouts;
    use softmetal_devices::chipset::acpi_pm::{PM1A_CONTROL_PORT, SLP_TYP_S5};
    use std::time::{Duration, Instant, SystemTime};

    struct Rig {
        run: Arc<Run>,
        board: Board,
        timers: Timers,
        com1: Arc<Mutex<Uart>>,
        ram: Arc<Ram>,
    }

    fn rig() -> Rig {
        let run = Arc::new(Run::default());
        let config = Config { balloon: Some(0), testdev: true, ..Config::new(KernelSource::BuiltIn(b"")) };
        let Origin { clock, unix_seconds, processor_random, .. } =
            Origin::new(&config, &Journal::None).unwrap();
        let mut bench = Bench::new(2, clock, processor_random, run.clone());
        let ends = Ends::new(&Console::new());
        bench.interrupt_controllers().unwrap();
        bench.timer_chips(512 << 20, unix_seconds).unwrap();
        let com1 = bench.serial_ports(&ends).unwrap();
        bench.power_management().unwrap();
        bench.keyboard_controller().unwrap();
        let ram = Arc::new(Ram::new(guest_ram::allocate(2 << 20).unwrap()));
        let memory = RamPort::new(Arc::clone(&ram), Vec::new());
        bench.pci(&memory, Box::new(|_| true), &ends, Vec::new(), None, &config).unwrap();
        bench.debug_ports(true).unwrap();
        bench.test_ports().unwrap();
        boot::set_up_chips(&bench.board);
        let Bench { board, timers, .. } = bench;
        Rig { run, board, timers, com1, ram }
    }

    impl Rig {
        fn out(&self, port: u16, data: &[u8]) {
            self.board.port_write(0, port, data);
        }

        fn byte(&self, port: u16) -> u8 {
            let mut data = [0];
            self.board.port_read(0, port, &mut data);
            data[0]
        }
    }

    #[test]
    fn the_bios_area_becomes_read_only_and_a_hole() {
        let rig = rig();
        let rights = |at| rig.ram.page(at).unwrap().rights;
        let pam = |data: &[u8]| {
            rig.out(0xcf8, &0x8000_0090_u32.to_le_bytes());
            rig.out(0xcfc, data);
        };
        assert_eq!([rights(0xf_0000), rights(0xc_4000)], [Rights::ALL; 2]);
        pam(&[0x10, 0x03]);
        assert_eq!(rights(0xf_f000), Rights { read: true, write: false });
        assert_eq!(rights(0xc_3000), Rights::ALL);
        assert_eq!(rights(0xc_4000), Rights { read: false, write: false });
        assert_eq!([rights(0xb_f000), rights(0x10_0000)], [Rights::ALL; 2]);
        pam(&[0x30, 0x33]);
        assert_eq!([rights(0xf_f000), rights(0xc_4000)], [Rights::ALL; 2]);
    }

    #[test]
    fn a_guest_ends_its_machine_in_each_way() {
        let s5 = (u16::from(SLP_TYP_S5) << 10 | 1 << 13).to_le_bytes();
        for (port, data, outcome) in [
            (PM1A_CONTROL_PORT as u16, &s5[..], Outcome::PoweredOff),
            (0xcf9, &[0x0e][..], Outcome::Reset),
            (0x92, &[0x03][..], Outcome::Reset),
            (0x64, &[0xfe][..], Outcome::Reset),
            (0xf4, &[0x2a][..], Outcome::DebugExit(0x2a)),
        ] {
            let rig = rig();
            rig.out(port, data);
            assert!(!rig.run.goes_on(&Whereabouts::default()), "port {port:#x}");
            assert_eq!(rig.run.wait(), outcome);
        }
    }

    #[test]
    fn the_timer_reaches_the_first_processor_through_the_pic_as_firmware_leaves_it() {
        let rig = rig();
        // 8259s at vectors 20h and 28h, all but the timer masked.
        for (port, value) in [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x20),
            (0xa1, 0x28),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
            (0x21, 0xfe),
            (0xa1, 0xff),
            (0x43, 0x34),
            (0x40, 0x00),
            (0x40, 0x10),
        ] {
            rig.out(port, &[value]);
        }
        let Rig { board, timers, .. } = rig;
        let _timers = timers.start().unwrap();
        let start = Instant::now();
        for _ in 0..5 {
            while !board.has_interrupt(0) {
                assert!(start.elapsed() < Duration::from_secs(20), "no timer interrupt");
                std::thread::yield_now();
            }
            assert_eq!(board.acknowledge(0), Some(0x20));
            board.port_write(0, 0x20, &[0x20]);
        }
        assert!(!board.has_interrupt(1));
    }

    /// A register of the configuration space of a function.
    fn pci_config(rig: &Rig, slot: Slot, offset: u32) -> u32 {
        let address = 1 << 31 | u32::from(slot.devfn()) << 8 | offset;
        rig.out(0xcf8, &address.to_le_bytes());
        let mut data = [0; 4];
        rig.board.port_read(0, 0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn functions_are_found_placed_and_routed() {
        let rig = rig();
        let found =
            [(RNG_SLOT, 0x1044_1af4, 11), (BALLOON_SLOT, 0x1045_1af4, 10), (TESTDEV_SLOT, 0x0005_1b36, 0)];
        for (slot, id, line) in found {
            assert_eq!(pci_config(&rig, slot, 0), id);
            assert_eq!(pci_config(&rig, slot, 0x3c) & 0xff, line, "{slot}");
            let base = u64::from(pci_config(&rig, slot, 0x10) & !15);
            assert!(PCI32.contains(&base), "{slot}: {base:#x}");
        }
        // The number of queues, by memory; a test, by port.
        let common = u64::from(pci_config(&rig, RNG_SLOT, 0x10) & !15);
        let mut queues = [0; 2];
        rig.board.mmio_read(0, common + 0x12, &mut queues);
        assert_eq!(queues, [1, 0]);
        let port = pci_config(&rig, TESTDEV_SLOT, 0x14) as u16 & !3;
        rig.out(port, &[1]);
        assert_eq!([rig.byte(port), rig.byte(port + 1)], [1, 1]);
    }

    #[test]
    fn test_ports_echo_and_drive_lines() {
        let rig = rig();
        rig.out(0xe0, &[1, 2, 3, 4]);
        rig.out(0xe4, &[0; 4]);
        assert_eq!([rig.byte(0xe3), rig.byte(0xe1)], [4, 2]);
        rig.board.mmio_write(0, 0xff00_fff8, &[9; 8]);
        let mut data = [0; 8];
        rig.board.mmio_read(0, 0xff00_fff8, &mut data);
        assert_eq!(data, [9; 8]);
        // IRQ 5 in the PIC's request register, which is what reading shows after power-on.
        rig.out(0x2005, &[1]);
        assert_eq!(rig.byte(0x20) & 1 << 5, 1 << 5);
        rig.out(0x2005, &[0]);
    }

    #[test]
    fn each_processor_finds_its_own_local_apic() {
        let rig = rig();
        for cpu in [0, 1] {
            let mut id = [0; 4];
            rig.board.mmio_read(cpu, 0xfee0_0020, &mut id);
            assert_eq!(u32::from_le_bytes(id) >> 24, cpu as u32);
        }
    }

    #[test]
    fn the_hpet_is_what_its_acpi_table_says() {
        let mut id = [0; 4];
        rig().board.mmio_read(0, HPET, &mut id);
        assert_eq!(u32::from_le_bytes(id), memory_map::layout().hpet_block_id);
    }

    #[test]
    fn the_clock_shows_the_year_of_the_host() {
        let rig = rig();
        let cmos = |index| {
            rig.out(0x70, &[index]);
            u64::from(rig.byte(0x71) >> 4) * 10 + u64::from(rig.byte(0x71) & 15)
        };
        let year = cmos(0x32) * 100 + cmos(0x09);
        const SECONDS_PER_YEAR: u64 = 31_556_952;
        let host = 1970 + SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / SECONDS_PER_YEAR;
        assert!(year.abs_diff(host) <= 1, "{year}");
    }

    #[test]
    fn serial_input_waits_in_the_port() {
        let rig = rig();
        rig.out(0x3fa, &[1]);
        assert_eq!(rig.com1.lock().receive(b"hi"), 2);
        assert_eq!([rig.byte(0x3f8), rig.byte(0x3f8)], *b"hi");
    }

    #[test]
    fn nothing_keeps_the_devices_when_the_board_is_taken_apart() {
        let Rig { board, timers, com1, .. } = rig();
        let memory = Arc::downgrade(&board.memory);
        board.take_apart();
        drop((board, timers));
        assert_eq!(Arc::strong_count(&com1), 1);
        assert!(memory.upgrade().is_none());
    }
}
