//! Terminals and channels, driven as a guest drives them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::virtio::pci::driver::*;

/// What the host has to say and has heard.
#[derive(Default)]
struct Host {
    connected: bool,
    input: VecDeque<u8>,
    output: Vec<u8>,
    /// What still fits into the output.
    room: usize,
    agains: u32,
}

type End = Arc<Mutex<Host>>;

impl PortEnd for End {
    fn is_connected(&self) -> bool {
        self.lock().connected
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut host = self.lock();
        let count = bytes.len().min(host.room);
        host.room -= count;
        host.output.extend(&bytes[..count]);
        count
    }

    fn has_input(&self) -> bool {
        !self.lock().input.is_empty()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        let mut host = self.lock();
        let count = bytes.len().min(host.input.len());
        for (byte, source) in bytes.iter_mut().zip(host.input.drain(..count)) {
            *byte = source;
        }
        count
    }

    fn again(&mut self) {
        self.lock().agains += 1;
    }
}

fn end() -> End {
    Arc::new(Mutex::new(Host { room: usize::MAX, ..Host::default() }))
}

fn terminal(features: u64) -> (Driver<Console>, End) {
    let end = end();
    let mut driver = Driver::new(Console::terminal(end.clone()));
    start(&mut driver, features, 2);
    (driver, end)
}

fn start(driver: &mut Driver<Console>, features: u64, queues: u64) {
    assert!(driver.negotiate(VERSION_1 | features));
    (0..queues).for_each(|queue| driver.enable_queue(queue, 0));
    driver.write(STATUS, 1, 0xf);
}

const BUFFER: u64 = 0x8_0000;

#[test]
fn a_terminal_has_input_output_and_a_size() {
    let (mut driver, end) = terminal(F_SIZE);
    assert_eq!(driver.offered() & 0xff_ffff, F_SIZE);
    driver.poke(BUFFER, b"login: ");
    driver.request_in(1, 0, (BUFFER, 7, 0));
    assert_eq!((driver.take_used_of(1), &end.lock().output[..]), (Some((0, 0)), &b"login: "[..]));

    driver.request_in(0, 0, (BUFFER, 4, WRITE));
    driver.request_in(0, 1, (BUFFER + 16, 16, WRITE));
    assert_eq!(driver.take_used_of(0), None, "nothing was typed");
    end.lock().input.extend(b"root!");
    driver.function().attend(0);
    assert_eq!([driver.take_used_of(0), driver.take_used_of(0)], [Some((0, 4)), Some((1, 1))]);
    assert_eq!((driver.peek(BUFFER), driver.peek(BUFFER + 16)), (*b"root", *b"!"));
    end.lock().input.extend(b"x");
    driver.function().attend(0);
    driver.request_in(0, 0, (BUFFER, 4, WRITE));
    assert_eq!(driver.take_used_of(0), Some((0, 1)), "what was typed ahead");

    let size =
        |driver: &mut Driver<Console>| (driver.read(0x2000, 2), driver.read(0x2002, 2), driver.read(0x15, 1));
    assert_eq!(size(&mut driver), (0, 0, 0));
    driver.read(ISR, 1);
    driver.function().resize(132, 50);
    assert_eq!((size(&mut driver), driver.read(ISR, 1)), ((132, 50, 1), 2));
    driver.function().resize(132, 50);
    assert_eq!((size(&mut driver), driver.read(ISR, 1)), ((132, 50, 1), 0), "nothing new");
    assert_eq!(driver.read(0x2004, 4), 1, "port");
    start(&mut driver, F_SIZE, 2);
    assert_eq!((size(&mut driver), driver.read(ISR, 1)), ((132, 50, 1), 2), "a new driver is told");
    start(&mut driver, 0, 2);
    assert_eq!(driver.read(ISR, 1), 0, "if it wants to know");
}

#[test]
fn output_waits_for_room() {
    let (mut driver, end) = terminal(0);
    end.lock().room = 5;
    let table = rings(1)[0];
    driver.poke(BUFFER, b"abcdefgh");
    driver.descriptor(table, (BUFFER, 3, NEXT, 1));
    driver.descriptor(table + 16, (BUFFER + 3, 5, 0, 0));
    driver.offer_in(1, 0);
    driver.notify_queue(1);
    driver.request_in(1, 2, (BUFFER, 1, 0));
    assert_eq!((driver.take_used_of(1), &end.lock().output[..]), (None, &b"abcde"[..]));

    let saved = rmp_serde::to_vec_named(&driver.function().save()).unwrap();
    let function = driver.function().save();
    driver.function().load(rmp_serde::from_slice(&saved).unwrap());
    assert!(driver.function().save() == function);

    end.lock().room = 2;
    driver.function().attend(0);
    assert_eq!((driver.take_used_of(1), end.lock().output.len()), (None, 7));
    end.lock().room = 100;
    driver.function().attend(0);
    assert_eq!([driver.take_used_of(1), driver.take_used_of(1)], [Some((0, 0)), Some((2, 0))]);
    assert_eq!(end.lock().output, b"abcdefgha");

    end.lock().room = 0;
    driver.request_in(1, 0, (BUFFER, 8, 0));
    start(&mut driver, 0, 2);
    end.lock().room = 100;
    driver.function().attend(0);
    assert_eq!((driver.take_used_of(1), end.lock().output.len()), (None, 9), "a reset takes it back");
}

/// A device with two channels, and a driver that takes messages.
struct Serial {
    driver: Driver<Console>,
    ends: [End; 2],
}

impl Serial {
    fn new() -> Self {
        let ends = [end(), end()];
        let channels = ["agent", "log"].iter().zip(&ends);
        let channels =
            channels.map(|(name, end)| ((*name).to_owned(), Box::new(end.clone()) as Box<dyn PortEnd>));
        let driver = Driver::new(Console::channels(channels.collect()));
        let mut serial = Self { driver, ends };
        start(&mut serial.driver, F_MULTIPORT, 8);
        serial
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let at = BUFFER + 0x100;
        self.driver.poke(at, &Message { port, event, value }.build(&[]));
        self.driver.request_in(CONTROL_TRANSMIT, 0, (at, 8, 0));
        assert_eq!(self.driver.take_used_of(CONTROL_TRANSMIT), Some((0, 0)));
    }

    /// The messages that the device has, a buffer at a time.
    fn hear(&mut self) -> Vec<(Message, Vec<u8>)> {
        let mut messages = Vec::new();
        loop {
            let at = BUFFER + 0x200;
            if self.driver.available[CONTROL_RECEIVE] == self.driver.used[CONTROL_RECEIVE] {
                self.driver.request_in(CONTROL_RECEIVE, 0, (at, 64, WRITE));
            }
            let Some((_, length)) = self.driver.take_used_of(CONTROL_RECEIVE) else { return messages };
            let bytes: [u8; 64] = self.driver.peek(at);
            let (head, extra) = bytes[..length as usize].split_at(8);
            messages.push((Message::parse(head.try_into().unwrap()), extra.to_vec()));
        }
    }
}

fn message(port: u32, event: u16, value: u16, extra: &[u8]) -> (Message, Vec<u8>) {
    (Message { port, event, value }, extra.to_vec())
}

#[test]
fn channels_are_announced_named_and_opened() {
    let mut serial = Serial::new();
    assert_eq!(serial.driver.read(0x2004, 4), 3, "ports, with the one that is nobody's");
    assert_eq!(serial.driver.read(0x12, 2), 8, "queues");
    assert!(serial.hear().is_empty());
    serial.say(0, event::DEVICE_READY, 1);
    assert_eq!(serial.hear(), [message(1, event::DEVICE_ADD, 1, &[]), message(2, event::DEVICE_ADD, 1, &[])]);
    serial.ends[1].lock().connected = true;
    serial.driver.function().attend(1);
    assert!(serial.hear().is_empty(), "the driver does not know the port yet");
    for (port, name, open) in [(1, "agent", 0), (2, "log", 1)] {
        serial.say(port, event::PORT_READY, 1);
        let expected =
            [message(port, event::PORT_NAME, 1, name.as_bytes()), message(port, event::PORT_OPEN, open, &[])];
        assert_eq!(serial.hear(), expected);
    }
    for (connected, told) in [(true, 1), (false, 0)] {
        serial.ends[0].lock().connected = connected;
        serial.driver.function().attend(0);
        assert_eq!(serial.hear(), [message(1, event::PORT_OPEN, told, &[])]);
    }
    // Messages about ports that are not there, and of no known kind.
    for (port, event) in [(0, event::PORT_READY), (3, event::PORT_OPEN), (u32::MAX, 1), (1, 77)] {
        serial.say(port, event, 1);
    }
    assert!(serial.hear().is_empty());
}

#[test]
fn a_channel_carries_bytes_while_a_program_has_it_open() {
    let mut serial = Serial::new();
    let (receive, transmit) = (6, 7);
    serial.ends[1].lock().input.extend(b"hello");
    serial.driver.request_in(receive, 0, (BUFFER, 16, WRITE));
    serial.driver.function().attend(1);
    assert_eq!(serial.driver.take_used_of(receive), None, "nobody has opened it");
    serial.say(2, event::PORT_OPEN, 1);
    assert_eq!(serial.driver.take_used_of(receive), Some((0, 5)));
    assert_eq!(serial.driver.peek(BUFFER), *b"hello");
    serial.driver.request_in(transmit, 1, (BUFFER, 5, 0));
    assert_eq!(
        (serial.driver.take_used_of(transmit), &serial.ends[1].lock().output[..]),
        (Some((1, 0)), &b"hello"[..])
    );
    serial.say(2, event::PORT_OPEN, 0);
    serial.ends[1].lock().input.extend(b"more");
    serial.driver.request_in(receive, 0, (BUFFER, 16, WRITE));
    assert_eq!(serial.driver.take_used_of(receive), None);
    // The queues of port 0 lead nowhere, and its output is gone.
    serial.driver.request_in(1, 0, (BUFFER, 5, 0));
    assert_eq!(serial.driver.take_used_of(1), None);
    assert_eq!(serial.ends[0].lock().output.len(), 0);
}

#[test]
fn hostile_messages_and_buffers() {
    let mut serial = Serial::new();
    // A thousand questions are answered once.
    for _ in 0..1000 {
        serial.say(1, event::PORT_READY, 1);
        serial.say(0, event::DEVICE_READY, 1);
    }
    assert_eq!(serial.hear().len(), 4);
    // Too short for a message; no room for one.
    serial.driver.request_in(CONTROL_TRANSMIT, 0, (BUFFER, 7, 0));
    serial.say(1, event::PORT_READY, 1);
    serial.driver.request_in(CONTROL_RECEIVE, 0, (BUFFER, 3, WRITE));
    assert_eq!(serial.driver.status(), 0xf);
    // A gigabyte to send, made of one megabyte again and again.
    let table = 0x6_0000;
    for index in 0..1024 {
        let next = if index < 1023 { NEXT } else { 0 };
        serial.driver.descriptor(table + index * 16, (0, RAM as u32, next, index as u16 + 1));
    }
    serial.driver.request_in(7, 0, (table, 1024 * 16, INDIRECT));
    assert_eq!(serial.driver.status(), 0x4f, "a queue that is broken");
    assert_eq!(serial.ends[1].lock().output.len(), 0);
    start(&mut serial.driver, F_MULTIPORT, 8);
    serial.say(0, event::DEVICE_READY, 1);
    assert_eq!(serial.hear().len(), 2);
}
