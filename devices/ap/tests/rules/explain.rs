//! The explanation of each queue's fate, against `guest_matrix` and against the filter of `crycb`.

use std::collections::BTreeSet;

use ap::host::{
    Condition, Driver, Fate, LparChange, Outcome, Rule, Snapshot, Subject, explain, explain_matrix,
};
use crycb::filter::filter;
use crycb::{Apqn, Mask256, Matrix};
use proptest::prelude::*;

use crate::setup::*;

/// The explanation of mediated device `n`, as lines.
#[track_caller]
fn check(s: &Setup, n: u8, want: &[&str]) {
    let fates = explain(&s.host.snapshot(), mdev(n)).unwrap();
    let lines: Vec<_> = fates.iter().map(Fate::to_string).collect();
    assert_eq!(lines, want);
    let text = serde_json::to_string(&fates).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Fate>>(&text).unwrap(), fates, "{text}");
}

#[test]
fn the_04_05_table_explained() {
    let s = Setup::new("a4 a5 d4 d22 d35");
    s.unbind("05.0035");
    s.mdev(1, "a4 a5 d4 d22 d35");
    let [fine, withheld] = [
        "all of adapter 04's queues in the guest's domains can be passed (F1 passed)",
        "05.0035 is not bound to vfio_ap, nor to another driver: adapter 05 is withheld (F3 not-bound)",
    ];
    let lines = |how: &str| -> Vec<String> {
        let four = ["04.0004", "04.0022", "04.0035"].map(|q| format!("{q}: {how}: {fine}"));
        let five =
            ["05.0004", "05.0022", "05.0035"].map(|q| format!("{q}: assigned, not in the guest: {withheld}"));
        [four, five].concat()
    };
    let refs = |lines: &[String]| check(&s, 1, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    refs(&lines("ready for a guest"));
    s.attach(1);
    refs(&lines("in the guest"));
    let fates = explain(&s.host.snapshot(), mdev(1)).unwrap();
    let json = serde_json::to_value(&fates[3]).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "queue": "05.0004", "outcome": "withheld", "rule": {"number": "F3", "name": "not-bound"},
            "because": "05.0035", "reason": "05.0035 is not bound to vfio_ap, nor to another driver: adapter 05 is withheld",
        })
    );
}

#[test]
fn each_rule_explained() {
    let s = Setup::with_masks("a4 a5 a6 a7 d4 d22 c4", "-4-7,-9", "");
    s.machine.lose(q("05.0004"));
    s.host.scan();
    s.unbind("06.0022");
    s.machine.zapq_answers(q("07.0004"), &[0x06, 0x06]);
    s.unbind("07.0004");
    s.bind("07.0004");
    s.mdev(1, "d4 d22 d35 a4 a5 a6 a7 a9 c4 c5");
    let rule_of = |words: &str| {
        let fates = explain(&s.host.snapshot(), mdev(1)).unwrap();
        let of = |word: &str| {
            let fate = fates.iter().find(|fate| fate.subject.to_string() == word).expect(word);
            (fate.rule.number(), fate.because.map(|q| q.to_string()).unwrap_or_default())
        };
        words.split_whitespace().map(of).collect::<Vec<_>>()
    };
    let pairs =
        |list: &[(&'static str, &str)]| list.iter().map(|(a, b)| (*a, b.to_string())).collect::<Vec<_>>();
    assert_eq!(rule_of("04.0004 04.0022 04.0035"), pairs(&[("F1", ""), ("F1", ""), ("F2", "")]));
    assert_eq!(
        rule_of("05.0004 05.0022 05.0035"),
        pairs(&[("F4", "05.0004"), ("F4", "05.0004"), ("F2", "")])
    );
    assert_eq!(rule_of("06.0004 06.0022"), pairs(&[("F3", "06.0022"), ("F3", "06.0022")]));
    assert_eq!(rule_of("07.0004 07.0022"), pairs(&[("F5", "07.0004"), ("F5", "07.0004")]));
    assert_eq!(rule_of("09.0004 09.0035"), pairs(&[("F2", ""), ("F2", "")]));
    let fates = explain(&s.host.snapshot(), mdev(1)).unwrap();
    let domains: Vec<_> = fates.iter().filter(|f| matches!(f.subject, Subject::ControlDomain(_))).collect();
    assert_eq!(
        domains[0].to_string(),
        "control domain 0004: ready for a guest: the host's configuration has it (F6 control-domain)"
    );
    assert_eq!((domains[1].rule, domains[1].outcome), (Rule::NotInConfiguration, Outcome::Withheld));
    assert!(
        fates
            .iter()
            .any(|f| f.reason
                == "07.0004 has a reset that ended with response code 06: adapter 07 is withheld")
    );
    assert_eq!(explain(&s.host.snapshot(), mdev(9)).unwrap_err().errno(), "ENOENT");
}

/// Where removals made `guest_matrix` depend on history.
#[test]
fn history_explained() {
    let s = Setup::new("a5 a6 d4 d47");
    s.unbind("06.0004");
    s.mdev(1, "a5 a6 d4 d47");
    s.attach(1);
    s.unassign(1, "d4").unwrap();
    check(
        &s,
        1,
        &[
            "05.0047: in the guest: all of adapter 05's queues in the guest's domains can be passed (F1 passed)",
            "06.0047: assigned, not in the guest: would be plugged by the next filter: removals filter nothing; bind a queue or \
             write ap_config to have one (H1 awaits-filter)",
        ],
    );
    // As on a host whose driver leaves the adapter there until the next filter.
    let mut state = s.host.snapshot();
    state.queues.iter_mut().find(|state| state.queue == q("05.0047")).unwrap().last_reset = 0x06;
    let fates = explain(&state, mdev(1)).unwrap();
    assert_eq!((fates[0].outcome, fates[0].rule), (Outcome::InGuest, Rule::KeptUntilFilter));
    let reason = "05.0047 has a reset that ended with response code 06: adapter 05 is withheld";
    assert_eq!(fates[0].reason, format!("{reason}; but nothing has been filtered since"));
    s.machine.zapq_answers(q("05.0047"), &[0x06]);
    assert_eq!(s.host.reset_device(mdev(1)).unwrap_err().errno(), "EIO");
    let fates = explain(&s.host.snapshot(), mdev(1)).unwrap();
    assert_eq!((fates[0].outcome, fates[0].reason.as_str()), (Outcome::Withheld, reason));
}

/// A matrix that nobody has yet: what of it is refused, and by what.
#[test]
fn a_matrix_explained() {
    let s = Setup::of(
        r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}, {"adapter": 6, "type": "CEX8A"}], "usage_domains": [4, 5],
            "max_adapter": 8, "max_domain": 9, "apmask": "-5"}"#,
    );
    s.mdev(1, "a5 d4");
    let fates = explain_matrix(&s.host.snapshot(), &matrix("a5 a6 a9 d4 d5 c4 ca"));
    let short: Vec<_> =
        fates.iter().map(|f| format!("{} {} {:?}", f.subject, f.rule.number(), f.outcome)).collect();
    assert_eq!(
        short,
        [
            "05.0004 A3 Refused",
            "05.0005 F1 Ready",
            "06.0004 A2 Refused",
            "06.0005 A2 Refused",
            "09.0004 A1 Refused",
            "09.0005 A1 Refused",
            "control domain 0004 F6 Ready",
            "control domain 000a A1 Refused",
        ]
    );
    // Refused is what a device is refused for.
    for fate in &fates {
        let Subject::Queue(queue) = fate.subject else { continue };
        let words = format!("a{:x} d{:x}", queue.apid().0, queue.apqi().0);
        s.host.create_mdev(mdev(2)).unwrap();
        assert_eq!(s.assign(2, &words).is_err(), fate.outcome == Outcome::Refused, "{fate}");
        s.host.remove_mdev(mdev(2)).unwrap();
    }
}

/// What a filter that knows no history gives the device now.
fn fresh(state: &Snapshot, assigned: &Matrix) -> Matrix {
    let last_reset = |apqn: Apqn| {
        let queue = state.queue(apqn)?;
        (queue.driver == Some(Driver::VfioAp)).then_some(queue.last_reset)
    };
    filter(assigned, &state.configuration, &last_reset, &Matrix::EMPTY).guest
}

/// The queues and control domains of the fates that `choose` takes.
fn those(fates: &[Fate], choose: impl Fn(&Fate) -> bool) -> (BTreeSet<Apqn>, Mask256) {
    let chosen: Vec<_> = fates.iter().filter(|fate| choose(fate)).map(|fate| fate.subject).collect();
    let queue = |s: &Subject| if let Subject::Queue(q) = s { Some(*q) } else { None };
    let domain = |s: &Subject| if let Subject::ControlDomain(n) = s { Some(n.0) } else { None };
    (chosen.iter().filter_map(queue).collect(), chosen.iter().filter_map(domain).collect())
}

fn parts(matrix: &Matrix) -> (BTreeSet<Apqn>, Mask256) {
    (matrix.apqns().collect(), matrix.adm)
}

/// Something that changes the fate of queues, of adapters 0 to 3 and domains 0 to 3.
fn step() -> impl Strategy<Value = (u8, u8, u8)> {
    (0..14u8, 0..4u8, 0..4u8)
}

fn change(s: &Setup, (kind, a, d): (u8, u8, u8)) {
    let queue = Apqn::new(crycb::Apid(a), crycb::Apqi(d));
    let words = [format!("a{a}"), format!("d{d}"), format!("c{d}")];
    let device = 1 + a % 2;
    let configure = |change: LparChange| s.host.configure(&[change]).is_ok();
    let _ = match kind {
        0 => s.host.bind(queue, Driver::VfioAp).is_ok(),
        1 => s.host.unbind(queue).is_ok(),
        2 => s.assign(device, &words[0]).is_ok(),
        3 => s.assign(device, &words[1]).is_ok(),
        4 => s.assign(device, &words[2]).is_ok(),
        5 => s.unassign(device, &words[usize::from(d % 3)]).is_ok(),
        6 => configure(add_adapter(a)),
        7 => configure(remove_adapter(a)),
        8 => configure(add_domain(d)) && configure(add_control_domain(a)),
        9 => configure(remove_domain(d)),
        10 => configure(remove_control_domain(d)),
        11 => {
            s.machine.zapq_answers(queue, &[0x06]);
            s.host.reset_device(mdev(device)).is_ok()
        }
        12 => match s.host.mdev(mdev(device)).unwrap().guest {
            Some(_) => s.host.detach(mdev(device)).is_ok(),
            None => s.host.attach(mdev(device), Vm::new(device.into(), &s.log)).is_ok(),
        },
        _ => configure(condition(a, if d % 2 == 0 { Condition::Offline } else { Condition::Online })),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// After any history: the explained matrix is what a fresh filter gives, `guest_matrix` is what the outcomes say, and each
    /// difference between the two is put down to history; a queue that decided is one that cannot be passed.
    #[test]
    fn explanations_agree_with_the_filter_and_with_guest_matrix(steps in proptest::collection::vec(step(), 1..60)) {
        let s = Setup::new("a0 a1 a2 d0 d1 d2 c0");
        s.mdev(1, "");
        s.mdev(2, "");
        for each in steps {
            change(&s, each);
            let state = s.host.snapshot();
            for device in &state.mdevs {
                let fates = explain(&state, device.uuid).unwrap();
                prop_assert_eq!(those(&fates, |_| true), parts(&device.matrix));
                prop_assert_eq!(those(&fates, Fate::passes), parts(&fresh(&state, &device.matrix)));
                prop_assert_eq!(those(&fates, |f| f.outcome.plugged()), parts(&device.guest_matrix));
                for fate in &fates {
                    prop_assert!(!fate.outcome.plugged() || (fate.outcome == Outcome::InGuest) == device.attached);
                    let differs = fate.outcome.plugged() != fate.passes();
                    let history = matches!(fate.rule, Rule::AwaitsFilter | Rule::KeptUntilFilter);
                    prop_assert_eq!(differs, history, "{}", fate);
                    if let (Some(other), Subject::Queue(queue)) = (fate.because, fate.subject) {
                        prop_assert_eq!(other.apid(), queue.apid());
                        let alone = parts(&fresh(&state, &Matrix { adm: Mask256::EMPTY, ..matrix(&format!("a{:x} d{:x}", other.apid().0, other.apqi().0)) }));
                        prop_assert!(alone.0.is_empty(), "{} can be passed", other);
                    }
                }
                let as_new = explain_matrix(&state, &device.matrix);
                let passes = |f: &Fate| f.passes() || f.rule == Rule::Shared;
                prop_assert_eq!(those(&as_new, |f| f.outcome == Outcome::Refused).0, parts(&device.matrix).0);
                prop_assert!(those(&as_new, passes).0.is_superset(&those(&fates, Fate::passes).0));
            }
        }
    }
}
