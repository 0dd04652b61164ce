//! What becomes of each instruction: a table in Markdown, the same on every host.

use super::{
    Class, Emulated,
    plan::{self, class},
    setup::plain,
};
use iced_x86::Code;
use std::fmt::Write;

const HEAD: &str = "\
# What `softmetal verify` compares

Every instruction (`Code` of iced's tables, an opcode with its operand sizes) of every extension that the emulated CPU's
CPUID tells, in code of 64, 32 and 16 bits. Made by `softmetal verify --coverage`.

- compared: it runs on the emulated CPU and on the host, in many encodings and from many states, and everything that software
  can see is compared. Hosts that lack the extension pass over it, and say so.
- as fault: user code may not run it, or it is no instruction; the exception is compared.
- ROM: it does not run beside a process of the host, for the reason given. Guests in `test-roms/` and tests with a machine of
  their own have it.
- empty: there is no such instruction in code of that size.
";

/// One class as the table has it.
fn word(class: Class) -> &'static str {
    match class {
        Class::Compared => "compared",
        Class::AsFault => "as fault",
        Class::Elsewhere(_) => "ROM",
    }
}

/// The table.
pub fn coverage() -> String {
    let mut cpu = Emulated::new(plain());
    let features = plan::features(|leaf, subleaf| cpu.cpuid(leaf, subleaf));
    let sizes = [64, 32, 16];
    let codes = sizes.map(|bitness| plan::codes(&features, bitness));
    let has = |k: usize, code: Code| codes[k].binary_search_by_key(&(code as u32), |c| *c as u32).is_ok();
    let mut rows = String::new();
    let mut sums = [[0usize; 3]; 3];
    for code in Code::values().filter(|&code| (0..3).any(|k| has(k, code))) {
        let extension: Vec<String> = code.cpuid_features().iter().map(|f| format!("{f:?}")).collect();
        let _ = write!(rows, "| `{code:?}` | {} |", extension.join(" "));
        let mut reason = "";
        for (k, bitness) in sizes.into_iter().enumerate() {
            let class = has(k, code).then(|| class(code, bitness));
            let _ = write!(rows, " {} |", class.map_or("", word));
            match class {
                Some(Class::Compared) => sums[k][0] += 1,
                Some(Class::AsFault) => sums[k][1] += 1,
                Some(Class::Elsewhere(why)) => {
                    sums[k][2] += 1;
                    reason = why;
                }
                None => {}
            }
        }
        let _ = writeln!(rows, " {reason} |");
    }
    let mut out = format!("{HEAD}\n| code of | compared | as fault | ROM |\n|---|---:|---:|---:|\n");
    for ([compared, fault, rom], bitness) in sums.into_iter().zip(sizes) {
        let _ = writeln!(out, "| {bitness} bits | {compared} | {fault} | {rom} |");
    }
    out + "\n| instruction | extension | 64 | 32 | 16 | why not |\n|---|---|---|---|---|---|\n" + &rows
}
