//! The command line: from arguments to exit status.

pub mod args;
pub mod cpio;
pub mod debian;
mod demo;
mod image;
pub mod initramfs;
mod messages;
pub mod packages;
mod results;
mod signals;
mod verify;

use std::ffi::OsString;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;

use crate::accel::{choice, kvm};
use crate::config::{Config, KernelSource, UseError};
use crate::console::Console;
use crate::statistics::Report;
use crate::{Machine, Outcome};
use args::Request;
use results::Results;
use signals::Wired;

/// The guest of `softmetal demo`.
pub(crate) use demo::IMAGE as DEMO;

/// Wrong use: an option or a file that cannot be right.
const WRONG_USE: u8 = 2;
/// The host refused something.
const HOST_ERROR: u8 = 4;
/// The guest crashed.
const CRASHED: u8 = 6;

/// Does what the command line says; the answer is the status of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let status = args::parse(arguments).map_err(Into::into).and_then(obey).unwrap_or_else(|error| {
        messages::say(&format!("error: {error:#}"));
        if error.is::<UseError>() { WRONG_USE } else { HOST_ERROR }
    });
    ExitCode::from(status)
}

fn obey(request: Request) -> Result<u8> {
    match request {
        Request::Print(text) => {
            // Who closes the pipe early has read enough.
            let _ = stdout().write_all(text.as_bytes());
            Ok(0)
        }
        Request::Verify(arguments) => verify::run(&arguments),
        Request::Image(arguments) => image::run(&arguments),
        Request::Doctor => Ok(doctor()),
        Request::ProbeKvm { for_ever } => {
            kvm::run_probe(for_ever, &mut stdout().lock())?;
            Ok(0)
        }
        Request::Run(config) => run(&config),
        Request::Demo(machine) => run(&machine.boot(KernelSource::BuiltIn(demo::IMAGE))),
        Request::DemoDebian(machine) => run(&demo::debian(machine)?),
    }
}

/// Says how the host is.
fn doctor() -> u8 {
    let (lines, well) = choice::examine(&Config::new(KernelSource::BuiltIn(demo::IMAGE)));
    let mut text = lines.join("\n");
    text.push('\n');
    let _ = stdout().write_all(text.as_bytes());
    if well { 0 } else { HOST_ERROR }
}

fn run(config: &Config) -> Result<u8> {
    messages::start(config.verbosity);
    let (config, decision) = &choice::decide(config.clone())?;
    match decision {
        Some(line) if config.says_engine => messages::say(line),
        Some(line) => log::info!("{line}"),
        None => {}
    }
    let mut console = Console::of(config);
    let machine = Machine::build(config, &console)?;
    let results = Results::open(config)?;
    let handle = machine.handle();
    console.open(config, &handle)?;
    handle.window_changed();
    let [button, end, window, stopped] = std::array::from_fn(|_| handle.clone());
    let ended_by = signals::handle(Wired {
        power_button: move || button.press_power_button(),
        terminate: move || end.terminate(),
        window_changed: move || window.window_changed(),
        try_again: move || stopped.try_again(),
    })?;
    let mut report = Report::default();
    let outcome = machine.run(&mut report);
    // The guest's last words come before ours, and the terminal is as it was.
    drop(console);
    let outcome = outcome?;
    results.write(&report)?;
    let status = status(&outcome);
    ended_by.finish();
    Ok(status)
}

/// What the end of a machine means for the process.
fn status(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::PoweredOff | Outcome::Reset | Outcome::Terminated => 0,
        Outcome::DebugExit(value) => value << 1 | 1,
        Outcome::Failed(what) => {
            messages::say(&format!("error: {what}"));
            HOST_ERROR
        }
        Outcome::Crashed(description) => {
            messages::say(&format!("error: {description}"));
            CRASHED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debug_exit_gives_odd_statuses() {
        for outcome in
            [Outcome::PoweredOff, Outcome::Reset, Outcome::Terminated, Outcome::Crashed("x".into())]
        {
            assert_eq!(status(&outcome) % 2, 0, "{outcome:?}");
        }
        for (value, expected) in [(0, 1), (1, 3), (0x7f, 0xff), (0x80, 1), (0xff, 0xff)] {
            assert_eq!(status(&Outcome::DebugExit(value)), expected);
        }
    }
}
