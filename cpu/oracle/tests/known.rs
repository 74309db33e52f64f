//! The oracle answers what the Principles of Operation says, for instructions computed by hand.

use oracle::layout::{SLOT, TARGET, WINDOWS};
use oracle::{Case, Oracle, Outcome, State, instruction_length, psw};

/// Runs all cases in one go; each expectation looks at one answer.
fn check(rows: Vec<Row>) {
    let mut oracle = match Oracle::start() {
        Ok(oracle) => oracle,
        Err(error) => return println!("skipped: {error}"),
    };
    let cases: Vec<Case> = rows.iter().map(|row| row.case.clone()).collect();
    let answers = oracle.run(&cases).expect("the oracle runs");
    for (row, answer) in rows.iter().zip(answers) {
        let name = row.name;
        let length = instruction_length(row.case.instruction[0]) as u64;
        let (outcome, address) = match row.program {
            None => (Outcome::Completed, row.branch.unwrap_or(SLOT + length)),
            Some((code, translation_exception, dxc)) => {
                let nullified = matches!(code, 0x10 | 0x11 | 0x38 | 0x39 | 0x3a | 0x3b);
                let ilc = row.ilc.unwrap_or(length as u8);
                let address = if nullified { SLOT } else { SLOT + length };
                (Outcome::Program { code, ilc, translation_exception, dxc }, row.branch.unwrap_or(address))
            }
        };
        assert_eq!((answer.outcome, answer.address), (outcome, address), "{name}");
        let mut expected = row.case.state.clone();
        (row.effect)(&mut expected);
        assert_eq!(answer.state, expected, "{name}");
    }
}

struct Row {
    name: &'static str,
    case: Case,
    effect: fn(&mut State),
    program: Option<(u16, u64, u8)>,
    branch: Option<u64>,
    ilc: Option<u8>,
}

fn row(name: &'static str, bytes: &[u8], before: fn(&mut State), effect: fn(&mut State)) -> Row {
    let mut instruction = [0; 6];
    instruction[..bytes.len()].copy_from_slice(bytes);
    let mut state = State::default();
    before(&mut state);
    Row { name, case: Case::new(instruction, state), effect, program: None, branch: None, ilc: None }
}

/// A row that ends in a program interruption and changes nothing.
fn fails(name: &'static str, bytes: &[u8], before: fn(&mut State), program: (u16, u64, u8)) -> Row {
    Row { program: Some(program), ..row(name, bytes, before, |_| {}) }
}

fn set_cc(state: &mut State, cc: u8) {
    *state = state.clone().with_cc(cc);
}

const A: u64 = WINDOWS[0];
const B: u64 = WINDOWS[1];

#[test]
fn general_instructions() {
    let mut execute = row(
        "EX of MVC, length from register 5",
        &[0x44, 0x50, 0x60, 0x00],
        |s| {
            (s.gr[1], s.gr[2], s.gr[5], s.gr[6]) = (A, B, 2, TARGET);
            s.windows[1][..4].copy_from_slice(b"abcd");
        },
        |s| s.windows[0][..3].copy_from_slice(b"abc"),
    );
    execute.case.target = Some([0xd2, 0x00, 0x10, 0x00, 0x20, 0x00]);
    let mut privileged = execute_of_privileged();
    privileged.ilc = Some(4);
    check(vec![
        row(
            "AR overflows",
            &[0x1a, 0x12],
            |s| (s.gr[1], s.gr[2]) = (0x5555_5555_7fff_ffff, 1),
            |s| {
                s.gr[1] = 0x5555_5555_8000_0000;
                set_cc(s, 3);
            },
        ),
        row("AGR", &[0xb9, 0x08, 0x00, 0x34], |s| (s.gr[3], s.gr[4]) = (u64::MAX, 1), |s| s.gr[3] = 0),
        row(
            "SLLG",
            &[0xeb, 0x56, 0x70, 0x04, 0x00, 0x0d],
            |s| (s.gr[6], s.gr[7]) = (0x8000_0000_0000_0003, 57 + 64),
            |s| s.gr[5] = 0x6000_0000_0000_0000,
        ),
        row(
            "IPM",
            &[0xb2, 0x22, 0x00, 0x80],
            |s| {
                s.gr[8] = u64::MAX;
                set_cc(s, 2);
            },
            |s| s.gr[8] = 0xffff_ffff_20ff_ffff,
        ),
        row(
            "MVC across a page boundary",
            &[0xd2, 0x03, 0x10, 0xfe, 0x20, 0x00],
            |s| {
                (s.gr[1], s.gr[2]) = (A, B);
                s.windows[1][..4].copy_from_slice(b"wxyz");
            },
            |s| s.windows[0][254..258].copy_from_slice(b"wxyz"),
        ),
        row(
            "CLC finds the first operand low",
            &[0xd5, 0x01, 0x10, 0x00, 0x20, 0x00],
            |s| (s.gr[1], s.gr[2], s.windows[1][1]) = (A, B, 1),
            |s| set_cc(s, 1),
        ),
        row(
            "CVB",
            &[0x4f, 0x30, 0x10, 0x08],
            |s| (s.gr[1], s.windows[0][14], s.windows[0][15]) = (A, 0x12, 0x3d),
            |s| s.gr[3] = 0xffff_ff85,
        ),
        row(
            "STCM",
            &[0xbe, 0x35, 0x10, 0x00],
            |s| (s.gr[1], s.gr[3]) = (A, 0x1122_3344),
            |s| s.windows[0][..2].copy_from_slice(&[0x22, 0x44]),
        ),
        Row {
            branch: Some(SLOT + 0x40),
            ..row("BRAS", &[0xa7, 0xe5, 0x00, 0x20], |_| {}, |s| s.gr[14] = SLOT + 4)
        },
        Row {
            branch: Some(SLOT - 0x10),
            ..row("BRC with the mask of cc 2", &[0xa7, 0x24, 0xff, 0xf8], |s| set_cc(s, 2), |_| {})
        },
        execute,
        privileged,
    ]);
}

/// EXECUTE of a privileged instruction: the instruction length is EXECUTE's.
fn execute_of_privileged() -> Row {
    let mut row = fails("EX of SSM", &[0x44, 0x00, 0x60, 0x00], |s| s.gr[6] = TARGET, (0x02, 0, 0));
    row.case.target = Some([0x80, 0x00, 0x10, 0x00, 0, 0]);
    row
}

#[test]
fn floating_point() {
    check(vec![
        row(
            "ADBR 1.5 + 2.25",
            &[0xb3, 0x1a, 0x00, 0x12],
            |s| (s.fpr[1], s.fpr[2]) = (1.5f64.to_bits(), 2.25f64.to_bits()),
            |s| {
                s.fpr[1] = 3.75f64.to_bits();
                set_cc(s, 2);
            },
        ),
        row(
            "DDBR by zero, masked off",
            &[0xb3, 0x1d, 0x00, 0x12],
            |s| s.fpr[1] = 1.0f64.to_bits(),
            |s| (s.fpr[1], s.fpc) = (f64::INFINITY.to_bits(), 0x0040_0000),
        ),
        Row {
            effect: |s| s.fpc = 0x4000_4000,
            ..fails(
                "DDBR by zero, masked on",
                &[0xb3, 0x1d, 0x00, 0x12],
                |s| (s.fpr[1], s.fpc) = (1.0f64.to_bits(), 0x4000_0000),
                (0x07, 0, 0x40),
            )
        },
    ]);
}

#[test]
fn exceptions() {
    let wild = Row {
        branch: Some(0x1234_5678),
        ilc: Some(2),
        ..fails("BR to nowhere", &[0x07, 0xf1], |s| s.gr[1] = 0x1234_5678, (0x10, 0x1234_5800, 0))
    };
    check(vec![
        wild,
        fails("operation", &[0x00, 0x00], |_| {}, (0x01, 0, 0)),
        fails("privileged", &[0x80, 0x00, 0x00, 0x00], |_| {}, (0x02, 0, 0)),
        fails("specification: odd pair", &[0x1c, 0x12], |_| {}, (0x06, 0, 0)),
        fails("divide", &[0x1d, 0x24], |_| {}, (0x09, 0, 0)),
        fails("data: bad decimal", &[0x4f, 0x30, 0x10, 0x00], |s| s.gr[1] = A, (0x07, 0, 0)),
        fails("store past window B", &[0x50, 0x00, 0x10, 0x00], |s| s.gr[1] = B + 510, (0x11, 0x3_3400, 0)),
        fails("store into the code page", &[0x50, 0x00, 0x10, 0x00], |s| s.gr[1] = SLOT, (0x04, 0x2_0404, 0)),
    ]);
}

#[test]
fn states_other_than_the_usual() {
    check(vec![
        row(
            "31-bit addressing ignores the upper half of a base",
            &[0x58, 0x30, 0x10, 0x00],
            |s| {
                s.psw_mask = psw::BASIC | psw::PROBLEM | psw::DAT;
                (s.gr[1], s.windows[0][3]) = (0xffff_ffff_8000_0000 | A, 7);
            },
            |s| s.gr[3] = 7,
        ),
        row(
            "supervisor without DAT",
            &[0xe3, 0x30, 0x10, 0x00, 0x00, 0x04],
            |s| {
                s.psw_mask = psw::EXTENDED;
                (s.gr[1], s.windows[0][7]) = (A, 9);
            },
            |s| s.gr[3] = 9,
        ),
        row(
            "control registers of the case",
            &[0xb7, 0x22, 0x10, 0x00],
            |s| {
                s.psw_mask = psw::EXTENDED;
                s.cr = Some(Box::new(oracle::layout::default_cr()));
                (s.gr[1], s.windows[0][3]) = (A, 0x40);
            },
            |s| s.cr.as_mut().expect("given")[2] = 0x40,
        ),
    ]);
}

/// A case that never ends is named, and the next one is answered all the same.
#[test]
fn a_hung_case_is_named() {
    let mut oracle = match Oracle::start() {
        Ok(oracle) => oracle,
        Err(error) => return println!("skipped: {error}"),
    };
    let add = Case::new([0x1a, 0x11, 0, 0, 0, 0], State::default());
    let forever = Case::new([0xa7, 0xf4, 0, 0, 0, 0], State::default());
    let answers = oracle.run(&[add.clone(), forever, add]).expect("the oracle runs");
    let outcomes: Vec<Outcome> = answers.iter().map(|answer| answer.outcome).collect();
    assert_eq!(outcomes, [Outcome::Completed, Outcome::Hung, Outcome::Completed]);
}

#[test]
fn a_hundred_thousand_cases_keep_their_order() {
    let mut oracle = match Oracle::start() {
        Ok(oracle) => oracle,
        Err(error) => return println!("skipped: {error}"),
    };
    let cases: Vec<Case> = (0..100_000u64)
        .map(|i| {
            let mut state = State::default();
            state.gr[1] = i;
            let immediate = (i / 50 % 1000) as u16;
            let [high, low] = immediate.to_be_bytes();
            Case::new([0xa7, 0x1b, high, low, 0, 0], state)
        })
        .collect();
    let start = std::time::Instant::now();
    let answers = oracle.run(&cases).expect("the oracle runs");
    println!("{} cases in {:?} on {}", cases.len(), start.elapsed(), oracle.version());
    for (i, answer) in (0..).zip(answers) {
        assert_eq!(answer.state.gr[1], i + i / 50 % 1000);
    }
}
