#!/usr/bin/env python3
"""Compiles the kernels with NVRTC as a node does it, without a device.

compile.py LIBNVRTC                to the intermediate form of sm_70, sm_80 and sm_90; any warning fails (half a minute)
compile.py LIBNVRTC --registers    to their machine code; prints registers and spills for registers.txt (two minutes)
compile.py LIBNVRTC --embed        to the intermediate form that is in the binary, kernels.ptx.gz (half a minute). By NVRTC
                                   12.0: every driver of CUDA 12 or later takes its form, a newer NVRTC's only newer ones
"""
import ctypes
import gzip
import hashlib
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
# In the order in which they include each other; the same list stands in src/cuda/source.rs.
FILES = ["common.h", "keccak.h", "mldsa87.cu", "mlkem1024.cu", "sha3.cu", "tally.cu"]
ARCHITECTURES = ["sm_70", "sm_80", "sm_90"]
# What is embedded runs on this architecture and every later one.
EMBEDDED = "compute_75"
OPTIONS = ["--std=c++17", "--fmad=false", "-default-device"]


def source():
    """One text of all files, without the lines that would include others."""
    lines = []
    for name in FILES:
        for line in (HERE / name).read_text().splitlines():
            if not line.startswith("#include") and not line.startswith("#pragma once"):
                lines.append(line)
    return "\n".join(lines) + "\n"


def digest(text):
    return hashlib.sha3_256(text.encode()).hexdigest()


class Nvrtc:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)

    def call(self, name, *arguments):
        return getattr(self.lib, name)(*arguments)

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw[: max(size.value - 1, 0)]

    def compile(self, text, architecture, options=(), ptx=False):
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
        every = [option.encode() for option in [f"-arch={architecture}", *OPTIONS, *options]]
        result = self.call("nvrtcCompileProgram", program, len(every), (ctypes.c_char_p * len(every))(*every))
        log = self.text(program, "ProgramLog").decode()
        if result != 0:
            sys.exit(f"{architecture}: NVRTC refuses the kernels ({result})\n{log}")
        return self.text(program, "PTX") if ptx else log


def embed(nvrtc, text):
    """Writes the intermediate form, after a line that says of what."""
    if nvrtc.version() != "12.0":
        sys.exit(f"this is NVRTC {nvrtc.version()}; what is embedded is made by 12.0")
    head = f"// {EMBEDDED} by NVRTC {nvrtc.version()} of sources {digest(text)}\n"
    ptx = nvrtc.compile(text, EMBEDDED, ptx=True)
    # The same bytes for the same text, whenever it is made.
    (HERE / "kernels.ptx.gz").write_bytes(gzip.compress(head.encode() + ptx, 9, mtime=0))


def main(arguments):
    text = source()
    if arguments[1:] == ["--embed"]:
        return embed(Nvrtc(arguments[0]), text)
    nvrtc, registers = Nvrtc(arguments[0]), arguments[1:] == ["--registers"]
    print(f"NVRTC {nvrtc.version()}, sources {digest(text)}")
    bad = False
    for architecture in ARCHITECTURES:
        if registers:
            log = nvrtc.compile(text, architecture, ["--ptxas-options=-v"])
        else:
            log = nvrtc.compile(text, architecture.replace("sm", "compute"))
        kernel = None
        for line in log.splitlines():
            if found := re.search(r"Compiling entry function '(\w+)'", line):
                kernel = found[1]
            elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
                frame, stores, loads = found.groups()
            elif found := re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", line):
                print(f"  {architecture} {kernel}: {found[1]} registers, {found[2] or 0} bytes shared, {frame} bytes of stack, "
                      f"{stores} + {loads} bytes spilled")
            elif "warning" in line and "deprecated" not in line:
                print(line)
                bad = True
    if bad:
        sys.exit("the kernels compile with warnings")


main(sys.argv[1:])
