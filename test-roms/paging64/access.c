// One access from ring 0 or 3, with the fault caught.
#include "paging64.h"

const char *const access_name[ACCESSES] = { "read", "write", "run" };

u8 frame_a[4096] ALIGNED(4096), frame_b[4096] ALIGNED(4096);
static u8 user_frame[4096] ALIGNED(4096);

// Ring 3: RDI = the address. INT 80h says that all went well. The byte at the address is a RET.
extern u8 user_start[], user_read[], user_write[], user_run[], user_end[];
asm(".text\n"
    "user_start:\n"
    "user_read: mov (%rdi), %al; int $0x80\n"
    "user_write: movb $0xc3, (%rdi); int $0x80\n"
    "user_run: call *%rdi; int $0x80\n"
    "user_end:\n");
static const u8 *const user_code[ACCESSES] = { user_read, user_write, user_run };

struct request { enum access access; bool user, ac; u64 address; };

static void perform(void *argument)
{
	struct request *r = argument;
	if (r->user) {
		struct user_entry e = {
			USER_CODE + (u64)(user_code[r->access] - user_start), USER_CS, FLAG_1 | (r->ac ? FLAG_AC : 0), USER_CODE + PAGE_SIZE,
			USER_DS, 0, 0, r->address,
		};
		enter_user(&e);
	}
	if (r->ac)
		write_flags(FLAG_1 | FLAG_AC);
	if (r->access == READ)
		asm volatile("mov (%0), %%al" :: "r"(r->address) : "rax", "memory");
	else if (r->access == WRITE)
		asm volatile("movb $0xc3, (%0)" :: "r"(r->address) : "memory");
	else
		asm volatile("call *%0" :: "r"(r->address) : "memory");
	write_flags(FLAG_1);
}

int try_access(enum access access, bool user, bool ac, u64 address)
{
	struct request r = { access, user, ac, address };
	int vector = catch_trap(perform, &r);
	return vector == VECTOR_USER_EXIT ? NO_TRAP : vector;
}

void expect_fault(const char *what, enum access access, bool user, u64 address, u32 error_code, u64 cr2)
{
	int vector = try_access(access, user, false, address);
	check(vector == VECTOR_PF && trap.error_code == error_code && trap_cr2 == cr2,
	      "%s, %s at ring %d: exception %d, error code %lx, CR2 %lx, should be #PF, %x, %lx", what, access_name[access], user ? 3 : 0, vector,
	      trap.error_code, trap_cr2, error_code, cr2);
}

void expect_none(const char *what, enum access access, bool user, u64 address)
{
	int vector = try_access(access, user, false, address);
	check(vector == NO_TRAP, "%s, %s at ring %d: exception %d, error code %lx, CR2 %lx", what, access_name[access], user ? 3 : 0, vector,
	      trap.error_code, trap_cr2);
}

u64 *map(u64 linear, void *frame, u64 flags)
{
	map_page(linear, (u64)frame, flags);
	return page_entry(linear, 1);
}

void access_init(void)
{
	memset(frame_a, 0xc3, PAGE_SIZE);
	memset(frame_b, 0xc3, PAGE_SIZE);
	memcpy(user_frame, user_start, (size_t)(user_end - user_start));
	map(USER_CODE, user_frame, PAGE_P | PAGE_RW | PAGE_US);
}

bool has_smep(void)
{
	return cpuid_checked(7, 0).ebx >> 7 & 1;
}

bool has_smap(void)
{
	return cpuid_checked(7, 0).ebx >> 20 & 1;
}

bool has_nx(void)
{
	return rdmsr(MSR_EFER) & EFER_NXE;
}

void set_cr4(u64 bits, bool on)
{
	write_cr4(on ? read_cr4() | bits : read_cr4() & ~bits);
}
