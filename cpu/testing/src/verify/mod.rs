//! The differential tester behind `softmetal verify`: instructions in every encoding, from every kind of state, on the
//! emulated CPU and on one that is right; all that software can see is compared.
//!
//! A [`plan`] says which of iced's codes are run. Of each, [`subject`] makes encodings and [`state`] makes registers and
//! memory; the two [`Side`]s run them, and `difference` compares. What differs is run again one by one, made as small as it
//! can be, and reported.

mod blocks;
mod coverage;
mod difference;
mod line;
pub mod plan;
mod quirks;
mod replay;
mod report;
mod run;
mod setup;
mod shrink;
mod side;
mod state;
mod subject;
pub mod values;
mod vectors;

pub use coverage::coverage;
pub use difference::Part;
pub use plan::{Class, Maker};
pub use replay::replay;
pub use report::report;
pub use run::{Case, Example, Limit, Seen, Tally, Verifier};
pub use setup::{Engine, Setup, against_host, against_itself};
pub use side::{Emulated, Side};
pub use vectors::{VectorError, Vectors};
