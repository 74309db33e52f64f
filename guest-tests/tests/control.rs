//! Control instructions, protection, translation and interruptions as a program meets them.

#![forbid(unsafe_code)]

use guest_tests::{Ap, Ended, Guest, MODE_64, assemble};
use zarch::{lowcore, psw_bits};

const CODE: u64 = 0x4000;
/// Operands.
const DATA: u64 = 0x3_0000;
const SEGMENTS: u64 = 0x10_0000;
const PAGES: u64 = 0x10_1000;
/// A segment table for another space, in which the page at DATA is the frame at OTHER.
const OTHER_SEGMENTS: u64 = 0x10_2000;
const OTHER_PAGES: u64 = 0x10_3000;
const OTHER: u64 = 0x4_0000;
const DAT: u64 = MODE_64 | psw_bits::DAT;

/// A program with its mode, keys and table entries. It ends by itself or by a program interruption; the
/// program-interruption new PSW leads to a wait that says "done".
struct Test<'a> {
    source: &'a str,
    mask: u64,
    cr0: u64,
    /// Storage keys, set with SSKE before the program.
    keys: &'a [(u64, u8)],
    /// Doublewords in storage.
    storage: &'a [(u64, u64)],
}

const TEST: Test<'static> = Test { source: "", mask: MODE_64, cr0: 0xe0, keys: &[], storage: &[] };

impl Test<'_> {
    fn run(&self) -> Ended {
        let keys: String = self
            .keys
            .iter()
            .map(|(at, key)| format!(" lghi %r1,{key}\n llilf %r2,{at}\n sske %r1,%r2\n"))
            .collect();
        let source = format!(
            "start: {keys}
        lghi %r2,0
        larl %r1,begin
        lpswe 0(%r1)
        .balign 8
begin:  .quad {}, code
finished: .quad 0x0002000180000000, 0xfff
svc:    larl %r1,finished
        lpswe 0(%r1)
        .balign 256
code:   {}
        svc 0
",
            self.mask, self.source
        );
        let program = assemble(CODE, &source);
        let mut guest = Guest::new(&program, 1, Ap::None);
        guest.write_doublewords(lowcore::PROGRAM_NEW_PSW, &[MODE_64 | psw_bits::WAIT, 0xfff]);
        for (segments, pages) in [(SEGMENTS, PAGES), (OTHER_SEGMENTS, OTHER_PAGES)] {
            guest.write_doublewords(segments, &[0x20; 512]);
            guest.write_doublewords(segments, &[pages]);
            guest.write_doublewords(pages, &(0..256).map(|page| page << 12).collect::<Vec<_>>());
        }
        guest.write_doublewords(OTHER_PAGES + (DATA >> 12) * 8, &[OTHER]);
        guest.write_doublewords(DATA, &[0x1111_1111_1111_1111; 8]);
        guest.write_doublewords(OTHER, &[0x2222_2222_2222_2222; 8]);
        for (at, value) in self.storage {
            guest.write_doublewords(*at, &[*value]);
        }
        guest.prepare(|state| {
            (state.cr[0], state.cr[1], state.cr[7], state.cr[13]) =
                (self.cr0, SEGMENTS, OTHER_SEGMENTS, OTHER_SEGMENTS);
            (state.gr[12], state.gr[11], state.gr[10]) = (DATA, OTHER, CODE);
        });
        guest.run().done()
    }

    /// Runs to the end; general registers 2 and 3.
    #[track_caller]
    fn gives(&self, gr2: u64, gr3: u64) -> Ended {
        let ended = self.run();
        let program = ended.doubleword(lowcore::PROGRAM_IDENTIFICATION & !7) & 0xffff_ffff;
        assert_eq!(program, 0, "{}: program interruption", self.source);
        let gr = ended.cpus[0].gr;
        assert_eq!((gr[2], gr[3]), (gr2, gr3), "{}: {:x} {:x}", self.source, gr[2], gr[3]);
        ended
    }

    /// Runs into a program interruption: ILC and code, and the old PSW's address from the first instruction on.
    #[track_caller]
    fn interrupts(&self, ilc: u64, code: u64, offset: u64) -> Ended {
        let ended = self.run();
        let found = ended.doubleword(lowcore::PROGRAM_IDENTIFICATION & !7) & 0xffff_ffff;
        assert_eq!((found >> 16, found & 0xffff), (ilc, code), "{}: {found:x}", self.source);
        let address = ended.doubleword(lowcore::PROGRAM_OLD_PSW + 8);
        assert_eq!(address, CODE + 0x100 + offset, "{}: {address:x}", self.source);
        ended
    }
}

/// With DAT on and doublewords in storage.
fn dat<'a>(source: &'a str, storage: &'a [(u64, u64)]) -> Test<'a> {
    Test { source, mask: DAT, storage, ..TEST }
}

/// What condition code is: into register 2.
const CC: &str = "\n ipm %r2\n srlg %r2,%r2,28\n nilf %r2,3\n lghi %r3,0\n";

#[track_caller]
fn condition_code(test: Test<'_>, cc: u64) -> Ended {
    Test { source: &format!("{}{CC}", test.source), ..test }.gives(cc, 0)
}

#[track_caller]
fn teid(ended: &Ended, address: u64, low: u64) {
    let found = ended.doubleword(lowcore::TRANSLATION_EXCEPTION_ID);
    assert_eq!((found & !0xfff, found & 0xfff & !0x400 & !0x800), (address, low), "{found:x}");
}

#[test]
fn accesses_set_reference_and_change_bits() {
    let after = |source: &str, key: u64, cc: u64| {
        let source = format!(
            "{source}\n lghi %r2,0\n lghi %r3,0\n iske %r2,%r12\n rrbe %r0,%r12\n ipm %r3\n srlg %r3,%r3,28\n nilf %r3,3\n"
        );
        Test { source: &source, keys: &[(DATA, 0x30)], ..TEST }.gives(key, cc);
    };
    after("", 0x30, 0);
    after("lg %r1,0(%r12)", 0x34, 2);
    after("stg %r1,0(%r12)", 0x36, 3);
    after("lg %r1,0(%r12)\n rrbe %r0,%r12", 0x30, 0);
    after("stg %r1,0(%r12)\n rrbe %r0,%r12", 0x32, 1);
    // A translation that is remembered does not hide the next access.
    after("stg %r1,0(%r12)\n lghi %r4,0x30\n sske %r4,%r12\n lg %r1,0(%r12)", 0x34, 2);
    after("stg %r1,0(%r12)\n lghi %r4,0x30\n sske %r4,%r12\n stg %r1,0(%r12)", 0x36, 3);
}

#[test]
fn keys_protect_storage_from_other_keys() {
    let keys = &[(DATA, 0x30), (OTHER, 0x58)];
    let with_key = |key: u64, source| Test { source, mask: MODE_64 | key << 52, keys, ..TEST };
    // Storing into 3 and fetching from 5 with fetch protection.
    with_key(3, "stg %r3,0(%r12)").gives(0, 0);
    with_key(0, "stg %r3,0(%r11)").gives(0, 0);
    with_key(2, "lg %r2,0(%r12)").gives(0x1111_1111_1111_1111, 0);
    let ended = with_key(2, "stg %r3,0(%r12)").interrupts(6, 4, 6);
    assert_eq!(ended.doubleword(DATA), 0x1111_1111_1111_1111, "nothing was stored");
    with_key(2, "lg %r2,0(%r11)").interrupts(6, 4, 6);
    with_key(5, "lg %r2,0(%r11)").gives(0x2222_2222_2222_2222, 0);
    // A move across a page boundary into a protected page stores nothing.
    let keys = &[(DATA + 0x1000, 0x50), (DATA, 0x30)];
    let across = Test { source: "mvc 0xffc(8,%r12),0(%r12)", mask: MODE_64 | 3 << 52, keys, ..TEST };
    assert_eq!(across.interrupts(6, 4, 6).doubleword(DATA + 0xff8), 0);
    // Storage-protection override (control register 0 bit 39): key 9 is open to all.
    let keys = &[(DATA, 0x90)];
    let key_9 = Test { source: "stg %r3,0(%r12)", mask: MODE_64 | 3 << 52, keys, ..TEST };
    key_9.interrupts(6, 4, 6);
    Test { cr0: 0xe0 | 1 << 24, ..key_9 }.gives(0, 0);
    // Fetch-protection override (bit 38): locations 0 to 2047.
    let keys = &[(0, 0x58)];
    let low = Test { source: "lg %r2,0x700(%r0)", mask: MODE_64 | 3 << 52, keys, ..TEST };
    low.interrupts(6, 4, 6);
    Test { cr0: 0xe0 | 1 << 25, ..low }.gives(0, 0);
    Test { source: "lg %r2,0x800(%r0)", cr0: 0xe0 | 1 << 25, ..low }.interrupts(6, 4, 6);
}

#[test]
fn low_addresses_are_protected_from_stores() {
    let low = |source| Test { source, cr0: 0xe0 | 1 << 28, ..TEST };
    low("lg %r2,0x1f8(%r0)\n lghi %r2,0\n stg %r2,0x200(%r0)").gives(0, 0);
    low("stg %r2,0x1f8(%r0)").interrupts(6, 4, 6);
    low("llill %r1,0x1000\n stg %r2,0(%r1)").interrupts(6, 4, 10);
    low("llill %r1,0x1000\n stg %r2,0x200(%r1)").gives(0, 0);
}

#[test]
fn translation_exceptions_say_where() {
    let entry = |value| [(PAGES + (DATA >> 12) * 8, value)];
    teid(&dat("lg %r2,8(%r12)", &entry(0x400)).interrupts(6, 0x11, 0), DATA, 0);
    teid(&dat("llilf %r1,0x123000\n lg %r2,0(%r1)", &[]).interrupts(6, 0x10, 6), 0x12_3000, 0);
    dat("llihf %r1,1\n lg %r2,0(%r1)", &[]).interrupts(6, 0x38, 6);
    // The page-protection bit: fetches pass, stores end with protection.
    let protected = entry(DATA | 0x200);
    dat("lg %r2,0(%r12)", &protected).gives(0x1111_1111_1111_1111, 0);
    let ended = dat("stg %r2,0(%r12)", &protected).interrupts(6, 4, 6);
    let id = ended.doubleword(lowcore::TRANSLATION_EXCEPTION_ID);
    assert_eq!((id & !0xfff, id & 4), (DATA, 4), "{id:x}");
    // The reserved bit of an entry.
    dat("lg %r2,0(%r12)", &entry(DATA | 0x800)).interrupts(6, 0x12, 6);
    // A one-megabyte segment with EDAT: frame 0 at address 200000, so DATA stands at 230000.
    let segment = [(SEGMENTS + 2 * 8, 0x400)];
    let large = Test { cr0: 0xe0 | 1 << 23, ..dat("llilf %r1,0x230000\n lg %r2,0(%r1)", &segment) };
    large.gives(0x1111_1111_1111_1111, 0);
    let segment = [(SEGMENTS + 2 * 8, 0x600)];
    let source = "llilf %r1,0x230000\n stg %r2,0(%r1)";
    Test { cr0: 0xe0 | 1 << 23, ..dat(source, &segment) }.interrupts(6, 4, 12);
}

#[test]
fn instructions_that_ask_about_translation() {
    let invalid = [(PAGES + (DATA >> 12) * 8, 0x400u64)];
    condition_code(dat("lrag %r1,0(%r12)", &[]), 0);
    dat("lrag %r2,0x123(%r12)", &[]).gives(DATA + 0x123, 0);
    condition_code(dat("lrag %r1,0(%r12)", &invalid), 2);
    condition_code(dat("llilf %r1,0x123000\n lrag %r1,0(%r1)", &[]), 1);
    condition_code(dat("llihf %r1,1\n lrag %r1,0(%r1)", &[]), 3);
    // LRAG answers with the entry's address; STRAG stores the real address of a secondary one.
    dat("lrag %r2,0(%r12)", &invalid).gives(PAGES + (DATA >> 12) * 8, 0);
    assert_eq!(dat("strag 8(%r12),16(%r12)", &[]).gives(0, 0).doubleword(DATA + 8), DATA + 16);
    for (keys, key, cc) in
        [(&[(DATA, 0x30)], 0x30, 0), (&[(DATA, 0x30)], 0x20, 1), (&[(DATA, 0x38)], 0x20, 2)]
    {
        let source = format!("tprot 0(%r12),{key}(%r0)");
        condition_code(Test { keys, ..dat(&source, &[]) }, cc);
    }
    condition_code(dat("tprot 0(%r12),0(%r0)", &invalid), 3);
    condition_code(dat("tprot 0(%r12),0(%r0)", &[(PAGES + (DATA >> 12) * 8, DATA | 0x200)]), 1);
}

#[test]
fn spaces_have_their_own_storage() {
    let spaces = |source| Test { cr0: 0xe0 | 1 << 26, ..dat(source, &[]) };
    // SAC to the secondary space and back; MVCP and MVCS; MVCOS with operand-access controls.
    spaces("sac 0x100(%r0)\n lg %r2,0(%r12)\n sac 0(%r0)\n lg %r3,0(%r12)")
        .gives(0x2222_2222_2222_2222, 0x1111_1111_1111_1111);
    spaces("lghi %r4,8\n mvcp 8(%r4,%r12),0(%r12),%r0\n lg %r2,8(%r12)").gives(0x2222_2222_2222_2222, 0);
    let moved = spaces("lghi %r4,8\n mvcs 8(%r4,%r12),0(%r12),%r0").gives(0, 0);
    assert_eq!(moved.doubleword(OTHER + 8), 0x1111_1111_1111_1111);
    // First operand secondary (AS 10, valid A), second operand the PSW's.
    let moved =
        spaces("llilf %r0,0x00810000\n lghi %r4,8\n mvcos 16(%r12),0(%r12),%r4\n lghi %r2,0").gives(0, 0);
    assert_eq!(moved.doubleword(OTHER + 16), 0x1111_1111_1111_1111);
    // Access-register mode: ALET 0 is the primary space, ALET 1 the secondary one.
    spaces("sac 0x200(%r0)\n lhi %r1,1\n sar %a12,%r1\n lg %r2,0(%r12)\n lhi %r1,0\n sar %a12,%r1\n lg %r3,0(%r12)")
        .gives(0x2222_2222_2222_2222, 0x1111_1111_1111_1111);
}

#[test]
fn prefixing_swaps_the_first_8k_bytes() {
    let source = "larl %r1,new\n spx 0(%r1)\n stpx 4(%r1)\n lgf %r2,4(%r1)\n lg %r3,0x800(%r0)\n llilf %r1,0x50000
        lg %r1,0x800(%r1)\n agr %r3,%r1\n larl %r1,old\n spx 0(%r1)\n svc 0\n .balign 4\nnew: .long 0x50000, 0\nold: .long 0";
    Test { source, storage: &[(0x5_0800, 7), (0x800, 0x900)], ..TEST }.gives(0x5_0000, 0x907);
}

#[test]
fn program_interruptions_are_precise() {
    // An executed instruction has the length of the EXECUTE; the old PSW is behind it, or at it.
    let ex = |source| Test { source, ..TEST };
    ex("larl %r1,t\n ex %r0,0(%r1)\n svc 0\nt: .short 0").interrupts(4, 1, 10);
    ex("exrl %r0,t\n svc 0\nt: .short 0").interrupts(6, 1, 6);
    ex("exrl %r0,t\n svc 0\nt: ex %r0,0(%r1)").interrupts(6, 3, 6);
    ex("larl %r1,t\n ex %r0,1(%r1)\nt: .long 0").interrupts(4, 6, 10);
    let invalid = [(PAGES + (DATA >> 12) * 8, 0x400u64)];
    let source = "exrl %r0,t\n svc 0\nt: mvc 0(8,%r12),8(%r12)";
    Test { source, mask: DAT, storage: &invalid, ..TEST }.interrupts(6, 0x11, 0);
    // EXRL of a relative branch goes from the target instruction.
    ex("exrl %r0,t\n svc 0\n .skip 20\nt: j .+8\n .short 0, 0\n lghi %r2,5\n lghi %r3,6").gives(5, 6);
}

#[test]
fn invalid_psws_are_early_specification_exceptions() {
    // The new PSW is loaded; the old one is what was loaded, the ILC zero for LPSWE.
    for (mask, address) in
        [(MODE_64 | 1, 0x4000), (1 << 32, 0), (1 << 31, 1 << 31), (MODE_64 | 1 << 63, 0), (0, 1 << 24)]
    {
        let source =
            format!("larl %r1,new\n lpswe 0(%r1)\n .balign 8\nnew: .quad {}, {address}", mask as i64);
        let ended = Test { source: &source, ..TEST }.run();
        let found = ended.doubleword(lowcore::PROGRAM_IDENTIFICATION & !7) & 0xffff;
        let old = ended.doublewords(lowcore::PROGRAM_OLD_PSW, 2);
        assert_eq!((found, old), (6, vec![mask, address]), "{mask:x} {address:x}");
    }
}

#[test]
fn addresses_wrap_in_the_addressing_mode() {
    // Storage ends at 800000: 24 bits wrap to DATA.
    let far = "llihf %r1,0xabcd\n llilf %r4,0x7f030000\n ogr %r1,%r4\n";
    let source = format!("{far} sam24\n l %r2,0(%r1)\n sam64");
    Test { source: &source, ..TEST }.gives(0x1111_1111, 0);
    let source = "llilf %r1,0x80030000\n oihf %r1,0x1234\n sam31\n l %r2,0(%r1)\n la %r3,8(%r1)\n sam64";
    Test { source, ..TEST }.gives(0x1111_1111, DATA + 8);
    Test { source: "llilf %r1,0x80030000\n l %r2,0(%r1)", ..TEST }.interrupts(4, 5, 10);
}

#[test]
fn the_clock_comparator_and_the_cpu_timer_interrupt_when_enabled() {
    for (set, cr0, code) in [("sckc 0x800(%r0)", 0x8e0u64, 0x1004), ("spt 0x800(%r0)", 0x4e0, 0x1005)] {
        for (cr0, arrives) in [(cr0, true), (0xe0, false)] {
            let source = format!(
                "{set}\n stosm 0x808(%r0),1\n lghi %r2,0\n llilf %r4,20000\nl: brctg %r4,l\n stnsm 0x808(%r0),0\n svc 0
external: llgc %r2,0x87(%r0)\n llgc %r3,0x86(%r0)\n svc 0"
            );
            // Comparator 0: reached. Timer -1: negative.
            let value = if code == 0x1005 { u64::MAX } else { 0 };
            let test = Test { source: &source, cr0, storage: &[(0x800, value)], ..TEST };
            test.gives(if arrives { code & 0xff } else { 0 }, if arrives { code >> 8 } else { 0 });
        }
    }
}

#[test]
fn invalidated_and_replaced_table_entries_are_not_used_any_more() {
    // Segment 2 is mapped like segment 0.
    let alias = [(SEGMENTS + 16, PAGES)];
    let idte = "llilf %r8,0x230000\n lg %r2,0(%r8)\n llilf %r4,0x100000\n llilf %r5,0x200000
        idte %r4,%r0,%r5\n lg %r2,0(%r8)";
    dat(idte, &alias).interrupts(6, 0x10, 28);
    let crdte = |old: u64| {
        format!(
            "llilf %r8,0x230000\n lg %r2,0(%r8)\n llilf %r4,{old}\n llilf %r5,0x20\n llilf %r6,0x100010
            llilf %r7,0x200000\n llilf %r9,0x100000\n crdte %r4,%r9,%r6\n jnz other\n lg %r2,0(%r8)
            svc 0\nother: lgr %r3,%r4\n lg %r2,0(%r8)"
        )
    };
    dat(&crdte(PAGES), &alias).interrupts(6, 0x10, 50);
    dat(&crdte(1), &alias).gives(0x1111_1111_1111_1111, PAGES);
    let cspg = "lg %r2,0(%r12)\n llilf %r4,0x30000\n llilf %r5,0x400\n llilf %r6,0x50181
        cspg %r4,%r6\n jnz other\n lg %r2,0(%r12)\nother: .short 0";
    // The entry is reached through a page that is mapped to the table.
    dat(cspg, &[(PAGES + 0x50 * 8, PAGES)]).interrupts(6, 0x11, 32);
}

#[test]
fn lpsw_expands_a_short_psw() {
    let source = "larl %r1,new\n lpsw 0(%r1)\n .balign 8\nnew: .long 0x00080000, 0x80000000+t
        t: lghi %r2,5\n la %r3,0(%r2)\n sam64";
    Test { source, ..TEST }.gives(5, 5);
}

#[test]
fn a_service_signal_interrupts_when_enabled() {
    for (cr0, arrives) in [(0x2e0, true), (0xe0, false)] {
        let source = "llilf %r4,0x00020001\n llilf %r5,0x60000\n .long 0xb2200045\n stosm 0x808(%r0),1
            lghi %r2,0\n llilf %r4,20000\nl: brctg %r4,l\n svc 0
            external: llgc %r2,0x87(%r0)\n llgc %r3,0x86(%r0)\n svc 0";
        let test = Test { source, cr0, storage: &[(0x6_0000, 0x1000 << 48)], ..TEST };
        let ended = test.gives(if arrives { 0x01 } else { 0 }, if arrives { 0x24 } else { 0 });
        let parameter = ended.doubleword(lowcore::EXTERNAL_PARAMETER) >> 32;
        assert_eq!(parameter, if arrives { 0x6_0000 } else { 0 });
        assert_eq!(ended.bytes(0x6_0006, 2), [0, 0x10], "the response code of READ SCP INFO");
    }
}
