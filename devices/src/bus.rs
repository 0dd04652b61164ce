//! The address spaces of the machine: who answers at which port and at which physical address.
//!
//! Look-ups take no lock: the sorted table of ranges is replaced as a whole when a device comes, goes or moves (a
//! guest moves PCI devices a few dozen times in its life and looks up millions of times). A processor's thread keeps the table
//! that it used last, and looks only whether it is still the one in use.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, Cache};
use log::trace;
use parking_lot::Mutex;

/// Something that answers accesses in the range of addresses at which the board has put it.
///
/// `data.len()` is 1, 2, 4 or 8. A device handles its own errors: what its data sheet does not define reads as all
/// ones, and such writes vanish.
pub trait Device: Send {
    /// Reads `data.len()` bytes at `offset` from the start of the device's range.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset` from the start of the device's range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A chip with an 8-bit data bus: wider accesses reach it as byte accesses to consecutive registers, lowest first.
pub trait ByteDevice: Send {
    /// Reads the register at `offset`.
    fn read_byte(&mut self, offset: u64) -> u8;
    /// Writes the register at `offset`.
    fn write_byte(&mut self, offset: u64, value: u8);
}

impl<T: ByteDevice> Device for T {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (register, byte) in addresses_from(offset).zip(data) {
            *byte = self.read_byte(register);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (register, &byte) in addresses_from(offset).zip(data) {
            self.write_byte(register, byte);
        }
    }
}

/// A device as the address spaces hold it: shared, because one device may own several ranges.
pub type SharedDevice = Arc<Mutex<dyn Device>>;

/// The value of up to eight little-endian bytes.
pub fn value_of(data: &[u8]) -> u64 {
    data.iter().take(8).rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Fills up to eight bytes with `value`, little-endian; the bytes above read as zero.
pub fn put_value(data: &mut [u8], value: u64) {
    data.fill(0);
    for (byte, source) in data.iter_mut().zip(value.to_le_bytes()) {
        *byte = source;
    }
}

/// The addresses of an access that starts at `first`, byte by byte. They wrap around rather than overflow.
pub fn addresses_from(first: u64) -> impl Iterator<Item = u64> {
    (0u64..).map(move |n| first.wrapping_add(n))
}

/// Why a range could not be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{space}: {wanted} does not fit: {taken} is there")]
pub struct Overlap {
    /// Name of the address space.
    pub space: &'static str,
    /// The range that was to be mapped.
    pub wanted: MapEntry,
    /// The range that is in its way.
    pub taken: MapEntry,
}

/// One line of an address map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub base: u64,
    /// Last address.
    pub last: u64,
    /// Who is there.
    pub label: String,
}

impl fmt::Display for MapEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}-{:#06x} {}", self.base, self.last, self.label)
    }
}

/// How often a device was accessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Who it is.
    pub label: String,
    /// Accesses that read.
    pub reads: u64,
    /// Accesses that wrote.
    pub writes: u64,
}

/// Accesses to a range.
#[derive(Debug, Default)]
struct Accesses {
    reads: AtomicU64,
    writes: AtomicU64,
}

/// One more. The caller holds the lock of the only device that comes here.
fn count(accesses: &AtomicU64) {
    accesses.store(accesses.load(Relaxed).wrapping_add(1), Relaxed);
}

#[derive(Clone)]
struct Range {
    base: u64,
    last: u64,
    label: Arc<str>,
    device: SharedDevice,
    accesses: Arc<Accesses>,
}

impl Range {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut device = self.device.lock();
        count(&self.accesses.reads);
        device.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut device = self.device.lock();
        count(&self.accesses.writes);
        device.write(offset, data);
    }

    fn entry(&self) -> MapEntry {
        MapEntry { base: self.base, last: self.last, label: self.label.to_string() }
    }
}

/// A set of disjoint address ranges with a device behind each: the I/O ports, or the memory that is not RAM.
pub struct AddressSpace {
    name: &'static str,
    /// Sorted by base, disjoint. Readers take the current table; `changes` serialises those who replace it.
    ranges: Arc<ArcSwap<Vec<Range>>>,
    /// Held by who changes the table: the accesses of all devices that have ever been here.
    changes: Mutex<Vec<Known>>,
    /// Accesses that nobody answered.
    unanswered: Accesses,
}

/// A table that a thread keeps.
struct Kept {
    table: Cache<Arc<ArcSwap<Vec<Range>>>, Arc<Vec<Range>>>,
    /// Where in it the last access went: most often the next one goes there, too.
    last: usize,
}

/// Most address spaces of a machine.
const SPACES: usize = 2;

thread_local! {
    /// The tables that this thread keeps; None where it keeps none, and while they are in use.
    static KEPT: Cell<Option<Box<[Option<Kept>; SPACES]>>> = const { Cell::new(None) };
}

/// The calling thread keeps the tables that it uses, and the devices in them, until it ends: for a processor's.
pub fn keep_tables() {
    KEPT.set(Some(Box::default()));
}

/// A device that is or was in an address space. It may come and go as often as the guest likes.
struct Known {
    label: Arc<str>,
    /// Its address on the host, which tells it apart from others with the same label.
    device: usize,
    accesses: Arc<Accesses>,
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace").field("name", &self.name).field("map", &self.map()).finish()
    }
}

impl AddressSpace {
    /// An empty address space; `name` appears in messages.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            ranges: Arc::new(ArcSwap::from_pointee(Vec::new())),
            changes: Mutex::default(),
            unanswered: Accesses::default(),
        }
    }

    /// Puts `device` at the `len` addresses from `base`. An empty range, and the part of a range that lies above the
    /// last address, are never reached.
    pub fn insert(&self, base: u64, len: u64, label: &str, device: SharedDevice) -> Result<(), Overlap> {
        let Some(span) = len.checked_sub(1) else { return Ok(()) };
        let accesses = Arc::default();
        let mut range =
            Range { base, last: base.saturating_add(span), label: label.into(), device, accesses };
        let mut known = self.changes.lock();
        let mut ranges = Vec::clone(&self.ranges.load());
        let at = ranges.partition_point(|other| other.last < range.base);
        if let Some(other) = ranges.get(at).filter(|other| other.base <= range.last) {
            return Err(Overlap { space: self.name, wanted: range.entry(), taken: other.entry() });
        }
        let device = Arc::as_ptr(&range.device).addr();
        match known.iter().find(|known| known.device == device && known.label == range.label) {
            Some(known) => range.accesses = Arc::clone(&known.accesses),
            None => known.push(Known {
                label: Arc::clone(&range.label),
                device,
                accesses: Arc::clone(&range.accesses),
            }),
        }
        ranges.insert(at, range);
        self.ranges.store(Arc::new(ranges));
        Ok(())
    }

    /// Takes away the range that starts at `base`. Accesses that are under way finish with its device. False when no
    /// range starts there.
    pub fn remove(&self, base: u64) -> bool {
        let _changing = self.changes.lock();
        let mut ranges = Vec::clone(&self.ranges.load());
        let Ok(at) = ranges.binary_search_by_key(&base, |range| range.base) else { return false };
        ranges.remove(at);
        self.ranges.store(Arc::new(ranges));
        true
    }

    /// Reads `data.len()` bytes at `addr`. Bytes that nobody answers for are all ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        self.with_table(|ranges, last| self.read_from(ranges, last, addr, data));
    }

    /// Writes `data` at `addr`. Bytes that nobody answers for vanish.
    pub fn write(&self, addr: u64, data: &[u8]) {
        self.with_table(|ranges, last| self.write_to(ranges, last, addr, data));
    }

    /// Works on the table in use, and where in it to look first.
    #[inline]
    fn with_table(&self, work: impl FnOnce(&[Range], &mut usize)) {
        // A device that asks for another device finds none kept, and goes the other way.
        let Some(mut kept) = KEPT.take() else { return work(&self.ranges.load(), &mut 0) };
        let own = kept.iter().position(|kept| kept.as_ref().is_some_and(|kept| self.is_own(kept)));
        match own.and_then(|k| kept[k].as_mut()) {
            Some(Kept { table, last }) => work(table.load(), last),
            None => self.keep_table(&mut kept, work),
        }
        KEPT.set(Some(kept));
    }

    fn is_own(&self, kept: &Kept) -> bool {
        std::ptr::eq(kept.table.arc_swap(), &*self.ranges)
    }

    #[cold]
    fn keep_table(&self, kept: &mut [Option<Kept>; SPACES], work: impl FnOnce(&[Range], &mut usize)) {
        match kept.iter_mut().find(|kept| kept.is_none()) {
            Some(free) => {
                let kept = free.insert(Kept { table: Cache::new(Arc::clone(&self.ranges)), last: 0 });
                work(kept.table.load(), &mut kept.last);
            }
            None => work(&self.ranges.load(), &mut 0),
        }
    }

    fn read_from(&self, ranges: &[Range], last: &mut usize, addr: u64, data: &mut [u8]) {
        if let Some(range) = find_whole(ranges, last, addr, data.len()) {
            range.read(addr - range.base, data);
            return;
        }
        // A piece at a time: (where, how much) falls in one range or in none.
        let mut done = 0;
        while let Some((piece, len)) = next_piece(ranges, addr, done, data.len()) {
            let part = &mut data[done..done + len];
            match piece {
                Piece::Device(range, offset) => range.read(offset, part),
                Piece::Nothing(at) => {
                    trace!("{}: read of {len} at {at:#x}: nothing there", self.name);
                    self.unanswered.reads.fetch_add(1, Relaxed);
                    part.fill(0xff);
                }
            }
            done += len;
        }
    }

    fn write_to(&self, ranges: &[Range], last: &mut usize, addr: u64, data: &[u8]) {
        if let Some(range) = find_whole(ranges, last, addr, data.len()) {
            range.write(addr - range.base, data);
            return;
        }
        let mut done = 0;
        while let Some((piece, len)) = next_piece(ranges, addr, done, data.len()) {
            let part = &data[done..done + len];
            match piece {
                Piece::Device(range, offset) => range.write(offset, part),
                Piece::Nothing(at) => {
                    trace!("{}: write of {len} at {at:#x}, {part:02x?}: nothing there", self.name);
                    self.unanswered.writes.fetch_add(1, Relaxed);
                }
            }
            done += len;
        }
    }

    /// The whole map, in order of address.
    pub fn map(&self) -> Vec<MapEntry> {
        self.ranges.load().iter().map(Range::entry).collect()
    }

    /// How often each device was accessed, those included that have left, and last of all addresses where nobody is.
    pub fn traffic(&self) -> Vec<Traffic> {
        let known = self.changes.lock();
        let devices = known.iter().map(|known| (known.label.to_string(), &*known.accesses));
        let all = devices.chain([(format!("{}: nothing there", self.name), &self.unanswered)]);
        let read = |count: &AtomicU64| count.load(Relaxed);
        all.map(|(label, Accesses { reads, writes })| Traffic {
            label,
            reads: read(reads),
            writes: read(writes),
        })
        .collect()
    }

    /// Who is at `addr`, for messages.
    pub fn label_at(&self, addr: u64) -> Option<String> {
        find(&self.ranges.load(), addr).map(|range| range.label.to_string())
    }
}

fn find(ranges: &[Range], addr: u64) -> Option<&Range> {
    let range = ranges.get(ranges.partition_point(|range| range.last < addr))?;
    (range.base <= addr).then_some(range)
}

/// The range that holds all `len` bytes at `addr`, when `len` is a width that devices have; `place` is looked at first, and
/// becomes where it is.
fn find_whole<'a>(ranges: &'a [Range], place: &mut usize, addr: u64, len: usize) -> Option<&'a Range> {
    let last = addr.checked_add((len as u64).checked_sub(1)?)?;
    let holds = |range: &&Range| range.base <= addr && last <= range.last && matches!(len, 1 | 2 | 4 | 8);
    if let Some(range) = ranges.get(*place).filter(holds) {
        return Some(range);
    }
    *place = ranges.partition_point(|range| range.last < addr);
    ranges.get(*place).filter(holds)
}

enum Piece<'a> {
    /// A device, and the offset in its range.
    Device(&'a Range, u64),
    /// No device at this address.
    Nothing(u64),
}

/// The next part of an access of `total` bytes at `addr` of which `done` are done: one range, and a length of 1, 2, 4
/// or 8 that is naturally aligned, as a bus would split it.
fn next_piece(ranges: &[Range], addr: u64, done: usize, total: usize) -> Option<(Piece<'_>, usize)> {
    let left = total.checked_sub(done).filter(|&left| left > 0)?;
    // Above the last address there is nothing.
    let Some(at) = addr.checked_add(done as u64) else { return Some((Piece::Nothing(addr), left)) };
    let Some(range) = find(ranges, at) else { return Some((Piece::Nothing(at), 1)) };
    let room = (range.last - at).saturating_add(1).min(left as u64);
    let len = [8, 4, 2, 1].into_iter().find(|&len| len <= room && at.is_multiple_of(len)).unwrap_or(1);
    Some((Piece::Device(range, at - range.base), len as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what reached it; register n reads as n.
    #[derive(Default)]
    struct Probe {
        writes: Vec<(u64, Vec<u8>)>,
        reads: Vec<(u64, usize)>,
    }

    impl Device for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            self.reads.push((offset, data.len()));
            for (register, byte) in addresses_from(offset).zip(data) {
                *byte = register as u8;
            }
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
        }
    }

    fn probe() -> Arc<Mutex<Probe>> {
        Arc::default()
    }

    #[test]
    fn access_reaches_the_device_with_its_offset() {
        let space = AddressSpace::new("ports");
        let device = probe();
        space.insert(0x3f8, 8, "serial", device.clone()).unwrap();
        let mut data = [0; 4];
        space.read(0x3f9, &mut data);
        assert_eq!(data, [1, 2, 3, 4]);
        space.write(0x3fc, &[0xaa, 0xbb]);
        assert_eq!(device.lock().writes, [(4, vec![0xaa, 0xbb])]);
        assert_eq!(device.lock().reads, [(1, 4)]);
    }

    #[test]
    fn nothing_reads_as_ones() {
        let space = AddressSpace::new("memory");
        let mut data = [0; 8];
        space.read(0xfed0_0000, &mut data);
        assert_eq!(data, [0xff; 8]);
        space.write(0xfed0_0000, &data);
        space.read(u64::MAX - 2, &mut data);
        assert_eq!(data, [0xff; 8]);
    }

    #[test]
    fn straddling_bytes_go_where_they_belong() {
        let space = AddressSpace::new("ports");
        let (low, high) = (probe(), probe());
        space.insert(0x100, 3, "low", low.clone()).unwrap();
        space.insert(0x104, 4, "high", high.clone()).unwrap();
        space.write(0x101, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(low.lock().writes, [(1, vec![1]), (2, vec![2])]);
        // 0x103 belongs to nobody; the four bytes of the second device arrive as one aligned access.
        assert_eq!(high.lock().writes, [(0, vec![4, 5, 6, 7])]);
        let mut data = [0xcc; 4];
        space.read(0x102, &mut data);
        assert_eq!(data, [2, 0xff, 0, 1]);
    }

    #[test]
    fn device_at_the_very_end_of_the_space() {
        let space = AddressSpace::new("memory");
        let device = probe();
        space.insert(u64::MAX - 3, 100, "top", device.clone()).unwrap();
        assert_eq!(space.map()[0].last, u64::MAX);
        let mut data = [0; 8];
        space.read(u64::MAX - 1, &mut data);
        assert_eq!(data, [2, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn a_thread_that_keeps_tables_sees_what_comes_and_goes() {
        keep_tables();
        let spaces = [AddressSpace::new("ports"), AddressSpace::new("memory"), AddressSpace::new("third")];
        for space in &spaces {
            let device = probe();
            let read = || {
                let mut data = [0; 1];
                space.read(0x102, &mut data);
                data[0]
            };
            assert_eq!(read(), 0xff);
            space.insert(0x100, 4, "here", device.clone()).unwrap();
            assert_eq!(read(), 2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    space.remove(0x100);
                    space.insert(0x102, 4, "there", device.clone()).unwrap();
                });
            });
            assert_eq!(read(), 0);
            space.remove(0x102);
            assert_eq!(read(), 0xff);
        }
    }

    #[test]
    fn a_device_may_ask_for_another() {
        struct Relay(Arc<AddressSpace>);
        impl Device for Relay {
            fn read(&mut self, _: u64, data: &mut [u8]) {
                self.0.read(0x200, data);
            }
            fn write(&mut self, _: u64, _: &[u8]) {
                self.0.remove(0x200);
            }
        }
        keep_tables();
        let space = Arc::new(AddressSpace::new("memory"));
        space.insert(0x200, 1, "far", probe()).unwrap();
        space.insert(0x100, 1, "near", Arc::new(Mutex::new(Relay(space.clone())))).unwrap();
        let mut data = [7];
        space.read(0x100, &mut data);
        assert_eq!(data, [0]);
        space.write(0x100, &data);
        space.read(0x100, &mut data);
        assert_eq!(data, [0xff]);
        space.remove(0x100);
    }

    #[test]
    fn accesses_are_counted_wherever_a_device_moves() {
        let space = AddressSpace::new("memory");
        let (one, other) = (probe(), probe());
        space.insert(0x100, 4, "card", one.clone()).unwrap();
        space.insert(0x200, 4, "card", other).unwrap();
        space.read(0x100, &mut [0; 4]);
        space.read(0x202, &mut [0; 2]);
        assert!(space.remove(0x100));
        space.insert(0x300, 4, "card", one).unwrap();
        space.write(0x300, &[0]);
        // Half of it in the device.
        space.read(0x302, &mut [0; 4]);
        let traffic: Vec<_> = space.traffic().into_iter().map(|t| (t.label, t.reads, t.writes)).collect();
        let expected = [("card", 2, 1), ("card", 1, 0), ("memory: nothing there", 2, 0)];
        assert_eq!(traffic, expected.map(|(label, reads, writes)| (label.to_owned(), reads, writes)));
    }

    #[test]
    fn overlap_is_refused_and_named() {
        let space = AddressSpace::new("ports");
        space.insert(0x60, 1, "keyboard data", probe()).unwrap();
        space.insert(0x64, 1, "keyboard command", probe()).unwrap();
        let error = space.insert(0x61, 4, "speaker", probe()).unwrap_err();
        assert_eq!(error.taken.label, "keyboard command");
        assert_eq!(
            error.to_string(),
            "ports: 0x0061-0x0064 speaker does not fit: 0x0064-0x0064 keyboard command is there"
        );
        space.insert(0x61, 3, "speaker", probe()).unwrap();
        assert!(space.remove(0x64));
        assert!(!space.remove(0x62), "no range starts there");
        let labels: Vec<_> = space.map().into_iter().map(|entry| entry.label).collect();
        assert_eq!(labels, ["keyboard data", "speaker"]);
        assert_eq!(space.label_at(0x63).as_deref(), Some("speaker"));
        assert_eq!(space.label_at(0x64), None);
    }

    #[test]
    fn ranges_stay_sorted_and_disjoint() {
        // Against a plain list of "address -> number of the range", with pseudo-random ranges.
        let space = AddressSpace::new("ports");
        let mut owner = [None; 256];
        let mut seed = 12345u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as usize
        };
        for number in 0..200 {
            let (base, len) = (next() % 240, 1 + next() % 12);
            let free = owner[base..base + len].iter().all(Option::is_none);
            let fits = space.insert(base as u64, len as u64, &number.to_string(), probe()).is_ok();
            assert_eq!(fits, free);
            if fits {
                owner[base..base + len].fill(Some(number));
            }
            if number % 3 == 0
                && let Some(entry) = space.map().get(next() % 8)
            {
                assert!(space.remove(entry.base));
                owner[entry.base as usize..=entry.last as usize].fill(None);
            }
            for (addr, owner) in owner.iter().enumerate() {
                assert_eq!(space.label_at(addr as u64), owner.map(|number: i32| number.to_string()));
            }
        }
    }

    #[test]
    fn byte_wide_chip_sees_bytes() {
        #[derive(Default)]
        struct Chip([u8; 4]);
        impl ByteDevice for Chip {
            fn read_byte(&mut self, offset: u64) -> u8 {
                self.0.get(offset as usize).copied().unwrap_or(0xff)
            }
            fn write_byte(&mut self, offset: u64, value: u8) {
                if let Some(register) = self.0.get_mut(offset as usize) {
                    *register = value;
                }
            }
        }
        let mut chip = Chip::default();
        chip.write(1, &[0x11, 0x22]);
        assert_eq!(chip.0, [0, 0x11, 0x22, 0]);
        let mut data = [0; 4];
        chip.read(0, &mut data);
        assert_eq!(value_of(&data), 0x0022_1100);
    }

    #[test]
    fn a_device_may_change_the_space_that_calls_it() {
        struct Mover(Arc<AddressSpace>);
        impl Device for Mover {
            fn read(&mut self, _: u64, data: &mut [u8]) {
                data.fill(7);
            }
            fn write(&mut self, _: u64, data: &[u8]) {
                self.0.remove(u64::from(data[0]));
            }
        }
        let space = Arc::new(AddressSpace::new("memory"));
        space.insert(5, 1, "mover", Arc::new(Mutex::new(Mover(space.clone())))).unwrap();
        space.write(5, &[5]);
        let mut data = [0];
        space.read(5, &mut data);
        assert_eq!(data, [0xff]);
    }
}
