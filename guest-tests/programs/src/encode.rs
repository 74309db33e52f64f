//! Instructions as numbers, left-aligned in a doubleword, by the manual's formats.

/// RRE: opcode of 16 bits, R1, R2.
pub const fn rre(opcode: u64, r1: u64, r2: u64) -> u64 {
    opcode << 48 | r1 << 36 | r2 << 32
}

/// RRF: RRE with M3 (or R3) in bits 16-19 and M4 in bits 20-23.
pub const fn rrf(opcode: u64, r1: u64, r2: u64, m3: u64, m4: u64) -> u64 {
    rre(opcode, r1, r2) | m3 << 44 | m4 << 40
}

/// RR: opcode of 8 bits, R1, R2.
pub const fn rr(opcode: u64, r1: u64, r2: u64) -> u64 {
    opcode << 56 | r1 << 52 | r2 << 48
}

/// S: opcode of 16 bits, D2(B2).
pub const fn s(opcode: u64, d2: u64, b2: u64) -> u64 {
    opcode << 48 | b2 << 44 | d2 << 32
}

/// RS: opcode of 8 bits, R1, R3, D2(B2). RX too: R3 is the index.
pub const fn rs(opcode: u64, r1: u64, r3: u64, d2: u64, b2: u64) -> u64 {
    opcode << 56 | r1 << 52 | r3 << 48 | b2 << 44 | d2 << 32
}

/// SI: opcode of 8 bits, D1(B1), I2.
pub const fn si(opcode: u64, d1: u64, b1: u64, i2: u64) -> u64 {
    opcode << 56 | i2 << 48 | b1 << 44 | d1 << 32
}

/// RXY and RSY: opcode in bits 0-7 and 40-47, R1, X2 or R3, D2(B2) with D2 below 4096.
pub const fn rxy(opcode: u64, r1: u64, x2: u64, d2: u64, b2: u64) -> u64 {
    opcode >> 8 << 56 | r1 << 52 | x2 << 48 | b2 << 44 | d2 << 32 | (opcode & 0xff) << 16
}

/// SSE: opcode of 16 bits, D1(B1), D2(B2).
pub const fn sse(opcode: u64, d1: u64, b1: u64, d2: u64, b2: u64) -> u64 {
    opcode << 48 | b1 << 44 | d1 << 32 | b2 << 28 | d2 << 16
}

/// RI: opcode in bits 0-7 and 12-15, R1, I2.
pub const fn ri(opcode: u64, r1: u64, i2: u64) -> u64 {
    opcode >> 4 << 56 | r1 << 52 | (opcode & 15) << 48 | i2 << 32
}
