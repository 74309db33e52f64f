//! Marks the s390x program as one that makes KVM guests.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Before 7.0, Linux gives only such a program the page tables that KVM guests need (PT_S390_PGSTE; without it
    // KVM_CREATE_VM ends with EINVAL unless the sysctl vm.allocate_pgste is on).
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "s390x") {
        println!("cargo::rustc-link-arg-bins=-Wl,--s390-pgste");
    }
}
