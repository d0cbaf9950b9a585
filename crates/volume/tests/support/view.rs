//! What a program sees in a volume.

use securetf_volume::{FileType, Ino, ROOT_INO, Seek, Volume, VolumeError};

use super::model::{ModelNode, View, join};

/// Reads everything that a program can see.
pub fn view(volume: &Volume) -> Result<View, VolumeError> {
    let mut view = View::new();
    let mut todo = vec![(ROOT_INO, String::new())];
    while let Some((dir, path)) = todo.pop() {
        let mut names = Vec::new();
        volume.read_dir(dir, 2, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })?;
        for name in names {
            let attr = volume.lookup(dir, &name)?;
            let path = join(&path, &String::from_utf8(name).unwrap());
            if attr.kind == FileType::Dir {
                todo.push((attr.ino, path.clone()));
                view.insert(path, None);
                continue;
            }
            let symlink = attr.kind == FileType::Symlink;
            let special = !symlink && attr.kind != FileType::File;
            let content = if symlink {
                volume.read_link(attr.ino)?
            } else if special {
                Vec::new()
            } else {
                check_holes(volume, attr.ino, attr.size)?;
                read_all(volume, attr.ino, attr.size)?
            };
            let xattr = volume.xattr_get(attr.ino, b"user.x").ok();
            view.insert(
                path,
                Some(ModelNode {
                    content,
                    symlink,
                    special: special.then_some((attr.kind, attr.device)),
                    mode: attr.mode,
                    xattr,
                    nlink: attr.nlink,
                }),
            );
        }
    }
    Ok(view)
}

/// Walks over data and holes: they take turns up to the end, and what is called a hole reads as zeros.
pub fn check_holes(volume: &Volume, ino: Ino, size: u64) -> Result<(), VolumeError> {
    let content = read_all(volume, ino, size)?;
    let mut at = 0;
    while at < size {
        let data = match volume.seek(ino, at, Seek::Data) {
            Err(VolumeError::NoMore) => size,
            found => found?,
        };
        assert!(
            content[at as usize..data as usize]
                .iter()
                .all(|byte| *byte == 0)
        );
        if data == size {
            break;
        }
        let hole = volume.seek(ino, data, Seek::Hole)?;
        assert!(hole > data && hole <= size, "{data} {hole} {size}");
        at = hole;
    }
    assert_eq!(volume.seek(ino, size, Seek::Hole), Err(VolumeError::NoMore));
    Ok(())
}

pub fn read_all(volume: &Volume, ino: Ino, size: u64) -> Result<Vec<u8>, VolumeError> {
    let mut content = vec![0xee; size as usize + 1];
    let got = volume.read(ino, 0, &mut content)?;
    assert_eq!(got as u64, size);
    content.truncate(got);
    Ok(content)
}
