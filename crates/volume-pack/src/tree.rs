//! Walking a volume by path, the same names in the same order each time.

use std::collections::BTreeMap;

use volume::{Attr, FileType, ROOT_INO, Volume};

use crate::error::PackError;
use crate::view::children;

/// Everything in a volume by its path ('/'-separated, without a leading one); parents before children.
pub(crate) fn paths(volume: &Volume) -> Result<BTreeMap<Vec<u8>, Attr>, PackError> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(Vec::new(), ROOT_INO)];
    while let Some((path, ino)) = todo.pop() {
        for (name, child) in children(volume, ino, &path)? {
            let mut whole = path.clone();
            if !whole.is_empty() {
                whole.push(b'/');
            }
            whole.extend_from_slice(&name);
            let attr = volume
                .attr(child)
                .map_err(|error| PackError::volume(&whole, error))?;
            if attr.kind == FileType::Dir {
                todo.push((whole.clone(), child));
            }
            found.insert(whole, attr);
        }
    }
    Ok(found)
}

/// The directory part and the last name of a path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        ),
        None => (&[], path),
    }
}
