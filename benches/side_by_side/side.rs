//! Who runs a row: the host itself, softmetal, QEMU, a second softmetal.

use std::path::PathBuf;

use crate::Args;
use crate::report::{NATIVE, OTHER, QEMU, SOFTMETAL};
use crate::rows::Row;

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Native,
    Qemu,
    /// This binary, with these arguments beside the machine's.
    Softmetal {
        binary: PathBuf,
        arguments: Vec<String>,
    },
}

/// One of those that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) engine: Engine,
}

impl Side {
    /// All that the arguments ask for, in the order in which they run.
    pub(crate) fn all(args: &Args) -> Vec<Side> {
        let own = PathBuf::from(env!("CARGO_BIN_EXE_softmetal"));
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let softmetal =
            |binary: PathBuf, arguments: &str| Engine::Softmetal { binary, arguments: words(arguments) };
        let mut sides = Vec::new();
        if !args.no_native {
            sides.push(Side { name: NATIVE, engine: Engine::Native });
        }
        if !args.no_qemu {
            sides.push(Side { name: QEMU, engine: Engine::Qemu });
        }
        sides.push(Side { name: SOFTMETAL, engine: softmetal(own.clone(), &args.softmetal_args) });
        if args.other.is_some() || args.other_args.is_some() {
            let binary = args.other.clone().unwrap_or(own);
            let arguments = args.other_args.as_ref().unwrap_or(&args.softmetal_args);
            sides.push(Side { name: OTHER, engine: softmetal(binary, arguments) });
        }
        sides
    }

    /// Whether it has a part in this row.
    pub(crate) fn runs(&self, row: &Row) -> bool {
        self.engine != Engine::Native || row.runs_natively()
    }

    /// How it was started, for the report.
    pub(crate) fn description(&self) -> String {
        match &self.engine {
            Engine::Native => String::new(),
            Engine::Qemu => crate::machine::QEMU_ARGUMENTS.join(" "),
            Engine::Softmetal { binary, arguments } if self.name == OTHER => {
                format!("{} {}", binary.display(), arguments.join(" ")).trim().to_owned()
            }
            Engine::Softmetal { arguments, .. } => arguments.join(" "),
        }
    }
}
