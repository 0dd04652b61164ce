//! What is left of a run when the machine has ended: `-v`, `--stats`, `--debug profile`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::messages;
use crate::config::{Config, ProfileTo};
use crate::profile::{Symbols, folded, top};
use crate::statistics::Report;

/// Where the results go. Files are opened before the machine starts, so that no run is in vain.
pub(crate) struct Results {
    stats: Option<Output>,
    profile: Option<Profile>,
}

struct Profile {
    file: Option<Output>,
    symbols: Symbols,
    print: bool,
}

struct Output {
    path: PathBuf,
    file: File,
}

impl Output {
    fn create(option: &str, path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("{option} {}: cannot be written", path.display()))?;
        Ok(Self { path: path.into(), file })
    }

    fn write(mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Results {
    /// Opens what the machine's description wants to be written.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let profile = match &config.profile {
            None => None,
            Some(to) => {
                let symbols = Symbols::load(&config.symbols)?;
                let file = match to {
                    ProfileTo::Messages => None,
                    ProfileTo::File(path) => Some(Output::create("--debug profile", path)?),
                };
                let print = file.is_none() || config.verbosity > 0;
                Some(Profile { file, symbols, print })
            }
        };
        let stats = config.stats.as_deref().map(|path| Output::create("--stats", path)).transpose()?;
        Ok(Self { stats, profile })
    }

    /// Prints and writes what the machine has done.
    pub(crate) fn write(self, report: &Report) -> Result<()> {
        report.to_string().lines().for_each(|line| log::info!("{line}"));
        if let Some(Profile { file, symbols, print }) = self.profile {
            if print {
                top(&report.profile, &symbols).lines().for_each(messages::say);
            }
            if let Some(file) = file {
                file.write(&folded(&report.profile, &symbols))?;
            }
        }
        match self.stats {
            Some(file) => file.write(&format!("{:#}\n", report.to_json())),
            None => Ok(()),
        }
    }
}
