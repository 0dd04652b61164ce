//! One piece of work under callgrind, in a process of its own.
//!
//! Valgrind shows the process a processor of its own, the same on all hosts with AVX2, so that run-time detection takes the same
//! paths everywhere.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// What the counts depend on besides the sources: the versions of compiler and valgrind.
pub(crate) fn tools() -> Result<String> {
    let rustc = version(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())), "rustc")?;
    let valgrind = version(Command::new(valgrind()?), "valgrind")?;
    Ok(format!("{rustc}, {valgrind}"))
}

/// Where valgrind is.
fn valgrind() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join("valgrind")).find(|file| file.is_file());
    found.context("there is no valgrind; apt install valgrind brings it")
}

fn version(mut program: Command, what: &str) -> Result<String> {
    let output = program.arg("--version").output().with_context(|| format!("cannot start {what}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Instructions of a piece of work, and of how many units it is.
pub(crate) fn count(name: &str) -> Result<(u64, u64)> {
    let program = env::current_exe().context("where is this program?")?;
    let folder = program.parent().context("this program is in no folder")?;
    let file = program.file_name().context("this program has no name")?;
    let mut command = Command::new(valgrind()?);
    // The stack begins with arguments and environment: they are the same whoever runs it and wherever.
    command.current_dir(folder).env_clear();
    // Callgrind takes each iteration of REP for an instruction: copies and fills of the C library go by vectors instead.
    command.env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS,-FSRM");
    // Translated code is written where it is mapped a second time: valgrind looks at each piece again before it runs.
    command.arg("--smc-check=all");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_region*"]);
    command.arg(Path::new(".").join(file)).args(["--measure", name]);
    let output = command.stdin(Stdio::null()).output().context("cannot start valgrind")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} fails under valgrind:\n{messages}");
    // ==123== Collected : 456
    let collected = messages.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    let instructions: u64 =
        collected.with_context(|| format!("callgrind counts nothing of {name}:\n{messages}"))?;
    let units: u64 =
        String::from_utf8_lossy(&output.stdout).trim().parse().context("not a number of units")?;
    ensure!(instructions > 0 && units > 0, "callgrind does not see the work of {name}");
    Ok((instructions, units))
}
