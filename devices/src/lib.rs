//! The devices of the PC: pure state machines with `&mut self`, wired together by the board.
