/*
 * RSA requests to the crypto cards, one after the other, each result compared:
 *   traffic DEVICE LABEL DIRECTORY
 * DIRECTORY holds modulus (256 bytes) and message-1, public-1 ... message-8, public-8 (256 bytes each: a number below
 * the modulus and its power by 65537). One line a second, and one whenever requests begin or cease to fail, goes to standard
 * output; the last one when /tmp/stop is there:
 *   ADJUNCT-TRAFFIC LABEL ok N wrong N failed N errno E
 * Made for Linux on s390x without a C library, so that the guest needs none of another version.
 */
typedef unsigned long u64;

enum { BYTES = 256, MESSAGES = 8, EXPONENT = 65537 };

static long syscall3(long number, long a, long b, long c)
{
    register long r1 __asm__("1") = number;
    register long r2 __asm__("2") = a;
    register long r3 __asm__("3") = b;
    register long r4 __asm__("4") = c;
    __asm__ volatile("svc 0" : "+d"(r2) : "d"(r1), "d"(r3), "d"(r4) : "memory", "cc");
    return r2;
}

static long open_file(const char *path, long flags) { return syscall3(5, (long)path, flags, 0); }
static long read_file(long fd, void *to, u64 size) { return syscall3(3, fd, (long)to, (long)size); }
static void close_file(long fd) { syscall3(6, fd, 0, 0); }
static long device_control(long fd, u64 request, void *argument) { return syscall3(54, fd, (long)request, (long)argument); }
static int exists(const char *path) { return syscall3(33, (long)path, 0, 0) == 0; }

static void leave(long status)
{
    for (;;)
        syscall3(1, status, 0, 0);
}

struct moment {
    long seconds, nanoseconds;
};

static struct moment now(void)
{
    struct moment moment = {0, 0};
    syscall3(260, 1, (long)&moment, 0);
    return moment;
}

static void pause_10_ms(void)
{
    struct moment time = {0, 10000000};
    syscall3(162, (long)&time, 0, 0);
}

/* A line in the making. */
static char line[256];
static u64 length;

static void text(const char *from)
{
    while (*from && length < sizeof(line) - 1)
        line[length++] = *from++;
}

static void number(u64 value)
{
    char digits[24];
    int at = sizeof(digits) - 1;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    text(digits + at);
}

static void print_line(void)
{
    line[length++] = '\n';
    syscall3(4, 1, (long)line, (long)length);
    length = 0;
}

static void fail(const char *what, const char *with)
{
    text("ADJUNCT-TRAFFIC cannot ");
    text(what);
    text(with);
    print_line();
    leave(1);
}

static unsigned char modulus[BYTES], exponent[BYTES], result[BYTES];
static unsigned char messages[MESSAGES][BYTES], powers[MESSAGES][BYTES];

static void load(const char *directory, const char *name, int index, unsigned char *to)
{
    char path[256];
    u64 at = 0;
    for (; *directory && at < 128; directory++)
        path[at++] = *directory;
    path[at++] = '/';
    for (; *name && at < 200; name++)
        path[at++] = *name;
    if (index)
        path[at++] = (char)('0' + index);
    path[at] = 0;
    long fd = open_file(path, 0);
    if (fd < 0 || read_file(fd, to, BYTES) != BYTES)
        fail("read ", path);
    close_file(fd);
}

/* What the ioctl ICARSAMODEXPO takes (Linux, arch/s390/include/uapi/asm/zcrypt.h). */
struct request {
    const unsigned char *input;
    unsigned int input_length;
    unsigned char *output;
    unsigned int output_length;
    const unsigned char *exponent;
    const unsigned char *modulus;
};
/* Read and write, type 'z', number 5, size 0. */
static const u64 MODULAR_EXPONENTIATION = 3UL << 30 | 'z' << 8 | 5;

static int same(const unsigned char *a, const unsigned char *b)
{
    for (int i = 0; i < BYTES; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

void traffic(long *stack)
{
    const char **arguments = (const char **)(stack + 1);
    if (stack[0] != 4)
        fail("start: ", "traffic DEVICE LABEL DIRECTORY");
    const char *device = arguments[1], *label = arguments[2], *directory = arguments[3];
    load(directory, "modulus", 0, modulus);
    for (int i = 0; i < MESSAGES; i++) {
        load(directory, "message-", i + 1, messages[i]);
        load(directory, "public-", i + 1, powers[i]);
    }
    exponent[BYTES - 3] = EXPONENT >> 16;
    exponent[BYTES - 1] = EXPONENT & 0xff;
    long fd = open_file(device, 2);
    if (fd < 0)
        fail("open ", device);

    u64 good = 0, wrong = 0, failed = 0, error = 0;
    int failing = 0, stopping = 0;
    long reported = 0;
    for (u64 turn = 0; !stopping; turn++) {
        unsigned char *message = messages[turn % MESSAGES];
        struct request request = {message, BYTES, result, BYTES, exponent, modulus};
        for (int i = 0; i < BYTES; i++)
            result[i] = 0;
        long status = device_control(fd, MODULAR_EXPONENTIATION, &request);
        int fails = status < 0;
        if (fails) {
            failed++;
            error = (u64)-status;
            pause_10_ms();
        } else if (same(result, powers[turn % MESSAGES])) {
            good++;
        } else {
            wrong++;
        }
        stopping = exists("/tmp/stop");
        long second = now().seconds;
        if (second != reported || fails != failing || stopping) {
            reported = second;
            failing = fails;
            text("ADJUNCT-TRAFFIC ");
            text(label);
            text(" ok ");
            number(good);
            text(" wrong ");
            number(wrong);
            text(" failed ");
            number(failed);
            text(" errno ");
            number(error);
            print_line();
        }
    }
    leave(0);
}

/* The kernel leaves the number of arguments and the arguments on the stack. */
__asm__(".globl _start\n"
        "_start: lgr %r2,%r15\n"
        "        aghi %r15,-160\n"
        "        brasl %r14,traffic\n");
