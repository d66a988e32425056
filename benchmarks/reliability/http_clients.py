"""Programs that speak to a studio over plain HTTP, many at once, in a process of their own.

`python -m benchmarks.reliability.http_clients` reads what to do from its input as JSON, and says
what came of it: with that, neither side waits for the other's Python.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(3600.0, connect=60.0)
_ERRORS = ("queue", "room")  # words of the one refusal that is clear


def ask(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run clients in another process; returns what became of each job."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability.http_clients"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def inputs(text: str, seed: int, model: str = "") -> list[Any]:
    """The arguments of /generate."""
    return [text, "", seed, None, None, None, "bark", 0, model]


async def generate(client: httpx.AsyncClient, text: str, seed: int) -> dict[str, Any]:
    """One job, from the request to its file."""
    began = time.monotonic()
    answer: dict[str, Any] = {"text": text, "seed": seed, "status": [], "error": ""}
    asked = await client.post("/gradio_api/call/generate", json={"data": inputs(text, seed)})
    answer["status"].append(asked.status_code)
    if asked.status_code != 200:
        return {**answer, "error": f"status {asked.status_code}"}
    event, data = "", ""
    address = f"/gradio_api/call/generate/{asked.json()['event_id']}"
    async with client.stream("GET", address) as stream:
        answer["status"].append(stream.status_code)
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event in ("complete", "error"):
                data = line.removeprefix("data: ")
                break
    answer["took_s"] = time.monotonic() - began
    if event != "complete":
        return {**answer, "error": data or "the stream ended"}
    file, made = json.loads(data)
    sound = await client.get(httpx.URL(file["url"]).raw_path.decode())
    answer["status"].append(sound.status_code)
    return {**answer, "id": made["id"], "made": made, "bytes": len(sound.content), "path": file}


async def one_client(task: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """All jobs of one client, one after the other."""
    answers = []
    async with httpx.AsyncClient(
        base_url=task["address"], timeout=TIMEOUT, follow_redirects=False, trust_env=False
    ) as client:
        if task.get("password"):
            form = {"username": f"user{number}", "password": task["password"]}
            signed_in = await client.post("/login", data=form)
            if signed_in.status_code >= 400:
                raise RuntimeError(f"signing in: {signed_in.status_code} {signed_in.text[:200]}")
        for text, seed in task["jobs"][number]:
            answers.append(await generate(client, text, seed))
    return answers


async def all_clients(task: dict[str, Any]) -> list[dict[str, Any]]:
    clients = [one_client(task, number) for number in range(len(task["jobs"]))]
    return [answer for answers in await asyncio.gather(*clients) for answer in answers]


def main() -> None:
    print(json.dumps(asyncio.run(all_clients(json.load(sys.stdin)))))


if __name__ == "__main__":
    main()
