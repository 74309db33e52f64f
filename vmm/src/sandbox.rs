//! Privileges that this process gives up once it has opened what it needs.
//!
//! In this order, by the main thread before it starts others, which inherit it: no new privileges, no capabilities, file
//! access only where something is still to be opened or removed (Landlock), and none of the system calls that no part of
//! this program makes. Then each thread keeps only the calls of its kind. Rules for calls that need a reason have it here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use libc::c_long;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::host::seccomp::{Rule, Verdict, When, enter, program};

/// The newest Landlock that the rules were written for.
const LANDLOCK: ABI = ABI::V6;

/// How much is given up.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Everything that is not needed.
    #[default]
    On,
    /// As `on`, but forbidden system calls go on and the kernel's audit log has them.
    Log,
    /// Nothing.
    Off,
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs a CPU.
    Cpu,
    /// Serves events and clients: the main thread.
    EventLoop,
    /// Writes the console's output.
    Console,
    /// Computes what a card answers.
    Card,
    /// Tells figures.
    Metrics,
    /// Carries out what an AP host in another process wants.
    ApHost,
    /// Serves an AP host to guests and operators: every thread of `adjunct ap-host serve`.
    Daemon,
}

/// What the threads of this process do when they start.
static LEVEL: OnceLock<Sandbox> = OnceLock::new();

/// Paths that are still used after privileges are gone.
#[derive(Debug, Default)]
pub struct Paths {
    /// Files that are made, written, renamed or removed: each is allowed with the directory that it is in.
    pub changed: Vec<PathBuf>,
    /// Whether the guest gets the cards of this host: mediated devices are still opened, and what belongs to the host's AP bus
    /// is read and written.
    pub real_cards: bool,
}

/// Where cards are real: the mediated devices that are plugged while the guest runs, and what is written for operators:
/// assignments, masks, bindings.
const CARDS: [&str; 7] = [
    "/dev/vfio",
    "/dev/iommu",
    "/sys/bus/ap",
    "/sys/devices/ap",
    "/sys/devices/vfio_ap",
    "/sys/bus/mdev",
    "/sys/class/mdev_bus",
];
/// What is read before such a device is opened: facilities, and its group.
const READ_FOR_CARDS: [&str; 2] = ["/proc/cpuinfo", "/sys/kernel/iommu_groups"];
/// What is read of this process and of the host's size.
const READ: [&str; 4] =
    ["/proc/self", "/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu", "/sys/fs/cgroup"];

/// Gives up what `level` says. For the main thread, before it starts any other. What the kernel does not offer is logged and
/// left out.
///
/// # Errors
/// The kernel offers it and refuses.
pub fn enter_process(level: Sandbox, paths: &Paths) -> io::Result<()> {
    let level = *LEVEL.get_or_init(|| level);
    if level == Sandbox::Off {
        return Ok(());
    }
    rustix::thread::set_no_new_privs(true)?;
    drop_capabilities()?;
    restrict_files(paths)?;
    filter(&deny_rules(level), Verdict::Allow)
}

/// Lets the calling thread keep only the system calls of its kind. Failing that, it is logged: the thread goes on.
pub fn enter_thread(kind: Kind) {
    let level = LEVEL.get().copied().unwrap_or(Sandbox::Off);
    if level == Sandbox::Off {
        return;
    }
    let otherwise = if level == Sandbox::Log { Verdict::Log } else { Verdict::Kill };
    if let Err(e) = filter(&rules(kind), otherwise) {
        log::warn!("filter the system calls of a {kind:?} thread: {e}");
    }
}

fn filter(rules: &[Rule], otherwise: Verdict) -> io::Result<()> {
    match enter(&program(rules, otherwise)) {
        // ENOSYS: no such call; EINVAL: a kernel without filters.
        Err(e)
            if e.kind() == io::ErrorKind::Unsupported
                || [libc::ENOSYS, libc::EINVAL].map(Some).contains(&e.raw_os_error()) =>
        {
            log::info!("the kernel filters no system calls: {e}");
            Ok(())
        }
        result => result,
    }
}

fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    rustix::thread::clear_ambient_capability_set().or_else(|e| match e {
        rustix::io::Errno::INVAL => Ok(()), // older than ambient capabilities
        e => Err(e),
    })?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    Ok(())
}

/// The version of Landlock that the kernel has.
pub fn landlock_version() -> Option<u32> {
    // Asked the way that a program would that uses it: creating a rule set has no effect until it is enforced.
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::from_all(ABI::V1)).ok()?.create().ok().map(|_| 1)
}

/// What may be done below which paths.
fn file_rules(paths: &Paths) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let change = write | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let mut rules: Vec<(PathBuf, BitFlags<AccessFs>)> = Vec::new();
    if paths.real_cards {
        rules.extend(CARDS.iter().map(|path| (path.into(), write)));
        rules.extend(READ_FOR_CARDS.iter().map(|path| (path.into(), read)));
    }
    rules.extend(READ.iter().map(|path| (path.into(), read)));
    rules.extend(paths.changed.iter().map(|path| (directory_of(path), change)));
    rules
}

fn restrict_files(paths: &Paths) -> io::Result<()> {
    let failed = |e: landlock::RulesetError| io::Error::other(e);
    let rules = file_rules(paths);

    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|r| r.handle_access(AccessNet::from_all(LANDLOCK)))
        // Sockets without a path stay allowed: systemd's may be one.
        .and_then(|r| r.scope(Scope::Signal))
        .and_then(|r| r.create())
        .map_err(failed)?;
    let ruleset =
        rules.into_iter().try_fold(ruleset, |ruleset, (path, access)| match PathFd::new(&path) {
            // What is not there now needs no access.
            Err(_) => Ok(ruleset),
            Ok(descriptor) => {
                // A file has fewer rights than a directory.
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
                ruleset.add_rule(PathBeneath::new(descriptor, access)).map_err(failed)
            }
        })?;
    let status = ruleset.restrict_self().map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        log::info!("the kernel has no Landlock: access to files is not given up");
    }
    Ok(())
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// Calls that nothing here makes, not even while it starts.
fn deny_rules(level: Sandbox) -> Vec<Rule> {
    let verdict = if level == Sandbox::Log { Verdict::Log } else { Verdict::Kill };
    DENIED.iter().map(|&call| Rule { call, when: When::Always, verdict }).collect()
}

const DENIED: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
];

const fn allow(call: c_long) -> Rule {
    Rule { call, when: When::Always, verdict: Verdict::Allow }
}

/// What the C library, the allocator, the locks, logging and panics need in every thread.
const EVERY: &[Rule] = &[
    allow(libc::SYS_brk),
    allow(libc::SYS_clock_getres),
    allow(libc::SYS_clock_gettime),
    allow(libc::SYS_clock_nanosleep),
    allow(libc::SYS_close),
    allow(libc::SYS_exit),
    allow(libc::SYS_exit_group),
    allow(libc::SYS_futex),
    allow(libc::SYS_getcpu),
    allow(libc::SYS_getpid),
    allow(libc::SYS_getrandom),
    allow(libc::SYS_gettid),
    allow(libc::SYS_gettimeofday),
    allow(libc::SYS_getuid),
    allow(libc::SYS_madvise),
    allow(libc::SYS_membarrier),
    allow(libc::SYS_mremap),
    allow(libc::SYS_munmap),
    allow(libc::SYS_nanosleep),
    allow(libc::SYS_prctl),
    allow(libc::SYS_restart_syscall),
    allow(libc::SYS_rseq),
    allow(libc::SYS_rt_sigaction),
    allow(libc::SYS_rt_sigprocmask),
    allow(libc::SYS_rt_sigreturn),
    allow(libc::SYS_sched_getaffinity),
    allow(libc::SYS_sched_yield),
    // A thread that this one starts enters the filter of its kind.
    allow(libc::SYS_seccomp),
    allow(libc::SYS_set_robust_list),
    allow(libc::SYS_sigaltstack),
    // The C library's sorting asks how much memory there is.
    allow(libc::SYS_sysinfo),
    // abort, and kicks of CPUs.
    allow(libc::SYS_tgkill),
    // The console's ring, event descriptors, the log.
    allow(libc::SYS_read),
    allow(libc::SYS_write),
    allow(libc::SYS_writev),
    // The terminal is given back by whatever thread panics.
    Rule { call: libc::SYS_ioctl, when: When::OneOf(1, TERMINAL), verdict: Verdict::Allow },
    // No new code: `PROT_EXEC`.
    Rule { call: libc::SYS_mprotect, when: When::Without(2, 4), verdict: Verdict::Allow },
    // Threads, not processes: `CLONE_THREAD`.
    Rule { call: libc::SYS_clone, when: When::With(CLONE_FLAGS, 0x1_0000), verdict: Verdict::Allow },
    // Its flags are behind a pointer; the C library then takes clone.
    Rule { call: libc::SYS_clone3, when: When::Always, verdict: Verdict::Fail(libc::ENOSYS) },
];

/// s390x has the child's stack first.
const CLONE_FLAGS: u8 = if cfg!(target_arch = "s390x") { 1 } else { 0 };
const TERMINAL: &[u32] = &[
    libc::TCGETS as u32,
    libc::TCSETS as u32,
    libc::TCSETSW as u32,
    libc::TCSETSF as u32,
    libc::TIOCGWINSZ as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
];

/// `mmap`. On s390x its arguments are behind a pointer, so that nothing can be asked about them.
#[cfg(target_arch = "s390x")]
const MMAP: Rule = allow(libc::SYS_mmap);
#[cfg(not(target_arch = "s390x"))]
const MMAP: Rule = Rule { call: libc::SYS_mmap, when: When::Without(2, 4), verdict: Verdict::Allow };

/// Opening files and asking about them. Where there is nothing to open this fails quietly: backtraces and OpenSSL's
/// configuration are tried.
const OPENING: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_lseek,
    libc::SYS_fcntl,
];
#[cfg(target_arch = "s390x")]
const ARCHITECTURE: &[c_long] = &[libc::SYS_sigreturn];
#[cfg(not(target_arch = "s390x"))]
const ARCHITECTURE: &[c_long] = &[];
/// What else is done with files: removed at the end, written beside and renamed.
const CHANGING: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_getdents64,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat2,
    libc::SYS_ftruncate,
    libc::SYS_pread64,
    libc::SYS_poll,
    libc::SYS_ppoll,
];
/// Connections.
const SOCKETS: &[c_long] = &[
    // All of the following, by the C library of s390x; the arguments are behind a pointer.
    #[cfg(target_arch = "s390x")]
    libc::SYS_socketcall,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_dup,
    libc::SYS_dup3,
];

/// Everything that a thread of this kind may call.
fn rules(kind: Kind) -> Vec<Rule> {
    let mut rules = EVERY.to_vec();
    rules.push(MMAP);
    let mut add = |calls: &[c_long], verdict: Verdict| {
        rules.extend(calls.iter().map(|&call| Rule { call, when: When::Always, verdict }));
    };
    add(ARCHITECTURE, Verdict::Allow);
    let denied = Verdict::Fail(libc::EACCES);
    match kind {
        Kind::Cpu => {
            add(OPENING, denied);
            // Timers of guest time and of the watchdog, kernel and RAM disk again, word to an AP host in another process.
            add(&[libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_pread64], Verdict::Allow);
            add(&[libc::SYS_sendto, libc::SYS_sendmsg], Verdict::Allow);
        }
        Kind::Card => {
            add(OPENING, denied);
            add(&[libc::SYS_timerfd_settime, libc::SYS_sendto, libc::SYS_sendmsg], Verdict::Allow);
        }
        Kind::Console => add(OPENING, denied),
        Kind::EventLoop => {
            add(OPENING, Verdict::Allow);
            add(CHANGING, Verdict::Allow);
            add(SOCKETS, Verdict::Allow);
            add(
                &[
                    libc::SYS_epoll_create1,
                    libc::SYS_epoll_ctl,
                    libc::SYS_epoll_wait,
                    libc::SYS_epoll_pwait,
                    libc::SYS_eventfd2,
                    libc::SYS_timerfd_create,
                    libc::SYS_timerfd_settime,
                    libc::SYS_timerfd_gettime,
                    // Kept descriptors are compared and their kind is asked.
                    libc::SYS_kcmp,
                ],
                Verdict::Allow,
            );
        }
        Kind::Metrics => {
            add(OPENING, Verdict::Allow);
            add(CHANGING, Verdict::Allow);
            add(SOCKETS, Verdict::Allow);
        }
        Kind::ApHost => {
            add(OPENING, denied);
            add(SOCKETS, Verdict::Allow);
            add(&[libc::SYS_poll, libc::SYS_ppoll, libc::SYS_timerfd_settime], Verdict::Allow);
        }
        Kind::Daemon => {
            // Connections are duplicated for the threads that read and write.
            let files: Vec<_> = OPENING.iter().copied().filter(|call| *call != libc::SYS_fcntl).collect();
            add(&files, denied);
            add(&[libc::SYS_fcntl], Verdict::Allow);
            add(SOCKETS, Verdict::Allow);
            // Signals, and the socket that goes at the end.
            let end = [libc::SYS_poll, libc::SYS_ppoll, libc::SYS_unlink, libc::SYS_unlinkat];
            add(&end, Verdict::Allow);
        }
    }
    if matches!(kind, Kind::EventLoop | Kind::Metrics | Kind::Daemon) {
        // systemd's socket and that of an AP host, which its daemon connects to for waking itself, are UNIX sockets.
        rules.push(Rule {
            call: libc::SYS_socket,
            when: When::OneOf(0, &[libc::AF_UNIX as u32]),
            verdict: Verdict::Allow,
        });
    }
    if matches!(kind, Kind::Cpu | Kind::EventLoop)
        && let Some(ioctl) = rules.iter_mut().find(|rule| rule.call == libc::SYS_ioctl)
    {
        // KVM's and VFIO's; there are many, all on descriptors that Landlock let be opened.
        if cfg!(target_arch = "s390x") {
            ioctl.when = When::Always;
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::seccomp::call;
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    const KINDS: [Kind; 7] =
        [Kind::Cpu, Kind::EventLoop, Kind::Console, Kind::Card, Kind::Metrics, Kind::ApHost, Kind::Daemon];
    /// What a child of a test is to do.
    const ORDER: &str = "ADJUNCT_SANDBOX_ORDER";
    /// Where it may write.
    const DIRECTORY: &str = "ADJUNCT_SANDBOX_DIRECTORY";
    const EXEC: &str = "exec";
    /// Exit status of a child on a kernel that does not filter.
    const NO_FILTER: i32 = 77;

    #[test]
    fn each_call_is_named_once() {
        for kind in KINDS {
            let rules = rules(kind);
            let calls: BTreeSet<_> = rules.iter().map(|rule| rule.call).collect();
            assert_eq!(calls.len(), rules.len(), "{kind:?}");
            assert!(calls.iter().all(|call| !DENIED.contains(call)), "{kind:?}");
        }
    }

    /// Runs this test program again, with only `child` and an order for it; behind `ADJUNCT_RUNNER`, what runs programs
    /// of another architecture than the kernel's.
    fn child(order: &str) -> ExitStatus {
        let directory = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let mut command = match std::env::var("ADJUNCT_RUNNER") {
            Ok(runner) => {
                let mut command = Command::new(runner);
                command.arg(program);
                command
            }
            Err(_) => Command::new(program),
        };
        command
            .args(["--exact", "sandbox::tests::child_of_the_others", "--nocapture"])
            .env(ORDER, order)
            .env(DIRECTORY, directory.path())
            .output()
            .unwrap()
            .status
    }

    /// Not a test of its own: what the others start.
    #[test]
    fn child_of_the_others() {
        let Ok(order) = std::env::var(ORDER) else { return };
        let (level, what) = order.split_once(' ').unwrap();
        let level = if level == "log" { Sandbox::Log } else { Sandbox::On };
        let kept = PathBuf::from(std::env::var_os(DIRECTORY).unwrap()).join("kept");
        fs::write(&kept, "x").unwrap();
        let real_cards = what == "cards";
        enter_process(level, &Paths { changed: vec![kept.clone()], real_cards }).unwrap();
        // Is there a filter at all?
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        if status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "0"]))
            || !status.contains("Seccomp:")
        {
            std::process::exit(NO_FILTER);
        }
        if what == EXEC {
            call(libc::SYS_execve);
            return;
        }
        if what == "files" || what == "cards" {
            // What is looked at before a real card is plugged is there for those who may plug one.
            let facilities = fs::read("/proc/cpuinfo");
            assert_eq!(facilities.is_ok(), real_cards || landlock_version().is_none(), "{facilities:?}");
            assert!(fs::read("/etc/passwd").is_err() || landlock_version().is_none(), "files stay readable");
            assert_eq!(fs::read(&kept).unwrap(), b"x");
            fs::write(kept.with_file_name("more"), "y").unwrap();
            let capabilities = rustix::thread::capabilities(None).unwrap();
            assert!(capabilities.effective.is_empty() && capabilities.permitted.is_empty());
            assert!(rustix::thread::no_new_privs().unwrap());
            return;
        }
        let (kind, number) = what.split_once(' ').unwrap();
        let kind = KINDS.into_iter().find(|k| format!("{k:?}") == kind).unwrap();
        let number: c_long = number.parse().unwrap();
        let thread = std::thread::spawn(move || {
            enter_thread(kind);
            // What every thread does: memory, locks, threads.
            let (tell, told) = std::sync::mpsc::channel();
            let more = std::thread::spawn(move || tell.send(vec![1u8; 10 << 20]).unwrap());
            assert_eq!(told.recv().unwrap().len(), 10 << 20);
            more.join().unwrap();
            let _ = std::panic::catch_unwind(|| panic!("a panic is told, not killed"));
            call(number);
        });
        thread.join().unwrap();
        std::process::exit(0);
    }

    #[track_caller]
    fn check(order: &str, signal: Option<i32>) {
        let status = child(order);
        if status.code() == Some(NO_FILTER) {
            println!("skipped: the kernel filters no system calls");
            return;
        }
        assert_eq!((status.signal(), status.success()), (signal, signal.is_none()), "{order}: {status}");
    }

    #[test]
    fn a_forbidden_call_kills() {
        let killed = Some(libc::SIGSYS);
        check("on exec", killed);
        for kind in KINDS {
            check(&format!("on {kind:?} {}", libc::SYS_getppid), killed);
            check(&format!("on {kind:?} {}", libc::SYS_getpid), None);
            check(&format!("log {kind:?} {}", libc::SYS_getppid), None);
        }
        check(&format!("on Cpu {}", libc::SYS_accept4), killed);
        check(&format!("on EventLoop {}", libc::SYS_accept4), None);
        check(&format!("on Card {}", libc::SYS_epoll_create1), killed);
        check(&format!("on Daemon {}", libc::SYS_accept4), None);
        check(&format!("on Daemon {}", libc::SYS_epoll_create1), killed);
        check(&format!("on Daemon {}", libc::SYS_socket), killed);
        // Not every family of sockets, not every ioctl.
        check(&format!("on EventLoop {}", libc::SYS_socket), killed);
        check(&format!("on Console {}", libc::SYS_ioctl), killed);
        // Quietly refused.
        check(&format!("on Cpu {}", libc::SYS_openat), None);
    }

    #[test]
    fn files_and_capabilities_are_given_up() {
        check("on files", None);
        check("on cards", None);
    }

    /// A guest without the host's cards keeps no way to its devices and its AP bus; one with them can plug more.
    #[test]
    fn devices_of_the_host_are_kept_for_real_cards_only() {
        let kept = |real_cards| {
            let paths = Paths { changed: vec!["/run/guest/qmp".into()], real_cards };
            let written =
                file_rules(&paths).into_iter().filter(|(_, access)| access.contains(AccessFs::WriteFile));
            written.map(|(path, _)| path).collect::<Vec<_>>()
        };
        assert_eq!(kept(false), [Path::new("/run/guest")]);
        let kept = kept(true);
        for path in [
            "/dev/vfio/3",
            "/dev/vfio/devices/vfio0",
            "/dev/iommu",
            "/sys/bus/ap/apmask",
            "/sys/devices/vfio_ap/matrix",
        ] {
            assert!(kept.iter().any(|kept| Path::new(path).starts_with(kept)), "{path}");
        }
        assert!(kept.iter().all(|kept| !Path::new("/dev/kvm").starts_with(kept)));
    }
}
