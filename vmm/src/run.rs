//! One thread per CPU, the event loop in the caller's.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use machine::Vcpu;

use crate::board::{BOOT_CPU, Board};
use crate::console::Output;
use crate::control::{Control, End, HostFailure};
use crate::event_loop::{Clients, Input, serve};
use crate::host::{RawTerminal, Signals};
use crate::loader::Error as LoadError;
use crate::log_file::LogFile;
use crate::metrics::Exporter;
use crate::qmp::Server;
use crate::sandbox::{Kind, enter_thread};
use crate::service;
use crate::viewers::Viewers;

/// How long the end of a run waits for the CPUs, and for the reader of the console.
const CPUS_PATIENCE: Duration = Duration::from_secs(5);
const CONSOLE_PATIENCE: Duration = Duration::from_secs(5);

/// Whom a run deals with beside the guest.
pub struct Surroundings {
    /// What ends the run from outside; caught before anybody is told the process's number.
    pub signals: Signals,
    /// Where the guest's console writes to.
    pub output: Arc<Output>,
    /// Whether standard input is the guest's.
    pub stdin: bool,
    /// Takes management clients.
    pub qmp: Server,
    /// Who watches the console.
    pub viewers: Option<Viewers>,
    /// Where figures are told.
    pub metrics: Option<Exporter>,
    /// Files that SIGHUP opens anew; without any it ends the run.
    pub logs: Vec<Arc<LogFile>>,
    /// How long a guest may take to power off when a signal asks it to, before the run ends anyway.
    pub shutdown_timeout: Duration,
}

/// Loads the guest and runs it to its end. `cpus` are all CPUs of the board's machine. The terminal is restored and the
/// console's output written when this returns. An error means that the guest could not be loaded and nothing ran.
pub fn run(board: &Arc<Board>, mut cpus: Vec<Box<dyn Vcpu>>, around: Surroundings) -> Result<End, LoadError> {
    let boot = cpus.iter_mut().find(|cpu| cpu.address() == BOOT_CPU).expect("every machine has a CPU 0");
    board.start(&mut **boot)?;
    let output = around.output.clone();
    let end = run_to_end(board, cpus, around).unwrap_or_else(End::Failed);
    if !output.flush(CONSOLE_PATIENCE) {
        log::warn!("the reader of the console has left output unread for {CONSOLE_PATIENCE:?}: it is lost");
    }
    output.close();
    Ok(end)
}

fn run_to_end(
    board: &Arc<Board>,
    cpus: Vec<Box<dyn Vcpu>>,
    around: Surroundings,
) -> Result<End, HostFailure> {
    let Surroundings { signals, output, stdin, qmp, viewers, metrics, logs, shutdown_timeout: grace } =
        around;
    let terminal = if stdin { RawTerminal::enter()? } else { None };
    let input = match (&terminal, stdin) {
        (_, false) => Input::None,
        (None, true) => Input::Raw,
        (Some(_), true) => Input::Typed,
    };
    let exporting =
        metrics.map(|metrics| metrics.start(board, || enter_thread(Kind::Metrics))).transpose()?;
    if let Some(viewers) = &viewers {
        output.count_also(viewers.lost());
    }
    let (done, all_done) = channel();
    let (start, all_started) = channel::<()>();
    let mut threads = Vec::new();
    for cpu in cpus {
        match spawn(board.clone(), cpu, start.clone(), done.clone()) {
            Ok(thread) => threads.push(thread),
            Err(e) => board.control.end(End::Failed(e.into())),
        }
    }
    drop((start, done));
    // Management clients are told the threads' numbers. Nothing is ever sent.
    let _ = all_started.recv();
    if !board.control.ended() {
        service::ready();
    }
    log::debug!("running on {} CPUs", threads.len());
    enter_thread(Kind::EventLoop);
    if let Err(error) = serve(board, &signals, Clients { input, qmp, viewers, logs, grace }) {
        board.control.end(End::Failed(error));
    }
    service::stopping();
    join(threads, &all_done);
    drop((exporting, terminal));
    Ok(board.control.take_end().expect("the loop ends with the run"))
}

fn spawn(
    board: Arc<Board>,
    mut cpu: Box<dyn Vcpu>,
    start: Sender<()>,
    done: Sender<()>,
) -> io::Result<JoinHandle<()>> {
    // The engine's handlers call one another in tail position. Should a compiler not make jumps of that, a
    // time slice of them still has to fit.
    let thread = std::thread::Builder::new().name(format!("cpu{}", cpu.address())).stack_size(16 << 20);
    thread.spawn(move || {
        let _done = done;
        let _watch = EndOnPanic(board.control.clone());
        enter_thread(Kind::Cpu);
        board.note_thread(cpu.address());
        drop(start);
        board.run(&mut *cpu);
    })
}

/// Ends the run when the thread that holds it panics.
struct EndOnPanic(Arc<Control>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(End::Failed("a CPU's thread panicked; this is a bug in adjunct".into()));
        }
    }
}

/// Waits for the CPUs, but not for ever: one that waits for another that has gone never comes.
fn join(threads: Vec<JoinHandle<()>>, all_done: &Receiver<()>) {
    let deadline = Instant::now() + CPUS_PATIENCE;
    // Nothing is ever sent: the channel disconnects when the last sender has gone.
    let _ = all_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    for thread in threads {
        if thread.is_finished() {
            // A panic has been reported by its hook and has ended the run.
            let _ = thread.join();
        } else {
            log::debug!("{:?} has not ended", thread.thread().name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{Bench, bench};
    use crate::scripted::ScriptedCpu;
    use machine::{Exit, InterruptionLoop};

    /// How a run of one CPU ends that has these exits, then fails or panics.
    fn end_of(exits: &[Exit], panics: bool) -> (End, u8) {
        let Bench { board, storage, .. } = bench();
        let mut cpu = ScriptedCpu::new(&storage, exits);
        cpu.panics = panics;
        let output = Output::new(Box::new(io::sink())).unwrap();
        let around = Surroundings {
            signals: Signals::catch().unwrap(),
            output,
            stdin: false,
            qmp: Server::default(),
            viewers: None,
            metrics: None,
            logs: Vec::new(),
            shutdown_timeout: Duration::ZERO,
        };
        let end = run(&Arc::new(board), vec![Box::new(cpu)], around).unwrap();
        let status = end.exit_status();
        (end, status)
    }

    #[test]
    fn ends() {
        assert_eq!(end_of(&[Exit::Kicked, Exit::Stopped], false).1, 0);
        let (end, status) = end_of(&[], false);
        assert!(status == 3 && format!("{end:?}").contains("the script has ended"), "{end:?}");
        let (end, status) = end_of(&[], true);
        let text = format!("{end:?}");
        for part in ["CPU 0 panicked: a bug in a CPU", "bug in adjunct", "PSW 0000", "GR12 ", "prefix "] {
            assert!(status == 3 && text.contains(part), "{part}: {text}");
        }
        let (end, status) = end_of(&[Exit::InterruptionLoop(InterruptionLoop::Program)], false);
        let text = match end {
            End::Crashed(crash) => crash.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(status, 1);
        assert!(
            text.starts_with("the program new PSW leads to program interruptions for ever on CPU 0: PSW "),
            "{text}"
        );
        assert!(text.contains("InterruptionLoop(Program)"), "the exit itself is told: {text}");
    }
}
