"""The Python package qemu.qmp as a library: one guest's life. Arguments: socket, mediated device."""

import asyncio
import sys

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError


async def main(socket, mdev):
    qmp = QMPClient("adjunct-test")
    await qmp.connect(socket)
    events = []

    async def listen():
        async for event in qmp.events:
            events.append(event["event"])

    listener = asyncio.create_task(listen())
    assert (await qmp.execute("query-status"))["running"]
    await qmp.execute("device_add", {"driver": "vfio-ap", "id": "ap0", "sysfsdev": mdev})
    print("PLUGGED", flush=True)
    sys.stdin.readline()
    await qmp.execute("device_del", {"id": "ap0"})
    print("UNPLUGGED", flush=True)
    sys.stdin.readline()
    try:
        await qmp.execute("device_del", {"id": "ap0"})
        raise AssertionError("it was there twice")
    except QMPError as error:
        assert "no device" in str(error), error
    await qmp.execute("stop")
    assert (await qmp.execute("query-status"))["status"] == "paused"
    await qmp.execute("cont")
    await asyncio.sleep(0)
    # A command's events come before its reply, but a task has to be run to see them.
    for _ in range(100):
        if "RESUME" in events:
            break
        await asyncio.sleep(0.05)
    assert events == ["DEVICE_DELETED", "STOP", "RESUME"], events
    await qmp.execute("system_powerdown")
    listener.cancel()
    try:
        await qmp.disconnect()
    except EOFError:
        pass  # The guest was faster.
    print("DONE", flush=True)


asyncio.run(main(*sys.argv[1:]))
