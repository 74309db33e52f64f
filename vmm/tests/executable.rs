//! What the linker made of the program, as its host's kernel sees it.

/// Before Linux 7.0, KVM_CREATE_VM ends with EINVAL in a program without PT_S390_PGSTE.
#[test]
#[cfg(target_arch = "s390x")]
fn the_program_is_marked_for_kvm() {
    let file = std::fs::read(env!("CARGO_BIN_EXE_adjunct")).unwrap();
    let number = |at: usize, length: usize| {
        file[at..at + length].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    // e_phoff, e_phentsize, e_phnum, p_type.
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let types: Vec<_> = (0..count).map(|n| number(table + n * size, 4)).collect();
    assert!(types.contains(&0x7000_0000), "{types:x?}");
}

#[test]
#[cfg(not(target_arch = "s390x"))]
fn the_program_is_marked_for_kvm() {
    println!("skipped: only the s390x program is marked");
}
