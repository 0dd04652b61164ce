//! Names of guest functions: from ELF files, and from lists of symbols as kernels print them.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SymbolKind};

use crate::config::UseError;

/// A file of symbols, as `--symbols` takes it: `FILE[@ADDRESS]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolFile {
    /// An ELF file, `System.map`, or what a guest's `/proc/kallsyms` says.
    pub path: PathBuf,
    /// Where in the guest its first byte is, if not where the file says.
    pub at: Option<u64>,
}

impl FromStr for SymbolFile {
    type Err = UseError;

    fn from_str(text: &str) -> Result<Self, UseError> {
        match text.rsplit_once('@').and_then(|(path, at)| Some((path, at.strip_prefix("0x")?))) {
            None => Ok(Self { path: text.into(), at: None }),
            Some((path, digits)) => match u64::from_str_radix(digits, 16) {
                Ok(at) if !path.is_empty() && !digits.starts_with('+') => {
                    Ok(Self { path: path.into(), at: Some(at) })
                }
                _ => Err(UseError::new(format!(
                    "'{text}' names no file and address; write for example vmlinux@0xffffffff81000000"
                ))),
            },
        }
    }
}

impl SymbolFile {
    /// Reads the file. One that cannot serve is named.
    pub fn load(&self) -> Result<Symbols, UseError> {
        let wrong = |what: String| UseError::new(format!("--symbols {}: {what}", self.path.display()));
        let bytes = fs::read(&self.path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => wrong("there is no such file".into()),
            _ => wrong(format!("cannot be read: {error}")),
        })?;
        Symbols::parse(&bytes, self.at).map_err(|what| wrong(what.into()))
    }
}

/// A function, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    start: u64,
    /// Its bytes, where that is known. Otherwise it goes on to the next symbol.
    size: Option<u64>,
    /// `None` where something begins that is no function.
    name: Option<String>,
}

/// Functions by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols(Vec<Symbol>);

/// A function without size and without successor is taken to have so many bytes at most.
const LAST: u64 = 1 << 16;

impl Symbols {
    /// The symbols of all these files.
    pub fn load(files: &[SymbolFile]) -> Result<Self, UseError> {
        let mut symbols = Self::default();
        for file in files {
            symbols.add(file.load()?);
        }
        Ok(symbols)
    }

    /// The symbols of a file, moved so that its first byte is `at`. What is wrong with others is half a sentence.
    pub fn parse(bytes: &[u8], at: Option<u64>) -> Result<Self, &'static str> {
        let (mut list, base) = if bytes.starts_with(b"\x7fELF") { elf(bytes)? } else { text(bytes)? };
        if let Some(at) = at {
            let moved = at.wrapping_sub(base);
            list.iter_mut().for_each(|symbol| symbol.start = symbol.start.wrapping_add(moved));
        }
        let mut symbols = Self(list);
        symbols.sort();
        Ok(symbols)
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
        self.sort();
    }

    /// By address; where several names have the same one, the last of the file stays.
    fn sort(&mut self) {
        self.0.reverse();
        self.0.sort_by_key(|symbol| (symbol.start, symbol.name.is_none()));
        self.0.dedup_by_key(|symbol| symbol.start);
    }

    /// Where a function begins; the first of that name.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|symbol| symbol.name.as_deref() == Some(name)).map(|symbol| symbol.start)
    }

    /// The function that holds an address.
    pub fn find(&self, address: u64) -> Option<&str> {
        let after = self.0.partition_point(|symbol| symbol.start <= address);
        let symbol = self.0.get(after.checked_sub(1)?)?;
        let room = self.0.get(after).map_or(LAST, |next| next.start - symbol.start);
        let size = symbol.size.unwrap_or(room);
        (address - symbol.start < size).then_some(symbol.name.as_deref()).flatten()
    }
}

/// The symbols, and the address that the file means for its first byte.
type Parsed = Result<(Vec<Symbol>, u64), &'static str>;

/// The kernel's first symbol.
const KERNEL_START: &str = "_text";

fn elf(bytes: &[u8]) -> Parsed {
    let file = object::File::parse(bytes).map_err(|_| "is a damaged ELF file")?;
    let is_code = |symbol: &object::Symbol<'_, '_>| match symbol.kind() {
        SymbolKind::Text => true,
        // Entry points that are written in assembly language.
        SymbolKind::Unknown | SymbolKind::Label => symbol
            .section_index()
            .and_then(|index| file.section_by_index(index).ok())
            .is_some_and(|section| section.kind() == SectionKind::Text),
        _ => false,
    };
    let named = |symbol: object::Symbol<'_, '_>| {
        let name = symbol.name().ok().filter(|name| !name.is_empty())?;
        let size = Some(symbol.size()).filter(|size| *size > 0);
        (symbol.is_definition() && is_code(&symbol)).then(|| Symbol {
            start: symbol.address(),
            size,
            name: Some(name.to_owned()),
        })
    };
    let mut list: Vec<Symbol> = file.symbols().filter_map(named).collect();
    if list.is_empty() {
        list.extend(file.dynamic_symbols().filter_map(named));
    }
    if list.is_empty() {
        return Err("has no symbols of functions; it may have been stripped");
    }
    let base = match file.symbols().find(|symbol| symbol.name() == Ok(KERNEL_START)) {
        Some(text) => text.address(),
        None => file.segments().map(|segment| segment.address()).min().unwrap_or(0) & !0xfff,
    };
    Ok((list, base))
}

/// Lines of address, kind and name, as `nm` prints them; kallsyms adds the module.
fn text(bytes: &[u8]) -> Parsed {
    let mut list = Vec::new();
    let mut base = None;
    for line in String::from_utf8_lossy(bytes).lines() {
        let mut words = line.split_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Ok(start) = u64::from_str_radix(address, 16) else { continue };
        if name == KERNEL_START {
            base = Some(start);
        }
        // Symbols that have no place, and the offsets of variables of each CPU.
        if matches!(kind, "a" | "A" | "U") {
            continue;
        }
        let is_code = matches!(kind, "t" | "T" | "w" | "W");
        let name = is_code.then(|| match words.next() {
            Some(module) => format!("{name} {module}"),
            None => name.to_owned(),
        });
        list.push(Symbol { start, size: None, name });
    }
    let lowest = list.iter().filter(|symbol| symbol.name.is_some()).map(|symbol| symbol.start).min();
    match base.or(lowest) {
        None => Err("is neither an ELF file nor a list of symbols such as System.map or /proc/kallsyms"),
        Some(_) if list.iter().all(|symbol| symbol.start == 0) => {
            Err("has no addresses; /proc/kallsyms shows them to root only, with kernel.kptr_restrict=0 or 1")
        }
        Some(base) => Ok((list, base)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000100 t helper
ffffffff81000200 D data
ffffffff81000300 W weak
ffffffffc0000000 t load\t[virtio]
nonsense
";

    #[test]
    fn lists_of_symbols_are_read() {
        let symbols = Symbols::parse(MAP.as_bytes(), None).unwrap();
        for (address, name) in [
            (0xffff_ffff_8100_0000, Some("startup_64")),
            (0xffff_ffff_8100_00ff, Some("startup_64")),
            (0xffff_ffff_8100_01ff, Some("helper")),
            (0xffff_ffff_8100_0200, None),
            (0xffff_ffff_8100_0300, Some("weak")),
            (0xffff_ffff_c000_0008, Some("load [virtio]")),
            (0xffff_ffff_c001_0000, None),
            (0, None),
            (u64::MAX, None),
        ] {
            assert_eq!(symbols.find(address), name, "{address:#x}");
        }
        let moved = Symbols::parse(MAP.as_bytes(), Some(0xffff_ffff_9000_0000)).unwrap();
        assert_eq!(moved.find(0xffff_ffff_9000_0180), Some("helper"));
        assert_eq!(moved.find(0xffff_ffff_8100_0180), None);
    }

    #[test]
    fn elf_files_are_read() {
        // This program knows its own functions.
        let own = std::env::current_exe().unwrap();
        let bytes = fs::read(own).unwrap();
        let symbols = Symbols::parse(&bytes, None).unwrap();
        let main = symbols.0.iter().find(|symbol| symbol.name.as_deref() == Some("main")).unwrap();
        assert_eq!(symbols.find(main.start + 1), Some("main"));
        let moved = Symbols::parse(&bytes, Some(0x5555_0000_0000)).unwrap();
        let elsewhere = moved.0.iter().find(|symbol| symbol.name.as_deref() == Some("main")).unwrap();
        assert!(elsewhere.start > 0x5555_0000_0000);
        assert_eq!(moved.find(elsewhere.start), Some("main"));
    }

    #[test]
    fn what_has_no_symbols_is_refused() {
        let refusal = |bytes: &[u8]| Symbols::parse(bytes, None).unwrap_err();
        assert!(refusal(b"").contains("neither an ELF file nor a list"));
        assert!(refusal(b"hello world\n").contains("neither"));
        assert!(refusal(b"\x7fELF rubbish").contains("damaged"));
        assert!(refusal(b"0000000000000000 T _text\n0000000000000000 t f\n").contains("to root only"));
        let mut cut = fs::read(std::env::current_exe().unwrap()).unwrap();
        cut.truncate(4096);
        Symbols::parse(&cut, None).unwrap_err();
    }

    #[test]
    fn addresses_follow_an_at_sign() {
        let file = |path: &str, at| SymbolFile { path: path.into(), at };
        assert_eq!("vmlinux".parse::<SymbolFile>().unwrap(), file("vmlinux", None));
        assert_eq!("a@b".parse::<SymbolFile>().unwrap(), file("a@b", None));
        assert_eq!("a@b@0x10".parse::<SymbolFile>().unwrap(), file("a@b", Some(16)));
        for wrong in ["a@0x", "a@0xyz", "@0x10", "a@0x+1"] {
            let message = wrong.parse::<SymbolFile>().unwrap_err().to_string();
            assert!(message.contains("names no file and address"), "{message}");
        }
        let message = file("no-such-file", None).load().unwrap_err().to_string();
        assert_eq!(message, "--symbols no-such-file: there is no such file");
    }
}
