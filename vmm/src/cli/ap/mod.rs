//! `adjunct ap`: looks at an AP host and changes it; one grammar for the daemon, a real host's sysfs and a description.
//!
//! `grammar` has the verbs and what operations they mean, in both directions, so that every remedy is printed as the
//! command that carries it out. `backend` reaches a host. The rest prints.

pub(super) mod backend;
pub(super) mod grammar;
pub(super) mod guest;
pub(super) mod picture;
pub(super) mod print;
mod sysfs;

use std::io::Write;
use std::path::PathBuf;

use ap::host::{
    Conflict, HostError, MdevState, Operation, Snapshot, explain as explain_mdev, explain_matrix,
};
use clap::{Args, Subcommand};
use crycb::{Mask256, Matrix};
use uuid::Uuid;

use backend::{Backend, Place};
use grammar::{Change, MdevVerb, Which};

/// Exit status for what was refused.
const REFUSED: u8 = 3;

#[derive(Args)]
#[command(after_help = "\
Numbers are decimal or, with 0x, hexadecimal; queues are written as 05.0004.

Exit status: 0 done; 2 bad arguments; 3 the host refused it, or cannot be reached.")]
pub struct Ap {
    /// The host: unix:PATH of a daemon (`adjunct ap-host serve`)
    #[arg(long, value_name = "ADDRESS", env = "ADJUNCT_AP_HOST", global = true)]
    host: Option<String>,
    /// The host of a running guest: unix:PATH of its management socket (`adjunct run --qmp`)
    #[arg(long, value_name = "ADDRESS", global = true, conflicts_with_all = ["host", "description"])]
    guest: Option<String>,
    /// The host that this file describes; nothing can be changed on it
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "host")]
    description: Option<PathBuf>,
    /// Where sysfs of this machine's own host is
    #[arg(long, value_name = "DIRECTORY", default_value = Place::SYSFS, global = true)]
    sysfs: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Cards and queues in the columns of lszcrypt
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// A picture: adapters by domains, and whom each queue serves
    Matrix {
        /// The mediated device in the foreground; with --guest, that guest's
        #[arg(long, value_name = "UUID")]
        mdev: Option<Uuid>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What becomes of each queue, and the rule that decides it
    Explain {
        /// Of this mediated device; of all without
        mdev: Option<Uuid>,
        /// Of a matrix with these adapters, assigned to nobody yet
        #[arg(long, value_name = "N", value_delimiter = ',', value_parser = grammar::number, conflicts_with = "mdev")]
        adapter: Vec<u8>,
        /// Of a matrix with these domains
        #[arg(long, value_name = "N", value_delimiter = ',', value_parser = grammar::number, conflicts_with = "mdev")]
        domain: Vec<u8>,
        /// Of a matrix with these control domains
        #[arg(long, value_name = "N", value_delimiter = ',', value_parser = grammar::number, conflicts_with = "mdev")]
        control_domain: Vec<u8>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What a change would do
    Plan {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        change: Change,
    },
    /// Print what happens on the host
    Watch {
        /// As JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Change(Change),
}

impl Ap {
    /// Carries the verb out. What goes wrong is told here.
    pub fn run(self) -> u8 {
        let mut out = std::io::stdout().lock();
        match self.run_to(&mut out) {
            Ok(()) => 0,
            // Whoever reads us has gone; that is no failure of ours.
            Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            Err(Failure::Output(error)) => {
                eprintln!("adjunct: write to standard output: {error}");
                REFUSED
            }
            Err(Failure::Refused(text)) => {
                eprintln!("adjunct: {text}");
                REFUSED
            }
        }
    }

    fn run_to(self, out: &mut dyn Write) -> Result<(), Failure> {
        let place =
            Place { host: self.host, guest: self.guest, description: self.description, sysfs: self.sysfs };
        let mut backend = backend::open(&place).map_err(|e| refused(&e))?;
        match self.verb {
            Verb::List { json: true } => print::json(out, &snapshot(&mut *backend)?)?,
            Verb::List { json: false } => print::list(out, &snapshot(&mut *backend)?)?,
            Verb::Matrix { mdev, json } => {
                let state = snapshot(&mut *backend)?;
                let this = match mdev {
                    Some(_) => mdev,
                    None => backend.own_mdev().map_err(|e| refused(&e))?,
                };
                if let Some(mdev) = this {
                    of(&state, Some(mdev))?;
                }
                let picture = picture::Picture::of(&state, this);
                if json { print::json(out, &picture)? } else { write!(out, "{picture}")? }
            }
            Verb::Change(Change::Mdev(MdevVerb::Show { mdev, json })) => {
                let state = snapshot(&mut *backend)?;
                let mdevs = of(&state, mdev)?;
                if json { print::json(out, &mdevs)? } else { print::mdevs(out, &mdevs)? }
            }
            Verb::Change(Change::Mdev(MdevVerb::Export { mdev })) => {
                let state = snapshot(&mut *backend)?;
                print::json(out, &of(&state, Some(mdev))?[0].definition())?;
            }
            Verb::Change(Change::Mask { which, text: None }) => {
                let state = snapshot(&mut *backend)?;
                for (mask, value) in [(Which::Apmask, state.apmask), (Which::Aqmask, state.aqmask)] {
                    match which {
                        None => writeln!(out, "{} {value}", mask.name())?,
                        Some(which) if which == mask => writeln!(out, "{value}")?,
                        Some(_) => {}
                    }
                }
            }
            Verb::Explain { mdev, adapter, domain, control_domain, json } => {
                let state = snapshot(&mut *backend)?;
                let mask = |numbers: Vec<u8>| numbers.into_iter().collect::<Mask256>();
                let matrix = Matrix { apm: mask(adapter), aqm: mask(domain), adm: mask(control_domain) };
                let fates = if matrix == Matrix::EMPTY {
                    let mdevs = of(&state, mdev)?;
                    let explain =
                        |m: &&MdevState| explain_mdev(&state, m.uuid).map(|fates| (Some(m.uuid), fates));
                    mdevs.iter().map(explain).collect::<Result<_, _>>().map_err(|e| refused(&e))?
                } else {
                    vec![(None, explain_matrix(&state, &matrix))]
                };
                if json { print::json(out, &fates)? } else { print::fates(out, &fates)? }
            }
            Verb::Plan { json, change } => {
                let state = snapshot(&mut *backend)?;
                let mut after = state;
                for operation in change.operations(&after).map_err(|e| refused(&e))? {
                    let plan = after.plan(&operation);
                    if json {
                        print::json(out, &plan)?
                    } else {
                        print::plan(out, &place, &operation, &plan)?
                    }
                    if let Some(refusal) = plan.refusal {
                        return Err(Failure::Refused(format!("{} ({})", refusal.message, refusal.errno)));
                    }
                    after = after.after(&operation);
                }
            }
            Verb::Watch { json } => {
                let mut output = Ok(());
                backend
                    .watch(&mut |event| {
                        output = print::event(out, event, json);
                        output.is_ok()
                    })
                    .map_err(|e| refused(&e))?;
                output?;
            }
            Verb::Change(change) => {
                let state = snapshot(&mut *backend)?;
                for operation in change.operations(&state).map_err(|e| refused(&e))? {
                    if let Err(error) = backend.execute(&operation) {
                        return Err(Failure::Refused(explain(&place, &state, &operation, &error)));
                    }
                }
            }
        }
        out.flush()?;
        Ok(())
    }
}

/// How a verb fails.
enum Failure {
    Refused(String),
    Output(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

fn snapshot(backend: &mut dyn Backend) -> Result<Snapshot, Failure> {
    backend.snapshot().map_err(|e| refused(&e))
}

fn of(state: &Snapshot, mdev: Option<Uuid>) -> Result<Vec<&MdevState>, Failure> {
    match mdev {
        None => Ok(state.mdevs.iter().collect()),
        Some(uuid) => match state.mdev(uuid) {
            Some(mdev) => Ok(vec![mdev]),
            None => Err(refused(&HostError::UnknownMdev {
                uuid,
                known: state.mdevs.iter().map(|m| m.uuid).collect(),
            })),
        },
    }
}

fn refused(error: &HostError) -> Failure {
    Failure::Refused(one_line(error))
}

/// An error with its sources, and the name of its number.
pub(super) fn one_line(error: &HostError) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |e| e.source());
    let text = sources.fold(error.to_string(), |text, source| format!("{text}: {source}"));
    format!("{text} ({})", error.errno())
}

/// A refusal, with the commands that remove its reasons: found by trying the operation on a copy of the host.
fn explain(place: &Place, state: &Snapshot, operation: &Operation, error: &HostError) -> String {
    let conflicts = match state.plan(operation).refusal {
        Some(refusal) if refusal.errno == error.errno() => refusal.conflicts,
        _ => vec![Conflict { message: error.to_string(), remedies: error.remedies() }],
    };
    one_line(error) + &print::remedies(place, &conflicts, "\n")
}

#[cfg(test)]
mod tests;
