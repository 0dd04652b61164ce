//! Where in the BAR structures and registers are: virtio 1.2, "Virtio Structure PCI Capabilities" and "Common configuration
//! structure layout".

/// A structure in the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structure {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Structure {
    pub(super) const ALL: [(Self, u64, u64); 6] = [
        (Self::Common, 0x0000, 0x1000),
        (Self::Isr, 0x1000, 0x1000),
        (Self::Device, 0x2000, 0x1000),
        (Self::Notify, 0x3000, 0x1000),
        (Self::MsixTable, 0x4000, 0x3000),
        (Self::MsixPending, 0x7000, 0x1000),
    ];

    /// Whose bytes these are, and where in it they are.
    pub(super) fn at(offset: u64) -> Option<(Self, u64)> {
        Self::ALL.into_iter().find_map(|(structure, base, size)| {
            offset.checked_sub(base).filter(|offset| *offset < size).map(|offset| (structure, offset))
        })
    }

    pub(super) fn place(self) -> (u32, u32) {
        let found = Self::ALL.into_iter().find(|(structure, ..)| *structure == self);
        found.map_or((0, 0), |(_, base, size)| (base as u32, size as u32))
    }

    /// The number by which capabilities know it.
    pub(super) fn capability_type(self) -> Option<u8> {
        match self {
            Self::Common => Some(1),
            Self::Notify => Some(2),
            Self::Isr => Some(3),
            Self::Device => Some(4),
            Self::MsixTable | Self::MsixPending => None,
        }
    }
}

/// Registers of the common configuration structure: `struct virtio_pci_common_cfg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Common {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigMsixVector,
    NumQueues,
    DeviceStatus,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueMsixVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDesc,
    QueueDriver,
    QueueDevice,
    QueueNotifyData,
    QueueReset,
}

impl Common {
    /// Each register with its offset and its width.
    pub(super) const ALL: [(Self, u64, usize); 18] = [
        (Self::DeviceFeatureSelect, 0x00, 4),
        (Self::DeviceFeature, 0x04, 4),
        (Self::DriverFeatureSelect, 0x08, 4),
        (Self::DriverFeature, 0x0c, 4),
        (Self::ConfigMsixVector, 0x10, 2),
        (Self::NumQueues, 0x12, 2),
        (Self::DeviceStatus, 0x14, 1),
        (Self::ConfigGeneration, 0x15, 1),
        (Self::QueueSelect, 0x16, 2),
        (Self::QueueSize, 0x18, 2),
        (Self::QueueMsixVector, 0x1a, 2),
        (Self::QueueEnable, 0x1c, 2),
        (Self::QueueNotifyOff, 0x1e, 2),
        (Self::QueueDesc, 0x20, 8),
        (Self::QueueDriver, 0x28, 8),
        (Self::QueueDevice, 0x30, 8),
        (Self::QueueNotifyData, 0x38, 2),
        (Self::QueueReset, 0x3a, 2),
    ];

    /// The register of an access, and whether it is the upper half of 64 bits. Drivers access registers whole, and those
    /// of 64 bits in halves as well; everything else has no meaning.
    pub(super) fn at(offset: u64, length: usize) -> Option<(Self, Part)> {
        Self::ALL.into_iter().find_map(|(register, at, width)| match offset.checked_sub(at)? {
            0 if length == width => Some((register, Part::Whole)),
            0 if width == 8 && length == 4 => Some((register, Part::Low)),
            4 if width == 8 && length == 4 => Some((register, Part::High)),
            _ => None,
        })
    }
}

/// Which part of a register is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Low,
    High,
}

impl Part {
    pub(super) fn of(self, value: u64) -> u64 {
        match self {
            Self::Whole | Self::Low => value,
            Self::High => value >> 32,
        }
    }

    pub(super) fn replace(self, old: u64, new: u64) -> u64 {
        match self {
            Self::Whole => new,
            Self::Low => old & !0xffff_ffff | new & 0xffff_ffff,
            Self::High => old & 0xffff_ffff | new << 32,
        }
    }
}
