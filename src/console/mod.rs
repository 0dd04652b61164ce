//! The host side of the serial port: terminal, pipe, file or socket.
//!
//! ```text
//! guest -> Uart -> Output -> Outbox -> writer thread -> stdout, file, socket
//! guest <- Uart <- feeder thread <- Inbox <- reader thread <- (Ctrl-A) stdin, socket
//! ```
//!
//! A [`Console`] is made before the machine, so that the serial port has somewhere to send to; it is
//! [opened](Console::open) when the machine stands, so that nothing is left behind where building fails.

mod escape;
mod inbox;
mod outbox;
mod socket;
mod terminal;

use std::fs::File;
use std::io::{self, Write, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use softmetal_devices::char::CharBackend;

use crate::config::SerialTarget;
use escape::{Keys, Typed};
use inbox::Inbox;
use outbox::Outbox;

/// How long the end of the machine waits for a socket's client, or for anyone after Ctrl-A x, to take the rest.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives input to the serial port, which answers how many bytes it has taken.
pub type Port = Box<dyn Fn(&[u8]) -> usize + Send>;

/// What the console asks of the machine.
pub struct Wiring {
    /// Where input goes.
    pub port: Port,
    /// Ends the machine: Ctrl-A x.
    pub end: Box<dyn Fn() + Send>,
    /// Moves the machine to another engine: Ctrl-A e.
    pub engine: Box<dyn Fn() + Send>,
}

/// The host side of the serial port.
#[derive(Debug)]
pub struct Console {
    outbox: Arc<Outbox>,
    inbox: Arc<Inbox>,
    raw: Option<terminal::RawMode>,
    socket: Option<socket::Presence>,
    patience: Option<Duration>,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console that leads nowhere yet; output waits.
    #[must_use]
    pub fn new() -> Self {
        let (outbox, inbox) = (Arc::new(Outbox::new()), Arc::new(Inbox::new()));
        Self { outbox, inbox, raw: None, socket: None, patience: None }
    }

    /// Where the serial port sends to.
    #[must_use]
    pub fn output(&self) -> Output {
        Output(Arc::clone(&self.outbox))
    }

    /// What the serial port calls when it wants input after having refused some.
    #[must_use]
    pub fn input_wanted(&self) -> Box<dyn Fn() + Send> {
        let inbox = Arc::clone(&self.inbox);
        Box::new(move || inbox.want())
    }

    /// Connects the serial port with `target`; a terminal goes raw.
    pub fn open(&mut self, target: &SerialTarget, wiring: Wiring) -> Result<()> {
        let Wiring { port, end, engine } = wiring;
        let (outbox, inbox) = (Arc::clone(&self.outbox), Arc::clone(&self.inbox));
        match target {
            SerialTarget::Stdio => {
                self.raw =
                    terminal::RawMode::enter().context("--serial stdio: the terminal cannot be made raw")?;
                self.outbox.enter();
                spawn("serial output", move || {
                    write_all_output(&outbox, stdout().as_fd(), "standard output")
                })?;
                if self.raw.is_some() {
                    let outbox = Arc::clone(&self.outbox);
                    spawn("serial input", move || {
                        let end = || {
                            end();
                            // A guest that waits for a reader who reads no more has to see its end.
                            outbox.drain(Some(PATIENCE));
                            outbox.close();
                        };
                        read_keys(&inbox, &end, &*engine);
                    })?;
                } else {
                    spawn("serial input", move || read_pipe(&inbox))?;
                }
            }
            SerialTarget::File(path) => {
                let file = create(path)?;
                let name = path.display().to_string();
                self.outbox.enter();
                spawn("serial output", move || write_all_output(&outbox, file.as_fd(), &name))?;
            }
            SerialTarget::Unix(path) => {
                let (listener, presence) = socket::listen(path)?;
                self.socket = Some(presence);
                self.patience = Some(PATIENCE);
                spawn("serial socket", move || socket::serve(&listener, &outbox, &inbox))?;
            }
            SerialTarget::None => self.outbox.close(),
        }
        let inbox = Arc::clone(&self.inbox);
        spawn("serial feeder", move || inbox.feed(&*port))
    }
}

impl Drop for Console {
    /// The guest's last words get out; then the terminal comes back and the socket goes, as the fields drop.
    fn drop(&mut self) {
        self.outbox.drain(self.patience);
        self.outbox.close();
    }
}

/// Where a serial port sends to. It waits while a reader is slower than the guest, so that nothing is lost.
#[derive(Clone, Debug)]
pub struct Output(Arc<Outbox>);

impl CharBackend for Output {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}

/// Leaves nothing behind, however the process ends: puts the terminal back, removes the socket.
pub fn clean_up() {
    terminal::restore();
    socket::remove_all();
}

/// The process is about to be stopped: the terminal is the shell's meanwhile.
pub(crate) fn suspend() {
    terminal::suspend();
}

/// The process goes on after a stop.
pub(crate) fn resume() {
    terminal::resume();
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .with_context(|| format!("cannot start the {name} thread"))?;
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("--serial file={}: cannot be written", path.display()))
}

/// Takes output to `to` until the console closes or writing fails.
fn write_all_output(outbox: &Outbox, to: BorrowedFd<'_>, name: &str) {
    while let Some(bytes) = outbox.take(0) {
        if let Err(error) = write_all(to, &bytes) {
            log::warn!("cannot write the guest's output to {name}: {error}; what follows is dropped");
            outbox.close();
        }
    }
}

/// Writes everything, also where a neighbour has made the shared terminal non-blocking.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(to, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for(fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads standard input; an empty answer is its end.
fn read_stdin(bytes: &mut [u8]) -> usize {
    loop {
        match rustix::io::read(stdin(), &mut *bytes) {
            Ok(count) => return count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if wait_for(stdin().as_fd(), PollFlags::IN).is_err() {
                    return 0;
                }
            }
            // A background process without a terminal, a closed descriptor: no input, as at its end.
            Err(_) => return 0,
        }
    }
}

fn read_pipe(inbox: &Inbox) {
    let mut bytes = [0; 4096];
    loop {
        let count = read_stdin(&mut bytes);
        if count == 0 {
            return;
        }
        inbox.push(&bytes[..count]);
    }
}

fn read_keys(inbox: &Inbox, end: &dyn Fn(), engine: &dyn Fn()) {
    let mut keys = Keys::default();
    let mut bytes = [0; 4096];
    loop {
        let count = read_stdin(&mut bytes);
        if count == 0 {
            return;
        }
        for &byte in &bytes[..count] {
            match keys.typed(byte) {
                Typed::Guest(byte) => {
                    if !inbox.try_push(byte) {
                        log::debug!("the guest does not read: a typed byte is lost");
                    }
                }
                Typed::Nothing => {}
                Typed::Help => {
                    // Standard error may be gone; help is then of no use.
                    let _ = write!(io::stderr(), "\n{}", escape::HELP);
                }
                Typed::Engine => engine(),
                Typed::End => end(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    type Received = Arc<Mutex<Vec<u8>>>;

    fn open(target: &SerialTarget) -> Result<(Console, Received)> {
        let mut console = Console::new();
        let received = Received::default();
        let port = {
            let received = Arc::clone(&received);
            Box::new(move |bytes: &[u8]| {
                received.lock().extend_from_slice(bytes);
                bytes.len()
            })
        };
        console.open(target, Wiring { port, end: Box::new(|| {}), engine: Box::new(|| {}) })?;
        Ok((console, received))
    }

    fn wait_until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "this takes too long");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_file_gets_all_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let (console, _) = open(&SerialTarget::File(path.clone())).unwrap();
        console.output().write(b"hello ");
        console.output().write(b"world");
        drop(console);
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        let message = format!("{:#}", open(&SerialTarget::File(folder.path().into())).unwrap_err());
        assert!(message.starts_with("--serial file=") && message.contains("cannot be written"), "{message}");
    }

    #[test]
    fn a_full_disk_does_not_stop_the_guest() {
        let (console, _) = open(&SerialTarget::File("/dev/full".into())).unwrap();
        for _ in 0..100 {
            console.output().write(&[b'x'; 4096]);
        }
    }

    #[test]
    fn a_socket_serves_clients_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (console, received) = open(&SerialTarget::Unix(path.clone())).unwrap();
        console.output().write(b"before");
        let mut first = UnixStream::connect(&path).unwrap();
        let mut bytes = [0; 6];
        first.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"before");
        first.write_all(b"one").unwrap();
        wait_until(|| *received.lock() == b"one");
        drop(first);
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"two").unwrap();
        wait_until(|| *received.lock() == b"onetwo");
        console.output().write(b"after");
        let mut bytes = [0; 5];
        second.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"after");
        console.output().write(b"last words");
        drop(console);
        let mut rest = [0; 10];
        second.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"last words");
    }

    #[test]
    fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (listener, presence) = socket::listen(&path).unwrap();
        let message = socket::listen(&path).unwrap_err().to_string();
        assert!(message.contains("the socket is in use"), "{message}");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "the question whether the socket is in use is no client");
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(socket::listen(&file).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        let message = socket::listen(&folder.path().join("x".repeat(120))).unwrap_err().to_string();
        assert!(message.contains("too long"), "{message}");
        drop(presence);
        assert!(!path.exists());
        let message = socket::listen(&folder.path().join("no/socket")).unwrap_err().to_string();
        assert!(message.contains("its folder does not exist"), "{message}");
    }
}
