"""Signing in and out: the page for it, the same for programs, and the guard before all the rest."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, cast
from urllib.parse import parse_qs

from gradio.context import LocalContext
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.access import LONGEST_S, Mode, SignInRefused, TooManyTries, Visitor
from webui.accounts import plain_name
from webui.answers import VISITOR, visitor_of
from webui.html import MARK, escaped
from webui.languages import COOKIE, LANGUAGES, _, language
from webui.studio import Studio
from webui.theme import signin_css

# what strangers may see
_PUBLIC = frozenset({"/login", "/logout", "/favicon.ico", "/robots.txt"})
_STARTED = "/gradio_api/startup-events"  # Gradio asks itself, without a cookie; it tells nothing
# what an open page asks by itself: nobody does anything
_BY_ITSELF = ("/gradio_api/heartbeat/", "/gradio_api/queue/data", "/studio/me", "/studio/here/")
CHECK_EVERY_S = 1.0  # of what a page watches: whether its session has ended
_FRESH = {"cache-control": "no-store"}


class SignedInOnly:
    """Lets nobody through who isn't signed in, and cuts what they still watch when that ends."""

    def __init__(self, app: ASGIApp, *, studio: Studio) -> None:
        self.app, self.access = app, studio.access
        self.cookie = cookie_name(studio)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        token = cookie_parser(Headers(scope=scope).get("cookie", "")).get(self.cookie)
        visitor = self.access.visitor(token, touch=not path.startswith(_BY_ITSELF))
        scope[VISITOR] = visitor
        if visitor is None and path not in _PUBLIC and path != _STARTED:
            await _stranger(scope)(scope, receive, send)
            return
        if token is None or visitor is None:
            await self.app(scope, receive, send)
            return
        await self._while_signed_in(scope, receive, send, token, visitor)

    async def _while_signed_in(
        self, scope: Scope, receive: Receive, send: Send, token: str, visitor: Visitor
    ) -> None:
        loop = asyncio.get_running_loop()
        looked_at, over = loop.time(), False

        async def told(message: Message) -> None:
            nonlocal looked_at, over
            if message["type"] == "http.response.body" and loop.time() - looked_at > CHECK_EVERY_S:
                looked_at = loop.time()
                if self.access.visitor(token, touch=False) != visitor:
                    over = True
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            if over:
                raise OSError("the session has ended")  # as if they had left
            await send(message)

        async def heard() -> Message:
            return {"type": "http.disconnect"} if over else await receive()

        try:
            await self.app(scope, heard, told)
        except Exception:
            if not over:
                raise


def sign_in_routes(studio: Studio) -> list[Route]:
    """The page to sign in, what it sends, signing out, and who is in."""
    access, cookie = studio.access, cookie_name(studio)

    async def show(request: Request) -> Response:
        chosen = request.query_params.get("language", "")
        if chosen in LANGUAGES:
            answer = RedirectResponse("login", 303, _FRESH)
            answer.set_cookie(COOKIE, chosen, max_age=365 * 24 * 3600, samesite="lax")
            return answer
        if visitor_of(request) is not None:
            return RedirectResponse("./", 303, _FRESH)
        return _page(request, access.mode)

    async def enter(request: Request) -> Response:
        name, password = _given(await request.body())
        by_person = "text/html" in request.headers.get("accept", "")
        if access.mode is Mode.OPEN:
            return RedirectResponse("./", 303) if by_person else JSONResponse({"success": True})
        address = request.client.host if request.client else ""
        try:
            token = await asyncio.to_thread(access.sign_in, name, password, address)
        except (SignInRefused, TooManyTries) as error:
            studio.audit.note("sign-in refused", plain_name(name)[:64], address=address)
            return _refusal(request, access.mode, error, name if by_person else None)
        studio.audit.note("signed in", plain_name(name), address=address)
        answer: Response = JSONResponse({"success": True}, headers=_FRESH)
        if by_person:
            answer = RedirectResponse("./", 303, _FRESH)
        answer.set_cookie(
            cookie,
            token,
            max_age=int(LONGEST_S),
            httponly=True,
            samesite="lax",
            secure=_encrypted(studio, request),
        )
        return answer

    async def leave(request: Request) -> Response:
        visitor = visitor_of(request)
        if visitor is not None:
            studio.audit.note("signed out", visitor.name)
        access.sign_out(request.cookies.get(cookie, ""))
        answer = RedirectResponse("login", 303, {**_FRESH, "clear-site-data": '"cache"'})
        answer.delete_cookie(cookie, httponly=True, samesite="lax")
        return answer

    async def me(request: Request) -> Response:
        visitor = visitor_of(request)
        assert visitor is not None  # strangers don't come so far
        told = {"name": visitor.name, "administrator": visitor.administrator}
        return JSONResponse({**told, "signed_in": access.mode is not Mode.OPEN}, headers=_FRESH)

    return [
        Route("/login", show, methods=["GET", "HEAD"]),
        Route("/login", enter, methods=["POST"]),
        Route("/logout", leave, methods=["POST"]),
        # Gradio's own would answer to a link, which anybody could put anywhere
        Route("/logout", _by_form_only, methods=["GET", "HEAD"]),
        Route("/studio/me", me, methods=["GET"]),
    ]


def _given(body: bytes) -> tuple[str, str]:
    """Name and password of a form; "" where it has none."""
    try:
        form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=20)
    except ValueError:  # hundreds of fields
        return "", ""
    return form.get("username", [""])[0], form.get("password", [""])[0]


async def _by_form_only(request: Request) -> Response:
    return Response(status_code=405, headers={"allow": "POST"})


def cookie_name(studio: Studio) -> str:
    """Another one for each data folder: cookies don't tell ports apart."""
    folder = str(studio.settings.data_folder)
    return f"bark-studio-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def _encrypted(studio: Studio, request: Request) -> bool:
    public = studio.settings.public_url or ""
    return request.url.scheme == "https" or public.startswith("https:")


def _stranger(scope: Scope) -> Response:
    if scope["path"] == "/":
        return RedirectResponse("login", 303, _FRESH)
    return JSONResponse({"detail": "Sign in first."}, 401, headers=_FRESH)


def _refusal(
    request: Request, mode: Mode, error: SignInRefused | TooManyTries, name: str | None
) -> Response:
    """What a person (who gave that name) or a program (None) is told."""
    status, headers = 401, dict(_FRESH)
    LocalContext.request.set(cast(Any, request))  # whose language the texts are in
    told = _("The name or the password is wrong.")
    if isinstance(error, TooManyTries):
        status, wait_s = 429, max(1, round(error.wait_s))
        headers["retry-after"] = str(wait_s)
        told = _("These were too many tries. Wait {s} s and try again.", s=wait_s)
    if name is not None:
        return _page(request, mode, told, name, status, headers)
    return JSONResponse({"detail": str(error)}, status, headers)


def _page(
    request: Request,
    mode: Mode,
    wrong: str = "",
    name: str = "",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    LocalContext.request.set(cast(Any, request))
    alert = f'<p class="wrong" role="alert">{escaped(wrong)}</p>' if wrong else ""
    about = {
        Mode.PASSWORD: _(
            "Any name, and the password of this studio. It shows what was made under that name."
        ),
        Mode.CLOSED: _("All accounts were removed. Whoever runs this studio can add one."),
    }.get(mode, _("Whoever runs this studio gives you a name and a password."))
    title = escaped(_("Sign in"))
    first, second = ("", " autofocus") if name else (" autofocus", "")
    body = (
        f"<main><h1>{MARK}<span>Bark Studio</span></h1>{alert}"
        f'<form method="post" action="login"><label for="name">{escaped(_("Name"))}</label>'
        '<input id="name" name="username" autocomplete="username" autocapitalize="none" '
        f'spellcheck="false" maxlength="64" required{first} value="{escaped(name[:64])}">'
        f'<label for="password">{escaped(_("Password"))}</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" '
        f'maxlength="1000" required{second}><button type="submit">{title}</button></form>'
        f'<p class="about">{escaped(about)}</p>{_noted()}{_languages()}</main>'
    )
    code = language()
    page = (
        f'<!doctype html><html lang="{code}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="favicon.ico">'
        f"<title>Bark Studio</title><style>{signin_css()}</style></head>"
        f"<body>{body}</body></html>"
    )
    more = {
        **_FRESH,
        "content-language": code,
        "vary": "Accept-Language, Cookie",
        **(headers or {}),
    }
    return HTMLResponse(page, status, more)


def _noted() -> str:
    told = _("The studio notes who signs in and what is made when, by its hash: never your words.")
    return f'<p class="about">{escaped(told)}</p>'


def _languages() -> str:
    own = language()
    links = "".join(
        f'<a href="login?language={code}" lang="{code}"'
        f"{' aria-current=true' if code == own else ''}>{escaped(name)}</a>"
        for code, name in LANGUAGES.items()
    )
    return f'<nav aria-label="{escaped(_("Language"))}">{links}</nav>'
