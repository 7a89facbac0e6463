"""What an object file needs of others: the functions that it calls and does not define."""

from __future__ import annotations

import struct

ELF, MACH_O = b"\x7fELF\x02\x01", b"\xcf\xfa\xed\xfe"
"""How object files of 64 bits begin: on Linux, and as LLVM's linker has them on Windows; on macOS."""

SYMBOLS_OF_ELF, SYMBOLS_OF_MACH_O = 2, 2
"""What their tables of symbols are called, by number."""


def calls_of(object_file: bytes) -> list[str] | None:
    """Give the functions by the names that C knows them by; None if the file is of a kind that is not known here."""
    if object_file.startswith(ELF):
        return sorted(calls_of_elf(object_file))
    if object_file.startswith(MACH_O):
        return sorted(calls_of_mach_o(object_file))
    return None


def calls_of_elf(object_file: bytes) -> set[str]:
    """Read sections, and the tables of symbols among them: a symbol of no section is one of another file."""
    (sections_at,) = struct.unpack_from("<Q", object_file, 40)
    size, count = struct.unpack_from("<HH", object_file, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", object_file, sections_at + size * k) for k in range(count)]
    calls = set()
    for _, kind, _, _, begin, length, names, *_ in sections:
        if kind == SYMBOLS_OF_ELF:
            for symbol in range(begin, begin + length, 24):
                name, _, _, section = struct.unpack_from("<IBBH", object_file, symbol)
                if name and section == 0:
                    calls.add(text_at(object_file, sections[names][4] + name))
    return calls


def calls_of_mach_o(object_file: bytes) -> set[str]:
    """Read load commands, and the table of symbols that one of them names: an external one without a place is not here.

    There the names of C's functions begin with an underscore.
    """
    (count,) = struct.unpack_from("<I", object_file, 16)
    command, calls = 32, set()
    for _ in range(count):
        kind, size, begin, n_symbols, names = struct.unpack_from("<5I", object_file, command)
        if kind == SYMBOLS_OF_MACH_O:
            for symbol in range(begin, begin + 16 * n_symbols, 16):
                name, what, section, _, value = struct.unpack_from("<IBBHQ", object_file, symbol)
                if (what, section, value) == (1, 0, 0):
                    calls.add(text_at(object_file, names + name).removeprefix("_"))
        command += size
    return calls


def text_at(content: bytes, offset: int) -> str:
    """Read a text that ends with a zero."""
    return content[offset : content.index(b"\0", offset)].decode()
