//! softmetal: a full-system x86 emulator.
