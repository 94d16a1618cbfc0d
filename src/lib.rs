//! **refreshd** keeps OAuth 2.0 access tokens fresh and writes them where other processes read them.
//!
//! This page is the architecture document: the modules, the flow of a renewal, and the invariants with what enforces each.
//! `README.md` describes the operator's view; the terms are in `docs/glossary.md`, the decisions and their reasons in `docs/adr`.
//!
//! # Modules
//!
//! The program is this crate, with three layers. What another program could use is in crates of its own, below `crates`:
//!
//! | crate | contents |
//! |---|---|
//! | `refreshd-token-client` | provider profiles, token requests, the client that sends them, the tolerant reader of token replies |
//! | `refreshd-alerting` | findings, incidents, outboxes, channels: notifications, behind the port `AlertingHost` |
//! | `refreshd-http` | how servers are reached, and the settings that every HTTP client here shares |
//! | `refreshd-secrets` | secrets as types; words from outside made fit to be shown, with secrets taken out |
//! | `refreshd-time` | timestamps, dates as servers write them, the only access to clocks and randomness |
//! | `refreshd-fake-server` | the authorization server of `refreshd demo`, `refreshd sandbox` and the tests; it checks each request. Behind the feature `demo` |
//!
//! | module | responsibility | contents |
//! |---|---|---|
//! | [`domain`] | decides | portals, the state machine of a renewal, escalation steps, incidents, budgets. No I/O, no clock, no randomness, no logging |
//! | [`adapters`] | does I/O | one outside system each: state, token files, alert channels, log, metrics, systemd. They know types of the domain only |
//! | [`daemon`] | runs | the scheduler, the publisher, the escalator, the alerter, the sockets. The only module that spawns tasks |
//! | [`config`] | reads | TOML to types, with every problem at once |
//! | [`commands`] | is the command line | one file per command; the only module that prints |
//!
//! [`daemon`] has a folder for each of its subjects:
//!
//! | folder | contents |
//! |---|---|
//! | `startup` | opens the state, settles the claims of the process before, detects a rollback, reads files of first tokens, discovers metadata, reloads |
//! | `renewal` | the scheduler, the execution of a claimed renewal, candidates, the publisher, the escalator, writes that are retried until they are durable |
//! | `grants` | what commands ask for: list, renew, import, authorize, introspect, revoke, recover, forget |
//! | `install` | install events of Bitrix24: received, queued, verified with the authorization server, stored |
//! | `alerts` | findings, incidents, delivery |
//! | `api` | every route of the API, over the control socket or in the process of a command |
//! | `http` | the server that the listeners share, its limits, the status page, metrics and health, callbacks |
//!
//! Dependencies: `main` → commands → daemon, config; config → domain; adapters → domain; daemon → domain, adapters, config;
//! domain → the crates, and of those only what does no I/O. Commands call adapters where nothing is decided in between (the format of a token, the header of a
//! state). `tests/tidy.rs` checks the edges, and that no file imports one that imports it.
//!
//! # Flow of a renewal
//!
//! ```text
//! due ─► claim (durable) ─► token request ─► outcome ─► record (durable) ─► publish token files ─► log, metrics
//!                                │
//!                                └─ no known outcome: in doubt ─► replay the same token ─► record
//! ```
//!
//! - The scheduler (`daemon::renewal::scheduler`) asks the state for portals that are due, as many as the budget of each authorization
//!   server ([`domain::budget`]) allows. `claim_due` is one durable transaction for the batch. A claim is the write-ahead
//!   intent, the single-flight lock and the lease.
//! - Each claim becomes one task (`execute`). It sends the request, [`refreshd_token_client::reply`] classifies the reply by the provider's table,
//!   [`domain::renewal::apply_outcome`] returns the new status of the grant, and the task records, publishes and logs it. The
//!   task is never cancelled. A pair that the disk refuses is kept in memory, retried and reported as critical.
//! - What the state refuses is also given to the service manager (`daemon::renewal::carry`). The next process takes it back:
//!   [`domain::carried::fate`] decides whether it is still valid, and it is recorded under its own claim, which lives until then.
//! - `record` is a compare-and-swap on the claim. If an import, an authorization or `forget` came first, the late pair is kept
//!   in the table of superseded pairs and not used.
//! - The publisher is level-triggered: it is given a portal's name, reads the newest durable pair and writes the files. An older
//!   pair cannot overwrite a newer one, and a failed publication is requested again.
//! - The escalator wakes when the next escalation step of a portal is due ([`domain::escalation::evaluate`]). Which steps were
//!   notified is stored before they are logged.
//! - The alerter ([`daemon::alerts`]) is level-triggered too: it collects findings (portals, conditions of this machine, failing
//!   channels), [`refreshd_alerting::incidents`] groups them into incidents and decides about notifications, and incidents and queued alerts are
//!   stored in one transaction before anything is sent. One task per channel delivers its queue in order ([`refreshd_alerting::outbox`]).
//! - An install event (`daemon::install`) is answered at once, verified with the authorization server
//!   ([`domain::token_owner`]), judged ([`domain::install`]) and stored in one transaction. Unverified grants are not stored.
//! - Every grant is stored by one function, `daemon::grants::store::store_grant`: durable first, then published. Its callers are `authorize` (a person,
//!   with fresh state and PKCE), `import` ([`domain::import`]), `bootstrap` (client credentials and `refresh_token_file`), and
//!   `install`. Every request to an authorization server is built by [`refreshd_token_client::request`] from the profile; the metadata of an
//!   issuer completes a profile before it is used (`metadata_discovery`).
//! - Where a grant is alive, an imported one is a candidate ([`domain::candidate`], `daemon::renewal::candidates`): stored beside it,
//!   claimed and exchanged like a renewal, and put in its place in the transaction that records the success. Its owner is
//!   compared before and after ([`domain::identity`]). So is the pair of a stored response that something in it denies, once the
//!   token that was sent is refused (`daemon::renewal::doubtful_pair`), and so is the install of another user that waits for a decision, once the present grant is
//!   found dead (`daemon::renewal::disputed_install`).
//! - After a crash, claims without an outcome are in doubt. The next start finds and replays them.
//! - A start looks for rollback first: a pair is durable before anybody else sees it, so a trace outside the state that is newer than
//!   the state ([`domain::rollback`]) means that the state is older than the published token, and its refresh token is spent. A
//!   trace of a portal without a grant means that the state was lost.
//!
//! # Deliberately absent
//!
//! - **No list of portals in memory.** The portals of the configuration are stored in the state when it is read; the schedule is
//!   an index of the state. Memory holds only pending requests.
//! - **No retry in the HTTP client,** no redirect, no proxy from the environment: a token request is sent once, to the address
//!   that the profile names.
//! - **No background refresh of anything but tokens.** Metrics and pages are computed from the state on request.
//! - **No provider in the code.** What Bitrix24 does differently is a field of [`refreshd_token_client::provider::Profile`].
//!
//! # Tests
//!
//! Time, network, disk and notifications have one seam each ([`refreshd_time::clock::WallClock`],
//! [`refreshd_token_client::authorization_server::Transport`], [`adapters::state::Disk`], [`refreshd_alerting::channels::NotifierBackend`]). On them
//! the tests of [`daemon`] run the whole daemon on one thread in simulated time, and end it at any step that is visible from
//! outside; a seed replays. The machine itself is tested with the real binary: `tests/e2e`, and `tests/system`
//! for system calls, disks, clocks and systemd. The table in `README.md` gives the figures.
//!
//! # Invariants
//!
//! 1. Nothing is sent before its claim is durable; nothing is published before its record is. (`execute`; tests)
//! 2. [`domain`] is deterministic. (`tests/tidy.rs`: no clock, tokio, tracing, `std::fs`, `std::env`)
//! 3. One module has access to each: time and randomness [`refreshd_time::clock`], files [`adapters::token_files::write_whole`],
//!    spawning [`daemon`], other programs [`refreshd_alerting::channels`]' `command` and [`adapters::service_manager`], printing `commands::terminal`, exiting `main`.
//!    (`clippy.toml`, `tests/tidy.rs`)
//! 4. A task that ends unexpectedly ends the daemon with a reason; the scheduler itself feeds the watchdog. ([`daemon::run`])
//! 5. No lock and no transaction is held across a request. (the closures of the state are not async; clippy)
//! 6. Metrics, pages, sockets and alerts read snapshots and cannot change or delay a renewal. (they have no claim)
//! 7. A secret is a type, blind in `Debug`, without `Display` or `Serialize`; the files that may `expose` one are listed.
//!    ([`refreshd_secrets`], `tests/tidy.rs`)
//! 8. Metric labels are closed enums and configured names. ([`adapters::metrics`])
//! 9. A state that is newer, foreign or damaged is refused before the first write. ([`adapters::state::inspect`])
//! 10. Nothing of an unverified install event is connected to, stored or published. (`domain::token_owner`;
//!     `tests/e2e/interfaces/install_forged.rs`)
//! 11. A connection to a listener uses a bounded share of memory, time and descriptors. (`daemon::http::server`)

pub mod adapters;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod domain;
