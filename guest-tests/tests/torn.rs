//! Masks are never torn: two CPUs read their configuration with PQAP(QCI) again and again, while the host
//! replaces a matrix by its complement and back.

#![forbid(unsafe_code)]

use crycb::{Mask256, Matrix};
use guest_tests::{Ap, Guest, Program, Running, assemble};

const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
/// How often the matrix is replaced.
const REPLACEMENTS: u64 = 10_000;
/// How many whole blocks of each of the two each CPU sees at least.
const SEEN: u64 = 10_000;

/// Each CPU counts the blocks that hold the one matrix, the other one, and anything else, of which it keeps the
/// last. %r9 is the CPU's area: three counters, then from 32 the block that was torn, from 256 the QCI block.
const PROGRAM: &str = "
start:  llilf %r5,0x10000               # CPU 1 begins at `restart`, its prefix area at 10000
        mvc 0x1a0(96,%r5),0x1a0(%r0)
        lghi %r2,1
prefix: sigp %r5,%r2,13
        jh prefix
        jnz wrong
again:  sigp %r5,%r2,6
        jh again
        jnz wrong
        larl %r9,area0
        j loop
restart: larl %r9,area1
loop:   llilf %r0,0x04000000            # QCI
        la %r2,256(%r9)
        .long 0xb2af0000
        jnz wrong
        larl %r8,one
        clc 256+16(96,%r9),0(%r8)
        je first
        larl %r8,other
        clc 256+16(96,%r9),0(%r8)
        je second
        mvc 32(96,%r9),256+16(%r9)
        la %r6,16(%r9)
        j count
second: la %r6,8(%r9)
        j count
first:  la %r6,0(%r9)
count:  lg %r7,0(%r6)
        aghi %r7,1
        stg %r7,0(%r6)
        lgrl %r7,stop
        ltgr %r7,%r7
        jz loop
        larl %r1,done
        lpswe 0(%r1)
wrong:  larl %r1,crash
        lpswe 0(%r1)

        .balign 8
done:   .quad 0x0002000180000000, 0xfff
crash:  .quad 0x0002000180000000, 0xbad
stop:   .quad 0
one:    .skip 96
other:  .skip 96
        .balign 512
area0:  .skip 512
area1:  .skip 512
";

/// APM, AQM and ADM as the QCI block has them.
fn image(matrix: &Matrix) -> Vec<u8> {
    [matrix.apm, matrix.aqm, matrix.adm].iter().flat_map(|mask| mask.to_bytes()).collect()
}

fn complement(matrix: &Matrix) -> Matrix {
    let not = |mask: Mask256| Mask256::from_bytes(mask.to_bytes().map(|byte| !byte));
    Matrix { apm: not(matrix.apm), aqm: not(matrix.aqm), adm: not(matrix.adm) }
}

/// A guest whose two CPUs run the program, between `matrix` and its complement.
fn start(matrix: &Matrix) -> (Program, Running) {
    let program = assemble(0x2000, PROGRAM);
    let guest = Guest::new(&program, 2, Ap::Mdev(MDEV));
    guest.write(program.label("one"), &image(matrix));
    guest.write(program.label("other"), &image(&complement(matrix)));
    let guest = guest.start();
    // What the mediated device has is neither of the two.
    guest.replace_crycb(matrix);
    guest.until("both CPUs", |guest| [0, 1].iter().all(|&cpu| counts(&program, guest, cpu)[0] > 0));
    (program, guest)
}

fn area(program: &Program, cpu: u64) -> u64 {
    program.label("area0") + 512 * cpu
}

fn counts(program: &Program, guest: &Running, cpu: u64) -> [u64; 3] {
    [0, 8, 16].map(|at| guest.doubleword(area(program, cpu) + at))
}

/// Bits in every word of every mask, and in none alike.
fn matrix() -> Matrix {
    let mask = |seed: u8| Mask256::from_bytes(std::array::from_fn(|n| (n as u8).wrapping_mul(37) ^ seed));
    Matrix { apm: mask(0x5a), aqm: mask(0xa3), adm: mask(0x1c) }
}

#[test]
fn no_block_mixes_two_matrices() {
    let one = matrix();
    let other = complement(&one);
    let (program, guest) = start(&one);
    let torn = || [0, 1].map(|cpu| counts(&program, &guest, cpu)[2]);
    let before = torn();
    let seen = |guest: &Running| [0, 1].map(|cpu| counts(&program, guest, cpu));
    let enough = |guest: &Running| seen(guest).iter().all(|seen| seen[..2].iter().all(|&n| n >= SEEN));
    let mut replaced = 0;
    while replaced < REPLACEMENTS || !enough(&guest) {
        guest.replace_crycb(if replaced % 2 == 0 { &other } else { &one });
        replaced += 1;
        if replaced % 333 == 0 {
            // Finds a guest that has ended, and lets a CPU run that shares our processor.
            let before = seen(&guest);
            guest
                .until("a round", |guest| seen(guest).iter().zip(before).all(|(now, before)| *now != before));
        }
    }
    println!("{replaced} replacements, blocks of the one, the other, neither: {:?}", seen(&guest));
    assert_eq!(torn(), before, "blocks that mix the two");
    guest.write(program.label("stop"), &1u64.to_be_bytes());
    guest.end().done();
}

/// The program does tell a torn block: one mask is replaced after the other.
#[test]
fn a_change_in_two_steps_is_seen() {
    let one = matrix();
    let other = complement(&one);
    let (program, guest) = start(&one);
    let torn = |guest: &Running| [0, 1].map(|cpu| counts(&program, guest, cpu)[2]);
    let before = torn(&guest);
    guest.replace_crycb(&Matrix { apm: other.apm, ..one });
    guest.until("torn blocks", |guest| torn(guest).iter().zip(before).all(|(&now, before)| now > before));
    guest.replace_crycb(&other);
    guest.write(program.label("stop"), &1u64.to_be_bytes());
    let ended = guest.end().done();
    let seen = ended.bytes(area(&program, 0) + 32, 96);
    assert_eq!(seen, image(&Matrix { apm: other.apm, ..one }));
}
