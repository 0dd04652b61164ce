//! The files of several Debian packages as one tree: for a guest's RAM disk, for a folder of the host, or run where they lie.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::cpio::Archive;
use crate::cli::debian::Guests;

/// A root folder made of packages.
#[derive(Clone, Debug)]
pub struct Root {
    folders: Vec<PathBuf>,
}

/// What stands in the tree.
enum Entry {
    Folder,
    /// Where it points.
    Link(String),
    /// Where it lies on the host.
    File(PathBuf),
}

impl Root {
    /// The files of these packages, fetched where they are not in the cache.
    pub fn new(guests: &Guests<'_>, packages: &[&str]) -> Result<Self> {
        Ok(Self { folders: packages.iter().map(|name| guests.package(name)).collect::<Result<_>>()? })
    }

    /// Adds all files whose paths are `wanted` to an archive, executable.
    pub fn archive(&self, archive: &mut Archive, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        self.visit(wanted, &mut |name, entry| {
            match entry {
                Entry::Folder => archive.directory(name),
                Entry::Link(target) => archive.symlink(name, &target),
                Entry::File(from) => archive.file(name, 0o755, &read(&from)?),
            }
            Ok(())
        })
    }

    /// Copies all files whose paths are `wanted` into a folder of the host.
    pub fn copy(&self, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        self.visit(wanted, &mut |name, entry| {
            let path = to.join(name);
            match entry {
                Entry::Folder => fs::create_dir_all(&path),
                Entry::Link(target) => std::os::unix::fs::symlink(target, &path),
                Entry::File(from) => fs::copy(from, &path).map(drop),
            }
            .with_context(|| format!("cannot create {}", path.display()))
        })
    }

    /// A command that runs one of the programs on the host, with the libraries of the packages.
    pub fn host_command(&self, program: &str) -> Result<String> {
        let found = |name: &str| {
            let found = self.folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
            found.with_context(|| format!("no package has {name}"))
        };
        let libraries: Vec<String> = self
            .folders
            .iter()
            .flat_map(|folder| ["lib", "usr/lib"].map(|lib| folder.join(lib).join("x86_64-linux-gnu")))
            .filter(|path| path.is_dir())
            .map(|path| path.display().to_string())
            .collect();
        let loader = found("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")?;
        let program = found(program)?;
        Ok(format!("{} --library-path {} {}", loader.display(), libraries.join(":"), program.display()))
    }

    /// Each entry once, folders before what is in them; of a path that two packages have, the first one's.
    fn visit(
        &self,
        wanted: &dyn Fn(&str) -> bool,
        see: &mut dyn FnMut(&str, Entry) -> Result<()>,
    ) -> Result<()> {
        let mut seen = std::collections::HashSet::new();
        for root in &self.folders {
            let mut folders = vec![PathBuf::new()];
            while let Some(folder) = folders.pop() {
                let path = root.join(&folder);
                let entries =
                    fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let mut entries: Vec<_> = entries.collect::<std::io::Result<_>>()?;
                entries.sort_by_key(fs::DirEntry::file_name);
                for entry in entries {
                    let path = folder.join(entry.file_name());
                    let name = path.to_str().context("packages have names in ASCII")?;
                    if !wanted(name) {
                        continue;
                    }
                    let kind = entry.file_type()?;
                    let first = seen.insert(path.clone());
                    if kind.is_dir() {
                        folders.push(path.clone());
                    }
                    if !first {
                        continue;
                    }
                    let entry = if kind.is_dir() {
                        Entry::Folder
                    } else if kind.is_symlink() {
                        let target = fs::read_link(entry.path())?;
                        Entry::Link(target.to_str().context("packages have names in ASCII")?.to_owned())
                    } else {
                        Entry::File(entry.path())
                    };
                    see(name, entry)?;
                }
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_packages_make_one_tree() {
        let cache = tempfile::tempdir().unwrap();
        let packages = cache.path().join("packages");
        for (package, file, content) in
            [("a", "usr/bin/tool", "a"), ("a", "usr/share/doc", "d"), ("b", "usr/lib/x", "x")]
        {
            let path = packages.join(package).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        std::os::unix::fs::symlink("x", packages.join("b/usr/lib/y")).unwrap();
        let say = |line: &str| panic!("nothing is fetched: {line}");
        let root = Root::new(&Guests::new(cache.path(), &say), &["a", "b"]).unwrap();
        let wanted = |name: &str| !name.starts_with("usr/share");
        let mut archive = Archive::default();
        root.archive(&mut archive, &wanted).unwrap();
        let text = String::from_utf8(archive.finish()).unwrap();
        assert_eq!(text.matches("usr\0").count(), 1, "a folder of both is one folder");
        assert!(text.contains("usr/bin/tool\0") && text.contains("usr/lib/y\0"));
        assert!(!text.contains("usr/share"));
        let to = cache.path().join("root");
        root.copy(&to, &wanted).unwrap();
        assert_eq!(fs::read_to_string(to.join("usr/lib/y")).unwrap(), "x");
        assert!(!to.join("usr/share").exists());
    }
}
