//! Faults planted in the CPU are found by the differential tester, without being told where to look, soon enough: within as
//! many cases as it runs in ten seconds where it runs 200,000 a second.

use softmetal_cpu::planted::{Bug, plant};
use softmetal_cpu_testing::verify::{Engine, Limit, Tally, against_host};

const TEN_SECONDS: u64 = 2_000_000;

fn verify(seed: u64) -> Option<Tally> {
    let setup = against_host(Engine::Interp, seed, &|_| true)?;
    // One difference is enough.
    let tally = setup.verifier.run(Limit::Count(TEN_SECONDS), &mut |tally| tally.differences == 0);
    Some(tally.expect("nothing is recorded"))
}

#[test]
fn every_planted_fault_is_found() {
    for bug in Bug::ALL {
        plant(Some(bug));
        for seed in 1..=3 {
            let Some(tally) = verify(seed) else { return };
            let first = tally.codes.iter().find(|(_, seen)| seen.differences > 0).map(|(name, _)| name);
            println!("{bug:?}, seed {seed}: {} cases, in {first:?} and others", tally.cases);
            assert!(tally.differences > 0, "{bug:?} is not found in {} cases from seed {seed}", tally.cases);
        }
    }
    plant(None);
    if softmetal_cpu_testing::host::judges()
        && let Some(tally) = verify(1)
    {
        assert_eq!(tally.differences, 0, "nothing is found where nothing is planted");
    }
}
