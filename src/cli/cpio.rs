//! Writes "new ASCII" cpio archives, the format of Linux's initial RAM disks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// The kinds of entry, as the file type bits of `st_mode` (`stat.h`).
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory. Parents come before what is in them.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with the permission bits `permissions`.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) {
        self.entry(name, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let length = u32::try_from(content.len()).expect("archives hold files below 4 GiB");
        let name_length = u32::try_from(name.len() + 1).expect("names are short");
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, mtime, size, device of the file system (2), device (2), name size, checksum
        let fields = [self.entries, mode, 0, 0, links, 0, length, 0, 0, major, minor, name_length, 0];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Headers and contents start at multiples of 4.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden form of a small archive, field by field.
    #[test]
    fn an_archive_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, b"#!/bin/sh\n");
        archive.symlink("sh", "busybox");
        let bytes = archive.finish();
        let expected = [
            "07070100000001000041ED0000000000000000000000020000000000000000",
            "000000000000000000000000000000000000000400000000dev\0\0\0",
            "0707010000000200002180000000000000000000000001000000000000000000000000000000000000000500000001",
            "0000000C00000000dev/console\0\0\0",
            "07070100000003000081ED000000000000000000000001000000000000000A",
            "000000000000000000000000000000000000000500000000init\0\0",
            "#!/bin/sh\n\0\0",
            "0707010000000400 00A1FF000000000000000000000001000000000000000700000000000000000000000000000000",
            "0000000300000000sh\0\0\0\0busybox\0",
        ]
        .concat()
        .replace(' ', "");
        assert!(bytes.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&bytes));
        assert!(bytes.len().is_multiple_of(4));
        assert!(String::from_utf8_lossy(&bytes[expected.len()..]).contains("TRAILER!!!"));
    }
}
