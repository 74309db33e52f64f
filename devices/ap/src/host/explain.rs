//! Why a guest has a queue or has it not: for each queue of a mediated device its fate, and the rule that decided it.
//!
//! The rules have the numbers and names of `docs/vfio-ap-rules.md`. What is explained here is computed from a [`Snapshot`]
//! alone, queue by queue, without the filter of `crycb`; the tests compare the two. Where `guest_matrix` is not what a filter
//! would give now, only history decides (removals filter nothing), and that is a rule of its own.

use std::fmt;

use crycb::filter::passable_after;
use crycb::{Apid, Apqi, Apqn, Matrix};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::number::{Number, optional_queue_name, queue_name};
use super::{Driver, HostError, Snapshot};

/// A rule that decides about a queue or a control domain. [`Rule::ALL`] is the table in `docs/vfio-ap-rules.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Named", try_from = "Named")]
pub enum Rule {
    /// A1: the number is above the machine's highest.
    AboveMaximum,
    /// A2: masks or an override reserve the queue for the host's default drivers.
    HostOwned,
    /// A3: another mediated device has it.
    Shared,
    /// F1: every queue of the adapter in the guest's domains can be passed.
    Passed,
    /// F2: adapter or domain is not in the host's configuration.
    NotInConfiguration,
    /// F3: a queue of the adapter is not bound to vfio_ap.
    NotBound,
    /// F4: a queue of the adapter does not exist on the bus.
    NoQueue,
    /// F5: the last reset of a queue of the adapter has not ended with 00, 03 or 04.
    NotReset,
    /// F6: a control domain is in the host's configuration.
    ControlDomain,
    /// H1: a filter would plug it, but there was none since.
    AwaitsFilter,
    /// H2: a filter would unplug it, but there was none since.
    KeptUntilFilter,
}

impl Rule {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::AboveMaximum,
        Self::HostOwned,
        Self::Shared,
        Self::Passed,
        Self::NotInConfiguration,
        Self::NotBound,
        Self::NoQueue,
        Self::NotReset,
        Self::ControlDomain,
        Self::AwaitsFilter,
        Self::KeptUntilFilter,
    ];

    /// Its number in `docs/vfio-ap-rules.md`.
    pub const fn number(self) -> &'static str {
        match self {
            Self::AboveMaximum => "A1",
            Self::HostOwned => "A2",
            Self::Shared => "A3",
            Self::Passed => "F1",
            Self::NotInConfiguration => "F2",
            Self::NotBound => "F3",
            Self::NoQueue => "F4",
            Self::NotReset => "F5",
            Self::ControlDomain => "F6",
            Self::AwaitsFilter => "H1",
            Self::KeptUntilFilter => "H2",
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AboveMaximum => "above-maximum",
            Self::HostOwned => "host-owned",
            Self::Shared => "shared",
            Self::Passed => "passed",
            Self::NotInConfiguration => "not-in-configuration",
            Self::NotBound => "not-bound",
            Self::NoQueue => "no-queue",
            Self::NotReset => "not-reset",
            Self::ControlDomain => "control-domain",
            Self::AwaitsFilter => "awaits-filter",
            Self::KeptUntilFilter => "kept-until-filter",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.name())
    }
}

/// A rule in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    number: String,
    name: String,
}

impl From<Rule> for Named {
    fn from(rule: Rule) -> Self {
        Self { number: rule.number().into(), name: rule.name().into() }
    }
}

impl TryFrom<Named> for Rule {
    type Error = String;

    fn try_from(named: Named) -> Result<Self, String> {
        let rule = Self::ALL.into_iter().find(|r| r.number() == named.number && r.name() == named.name);
        rule.ok_or_else(|| format!("no rule {} {}", named.number, named.name))
    }
}

/// What has a fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A queue of the matrix.
    Queue(#[serde(with = "queue_name")] Apqn),
    /// A control domain.
    ControlDomain(Number),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(apqn) => write!(f, "{apqn}"),
            Self::ControlDomain(n) => write!(f, "control domain {:04x}", n.0),
        }
    }
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// In the guest that runs with the mediated device.
    InGuest,
    /// In `guest_matrix`, for the guest that comes.
    Ready,
    /// Assigned, but filtered out.
    Withheld,
    /// Cannot be assigned: with it, the whole matrix is refused.
    Refused,
}

impl Outcome {
    /// Whether `guest_matrix` has it.
    pub const fn plugged(self) -> bool {
        matches!(self, Self::InGuest | Self::Ready)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InGuest => "in the guest",
            Self::Ready => "ready for a guest",
            Self::Withheld => "assigned, not in the guest",
            Self::Refused => "refused",
        })
    }
}

/// The fate of a queue or a control domain. Shown as one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fate {
    /// Of what.
    #[serde(flatten)]
    pub subject: Subject,
    /// How it stands.
    pub outcome: Outcome,
    /// What decided.
    pub rule: Rule,
    /// The queue that decided for its whole adapter, which can be the queue itself.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_queue_name")]
    pub because: Option<Apqn>,
    /// The same in words.
    pub reason: String,
}

impl Fate {
    /// Whether the next filter would leave it to the guest.
    pub fn passes(&self) -> bool {
        matches!(self.rule, Rule::Passed | Rule::ControlDomain | Rule::AwaitsFilter)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} ({})", self.subject, self.outcome, self.reason, self.rule)
    }
}

/// The fate of each queue and control domain assigned to a mediated device, ascending, queues first. Without a domain there
/// are no queues to explain.
///
/// # Errors
/// [`HostError::UnknownMdev`].
pub fn explain(snapshot: &Snapshot, mdev: Uuid) -> Result<Vec<Fate>, HostError> {
    let known = || snapshot.mdevs.iter().map(|m| m.uuid).collect();
    let device = snapshot.mdev(mdev).ok_or_else(|| HostError::UnknownMdev { uuid: mdev, known: known() })?;
    let plugged = if device.attached { Outcome::InGuest } else { Outcome::Ready };
    let judge = |subject, in_guest: bool, verdict: Verdict| {
        let Verdict { rule, because, reason } = verdict;
        let outcome = if in_guest { plugged } else { Outcome::Withheld };
        let passes = matches!(rule, Rule::Passed | Rule::ControlDomain);
        let (rule, reason) = match (in_guest, passes) {
            (true, false) => {
                (Rule::KeptUntilFilter, format!("{reason}; but nothing has been filtered since"))
            }
            (false, true) => (
                Rule::AwaitsFilter,
                "would be plugged by the next filter: removals filter nothing; bind a queue or write ap_config to have one"
                    .to_owned(),
            ),
            _ => (rule, reason),
        };
        Fate { subject, outcome, rule, because, reason }
    };
    let of_queue = |(apqn, verdict)| judge(Subject::Queue(apqn), device.guest_matrix.test(apqn), verdict);
    let queues = filter(snapshot, &device.matrix).into_iter().map(of_queue);
    let of_domain = |n: u8| {
        let verdict = control_domain(snapshot, n);
        judge(Subject::ControlDomain(Number(n)), device.guest_matrix.adm.test(n), verdict)
    };
    Ok(queues.chain(device.matrix.adm.iter().map(of_domain)).collect())
}

/// The same for a matrix that no mediated device has: what a new one would get of it, and what of it keeps it from being
/// assigned.
pub fn explain_matrix(snapshot: &Snapshot, matrix: &Matrix) -> Vec<Fate> {
    let permissions = snapshot.permissions();
    let one = |apqn: Apqn| {
        let apm = [apqn.apid().0].into_iter().collect();
        Matrix { apm, aqm: [apqn.apqi().0].into_iter().collect(), ..Matrix::EMPTY }
    };
    let above = |what: &str, n: u8, highest: u8| {
        (n > highest).then(|| {
            let reason = format!("{what} {n:#04x} is above the machine's highest, {highest:#04x}");
            Verdict { rule: Rule::AboveMaximum, because: None, reason }
        })
    };
    let refusal = |apqn: Apqn| {
        let (max_adapter, max_domain) = (snapshot.max_adapter.0, snapshot.max_domain.0);
        let above = above("adapter", apqn.apid().0, max_adapter)
            .or_else(|| above("domain", apqn.apqi().0, max_domain));
        let reserved = permissions.owned_by_default(&one(apqn)).map(|_| Verdict {
            rule: Rule::HostOwned,
            because: None,
            reason: "apmask and aqmask, or its driver_override, reserve it for the host's default drivers"
                .into(),
        });
        let shared = snapshot.mdev_of(apqn).map(|other| Verdict {
            rule: Rule::Shared,
            because: None,
            reason: format!("mdev {} has it", other.uuid),
        });
        above.or(reserved).or(shared)
    };
    let fate = |subject, refusal: Option<Verdict>, verdict: Verdict| {
        let passes = matches!(verdict.rule, Rule::Passed | Rule::ControlDomain);
        let outcome = match (&refusal, passes) {
            (Some(_), _) => Outcome::Refused,
            (None, true) => Outcome::Ready,
            (None, false) => Outcome::Withheld,
        };
        let Verdict { rule, because, reason } = refusal.unwrap_or(verdict);
        Fate { subject, outcome, rule, because, reason }
    };
    let queues = filter(snapshot, matrix).into_iter();
    let queues = queues.map(|(apqn, verdict)| fate(Subject::Queue(apqn), refusal(apqn), verdict));
    let domains = matrix.adm.iter().map(|n| {
        let above = above("control domain", n, snapshot.max_domain.0);
        fate(Subject::ControlDomain(Number(n)), above, control_domain(snapshot, n))
    });
    queues.chain(domains).collect()
}

/// What a filter would decide now.
struct Verdict {
    rule: Rule,
    because: Option<Apqn>,
    reason: String,
}

fn filter(snapshot: &Snapshot, matrix: &Matrix) -> Vec<(Apqn, Verdict)> {
    let mut verdicts = Vec::new();
    for apid in matrix.apm.iter().map(Apid) {
        let in_host = |apqi: &Apqi| snapshot.configuration.aqm.test(apqi.0);
        let domains = matrix.aqm.iter().map(Apqi).filter(in_host);
        let obstacle =
            domains.map(|apqi| Apqn::new(apid, apqi)).find_map(|q| Some((q, obstacle(snapshot, q)?)));
        for apqi in matrix.aqm.iter().map(Apqi) {
            let outside = |what: String| Verdict {
                rule: Rule::NotInConfiguration,
                because: None,
                reason: format!("{what} is not in the host's configuration"),
            };
            let verdict = if !snapshot.configuration.apm.test(apid.0) {
                outside(format!("adapter {apid}"))
            } else if !in_host(&apqi) {
                outside(format!("domain {apqi}"))
            } else {
                match &obstacle {
                    Some((apqn, (rule, what))) => Verdict {
                        rule: *rule,
                        because: Some(*apqn),
                        reason: format!("{apqn} {what}: adapter {apid} is withheld"),
                    },
                    None => Verdict {
                        rule: Rule::Passed,
                        because: None,
                        reason: format!(
                            "all of adapter {apid}'s queues in the guest's domains can be passed"
                        ),
                    },
                }
            };
            verdicts.push((Apqn::new(apid, apqi), verdict));
        }
    }
    verdicts
}

/// Why the queue cannot be passed to a guest.
fn obstacle(snapshot: &Snapshot, apqn: Apqn) -> Option<(Rule, String)> {
    let Some(queue) = snapshot.queue(apqn) else {
        return Some((Rule::NoQueue, "is not on the bus".into()));
    };
    match queue.driver {
        None => Some((Rule::NotBound, "is not bound to vfio_ap, nor to another driver".into())),
        Some(driver @ Driver::Default) => {
            Some((Rule::NotBound, format!("is not bound to vfio_ap but to {}", driver.name())))
        }
        Some(Driver::VfioAp) if passable_after(queue.last_reset) => None,
        Some(Driver::VfioAp) => {
            let reason = match queue.last_reset {
                code @ (0x02 | 0x05 | 0x0a) => {
                    format!("has a reset that has not ended (response code {code:02x})")
                }
                code => format!("has a reset that ended with response code {code:02x}"),
            };
            Some((Rule::NotReset, reason))
        }
    }
}

fn control_domain(snapshot: &Snapshot, n: u8) -> Verdict {
    if snapshot.configuration.adm.test(n) {
        let reason = "the host's configuration has it".into();
        Verdict { rule: Rule::ControlDomain, because: None, reason }
    } else {
        let reason = "the host's configuration has not got it".into();
        Verdict { rule: Rule::NotInConfiguration, because: None, reason }
    }
}
