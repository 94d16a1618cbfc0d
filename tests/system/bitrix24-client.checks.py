"""The checks of tests/system/bitrix24-client.sh. Not a rig by itself.

Started with the binary and a directory in which venv/ has `fast_bitrix24`.
"""

import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from authorizing import Authorization, Browser, Parts, Refreshd, Score, fetch, free_port, within
from bitrix24_portal import Portal

HERE = pathlib.Path(__file__).parent
BINARY, WORK = sys.argv[1], pathlib.Path(sys.argv[2])
LIFE, RENEWALS = 30, 3

score = Score("bitrix24-client")
parts = Parts(WORK)
callback = f"http://127.0.0.1:{free_port()}/callback"
portal = Portal(free_port(), callback, LIFE)


def settings():
    secret = WORK / "client.secret"
    secret.touch(0o600)
    secret.write_text(portal.secret)
    return f"""
[apps.crm]
provider = "bitrix24"
client_id = "{portal.client}"
client_secret_file = "{secret}"
# The real addresses, on loopback.
token_url = "{portal.url}/oauth/token/"
authorize_url = "{portal.url}/oauth/authorize/"
renew_every = "40%"
assumed_lifetime = "{LIFE}s"

[portals.acme]
app = "crm"
domain = "127.0.0.1:{portal.port}"
redirect_uri = "{callback}"
"""


def authorizes():
    score.heading("authorization by a user")
    login, password = portal.person
    waiting = Authorization(refreshd, "acme", "--json")
    score.check("refreshd authorize prints the portal's address with a state",
                (waiting.url or "").startswith(f"{portal.url}/oauth/authorize/")
                and len(waiting.parameters().get("state", "")) >= 22, waiting.err)
    redirected, page = Browser(login=login, password=password).go(waiting.url or portal.url, callback)
    score.check("the portal sends the browser back", redirected is not None, page)
    status, page, _ = fetch(redirected or callback)
    score.check("the browser gets the success page", status == 200 and "<" in page, (status, page))
    score.check("exit 0", waiting.end() == 0, waiting.err)
    found = within(5, lambda: refreshd.token("acme")) or {}
    score.check("the portal's token is published",
                found.get("access_token") == portal.tokens[-1]["token"])
    score.check("and the address of its REST interface", found.get("endpoint") == f"{portal.url}/rest/",
                {**found, "access_token": "…"})


def works():
    score.heading("fast_bitrix24 works from the token file")
    consumer = parts.start("consumer", [WORK / "venv/bin/python3", "-B", HERE / "bitrix24-client.consumer.py", WORK,
                                        refreshd.tokens / "acme" / "token.json"])
    first = len(portal.tokens)
    score.eventually(LIFE * RENEWALS, f"{RENEWALS} renewals while it works",
                     lambda: len(portal.tokens) >= first + RENEWALS or consumer.poll() is not None)
    # The last of them is used, too.
    score.eventually(10, "and it goes on with the newest token", lambda: portal.tokens[-1]["calls"] > 20)
    score.check("it runs", consumer.poll() is None, parts.log("consumer")[-1500:])
    (WORK / "enough").touch()
    try:
        consumer.wait(30)
    except subprocess.TimeoutExpired:
        score.check("it ends", False, parts.log("consumer")[-1500:])
    file = WORK / "consumer.json"
    seen = json.loads(file.read_text()) if file.exists() else {"read": [], "failed": ["it wrote no result"], "done": {}}
    score.note(f"done: {seen['done']}; calls the portal accepted: {portal.calls}")
    score.check("no call failed for good, every answer was whole", not seen["failed"], seen["failed"][:5])
    score.check("it listed, called and sent batches", len(seen["done"]) == 3 and min(seen["done"].values()) >= 20
                and portal.calls.get("batch", 0) >= 40, (seen["done"], portal.calls))
    score.check(f"each of {RENEWALS + 1} tokens was used", sum(one["calls"] > 0 for one in portal.tokens)
                >= RENEWALS + 1, [one["calls"] for one in portal.tokens])
    score.check("it read the file at each renewal", len({one["generation"] for one in seen["read"]}) >= RENEWALS + 1)
    score.check("no token that it read had expired", all(one["left"] > 0 for one in seen["read"]),
                min((one["left"] for one in seen["read"]), default=None))
    late = [ago for ago in portal.refused if ago is not None]
    score.note(f"{len(late)} calls came with the token before, up to {max(late, default=0):.3f} s after its end")
    score.check("every other call had the current token, or the one that was replaced just before",
                len(late) == len(portal.refused) and max(late, default=0) < 8, portal.refused)
    score.check("the file never held a refresh token", not any(one["refresh"] for one in seen["read"]))


def codes_are_late():
    score.heading("a code that is too old")
    portal.code_life = -1
    login, password = portal.person
    waiting = Authorization(refreshd, "acme")
    redirected, page = Browser(login=login, password=password).go(waiting.url or portal.url, callback)
    fetch(redirected or callback)
    score.check("exit 65", waiting.end() == 65, waiting.err)
    score.check("it prints the lifetime of a code", "30 seconds" in waiting.err, waiting.err)
    portal.code_life = 30
    status = refreshd.status("acme")
    score.check("the existing grant stays in force", status.get("fresh") is True, status)


def is_correct():
    score.heading("requests to the portal")
    score.check("nothing that a correct client would not send", not portal.complaints, portal.complaints)
    score.note(f"token requests: {portal.grants}")
    refreshd.command("status")
    access = {one["token"] for one in portal.tokens}
    found = refreshd.leaks(portal.secrets, access)
    score.check("no secret is in the log, in an output, on a page or in another place", not found,
                found)
    log = parts.log("consumer")
    score.check("the client never saw a secret but the access token",
                not any(secret in log + (WORK / "consumer.json").read_text() for secret in portal.secrets - access))
    score.check("the daemon stops cleanly", parts.stop(refreshd.daemon) == 0)


try:
    refreshd = Refreshd(BINARY, parts, settings())
    if score.check("the daemon starts", refreshd.start(), parts.log("daemon")[-1500:]):
        authorizes()
        works()
        codes_are_late()
        is_correct()
    if score.failed:
        score.heading("the daemon's last log lines")
        print("\n".join(line[:300] for line in refreshd.log().splitlines()[-40:]))
finally:
    parts.stop_all()
sys.exit(score.end())
