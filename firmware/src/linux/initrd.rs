//! The initial RAM disk.

use crate::error::BootError;
use crate::recognise;

/// A file that Linux can take as initial RAM disk.
#[derive(Clone, Copy, Debug)]
pub struct Initrd<'a> {
    file: &'a str,
    bytes: &'a [u8],
}

impl<'a> Initrd<'a> {
    /// Looks at the file's kind, not at its content; `file` is its name for messages.
    pub fn parse(file: &'a str, bytes: &'a [u8]) -> Result<Self, BootError> {
        if bytes.is_empty() {
            return Err(BootError::EmptyInitrd { file: file.to_owned() });
        }
        match recognise::instead_of_initrd(bytes) {
            Some(what) => Err(BootError::NotAnInitrd { file: file.to_owned(), what }),
            None => Ok(Self { file, bytes }),
        }
    }

    /// The file's name for messages.
    pub fn file(&self) -> &str {
        self.file
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}
