//! One-pass translation on hosts for which there is none: nothing is translated in one pass.

use super::service::Compiled;
use crate::{
    insn::{Insn, Links},
    mode::Mode,
};

/// Whether there is one-pass translation.
pub(super) const EXISTS: bool = false;

/// What is to be translated.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) insns: &'a [Insn],
    pub(super) links: &'a Links,
    pub(super) mode: Mode,
    pub(super) page: u32,
    pub(super) count: u64,
    pub(super) ring: u64,
}

/// What would translate.
#[derive(Debug)]
pub(super) enum Translator {}

impl Translator {
    pub(super) fn new() -> Option<Self> {
        None
    }
    pub(super) fn translate(&mut self, _: Source<'_>) -> Option<Compiled> {
        match *self {}
    }
}
