#!/usr/bin/env python3
"""Search for leaked secrets: tests/system/secret_search.py [BINARY], by default target/release/refreshd.

Runs the daemon at level trace and its commands against a server whose secrets are all known and which repeats its input in
several encodings. Then every log, page, response, alert, argument list, file and core is searched for each secret:
unchanged, in parts of 16 characters, and percent-, JSON-, HTML-, base64- and hex-encoded. Allowed are the state, the token
files, the source files of secrets, and requested output: `token`, `renew --json`, `authorize --json`, and the address with
`state` on the terminal of `authorize`.

Everything is on loopback, in a temporary directory, and ends within three minutes. Exit code: 0, 1 (a secret was found,
or something that should be searched did not happen), 66 (no such binary).
"""

import atexit
import base64
import html
import http.server
import json
import os
import pty
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIFE = 20
PART = 16

known = {}  # secret -> what it is
texts = []  # (where, text)
asked = []  # paths and bodies that the server was sent
failed = 0
lock = threading.Lock()


def report(ok, what, *details):
    global failed
    failed += not ok
    print(f"{'PASS' if ok else 'FAIL'}  {what}")
    for line in details[:12] if not ok else ():
        print(f"      {line}")


def secret(what):
    """Characters that every encoding changes."""
    made = f"{secrets.token_hex(9)}/{secrets.token_hex(5)}+{secrets.token_hex(4)}~{secrets.token_hex(6)}=="
    with lock:
        known[made] = what
    return made


def look(where, text):
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    with lock:
        texts.append((where, text))


def forms(it):
    """Encodings of a secret, with a name for each."""
    percent = urllib.parse.quote(it, safe="")
    made = {
        "percent": percent,
        "percent, lower case": re.sub("%..", lambda found: found[0].lower(), percent),
        "percent twice": urllib.parse.quote(percent, safe=""),
        "JSON": it.replace("/", "\\/"),
        "JSON, by number": "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in it),
        "HTML": "".join(c if c.isalnum() else f"&#{ord(c)};" for c in it),
        "HTML, hexadecimal": "".join(c if c.isalnum() else f"&#x{ord(c):x};" for c in it),
        "HTML, by name": html.escape(it),
        "hex": it.encode().hex(),
    }
    for before in range(3):
        # As a part of a longer text: the first and the last characters depend on their neighbours.
        encoded = base64.b64encode(b"x" * before + it.encode()).decode().rstrip("=")[2 * (before > 0) + before : -2]
        made[f"base64, {before}"] = encoded
        made[f"base64url, {before}"] = encoded.replace("+", "-").replace("/", "_")
    for at in range(len(it) - PART + 1):
        made[f"part at {at}"] = it[at : at + PART]
    return made


def search(where, text, without=()):
    return [
        f"{where}: {what} ({name}): …{text[max(0, text.index(form) - 60) : text.index(form)]}…"
        for it, what in list(known.items())
        if what not in without
        for name, form in forms(it).items()
        if form in text
    ]


def within(seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := what():
                return found
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    return None


# --- the server: an authorization server that repeats its input, and a receiver of alerts that does ---

SPELLINGS = [
    lambda it: it,
    lambda it: urllib.parse.unquote_plus(it),
    lambda it: base64.b64encode(it.encode()).decode(),
    lambda it: html.escape(urllib.parse.unquote_plus(it)),
    lambda it: urllib.parse.quote(it),
    lambda it: it.encode().hex(),
]


class Server(http.server.BaseHTTPRequestHandler):
    owner = {}  # refresh token or code -> portal
    alerts = 0
    echoes = 0

    def log_message(self, *_):
        pass

    def answer(self, status, body, **headers):
        body = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        with lock:
            known[query["state"]] = "state"
        code = secret("code")
        Server.owner[code] = "browser"
        to = query["redirect_uri"] + "?" + urllib.parse.urlencode({"code": code, "state": query["state"]})
        self.answer(302, b"", Location=to)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        with lock:
            asked.append((self.path, body))
        if self.path.startswith("/hook"):
            Server.alerts += 1
            look("an alert", body)
            # It repeats the address, as many servers do.
            self.answer(404 if Server.alerts % 2 else 200, {"error": f"no route {self.path}, {urllib.parse.unquote(self.path)}"})
            return
        form = dict(urllib.parse.parse_qsl(body))
        if "code_verifier" in form:
            with lock:
                known[form["code_verifier"]] = "code verifier"
        if self.path == "/introspect":
            self.answer(200, {"active": True, "scope": "read", "token": form["token"]})
            return
        token = form.get("refresh_token") or form.get("code")
        portal = Server.owner.pop(token, None)
        if portal in ("echo", "code"):
            Server.owner[token] = portal
            Server.echoes += 1
            spelt = SPELLINGS[Server.echoes % len(SPELLINGS)]
            basic = self.headers.get("Authorization", "")
            details = spelt(body) + " and " + basic + " and " + spelt(base64.b64decode(basic[6:] or b"").decode())
            error = "odd_error" if portal == "echo" else spelt(token)
            self.answer(400, {"error": error, "error_description": f"cannot parse {details}"})
        elif portal in (None, "dead"):
            self.answer(400, {"error": "invalid_grant", "error_description": f"unknown {token}"})
        else:
            refresh, access = secret("refresh token"), secret("access token")
            Server.owner[refresh] = portal
            self.answer(200, {"access_token": access, "refresh_token": refresh, "expires_in": LIFE, "token_type": "bearer"})


# --- what is watched meanwhile ---


def arguments(stop):
    """The arguments of every process of this machine, again and again."""
    seen = set()
    while not stop.is_set():
        for at in os.listdir("/proc"):
            if at.isdigit() and int(at) != os.getpid():
                try:
                    line = Path(f"/proc/{at}/cmdline").read_bytes()
                except OSError:
                    continue
                if line not in seen:
                    seen.add(line)
                    look("arguments of a process", line.replace(b"\0", b" "))
        stop.wait(0.01)


def get(address, host="localhost"):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers={"Host": host}), timeout=10) as reply:
            return reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def ask(path, target):
    """GET at the control socket."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(str(path))
        stream.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: stream.recv(65536), b""))


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


PORTALS = ["good", "echo", "code", "dead", "browser", "given", "gone"]


def configure(work, server, page, back):
    inputs = work / "inputs"
    for folder in (inputs, work / "tmp", work / "run", work / "bin", work / "cwd"):
        folder.mkdir()

    def write(name, text):
        with open(os.open(inputs / name, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(text)

    write("client.secret", secret("client secret"))
    address = secret("address of a receiver")
    write("hook.url", f"http://127.0.0.1:{server}/hook/{urllib.parse.quote(address, safe='')}")
    lines = f"""
state = "{work}/state/state.db"
token_dir = "{work}/tokens"
control_socket = "{work}/run/control.sock"
[log]
level = "trace"
format = "text"
[http]
listen = "127.0.0.1:{page}"
[providers.strict]
token_url = "http://127.0.0.1:{server}/token"
authorize_url = "http://127.0.0.1:{server}/authorize"
introspect_url = "http://127.0.0.1:{server}/introspect"
default_domain = "127.0.0.1:{server}"
client_authentication = "basic"
pkce = "S256"
renew_every = "30%"
not_before = "1s"
[apps.app]
provider = "strict"
client_id = "client"
client_secret_file = "{inputs}/client.secret"
redirect_uri = "http://127.0.0.1:{back}/callback"
[channels.hook]
kind = "webhook"
url_file = "{inputs}/hook.url"
"""
    for portal in PORTALS:
        lines += f'[portals.{portal}]\napp = "app"\nformats = ["json", "raw", "header", "env"]\n'
        if portal not in ("browser", "given"):
            first = secret("refresh token")
            Server.owner[first] = portal
            write(f"{portal}.refresh", first)
            lines += f'refresh_token_file = "{inputs}/{portal}.refresh"\n'
    first = secret("refresh token")
    Server.owner[first] = "given"
    write("given.json", json.dumps({"access_token": secret("access token"), "refresh_token": first, "expires_in": LIFE}))
    for folder in ("state", "tokens"):
        (work / folder).mkdir(mode=0o700 if folder == "state" else 0o755)
    (work / "refreshd.toml").write_text(lines)
    # The browser: records its arguments and follows redirects.
    browser = work / "bin" / "xdg-open"
    browser.write_text(
        f"""#!{sys.executable}
import sys, time, urllib.request
open("{work}/browser.arguments", "a").write("\\n".join(sys.argv) + "\\n")
time.sleep(0.3)
open("{work}/browser.page", "w").write(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())
"""
    )
    browser.chmod(0o755)


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/refreshd").resolve()
    if not os.access(binary, os.X_OK):
        print(f"tests/system/secret_search.py: no executable at {binary}; build it first, or name it", file=sys.stderr)
        sys.exit(66)
    # An alarm is an error like any other, so that everything is cleaned up.
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("tests/system/secret_search.py: not done within 180 s"))
    signal.alarm(180)
    work = Path(tempfile.mkdtemp(prefix="refreshd-secrets-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop = threading.Event()
    watcher = threading.Thread(target=arguments, args=[stop], daemon=True)
    page, back = free_port(), free_port()
    configure(work, server.server_port, page, back)
    environment = {
        "PATH": f"{work}/bin:{os.environ['PATH']}",
        "HOME": str(work / "cwd"),
        "TMPDIR": str(work / "tmp"),
        "DISPLAY": ":1",
        "REFRESHD_CONFIG": str(work / "refreshd.toml"),
    }
    options = {"cwd": work / "cwd", "env": environment, "stdin": subprocess.DEVNULL}

    # The search itself comes first: a search that finds nothing proves nothing.
    sample = secret("a sample")
    blind = [name for name, form in forms(sample).items() if not search("here", f"a {form} b")]
    blind += [f"base64 behind {n}" for n in range(6) if not search("", base64.b64encode(b"c:" * n + sample.encode() + b"!").decode())]
    report(not blind, "the search finds a secret in every form", *blind)
    report(not search("", "nothing of the kind"), "and nothing where there is none")

    watcher.start()
    daemon = None

    def command(*words, prints=(), code=(0,), feed=None):
        given = dict(options, stdin=None, input=feed) if feed is not None else options
        done = subprocess.run([binary, *words], capture_output=True, text=True, timeout=60, check=False, **given)
        found = search(" ".join(words), done.stdout, without=prints) + search(" ".join(words), done.stderr)
        details = f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"
        good = done.returncode in code
        report(good and not found, f"refreshd {' '.join(words)}", *found, *([] if good else [details]))

    try:
        command("check")
        with open(work / "log", "w") as log:
            daemon = subprocess.Popen(
                [binary, "run"],
                stdout=log,
                stderr=log,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2),
                **options,
            )
        report(within(20, lambda: (work / "tokens/good/token").read_text()), "the daemon runs and publishes")
        command("import", "given", str(work / "inputs/given.json"), code=(0, 75))
        # A user at a terminal, so that a browser is opened.
        ours, terminal = pty.openpty()
        person = subprocess.Popen([binary, "authorize", "browser", "--timeout", "20s"], stdout=terminal, stderr=terminal, **options)
        os.close(terminal)
        shown = b""
        while True:
            try:
                if not (part := os.read(ours, 65536)):
                    break
            except OSError:
                break
            shown += part
        os.close(ours)
        person.wait(30)
        shown = shown.decode("utf-8", "replace")
        found = search("the terminal", shown.replace("\r\n", ""), without=("state",))
        report(person.returncode == 0 and not found, "refreshd authorize browser, on a terminal", *found, *shown.splitlines()[-5:])
        browser = (work / "browser.arguments").read_text() if (work / "browser.arguments").exists() else ""
        report(browser, "a browser was opened")
        command("authorize", "given", "--redirected-url", f"http://127.0.0.1:{back}/callback?error=access_denied", code=(64, 65, 75))
        command("introspect", "good", code=(0, 1, 64, 69))
        command("token", "good", prints=("access token",))
        command("renew", "good")
        command("renew", "good", "--json", prints=("access token",))
        # Every spelling of the repeated input.
        for portal in ("echo", "code"):
            for _ in SPELLINGS:
                command("renew", portal, code=(0, 1, 75))
                command("status", portal, code=(0, 1, 2, 75))
        command("renew", "dead", code=(0, 1, 75))
        command("status", code=(0, 1, 2))
        command("status", "--json", code=(0, 1, 2))
        command("status", "echo", "--json", code=(0, 1, 2))
        command("alert", "list", code=(0, 1))
        command("alert", "test", code=(0, 1, 69, 75))
        command("alert", "test", code=(0, 1, 69, 75))
        command("provider", "show", "strict")
        command("forget", "gone", "--yes")
        for path in ("/", "/metrics", "/livez", "/readyz"):
            look(f"page {path}", get(f"http://127.0.0.1:{page}{path}"))
        for target in ("/v1/portals", "/v1/alerts", *(f"/v1/portals/{it}{end}" for it in PORTALS for end in ("", "/replies"))):
            look(f"control socket {target}", ask(work / "run/control.sock", target))
        report(within(20, lambda: Server.alerts > 2), "alerts were received")
        log = (work / "log").read_text()
        report("renewed" in log, "the log reports renewals")
        report("odd_error" in log, "and of the server that repeats")
        report(Server.echoes > 2 * len(SPELLINGS), f"the server repeated its input in every spelling ({Server.echoes} times)")
        daemon.send_signal(signal.SIGABRT)
        daemon.wait(20)
        report(daemon.returncode == -signal.SIGABRT, "the daemon was ended as by a fault", f"{daemon.returncode}")
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
        places = [work / "cwd", *([Path(pattern).parent] if pattern.startswith("/") else [])]
        cores = [it for place in places for it in place.glob("*core*") if str(daemon.pid) in it.name or place == work / "cwd"]
        report(not cores, "it left no core", *cores)
        command("status", code=(0, 1, 2, 69))
        command("token", "good", prints=("access token",), code=(0, 75))
    finally:
        stop.set()
        if daemon and daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        server.shutdown()
        if watcher.is_alive():
            watcher.join(5)

    # Files on disk. Secrets belong in the state and the token files; `inputs` is their source.
    for folder, below, files in os.walk(work):
        if Path(folder) == work:
            below[:] = [it for it in below if it not in ("inputs", "tokens", "state", "bin")]
        for name in filter(lambda it: Path(folder, it).is_file(), files):
            look(f"file {Path(folder, name).relative_to(work)}", Path(folder, name).read_bytes())
    for file in (work / "state").iterdir():
        if not re.fullmatch(r"state\.db(-wal|-shm|-journal)?", file.name):
            look(f"file state/{file.name}", file.read_bytes())
    others = [it for it in (work / "tokens").rglob("*") if it.is_file() and it.name not in ("token", "token.json", "header", "env")]
    report(not others, "beside the token files there are no others", *others)
    for file in (work / "tokens").rglob("*"):
        if file.is_file():
            found = search(f"token file {file.relative_to(work)}", file.read_text(), without=("access token",))
            report(not found, f"{file.relative_to(work)} holds nothing but an access token", *found)
    kinds = sorted({what for what in known.values()})
    report(len(kinds) >= 7, f"{len(known)} secrets are known: {', '.join(kinds)}")
    places = {}
    for where, text in texts:
        places.setdefault(where, []).append(text)
    for where, all_of_it in sorted(places.items()):
        found = search(where, "\n".join(all_of_it))
        report(not found, f"no secret in: {where} ({len(all_of_it)})", *found)
    print(f"\ntests/system/secret_search.py: {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
