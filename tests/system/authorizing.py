"""Common parts of the rigs that authorize: results, starting refreshd, a browser, a proxy in front of a server.

Not a rig by itself. Everything is on loopback, and every process that is started here is ended here, by its id.
"""

import base64
import html.parser
import http.client
import http.cookiejar
import json
import os
import pathlib
import random
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

# Ignore a proxy of the environment for loopback.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
# Fields of a token request or response that are secret.
SECRETS = ("access_token", "refresh_token", "id_token", "client_secret", "code", "code_verifier", "device_code")


# --- results --------------------------------------------------------------------------------------------------------


class Score:
    """Counts the checks of a rig and prints each."""

    def __init__(self, rig):
        self.rig, self.passed, self.failed, self.began = rig, 0, 0, time.monotonic()

    def seconds(self):
        return int(time.monotonic() - self.began)

    def heading(self, text):
        print(f"\n--- {text} ({self.seconds()} s)", flush=True)

    def note(self, text):
        print(f"      {text}", flush=True)

    def check(self, what, holds, seen=""):
        """Passes if `holds`; `seen` is printed if not."""
        print(f"{'PASS' if holds else 'FAIL'}  {what}", flush=True)
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            if seen:
                self.note(str(seen)[:1500])
        return bool(holds)

    def eventually(self, seconds, what, look, seen=lambda: ""):
        """Passes if `look` is true within the time."""
        held = within(seconds, look)
        return self.check(what if held else f"{what} (not within {seconds} s)", held, "" if held else seen())

    def end(self):
        print(f"\ntests/system/{self.rig}.sh: {self.passed} passed, {self.failed} failed, {self.seconds()} s", flush=True)
        return 1 if self.failed or not self.passed else 0


class Patience:
    """Seconds that several checks share, so that a rig with many failures ends, too."""

    def __init__(self, seconds):
        self.until = time.monotonic() + seconds

    def left(self):
        return max(1, round(self.until - time.monotonic()))


def within(seconds, look):
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            return found
        time.sleep(0.1)
    return found


def free_port(taken=set()):  # kept on purpose: one that is not used yet is not free
    """Another port at each call, on which nothing listens."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as trial:
            if port not in taken and trial.connect_ex(("127.0.0.1", port)):
                taken.add(port)
                return port


# --- processes ------------------------------------------------------------------------------------------------------


class Parts:
    """The processes of a rig."""

    def __init__(self, work):
        self.work, self.running = pathlib.Path(work), []
        # A signal ends the rig like any error: the started processes are ended first.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def start(self, name, argv, **more):
        with open(self.work / f"{name}.log", "ab") as log:
            part = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    env=ENVIRONMENT, **more)
        self.running.append(part)
        return part

    def log(self, name):
        return (self.work / f"{name}.log").read_text(errors="replace")

    def stop(self, part, seconds=15):
        """Its exit code."""
        if part in self.running:
            self.running.remove(part)
        if part.poll() is None:
            part.send_signal(signal.SIGTERM)
        try:
            return part.wait(seconds)
        except subprocess.TimeoutExpired:
            part.kill()
            return part.wait()

    def stop_all(self):
        for part in reversed(list(self.running)):
            self.stop(part)


def listens(port):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


class Refreshd:
    """The real binary, with its own configuration. All its output is kept."""

    def __init__(self, binary, parts, settings):
        self.binary, self.parts, self.work = binary, parts, parts.work
        self.tokens, self.outputs, self.daemon = self.work / "tokens", [], None
        self.page = free_port()
        common = {"state": f"{self.work}/state.db", "token_dir": f"{self.tokens}",
                  "control_socket": f"{self.work}/control.sock"}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in common.items())
        text += f'log = {{ format = "text", level = "debug" }}\nhttp = {{ listen = "127.0.0.1:{self.page}" }}\n'
        self.config = self.work / "refreshd.toml"
        self.config.touch(0o600)
        self.config.write_text(text + settings)

    def start(self):
        self.daemon = self.parts.start("daemon", [self.binary, "run", "--config", self.config])
        return within(20, lambda: (self.work / "control.sock").exists() and listens(self.page))

    def log(self):
        return self.parts.log("daemon")

    def open(self, *words, **more):
        """Starts a command whose output is read while it runs."""
        argv = [self.binary, *words, "--config", str(self.config)]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=ENVIRONMENT, **more)

    def keep(self, words, out, err):
        self.outputs.append((" ".join(words), out, err))

    def command(self, *words, text=None, seconds=60):
        """Exit code, standard output, standard error."""
        command = self.open(*words)
        try:
            out, err = command.communicate(text, seconds)
        except subprocess.TimeoutExpired:
            command.kill()
            out, err = command.communicate()
            err += f"\n(ended by the rig after {seconds} s)"
        self.keep(words, out, err)
        return command.returncode, out, err

    def status(self, portal):
        shown = self.command("status", portal, "--json")[1]
        try:
            return json.loads(shown)["portals"][0]
        except (ValueError, LookupError):
            return {}

    def token(self, portal):
        """The published token, or nothing."""
        try:
            return json.loads((self.tokens / portal / "token.json").read_text())
        except (OSError, ValueError):
            return {}

    def leaks(self, secrets, shown=()):
        """The places that hold one of the secrets and must not: the log, outputs, pages, token files. The access tokens in `shown`
        are published."""
        places = {"the log": self.log()}
        for path in ("/metrics", "/", "/readyz"):
            places[f"the page {path}"] = fetch(f"http://127.0.0.1:{self.page}{path}")[1]
        for words, out, err in self.outputs:
            places[f"standard error of refreshd {words}"] = err
            if "--json" not in words or "authorize" not in words and "renew" not in words:
                places[f"standard output of refreshd {words}"] = out
            else:
                # A token response is requested there. A refresh token never is.
                places[f"refresh token in the output of refreshd {words}"] = "".join(
                    secret for secret in secrets - set(shown) if secret in out)
        found = []
        for place, text in places.items():
            text = urllib.parse.unquote(text) + "\n" + text
            if any(secret in text for secret in secrets):
                found.append(place)
        for file in self.tokens.rglob("*"):
            if file.is_file() and any(secret in file.read_text() for secret in secrets - set(shown)):
                found.append(f"a secret in {file.relative_to(self.work)}")
        return found


class Authorization:
    """`refreshd authorize PORTAL` while it waits for the browser."""

    def __init__(self, refreshd, portal, *more):
        self.words = ["authorize", portal, "--no-browser", "--timeout", "20s", *more]
        self.refreshd, self.out, self.err, self.url = refreshd, "", "", None
        self.command = refreshd.open(*self.words)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        within(10, lambda: self.url or self.command.poll() is not None)

    def read(self):
        for line in self.command.stderr:
            self.err += line
            found = re.match(r"\s*(https?://\S+)", line)
            if found and not self.url:
                self.url = found[1]

    def parameters(self):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.url or "").query))

    def redirect_uri(self):
        return self.parameters().get("redirect_uri", "http://unused.invalid/")

    def paste(self, text, last=False):
        try:
            self.command.stdin.write(text)
            self.command.stdin.flush()
            if last:
                self.command.stdin.close()
        except OSError:
            pass  # it has ended and does not read any more

    def end(self, text=None):
        """The exit code. `text` is pasted by the user."""
        if text is not None:
            self.paste(text)
        try:
            self.command.wait(25)
        except subprocess.TimeoutExpired:
            self.command.kill()
        self.paste("", last=True)
        self.reader.join(5)
        self.out = self.command.stdout.read()
        self.refreshd.keep(self.words, self.out, self.err)
        return self.command.wait()


# --- a browser ------------------------------------------------------------------------------------------------------


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def opener(*handlers):
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect, *handlers)


def fetch(url, form=None, headers=None, by=None, seconds=20):
    """Status, body, headers of one request; a form is posted."""
    data = urllib.parse.urlencode(form).encode() if form is not None else None
    request = urllib.request.Request(url, data, headers or {})
    try:
        with (by or opener()).open(request, timeout=seconds) as reply:
            return reply.status, reply.read().decode(errors="replace"), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace"), error.headers
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}", {}


class Forms(html.parser.HTMLParser):
    """The first form of a page: its target and its fields."""

    def __init__(self, page):
        super().__init__()
        self.action, self.fields, self.inside, self.seen = None, {}, False, False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "form" and not self.seen:
            self.inside = self.seen = True
            self.action = named.get("action") or ""
        elif tag in ("input", "button") and self.inside and named.get("name"):
            self.fields[named["name"]] = named.get("value") or ""

    def handle_endtag(self, tag):
        if tag == "form":
            self.inside = False


class Browser:
    """A user who logs in and consents: follows redirects, keeps cookies, fills in and sends each page's form. An answer of
    `None` is a field, or a button, that is left out."""

    def __init__(self, **answers):
        self.answers = answers
        self.by = opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def go(self, url, until):
        """To the first address that begins with `until`, which is not visited; or `None` and the last page's text if no form
        is left."""
        form = None
        for _ in range(20):
            status, page, headers = fetch(url, form, {"Referer": url}, self.by)
            if status in (301, 302, 303, 307, 308):
                url, form = urllib.parse.urljoin(url, headers["Location"]), None
                if until and url.startswith(until):
                    return url, page
                continue
            found = Forms(page)
            if status != 200 or not found.seen:
                words = " ".join(re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())
                return None, f"{status} at {url.partition('?')[0]}: {words[:400]}"
            url = urllib.parse.urljoin(url, found.action)
            form = {name: self.answers.get(name, value) for name, value in found.fields.items()}
            form = {name: value for name, value in form.items() if value is not None}
        return None, f"no end of pages at {url.partition('?')[0]}"


# --- the proxy in front of a server ---------------------------------------------------------------------------------


class Family:
    """The tokens of one authorization, newest last."""

    def __init__(self):
        self.pairs = []         # as the server issued them: (access, refresh)
        self.delivered = []     # access tokens whose response was forwarded completely, with the time
        self.lose = []          # the faults of the next replies
        self.lost = []          # pairs whose response was lost
        self.refused = []       # the error codes of renewals

    def current(self):
        return self.delivered[-1][0] if self.delivered else None

    def settled(self, token, seconds=8):
        """Whether this is the newest token, or was until shortly before: a busy disk takes its time to make a pair durable, and
        it is published only afterwards."""
        newest = [access for access, at in self.delivered if time.monotonic() - at > seconds][-1:]
        recent = [access for access, at in self.delivered if time.monotonic() - at <= seconds]
        return token in newest + recent


class Front:
    """Forwards requests to a real server, and can lose the response once the server has carried out the request.

    Keeps every secret that passes, and the order of tokens. The ways to lose a response: `close`, `reset` and `truncate` the
    connection, `delay` it beyond the client's timeout, or answer `502` or `504` instead.
    """

    WAYS = ("close", "reset", "truncate", "delay", "502", "504")

    def __init__(self, backend, delay=0):
        self.backend, self.delay, self.port = backend, delay, free_port()
        self.lock, self.turn = threading.RLock(), threading.Lock()
        self.secrets, self.access, self.families, self.requests = set(), set(), {}, []
        self.lose_code = None    # the fault of the reply to the next exchange of a code
        self.instead = {}        # by host and path: a body that is answered instead, once
        self.server = None

    def listen(self):
        front = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                try:
                    front.serve(self.request)
                except (OSError, http.client.HTTPException) as error:
                    print(f"front: {type(error).__name__}: {error}", file=sys.stderr)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def vanish(self):
        """Nothing listens until `listen` is called again."""
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def serve(self, client):
        client.settimeout(30)
        reader = client.makefile("rb")
        line = reader.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return
        method, target, _ = line
        head = http.client.parse_headers(reader)
        body = reader.read(int(head.get("Content-Length") or 0))
        other = self.instead.pop((head.get("Host"), target), None)
        if other is not None:
            client.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                           f"Content-Length: {len(other)}\r\n\r\n{other}".encode())
            return client.close()
        # One after the other: concurrent requests are not tested here.
        with self.turn:
            server = http.client.HTTPConnection("127.0.0.1", self.backend, timeout=30)
            server.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in head.items():
                if name.lower() not in ("connection", "accept-encoding"):
                    server.putheader(name, value)
            server.putheader("Connection", "close")
            server.endheaders(body)
            reply = server.getresponse()
            content = reply.read()
            server.close()
            way = self.note(method, target, head, body, reply, content)
        answer = f"HTTP/1.1 {reply.status} {reply.reason}\r\n".encode()
        for name, value in reply.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "keep-alive"):
                answer += f"{name}: {value}\r\n".encode("latin-1")
        answer += f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content
        self.send(client, answer, len(content), way)

    def send(self, client, answer, length, way):
        if way == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "truncate":
            client.sendall(answer[:len(answer) - length // 2])
        elif way in ("502", "504"):
            page = b"<html><body><h1>The gateway has lost its server</h1></body></html>"
            client.sendall(f"HTTP/1.1 {way} Bad\r\nContent-Type: text/html\r\nConnection: close\r\n"
                           f"Content-Length: {len(page)}\r\n\r\n".encode() + page)
        elif way == "delay":
            time.sleep(self.delay)
            try:
                client.sendall(answer)
            except OSError:
                pass  # it has timed out, as intended
        elif way is None:
            client.sendall(answer)
        client.close()

    def note(self, method, target, head, body, reply, content):
        """The fault for this response."""
        path, _, query = target.partition("?")
        sent = dict(urllib.parse.parse_qsl(query)) | dict(
            urllib.parse.parse_qsl(body.decode("latin-1")) if "form" in head.get("Content-Type", "") else ())
        try:
            response = json.loads(content) if "json" in (reply.getheader("Content-Type") or "") else {}
        except ValueError:
            response = {}
        with self.lock:
            self.learn(sent, response, head, reply.getheader("Location") or "")
            granted = response.get("access_token")
            kind = sent.get("grant_type", "")
            self.requests.append({
                "at": time.monotonic(), "host": head.get("Host"), "method": method, "path": path, "sent": sent,
                "authorization": head.get("Authorization", ""), "status": reply.status, "response": response})
            if kind == "refresh_token":
                family = self.families.get(sent.get("refresh_token")) or Family()
            elif kind == "client_credentials" and granted:
                family = self.families.setdefault(self.client(sent, head), Family())
            else:
                family = Family()
            if kind and not granted:
                family.refused.append(response.get("error"))
            if not (kind and granted):
                return None
            pair = (granted, response.get("refresh_token"))
            if pair not in family.pairs:
                family.pairs.append(pair)
            if pair[1]:
                self.families[pair[1]] = family
            if kind == "authorization_code" and self.lose_code:
                way, self.lose_code = self.lose_code, None
                return way
            if kind == "refresh_token" and family.lose:
                family.lost.append(pair)
                return family.lose.pop(0)
            family.delivered.append((granted, time.monotonic()))
            return None

    def learn(self, sent, response, head, location):
        redirect = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(location).query))
        for where in (sent, response, redirect):
            self.secrets |= {where[name] for name in SECRETS if len(str(where.get(name) or "")) > 5}
        if response.get("access_token"):
            self.access |= {response["access_token"]} | ({response["id_token"]} if response.get("id_token") else set())
        scheme, _, value = head.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            self.secrets |= {value, base64.b64decode(value).decode().partition(":")[2]}

    @staticmethod
    def client(sent, head):
        scheme, _, value = head.get("Authorization", "").partition(" ")
        basic = base64.b64decode(value).decode().partition(":")[0] if scheme.lower() == "basic" else None
        return "client " + (basic or sent.get("client_id", ""))

    def family(self, refresh):
        with self.lock:
            return self.families.get(refresh)

    def newest(self):
        """The family of the last authorization."""
        with self.lock:
            first = [entry for entry in self.requests if entry["response"].get("refresh_token")
                     and entry["sent"].get("grant_type") != "refresh_token"]
            return self.families.get(first[-1]["response"]["refresh_token"]) if first else None

    def asked(self, path):
        with self.lock:
            return [entry for entry in self.requests if entry["path"] == path]
