//! What the guest asks of the machine as a whole: to be switched off, reset, or ended with a status.

/// Receives the guest's wishes about the machine. Called with the asking device locked: an implementation notes the wish
/// and returns, and the machine acts on it when its vCPUs have stopped.
pub trait PowerSink: Send + Sync {
    /// The guest has switched itself off (ACPI S5).
    fn power_off(&self);
    /// The guest has asked for a reset of the whole machine.
    fn reset(&self);
    /// The guest has written `value` to the debug-exit port.
    fn debug_exit(&self, value: u8);
}

#[cfg(test)]
pub(crate) mod recorder {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::PowerSink;

    /// What a guest asked for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Wish {
        PowerOff,
        Reset,
        DebugExit(u8),
    }

    /// A sink for tests that remembers.
    #[derive(Default)]
    pub(crate) struct PowerRecorder(Mutex<Vec<Wish>>);

    impl PowerRecorder {
        pub(crate) fn new() -> Arc<Self> {
            Arc::default()
        }

        /// What was asked for since the last call.
        pub(crate) fn take(&self) -> Vec<Wish> {
            std::mem::take(&mut self.0.lock())
        }
    }

    impl PowerSink for PowerRecorder {
        fn power_off(&self) {
            self.0.lock().push(Wish::PowerOff);
        }

        fn reset(&self) {
            self.0.lock().push(Wish::Reset);
        }

        fn debug_exit(&self, value: u8) {
            self.0.lock().push(Wish::DebugExit(value));
        }
    }
}
