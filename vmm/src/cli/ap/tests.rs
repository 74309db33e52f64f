//! The grammar in both directions, what is printed, and a host in a made-up sysfs.

use ap::host::{
    Adapter, ApHost, Attribute, Condition, Description, Driver, LparChange, MaskAttribute, Number, Snapshot,
};
use clap::Parser;
use crycb::Apqn;
use proptest::prelude::*;

use super::*;

const ONE: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
const TWO: &str = "cef03c3c-903d-4ecc-9a83-40694cb8aee4";

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Words {
    #[command(flatten)]
    ap: Ap,
}

fn parse(words: &[&str]) -> Result<Verb, String> {
    Words::try_parse_from(words).map(|words| words.ap.verb).map_err(|e| e.to_string())
}

/// The operations that these words mean on the built-in host.
fn operations(words: &[&str]) -> Vec<Operation> {
    match parse(words) {
        Ok(Verb::Change(change)) => change.operations(&ApHost::builtin().snapshot()).unwrap(),
        Ok(_) => panic!("{words:?} changes nothing"),
        Err(error) => panic!("{words:?}: {error}"),
    }
}

/// This machine's own host.
fn real() -> Place {
    Place { host: None, guest: None, description: None, sysfs: Place::SYSFS.into() }
}

/// An operation's commands mean that operation.
#[track_caller]
fn round_trip(operation: &Operation) {
    let mut got = Vec::new();
    for words in grammar::commands(operation) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        got.extend(operations(&words));
    }
    let merged = match got.as_slice() {
        [Operation::Configure { .. }, ..] => {
            let changes = got.iter().flat_map(|operation| match operation {
                Operation::Configure { changes } => changes.clone(),
                other => panic!("{other:?} among changes of the machine"),
            });
            vec![Operation::Configure { changes: changes.collect() }]
        }
        _ => got,
    };
    assert_eq!(merged, std::slice::from_ref(operation), "{}", grammar::command_line(&real(), operation));
}

fn numbers() -> impl Strategy<Value = Number> {
    any::<u8>().prop_map(Number)
}

fn adapters() -> impl Strategy<Value = Adapter> {
    let known = Description::builtin().adapters().to_vec();
    (proptest::sample::select(known), any::<u8>())
        .prop_map(|(adapter, n)| Adapter { apid: crycb::Apid(n), ..adapter })
}

fn changes() -> impl Strategy<Value = LparChange> {
    let conditions = [Condition::Online, Condition::Offline, Condition::Checkstop];
    prop_oneof![
        adapters().prop_map(|adapter| LparChange::AddAdapter { adapter }),
        adapters().prop_map(|adapter| LparChange::ChangeType { adapter }),
        numbers().prop_map(|adapter| LparChange::RemoveAdapter { adapter }),
        (numbers(), proptest::sample::select(conditions.to_vec()))
            .prop_map(|(adapter, condition)| LparChange::SetCondition { adapter, condition }),
        numbers().prop_map(|domain| LparChange::AddDomain { domain }),
        numbers().prop_map(|domain| LparChange::RemoveDomain { domain }),
        numbers().prop_map(|domain| LparChange::AddControlDomain { domain }),
        numbers().prop_map(|domain| LparChange::RemoveControlDomain { domain }),
    ]
}

fn attributes() -> impl Strategy<Value = Attribute> {
    let named = |name: &'static str| move |n: u8| Attribute::named(name, &format!("{n:#x}")).unwrap();
    let names = [
        "assign_adapter",
        "unassign_adapter",
        "assign_domain",
        "unassign_domain",
        "assign_control_domain",
        "unassign_control_domain",
    ];
    prop_oneof![
        (proptest::sample::select(names.to_vec()), any::<u8>()).prop_map(move |(name, n)| named(name)(n)),
        "0x[0-9a-f]{1,64},0x[0-9a-f]{1,64},0x[0-9a-f]{1,64}".prop_map(Attribute::ApConfig),
    ]
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let mdev = || any::<u128>().prop_map(Uuid::from_u128);
    let queue = || any::<u16>().prop_map(Apqn);
    let masks = proptest::sample::select(vec![MaskAttribute::Apmask, MaskAttribute::Aqmask]);
    prop_oneof![
        mdev().prop_map(|mdev| Operation::CreateMdev { mdev }),
        mdev().prop_map(|mdev| Operation::RemoveMdev { mdev }),
        (mdev(), proptest::collection::vec(attributes(), 0..4)).prop_map(|(mdev, attrs)| {
            let definition = ap::host::MdevDefinition {
                mdev_type: ap::host::MdevType::VfioApPassthrough,
                start: ap::host::Start::Auto,
                attrs,
            };
            Operation::Import { mdev, definition }
        }),
        (mdev(), attributes()).prop_map(|(mdev, attribute)| Operation::Write { mdev, attribute }),
        mdev().prop_map(|mdev| Operation::ResetDevice { mdev }),
        (masks, "[-+]{1}[0-9]{1,3}(,[-+][0-9]{1,2}){0,3}|0x[0-9a-f]{1,64}")
            .prop_map(|(mask, value)| Operation::WriteMask { mask, value }),
        (queue(), "|vfio_ap|cex4queue|[a-z ']{1,9}")
            .prop_filter_map("a driver of that name", |(queue, driver)| {
                (driver != "none").then_some(Operation::DriverOverride { queue, driver })
            }),
        (queue(), proptest::sample::select(Driver::ALL.to_vec()))
            .prop_map(|(queue, driver)| Operation::Bind { queue, driver }),
        queue().prop_map(|queue| Operation::Unbind { queue }),
        proptest::collection::vec(changes(), 1..6).prop_map(|changes| Operation::Configure { changes }),
        Just(Operation::Scan),
    ]
}

proptest! {
    #[test]
    fn every_operation_has_a_command_that_means_it(operation in any_operation()) {
        round_trip(&operation);
    }
}

#[test]
fn several_numbers_are_one_write() {
    let line = ["assign", ONE, "--adapter", "10,0xb", "--domain", "0x47", "--control-domain", "7"];
    let [Operation::Write { attribute: Attribute::ApConfig(text), .. }] = &operations(&line)[..] else {
        panic!("{:?}", operations(&line))
    };
    let want = "0x0630".to_owned() + &"0".repeat(60);
    assert_eq!(text.split(',').next().unwrap(), want, "5, 6, 0xa and 0xb");
    let one = operations(&["unassign", ONE, "--domain", "171"]);
    assert_eq!(grammar::command_line(&real(), &one[0]), format!("adjunct ap unassign {ONE} --domain 0xab"));
    let both = operations(&["adapter", "offline", "5", "0x6"]);
    assert_eq!(both.len(), 1, "one change of the machine, one report to a guest");
    assert_eq!(grammar::command_line(&real(), &both[0]), "adjunct ap adapter offline 0x5 0x6");
}

#[test]
fn bad_words() {
    for (words, part) in [
        (&["assign", ONE][..], "<--adapter <N>|--domain <N>|--control-domain <N>>"),
        (&["unassign", ONE], "<--adapter <N>|--domain <N>|--control-domain <N>>"),
        (&["assign", ONE, "--adapter", "256"], "0 to 255"),
        (&["assign", "1234", "--adapter", "5"], "invalid value '1234'"),
        (&["bind", "05-0004"], "aa.dddd"),
        (&["bind", "05.0004", "zcrypt"], "not one of cex4queue, vfio_ap"),
        (&["adapter", "online"], "required"),
        (&["mdev", "import", ONE], "required"),
    ] {
        let error = parse(words).err().unwrap_or_else(|| panic!("{words:?} is taken"));
        assert!(error.contains(part), "{words:?}: {error}");
    }
}

/// What `adjunct ap` prints with these words for the host of this description.
fn printed(description: &str, words: &[&str]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(description.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let words: Vec<&str> = ["--description", path].iter().chain(words).copied().collect();
    let mut out = Vec::new();
    let end = Words::try_parse_from(&words).unwrap().ap.run_to(&mut out);
    let text = String::from_utf8(out).unwrap().replace(path, "FILE");
    match end {
        Ok(()) => text,
        Err(Failure::Refused(why)) => format!("{text}refused: {}\n", why.replace(path, "FILE")),
        Err(Failure::Output(error)) => panic!("{error}"),
    }
}

/// A host with everything that a picture tells apart, but guests.
const MIXED: &str = r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}, {"adapter": 6, "type": "CEX7A"},
    {"adapter": 8, "type": "CEX4A"}], "usage_domains": [4, "0x47"], "control_domains": [4, "0x47", 9],
    "apmask": "-5,-6,-7", "mdevs": {"62177883-f1bb-47f0-914d-32a22e3a8804":
    {"mdev_type": "vfio_ap-passthrough", "attrs": [{"assign_adapter": "5"}, {"assign_adapter": "7"},
    {"assign_domain": "4"}, {"assign_control_domain": "9"}]}}}"#;

#[test]
fn what_is_printed() {
    insta::assert_snapshot!("list", printed(MIXED, &["list"]));
    insta::assert_snapshot!("matrix", printed(MIXED, &["matrix"]));
    insta::assert_snapshot!("matrix-json", printed(MIXED, &["matrix", "--json"]));
    insta::assert_snapshot!("mdev-show", printed(MIXED, &["mdev", "show"]));
    insta::assert_snapshot!("mdev-export", printed(MIXED, &["mdev", "export", ONE]));
    insta::assert_snapshot!("mask", printed(MIXED, &["mask", "apmask"]) + &printed(MIXED, &["mask"]));
    insta::assert_snapshot!("plan", printed(MIXED, &["plan", "assign", ONE, "--domain", "0x47"]));
    insta::assert_snapshot!("plan-refused", printed(MIXED, &["plan", "assign", ONE, "--adapter", "8"]));
    insta::assert_snapshot!("plan-unplug", printed(MIXED, &["plan", "unbind", "5.4"]));
    insta::assert_snapshot!("plan-mask", printed(MIXED, &["plan", "mask", "apmask", "-8"]));
    insta::assert_snapshot!("explain", printed(MIXED, &["explain"]));
    let matrix = ["explain", "--adapter", "5,8", "--domain", "4", "--control-domain", "10"];
    insta::assert_snapshot!("explain-matrix", printed(MIXED, &matrix));
    let refused = printed(MIXED, &["unassign", ONE, "--adapter", "5"]);
    assert!(refused.contains("a description does nothing") && refused.contains("EROFS"), "{refused}");
    assert!(printed(MIXED, &["mdev", "show", TWO]).contains(&format!("no mdev {TWO}")));
}

fn mixed() -> Snapshot {
    ApHost::rehearsal_of(&Description::from_json(MIXED).unwrap()).snapshot()
}

/// The kernel's number with the model's words: who has the queue, and the command that frees it.
#[test]
fn refusals_name_the_remedy() {
    let state = mixed();
    let operation = operations(&["assign", ONE, "--adapter", "8"]).remove(0);
    let kernel = backend::remote("EADDRNOTAVAIL", "write to x: Cannot assign requested address".into());
    let text = explain(&real(), &state, &operation, &kernel);
    let remedies = "\nremedy:\n  adjunct ap mask apmask -0x8\nor:\n  adjunct ap mask aqmask -0x4";
    assert!(text.ends_with(remedies), "{text}");
    // Where the operator is, there the remedy is to be done.
    let there = Place { guest: Some("unix:/run/my guest".into()), ..real() };
    let text = explain(&there, &state, &operation, &kernel);
    assert!(text.contains("\n  adjunct ap --guest 'unix:/run/my guest' mask apmask -0x8\n"), "{text}");
    let other = backend::remote("EIO", "write to x: failed".into());
    assert_eq!(explain(&real(), &state, &operation, &other), "write to x: failed (EIO)");
}

/// Every flag that names a place is in the commands for it, so that a command copied from the screen goes where it is meant.
#[test]
fn commands_name_their_place() {
    #[track_caller]
    fn check(flags: &[&str], want: &str) {
        let words = [flags, &["list"]].concat();
        let ap = Words::try_parse_from(words).unwrap().ap;
        let place = Place { host: ap.host, guest: ap.guest, description: ap.description, sysfs: ap.sysfs };
        let unbind = Operation::Unbind { queue: Apqn(0x0504) };
        assert_eq!(grammar::command_line(&place, &unbind), format!("adjunct ap {want}unbind 05.0004"));
        let again: Vec<&str> = want.split_whitespace().chain(["unbind", "05.0004"]).collect();
        let again = Words::try_parse_from(again).unwrap().ap;
        let again = Place {
            host: again.host,
            guest: again.guest,
            description: again.description,
            sysfs: again.sysfs,
        };
        assert_eq!(again.flags(), place.flags());
    }
    check(&[], "");
    check(&["--host", "unix:/run/ap"], "--host unix:/run/ap ");
    check(&["--guest", "unix:q1"], "--guest unix:q1 ");
    check(&["--sysfs", "/tmp/sys"], "--sysfs /tmp/sys ");
    check(&["--sysfs", "/sys"], "");
    check(&["--description", "h.json"], "--description h.json ");
}

/// One's own cells and another's look different, whatever is wrong with them.
#[test]
fn pictures_tell_devices_apart() {
    let (one, two): (Uuid, Uuid) = (ONE.parse().unwrap(), TWO.parse().unwrap());
    let mut state = ApHost::builtin().snapshot();
    for mdev in state.mdevs.iter_mut().filter(|mdev| mdev.uuid == one || mdev.uuid == two) {
        mdev.attached = true;
    }
    let change = |state: &Snapshot, words: &[&str]| state.after(&operations(words).remove(0));
    let picture = |state: &Snapshot, this| picture::Picture::of(state, this).to_string();
    insta::assert_snapshot!("picture-of-any", picture(&state, None));
    insta::assert_snapshot!("picture-of-one", picture(&state, Some(one)));
    insta::assert_snapshot!("picture-of-two", picture(&state, Some(two)));
    let offline = change(&state, &["adapter", "offline", "5"]);
    let offline = change(&offline, &["adapter", "checkstop", "0xa"]);
    let mut offline = change(&offline, &["unbind", "6.4"]);
    offline.mdevs[0].matrix.aqm.set(9);
    insta::assert_snapshot!("picture-of-trouble", picture(&offline, Some(one)));
}
