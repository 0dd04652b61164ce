//! The arguments: what the command line looks like, and how it becomes a [`Config`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

use softmetal_cpu::{HAS_TRANSLATOR, Model};
use softmetal_devices::virtio::blk::OnWriteError;
use softmetal_devices::virtio::console::MAX_CHANNELS;
use softmetal_storage::Throttle;

use crate::cli::{image, verify};
use crate::config::{
    Accel, Channel, ClockSource, Config, Debug, DebugFlags, KernelSource, MAX_CPUS, SerialTarget, UseError,
    parse_memory,
};
use crate::debugger::BreakAt;
use crate::disks::DiskConfig;
use crate::profile::SymbolFile;
use crate::watch::WatchRange;

const EXAMPLES: &str = "\
Examples:
  softmetal demo                    a guest that is built in: shows the machine, needs nothing else
  softmetal demo debian             Debian's kernel and busybox, fetched by apt, to a shell
  softmetal run --kernel vmlinuz --initrd initrd.img --append console=ttyS0
  softmetal run --kernel vmlinuz --append console=ttyS0 --serial unix=/run/guest.sock --memory 4G
  softmetal run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 root=/dev/vda' --disk debian.qcow2
  softmetal run --kernel vmlinuz --append console=ttyS0 --record log; softmetal run --replay log
  softmetal image create debian.qcow2 20G; softmetal image --help
  softmetal doctor                  whether this host's KVM serves
  softmetal verify --seconds 60     the emulated CPU against this host's; see softmetal verify --help
  softmetal run --kernel xen --append com1=115200 --initrd 'vmlinuz console=hvc0,initrd.img'

Exit status:
  0    the guest powered off, or reset with --no-reboot, or Ctrl-A x ended it
  1    verify: something differs
  2    wrong use: an option or a file that cannot be right
  4    the host refused something: memory, a file, a socket; a replay went another way than its log; or the two
       engines of --debug lockstep differ
  6    the guest crashed (triple fault); the message holds the CPU's state
  odd  with --debug-exit, the guest wrote V to port 0xf4: (V << 1) | 1

With --serial stdio on a terminal, Ctrl-A x ends the machine and Ctrl-A h shows the other keys. SIGTERM presses the
guest's power button; a second one ends the machine, a third one the process at once. Standard output carries what the guest sends and nothing else.";

/// Runs whole x86 machines in software, on any host.
#[derive(Debug, Parser)]
#[command(name = "softmetal", version, after_help = EXAMPLES)]
#[command(disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a kernel
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
    /// Boot a guest that shows what this is: the one built in, or Debian's kernel with busybox
    #[command(after_help = EXAMPLES)]
    Demo(DemoArgs),
    /// Compare the emulated CPU with this host's, instruction by instruction
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Arguments),
    /// Make, look at, check, copy and resize disk images
    #[command(after_help = image::EXAMPLES)]
    Image(image::Arguments),
    /// Say whether this host's KVM serves, and for which processors
    Doctor,
    /// The tiny guest by which KVM is tried out
    #[command(hide = true)]
    ProbeKvm {
        /// It never ends
        #[arg(long)]
        for_ever: bool,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The kernel: a Linux bzImage (Debian: /boot/vmlinuz-*), an ELF file with a PVH entry, or a multiboot kernel
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk; with PVH and multiboot kernels modules: "FILE ARGUMENTS,FILE", several times if you like
    #[arg(long, value_name = "FILE")]
    initrd: Vec<PathBuf>,
    /// The kernel's command line; for Linux on the serial port it holds console=ttyS0
    #[arg(
        long,
        value_name = "STRING",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    append: String,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Which guest
    #[arg(value_enum, default_value_t = Guest::BuiltIn)]
    guest: Guest,
    #[command(flatten)]
    machine: MachineArgs,
}

/// The guests of `softmetal demo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guest {
    /// Built into this binary: shows the machine, tests and measures the CPU, has a prompt
    BuiltIn,
    /// Debian's cloud kernel and busybox, fetched by apt, to a shell
    Debian,
}

/// The machine, the same for every guest.
#[derive(Debug, Args)]
struct MachineArgs {
    /// What runs the guest: kvm (the host's virtualization), jit (hot code is translated into the host's), interp (the
    /// interpreter) or auto: kvm where it serves, else jit [default: auto]
    #[arg(long, value_name = "ENGINE", value_parser = parse_accel)]
    accel: Option<Accel>,
    /// The processor: v2 and v3 (what x86-64-v2 and x86-64-v3 have, and no more) or max, with ",leak=on" KVM may have it
    /// otherwise; with KVM also host, the host's own; help lists them
    #[arg(long, value_name = "MODEL", default_value = "max", value_parser = parse_model)]
    cpu: ModelChoice,
    /// Number of processors
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_cpus)]
    cpus: u32,
    /// Guest memory: 512M, 4G; a plain number is MiB
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_memory)]
    memory: u64,
    /// A disk: FILE[,format=raw|qcow2][,readonly=on][,ephemeral=on][,cache=writeback|none|writethrough|unsafe]
    /// [,aio=io_uring|threads][,iops=N][,bps=SIZE][,werror=report|stop][,serial=TEXT][,backing=FILE]; the guest finds /dev/vda,
    /// vdb, ..; several times if you like. cache=none goes past the host's cache, cache=unsafe ignores the guest's flushes;
    /// werror=stop halts the machine until SIGCONT where the host cannot write; backing=FILE allows an image to lie on one in
    /// another folder
    #[arg(long, value_name = "FILE[,..]")]
    disk: Vec<DiskConfig>,
    /// Keep nothing of what is written to disks: their images stay as they are
    #[arg(long)]
    ephemeral: bool,
    /// The serial port: stdio, file=PATH (output only), unix=PATH (listens) or none [default: stdio, where that is not the
    /// terminal's]
    #[arg(long, value_name = "TARGET")]
    serial: Option<SerialTarget>,
    /// A virtio terminal (Linux: console=hvc0), which knows the size of its window: targets as with --serial
    #[arg(long, value_name = "TARGET")]
    console: Option<SerialTarget>,
    /// A channel for programs: name=NAME,path=SOCKET connects /dev/virtio-ports/NAME in the guest with a Unix socket here;
    /// several times if you like
    #[arg(long, value_name = "name=NAME,path=SOCKET")]
    channel: Vec<Channel>,
    /// A memory balloon: what the guest does not use goes back to the host; with a size, the guest is asked to do with that
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, value_parser = parse_memory)]
    balloon: Option<Option<u64>>,
    /// Let systems from before virtio 1.0 (2016) use the virtio devices, disks among them, by the interface of that time
    #[arg(long)]
    transitional: bool,
    /// Let the guest end the machine through port 0xf4
    #[arg(long)]
    debug_exit: bool,
    /// Add the devices that test suites use: QEMU's pc-testdev and pci-testdev
    #[arg(long)]
    testdev: bool,
    /// End when the guest resets, instead of starting it again
    #[arg(long)]
    no_reboot: bool,
    /// What moves guest time: host, or instructions (a nanosecond each: every run is the same)
    #[arg(long, value_name = "SOURCE", default_value = "host", value_parser = parse_clock)]
    clock: ClockSource,
    /// Write a log from which the run can be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Repeat the run of a log, without devices; says where it goes another way
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print who touches memory, the first 1000 times: [phys:]ADDRESS[+LENGTH][:r|:w|:rw]; several times if you like
    #[arg(long, value_name = "RANGE")]
    watch: Vec<WatchRange>,
    /// Print the registers each time the guest comes to ADDRESS or to SYMBOL of --symbols, the first 1000 times; with :stop the
    /// machine stands there until it gets SIGCONT; several times if you like
    #[arg(long = "break", value_name = "ADDRESS|SYMBOL[:stop]")]
    breaks: Vec<BreakAt>,
    /// Find a bug: switch off speed-ups, run two engines in lockstep; or profile the guest; names with commas between; help
    /// lists them
    #[arg(long, value_name = "LIST", value_parser = parse_debug)]
    debug: Option<DebugChoice>,
    /// Names of the guest's functions for --debug profile and --break: an ELF file, System.map or /proc/kallsyms; @ADDRESS moves it;
    /// several times if you like
    #[arg(long, value_name = "FILE[@ADDRESS]")]
    symbols: Vec<SymbolFile>,
    /// At the end, write what the processors did and where time went, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// Say more on standard error, and at the end where time went; twice and thrice for still more
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum DebugChoice {
    List(Debug),
    Help,
}

/// A processor, or the list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelChoice {
    /// And whether it may be otherwise where KVM wants it.
    Model(Model, bool),
    /// The host's, which only KVM has.
    Host,
    Help,
}

/// What the user wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Boot this machine.
    Run(Config),
    /// Boot the built-in demo guest on this machine; the kernel is still to be filled in.
    Demo(Machine),
    /// Fetch Debian's kernel and busybox, and boot them on this machine.
    DemoDebian(Machine),
    /// Compare CPUs.
    Verify(verify::Arguments),
    /// Work on disk images.
    Image(image::Arguments),
    /// Say how the host is.
    Doctor,
    /// Try KVM out, in this process.
    ProbeKvm {
        /// With a guest that never ends.
        for_ever: bool,
    },
    /// Print this text, help that was asked for.
    Print(String),
}

/// A machine without anything to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine(Config);

impl Machine {
    /// The whole description, with what is booted.
    #[must_use]
    pub fn boot(self, kernel: KernelSource) -> Config {
        Config { kernel, ..self.0 }
    }

    /// How talkative messages are.
    #[must_use]
    pub fn verbosity(&self) -> u8 {
        self.0.verbosity
    }
}

/// Reads the command line, the program's name first. What is wrong with it is one sentence.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, UseError> {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Request::Print(error.to_string()));
        }
        Err(error) => return Err(sentence(&error)),
    };
    let machine = match &line.command {
        Verb::Run(RunArgs { machine, .. }) | Verb::Demo(DemoArgs { machine, .. }) => machine,
        Verb::Verify(arguments) => return Ok(Request::Verify(arguments.clone())),
        Verb::Image(arguments) => return Ok(Request::Image(arguments.clone())),
        Verb::Doctor => return Ok(Request::Doctor),
        Verb::ProbeKvm { for_ever } => return Ok(Request::ProbeKvm { for_ever: *for_ever }),
    };
    let debug = match &machine.debug {
        None => Debug::default(),
        Some(DebugChoice::List(list)) => list.clone(),
        Some(DebugChoice::Help) => return Ok(Request::Print(debug_help())),
    };
    if debug.profile.is_none() && machine.breaks.is_empty() && !machine.symbols.is_empty() {
        return Err(UseError::new("--symbols is for --debug profile and --break, which are not asked for"));
    }
    if debug.lockstep.is_some() && !machine.breaks.is_empty() {
        return Err(UseError::new("--break is not for --debug lockstep: two engines run the guest there"));
    }
    let host_cpu = machine.cpu == ModelChoice::Host;
    let (cpu, leak) = match machine.cpu {
        ModelChoice::Model(model, leak) => (model, leak),
        ModelChoice::Host => (Model::Max, true),
        ModelChoice::Help => return Ok(Request::Print(model_help())),
    };
    one_processor(machine, &debug)?;
    let disks = disks(machine, &debug)?;
    let serial = ports(machine, &debug)?;
    let config = |kernel| Config {
        accel: machine.accel.unwrap_or(Accel::Auto),
        says_engine: machine.accel == Some(Accel::Auto),
        automatic: false,
        cpu,
        leak,
        host_cpu,
        cpus: machine.cpus,
        memory: machine.memory,
        disks: disks.clone(),
        serial: serial.clone(),
        console: machine.console.clone(),
        channels: machine.channel.clone(),
        balloon: machine.balloon.map(|rest| rest.unwrap_or(machine.memory)),
        transitional: machine.transitional,
        debug_exit: machine.debug_exit,
        testdev: machine.testdev,
        no_reboot: machine.no_reboot,
        clock: machine.clock,
        record: machine.record.clone(),
        replay: machine.replay.clone(),
        watch: machine.watch.clone(),
        breaks: machine.breaks.clone(),
        debug: debug.flags,
        lockstep: debug.lockstep,
        profile: debug.profile.clone(),
        symbols: machine.symbols.clone(),
        stats: machine.stats.clone(),
        verbosity: machine.verbose,
        ..Config::new(kernel)
    };
    match &line.command {
        Verb::Run(RunArgs { kernel: None, machine, .. }) if machine.replay.is_some() => {
            Ok(Request::Run(config(KernelSource::Recorded)))
        }
        Verb::Run(RunArgs { kernel: None, .. }) => Err(UseError::new(
            "--kernel is missing: name a kernel to boot, or try 'softmetal demo', which needs none",
        )),
        Verb::Run(RunArgs { kernel: Some(kernel), initrd, append, .. }) => Ok(Request::Run(Config {
            initrd: initrd.clone(),
            append: append.clone(),
            ..config(KernelSource::File(kernel.clone()))
        })),
        Verb::Demo(DemoArgs { guest, .. }) => {
            let machine = Machine(config(KernelSource::BuiltIn(&[])));
            Ok(match guest {
                Guest::BuiltIn => Request::Demo(machine),
                Guest::Debian => Request::DemoDebian(machine),
            })
        }
        // Answered above: it has no machine.
        Verb::Doctor => Ok(Request::Doctor),
        Verb::ProbeKvm { for_ever } => Ok(Request::ProbeKvm { for_ever: *for_ever }),
        Verb::Verify(arguments) => Ok(Request::Verify(arguments.clone())),
        Verb::Image(arguments) => Ok(Request::Image(arguments.clone())),
    }
}

/// clap's errors come with tips and usage in several lines; ours are one sentence.
fn sentence(error: &clap::Error) -> UseError {
    use std::error::Error;
    if error.kind() == ErrorKind::ValueValidation
        && let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
        && let Some(source) = error.source()
    {
        let option = option.split([' ', '[']).next().unwrap_or_default();
        return UseError::new(format!("{option}: {source}"));
    }
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    ) {
        return UseError::new(
            "say what to do: 'softmetal demo', 'softmetal run --kernel FILE', 'softmetal --help'",
        );
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let until_usage =
        text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text);
    let joined = until_usage.replace("\n\n", "; ");
    let words: Vec<&str> = joined.split_whitespace().collect();
    UseError::new(format!("{}; see 'softmetal --help'", words.join(" ")))
}

/// The engines of this build.
const ENGINES: &str = if HAS_TRANSLATOR { "auto, kvm, jit and interp" } else { "auto, kvm and interp" };

fn parse_accel(text: &str) -> Result<Accel, UseError> {
    match text {
        "auto" => Ok(Accel::Auto),
        "interp" => Ok(Accel::Interp),
        "jit" if !HAS_TRANSLATOR => Err(UseError::new(format!(
            "'{text}' is not in this build, which was made without the translator; right are {ENGINES}"
        ))),
        "jit" => Ok(Accel::Jit),
        "kvm" => Ok(Accel::Kvm),
        _ => Err(UseError::new(format!("'{text}' is no engine; right are {ENGINES}"))),
    }
}

/// The shortest stretch of two engines in lockstep in which most instructions of translated code are run as such.
const TRANSLATED_STRETCH: u64 = 2000;

/// What needs to know the order of all that happens knows it of one processor only.
fn one_processor(machine: &MachineArgs, debug: &Debug) -> Result<(), UseError> {
    let MachineArgs { cpus, clock, record, replay, .. } = machine;
    let options = [
        ("--clock instructions", *clock == ClockSource::Instructions),
        ("--record", record.is_some()),
        ("--replay", replay.is_some()),
        ("--debug lockstep", debug.lockstep.is_some()),
    ];
    if let (Some(stretch), Some(Accel::Jit)) = (debug.lockstep, machine.accel)
        && stretch < TRANSLATED_STRETCH
    {
        return Err(UseError::new(format!(
            "--debug lockstep={stretch} is too short for --accel jit, whose code is not entered in the last few hundred \
             instructions of a stretch; right are lockstep={TRANSLATED_STRETCH} and more"
        )));
    }
    match options.into_iter().find(|(_, on)| *on && *cpus > 1) {
        Some((option, _)) => Err(UseError::new(format!(
            "{option} is for machines with one processor; leave --cpus {cpus} out"
        ))),
        None => Ok(()),
    }
}

/// The disks, where the machine can have such.
fn disks(machine: &MachineArgs, debug: &Debug) -> Result<Vec<DiskConfig>, UseError> {
    let mut disks = machine.disk.clone();
    if machine.replay.is_some() && !disks.is_empty() {
        return Err(UseError::new("--disk is not for --replay: the log holds what the disks answered"));
    }
    let follows = [
        ("--clock instructions", machine.clock == ClockSource::Instructions),
        ("--record", machine.record.is_some()),
        ("--debug lockstep", debug.lockstep.is_some()),
    ];
    let waits =
        |disk: &DiskConfig| disk.throttle != Throttle::default() || disk.on_write_error == OnWriteError::Stop;
    if let (Some((option, _)), true) = (follows.into_iter().find(|(_, on)| *on), disks.iter().any(waits)) {
        return Err(UseError::new(format!(
            "--disk: with {option}, disks answer between two instructions; leave iops=, bps= and werror=stop out"
        )));
    }
    disks.iter_mut().for_each(|disk| disk.open.ephemeral |= machine.ephemeral);
    Ok(disks)
}

/// Whether the ports go together; the answer is where the serial port leads.
fn ports(machine: &MachineArgs, debug: &Debug) -> Result<SerialTarget, UseError> {
    let MachineArgs { serial, console, channel, record, replay, .. } = machine;
    let on_stdio = *console == Some(SerialTarget::Stdio);
    if on_stdio && *serial == Some(SerialTarget::Stdio) {
        return Err(UseError::new(
            "--serial stdio and --console stdio: only one of them can have standard input and output",
        ));
    }
    let others = [
        ("--record", record.is_some()),
        ("--replay", replay.is_some()),
        ("--debug lockstep", debug.lockstep.is_some()),
    ];
    let options = [
        ("--console", console.is_some()),
        ("--channel", !channel.is_empty()),
        ("--balloon", machine.balloon.is_some()),
    ];
    if let Some((other, _)) = others.iter().find(|(_, on)| *on)
        && let Some((option, _)) = options.iter().find(|(_, on)| *on)
    {
        return Err(UseError::new(format!(
            "{option} does not go with {other}: what comes from outside reaches memory while the processor runs, and no \
             log can hold that"
        )));
    }
    if let Some(Some(rest)) = machine.balloon
        && rest > machine.memory
    {
        return Err(UseError::new("--balloon is larger than --memory; right are sizes up to that"));
    }
    if channel.len() > MAX_CHANNELS {
        return Err(UseError::new(format!("--channel: a machine has at most {MAX_CHANNELS} channels")));
    }
    for (number, one) in channel.iter().enumerate() {
        if channel[..number].iter().any(|other| other.name == one.name) {
            return Err(UseError::new(format!("--channel: the name '{}' stands there twice", one.name)));
        }
    }
    let default = if on_stdio { SerialTarget::None } else { SerialTarget::Stdio };
    Ok(serial.clone().unwrap_or(default))
}

fn parse_clock(text: &str) -> Result<ClockSource, UseError> {
    match text {
        "host" => Ok(ClockSource::Host),
        "instructions" => Ok(ClockSource::Instructions),
        _ => Err(UseError::new(format!("'{text}' is no clock; right are host and instructions"))),
    }
}

fn parse_cpus(text: &str) -> Result<u32, UseError> {
    text.parse().ok().filter(|count| (1..=MAX_CPUS).contains(count)).ok_or_else(|| {
        UseError::new(format!("'{text}' is no number of processors; right are 1 to {MAX_CPUS}"))
    })
}

fn parse_model(text: &str) -> Result<ModelChoice, UseError> {
    if text == "help" {
        return Ok(ModelChoice::Help);
    }
    let (name, leak) = match text.split_once(',') {
        None => (text, false),
        Some((name, "leak=on")) => (name, true),
        Some((name, "leak=off")) => (name, false),
        Some((_, what)) => {
            return Err(UseError::new(format!("'{what}' is nothing that a processor has; right is leak=on")));
        }
    };
    if name == "host" {
        return Ok(ModelChoice::Host);
    }
    Model::from_name(name).map(|model| ModelChoice::Model(model, leak)).ok_or_else(|| {
        let names: Vec<&str> = Model::LIST.iter().map(|(name, ..)| *name).chain(["host"]).collect();
        UseError::new(format!("'{name}' is no processor; right are {} (see --cpu help)", names.join(", ")))
    })
}

fn model_help() -> String {
    let mut text = String::from("The processors of --cpu:\n");
    for (name, _, what) in Model::LIST {
        text.push_str(&format!("  {name:<16}{what}\n"));
    }
    text.push_str(
        "  MODEL,leak=on   for KVM: without what this host's KVM lacks, and user code may see what it cannot hide\n  \
           host            with KVM only: the host's processor, as far as KVM gives it to guests\n",
    );
    text
}

fn parse_debug(text: &str) -> Result<DebugChoice, UseError> {
    if text == "help" { Ok(DebugChoice::Help) } else { text.parse().map(DebugChoice::List) }
}

fn debug_help() -> String {
    let mut text = String::from("What --debug can switch off, with commas between:\n");
    for (name, _, what) in DebugFlags::LIST {
        text.push_str(&format!("  {name:<16}{what}\n"));
    }
    text.push_str("And what it can do:\n");
    for (name, what) in [Debug::LOCKSTEP, Debug::PROFILE] {
        text.push_str(&format!("  {name:<16}{what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProfileTo;
    use crate::lockstep::STRETCH;

    fn parse_words(words: &str) -> Result<Request, UseError> {
        parse(std::iter::once("softmetal").chain(words.split_whitespace()).map(OsString::from))
    }

    fn run(words: &str) -> Config {
        match parse_words(words) {
            Ok(Request::Run(config)) => config,
            other => panic!("{words}: {other:?}"),
        }
    }

    fn refusal(words: &str) -> String {
        let message = parse_words(words).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn clap_finds_the_definitions_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn defaults() {
        assert_eq!(run("run --kernel k"), Config::new(KernelSource::File("k".into())));
    }

    #[test]
    fn every_option_reaches_the_machine() {
        let config = run(
            "run --accel interp --cpu v3,leak=on --cpus 4 --memory 4G --kernel k --initrd i --append -x=1 --serial file=o \
             --console unix=c --channel name=a,path=b --channel name=c,path=d --balloon=3G \
             --transitional --debug-exit --testdev --no-reboot --watch phys:0x1000+8:w --watch 64 --break 0x7c00:stop --break f --stats s -vv \
             --debug no-chain,profile=p,no-tlb --symbols vmlinux@0x1000 --symbols m",
        );
        let expected = Config {
            accel: Accel::Interp,
            says_engine: false,
            automatic: false,
            cpu: Model::V3,
            leak: true,
            host_cpu: false,
            cpus: 4,
            memory: 4 << 30,
            disks: vec![],
            kernel: KernelSource::File("k".into()),
            initrd: vec!["i".into()],
            append: "-x=1".into(),
            serial: SerialTarget::File("o".into()),
            console: Some(SerialTarget::Unix("c".into())),
            channels: vec![
                Channel { name: "a".into(), path: "b".into() },
                Channel { name: "c".into(), path: "d".into() },
            ],
            balloon: Some(3 << 30),
            transitional: true,
            debug_exit: true,
            testdev: true,
            no_reboot: true,
            clock: ClockSource::Host,
            record: None,
            replay: None,
            watch: vec!["phys:0x1000+8:w".parse().unwrap(), "64".parse().unwrap()],
            breaks: vec!["0x7c00:stop".parse().unwrap(), "f".parse().unwrap()],
            debug: DebugFlags::NO_CHAIN | DebugFlags::NO_TLB,
            lockstep: None,
            profile: Some(ProfileTo::File("p".into())),
            symbols: vec!["vmlinux@0x1000".parse().unwrap(), "m".parse().unwrap()],
            stats: Some("s".into()),
            verbosity: 2,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn lockstep_stands_among_the_switches() {
        for (words, stretch) in [("lockstep", STRETCH), ("lockstep=1", 1), ("no-tlb,lockstep=77", 77)] {
            let config = run(&format!("run --kernel k --debug {words}"));
            assert_eq!(config.lockstep, Some(stretch));
            assert_eq!(config.debug.contains(DebugFlags::NO_TLB), words.contains("no-tlb"));
        }
    }

    #[test]
    fn the_virtio_terminal_takes_the_place_of_the_serial_port() {
        let config = run("run --kernel k --console stdio");
        assert_eq!((config.serial, config.console), (SerialTarget::None, Some(SerialTarget::Stdio)));
        let config = run("run --kernel k --console file=c");
        assert_eq!(
            (config.serial, config.console),
            (SerialTarget::Stdio, Some(SerialTarget::File("c".into())))
        );
    }

    #[test]
    fn the_hosts_processor_is_a_choice_of_its_own() {
        let config = run("run --kernel k --accel kvm --cpu host");
        assert_eq!((config.host_cpu, config.leak, config.cpu), (true, true, Model::Max));
        assert!(!run("run --kernel k --cpu max").host_cpu);
    }

    #[test]
    fn demo_has_two_guests() {
        let Ok(Request::Demo(machine)) = parse_words("demo --memory 64M") else { panic!() };
        let config = machine.boot(KernelSource::BuiltIn(b"x"));
        assert_eq!((config.memory, config.kernel), (64 << 20, KernelSource::BuiltIn(b"x")));
        assert!(matches!(parse_words("demo debian"), Ok(Request::DemoDebian(_))));
    }

    #[test]
    fn wrong_words_get_one_sentence_that_says_what_is_right() {
        for (words, parts) in [
            ("", ["say what to do", "softmetal demo"]),
            ("run", ["--kernel is missing", "softmetal demo"]),
            ("walk", ["'walk'", "--help"]),
            ("run --kernel k --memory 1.5G", ["--memory: '1.5G' is no size", "512M or 4G"]),
            ("run --kernel k --memory 100T", ["--memory: '100T' is too much", "at most 512G"]),
            ("run --kernel k --memory 1M", ["--memory: '1M' is too little", "at least 2M"]),
            ("run --kernel k --cpus 0", ["--cpus: '0'", "1 to 255"]),
            ("run --kernel k --cpus many", ["--cpus: 'many'", "1 to 255"]),
            ("run --kernel k --cpu v4", ["--cpu: 'v4' is no processor", "max, v2, v3, host"]),
            ("demo --cpu hosts", ["--cpu: 'hosts' is no processor", "--cpu help"]),
            ("demo --cpu host,fast=on", ["--cpu: 'fast=on' is nothing", "leak=on"]),
            ("run --kernel k --cpu v2,fast=on", ["--cpu: 'fast=on' is nothing", "leak=on"]),
            ("run --kernel k --cpu v4,leak=on", ["--cpu: 'v4' is no processor", "v2"]),
            ("run --kernel k --accel fast", ["--accel: 'fast' is no engine", "interp"]),
            ("run --kernel k --serial tcp", ["--serial: 'tcp' is no serial target", "unix=PATH"]),
            ("demo --serial stdio --console stdio", ["--serial stdio and --console stdio", "only one"]),
            ("demo --console x", ["--console: 'x' is no serial target", "unix=PATH"]),
            ("demo --channel name=x", ["--channel: 'name=x' is no channel", "name=NAME,path=SOCKET"]),
            ("demo --channel name=x,path=a --channel name=x,path=b", ["--channel", "'x' stands there twice"]),
            ("demo --console stdio --record a", ["--console does not go with --record", "no log"]),
            (
                "demo --channel name=x,path=a --debug lockstep",
                ["--channel does not go with", "--debug lockstep"],
            ),
            ("demo --balloon=1", ["--balloon: '1' is too little", "at least 2M"]),
            ("demo --memory 64M --balloon=65M", ["--balloon is larger than --memory", "up to"]),
            ("demo --balloon --replay x", ["--balloon does not go with --replay", "no log"]),
            ("run --kernel k --debug no-bugs", ["--debug: 'no-bugs' is no debug flag", "no-chain"]),
            ("run --kernel k --debug lockstep=0", ["--debug: 'lockstep=0' is no number", "lockstep=1 to"]),
            ("run --kernel k --debug lockstep=x", ["--debug: 'lockstep=x' is no number", "lockstep=1 to"]),
            (
                "run --kernel k --debug lockstep --cpus 2",
                ["--debug lockstep is for machines with one", "--cpus 2"],
            ),
            (
                "demo --accel jit --debug lockstep=1",
                ["lockstep=1 is too short for --accel jit", "lockstep=2000"],
            ),
            ("demo --debug profile=", ["'profile=' is no debug flag", "profile"]),
            ("demo --symbols vmlinux", ["--symbols is for --debug profile", "not asked for"]),
            ("demo --break 12", ["--break: '12' is no place to stop at", "0xffffffff81000000"]),
            ("demo --break f --debug lockstep", ["--break is not for --debug lockstep", "two engines"]),
            ("demo --debug profile --symbols a@0x1z", ["--symbols: 'a@0x1z' names no file", "vmlinux@0x"]),
            ("run --kernel k --kernl x", ["--kernl", "--kernel"]),
            ("run --kernel", ["--kernel", "value"]),
            ("demo windows", ["windows", "debian"]),
            ("demo --watch here", ["--watch: 'here' is no range to watch", "phys:"]),
            ("demo --clock sun", ["--clock: 'sun' is no clock", "instructions"]),
            ("demo --record a --replay b", ["--record", "--replay"]),
            ("demo --record a --cpus 2", ["--record is for machines with one processor", "--cpus 2"]),
            ("run --replay a --cpus 3", ["--replay is for", "--cpus 3"]),
            ("demo --clock instructions --cpus 2", ["--clock instructions is for", "one processor"]),
        ] {
            let message = refusal(words);
            for part in parts {
                assert!(message.contains(part), "{words}: {message}");
            }
        }
    }

    #[test]
    fn help_is_printed_not_refused() {
        for words in [
            "--help",
            "run --help",
            "demo --help",
            "--version",
            "run --debug help --kernel k",
            "run --cpu help",
        ] {
            assert!(matches!(parse_words(words), Ok(Request::Print(_))), "{words}");
        }
        let Ok(Request::Print(help)) = parse_words("run --debug help") else { panic!() };
        for (name, ..) in DebugFlags::LIST {
            assert!(help.contains(name));
        }
        assert!(help.contains("lockstep[=N]") && help.contains("profile[=FILE]"));
        assert_eq!(run("run --kernel k --debug profile").profile, Some(ProfileTo::Messages));
        let Ok(Request::Print(help)) = parse_words("run --cpu help") else { panic!() };
        for (name, _, what) in Model::LIST {
            assert!(help.contains(name) && help.contains(what));
        }
        assert!(help.contains("\n  host  "));
    }
}
