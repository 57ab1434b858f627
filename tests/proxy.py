"""A TCP proxy whose connections can be cut, as by a VPN, a NAT or a sleeping laptop."""

from __future__ import annotations

import asyncio
import contextlib
import threading


class Proxy:
    """Forwards connections to a scheduler from a local port, in its own thread.

    Parameters
    ----------
    address : str
        Address of the scheduler, ``tcp://host:port``.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(self._serve())
        self.address = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self):
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _connected(self, reader, writer):
        if self._refusing:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader, writer):
        self._writers.add(writer)
        try:
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _cut(self, refusing):
        self._refusing = refusing
        for writer in list(self._writers):
            writer.transport.abort()

    def cut(self, *, refusing: bool = False) -> None:
        """Cut all connections; if ``refusing``, also refuse new ones until :meth:`mend`."""
        self._call(self._cut(refusing))

    def mend(self) -> None:
        """Accept new connections again."""
        self._refusing = False

    async def _close(self):
        self._server.close()
        await self._cut(True)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
