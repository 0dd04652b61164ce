//! What brings a thread back that runs guest code in KVM: a signal.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

thread_local! {
    /// The `immediate_exit` byte of the vCPU that this thread is about to run.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The thread that is in KVM for a vCPU, or about to go there.
#[derive(Debug, Default)]
pub(super) struct Kick {
    /// Its thread ID; 0 while nobody is.
    thread: AtomicI32,
}

impl Kick {
    /// The calling thread runs the vCPU with this `immediate_exit` byte until [`Inside`] is dropped. Whoever kicks from here on
    /// is noticed; who asked for something before is not: look then.
    ///
    /// # Safety
    /// The byte stays valid until then.
    pub(super) unsafe fn enter(&self, immediate_exit: *mut u8) -> Inside<'_> {
        IMMEDIATE_EXIT.set(immediate_exit);
        // SAFETY: no memory is touched.
        let thread = unsafe { libc::gettid() };
        self.thread.store(thread, SeqCst);
        Inside(self)
    }

    /// Brings the thread back, if there is one.
    pub(super) fn kick(&self) {
        let thread = self.thread.load(SeqCst);
        if thread != 0 {
            // SAFETY: no memory is touched; a thread that has ended meanwhile is not found.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }
}

/// While it lives, the vCPU's thread can be kicked.
pub(super) struct Inside<'a>(&'a Kick);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.thread.store(0, SeqCst);
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

fn signal() -> i32 {
    libc::SIGRTMIN()
}

/// Has the signal make the next KVM_RUN of its thread return at once. Once for the process.
pub(super) fn prepare() -> io::Result<()> {
    static PREPARED: OnceLock<Result<(), i32>> = OnceLock::new();
    let prepared = PREPARED.get_or_init(|| {
        let action = || {
            let _ = IMMEDIATE_EXIT.try_with(|byte| {
                let byte = byte.get();
                if !byte.is_null() {
                    // SAFETY: `enter` says that the byte is valid, and clears the pointer when it is no more. Only this
                    // thread and the kernel on its behalf touch it.
                    unsafe { byte.write_volatile(1) };
                }
            });
        };
        // SAFETY: the action only reads a thread-local variable without a destructor and writes a byte, which a signal
        // handler may.
        let registered = unsafe { signal_hook::low_level::register(signal(), action) };
        registered.map(drop).map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    });
    prepared.map_err(io::Error::from_raw_os_error)
}
