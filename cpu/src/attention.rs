//! The word that makes a running CPU look up: other threads' requests on one side, its instruction budget on the other.

use crate::group::{Notice, Notify};
use std::sync::{
    Arc, Condvar, Mutex, OnceLock, PoisonError,
    atomic::{
        AtomicBool, AtomicI32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};
use std::time::Duration;

bitflags::bitflags! {
    /// What other threads ask of a virtual CPU. It serves them at its next safepoint, the end of a block.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Request: i32 {
        /// An external interrupt may be deliverable: ask [`crate::Bus::has_interrupt`].
        const INTERRUPT = 1;
        /// A non-maskable interrupt.
        const NMI = 2;
        /// INIT.
        const INIT = 4;
        /// A start-up IPI; its vector was stored with [`Attention::startup`].
        const STARTUP = 8;
        /// Leave [`crate::Cpu::run`] with [`crate::Exit::Requested`]: pause, stop, or an engine switch.
        const EXIT = 16;
        /// Another CPU or a device wrote into code that this CPU has decoded.
        const CODE = 32;
        /// Another CPU has decoded code in a page that this one may have a write tag for.
        const PROTECT = 64;
        /// Another CPU wants to be alone with memory.
        const STOP = 128;
        /// Somebody wants to know which code runs: [`crate::Whereabouts::sample`].
        const SAMPLE = 256;
        /// Translations have come.
        const TRANSLATED = 512;
        /// Set with every request, so that one sign test sees any of them.
        const ANY = i32::MIN;
    }
}

/// Two halves that never share a store: `budget` belongs to the CPU's thread, `request` to everyone.
#[derive(Default)]
#[repr(C, align(8))]
pub struct Attention {
    pub(crate) budget: AtomicI32,
    pub(crate) request: AtomicI32,
    /// How many instructions will have run when the budget is used up.
    granted: AtomicU64,
    startup_vector: AtomicI32,
    asleep: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    kick: OnceLock<Kick>,
}

/// Makes whatever else runs the CPU come back.
type Kick = Box<dyn Fn() + Send + Sync>;

impl std::fmt::Debug for Attention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attention").field("request", &self.request).field("budget", &self.budget).finish()
    }
}

impl Attention {
    /// Where it has how many instructions will have run when the budget is used up.
    #[cfg_attr(
        not(all(feature = "jit", target_arch = "x86_64")),
        allow(dead_code, reason = "code translated in one pass looks there")
    )]
    pub(crate) const GRANTED: usize = std::mem::offset_of!(Attention, granted);

    /// Asks the CPU to look up. Wakes it where it sleeps in [`Attention::wait`].
    pub fn request(&self, what: Request) {
        self.request.fetch_or((what | Request::ANY).bits(), SeqCst);
        if self.asleep.load(SeqCst) {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
        if let Some(kick) = self.kick.get() {
            kick();
        }
    }

    /// What else may run the CPU is told of requests by `kick`, which is called behind each one, by any thread. May be set
    /// once.
    pub fn on_request(&self, kick: impl Fn() + Send + Sync + 'static) {
        let already = self.kick.set(Box::new(kick)).is_err();
        assert!(!already, "one other engine runs a CPU");
    }

    /// Whether anything is asked.
    pub fn is_requested(&self) -> bool {
        self.request.load(SeqCst) != 0
    }

    /// Asks the CPU to look up before it goes on; where it sleeps it sleeps on.
    pub(crate) fn mention(&self, what: Request) {
        self.request.fetch_or((what | Request::ANY).bits(), SeqCst);
    }

    /// A start-up IPI with its vector (SDM 3A "MP Initialization Protocol").
    pub fn startup(&self, vector: u8) {
        self.startup_vector.store(vector.into(), SeqCst);
        self.request(Request::STARTUP);
    }

    /// The vector of the last start-up IPI.
    pub(crate) fn startup_vector(&self) -> u8 {
        self.startup_vector.load(SeqCst) as u8
    }

    /// Takes all requests: for those who serve them in the place of [`crate::Cpu::run`].
    pub fn take(&self) -> Request {
        Request::from_bits_truncate(self.request.swap(0, SeqCst))
    }

    /// How many instructions the CPU has run, as of the last end of a block.
    pub fn instructions(&self) -> u64 {
        let budget = self.budget.load(Relaxed);
        self.granted.load(Relaxed).wrapping_sub(budget as i64 as u64)
    }

    /// Gives the CPU a new budget: what was left of the old one is no more.
    pub(crate) fn grant(&self, budget: i32) {
        let granted = self.instructions().wrapping_add(budget as i64 as u64);
        self.granted.store(granted, Relaxed);
        self.budget.store(budget, Relaxed);
    }

    /// How many instructions may run before somebody must look: 1 at least.
    pub(crate) fn room(&self) -> u64 {
        u64::try_from(self.budget.load(Relaxed)).unwrap_or(0) + 1
    }

    /// Whether the budget is used up or somebody asked for something.
    #[inline(always)]
    pub(crate) fn due(&self, executed: i32) -> bool {
        let budget = self.budget.load(Relaxed).wrapping_sub(executed);
        self.budget.store(budget, Relaxed);
        (budget | self.request.load(Relaxed)) < 0
    }

    /// Blocks the calling thread until there is a request, or for `limit` at most. For a halted CPU.
    pub fn wait(&self, limit: Option<Duration>) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(true, SeqCst);
        while self.request.load(SeqCst) == 0 {
            guard = match limit {
                None => self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    let (guard, _) =
                        self.wake.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner);
                    drop(guard);
                    break;
                }
            };
        }
        self.asleep.store(false, SeqCst);
    }
}

impl Notify for Arc<Attention> {
    fn notify(&self, what: Notice) {
        self.mention(match what {
            Notice::Code => Request::CODE,
            Notice::Protect => Request::PROTECT,
            Notice::Stop => Request::STOP,
        });
    }
}
