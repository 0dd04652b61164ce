//! The block device: a disk. Virtio 1.2 "Block Device".
//!
//! Requests that need no waiting are done as the driver makes them, the others by the disk's [`Workers`]: a worker moves the
//! data between disk and guest RAM, and then lets the transport run the queue again, which gives back what is done.

mod request;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use log::warn;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use softmetal_storage::{Disk, Job, SECTOR, Transfer, Workers};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::{Bell, BrokenQueue, Queue, VirtioDevice};
use crate::dma::Dma;
use request::{MAX_RANGE_SECTORS, MAX_RANGES, Request, Status, Work};

const QUEUES: usize = 4;
const QUEUE_SIZE: u16 = 256;
/// Parts of a request's data: all of a queue but header and status.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Times that new requests are looked for while those that are there are served.
const MAX_ROUNDS: usize = 64;

/// What becomes of a write that the host cannot do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnWriteError {
    /// The guest gets an error.
    #[default]
    Report,
    /// The machine stops, and the write is tried again when it goes on.
    Stop,
}

/// Called when the machine is to stop, with the reason.
pub type Halt = Box<dyn Fn(&str) + Send + Sync>;

/// How a disk is attached.
pub struct BlkOptions {
    /// What messages call it.
    pub name: String,
    /// What the guest can ask for as its identity: up to 20 bytes.
    pub serial: String,
    /// What becomes of failing writes.
    pub on_write_error: OnWriteError,
    /// For [`OnWriteError::Stop`].
    pub halt: Halt,
}

/// Requests that are in flight are kept, and begun anew: as the driver does not know yet what has become of them, doing them a
/// second time changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkState {
    flush_each_write: bool,
    /// With the queue of each.
    in_flight: Vec<(usize, Request)>,
}

/// The block device.
pub struct Blk {
    shared: Arc<Shared>,
    /// `None` where all is done as the driver asks for it.
    workers: Option<Arc<Workers>>,
    dma: Option<Arc<Dma>>,
    /// How often each queue was reset: what belongs to an earlier one is dropped.
    epochs: [u64; QUEUES],
    flush_each_write: bool,
    /// What workers have and the driver waits for, by queue.
    in_flight: [Vec<Arc<Request>>; QUEUES],
    /// What was in flight when the state was saved.
    loaded: Vec<(usize, Request)>,
}

/// What workers reach.
struct Shared {
    disk: Arc<dyn Disk>,
    options: BlkOptions,
    done: Mutex<Vec<InFlight>>,
    /// What failed and waits for the machine to go on.
    failed: Mutex<Vec<InFlight>>,
    /// Has the transport run a queue.
    bell: OnceLock<Bell>,
}

/// A request that is being worked on, or was.
struct InFlight {
    queue: usize,
    epoch: u64,
    request: Arc<Request>,
    flush: bool,
    status: Option<Status>,
}

impl Blk {
    /// A device for `disk`. Without workers, errors are reported, whatever `options` says.
    pub fn new(disk: Arc<dyn Disk>, workers: Option<Arc<Workers>>, mut options: BlkOptions) -> Self {
        if workers.is_none() {
            // There is nobody who could try again.
            options.on_write_error = OnWriteError::Report;
        }
        let shared =
            Shared { disk, options, done: Mutex::default(), failed: Mutex::default(), bell: OnceLock::new() };
        Self {
            shared: Arc::new(shared),
            workers,
            dma: None,
            epochs: [0; QUEUES],
            flush_each_write: false,
            in_flight: Default::default(),
            loaded: Vec::new(),
        }
    }

    /// The machine goes on: what failed is tried again.
    pub fn retry(&mut self) {
        let failed = std::mem::take(&mut *self.shared.failed.lock());
        failed.into_iter().for_each(|job| self.submit(job));
    }

    /// Has the workers do it.
    fn submit(&self, job: InFlight) {
        let (Some(workers), Some(dma)) = (&self.workers, &self.dma) else { return };
        let (queue, bytes) = (job.queue, job.request.work.bytes());
        let job = Task { job: Some(job), shared: Arc::clone(&self.shared), dma: Arc::clone(dma) };
        workers.submit(queue, bytes, Box::new(job));
    }

    /// Serves a request, or passes it on; the answer is what has been done.
    fn serve(&mut self, index: usize, request: Request, dma: &Dma) -> Option<InFlight> {
        let flush = self.flush_each_write && request.work.changes();
        let (epoch, request) = (self.epochs[index], Arc::new(request));
        let mut job = InFlight { queue: index, epoch, request, flush, status: None };
        match &self.workers {
            None => {
                job.execute(&self.shared, dma);
                return Some(job);
            }
            Some(workers) if !workers.is_throttled() && !flush => {
                let (disk, id) = (&*self.shared.disk, self.shared.options.serial.as_bytes());
                if let Some(Ok(status)) = job.request.execute_at_once(disk, id, dma) {
                    job.status = Some(status);
                    return Some(job);
                }
            }
            Some(_) => {}
        }
        self.in_flight[index].push(Arc::clone(&job.request));
        self.submit(job);
        None
    }

    /// Gives a request back to the driver.
    fn give_back(job: &InFlight, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        let request = &job.request;
        request.note_writes(dma);
        let written = match request.status {
            Some(at) => {
                dma.write(at, &[job.status.unwrap_or(Status::IoError) as u8])?;
                request.room
            }
            None => 0,
        };
        queue.push_used(request.head, written, dma)
    }

    /// Gives back what workers have done for this queue.
    fn collect(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        let mut done = self.shared.done.lock();
        let (here, others): (Vec<_>, _) = done.drain(..).partition(|job| job.queue == index);
        *done = others;
        drop(done);
        for job in here {
            if job.epoch == self.epochs[index] {
                self.in_flight[index].retain(|request| !Arc::ptr_eq(request, &job.request));
                Self::give_back(&job, queue, dma)?;
            }
        }
        Ok(())
    }

    /// Forgets what belongs to queues, and waits for what cannot be forgotten any more.
    fn abandon(&mut self, among: impl Fn(usize) -> bool) {
        if let Some(workers) = &self.workers {
            workers.drain(&among);
        }
        self.shared.failed.lock().retain(|job| !among(job.queue));
        self.shared.done.lock().retain(|job| !among(job.queue));
        self.loaded.retain(|(queue, _)| !among(*queue));
        for (index, epoch) in self.epochs.iter_mut().enumerate() {
            if among(index) {
                *epoch += 1;
                self.in_flight[index].clear();
            }
        }
    }
}

impl InFlight {
    /// Does it. Without a status in the end, the machine stops.
    fn execute(&mut self, shared: &Shared, dma: &Dma) {
        let Shared { disk, options, .. } = shared;
        let result = self.request.execute(&**disk, options.serial.as_bytes(), dma);
        let result = match result {
            Ok(Status::Ok) if self.flush => disk.flush().map(|()| Status::Ok),
            result => result,
        };
        self.status = match result {
            Ok(status) => Some(status),
            Err(error) => {
                let what = match &self.request.work {
                    Work::Read { at, .. } => format!("reading at {at}"),
                    Work::Write { at, .. } => format!("writing at {at}"),
                    Work::Flush => "flushing".into(),
                    Work::Discard(_) => "discarding".into(),
                    Work::WriteZeroes(_) => "writing zeros".into(),
                    Work::GetId { .. } | Work::Refuse(_) => "answering".into(),
                };
                let message = format!("{}: {what} failed: {error}", options.name);
                if self.request.work.changes() && options.on_write_error == OnWriteError::Stop {
                    (options.halt)(&message);
                    None
                } else {
                    warn!("{message}; the guest gets an error");
                    Some(Status::IoError)
                }
            }
        };
    }
}

/// A request in the hands of a worker.
struct Task {
    job: Option<InFlight>,
    shared: Arc<Shared>,
    dma: Arc<Dma>,
}

impl Job for Task {
    fn run(&mut self) {
        let Some(mut job) = self.job.take() else { return };
        job.execute(&self.shared, &self.dma);
        // Kept where draining finds it, so that nothing turns up behind a reset.
        if job.status.is_some() { self.job = Some(job) } else { self.shared.failed.lock().push(job) }
    }

    fn transfer(&self) -> Option<Transfer> {
        let InFlight { request, flush: false, .. } = self.job.as_ref()? else { return None };
        let (at, parts, write) = match &request.work {
            Work::Read { at, into } => (*at, into, false),
            Work::Write { at, from } => (*at, from, true),
            _ => return None,
        };
        let place = self.shared.disk.place(at, request.work.bytes(), write)?;
        let parts = parts.iter().map(|part| (part.address, part.length as usize));
        Transfer::new(place, write, self.dma.memory(), parts)
    }

    fn transferred(&mut self) {
        if let Some(job) = &mut self.job {
            job.status = Some(Status::Ok);
        }
    }

    fn tell(self: Box<Self>) {
        let Some(job) = self.job else { return };
        let queue = job.queue;
        self.shared.done.lock().push(job);
        if let Some(bell) = self.shared.bell.get() {
            bell.ring(queue);
        }
    }
}

impl VirtioDevice for Blk {
    type State = BlkState;

    const DEVICE_TYPE: u16 = 2;
    /// Mass storage, SCSI: what drivers expect.
    const PCI_CLASS: [u8; 3] = [0x01, 0x00, 0x00];

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn name(&self) -> &str {
        "virtio-blk"
    }

    fn features(&self) -> u64 {
        let limits = self.shared.disk.limits();
        let writable = [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];
        let own = if limits.read_only { &[VIRTIO_BLK_F_RO][..] } else { &writable[..] };
        [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ]
            .iter()
            .chain(own)
            .fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        }
    }

    fn connect(&mut self, bell: Bell) {
        // It is hung once, where the transport is made.
        let _ = self.shared.bell.set(bell);
    }

    fn activate(&mut self, features: u64) {
        // A driver that does not know of flushes expects writes to be kept when they are done.
        self.flush_each_write = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
    }

    fn process(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        if self.dma.is_none() {
            self.dma = Some(Arc::new(dma.clone()));
        }
        self.collect(index, queue, dma)?;
        for (_, request) in self.loaded.extract_if(.., |(of, _)| *of == index).collect::<Vec<_>>() {
            if let Some(job) = self.serve(index, request, dma) {
                Self::give_back(&job, queue, dma)?;
            }
        }
        let limits = self.shared.disk.limits();
        for _ in 0..MAX_ROUNDS {
            for _ in 0..queue.size() {
                let Some(chain) = queue.pop(dma)? else { break };
                let request = Request::parse(&chain, &limits, dma)?;
                if let Some(job) = self.serve(index, request, dma) {
                    Self::give_back(&job, queue, dma)?;
                }
            }
            if !queue.ask_for_notification(dma)? {
                break;
            }
        }
        Ok(())
    }

    fn reset_queue(&mut self, index: usize) {
        self.abandon(|queue| queue == index);
    }

    fn reset(&mut self) {
        self.abandon(|_| true);
        self.flush_each_write = false;
    }

    fn save(&self) -> BlkState {
        let in_flight = self.in_flight.iter().enumerate();
        let in_flight = in_flight
            .flat_map(|(queue, requests)| requests.iter().map(move |request| (queue, (**request).clone())));
        let in_flight = in_flight.chain(self.loaded.iter().cloned()).collect();
        BlkState { flush_each_write: self.flush_each_write, in_flight }
    }

    fn load(&mut self, state: BlkState) {
        self.abandon(|_| true);
        self.flush_each_write = state.flush_each_write;
        self.loaded = state.in_flight;
    }
}

impl Blk {
    /// The device configuration: `struct virtio_blk_config`.
    fn config(&self) -> [u8; 60] {
        let limits = self.shared.disk.limits();
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(limits.size / SECTOR).to_le_bytes());
        put(12, &MAX_SEGMENTS.to_le_bytes());
        put(20, &limits.block_size.to_le_bytes());
        put(34, &(QUEUES as u16).to_le_bytes());
        if !limits.read_only {
            let alignment = limits.discard_granularity.max(limits.block_size) / SECTOR as u32;
            put(36, &MAX_RANGE_SECTORS.to_le_bytes());
            put(40, &MAX_RANGES.to_le_bytes());
            put(44, &alignment.to_le_bytes());
            put(48, &MAX_RANGE_SECTORS.to_le_bytes());
            put(52, &MAX_RANGES.to_le_bytes());
            put(56, &[1]);
        }
        config
    }
}

#[cfg(test)]
impl Blk {
    fn nothing_failed(&self) -> bool {
        self.shared.failed.lock().is_empty()
    }
}
