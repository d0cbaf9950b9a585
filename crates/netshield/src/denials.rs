//! Keeps refusals until the launcher takes them.

use std::collections::VecDeque;
use std::mem;

use parking_lot::Mutex;

use crate::event::{Denial, DenialLog};

/// Refusals that are kept; of more, the newest are counted only.
pub const KEPT: usize = 1024;

/// A bounded queue; noting one never waits for more than a push.
#[derive(Debug, Default)]
pub struct Denials {
    queue: Mutex<(VecDeque<Denial>, u64)>,
}

impl Denials {
    /// Takes what was noted since the last call, and how many more there were.
    pub fn take(&self) -> (Vec<Denial>, u64) {
        let mut queue = self.queue.lock();
        let (kept, dropped) = mem::take(&mut *queue);
        (kept.into(), dropped)
    }
}

impl DenialLog for Denials {
    fn deny(&self, denial: Denial) {
        let (kept, dropped) = &mut *self.queue.lock();
        if kept.len() < KEPT {
            kept.push_back(denial);
        } else {
            *dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(number: usize) -> Denial {
        Denial {
            time_s: 0,
            direction: "outbound",
            process: String::new(),
            destination: number.to_string(),
            reason: String::new(),
        }
    }

    #[test]
    fn take_when_more_were_noted_than_are_kept_counts_the_rest_and_starts_anew() {
        let denials = Denials::default();
        for number in 0..KEPT + 7 {
            denials.deny(denial(number));
        }
        let (kept, dropped) = denials.take();
        assert_eq!((kept.len(), dropped), (KEPT, 7));
        assert_eq!(
            kept.last().map(|one| one.destination.as_str()),
            Some("1023")
        );
        assert_eq!(denials.take(), (Vec::new(), 0));
    }
}
