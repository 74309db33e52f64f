//! Messages that a guest sends with NQAP, as the emulated cards answer them.

use ap::card::{Card, SeededRandom, Session, emulate};
use ap::host::Description;
use std::sync::{Arc, LazyLock};

/// The cards of the built-in host: a CCA coprocessor, an accelerator, an EP11 coprocessor.
static CARDS: LazyLock<Vec<Arc<dyn Card>>> =
    LazyLock::new(|| Description::builtin().adapters().iter().map(emulate).collect());

/// Byte 0 chooses the card, byte 1 is the domain, then comes the message. It is sent twice, for what a card remembers.
pub fn messages(input: &[u8]) {
    let [card, domain, message @ ..] = input else { return };
    let card = &CARDS[usize::from(*card) % CARDS.len()];
    let limit = card.facts().max_message;
    if message.len() > limit {
        // The queue answers 15 to these.
        return;
    }
    let session = Session::new(Arc::new(SeededRandom::new(0)));
    for _ in 0..2 {
        let reply = card.process(&session, *domain, message);
        assert!((8..=limit).contains(&reply.len()), "a reply of {} bytes", reply.len());
        assert!(matches!(reply[1], 0x80 | 0x82 | 0x86 | 0x88), "a reply of type {:02x}", reply[1]);
    }
}

/// Places of the built-in cards by what they do.
fn place(bit: impl Fn(ap::card::Mode) -> bool) -> Option<u8> {
    CARDS.iter().position(|card| bit(card.facts().mode)).map(|at| at as u8)
}

pub fn seeds() -> Vec<Vec<u8>> {
    use ap::card::Mode;
    let to = |mode, messages: Vec<Vec<u8>>| {
        let card = place(|m| m == mode).expect("the built-in host has a card of each kind");
        messages.into_iter().map(move |message| [&[card, 0], &message[..]].concat())
    };
    let number = |len: usize, value: &[u8]| [&vec![0; len - value.len()], value].concat();
    let accelerator = vec![
        type50(1, &[number(128, &[1, 0, 1]), number(128, &[0xff; 128]), number(128, &[2])]),
        type50(2, &[number(256, &[3]), number(256, &[0xfd; 256]), number(256, &[7; 255])]),
        // p = 61, q = 53.
        type50(
            0x11,
            &[
                number(64, &[61]),
                number(64, &[53]),
                number(64, &[53]),
                number(64, &[49]),
                number(64, &[38]),
                number(128, &[65]),
            ],
        ),
    ];
    let cca = vec![
        cca(b"RL", b"RANDOM  ", &[], 4096),
        cca(b"FQ", b"STATICSA", &[], 0),
        cca(b"FQ", b"STATICSB", &[], 0),
        cca(b"PK", b"MRP     ", &public_key(), 0),
        cca(b"PD", b"ZERO-PAD", &public_key(), 0),
    ];
    let ep11 = [1, 3].map(ep11_query).to_vec();
    to(Mode::Accelerator, accelerator).chain(to(Mode::Cca, cca)).chain(to(Mode::Ep11, ep11)).collect()
}

fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    message[at..at + bytes.len()].copy_from_slice(bytes);
}

fn length(len: usize) -> [u8; 4] {
    (len as u32).to_be_bytes()
}

fn type50(format: u16, fields: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![0; 16];
    message[1] = 0x50;
    put(&mut message, 8, &format.to_be_bytes());
    message.extend(fields.concat());
    let len = (message.len() as u16).to_be_bytes();
    put(&mut message, 2, &len);
    message
}

fn type6(agent: &[u8], function: &[u8], reply: (usize, usize), control: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 0x58];
    message[1] = 6;
    put(&mut message, 0x10, &length(0x58));
    put(&mut message, 0x20, agent);
    put(&mut message, 0x34, function);
    put(&mut message, 0x38, &length(control.len()));
    put(&mut message, 0x48, &length(reply.0));
    put(&mut message, 0x4c, &length(reply.1));
    message.extend(control);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn cca(function: &[u8; 2], rule: &[u8; 8], key_block: &[u8], data: usize) -> Vec<u8> {
    let mut parameters = [&function[..], &[0, 10], rule, &[0, 34], &[1; 32]].concat();
    parameters.extend((key_block.len() as u16 + 2).to_be_bytes());
    parameters.extend(key_block);
    let mut control = vec![0; 0xdc];
    put(&mut control, 0, &[0, 0xdc, 2]);
    put(&mut control, 6, b"T2");
    put(&mut control, 0xc, &length(parameters.len()));
    put(&mut control, 0x1c, &length(data));
    control.extend(parameters);
    type6(b"CA", function, (0x724, data), &control)
}

/// A token with a public-key section: exponent 3, a modulus of 32 bytes.
fn public_key() -> Vec<u8> {
    let section = [&[4, 0, 0, 45, 0, 0, 0, 1, 1, 0, 0, 32, 3][..], &[0xfd; 32]].concat();
    let len = section.len() as u16 + 8;
    [&(len + 4).to_be_bytes()[..], &[0, 0, 0x1e, 0], &len.to_be_bytes(), &[0; 4], &section].concat()
}

fn ep11_query(kind: u8) -> Vec<u8> {
    let word = |value: u32| [&[4, 4], &value.to_be_bytes()[..]].concat();
    let fields = [word(1 << 16 | 38), word(0), word(kind.into()), word(0)].concat();
    let payload = [&[0x30, 0x82, 0, fields.len() as u8], &fields[..]].concat();
    let mut control = vec![0; 0x20];
    put(&mut control, 0, &[0, 0x20, 4]);
    put(&mut control, 6, b"T4");
    put(&mut control, 0x1c, &length(payload.len()));
    control.extend(payload);
    let mut message = type6(b"XC", b"", (4096, 0), &control);
    put(&mut message, 0x30, &[0, 1]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the seeds are for: the fuzzer begins behind the checks of the headers.
    #[test]
    fn seeds_get_answers_that_are_no_refusals() {
        for seed in seeds() {
            let session = Session::new(Arc::new(SeededRandom::new(0)));
            let reply = CARDS[usize::from(seed[0])].process(&session, seed[1], &seed[2..]);
            let kind = seed.get(2..4).map(|header| (header[1], reply[1]));
            assert!(
                matches!(kind, Some((0x50, 0x80 | 0x88) | (6, 0x86))),
                "{kind:02x?} {:02x?}",
                &reply[..8]
            );
        }
    }
}
