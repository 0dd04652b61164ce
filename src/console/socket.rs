//! A listening socket, for one client at a time.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::inbox::Inbox;
use super::outbox::Outbox;

/// Sockets of this process that are to be removed at its end, however it ends.
static OURS: Mutex<Vec<SocketFile>> = Mutex::new(Vec::new());

#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let about = fs::symlink_metadata(path)?;
        Ok(Self { path: path.into(), device: about.dev(), inode: about.ino() })
    }

    /// Removes the socket, unless something else has taken its place.
    fn remove(&self) {
        if Self::at(&self.path).is_ok_and(|now| now == *self)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes the sockets that this process has made.
pub(crate) fn remove_all() {
    let ours = std::mem::take(&mut *OURS.lock());
    ours.iter().for_each(SocketFile::remove);
}

/// The socket is there as long as this lives.
#[derive(Debug)]
pub(crate) struct Presence(SocketFile);

impl Drop for Presence {
    fn drop(&mut self) {
        OURS.lock().retain(|file| *file != self.0);
        self.0.remove();
    }
}

/// Makes a listening socket at `path`, in the place of one that nobody listens on any more. Messages call it `asked`.
pub(crate) fn listen(path: &Path, asked: &str) -> Result<(UnixListener, Presence)> {
    match fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => {
            bail!("{asked}: something that is no socket is in its place; choose another path");
        }
        Ok(_) if is_alive(path) => {
            bail!("{asked}: the socket is in use; end the process that listens on it or choose another path");
        }
        Ok(_) => {
            fs::remove_file(path).with_context(|| format!("{asked}: cannot replace the stale socket"))?;
        }
        // Whatever is wrong with the path, binding says it.
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "its folder does not exist".into(),
            ErrorKind::InvalidInput => "the path is too long for a socket, which takes 107 bytes".into(),
            _ => error.to_string(),
        };
        anyhow::anyhow!("{asked}: cannot make the socket: {why}")
    })?;
    let file = SocketFile::at(path)
        .with_context(|| format!("{asked}: the socket vanished as soon as it was made"))?;
    OURS.lock().push(file.clone());
    Ok((listener, Presence(file)))
}

/// Whether a process has the socket open. A datagram socket cannot connect to a stream socket, but is told whether there
/// is one; so the listener does not take the question for a client.
fn is_alive(path: &Path) -> bool {
    let answer = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    match answer {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()),
    }
}

/// Serves one client after the other, for ever.
pub(crate) fn serve(listener: &UnixListener, outbox: &Arc<Outbox>, inbox: &Arc<Inbox>) {
    for client in listener.incoming() {
        match client {
            Ok(client) => serve_client(client, outbox, inbox),
            Err(error) => {
                log::warn!("a socket accepts no more clients: {error}");
                return;
            }
        }
    }
}

fn serve_client(mut client: UnixStream, outbox: &Arc<Outbox>, inbox: &Arc<Inbox>) {
    let interrupts = outbox.interrupts();
    let reader = client.try_clone().and_then(|mut client| {
        let (outbox, inbox) = (Arc::clone(outbox), Arc::clone(inbox));
        thread::Builder::new().name("socket input".into()).spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = client.read(&mut bytes) {
                inbox.push(&bytes[..count]);
            }
            outbox.interrupt();
        })
    });
    let Ok(reader) = reader else {
        log::warn!("a socket turns a client away: no thread can be started for it");
        return;
    };
    outbox.enter();
    while let Some(bytes) = outbox.take(interrupts) {
        if client.write_all(&bytes).is_err() {
            break;
        }
    }
    outbox.leave();
    // Ends the reading thread; a client that has gone already is as good.
    let _ = client.shutdown(Shutdown::Both);
    let _ = reader.join();
}
