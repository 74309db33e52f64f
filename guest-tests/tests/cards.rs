//! A guest and each kind of card: reset, interruption set-up, a request of its driver, the wait for the
//! adapter interruption, the reply.

#![forbid(unsafe_code)]

use std::sync::OnceLock;

use guest_tests::{Ap, Ended, Guest, assemble, request};
use openssl::pkey::Private;
use openssl::rsa::{Padding, Rsa};

/// 05 (CCA) and 06 (accelerator) by 04 and ab.
const CCA_AND_ACCELERATOR: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
/// 0a (EP11) by 47 and ff.
const EP11: &str = "e30ddaa2-2543-4240-86fe-e71b8ef90447";

/// Every step stores what it answered; anything unexpected ends in a wait at an odd place.
const PROGRAM: &str = "
        .set ISC,3
start:  larl %r1,cr6
        lctlg %c6,%c6,0(%r1)

        llilf %r0,0x01000000+APQN       # RAPQ
        .long 0xb2af0000
        jz reset
        jno wrong                       # condition code 3: in progress is fine too
        srlg %r2,%r1,16
        nilf %r2,0xff
        cgfi %r2,2
        jne wrong
reset:  llilf %r0,0x00800000+APQN       # TAPQ with the T bit, until the reset has ended
        .long 0xb2af0000
        jnz reset
        stgrl %r1,after_reset
        stgrl %r2,information

        llilf %r0,0x03000000+APQN       # AQIC
        llihf %r1,0x00008000
        oill %r1,ISC
        larl %r2,notification
        .long 0xb2af0000
        jnz wrong
enable: llilf %r0,APQN                  # TAPQ, until interruptions are enabled
        .long 0xb2af0000
        jnz wrong
        lgr %r3,%r1
        nilf %r3,0x01000000
        jz enable
        stgrl %r1,after_enable

        llilf %r0,0x40000000+APQN       # NQAP
        llilf %r2,0x11223344
        llilf %r3,0x55667788
        larl %r4,message
        llilf %r5,LENGTH
        .long 0xb2ad0024
        jnz wrong
        stgrl %r1,after_nqap
        stgrl %r5,left
        larl %r1,wait
        lpswe 0(%r1)

io:     larl %r1,interruption
        mvc 0(12,%r1),0xb8(%r0)
        mvc 12(1,%r1),notification-interruption(%r1)
        mvc 16(16,%r1),0x170(%r0)
        llilf %r0,0x80000000+APQN       # DQAP
        lghi %r2,0
        lghi %r6,-1
        lghi %r7,-1
        larl %r4,reply
        llilf %r5,0x3000
        .long 0xb2ae0064
        jnz wrong
        stgrl %r1,after_dqap
        stgrl %r6,psmid
        stgrl %r7,psmid+8
        stgrl %r5,room
        .long 0xb2ae0064                # nothing is left
        ipm %r5
        stgrl %r1,after_all
        larl %r1,done
        lpswe 0(%r1)
wrong:  stgrl %r1,after_all
        larl %r1,crash
        lpswe 0(%r1)

        .balign 8
cr6:    .quad 0x10000000                # ISC 3
wait:   .quad 0x0202000180000000, 0
done:   .quad 0x0002000180000000, 0xfff
crash:  .quad 0x0002000180000000, 0xbad
after_reset: .quad 0
information: .quad 0
after_enable: .quad 0
after_nqap: .quad 0
left:   .quad 99
after_dqap: .quad 0
psmid:  .quad 0, 0
room:   .quad 0
after_all: .quad 0
interruption: .skip 32
notification: .byte 0
        .balign 8
message: .skip 0x2000
reply:  .skip 0x3000
";

/// What the guest found out.
struct Reply {
    /// TAPQ's description of the queue.
    information: u64,
    bytes: Vec<u8>,
}

/// Sends `message` to `apqn`, checks every step on the way and gives the reply.
#[track_caller]
fn send(mdev: &'static str, apqn: u16, message: &[u8]) -> Reply {
    let source = PROGRAM.replace("APQN", &apqn.to_string()).replace("LENGTH", &message.len().to_string());
    let program = assemble(0x2000, &source);
    let guest = Guest::new(&program, 1, Ap::Mdev(mdev));
    assert!(message.len() <= 0x2000);
    guest.write(program.label("message"), message);
    let ended: Ended = guest.run().done();
    let word = |label: &str| ended.doubleword(program.label(label));

    const EMPTY: u64 = 0x8000_0000;
    const ENABLED: u64 = 0x0100_0000;
    const NO_REPLY: u64 = 0x0010_0000;
    assert_eq!(word("after_reset"), EMPTY);
    assert_eq!(word("after_enable"), EMPTY | ENABLED);
    assert_eq!(word("after_nqap") & !EMPTY & 0xff_0000, 0, "NQAP's response code");
    assert_eq!(word("left"), 0, "bytes of the message that NQAP did not take");
    // Subsystem identification and parameter are zero; A bit and ISC 3; the notification byte; the wait PSW.
    let interruption = ended.doublewords(program.label("interruption"), 4);
    assert_eq!(interruption[..2], [0, 0x9800_0000_0100_0000]);
    assert_eq!(interruption[2..], [0x0202_0001_8000_0000, 0], "interrupted in the wait");
    assert_eq!(word("after_dqap"), EMPTY | ENABLED);
    assert_eq!(ended.doublewords(program.label("psmid"), 2), [0xffff_ffff_1122_3344, 0xffff_ffff_5566_7788]);
    assert_eq!(word("after_all"), EMPTY | ENABLED | NO_REPLY);
    let length = 0x3000 - word("room");
    let bytes = ended.bytes(program.label("reply"), length as usize + 8);
    assert_eq!(bytes[length as usize..], [0; 8], "behind the reply");
    Reply { information: word("information"), bytes: bytes[..length as usize].to_vec() }
}

impl Reply {
    /// Mode bit (3: CCA, 4: accelerator, 5: EP11) and hardware type.
    fn card(&self) -> (u32, u8) {
        ((self.information >> 58 & 7) as u32, (self.information >> 24) as u8)
    }

    fn word(&self, at: usize) -> usize {
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn half(&self, at: usize) -> usize {
        u16::from_be_bytes(self.bytes[at..at + 2].try_into().unwrap()).into()
    }

    /// The two blocks of a type-86 reply without error.
    #[track_caller]
    fn blocks(&self) -> [&[u8]; 2] {
        assert_eq!(self.bytes[..5], [0, 0x86, 2, 0, 0], "no error");
        [0x10, 0x18].map(|at| &self.bytes[self.word(at + 4)..][..self.word(at)])
    }
}

fn key() -> &'static Rsa<Private> {
    static KEY: OnceLock<Rsa<Private>> = OnceLock::new();
    KEY.get_or_init(|| Rsa::generate(2048).unwrap())
}

/// A message, its private-key result by OpenSSL, and what `request` makes of both.
fn rsa(request: impl Fn(request::CrtKey<'_>, &[u8; 256]) -> Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let message: [u8; 256] = std::array::from_fn(|n| if n == 0 { 0 } else { (n * 11 + 5) as u8 });
    let parts = [key().p(), key().q(), key().dmp1(), key().dmq1(), key().iqmp()];
    let parts = parts.map(|part| part.expect("a private key has it").to_vec());
    let mut result = vec![0; 256];
    key().private_encrypt(&message, &mut result, Padding::NONE).unwrap();
    (request(parts.each_ref().map(Vec::as_slice), &message), result)
}

#[test]
fn an_accelerator_computes_rsa_with_crt_and_interrupts() {
    let (message, result) = rsa(request::accelerator_crt_2048);
    let reply = send(CCA_AND_ACCELERATOR, 0x06ab, &message);
    assert_eq!(reply.card(), (0b010, 14));
    assert_eq!(
        (reply.bytes[..2].to_vec(), reply.half(2), reply.bytes[4]),
        (vec![0, 0x80], reply.bytes.len(), 0)
    );
    assert_eq!(reply.bytes[reply.bytes.len() - 256..], result);
}

#[test]
fn a_cca_coprocessor_gives_random_bytes_and_interrupts() {
    let random = || {
        let reply = send(CCA_AND_ACCELERATOR, 0x0504, &request::cca_random(4, 4096));
        assert_eq!((reply.card(), reply.half(0x30 + 0x90)), ((0b100, 14), 0));
        let [_, data] = reply.blocks();
        assert_eq!(data.len(), 4096);
        // Bits of 4096 random bytes: about half are ones.
        let ones: u32 = data.iter().map(|byte| byte.count_ones()).sum();
        assert!((15_500..17_300).contains(&ones), "{ones} ones of 32768");
        data.to_vec()
    };
    assert_ne!(random(), random());
}

#[test]
fn a_cca_coprocessor_computes_rsa_with_crt_and_interrupts() {
    let (message, result) = rsa(|key, message| request::cca_private_2048(4, key, message));
    let reply = send(CCA_AND_ACCELERATOR, 0x0504, &message);
    assert_eq!((reply.half(0x30 + 0x90), reply.half(0x30 + 0x92)), (0, 0), "return and reason code");
    // Control block of 220 bytes, function code, rules, then the data with its length.
    let [control, _] = reply.blocks();
    assert_eq!(u16::from_be_bytes([control[224], control[225]]), 258);
    assert_eq!(control[226..482], result);
}

#[test]
fn an_ep11_coprocessor_describes_its_module_and_interrupts() {
    let reply = send(EP11, 0x0a47, &request::ep11_module_query(0x47));
    assert_eq!(reply.card(), (0b001, 14));
    let [control, data] = reply.blocks();
    assert!(data.is_empty());
    // Behind the control block: sequence, function, domain, return code, then the information.
    let payload = &control[32..];
    assert_eq!(payload[4..10], [4, 4, 0, 1, 0, 0x26]);
    assert_eq!(payload[10..16], [4, 4, 0, 0, 0, 0x47]);
    assert_eq!(payload[16..24], [4, 4, 0, 0, 0, 0, 4, 0x82]);
    let module = &payload[26..];
    assert_eq!((&module[..8], &module[8..10]), (&[0, 0, 0, 6, 0, 0, 0, 1][..], &[8, 4][..]));
    assert_eq!(module[108..124], *b"93AADHZU93082244");
}
