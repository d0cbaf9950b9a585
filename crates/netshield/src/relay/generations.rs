//! Fencing: a later attestation of an instance replaces all earlier ones of it.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::watch;

use super::peer::Instance;
use super::refusal::Refusal;

/// The highest generation seen of each instance.
#[derive(Debug)]
pub struct Generations {
    highest: Mutex<HashMap<Instance, u64>>,
    raised: watch::Sender<()>,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            highest: Mutex::default(),
            raised: watch::channel(()).0,
        }
    }
}

impl Generations {
    /// Refuses a generation below the highest that was noted.
    ///
    /// # Errors
    /// [`Refusal::OldGeneration`].
    pub fn check(&self, instance: &Instance, generation: u64) -> Result<(), Refusal> {
        match self.lock().get(instance) {
            Some(&seen) if seen > generation => Err(Refusal::OldGeneration {
                name: instance.to_string(),
                found: generation,
                seen,
            }),
            _ => Ok(()),
        }
    }

    /// Notes a generation whose holder has proven its key; wakes [`Generations::watch`]ers when it replaces another.
    pub fn note(&self, instance: &Instance, generation: u64) {
        let before = {
            let mut highest = self.lock();
            let entry = highest.entry(instance.clone()).or_insert(generation);
            let before = *entry;
            *entry = before.max(generation);
            before
        };
        if before < generation {
            self.raised.send_replace(());
        }
    }

    /// Changes whenever some instance was replaced.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.raised.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Instance, u64>> {
        self.highest
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
