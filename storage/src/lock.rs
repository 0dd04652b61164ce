//! Locks against two programs that use one image. They are those of QEMU, so that its programs keep away as well: a lock
//! on a byte says that somebody uses an image in some way, one on another byte that nobody else may.

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// What users of an image do: the bits of QEMU's `BLK_PERM_*` that matter.
const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const RESIZE: u32 = 1 << 3;
/// The first byte whose locks say what is done.
const USED: i64 = 100;
/// The first byte whose locks say what others may not do.
const FORBIDDEN: i64 = 200;

/// Takes the lock for `writable` use; an error of the kind `WouldBlock` says that somebody else has the image. The lock
/// lasts as long as the file is open.
pub(crate) fn take(file: &File, writable: bool) -> io::Result<()> {
    let used = if writable { READ | WRITE | RESIZE } else { READ };
    // Nobody bears somebody else who writes.
    let forbidden = WRITE | RESIZE;
    for (base, bits) in [(USED, used), (FORBIDDEN, forbidden)] {
        for byte in bytes(base, bits) {
            // All locks are shared ones: the meaning lies in which bytes have some.
            fcntl(file, FcntlArg::F_OFD_SETLK(&range(byte, libc::F_RDLCK)))?;
        }
    }
    for (base, bits) in [(FORBIDDEN, used), (USED, forbidden)] {
        for byte in bytes(base, bits) {
            let mut found = range(byte, libc::F_WRLCK);
            fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
            if i32::from(found.l_type) != libc::F_UNLCK {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }
    Ok(())
}

fn bytes(base: i64, bits: u32) -> impl Iterator<Item = i64> {
    (0..32).filter(move |bit| bits & 1 << bit != 0).map(move |bit| base + bit)
}

fn range(byte: i64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}
