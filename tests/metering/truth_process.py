"""The process of a model that writes down every token it makes (`truth.py`). It imports nothing of ours, so it starts
at once.

It listens on a Unix socket. A connection is one call: a line that names it, then a byte for each token that is wanted.
The token is written into the truth file before it is given, so what a server has counted can never be more than what
stands there.
"""

from __future__ import annotations

import asyncio
import os
import sys


async def serve(socket: str, file: str) -> None:
    written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = await reader.readline()
        while wanted := await reader.read(64):
            os.write(written, name * len(wanted))
            writer.write(wanted)
        writer.close()

    server = await asyncio.start_unix_server(called, socket)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
