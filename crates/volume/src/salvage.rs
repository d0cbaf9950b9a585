//! Salvage: the newest authentic state that a damaged store still leads to, for reading only.

use std::collections::HashSet;
use std::sync::Arc;

use crate::api::{Environment, Freshness, Grant, Options, Position, Store};
use crate::chain::{self, Index};
use crate::error::VolumeError;
use crate::mount;
use crate::seal::Keys;
use crate::volume::{Result, Volume};

/// States that are tried, newest first, before giving up.
const TRIES: usize = 16;

/// A state that can be read.
pub struct Salvaged {
    /// Open for reading.
    pub volume: Arc<Volume>,
    /// Why the anchored state itself cannot be opened; `None` when this is it.
    pub lost: Option<VolumeError>,
}

impl Volume {
    /// Opens the state of the grant or, when the store does not lead there any more, the newest one that it leads to.
    /// Everything read is authentic; whether it is the newest is what [`Salvaged::lost`] says.
    ///
    /// # Errors
    /// That of the anchored state when no other one can be opened either; `Format` and `Key` at once.
    pub fn salvage(
        store: &Arc<dyn Store>,
        environment: &Arc<dyn Environment>,
        grant: &Grant,
    ) -> Result<Salvaged> {
        let open = |(seq, root): Position| {
            let grant = Grant {
                seq,
                root,
                writable: false,
                ..grant.clone()
            };
            let (store, environment) = (Arc::clone(store), Arc::clone(environment));
            let options = Options::new(Freshness::Pinned);
            mount::read_volume(store, None, environment, grant, options)
        };
        let anchored = (grant.seq, grant.root);
        let lost = match open(anchored) {
            Ok(volume) => {
                return Ok(Salvaged {
                    volume: Arc::new(volume),
                    lost: None,
                });
            }
            Err(error @ (VolumeError::Rollback { .. } | VolumeError::Integrity { .. })) => error,
            Err(error) => return Err(error),
        };
        let keys = Keys::new(grant)?;
        for position in authentic(&**store, &keys)?.into_iter().take(TRIES) {
            if position == anchored {
                continue;
            }
            if let Ok(volume) = open(position) {
                return Ok(Salvaged {
                    volume: Arc::new(volume),
                    lost: Some(lost),
                });
            }
        }
        Err(lost)
    }
}

/// Ends of complete commits that the store leads to from a beginning, and whose record authenticates; newest first.
fn authentic(store: &dyn Store, keys: &Keys) -> Result<Vec<Position>> {
    let index = Index::read(store, keys)?;
    let mut seen = HashSet::new();
    let mut todo = index.beginnings();
    let mut ends = Vec::new();
    while let Some(place) = todo.pop() {
        if !seen.insert(place.root) || chain::read(store, keys, &place).is_err() {
            continue;
        }
        if place.header.flags & crate::record::FLAG_LAST != 0 {
            ends.push(place.position());
        }
        todo.extend(index.after(&place));
    }
    ends.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ends)
}
