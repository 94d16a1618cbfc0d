"""The servers of tests/system/alerting.sh: proxies in front of the authorization servers, and every receiver of alerts.

Not a rig by itself. Started with a directory and the ports as JSON, it serves on loopback until it is ended:
  token     forwards requests to the fake servers, or rejects those of a portal, as configured; a response that a
            killed daemon did not receive is given again, since lost responses are not tested here
  receivers checks strictly what is sent to a webhook, Slack, Telegram, PagerDuty, a heartbeat and a program
  webhook   one of them, which can be down
  mail      a mail server (aiosmtpd): STARTTLS first, then a login, or nothing
  silent    accepts every connection and never answers
  control   the rig sets the behaviour of the others here

Messages are written to DIR/messages.jsonl, one a line: at, channel, subject, how, title, text. The same as received, without
the receiver's own secret, is in DIR/messages.raw; every token that passed is in DIR/secrets.
"""

import base64
import datetime
import email
import email.policy
import html
import http.client
import json
import pathlib
import re
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

DIR = pathlib.Path(sys.argv[1])
# ports, and the secret of each receiver; see `parts` in the rig
SETUP = json.loads((DIR / "setup.json").read_text())
SECRET = SETUP["secrets"]
LOCK = threading.RLock()

# --- records --------------------------------------------------------------------------------------------------------


def append(name, line):
    with LOCK, open(DIR / name, "a", encoding="utf-8") as book:
        book.write(line + "\n")


def note(name, **what):
    append(name, json.dumps({"at": time.time(), **what}))


def record(channel, raw, title="", subject="", how="", text="", **more):
    """A message arrived. `raw`: its bytes, without the receiver's own secret."""
    append("messages.raw", f"=== {channel}\n{raw}")
    parts = re.match(r"\[(\w+)\] (.*?): ", title)
    how = how or (parts[1] if parts else "")
    note("messages.jsonl", channel=channel, subject=subject or (subject_of(parts[2]) if parts else ""), how=how, title=title,
         text=text, **more)


def subject_of(words):
    """`portal/acme` from the name in a title."""
    many = re.match(r"(\d+) portals (at|of app) (.*)", words)
    if many:
        return ("server/" if many[2] == "at" else "app/") + many[3]
    kind = re.match(r"(app|channel) (.*)", words)
    return f"{kind[1]}/{kind[2]}" if kind else f"portal/{words}"


def complain(channel, why, raw):
    note("complaints.jsonl", channel=channel, why=why, raw=raw)


# --- tokens ---------------------------------------------------------------------------------------------------------


class Tokens:
    """The owners of refresh tokens, and the behaviour for their requests."""

    def __init__(self):
        self.owner, self.play, self.replies = {}, {}, {}

    def learn(self, portal, token):
        with LOCK:
            self.owner[token] = portal
        append("secrets", token)

    def read(self):
        """The first refresh tokens, as the fake servers have written them."""
        for server in SETUP["servers"]:
            for path in pathlib.Path(SETUP["servers"][server]["dir"]).glob("*.refresh"):
                self.learn(f"{server}/{path.stem}", path.read_text().strip())

    def how(self, portal):
        with LOCK:
            return self.play.get(portal) or self.play.get(portal.split("/")[0] + "/*") or "pass"


TOKENS = Tokens()
REFUSALS = {
    "pass": None,
    "500": (500, b"<html>Internal Server Error</html>", "text/html"),
    "400": (400, b'{"error":"invalid_grant","error_description":"Invalid grant"}', "application/json"),
}


class Http(BaseHTTPRequestHandler):
    """Common parts of all of them."""

    protocol_version = "HTTP/1.1"
    # A reply in two packets would wait for the client's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer(self, status, body=b"", kind="text/plain"):
        body = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class TokenServer(Http):
    """`/SERVER/oauth/token/` is that server's `/oauth/token/`."""

    def do_POST(self):
        body = self.body()
        server = self.path.split("/")[1]
        form = dict(urllib.parse.parse_qsl(body.decode()))
        portal = TOKENS.owner.get(form.get("refresh_token"), f"{server}/?")
        refusal = REFUSALS[TOKENS.how(portal)]
        if refusal:
            # The time is recorded before the daemon can know of it.
            note("requests.jsonl", portal=portal, status=refusal[0])
            return self.answer(*refusal)
        again = TOKENS.replies.get(form.get("refresh_token"))
        if again:
            return self.answer(*again)
        upstream = http.client.HTTPConnection("127.0.0.1", SETUP["servers"][server]["port"], timeout=20)
        upstream.request("POST", "/oauth/token/", body, {"content-type": self.headers["content-type"]})
        reply = upstream.getresponse()
        content = reply.read()
        upstream.close()
        pair = json.loads(content)
        if "refresh_token" in pair:
            TOKENS.learn(portal, pair["refresh_token"])
            append("secrets", pair["access_token"])
            TOKENS.replies[form["refresh_token"]] = (reply.status, content, reply.headers["content-type"])
        note("requests.jsonl", portal=portal, status=reply.status)
        return self.answer(reply.status, content, reply.headers["content-type"])


# --- receivers ------------------------------------------------------------------------------------------------------


class Wrong(Exception):
    """A message does not conform to the receiver's documentation."""


def must(holds, what):
    if not holds:
        raise Wrong(what)


def fields(value, required, optional=()):
    """An object with all of these fields, perhaps some of those, and no others."""
    must(isinstance(value, dict), "an object")
    missing, unknown = set(required) - set(value), set(value) - set(required) - set(optional)
    must(not missing, f"complete: {missing}")
    must(not unknown, f"of known fields: {unknown}")
    return value


def text(value, least, most):
    must(isinstance(value, str), "a text")
    must(least <= len(value.encode("utf-16-le")) // 2 <= most, f"{least} to {most} characters")
    return value


def moment(value):
    must(isinstance(value, str) and value.endswith("Z"), "a time")
    return datetime.datetime.fromisoformat(value[:-1].split(".")[0])


def address(value):
    must(urllib.parse.urlparse(value).scheme in ("http", "https"), "an address")


def webhook(body, channel):
    """https://prometheus.io/docs/alerting/latest/configuration/#webhook_config"""
    fields(body, ("version groupKey truncatedAlerts status receiver groupLabels commonLabels commonAnnotations "
                  "externalURL alerts").split())
    must(body["version"] == "4" and body["truncatedAlerts"] == 0, "version 4")
    must(body["status"] in ("firing", "resolved"), "a status")
    must(body["alerts"], "alerts")
    for alert in body["alerts"]:
        fields(alert, "status labels annotations startsAt endsAt generatorURL fingerprint".split())
        must(alert["status"] in ("firing", "resolved"), "a status")
        for texts in (alert["labels"], alert["annotations"]):
            for value in fields(texts, (), texts).values():
                text(value, 0, 100_000)
        begins, ends = moment(alert["startsAt"]), moment(alert["endsAt"])
        must((ends.year == 1) == (alert["status"] == "firing"), "an end that fits its status")
        must(ends.year == 1 or ends >= begins, "an end after the beginning")
        must(re.fullmatch("[0-9a-f]{16}", alert["fingerprint"]), "a fingerprint")
        title = alert["annotations"].get("summary", "")
        more = {"severity": alert["labels"].get("severity"), "status": alert["status"]}
        if channel != "hook":
            more |= {"labels": alert["labels"]}
        yield {"title": title, "subject": alert["labels"].get("incident", alert["labels"].get("alertname")), "text":
               title + "\n" + alert["annotations"].get("description", ""), **more}


def slack(body, _):
    """https://api.slack.com/reference/block-kit/blocks"""
    fields(body, ["text", "blocks"])
    text(body["text"], 1, 40_000)
    must(1 <= len(body["blocks"]) <= 50, "1 to 50 blocks")

    def mrkdwn(value):
        fields(value, ["type", "text"], ["verbatim"])
        must(value["type"] == "mrkdwn", "mrkdwn")
        text(value["text"], 1, 3000)

    for block in body["blocks"]:
        kind = block.get("type")
        must(kind in ("header", "section", "context"), "a known block")
        if kind == "header":
            fields(block, ["type", "text"])
            must(fields(block["text"], ["type", "text"], ["emoji"])["type"] == "plain_text", "plain_text")
            text(block["text"]["text"], 1, 150)
        elif kind == "section":
            mrkdwn(fields(block, ["type", "text"])["text"])
        else:
            must(1 <= len(fields(block, ["type", "elements"])["elements"]) <= 10, "1 to 10 elements")
            for element in block["elements"]:
                mrkdwn(element)
    words = html.unescape(body["text"])
    yield {"title": words.split("\n")[0], "text": words}


def telegram(body, _):
    """https://core.telegram.org/bots/api#sendmessage"""
    fields(body, ["chat_id", "text"], ["parse_mode", "link_preview_options", "disable_notification"])
    must(isinstance(body["chat_id"], (int, str)), "a chat")
    text(body["text"], 1, 4096)
    must(body["parse_mode"] == "HTML", "HTML")
    plain = re.sub(r"<b>|</b>|<a href=\"[^\"<>]*\">|</a>|&amp;|&lt;|&gt;", "", body["text"])
    must(not set("<>&") & set(plain), "HTML that can be parsed")
    words = html.unescape(re.sub(r"<[^>]*>", "", body["text"]))
    yield {"title": words.split("\n")[0], "text": words}


def pagerduty(body, _):
    """https://developer.pagerduty.com/docs/send-alert-event"""
    of_trigger = ["payload", "client", "client_url", "links", "images"]
    fields(body, ["routing_key", "event_action", "dedup_key"], of_trigger)
    must(len(json.dumps(body)) <= 512 * 1024, "at most 512 KB")
    key = text(body["dedup_key"], 1, 255)
    subject = key.removeprefix("refreshd/rig-host/")
    if body["event_action"] != "trigger":
        must(body["event_action"] in ("acknowledge", "resolve"), "an action")
        fields(body, ["routing_key", "event_action", "dedup_key"])
        # With `alert test` a resolution follows at once; its only name is its key.
        yield {"subject": subject, "how": {"acknowledge": "acknowledged", "resolve": "resolved"}[body["event_action"]]}
        return
    payload = fields(body["payload"], ["summary", "source", "severity"],
                     ["timestamp", "component", "group", "class", "custom_details"])
    title = text(payload["summary"], 1, 1024)
    text(payload["source"], 1, 1024)
    must(payload["severity"] in ("critical", "error", "warning", "info"), "a severity")
    moment(payload["timestamp"])
    must(isinstance(payload["custom_details"], dict), "an object of details")
    for link in body.get("links", []):
        address(fields(link, ["href"], ["text"])["href"])
    yield {"title": title, "subject": subject, "text": "\n".join([title, *payload["custom_details"]["lines"]])}


def push(body, _):
    """The rig's own template."""
    fields(body, ["title", "message", "urgent"])
    must(body["urgent"] or not body["title"].startswith("[critical]"), "urgent when critical")
    yield {"title": body["title"], "text": body["title"] + "\n" + body["message"]}


def script(body, _):
    """The standard input of the program, in refreshd's own format."""
    yield {"title": body["title"], "text": "\n".join([body["title"], *body["lines"]]), "event": body["event"]}


# path: the channel, the check, the answer to a valid message
RECEIVERS = {
    "/slack/T0AAAA/B0BBBB/" + SECRET["slack"]: ("slack", slack, (200, "ok")),
    "/bot" + SECRET["telegram"] + "/sendMessage":
        ("telegram", telegram, (200, '{"ok":true,"result":{"message_id":1}}')),
    "/v2/enqueue": ("pager", pagerduty, (202, '{"status":"success","message":"Event processed"}')),
    "/push/" + SECRET["push"]: ("push", push, (200, "taken by push")),
    "/script": ("script", script, (200, "taken by script")),
    "/hook/" + SECRET["hook"]: ("hook", webhook, (200, "taken by hook")),
    "/from-alertmanager": ("from-alertmanager", webhook, (200, "")),
}
# channel: the answer that it gives instead
ANSWERS = {}


class Receivers(Http):
    def do_GET(self):
        if self.path != "/beat/" + SECRET["beat"]:
            return self.answer(404, "(not found)")
        record("beat", str(self.headers), how="ping", subject="everything")
        return self.answer(200, "OK")

    def do_POST(self):
        raw = self.body().decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        authorization = headers.pop("authorization", "")
        if self.path == "/beat/" + SECRET["beat"] + "/fail":
            record("beat", raw, how="fail", subject="everything", text=raw)
            return self.answer(200, "OK")
        if self.path == "/script-environment":
            append("messages.raw", f"=== script's environment\n{raw}")
            return self.answer(200, "")
        if self.path not in RECEIVERS:
            return self.answer(404, "no such receiver")
        channel, check, good = RECEIVERS[self.path]
        # The receiver's own secret is no leak there.
        kept = raw.replace(SECRET["pager"], "…") if channel == "pager" else raw
        kept = json.dumps(headers) + "\n" + kept
        if channel in ANSWERS:
            append("messages.raw", f"=== {channel}\n{kept}")
            return self.answer(*ANSWERS[channel])
        if channel == "hook" and authorization != SECRET["authorization"]:
            complain(channel, "the authorization is wrong", kept)
            return self.answer(401, "unauthorized")
        try:
            must(headers.get("content-type") == "application/json", "application/json")
            body = json.loads(raw)
            if channel == "pager" and body.get("routing_key") != SECRET["pager"]:
                raise Wrong("its routing key")
            messages = list(check(body, channel))
        except (Wrong, ValueError, KeyError, TypeError) as wrong:
            complain(channel, f"is not {wrong}", kept)
            return self.answer(400, f"is not {wrong}")
        for message in messages:
            record(channel, kept, **message)
        return self.answer(*good)


class Mail:
    """Accepts mail of one user, over TLS only; `require_starttls` and `auth_required` refuse the rest."""

    async def handle_DATA(self, _server, session, envelope):
        content = envelope.original_content.decode()
        mail = email.message_from_string(content, policy=email.policy.default)
        body = mail.get_content()
        kept = {name: mail[name] for name in ("message-id", "references", "in-reply-to", "from", "to", "date")}
        record("mail", content, title=mail["subject"], text=mail["subject"] + "\n" + body, headers=kept,
             tls=session.ssl is not None, user=session.auth_data.decode() if session.auth_data else None,
             envelope=[envelope.mail_from, *envelope.rcpt_tos], kind=mail.get_content_type(),
             automatic=mail["auto-submitted"])
        return "250 2.0.0 taken by mail"

    @staticmethod
    def authenticate(_server, _session, _envelope, _mechanism, login):
        good = (login.login, login.password) == (b"refreshd", SECRET["mail"].encode())
        return AuthResult(success=good, handled=False, auth_data=login.login)


# --- other parts ----------------------------------------------------------------------------------------------------


def be_silent():
    """Accepts every connection, and never answers."""
    listener = socket.create_server(("127.0.0.1", SETUP["ports"]["silent"]), backlog=512)
    taken = []
    while True:
        taken.append(listener.accept()[0])
        (DIR / "silent").write_text(str(len(taken)))


def watch_alertmanager():
    """Records the active alerts of Alertmanager whenever they change."""
    last, opener = None, urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"http://127.0.0.1:{SETUP['ports']['alertmanager']}/api/v2/alerts?active=true"
    while True:
        try:
            alerts = json.load(opener.open(url, timeout=5))
        except (OSError, ValueError):
            time.sleep(0.5)
            continue
        now = [{"labels": alert["labels"], "ends": alert["endsAt"], "text": alert["annotations"].get("description", ""),
                "state": alert["status"]["state"]} for alert in alerts]
        if now != last:
            append("messages.raw", f"=== alertmanager\n{json.dumps(alerts)}")
            note("active.jsonl", alerts=now)
        last = now
        time.sleep(0.3)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512


def serve(port, handler):
    server = Server(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    return server


HOOK = []


def hook(is_there):
    """Stops the webhook's receiver: nothing listens on its port any more. Or starts it again."""
    if is_there and not HOOK:
        HOOK.append(serve(SETUP["ports"]["hook"], Receivers))
    elif not is_there and HOOK:
        server = HOOK.pop()
        server.shutdown()
        server.server_close()


class Control(Http):
    def do_POST(self):
        asked = json.loads(self.body())
        with LOCK:
            TOKENS.play |= asked.get("play", {})
            ANSWERS.update({name: tuple(answer) for name, answer in asked.get("answers", {}).items() if answer})
            for name in [name for name, answer in asked.get("answers", {}).items() if not answer]:
                ANSWERS.pop(name, None)
        if "hook" in asked:
            hook(asked["hook"])
        self.answer(200, "done")


TOKENS.read()
PORTS = SETUP["ports"]
for port in ("token", "token_of_many"):
    serve(PORTS[port], TokenServer)
serve(PORTS["receivers"], Receivers)
hook(True)
threading.Thread(target=be_silent, daemon=True).start()
threading.Thread(target=watch_alertmanager, daemon=True).start()
CONTEXT = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
CONTEXT.load_cert_chain(DIR / "mail.pem", DIR / "mail.key")
Controller(Mail(), hostname="127.0.0.1", port=PORTS["mail"], tls_context=CONTEXT, require_starttls=True,
           auth_required=True, auth_require_tls=True, authenticator=Mail.authenticate).start()
serve(PORTS["control"], Control)
(DIR / "outside.ready").write_text("")
threading.Event().wait()
