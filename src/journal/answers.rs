//! A bus that answers from a script in the place of the board.

use std::sync::Arc;

use softmetal_cpu::{Bus, Cpu, Event, Gp};

use super::entry::{Data, Question};
use crate::board::Board;

/// What is known of the board's answers, in their order.
pub(crate) trait Script: Send + Sync {
    /// The board's answer to the CPU's next question; `None` where it refused.
    fn ask(&self, question: Question) -> Option<u64>;
    /// The vector of the interrupt that is on its way to the CPU.
    fn interrupt(&self) -> Option<u8>;
    /// Something from outside is about to take effect.
    fn event(&self, cpu: &Cpu, event: Event);
}

/// Answers for the board, of which only what never changes is asked.
pub(crate) struct Answers {
    board: Arc<Board>,
    script: Arc<dyn Script>,
}

impl Answers {
    pub(crate) fn new(board: Arc<Board>, script: Arc<dyn Script>) -> Self {
        Self { board, script }
    }

    fn value(&self, question: Question) -> u64 {
        self.script.ask(question).unwrap_or(0)
    }

    fn read(&self, question: Question, data: &mut [u8]) {
        let bytes = self.value(question).to_le_bytes();
        let len = data.len().min(bytes.len());
        data[..len].copy_from_slice(&bytes[..len]);
    }
}

impl Bus for Answers {
    fn mmio_read(&self, _: usize, at: u64, data: &mut [u8]) {
        self.read(Question::MmioRead { at, len: data.len() as u8 }, data);
    }

    fn mmio_write(&self, _: usize, at: u64, data: &[u8]) {
        self.script.ask(Question::MmioWrite { at, data: Data::new(data) });
    }

    fn port_read(&self, _: usize, port: u16, data: &mut [u8]) {
        self.read(Question::PortRead { port, len: data.len() as u8 }, data);
    }

    fn port_write(&self, _: usize, port: u16, data: &[u8]) {
        self.script.ask(Question::PortWrite { port, data: Data::new(data) });
    }

    fn has_interrupt(&self, _: usize) -> bool {
        self.script.interrupt().is_some()
    }

    fn acknowledge(&self, _: usize) -> Option<u8> {
        self.script.interrupt()
    }

    fn event(&self, cpu: &Cpu, event: Event) {
        self.script.event(cpu, event);
    }

    fn cr8(&self, _: usize) -> u8 {
        self.value(Question::Cr8) as u8
    }

    fn set_cr8(&self, _: usize, value: u8) {
        self.script.ask(Question::SetCr8(value));
    }

    fn apic_base(&self, _: usize) -> u64 {
        self.value(Question::ApicBase)
    }

    fn set_apic_base(&self, _: usize, value: u64) -> Result<(), Gp> {
        self.script.ask(Question::SetApicBase(value)).map(|_| ()).ok_or(Gp)
    }

    fn apic_msr_read(&self, _: usize, msr: u32) -> Result<u64, Gp> {
        self.script.ask(Question::ApicMsrRead(msr)).ok_or(Gp)
    }

    fn apic_msr_write(&self, _: usize, msr: u32, value: u64) -> Result<(), Gp> {
        self.script.ask(Question::ApicMsrWrite { msr, value }).map(|_| ()).ok_or(Gp)
    }

    fn tsc_deadline(&self, _: usize) -> u64 {
        self.value(Question::TscDeadline)
    }

    fn set_tsc_deadline(&self, _: usize, value: u64) {
        self.script.ask(Question::SetTscDeadline(value));
    }

    fn tsc(&self) -> u64 {
        self.value(Question::Tsc)
    }

    fn random(&self, _: usize) -> Option<u64> {
        self.script.ask(Question::Random)
    }

    fn tsc_hz(&self) -> u64 {
        self.board.tsc_hz()
    }

    fn apic_timer_hz(&self) -> u64 {
        self.board.apic_timer_hz()
    }
}
