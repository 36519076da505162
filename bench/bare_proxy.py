"""The least that a gateway can be: an aiohttp server that hands bodies on as they are. `python bare_proxy.py UPSTREAM`.

One process, one client session, no routing, no parsing; streams pass through block by block. `--uvloop` runs it under
uvloop instead of plain asyncio. It prints its address, takes any path below it, and serves until terminated.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import aiohttp
from aiohttp import web

_JSON = {"Content-Type": "application/json"}


async def serve(upstream: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def relay(request: web.BaseRequest) -> web.StreamResponse:
            url, body = upstream + request.path.removeprefix("/v1"), await request.read()
            async with client.request(request.method, url, data=body, headers=_JSON) as answer:
                if answer.content_type != "text/event-stream":
                    return web.Response(body=await answer.read(), status=answer.status, headers=_JSON)
                response = web.StreamResponse(status=answer.status, headers={"Content-Type": "text/event-stream"})
                await response.prepare(request)
                async for block in answer.content.iter_any():
                    await response.write(block)
                return response

        runner = web.ServerRunner(web.Server(relay, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await stopped.wait()
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="a base URL that ends in /v1")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    if arguments.uvloop:
        import uvloop

        uvloop.run(serve(arguments.upstream))
    else:
        asyncio.run(serve(arguments.upstream))


if __name__ == "__main__":
    main()
