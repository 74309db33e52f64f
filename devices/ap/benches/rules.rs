//! What an event costs in the driver's rules on the largest host there is: 256 adapters and 256 domains, every queue bound.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use ap::host::{Attribute, Permissions, VfioAp};
use criterion::{Criterion, criterion_group, criterion_main};
use crycb::{Apqn, Mask256, Matrix};
use uuid::Uuid;

fn events(c: &mut Criterion) {
    let all = Matrix { apm: Mask256::ALL, aqm: Mask256::ALL, adm: Mask256::ALL };
    let mut driver = VfioAp::new(all, 255, 255);
    let mdev = Uuid::nil();
    driver.create(mdev).expect("the first");
    let permissions = Permissions::for_guests();
    (0..=0xffff).for_each(|apqn| drop(driver.probe(Apqn(apqn), 0)));
    let masks = format!("{0},{0},{0}", Mask256::ALL);
    drop(driver.write(mdev, &Attribute::ApConfig(masks), &permissions).expect("nobody else has them"));

    let mut group = c.benchmark_group("256 x 256 queues");
    let write = |driver: &mut VfioAp, attribute: Attribute| {
        driver.write(mdev, &attribute, &permissions).expect("nobody else has them")
    };
    group.bench_function("assign_domain and unassign_domain", |b| {
        b.iter(|| {
            let gone = write(&mut driver, Attribute::UnassignDomain("7".into()));
            (gone, write(&mut driver, Attribute::AssignDomain("7".into())))
        });
    });
    group.bench_function("unbind and bind of a queue", |b| {
        b.iter(|| (driver.remove(Apqn(0x0507)), driver.probe(Apqn(0x0507), 0)));
    });
    group.finish();
}

criterion_group!(benches, events);
criterion_main!(benches);
