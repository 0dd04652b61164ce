//! The committed counts: a line for each piece of work, and a line that says with which tools they were made.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

const HEAD: &str = "# Host instructions per unit; cargo bench --features testing --bench counts -- --bless writes this file.\n";
const TOOLS: &str = "# Counted with ";

/// A committed count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) count: f64,
    pub(crate) unit: String,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Baseline {
    tools: String,
    lines: Vec<Line>,
}

impl Baseline {
    /// What a file says; one that is not there says nothing.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let tools = text.lines().find_map(|line| line.strip_prefix(TOOLS)).unwrap_or_default().to_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines
            .map(|text| {
                Line::parse(text).with_context(|| format!("not a count in {}: {text}", path.display()))
            })
            .collect::<Result<_>>()?;
        Ok(Self { tools, lines })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn tools(&self) -> &str {
        &self.tools
    }

    pub(crate) fn line(&self, name: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.name == name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| line.name.as_str())
    }

    /// With these lines new and the others as they were, in the order of `names`; others go.
    pub(crate) fn with<'a>(
        self,
        new: impl Iterator<Item = Line>,
        names: impl Iterator<Item = &'a str>,
    ) -> Self {
        let new: Vec<Line> = new.collect();
        let latest = |name| new.iter().find(|line| line.name == name).or_else(|| self.line(name)).cloned();
        Self { lines: names.filter_map(latest).collect(), tools: self.tools }
    }

    pub(crate) fn write(&self, path: &Path, tools: &str) -> Result<()> {
        let mut text = format!("{HEAD}{TOOLS}{tools}\n");
        for Line { name, count, unit } in &self.lines {
            text += &format!("{name:<32} {count:>12.2}  per {unit}\n");
        }
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Line {
    fn parse(text: &str) -> Option<Line> {
        let (name, rest) = text.split_once(' ')?;
        let (count, unit) = rest.trim().split_once("  per ")?;
        Some(Line { name: name.into(), count: count.parse().ok()?, unit: unit.into() })
    }
}
