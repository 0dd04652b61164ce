// A small printf.
#include "print.h"

struct sink {
	char *to;	// 0: the console
	size_t left;
};

static void put(struct sink *sink, char c)
{
	if (!sink->to) {
		serial_put(c);
	} else if (sink->left > 1) {
		*sink->to++ = c;
		sink->left--;
	}
}

struct spec {
	int width;
	bool left, zeros;
};

static void put_padded(struct sink *sink, const char *s, size_t n, struct spec spec)
{
	int pad = spec.width - (int)n;
	for (; !spec.left && pad > 0; pad--)
		put(sink, ' ');
	while (n--)
		put(sink, *s++);
	for (; pad > 0; pad--)
		put(sink, ' ');
}

static void put_number(struct sink *sink, u64 v, bool negative, unsigned base, struct spec spec)
{
	char text[32];
	char *p = text + sizeof text;
	do {
		*--p = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (spec.zeros)
		while (text + sizeof text - p < spec.width - negative && p > text + 1)
			*--p = '0';
	if (negative)
		*--p = '-';
	put_padded(sink, p, (size_t)(text + sizeof text - p), spec);
}

static void format_into(struct sink *sink, const char *f, va_list args)
{
	for (; *f; f++) {
		if (*f != '%') {
			put(sink, *f);
			continue;
		}
		struct spec spec = { 0, false, false };
		bool is_long = false;
		f++;
		for (; *f == '-' || *f == '0'; f++) {
			spec.left |= *f == '-';
			spec.zeros |= *f == '0';
		}
		if (*f == '*') {
			spec.width = va_arg(args, int);
			f++;
		}
		for (; *f >= '0' && *f <= '9'; f++)
			spec.width = spec.width * 10 + *f - '0';
		for (; *f == 'l'; f++)
			is_long = true;

		switch (*f) {
		case 'c': {
			char c = (char)va_arg(args, int);
			put_padded(sink, &c, 1, spec);
			break;
		}
		case 's': {
			const char *s = va_arg(args, const char *);
			put_padded(sink, s, strlen(s), spec);
			break;
		}
		case 'd':
		case 'i': {
			i64 v = is_long ? va_arg(args, i64) : va_arg(args, int);
			put_number(sink, v < 0 ? 0 - (u64)v : (u64)v, v < 0, 10, spec);
			break;
		}
		case 'u':
			put_number(sink, is_long ? va_arg(args, u64) : va_arg(args, u32), false, 10, spec);
			break;
		case 'x':
			put_number(sink, is_long ? va_arg(args, u64) : va_arg(args, u32), false, 16, spec);
			break;
		case 'p':
			put_number(sink, va_arg(args, u64), false, 16, spec);
			break;
		case '%':
			put(sink, '%');
			break;
		default:
			return;
		}
	}
}

void print_va(const char *format, va_list args)
{
	struct sink console = { 0, 0 };
	format_into(&console, format, args);
}

void print(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	print_va(format, args);
	va_end(args);
}

void format_va(char *to, size_t size, const char *format, va_list args)
{
	struct sink sink = { to, size };
	if (!size)
		return;
	format_into(&sink, format, args);
	*sink.to = 0;
}

void format(char *to, size_t size, const char *f, ...)
{
	va_list args;
	va_start(args, f);
	format_va(to, size, f, args);
	va_end(args);
}
