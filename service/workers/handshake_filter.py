"""A packet filter that keeps new TCP connections from a listening socket while the service stops.

Closing a listening socket resets every connection that the kernel has already accepted for it. So a stopping service
first keeps new handshakes out, then accepts what is in the backlog, and only then closes the socket. The filter is a
classic BPF program that the kernel runs on each packet for the socket (socket(7), SO_ATTACH_FILTER; instructions and
their encoding: Linux, Documentation/networking/filter.rst). It drops segments with the SYN flag, which is bit 1 of byte
13 of the TCP header (RFC 9293, section 3.1); clients send them again, and are refused once the socket is closed.
"""

import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26  # Python's socket module does not name it.
_FLAGS_OFFSET, _SYN = 13, 0x02
_LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
_JUMP_IF_SET = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K: how many bytes of the packet to keep
_WHOLE_PACKET = 0xFFFFFFFF
_PROGRAM = (  # operation, steps to skip if true, steps to skip if false, operand
    (_LOAD_BYTE, 0, 0, _FLAGS_OFFSET),
    (_JUMP_IF_SET, 1, 0, _SYN),
    (_RETURN, 0, 0, _WHOLE_PACKET),
    (_RETURN, 0, 0, 0),
)


def refuse_handshakes(listener: socket.socket) -> None:
    """Drop the packets that begin a connection; established connections and their backlog are not touched."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _PROGRAM))
    program = struct.pack("HL", len(_PROGRAM), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        # Some kernels let only CAP_NET_ADMIN filter TCP. A backlog of 0 then admits at most one connection between the
        # last accept and the close.
        listener.listen(0)
