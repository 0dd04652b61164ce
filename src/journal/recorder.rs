//! Writing a log: a bus that passes everything on to the board and notes what comes back.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use anyhow::Result;
use parking_lot::Mutex;
use softmetal_cpu::{Bus, Cpu, Event, Gp, Rights};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::entry::{DMA_CHUNK, Data, End, Entry, Happening, Question};
use super::{Header, Writer, moment};
use crate::outcome::Outcome;

/// Instructions between two checkpoints: where a replay looks at the registers though nothing else happens.
const STRIDE: u64 = 1 << 22;

/// The log that is being written. What goes wrong is kept for the one who runs the machine.
pub(crate) struct Tape(Mutex<State>);

/// Where a log goes.
enum Sink {
    File {
        writer: Box<Writer>,
        name: String,
    },
    /// For who takes it away again soon.
    Memory(Vec<Entry>),
}

impl Sink {
    fn write(&mut self, entry: Entry) -> Result<(), String> {
        match self {
            Self::File { writer, .. } => writer.write(&entry).map_err(|error| self.wrong(&error)),
            Self::Memory(entries) => {
                entries.push(entry);
                Ok(())
            }
        }
    }

    /// What has been written reaches the file.
    fn flush(&mut self) -> Result<(), String> {
        match self {
            Self::File { writer, .. } => writer.flush().map_err(|error| self.wrong(&error)),
            Self::Memory(_) => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        match self {
            Self::File { writer, .. } => writer.finish().map_err(|error| self.wrong(&error)),
            Self::Memory(_) => Ok(()),
        }
    }

    fn wrong(&self, error: &std::io::Error) -> String {
        match self {
            Self::File { name, .. } => format!("cannot write the log {name}: {error}"),
            Self::Memory(_) => format!("cannot keep the log: {error}"),
        }
    }
}

struct State {
    sink: Sink,
    failure: Option<String>,
    /// The CPU's thread: what others do is not between two of its instructions.
    cpu: Option<ThreadId>,
    checkpoint: u64,
}

impl Tape {
    pub(super) fn create(path: &Path, header: &Header) -> Result<Arc<Self>> {
        let writer = Box::new(Writer::create(path, header)?);
        Ok(Self::new(Sink::File { writer, name: path.display().to_string() }))
    }

    /// A log that is taken away piece by piece.
    pub(crate) fn in_memory() -> Arc<Self> {
        Self::new(Sink::Memory(Vec::new()))
    }

    fn new(sink: Sink) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { sink, failure: None, cpu: None, checkpoint: 0 })))
    }

    pub(crate) fn note(&self, entry: Entry) {
        let mut state = self.0.lock();
        let written = state.sink.write(entry);
        state.check(written);
    }

    /// What was noted since the last time, of a log in memory.
    pub(crate) fn take(&self) -> Vec<Entry> {
        match &mut self.0.lock().sink {
            Sink::Memory(entries) => std::mem::take(entries),
            Sink::File { .. } => Vec::new(),
        }
    }

    /// What has gone wrong: the log is of no use.
    pub(crate) fn failure(&self) -> Option<String> {
        self.0.lock().failure.clone()
    }

    /// The calling thread is the CPU's, and it is about to begin.
    pub(crate) fn begin(&self) {
        let mut state = self.0.lock();
        state.cpu = Some(thread::current().id());
        state.checkpoint = STRIDE;
    }

    /// How far `cpu` may run; makes a checkpoint where it is time for one.
    pub(crate) fn limit(&self, cpu: &Cpu) -> u64 {
        let mut state = self.0.lock();
        let now = cpu.instructions();
        if now >= state.checkpoint {
            state.checkpoint = now + STRIDE;
            let written = state.sink.write(Entry::At(moment(cpu), Happening::Checkpoint));
            let written = written.and_then(|()| state.sink.flush());
            state.check(written);
        }
        state.checkpoint - now
    }

    /// The run of a machine is over.
    pub(crate) fn end(&self, cpu: &Cpu, outcome: &Outcome, memory: u64) {
        let end = match outcome {
            Outcome::PoweredOff => End::PoweredOff,
            Outcome::Reset => End::Reset,
            Outcome::DebugExit(value) => End::DebugExit(*value),
            Outcome::Crashed(_) => End::Crashed,
            Outcome::Terminated | Outcome::Failed(_) => End::Terminated,
        };
        self.note(Entry::At(moment(cpu), Happening::End(end, memory)));
        let mut state = self.0.lock();
        state.cpu = None;
        let written = state.sink.flush();
        state.check(written);
    }

    /// Nothing more comes.
    pub(crate) fn finish(&self) {
        let mut state = self.0.lock();
        let written = state.sink.finish();
        state.check(written);
    }

    /// A device has written to guest memory.
    pub(crate) fn written(&self, memory: &GuestMemoryMmap, at: u64, len: u64) {
        if !self.holds("a device has written to memory") {
            return;
        }
        for done in (0..len).step_by(DMA_CHUNK) {
            let mut bytes = vec![0; (len - done).min(DMA_CHUNK as u64) as usize];
            if memory.read_slice(&mut bytes, GuestAddress(at + done)).is_ok() {
                self.note(Entry::Dma(at + done, bytes));
            }
        }
    }

    /// A chip has changed which accesses reach pages of guest memory.
    pub(crate) fn rights(&self, range: Range<u64>, rights: Rights) {
        if self.holds("a chip has changed what memory answers to") {
            self.note(Entry::Rights(range, rights));
        }
    }

    /// Whether something that happens to memory now has its place among the processor's instructions.
    fn holds(&self, what: &str) -> bool {
        let mut state = self.0.lock();
        match state.cpu {
            // What is there before the first instruction belongs to the start.
            None => false,
            Some(cpu) if cpu == thread::current().id() => true,
            Some(_) => {
                state
                    .failure
                    .get_or_insert_with(|| format!("{what} while the processor ran; no log can hold that"));
                false
            }
        }
    }
}

impl State {
    /// The first thing that goes wrong is kept.
    fn check(&mut self, done: Result<(), String>) {
        if let Err(what) = done {
            self.failure.get_or_insert(what);
        }
    }
}

/// The board with a log of what it says.
pub(crate) struct Recorder {
    board: Arc<dyn Bus>,
    tape: Arc<Tape>,
}

impl Recorder {
    pub(crate) fn new(board: Arc<dyn Bus>, tape: Arc<Tape>) -> Self {
        Self { board, tape }
    }

    fn note(&self, question: Question, answer: Option<u64>) {
        self.tape.note(Entry::Asked(question, answer));
    }
}

fn value(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = data.len().min(8);
    bytes[..len].copy_from_slice(&data[..len]);
    u64::from_le_bytes(bytes)
}

impl Bus for Recorder {
    fn mmio_read(&self, cpu: usize, at: u64, data: &mut [u8]) {
        self.board.mmio_read(cpu, at, data);
        self.note(Question::MmioRead { at, len: data.len() as u8 }, Some(value(data)));
    }

    // A write stands before what it brings about.
    fn mmio_write(&self, cpu: usize, at: u64, data: &[u8]) {
        self.note(Question::MmioWrite { at, data: Data::new(data) }, Some(0));
        self.board.mmio_write(cpu, at, data);
    }

    fn port_read(&self, cpu: usize, port: u16, data: &mut [u8]) {
        self.board.port_read(cpu, port, data);
        self.note(Question::PortRead { port, len: data.len() as u8 }, Some(value(data)));
    }

    fn port_write(&self, cpu: usize, port: u16, data: &[u8]) {
        self.note(Question::PortWrite { port, data: Data::new(data) }, Some(0));
        self.board.port_write(cpu, port, data);
    }

    fn has_interrupt(&self, cpu: usize) -> bool {
        self.board.has_interrupt(cpu)
    }

    fn acknowledge(&self, cpu: usize) -> Option<u8> {
        self.board.acknowledge(cpu)
    }

    fn event(&self, cpu: &Cpu, event: Event) {
        self.tape.note(Entry::At(moment(cpu), event.into()));
    }

    fn cr8(&self, cpu: usize) -> u8 {
        let value = self.board.cr8(cpu);
        self.note(Question::Cr8, Some(value.into()));
        value
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        self.note(Question::SetCr8(value), Some(0));
        self.board.set_cr8(cpu, value);
    }

    fn apic_base(&self, cpu: usize) -> u64 {
        let value = self.board.apic_base(cpu);
        self.note(Question::ApicBase, Some(value));
        value
    }

    fn set_apic_base(&self, cpu: usize, value: u64) -> Result<(), Gp> {
        let result = self.board.set_apic_base(cpu, value);
        self.note(Question::SetApicBase(value), result.ok().map(|()| 0));
        result
    }

    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, Gp> {
        let result = self.board.apic_msr_read(cpu, msr);
        self.note(Question::ApicMsrRead(msr), result.ok());
        result
    }

    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), Gp> {
        let result = self.board.apic_msr_write(cpu, msr, value);
        self.note(Question::ApicMsrWrite { msr, value }, result.ok().map(|()| 0));
        result
    }

    fn tsc_deadline(&self, cpu: usize) -> u64 {
        let value = self.board.tsc_deadline(cpu);
        self.note(Question::TscDeadline, Some(value));
        value
    }

    fn set_tsc_deadline(&self, cpu: usize, value: u64) {
        self.note(Question::SetTscDeadline(value), Some(0));
        self.board.set_tsc_deadline(cpu, value);
    }

    fn tsc(&self) -> u64 {
        let value = self.board.tsc();
        self.note(Question::Tsc, Some(value));
        value
    }

    fn random(&self, cpu: usize) -> Option<u64> {
        let number = self.board.random(cpu);
        self.note(Question::Random, number);
        number
    }

    fn tsc_hz(&self) -> u64 {
        self.board.tsc_hz()
    }

    fn apic_timer_hz(&self) -> u64 {
        self.board.apic_timer_hz()
    }
}
