"""The consumer of tests/system/bitrix24-client.sh: PyPI's `fast_bitrix24`, used as it documents. Not a rig by itself.

Reads only a portal's token file, and works without a pause until DIR/enough is there. Then it writes its results to
DIR/consumer.json.
"""

import asyncio
import json
import pathlib
import sys
import time
import warnings

from fast_bitrix24 import BitrixAsync

DIR, TOKEN = map(pathlib.Path, sys.argv[1:3])
# A warning of the client is a finding: it warns if it gets less than it was promised.
warnings.simplefilter("error", RuntimeWarning)

read, failed, done = [], [], {}


async def token():
    """Called at the start, and again after each 401."""
    found = json.loads(TOKEN.read_text())
    read.append({"generation": found["generation"], "left": found["expires_at_unix"] - time.time(),
                 "refresh": "refresh_token" in TOKEN.read_text()})
    return found["access_token"]


async def one(name, work, good):
    try:
        if good(await work):
            done[name] = done.get(name, 0) + 1
        else:
            failed.append(f"{name}: the answer differs from the portal's data")
    except Exception as error:  # any error is a finding
        failed.append(f"{name}: {type(error).__name__}: {error}")


async def main():
    client = BitrixAsync(json.loads(TOKEN.read_text())["endpoint"], token_func=token, verbose=False,
                         request_pool_size=1000, requests_per_second=200.0)
    every = {str(number) for number in range(1, 131)}
    while not (DIR / "enough").exists():
        some = [str(number) for number in range(1, 71)]
        await asyncio.gather(
            one("crm.lead.list, all pages", client.get_all("crm.lead.list"),
                lambda leads: {lead["ID"] for lead in leads} == every and len(leads) == 130),
            one("crm.lead.get, by batches", client.get_by_ID("crm.lead.get", some),
                lambda leads: {lead["ID"] for lead in leads.values()} == set(some)),
            one("profile", client.call("profile", raw=True), lambda answer: answer["result"]["ID"] == "1"),
        )
        await asyncio.sleep(0.02)


asyncio.run(main())
(DIR / "consumer.json").write_text(json.dumps({"read": read, "failed": failed, "done": done}))
