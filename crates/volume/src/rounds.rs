//! Rounds: what several callers ask for at the same time is done once, by one of them, for all.

use parking_lot::{Condvar, Mutex};

use crate::volume::Result;

/// One kind of work. What a round yields is the sequence number that it reached.
#[derive(Default)]
pub(crate) struct Rounds {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    started: u64,
    finished: u64,
    outcome: Option<Result<u64>>,
}

impl Rounds {
    /// Returns the outcome of a round that began after this call: the caller waits for one, or leads it. Or what
    /// `known` has, which is asked before each wait and each round.
    ///
    /// # Errors
    /// Those of the round, which all get who wait for it.
    pub(crate) fn join(
        &self,
        known: impl Fn() -> Option<u64>,
        lead: impl Fn() -> Result<u64>,
    ) -> Result<u64> {
        let mut state = self.state.lock();
        let target = state.started + 1;
        loop {
            if let Some(reached) = known() {
                return Ok(reached);
            }
            if state.finished >= target
                && let Some(outcome) = &state.outcome
            {
                return outcome.clone();
            }
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            drop(state);
            let outcome = lead();
            state = self.state.lock();
            state.running = false;
            state.finished = state.started;
            state.outcome = Some(outcome);
            self.changed.notify_all();
        }
    }
}
