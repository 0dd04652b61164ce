//! Translations on a thread of their own; what translations are made of, and what they are until they are placed.

use super::{cache::Hole, compiler::Compiler, region::Region};
use crate::{
    attention::{Attention, Request},
    insn::{Insn, Links},
    mode::Mode,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// A translated region, not yet placed.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) code: Vec<u8>,
    /// From here on it is rarely run, and stands apart.
    pub(super) cold_from: usize,
    /// Distances, 32 bits each, that lead from one part to the other.
    pub(super) across: Vec<usize>,
    /// Where its prologue ends.
    pub(super) entry: usize,
    pub(super) holes: Vec<Hole>,
    /// Exits, a stub each: the number of the guest-physical page, and the target relative to it.
    pub(super) exits: Vec<(u32, i32)>,
    /// Instructions whose addresses the cells hold: node and place in it.
    pub(super) cells: Vec<(usize, usize)>,
}

/// A block that is to be translated alone.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(all(feature = "jit", target_arch = "x86_64")),
    allow(dead_code, reason = "nothing translates it")
)]
pub(super) struct Source<'a> {
    /// Its instructions, where the interpreter has them, a synthetic end included.
    pub(super) insns: &'a [Insn],
    pub(super) links: &'a Links,
    pub(super) mode: Mode,
    /// Number of its guest-physical page.
    pub(super) page: u32,
    /// Which of its instructions go to devices, a bit each.
    pub(super) devices: u64,
    /// Address of the count of how often it may still begin.
    pub(super) count: u64,
    /// Address of the ring that tells where its indirect branch led, 0 if it ends with none.
    pub(super) ring: u64,
}

/// What every cache has once.
#[derive(Debug)]
pub(super) struct Parts {
    /// The slow path of accesses, which saves every register.
    pub(super) slow: Vec<u8>,
    /// From a linear address to its code by the jump cache.
    pub(super) lookup: Compiled,
}

/// What a CPU wants translated.
struct Job {
    region: Region,
    done: Arc<Inbox>,
}

/// Translations for a CPU, as they come.
#[derive(Debug)]
pub(super) struct Inbox {
    ready: Mutex<Vec<(Region, Option<Compiled>)>>,
    bell: Arc<Attention>,
}

impl Inbox {
    pub(super) fn new(bell: &Arc<Attention>) -> Self {
        Inbox { ready: Mutex::default(), bell: Arc::clone(bell) }
    }

    fn put(&self, region: Region, compiled: Option<Compiled>) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push((region, compiled));
        self.bell.mention(Request::TRANSLATED);
    }

    /// Takes what has come.
    pub(super) fn take(&self) -> Vec<(Region, Option<Compiled>)> {
        std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread that compiles for all CPUs of a machine.
#[derive(Debug)]
pub(crate) struct Service {
    jobs: Sender<Job>,
    parts: Parts,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "region of {} instructions", self.region.len())
    }
}

impl Service {
    /// Starts the thread; None where the host cannot be compiled for.
    pub(crate) fn start() -> Option<Self> {
        let mut compiler = Compiler::new(false)?;
        let parts = compiler.parts()?;
        let (jobs, queue) = channel::<Job>();
        let work = move || {
            // One core must not be the compiler's alone.
            let alone = thread::available_parallelism().is_ok_and(|n| n.get() == 1);
            while let Ok(Job { region, done }) = queue.recv() {
                let begin = Instant::now();
                let compiled = compiler.compile(&region);
                done.put(region, compiled);
                if alone {
                    thread::sleep(begin.elapsed().min(Duration::from_millis(5)));
                }
            }
        };
        thread::Builder::new().name("translator".to_owned()).spawn(work).ok()?;
        Some(Service { jobs, parts })
    }

    /// What every cache has.
    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Asks for a translation.
    pub(super) fn ask(&self, region: Region, done: &Arc<Inbox>) {
        // The thread lives as long as the sender.
        let _ = self.jobs.send(Job { region, done: Arc::clone(done) });
    }
}
