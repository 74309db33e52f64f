//! How long a plug takes until the guest has been told: the APCB written with two busy CPUs held off, and the channel report
//! pending.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use guest_tests::{Ap, Guest, assemble};

const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";

/// Both CPUs compute until they are stopped; nothing looks at the channel report.
const PROGRAM: &str = "
start:  llilf %r5,0x10000               # CPU 1 begins at `restart`, its prefix area at 10000
        mvc 0x1a0(96,%r5),0x1a0(%r0)
        lghi %r2,1
prefix: sigp %r5,%r2,13
        jh prefix
again:  sigp %r5,%r2,6
        jh again
restart: aghi %r7,1
        lgrl %r8,stop
        ltgr %r8,%r8
        jz restart
        larl %r1,done
        lpswe 0(%r1)
        .balign 8
done:   .quad 0x0002000180000000, 0xfff
stop:   .quad 0
";

fn plug(c: &mut Criterion) {
    let program = assemble(0x2000, PROGRAM);
    let stop = program.label("stop");
    let guest = Guest::new(&program, 2, Ap::Mdev(MDEV)).start();
    let host = guest.ap_host().clone();
    let mdev = MDEV.parse().expect("a UUID");
    let write = |name: &str| {
        let attribute = ap::host::Attribute::named(name, "0xa").expect("an attribute");
        host.write(mdev, &attribute).expect("the adapter is free");
    };
    c.bench_function("plug an adapter until the guest is told", |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let began = Instant::now();
                write("assign_adapter");
                took += began.elapsed();
                // The resets that come with it are not what is measured.
                write("unassign_adapter");
            }
            took
        });
    });
    guest.write(stop, &1u64.to_be_bytes());
    guest.end().done();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(5));
    targets = plug
}
criterion_main!(benches);
