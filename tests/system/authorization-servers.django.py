"""The `django-oauth-toolkit` of PyPI, on loopback, for tests/system/authorization-servers.sh. Not a rig by itself.

Started with a directory: DIR/django.json holds the port, the clients, the user and the lifetimes of tokens in seconds.
Refresh tokens rotate, and the reuse of a spent one revokes its family, except within the grace period, in which
the same pair is given again.
"""

import json
import pathlib
import sys
from wsgiref.simple_server import make_server

import django
from django.conf import settings

DIR = pathlib.Path(sys.argv[1])
SETUP = json.loads((DIR / "django.json").read_text())

settings.configure(
    SECRET_KEY="only for this rig",
    ALLOWED_HOSTS=["127.0.0.1"],
    # It need not outlive the rig, and a busy disk is not tested.
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DIR / "django.db",
                           "OPTIONS": {"init_command": "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY;"}}},
    INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
                    "django.contrib.messages", "django.contrib.sessions", "oauth2_provider"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["django.template.context_processors.request",
                                                   "django.contrib.auth.context_processors.auth",
                                                   "django.contrib.messages.context_processors.messages"]}}],
    # Passwords protect nothing here, so hashing is fast.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    LOGIN_URL="/admin/login/",
    STATIC_URL="/static/",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": SETUP["lives"]["access"],
        "REFRESH_TOKEN_EXPIRE_SECONDS": 3600,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": SETUP["lives"]["grace"],
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "ROTATE_REFRESH_TOKEN": True,
        "PKCE_REQUIRED": True,
        "SCOPES": {"read": "reading", "introspection": "looking at tokens"},
    },
)
django.setup()

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import include, path
from oauth2_provider.models import get_application_model
from oauth2_provider.urls import metadata_urlpatterns

urlpatterns = [
    path("admin/", admin.site.urls),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    *metadata_urlpatterns,
]


def populate():
    call_command("migrate", verbosity=0)
    person = get_user_model().objects.create_superuser(**SETUP["person"])
    for client in SETUP["clients"]:
        get_application_model().objects.create(
            user=person, authorization_grant_type="authorization-code", hash_client_secret=False, **client)


if __name__ == "__main__":
    populate()
    server = make_server("127.0.0.1", SETUP["port"], get_wsgi_application())
    print("listening", flush=True)
    server.serve_forever()
