//! The guests of `softmetal demo`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::cli::args::Machine;
use crate::cli::debian::{Flavour, Guests};
use crate::cli::messages::say;
use crate::config::{Config, KernelSource};

/// The built-in guest, made from the sources beside it.
pub(crate) const IMAGE: &[u8] = include_bytes!("../../test-roms/demo/demo.bin");

/// How to get by hand what apt would bring.
const BY_HAND: &str = "\
On a Debian machine, or in a container (docker run -it debian):
  apt-get update && apt-get install -y cpio
  apt-get download $(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: //p') busybox-static
  for package in *.deb; do dpkg -x $package guest; done
  mkdir -p root/bin root/dev root/proc root/sys && cp guest/bin/busybox root/bin/
  printf '#!/bin/busybox sh\\n/bin/busybox --install -s /bin\\nmount -t devtmpfs dev /dev\\nexec sh </dev/console\\n' > root/init
  chmod +x root/init && (cd root && find . | cpio -o -H newc) > initrd
Then here:
  softmetal run --kernel guest/boot/vmlinuz-* --initrd initrd --append console=ttyS0
";

/// Debian's cloud kernel with busybox: what is missing in the cache folder is fetched first.
pub(crate) fn debian(machine: Machine) -> Result<Config> {
    let cache = cache_folder()?;
    let guests = Guests::new(&cache, &say);
    let fetch = || {
        say(&format!("Debian's cloud kernel and busybox are kept in {}", cache.display()));
        let kernel = guests.kernel(Flavour::Cloud)?;
        let archive = guests.initramfs(&kernel, None)?.build();
        Ok((kernel.image, write_whole(&cache.join("initrd"), &archive)?))
    };
    let (kernel, initrd) = fetch().map_err(|error: anyhow::Error| {
        let why = Guests::hindrance().unwrap_or_else(|| format!("{error:#}"));
        anyhow!("Debian's kernel cannot be fetched: {why}\n\nTo get the same by hand:\n\n{BY_HAND}")
    })?;
    say(&format!("booting {}; 'poweroff' or 'exit' in the guest ends it", kernel.display()));
    let config = machine.boot(KernelSource::File(kernel));
    // The last one is where the shell is.
    let append = if config.console.is_some() { "console=ttyS0 console=hvc0" } else { "console=ttyS0" };
    Ok(Config { initrd: vec![initrd], append: append.into(), ..config })
}

/// Where the user's programs keep what they can fetch again (XDG Base Directory Specification).
fn cache_folder() -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Ok(base
        .context("set HOME or XDG_CACHE_HOME to an absolute path: there is no cache folder")?
        .join("softmetal"))
}

/// Writes a file so that others see nothing or all of it.
fn write_whole(path: &Path, content: &[u8]) -> Result<PathBuf> {
    let unfinished = path.with_extension(std::process::id().to_string());
    fs::write(&unfinished, content)
        .and_then(|()| fs::rename(&unfinished, path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.into())
}
