//! RSA-2048 private operations per second on one core: a card's CRT requests next to OpenSSL's own signing, as
//! `openssl speed rsa2048` does it, in interleaved rounds of one process.
//!
//! Prints a line per figure; with `--json` one JSON object per line. Each line has the medians of the card's rate and of
//! OpenSSL's, and the median of the rounds' ratios. A number as argument sets the seconds of a round (default 1).

use ap::card::{Accelerator, Card, CcaCoprocessor, CcaDescription, OpensslRandom, Session};
use openssl::pkey::{PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Rsa;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
const LEN: usize = 256;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|a| a == "--json");
    let seconds = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(1.0);
    let time = Duration::from_secs_f64(seconds);

    let rsa = Rsa::generate(2048).expect("OpenSSL makes a key");
    let session = Session::new(Arc::new(OpensslRandom));
    let cards: [(&str, Box<dyn Card>, Vec<u8>); 2] = [
        ("accelerator", Box::new(Accelerator::new(14)), type50(&rsa)),
        ("cca", Box::new(CcaCoprocessor::new(14, CcaDescription::default())), type6(&rsa)),
    ];
    for (_, card, request) in &cards {
        let reply = card.process(&session, 0, request);
        assert!(matches!(reply[1], 0x80 | 0x86) && reply.len() > LEN, "the card refuses the request");
    }
    let key = PKey::from_rsa(rsa).expect("OpenSSL takes its key");
    for (name, card, request) in &cards {
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let our = rate(time, || {
                black_box(card.process(&session, 0, black_box(request)));
            });
            let their = signing_rate(time, &key);
            ours.push(our);
            theirs.push(their);
            ratios.push(our / their);
        }
        let (ours, theirs, ratio) = (median(ours), median(theirs), median(ratios));
        let name = format!("rsa2048-crt-{name}");
        if json {
            println!(
                "{{\"name\":\"{name}\",\"ours\":{ours:.1},\"theirs\":{theirs:.1},\"ratio\":{ratio:.4}}}"
            );
        } else {
            println!("{name}: {ours:.0}/s, OpenSSL {theirs:.0}/s, ratio {ratio:.3}");
        }
    }
}

/// Signatures per second with PKCS #1 padding of a digest's length, through EVP like `openssl speed`.
fn signing_rate(time: Duration, key: &PKey<Private>) -> f64 {
    let mut context = PkeyCtx::new(key).expect("OpenSSL makes a context");
    context.sign_init().expect("the key signs");
    let mut signature = [0; LEN];
    rate(time, || {
        context.sign(black_box(&[0x5a; 36]), Some(&mut signature)).expect("OpenSSL signs");
        black_box(&signature);
    })
}

/// Runs of `work` per second of processor time: what else the host does is not counted, as with `openssl speed`.
fn rate(time: Duration, mut work: impl FnMut()) -> f64 {
    let (start, clock, mut count) = (Instant::now(), processor_time(), 0_u32);
    while start.elapsed() < time {
        for _ in 0..16 {
            work();
        }
        count += 16;
    }
    let used = match (clock, processor_time()) {
        (Some(from), Some(to)) => to - from,
        _ => start.elapsed(),
    };
    f64::from(count) / used.as_secs_f64()
}

/// Processor time of this thread, as Linux's scheduler counts it.
fn processor_time() -> Option<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    times.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// p, q, dp, dq and u, each with `front` zero bytes before.
fn parts(rsa: &Rsa<Private>, front: [usize; 5]) -> Vec<u8> {
    let parts = [rsa.p(), rsa.q(), rsa.dmp1(), rsa.dmq1(), rsa.iqmp()];
    let bytes = |(part, front): (Option<&openssl::bn::BigNumRef>, usize)| {
        part.and_then(|p| p.to_vec_padded((LEN / 2 + front) as i32).ok()).expect("the key has its parts")
    };
    parts.into_iter().zip(front).flat_map(bytes).collect()
}

fn message() -> Vec<u8> {
    let mut message = vec![0x5a; LEN];
    message[0] = 0;
    message
}

/// A CRT request to an accelerator.
fn type50(rsa: &Rsa<Private>) -> Vec<u8> {
    let mut request = vec![0, 0x50, 0x03, 0x90, 0, 0, 0, 0, 0, 0x12, 0, 0, 0, 0, 0, 0];
    request.extend(parts(rsa, [0; 5]));
    request.extend(message());
    request
}

/// PKA DECRYPT with a clear CRT token, to a CCA coprocessor.
fn type6(rsa: &Rsa<Private>) -> Vec<u8> {
    let key = parts(rsa, [8, 0, 8, 0, 8]);
    let mut section = vec![0; 132];
    section[0] = 8;
    section[28] = 0x40;
    for (at, len) in [(54, 136), (56, 128), (58, 136), (60, 128), (62, 136), (64, LEN)] {
        section[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
    }
    section.extend(key);
    section.extend([0xff; LEN]);
    let len = section.len() as u16;
    section[2..4].copy_from_slice(&len.to_be_bytes());

    let mut control = vec![0; 220];
    control[..3].copy_from_slice(&[0, 0xdc, 2]);
    control[6..8].copy_from_slice(b"T2");
    control.extend(b"PD\0\x0aZERO-PAD");
    control.extend((LEN as u16 + 2).to_be_bytes());
    control.extend(message());
    control.extend((len + 14).to_be_bytes());
    control.extend((len + 12).to_be_bytes());
    control.extend([0, 0, 0x1e, 0]);
    control.extend((len + 8).to_be_bytes());
    control.extend([0; 4]);
    control.extend(section);
    let parameters = control.len() as u32 - 220;
    control[0xc..0x10].copy_from_slice(&parameters.to_be_bytes());

    let mut request = vec![0; 0x58];
    request[1] = 6;
    request[0x13] = 0x58;
    request[0x20..0x22].copy_from_slice(b"CA");
    request[0x38..0x3c].copy_from_slice(&(control.len() as u32).to_be_bytes());
    request[0x48..0x4c].copy_from_slice(&0x724_u32.to_be_bytes());
    request.extend(control);
    request
}
