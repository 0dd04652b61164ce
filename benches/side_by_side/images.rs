//! What the machines are made of: the programs, built by the system's compiler, RAM disks, kernels, and a folder for the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use softmetal::cli::cpio::Archive;
use softmetal::cli::debian::{Flavour, Guests};
use softmetal::cli::packages::Root;

use crate::machine::Parts;
use crate::rows::{Place, Row};

/// The packages of the real programs: their own and those of their libraries.
const PACKAGES: &[&str] = &[
    "libc6",
    "zlib1g",
    "libzstd1",
    "liblzma5",
    "libgcc-s1",
    "dash",
    "gzip",
    "xz-utils",
    "perl-base",
    "libcrypt1",
    "openssl",
    "libssl3",
    "sqlite3",
    "libsqlite3-0",
    "libreadline8",
    "libtinfo6",
    "libexpat1",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "gcc-12",
    "cpp-12",
    "libgcc-12-dev",
    "libgmp10",
    "libisl23",
    "libmpc3",
    "libmpfr6",
    "binutils",
    "binutils-x86-64-linux-gnu",
    "libbinutils",
    "libctf0",
    "libctf-nobfd0",
    "libjansson4",
    "libc6-dev",
    "linux-libc-dev",
];

/// Where things are made, and where they come from.
pub(crate) struct Images {
    folder: PathBuf,
    sources: PathBuf,
    /// Cores of the host for machines of one and of two processors.
    cores: [String; 2],
    /// Held as long as this lives.
    _lock: fs::File,
}

impl Images {
    pub(crate) fn new(cores: [String; 2]) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/side-by-side");
        fs::create_dir_all(&folder)?;
        let lock = fs::File::create(folder.join("lock"))?;
        // Two runs would take each other's files and time.
        lock.try_lock().with_context(|| format!("another run is at work in {}", folder.display()))?;
        Ok(Self { folder, sources: root.join("benches/guest"), cores, _lock: lock })
    }

    /// The folder of the scripts that run Debian's programs.
    pub(crate) fn scripts(&self) -> PathBuf {
        self.sources.join("programs")
    }

    /// Where the static program is, once it is built.
    pub(crate) fn program_path(&self) -> PathBuf {
        self.folder.join("bench")
    }

    /// Builds the static program.
    pub(crate) fn program(&self) -> Result<PathBuf> {
        let program = self.program_path();
        let mut command = Command::new("gcc");
        command.args([
            "-O2",
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            "-Wno-missing-field-initializers",
            "-Werror",
        ]);
        command.args(["-static", "-pthread", "-o"]).arg(&program).args(files(&self.sources, "c")?).arg("-lm");
        let status = command.status().context("cannot start gcc")?;
        ensure!(status.success(), "{} does not compile", self.sources.display());
        Ok(program)
    }

    /// The parts of the machine that runs a row, and of those that can take its turn.
    pub(crate) fn parts(&self, row: &Row, percent: u32) -> Result<Parts> {
        let parts = Parts {
            memory: "1G",
            append: "console=ttyS0 quiet".to_owned(),
            cores: self.cores[usize::from(row.processors > 1)].clone(),
            processors: row.processors,
            ..Parts::default()
        };
        let say = |line: &str| eprintln!("guests: {line}");
        let guests = Guests::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/guests"), &say);
        match row.place {
            Place::Program => {
                let mut more = Archive::default();
                more.file("bench", 0o755, &fs::read(self.program_path())?);
                let (kernel, initrd) = self.linux(&guests, Flavour::Cloud, "program", more)?;
                Ok(Parts { kernel, initrd, native: vec!["sh".to_owned()], ..parts })
            }
            Place::Debian => {
                let root = Root::new(&guests, PACKAGES)?;
                let mut more = Archive::default();
                root.archive(&mut more, &wanted)?;
                for folder in ["programs", "programs/source"] {
                    more.directory(folder);
                }
                for (name, from) in self.script_files()? {
                    more.file(&format!("programs/{name}"), 0o755, &fs::read(from)?);
                }
                let (kernel, initrd) = self.linux(&guests, Flavour::Cloud, "debian", more)?;
                let native = self.native_root(&root)?;
                Ok(Parts { kernel, initrd, native, ..parts })
            }
            Place::Boot(flavour) => {
                let name = format!("{flavour:?}").to_lowercase();
                let (kernel, initrd) = self.linux(&guests, flavour, &name, Archive::default())?;
                Ok(Parts { kernel, initrd, ..parts })
            }
            Place::Bare => {
                let append = format!("row={} rounds={}", row.name, row.work(percent));
                Ok(Parts { kernel: self.bare()?, append, memory: "128M", ..parts })
            }
        }
    }

    /// A kernel of Debian's, and its RAM disk with more in it.
    fn linux(
        &self,
        guests: &Guests<'_>,
        flavour: Flavour,
        name: &str,
        more: Archive,
    ) -> Result<(PathBuf, Option<PathBuf>)> {
        let kernel = guests.kernel(flavour)?;
        // The kernel unpacks one archive after the other.
        let mut bytes = guests.initramfs(&kernel, None)?.build();
        bytes.extend(more.finish());
        let initrd = self.folder.join(format!("initrd-{name}"));
        fs::write(&initrd, bytes)?;
        Ok((kernel.image, Some(initrd)))
    }

    /// What Debian's programs work on: name below `programs`, and where it lies.
    fn script_files(&self) -> Result<Vec<(String, PathBuf)>> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut all: Vec<_> =
            files(&self.scripts(), "")?.into_iter().map(|path| (name(&path), path)).collect();
        for kind in ["c", "h"] {
            let sources = files(&self.sources, kind)?;
            all.extend(sources.into_iter().map(|path| (format!("source/{}", name(&path)), path)));
        }
        Ok(all)
    }

    /// The same files in a folder of the host; the answer is the command that starts a shell there.
    fn native_root(&self, root: &Root) -> Result<Vec<String>> {
        let folder = self.folder.join("root");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        for name in ["programs/source", "tmp", "dev"] {
            fs::create_dir_all(folder.join(name))?;
        }
        // Perl reads it where the script is an argument. To make the device, one must be root.
        fs::write(folder.join("dev/null"), "")?;
        root.copy(&folder, &wanted)?;
        for (name, from) in self.script_files()? {
            fs::copy(from, folder.join("programs").join(name))?;
        }
        let place = folder.display().to_string();
        let mut command: Vec<String> = Vec::new();
        if rustix::process::geteuid().is_root() {
            command.extend(["chroot".to_owned(), place]);
        } else {
            command.extend(["unshare".to_owned(), "--map-root-user".to_owned(), format!("--root={place}")]);
        }
        command.push("/bin/dash".to_owned());
        Ok(command)
    }

    /// Builds the guest for the bare machine.
    fn bare(&self) -> Result<PathBuf> {
        let folder = self.folder.join("bare");
        fs::create_dir_all(&folder)?;
        let mut command = Command::new("make");
        command.args(["--silent", "-C"]).arg(&folder).arg("-f").arg(self.sources.join("bare/Makefile"));
        let status = command.status().context("cannot start make")?;
        ensure!(status.success(), "{} does not compile", self.sources.join("bare").display());
        Ok(folder.join("bare.bin"))
    }
}

/// The files of a folder with this extension, or all, by name.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| {
        path.is_file() && (extension.is_empty() || path.extension().is_some_and(|e| e == extension))
    });
    files.sort();
    Ok(files)
}

/// No documentation, and nothing large that these programs do not use: other linkers, link-time optimisation, sanitizers.
fn wanted(name: &str) -> bool {
    const LARGE: &[&str] =
        &["lto1", "lto-dump", "gold", "dwp", "gprof", "/plugin/", "gconv", "/test/", "idlelib", "lib2to3"];
    const SANITIZERS: &[&str] = &["libasan", "libtsan", "liblsan", "libubsan", "libhwasan", "libgcov"];
    // What programs are linked with even where the libraries are shared ones.
    const ARCHIVES: &[&str] = &["libgcc.a", "libc_nonshared.a", "libpthread.a"];
    !name.starts_with("usr/share")
        && !LARGE.iter().chain(SANITIZERS).any(|part| name.contains(part))
        && (!name.ends_with(".a") || ARCHIVES.iter().any(|archive| name.ends_with(archive)))
}
