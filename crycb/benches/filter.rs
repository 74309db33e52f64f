//! What a change of assignment costs: the whole matrix of 256 adapters and 256 domains is filtered again.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{Criterion, criterion_group, criterion_main};
use crycb::filter::{QueueTable, filter};
use crycb::{Apqn, Mask256, Matrix};
use std::hint::black_box;

const ALL: Matrix = Matrix { apm: Mask256::ALL, aqm: Mask256::ALL, adm: Mask256::ALL };

fn full_matrix(c: &mut Criterion) {
    let mut all = QueueTable::new();
    (0..=0xffff).for_each(|q| all.set(Apqn(q), Some(0)));
    let mut incomplete = all.clone();
    (0..=0xff).for_each(|apid| incomplete.set(Apqn(apid << 8 | 0xff), None));

    let mut group = c.benchmark_group("filter 256 x 256");
    for (name, queues) in [("all bound", &all), ("each adapter lacks its last queue", &incomplete)] {
        group.bench_function(name, |b| {
            b.iter(|| filter(black_box(&ALL), black_box(&ALL), black_box(queues), black_box(&ALL)));
        });
    }
    group.bench_function("bind one queue, then filter", |b| {
        b.iter(|| {
            all.set(black_box(Apqn(0x8080)), black_box(Some(0)));
            filter(black_box(&ALL), black_box(&ALL), black_box(&all), black_box(&ALL))
        });
    });
    group.bench_function("reset list of 256 adapters", |b| {
        let filtered = filter(&ALL, &ALL, &incomplete, &ALL);
        b.iter(|| black_box(&filtered).resets(black_box(&incomplete)).map(|q| u64::from(q.0)).sum::<u64>());
    });
    group.finish();
}

criterion_group!(benches, full_matrix);
criterion_main!(benches);
