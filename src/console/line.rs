//! A line: what a port of the guest is connected to on the host, and the threads that carry bytes.
//!
//! ```text
//! guest -> port -> Outbox -> writer thread -> stdout, file, socket
//! guest <- port <- feeder thread <- Inbox <- reader thread <- (Ctrl-A) stdin, socket
//! ```
//!
//! A serial port is fed: the feeder offers it input. A virtio port is told that there is some, and takes it.

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
use softmetal_devices::virtio::console::PortEnd;

use super::escape::{self, Keys, Typed, Wish};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::{socket, terminal};

/// How long the end of the machine waits for a socket's client, or for anyone after Ctrl-A x, to take the rest.
const PATIENCE: Duration = Duration::from_secs(2);

/// How input reaches the guest.
pub(super) enum Feed {
    /// It is offered to a port, which answers how many bytes it has taken.
    Offer(Box<dyn Fn(&[u8]) -> usize + Send>),
    /// A port is told that something has changed, and takes input itself.
    Tell(Box<dyn Fn() + Send + Sync>),
}

/// A line, and what stands at its host end.
#[derive(Debug)]
pub(super) struct Line {
    /// The option that asks for it, for messages.
    option: &'static str,
    outbox: Arc<Outbox>,
    inbox: Arc<Inbox>,
    raw: Option<terminal::RawMode>,
    socket: Option<socket::Presence>,
    patience: Option<Duration>,
}

impl Line {
    /// A line that leads nowhere yet; output waits.
    pub(super) fn new(option: &'static str) -> Self {
        let (outbox, inbox) = (Arc::new(Outbox::new()), Arc::new(Inbox::new()));
        Self { option, outbox, inbox, raw: None, socket: None, patience: None }
    }

    /// Where a serial port sends to.
    pub(super) fn output(&self) -> Output {
        Output(Arc::clone(&self.outbox))
    }

    /// What a serial port calls when it wants input after having refused some.
    pub(super) fn input_wanted(&self) -> Box<dyn Fn() + Send> {
        let inbox = Arc::clone(&self.inbox);
        Box::new(move || inbox.want())
    }

    /// The end for a virtio port. What a channel sends is lost when nobody is there; of a terminal's, the newest is kept.
    pub(super) fn end(&self, keeps: bool) -> LineEnd {
        LineEnd { outbox: Arc::clone(&self.outbox), inbox: Arc::clone(&self.inbox), keeps }
    }

    /// Connects the line with `target`; a terminal goes raw, and what is wished on it goes to `wish`.
    pub(super) fn open(
        &mut self,
        target: &SerialTarget,
        feed: Feed,
        wish: Box<dyn Fn(Wish) + Send>,
    ) -> Result<()> {
        let (outbox, inbox) = (Arc::clone(&self.outbox), Arc::clone(&self.inbox));
        let option = self.option;
        let name = option.trim_start_matches('-');
        let feeder = Arc::clone(&self.inbox);
        match feed {
            Feed::Offer(port) => spawn(name, "feeder", move || feeder.feed(&*port))?,
            Feed::Tell(port) => {
                let port: Arc<dyn Fn() + Send + Sync> = Arc::from(port);
                self.outbox.on_change({
                    let port = Arc::clone(&port);
                    Box::new(move || port())
                });
                spawn(name, "feeder", move || feeder.announce(&*port))?;
            }
        }
        match target {
            SerialTarget::Stdio => {
                self.raw = terminal::RawMode::enter()
                    .with_context(|| format!("{option} stdio: the terminal cannot be made raw"))?;
                self.outbox.enter();
                spawn(name, "output", move || {
                    write_all_output(&outbox, stdout().as_fd(), "standard output")
                })?;
                if self.raw.is_some() {
                    let outbox = Arc::clone(&self.outbox);
                    spawn(name, "input", move || {
                        read_keys(&inbox, &|wished| {
                            wish(wished);
                            // A guest that waits for a reader who reads no more has to see its end.
                            if wished == Wish::End {
                                outbox.drain(Some(PATIENCE));
                                outbox.close();
                            }
                        });
                    })?;
                } else {
                    spawn(name, "input", move || read_pipe(&inbox))?;
                }
            }
            SerialTarget::File(path) => {
                let file = File::create(path)
                    .with_context(|| format!("{option} file={}: cannot be written", path.display()))?;
                let to = path.display().to_string();
                self.outbox.enter();
                spawn(name, "output", move || write_all_output(&outbox, file.as_fd(), &to))?;
            }
            SerialTarget::Unix(path) => self.listen(path, &format!("{option} unix={}", path.display()))?,
            SerialTarget::None => self.outbox.close(),
        }
        Ok(())
    }

    /// Connects the line with a socket; `asked` is how messages call it.
    pub(super) fn listen(&mut self, path: &Path, asked: &str) -> Result<()> {
        let (outbox, inbox) = (Arc::clone(&self.outbox), Arc::clone(&self.inbox));
        let (listener, presence) = socket::listen(path, asked)?;
        self.socket = Some(presence);
        self.patience = Some(PATIENCE);
        spawn(self.option.trim_start_matches('-'), "socket", move || {
            socket::serve(&listener, &outbox, &inbox)
        })
    }
}

impl Drop for Line {
    /// The guest's last words get out; then the terminal comes back and the socket goes, as the fields drop.
    fn drop(&mut self) {
        self.outbox.drain(self.patience);
        self.outbox.close();
    }
}

/// A virtio port's end of a line.
#[derive(Clone, Debug)]
pub(crate) struct LineEnd {
    outbox: Arc<Outbox>,
    inbox: Arc<Inbox>,
    keeps: bool,
}

impl PortEnd for LineEnd {
    fn is_connected(&self) -> bool {
        self.outbox.has_reader()
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.outbox.offer(bytes, self.keeps)
    }

    fn has_input(&self) -> bool {
        self.inbox.has_bytes()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        self.inbox.take(bytes)
    }

    fn again(&mut self) {
        self.inbox.again();
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

fn spawn(name: &str, what: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(format!("{name} {what}"))
        .spawn(work)
        .with_context(|| format!("cannot start the thread for {name} {what}"))?;
    Ok(())
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

fn read_keys(inbox: &Inbox, wish: &dyn Fn(Wish)) {
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
                Typed::Wish(wished) => wish(wished),
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

    fn open(target: &SerialTarget) -> Result<(Line, Received)> {
        let mut line = Line::new("--serial");
        let received = Received::default();
        let port = {
            let received = Arc::clone(&received);
            Box::new(move |bytes: &[u8]| {
                received.lock().extend_from_slice(bytes);
                bytes.len()
            })
        };
        line.open(target, Feed::Offer(port), Box::new(|_| {}))?;
        Ok((line, received))
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
        let (line, _) = open(&SerialTarget::File(path.clone())).unwrap();
        line.output().write(b"hello ");
        line.output().write(b"world");
        drop(line);
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        let message = format!("{:#}", open(&SerialTarget::File(folder.path().into())).unwrap_err());
        assert!(message.starts_with("--serial file=") && message.contains("cannot be written"), "{message}");
    }

    #[test]
    fn a_full_disk_does_not_stop_the_guest() {
        let (line, _) = open(&SerialTarget::File("/dev/full".into())).unwrap();
        for _ in 0..100 {
            line.output().write(&[b'x'; 4096]);
        }
    }

    #[test]
    fn a_socket_serves_clients_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (line, received) = open(&SerialTarget::Unix(path.clone())).unwrap();
        line.output().write(b"before");
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
        line.output().write(b"after");
        let mut bytes = [0; 5];
        second.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"after");
        line.output().write(b"last words");
        drop(line);
        let mut rest = [0; 10];
        second.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"last words");
    }

    #[test]
    fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (listener, presence) = socket::listen(&path, "--serial unix=x").unwrap();
        let message = socket::listen(&path, "--serial unix=x").unwrap_err().to_string();
        assert!(message.contains("the socket is in use"), "{message}");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "the question whether the socket is in use is no client");
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(socket::listen(&file, "--serial unix=x").unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        let message =
            socket::listen(&folder.path().join("x".repeat(120)), "--serial unix=x").unwrap_err().to_string();
        assert!(message.contains("too long"), "{message}");
        drop(presence);
        assert!(!path.exists());
        let message =
            socket::listen(&folder.path().join("no/socket"), "--serial unix=x").unwrap_err().to_string();
        assert!(message.contains("its folder does not exist"), "{message}");
    }
}
