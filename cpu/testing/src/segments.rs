//! Selectors with which user code runs that is not 64-bit code: the same ones, of the same segments, on the host under Linux
//! and on the test machine.

use crate::layout::*;
use softmetal_cpu::state::Segment;

/// A descriptor, as [`Segment`] holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Linear address of the first byte.
    pub base: u32,
    /// Offset of the last byte, granularity applied.
    pub limit: u32,
    /// Access rights as in [`Segment::attributes`].
    pub attributes: u32,
}

impl Descriptor {
    /// The eight bytes in a descriptor table: SDM 3A "Segment Descriptors".
    pub fn encoded(self) -> u64 {
        let (base, rights) = (u64::from(self.base), u64::from(self.attributes));
        let limit = u64::from(if self.attributes & GRANULARITY != 0 { self.limit >> 12 } else { self.limit });
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | (rights & 0xf0ff) << 40
            | (limit & 0xf_0000) << 32
            | (base & 0xff00_0000) << 32
    }
}

/// G.
pub(crate) const GRANULARITY: u32 = 1 << 15;

/// Linux's selectors of the GDT.
pub mod linux {
    /// 32-bit code in compatibility mode.
    pub const CODE32: u16 = 0x23;
    /// Data.
    pub const DATA: u16 = 0x2b;
    /// 64-bit code.
    pub const CODE64: u16 = 0x33;
}

/// Selectors of the segments in [`LDT`].
pub mod local {
    /// 16-bit code: [`crate::layout::CODE`].
    pub const CODE16: u16 = 0x07;
    /// 64 KiB from [`crate::layout::SCRATCH`] on, SP as stack pointer.
    pub const DATA16: u16 = 0x0f;
    /// The same with ESP as stack pointer.
    pub const DATA32: u16 = 0x17;
    /// As [`CODE16`](local::CODE16), 32-bit code.
    pub const CODE32: u16 = 0x1f;
    /// 64 KiB that end where the scratch memory does.
    pub const TOP16: u16 = 0x27;
    /// Expands down: the scratch memory but for its first page.
    pub const DOWN16: u16 = 0x2f;
    /// The scratch memory, without the right to write.
    pub const READ_ONLY: u16 = 0x37;
    /// Not present.
    pub const ABSENT: u16 = 0x3f;
    /// The first 1ffeh bytes of the scratch memory.
    pub const SHORT: u16 = 0x47;
    /// 32-bit code, in which [`crate::layout::CODE`] is where its page frame is.
    pub const FRAMES_CODE32: u16 = 0x4f;
    /// Data, in which the scratch memory is where its page frames are.
    pub const FRAMES_DATA32: u16 = 0x57;
}

/// The local descriptor table of both sides.
pub const LDT: [Descriptor; 11] = [
    Descriptor { base: CODE as u32, limit: 0xfff, attributes: 0xfb },
    Descriptor { base: SCRATCH as u32, limit: 0xffff, attributes: 0xf3 },
    Descriptor { base: SCRATCH as u32, limit: 0xffff, attributes: 0x40f3 },
    Descriptor { base: CODE as u32, limit: 0xfff, attributes: 0x40fb },
    Descriptor { base: (SCRATCH + SCRATCH_SIZE) as u32 - 0x1_0000, limit: 0xffff, attributes: 0xf3 },
    Descriptor { base: SCRATCH as u32, limit: 0xfff, attributes: 0xf7 },
    Descriptor { base: SCRATCH as u32, limit: 0xffff, attributes: 0xf1 },
    Descriptor { base: SCRATCH as u32, limit: 0xffff, attributes: 0x73 },
    Descriptor { base: SCRATCH as u32, limit: 0x1ffd, attributes: 0xf3 },
    Descriptor { base: (CODE - CODE_FRAME) as u32, limit: CODE_FRAME as u32 + 0xfff, attributes: 0xc0fb },
    Descriptor {
        base: (SCRATCH - SCRATCH_FRAME) as u32,
        limit: (SCRATCH_FRAME + SCRATCH_SIZE) as u32 - 1,
        attributes: 0xc0f3,
    },
];

/// The GDT that a process finds under Linux, as far as CPL 3 can use it. Below CPL 3, it is the test machine's. The last entry
/// is there for its limit, which tells the CPU's number.
pub const GDT: [u64; 16] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0x0040_f500_0000_0000,
];

/// The segment registers that code begins with. FS and GS hold null selectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// CS.
    pub cs: u16,
    /// SS.
    pub ss: u16,
    /// DS.
    pub ds: u16,
    /// ES.
    pub es: u16,
}

impl Segments {
    /// 64-bit code.
    pub const LONG: Segments = Segments { cs: linux::CODE64, ss: linux::DATA, ds: 0, es: 0 };
    /// 32-bit code in flat segments.
    pub const FLAT32: Segments =
        Segments { cs: linux::CODE32, ss: linux::DATA, ds: linux::DATA, es: linux::DATA };
    /// 32-bit code in segments with bases and limits.
    pub const LOCAL32: Segments =
        Segments { cs: local::CODE32, ss: local::DATA32, ds: local::DATA16, es: local::TOP16 };
    /// 16-bit code.
    pub const LOCAL16: Segments =
        Segments { cs: local::CODE16, ss: local::DATA16, ds: local::DATA16, es: local::TOP16 };
    /// 16-bit code with ESP as stack pointer.
    pub const WIDE_STACK16: Segments =
        Segments { cs: local::CODE16, ss: local::DATA32, ds: local::DOWN16, es: local::SHORT };
    /// 16-bit code in 32-bit segments without limits.
    pub const FLAT_DATA16: Segments =
        Segments { cs: local::CODE16, ss: linux::DATA, ds: linux::DATA, es: linux::DATA };
    /// 32-bit code with SP as stack pointer.
    pub const NARROW_STACK32: Segments =
        Segments { cs: linux::CODE32, ss: local::DATA16, ds: linux::DATA, es: local::DATA16 };
    /// 16-bit code whose data lie in one segment.
    pub const SMALL16: Segments =
        Segments { cs: local::CODE16, ss: local::DATA16, ds: local::DATA16, es: local::DATA16 };
    /// 32-bit code that finds everything where its page frames are, as code without paging does.
    pub const FRAMES32: Segments = Segments {
        cs: local::FRAMES_CODE32,
        ss: local::FRAMES_DATA32,
        ds: local::FRAMES_DATA32,
        es: local::FRAMES_DATA32,
    };
    /// Sets that differ in everything that makes a difference, none of them of 64-bit code.
    pub const LEGACY: [Segments; 6] = [
        Segments::FLAT32,
        Segments::LOCAL32,
        Segments::LOCAL16,
        Segments::WIDE_STACK16,
        Segments::FLAT_DATA16,
        Segments::NARROW_STACK32,
    ];

    /// 16, 32 or 64.
    pub fn bitness(self) -> u32 {
        match self.cs {
            linux::CODE64 => 64,
            _ if segment(self.cs).attributes & Segment::BIG != 0 => 32,
            _ => 16,
        }
    }

    /// Where [`INSN`] lies in the code segment.
    pub fn ip(self) -> u64 {
        INSN - self.base(self.cs)
    }

    /// Linear address of the first byte of a segment, of those that code begins with.
    pub fn base(self, selector: u16) -> u64 {
        segment(selector).base
    }

    /// Whether SS uses SP alone.
    pub fn narrow_stack(self) -> bool {
        self.bitness() != 64 && segment(self.ss).attributes & Segment::BIG == 0
    }

    /// ES, CS, SS, DS, FS, GS with their hidden parts.
    pub fn loaded(self) -> [Segment; 6] {
        [self.es, self.cs, self.ss, self.ds, 0, 0].map(segment)
    }
}

/// What a selector of the two tables loads.
pub fn segment(selector: u16) -> Segment {
    let index = usize::from(selector >> 3);
    let found = if selector & 4 != 0 {
        LDT.get(index).copied()
    } else {
        let flat = |attributes| Descriptor { base: 0, limit: u32::MAX, attributes };
        match selector {
            linux::CODE32 => Some(flat(0xc0fb)),
            linux::DATA => Some(flat(0xc0f3)),
            linux::CODE64 => Some(flat(0xa0fb)),
            _ => None,
        }
    };
    match found {
        Some(d) => Segment { selector, base: d.base.into(), limit: d.limit, attributes: d.attributes },
        None => Segment { selector, attributes: Segment::UNUSABLE, ..Segment::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gdt_holds_what_its_selectors_load() {
        for selector in [linux::CODE32, linux::DATA, linux::CODE64] {
            let s = segment(selector);
            let d = Descriptor { base: s.base as u32, limit: s.limit, attributes: s.attributes };
            assert_eq!(GDT[usize::from(selector >> 3)], d.encoded());
        }
    }

    #[test]
    fn bitness_follows_the_code_segment() {
        let all = Segments::LEGACY.map(Segments::bitness);
        assert_eq!(all, [32, 32, 16, 16, 16, 32]);
        assert_eq!(Segments::LONG.bitness(), 64);
    }
}
