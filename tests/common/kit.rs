//! A whole Debian on a disk, made by debootstrap and kept in the cache: systemd, fio, stress-ng, Python, gcc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use softmetal_storage::image::{CLUSTER_SIZE, convert};
use softmetal_storage::{Format, OpenOptions, open};

use super::cache;

const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,login,e2fsprogs,kmod,initramfs-tools,linux-image-cloud-amd64,fio,\
                        stress-ng,python3,gcc,libc6-dev";
const SUITE: &str = "bookworm";
const DISK: &str = "4G";

/// What boots it.
#[derive(Clone, Debug)]
pub(crate) struct Kit {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// The disk, qcow2: to be used with overlays.
    pub disk: PathBuf,
}

impl Kit {
    /// Why there is none: it takes root and some minutes to make one, which happens only where it is asked for.
    pub(crate) fn hindrance() -> Option<String> {
        if folder().is_dir() {
            return None;
        }
        if std::env::var_os("SOFTMETAL_KIT").is_none() {
            return Some("SOFTMETAL_KIT=1 has debootstrap make the Debian for this, as root".into());
        }
        for tool in ["debootstrap", "mkfs.ext4", "chroot"] {
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            if !std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()) {
                return Some(format!("{tool} is not on this host"));
            }
        }
        (!rustix::process::geteuid().is_root()).then(|| "debootstrap needs root".into())
    }

    /// The kit, made if it is not in the cache.
    pub(crate) fn get() -> Result<Self> {
        let folder = folder();
        if !folder.is_dir() {
            make(&folder)?;
        }
        let file = |name: &str| folder.join(name);
        Ok(Self { kernel: file("vmlinuz"), initrd: file("initrd.img"), disk: file("debian.qcow2") })
    }
}

fn folder() -> PathBuf {
    cache().join("debian-disk")
}

fn make(folder: &Path) -> Result<()> {
    let work = folder.with_extension("work");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let (root, ready, raw) = (work.join("root"), work.join("ready"), work.join("debian.img"));
    fs::create_dir(&ready)?;
    eprintln!("guests: debootstrap makes a Debian, which takes some minutes");
    run(Command::new("debootstrap")
        .args(["--variant=minbase", "--include", PACKAGES, SUITE])
        .arg(&root)
        .args(mirror()))?;
    fs::write(root.join("etc/hostname"), "softmetal\n")?;
    fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")?;
    run(Command::new("chroot").arg(&root).args(["passwd", "-d", "root"]))?;
    for entry in fs::read_dir(root.join("boot"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for wanted in ["vmlinuz", "initrd.img"] {
            if name.starts_with(wanted) {
                fs::copy(&path, ready.join(wanted))?;
            }
        }
    }
    ensure!(ready.join("initrd.img").is_file(), "no initial RAM disk was made");
    let _ = fs::remove_dir_all(root.join("var/cache/apt/archives"));
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&root).arg(&raw).arg(DISK))?;
    let options = OpenOptions { path: raw, format: Some(Format::Raw), ..OpenOptions::default() };
    convert(&*open(&options)?, &ready.join("debian.qcow2"), Format::Qcow2, CLUSTER_SIZE, &mut |_| ())?;
    fs::rename(&ready, folder)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// Where apt of this host gets its packages from, so that debootstrap asks the same.
fn mirror() -> Option<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(SITE)", "Created-By: Packages"]);
    let answer = command.output().ok()?;
    String::from_utf8_lossy(&answer.stdout).lines().next().map(str::to_owned)
}

fn run(command: &mut Command) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let answer = command.env("PATH", path).env("LC_ALL", "C.UTF-8").output();
    let answer = answer.with_context(|| format!("cannot start {command:?}"))?;
    if !answer.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&answer.stderr));
    }
    Ok(())
}
