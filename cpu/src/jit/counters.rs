//! What the translator counts, and how that is told.

use serde::Serialize;
use std::ops::AddAssign;

/// What the translator has done.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counters {
    /// Regions in use now.
    pub regions: u64,
    /// Regions translated.
    pub translated: u64,
    /// Their instructions.
    pub instructions: u64,
    /// Regions that could not be translated.
    pub refused: u64,
    /// Translations that came too late: their code had been written.
    pub stale: u64,
    /// Regions dropped because their code was written.
    pub dropped: u64,
    /// Blocks translated in one pass.
    pub one_pass: u64,
    /// Their instructions.
    pub one_pass_instructions: u64,
    /// Paths of several blocks translated in one pass.
    pub paths: u64,
    /// Their instructions.
    pub path_instructions: u64,
    /// Bytes of the code of both.
    pub one_pass_bytes: u64,
    /// How often translated code was entered.
    pub entered: u64,
    /// How often it was left by an exit that was not linked.
    pub unlinked: u64,
    /// How often the jump cache did not know code that had been translated.
    pub missed: u64,
    /// Exits linked.
    pub linked: u64,
    /// Instructions left to the interpreter.
    pub resumed: u64,
    /// Bytes of code.
    pub bytes: u64,
    /// How often all translations were dropped for want of room.
    pub cleared: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.regions += other.regions;
        self.translated += other.translated;
        self.instructions += other.instructions;
        self.refused += other.refused;
        self.stale += other.stale;
        self.dropped += other.dropped;
        self.one_pass += other.one_pass;
        self.one_pass_instructions += other.one_pass_instructions;
        self.paths += other.paths;
        self.path_instructions += other.path_instructions;
        self.one_pass_bytes += other.one_pass_bytes;
        self.entered += other.entered;
        self.unlinked += other.unlinked;
        self.missed += other.missed;
        self.linked += other.linked;
        self.resumed += other.resumed;
        self.bytes += other.bytes;
        self.cleared += other.cleared;
    }
}

/// Instructions in translated code that were not inline.
#[derive(Clone, Debug, Serialize)]
pub struct NotInline {
    /// What they do.
    pub name: String,
    /// How often the interpreter ran one.
    pub interpreted: u64,
    /// How often the interpreter's function was called.
    pub called: u64,
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} regions of {} instructions, {} KiB; {} in use, {} dropped, {} too late, {} refused, {} times all \
             dropped; {} blocks of {} instructions and {} paths of {} in one pass, {} KiB; entered {} times, left {} times by an exit \
             without link and {} times for want of an entry in the jump cache, {} exits linked, {} instructions left \
             to the interpreter",
            self.translated,
            self.instructions,
            self.bytes >> 10,
            self.regions,
            self.dropped,
            self.stale,
            self.refused,
            self.cleared,
            self.one_pass,
            self.one_pass_instructions,
            self.paths,
            self.path_instructions,
            self.one_pass_bytes >> 10,
            self.entered,
            self.unlinked,
            self.missed,
            self.linked,
            self.resumed
        )
    }
}
