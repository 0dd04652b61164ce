//! LZ4's legacy format, in which Debian packs its cloud kernel.

use anyhow::{Context, Result, ensure};

const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// The shortest match that the format knows; a match's length counts from here.
const SHORTEST: usize = 4;
/// A length of this in the token goes on in the bytes that follow.
const LONG: usize = 15;

/// Unpacks blocks, each behind its size, up to the end.
pub(crate) fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut rest = packed.strip_prefix(&MAGIC).context("this is not LZ4's legacy format")?;
    let mut output = Vec::new();
    while let Some((size, behind)) = rest.split_first_chunk() {
        let (block, behind) = behind
            .split_at_checked(u32::from_le_bytes(*size) as usize)
            .context("a block is longer than the file")?;
        unpack_block(block, &mut output)?;
        rest = behind;
    }
    Ok(output)
}

/// LZ4 Block Format Description: sequences of a token, literals, and a match in what has been unpacked; the last has no
/// match.
fn unpack_block(mut block: &[u8], output: &mut Vec<u8>) -> Result<()> {
    let start = output.len();
    while let Some((&token, rest)) = block.split_first() {
        block = rest;
        let literals = length(usize::from(token >> 4), &mut block)?;
        let (literals, rest) = block.split_at_checked(literals).context("literals are missing")?;
        output.extend_from_slice(literals);
        block = rest;
        let Some((offset, rest)) = block.split_first_chunk() else { break };
        block = rest;
        let from = output.len().checked_sub(usize::from(u16::from_le_bytes(*offset)));
        let from = from.filter(|&from| from >= start).context("a match lies before its block")?;
        let count = length(usize::from(token & 15), &mut block)? + SHORTEST;
        ensure!(from < output.len(), "a match without distance");
        // Source and target may overlap: byte by byte.
        for at in from..from + count {
            output.push(output[at]);
        }
    }
    Ok(())
}

fn length(token: usize, block: &mut &[u8]) -> Result<usize> {
    let mut length = token;
    let mut more = token == LONG;
    while more {
        let (&byte, rest) = block.split_first().context("a length is missing")?;
        *block = rest;
        length += usize::from(byte);
        more = byte == u8::MAX;
    }
    Ok(length)
}
