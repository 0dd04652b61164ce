//! A terminal to run softmetal on, as a user has one.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const SOON: Duration = Duration::from_secs(60);
/// For a text on the screen, be it the first of a guest that boots on a busy host.
const PATIENCE: Duration = Duration::from_secs(150);

/// softmetal on a terminal of its own.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    screen: File,
}

impl Terminal {
    /// Starts `command`, all three streams on the terminal.
    pub(crate) fn start(mut command: Command) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let open = || {
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
            rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap()
        };
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        let keyboard = File::from(terminal);
        let screen = keyboard.try_clone().unwrap();
        Self { child, keyboard, screen }
    }

    /// Waits for a text on the screen; the answer is everything up to it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut bytes = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = String::from_utf8_lossy(&seen);
            if shown.contains(text) {
                return shown.into_owned();
            }
            assert!(Instant::now() < deadline, "{text:?} does not come: {shown}");
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&self.screen, PollFlags::IN)], Some(&second))
                .is_ok_and(|ready| ready > 0)
            {
                let count = self.screen.read(&mut bytes).unwrap_or(0);
                assert!(count > 0, "{text:?} does not come: {shown}");
                seen.extend_from_slice(&bytes[..count]);
            }
        }
    }

    /// Gives the window another size, and says so to the process, whose controlling terminal this is not.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keyboard, size).unwrap();
        self.signal(Signal::WINCH);
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn typed(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    pub(crate) fn is_raw(&self) -> bool {
        !tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn until(&self, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition(self) {
            assert!(Instant::now() < deadline, "this takes too long");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails where the process has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until `text` has come; the answer is everything.
pub(crate) fn read_until(from: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let count = from.read(&mut bytes).unwrap();
        assert!(count > 0, "{text:?} does not come: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}
