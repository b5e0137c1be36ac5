"""`/docs`: the description of the server to read and try out, in Swagger UI, whose files come from a package.

The page tells nothing of this server, so it needs no key; what it shows is `/openapi.json`, which does. Where keys are
configured the page asks for one, and keeps it for as long as it is open. Nothing of it comes from another host, and its
policy forbids the browser to ask one.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

PACKAGE = "fastapi_swagger.resources"
ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
"""Files of the package that the page wants, and their media types."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
KEPT = {"cache-control": "private, max-age=3600", "x-content-type-options": "nosniff"}

# Paths are relative, so that the page is found behind a proxy that serves it below a path of its own.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ponder</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<form id="key" class="swagger-ui" hidden>
<p><label>API key <input type="password" autocomplete="off"></label> <button>Show</button> <output></output></p>
</form>
<div id="description"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/page.js"></script>
</body>
</html>
"""
SCRIPT = """"use strict";
const form = document.getElementById("key");
const field = form.querySelector("input");

async function show() {
  const key = field.value.trim();
  const answer = await fetch("openapi.json", { headers: key ? { authorization: `Bearer ${key}` } : {} });
  const told = await answer.json();
  form.hidden = answer.status !== 401 && answer.status !== 403;
  if (!answer.ok) {
    form.querySelector("output").value = key || form.hidden ? told.error.message : "";
    return;
  }
  /* Beside this page: a proxy may have the server below a path of its own. */
  told.servers = [{ url: new URL(".", location.href).href.slice(0, -1) }];
  const ui = SwaggerUIBundle({
    spec: told,
    dom_id: "#description",
    deepLinking: true,
    validatorUrl: null,
    onComplete: () => {
      for (const scheme of Object.keys(told.components.securitySchemes)) {
        if (key) ui.preauthorizeApiKey(scheme, key);
      }
    },
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  show();
});
show();
"""


async def page() -> HTMLResponse:
    """`GET /docs`"""
    return HTMLResponse(PAGE, headers=HEADERS)


async def asset(name: str) -> Response:
    """`GET /docs/{name}`: what the page is made of."""
    if name == "page.js":
        return Response(SCRIPT, headers=KEPT, media_type="text/javascript")
    if name not in ASSETS:
        raise HTTPException(404)
    return FileResponse(str(folder() / name), headers=KEPT, media_type=ASSETS[name])


def folder() -> Path:
    """Where the package has its files."""
    return Path(str(files(PACKAGE)))
