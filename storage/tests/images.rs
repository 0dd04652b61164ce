//! Images as they come: made here and judged by `qemu-img`, made by it and read here, broken and hostile ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use softmetal_storage::image::{check_file, convert, create, info, resize};
use softmetal_storage::{Cache, Disk, Format, OpenError, OpenOptions, open};
use vm_memory::VolatileSlice;

const MIB: u64 = 1 << 20;

fn options(path: &Path) -> OpenOptions {
    OpenOptions { path: path.into(), ..OpenOptions::default() }
}

fn refusal(options: &OpenOptions) -> OpenError {
    open(options).err().expect("it cannot be opened")
}

fn read(disk: &dyn Disk, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    disk.read(at, &[VolatileSlice::from(&mut bytes[..])]).unwrap();
    bytes
}

fn write(disk: &dyn Disk, at: u64, byte: u8, length: usize) {
    disk.write(at, &[VolatileSlice::from(&mut vec![byte; length][..])]).unwrap();
}

/// `qemu-img` with these arguments; `None` where it is not on this host.
fn qemu_img(arguments: &[&str]) -> Option<(Option<i32>, String)> {
    let Ok(answer) = Command::new("qemu-img").args(arguments).output() else {
        eprintln!("qemu-img is not on this host (Debian: qemu-utils): what it would say is not looked at");
        return None;
    };
    let text =
        String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr);
    Some((answer.status.code(), text))
}

fn must(arguments: &[&str]) -> bool {
    match qemu_img(arguments) {
        Some((status, text)) => {
            assert_eq!(status, Some(0), "{arguments:?}: {text}");
            true
        }
        None => false,
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder for a test's files. One test at a time: a program that is being started holds all locks of the process that starts
/// it for a moment.
struct Folder(tempfile::TempDir, #[allow(dead_code, reason = "it is held")] MutexGuard<'static, ()>);

impl Folder {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self(tempfile::tempdir().unwrap(), turn)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn qcow2(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        create(&path, Format::Qcow2, size, 64 << 10, None).unwrap();
        path
    }
}

#[test]
fn qemu_finds_our_images_in_order_and_reads_the_same() {
    let folder = Folder::new();
    let (raw, qcow2, back) = (folder.path("a.img"), folder.path("a.qcow2"), folder.path("b.img"));
    create(&raw, Format::Raw, 40 * MIB, 0, None).unwrap();
    let disk = open(&options(&raw)).unwrap();
    for (at, byte) in [(0, 1), (3 * MIB + 512, 2), (17 * MIB - 512, 3), (40 * MIB - 4096, 4)] {
        write(&*disk, at, byte, 4096);
    }
    let mut heard = 0;
    for cluster_size in [512, 4096, 64 << 10, 2 << 20] {
        convert(&*disk, &qcow2, Format::Qcow2, cluster_size, &mut |done| heard = done).unwrap();
        assert_eq!(heard, 40 * MIB);
        assert!(fs::metadata(&qcow2).unwrap().len() < MIB + 10 * cluster_size as u64, "zeros take no space");
        assert_eq!(info(&qcow2, None).unwrap().qcow2.unwrap().cluster_size, cluster_size as u64);
        let found = check_file(&qcow2, None, &mut |_, _| ()).unwrap().unwrap();
        assert_eq!((found.error_count, found.leaks), (0, 0), "{:?}", found.errors);
        if must(&["check", "-f", "qcow2", text(&qcow2)]) {
            must(&["compare", "-f", "raw", "-F", "qcow2", "-U", text(&raw), text(&qcow2)]);
        }
        convert(&*open(&options(&qcow2)).unwrap(), &back, Format::Raw, 0, &mut |_| ()).unwrap();
        assert_eq!(fs::read(&raw).unwrap(), fs::read(&back).unwrap());
        fs::remove_file(&qcow2).unwrap();
        fs::remove_file(&back).unwrap();
    }
}

#[test]
fn images_of_qemu_are_read() {
    let folder = Folder::new();
    let raw = folder.path("a.img");
    let content: Vec<u8> = (0..3 * MIB).map(|at| (at / 777) as u8).collect();
    fs::write(&raw, &content).unwrap();
    for more in
        [&[][..], &["-c"], &["-o", "compat=0.10"], &["-o", "cluster_size=512"], &["-o", "refcount_bits=1"]]
    {
        let path = folder.path("a.qcow2");
        let arguments = ["convert", "-f", "raw", "-O", "qcow2"];
        if !must(&[&arguments, more, &[text(&raw), text(&path)]].concat()) {
            return;
        }
        let disk = open(&options(&path)).unwrap();
        assert_eq!(read(&*disk, 0, content.len()), content, "{more:?}");
        write(&*disk, MIB, 0x5a, 70_000 / 512 * 512);
        disk.write_zeroes(2 * MIB, 128 << 10, true).unwrap();
        disk.flush().unwrap();
        assert_eq!(read(&*disk, 2 * MIB, 512), [0; 512]);
        drop(disk);
        must(&["check", "-f", "qcow2", text(&path)]);
        let found = check_file(&path, None, &mut |_, _| ()).unwrap().unwrap();
        assert_eq!((found.error_count, found.leaks), (0, 0), "{more:?} {:?}", found.errors);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn disks_grow_and_shrink() {
    let folder = Folder::new();
    for format in [Format::Raw, Format::Qcow2] {
        let path = folder.path(&format!("a.{}", format.name()));
        create(&path, format, 4 * MIB, 4096, None).unwrap();
        let fill = || write(&*open(&options(&path)).unwrap(), 3 * MIB, 7, MIB as usize);
        fill();
        for size in [600 * MIB, 3 * MIB + 512, 5 * MIB] {
            resize(&path, None, size).unwrap();
            assert_eq!(info(&path, None).unwrap().size, size);
        }
        let disk = open(&options(&path)).unwrap();
        assert_eq!(read(&*disk, 3 * MIB, 512), [7; 512]);
        assert_eq!(read(&*disk, 4 * MIB, MIB as usize), vec![0; MIB as usize], "what was cut off is gone");
        drop(disk);
        if format == Format::Qcow2 {
            must(&["check", "-f", "qcow2", text(&path)]);
        }
    }
}

#[test]
fn an_overlay_leaves_what_lies_behind_it() {
    let folder = Folder::new();
    let (base, middle, top) =
        (folder.path("base.img"), folder.path("middle.qcow2"), folder.path("top.qcow2"));
    fs::write(&base, vec![1; 2 * MIB as usize]).unwrap();
    create(&middle, Format::Qcow2, 2 * MIB, 4096, Some((Path::new("base.img"), Format::Raw))).unwrap();
    create(&top, Format::Qcow2, 3 * MIB, 4096, Some((Path::new("middle.qcow2"), Format::Qcow2))).unwrap();
    write(&*open(&options(&middle)).unwrap(), MIB, 2, 512);
    let disk = open(&options(&top)).unwrap();
    write(&*disk, MIB + 512, 3, 512);
    disk.write_zeroes(0, 512, true).unwrap();
    let seen =
        |disk: &dyn Disk| [0, 512, MIB, MIB + 512, MIB + 1024, 2 * MIB].map(|at| read(disk, at, 512)[0]);
    assert_eq!(seen(&*disk), [0, 1, 2, 3, 1, 0]);
    drop(disk);
    assert_eq!(fs::read(&base).unwrap(), vec![1; 2 * MIB as usize]);
    must(&["check", "-f", "qcow2", text(&top)]);
    assert_eq!(info(&top, None).unwrap().qcow2.unwrap().backing.as_deref(), Some("middle.qcow2"));

    // For a while only.
    let before = fs::read(&top).unwrap();
    let disk = open(&OpenOptions { ephemeral: true, ..options(&top) }).unwrap();
    write(&*disk, 512, 9, 512);
    disk.flush().unwrap();
    assert_eq!(seen(&*disk), [0, 9, 2, 3, 1, 0]);
    drop(disk);
    assert_eq!(fs::read(&top).unwrap(), before);
    assert_eq!(seen(&*open(&options(&top)).unwrap()), [0, 1, 2, 3, 1, 0]);
}

#[test]
fn formats_are_taken_from_the_content_only_where_that_is_safe() {
    let folder = Folder::new();
    let qcow2 = folder.qcow2("a.qcow2", MIB);
    assert!(open(&options(&qcow2)).is_ok());
    let renamed = folder.path("a.img");
    fs::copy(&qcow2, &renamed).unwrap();
    let message = refusal(&options(&renamed)).to_string();
    assert!(message.contains("format=qcow2 or format=raw"), "{message}");
    let raw = open(&OpenOptions { format: Some(Format::Raw), ..options(&renamed) }).unwrap();
    assert_eq!(&read(&*raw, 0, 512)[..4], b"QFI\xfb");
    drop(raw);
    assert_eq!(
        open(&OpenOptions { format: Some(Format::Qcow2), ..options(&renamed) }).unwrap().limits().size,
        MIB
    );
    let fake = folder.path("b.qcow2");
    fs::write(&fake, vec![0; 4096]).unwrap();
    assert!(matches!(refusal(&options(&fake)), OpenError::NotQcow2 { .. }));
    let foreign = folder.path("c.vmdk");
    fs::write(&foreign, [&b"KDMV"[..], &[0; 1000]].concat()).unwrap();
    let message = refusal(&options(&foreign)).to_string();
    assert!(message.contains("VMDK") && message.contains("qemu-img convert"), "{message}");
    let empty = folder.path("empty");
    fs::write(&empty, "").unwrap();
    assert!(matches!(refusal(&options(&empty)), OpenError::Empty { .. }));
    assert!(matches!(refusal(&options(folder.0.path())), OpenError::Host { .. }));
}

#[test]
fn nobody_uses_an_image_that_another_one_writes() {
    let folder = Folder::new();
    let path = folder.qcow2("a.qcow2", MIB);
    let read_only = OpenOptions { read_only: true, ..options(&path) };
    let ephemeral = OpenOptions { ephemeral: true, ..options(&path) };
    let writer = open(&options(&path)).unwrap();
    for other in [&options(&path), &read_only, &ephemeral] {
        assert!(matches!(refusal(other), OpenError::InUse { .. }));
    }
    assert!(check_file(&path, None, &mut |_, _| ()).is_err());
    assert!(info(&path, None).is_ok(), "looking at it is harmless");
    if let Some((status, message)) = qemu_img(&["resize", "-f", "qcow2", text(&path), "2M"]) {
        assert!(status == Some(1) && message.contains("lock"), "{message}");
    }
    drop(writer);
    let readers = [open(&read_only).unwrap(), open(&ephemeral).unwrap()];
    assert!(matches!(refusal(&options(&path)), OpenError::InUse { .. }));
    drop(readers);
    assert!(open(&options(&path)).is_ok());
}

#[test]
fn read_only_disks_refuse_changes() {
    let folder = Folder::new();
    let path = folder.qcow2("a.qcow2", MIB);
    let before = fs::read(&path).unwrap();
    let disk = open(&OpenOptions { read_only: true, ..options(&path) }).unwrap();
    assert!(disk.limits().read_only);
    assert!(disk.write(0, &[VolatileSlice::from(&mut [1; 512][..])]).is_err());
    assert!(disk.discard(0, 512).is_err() && disk.write_zeroes(0, 512, false).is_err());
    disk.flush().unwrap();
    drop(disk);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn every_cache_mode_keeps_the_same_bytes() {
    let folder = Folder::new();
    for (name, cache) in Cache::LIST {
        for format in [Format::Raw, Format::Qcow2] {
            let path = folder.path(&format!("{name}.{}", format.name()));
            create(&path, format, 4 * MIB, 64 << 10, None).unwrap();
            let options = OpenOptions { cache, ..options(&path) };
            let disk = match open(&options) {
                Err(OpenError::NoDirect { .. }) => continue,
                other => other.unwrap(),
            };
            let block = disk.limits().block_size as usize;
            write(&*disk, 0, 1, block);
            write(&*disk, MIB, 2, 3 * block);
            disk.write_zeroes(MIB + block as u64, block as u64, true).unwrap();
            disk.flush().unwrap();
            drop(disk);
            let disk = open(&options).unwrap();
            let seen =
                [0, MIB, MIB + block as u64, MIB + 2 * block as u64].map(|at| read(&*disk, at, block)[0]);
            assert_eq!(seen, [1, 2, 0, 2], "{name} {format:?}");
        }
    }
}

#[test]
fn only_files_that_the_user_named_or_put_beside_the_image_lie_behind_it() {
    let (folder, elsewhere) = (Folder::new(), tempfile::tempdir().unwrap());
    let secret = elsewhere.path().join("secret.img");
    fs::write(&secret, vec![5; MIB as usize]).unwrap();
    let path = folder.path("a.qcow2");
    let over = |name: &str| {
        let _ = fs::remove_file(&path);
        create(&path, Format::Qcow2, MIB, 64 << 10, Some((Path::new(name), Format::Raw))).unwrap();
    };
    over(text(&secret));
    let message = refusal(&options(&path)).to_string();
    assert!(message.contains("backing="), "{message}");
    let named = OpenOptions { backing: vec![secret.clone()], ..options(&path) };
    assert_eq!(read(&*open(&named).unwrap(), 0, 512), [5; 512]);
    // By way of a link, too.
    std::os::unix::fs::symlink(&secret, folder.path("link.img")).unwrap();
    over("link.img");
    assert!(matches!(refusal(&options(&path)), OpenError::BackingOutside { .. }));
    for name in ["nbd://host/x", "json:{\"driver\":\"file\"}", "fat:/etc"] {
        over(name);
        assert!(matches!(refusal(&options(&path)), OpenError::BackingName { .. }), "{name}");
    }
    over("gone.img");
    assert!(matches!(refusal(&options(&path)), OpenError::Host { .. }));
}

#[test]
fn chains_end() {
    let folder = Folder::new();
    let name = |number: usize| format!("{number}.qcow2");
    let link = |from: usize, to: &str| {
        create(&folder.path(&name(from)), Format::Qcow2, MIB, 4096, Some((Path::new(to), Format::Qcow2)))
            .unwrap();
    };
    link(0, "1.qcow2");
    link(1, "2.qcow2");
    link(2, "0.qcow2");
    assert!(matches!(refusal(&options(&folder.path("0.qcow2"))), OpenError::Cycle { .. }));
    for number in 3..60 {
        link(number, &name(number + 1));
    }
    folder.qcow2("60.qcow2", MIB);
    assert!(matches!(refusal(&options(&folder.path("3.qcow2"))), OpenError::TooDeep { .. }));
    assert!(open(&options(&folder.path("40.qcow2"))).is_ok());
}

/// An image whose header is changed. Whatever it says, opening, reading and checking it end, with an error or without.
fn hostile(change: impl FnOnce(&mut Vec<u8>)) -> Result<Arc<dyn Disk>, OpenError> {
    let folder = Folder::new();
    let path = folder.qcow2("a.qcow2", 16 * MIB);
    write(&*open(&options(&path)).unwrap(), 0, 1, MIB as usize);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    let _ = check_file(&path, None, &mut |_, _| ());
    let _ = info(&path, None);
    let disk = open(&options(&path))?;
    let mut buffer = vec![0; MIB as usize];
    let _ = disk.read(0, &[VolatileSlice::from(&mut buffer[..])]);
    let _ = disk.write(0, &[VolatileSlice::from(&mut buffer[..])]);
    let _ = disk.flush();
    Ok(disk)
}

#[test]
fn hostile_headers_are_refused() {
    fn put<const N: usize>(at: usize, value: [u8; N]) -> impl FnOnce(&mut Vec<u8>) {
        move |bytes| bytes[at..at + N].copy_from_slice(&value)
    }
    assert!(hostile(|_| ()).is_ok());
    assert!(hostile(put(0, *b"QFI\xfc")).is_err(), "magic");
    assert!(hostile(put(4, 9u32.to_be_bytes())).is_err(), "version");
    assert!(hostile(put(20, 40u32.to_be_bytes())).is_err(), "cluster bits");
    assert!(hostile(put(20, 0u32.to_be_bytes())).is_err(), "cluster bits");
    assert!(hostile(put(32, 1u32.to_be_bytes())).is_err(), "encryption");
    assert!(hostile(put(36, u32::MAX.to_be_bytes())).is_err(), "entries of the first level");
    assert!(hostile(put(40, 1u64.to_be_bytes())).is_err(), "where the first level is");
    assert!(hostile(put(48, 77u64.to_be_bytes())).is_err(), "where the counts are");
    assert!(hostile(put(56, u32::MAX.to_be_bytes())).is_err(), "clusters of the table of counts");
    assert!(hostile(put(60, 3u32.to_be_bytes())).is_err(), "snapshots");
    assert!(hostile(put(72, u64::MAX.to_be_bytes())).is_err(), "features");
    assert!(hostile(put(96, 99u32.to_be_bytes())).is_err(), "width of counts");
    for length in [0, 4, 71, 103, 512, 65_536, 200_000] {
        // What is cut off reads as zeros, which can be in order or not.
        let _ = hostile(|bytes| bytes.truncate(length));
    }
}

#[test]
fn whatever_stands_in_the_tables_opening_and_reading_end() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..200 {
        let _ = hostile(|bytes| {
            for _ in 0..1 + next() % 8 {
                let at = match next() % 3 {
                    0 => next() as usize % 112,
                    _ => next() as usize % (6 * 65_536),
                }
                .min(bytes.len() - 8);
                bytes[at..at + 8].copy_from_slice(&next().to_be_bytes());
            }
        });
    }
}

#[test]
fn broken_tables_are_found() {
    let folder = Folder::new();
    let path = folder.qcow2("a.qcow2", 16 * MIB);
    write(&*open(&options(&path)).unwrap(), 0, 1, MIB as usize);
    let whole = fs::read(&path).unwrap();
    let at = |place: usize| u64::from_be_bytes(whole[place..place + 8].try_into().unwrap());
    let l1 = at(40) as usize;
    let l2 = (at(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let counts = at(at(48) as usize) as usize;
    let errors = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let found = check_file(&path, None, &mut |_, _| ()).unwrap().unwrap();
        if let Some((status, text)) = qemu_img(&["check", "-f", "qcow2", text(&path)]) {
            let expected = match (found.error_count, found.leaks) {
                (0, 0) => 0,
                (0, _) => 3,
                _ => 2,
            };
            assert_eq!(status, Some(expected), "{found:?} {text}");
        }
        (found.error_count > 0, found.leaks > 0)
    };
    assert_eq!(errors(&|_| ()), (false, false));
    assert_eq!(errors(&|bytes| bytes[l2..l2 + 8].fill(0)), (false, true), "data that nobody uses");
    assert_eq!(errors(&|bytes| bytes.copy_within(l2..l2 + 8, l2 + 8)), (true, true), "data used twice");
    assert_eq!(errors(&|bytes| bytes[counts..counts + 8].fill(0)), (true, false), "not counted");
    assert_eq!(errors(&|bytes| bytes[l2 + 1] = 0x80), (true, true), "beyond the end");
}

#[test]
fn images_in_the_hosts_memory_are_read_at_once() {
    if !Path::new("/dev/shm").is_dir() {
        eprintln!("no /dev/shm on this host: nothing to look at");
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        let path = folder.path().join(format.name());
        create(&path, format, MIB, 65_536, None).unwrap();
        let disk = open(&OpenOptions { format: Some(format), ..options(&path) }).unwrap();
        write(&*disk, 4096, 7, 4096);
        let mut bytes = vec![0xee; 8192];
        let read = disk.read_at_once(4096, &[VolatileSlice::from(&mut bytes[..])]);
        assert!(matches!(read, Some(Ok(()))), "{format:?}: {read:?}");
        assert!(bytes[..4096] == [7; 4096] && bytes[4096..] == [0; 4096]);
    }
}
