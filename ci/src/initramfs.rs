//! An initramfs in cpio's newc format. The same content gives the same bytes.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use cpio::newc::{Builder, trailer};

use crate::deb::Entry;

const DIRECTORY: u32 = 0o040755;
const SYMLINK: u32 = 0o120777;
const CHARACTER_DEVICE: u32 = 0o020600;

enum Node {
    Entry(Entry),
    Directory,
    Device(u32, u32),
}

/// The files to be, sorted by path.
#[derive(Default)]
pub struct Initramfs {
    nodes: BTreeMap<String, Node>,
}

impl Initramfs {
    /// An empty directory.
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        self.nodes.insert(path.to_owned(), Node::Directory);
    }

    /// A file.
    pub fn file(&mut self, path: &str, bytes: &[u8], executable: bool) {
        self.entry(path, Entry::File { bytes: bytes.to_owned(), executable });
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.entry(path, Entry::Link(to.to_owned()));
    }

    /// A character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.nodes.insert(path.to_owned(), Node::Device(major, minor));
    }

    /// A file or link as it came out of a package.
    pub fn entry(&mut self, path: &str, entry: Entry) {
        self.parents(path);
        self.nodes.insert(path.to_owned(), Node::Entry(entry));
    }

    /// The archive.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (number, (path, node)) in self.nodes.iter().enumerate() {
            let builder = Builder::new(path).ino(number as u32 + 1).nlink(1).mtime(1);
            let (builder, bytes): (_, &[u8]) = match node {
                Node::Directory => (builder.mode(DIRECTORY).nlink(2), &[]),
                Node::Device(major, minor) => {
                    (builder.mode(CHARACTER_DEVICE).rdev_major(*major).rdev_minor(*minor), &[])
                }
                Node::Entry(Entry::File { bytes, executable }) => {
                    (builder.mode(if *executable { 0o100755 } else { 0o100644 }), bytes)
                }
                Node::Entry(Entry::Link(to)) => (builder.mode(SYMLINK), to.as_bytes()),
            };
            let mut writer = builder.write(out, u32::try_from(bytes.len())?);
            writer.write_all(bytes)?;
            out = writer.finish()?;
        }
        Ok(trailer(out)?)
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.nodes.entry(path[..end].to_owned()).or_insert(Node::Directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_parents_before_files_and_is_reproducible() {
        let build = || {
            let mut fs = Initramfs::default();
            fs.file("usr/bin/b", b"hello", true);
            fs.link("bin", "usr/bin");
            fs.device("dev/console", 5, 1);
            fs.to_bytes().unwrap()
        };
        let bytes = build();
        assert_eq!(bytes, build());
        let mut seen = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            seen.push((reader.entry().name().to_owned(), reader.entry().mode(), reader.entry().file_size()));
            rest = reader.finish().unwrap();
        }
        let names: Vec<_> = seen.iter().map(|(n, m, s)| (n.as_str(), *m, *s)).collect();
        assert_eq!(
            names,
            [
                ("bin", SYMLINK, 7),
                ("dev", DIRECTORY, 0),
                ("dev/console", CHARACTER_DEVICE, 0),
                ("usr", DIRECTORY, 0),
                ("usr/bin", DIRECTORY, 0),
                ("usr/bin/b", 0o100755, 5)
            ]
        );
    }
}
