//! The tables of the state, version by version.
//!
//! A migration is one more entry; one that is released never changes. Must not be run but by `schema`.

/// Each brings the schema from its index to the next version.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE portal (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    -- what the configuration says
    configured  INTEGER NOT NULL DEFAULT 0,
    app         TEXT NOT NULL DEFAULT '',
    settings    TEXT,                       -- JSON of domain::settings::Settings
    every       TEXT,                       -- JSON of domain::settings::RenewSetting
    config_url  TEXT,
    binding     BLOB,
    -- the grant; there is one where refresh_token is not null. The generation stays after `forget`.
    generation  INTEGER NOT NULL DEFAULT 0,
    refresh_token TEXT,
    fingerprint BLOB,
    access_token TEXT,
    token_type  TEXT,
    issued_at   INTEGER,                    -- all times in milliseconds since the epoch
    expires_at  INTEGER,
    details     TEXT,                       -- JSON of domain::token::Details
    identity    TEXT,
    bound_to    BLOB,
    token_url   TEXT,
    renewed_at  INTEGER,
    -- where it stands
    phase       TEXT,
    attempt     INTEGER NOT NULL DEFAULT 0,
    since       INTEGER,
    problem     TEXT,                       -- JSON of domain::portal::Problem
    doubtful    INTEGER NOT NULL DEFAULT 0, -- rejected while in doubt
    renew_at    INTEGER,
    act_at      INTEGER,
    -- the ladder
    told        TEXT NOT NULL DEFAULT '[]', -- JSON array of step names
    climb_at    INTEGER,
    -- the durable intent to spend this generation
    claim       INTEGER,
    claimed_at  INTEGER,                    -- of the claim, or of the last one
    kind TEXT NOT NULL GENERATED ALWAYS AS (CASE
        WHEN configured = 0 THEN 'unconfigured'
        WHEN refresh_token IS NULL THEN 'awaiting-authorization'
        WHEN bound_to IS NOT binding THEN 'client-changed'
        ELSE phase END) VIRTUAL
) STRICT;
CREATE INDEX portal_due ON portal (token_url, act_at, expires_at, app)
    WHERE act_at IS NOT NULL AND claim IS NULL AND configured = 1 AND bound_to = binding;
CREATE INDEX portal_climb ON portal (climb_at) WHERE climb_at IS NOT NULL;
CREATE INDEX portal_kind ON portal (kind) WHERE kind <> 'fresh';
CREATE INDEX portal_claimed ON portal (claim) WHERE claim IS NOT NULL;
CREATE INDEX portal_fingerprint ON portal (fingerprint);
CREATE INDEX portal_told ON portal (told) WHERE told <> '[]';
CREATE INDEX portal_renew ON portal (renew_at, expires_at) WHERE configured = 1 AND refresh_token IS NOT NULL;

-- Refresh tokens that came from outside, so that the same grant is never accepted twice.
CREATE TABLE seen (fingerprint BLOB PRIMARY KEY, portal TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Clients: a fingerprint of what they are, and whether the server refuses them.
CREATE TABLE app (
    name        TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    rejected_since INTEGER,
    retry_at    INTEGER
) STRICT, WITHOUT ROWID;

-- Pairs that came too late or for somebody else: never used, never lost.
CREATE TABLE aside (
    id INTEGER PRIMARY KEY, portal TEXT NOT NULL, at INTEGER NOT NULL, why TEXT NOT NULL,
    access_token TEXT, refresh_token TEXT, identity TEXT
) STRICT;
", "
-- Four bytes of a fingerprint find it as well as all 32, and every renewal writes far fewer of the index's pages.
DROP INDEX portal_fingerprint;
CREATE INDEX portal_fingerprint ON portal (substr(fingerprint, 1, 4));
-- Before the first release it held the many fresh portals too.
DROP INDEX portal_kind;
CREATE INDEX portal_kind ON portal (kind) WHERE kind <> 'fresh';
", "
-- Troubled portals, page by page.
DROP INDEX portal_told;
CREATE INDEX portal_told ON portal (name) WHERE told <> '[]';
-- What people were told, as JSON of domain::incident::Incident.
CREATE TABLE incident (key TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- What they are still to be told, as JSON of domain::message::Message; the ids are in the order of telling.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY, channel TEXT NOT NULL, first INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
-- What they do not want to hear until then: of a portal, or '*': of anything.
CREATE TABLE silence (subject TEXT PRIMARY KEY, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- When what is done once in a while was done last.
CREATE TABLE mark (name TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
", "
-- What authorization servers said of themselves (RFC 8414), as they wrote it.
CREATE TABLE metadata (issuer TEXT PRIMARY KEY, body BLOB NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
", "
-- The app whose install made the portal (null: the configuration did), at which member, and whose the grant is.
ALTER TABLE portal ADD COLUMN installed_by TEXT;
ALTER TABLE portal ADD COLUMN member_id TEXT;
ALTER TABLE portal ADD COLUMN user_id TEXT;
CREATE INDEX portal_member ON portal (member_id) WHERE member_id IS NOT NULL;
CREATE INDEX portal_listed ON portal (app) WHERE installed_by IS NULL;
-- What is known of an app at a member: the proof of its events, and when it came and went, by the events' own clock.
CREATE TABLE installation (
    binding BLOB NOT NULL, member_id TEXT NOT NULL, application_token TEXT, installed_at INTEGER,
    uninstalled_at INTEGER, installer TEXT, PRIMARY KEY (binding, member_id)
) STRICT, WITHOUT ROWID;
", "
-- Candidates: grants that are to replace a living one and have not proved themselves yet.
-- Columns of the names that `portal` has hold the same; `came_at` is when it was received.
CREATE TABLE candidate (
    portal TEXT PRIMARY KEY, origin TEXT NOT NULL, replaces INTEGER NOT NULL, came_at INTEGER NOT NULL,
    refresh_token TEXT NOT NULL, fingerprint BLOB NOT NULL, access_token TEXT, token_type TEXT, issued_at INTEGER,
    expires_at INTEGER, details TEXT, identity TEXT, bound_to BLOB NOT NULL, token_url TEXT NOT NULL,
    phase TEXT NOT NULL, attempt INTEGER NOT NULL, since INTEGER, problem TEXT, doubtful INTEGER NOT NULL,
    act_at INTEGER, claim INTEGER, claimed_at INTEGER
) STRICT;
CREATE INDEX candidate_due ON candidate (act_at) WHERE act_at IS NOT NULL AND claim IS NULL;
CREATE INDEX candidate_fingerprint ON candidate (fingerprint);
-- Refresh tokens of files that the authorization server refused: they are not sent again by themselves.
CREATE TABLE refused_candidate (fingerprint BLOB PRIMARY KEY, portal TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- The newest generation known from outside of a portal whose grant the state has lost; null: none was lost.
ALTER TABLE portal ADD COLUMN lost INTEGER;
CREATE INDEX portal_lost ON portal (name) WHERE lost IS NOT NULL;
-- (end of candidates)

-- Replies that could not be read.
-- What may hold a pair: bodies of replies, a few for each portal, until a renewal goes well. The grant that it answers is
-- named by its generation and the fingerprint of the token that was sent.
CREATE TABLE unread_reply (
    id INTEGER PRIMARY KEY, portal TEXT NOT NULL, at INTEGER NOT NULL, authorization INTEGER NOT NULL,
    generation INTEGER NOT NULL, sent BLOB, status INTEGER NOT NULL, content_type TEXT, content_encoding TEXT,
    whole INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX unread_reply_portal ON unread_reply (portal, at);
-- (end of replies)

-- The refresh token's own end.
-- Since when it is known, and what renewals do to it (domain::refresh_end::Motion).
ALTER TABLE portal ADD COLUMN refresh_expires_at INTEGER;
ALTER TABLE portal ADD COLUMN refresh_since INTEGER;
ALTER TABLE portal ADD COLUMN refresh_motion TEXT;
-- What the newest reply said of lives and could not be read.
ALTER TABLE portal ADD COLUMN notice TEXT;
-- (end of refresh tokens' ends)

-- Clients that are refused for some portals.
-- Since when the server refuses the client for this portal, and the kind of request that bought its pair.
ALTER TABLE portal ADD COLUMN refused_since INTEGER;
ALTER TABLE portal ADD COLUMN bought_by BLOB;
-- Of a client: since when it is in question, when it was last let in while it was, the portal whose refusal was the last,
-- the one that tries next, and those that an operator asked for (a JSON array of names).
ALTER TABLE app ADD COLUMN question_since INTEGER;
ALTER TABLE app ADD COLUMN let_in_at INTEGER;
ALTER TABLE app ADD COLUMN refused_last TEXT;
ALTER TABLE app ADD COLUMN probe TEXT;
ALTER TABLE app ADD COLUMN asked TEXT;
-- (end of refused clients)

-- Installs.
-- Notices that were answered and are not worked off yet: what was sent, and by whom. Nothing of them is verified.
CREATE TABLE install_notice (
    id INTEGER PRIMARY KEY, app TEXT NOT NULL, query TEXT NOT NULL, body BLOB NOT NULL, source TEXT, at INTEGER NOT NULL
) STRICT;
-- Since when another user with another proof says that the installation is his: its proof ends nothing by itself then.
ALTER TABLE installation ADD COLUMN disputed_at INTEGER;
-- Verified installs of another user than the one whose grant a portal has: a person decides. The grant of one that was
-- refused is not kept, its row only keeps the same user from being told of again.
CREATE TABLE install_newcomer (
    portal TEXT NOT NULL, user_id TEXT NOT NULL, app TEXT NOT NULL, binding BLOB NOT NULL, member_id TEXT NOT NULL,
    holder TEXT, occasion TEXT NOT NULL, is_admin INTEGER, holder_is_admin INTEGER, came_at INTEGER NOT NULL,
    refresh_token TEXT, details TEXT, server TEXT, application_token TEXT, accepted_at INTEGER, refused_at INTEGER,
    PRIMARY KEY (portal, user_id)
) STRICT, WITHOUT ROWID;
-- (end of installs)
-- The refresh tokens that were exchanged last, the newest first: four bytes of the fingerprint of each, at most 32.
ALTER TABLE portal ADD COLUMN spent BLOB;
", "
-- Names in the terms of docs/glossary.md.
ALTER TABLE portal RENAME COLUMN act_at TO next_attempt_at;
ALTER TABLE portal RENAME COLUMN told TO notified;
ALTER TABLE portal RENAME COLUMN climb_at TO escalate_at;
ALTER TABLE portal RENAME COLUMN doubtful TO while_in_doubt;
ALTER TABLE candidate RENAME COLUMN act_at TO next_attempt_at;
ALTER TABLE candidate RENAME COLUMN came_at TO received_at;
ALTER TABLE candidate RENAME COLUMN doubtful TO while_in_doubt;
ALTER TABLE app RENAME COLUMN let_in_at TO accepted_at;
ALTER TABLE app RENAME COLUMN asked TO requested;
ALTER TABLE install_newcomer RENAME COLUMN came_at TO received_at;
ALTER TABLE install_newcomer RENAME TO install_dispute;
ALTER TABLE install_notice RENAME TO install_event;
ALTER TABLE aside RENAME TO superseded;
ALTER TABLE seen RENAME TO imported_token;
DROP INDEX portal_climb;
CREATE INDEX portal_escalation ON portal (escalate_at) WHERE escalate_at IS NOT NULL;
DROP INDEX portal_told;
CREATE INDEX portal_notified ON portal (name) WHERE notified <> '[]';
-- Of a candidate that an install event brought: recorded as the installation once it is verified.
ALTER TABLE candidate ADD COLUMN user_id TEXT;
ALTER TABLE candidate ADD COLUMN member_id TEXT;
ALTER TABLE candidate ADD COLUMN occasion TEXT;
ALTER TABLE candidate ADD COLUMN application_token TEXT;
ALTER TABLE candidate ADD COLUMN sent_at INTEGER;
"];
