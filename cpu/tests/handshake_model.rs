//! The handshake between CPUs under every order of events that loom can find.

#![allow(dead_code, reason = "the model uses a part of what the CPU uses")]

#[path = "../src/group.rs"]
mod group;

/// What `src/sync.rs` is for the CPU, made of loom's parts.
mod sync {
    pub(crate) use loom::sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    };

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }
    pub(crate) fn read<T, R>(shared: &RwLock<T>, work: impl FnOnce(&T) -> R) -> R {
        work(&shared.read().unwrap())
    }
    pub(crate) fn write<T, R>(shared: &RwLock<T>, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut shared.write().unwrap())
    }

    #[derive(Default)]
    pub(crate) struct Backoff {}
    impl Backoff {
        pub(crate) fn wait(&mut self) {
            loom::thread::yield_now();
        }
    }
}

use group::{Group, Marks, Notice, Notify, Seat};
use loom::{cell::UnsafeCell, thread};
use sync::{
    Arc, AtomicU32,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

/// The model's CPUs look at everything at each safepoint.
#[derive(Debug)]
struct NoBell;
impl Notify for NoBell {
    fn notify(&self, _: Notice) {}
}

type Cpus = Group<NoBell>;

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

const PAGE: u64 = 0x5000;

/// A CPU with one possible write tag.
struct Cpu {
    cpus: Arc<Cpus>,
    seat: Arc<Seat<NoBell>>,
    tag: bool,
}

impl Cpu {
    fn new(cpus: &Arc<Cpus>) -> Self {
        Cpu { cpus: Arc::clone(cpus), seat: cpus.join(NoBell), tag: false }
    }
    fn enter(&mut self) {
        self.cpus.unpark(&self.seat);
        self.seat.serve(|_| self.tag = false);
    }
    fn safepoint(&mut self) {
        self.seat.serve(|_| self.tag = false);
    }
    fn leave(&self) {
        self.seat.park();
    }
    /// A store as the CPU does it: by the tag alone, or by the slow path.
    fn store(&mut self, page: &Page, value: u32) {
        if !self.tag {
            self.tag = page.marks.may_write(self.seat.index());
        }
        let by_tag = self.tag;
        page.byte.store(value, Relaxed);
        if !by_tag {
            self.cpus.written(&page.marks, PAGE, 1, Some(&self.seat));
        }
    }
    /// What decoding reads.
    fn decode(&mut self, page: &Page) -> u32 {
        self.cpus.mark(&page.marks, PAGE, 1, &self.seat);
        let Cpu { cpus, seat, tag } = self;
        cpus.protect(&page.marks, PAGE, seat, |_| *tag = false);
        fence(SeqCst);
        page.byte.load(Relaxed)
    }
    /// Whether what was decoded has to go.
    fn stale(&self) -> bool {
        !self.seat.take_written().pages.is_empty()
    }
}

#[derive(Default)]
struct Page {
    marks: Marks,
    byte: AtomicU32,
}

/// Old code runs on only where the CPU has been told.
#[test]
fn a_store_reaches_the_decoded_code() {
    model(|| {
        let cpus = Arc::new(Cpus::new(1));
        let page = Arc::new(Page::default());
        let (mut decoder, mut writer) = (Cpu::new(&cpus), Cpu::new(&cpus));
        let written = thread::spawn({
            let page = Arc::clone(&page);
            move || {
                writer.enter();
                writer.store(&page, 1);
                writer.safepoint();
                writer.store(&page, 2);
                writer.leave();
            }
        });
        decoder.enter();
        let decoded = decoder.decode(&page);
        decoder.leave();
        written.join().unwrap();
        assert!(decoded == 2 || decoder.stale(), "{decoded} stays, and nobody says that it is old");
    });
}

/// Two decode the same page while a third writes it through a tag.
#[test]
fn two_decoders_and_a_writer() {
    model(|| {
        let cpus = Arc::new(Cpus::new(1));
        let page = Arc::new(Page::default());
        let decode = |mut cpu: Cpu, page: Arc<Page>| {
            thread::spawn(move || {
                cpu.enter();
                let decoded = cpu.decode(&page);
                cpu.leave();
                (cpu, decoded)
            })
        };
        let mut writer = Cpu::new(&cpus);
        writer.enter();
        writer.store(&page, 1);
        assert!(writer.tag);
        let a = decode(Cpu::new(&cpus), Arc::clone(&page));
        let b = decode(Cpu::new(&cpus), Arc::clone(&page));
        writer.store(&page, 2);
        writer.leave();
        for decoder in [a, b] {
            let (cpu, decoded) = decoder.join().unwrap();
            assert!(decoded == 2 || cpu.stale(), "{decoded} stays, and nobody says that it is old");
        }
    });
}

/// Each has a write tag for the page that the other decodes: both get through.
#[test]
fn two_that_protect_at_once_do_not_wait_for_ever() {
    model(|| {
        let cpus = Arc::new(Cpus::new(2));
        let pages = Arc::new([Page::default(), Page::default()]);
        let mut both = [Cpu::new(&cpus), Cpu::new(&cpus)];
        for (k, cpu) in both.iter_mut().enumerate() {
            cpu.enter();
            cpu.store(&pages[k], 1);
        }
        let [mut a, mut b] = both;
        let other = thread::spawn({
            let pages = Arc::clone(&pages);
            move || {
                let decoded = b.decode(&pages[0]);
                b.leave();
                decoded
            }
        });
        assert_eq!(a.decode(&pages[1]), 1);
        a.leave();
        assert_eq!(other.join().unwrap(), 1);
    });
}

/// A page becomes a hole while a CPU stores to it: once the change has returned, no store reaches it.
#[test]
fn nobody_stores_where_the_map_has_changed() {
    model(|| {
        let cpus = Arc::new(Cpus::new(1));
        let (page, denied) = (Arc::new(Page::default()), Arc::new(AtomicU32::new(0)));
        let mut writer = Cpu::new(&cpus);
        let running = thread::spawn({
            let (page, denied) = (Arc::clone(&page), Arc::clone(&denied));
            move || {
                for value in 1..=3 {
                    writer.enter();
                    writer.tag |= denied.load(Acquire) == 0;
                    if writer.tag {
                        page.byte.store(value, Relaxed);
                    }
                    writer.safepoint();
                    if value == 2 {
                        writer.leave();
                    }
                }
                writer.leave();
            }
        });
        denied.store(1, Release);
        cpus.forget();
        let stood = page.byte.load(Relaxed);
        running.join().unwrap();
        assert_eq!(page.byte.load(Relaxed), stood);
    });
}

/// Loom sees it if two are in the cell at once.
#[test]
fn a_stop_is_alone() {
    model(|| {
        let cpus = Arc::new(Cpus::new(1));
        let cell = Arc::new(UnsafeCell::new(0));
        let add = |cell: &UnsafeCell<i32>| {
            // SAFETY: what the test is about: loom fails it if another thread is in the cell.
            #[allow(unsafe_code)]
            cell.with_mut(|p| unsafe { *p += 1 });
        };
        let (mut runs, mut stops) = (Cpu::new(&cpus), Cpu::new(&cpus));
        let running = thread::spawn({
            let cell = Arc::clone(&cell);
            move || {
                runs.enter();
                add(&cell);
                runs.leave();
                runs.enter();
                add(&cell);
                runs.leave();
            }
        });
        stops.enter();
        {
            let _alone = cpus.stop(&stops.seat, |_| ());
            add(&cell);
        }
        stops.leave();
        running.join().unwrap();
        let _alone = cpus.stop(&stops.seat, |_| ());
        // SAFETY: nobody else is left.
        #[allow(unsafe_code)]
        cell.with(|p| assert_eq!(unsafe { *p }, 3));
    });
}

/// Two want to be alone at once.
#[test]
fn stops_take_turns() {
    model(|| {
        let cpus = Arc::new(Cpus::new(1));
        let cell = Arc::new(UnsafeCell::new(0));
        let work = |mut cpu: Cpu, cell: Arc<UnsafeCell<i32>>| {
            cpu.enter();
            {
                let Cpu { cpus, seat, .. } = &cpu;
                let _alone = cpus.stop(seat, |_| ());
                // SAFETY: what the test is about: loom fails it if another thread is in the cell.
                #[allow(unsafe_code)]
                cell.with_mut(|p| unsafe { *p += 1 });
            }
            cpu.leave();
        };
        let (a, b) = (Cpu::new(&cpus), Cpu::new(&cpus));
        let other = thread::spawn({
            let cell = Arc::clone(&cell);
            move || work(b, cell)
        });
        work(a, Arc::clone(&cell));
        other.join().unwrap();
    });
}
