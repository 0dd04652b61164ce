//! How a device is reached: reads and writes at offsets into its own register window.

/// A device behind an address range. It knows its offsets, not where it sits.
pub trait Device: Send {
    /// The guest reads `data.len()` bytes at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}
