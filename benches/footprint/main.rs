//! What a machine costs the host before it does anything for its guest: `cargo bench --bench footprint`.
//!
//! Memory: Debian's kernels boot to a shell, while /proc says what the process holds. Guest RAM is shared memory (RssShmem), each
//! page of which the guest has touched; whatever else is resident is ours: heap, stacks and tables (RssAnon), the program's
//! own pages (RssFile), and translated code, which is shared memory too, mapped twice (its part of smaps). The host's page tables
//! (VmPTE) are counted apart, since guest RAM has most of them.
//!
//! Time: from the start of the process to the first byte that the smallest kernel's first instructions send to the serial port,
//! read from standard output. On a busy host the least of the times says what softmetal needs.
//!
//! The goals are 120 MB beyond guest RAM and 30 ms.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use softmetal::cli::debian::{Flavour, Guests};
use softmetal::cli::initramfs::READY;

/// Measures memory beyond guest RAM, and the time to the first guest instruction.
#[derive(Parser)]
struct Args {
    /// How often each machine is started to measure the time
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// What runs the guest, as softmetal's --accel has it
    #[arg(long, default_value = "auto")]
    accel: String,
    /// Only the time
    #[arg(long)]
    no_memory: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _ = args.bench;
    let folder = tempfile::tempdir().context("no folder for kernels")?;
    times(folder.path(), &args)?;
    if !args.no_memory {
        memory(folder.path(), &args.accel)?;
    }
    Ok(())
}

/// softmetal with these arguments, its serial port on the pipe.
fn start(kernel: &Path, arguments: &[String]) -> Result<(Running, ChildStdout)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softmetal"));
    command.arg("run").arg("--kernel").arg(kernel).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("softmetal does not start")?;
    let output = child.stdout.take().context("standard output is piped")?;
    Ok((Running(child), output))
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints the times of a few machines.
fn times(folder: &Path, args: &Args) -> Result<()> {
    let kernel = folder.join("kernel");
    fs::write(&kernel, smallest_kernel())?;
    let module = folder.join("module");
    fs::write(&module, vec![0x5a; 64 << 20])?;
    let with_module = format!("--initrd={}", module.display());
    let machines: [(&str, &[&str]); 4] = [
        ("512 MiB", &[]),
        ("64 GiB", &["--memory=64G"]),
        ("8 processors", &["--cpus=8"]),
        ("a module of 64 MiB", &[&with_module]),
    ];
    println!("{:<32} {:>10} {:>10} {:>10}", "to the first instruction, in ms", "least", "median", "most");
    for (name, arguments) in machines {
        let accel = format!("--accel={}", args.accel);
        let arguments: Vec<String> = arguments.iter().map(|&s| s.to_owned()).chain([accel]).collect();
        let mut times = Vec::new();
        for _ in 0..args.rounds {
            let begin = Instant::now();
            let (_running, mut output) = start(&kernel, &arguments)?;
            let mut byte = [0];
            output.read_exact(&mut byte).with_context(|| format!("no byte from a machine with {name}"))?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            ensure!(byte == [GREETING], "the kernel sends {byte:?}");
        }
        times.sort_by(f64::total_cmp);
        let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        println!("{name:<32} {least:>10.1} {median:>10.1} {most:>10.1}");
    }
    Ok(())
}

/// What the smallest kernel sends.
const GREETING: u8 = b'!';

/// A multiboot header, and code that sends a byte and halts.
fn smallest_kernel() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const WITH_ADDRESSES: u32 = 0x1_0000;
    const LOADED_AT: u32 = 0x10_0000;
    let checksum = 0u32.wrapping_sub(MAGIC + WITH_ADDRESSES);
    let header = [MAGIC, WITH_ADDRESSES, checksum, LOADED_AT, LOADED_AT, 0, 0, LOADED_AT + 0x20];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    // mov dx, 0x3f8; mov al, GREETING; out dx, al; cli; hlt
    image.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, GREETING, 0xee, 0xfa, 0xf4]);
    image
}

/// Prints what Debian's kernels take to boot.
fn memory(folder: &Path, accel: &str) -> Result<()> {
    let say = |line: &str| eprintln!("guests: {line}");
    let guests = Guests::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/guests"), &say);
    println!();
    println!(
        "{:<32} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "at a shell, in MB", "most ours", "ours", "of it heap", "program", "code", "guest RAM", "VmPTE"
    );
    for (name, flavour) in
        [("Debian's cloud kernel", Flavour::Cloud), ("Debian's generic kernel", Flavour::Generic)]
    {
        let kernel = guests.kernel(flavour)?;
        let initrd = folder.join("initrd");
        fs::write(&initrd, guests.initramfs(&kernel, None)?.build())?;
        for (processors, also) in [("1", ""), ("4", ", 4 processors")] {
            let (most_ours, last, shared) = boot(&kernel.image, &initrd, processors, accel)?;
            let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
            println!(
                "{:<32} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
                format!("{name}{also}"),
                mb(most_ours + shared.code),
                mb(last.ours() + shared.code),
                mb(last.anonymous),
                mb(last.file),
                mb(shared.code),
                mb(shared.ram),
                mb(last.page_tables),
            );
        }
    }
    Ok(())
}

/// What /proc says of a process, in KiB.
#[derive(Clone, Copy, Debug)]
struct Status {
    /// RssAnon: heap and stacks.
    anonymous: u64,
    /// RssFile: the program's own pages.
    file: u64,
    /// RssShmem: guest RAM, and translated code twice.
    shared: u64,
    /// VmHWM: the most that the three have been together.
    high_water: u64,
    /// VmPTE: the host's page tables.
    page_tables: u64,
}

impl Status {
    fn of(status: &Path) -> Result<Self> {
        let text = fs::read_to_string(status).context("the machine has ended")?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("/proc says nothing of {name}"))
        };
        Ok(Self {
            anonymous: value("RssAnon")?,
            file: value("RssFile")?,
            shared: value("RssShmem")?,
            high_water: value("VmHWM")?,
            page_tables: value("VmPTE")?,
        })
    }

    /// Whatever is resident and not shared.
    fn ours(&self) -> u64 {
        self.anonymous + self.file
    }
}

/// Shared memory, in KiB.
#[derive(Clone, Copy, Debug, Default)]
struct Shared {
    ram: u64,
    /// Translated code: each page once.
    code: u64,
}

impl Shared {
    fn of(smaps: &Path) -> Result<Self> {
        let text = fs::read_to_string(smaps).context("the machine has ended")?;
        let (mut shared, mut place) = (Self::default(), None);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            match first {
                "Pss:" => match place {
                    Some(true) => shared.ram += second.parse::<u64>()?,
                    Some(false) => shared.code += second.parse::<u64>()?,
                    None => {}
                },
                _ if first.contains('-') && !first.ends_with(':') => {
                    place = second.ends_with('s').then(|| line.contains("guest RAM"));
                }
                _ => {}
            }
        }
        Ok(shared)
    }
}

/// Boots to the shell: the most that was ours on the way, and how things stand there.
fn boot(kernel: &Path, initrd: &Path, processors: &str, accel: &str) -> Result<(u64, Status, Shared)> {
    const LIMIT: Duration = Duration::from_secs(300);
    const PAUSE: Duration = Duration::from_millis(1);
    let arguments = [
        "--append=console=ttyS0".to_owned(),
        format!("--initrd={}", initrd.display()),
        format!("--cpus={processors}"),
        format!("--accel={accel}"),
    ];
    let (running, output) = start(kernel, &arguments)?;
    let status = PathBuf::from(format!("/proc/{}/status", running.0.id()));
    let up = AtomicBool::new(false);
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            let _ = lines.find(|line| line.starts_with(READY.as_bytes()));
            up.store(true, Ordering::Release);
        });
        // The program's pages are the host's to drop, guest RAM stays: so the most of all is a bound for what samples miss.
        let mut most = 0;
        loop {
            let there = up.load(Ordering::Acquire);
            let now = Status::of(&status)?;
            most = most.max(now.ours());
            if there {
                let shared = Shared::of(&status.with_file_name("smaps"))?;
                return Ok((most.max(now.high_water.saturating_sub(now.shared)), now, shared));
            }
            if begin.elapsed() > LIMIT {
                drop(running);
                anyhow::bail!("the guest does not boot");
            }
            thread::sleep(PAUSE);
        }
    })
}
