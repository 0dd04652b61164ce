//! The committed images of test-roms are what their sources give. Needs the toolchain that made them; ignored elsewhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-roms");
    let hindrance = hindrance(&sources);
    let trials = roms(&sources)
        .into_iter()
        .map(|name| {
            let title = match &hindrance {
                None => name.clone(),
                Some(why) => format!("{name} ({why})"),
            };
            let sources = sources.clone();
            Trial::test(title, move || rebuild(&sources, &name)).with_ignored_flag(hindrance.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// The folders that hold an image of their name.
fn roms(sources: &Path) -> Vec<String> {
    let entries = fs::read_dir(sources).expect("test-roms can be read");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| image(sources, name).is_file())
        .collect();
    names.sort();
    names
}

fn image(sources: &Path, name: &str) -> PathBuf {
    sources.join(name).join(format!("{name}.bin"))
}

/// Why the images cannot be compared here: another toolchain gives other bytes.
fn hindrance(sources: &Path) -> Option<String> {
    let committed = fs::read_to_string(sources.join("toolchain.txt")).expect("toolchain.txt can be read");
    let here = Command::new("sh").arg(sources.join("toolchain.sh")).output();
    let here = here.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if here != committed {
        return Some(format!("made by {}", committed.lines().next().unwrap_or("another toolchain")));
    }
    let make = Command::new("make").arg("--version").output();
    make.err().map(|error| format!("make: {error}"))
}

fn rebuild(sources: &Path, name: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    copy(sources, folder.path())?;
    fs::remove_file(image(folder.path(), name))?;
    let Output { status, stderr, .. } =
        Command::new("make").arg("-C").arg(folder.path().join(name)).output()?;
    if !status.success() {
        return Err(format!("make: {}", String::from_utf8_lossy(&stderr)).into());
    }
    let (committed, built) = (fs::read(image(sources, name))?, fs::read(image(folder.path(), name))?);
    match committed.iter().zip(&built).position(|(a, b)| a != b) {
        None if committed.len() == built.len() => Ok(()),
        None => Err(format!("{} bytes committed, {} built", committed.len(), built.len()).into()),
        Some(at) => Err(format!("the first difference is at byte {at}: run `make -C test-roms`").into()),
    }
}

/// Copies sources only: what an earlier build left behind must not be found.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if !entry.file_type()?.is_dir() {
            fs::copy(entry.path(), target)?;
        } else if entry.file_name() != "build" {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}
