//! The CPUs of a machine among themselves: what one must ask of the others before it decodes code, after it has written
//! code, and to be alone with memory.
//!
//! Each CPU has its own blocks and TLBs. A page that holds decoded code has no write tag in any TLB, so that every store
//! there looks at the page's marks:
//!
//! - **Decoding** marks the granules ([`Group::mark`]), then takes away the write tags that others have
//!   ([`Group::protect`]) and waits until each of them has passed a safepoint, then reads the bytes. Where nobody has a
//!   tag, as the page remembers, there is nothing to wait for.
//! - **Writing** stores, fences, and looks at the marks. Where it hits one, [`Group::written`] queues the range for the
//!   CPUs that may have decoded it and clears the marks. Whoever sees a mark gone may rely on that: the range stands in
//!   the queues, and queues are emptied before an interrupt is delivered and at every end of a block.
//! - **Changing the map** ([`Group::forget`]) has all CPUs drop their tags and waits until each has passed a safepoint.
//! - **Stopping all** ([`Group::stop`]) is for atomic steps that the host cannot do.
//!
//! A CPU is *parked* while it does not touch guest memory through its TLB and will look here before it does again: halted,
//! outside of [`crate::Cpu::run`], within a device, or waiting for others. Parked CPUs need not be waited for, so two that
//! wait for each other pass each other. What is needed of a parked CPU is done when it unparks.
//!
//! Lock order: `Group::stop`, then a shard, then a queue.
//!
//! `tests/handshake_model.rs` checks this file with loom, which wants explicit fences between a store and a load of
//! something else.

use super::sync::{
    Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Backoff, Mutex, MutexGuard,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    RwLock, fence, lock, read, write,
};
use std::collections::BTreeMap;

/// What a CPU is asked to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Code that it may have decoded was written.
    Code,
    /// Write tags are to go.
    Protect,
    /// Another CPU wants to be alone.
    Stop,
}

/// Makes a running CPU look up soon; a sleeping one may sleep on.
pub(crate) trait Notify {
    fn notify(&self, what: Notice);
}

/// Who has done something: nobody, one CPU (its seat + 1), or more than one.
mod who {
    pub(super) const NOBODY: u32 = 0;
    pub(super) const MANY: u32 = 0xffff;

    pub(super) fn is(seat: usize) -> u32 {
        seat as u32 + 1
    }
    pub(super) fn with(whom: u32, seat: usize) -> u32 {
        if whom == NOBODY || whom == is(seat) { is(seat) } else { MANY }
    }
}

/// In place of a page to be protected: every host address that a CPU has cached is to go.
pub(crate) const EVERYTHING: u64 = u64::MAX;

/// Somebody is taking write tags away.
const PROTECTING: u32 = 1 << 16;

/// What is known of a guest-physical page. All zero at first.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// A bit for each 64-byte granule that some CPU may have decoded. Set and cleared under the shard's lock.
    code: AtomicU64,
    /// Who may have a write tag, and [`PROTECTING`].
    writers: AtomicU32,
    /// Who may have blocks. Written under the shard's lock.
    holders: AtomicU32,
}

impl Marks {
    /// Asked before a write tag is made. The tag stands until the CPU's next safepoint at least.
    #[inline]
    pub(crate) fn may_write(&self, seat: usize) -> bool {
        self.may_write_beside(seat, u64::MAX)
    }

    /// Whether some CPU may have decoded anything of the page.
    pub(crate) fn holds_code(&self) -> bool {
        self.code.load(Acquire) != 0
    }

    /// Asked before a single store into these granules, without a tag, of a page that may hold code: whether it is beside all
    /// of it. The store is to be done before the CPU's next safepoint.
    #[inline]
    pub(crate) fn may_write_beside(&self, seat: usize, granules: u64) -> bool {
        if self.code.load(Acquire) & granules != 0 {
            return false;
        }
        let mut now = self.writers.load(Acquire);
        while who::with(now & !PROTECTING, seat) != now & !PROTECTING {
            let then = who::with(now & !PROTECTING, seat) | now & PROTECTING;
            match self.writers.compare_exchange(now, then, AcqRel, Acquire) {
                Ok(_) => break,
                Err(other) => now = other,
            }
        }
        // A decoder marks, then looks who writes; we say that we write, then look at the marks.
        fence(SeqCst);
        self.code.load(Acquire) & granules == 0
    }
}

/// Granules of a page from `offset` on, `len` bytes that end with the page at the latest.
pub(crate) fn granules(offset: u64, len: u64) -> u64 {
    let first = (offset & 0xfff) >> 6;
    let last = ((offset & 0xfff) + len.max(1) - 1).min(0xfff) >> 6;
    u64::MAX >> (63 - last + first) << first
}

/// Code pages with more than this many entries in a queue become one: all code.
const QUEUE: usize = 1024;

/// What a CPU has to drop.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Granules by page.
    pub(crate) pages: BTreeMap<u64, u64>,
    /// Too many: everything.
    pub(crate) all: bool,
}

/// A CPU's place in the group.
#[derive(Debug)]
pub(crate) struct Seat<N> {
    index: usize,
    parked: AtomicBool,
    /// Pages whose write tags are to go.
    protects: Mutex<Vec<u64>>,
    /// How many pages have ever been asked for, changed under the lock of `protects`; and how many are done.
    asked: AtomicU64,
    done: AtomicU64,
    written: Mutex<Written>,
    bell: N,
    /// Its CPU is gone.
    vacant: AtomicBool,
}

impl<N> Seat<N> {
    /// The CPU's number in page marks.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// From here on the CPU does not touch guest memory.
    pub(crate) fn park(&self) {
        self.parked.store(true, Release);
    }

    fn is_parked(&self) -> bool {
        self.parked.load(Acquire)
    }

    /// Whether write tags are to go.
    #[inline]
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Acquire) != self.done.load(Relaxed)
    }

    /// Takes away the write tags that were asked for, by `drop_tags`. Called at safepoints and after unparking.
    pub(crate) fn serve(&self, drop_tags: impl FnOnce(&[u64])) {
        if !self.asked() {
            return;
        }
        let (pages, asked) = {
            let mut protects = lock(&self.protects);
            (std::mem::take(&mut *protects), self.asked.load(Relaxed))
        };
        drop_tags(&pages);
        self.done.store(asked, Release);
    }

    /// What was written since the last time.
    pub(crate) fn take_written(&self) -> Written {
        std::mem::take(&mut *lock(&self.written))
    }

    /// The CPU is gone for good.
    pub(crate) fn leave(&self) {
        self.park();
        self.vacant.store(true, Release);
    }
}

impl<N: Notify> Seat<N> {
    /// Asks for write tags of a page to go; what [`Seat::has_passed`] wants to know.
    fn ask(&self, page: u64) -> u64 {
        let ticket = {
            let mut protects = lock(&self.protects);
            protects.push(page);
            self.asked.fetch_add(1, AcqRel) + 1
        };
        self.bell.notify(Notice::Protect);
        ticket
    }

    fn has_passed(&self, ticket: u64) -> bool {
        self.done.load(Acquire) >= ticket || self.is_parked()
    }

    fn post(&self, page: u64, granules: u64) {
        {
            let mut written = lock(&self.written);
            if !written.all {
                *written.pages.entry(page).or_default() |= granules;
                if written.pages.len() > QUEUE {
                    *written = Written { pages: BTreeMap::new(), all: true };
                }
            }
        }
        self.bell.notify(Notice::Code);
    }
}

/// All CPUs of a machine.
#[derive(Debug)]
pub(crate) struct Group<N> {
    seats: RwLock<Vec<Arc<Seat<N>>>>,
    /// Pages by their number share these.
    shards: Box<[Mutex<()>]>,
    /// Held by the CPU that stops the others.
    stop: Mutex<()>,
    /// Its seat + 1.
    stopper: AtomicUsize,
}

impl<N: Notify> Group<N> {
    pub(crate) fn new(shards: usize) -> Self {
        Group {
            seats: RwLock::new(Vec::new()),
            shards: (0..shards).map(|_| Mutex::new(())).collect(),
            stop: Mutex::new(()),
            stopper: AtomicUsize::new(0),
        }
    }

    /// Gives a new CPU its place, parked.
    pub(crate) fn join(&self, bell: N) -> Arc<Seat<N>> {
        write(&self.seats, |seats| {
            let free = seats.iter().position(|seat| seat.vacant.load(Acquire));
            let index = free.unwrap_or(seats.len());
            let seat = Arc::new(Seat {
                index,
                parked: AtomicBool::new(true),
                protects: Mutex::new(Vec::new()),
                asked: AtomicU64::new(0),
                done: AtomicU64::new(0),
                written: Mutex::new(Written::default()),
                bell,
                vacant: AtomicBool::new(false),
            });
            match free {
                Some(free) => seats[free] = Arc::clone(&seat),
                None => seats.push(Arc::clone(&seat)),
            }
            seat
        })
    }

    /// From here on the CPU may touch guest memory again, once it has served what it is asked for. Waits while another
    /// CPU is alone with memory.
    #[inline]
    pub(crate) fn unpark(&self, me: &Seat<N>) {
        loop {
            me.parked.store(false, Release);
            // Others ask, then look whether we are parked; we unpark, then look whether something is asked.
            fence(SeqCst);
            let stopper = self.stopper.load(Acquire);
            if stopper == 0 || stopper == me.index + 1 {
                return;
            }
            me.park();
            drop(lock(&self.stop));
        }
    }

    fn shard(&self, page: u64) -> MutexGuard<'_, ()> {
        lock(&self.shards[(page >> 12) as usize % self.shards.len()])
    }

    fn others(&self, me: &Seat<N>, whom: u32) -> Vec<Arc<Seat<N>>> {
        let wanted = |seat: &&Arc<Seat<N>>| {
            seat.index != me.index && (whom == who::MANY || whom == who::is(seat.index))
        };
        read(&self.seats, |seats| seats.iter().filter(wanted).cloned().collect())
    }

    /// A CPU is about to decode these granules: marks them.
    pub(crate) fn mark(&self, marks: &Marks, page: u64, granules: u64, me: &Seat<N>) {
        let _shard = self.shard(page);
        marks.holders.store(who::with(marks.holders.load(Relaxed), me.index), Relaxed);
        marks.code.fetch_or(granules, AcqRel);
    }

    /// Takes away all write tags of a marked page, the CPU's own by `drop_own`. When it returns, every store that went
    /// through one has been done. The CPU is at a safepoint; it serves others by `drop_tags` when they have asked.
    pub(crate) fn protect(&self, marks: &Marks, page: u64, me: &Seat<N>, mut drop_tags: impl FnMut(&[u64])) {
        // See `Marks::may_write`.
        fence(SeqCst);
        let mut backoff = Backoff::default();
        loop {
            let writers = marks.writers.load(Acquire);
            if writers == who::NOBODY {
                return;
            }
            if writers & PROTECTING != 0 {
                // Another CPU is at it.
                me.park();
                backoff.wait();
                self.unpark(me);
                me.serve(&mut drop_tags);
                continue;
            }
            let alone = writers == who::is(me.index);
            let then = if alone { who::NOBODY } else { PROTECTING };
            if marks.writers.compare_exchange(writers, then, AcqRel, Acquire).is_err() {
                continue;
            }
            if alone || writers == who::MANY {
                drop_tags(&[page]);
            }
            if !alone {
                let asked: Vec<_> = self
                    .others(me, writers)
                    .into_iter()
                    .map(|seat| {
                        let ticket = seat.ask(page);
                        (seat, ticket)
                    })
                    .collect();
                me.park();
                fence(SeqCst);
                for (seat, ticket) in asked {
                    let mut backoff = Backoff::default();
                    while !seat.has_passed(ticket) {
                        backoff.wait();
                    }
                }
                self.unpark(me);
                me.serve(&mut drop_tags);
                marks.writers.fetch_and(!PROTECTING, AcqRel);
            }
            return;
        }
    }

    /// What guest memory answers to has changed: has every CPU forget where it is, and returns when each has passed a
    /// safepoint. Who calls is no CPU that touches guest memory.
    pub(crate) fn forget(&self) {
        // Whoever makes a tag after its safepoint sees the change.
        fence(SeqCst);
        let everyone: Vec<_> = read(&self.seats, |seats| seats.to_vec());
        let asked: Vec<_> = everyone
            .into_iter()
            .map(|seat| {
                let ticket = seat.ask(EVERYTHING);
                (seat, ticket)
            })
            .collect();
        fence(SeqCst);
        for (seat, ticket) in asked {
            let mut backoff = Backoff::default();
            while !seat.has_passed(ticket) {
                backoff.wait();
            }
        }
    }

    /// After a store to these granules: whether it hit code. Then every other CPU that may have decoded it has it in its
    /// queue; the caller drops its own blocks. A device has no seat.
    #[inline]
    pub(crate) fn written(&self, marks: &Marks, page: u64, granules: u64, me: Option<&Seat<N>>) -> bool {
        // The store must be visible before the mark is read; a decoder marks before it reads the bytes.
        fence(SeqCst);
        marks.code.load(Acquire) & granules != 0 && self.written_code(marks, page, granules, me)
    }

    #[cold]
    fn written_code(&self, marks: &Marks, page: u64, granules: u64, me: Option<&Seat<N>>) -> bool {
        let _shard = self.shard(page);
        let hit = marks.code.load(Relaxed) & granules;
        let holders = marks.holders.load(Relaxed);
        let mine = me.map_or(usize::MAX, |seat| seat.index);
        if hit == 0 {
            // Somebody else has just been here: it stands in our queue already.
            return false;
        }
        if holders == who::MANY || me.is_none_or(|seat| holders != who::is(seat.index)) {
            read(&self.seats, |seats| {
                let concerned = |seat: &&Arc<Seat<N>>| {
                    seat.index != mine && (holders == who::MANY || holders == who::is(seat.index))
                };
                seats.iter().filter(concerned).for_each(|seat| seat.post(page, hit));
            });
        }
        // Only now: whoever finds the mark gone finds the queues filled.
        if marks.code.fetch_and(!hit, AcqRel) & !hit == 0 {
            marks.holders.store(who::NOBODY, Relaxed);
        }
        true
    }

    /// Stops all other CPUs at safepoints until the result is dropped. The CPU holds no pointer into guest memory from
    /// before; it serves what it is asked for by `drop_tags`.
    pub(crate) fn stop<'a>(&'a self, me: &'a Seat<N>, drop_tags: impl FnOnce(&[u64])) -> Stopped<'a, N> {
        me.park();
        let turn = lock(&self.stop);
        self.stopper.store(me.index + 1, Release);
        self.unpark(me);
        me.serve(drop_tags);
        let stopped = Stopped { group: self, _turn: turn };
        let others = self.others(me, who::MANY);
        for seat in &others {
            seat.bell.notify(Notice::Stop);
        }
        fence(SeqCst);
        for seat in others {
            let mut backoff = Backoff::default();
            while !seat.is_parked() {
                backoff.wait();
            }
        }
        stopped
    }
}

/// All other CPUs stand while this lives.
pub(crate) struct Stopped<'a, N> {
    group: &'a Group<N>,
    _turn: MutexGuard<'a, ()>,
}

impl<N> Drop for Stopped<'_, N> {
    fn drop(&mut self) {
        self.group.stopper.store(0, Release);
    }
}
