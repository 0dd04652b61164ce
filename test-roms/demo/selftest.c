#include "demo.h"
void run_selftest(void) {}
