//! The thread that looks, some hundred times a second, what each CPU's thread is about.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use softmetal_cpu::Whereabouts;

use super::Times;

/// How long it sleeps on average. Samples cost the sampled nothing, but waking up costs the host 5 to 25 microseconds.
const INTERVAL: Duration = Duration::from_millis(4);
/// The same for a profile, which has to tell many functions apart.
const PROFILE_INTERVAL: Duration = Duration::from_millis(1);

/// See the module.
pub(crate) struct Sampler {
    thread: JoinHandle<(Duration, Vec<Times>)>,
    stop: mpsc::Sender<()>,
}

impl Sampler {
    /// Starts the thread. `profile`: each time, it has the CPUs note which code they run.
    pub(crate) fn start(cpus: Vec<Arc<Whereabouts>>, profile: bool) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let work = move || sample(&cpus, profile, &stopped);
        let thread = thread::Builder::new().name("sampler".into()).spawn(work)?;
        Ok(Self { thread, stop })
    }

    /// Ends the thread. How long it ran, and what the CPUs did in that time; both are the same for each CPU.
    pub(crate) fn stop(self) -> (Duration, Vec<Times>) {
        // It ends when the other side of the channel is gone, too.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn sample(cpus: &[Arc<Whereabouts>], profile: bool, stopped: &mpsc::Receiver<()>) -> (Duration, Vec<Times>) {
    let start = Instant::now();
    let mut times = vec![Times::default(); cpus.len()];
    let mut then = start;
    let mut pauses = Pauses { mean: if profile { PROFILE_INTERVAL } else { INTERVAL }, seed: 1 };
    loop {
        let end = stopped.recv_timeout(pauses.next()) != Err(mpsc::RecvTimeoutError::Timeout);
        // Each sample stands for the time since the last one, however late the host has woken us.
        let now = Instant::now();
        for (cpu, times) in cpus.iter().zip(&mut times) {
            let doing = cpu.doing();
            times[doing as usize] += now - then;
            if profile && doing.is_work() {
                cpu.sample();
            }
        }
        then = now;
        if end {
            return (now - start, times);
        }
    }
}

/// From half of the mean to one and a half, so that no guest's timer keeps step with it.
struct Pauses {
    mean: Duration,
    seed: u32,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.mean / 2 + self.mean * (self.seed >> 16) / (1 << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_are_right_on_average() {
        let mean = Duration::from_millis(1);
        let mut pauses = Pauses { mean, seed: 1 };
        let list: Vec<Duration> = (0..1000).map(|_| pauses.next()).collect();
        assert!(list.iter().all(|pause| (mean / 2..mean * 3 / 2).contains(pause)));
        let sum: Duration = list.iter().sum();
        assert!((900..1100).contains(&(sum.as_micros() / 1000)), "{sum:?}");
        assert!(list.windows(2).all(|two| two[0] != two[1]));
    }
}
