//! The terminal on standard input: raw while the guest has it, and put back whatever happens.
//!
//! The terminal belongs to the process, so its saved modes are process-wide: a panic hook and the signal thread
//! restore them as well as [`RawMode`] does when it is dropped.

use std::io::{self, stdin};
use std::sync::Once;

use parking_lot::Mutex;
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

/// How the terminal was before it went raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal is raw as long as this lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal on standard input raw; `None` where standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        static HOOK: Once = Once::new();
        if !isatty(stdin()) {
            return Ok(None);
        }
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                super::clean_up();
                next(panic);
            }));
        });
        let modes = tcgetattr(stdin())?;
        *SAVED.lock() = Some(modes.clone());
        make_raw(&modes)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Columns and rows of the terminal on standard input, if it is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    tcgetwinsize(stdin()).ok().map(|size| (size.ws_col, size.ws_row))
}

/// Puts the terminal back. Harmless where it is not raw.
pub(crate) fn restore() {
    let saved = SAVED.lock().take();
    if let Some(modes) = saved {
        // Nothing can be done about a terminal that has gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
    }
}

/// Puts the terminal back for as long as the process is stopped.
pub(crate) fn suspend() {
    if let Some(modes) = SAVED.lock().as_ref() {
        let _ = tcsetattr(stdin(), OptionalActions::Now, modes);
    }
}

/// Makes the terminal raw again after a stop, unless the process goes on in the background.
pub(crate) fn resume() {
    // A terminal that does not control us has no notion of foreground, and no shell that wants it back.
    if let Some(modes) = SAVED.lock().as_ref()
        && tcgetpgrp(stdin()).map_or(true, |foreground| foreground == getpgrp())
    {
        let _ = make_raw(modes);
    }
}

/// Every key goes to the guest. Output processing stays as it was, so that our own messages look right; guests send
/// carriage returns themselves, and a second one changes nothing. Changes come at once: waiting for the output to drain
/// could be for ever.
fn make_raw(saved: &Termios) -> io::Result<()> {
    let mut modes = saved.clone();
    modes.make_raw();
    modes.output_modes = saved.output_modes;
    Ok(tcsetattr(stdin(), OptionalActions::Now, &modes)?)
}
