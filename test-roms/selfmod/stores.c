// Every kind of store into code.
#include "selfmod.h"

// Each stores at RDI; RAX, XMM0 and what RSI points to are the new bytes. RCX, RDX and RSP may be used.
extern u8 store_table[];
#define STORE(bytes, code) ".byte 92f - 91f, " #bytes "\n91: " code "\n92:\n"
asm(".text\n"
    "store_table:\n"
    STORE(1, "movb %al, (%rdi)")
    STORE(2, "movw %ax, (%rdi)")
    STORE(4, "movl %eax, (%rdi)")
    STORE(8, "movq %rax, (%rdi)")
    STORE(16, "movups %xmm0, (%rdi)")
    STORE(8, "movnti %rax, (%rdi); sfence")
    STORE(8, "movq %xmm0, (%rdi)")
    STORE(8, "movlps %xmm0, (%rdi)")
    STORE(4, "mov %eax, %ecx; xchgl %ecx, (%rdi)")
    STORE(4, "mov %eax, %ecx; subl (%rdi), %ecx; lock xaddl %ecx, (%rdi)")
    STORE(4, "mov %rax, %rcx; movl (%rdi), %eax; lock cmpxchgl %ecx, (%rdi); mov %rcx, %rax")
    STORE(4, "mov %eax, %ecx; subl (%rdi), %ecx; addl %ecx, (%rdi)")
    STORE(8, "mov %rsp, %rcx; lea 8(%rdi), %rsp; push %rax; mov %rcx, %rsp")
    STORE(8, "mov %rsp, %rcx; lea 8(%rdi), %rsp; push (%rsi); mov %rcx, %rsp")
    STORE(8, "push (%rsi); pop (%rdi)")
    STORE(1, "stosb")
    STORE(8, "stosq")
    STORE(4, "movsl")
    STORE(16, "mov $16, %ecx; rep movsb")
    STORE(16, "mov $2, %ecx; rep movsq")
    STORE(16, "add $15, %rsi; add $15, %rdi; mov $16, %ecx; std; rep movsb; cld")
    STORE(8, "pcmpeqd %mm1, %mm1; movq (%rsi), %mm0; maskmovq %mm1, %mm0; emms; sfence")
    STORE(1, "cmp %al, %al; sete %cl; dec %cl; add %al, %cl; movb %cl, (%rdi)")
    STORE(4, "movl $0, (%rdi); mov $31, %ecx; 3: bt %ecx, %eax; jnc 4f; btsl %ecx, (%rdi); 4: dec %ecx; jns 3b")
    ".byte 0\n");

u8 code[4 * 4096] ALIGNED(4096);

void put_return(u8 *at, u32 value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

u32 run(const void *at)
{
	u64 r;
	asm volatile("call *%1" : "=a"(r) : "r"(at) : "rcx", "rdx", "memory", "cc");
	return (u32)r;
}

void serialise(void)
{
	cpuid(0, 0);
}

static u64 call_store(const u8 *at, void *target, const u8 *bytes)
{
	u64 rax = load64(bytes);
	void *rdi = target;
	const u8 *rsi = bytes;
	asm volatile("movups (%2), %%xmm0; call *%3" : "+a"(rax), "+D"(rdi), "+S"(rsi) : "r"(at) : "rcx", "rdx", "memory", "cc");
	return rax;
}

// The bytes that make the instruction return `value`, beginning at offset `from` in it, with what is behind it as it is.
static void new_bytes(u8 bytes[16], const u8 *function, u32 from, u32 value)
{
	u8 image[64];
	memcpy(image, function, sizeof image);
	put_return(image, value);
	memcpy(bytes, image + from, 16);
}

// A store in one place changes a function in another.
void test_stores(void)
{
	static const u32 places[] = { 64, 100, 4090, 4092, 4095 };
	u8 bytes[16] ALIGNED(16);
	int number = 0;
	for (const u8 *s = store_table; *s; s += 2 + s[0], number++)
		for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
			u8 *function = code + 4096 + places[i], *store = code;
			memcpy(store, s + 2, s[0]);
			store[s[0]] = 0xc3;
			put_return(function, 0x11111111);
			for (int k = 0; k < 40; k++)
				run(function);
			u32 stored = s[1] > 4 ? 4 : s[1], mask = stored == 4 ? ~0u : (1u << 8 * stored) - 1;
			for (u32 round = 1; round < 4; round++) {
				u32 value = 0x22222222 * round;
				new_bytes(bytes, function, 1, value);
				call_store(store, function + 1, bytes);
				u32 wanted = (value & mask) | (0x11111111 & ~mask);
				check(run(function) == wanted, "store %d of %u bytes at %u: returns %x, should be %x", number, s[1], places[i], run(function), wanted);
			}
		}
}

// The store changes the instruction that follows it. It counts at once where it was made by the same linear address.
void test_next_instruction(void)
{
	u8 bytes[16] ALIGNED(16);
	static const u32 places[] = { 0, 37, 64, 4096 - 64 };
	int number = 0;
	for (const u8 *s = store_table; *s; s += 2 + s[0], number++)
		for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
			u8 *store = code + places[i], *function = store + s[0];
			memcpy(store, s + 2, s[0]);
			put_return(function, 0x11111111);
			memset(function + RETURN_BYTES, 0x90, 32);
			u32 stored = s[1] > 4 ? 4 : s[1], mask = stored == 4 ? ~0u : (1u << 8 * stored) - 1;
			for (u32 round = 0; round < 8; round++) {
				u32 value = 0x01010101 * (round + 2);
				new_bytes(bytes, function, 1, value);
				u64 got = call_store(store, function + 1, bytes);
				u32 wanted = (value & mask) | (0x11111111 & ~mask);
				check((u32)got == wanted, "store %d of %u bytes at %u, round %u: the next instruction gives %lx, should be %x", number, s[1], places[i], round, got,
				      wanted);
			}
		}
}
