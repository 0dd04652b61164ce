//! Text to lines. Pure.

use crate::{compare::GPR_NAMES, layout::*, machine::flag};
use std::fmt::{self, Display};

/// A mode prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode, CPL 0.
    #[default]
    Long,
    /// 64-bit mode, CPL 3.
    User,
    /// 32-bit protected mode, CPL 0.
    Protected32,
    /// 16-bit protected mode, CPL 0.
    Protected16,
}

impl Mode {
    /// For iced.
    pub fn bitness(self) -> u32 {
        match self {
            Mode::Long | Mode::User => 64,
            Mode::Protected32 => 32,
            Mode::Protected16 => 16,
        }
    }
    /// Where the instruction lies in its code segment.
    pub fn ip(self) -> u64 {
        match self {
            Mode::Long | Mode::User => INSN,
            Mode::Protected32 => CODE_FRAME + (INSN - CODE),
            Mode::Protected16 => INSN - CODE,
        }
    }
    fn prefix(self) -> &'static str {
        match self {
            Mode::Long => "",
            Mode::User => "cpl3: ",
            Mode::Protected32 => "32: ",
            Mode::Protected16 => "16: ",
        }
    }
}

/// What an item names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A general register by number.
    Gpr(usize),
    /// RIP, relative to the instruction.
    Rip,
    /// All of RFLAGS.
    Flags,
    /// Bits of RFLAGS by mask.
    Flag(u64),
    /// An XMM register.
    Xmm(usize),
    /// The upper half of a YMM register.
    YmmHigh(usize),
    /// MXCSR.
    Mxcsr,
    /// A physical x87 register.
    St(usize),
    /// The significand of one.
    Mm(usize),
    /// x87 control word.
    Fcw,
    /// x87 status word.
    Fsw,
    /// x87 registers in use.
    Ftw,
    /// A control register.
    Cr(u8),
    /// IA32_EFER.
    Efer,
    /// XCR0.
    Xcr0,
    /// The base of FS (4) or GS (5).
    Base(usize),
    /// A selector, by segment number.
    Selector(usize),
    /// Memory from a linear address on.
    Memory(u64),
}

/// `name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The name.
    pub place: Place,
    /// The value; of an x87 register bits 79:64 are sign and exponent.
    pub value: u128,
    /// The bytes, of memory.
    pub bytes: Vec<u8>,
}

/// A fault by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Vector.
    pub vector: u8,
    /// Error code.
    pub error: Option<u32>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Line number in the file, from 1.
    pub number: usize,
    /// The mode.
    pub mode: Mode,
    /// The instruction's bytes.
    pub bytes: Vec<u8>,
    /// Its text as iced's Intel formatter writes it.
    pub text: String,
    /// What it begins with.
    pub inputs: Vec<Item>,
    /// The fault that it ends with.
    pub fault: Option<Expected>,
    /// What it changes.
    pub outputs: Vec<Item>,
}

/// A file: lines with instructions, and the others as they stand.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Lines in order.
    pub lines: Vec<Result<Line, String>>,
}

/// Names of exceptions by vector.
pub(super) const EXCEPTIONS: [(&str, u8); 17] = [
    ("DE", 0),
    ("DB", 1),
    ("BP", 3),
    ("OF", 4),
    ("BR", 5),
    ("UD", 6),
    ("NM", 7),
    ("DF", 8),
    ("TS", 10),
    ("NP", 11),
    ("SS", 12),
    ("GP", 13),
    ("PF", 14),
    ("MF", 16),
    ("AC", 17),
    ("MC", 18),
    ("XM", 19),
];

/// Flags by name.
pub(super) const FLAGS: [(&str, u64); 14] = [
    ("cf", flag::CF),
    ("pf", flag::PF),
    ("af", flag::AF),
    ("zf", flag::ZF),
    ("sf", flag::SF),
    ("tf", flag::TF),
    ("if", flag::IF),
    ("df", flag::DF),
    ("of", flag::OF),
    ("iopl", 0x3000),
    ("nt", flag::NT),
    ("rf", flag::RF),
    ("ac", flag::AC),
    ("id", flag::ID),
];

const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// Reads a file; the error names it and the line.
pub fn parse(name: &str, text: &str) -> Result<File, String> {
    let mut file = File::default();
    for (k, line) in text.lines().enumerate() {
        let blank = line.trim().is_empty() || line.trim_start().starts_with('#');
        file.lines.push(if blank {
            Err(line.to_string())
        } else {
            Ok(parse_line(k + 1, line).map_err(|why| format!("{name}:{}: {why}", k + 1))?)
        });
    }
    Ok(file)
}

fn parse_line(number: usize, line: &str) -> Result<Line, String> {
    let mut rest = line.trim();
    let mut mode = Mode::Long;
    for m in [Mode::User, Mode::Protected32, Mode::Protected16] {
        if let Some(after) = rest.strip_prefix(m.prefix().trim()) {
            (mode, rest) = (m, after.trim_start());
        }
    }
    let inner = rest.strip_prefix('[').ok_or("a line begins with the instruction's bytes in brackets")?;
    let (bytes, after) = inner.split_once(']').ok_or("the bytes end with a bracket")?;
    let bytes = hex_bytes(bytes)?;
    if bytes.is_empty() || bytes.len() > 15 {
        return Err(format!("an instruction has 1 to 15 bytes, not {}", bytes.len()));
    }
    let quoted = after.trim_start().strip_prefix('"').ok_or("the text stands in quotes behind the bytes")?;
    let (text, after) = quoted.split_once('"').ok_or("the text ends with a quote")?;
    let (before, behind) = after.split_once("=>").ok_or("inputs and outputs are parted by =>")?;
    let inputs = items(before)?;
    let mut behind = behind.trim();
    let mut fault = None;
    if let Some(after) = behind.strip_prefix('#') {
        let end = after.find(' ').unwrap_or(after.len());
        fault = Some(exception(&after[..end])?);
        behind = &after[end..];
    }
    Ok(Line { number, mode, bytes, text: text.to_string(), inputs, fault, outputs: items(behind)? })
}

fn exception(text: &str) -> Result<Expected, String> {
    let (name, error) = match text.split_once('(') {
        Some((name, code)) => {
            let code = code.strip_suffix(')').ok_or("an error code ends with a parenthesis")?;
            (name, Some(u32::from_str_radix(code, 16).map_err(|_| format!("'{code}' is not hexadecimal"))?))
        }
        None => (text, None),
    };
    let found = EXCEPTIONS.iter().find(|(n, _)| *n == name);
    let &(_, vector) = found.ok_or_else(|| format!("there is no exception #{name}"))?;
    Ok(Expected { vector, error })
}

fn hex_bytes(text: &str) -> Result<Vec<u8>, String> {
    text.split_whitespace()
        .map(|b| match b.len() {
            2 => u8::from_str_radix(b, 16).map_err(|_| format!("'{b}' is not a byte")),
            _ => Err(format!("'{b}' is not a byte of two hexadecimal digits")),
        })
        .collect()
}

/// Items are parted by spaces; the bytes of memory are too, and belong to the last `mem[]`.
fn items(text: &str) -> Result<Vec<Item>, String> {
    let mut found: Vec<Item> = Vec::new();
    for word in text.split_whitespace() {
        let Some((name, value)) = word.split_once('=') else {
            match found.last_mut() {
                Some(Item { place: Place::Memory(_), bytes, .. }) => bytes.extend(hex_bytes(word)?),
                _ => return Err(format!("'{word}' is not name=value")),
            }
            continue;
        };
        let place = place(name)?;
        let bytes = if matches!(place, Place::Memory(_)) { hex_bytes(value)? } else { Vec::new() };
        let value = if matches!(place, Place::Memory(_)) { 0 } else { number(value)? };
        found.push(Item { place, value, bytes });
    }
    Ok(found)
}

fn number(text: &str) -> Result<u128, String> {
    let bad = || format!("'{text}' is not a hexadecimal number");
    if let Some(distance) = text.strip_prefix('-') {
        return Ok(number(distance)?.wrapping_neg());
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some((exponent, significand)) = text.split_once(':') {
        let high = u16::from_str_radix(exponent, 16).map_err(|_| bad())?;
        let low = u64::from_str_radix(significand, 16).map_err(|_| bad())?;
        return Ok(u128::from(high) << 64 | u128::from(low));
    }
    u128::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).map_err(|_| bad())
}

fn place(name: &str) -> Result<Place, String> {
    if let Some(k) = GPR_NAMES.iter().position(|n| *n == name) {
        return Ok(Place::Gpr(k));
    }
    if let Some((_, mask)) = FLAGS.iter().find(|(n, _)| *n == name) {
        return Ok(Place::Flag(*mask));
    }
    if let Some(k) = SEGMENTS.iter().position(|n| *n == name) {
        return Ok(Place::Selector(k));
    }
    if let Some(address) = name.strip_prefix("mem[").and_then(|n| n.strip_suffix(']')) {
        return Ok(Place::Memory(number(address)? as u64));
    }
    let numbered = |prefix: &str, count: usize| {
        name.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok()).filter(|&n| n < count)
    };
    Ok(match name {
        "rip" => Place::Rip,
        "flags" => Place::Flags,
        "mxcsr" => Place::Mxcsr,
        "fcw" => Place::Fcw,
        "fsw" => Place::Fsw,
        "ftw" => Place::Ftw,
        "efer" => Place::Efer,
        "xcr0" => Place::Xcr0,
        "fs.base" => Place::Base(4),
        "gs.base" => Place::Base(5),
        "cr0" => Place::Cr(0),
        "cr2" => Place::Cr(2),
        "cr3" => Place::Cr(3),
        "cr4" => Place::Cr(4),
        _ if let Some(k) = numbered("ymmh", 16) => Place::YmmHigh(k),
        _ => match (numbered("xmm", 16), numbered("st", 8), numbered("mm", 8)) {
            (Some(k), ..) => Place::Xmm(k),
            (_, Some(k), _) => Place::St(k),
            (.., Some(k)) => Place::Mm(k),
            _ => return Err(format!("there is no register '{name}'")),
        },
    })
}

impl Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.value;
        match self.place {
            Place::Gpr(k) => write!(f, "{}={v:x}", GPR_NAMES[k]),
            Place::Rip if (v as i128) < 0 => write!(f, "rip=-{:x}", v.wrapping_neg()),
            Place::Rip => write!(f, "rip=+{v:x}"),
            Place::Flags => write!(f, "flags={v:x}"),
            Place::Flag(mask) => {
                let name = FLAGS.iter().find(|(_, m)| *m == mask).map_or("flag", |(n, _)| n);
                write!(f, "{name}={v:x}")
            }
            Place::Xmm(k) => write!(f, "xmm{k}={v:x}"),
            Place::YmmHigh(k) => write!(f, "ymmh{k}={v:x}"),
            Place::Mxcsr => write!(f, "mxcsr={v:x}"),
            Place::St(k) => write!(f, "st{k}={:04x}:{:016x}", v >> 64, v as u64),
            Place::Mm(k) => write!(f, "mm{k}={v:x}"),
            Place::Fcw => write!(f, "fcw={v:x}"),
            Place::Fsw => write!(f, "fsw={v:x}"),
            Place::Ftw => write!(f, "ftw={v:x}"),
            Place::Cr(n) => write!(f, "cr{n}={v:x}"),
            Place::Efer => write!(f, "efer={v:x}"),
            Place::Xcr0 => write!(f, "xcr0={v:x}"),
            Place::Base(s) => write!(f, "{}.base={v:x}", SEGMENTS[s]),
            Place::Selector(s) => write!(f, "{}={v:x}", SEGMENTS[s]),
            Place::Memory(at) => {
                let bytes: Vec<String> = self.bytes.iter().map(|b| format!("{b:02x}")).collect();
                write!(f, "mem[{at:x}]={}", bytes.join(" "))
            }
        }
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.bytes.iter().map(|b| format!("{b:02x}")).collect();
        write!(f, "{}[{}] \"{}\"", self.mode.prefix(), bytes.join(" "), self.text)?;
        for item in &self.inputs {
            write!(f, " {item}")?;
        }
        write!(f, " =>")?;
        if let Some(fault) = self.fault {
            let name = EXCEPTIONS.iter().find(|(_, v)| *v == fault.vector).map_or("??", |(n, _)| n);
            write!(f, " #{name}")?;
            if let Some(error) = fault.error {
                write!(f, "({error:x})")?;
            }
        }
        for item in &self.outputs {
            write!(f, " {item}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_they_were_read() {
        let text = "# Comment\n\n\
            cpl3: [48 01 d8] \"add rax,rbx\" rax=1 rbx=ff cf=1 => rax=100 af=1 rip=+3\n\
            [88 03] \"mov [rbx],al\" rbx=20004000 mem[20001000]=00 11 => #PF(3) cr2=20004000\n\
            [d9 e8] \"fld1\" => st7=3fff:8000000000000000 mm0=5 fsw=3800\n";
        let file = parse("x.ins", text).expect("these are good lines");
        let written: Vec<String> = file
            .lines
            .iter()
            .map(|line| match line {
                Ok(line) => line.to_string(),
                Err(text) => text.clone(),
            })
            .collect();
        assert_eq!(written.join("\n") + "\n", text);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (line, why) in [
            ("31 c0", "brackets"),
            ("[31 c0] \"xor\" rax=0", "=>"),
            ("[31 zz] \"xor\" =>", "'zz'"),
            ("[31 c0] \"xor\" rzx=0 =>", "rzx"),
            ("[31 c0] \"xor\" rax=xyz =>", "xyz"),
            ("[31 c0] \"xor\" => #QQ", "#QQ"),
            ("[31 c0] \"xor\" rax =>", "name=value"),
            ("[] \"\" =>", "1 to 15"),
        ] {
            let error = parse("dir/x.ins", &format!("# one\n{line}\n")).expect_err(line);
            assert!(error.starts_with("dir/x.ins:2: ") && error.contains(why), "{error}");
        }
    }
}
