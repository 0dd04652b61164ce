# How a ROM is built: a ROM's Makefile names it and its own objects, then includes this.
#   NAME = demo
#   OBJS = main.o ..
# Objects in FLOAT_OBJS may use SSE registers; nothing that runs inside an interrupt may.

ROOT := $(dir $(lastword $(MAKEFILE_LIST)))
BUILD := build

CC = gcc
OBJCOPY = objcopy
CFLAGS = -std=gnu11 -Oz -march=x86-64 -mno-red-zone -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fno-unwind-tables -fcf-protection=none -fno-tree-loop-distribute-patterns \
	-fno-strict-aliasing -fno-ident -ffunction-sections -fdata-sections -Wall -Wextra -Werror -I$(ROOT)lib -MMD -MP
LDFLAGS = -nostdlib -static -Wl,--gc-sections -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments -T $(ROOT)rom.ld

LIB_OBJS = setup.o start.o vectors.o rom.o x86.o string.o serial.o print.o memory.o interrupts.o clock.o acpi.o power.o legacy.o legacy_entry.o real.o snippet.o
ALL_OBJS := $(addprefix $(BUILD)/,$(LIB_OBJS) $(OBJS) $(FLOAT_OBJS))

$(NAME).bin: $(BUILD)/$(NAME).elf
	$(OBJCOPY) -O binary $< $@
	chmod 644 $@

$(BUILD)/$(NAME).elf: $(ALL_OBJS) $(ROOT)rom.ld
	$(CC) $(LDFLAGS) -o $@ $(ALL_OBJS)

$(addprefix $(BUILD)/,$(LIB_OBJS) $(OBJS)): CFLAGS += -mgeneral-regs-only

$(ALL_OBJS): $(ROOT)rom.mk

$(BUILD)/%.o: %.c | $(BUILD)
	$(CC) $(CFLAGS) -c -o $@ $<
$(BUILD)/%.o: $(ROOT)lib/%.c | $(BUILD)
	$(CC) $(CFLAGS) -c -o $@ $<
$(BUILD)/%.o: %.S | $(BUILD)
	$(CC) $(CFLAGS) -c -o $@ $<
$(BUILD)/%.o: $(ROOT)lib/%.S | $(BUILD)
	$(CC) $(CFLAGS) -c -o $@ $<

$(BUILD):
	mkdir -p $@

clean:
	rm -rf $(BUILD)

.PHONY: clean
-include $(ALL_OBJS:.o=.d)
