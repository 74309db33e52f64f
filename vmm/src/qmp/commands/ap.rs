//! AP: what the guest has and why, and the operations on its host.

use ap::host::{Driver, MdevState, QueueState, Snapshot, Wake, Watch};
use crycb::filter::passable_after;
use crycb::{Apqn, Matrix};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::device::{chain, control};
use super::{Answer, Context, DONE, FROM, PAGE, from, in_thread, operation};
use crate::ap_control::Plugged;
use crate::board::Board;
use crate::events::Event;
use crate::qmp::error::Error;
use crate::qmp::schema::{Member, NOTHING, Object, Type, may, needs, object};
use crate::qmp::table::{Arguments, Row};

const fn operation(
    name: &'static str,
    arguments: &'static Object,
    run: fn(&mut Context<'_>, &Arguments<'_>) -> Result<Answer, Error>,
) -> Row {
    Row { name, arguments, returns: DONE, oob: false, run }
}

pub static ROWS: &[Row] = &[
    Row { name: "x-query-ap", arguments: &QUERY, returns: Type::Object(&AP_INFO), oob: false, run: query_ap },
    Row {
        name: "x-query-ap-host",
        arguments: &FROM,
        returns: Type::Object(&HOST_PAGE),
        oob: false,
        run: query_ap_host,
    },
    Row { name: "x-ap-plan", arguments: &PLAN, returns: Type::Any, oob: false, run: plan },
    operation("x-ap-assign-adapter", &ADAPTER, |c, a| write(c, a, "assign_adapter", "adapter")),
    operation("x-ap-unassign-adapter", &ADAPTER, |c, a| write(c, a, "unassign_adapter", "adapter")),
    operation("x-ap-assign-domain", &DOMAIN, |c, a| write(c, a, "assign_domain", "domain")),
    operation("x-ap-unassign-domain", &DOMAIN, |c, a| write(c, a, "unassign_domain", "domain")),
    operation("x-ap-assign-control-domain", &DOMAIN, |c, a| write(c, a, "assign_control_domain", "domain")),
    operation("x-ap-unassign-control-domain", &DOMAIN, |c, a| {
        write(c, a, "unassign_control_domain", "domain")
    }),
    operation("x-ap-config", &CONFIG, |c, a| write(c, a, "ap_config", "masks")),
    operation("x-ap-create-mdev", &MDEV, |c, a| operate(c, a, "create-mdev")),
    operation("x-ap-remove-mdev", &MDEV, |c, a| operate(c, a, "remove-mdev")),
    operation("x-ap-import-mdev", &IMPORT, |c, a| operate(c, a, "import")),
    operation("x-ap-reset-mdev", &MDEV, |c, a| operate(c, a, "reset-device")),
    operation("x-ap-write-mask", &MASK, |c, a| operate(c, a, "write-mask")),
    operation("x-ap-driver-override", &OVERRIDE, |c, a| operate(c, a, "driver-override")),
    operation("x-ap-bind", &BIND, |c, a| operate(c, a, "bind")),
    operation("x-ap-unbind", &QUEUE, |c, a| operate(c, a, "unbind")),
    operation("x-ap-configure", &CONFIGURE, |c, a| operate(c, a, "configure")),
    operation("x-ap-scan", &NOTHING, |c, a| operate(c, a, "scan")),
];

/// The mediated device that is meant when none is named: the guest's.
const OPTIONAL_MDEV: Member = may("mdev", Type::Str);
static ADAPTER: Object = object("x-ap-adapter-arg", &[needs("adapter", Type::Any), OPTIONAL_MDEV]);
static DOMAIN: Object = object("x-ap-domain-arg", &[needs("domain", Type::Any), OPTIONAL_MDEV]);
static CONFIG: Object = object("x-ap-config-arg", &[needs("masks", Type::Str), OPTIONAL_MDEV]);
static MDEV: Object = object("x-ap-mdev-arg", &[needs("mdev", Type::Str)]);
static IMPORT: Object =
    object("x-ap-import-arg", &[needs("mdev", Type::Str), needs("definition", Type::Any)]);
static MASK: Object = object(
    "x-ap-write-mask-arg",
    &[needs("mask", Type::Enum("x-ApMask", &["apmask", "aqmask"])), needs("value", Type::Str)],
);
static OVERRIDE: Object =
    object("x-ap-driver-override-arg", &[needs("queue", Type::Str), needs("driver", Type::Str)]);
static BIND: Object = object(
    "x-ap-bind-arg",
    &[needs("queue", Type::Str), needs("driver", Type::Enum("x-ApDriver", &["cex4queue", "vfio_ap"]))],
);
static QUEUE: Object = object("x-ap-queue-arg", &[needs("queue", Type::Str)]);
static CONFIGURE: Object =
    object("x-ap-configure-arg", &[needs("changes", Type::Array(&Type::Object(&CHANGE)))]);
static CHANGE: Object = object(
    "x-ApMachineChange",
    &[
        needs("change", Type::Enum("x-ApMachineChangeName", operation::CHANGES)),
        may("adapter", Type::Any),
        may("domain", Type::Any),
        may("condition", Type::Any),
    ],
);
static PLAN: Object = object("x-ap-plan-arg", &[needs("operation", Type::Object(&OPERATION))]);
static OPERATION: Object = object(
    "x-ApOperation",
    &[
        needs("operation", Type::Enum("x-ApOperationName", operation::NAMES)),
        may("mdev", Type::Str),
        may("definition", Type::Any),
        may("attribute", Type::Any),
        may("mask", Type::Enum("x-ApMask", &["apmask", "aqmask"])),
        may("value", Type::Str),
        may("queue", Type::Str),
        may("driver", Type::Str),
        may("changes", Type::Array(&Type::Object(&CHANGE))),
    ],
);
static HOST_PAGE: Object = object("x-ApHostPage", &[needs("host", Type::Any), may("next", Type::Int)]);
static QUERY: Object = object("x-query-ap-arg", &[may("all", Type::Bool), may("from", Type::Int)]);

static AP_INFO: Object = object(
    "x-ApInfo",
    &[
        needs("present", Type::Bool),
        may("device", Type::Object(&AP_DEVICE)),
        may("apmask", Type::Str),
        may("aqmask", Type::Str),
        may("configuration", Type::Object(&AP_MATRIX)),
        may("mdevs", Type::Array(&Type::Object(&AP_MDEV))),
        may("queues", Type::Array(&Type::Object(&AP_QUEUE))),
        may("errors", Type::Array(&Type::Str)),
        may("next", Type::Int),
    ],
);
static AP_DEVICE: Object = object("x-ApDevice", &[may("id", Type::Str), needs("mdev", Type::Str)]);
static AP_MDEV: Object = object(
    "x-ApMdev",
    &[
        needs("mdev", Type::Str),
        needs("attached", Type::Bool),
        needs("matrix", Type::Object(&AP_MATRIX)),
        needs("guest-matrix", Type::Object(&AP_MATRIX)),
    ],
);
static AP_MATRIX: Object = object(
    "x-ApMatrix",
    &[
        needs("adapters", Type::Array(&Type::Str)),
        needs("domains", Type::Array(&Type::Str)),
        needs("control-domains", Type::Array(&Type::Str)),
    ],
);
static AP_QUEUE: Object = object(
    "x-ApQueue",
    &[
        needs("queue", Type::Str),
        may("type", Type::Str),
        needs("in-guest", Type::Bool),
        needs("why", Type::Str),
        may("driver", Type::Str),
        may("mdev", Type::Str),
        may("config", Type::Bool),
        may("chkstop", Type::Bool),
        may("depth", Type::Int),
        may("last-reset", Type::Int),
        may("requests", Type::Int),
        may("pending", Type::Int),
        may("answered", Type::Int),
        may("answer-time", Type::Int),
    ],
);

fn query_ap(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let from = from(arguments)?;
    let Some(control) = context.board.devices().ap() else {
        return Ok(Answer::Now(json!({"present": false})));
    };
    let all = arguments.bool("all").unwrap_or(false);
    // An operation that waits for cards may keep the host's locks.
    in_thread(context, move || {
        let host = control.snapshot().map_err(|e| Error::generic(chain(&e)))?;
        let problems = control.problems().map_err(|e| Error::generic(chain(&e)))?;
        Ok(guest_page(&host, &problems, control.plugged().as_ref(), all, from))
    })
}

/// An entry of one of the lists of `x-query-ap`.
enum Entry<'a> {
    Mdev(&'a MdevState),
    Error(&'a str),
    Queue(Apqn),
}

/// What `x-query-ap` tells from `from` on: the guest's device and each of its queues before those of others, in as many answers
/// as it takes. The masks are in each.
fn guest_page(
    host: &Snapshot,
    problems: &[String],
    device: Option<&Plugged>,
    all: bool,
    from: usize,
) -> Value {
    let mine = device.and_then(|device| host.mdev(device.mdev));
    let assigned = mine.map_or(Matrix::EMPTY, |mdev| mdev.matrix);
    let others = host.mdevs.iter().filter(|mdev| mine.is_none_or(|mine| mine.uuid != mdev.uuid));
    let unassigned = host.queues.iter().map(|state| state.queue).filter(|q| all && !assigned.test(*q));
    let mut entries = (mine.into_iter().map(Entry::Mdev))
        .chain(problems.iter().map(|text| Entry::Error(text)))
        .chain(assigned.apqns().map(Entry::Queue))
        .chain(others.map(Entry::Mdev))
        .chain(unassigned.map(Entry::Queue))
        .skip(from)
        .peekable();
    let (mut mdevs, mut errors, mut queues) = (Vec::new(), Vec::new(), Vec::new());
    let (mut next, mut bytes) = (from, 0);
    while bytes < PAGE
        && let Some(entry) = entries.next()
    {
        let (list, value) = match entry {
            Entry::Mdev(mdev) => (&mut mdevs, describe_mdev(mdev)),
            Entry::Error(text) => {
                (&mut errors, text.chars().take(LONGEST_PROBLEM).collect::<String>().into())
            }
            Entry::Queue(apqn) => (&mut queues, describe_queue(host, mine, apqn)),
        };
        bytes += value.to_string().len();
        list.push(value);
        next += 1;
    }
    let mut answer = json!({
        "present": true,
        "apmask": host.apmask.to_string(),
        "aqmask": host.aqmask.to_string(),
        "configuration": describe_matrix(&host.configuration),
        "mdevs": mdevs,
        "queues": queues,
    });
    if !errors.is_empty() {
        answer["errors"] = errors.into();
    }
    if entries.peek().is_some() {
        answer["next"] = next.into();
    }
    if let Some(device) = device {
        answer["device"] = json!({"mdev": device.mdev});
        if let Some(id) = &device.id {
            answer["device"]["id"] = id.as_str().into();
        }
    }
    answer
}

fn describe_matrix(matrix: &Matrix) -> Value {
    json!({
        "adapters": matrix.apm.iter().map(|n| format!("{n:02x}")).collect::<Vec<_>>(),
        "domains": matrix.aqm.iter().map(|n| format!("{n:04x}")).collect::<Vec<_>>(),
        "control-domains": matrix.adm.iter().map(|n| format!("{n:04x}")).collect::<Vec<_>>(),
    })
}

/// Most characters of an error of `x-query-ap`.
const LONGEST_PROBLEM: usize = 1000;

/// The whole host as the daemon's protocol has it, in as many answers as it takes: each has the entries of the lists from
/// `from` on, counted through adapters, mediated devices and queues.
fn query_ap_host(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let from = from(arguments)?;
    let control = control(context)?;
    in_thread(context, move || page(&control.snapshot().map_err(|e| Error::generic(chain(&e)))?, from))
}

fn page(host: &Snapshot, from: usize) -> Result<Value, Error> {
    let lists = [host.adapters.len(), host.mdevs.len(), host.queues.len()];
    let total: usize = lists.iter().sum();
    let mut part = Snapshot { adapters: Vec::new(), mdevs: Vec::new(), queues: Vec::new(), ..host.clone() };
    let (mut next, mut bytes) = (from, 0);
    let length = |entry: serde_json::Result<String>| entry.map(|text| text.len()).map_err(Error::generic);
    while next < total && bytes < PAGE {
        let (mdev, queue) = (next.checked_sub(lists[0]), next.checked_sub(lists[0] + lists[1]));
        if let Some(at) = queue {
            bytes += length(serde_json::to_string(&host.queues[at]))?;
            part.queues.push(host.queues[at].clone());
        } else if let Some(at) = mdev {
            bytes += length(serde_json::to_string(&host.mdevs[at]))?;
            part.mdevs.push(host.mdevs[at].clone());
        } else {
            bytes += length(serde_json::to_string(&host.adapters[next]))?;
            part.adapters.push(host.adapters[next].clone());
        }
        next += 1;
    }
    let mut answer = json!({"host": serde_json::to_value(part).map_err(Error::generic)?});
    if next < total {
        answer["next"] = next.into();
    }
    Ok(answer)
}

fn describe_mdev(mdev: &MdevState) -> Value {
    json!({
        "mdev": mdev.uuid,
        "attached": mdev.attached,
        "matrix": describe_matrix(&mdev.matrix),
        "guest-matrix": describe_matrix(&mdev.guest_matrix),
    })
}

fn describe_queue(host: &Snapshot, mine: Option<&MdevState>, apqn: Apqn) -> Value {
    let in_guest = mine.is_some_and(|mdev| mdev.guest_matrix.test(apqn));
    let mut answer = json!({"queue": apqn.to_string(), "in-guest": in_guest, "why": why(host, mine, apqn)});
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            answer[name] = value;
        }
    };
    let adapter = host.adapters.iter().find(|adapter| adapter.apid() == apqn.apid());
    set("type", adapter.map(|adapter| adapter.type_name().into()));
    set("mdev", host.mdev_of(apqn).map(|mdev| json!(mdev.uuid)));
    if let Some(queue) = host.queue(apqn) {
        set("driver", queue.driver.map(|driver| json!(driver)));
        set("config", Some(queue.config.into()));
        set("chkstop", Some(queue.chkstop.into()));
        set("depth", Some(((queue.hardware & 0xf) + 1).into()));
        set("last-reset", Some(queue.last_reset.into()));
        set("requests", queue.requests.map(Value::from));
        set("pending", queue.pending.map(Value::from));
        set("answered", queue.answered.map(Value::from));
        set("answer-time", queue.answer_time.map(Value::from));
    }
    answer
}

/// Why the guest has a queue, or has it not.
fn why(host: &Snapshot, mine: Option<&MdevState>, apqn: Apqn) -> String {
    let Some(mdev) = mine.filter(|mdev| mdev.matrix.test(apqn)) else {
        return match host.mdev_of(apqn) {
            Some(other) => format!("assigned to mdev {}", other.uuid),
            None => match host.queue(apqn).and_then(|queue| queue.driver) {
                Some(Driver::Default) => "the host uses it: apmask and aqmask keep it".into(),
                _ => "assigned to no mdev".into(),
            },
        };
    };
    if mdev.guest_matrix.test(apqn) {
        return "assigned, and nothing keeps it from the guest".into();
    }
    if !host.configuration.test(apqn) {
        return "the host's own configuration does not have it".into();
    }
    // The adapter is withheld as a whole for any of its queues.
    let bad = |queue: &QueueState| queue.driver != Some(Driver::VfioAp) || !passable_after(queue.last_reset);
    let row = mdev.matrix.and(&host.configuration);
    let culprit = row.apqns().filter(|q| q.apid() == apqn.apid()).find(|q| host.queue(*q).is_none_or(bad));
    match culprit.map(|q| (q, host.queue(q))) {
        Some((q, Some(queue))) if queue.driver == Some(Driver::VfioAp) => {
            format!(
                "adapter {} is withheld: the last reset of {q} ended with {:02x}",
                apqn.apid(),
                queue.last_reset
            )
        }
        Some((q, _)) => format!("adapter {} is withheld: {q} is not bound to vfio_ap", apqn.apid()),
        None => "it comes with the next scan".into(),
    }
}

/// A write to an attribute of a mediated device, the guest's unless another is named.
fn write(
    context: &mut Context<'_>,
    arguments: &Arguments<'_>,
    attribute: &str,
    number: &str,
) -> Result<Answer, Error> {
    let mdev = match arguments.text("mdev") {
        Some(mdev) => json!(mdev),
        None => match control(context)?.plugged() {
            Some(device) => json!(device.mdev),
            None => return Err(Error::generic("mdev: the guest has no vfio-ap device; name an mdev")),
        },
    };
    let text = match arguments.value(number) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(n)) => n.to_string(),
        _ => return Err(Error::generic(format_args!("{number}: give a number, as 10 or \"0x0a\""))),
    };
    let operation = [("operation", "write".into()), ("mdev", mdev), ("attribute", json!({attribute: text}))];
    execute(context, operation.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
}

/// The operation called `name` with the command's arguments as they are.
fn operate(context: &mut Context<'_>, arguments: &Arguments<'_>, name: &str) -> Result<Answer, Error> {
    let mut operation: Map<String, Value> = arguments.all().clone();
    operation.insert("operation".into(), name.into());
    execute(context, operation)
}

fn execute(context: &mut Context<'_>, operation: Map<String, Value>) -> Result<Answer, Error> {
    let (operation, control) = (operation::parse(&operation, "")?, control(context)?);
    in_thread(context, move || {
        control.execute(&operation).map_err(|e| Error::generic(format!("{} ({})", chain(&e), e.errno())))?;
        Ok(json!({}))
    })
}

fn plan(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let operation =
        operation::parse(arguments.all()["operation"].as_object().expect("the row says so"), "operation.")?;
    let control = control(context)?;
    in_thread(context, move || {
        let host = control.snapshot().map_err(|e| Error::generic(chain(&e)))?;
        serde_json::to_value(host.plan(&operation)).map_err(Error::generic)
    })
}

/// What clients are told of something that happened on the AP host; `mine` is the guest's device.
fn event(event: ap::host::Event, mine: Option<Uuid>) -> Event {
    let guest = event.kind.mdev().is_some_and(|mdev| Some(mdev) == mine);
    Event::ApHost { event: Box::new(event), guest }
}

/// Begins to tell of the guest's vfio-ap device and of its host; `wake` is called when [`post_events`] has something to do.
pub fn watch(board: &Board, wake: Wake) -> Option<Watch> {
    let control = board.devices().ap()?;
    control.report_to(board.control.clone());
    Some(control.subscribe(wake))
}

/// Tells what happened on the host.
pub fn post_events(board: &Board, watch: Option<&Watch>) {
    let Some((watch, control)) = watch.zip(board.devices().ap()) else { return };
    for happened in watch.try_iter() {
        let mine = control.plugged().map(|device| device.mdev);
        board.control.events().post(event(happened, mine));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::LONGEST_LINE;
    use ap::host::{ApHost, Description};

    /// What the pages of `host` come to, and how many there are.
    fn joined(host: &Snapshot) -> (Snapshot, usize) {
        let (mut whole, mut from, mut pages): (Option<Snapshot>, _, _) = (None, 0, 0);
        loop {
            let answer = page(host, from).unwrap();
            assert!(answer.to_string().len() < LONGEST_LINE - 2048, "page {pages}");
            let part: Snapshot = serde_json::from_value(answer["host"].clone()).unwrap();
            pages += 1;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => {
                    whole.adapters.extend(part.adapters);
                    whole.mdevs.extend(part.mdevs);
                    whole.queues.extend(part.queues);
                }
            }
            match answer.get("next") {
                Some(next) => from = usize::try_from(next.as_u64().unwrap()).unwrap(),
                None => return (whole.unwrap(), pages),
            }
        }
    }

    /// A host of `adapters` by `domains` with 70 mediated devices, which have every control domain, and the first every queue.
    fn large(adapters: u16, domains: u16) -> Snapshot {
        let like = Description::builtin().adapters()[0].clone();
        let adapter = |n| ap::host::Adapter { apid: crycb::Apid(n as u8), ..like.clone() };
        let adapters: Vec<_> = (0..adapters).map(|n| serde_json::to_value(adapter(n)).unwrap()).collect();
        let (usage, control): (Vec<_>, Vec<_>) = ((0..domains).collect(), (0..256).collect());
        let text = json!({"adapters": adapters, "usage_domains": usage, "control_domains": control});
        let mut host = ApHost::rehearsal_of(&Description::from_json(&text.to_string()).unwrap()).snapshot();
        let all = host.configuration;
        host.mdevs = (0..70u128)
            .map(|n| {
                let few = Matrix { adm: all.adm, ..Matrix::EMPTY };
                let matrix = if n == 69 { all } else { few };
                MdevState { uuid: Uuid::from_u128(n), matrix, guest_matrix: matrix, attached: n == 69 }
            })
            .collect();
        host
    }

    #[test]
    fn a_guest_on_a_host_of_any_size_is_told_in_pages() {
        for (adapters, domains) in [(16, 85), (1, 1), (256, 256)] {
            let host = large(adapters, domains);
            let mine = Plugged { id: Some("ap0".into()), mdev: Uuid::from_u128(69) };
            let problems = vec!["e".repeat(5000); 3];
            let check = |device: Option<&Plugged>, all| {
                let (mut mdevs, mut queues, mut errors, mut from) = (vec![], vec![], 0, 0);
                loop {
                    let answer = guest_page(&host, &problems, device, all, from);
                    // Of the longest answers a part will do.
                    let line = answer.to_string().len();
                    assert!(line < LONGEST_LINE - 2048, "{line} bytes from {from}");
                    AP_INFO.check(answer.as_object().unwrap(), "").unwrap();
                    let list = |name: &str| answer[name].as_array().unwrap().clone();
                    mdevs.extend(list("mdevs").iter().map(|mdev| mdev["mdev"].clone()));
                    queues.extend(list("queues").iter().map(|queue| queue["queue"].clone()));
                    errors += answer.get("errors").map_or(0, |errors| errors.as_array().unwrap().len());
                    if from == 0 && device.is_some() {
                        assert_eq!((&mdevs[0], &queues[0]), (&json!(mine.mdev), &json!("00.0000")));
                        assert!(mdevs.len() == 1 || queues.len() == 1, "others come after the guest's");
                    }
                    let Some(next) = answer.get("next").and_then(Value::as_u64) else { break };
                    let next = usize::try_from(next).unwrap();
                    // The rest of a very large list is more of the same.
                    from = if next > 3000 {
                        next.max(usize::from(adapters) * usize::from(domains) - 500)
                    } else {
                        next
                    };
                }
                assert_eq!((mdevs.len(), errors), (70, 3));
                queues
            };
            let count = host.queues.len();
            let queues = check(Some(&mine), false);
            if count <= 3000 {
                assert_eq!(
                    queues,
                    host.queues.iter().map(|q| json!(q.queue.to_string())).collect::<Vec<_>>()
                );
                assert_eq!(check(Some(&mine), true), queues, "each is told once");
                assert_eq!((check(None, false).len(), check(None, true)), (0, queues));
            }
        }
    }

    #[test]
    fn a_host_of_any_size_comes_in_pages() {
        let host = ApHost::builtin().snapshot();
        assert_eq!(joined(&host), (host, 1));
        let host = large(256, 20);
        assert_eq!(host.queues.len(), 256 * 20);
        let (whole, pages) = joined(&host);
        assert_eq!(whole, host);
        assert!(pages > 10, "{pages}");
        assert_eq!(page(&host, usize::MAX).unwrap().get("next"), None);
    }
}
