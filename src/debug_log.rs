//! The debug console's lines become log messages.

use softmetal_devices::char::CharBackend;

/// A longer line is cut into pieces of this many bytes.
const LONGEST_LINE: usize = 1024;

/// Collects bytes to lines.
#[derive(Default)]
pub(crate) struct DebugLog {
    line: Vec<u8>,
}

impl DebugLog {
    /// Takes a byte; the line that it completes, if it does.
    fn push(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\r' => return None,
            b'\n' => {}
            _ => {
                self.line.push(byte);
                if self.line.len() < LONGEST_LINE {
                    return None;
                }
            }
        }
        let line = self.line.escape_ascii().to_string();
        self.line.clear();
        Some(line)
    }
}

impl CharBackend for DebugLog {
    fn write(&mut self, bytes: &[u8]) {
        for line in bytes.iter().filter_map(|byte| self.push(*byte)) {
            log::info!("debug console: {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_harmless_and_bounded() {
        let mut log = DebugLog::default();
        let mut lines = |text: &[u8]| text.iter().filter_map(|byte| log.push(*byte)).collect::<Vec<_>>();
        assert!(lines(b"hel").is_empty());
        assert_eq!(lines(b"lo\x1b[2J\r\nsecond\n"), ["hello\\x1b[2J", "second"]);
        assert_eq!(lines(&[b'x'; LONGEST_LINE + 1]).len(), 1);
    }
}
