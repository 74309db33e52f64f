/*
 * The guest side of the oracle: a bare s390x program that executes one instruction per case.
 *
 * Loaded at absolute 0, so the image contains its own lowcore (IPL PSW, new PSWs). The host fills a ring of records,
 * writes their number, then rings DOORBELL. For each record the program zeroes the operand pages, loads the windows
 * and every register, enters the case's PSW with LPSWE, is thrown out of it by a supervisor call or a program
 * interruption, and writes the results over the record. Offsets agree with layout.rs.
 *
 * Build:  s390x-linux-gnu-as -march=z13 driver.S -o driver.o && s390x-linux-gnu-objcopy -O binary driver.o driver.bin
 */
	/* Words below 4096, so that they need no base register. */
	.equ	TEST_PSW, 0xe00
	.equ	RECORD, 0xe20
	.equ	LEFT, 0xe28
	.equ	NOW, 0xe30
	.equ	DEADLINE, 0xe38
	.equ	CURRENT, 0xe40		/* the 24 code bytes now in SLOT and TARGET */
	.equ	SAVE, 0xe80		/* general registers at the interruption */

	.equ	DOORBELL, 0x4000
	.equ	COUNT, 0x4008
	.equ	REMAINING, 0x4010
	.equ	READY, 0x4018
	.equ	DEFAULT_CR, 0x4080
	.equ	SLOT, 0x20800
	.equ	TARGET, 0x20900
	.equ	PAGES, 0x30000
	.equ	WINDOW_A, 0x30f00
	.equ	WINDOW_B, 0x32e00
	.equ	RECORDS, 0x1000000
	.equ	RECORD_SIZE, 0x640

	/* Offsets in a record. */
	.equ	R_FPR, 0x080
	.equ	R_CR, 0x100
	.equ	R_AR, 0x180
	.equ	R_PSW, 0x1c0
	.equ	R_SLOT, 0x1d0
	.equ	R_TARGET, 0x1d8
	.equ	R_FPC, 0x1e0
	.equ	R_FLAGS, 0x1e4		/* 1: load and store control registers */
	.equ	R_KIND, 0x1e8		/* 1: supervisor call, 2: program interruption */
	.equ	R_SLOT_END, 0x1f0	/* bytes 8 to 15 of the slot */
	.equ	R_A, 0x200
	.equ	R_B, 0x400
	.equ	R_LOWCORE, 0x600	/* bytes 0x80 to 0xbf of the lowcore */

	.equ	TICK, 100 << 12		/* 100 microseconds of TOD clock */
	.equ	PATIENCE, 120000000 << 12

	.text
base:
	.long	0x00080000, 0x80002000
	.org	0x1a0
	.quad	0x0000000180000000, lost - base
	.quad	0x0000000180000000, poll - base
	.quad	0x0000000180000000, svc - base
	.quad	0x0000000180000000, program - base
	.quad	0x0000000180000000, lost - base
	.quad	0x0000000180000000, lost - base

	.org	0x2000			/* code in the pages subject to low-address protection is translated anew each time */
	sam64
	larl	%r1, first_cr0
	lctlg	%c0, %c0, 0(%r1)
	lghi	%r1, 1
	stg	%r1, READY
	stckf	DEADLINE
	j	rearm

/* Nothing to do: sleep in short naps; give up when the host has been silent for long, because it may be dead. */
poll:
	lg	%r1, DOORBELL
	ltgr	%r1, %r1
	jnz	batch
	stckf	NOW
	lg	%r1, NOW
	clg	%r1, DEADLINE
	jh	lost
	algfi	%r1, TICK
	stg	%r1, NOW
	sckc	NOW
	larl	%r1, nap
	lpswe	0(%r1)

batch:
	larl	%r1, never		/* a pending clock comparator would slow every case */
	sckc	0(%r1)
	lctlg	%c0, %c15, DEFAULT_CR
	lghi	%r1, -1
	stg	%r1, CURRENT
	lg	%r12, COUNT
	lgfi	%r10, RECORDS

case:
	stg	%r12, REMAINING
	lgfi	%r2, PAGES
	lgfi	%r3, 0x3000
	lghi	%r4, 0
	lghi	%r5, 0
	mvcl	%r2, %r4
	lgfi	%r8, WINDOW_A
	lgfi	%r9, WINDOW_B
	mvc	0(256, %r8), R_A(%r10)
	mvc	256(256, %r8), R_A+256(%r10)
	mvc	0(256, %r9), R_B(%r10)
	mvc	256(256, %r9), R_B+256(%r10)
	lg	%r1, R_SLOT(%r10)
	lg	%r2, R_TARGET(%r10)
	lg	%r3, R_SLOT_END(%r10)
	cg	%r1, CURRENT
	jne	1f
	cg	%r2, CURRENT+8
	jne	1f
	cg	%r3, CURRENT+16
	je	2f
1:	stg	%r1, CURRENT
	stg	%r2, CURRENT+8
	stg	%r3, CURRENT+16
	stg	%r1, SLOT
	stg	%r3, SLOT+8
	stg	%r2, TARGET
2:	xc	0x80(64), 0x80
	mvc	TEST_PSW(16), R_PSW(%r10)
	lfpc	R_FPC(%r10)
	lam	%a0, %a15, R_AR(%r10)
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	ld	%f\n, R_FPR+8*\n(%r10)
	.endr
	stg	%r10, RECORD
	stg	%r12, LEFT
	tm	R_FLAGS+3(%r10), 1
	jz	3f
	lctlg	%c0, %c15, R_CR(%r10)
3:	lmg	%r0, %r15, 0(%r10)
	lpswe	TEST_PSW

svc:
	stmg	%r0, %r15, SAVE
	lg	%r10, RECORD
	mvc	R_PSW(16, %r10), 0x140
	lghi	%r1, 1
	j	collect
program:
	stmg	%r0, %r15, SAVE
	lg	%r10, RECORD
	mvc	R_PSW(16, %r10), 0x150
	lghi	%r1, 2
collect:
	stg	%r1, R_KIND(%r10)
	tm	R_FLAGS+3(%r10), 1
	jz	4f
	stctg	%c0, %c15, R_CR(%r10)
	lctlg	%c0, %c15, DEFAULT_CR
4:	mvc	R_LOWCORE(64, %r10), 0x80
	stfpc	R_FPC(%r10)
	stam	%a0, %a15, R_AR(%r10)
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	std	%f\n, R_FPR+8*\n(%r10)
	.endr
	mvc	0(128, %r10), SAVE
	lgfi	%r8, WINDOW_A
	lgfi	%r9, WINDOW_B
	mvc	R_A(256, %r10), 0(%r8)
	mvc	R_A+256(256, %r10), 256(%r8)
	mvc	R_B(256, %r10), 0(%r9)
	mvc	R_B+256(256, %r10), 256(%r9)
	lg	%r12, LEFT
	agfi	%r10, RECORD_SIZE
	brctg	%r12, case

	stg	%r12, REMAINING
	bcr	15, %r0
	stg	%r12, DOORBELL
	stckf	DEADLINE
rearm:
	lg	%r1, DEADLINE
	larl	%r2, patience
	alg	%r1, 0(%r2)
	stg	%r1, DEADLINE
	j	poll

/* A disabled wait ends the emulator. */
lost:
	larl	%r1, stop
	lpswe	0(%r1)

	.balign	8
first_cr0:
	.quad	0x0000000000040800
never:
	.quad	-1
patience:
	.quad	PATIENCE
nap:
	.quad	0x0102000180000000, poll - base
stop:
	.quad	0x0002000180000000, 0
