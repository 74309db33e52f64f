/*
 * Seven small workloads for a bare s390x machine: the compute set of `cargo xtask bench`.
 *
 * Runs with translation on (identity map of 4 KiB pages), prints one line per workload on the VT220 console of the
 * service processor: "ADJUNCT-COMPUTE name microseconds ok|FAIL", and ends in a disabled wait.
 * Compiled for the host with -DHOST it prints the checksums, which stand in the table below.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

/* Sieve of Eratosthenes: byte stores at a stride. */
#define SIEVE 2000000
static u8 composite[SIEVE];

static u64 sieve(void)
{
	u64 count = 0;

	for (int round = 0; round < 8; round++) {
		__builtin_memset(composite, 0, SIEVE);
		count = 0;
		for (u32 i = 2; i < SIEVE; i++) {
			if (composite[i])
				continue;
			count++;
			for (u64 j = (u64)i * i; j < SIEVE; j += i)
				composite[j] = 1;
		}
	}
	return count;
}

/* CRC-32 by table: dependent loads. */
static u8 text[1 << 20];

static void fill_text(void)
{
	u32 x = 12345;

	for (u32 i = 0; i < sizeof(text); i++) {
		x = x * 1103515245 + 12345;
		text[i] = x >> 24;
	}
}

static u64 crc(void)
{
	u32 table[256], c = ~0u;

	for (u32 i = 0; i < 256; i++) {
		u32 r = i;

		for (int k = 0; k < 8; k++)
			r = r & 1 ? r >> 1 ^ 0xedb88320 : r >> 1;
		table[i] = r;
	}
	fill_text();
	for (int round = 0; round < 24; round++)
		for (u32 i = 0; i < sizeof(text); i++)
			c = table[(u8)(c ^ text[i])] ^ c >> 8;
	return ~c;
}

/* Copies of all sizes: MVC, alone and under EXECUTE. */
static u8 copy_from[1 << 16], copy_to[1 << 16];

static u64 copy(void)
{
	u64 sum = 0;

	for (u32 i = 0; i < sizeof(copy_from); i++)
		copy_from[i] = i * 7;
	for (u32 round = 0; round < 60000; round++) {
		u64 size = (round * 2654435761u >> 16) % 20000 + 1, at = round * 13 % 40000;

		__builtin_memcpy(copy_to + at, copy_from + round % 5000, size);
		for (u32 k = 0; k < 100; k++)
			__builtin_memcpy(copy_to + at + k * 64, copy_from + round % 64 + k * 32, 48);
		sum += copy_to[at + size / 2];
	}
	return sum;
}

/* A 64-bit hash: multiplications, rotations, loads of words. */
static u64 hash(void)
{
	u64 h = 0x9e3779b97f4a7c15;

	fill_text();
	for (int round = 0; round < 60; round++)
		for (u32 i = 0; i < sizeof(text); i += 8) {
			u64 w = 0;

			for (int k = 0; k < 8; k++)
				w = w << 8 | text[i + k];
			h ^= w * 0xff51afd7ed558ccd;
			h = (h << 27 | h >> 37) * 5 + 0x52dce729;
		}
	return h;
}

/* Quicksort: unpredictable branches, recursion. */
#define SORT 200000
static u32 numbers[SORT];

static void quicksort(u32 *a, long low, long high)
{
	while (low < high) {
		u32 pivot = a[(low + high) / 2];
		long i = low, j = high;

		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				u32 t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		quicksort(a, low, j);
		low = i;
	}
}

static u64 sort(void)
{
	u64 sum = 0;

	for (u32 round = 0; round < 5; round++) {
		u32 x = round + 1;

		for (u32 i = 0; i < SORT; i++) {
			x = x * 1664525 + 1013904223;
			numbers[i] = x;
		}
		quicksort(numbers, 0, SORT - 1);
		for (u32 i = 1; i < SORT; i++)
			if (numbers[i - 1] > numbers[i])
				return 0;
		for (u32 i = 0; i < SORT; i += 1000)
			sum = sum * 31 + numbers[i];
	}
	return sum;
}

/* A bytecode interpreter: a switch per step, that is an indirect branch. */
enum { PUSH, ADD, MUL, XOR, DUP, SWAP, DEC, LOOP, DROP, END };

static u64 bytecode(void)
{
	static const u8 program[] = {
		PUSH, 1, PUSH, 200, PUSH, 250, MUL, PUSH, 20, MUL,
		/* 10: accumulator, counter */
		SWAP, PUSH, 31, MUL, PUSH, 7, ADD, DUP, DROP, PUSH, 19, XOR, SWAP, DEC, LOOP, 10, DROP, END,
	};
	u64 stack[16];
	u32 sp = 0, pc = 0;

	for (;;) {
		switch (program[pc++]) {
		case PUSH: stack[sp++] = program[pc++]; break;
		case ADD: sp--; stack[sp - 1] += stack[sp]; break;
		case MUL: sp--; stack[sp - 1] *= stack[sp]; break;
		case XOR: sp--; stack[sp - 1] ^= stack[sp]; break;
		case DUP: stack[sp] = stack[sp - 1]; sp++; break;
		case SWAP: { u64 t = stack[sp - 1]; stack[sp - 1] = stack[sp - 2]; stack[sp - 2] = t; break; }
		case DEC: stack[sp - 1]--; break;
		case LOOP: pc = stack[sp - 1] ? program[pc] : pc + 1; break;
		case DROP: sp--; break;
		default: return stack[0];
		}
	}
}

/* A binary search tree: pointer chasing. */
#define NODES 100000
static struct node {
	struct node *left, *right;
	u32 key;
} nodes[NODES];

static u64 tree(void)
{
	struct node *root = 0;
	u64 found = 0, x = 88172645463325252;

	for (u32 i = 0; i < NODES; i++) {
		struct node **at = &root;

		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		while (*at)
			at = (u32)x < (*at)->key ? &(*at)->left : &(*at)->right;
		nodes[i].key = x;
		nodes[i].left = nodes[i].right = 0;
		*at = &nodes[i];
	}
	for (u32 round = 0; round < 4; round++)
		for (u32 i = 0; i < NODES; i++) {
			struct node *at = root;
			u32 key = nodes[i].key + (i & 1);

			while (at && at->key != key)
				at = key < at->key ? at->left : at->right;
			found += at != 0;
		}
	return found;
}

static const struct {
	const char *name;
	u64 (*run)(void);
	u64 checksum;
} set[] = {
	{ "sieve", sieve, 0x245c5 },
	{ "crc", crc, 0x400dad0b },
	{ "copy", copy, 0x74c40b },
	{ "hash", hash, 0x8db1d14e46db2b63 },
	{ "quicksort", sort, 0xcf47869957c242c6 },
	{ "bytecode", bytecode, 0x7bd75718bdc0ac01 },
	{ "tree", tree, 0x30d48 },
};
#define SET (sizeof(set) / sizeof(set[0]))

#ifdef HOST
extern int printf(const char *, ...);

int main(void)
{
	for (u32 i = 0; i < SET; i++)
		printf("%s %#lx\n", set[i].name, set[i].run());
}
#else

/* Entry: a stack, then main. QEMU and adjunct enter in 64-bit mode. */
asm(".section .text.start,\"ax\"\n"
    ".globl _start\n"
    "_start: larl %r15,stack_end-160\n"
    "	brasl %r14,run\n"
    ".text");

static u8 stack[65536] __attribute__((aligned(8), used));
asm(".globl stack_end\n.set stack_end,stack+65536");

/* What the compiler calls for long copies: MVC of 256 bytes, and one under EXECUTE for the rest. */
void *memcpy(void *to, const void *from, u64 length)
{
	u8 *t = to;
	const u8 *f = from;

	for (; length > 256; length -= 256, t += 256, f += 256)
		asm volatile("mvc 0(256,%0),0(%1)" ::"a"(t), "a"(f) : "memory");
	if (length)
		asm volatile("	exrl %2,1f\n"
			     "	j 2f\n"
			     "1:	mvc 0(1,%0),0(%1)\n"
			     "2:\n" ::"a"(t), "a"(f), "a"(length - 1)
			     : "memory");
	return to;
}

static u64 segment_table[2048] __attribute__((aligned(4096)));
static u64 page_tables[32][256] __attribute__((aligned(2048)));

/* Maps the first 32 MiB onto themselves and turns translation on. */
static void translate(void)
{
	u64 asce;

	for (u32 s = 0; s < 2048; s++) {
		segment_table[s] = s < 32 ? (u64)page_tables[s] : 0x20;
		for (u32 p = 0; s < 32 && p < 256; p++)
			page_tables[s][p] = (u64)s << 20 | p << 12;
	}
	/* Segment-table designation (bits 60-61 zero) of four pages (bits 62-63). */
	asce = (u64)segment_table | 3;
	asm volatile("lctlg %%c1,%%c1,%0\n"
		     "ptlb\n" ::"Q"(asce) : "memory");
	u8 old;
	asm volatile("stosm %0,4" : "=Q"(old)::"memory");
}

static struct {
	u16 length;
	u8 function, control[3];
	u16 response;
	struct {
		u16 length;
		u8 type, flags;
		u16 reserved;
		u8 text[200];
	} __attribute__((packed)) event;
} __attribute__((packed)) sccb __attribute__((aligned(4096)));

/* SERVICE CALL, then waits for its external interruption. */
static void service_call(u32 command)
{
	/* Translation on, external interruptions on, wait; and where the interruption leads: translation on, all off. */
	u64 wait[2] = { 0x0502000180000000 }, next[2] = { 0x0400000180000000 }, cr0, cc;

	do {
		asm volatile(".insn rre,0xb2200000,%1,%2\n"
			     "ipm %0\n"
			     "srlg %0,%0,28\n"
			     : "=&d"(cc)
			     : "d"((u64)command), "a"(&sccb)
			     : "cc", "memory");
	} while ((cc & 3) == 2);
	asm volatile("stctg %%c0,%%c0,%0" : "=Q"(cr0));
	cr0 |= 1ul << 9; /* service-signal subclass */
	asm volatile("lctlg %%c0,%%c0,%0" ::"Q"(cr0));
	asm volatile("larl %%r1,0f\n"
		     "stg %%r1,8(%0)\n"
		     "stg %%r1,8(%1)\n"
		     "lghi %%r1,0x1b0\n" /* external new PSW */
		     "mvc 0(16,%%r1),0(%1)\n"
		     "lpswe 0(%0)\n"
		     "0:\n" ::"a"(wait), "a"(next)
		     : "1", "cc", "memory");
}

static void print(const char *line, u32 length)
{
	u8 *at = (u8 *)&sccb;

	for (u32 i = 0; i < sizeof(sccb); i++)
		at[i] = 0;
	sccb.event.length = 6 + length;
	sccb.event.type = 0x1a;
	for (u32 i = 0; i < length; i++)
		sccb.event.text[i] = line[i];
	sccb.length = 8 + sccb.event.length;
	service_call(0x00760005);
}

/* Announces that we send to the VT220 console and receive nothing. */
static void open_console(void)
{
	u8 *at = (u8 *)&sccb;

	for (u32 i = 0; i < sizeof(sccb); i++)
		at[i] = 0;
	sccb.length = 8 + 4 + 4 * 4;
	*(u16 *)(at + 10) = 4;
	*(u32 *)(at + 16) = 1u << (32 - 0x1a);
	service_call(0x00780005);
}

static u64 microseconds(void)
{
	u64 clock;

	asm volatile("stckf %0" : "=Q"(clock)::"cc");
	return clock >> 12;
}

static u32 append(char *line, u32 at, const char *word)
{
	while (*word)
		line[at++] = *word++;
	return at;
}

static u32 append_number(char *line, u32 at, u64 number)
{
	char digits[20];
	u32 n = 0;

	do
		digits[n++] = '0' + number % 10;
	while (number /= 10);
	while (n)
		line[at++] = digits[--n];
	return at;
}

/* A program interruption ends the run in a disabled wait that is no success. */
static void catch_faults(void)
{
	asm volatile("lghi %%r1,0x1d0\n"
		     "mvc 0(16,%%r1),0(%0)\n" ::"a"(&(u64[2]){ 0x0002000180000000, 0xbad })
		     : "1", "memory");
}

__attribute__((used)) static void run(void)
{
	catch_faults();
	translate();
	open_console();
	for (u32 i = 0; i < SET; i++) {
		char line[100];
		u64 start = microseconds(), checksum = set[i].run(), end = microseconds();
		u32 at = append(line, 0, "ADJUNCT-COMPUTE ");

		at = append(line, at, set[i].name);
		line[at++] = ' ';
		at = append_number(line, at, end - start);
		at = append(line, at, checksum == set[i].checksum ? " ok\n" : " FAIL\n");
		print(line, at);
	}
	asm volatile("lpswe 0(%0)" ::"a"(&(u64[2]){ 0x0002000180000000, 0xfff }) : "memory");
	for (;;)
		;
}
#endif
