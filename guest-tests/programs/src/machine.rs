//! Storage by real address, control registers, clocks.

use core::arch::asm;

/// Assigned storage locations (*Principles of Operation*, "Assigned Storage Locations").
pub mod lowcore {
    /// External-interruption parameter, 4 bytes; the CPU address, 2; the code, 2.
    pub const EXTERNAL_PARAMETER: u64 = 0x80;
    /// SVC: a word with length in byte 1 and code in bytes 2-3.
    pub const SVC_ILC: u64 = 0x88;
    /// Program: likewise.
    pub const PROGRAM_ILC: u64 = 0x8c;
    /// Data-exception code, 4 bytes.
    pub const DATA_EXCEPTION: u64 = 0x90;
    /// Monitor-class number, in bytes 0-1; PER code.
    pub const MONITOR_CLASS: u64 = 0x94;
    /// Translation-exception identification.
    pub const TRANSLATION_EXCEPTION: u64 = 0xa8;
    /// Monitor code.
    pub const MONITOR_CODE: u64 = 0xb0;
    /// Subsystem identification, interruption parameter, and at C0 the interruption-identification word.
    pub const IO: u64 = 0xb8;
    /// Machine-check interruption code.
    pub const MACHINE_CHECK: u64 = 0xe8;
    /// New PSWs.
    pub const RESTART_NEW: u64 = 0x1a0;
    /// External.
    pub const EXTERNAL_NEW: u64 = 0x1b0;
    /// Supervisor call.
    pub const SVC_NEW: u64 = 0x1c0;
    /// Program.
    pub const PROGRAM_NEW: u64 = 0x1d0;
    /// Machine check.
    pub const MACHINE_CHECK_NEW: u64 = 0x1e0;
    /// I/O.
    pub const IO_NEW: u64 = 0x1f0;
}

/// The doubleword at a real address.
pub fn load(at: u64) -> u64 {
    let value;
    // SAFETY: reads storage, which the machine allows everywhere; nothing here has Rust objects that it could tear.
    unsafe {
        asm!("lg {value}, 0({at})", value = out(reg) value, at = in(reg_addr) at, options(nostack, readonly))
    };
    value
}

/// Stores a doubleword at a real address: the prefix area or free storage.
pub fn store(at: u64, value: u64) {
    // SAFETY: the caller names storage that holds no Rust object but statics made for it.
    unsafe { asm!("stg {value}, 0({at})", value = in(reg) value, at = in(reg_addr) at, options(nostack)) };
}

/// Stores doublewords.
pub fn store_all(at: u64, values: &[u64]) {
    values.iter().zip(0..).for_each(|(&value, n)| store(at + 8 * n, value));
}

/// The word at a real address that is a multiple of 4.
pub fn load_word(at: u64) -> u32 {
    let both = load(at & !7);
    (if at & 4 == 0 { both >> 32 } else { both }) as u32
}

/// Storage as bytes, for messages.
pub fn bytes(at: u64, length: usize) -> &'static mut [u8] {
    assert!((crate::FREE..crate::FREE_END).contains(&at), "only free storage is lent");
    // SAFETY: free storage holds no Rust object; a program does not use two ranges that overlap at a time.
    unsafe { core::slice::from_raw_parts_mut(at as *mut u8, length) }
}

/// Control registers 0 to 15.
pub fn control_registers() -> [u64; 16] {
    let mut all = [0; 16];
    // SAFETY: stores 128 bytes at the array.
    unsafe { asm!("stctg %c0, %c15, 0({at})", at = in(reg_addr) &raw mut all, options(nostack)) };
    all
}

/// Replaces control register `N`.
macro_rules! control_register {
    ($($name:ident $n:literal),*) => {$(
        /// Loads this control register.
        pub fn $name(value: u64) {
            // SAFETY: the programs run with DAT off and change only masks, and spaces that steps use.
            unsafe {
                asm!(concat!("lctlg %c", $n, ", %c", $n, ", 0({at})"), at = in(reg_addr) &raw const value, options(nostack))
            };
        }
    )*};
}
control_register!(set_cr0 0, set_cr1 1, set_cr6 6, set_cr7 7, set_cr8 8, set_cr13 13, set_cr14 14);

/// Control register 0: AFP registers, and the masks of external interruptions.
pub mod cr0 {
    /// Low-address protection, bit 35.
    pub const LOW_ADDRESS_PROTECTION: u64 = 1 << 28;
    /// AFP registers, bit 45.
    pub const AFP: u64 = 1 << 18;
    /// Enhanced DAT, bit 40.
    pub const ENHANCED_DAT: u64 = 1 << 23;
    /// Emergency signal, bit 49.
    pub const EMERGENCY: u64 = 1 << 14;
    /// External call, bit 50.
    pub const EXTERNAL_CALL: u64 = 1 << 13;
    /// Clock comparator, bit 52.
    pub const CLOCK_COMPARATOR: u64 = 1 << 11;
    /// CPU timer, bit 53.
    pub const CPU_TIMER: u64 = 1 << 10;
    /// Service signal, bit 54.
    pub const SERVICE_SIGNAL: u64 = 1 << 9;
}

/// One second of the TOD clock.
pub const SECOND: u64 = 4096 * 1_000_000;

/// The TOD clock.
pub fn tod() -> u64 {
    let mut value = 0u64;
    // SAFETY: stores 8 bytes at the variable.
    unsafe { asm!("stckf 0({at})", at = in(reg_addr) &raw mut value, options(nostack)) };
    value
}

/// Replaces the clock comparator.
pub fn set_clock_comparator(value: u64) {
    // SAFETY: reads 8 bytes at the variable.
    unsafe { asm!("sckc 0({at})", at = in(reg_addr) &raw const value, options(nostack)) };
}

/// The clock comparator's value.
pub fn clock_comparator() -> u64 {
    let mut value = 0u64;
    // SAFETY: stores 8 bytes at the variable.
    unsafe { asm!("stckc 0({at})", at = in(reg_addr) &raw mut value, options(nostack)) };
    value
}

/// Replaces the CPU timer.
pub fn set_cpu_timer(value: u64) {
    // SAFETY: reads 8 bytes at the variable.
    unsafe { asm!("spt 0({at})", at = in(reg_addr) &raw const value, options(nostack)) };
}

/// Calls `is` until it holds; false after a minute.
pub fn until(is: impl FnMut() -> bool) -> bool {
    within(60, is)
}

/// Calls `is` until it holds; false after that many seconds.
pub fn within(seconds: u64, mut is: impl FnMut() -> bool) -> bool {
    let deadline = tod() + seconds * SECOND;
    loop {
        if is() {
            return true;
        }
        if tod() > deadline {
            return false;
        }
    }
}

/// The facility list, 4 doublewords.
pub fn facilities() -> [u64; 4] {
    let mut list = [0; 4];
    // SAFETY: stores at most 4 doublewords, as general register 0 says.
    unsafe {
        asm!("lghi %r0, 3", "stfle 0({at})", at = in(reg_addr) &raw mut list, out("r0") _, options(nostack))
    };
    list
}

/// Whether facility `n` is installed.
pub fn facility(n: usize) -> bool {
    facilities()[n / 64] >> (63 - n % 64) & 1 != 0
}
