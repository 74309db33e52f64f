//! Files out of Debian packages, without dpkg.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a path inside a package names.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A regular file and whether it may be executed.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether any execute permission is set.
        executable: bool,
    },
    /// A symbolic link and its target.
    Link(String),
}

/// Reads the entries of the package at `path` that `wanted` asks for, by path without a leading slash.
pub fn read(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Entry>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut archive = ar::Archive::new(BufReader::new(file));
    while let Some(member) = archive.next_entry() {
        let member = member.with_context(|| format!("read {}", path.display()))?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        return match name.trim_end_matches('/') {
            "data.tar.xz" => entries(liblzma::read::XzDecoder::new(member), &wanted),
            "data.tar" => entries(member, &wanted),
            other if other.starts_with("data.tar") => bail!("cannot unpack {other}"),
            _ => continue,
        }
        .with_context(|| format!("unpack {}", path.display()));
    }
    bail!("{} has no data member", path.display())
}

/// Unpacks everything of the package at `path` below `root`.
pub fn unpack(path: &Path, root: &Path) -> Result<()> {
    for (name, entry) in read(path, |_| true)? {
        let target = root.join(name);
        std::fs::create_dir_all(target.parent().context("an entry without a name")?)?;
        match entry {
            Entry::File { bytes, executable } => {
                std::fs::write(&target, bytes)?;
                if executable {
                    use std::os::unix::fs::PermissionsExt;
                    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
                }
            }
            Entry::Link(to) => {
                let _ = std::fs::remove_file(&target);
                std::os::unix::fs::symlink(to, &target)?;
            }
        }
    }
    Ok(())
}

fn entries(data: impl Read, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Entry>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(data).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").to_owned();
        if path.is_empty()
            || path.starts_with('/')
            || path.split('/').any(|part| part == "..")
            || !wanted(&path)
        {
            continue;
        }
        let kind = entry.header().entry_type();
        let value = if kind.is_symlink() {
            let to = entry.link_name()?.context("a link without a target")?;
            Entry::Link(to.to_string_lossy().into_owned())
        } else if kind.is_hard_link() {
            let to = entry.link_name()?.context("a link without a target")?;
            let to = to.to_string_lossy();
            match found.get(to.trim_start_matches("./")) {
                Some(target) => Entry::clone(target),
                None => continue,
            }
        } else if kind.is_file() {
            let executable = entry.header().mode()? & 0o111 != 0;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            Entry::File { bytes, executable }
        } else {
            continue;
        };
        found.insert(path, value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header
    }

    #[test]
    fn a_package_is_read_and_stray_paths_are_left_out() {
        let mut data = tar::Builder::new(Vec::new());
        for (name, mode, bytes) in [("./usr/bin/a", 0o755, b"run".as_slice()), ("./etc/b", 0o644, b"text")] {
            data.append_data(&mut header(tar::EntryType::Regular, mode, bytes.len()), name, bytes).unwrap();
        }
        data.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), "./lib/l", "../usr/bin/a").unwrap();
        let data = data.into_inner().unwrap();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(data.as_slice(), 1).read_to_end(&mut xz).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut ar = ar::Builder::new(file.reopen().unwrap());
        ar.append(&ar::Header::new(b"debian-binary".to_vec(), 4), b"2.0\n".as_slice()).unwrap();
        ar.append(&ar::Header::new(b"data.tar.xz".to_vec(), xz.len() as u64), xz.as_slice()).unwrap();

        let all = read(file.path(), |_| true).unwrap();
        assert_eq!(all["usr/bin/a"], Entry::File { bytes: b"run".to_vec(), executable: true });
        assert_eq!(all["etc/b"], Entry::File { bytes: b"text".to_vec(), executable: false });
        assert_eq!(all["lib/l"], Entry::Link("../usr/bin/a".to_owned()));
        assert_eq!(read(file.path(), |p| p == "etc/b").unwrap().len(), 1);

        let root = tempfile::tempdir().unwrap();
        unpack(file.path(), root.path()).unwrap();
        assert_eq!(std::fs::read(root.path().join("lib/l")).unwrap(), b"run");
    }
}
