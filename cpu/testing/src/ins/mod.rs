//! `.ins` files: one line an instruction.
//!
//! ```text
//! # A comment.
//! [48 01 d8] "add rax,rbx" rax=1 rbx=ffffffffffffffff => rax=0 cf=1 pf=1 af=1 zf=1 sf=0 of=0
//! cpl3: [f4] "hlt" => #GP(0)
//! [88 03] "mov [rbx],al" rbx=20004000 => #PF(3) cr2=20004000
//! ```
//!
//! Before the arrow stands what the instruction begins with; everything else is zero, flags are clear, RSP is in the scratch
//! memory. Behind it stands everything that has changed: what is not named must be as it was, but for flags that the manual
//! leaves undefined. All numbers are hexadecimal.
//!
//! - Modes: `32:`, `16:` (protected mode, CPL 0), `cpl3:`; 64-bit mode at CPL 0 else.
//! - Registers: `rax` to `r15`, `rip` (behind the arrow, counted from the instruction: `rip=+5`), `flags` (all of RFLAGS) or
//!   `cf pf af zf sf tf if df of nt rf ac id` and `iopl`, `xmm0` to `xmm15`, `ymmh0` to `ymmh15` (the upper halves), `mxcsr`, `st0` to `st7` and `mm0` to `mm7`
//!   (exponent and significand as `3fff:8000000000000000`; `mm` the significand alone, physical registers), `fcw`, `fsw`,
//!   `ftw` (a bit for each register in use), `cr0 cr2 cr3 cr4 efer xcr0`, `fs.base`, `gs.base`, `es cs ss ds fs gs` (selectors,
//!   behind the arrow).
//! - Memory: `mem[20001000]=00 11 22 33` by linear address, in the scratch memory. It is at 110000 for 32-bit code, and the
//!   data and stack segments of 16-bit code begin with it.
//!   The host runs such code in segments with the same offsets.
//! - Faults: `#UD`, `#GP(0)`, with what else has changed behind them.

mod parse;
mod run;

pub use parse::{Expected, File, Item, Line, Mode, Place, parse};
pub use run::{Report, check_file};
