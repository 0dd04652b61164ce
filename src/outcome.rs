//! How the run of a machine ends, and who can stop it.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};
use softmetal_cpu::{Attention, Doing, Request, Whereabouts};
use softmetal_devices::power::PowerSink;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u8),
    /// The guest crashed: a triple fault, described.
    Crashed(String),
    /// The user ended the machine.
    Terminated,
    /// The machine cannot go on, for this reason.
    Failed(String),
}

/// One run of a machine, from power-on to its end: what stops its vCPUs, and what the main thread waits for.
///
/// Devices call it with their own lock held, vCPUs from within an access: it only notes and kicks.
#[derive(Default)]
pub(crate) struct Run {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    paused: bool,
    /// vCPUs that wait for the end of the pause.
    parked: usize,
    /// vCPUs whose threads run guest code or wait.
    vcpus: Vec<Arc<Attention>>,
}

impl State {
    /// Asks every vCPU to look at this state.
    fn kick(&self) {
        for vcpu in &self.vcpus {
            vcpu.request(Request::EXIT);
        }
    }
}

impl Run {
    /// Takes a vCPU; its thread calls [`Run::goes_on`] whenever it leaves guest code.
    pub(crate) fn join(&self, vcpu: Arc<Attention>) {
        let mut state = self.state.lock();
        state.vcpus.push(vcpu);
    }

    /// For vCPU threads between stretches of guest code: waits while the machine is paused, and says so at `place`. False
    /// when the run is over.
    pub(crate) fn goes_on(&self, place: &Whereabouts) -> bool {
        let mut state = self.state.lock();
        if state.paused && state.outcome.is_none() {
            state.parked += 1;
            self.changed.notify_all();
            place.during(Doing::Paused, || {
                self.changed.wait_while(&mut state, |state| state.paused && state.outcome.is_none());
            });
            state.parked -= 1;
        }
        state.outcome.is_none()
    }

    /// Ends the run; the first reason counts.
    pub(crate) fn end(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        state.outcome.get_or_insert(outcome);
        self.tell(state);
    }

    /// Stops all vCPUs between two instructions and returns when they stand, or when the run is over.
    /// Must not be called by a vCPU's thread.
    /// True unless it was paused already.
    pub(crate) fn pause(&self) -> bool {
        let mut state = self.state.lock();
        let was_paused = std::mem::replace(&mut state.paused, true);
        state.kick();
        self.changed.wait_while(&mut state, |state| {
            state.paused && state.outcome.is_none() && state.parked < state.vcpus.len()
        });
        !was_paused
    }

    /// Has all vCPUs stop soon, without waiting for it: for devices.
    pub(crate) fn pause_soon(&self) {
        let mut state = self.state.lock();
        state.paused = true;
        state.kick();
    }

    /// Whether the vCPUs stand or are about to.
    pub(crate) fn is_paused(&self) -> bool {
        self.state.lock().paused
    }

    /// Lets the vCPUs go on after [`Run::pause`].
    pub(crate) fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = false;
        self.tell(state);
    }

    /// Waits for the end.
    pub(crate) fn wait(&self) -> Outcome {
        let mut state = self.state.lock();
        loop {
            match &state.outcome {
                Some(outcome) => return outcome.clone(),
                None => self.changed.wait(&mut state),
            }
        }
    }

    fn tell(&self, state: MutexGuard<'_, State>) {
        self.changed.notify_all();
        state.kick();
    }
}

impl PowerSink for Run {
    fn power_off(&self) {
        self.end(Outcome::PoweredOff);
    }

    fn reset(&self) {
        self.end(Outcome::Reset);
    }

    fn debug_exit(&self, value: u8) {
        self.end(Outcome::DebugExit(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    const MOMENT: Duration = Duration::from_millis(1);

    /// A vCPU that counts stretches of guest code, each at most a moment long.
    fn vcpu(run: &Arc<Run>, count: &Arc<AtomicU64>, place: &Arc<Whereabouts>) -> JoinHandle<()> {
        let attention = Arc::new(Attention::default());
        run.join(Arc::clone(&attention));
        let (run, count) = (Arc::clone(run), Arc::clone(count));
        let place = Arc::clone(place);
        thread::spawn(move || {
            while run.goes_on(&place) {
                attention.wait(Some(MOMENT));
                count.fetch_add(1, Ordering::SeqCst);
            }
        })
    }

    fn wait_for_progress(count: &AtomicU64) {
        let before = count.load(Ordering::SeqCst);
        while count.load(Ordering::SeqCst) <= before + 2 {
            thread::sleep(MOMENT);
        }
    }

    #[test]
    fn the_first_reason_counts_and_stops_everyone() {
        let (run, count, place) = (Arc::new(Run::default()), Arc::default(), Arc::default());
        let vcpus = [vcpu(&run, &count, &place), vcpu(&run, &count, &place)];
        let waiting = thread::spawn({
            let run = Arc::clone(&run);
            move || run.wait()
        });
        wait_for_progress(&count);
        run.debug_exit(3);
        run.reset();
        assert_eq!(waiting.join().unwrap(), Outcome::DebugExit(3));
        for vcpu in vcpus {
            vcpu.join().unwrap();
        }
    }

    #[test]
    fn nothing_moves_in_a_pause() {
        let (run, count) = (Arc::new(Run::default()), Arc::default());
        let places = [Arc::<Whereabouts>::default(), Arc::default()];
        let vcpus = places.each_ref().map(|place| vcpu(&run, &count, place));
        for _ in 0..3 {
            wait_for_progress(&count);
            while places.iter().any(|place| place.doing() == Doing::Paused) {
                thread::sleep(MOMENT);
            }
            run.pause();
            let before = count.load(Ordering::SeqCst);
            thread::sleep(20 * MOMENT);
            assert_eq!(count.load(Ordering::SeqCst), before);
            assert!(places.iter().all(|place| place.doing() == Doing::Paused));
            run.resume();
        }
        run.pause();
        run.power_off();
        assert_eq!(run.wait(), Outcome::PoweredOff);
        for vcpu in vcpus {
            vcpu.join().unwrap();
        }
    }
}
