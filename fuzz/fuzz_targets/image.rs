//! Disk images: any bytes are one or an error, and a disk in them answers, whatever its tables say.
#![no_main]

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use softmetal_storage::{Disk, Medium, Qcow2, check};
use vm_memory::VolatileSlice;

/// More than this does not fit.
const MAX: u64 = 8 << 20;

#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn put(&self, at: u64, length: u64, bytes: impl Iterator<Item = u8>) -> io::Result<()> {
        let end = at.checked_add(length).filter(|end| *end <= MAX).ok_or(io::ErrorKind::StorageFull)?;
        let mut content = self.0.lock().unwrap();
        if (content.len() as u64) < end {
            content.resize(end as usize, 0);
        }
        content[at as usize..end as usize].iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        Ok(())
    }
}

impl Medium for Memory {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        if length > MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.lock().unwrap().resize(length as usize, 0);
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let content = self.0.lock().unwrap();
        let mut rest = usize::try_from(at).ok().and_then(|at| content.get(at..)).unwrap_or_default();
        for buffer in into {
            let count = buffer.len().min(rest.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            buffer[count..].fill(0);
            rest = &rest[count..];
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &[IoSlice<'_>]) -> io::Result<()> {
        let length = from.iter().map(|part| part.len() as u64).sum();
        self.put(at, length, from.iter().flat_map(|part| part.iter().copied()))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn zero(&self, at: u64, length: u64, _may_unmap: bool) -> io::Result<()> {
        self.put(at, length, std::iter::repeat(0))
    }

    fn discard(&self, _at: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let medium = Arc::new(Memory(Mutex::new(bytes.to_vec())));
    let _ = check(&*medium, &mut |_, _| ());
    for read_only in [true, false] {
        let Ok(disk) = Qcow2::open(medium.clone(), read_only) else { continue };
        let size = disk.limits().size;
        let mut buffer = vec![0x5a; 4096];
        for at in [0, size / 2, size.saturating_sub(4096)].map(|at| at / 512 * 512) {
            let length = size.saturating_sub(at).min(4096) as usize / 512 * 512;
            let _ = disk.read(at, &[VolatileSlice::from(&mut buffer[..length])]);
            let _ = disk.write(at, &[VolatileSlice::from(&mut buffer[..length])]);
            let _ = disk.write_zeroes(at, length as u64, true);
        }
        let _ = disk.flush();
    }
});
