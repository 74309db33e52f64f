//! `adjunct ap-host serve`: one simulated AP host for guests in many processes.

use std::fs;
use std::path::PathBuf;
use std::thread::Builder;

use anyhow::Context;
use ap::host::Description;
use ap::host::remote::Server;
use vmm::host::{Signals, Stopping};
use vmm::sandbox::{self, Kind, Sandbox};
use vmm::{BadArgument, LogFormat, start_log};

use crate::{BAD_ARGUMENTS, HOST_FAILURE};

/// What can be done.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Serve a host until SIGTERM or SIGINT
    #[command(after_help = AFTER_HELP)]
    Serve(Arguments),
}

const AFTER_HELP: &str = "\
Example:
  adjunct ap-host serve --socket /run/user/1000/ap &
  adjunct run --kernel vmlinuz --ap-mdev 62177883-f1bb-47f0-914d-32a22e3a8804 --ap-host unix:/run/user/1000/ap

A guest whose host ends goes on without crypto cards.

Exit status: 0 ended by a signal; 2 bad arguments; 3 the host refused something.";

/// Which host, where.
#[derive(clap::Args)]
pub struct Arguments {
    /// UNIX socket for guests and operators; only its owner may use it
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// JSON description of the host [default: a built-in one]
    #[arg(long, value_name = "FILE")]
    description: Option<PathBuf>,

    /// What to log to standard error: LEVEL or MODULE=LEVEL, comma-separated
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,

    /// Privileges given up before the first client is taken
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    sandbox: Sandbox,
}

/// Serves; the exit status.
pub fn main(command: &Command) -> u8 {
    let Command::Serve(arguments) = command;
    match serve(arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("adjunct: {error:#}");
            if error.is::<BadArgument>() { BAD_ARGUMENTS } else { HOST_FAILURE }
        }
    }
}

fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    start_log(&arguments.log, LogFormat::default(), None)?;
    let description = description(arguments)?;
    let signals = Signals::catch().context("catch signals")?;
    let socket = arguments.socket.display();
    let server =
        Server::bind(&arguments.socket, &description).with_context(|| format!("--socket {socket}"))?;
    // Only the socket is left to be removed. Every thread is started by this one and inherits what it has.
    let paths = sandbox::Paths { changed: vec![arguments.socket.clone()], real_cards: false };
    sandbox::enter_process(arguments.sandbox, &paths).context("--sandbox")?;
    sandbox::enter_thread(Kind::Daemon);
    let accepting = server.clone();
    Builder::new()
        .name("accept".into())
        .spawn(move || {
            if let Err(error) = accepting.serve() {
                log::error!("take no more clients: {error}");
            }
        })
        .context("start a thread")?;
    let snapshot = server.host().snapshot();
    let (adapters, queues, mdevs) = (snapshot.adapters.len(), snapshot.queues.len(), snapshot.mdevs.len());
    log::info!("AP host at {socket}: {adapters} adapters, {queues} queues, {mdevs} mdevs");
    let signal = match signals.wait().context("wait for a signal")?.first() {
        Some(Stopping::Gently(signal) | Stopping::Now(signal)) => signal,
        Some(Stopping::HangUp) | None => "SIGHUP",
    };
    log::info!("{signal}: end");
    server.stop();
    Ok(())
}

fn description(arguments: &Arguments) -> anyhow::Result<Description> {
    let Some(path) = &arguments.description else { return Ok(Description::builtin()) };
    let bad = |problem: anyhow::Error| {
        let problem = format!("{}: {problem:#}", path.display());
        BadArgument::new("--description", problem, "docs/ap-host.md describes the file")
    };
    let text = fs::read_to_string(path).map_err(|e| bad(e.into()))?;
    Ok(Description::from_json(&text).map_err(|e| bad(e.into()))?)
}
