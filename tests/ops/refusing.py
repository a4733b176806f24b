"""A process to which the operating system does not permit AMX: run before torch by `test_cpu_bfloat16_refused`.

The kernel's filter refuses arch_prctl(ARCH_REQ_XCOMP_PERM), by which a process asks for the tile registers.
"""

from __future__ import annotations

import ctypes
import errno
import struct

_LD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_ARCH_PRCTL, _REQUEST_PERMISSION = 158, 0x1023  # on x86-64
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2


def refuse_amx() -> None:
    """Install the filter for the rest of this process; OSError where the kernel has none."""
    number, first_argument = 0, 16  # offsets in struct seccomp_data
    program = [
        (_LD_WORD, 0, 0, number),
        (_JUMP_EQUAL, 0, 3, _ARCH_PRCTL),
        (_LD_WORD, 0, 0, first_argument),
        (_JUMP_EQUAL, 0, 1, _REQUEST_PERMISSION),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(memory)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for option, value, pointer in (
        (_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero),
        (_SET_SECCOMP, ctypes.c_ulong(_FILTER), ctypes.c_void_p(ctypes.addressof(header))),
    ):
        if libc.prctl(option, value, pointer, zero, zero):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter")
