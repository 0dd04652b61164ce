//! Messages to the user, all of them on standard error and beginning with the program's name.

use std::io::Write;

use log::{Level, LevelFilter};

/// Sends log records to standard error: warnings always, more where the user has asked for it.
pub(crate) fn start(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut logger = env_logger::Builder::new();
    logger.filter_level(level).format(|out, record| {
        let kind = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        writeln!(out, "softmetal: {kind}: {}", record.args())
    });
    // Only a second start in one process fails, and then the first one's choice stands.
    let _ = logger.try_init();
}

/// A line of progress.
pub(crate) fn say(line: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "softmetal: {line}");
}
