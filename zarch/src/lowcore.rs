//! Assigned storage locations: real addresses in the prefix area (chapter 3, *Assigned Storage
//! Locations*). Old and new PSWs are 16 bytes each.

/// External-interruption parameter (4 bytes).
pub const EXTERNAL_PARAMETER: u64 = 0x80;
/// CPU address of an external interruption (2 bytes).
pub const EXTERNAL_CPU_ADDRESS: u64 = 0x84;
/// External-interruption code (2 bytes).
pub const EXTERNAL_CODE: u64 = 0x86;
/// SVC-interruption identification: zero byte, ILC, code (4 bytes).
pub const SVC_IDENTIFICATION: u64 = 0x88;
/// Program-interruption identification: zero byte, ILC, code (4 bytes).
pub const PROGRAM_IDENTIFICATION: u64 = 0x8c;
/// Data-exception or vector-exception code (4 bytes).
pub const DATA_EXCEPTION_CODE: u64 = 0x90;
/// Monitor-class number (2 bytes).
pub const MONITOR_CLASS: u64 = 0x94;
/// PER code and ATMID (2 bytes).
pub const PER_CODE: u64 = 0x96;
/// PER address (8 bytes).
pub const PER_ADDRESS: u64 = 0x98;
/// Exception access identification (1 byte).
pub const EXCEPTION_ACCESS_ID: u64 = 0xa0;
/// PER access identification (1 byte).
pub const PER_ACCESS_ID: u64 = 0xa1;
/// Operand access identification (1 byte).
pub const OPERAND_ACCESS_ID: u64 = 0xa2;
/// Translation-exception identification (8 bytes).
pub const TRANSLATION_EXCEPTION_ID: u64 = 0xa8;
/// Monitor code (8 bytes).
pub const MONITOR_CODE: u64 = 0xb0;
/// Subsystem-identification word (4 bytes).
pub const SUBSYSTEM_ID: u64 = 0xb8;
/// I/O-interruption parameter (4 bytes).
pub const IO_PARAMETER: u64 = 0xbc;
/// I/O-interruption-identification word (4 bytes).
pub const IO_IDENTIFICATION: u64 = 0xc0;
/// Store-facility-list word (4 bytes).
pub const STFL_LIST: u64 = 0xc8;
/// Store-status architectural-mode identification (1 byte; absolute storage).
pub const ARCHITECTURAL_MODE: u64 = 0xa3;
/// Machine-check-interruption code (8 bytes).
pub const MACHINE_CHECK_CODE: u64 = 0xe8;
/// External-damage code (4 bytes).
pub const EXTERNAL_DAMAGE_CODE: u64 = 0xf4;
/// Failing-storage address (8 bytes).
pub const FAILING_STORAGE_ADDRESS: u64 = 0xf8;
/// Enhanced-monitor-counter array origin (8 bytes).
pub const BREAKING_EVENT_ADDRESS: u64 = 0x110;
/// Restart old PSW; the other old and new PSWs follow at 16-byte steps.
pub const RESTART_OLD_PSW: u64 = 0x120;
/// External old PSW.
pub const EXTERNAL_OLD_PSW: u64 = 0x130;
/// Supervisor-call old PSW.
pub const SVC_OLD_PSW: u64 = 0x140;
/// Program old PSW.
pub const PROGRAM_OLD_PSW: u64 = 0x150;
/// Machine-check old PSW.
pub const MACHINE_CHECK_OLD_PSW: u64 = 0x160;
/// Input/output old PSW.
pub const IO_OLD_PSW: u64 = 0x170;
/// Restart new PSW.
pub const RESTART_NEW_PSW: u64 = 0x1a0;
/// External new PSW.
pub const EXTERNAL_NEW_PSW: u64 = 0x1b0;
/// Supervisor-call new PSW.
pub const SVC_NEW_PSW: u64 = 0x1c0;
/// Program new PSW.
pub const PROGRAM_NEW_PSW: u64 = 0x1d0;
/// Machine-check new PSW.
pub const MACHINE_CHECK_NEW_PSW: u64 = 0x1e0;
/// Input/output new PSW.
pub const IO_NEW_PSW: u64 = 0x1f0;
/// Store-status and machine-check FPR save area (128 bytes).
pub const FPR_SAVE_AREA: u64 = 0x1200;
/// GR save area (128 bytes).
pub const GR_SAVE_AREA: u64 = 0x1280;
/// PSW save area (16 bytes).
pub const PSW_SAVE_AREA: u64 = 0x1300;
/// Prefix save area (4 bytes).
pub const PREFIX_SAVE_AREA: u64 = 0x1318;
/// FPC save area (4 bytes).
pub const FPC_SAVE_AREA: u64 = 0x131c;
/// TOD programmable register save area (4 bytes).
pub const TODPR_SAVE_AREA: u64 = 0x1324;
/// CPU-timer save area (8 bytes).
pub const CPU_TIMER_SAVE_AREA: u64 = 0x1328;
/// Clock-comparator save area (8 bytes; bits 0-55 of the comparator, right-aligned by eight).
pub const CLOCK_COMPARATOR_SAVE_AREA: u64 = 0x1331;
/// Access-register save area (64 bytes).
pub const AR_SAVE_AREA: u64 = 0x1340;
/// Control-register save area (128 bytes).
pub const CR_SAVE_AREA: u64 = 0x1380;
