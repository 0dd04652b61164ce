//! What the handshake between CPUs is made of: the standard library's parts here, loom's in the model test.

use std::sync::PoisonError;
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard, RwLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
use std::time::Duration;

/// A lock whose data no panic leaves half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads what all threads share.
pub(crate) fn read<T, R>(shared: &RwLock<T>, work: impl FnOnce(&T) -> R) -> R {
    work(&shared.read().unwrap_or_else(PoisonError::into_inner))
}

/// Changes what all threads share.
pub(crate) fn write<T, R>(shared: &RwLock<T>, work: impl FnOnce(&mut T) -> R) -> R {
    work(&mut shared.write().unwrap_or_else(PoisonError::into_inner))
}

/// Waits for another CPU to get to a safepoint: a moment if it runs, long if the host has given its core away.
#[derive(Default)]
pub(crate) struct Backoff(u32);

impl Backoff {
    const SPINS: u32 = 40;
    const YIELDS: u32 = 200;
    const NAP: Duration = Duration::from_micros(50);

    pub(crate) fn wait(&mut self) {
        self.0 += 1;
        if self.0 < Self::SPINS {
            (0..20).for_each(|_| std::hint::spin_loop());
        } else if self.0 < Self::YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Self::NAP);
        }
    }
}
