//! The PCI transport of virtio 1.2 ("Virtio Over PCI Bus").
//!
//! All structures lie in one memory BAR. Interrupts are MSI-X, a vector for each queue and one for configuration, or the
//! function's pin. A transitional function has the legacy interface, too (`legacy.rs`).

mod layout;
mod legacy;

use std::sync::{Arc, Weak};

use bitflags::bitflags;
use log::debug;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_RING_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use layout::{Common, Part, Structure};

use super::VirtioDevice;
use super::bell::{Bell, Function};
use super::gathering::{Gathered, Gathering};
use super::queue::{BrokenQueue, Queue, QueueState};
use crate::bus::value_of;
use crate::dma::Dma;
use crate::irq::{IrqLine, MsiSink};
use crate::pci::config::{Command, ConfigState};
use crate::pci::msix::MsixState;
use crate::pci::{BarKind, ConfigSpace, Identity, Intx, Msix, PciDevice, Pin};

const VENDOR: u16 = 0x1af4;
/// Device IDs of functions without the legacy interface are this and the device type.
const DEVICE_BASE: u16 = 0x1040;
/// Revisions from 1 on have no legacy interface.
const REVISION: u8 = 1;
const TRANSITIONAL_REVISION: u8 = 0;
/// From 0x40 on, so that drivers for the legacy interface keep away.
const SUBSYSTEM: u16 = 0x1100;
const CAPABILITY_VENDOR: u8 = 0x09;

/// The BAR of all structures; where there is a legacy interface, that has the first one.
const BAR: usize = 0;
const TRANSITIONAL_BAR: usize = 4;
const BAR_SIZE: u64 = 0x8000;
/// Bytes between the notification addresses of neighbouring queues.
const NOTIFY_MULTIPLIER: u32 = 4;
/// Queues that fit into the notification structure.
const MAX_QUEUES: usize = 256;
/// A vector register that names none.
const NO_VECTOR: u16 = 0xffff;

bitflags! {
    /// The ISR status register: why the pin is asserted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Isr: u8 {
        /// A queue has used buffers.
        const QUEUE = 1 << 0;
        /// Configuration or status changed.
        const CONFIG = 1 << 1;
    }
}

/// What the driver has set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    status: u8,
    config_generation: u8,
    queue_select: u16,
    isr: Isr,
    /// A driver of old has begun before it has said that it is ready.
    is_early: bool,
}

impl Registers {
    fn after_reset(queues: usize) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            status: 0,
            config_generation: 0,
            queue_select: 0,
            isr: Isr::empty(),
            is_early: false,
        }
    }

    fn has(&self, status: u32) -> bool {
        u32::from(self.status) & status == status
    }

    fn negotiated(&self, feature: u32) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK) && self.driver_features & 1 << feature != 0
    }
}

/// What a snapshot keeps of a virtio function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioPciState<S> {
    config: ConfigState,
    msix: MsixState,
    registers: Registers,
    queues: Vec<QueueState>,
    /// For queues whose driver was not told of all that was given back: since which used index.
    untold: Vec<Option<u16>>,
    device: S,
}

/// A virtio device as a PCI function.
pub struct VirtioPci<D: VirtioDevice> {
    config: ConfigSpace,
    msix: Msix,
    intx: Intx,
    registers: Registers,
    queues: Vec<Queue>,
    dma: Dma,
    device: D,
    /// Whose interrupts wait for one another, if that is wanted, and what waits in each queue.
    gathering: Option<Arc<Gathering>>,
    gathered: Vec<Gathered>,
    /// The BAR of all structures.
    bar: usize,
    /// Where in configuration space the capability is that reaches the BAR without mapping it.
    window: usize,
}

/// Offsets in the capability that reaches the BAR: VIRTIO_PCI_CAP_PCI_CFG.
mod window {
    pub(super) const BAR: usize = 4;
    pub(super) const OFFSET: usize = 8;
    pub(super) const LENGTH: usize = 12;
    pub(super) const DATA: usize = 16;
    pub(super) const SIZE: usize = 20;
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// A function around `device`, with its pin, its messages and its way to guest RAM.
    pub fn new(device: D, pin: IrqLine, messages: Arc<dyn MsiSink>, dma: Dma) -> Self {
        let identity = Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + D::DEVICE_TYPE,
            revision: REVISION,
            class: D::PCI_CLASS,
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        };
        Self::build(device, ConfigSpace::new(identity), BAR, pin, messages, dma)
    }

    /// As [`VirtioPci::new`], for a function that drivers from before virtio 1.0 can use as well; one of a kind that there
    /// was at that time.
    pub fn transitional(device: D, pin: IrqLine, messages: Arc<dyn MsiSink>, dma: Dma) -> Self {
        let identity = Identity {
            vendor: VENDOR,
            device: legacy::device_id(D::DEVICE_TYPE),
            revision: TRANSITIONAL_REVISION,
            class: D::PCI_CLASS,
            subsystem_vendor: VENDOR,
            subsystem: D::DEVICE_TYPE,
        };
        let config = ConfigSpace::new(identity).with_bar(legacy::BAR, BarKind::Io, legacy::BAR_SIZE);
        Self::build(device, config, TRANSITIONAL_BAR, pin, messages, dma)
    }

    fn build(
        device: D,
        config: ConfigSpace,
        bar: usize,
        pin: IrqLine,
        messages: Arc<dyn MsiSink>,
        dma: Dma,
    ) -> Self {
        let sizes = device.queue_sizes();
        let queues = sizes.len();
        assert!(queues <= MAX_QUEUES, "the notification structure has room for {MAX_QUEUES} queues");
        let mut config = config.with_bar(bar, BarKind::Memory64, BAR_SIZE).with_interrupt_pin(Pin::A);
        let vectors = queues as u16 + 1;
        let (table, pending) = (Structure::MsixTable.place().0, Structure::MsixPending.place().0);
        let msix = Msix::new(vectors, bar as u8, table, pending, &mut config, messages);
        for (structure, ..) in Structure::ALL {
            if let Some(number) = structure.capability_type() {
                let (offset, length) = structure.place();
                let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
                let extra = if structure == Structure::Notify { &multiplier[..] } else { &[] };
                add_capability(&mut config, [number, bar as u8], offset, length, extra, false);
            }
        }
        const PCI_CFG: u8 = 5;
        let window = add_capability(&mut config, [PCI_CFG, bar as u8], 0, 0, &[0; 4], true);
        Self {
            config,
            msix,
            intx: Intx::new(pin),
            registers: Registers::after_reset(queues),
            queues: sizes.into_iter().map(Queue::new).collect(),
            dma,
            device,
            gathering: None,
            gathered: vec![Gathered::default(); queues],
            bar,
            window,
        }
    }

    /// As [`VirtioPci::shared`]; interrupts for requests that were done while the driver made others wait for one another.
    pub fn shared_with(mut self, gathering: Option<&Arc<Gathering>>) -> Arc<Mutex<Self>>
    where
        D: 'static,
    {
        self.gathering = gathering.cloned();
        let function = self.shared();
        if let Some(gathering) = gathering {
            let weak: Weak<Mutex<Self>> = Arc::downgrade(&function);
            gathering.add(weak);
        }
        function
    }

    /// The function as a bus takes it. Back ends can ring for the device from now on.
    pub fn shared(self) -> Arc<Mutex<Self>>
    where
        D: 'static,
    {
        let bell = Bell::default();
        let function = Arc::new(Mutex::new(self));
        let weak = Arc::downgrade(&function);
        bell.hang(weak);
        function.lock().device.connect(bell);
        function
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, to be changed from outside; [`VirtioPci::run_queue`] and [`VirtioPci::config_changed`] tell the driver.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Lets the device work on a queue, and interrupts the driver if it wants that. For back ends that have something for the
    /// guest.
    pub fn run_queue(&mut self, index: usize) {
        self.work_on(index, false);
    }

    /// As [`VirtioPci::run_queue`], for the driver's notifications: its processor is not idle.
    fn notified(&mut self, index: usize) {
        self.work_on(index, self.gathering.as_ref().is_some_and(|gathering| gathering.may_wait()));
    }

    fn work_on(&mut self, index: usize, may_wait: bool) {
        let mut next = Some(index);
        while let Some(index) = next {
            if !self.is_live() {
                return;
            }
            self.run_one_queue(index, may_wait);
            next = self.device.follow_up();
        }
    }

    /// Whether driver and device work with one another.
    fn is_live(&self) -> bool {
        self.registers.has(VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK)
            && !self.registers.has(VIRTIO_CONFIG_S_NEEDS_RESET)
            && self.config.command().contains(Command::BUS_MASTER)
    }

    fn run_one_queue(&mut self, index: usize, may_wait: bool) {
        let Some(queue) = self.queues.get_mut(index).filter(|queue| queue.is_enabled()) else { return };
        let gathered = &mut self.gathered[index];
        let before = gathered.since().unwrap_or(queue.next_used());
        let processed = self.device.process(index, queue, &self.dma);
        if processed.is_ok()
            && may_wait
            && let Some(gathering) = &self.gathering
            && gathered.may_wait(before, queue.next_used())
        {
            gathering.wait();
            return;
        }
        self.tell(index, before, processed);
    }

    /// Interrupts the driver for what was given back in a queue since the used index was `before`, if it wants that.
    fn tell(&mut self, index: usize, before: u16, processed: Result<(), BrokenQueue>) {
        let Some(queue) = self.queues.get_mut(index) else { return };
        self.gathered[index].told(queue.next_used());
        match processed.and_then(|()| queue.wants_interrupt(before, &self.dma)) {
            Ok(true) => {
                let vector = self.registers.queue_vectors.get(index).copied().unwrap_or(NO_VECTOR);
                self.interrupt(Isr::QUEUE, vector);
            }
            Ok(false) => {}
            Err(broken) => self.needs_reset(index, broken),
        }
    }

    fn run_queues(&mut self) {
        (0..self.queues.len()).for_each(|index| self.run_queue(index));
    }

    /// Tells the driver that device configuration has changed.
    pub fn config_changed(&mut self) {
        self.registers.config_generation = self.registers.config_generation.wrapping_add(1);
        if self.registers.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            self.interrupt(Isr::CONFIG, self.registers.config_vector);
        }
    }

    fn tell_config_change(&mut self) {
        if self.device.take_config_change() {
            self.config_changed();
        }
    }

    /// The state, to be saved. Guest RAM is to be saved while the function is still locked, as those that work for the device
    /// give back what is done when they can lock it.
    pub fn save(&self) -> VirtioPciState<D::State> {
        VirtioPciState {
            config: self.config.save(),
            msix: self.msix.save(),
            registers: self.registers.clone(),
            queues: self.queues.iter().map(Queue::save).collect(),
            untold: self.gathered.iter().map(Gathered::since).collect(),
            device: self.device.save(),
        }
    }

    /// Takes over a saved state; guest RAM must have been loaded before. [`VirtioPci::resume`] is to follow.
    pub fn load(&mut self, state: VirtioPciState<D::State>) {
        self.config.load(&state.config);
        self.msix.load(state.msix, &self.config);
        self.registers = state.registers;
        self.gathered = state.untold.into_iter().map(Gathered::untold_since).collect();
        self.gathered.resize(self.queues.len(), Gathered::default());
        self.registers.queue_vectors.resize(self.queues.len(), NO_VECTOR);
        self.device.load(state.device);
        let with_event_index = self.registers.negotiated(VIRTIO_RING_F_EVENT_IDX);
        for (index, saved) in state.queues.iter().enumerate().take(self.queues.len()) {
            if let Err(broken) = self.queues[index].load(saved, with_event_index, &self.dma) {
                self.needs_reset(index, broken);
            }
        }
        self.drive_pin();
    }

    /// All of the machine has been loaded: the device goes on with what it was working on.
    pub fn resume(&mut self) {
        self.run_queues();
    }

    /// What device, rings and transport offer together.
    fn offered(&self) -> u64 {
        const COMMON: [u32; 4] =
            [VIRTIO_F_VERSION_1, VIRTIO_F_RING_RESET, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC];
        COMMON.iter().fold(self.device.features(), |features, bit| features | 1 << bit)
    }

    fn needs_reset(&mut self, index: usize, broken: BrokenQueue) {
        debug!("{}: queue {index} is broken: {broken}", self.device.name());
        self.registers.status |= VIRTIO_CONFIG_S_NEEDS_RESET as u8;
        self.interrupt(Isr::CONFIG, self.registers.config_vector);
    }

    fn interrupt(&mut self, why: Isr, vector: u16) {
        if self.msix.is_enabled() {
            self.msix.notify(vector);
        } else {
            self.registers.isr |= why;
            self.drive_pin();
        }
    }

    /// Reading acknowledges.
    fn take_isr(&mut self) -> u8 {
        let isr = std::mem::replace(&mut self.registers.isr, Isr::empty());
        self.drive_pin();
        isr.bits()
    }

    fn drive_pin(&mut self) {
        let pending = !self.registers.isr.is_empty() && !self.msix.is_enabled();
        self.intx.set(pending, &mut self.config);
    }

    fn reset_device(&mut self) {
        self.queues.iter_mut().for_each(Queue::reset);
        self.registers = Registers::after_reset(self.queues.len());
        self.gathered.fill(Gathered::default());
        self.device.reset();
        self.drive_pin();
    }

    // The common configuration structure.

    fn selected(&self) -> usize {
        self.registers.queue_select.into()
    }

    fn read_common(&self, register: Common) -> u64 {
        let registers = &self.registers;
        let half = |features: u64, select: u32| match select {
            0 => features & 0xffff_ffff,
            1 => features >> 32,
            _ => 0,
        };
        // A queue that does not exist has size zero.
        let queue = self.queues.get(self.selected());
        let addresses = queue.map(Queue::addresses).unwrap_or_default();
        match register {
            Common::DeviceFeatureSelect => registers.device_feature_select.into(),
            Common::DeviceFeature => half(self.offered(), registers.device_feature_select),
            Common::DriverFeatureSelect => registers.driver_feature_select.into(),
            Common::DriverFeature => half(registers.driver_features, registers.driver_feature_select),
            Common::ConfigMsixVector => registers.config_vector.into(),
            Common::NumQueues => self.queues.len() as u64,
            Common::DeviceStatus => registers.status.into(),
            Common::ConfigGeneration => registers.config_generation.into(),
            Common::QueueSelect => registers.queue_select.into(),
            Common::QueueSize => queue.map_or(0, |queue| queue.size().into()),
            Common::QueueMsixVector => {
                registers.queue_vectors.get(self.selected()).copied().unwrap_or(NO_VECTOR).into()
            }
            Common::QueueEnable => queue.is_some_and(Queue::is_enabled).into(),
            Common::QueueNotifyOff | Common::QueueNotifyData => registers.queue_select.into(),
            Common::QueueDesc => addresses[0],
            Common::QueueDriver => addresses[1],
            Common::QueueDevice => addresses[2],
            // A reset is done at once.
            Common::QueueReset => 0,
        }
    }

    fn write_common(&mut self, register: Common, part: Part, value: u64) {
        let selected = self.selected();
        match register {
            Common::DeviceFeatureSelect => self.registers.device_feature_select = value as u32,
            Common::DriverFeatureSelect => self.registers.driver_feature_select = value as u32,
            Common::DriverFeature => self.set_driver_features(value as u32),
            Common::ConfigMsixVector => self.registers.config_vector = self.vector(value as u16),
            Common::DeviceStatus => self.set_status(value as u8),
            Common::QueueSelect => self.registers.queue_select = value as u16,
            Common::QueueMsixVector => {
                let vector = self.vector(value as u16);
                if let Some(place) = self.registers.queue_vectors.get_mut(selected) {
                    *place = vector;
                }
            }
            Common::QueueEnable if value == 1 => self.enable_queue(selected),
            Common::QueueReset if value == 1 => self.reset_queue(selected),
            Common::QueueSize => {
                if let Some(queue) = self.disabled_queue(selected) {
                    queue.set_size(value as u16);
                }
            }
            Common::QueueDesc => self.set_queue_address(0, part, value),
            Common::QueueDriver => self.set_queue_address(1, part, value),
            Common::QueueDevice => self.set_queue_address(2, part, value),
            Common::QueueEnable | Common::QueueReset => {}
            Common::DeviceFeature
            | Common::NumQueues
            | Common::ConfigGeneration
            | Common::QueueNotifyOff
            | Common::QueueNotifyData => {}
        }
    }

    /// A vector register holds vectors that exist, or none.
    fn vector(&self, value: u16) -> u16 {
        if usize::from(value) <= self.queues.len() { value } else { NO_VECTOR }
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.registers.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        let part = match self.registers.driver_feature_select {
            0 => Part::Low,
            1 => Part::High,
            _ => return,
        };
        self.registers.driver_features = part.replace(self.registers.driver_features, value.into());
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.reset_device();
            return;
        }
        const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
        const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
        const LASTING: u8 = FEATURES_OK | DRIVER_OK as u8 | VIRTIO_CONFIG_S_NEEDS_RESET as u8;
        let features = self.registers.driver_features;
        let acceptable = features & !self.offered() == 0 && features & 1 << VIRTIO_F_VERSION_1 != 0;
        let had_driver = self.registers.has(DRIVER_OK);
        // Only a reset takes these back: the device works with what was agreed on.
        let kept = self.registers.status & LASTING;
        // The driver reads the status back to see whether the device takes the features.
        let refused = value & FEATURES_OK != 0 && !acceptable;
        self.registers.status = kept | if refused { value & !FEATURES_OK } else { value };
        if self.registers.status & !kept & FEATURES_OK != 0 {
            self.tell_features(self.offered());
        }
        // A driver that is in a hurry may have come too early to be told so when it set the other bit.
        if !self.registers.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            self.registers.status &= !(DRIVER_OK as u8);
        }
        if !had_driver && self.registers.has(DRIVER_OK) {
            self.driver_is_ready();
        }
    }

    fn tell_features(&self, offered: u64) {
        let (name, features) = (self.device.name(), self.registers.driver_features);
        debug!("{name}: the driver takes the features {features:#x} of {offered:#x}");
    }

    fn driver_is_ready(&mut self) {
        self.device.activate(self.registers.driver_features);
        self.tell_config_change();
        // What was made available before has not been looked at.
        self.run_queues();
    }

    /// The driver sets queues up while they are disabled.
    fn disabled_queue(&mut self, index: usize) -> Option<&mut Queue> {
        self.queues.get_mut(index).filter(|queue| !queue.is_enabled())
    }

    fn set_queue_address(&mut self, which: usize, part: Part, value: u64) {
        let selected = self.selected();
        if let Some(queue) = self.disabled_queue(selected) {
            let mut addresses = queue.addresses();
            addresses[which] = part.replace(addresses[which], value);
            queue.set_addresses(addresses);
        }
    }

    fn enable_queue(&mut self, index: usize) {
        let with_event_index = self.registers.negotiated(VIRTIO_RING_F_EVENT_IDX);
        let Some(queue) = self.queues.get_mut(index).filter(|queue| !queue.is_enabled()) else { return };
        if let Err(broken) = queue.enable(with_event_index, &self.dma) {
            self.needs_reset(index, broken);
        }
    }

    fn reset_queue(&mut self, index: usize) {
        if !self.registers.negotiated(VIRTIO_F_RING_RESET) {
            return;
        }
        if let Some(queue) = self.queues.get_mut(index) {
            queue.reset();
            self.gathered[index] = Gathered::default();
            self.registers.queue_vectors[index] = NO_VECTOR;
            self.device.reset_queue(index);
        }
    }

    // The window in configuration space.

    /// Where the window leads, if it leads anywhere: the offset in the BAR and the width of the access.
    fn window_target(&self) -> Option<(u64, usize)> {
        let offset = self.config.read_u32(self.window + window::OFFSET);
        let length = self.config.read_u32(self.window + window::LENGTH);
        let right = usize::from(self.config.read_u8(self.window + window::BAR)) == self.bar
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length);
        right.then_some((offset.into(), length as usize))
    }

    fn touches_window_data(&self, offset: usize, length: usize) -> bool {
        offset < self.window + window::SIZE && self.window + window::DATA < offset.saturating_add(length)
    }
}

/// Adds a virtio capability, by its number and its BAR; the answer is where it is. One that is a window can be written from its BAR on.
fn add_capability(
    config: &mut ConfigSpace,
    [number, bar]: [u8; 2],
    offset: u32,
    length: u32,
    extra: &[u8],
    is_window: bool,
) -> usize {
    const HEADER_SIZE: usize = 16;
    let size = HEADER_SIZE + extra.len();
    let mut body = vec![size as u8, number, bar, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    let mut writable = vec![0; body.len()];
    if is_window {
        // ID, next pointer, length and type come before the BAR; padding follows it.
        writable[window::BAR - 2] = 0xff;
        writable[window::OFFSET - 2..].fill(0xff);
    }
    config.add_capability(CAPABILITY_VENDOR, &body, &writable)
}

impl<D: VirtioDevice> Function for VirtioPci<D> {
    fn run_queue(&mut self, index: usize) {
        VirtioPci::run_queue(self, index);
    }

    fn interrupt_at_last(&mut self) {
        for index in 0..self.gathered.len() {
            if let Some(since) = self.gathered[index].since() {
                self.tell(index, since, Ok(()));
            }
        }
    }
}

impl<D: VirtioDevice> PciDevice for VirtioPci<D> {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if self.touches_window_data(offset, data.len())
            && let Some((target, length)) = self.window_target()
        {
            let mut bytes = [0; 4];
            self.read_bar(self.bar, target, &mut bytes[..length]);
            self.config.write(self.window + window::DATA, &bytes[..length]);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let could_reach_memory = self.config.command().contains(Command::BUS_MASTER);
        self.config.write(offset, data);
        if self.touches_window_data(offset, data.len())
            && let Some((target, length)) = self.window_target()
        {
            let mut bytes = [0; 4];
            self.config.read(self.window + window::DATA, &mut bytes);
            self.write_bar(self.bar, target, &bytes[..length]);
        }
        self.msix.sync(&self.config);
        self.drive_pin();
        if !could_reach_memory && self.config.command().contains(Command::BUS_MASTER) {
            // Requests, and completions of them, that came meanwhile.
            self.run_queues();
        }
    }

    fn read_bar(&mut self, index: usize, offset: u64, data: &mut [u8]) {
        if index != self.bar {
            self.read_legacy(offset, data);
            return;
        }
        let Some((structure, offset)) = Structure::at(offset) else {
            data.fill(0xff);
            return;
        };
        match structure {
            Structure::Common => {
                let value = Common::at(offset, data.len())
                    .map_or(u64::MAX, |(register, part)| part.of(self.read_common(register)));
                for (byte, source) in data.iter_mut().zip(value.to_le_bytes()) {
                    *byte = source;
                }
            }
            Structure::Isr => {
                data.fill(0);
                if let (0, Some(byte)) = (offset, data.first_mut()) {
                    *byte = self.take_isr();
                }
            }
            Structure::Device => self.device.read_config(offset, data),
            Structure::Notify => data.fill(0),
            Structure::MsixTable => self.msix.read_table(offset, data),
            Structure::MsixPending => self.msix.read_pending(offset, data),
        }
    }

    fn write_bar(&mut self, index: usize, offset: u64, data: &[u8]) {
        if index != self.bar {
            self.write_legacy(offset, data);
            return;
        }
        let Some((structure, offset)) = Structure::at(offset) else { return };
        match structure {
            Structure::Common => {
                if let Some((register, part)) = Common::at(offset, data.len()) {
                    self.write_common(register, part, value_of(data));
                }
            }
            Structure::Device => {
                self.device.write_config(offset, data);
                self.tell_config_change();
            }
            // The address says which queue; the data repeats it.
            Structure::Notify => self.notified((offset / u64::from(NOTIFY_MULTIPLIER)) as usize),
            Structure::MsixTable => self.msix.write_table(offset, data),
            Structure::Isr | Structure::MsixPending => {}
        }
    }

    fn reset(&mut self) {
        self.config.reset();
        self.msix.reset(&self.config);
        self.reset_device();
    }
}

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worker_tests;
