//! QCI blocks and CRYCBs, and the filter.

use crycb::filter::{QueueTable, filter as both_filters, passable_after};
use crycb::{Apqn, CRYCB_SIZE, Crycb, CrycbFormat, CrycbView, Mask256, Matrix, QCI_SIZE, Qci};
use std::collections::BTreeMap;

/// The first 128 bytes as a QCI block, the first 256 as a CRYCB of each format. What follows names queues.
pub fn blocks(input: &[u8]) {
    if let Some(block) = input.first_chunk::<QCI_SIZE>() {
        let qci = Qci::from_bytes(block);
        let mut stored = *block;
        stored[6..0x10].fill(0);
        stored[0x70..].fill(0);
        assert_eq!(qci.to_bytes(), stored);
        assert_eq!(Qci::from_bytes(&stored), qci);
    }
    let Some((block, queues)) = input.split_first_chunk::<CRYCB_SIZE>() else { return };
    for format in [CrycbFormat::Format0, CrycbFormat::Format1, CrycbFormat::Format2] {
        let view = CrycbView::new(format, block);
        let matrix = view.matrix();
        assert_eq!(format.holds(&matrix), matrix, "{format:?}: more than the format can hold");
        for queue in queues.chunks_exact(2) {
            let apqn = Apqn(u16::from_be_bytes([queue[0], queue[1]]));
            assert_eq!(view.test(apqn), matrix.test(apqn), "{format:?}: {apqn}");
        }
        let mut crycb = Crycb::from_bytes(format, *block);
        assert_eq!(crycb.bytes(), block);
        crycb.set_matrix(&matrix);
        assert_eq!(crycb.view().matrix(), matrix);
        assert_eq!(crycb.bytes()[0x48..0x80], block[0x48..0x80], "the wrapping-key masks stay");
        let other = if format == CrycbFormat::Format2 { CrycbFormat::Format1 } else { CrycbFormat::Format2 };
        let seen = CrycbView::new(other, crycb.bytes()).matrix();
        assert_eq!(seen, Matrix::EMPTY, "{format:?}: a right left for another format");
        crycb.set_matrix(&Matrix::EMPTY);
        assert_eq!(crycb.view().matrix(), Matrix::EMPTY);
    }
    for word in block.chunks_exact(4) {
        let word = u32::from_be_bytes(word.try_into().expect("4 bytes"));
        if let Some((origin, format)) = CrycbFormat::from_designation(word) {
            assert_eq!(CrycbFormat::from_designation(format.designation(origin)), Some((origin, format)));
        }
    }
}

pub fn block_seeds() -> Vec<Vec<u8>> {
    let matrix = Matrix {
        apm: Mask256::EMPTY.with(5).with(0xab),
        aqm: Mask256::EMPTY.with(4).with(0x47),
        adm: Mask256::ALL,
    };
    let queues = [0x05, 0x04, 0xab, 0x47];
    [CrycbFormat::Format0, CrycbFormat::Format2]
        .into_iter()
        .map(|format| [&Crycb::new(format, &matrix).bytes()[..], &queues].concat())
        .chain([Qci { na: 0x3f, nd: 0x54, matrix, ..Qci::default() }.to_bytes().to_vec()])
        .collect()
}

/// Assigned, host and previous matrix as lists of numbers behind a length, then queues: APID, APQI, response code of the last
/// reset, or FF for unbound.
pub fn filter(input: &[u8]) {
    let mut rest = input;
    let mut mask = || {
        let (&len, after) = rest.split_first().unwrap_or((&0, &[]));
        let (numbers, after) = after.split_at(after.len().min(len.into()));
        rest = after;
        // One number stands for all, so that the host can have everything with one byte.
        if numbers == [0xff] { Mask256::ALL } else { numbers.iter().copied().collect() }
    };
    let mut matrix = || Matrix { apm: mask(), aqm: mask(), adm: mask() };
    let (assigned, host, previous) = (matrix(), matrix(), matrix());
    let (mut table, mut queues) = (QueueTable::new(), BTreeMap::new());
    for queue in rest.chunks_exact(3) {
        let apqn = Apqn(u16::from_be_bytes([queue[0], queue[1]]));
        let last_reset = Some(queue[2]).filter(|&rc| rc != 0xff);
        table.set(apqn, last_reset);
        queues.insert(apqn, last_reset);
    }

    let got = both_filters(&assigned, &host, &table, &previous);
    let bound = |apqn: Apqn| queues.get(&apqn).copied().flatten();
    assert_eq!(got, both_filters(&assigned, &host, &bound, &previous));
    assert_eq!(got.changed, got.guest != previous);
    assert!(got.removed.is_subset(&previous.apm) && !got.removed.intersects(&got.guest.apm));
    assert_eq!((got.guest.aqm, got.guest.adm), (assigned.aqm & host.aqm, assigned.adm & host.adm));
    let both = assigned.and(&host);
    for apid in &both.apm {
        let complete = both
            .aqm
            .iter()
            .all(|apqi| bound(Apqn(u16::from(apid) << 8 | u16::from(apqi))).is_some_and(passable_after));
        assert_eq!(got.guest.apm.test(apid), complete, "adapter {apid:02x}");
    }
    assert!(got.guest.apm.is_subset(&both.apm));
    for apqn in got.resets(&table) {
        assert!(
            bound(apqn).is_some() && got.removed.test(apqn.apid().0) && got.guest.aqm.test(apqn.apqi().0)
        );
    }
    assert!(!both_filters(&assigned, &host, &table, &got.guest).changed);
}

pub fn filter_seeds() -> Vec<Vec<u8>> {
    let matrix: &[u8] = &[2, 4, 5, 3, 0x04, 0x22, 0x35, 1, 4];
    let all: &[u8] = &[1, 0xff, 1, 0xff, 1, 0xff];
    let queues: &[u8] = &[4, 4, 0, 4, 0x22, 3, 4, 0x35, 4, 5, 4, 0, 5, 0x22, 1, 5, 0x35, 0xff];
    vec![[matrix, all, matrix, queues].concat(), [all, all, all].concat()]
}
