//! The screen of a terminal, as far as programs need it that draw in a fixed layout: a character goes where the cursor is,
//! and the cursor goes where it is told.

const ROWS: usize = 25;
const COLUMNS: usize = 80;

/// What a VT100 terminal would show.
pub(crate) struct Screen {
    cells: [[u8; COLUMNS]; ROWS],
    row: usize,
    column: usize,
    /// A control sequence that is still coming, from its escape character on.
    sequence: Vec<u8>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { cells: [[b' '; COLUMNS]; ROWS], row: 0, column: 0, sequence: Vec::new() }
    }

    /// Takes what the terminal gets. Sequences may be cut anywhere.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                0x1b => self.sequence = vec![byte],
                _ if !self.sequence.is_empty() => self.continue_sequence(byte),
                b'\r' => self.column = 0,
                b'\n' => self.row = (self.row + 1).min(ROWS - 1),
                b' '..=b'~' => {
                    if self.column < COLUMNS {
                        self.cells[self.row][self.column] = byte;
                    }
                    self.column += 1;
                }
                _ => {}
            }
        }
    }

    fn continue_sequence(&mut self, byte: u8) {
        self.sequence.push(byte);
        // ECMA-48 "Control sequences": CSI is ESC [, then parameters, and a final byte from @ on.
        if self.sequence.len() == 2 && byte == b'[' || !(b'@'..=b'~').contains(&byte) {
            return;
        }
        let sequence = std::mem::take(&mut self.sequence);
        let text = String::from_utf8_lossy(sequence.get(2..sequence.len() - 1).unwrap_or_default());
        let mut numbers = text.split(';').map(|number| number.parse::<usize>().unwrap_or(0));
        match byte {
            b'H' => {
                self.row = numbers.next().unwrap_or(0).clamp(1, ROWS) - 1;
                self.column = numbers.next().unwrap_or(0).clamp(1, COLUMNS) - 1;
            }
            b'J' if text == "2" => self.cells = [[b' '; COLUMNS]; ROWS],
            // Colours and the cursor's looks.
            _ => {}
        }
    }

    /// All rows, without the blanks at their ends.
    pub(crate) fn text(&self) -> String {
        let rows = self.cells.iter().map(|row| String::from_utf8_lossy(row).trim_end().to_owned());
        rows.collect::<Vec<_>>().join("\n")
    }
}
