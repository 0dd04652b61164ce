//! What brings a thread back that runs guest code in KVM: a signal.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

thread_local! {
    /// The `immediate_exit` byte of the vCPU that this thread is about to run.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
    /// Made when the thread first needs it.
    static ALARM: Alarm = Alarm::new();
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

/// Has the calling thread come back from KVM_RUN after less than a second from now, once; not at an earlier time that was set.
/// Where the host has no timer left, it does not.
pub(super) fn set_alarm(after: Duration) {
    ALARM.with(|alarm| alarm.arm(after.subsec_nanos()));
}

/// No more. A signal that is on its way may still come.
pub(super) fn clear_alarm() {
    ALARM.with(|alarm| alarm.arm(0));
}

/// Sleeps for less than a second, or until the calling thread is kicked; a kick that has come before does not count.
pub(super) fn wait(longest: Duration) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
    // SAFETY: the kernel reads the time. A signal ends it, which is what a kick is.
    unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
}

/// A timer that signals the thread that has made it.
struct Alarm(Option<libc::timer_t>);

impl Alarm {
    fn new() -> Self {
        // SAFETY: all zeros is a value of it.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        // SAFETY: no memory is touched.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: the kernel reads the event and writes the timer's number.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } != 0 {
            log::debug!("no alarm for KVM: {}", io::Error::last_os_error());
            return Self(None);
        }
        Self(Some(timer))
    }

    fn arm(&self, nanoseconds: u32) {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds.into() };
        let times = libc::itimerspec { it_interval: never, it_value: value };
        if let Some(timer) = self.0 {
            // SAFETY: the kernel reads the times; the timer was made by `new`.
            unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) };
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(timer) = self.0 {
            // SAFETY: `new` has made it, and nobody else deletes it.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

/// While it lives, KVM_RUN by the calling thread does all that KVM does between two of the guest's instructions, and comes back
/// before the next one: the signal waits for the thread, and only KVM_RUN lets it through.
pub(super) struct Waiting {
    vcpu: RawFd,
    /// The thread's signal mask.
    mask: u64,
}

impl Waiting {
    /// For KVM_RUN of this vCPU, which stays open meanwhile.
    pub(super) fn new(vcpu: RawFd) -> io::Result<Self> {
        let signal_bit = 1_u64 << (signal() - 1);
        let mask = change_mask(libc::SIG_BLOCK, signal_bit)?;
        let waiting = Self { vcpu, mask };
        set_mask_inside(vcpu, Some(mask & !signal_bit))?;
        // SAFETY: no memory is touched.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal()) };
        if sent == 0 { Ok(waiting) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // The signal comes through, and finds no vCPU of this thread.
        let done = set_mask_inside(self.vcpu, None).and_then(|()| change_mask(libc::SIG_SETMASK, self.mask));
        if let Err(error) = done {
            log::error!("the signal mask stays as it was: {error}");
        }
    }
}

/// Changes the calling thread's signal mask; the one before.
fn change_mask(how: i32, mask: u64) -> io::Result<u64> {
    let mut before = 0_u64;
    let (new, old, size) = (&raw const mask, &raw mut before, size_of::<u64>());
    // SAFETY: the kernel reads and writes the two masks, which are as large as it is told.
    match unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old, size) } {
        0 => Ok(before),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signal mask of KVM_RUN; with None it is the thread's.
fn set_mask_inside(vcpu: RawFd, mask: Option<u64>) -> io::Result<()> {
    /// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`.
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    /// The structure: the mask's length, and the mask.
    #[repr(C, packed)]
    struct SignalMask {
        length: u32,
        mask: u64,
    }
    let mask = mask.map(|mask| SignalMask { length: size_of::<u64>() as u32, mask });
    let argument = mask.as_ref().map_or(ptr::null(), |mask| &raw const *mask);
    // SAFETY: the kernel reads the structure, if there is one.
    match unsafe { libc::ioctl(vcpu, KVM_SET_SIGNAL_MASK, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
