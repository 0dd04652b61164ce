//! Lists of whole-machine tests, each list with what hinders all of it.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A test and its name.
pub(crate) type Named = (&'static str, fn() -> Result<()>);

/// The tests of a list; with a hindrance, all are ignored and give it as the reason.
pub(crate) fn trials(tests: &[Named], hindrance: Option<&str>) -> Vec<Trial> {
    let trial = |&(name, test): &Named| {
        let reason = hindrance.map(str::to_owned);
        Trial::ignorable_test(name, move || match &reason {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                test().map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
            }
        })
    };
    tests.iter().map(trial).collect()
}

/// Runs what the command line chooses. A guest needs a core for its CPU and a share of another for its devices: one guest
/// at a time, unless told otherwise.
pub(crate) fn run(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}
