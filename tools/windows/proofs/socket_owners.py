"""The table of TCP sockets names the process that listens."""

import ctypes
import os
import socket
import struct

AF_INET = 2
OWNER_PID_ALL = 5
ROW = struct.Struct("=6I")  # state, local address and port, remote address and port, pid

helper = ctypes.WinDLL("iphlpapi")  # type: ignore[attr-defined] # Windows only
with socket.create_server(("127.0.0.1", 0)) as listener:
    size = ctypes.c_ulong(2**20)
    table = ctypes.create_string_buffer(size.value)
    arguments = (table, ctypes.byref(size), False, AF_INET, OWNER_PID_ALL, 0)
    if error := helper.GetExtendedTcpTable(*arguments):
        raise SystemExit(f"the table cannot be read: {error}")
    (count,) = struct.unpack_from("=I", table)
    port = socket.htons(listener.getsockname()[1])
    rows = [ROW.unpack_from(table, 4 + ROW.size * number) for number in range(count)]
    owners = {row[5] for row in rows if row[2] == port}
if owners != {os.getpid()}:
    raise SystemExit(f"the socket of process {os.getpid()} is that of {owners or 'none'}")
