"""The checks of tests/system/authorization-servers.sh. Not a rig by itself.

Started with the binary and a directory in which npm/ has `oidc-provider` and venv/ has `django-oauth-toolkit`.
"""

import base64
import hashlib
import json
import pathlib
import re
import secrets
import signal
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from authorizing import (Authorization, Browser, Front, Parts, Patience, Refreshd, Score, fetch, free_port, listens,
                         within)

HERE = pathlib.Path(__file__).parent
BINARY, WORK = sys.argv[1], pathlib.Path(sys.argv[2])
# Seconds: the lifetime of an access token, refreshd's timeout for a response, and the grace period of a spent refresh token
# at Django.
LIFE, PATIENCE, GRACE = 30, 5, 120
PERSON = {"username": "ada", "password": "the-password-of-ada", "email": "ada@example.org"}
# With every character that has a special meaning in a form or a URL.
SECRETS = {name: f"{name}:s+cr%t/&= {number}~" for number, name in enumerate(("basic", "body", "machine", "django"))}
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"

score = Score("authorization-servers")
parts = Parts(WORK)
callback = f"http://127.0.0.1:{free_port()}/callback"


# --- the servers ----------------------------------------------------------------------------------------------------


def start_servers():
    ports = {"oidc": free_port(), "django": free_port()}
    fronts = {name: Front(port, delay=PATIENCE + 2) for name, port in ports.items()}
    fronts["django"].listen()
    # A native client may redirect to any port of this machine (RFC 8252 section 7.3).
    native = {"grant_types": ["authorization_code", "refresh_token"],
              "redirect_uris": [callback, "http://127.0.0.1/oauth/callback"]}
    renewing = {"grant_types": ["authorization_code", "refresh_token"], "redirect_uris": [callback]}
    setup = {"port": ports["oidc"], "issuer": fronts["oidc"].url, "lives": {"access": LIFE}, "clients": [
        {"client_id": "basic", "client_secret": SECRETS["basic"], **renewing},
        {"client_id": "body", "client_secret": SECRETS["body"],
         "token_endpoint_auth_method": "client_secret_post", **renewing},
        {"client_id": "public", "token_endpoint_auth_method": "none", "application_type": "native", **native},
        {"client_id": "machine", "client_secret": SECRETS["machine"], "grant_types": ["client_credentials"],
         "redirect_uris": [], "response_types": []},
        {"client_id": "device", "token_endpoint_auth_method": "none", "application_type": "native",
         "grant_types": [DEVICE, "refresh_token"], "redirect_uris": [], "response_types": []},
    ]}
    (WORK / "oidc.json").write_text(json.dumps(setup))
    kinds = {"basic": "confidential", "body": "confidential", "public": "public"}
    setup = {"port": ports["django"], "lives": {"access": LIFE, "grace": GRACE}, "person": PERSON, "clients": [
        {"client_id": name, "client_type": kind, "name": name, "redirect_uris": callback,
         "client_secret": SECRETS["django"] if kind == "confidential" else ""} for name, kind in kinds.items()]}
    (WORK / "django.json").write_text(json.dumps(setup))
    parts.start("oidc", ["node", HERE / "authorization-servers.oidc.mjs", WORK])
    parts.start("django", [WORK / "venv/bin/python3", "-B", HERE / "authorization-servers.django.py", WORK])
    for name, port in ports.items():
        if not within(40, lambda port=port: listens(port)):
            sys.exit(f"the server {name} did not start: {parts.log(name)[-2000:]}")
    return fronts


def by_basic(secret):
    """The client `basic`, form-encoded as RFC 6749 section 2.3.1 requires."""
    client = f"basic:{urllib.parse.quote_plus(SECRETS[secret])}"
    return {"Authorization": f"Basic {base64.b64encode(client.encode()).decode()}"}


def accepted(front, token):
    """Expiry of the token according to the server, or 0 (RFC 7662)."""
    path, secret = ("/token/introspection", "basic") if front is oidc else ("/o/introspect/", "django")
    with front.turn:
        status, body, _ = fetch(f"http://127.0.0.1:{front.backend}{path}", {"token": token}, by_basic(secret))
    response = json.loads(body) if status == 200 else {}
    return response["exp"] if response.get("active") is True else 0


# --- the configuration ----------------------------------------------------------------------------------------------

WAYS = Front.WAYS
PORTALS = {  # by app: its portals
    "oidc-basic": ["basic", "taken", "revoked", "unlucky", *(f"lost-{way}" for way in WAYS)],
    "elsewhere": ["elsewhere"],
    "oidc-body": ["body"],
    "oidc-public": ["public", "native"],
    "oidc-machine": ["machine"],
    "oidc-device": ["device"],
    "django-basic": ["django-basic", "django-unlucky", *(f"django-lost-{way}" for way in WAYS)],
    "django-body": ["django-body"],
    "django-public": ["django-public"],
}


def settings():
    for name, secret in SECRETS.items():
        file = WORK / f"{name}.secret"
        file.touch(0o600)
        file.write_text(secret)
    text = f"""
[renewal]
timeout = "{PATIENCE}s"

# Its metadata names everything (OpenID Connect Discovery).
[providers.oidc]
issuer = "{oidc.url}"
renew_every = "40%"
assumed_lifetime = "{LIFE}s"
# Without it, OpenID Connect issues no refresh token.
authorize_parameters = {{ prompt = "consent" }}

# The same by RFC 8414, whose well-known path precedes the issuer's own path.
[providers.django]
issuer = "{django.url}/o"
renew_every = "40%"
assumed_lifetime = "{LIFE}s"
grace = "{GRACE}s"

# And configured by hand.
[providers.written]
token_url = "{django.url}/o/token/"
authorize_url = "{django.url}/o/authorize/"
renew_every = "40%"
assumed_lifetime = "{LIFE}s"
grace = "{GRACE}s"

# Its metadata spells the issuer differently.
[providers.elsewhere]
issuer = "{oidc.url.replace("127.0.0.1", "localhost")}"

[apps.elsewhere]
provider = "elsewhere"
client_id = "elsewhere"
client_secret = "elsewhere-{SECRETS["basic"]}"

[apps.oidc-basic]
provider = "oidc"
client_id = "basic"
client_secret_file = "{WORK}/basic.secret"
client_authentication = "basic"

[apps.oidc-body]
provider = "oidc"
client_id = "body"
client_secret_file = "{WORK}/body.secret"
client_authentication = "body"

[apps.oidc-public]
provider = "oidc"
client_id = "public"
client_authentication = "none"

[apps.oidc-machine]
provider = "oidc"
client_id = "machine"
client_secret_file = "{WORK}/machine.secret"
client_authentication = "basic"
grant = "client-credentials"

[apps.oidc-device]
provider = "oidc"
client_id = "device"
client_authentication = "none"
grant = "device"

[apps.django-basic]
provider = "django"
client_id = "basic"
client_secret_file = "{WORK}/django.secret"
client_authentication = "basic"

[apps.django-body]
provider = "written"
client_id = "body"
client_secret_file = "{WORK}/django.secret"
client_authentication = "body"

[apps.django-public]
provider = "written"
client_id = "public"
client_authentication = "none"
"""
    for app, portals in PORTALS.items():
        scope = '["read"]' if "django" in app else '["openid", "offline_access"]'
        for portal in portals:
            text += f'\n[portals.{portal}]\napp = "{app}"\n'
            if app != "oidc-machine":
                text += f"scope = {scope}\n"
            if app not in ("oidc-machine", "oidc-device") and portal != "native":
                text += f'redirect_uri = "{callback}"\n'
    return text


def front_of(portal):
    return django if portal.startswith("django") else oidc


# --- authorization by a user ----------------------------------------------------------------------------------------


def person():
    return Browser(login=PERSON["username"], **PERSON)


def parameter(url, name):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url or "").query)).get(name, "")


def authorize(portal, way="browser"):
    """The exit code, the resulting family of tokens, and the command. The answer comes by the loopback listener, by pasting,
    or by the `address` or the `code` that is passed to another call of the command."""
    front = front_of(portal)
    waiting = Authorization(refreshd, portal, "--json")
    redirected, page = person().go(waiting.url or front.url, waiting.redirect_uri())
    if redirected is None:
        score.note(f"{portal}: the login did not finish: {page}")
    if way in ("address", "code"):
        waiting.command.terminate()
        waiting.end()
        answer = {"address": ["--redirected-url", redirected or ""], "code": ["--code", parameter(redirected, "code")]}
        words = ["authorize", portal, *answer[way], "--json"]
        code, waiting.out, waiting.err = refreshd.command(*words)
        return code, front.newest(), waiting
    if redirected and way == "browser":
        fetch(redirected)
    code = waiting.end(f"{redirected}\n" if way == "paste" else None)
    return code, front.newest(), waiting


# --- readers --------------------------------------------------------------------------------------------------------


class Readers(threading.Thread):
    """Polls every portal's token file, and tests each new token at its server."""

    def __init__(self):
        super().__init__(daemon=True)
        self.families, self.accepted, self.wrong, self.over = {}, {}, [], threading.Event()
        self.replayed = {}  # by portal: when a token that came again ends, by its file and by its server

    def run(self):
        seen = {}
        while not self.over.is_set():
            for portal, family in list(self.families.items()):
                found = refreshd.token(portal)
                if not found:
                    continue
                token = found["access_token"]
                if found["expires_at_unix"] <= time.time():
                    self.complain(portal, family, "the token in the file has expired")
                if not family.settled(token):
                    self.complain(portal, family, "the token in the file is not the newest")
                if seen.get(portal) != (found["generation"], token):
                    seen[portal] = (found["generation"], token)
                    ends = accepted(front_of(portal), token)
                    if ends:
                        self.accepted[portal] = self.accepted.get(portal, 0) + 1
                        if token in [access for access, _ in family.lost]:
                            self.replayed[portal] = (found["expires_at_unix"], ends)
                    elif refreshd.token(portal).get("access_token") == token:
                        self.complain(portal, family, "the server does not accept the token in the file")
            self.over.wait(0.2)

    def complain(self, portal, family, what):
        # A portal that is about to be authorized again is not checked any more.
        if self.families.get(portal) is family and (portal, what) not in self.wrong:
            self.wrong.append((portal, what))

    def follow(self, portal, family):
        self.accepted[portal] = 0
        self.families[portal] = family

    def leave(self, portal):
        self.families.pop(portal, None)


readers = Readers()


# --- checks ---------------------------------------------------------------------------------------------------------


def first_grants():
    score.heading("first grants, without a daemon")
    code, family, waiting = authorize("django-public")
    score.check("a public client with PKCE, endpoints written by hand: exit 0", code == 0, waiting.err)
    readers.follow("django-public", family)

    score.heading("a daemon whose issuer is unreachable")
    score.check("it starts", refreshd.start(), refreshd.log()[-1500:])
    readers.start()
    code, _, err = refreshd.command("authorize", "basic", "--no-browser", "--timeout", "2s")
    score.check("authorizing there fails: exit 75", code == 75 and "issuer" in err, (code, err))
    score.eventually(10, "the portals of others have their tokens", lambda: refreshd.token("django-public"))
    metadata = "/.well-known/openid-configuration"
    host = oidc.url.removeprefix("http://")
    oidc.instead[host, metadata] = '{"status": "maintenance"}'
    oidc.listen()
    refreshd.daemon.send_signal(signal.SIGHUP)
    score.eventually(10, "a reload fetches the metadata again, and rejects other JSON",
                     lambda: not oidc.instead and "no metadata of an authorization server" in refreshd.log(),
                     lambda: refreshd.log()[-800:])
    refreshd.daemon.send_signal(signal.SIGHUP)
    score.eventually(10, "the next one fetches it again, and accepts it",
                     lambda: [entry for entry in oidc.asked(metadata) if entry["host"] == host])
    score.eventually(10, "the client with client credentials has its token then", lambda: refreshd.token("machine"))

    score.heading("first grants, with the daemon")
    for portal, what, way in (
        ("basic", "a confidential client with Basic, endpoints by OpenID Connect Discovery", "browser"),
        ("body", "a confidential client with its secret in the body; the redirected URL is pasted", "paste"),
        ("public", "a native public client with PKCE", "browser"),
        ("native", "the same without a redirect_uri: any port of this machine", "browser"),
        ("django-basic", "a confidential client with Basic, endpoints by RFC 8414", "browser"),
        ("django-body", "a confidential client with its secret in the body; the address is pasted", "address"),
        ("revoked", "one that will be revoked; the bare code is pasted", "code"),
    ):
        code, family, waiting = authorize(portal, way)
        asked = waiting.parameters()
        score.check(f"{portal}: {what}: exit 0", code == 0, waiting.err)
        score.check(f"{portal}: PKCE S256 and a state of its own", asked.get("code_challenge_method") == "S256"
                    and len(asked.get("code_challenge", "")) == 43 and len(asked.get("state", "")) >= 22, asked)
        token = within(3, lambda portal=portal: refreshd.token(portal)) or {}
        score.check(f"{portal}: the server's token is published unchanged",
                    bool(family) and token.get("access_token") in [pair[0] for pair in family.pairs])
        prints_response(portal, waiting, token)
        if family:
            readers.follow(portal, family)


def prints_response(portal, waiting, token):
    try:
        response = json.loads(waiting.out)
    except ValueError:
        response = {}
    score.check(f"{portal}: --json has the token reply without the refresh token", response.get("outcome") == "authorized"
                and response.get("portal") == portal and response.get("generation") == token.get("generation")
                and response.get("reply", {}).get("access_token") == token.get("access_token")
                and "refresh_token" not in response.get("reply", {}), {**response, "reply": sorted(response.get("reply", {}))})


def how_it_asks():
    score.heading("requests to the servers")
    exchanges = {entry["sent"].get("client_id") or "basic": entry for entry in oidc.asked("/token")
                 if entry["sent"].get("grant_type") == "authorization_code"}
    nothing = {"sent": {}, "authorization": ""}
    basic, body, public = (exchanges.get(name, nothing) for name in ("basic", "body", "public"))
    score.check("Basic: the secret is in the header alone",
                basic["authorization"].startswith("Basic ") and "client_secret" not in basic["sent"])
    score.check("in the body: no header",
                not body["authorization"] and body["sent"].get("client_secret") == SECRETS["body"])
    score.check("a public client: neither", not public["authorization"] and public["sent"].get("client_secret") is None
                and len(public["sent"].get("code_verifier", "")) >= 43)
    every = [entry for front in (oidc, django) for entry in front.asked("/token") + front.asked("/o/token/")]
    score.check("every token request was a POST", all(entry["method"] == "POST" for entry in every))


def machine_and_device():
    score.heading("without a browser on this machine")
    found = within(10, lambda: refreshd.token("machine"))
    score.check("client credentials: a token without any authorization", bool(found), refreshd.status("machine"))
    family = oidc.family("client machine")
    if family:
        readers.follow("machine", family)

    waiting = Authorization(refreshd, "device", "--json")
    within(10, lambda: "device" in waiting.err and waiting.url or waiting.command.poll() is not None)
    shown = re.search(r"\b([A-Z]{4}-[A-Z]{4})\b", waiting.err)
    score.check("the device grant shows a user code and its address", shown and waiting.url, waiting.err)
    if not (shown and waiting.url):
        waiting.command.kill()
        waiting.end()
        return
    polls = within(10, lambda: [entry for entry in oidc.asked("/token") if entry["sent"].get("grant_type") == DEVICE])
    score.check("the code has not been typed, and it waits", polls and waiting.command.poll() is None
                and polls[0]["response"].get("error") == "authorization_pending", waiting.err)
    _, page = Browser(user_code=shown[1], login="ada", password="x").go(f"{oidc.url}/device", None)
    score.note(f"the last page: {' '.join(page.split())[-90:]}")
    code = waiting.end()
    score.check("and is authorized once the user has consented", code == 0, waiting.err)
    at = [entry["at"] for entry in oidc.asked("/token") if entry["sent"].get("grant_type") == DEVICE]
    score.check("it polled no more often than every five seconds",
                len(at) >= 2 and min(later - sooner for sooner, later in zip(at, at[1:])) > 4.9, at)
    family = oidc.newest()
    token = within(3, lambda: refreshd.token("device")) or {}
    score.check("its token is published", bool(family) and token.get("access_token") == family.current())
    readers.follow("device", family)


def takes_in():
    """A grant that another program obtained is accepted unchanged."""
    score.heading("a token response of another program")
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    asked = {"response_type": "code", "client_id": "basic", "redirect_uri": callback, "scope": "openid offline_access",
             "prompt": "consent", "code_challenge": challenge, "code_challenge_method": "S256", "state": "of-its-own"}
    redirected, page = person().go(f"{oidc.url}/auth?{urllib.parse.urlencode(asked)}", callback)
    code = parameter(redirected, "code")
    sent = {"grant_type": "authorization_code", "code": code, "redirect_uri": callback, "code_verifier": verifier}
    status, reply, _ = fetch(f"{oidc.url}/token", sent, by_basic("basic"))
    score.check("the other program has its response", status == 200, (redirected is None and page, status))
    code, _, err = refreshd.command("import", "taken", text=reply)
    score.check("refreshd import accepts it: exit 0", code == 0, err)
    readers.follow("taken", oidc.newest())
    score.eventually(5, "it is renewed at once, which proves that it is alive",
                     lambda: refreshd.token("taken").get("access_token") == oidc.newest().pairs[-1][0]
                     and len(oidc.newest().pairs) == 2, lambda: refreshd.status("taken"))


def loses_replies():
    score.heading("responses are lost after the server has carried out the request")
    families = {}
    for way in WAYS:
        for portal in (f"lost-{way}", f"django-lost-{way}"):
            code, family, waiting = authorize(portal)
            if code != 0 or not family:
                score.check(f"{portal} is authorized", False, waiting.err)
                continue
            family.lose.append(way)
            families[portal] = family
            if portal.startswith("django"):
                readers.follow(portal, family)
    return families


def recovers(families):
    score.heading("a server with a grace period: no user is needed")
    patience = Patience(40)
    for portal, family in families.items():
        if not portal.startswith("django"):
            continue
        way = portal.removeprefix("django-lost-")
        score.eventually(patience.left(), f"{way}: the response is lost, and the same family continues",
                         lambda family=family: family.lost and len(family.delivered) >= 3,
                         lambda portal=portal: refreshd.status(portal))
        again = bool(family.lost) and family.lost[0][0] in [access for access, _ in family.delivered]
        score.check(f"{way}: the replay returned the lost pair", again)
        score.check(f"{way}: the server has refused nothing", not family.refused, family.refused)
        file, server = readers.replayed.get(portal, (0, 0))
        score.check(f"{way}: the published expiry is not later than the server's", server and file <= server + 1,
                    (file, server))
        score.check(f"{way}: it is fresh", refreshd.status(portal).get("fresh") is True, refreshd.status(portal))


def resumes(families):
    score.heading("a server that revokes the family: it is reported, and authorizing resumes it")
    patience = Patience(40)
    for portal, family in families.items():
        if portal.startswith("django"):
            continue
        way = portal.removeprefix("lost-")
        score.eventually(patience.left(), f"{way}: needs-authorization",
                         lambda portal=portal: refreshd.status(portal).get("phase") == "needs-authorization",
                         lambda portal=portal: refreshd.status(portal))
        lines = [line for line in refreshd.log().splitlines() if portal in line]
        score.check(f"{way}: reported as rejected while in doubt",
                    any("rejected while in doubt" in line for line in lines), "\n".join(lines[-6:]))
        score.check(f"{way}: and not as a grant that died by itself",
                    not any("the grant is dead" in line for line in lines))
        status = refreshd.status(portal)
        score.check(f"{way}: the action names the command", f"refreshd authorize {portal}" in
                    (status.get("action") or ""), status.get("action"))
        sent = len(family.refused)
        code, anew, waiting = authorize(portal)
        status = refreshd.status(portal)
        score.check(f"{way}: refreshd authorize resumes it: exit 0, fresh, no incident", code == 0
                    and status.get("fresh") is True and not status.get("incident"), (waiting.err, status))
        score.check(f"{way}: the spent token was sent once more and then no more", sent == len(family.refused) == 1,
                    family.refused)
        token = refreshd.token(portal)
        score.check(f"{way}: the same files have the new token", bool(anew)
                    and token.get("access_token") in [pair[0] for pair in anew.pairs]
                    and token.get("generation", 0) >= 2 and accepted(oidc, token["access_token"]))
        if anew:
            readers.follow(portal, anew)
    score.eventually(15, "no incident is open", no_incident, lambda: refreshd.command("alert", "list")[1])


def no_incident():
    code, out, _ = refreshd.command("alert", "list", "--json")
    return code == 0 and not json.loads(out).get("incidents")


def introspects_tokens():
    score.heading("introspection")
    code, out, err = refreshd.command("introspect", "basic", "--json")
    response = json.loads(out) if code == 0 else {}
    score.check("a valid token: exit 0, its owner and its expiry", response.get("active") is True
                and response.get("client_id") == "basic" and response.get("sub") == "ada" and "expires_at" in response,
                (code, out, err))
    code, _, err = refreshd.command("introspect", "django-basic")
    score.check("the same at the other server", code == 0 and "works" in err, (code, err))
    code, _, err = refreshd.command("introspect", "django-body")
    score.check("without introspection: exit 78, and the missing key", code == 78 and "introspect_url" in err,
                (code, err))


def restarts():
    score.heading("a restart while the issuer is unreachable")
    oidc.vanish()
    code = parts.stop(refreshd.daemon)
    score.check("the daemon stops cleanly", code == 0, code)
    score.check("it starts", refreshd.start(), refreshd.log()[-1500:])
    oidc.listen()
    since = {portal: len(readers.families[portal].delivered) for portal in ("basic", "public", "machine", "device")}
    patience = Patience(40)
    for portal, before in since.items():
        score.eventually(patience.left(), f"{portal} continues with the stored metadata of the issuer",
                         lambda portal=portal, before=before: len(readers.families[portal].delivered) > before
                         and refreshd.status(portal).get("fresh"), lambda portal=portal: refreshd.status(portal))


def refuses():
    score.heading("refusals")

    def sent(code):
        return any(entry["sent"].get("code") == code for entry in oidc.asked("/token"))

    waiting = Authorization(refreshd, "basic", "--json")
    status, page, _ = fetch(f"{callback}?code=a-foreign-code&state=a-foreign-state")
    score.check("a callback with another state gets no done page", status == 400, (status, page))
    score.check("and its code is not sent to the server", not sent("a-foreign-code"))
    redirected, _ = person().go(waiting.url or oidc.url, callback)
    readers.leave("basic")
    fetch(redirected or callback)
    score.check("the genuine one is still accepted", waiting.end() == 0, waiting.err)
    readers.follow("basic", oidc.newest())

    waiting = Authorization(refreshd, "body", "--json")
    redirected, _ = person().go(waiting.url or oidc.url, callback)
    forged = re.sub(r"state=[^&]*", "state=" + "x" * 43, redirected or "")
    waiting.paste(forged + "\n")
    score.check("a pasted address with another state: it is rejected",
                within(5, lambda: "does not belong" in waiting.err), waiting.err)
    code = parameter(forged, "code")
    score.check("and its code is not sent to the server", code and not sent(code))
    readers.leave("body")
    score.check("the genuine one is still accepted", waiting.end(f"{redirected}\n") == 0, waiting.err)
    readers.follow("body", oidc.newest())

    waiting = Authorization(refreshd, "django-public", "--json")
    redirected, page = Browser(**PERSON, allow=None).go(waiting.url or django.url, callback)
    score.check("the user denies, and the server redirects with the error", "error=access_denied" in (redirected or ""), page)
    status, page, _ = fetch(redirected or callback)
    score.check("the browser gets the error page", status == 400 and "access_denied" in page, (status, page))
    score.check("exit 65", waiting.end() == 65, waiting.err)

    score.check("metadata of another issuer than the configured one is rejected",
                "the metadata is of another issuer" in refreshd.log())
    code, _, err = refreshd.command("authorize", "elsewhere", "--no-browser", "--timeout", "2s")
    score.check("and authorizing there fails", code in (75, 78) and "issuer" in err, (code, err))
    score.check("nor is its secret sent there", not any("elsewhere" in str(entry) for entry in oidc.requests))

    code, _, err = refreshd.command("authorize", "unknown", "--no-browser")
    score.check("an unknown portal: exit 66", code == 66, (code, err))
    code, _, err = refreshd.command("authorize", "basic", "--no-browser", "--timeout", "1s")
    score.check("the wait times out: exit 75", code == 75, (code, err))
    code, _, err = refreshd.command("authorize", "basic", "--no-browser", "--code", "this-code-is-none")
    score.check("a code that the server refuses: exit 65", code == 65, (code, err))
    score.check("and the existing grant stays in force", refreshd.status("basic").get("fresh") is True)


def loses_the_first_reply():
    score.heading("the response to a code exchange is lost")
    for portal, front, token in (("unlucky", oidc, "/token"), ("django-unlucky", django, "/o/token/")):
        front.lose_code = "close"
        code, _, waiting = authorize(portal)
        spent = [entry["sent"].get("code") for entry in front.asked(token)][-1:]
        sent = sum(entry["sent"].get("code") in spent for entry in front.asked(token))
        score.check(f"{portal}: exit 65 or 75, with an explanation", code in (65, 75) and len(waiting.err.splitlines()) > 3,
                    (code, waiting.err))
        score.note(waiting.err.splitlines()[-1] if waiting.err else "")
        score.check(f"{portal}: the code, which may be spent, is not sent again", sent == 1, sent)
        score.check(f"{portal}: no token", not refreshd.token(portal))
        code, family, waiting = authorize(portal)
        score.check(f"{portal}: a second authorization succeeds", code == 0, waiting.err)
        readers.follow(portal, family)


def renews():
    score.heading("renewals")
    patience = Patience(60)
    for portal, family in list(readers.families.items()):
        if "lost" in portal:
            continue
        score.eventually(patience.left(), f"{portal}: three renewals; its server accepted each published token",
                         lambda family=family, portal=portal: len(family.delivered) >= 4
                         and readers.accepted.get(portal, 0) >= 4,
                         lambda family=family, portal=portal: (len(family.delivered), readers.accepted.get(portal, 0),
                                                              refreshd.status(portal)))
        score.check(f"{portal}: the server refused nothing", not [error for error in family.refused
                                                                if error != "authorization_pending"], family.refused)
    found = refreshd.token("basic").get("access_token", "")
    status, body, _ = fetch(f"http://127.0.0.1:{oidc.backend}/me", headers={"Authorization": f"Bearer {found}"})
    score.check("userinfo names the token's owner", status == 200 and json.loads(body).get("sub") == "ada", body)
    machine = [entry["sent"] for entry in oidc.asked("/token")
               if entry["sent"].get("grant_type") == "client_credentials"]
    score.check("client credentials: no refresh token was ever sent or stored",
                len(machine) >= 4 and not any("refresh_token" in sent for sent in machine))


def revokes():
    score.heading("forget --revoke")
    family = readers.families.get("revoked")
    readers.leave("revoked")
    if not family:
        score.check("there is something to revoke", False)
        return
    access, refresh = family.pairs[-1]
    score.check("the server knows the tokens before", accepted(oidc, access) and accepted(oidc, refresh))
    code, out, err = refreshd.command("forget", "revoked", "--revoke", "--yes")
    score.check("refreshd forget --revoke: exit 0", code == 0, (code, out, err))
    access, refresh = family.pairs[-1]
    score.check("introspection returns active=false for both", not accepted(oidc, access) and not accepted(oidc, refresh))
    score.check("the token files are gone", not (refreshd.tokens / "revoked" / "token.json").exists())


def readers_are_content():
    score.heading("readers")
    score.check("no reader met an expired, an old or a rejected token", not readers.wrong, readers.wrong)
    score.eventually(10, "every file has its newest token", lambda: all(
        refreshd.token(portal).get("access_token") == family.current() for portal, family in readers.families.items()))


def leaks_nothing():
    score.heading("secrets")
    refreshd.command("status")
    refreshd.command("alert", "list")
    passed = oidc.secrets | django.secrets | set(SECRETS.values()) | {PERSON["password"]}
    passed |= {urllib.parse.quote_plus(secret) for secret in SECRETS.values()}
    score.note(f"{len(passed)} secrets passed, {len(refreshd.outputs)} commands were run")
    score.check("enough secrets have passed", len(passed) > 100)
    score.check("the search finds text that is there", refreshd.leaks({"next_renewal="}) == ["the log"])
    found = refreshd.leaks(passed, oidc.access | django.access)
    score.check("none is in the log, in an output, on a page or in another place", not found,
                found)


def play():
    first_grants()
    machine_and_device()
    takes_in()
    families = loses_replies()
    how_it_asks()
    loses_the_first_reply()
    recovers(families)
    resumes(families)
    renews()
    introspects_tokens()
    restarts()
    refuses()
    revokes()
    readers_are_content()
    leaks_nothing()
    code = parts.stop(refreshd.daemon)
    score.check("the daemon stops cleanly", code == 0, code)


try:
    fronts = start_servers()
    oidc, django = fronts["oidc"], fronts["django"]
    refreshd = Refreshd(BINARY, parts, settings())
    play()
    if score.failed:
        score.heading("the daemon's last log lines")
        print("\n".join(line[:300] for line in refreshd.log().splitlines()[-40:]))
finally:
    readers.over.set()
    parts.stop_all()
sys.exit(score.end())
