//! The keys that a raw terminal cannot give to the guest alone: Ctrl-A begins a command to softmetal.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// The commands, as Ctrl-A h shows them.
pub(crate) const HELP: &str = "\
Ctrl-A e       another engine runs the machine: kvm, jit, interp in turn
Ctrl-A h       this help
Ctrl-A x       end the machine at once
Ctrl-A -       with --balloon: take an eighth of its memory from the guest
Ctrl-A +       with --balloon: give an eighth back
Ctrl-A m       with --balloon: how the guest's memory stands
Ctrl-A Ctrl-A  send Ctrl-A to the guest
";

/// What a typed byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A byte for the guest.
    Guest(u8),
    /// The first half of a command, or a command that is none.
    Nothing,
    /// Show [`HELP`].
    Help,
    /// A wish about the machine.
    Wish(Wish),
}

/// What a user can wish of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Move it to another engine.
    Engine,
    /// End it.
    End,
    /// Less memory for the guest.
    LessMemory,
    /// More memory for it.
    MoreMemory,
    /// Tell how its memory stands.
    ShowMemory,
}

/// The parser of typed bytes.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    escaped: bool,
}

impl Keys {
    pub(crate) fn typed(&mut self, byte: u8) -> Typed {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            return if self.escaped { Typed::Nothing } else { Typed::Guest(byte) };
        }
        self.escaped = false;
        match byte {
            ESCAPE => Typed::Guest(ESCAPE),
            b'h' | b'?' => Typed::Help,
            b'e' => Typed::Wish(Wish::Engine),
            b'x' => Typed::Wish(Wish::End),
            b'-' => Typed::Wish(Wish::LessMemory),
            b'+' => Typed::Wish(Wish::MoreMemory),
            b'm' => Typed::Wish(Wish::ShowMemory),
            // 'c' is kept for a monitor.
            _ => Typed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Vec<Typed> {
        let mut keys = Keys::default();
        text.iter().map(|&byte| keys.typed(byte)).filter(|typed| *typed != Typed::Nothing).collect()
    }

    #[test]
    fn plain_bytes_go_to_the_guest() {
        assert_eq!(parse(b"x\x03\xff"), [Typed::Guest(b'x'), Typed::Guest(3), Typed::Guest(0xff)]);
    }

    #[test]
    fn ctrl_a_begins_a_command_of_one_key() {
        assert_eq!(parse(b"\x01x"), [Typed::Wish(Wish::End)]);
        assert_eq!(parse(b"e\x01e"), [Typed::Guest(b'e'), Typed::Wish(Wish::Engine)]);
        assert_eq!(parse(b"\x01hx"), [Typed::Help, Typed::Guest(b'x')]);
        assert_eq!(parse(b"\x01\x01x"), [Typed::Guest(1), Typed::Guest(b'x')]);
        assert_eq!(parse(b"\x01c\x01zx"), [Typed::Guest(b'x')]);
    }
}
