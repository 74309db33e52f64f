//! What the cards make of the driver's requests, and of broken ones.

mod build;

use super::*;
use crate::host::{HeldKey, MasterKey, MasterKeys, NewKey, NewWrappingKey, Pattern};
use build::{crt50, fq, key, mex50, padded, parts, pd, pk, rl, text, xcp};
use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::pkey::Private;
use openssl::rsa::{Padding, Rsa};
use proptest::prelude::*;

const DOMAIN: u8 = 0x47;

fn session() -> Session {
    Session::new(Arc::new(SeededRandom::new(0)))
}

fn accelerator() -> Accelerator {
    Accelerator::new(14)
}

fn cca() -> CcaCoprocessor {
    CcaCoprocessor::new(14, CcaDescription::default())
}

fn ep11() -> Ep11Coprocessor {
    Ep11Coprocessor::new(14, Ep11Description::default())
}

fn private(rsa: &Rsa<Private>, message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; rsa.size() as usize];
    rsa.private_encrypt(message, &mut out, Padding::NONE).unwrap();
    out
}

fn public(rsa: &Rsa<Private>, message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; rsa.size() as usize];
    rsa.public_encrypt(message, &mut out, Padding::NONE).unwrap();
    out
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn half(bytes: &[u8], at: usize) -> usize {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn ask(card: &dyn Card, request: &[u8]) -> Vec<u8> {
    card.process(&session(), DOMAIN, request)
}

/// The type and code of an error reply, or the codes of a CPRBX.
fn error(reply: &[u8]) -> (u8, usize, usize) {
    match reply[1] {
        kind @ (0x82 | 0x88) => {
            assert_eq!(reply.len(), 8);
            (kind, reply[4].into(), 0)
        }
        0x86 => (0x86, half(reply, 0x30 + 0x90), half(reply, 0x30 + 0x92)),
        kind => (kind, reply[4].into(), 0),
    }
}

/// What `zcrypt_msgtype50.c` copies out of a reply, with its checks.
fn result50(reply: &[u8], len: usize) -> &[u8] {
    assert_eq!((reply[0], reply[1], reply[4]), (0, 0x80, 0));
    assert_eq!(half(reply, 2), reply.len());
    assert!((16 + len..=0x210).contains(&reply.len()));
    &reply[reply.len() - len..]
}

/// What `zcrypt_msgtype6.c` copies out of the reply to an RSA request, with its checks.
fn result6(reply: &[u8], len: usize) -> &[u8] {
    assert_eq!(error(reply), (0x86, 0, 0));
    assert_eq!((reply[2], reply[4], reply[0x30 + 2]), (2, 0, 2));
    assert_eq!(274 + half(reply, 0x110), reply.len());
    assert_eq!(word(reply, 8 + 8) + word(reply, 8 + 12), reply.len());
    let data = &reply[0x112..][..half(reply, 0x110) - 2];
    assert_eq!(data.len(), len);
    data
}

/// The same for requests that programs build: control block and data.
fn blocks(reply: &[u8]) -> (&[u8], &[u8]) {
    assert_eq!((reply[1], reply[2], reply[4]), (0x86, 2, 0));
    let block = |at: usize| &reply[word(reply, 8 + at + 4)..][..word(reply, 8 + at)];
    let (count1, offset1, count2, offset2) =
        (word(reply, 0x10), word(reply, 0x14), word(reply, 0x18), word(reply, 0x1c));
    assert_eq!(if count2 != 0 { offset2 + count2 } else { offset1 + count1 }, reply.len());
    assert_eq!(offset2 + count2, reply.len(), "as older kernels reckon");
    (block(8), block(16))
}

#[test]
fn cards_of_a_description() {
    for (json, mode, hardware_type) in [
        (r#"{"adapter": 6, "type": "CEX4A"}"#, Mode::Accelerator, 10),
        (r#"{"adapter": 5, "type": "CEX8C", "serial": "01234567"}"#, Mode::Cca, 14),
        (
            r#"{"adapter": 10, "type": "CEX7P", "serial": "0123456789ABCDEF", "ep11":
                {"api_ordinal": 4, "firmware_id": 7, "firmware_version": "7.9"}}"#,
            Mode::Ep11,
            13,
        ),
    ] {
        let card = emulate(&serde_json::from_str(json).unwrap());
        assert_eq!((card.facts().mode, card.facts().hardware_type), (mode, hardware_type));
        match mode {
            Mode::Accelerator => (),
            Mode::Cca => assert_eq!(facility(&*card, DOMAIN, b"STATICSA").0[..8], *b"01234567"),
            Mode::Ep11 => {
                let module = query(&*card, 1, 196);
                assert_eq!((word(&module, 0), word(&module, 4), half(&module, 8)), (4, 7, 0x709));
                assert_eq!(module[108..124], *b"0123456789ABCDEF");
            }
        }
    }
}

#[test]
fn rsa_of_every_size() {
    for bits in [512, 1024, 2048, 4096] {
        let (rsa, len) = (key(bits), bits as usize / 8);
        let message = text(len);
        let (signed, verified) = (private(rsa, &message), public(rsa, &message));
        let (n, e) = (rsa.n().to_vec(), rsa.e().to_vec());
        let session = session();
        for round in 0..3 {
            let ask = |card: &dyn Card, request: Vec<u8>| card.process(&session, DOMAIN, &request);
            let reply = ask(&accelerator(), crt50(parts(rsa), message.clone()));
            assert_eq!(result50(&reply, len), signed, "{bits}, round {round}");
            let reply = ask(&accelerator(), mex50(n.clone(), e.clone(), message.clone()));
            assert_eq!(result50(&reply, len), verified);
            let reply = ask(&accelerator(), mex50(n.clone(), rsa.d().to_vec(), message.clone()));
            assert_eq!(result50(&reply, len), signed);
            assert_eq!(result6(&ask(&cca(), pd(parts(rsa), &message)), len), signed);
            assert_eq!(result6(&ask(&cca(), pk(&n, &e, &message)), len), verified);
            assert_eq!(result6(&ask(&cca(), pk(&n, &rsa.d().to_vec(), &message)), len), signed);
        }
        assert_eq!(session.key_count(), 1, "one key, however it is padded");
    }
}

#[test]
fn request_lengths_are_the_drivers() {
    for (bits, mex, crt) in [(1024, 0x190, 0x1d0), (2048, 0x310, 0x390), (4096, 0x610, 0x710)] {
        let (rsa, len) = (key(bits), bits as usize / 8);
        assert_eq!(mex50(rsa.n().to_vec(), rsa.e().to_vec(), text(len)).len(), mex);
        assert_eq!(crt50(parts(rsa), text(len)).len(), crt);
    }
    assert_eq!(rl(4096).len(), 0x58 + 220 + 16);
    assert_eq!(fq(b"STATICSA").len(), 0x58 + 4332);
    assert_eq!(xcp(0x10026, 1).len(), 0x58 + 32 + 28);
}

/// A key from the primes p and q (any odd numbers) and d, the CRT parts worked out here.
struct Made([BigNum; 5], BigNum);

impl Made {
    fn new(p: &BigNumRef, q: &BigNumRef, d: &BigNumRef) -> Self {
        let ctx = &mut *BigNumContext::new().unwrap();
        let less = |x: &BigNumRef| {
            let mut r = x.to_owned().unwrap();
            r.sub_word(1).unwrap();
            r
        };
        let (mut dp, mut dq, mut u, mut n) =
            (BigNum::new().unwrap(), BigNum::new().unwrap(), BigNum::new().unwrap(), BigNum::new().unwrap());
        dp.nnmod(d, &less(p), ctx).unwrap();
        dq.nnmod(d, &less(q), ctx).unwrap();
        u.mod_inverse(q, p, ctx).unwrap();
        n.checked_mul(p, q, ctx).unwrap();
        Self([p.to_owned().unwrap(), q.to_owned().unwrap(), dp, dq, u], n)
    }

    fn parts(&self) -> [&BigNumRef; 5] {
        self.0.each_ref().map(|x| &**x)
    }

    /// A private operation on both cards, three times, against plain exponentiation.
    fn check(&self, d: &BigNumRef, what: &str) {
        // The driver gives each prime half the message's length.
        let size = |x: &BigNumRef| x.num_bytes() as usize;
        let n = size(&self.1);
        let len = n.max(2 * size(&self.0[0])).max(2 * size(&self.0[1]));
        let session = session();
        for round in 0_u8..3 {
            let message = [&vec![0; len - n], &text(n)[..n - 1], &[round]].concat();
            let (mut want, m) = (BigNum::new().unwrap(), BigNum::from_slice(&message).unwrap());
            want.mod_exp(&m, d, &self.1, &mut BigNumContext::new().unwrap()).unwrap();
            let want = padded(&want, len);
            let reply = accelerator().process(&session, DOMAIN, &crt50(self.parts(), message.clone()));
            assert_eq!(result50(&reply, len), want, "{what}");
            let reply = cca().process(&session, DOMAIN, &pd(self.parts(), &message));
            assert_eq!(result6(&reply, len), want, "{what}");
        }
        assert_eq!(session.key_count(), 1);
    }
}

#[test]
fn unusual_keys() {
    let rsa = key(1024);
    let [p, q, ..] = parts(rsa);
    let ctx = &mut *BigNumContext::new().unwrap();
    let (mut p1, mut q1, mut phi) = (p.to_owned().unwrap(), q.to_owned().unwrap(), BigNum::new().unwrap());
    p1.sub_word(1).unwrap();
    q1.sub_word(1).unwrap();
    phi.checked_mul(&p1, &q1, ctx).unwrap();

    Made::new(p, q, rsa.d()).check(rsa.d(), "as made");
    Made::new(q, p, rsa.d()).check(rsa.d(), "p below q");

    // Exponents: tiny, above 64 bits, and above both primes, where dp and dq alone do not tell it.
    let mut large = BigNum::new().unwrap();
    large.lshift(p, 40).unwrap();
    let from = |n: u64| BigNum::from_slice(&n.to_be_bytes()).unwrap();
    for start in [from(3), from(u64::MAX), p.to_owned().unwrap(), large] {
        let (mut e, mut d) = (start, BigNum::new().unwrap());
        while d.mod_inverse(&e, &phi, ctx).is_err() {
            e.add_word(1).unwrap();
        }
        Made::new(p, q, &d).check(&d, &format!("e of {} bits", e.num_bits()));
        // The small exponent as private one.
        Made::new(p, q, &e).check(&e, &format!("d of {} bits", e.num_bits()));
    }
    let one = from(1);
    Made::new(p, q, &one).check(&one, "d = 1");

    // Primes of different length, and a toy.
    let mut small = BigNum::new().unwrap();
    small.generate_prime(200, false, None, None).unwrap();
    for (p, q) in [(p, &*small), (&*small, p)] {
        let (mut e, mut d, mut f) = (from(65537), BigNum::new().unwrap(), small.to_owned().unwrap());
        f.sub_word(1).unwrap();
        phi.checked_mul(&p1, &f, ctx).unwrap();
        while d.mod_inverse(&e, &phi, ctx).is_err() {
            e.add_word(1).unwrap();
        }
        Made::new(p, q, &d).check(&d, "unequal primes");
    }
    Made::new(&from(61), &from(53), &from(2753)).check(&from(2753), "n = 3233");
}

/// "Primes" that are none: the card still computes what its parts say, and the same each time.
#[test]
fn composite_primes_compute_as_the_parts_say() {
    let rsa = key(1024);
    let [p, q, ..] = parts(rsa);
    let ctx = &mut *BigNumContext::new().unwrap();
    let mut composite = p.to_owned().unwrap();
    composite.add_word(2).unwrap();
    let (mut e, mut d, mut phi, mut c1, mut q1) = (
        BigNum::from_u32(65537).unwrap(),
        BigNum::new().unwrap(),
        BigNum::new().unwrap(),
        composite.to_owned().unwrap(),
        q.to_owned().unwrap(),
    );
    c1.sub_word(1).unwrap();
    q1.sub_word(1).unwrap();
    phi.checked_mul(&c1, &q1, ctx).unwrap();
    while d.mod_inverse(&e, &phi, ctx).is_err() {
        e.add_word(2).unwrap();
    }
    let made = Made::new(&composite, q, &d);
    let session = session();
    for _ in 0..3 {
        let message = text(128);
        let reply = accelerator().process(&session, DOMAIN, &crt50(made.parts(), message.clone()));
        let result = BigNum::from_slice(result50(&reply, 128)).unwrap();
        let m = BigNum::from_slice(&message).unwrap();
        for (prime, exponent) in [(made.parts()[0], made.parts()[2]), (made.parts()[1], made.parts()[3])] {
            let (mut want, mut got) = (BigNum::new().unwrap(), BigNum::new().unwrap());
            want.mod_exp(&m, exponent, prime, ctx).unwrap();
            got.nnmod(&result, prime, ctx).unwrap();
            assert_eq!(got, want);
        }
    }
}

#[test]
fn refused_operands() {
    let (rsa, message) = (key(1024), text(128));
    let (n, e) = (rsa.n().to_vec(), rsa.e().to_vec());
    let even = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() &= !1;
        bytes
    };
    // Modulus, exponent, message; then what the accelerator and what the CCA coprocessor says.
    for (what, m, x, t, code, codes) in [
        ("even modulus", even(&n), e.clone(), message.clone(), 0x85, (8, 770)),
        ("modulus 0", vec![0; 128], e.clone(), message.clone(), 0x82, (8, 770)),
        ("modulus 1", [vec![0; 127], vec![1]].concat(), e.clone(), vec![0; 128], 0x82, (8, 770)),
        ("exponent 0", n.clone(), vec![0; 3], message.clone(), 0x82, (8, 770)),
        ("message = modulus", n.clone(), e.clone(), n.clone(), 0x82, (8, 66)),
        ("message above modulus", n.clone(), e.clone(), vec![0xff; 128], 0x82, (8, 66)),
    ] {
        let (rc, rs) = codes;
        assert_eq!(
            error(&ask(&accelerator(), &mex50(m.clone(), x.clone(), t.clone()))),
            (0x88, code, 0),
            "{what}"
        );
        let reply = ask(&cca(), &pk(&m, &x, &t));
        assert_eq!(error(&reply), (0x86, rc, rs), "{what}");
        // The driver finds the empty result where it looks for one, so it takes the codes, not a broken length.
        assert_eq!((half(&reply, 0x110), reply.len()), (2, 276));
    }

    let (zero, one, two) =
        (BigNum::new().unwrap(), BigNum::from_u32(1).unwrap(), BigNum::from_u32(2).unwrap());
    let twice = |x: &BigNumRef| {
        let mut r = BigNum::new().unwrap();
        r.rshift1(x).unwrap();
        if r.is_odd() {
            r.add_word(1).unwrap();
        }
        r
    };
    let [p, q, dp, dq, u] = parts(rsa);
    let (even_p, even_dp, other) = (twice(p), twice(dp), parts(key(512))[0]);
    for (what, parts, code) in [
        ("even p", [&even_p, q, dp, dq, u], 0x85),
        ("even q", [p, &even_p, dp, dq, u], 0x85),
        ("p = 0", [&zero, q, dp, dq, u], 0x82),
        ("p = 1", [&one, q, dp, dq, u], 0x82),
        ("q = 0", [p, &zero, dp, dq, u], 0x82),
        ("q = 2", [p, &two, dp, dq, u], 0x85),
        ("even dp", [p, q, &even_dp, dq, u], 0x82),
        ("dp = 0", [p, q, &zero, dq, u], 0x82),
        ("dq = 0", [p, q, dp, &zero, u], 0x82),
        ("u = 0", [p, q, dp, dq, &zero], 0x82),
        ("u of another key", [p, q, dp, dq, other], 0x82),
        ("p = q", [p, p, dp, dp, u], 0x82),
        ("p of another key", [other, q, dp, dq, u], 0x82),
    ] {
        let session = session();
        for _ in 0..2 {
            let reply = accelerator().process(&session, DOMAIN, &crt50(parts, message.clone()));
            assert_eq!(error(&reply), (0x88, code, 0), "{what}");
            assert_eq!(
                error(&cca().process(&session, DOMAIN, &pd(parts, &message))),
                (0x86, 8, 770),
                "{what}"
            );
        }
        assert_eq!(session.key_count(), 0, "{what}");
    }
    for message in [n.clone(), vec![0xff; 128]] {
        let session = session();
        for stored in [false, true] {
            let reply = accelerator().process(&session, DOMAIN, &crt50(parts(rsa), message.clone()));
            assert_eq!(error(&reply), (0x88, 0x82, 0));
            assert_eq!(error(&cca().process(&session, DOMAIN, &pd(parts(rsa), &message))), (0x86, 8, 66));
            if !stored {
                accelerator().process(&session, DOMAIN, &crt50(parts(rsa), text(128)));
            }
        }
    }
}

#[test]
fn keys_stay_in_their_session_and_are_bounded_and_wiped() {
    let (one, two) = (session(), session());
    let rsa = key(512);
    let request = crt50(parts(rsa), text(64));
    let signed = private(rsa, &text(64));
    accelerator().process(&one, DOMAIN, &request);
    assert_eq!((one.key_count(), two.key_count()), (1, 0));

    // A different private exponent makes a different key: more of them than are kept.
    let ctx = &mut *BigNumContext::new().unwrap();
    let mut invertible = |d: &BigNum| {
        [0, 1].iter().all(|i| {
            let mut order = parts(rsa)[*i].to_owned().unwrap();
            order.sub_word(1).unwrap();
            BigNum::new().unwrap().mod_inverse(d, &order, ctx).is_ok()
        })
    };
    let exponents = (0..).map(|i| BigNum::from_u32(65537 + 2 * i).unwrap()).filter(|d| invertible(d));
    for d in exponents.take(2 * Session::KEYS) {
        let made = Made::new(parts(rsa)[0], parts(rsa)[1], &d);
        accelerator().process(&one, DOMAIN, &crt50(made.parts(), text(64)));
        assert_eq!(result50(&accelerator().process(&one, DOMAIN, &request), 64), signed);
        assert!(one.key_count() <= Session::KEYS);
    }
    assert_eq!(one.key_count(), Session::KEYS);
    one.wipe();
    assert_eq!(one.key_count(), 0);
    assert_eq!(result50(&accelerator().process(&one, DOMAIN, &request), 64), signed);
    assert_eq!(one.key_count(), 1);
}

/// Requests on several threads while the queue is reset: results stay right, and no key survives the last wipe.
#[test]
fn wipe_while_computing() {
    let session = session();
    let rsa = key(512);
    let (request, signed) = (crt50(parts(rsa), text(64)), private(rsa, &text(64)));
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(result50(&accelerator().process(&session, DOMAIN, &request), 64), signed);
                }
            });
        }
        for _ in 0..200 {
            session.wipe();
        }
    });
    let name = [1; 32];
    let Err(ticket) = session.key(&name) else { panic!("an unknown key is there") };
    session.wipe();
    let (_, key) = (accelerator().process(&session, DOMAIN, &request), session.any_key());
    session.store(ticket, name, key);
    assert!(session.key(&name).is_err(), "a request from before the wipe brings no key back");
}

#[test]
fn random_bytes() {
    for len in [1, 4, 4095, 4096, 8192] {
        let mut request = rl(len);
        request[0x4c..0x50].copy_from_slice(&8192_u32.to_be_bytes());
        let reply = ask(&cca(), &request);
        let (control, data) = blocks(&reply);
        assert_eq!(error(&reply), (0x86, 0, 0));
        assert_eq!(control[220..], *b"RL\0\x02\0\x02\0\x02");
        assert_eq!((word(control, 0x18), word(control, 0x20)), (8, len as usize));
        let mut want = vec![0; len as usize];
        SeededRandom::new(0).fill(&mut want);
        assert_eq!(data, want);
    }
    for (len, room) in [(0, 4096), (8193, 9000), (u32::MAX, u32::MAX), (4096, 4095)] {
        let mut request = rl(len);
        request[0x4c..0x50].copy_from_slice(&room.to_be_bytes());
        assert_eq!(error(&ask(&cca(), &request)), (0x86, 8, 72), "{len}");
    }
}

/// Rule array and variable-length data of the reply to FQ.
fn facility(card: &dyn Card, domain: u8, rule: &[u8; 8]) -> (Vec<u8>, Vec<u8>) {
    let mut request = fq(rule);
    request[0x58 + 0xab] = domain;
    let reply = card.process(&session(), domain, &request);
    let (control, data) = blocks(&reply);
    assert!(data.is_empty());
    assert_eq!((control[0x90..0x94].to_vec(), control[220..222].to_vec()), (vec![0; 4], b"FQ".to_vec()));
    assert_eq!(word(control, 0x18), control.len() - 220);
    let rules = half(control, 222);
    let at = 222 + rules;
    let var = half(control, at);
    assert_eq!(control[at + var..], [0, 2]);
    (control[224..at].to_vec(), control[at + 2..at + var].to_vec())
}

#[test]
fn facility_of_each_domain() {
    let full = MasterKeys {
        aes: MasterKey {
            new: NewKey::Full(Pattern([1; 8])),
            current: HeldKey::Valid(Pattern([2; 8])),
            old: HeldKey::Valid(Pattern([3; 8])),
        },
        apka: MasterKey {
            new: NewKey::Partial(Pattern([4; 8])),
            current: HeldKey::Invalid,
            old: HeldKey::Valid(Pattern([6; 8])),
        },
        asym: MasterKey {
            new: NewKey::Full(Pattern([7; 16])),
            current: HeldKey::Valid(Pattern([8; 16])),
            old: HeldKey::Valid(Pattern([9; 16])),
        },
    };
    let mut description = CcaDescription::default();
    description.domains.insert(0xab, full);
    let card = CcaCoprocessor::new(14, description);

    let (rules, var) = facility(&card, 0xab, b"STATICSA");
    assert_eq!((rules.len(), var.len()), (80, 204));
    assert_eq!(rules[..8], *b"93AADFK7");
    let states = |rules: &[u8], from: usize| [rules[8 * from], rules[8 * from + 8], rules[8 * from + 16]];
    assert_eq!((states(&rules, 4), states(&rules, 7)), (*b"322", *b"322"));
    for (at, len, value) in [(64, 16, 9), (84, 16, 8), (104, 16, 7), (172, 8, 3), (184, 8, 2), (196, 8, 1)] {
        assert_eq!(var[at..at + len], vec![value; len], "{at}");
    }
    let (rules, var) = facility(&card, 0xab, b"STATICSB");
    assert_eq!((rules.len(), var.len()), (104, 240));
    assert_eq!(states(&rules, 10), *b"212");
    for (at, value) in [(208, 6), (220, 0), (232, 4)] {
        assert_eq!(var[at..at + 8], [value; 8], "{at}");
    }

    let (rules, var) = facility(&card, 4, b"STATICSA");
    assert_eq!((states(&rules, 4), states(&rules, 7)), (*b"121", *b"121"));
    assert_eq!(var[184..192], 0x6db1_f2c3_a49e_0857_u64.to_be_bytes());
    assert_eq!((&var[172..180], &var[196..204]), (&[0; 8][..], &[0; 8][..]));
}

/// The data of the reply to an EP11 query, with the checks of `zcrypt_ep11misc.c`.
fn query(card: &dyn Card, query: u32, buffer: usize) -> Vec<u8> {
    let reply = ask(card, &xcp(0x1_0026, query));
    let (control, data) = blocks(&reply);
    assert!(data.is_empty());
    assert!(control.len() <= 32 + 26 + buffer);
    assert_eq!((control[2], word(control, 0x10), word(control, 0x1c)), (4, 0, control.len() - 32));
    let payload = &control[32..];
    assert_eq!((payload[..2].to_vec(), half(payload, 2)), (vec![0x30, 0x82], payload.len() - 4));
    assert_eq!(payload[4..10], [4, 4, 0, 1, 0, 38]);
    assert_eq!(payload[10..16], [4, 4, 0, 0, 0, DOMAIN]);
    assert_eq!(payload[16..22], [4, 4, 0, 0, 0, 0]);
    assert_eq!(payload[22..24], [4, 0x82]);
    assert_eq!(half(payload, 24), payload.len() - 26);
    payload[26..].to_vec()
}

#[test]
fn ep11_information() {
    let mut description = Ep11Description::default();
    description.module.op_modes = vec!["FIPS2011".to_owned(), "BSICC2017".to_owned()].try_into().unwrap();
    description.domains.insert(
        DOMAIN,
        crate::host::WrappingKeys {
            current: HeldKey::Valid(Pattern([0x11; 32])),
            new: NewWrappingKey::Committed(Pattern([0x22; 32])),
        },
    );
    let card = Ep11Coprocessor::new(14, description);
    let module = query(&card, 1, 196);
    assert_eq!(module.len(), 196);
    assert_eq!((word(&module, 0), word(&module, 4)), (6, 1));
    assert_eq!(module[8..10], [8, 4]);
    assert_eq!(module[108..124], *b"93AADHZU93082244");
    assert_eq!(module[140..148], [0, 0, 0, 0, 0, 0, 0, 0x44]);

    let domain = query(&card, 3, 80);
    assert_eq!(domain.len(), 80);
    assert_eq!(word(&domain, 0), usize::from(DOMAIN));
    assert_eq!((&domain[4..36], &domain[36..68]), (&[0x11; 32][..], &[0x22; 32][..]));
    assert_eq!(word(&domain, 68), 0x1e);
    assert_eq!(domain[72..], [0, 0, 0, 0, 0, 0, 0, 0x44]);

    let domain = query(&ep11(), 3, 80);
    assert_eq!(word(&domain, 68), 0x12);
    assert_eq!(domain[36..68], [0; 32]);
}

#[test]
fn functions_that_are_not_there() {
    for (function, query) in [(0x1_0026, 2), (0x1_0026, 99), (0x1_0001, 1), (0, 0), (u32::MAX, 0)] {
        let reply = ask(&ep11(), &xcp(function, query));
        let (control, _) = blocks(&reply);
        assert_eq!(half(control, 34), 18);
        assert_eq!(control[36..42], [&[4, 4], &function.to_be_bytes()[..]].concat());
        assert_eq!(control[48..], [4, 4, 0, 0, 0, 0x54], "{function:x} {query}");
    }
    // An administrative request may name another domain, and is refused all the same.
    let mut request = xcp(0x1_0026, 1);
    request[0x58 + 5] = 0x80;
    request[0x58 + 0xf] = 1;
    assert_eq!(blocks(&ask(&ep11(), &request)).0[48..], [4, 4, 0, 0, 0, 0x54]);

    let changed = |mut request: Vec<u8>, at: usize, with: &[u8]| {
        request[at..at + with.len()].copy_from_slice(with);
        request
    };
    let parameters = 0x58 + 220;
    for (what, request, want) in [
        ("unknown verb", changed(rl(4), parameters, b"KG"), (0x86, 12, 335)),
        ("administration", changed(rl(4), 0x58 + 6, b"T3"), (0x86, 12, 335)),
        ("unknown rule", changed(rl(4), parameters + 4, b"ODD     "), (0x86, 8, 33)),
        ("rule of another verb", changed(fq(b"RANDOM  "), parameters, b"FQ"), (0x86, 8, 33)),
        ("other domain", changed(rl(4), 0x58 + 0xab, &[1]), (0x82, 0x8a, 0)),
        ("agent of EP11", changed(rl(4), 0x20, b"XC"), (0x82, 0x29, 0)),
        ("type 50", changed(rl(4), 1, &[0x50]), (0x82, 0x20, 0)),
        ("reserved block", changed(rl(4), 0x40, &[1]), (0x82, 0x24, 0)),
        ("offset of the CPRB", changed(rl(4), 0x13, &[0x5c]), (0x82, 0x29, 0)),
        ("CPRB length", changed(rl(4), 0x58, &[0, 0xdb]), (0x82, 0x40, 0)),
        ("CPRB version", changed(rl(4), 0x5a, &[4]), (0x82, 0x40, 0)),
        ("control block rounds to 0", changed(rl(4), 0x38, &[0xff; 4]), (0x82, 0xa0, 0)),
        ("control block of nothing", changed(rl(4), 0x38, &[0; 4]), (0x82, 0x40, 0)),
        ("parameters beyond", changed(rl(4), 0x58 + 0xc, &[0xff; 4]), (0x82, 0xa0, 0)),
        ("no parameters", changed(rl(4), 0x58 + 0xc, &[0; 4]), (0x82, 0x40, 0)),
        ("data beyond", changed(rl(4), 0x3c, &[0, 0, 0, 4]), (0x82, 0x40, 0)),
        ("data wraps", changed(changed(rl(4), 0x14, &[0xff; 4]), 0x3c, &[0xff; 4]), (0x82, 0xa0, 0)),
        ("rule length 0", changed(rl(4), parameters + 2, &[0, 0]), (0x82, 0x40, 0)),
        ("rule length 2", changed(rl(4), parameters + 2, &[0, 2]), (0x82, 0x40, 0)),
        ("no room for the reply", changed(rl(4), 0x48, &[0, 0, 0, 227]), (0x82, 0x80, 0)),
    ] {
        assert_eq!(error(&ask(&cca(), &request)), want, "{what}");
    }
    for (what, request, want) in [
        ("other target", changed(xcp(0x26, 1), 0x58 + 0xf, &[1]), (0x82, 0x8a, 0)),
        ("other domain", changed(xcp(0x26, 1), 0x58 + 0x2f, &[1]), (0x82, 0x8a, 0)),
        ("agent of CCA", changed(xcp(0x26, 1), 0x20, b"CA"), (0x82, 0x29, 0)),
        ("version", changed(xcp(0x26, 1), 0x5a, &[2]), (0x82, 0x40, 0)),
        ("payload beyond", changed(xcp(0x26, 1), 0x58 + 0x1c, &[0xff; 4]), (0x82, 0xa0, 0)),
        ("no payload", changed(xcp(0x26, 1), 0x58 + 0x1c, &[0; 4]), (0x82, 0x40, 0)),
        ("sequence beyond", changed(xcp(0x26, 1), 0x58 + 0x23, &[25]), (0x82, 0x40, 0)),
        ("indefinite length", changed(xcp(0x26, 1), 0x58 + 0x21, &[0x80]), (0x82, 0x40, 0)),
        ("length of lengths", changed(xcp(0x26, 1), 0x58 + 0x21, &[0x84]), (0x82, 0x40, 0)),
    ] {
        assert_eq!(error(&ask(&ep11(), &request)), want, "{what}");
    }
    let mex = || mex50(key(512).n().to_vec(), vec![3], text(64));
    for (what, request, want) in [
        ("type 6", changed(mex(), 1, &[6]), (0x82, 0x20, 0)),
        ("length", changed(mex(), 2, &[1, 0x91]), (0x82, 0x23, 0)),
        ("reserved field", changed(mex(), 10, &[1]), (0x82, 0x24, 0)),
        ("format 0", changed(mex(), 8, &[0, 0]), (0x82, 0x34, 0)),
        ("format 4", changed(mex(), 8, &[0, 4]), (0x82, 0x34, 0)),
        ("format 21", changed(mex(), 8, &[0, 0x21]), (0x82, 0x34, 0)),
        ("format 101", changed(mex(), 8, &[1, 1]), (0x82, 0x34, 0)),
        ("larger format", changed(mex(), 8, &[0, 2]), (0x82, 0x23, 0)),
        ("other operation", changed(mex(), 8, &[0, 0x11]), (0x82, 0x23, 0)),
    ] {
        assert_eq!(error(&ask(&accelerator(), &request)), want, "{what}");
    }
    // Byte 5 is ignored.
    assert_eq!(ask(&accelerator(), &changed(mex(), 5, &[0xff]))[1], 0x80);
}

#[test]
fn broken_tokens() {
    let (rsa, message) = (key(512), text(64));
    let changed = |request: &[u8], at: usize, with: &[u8]| {
        let mut request = request.to_vec();
        request[at..at + with.len()].copy_from_slice(with);
        request
    };
    // Key block: behind header, CPRBX, function code and rule, and the message with its length.
    let keys = 0x58 + 220 + 12 + 2 + 64;
    let (token, section) = (keys + 6, keys + 14);
    let encrypt = pk(&rsa.n().to_vec(), &rsa.e().to_vec(), &message);
    let decrypt = pd(parts(rsa), &message);
    for (what, at, with, want) in [
        ("key block beyond", keys, &[0xff, 0xff][..], (0x82, 0x40, 0)),
        ("key beyond", keys + 2, &[0xff, 0xff], (0x82, 0x40, 0)),
        ("key of nothing", keys + 2, &[0, 0], (0x82, 0x40, 0)),
        ("internal token", token, &[0x1f], (0x86, 8, 770)),
        ("token beyond", token + 2, &[0xff, 0xff], (0x86, 8, 770)),
        ("token of nothing", token + 2, &[0, 0], (0x86, 8, 770)),
        ("other section", section, &[2], (0x86, 8, 770)),
        ("section of nothing", section + 2, &[0, 0], (0x82, 0x40, 0)),
        ("section beyond", section + 2, &[0xff, 0xff], (0x82, 0x40, 0)),
    ] {
        assert_eq!(error(&ask(&cca(), &changed(&encrypt, at, with))), want, "PK {what}");
        assert_eq!(error(&ask(&cca(), &changed(&decrypt, at, with))), want, "PD {what}");
    }
    for (what, at, with, want) in [
        ("exponent beyond", section + 6, &[0xff, 0xff][..], (0x86, 8, 770)),
        ("modulus beyond", section + 10, &[0xff, 0xff], (0x86, 8, 770)),
        ("modulus of nothing", section + 10, &[0, 0], (0x86, 8, 770)),
        ("more bits than bytes", section + 8, &[2, 1], (0x86, 8, 770)),
        ("modulus shorter than text", section + 8, &[0, 8, 0, 63], (0x86, 8, 72)),
    ] {
        assert_eq!(error(&ask(&cca(), &changed(&encrypt, at, with))), want, "PK {what}");
    }
    for (what, at, with, want) in [
        ("enciphered", section + 28, &[0x42][..], (0x86, 8, 770)),
        ("p beyond", section + 54, &[0xff, 0xff], (0x86, 8, 770)),
        ("p of nothing", section + 54, &[0, 0], (0x86, 8, 770)),
        ("modulus beyond", section + 64, &[0xff, 0xff], (0x86, 8, 770)),
        ("modulus of nothing", section + 64, &[0, 0], (0x86, 8, 770)),
        ("padding beyond", section + 70, &[0xff, 0xff], (0x86, 8, 770)),
    ] {
        assert_eq!(error(&ask(&cca(), &changed(&decrypt, at, with))), want, "PD {what}");
    }
    // Without text, and with one longer than the modulus.
    assert_eq!(error(&ask(&cca(), &pk(&rsa.n().to_vec(), &[3], &[]))), (0x86, 8, 72));
    assert_eq!(error(&ask(&cca(), &pk(&rsa.n().to_vec(), &[3], &[0; 65]))), (0x86, 8, 72));
    assert_eq!(error(&ask(&cca(), &pk(&[0xff; 513], &[3], &message))), (0x86, 8, 65));
    assert_eq!(error(&ask(&cca(), &pk(&rsa.n().to_vec(), &[0xff; 600], &message))), (0x86, 8, 65));
}

/// Every valid request of small keys, with the card that answers it.
fn valid() -> Vec<(Arc<dyn Card>, Vec<u8>)> {
    let (rsa, message) = (key(512), text(64));
    let (n, e) = (rsa.n().to_vec(), rsa.e().to_vec());
    vec![
        (Arc::new(accelerator()), mex50(n.clone(), e.clone(), message.clone())),
        (Arc::new(accelerator()), crt50(parts(rsa), message.clone())),
        (Arc::new(cca()), pk(&n, &e, &message)),
        (Arc::new(cca()), pd(parts(rsa), &message)),
        (Arc::new(cca()), rl(64)),
        (Arc::new(cca()), fq(b"STATICSB")),
        (Arc::new(ep11()), xcp(0x1_0026, 1)),
        (Arc::new(ep11()), xcp(0x1_0026, 3)),
    ]
}

/// What every reply is, whatever the request: one of the forms that the driver knows, of a length that agrees.
fn check_form(card: &dyn Card, reply: &[u8]) {
    assert!(reply.len() <= card.facts().max_message);
    match (card.facts().mode, reply[1]) {
        (_, 0x82) | (Mode::Accelerator, 0x88) => assert_eq!(reply.len(), 8),
        (Mode::Accelerator, 0x80) => assert_eq!(half(reply, 2), reply.len()),
        (Mode::Cca, 0x86) => assert_eq!(blocks(reply).0[2], 2),
        (Mode::Ep11, 0x86) => assert_eq!(blocks(reply).0[2], 4),
        form => panic!("unknown reply {form:?}"),
    }
}

#[test]
fn truncated_requests() {
    let session = session();
    for (card, request) in valid() {
        let whole = card.process(&session, DOMAIN, &request);
        assert!(matches!(whole[1], 0x80 | 0x86));
        // Up to three bytes at the end may be padding, which nobody misses.
        let padding = if whole[1] == 0x86 { (request.len() - 0x58 - word(&request, 0x38)) % 4 } else { 0 };
        for len in 0..request.len() - padding {
            let reply = card.process(&session, DOMAIN, &request[..len]);
            assert_eq!(reply[1], 0x82, "{len} of {}", request.len());
            check_form(&*card, &reply);
        }
        // The same with a control block that claims no more than there is.
        for len in 0x58..request.len().min(0x400) {
            let mut request = request[..len].to_vec();
            request[0x38..0x3c].copy_from_slice(&(len as u32 - 0x58).to_be_bytes());
            check_form(&*card, &card.process(&session, DOMAIN, &request));
        }
    }
}

/// Each halfword set to each extreme.
#[test]
fn extreme_fields() {
    let session = session();
    for (card, request) in valid() {
        for at in (0..request.len().min(0x500) - 1).step_by(2) {
            for value in [0_u16, 1, 2, 3, 0x7fff, 0x8000, 0xfffd, 0xffff] {
                let mut request = request.clone();
                request[at..at + 2].copy_from_slice(&value.to_be_bytes());
                check_form(&*card, &card.process(&session, DOMAIN, &request));
            }
        }
    }
    assert!(session.key_count() <= Session::KEYS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn mutated_requests(
        which in 0..8_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        header in any::<bool>(),
        len in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (card, mut request) = valid().swap_remove(which);
        // Half of the time only where the lengths are.
        let end = if header { request.len().min(0x58 + 0x60) } else { request.len() };
        for (at, value) in changes {
            request[at.index(end)] = value;
        }
        if let Some(len) = len {
            request.truncate(len.index(request.len()));
        }
        check_form(&*card, &ask(&*card, &request));
    }

    #[test]
    fn noise(request in prop::collection::vec(any::<u8>(), 0..600)) {
        for card in [&accelerator() as &dyn Card, &cca(), &ep11()] {
            let reply = ask(card, &request);
            check_form(card, &reply);
        }
    }
}
