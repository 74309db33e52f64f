//! What the kernel tells of a process's privileges.

use std::fs;
use std::path::PathBuf;

/// How many filters of system calls a process has that gives nothing up; none, with a word why, where that is not told.
pub fn filters_before() -> Option<u32> {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    if std::env::var_os("ADJUNCT_RUNNER").is_some() || !own.contains("Seccomp_filters:") {
        println!("skipped: system calls are not filtered here, or the kernel does not tell");
        return None;
    }
    Some(filters(&own))
}

/// The states of a process's threads, as `/proc` has them, by name.
pub fn threads(number: u32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{number}/task")).unwrap();
    let read = |path: PathBuf| fs::read_to_string(path).ok();
    tasks
        .filter_map(|task| {
            let task = task.unwrap().path();
            Some((read(task.join("comm"))?.trim().to_owned(), read(task.join("status"))?))
        })
        .collect()
}

/// How many filters of system calls a thread has.
pub fn filters(status: &str) -> u32 {
    field(status, "Seccomp_filters").parse().unwrap()
}

/// Fails unless a thread can get no privilege and has no capability.
pub fn assert_given_up(name: &str, status: &str) {
    assert_eq!(field(status, "NoNewPrivs"), "1", "{name}");
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(field(status, set), "0000000000000000", "{name} {set}");
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    line.trim_start_matches(':').trim()
}
