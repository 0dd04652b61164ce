//! Limits of what a disk does in a second.

use std::time::{Duration, Instant};

/// At most so much in a second; nothing is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Requests.
    pub iops: Option<u64>,
    /// Bytes.
    pub bps: Option<u64>,
}

/// How long what was not used may be saved up.
const BURST: Duration = Duration::from_millis(100);

/// What has been spent: the moments up to which requests and bytes are used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    throttle: Throttle,
    requests: Instant,
    bytes: Instant,
}

impl Budget {
    pub(crate) fn new(throttle: Throttle, now: Instant) -> Self {
        Self { throttle, requests: now, bytes: now }
    }

    /// Spends what a request costs if it may be done now; otherwise the answer is how long to wait.
    pub(crate) fn spend(&mut self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let limits =
            [(&mut self.requests, self.throttle.iops, 1), (&mut self.bytes, self.throttle.bps, bytes)];
        // The clock of each limit runs ahead by what was done; it is behind by a burst at most.
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let wait = limits.iter().filter(|(_, limit, _)| limit.is_some());
        let wait = wait.map(|(until, ..)| until.saturating_duration_since(now)).max().unwrap_or_default();
        if !wait.is_zero() {
            return Err(wait);
        }
        for (until, limit, cost) in limits {
            if let Some(limit) = limit {
                let nanoseconds = u128::from(cost) * 1_000_000_000 / u128::from(limit.max(1));
                let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
                let cost = cost.min(Duration::from_secs(3600));
                *until = (*until).max(earliest) + cost;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time that so many requests of so many bytes take.
    fn time(throttle: Throttle, count: u32, bytes: u64) -> Duration {
        let begin = Instant::now();
        let (mut budget, mut now) = (Budget::new(throttle, begin), begin);
        for _ in 0..count {
            while let Err(wait) = budget.spend(bytes, now) {
                now += wait;
            }
        }
        now - begin
    }

    #[test]
    fn requests_and_bytes_are_limited() {
        let seconds = |throttle, count, bytes| time(throttle, count, bytes).as_secs_f64();
        let (iops, bps) = (Some(100), Some(1 << 20));
        let measured = [
            (seconds(Throttle { iops, bps: None }, 1000, 1 << 20), 10.0),
            (seconds(Throttle { iops: None, bps }, 1000, 64 << 10), 62.5),
            (seconds(Throttle { iops, bps }, 1000, 64 << 10), 62.5),
            (seconds(Throttle { iops, bps }, 1000, 512), 10.0),
            (seconds(Throttle::default(), 1000, u64::MAX), 0.0),
        ];
        for (time, expected) in measured {
            assert!((time - expected).abs() <= 0.2, "{time} s instead of {expected}");
        }
    }

    #[test]
    fn what_is_saved_up_is_little() {
        let begin = Instant::now();
        let mut budget = Budget::new(Throttle { iops: Some(1000), bps: None }, begin);
        let later = begin + Duration::from_secs(60);
        let at_once = (0..1000).take_while(|_| budget.spend(512, later).is_ok()).count();
        assert!((100..=102).contains(&at_once), "{at_once}");
    }
}
