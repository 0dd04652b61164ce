//! The console device: a terminal for the guest, or channels with names between programs in the guest and on the host.
//! Virtio 1.2 "Console Device".
//!
//! A terminal is a device without VIRTIO_CONSOLE_F_MULTIPORT, because the size of its window then lies in configuration
//! space: the control message for it has its fields in one order in the standard and in another in most of Linux's
//! versions. Channels are the ports of a device with VIRTIO_CONSOLE_F_MULTIPORT, numbered from 1 on; port 0 is kept for a
//! console, which that device does not have.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::queue::MAX_ROUNDS;
use super::{BrokenQueue, Chain, Queue, VirtioDevice, VirtioPci, read_bytes};
use crate::dma::Dma;

/// VIRTIO_CONSOLE_F_SIZE: configuration has columns and rows.
const F_SIZE: u64 = 1 << 0;
/// VIRTIO_CONSOLE_F_MULTIPORT: several ports, and messages about them.
const F_MULTIPORT: u64 = 1 << 1;

/// The most channels of a device.
pub const MAX_CHANNELS: usize = 30;

const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
/// Queue sizes: of a port, and for messages about ports.
const PORT_QUEUE: u16 = 128;
const CONTROL_QUEUE: u16 = 32;

/// What is copied at once.
const PIECE: usize = 4096;
/// The most that a chain can have to send. Linux's stay below 128 KiB.
const MAX_CHAIN: u64 = 1 << 20;

/// The host's end of a port. No method waits for anything.
///
/// It calls [`VirtioPci::attend`], from a thread of its own, when something has changed: input has come, there is room again
/// after [`PortEnd::send`] has taken less than all, somebody has connected or gone.
pub trait PortEnd: Send {
    /// Whether somebody is there.
    fn is_connected(&self) -> bool;

    /// Takes what the guest sends, as much as there is room for: so many bytes.
    fn send(&mut self, bytes: &[u8]) -> usize;

    /// Whether there is input for the guest.
    fn has_input(&self) -> bool;

    /// Gives input to the guest: so many bytes.
    fn receive(&mut self, bytes: &mut [u8]) -> usize;

    /// Attends again soon: there was too much to do at once.
    fn again(&mut self);
}

/// A message about a port: `struct virtio_console_control` and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    port: u32,
    event: u16,
    value: u16,
}

/// What messages are about.
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

impl Message {
    const SIZE: usize = 8;

    fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let [a, b, c, d, e, f, g, h] = *bytes;
        Self {
            port: u32::from_le_bytes([a, b, c, d]),
            event: u16::from_le_bytes([e, f]),
            value: u16::from_le_bytes([g, h]),
        }
    }

    /// The message and what comes behind it.
    fn build(self, extra: &[u8]) -> Vec<u8> {
        let mut bytes = self.port.to_le_bytes().to_vec();
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(extra);
        bytes
    }
}

bitflags! {
    /// What the driver has yet to be told of a port. Bits and not a list of messages: however often the guest asks, it is
    /// no more.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct Untold: u8 {
        const ADD = 1 << 0;
        const NAME = 1 << 1;
        const OPEN = 1 << 2;
    }
}

/// A chain that is being sent, and how much of it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sending {
    chain: Chain,
    done: u64,
}

/// What a snapshot keeps of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PortState {
    untold: Untold,
    /// The driver knows the port.
    ready: bool,
    /// A program in the guest has opened it.
    guest_open: bool,
    /// Whether the driver was told that somebody is there.
    told_open: bool,
    sending: Option<Sending>,
}

struct Port {
    name: String,
    end: Box<dyn PortEnd>,
    state: PortState,
}

/// What a snapshot keeps of the device. The size of the window is the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    features: u64,
    ports: Vec<PortState>,
}

/// The console device.
pub struct Console {
    offered: u64,
    /// What was agreed on.
    agreed: u64,
    columns: u16,
    rows: u16,
    /// The first is number 0 of a terminal, and number 1 of channels.
    ports: Vec<Port>,
    /// Queues that are to be looked at: one bit each.
    follow_up: u64,
    /// Linux looks at the size of the window when it is told that it has changed, and not before.
    untold_size: bool,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To the guest, by place in the list of ports.
    Receive(usize),
    /// From the guest.
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Console {
    /// A terminal.
    pub fn terminal(end: impl PortEnd + 'static) -> Self {
        Self::new(F_SIZE, vec![(String::new(), Box::new(end))])
    }

    /// Channels, each with the name by which programs in the guest find it.
    ///
    /// # Panics
    /// If there are more than [`MAX_CHANNELS`].
    pub fn channels(channels: Vec<(String, Box<dyn PortEnd>)>) -> Self {
        assert!(channels.len() <= MAX_CHANNELS, "a device has {MAX_CHANNELS} channels at most");
        Self::new(F_MULTIPORT, channels)
    }

    fn new(offered: u64, ports: Vec<(String, Box<dyn PortEnd>)>) -> Self {
        let ports = ports.into_iter().map(|(name, end)| Port { name, end, state: PortState::default() });
        Self {
            offered,
            agreed: 0,
            columns: 0,
            rows: 0,
            ports: ports.collect(),
            follow_up: 0,
            untold_size: false,
        }
    }

    fn has_channels(&self) -> bool {
        self.offered & F_MULTIPORT != 0
    }

    /// The queue to the guest of a port; the one behind it is the queue from it.
    fn receive_queue(&self, port: usize) -> usize {
        if self.has_channels() { 4 + 2 * port } else { 0 }
    }

    fn purpose(&self, queue: usize) -> Option<Purpose> {
        let port = match queue {
            CONTROL_RECEIVE if self.has_channels() => return Some(Purpose::ControlReceive),
            CONTROL_TRANSMIT if self.has_channels() => return Some(Purpose::ControlTransmit),
            // Port 0 of a device with channels is nobody's.
            _ if self.has_channels() => queue.checked_sub(4)? / 2,
            _ => queue / 2,
        };
        Some(if queue.is_multiple_of(2) { Purpose::Receive(port) } else { Purpose::Transmit(port) })
    }

    /// Whether messages about ports are exchanged.
    fn has_control(&self) -> bool {
        self.agreed & F_MULTIPORT != 0
    }

    fn later(&mut self, queue: usize) {
        self.follow_up |= 1 << queue;
    }

    /// Takes input to the guest as long as it has buffers.
    fn receive(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        let control = self.has_control();
        let Some(port) = self.ports.get_mut(index) else { return Ok(()) };
        // Input waits until a program has opened the port.
        if control && !port.state.guest_open {
            return Ok(());
        }
        let end = &mut port.end;
        for _ in 0..MAX_ROUNDS {
            for _ in 0..queue.size() {
                if !end.has_input() {
                    return Ok(());
                }
                let Some(chain) = queue.pop(dma)? else { break };
                let mut written: u32 = 0;
                'chain: for part in chain.writable() {
                    let mut done = 0;
                    while done < part.length {
                        let mut bytes = [0; PIECE];
                        let room = PIECE.min((part.length - done) as usize);
                        let count = end.receive(&mut bytes[..room]).min(room);
                        if count == 0 {
                            break 'chain;
                        }
                        dma.write(part.address + u64::from(done), &bytes[..count])?;
                        done += count as u32;
                        written = written.saturating_add(count as u32);
                    }
                }
                queue.push_used(chain.head, written, dma)?;
            }
            if !queue.ask_for_notification(dma)? {
                return Ok(());
            }
        }
        end.again();
        Ok(())
    }

    /// Takes what the guest sends, as long as the host's end does.
    fn transmit(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        let Some(Port { end, state, .. }) = self.ports.get_mut(index) else {
            return queue.serve(dma, |_| Ok(0));
        };
        for _ in 0..MAX_ROUNDS {
            for _ in 0..queue.size() {
                let sending = match &mut state.sending {
                    Some(sending) => sending,
                    nothing => match queue.pop(dma)? {
                        Some(chain) => {
                            chain.readable_bytes(MAX_CHAIN)?;
                            nothing.insert(Sending { chain, done: 0 })
                        }
                        None => break,
                    },
                };
                loop {
                    let mut bytes = [0; PIECE];
                    let count = sending.chain.read(sending.done, &mut bytes, dma)?;
                    if count == 0 {
                        break;
                    }
                    let taken = end.send(&bytes[..count]).min(count);
                    sending.done += taken as u64;
                    if taken < count {
                        return Ok(());
                    }
                }
                let head = sending.chain.head;
                state.sending = None;
                queue.push_used(head, 0, dma)?;
            }
            if !queue.ask_for_notification(dma)? {
                return Ok(());
            }
        }
        end.again();
        Ok(())
    }

    /// Reads the driver's messages.
    fn control_transmit(&mut self, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        queue.serve(dma, |chain| {
            let mut bytes = [0; Message::SIZE];
            // What is shorter is no message.
            if chain.read(0, &mut bytes, dma)? == Message::SIZE {
                self.hear(Message::parse(&bytes));
            }
            Ok(0)
        })
    }

    fn hear(&mut self, Message { port: number, event, value }: Message) {
        self.later(CONTROL_RECEIVE);
        if event == event::DEVICE_READY {
            if value != 0 {
                self.ports.iter_mut().for_each(|port| port.state.untold |= Untold::ADD);
            }
            return;
        }
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let Some(place) = place.filter(|place| *place < self.ports.len()) else { return };
        let state = &mut self.ports[place].state;
        match event {
            event::PORT_READY if value != 0 => {
                state.ready = true;
                state.untold |= Untold::NAME | Untold::OPEN;
            }
            event::PORT_READY => state.ready = false,
            event::PORT_OPEN => {
                state.guest_open = value != 0;
                if state.guest_open {
                    self.later(self.receive_queue(place));
                }
            }
            _ => {}
        }
    }

    /// The next message for the driver, and what it is about.
    fn next_message(&self) -> Option<(usize, Untold, Vec<u8>)> {
        let (place, port) = self.ports.iter().enumerate().find(|(_, port)| !port.state.untold.is_empty())?;
        let message = |event, value| Message { port: place as u32 + 1, event, value };
        let untold = port.state.untold;
        Some(if untold.contains(Untold::ADD) {
            (place, Untold::ADD, message(event::DEVICE_ADD, 1).build(&[]))
        } else if untold.contains(Untold::NAME) {
            (place, Untold::NAME, message(event::PORT_NAME, 1).build(port.name.as_bytes()))
        } else {
            let open = port.end.is_connected();
            (place, Untold::OPEN, message(event::PORT_OPEN, open.into()).build(&[]))
        })
    }

    /// Tells the driver what it does not know yet, as long as it has buffers.
    fn control_receive(&mut self, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        for _ in 0..MAX_ROUNDS {
            for _ in 0..queue.size() {
                let Some((place, what, bytes)) = self.next_message() else { return Ok(()) };
                let Some(chain) = queue.pop(dma)? else { break };
                let written = chain.write(&bytes, dma)?;
                queue.push_used(chain.head, written as u32, dma)?;
                let port = &mut self.ports[place];
                port.state.untold -= what;
                if what == Untold::OPEN {
                    // The value is the seventh byte.
                    port.state.told_open = bytes.get(6).is_some_and(|value| *value != 0);
                }
            }
            if !queue.ask_for_notification(dma)? {
                break;
            }
        }
        Ok(())
    }

    /// Something has changed at a port: notes what the driver is to be told.
    fn notice(&mut self, place: usize) {
        let control = self.has_control();
        let Some(port) = self.ports.get_mut(place) else { return };
        if control && port.state.ready && port.end.is_connected() != port.state.told_open {
            port.state.untold |= Untold::OPEN;
        }
    }
}

impl VirtioPci<Console> {
    /// The end of a port, counted from 0, has something to tell; see [`PortEnd`].
    pub fn attend(&mut self, port: usize) {
        self.device_mut().notice(port);
        let receive = self.device().receive_queue(port);
        let control = self.device().has_control().then_some(CONTROL_RECEIVE);
        for queue in [Some(receive), Some(receive + 1), control].into_iter().flatten() {
            self.run_queue(queue);
        }
    }

    /// The window of the terminal has another size.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let console = self.device_mut();
        if (console.columns, console.rows) != (columns, rows) {
            (console.columns, console.rows) = (columns, rows);
            self.config_changed();
        }
    }
}

impl VirtioDevice for Console {
    type State = ConsoleState;

    const DEVICE_TYPE: u16 = 3;
    /// A simple communication controller, other than the known ones.
    const PCI_CLASS: [u8; 3] = [0x07, 0x80, 0x00];

    fn queue_sizes(&self) -> Vec<u16> {
        if !self.has_channels() {
            return vec![PORT_QUEUE; 2];
        }
        let mut sizes = vec![PORT_QUEUE, PORT_QUEUE, CONTROL_QUEUE, CONTROL_QUEUE];
        sizes.extend(vec![PORT_QUEUE; 2 * self.ports.len()]);
        sizes
    }

    fn name(&self) -> &str {
        if self.has_channels() { "virtio-serial" } else { "virtio-console" }
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let ports = self.ports.len() as u32 + u32::from(self.has_channels());
        let mut bytes = self.columns.to_le_bytes().to_vec();
        bytes.extend(self.rows.to_le_bytes());
        bytes.extend(ports.to_le_bytes());
        read_bytes(&bytes, offset, data);
    }

    fn activate(&mut self, features: u64) {
        self.agreed = features;
        self.untold_size = features & F_SIZE != 0 && (self.columns, self.rows) != (0, 0);
    }

    fn take_config_change(&mut self) -> bool {
        std::mem::take(&mut self.untold_size)
    }

    fn process(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<(), BrokenQueue> {
        match self.purpose(index) {
            Some(Purpose::Receive(port)) => self.receive(port, queue, dma),
            Some(Purpose::Transmit(port)) => self.transmit(port, queue, dma),
            Some(Purpose::ControlReceive) => self.control_receive(queue, dma),
            Some(Purpose::ControlTransmit) => self.control_transmit(queue, dma),
            None => Ok(()),
        }
    }

    fn follow_up(&mut self) -> Option<usize> {
        let queue = self.follow_up.trailing_zeros();
        self.follow_up &= !1u64.checked_shl(queue)?;
        Some(queue as usize)
    }

    fn reset_queue(&mut self, index: usize) {
        if let Some(Purpose::Transmit(port)) = self.purpose(index)
            && let Some(port) = self.ports.get_mut(port)
        {
            port.state.sending = None;
        }
    }

    fn reset(&mut self) {
        (self.agreed, self.follow_up) = (0, 0);
        self.ports.iter_mut().for_each(|port| port.state = PortState::default());
    }

    fn save(&self) -> ConsoleState {
        let ports = self.ports.iter().map(|port| port.state.clone()).collect();
        ConsoleState { features: self.agreed, ports }
    }

    fn load(&mut self, state: ConsoleState) {
        self.agreed = state.features;
        for (port, saved) in self.ports.iter_mut().zip(state.ports) {
            port.state = saved;
        }
    }
}

#[cfg(test)]
mod tests;
