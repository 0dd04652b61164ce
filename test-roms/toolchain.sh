#!/bin/sh
# The versions that an image depends on, as in toolchain.txt.
gcc --version | head -n 1
ld --version | head -n 1
