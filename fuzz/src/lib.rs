//! What is done with hostile input. Each [`Target`] is a function that takes any bytes, gives them to a reader as guest,
//! operator or file would, and asserts what must hold whatever they are.
//!
//! Two users: `fuzz/targets`, a workspace of its own, in which libFuzzer calls the functions for as long as it is let (`cargo
//! xtask fuzz`); and the tests below, which call them with a bounded number of random inputs and of edited seeds on every
//! test run.
//!
//! To add a target: a function and a row in [`TARGETS`], and a file of its name in `fuzz/targets/fuzz_targets` with its
//! entry in `fuzz/targets/Cargo.toml`, a copy of another with the name changed. A test compares the two lists.

#![forbid(unsafe_code)]

mod cards;
mod control_block;
mod daemon;
mod host;
mod masks;
mod qmp;

/// A function for hostile input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line, and that of its file.
    pub name: &'static str,
    /// Panics if the input brings something about that must not be.
    pub run: fn(&[u8]),
    /// Good inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "ap_messages", run: cards::messages, seeds: cards::seeds },
    Target { name: "control_blocks", run: control_block::blocks, seeds: control_block::block_seeds },
    Target { name: "daemon_protocol", run: host::daemon_protocol, seeds: host::daemon_seeds },
    Target { name: "daemon_sessions", run: daemon::sessions, seeds: daemon::session_seeds },
    Target { name: "filter", run: control_block::filter, seeds: control_block::filter_seeds },
    Target { name: "host_description", run: host::description, seeds: host::description_seeds },
    Target { name: "mask_strings", run: masks::strings, seeds: masks::seeds },
    Target { name: "mdev_definition", run: host::definition, seeds: host::definition_seeds },
    Target { name: "qmp_commands", run: qmp::commands, seeds: qmp::command_seeds },
    Target { name: "qmp_stream", run: qmp::stream, seeds: qmp::stream_seeds },
];

/// Runs the target of this name once.
///
/// # Panics
/// If there is none, or if the target finds something.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.run)(input);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Seeds, edited in a few places, and plain random bytes.
    fn check(name: &str) {
        check_some(name, 1000);
    }

    fn check_some(name: &str, cases: u32) {
        let target = TARGETS.iter().find(|target| target.name == name).expect(name);
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty());
        seeds.iter().for_each(|seed| (target.run)(seed));
        (target.run)(&[]);

        let edit = prop_oneof![
            4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
            2 => (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, b)| Edit::Insert(at, b)),
            1 => (any::<Index>(), 1usize..16).prop_map(|(at, n)| Edit::Remove(at, n)),
            1 => any::<Index>().prop_map(Edit::Cut),
            1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Copy(from, to)),
        ];
        let edited =
            (any::<Index>(), proptest::collection::vec(edit, 0..6)).prop_map(move |(seed, edits)| {
                let mut input = seed.get(&seeds).clone();
                edits.into_iter().for_each(|edit| edit.apply(&mut input));
                input
            });
        let input = prop_oneof![3 => edited, 1 => proptest::collection::vec(any::<u8>(), 0..600)];
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(cases)
        });
        runner
            .run(&input, |input| {
                (target.run)(&input);
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Set(Index, u8),
        Insert(Index, Vec<u8>),
        Remove(Index, usize),
        Cut(Index),
        /// Up to 32 bytes to another place.
        Copy(Index, Index),
    }

    impl Edit {
        fn apply(self, input: &mut Vec<u8>) {
            if input.is_empty() {
                return;
            }
            match self {
                Self::Set(at, byte) => *at.get_mut(input) = byte,
                Self::Insert(at, bytes) => {
                    let at = at.index(input.len());
                    input.splice(at..at, bytes);
                }
                Self::Remove(at, count) => {
                    let at = at.index(input.len());
                    input.drain(at..input.len().min(at + count));
                }
                Self::Cut(at) => input.truncate(at.index(input.len())),
                Self::Copy(from, to) => {
                    let (from, to) = (from.index(input.len()), to.index(input.len()));
                    let bytes = input[from..input.len().min(from + 32)].to_vec();
                    input.splice(to..to, bytes);
                }
            }
        }
    }

    #[test]
    fn ap_messages() {
        check("ap_messages");
    }

    #[test]
    fn control_blocks() {
        check("control_blocks");
    }

    #[test]
    fn daemon_protocol() {
        check("daemon_protocol");
    }

    /// Fewer: each has a daemon of its own, which waits for resets.
    #[test]
    fn daemon_sessions() {
        check_some("daemon_sessions", 30);
    }

    #[test]
    fn filter() {
        check("filter");
    }

    #[test]
    fn host_description() {
        check("host_description");
    }

    #[test]
    fn mask_strings() {
        check("mask_strings");
    }

    #[test]
    fn mdev_definition() {
        check("mdev_definition");
    }

    #[test]
    fn qmp_commands() {
        check("qmp_commands");
    }

    #[test]
    fn qmp_stream() {
        check("qmp_stream");
    }

    #[test]
    fn each_target_has_its_file() {
        let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
        let manifest =
            std::fs::read_to_string(targets.join("Cargo.toml")).expect("the manifest of the targets");
        let files: BTreeSet<String> = std::fs::read_dir(targets.join("fuzz_targets"))
            .expect("the folder of the targets")
            .map(|entry| {
                entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned()
            })
            .collect();
        let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        assert_eq!(files, names);
        for name in names {
            assert!(
                manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")),
                "{name}"
            );
        }
    }
}
