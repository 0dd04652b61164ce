//! Exceptions as values.

use serde::{Deserialize, Serialize};

/// Exception vectors, SDM 3A "Exception and Interrupt Reference".
#[allow(missing_docs, reason = "the names are the manual's")]
pub(crate) mod vector {
    pub(crate) const DE: u8 = 0;
    pub(crate) const DB: u8 = 1;
    pub(crate) const NMI: u8 = 2;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
}

/// An exception on its way to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The vector, 0 to 31.
    pub vector: u8,
    /// The error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// The linear address for CR2, of a #PF.
    pub address: u64,
}

impl Fault {
    /// An exception without an error code.
    pub const fn new(vector: u8) -> Self {
        Fault { vector, error_code: None, address: 0 }
    }
    /// An exception with an error code.
    pub const fn with_code(vector: u8, code: u32) -> Self {
        Fault { vector, error_code: Some(code), address: 0 }
    }
    /// #UD.
    pub const UD: Fault = Fault::new(vector::UD);
    /// #NM.
    pub const NM: Fault = Fault::new(vector::NM);
    /// #GP(code).
    pub const fn gp(code: u32) -> Self {
        Fault::with_code(vector::GP, code)
    }
    /// #SS(code).
    pub const fn ss(code: u32) -> Self {
        Fault::with_code(vector::SS, code)
    }
}

/// "The instruction ended early": what and why is in the CPU (`Cpu::why`, `Cpu::fault`). Zero-sized, so that a
/// `Result<u64, Stop>` is a pair of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop;

/// What an instruction gives that may end early.
pub(crate) type Done = Result<(), Stop>;
