"""A real nginx in front of the server, for as long as a test lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.needs import tool

CONFIGURATION = """
daemon off;
master_process off;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 8m;
    upstream ponder {{
        server {host}:{port};
        keepalive 1;
    }}
    server {{
        listen unix:{folder}/front;
        location / {{
            proxy_pass http://ponder;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            {more}
        }}
    }}
}}
"""


@asynccontextmanager
async def before(folder: Path, host: str, port: int, more: str) -> AsyncGenerator[Path]:
    """The socket of an nginx that hands on to the server at that address, over one connection that it keeps. `more`:
    further lines of its configuration."""
    nginx = tool("nginx", "nginx")
    config, front = folder / "nginx.conf", folder / "front"
    config.write_text(CONFIGURATION.format(folder=folder, host=host, port=port, more=more))
    process = await asyncio.create_subprocess_exec(nginx, "-p", str(folder), "-c", str(config))
    try:
        while not front.exists():
            assert process.returncode is None
            await asyncio.sleep(0.02)
        yield front
    finally:
        process.terminate()
        await process.wait()
