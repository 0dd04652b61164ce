//! Kernels for unit tests: code without anything around it.

/// Where a kernel is loaded.
pub(crate) const LOAD: u32 = 0x10_0000;
/// Bytes before its code.
const HEADER: u32 = 32;

/// A flat multiboot kernel that begins with this 32-bit code.
pub(crate) fn kernel(code: &[u8]) -> Vec<u8> {
    const FLAT: u32 = 1 << 16;
    const MAGIC: u32 = 0x1bad_b002;
    let header = [MAGIC, FLAT, 0_u32.wrapping_sub(MAGIC + FLAT), LOAD, LOAD, 0, 0, LOAD + HEADER];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend(code);
    image
}
