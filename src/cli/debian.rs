//! Brings Debian's own kernels and busybox by apt into a cache folder, without installing anything.
//!
//! Packages are downloaded with `apt-get download` (which checks Debian's signatures) and unpacked with `dpkg -x`;
//! of a kernel package only the kernel and a few modules are kept. Where the user is not root, or
//! the host is no x86-64 Debian, apt works on package lists of its own in the cache folder.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::cli::initramfs;

/// Modules that a kernel's RAM disk carries, each after those that it needs: the power button and its events for user
/// space, virtio devices on PCI, the entropy device, disks, console and channels, the balloon.
const MODULES: &[&str] = &[
    "kernel/drivers/acpi/button.ko",
    "kernel/drivers/input/evdev.ko",
    "kernel/drivers/virtio/virtio_ring.ko",
    "kernel/drivers/virtio/virtio.ko",
    "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
    "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
    "kernel/drivers/virtio/virtio_pci.ko",
    "kernel/drivers/char/hw_random/rng-core.ko",
    "kernel/drivers/char/hw_random/virtio-rng.ko",
    "kernel/drivers/block/virtio_blk.ko",
    "kernel/drivers/char/virtio_console.ko",
    "kernel/drivers/virtio/virtio_balloon.ko",
];

/// Debian's kernels for x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The kernel for virtual machines in clouds: fewer drivers.
    Cloud,
    /// The kernel for any PC.
    Generic,
    /// The kernel whose locks can be preempted, for real-time work.
    Rt,
}

impl Flavour {
    /// The package that always depends on the newest kernel package of this flavour.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
            Self::Rt => "linux-image-rt-amd64",
        }
    }

    /// Its folder in the cache. A kernel that was fetched with other modules is another one.
    fn folder(self) -> String {
        let name = match self {
            Self::Cloud => "cloud-kernel",
            Self::Generic => "generic-kernel",
            Self::Rt => "rt-kernel",
        };
        let modules = MODULES.join(" ");
        // FNV-1a: the same in each build.
        let hash = modules
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("{name}-{hash:08x}")
    }
}

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// The modules for the initial RAM disk.
    pub modules: Vec<PathBuf>,
}

/// Debian guests in a cache folder. What is there already is not fetched again.
pub struct Guests<'a> {
    cache: PathBuf,
    say: &'a dyn Fn(&str),
}

impl<'a> Guests<'a> {
    /// Guests kept in the folder `cache`; `say` gets a line of progress for each step that takes time.
    #[must_use]
    pub fn new(cache: &Path, say: &'a dyn Fn(&str)) -> Self {
        Self { cache: cache.into(), say }
    }

    /// Why nothing can be fetched on this host, or `None` where it can.
    #[must_use]
    pub fn hindrance() -> Option<String> {
        ["apt-get", "apt-cache", "dpkg"]
            .into_iter()
            .find(|tool| !found_in_path(tool))
            .map(|tool| format!("{tool} is not on this host"))
    }

    /// A kernel of this flavour.
    pub fn kernel(&self, flavour: Flavour) -> Result<Kernel> {
        let folder = self.cache.join(flavour.folder());
        if !folder.is_dir() {
            self.fetch_kernel(flavour, &folder)?;
        }
        let mut kernel = Kernel { image: PathBuf::new(), modules: Vec::new() };
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("vmlinuz-") {
                kernel.image = path;
            } else if name.ends_with(".ko") {
                kernel.modules.push(path);
            }
        }
        kernel.modules.sort();
        ensure!(kernel.image.is_file(), "{} holds no kernel; remove it and try again", folder.display());
        Ok(kernel)
    }

    /// The static busybox.
    pub fn busybox(&self) -> Result<PathBuf> {
        let path = self.cache.join("busybox");
        if !path.is_file() {
            let work = self.work_folder()?;
            let root = self.unpack("busybox-static", work.path())?;
            let found = ["bin/busybox", "usr/bin/busybox"]
                .map(|name| root.join(name))
                .into_iter()
                .find(|p| p.is_file());
            let found = found.context("the package busybox-static holds no bin/busybox")?;
            rename(&found, &path)?;
        }
        Ok(path)
    }

    /// The RAM disk for `kernel`, made of what [`Self::busybox`] gives, the kernel's modules and init's `script`.
    pub fn initramfs(&self, kernel: &Kernel, script: Option<String>) -> Result<initramfs::Contents> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let modules = kernel.modules.iter().map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, read(path)?))
        });
        Ok(initramfs::Contents {
            busybox: read(&self.busybox()?)?,
            modules: modules.collect::<Result<_>>()?,
            script,
            files: Vec::new(),
        })
    }

    /// The folder of all files of a package.
    pub fn package(&self, name: &str) -> Result<PathBuf> {
        let packages = self.cache.join("packages");
        let folder = packages.join(name);
        if !folder.is_dir() {
            let work = self.work_folder()?;
            let root = self.unpack(name, work.path())?;
            fs::create_dir_all(&packages).with_context(|| format!("cannot create {}", packages.display()))?;
            publish(&root, &folder)?;
        }
        Ok(folder)
    }

    fn fetch_kernel(&self, flavour: Flavour, folder: &Path) -> Result<()> {
        let work = self.work_folder()?;
        let package = self.apt(work.path())?.newest_kernel(flavour)?;
        let root = self.unpack(&package, work.path())?;
        let version = package.strip_prefix("linux-image-").unwrap_or(&package);
        let ready = work.path().join("ready");
        fs::create_dir(&ready)?;
        let image = format!("vmlinuz-{version}");
        rename(&root.join("boot").join(&image), &ready.join(&image))
            .with_context(|| format!("the package {package} holds no boot/{image}"))?;
        for (number, module) in MODULES.iter().enumerate() {
            let from =
                ["lib/modules", "usr/lib/modules"].map(|dir| root.join(dir).join(version).join(module));
            // Kernels with the driver built in, or with compressed modules, go without: only these devices are lost.
            if let Some(from) = from.iter().find(|path| path.is_file()) {
                let name = from.file_name().unwrap_or_default().to_string_lossy();
                // Init loads modules by the order of their names.
                rename(from, &ready.join(format!("{number:02}-{name}")))?;
            }
        }
        publish(&ready, folder)
    }

    /// Downloads a package and unpacks it; the answer is the folder of its files.
    fn unpack(&self, package: &str, work: &Path) -> Result<PathBuf> {
        (self.say)(&format!("downloading Debian's package {package}"));
        self.apt(work)?.download(package)?;
        let archive = fs::read_dir(work)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get download {package} left no .deb file"))?;
        (self.say)(&format!("unpacking {}", archive.file_name().unwrap_or_default().to_string_lossy()));
        let root = work.join("root");
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
        fs::remove_file(&archive)?;
        Ok(root)
    }

    fn apt(&self, work: &Path) -> Result<Apt<'_>> {
        let mut apt = Apt { options: Vec::new(), work: work.into(), say: self.say };
        // The sandbox user of apt cannot write into the user's cache folder; there is nothing to protect from it.
        apt.option("APT::Sandbox::User=root");
        let native = run(Command::new("dpkg").arg("--print-architecture"))
            .is_ok_and(|output| output.stdout.trim_ascii() == b"amd64");
        if native && apt.knows(Flavour::Cloud.package()) {
            return Ok(apt);
        }
        if !native || !rustix::process::geteuid().is_root() {
            apt.use_own_lists(&self.cache.join("apt"))?;
        }
        if !apt.knows(Flavour::Cloud.package()) {
            apt.update()?;
        }
        Ok(apt)
    }

    fn work_folder(&self) -> Result<WorkFolder> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("work-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        WorkFolder::create(self.cache.join(name))
    }
}

/// apt with the options that fit this host and user.
struct Apt<'a> {
    options: Vec<OsString>,
    work: PathBuf,
    say: &'a dyn Fn(&str),
}

impl Apt<'_> {
    fn option(&mut self, option: impl Into<OsString>) {
        self.options.extend(["-o".into(), option.into()]);
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").args(&self.options).args(arguments).current_dir(&self.work);
        command
    }

    fn use_own_lists(&mut self, folder: &Path) -> Result<()> {
        for (name, subfolder) in [("Dir::State", "state"), ("Dir::Cache", "cache")] {
            let path = folder.join(subfolder);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
            let mut option = OsString::from(format!("{name}="));
            option.push(path);
            self.option(option);
        }
        self.option("APT::Architecture=amd64");
        self.option("APT::Architectures=amd64");
        self.option("Dir::State::status=/dev/null");
        Ok(())
    }

    fn knows(&self, package: &str) -> bool {
        run(&mut self.command("apt-cache", &["show", "--no-all-versions", package]))
            .is_ok_and(|output| !output.stdout.is_empty())
    }

    fn update(&self) -> Result<()> {
        (self.say)("fetching Debian's package lists (apt-get update)");
        // Otherwise apt takes an archive that it cannot reach for a success.
        run(&mut self.command("apt-get", &["--quiet", "-o", "APT::Update::Error-Mode=any", "update"]))
            .map(drop)
    }

    /// Mirrors forget old versions: where the lists are stale, a download fails once and succeeds after an update.
    fn download(&self, package: &str) -> Result<()> {
        let download = || run(&mut self.command("apt-get", &["--quiet", "download", package])).map(drop);
        download().or_else(|_| self.update().and_then(|()| download()))
    }

    /// The real package behind the one that follows the newest kernel.
    fn newest_kernel(&self, flavour: Flavour) -> Result<String> {
        let output = run(&mut self.command("apt-cache", &["depends", flavour.package()]))?;
        let text = String::from_utf8_lossy(&output.stdout);
        kernel_dependency(&text).with_context(|| {
            format!("apt knows no kernel behind {}; it needs Debian's package lists", flavour.package())
        })
    }
}

/// The kernel package among the dependencies that `apt-cache depends` lists.
fn kernel_dependency(text: &str) -> Option<String> {
    let depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    depends.filter(|name| name.starts_with("linux-image-")).map(str::to_owned).next()
}

/// A folder for unfinished business, gone when this is dropped.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn create(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// Moves a finished folder to its place. Another process may have been faster: then its folder stays.
fn publish(ready: &Path, folder: &Path) -> Result<()> {
    match fs::rename(ready, folder) {
        Err(error) if !folder.is_dir() => {
            Err(error).with_context(|| format!("cannot create {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn found_in_path(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

/// Runs a command to its end; a failure carries what it said.
fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let arguments: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        bail!("{program} {} failed ({}): {}", arguments.join(" "), output.status, words.trim());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_among_the_dependencies() {
        let text =
            "linux-image-cloud-amd64\n  Depends: linux-base\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(kernel_dependency(text).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(kernel_dependency("N: Unable to locate package\n"), None);
    }

    #[test]
    fn what_is_in_the_cache_is_not_fetched() {
        let cache = tempfile::tempdir().unwrap();
        let say = |line: &str| panic!("nothing is fetched: {line}");
        let guests = Guests::new(cache.path(), &say);
        let folder = cache.path().join(Flavour::Cloud.folder());
        fs::create_dir(&folder).unwrap();
        fs::write(cache.path().join("busybox"), "ELF").unwrap();
        let error = guests.kernel(Flavour::Cloud).unwrap_err().to_string();
        assert!(error.contains("holds no kernel; remove it"), "{error}");
        for name in ["vmlinuz-6.1", "01-evdev.ko", "00-button.ko"] {
            fs::write(folder.join(name), name).unwrap();
        }
        let kernel = guests.kernel(Flavour::Cloud).unwrap();
        assert!(kernel.image.ends_with("vmlinuz-6.1"));
        let contents = guests.initramfs(&kernel, Some("true".into())).unwrap();
        assert_eq!(contents.busybox, b"ELF");
        assert_eq!(contents.modules[0], ("00-button.ko".into(), b"00-button.ko".to_vec()));
    }
}
