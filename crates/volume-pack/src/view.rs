//! Looking into a volume without a mount.

use volume::{Attr, FileType, Ino, ROOT_INO, Volume};

use crate::error::PackError;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name alone.
    pub name: Vec<u8>,
    /// Its attributes.
    pub attr: Attr,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// Finds a '/'-separated path from the root; "" and "/" are the root. Symbolic links are not followed.
///
/// # Errors
/// [`PackError::Volume`] with the path as given.
pub fn resolve(volume: &Volume, path: &[u8]) -> Result<Attr, PackError> {
    let failed = |error| PackError::volume(path, error);
    let mut found = volume.attr(ROOT_INO).map_err(failed)?;
    for name in path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
    {
        found = volume.lookup(found.ino, name).map_err(failed)?;
    }
    Ok(found)
}

/// The entries of a directory by name, or the one entry of anything else.
///
/// # Errors
/// [`PackError::Volume`] with the path.
pub fn list(volume: &Volume, path: &[u8]) -> Result<Vec<Entry>, PackError> {
    let found = resolve(volume, path)?;
    if found.kind != FileType::Dir {
        let name = path
            .rsplit(|byte| *byte == b'/')
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        return Ok(vec![entry(volume, path, name.to_vec(), found)?]);
    }
    let mut entries = Vec::new();
    for (name, ino) in children(volume, found.ino, path)? {
        let attr = volume
            .attr(ino)
            .map_err(|error| PackError::volume(&name, error))?;
        entries.push(entry(volume, path, name, attr)?);
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn entry(volume: &Volume, path: &[u8], name: Vec<u8>, attr: Attr) -> Result<Entry, PackError> {
    let target = match attr.kind {
        FileType::Symlink => Some(
            volume
                .read_link(attr.ino)
                .map_err(|error| PackError::volume(path, error))?,
        ),
        _ => None,
    };
    Ok(Entry { name, attr, target })
}

/// Names and inodes of a directory without "." and "..".
pub(crate) fn children(
    volume: &Volume,
    ino: Ino,
    path: &[u8],
) -> Result<Vec<(Vec<u8>, Ino)>, PackError> {
    let mut names = Vec::new();
    volume
        .read_dir(ino, 0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                names.push((entry.name.to_vec(), entry.ino));
            }
            true
        })
        .map_err(|error| PackError::volume(path, error))?;
    Ok(names)
}

/// Up to `size` bytes of a file at `offset`; fewer only at its end.
///
/// # Errors
/// [`PackError::Volume`] with the path; `IsDirectory` and `Usage` for what is no file.
pub fn read_file(
    volume: &Volume,
    path: &[u8],
    offset: u64,
    size: usize,
) -> Result<Vec<u8>, PackError> {
    let failed = |error| PackError::volume(path, error);
    let found = resolve(volume, path)?;
    match found.kind {
        FileType::File => {}
        FileType::Dir => return Err(failed(volume::VolumeError::IsDirectory)),
        FileType::Symlink => {
            return Err(PackError::usage(
                format!("{} is a symbolic link", String::from_utf8_lossy(path)),
                "name its target",
            ));
        }
        _ => {
            return Err(PackError::usage(
                format!("{} is a special file", String::from_utf8_lossy(path)),
                "name a regular file",
            ));
        }
    }
    let left = usize::try_from(found.size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut contents = vec![0; size.min(left)];
    let count = volume
        .read(found.ino, offset, &mut contents)
        .map_err(failed)?;
    contents.truncate(count);
    Ok(contents)
}
