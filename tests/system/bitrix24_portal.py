"""A Bitrix24 portal and its authorization server, for tests/system/bitrix24-client.sh. Not a rig by itself.

Strict: a code works once and for 30 seconds, a refresh token works once, and a new pair ends the previous access token at
once. REST accepts the current access token only. Requests that a correct client would not send are recorded.
"""

import http.server
import json
import re
import secrets
import threading
import time
import urllib.parse

LEADS = [{"ID": str(number), "TITLE": f"Lead {number}"} for number in range(1, 131)]
PAGE = 50


class Portal:
    def __init__(self, port, callback, lifetime):
        self.port, self.callback, self.lifetime, self.code_life = port, callback, lifetime, 30
        self.client, self.secret = "local.6512bd43d9caa6.02990934", secrets.token_hex(25)
        self.member, self.person = secrets.token_hex(16), ("ada@example.org", secrets.token_hex(8))
        self.lock = threading.RLock()
        self.codes, self.refresh, self.sessions = {}, None, set()
        self.tokens = []         # every access token: token, issued, ended (when the next one came)
        self.secrets = {self.secret, self.person[1]}
        self.calls, self.refused, self.complaints, self.grants = {}, [], [], []
        portal = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.take(b"")

            def do_POST(self):
                self.take(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def take(self, body):
                url = urllib.parse.urlsplit(self.path)
                with portal.lock:
                    status, answer, more = portal.answer(self.command, url, body, self.headers)
                content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                kind = "text/html" if isinstance(answer, str) else "application/json"
                for name, value in {"Content-Type": f"{kind}; charset=utf-8", **more}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method, url, body, headers):
        """Status, page or JSON, further headers."""
        if url.path == "/oauth/authorize/":
            return self.authorize(method, url, body, headers)
        if url.path == "/oauth/token/":
            return self.token(method, url, body)
        if url.path.startswith("/rest/"):
            return self.rest(url.path.removeprefix("/rest/").removesuffix(".json"), body)
        return 404, "<h1>There is nothing here</h1>", {}

    # --- authorization by a user ------------------------------------------------------------------------------------

    def authorize(self, method, url, body, headers):
        asked = dict(urllib.parse.parse_qsl(url.query))
        if asked.get("client_id") != self.client:
            # The real one shows a page, too: there is no redirect on failure.
            return 200, "<h1>The app was not found</h1>", {}
        session = re.search(r"session=(\w+)", headers.get("Cookie") or "")
        more = {}
        if not (session and session[1] in self.sessions):
            typed = dict(urllib.parse.parse_qsl(body.decode())) if method == "POST" else {}
            if (typed.get("login"), typed.get("password")) != self.person:
                return 200, ("<form method=post><input name=login><input type=password name=password>"
                             "<button>Log in</button></form>"), {}
            session = secrets.token_hex(16)
            self.sessions.add(session)
            more["Set-Cookie"] = f"session={session}; Path=/; HttpOnly"
        code = secrets.token_hex(35)
        self.secrets.add(code)
        self.codes[code] = time.monotonic() + self.code_life
        reply = {"code": code, "state": asked.get("state", ""), "domain": f"127.0.0.1:{self.port}",
                 "member_id": self.member, "scope": "crm,task", "server_domain": "oauth.bitrix.info"}
        # The target is configured in the app's card; a redirect_uri of the request is ignored.
        return 302, "", {**more, "Location": f"{self.callback}?{urllib.parse.urlencode(reply)}"}

    # --- tokens -----------------------------------------------------------------------------------------------------

    def token(self, method, url, body):
        sent = dict(urllib.parse.parse_qsl(body.decode()))
        if method != "POST" or url.query:
            self.complaints.append("a token request that is no POST, or has a query")
        kind = sent.get("grant_type")
        self.grants.append(kind)
        proof = {"authorization_code": "code", "refresh_token": "refresh_token"}.get(kind)
        strange = set(sent) - {"grant_type", "client_id", "client_secret", proof}
        if strange:
            self.complaints.append(f"a token request with {sorted(strange)}")
        if proof is None:
            return self.refuse(400, "invalid_request", "unknown grant type")
        if (sent.get("client_id"), sent.get("client_secret")) != (self.client, self.secret):
            return self.refuse(401, "invalid_client", "the client is wrong")
        if kind == "authorization_code":
            if time.monotonic() > self.codes.pop(sent.get("code"), 0):
                return self.refuse(400, "bad_verification_code", "The authorization code is invalid or expired")
        elif sent.get("refresh_token") != self.refresh:
            if sent.get("refresh_token") in self.secrets:
                self.complaints.append("a spent refresh token")
            return self.refuse(400, "invalid_grant", "Invalid refresh token")
        return 200, self.issue(), {}

    @staticmethod
    def refuse(status, error, description):
        return status, {"error": error, "error_description": description}, {}

    def issue(self):
        now, access, self.refresh = time.monotonic(), secrets.token_hex(35), secrets.token_hex(35)
        if self.tokens:
            self.tokens[-1]["ended"] = min(now, self.tokens[-1]["issued"] + self.lifetime)
        self.tokens.append({"token": access, "issued": now, "ended": None, "calls": 0})
        self.secrets |= {access, self.refresh}
        return {"access_token": access, "expires": int(time.time()) + self.lifetime, "expires_in": self.lifetime,
                "scope": "crm,task", "domain": "oauth.bitrix.info", "server_endpoint": f"{self.url}/rest/",
                "status": "L", "client_endpoint": f"{self.url}/rest/", "member_id": self.member, "user_id": 1,
                "refresh_token": self.refresh}

    def current(self):
        newest = self.tokens[-1] if self.tokens else None
        return newest if newest and time.monotonic() < newest["issued"] + self.lifetime else None

    # --- REST -------------------------------------------------------------------------------------------------------

    def rest(self, method, body):
        try:
            asked = json.loads(body or b"{}")
        except ValueError:
            self.complaints.append("a call that is no JSON")
            asked = {}
        auth = asked.pop("auth", None)
        access = {known["token"]: known for known in self.tokens}
        if any(secret in body.decode() for secret in self.secrets - set(access)):
            self.complaints.append(f"a call of {method} with a secret that is no access token")
        current = self.current()
        if not current or auth != current["token"]:
            known = access.get(auth)
            # Time since it expired; `None`: it was never issued.
            self.refused.append(known and time.monotonic() - (known["ended"] or known["issued"] + self.lifetime))
            error = "expired_token" if known else "NO_AUTH_FOUND"
            return self.refuse(401, error, "The access token provided has expired.")
        current["calls"] += 1
        self.calls[method] = self.calls.get(method, 0) + 1
        if method == "batch":
            done = {label: self.call(*self.unfold(command)) for label, command in asked.get("cmd", {}).items()}
            parts = {"result": "result", "result_total": "total", "result_next": "next", "result_time": "time"}
            answer = {name: {label: one[part] for label, one in done.items() if part in one}
                      for name, part in parts.items()}
            errors = {label: one["error"] for label, one in done.items() if "error" in one}
            return 200, {"result": {**answer, "result_error": errors}, "time": self.took()}, {}
        one = self.call(method, asked)
        return (400 if "error" in one else 200), one, {}

    @staticmethod
    def unfold(command):
        method, _, query = command.partition("?")
        return method.lower(), dict(urllib.parse.parse_qsl(query))

    @staticmethod
    def took():
        return {"duration": 0.01, "operating": 0.0}

    def call(self, method, asked):
        asked = {name.lower(): value for name, value in asked.items()}
        if method == "crm.lead.list":
            start = int(asked.get("start") or 0)
            more = {"next": start + PAGE} if start + PAGE < len(LEADS) else {}
            return {"result": LEADS[start:start + PAGE], "total": len(LEADS), "time": self.took(), **more}
        if method == "crm.lead.get":
            found = [lead for lead in LEADS if lead["ID"] == str(asked.get("id"))]
            return {"result": found[0], "time": self.took()} if found else {"error": "Not found"}
        if method == "profile":
            return {"result": {"ID": "1", "ADMIN": True}, "time": self.took()}
        return {"error": "ERROR_METHOD_NOT_FOUND"}
