//! `/tmp/perf-PID.map`: names of translated code for Linux's `perf` and others that read such files.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use softmetal_cpu::{Placement, Placements};

use super::Symbols;
use crate::config::{Accel, Config};

/// The file, a line for each piece of translated code. Memory is used again at times: the last line counts.
pub(crate) struct PerfMap {
    symbols: Symbols,
    file: Mutex<File>,
}

impl PerfMap {
    /// Begins the file where a profile is wanted and code is translated.
    pub(crate) fn open(config: &Config) -> Result<Option<Arc<Self>>> {
        if config.profile.is_none() || config.accel != Accel::Jit {
            return Ok(None);
        }
        let symbols = Symbols::load(&config.symbols)?;
        let path = format!("/tmp/perf-{}.map", std::process::id());
        // Everybody may write to that folder: what others have put there under this name is left alone.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let file = options.open(&path).with_context(|| format!("--debug profile: cannot write {path}"))?;
        Ok(Some(Arc::new(Self { symbols, file: Mutex::new(file) })))
    }

    fn line(&self, Placement { address, bytes, linear }: Placement) -> String {
        let name = match linear {
            None => "softmetal: shared by all translations".into(),
            Some(linear) => self.symbols.find(linear).map_or_else(|| format!("{linear:#x}"), str::to_owned),
        };
        format!("{address:x} {bytes:x} {name}\n")
    }
}

impl Placements for PerfMap {
    fn placed(&self, placement: Placement) {
        // A full disk costs names, not the run.
        let _ = self.file.lock().write_all(self.line(placement).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_address_size_and_name() {
        let symbols = Symbols::parse(b"0000000000001000 T main\n0000000000002000 D data\n", None).unwrap();
        let map = PerfMap { symbols, file: Mutex::new(tempfile::tempfile().unwrap()) };
        let line = |linear| map.line(Placement { address: 0x7f00_1234_5000, bytes: 0x1a0, linear });
        assert_eq!(line(Some(0x1010)), "7f0012345000 1a0 main\n");
        assert_eq!(line(Some(0x2010)), "7f0012345000 1a0 0x2010\n");
        assert_eq!(line(None), "7f0012345000 1a0 softmetal: shared by all translations\n");
    }
}
