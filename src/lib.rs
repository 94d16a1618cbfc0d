//! **refreshd** keeps OAuth 2.0 access tokens fresh and writes them where other processes read them.
//!
//! This page is the architecture document: the map, the flow, and the invariants with what enforces each.
//! What an operator sees is in `README.md`.
//!
//! # The map
//!
//! One crate, three floors, named for what they may do, and a stand-in for the outside:
//!
//! | module | may | holds |
//! |---|---|---|
//! | [`domain`] | decide | portals, tokens, replies and their classes, the renewal's state machine, the ladder, budgets. No I/O, no clock, no chance, no logging |
//! | [`adapters`] | touch the world | one outside thing each: clock, authorization server, state, token files, alert channels, log, metrics, systemd. They know domain types only |
//! | [`daemon`] | run | the renewal loop, the publisher, the escalator, the sockets. The only place that spawns |
//! | [`config`] | read | TOML in, meaning out, every problem at once |
//! | [`commands`] | talk | one file per command; the only place that prints |
//! | [`sandbox`] | pretend | the stand-in authorization server of `refreshd demo` and of the tests; it checks what it is sent |
//!
//! Who may call whom: `main` → commands → daemon, config; config → domain; adapters → domain; daemon → domain,
//! adapters, config; domain → nothing. Commands reach adapters where no decision lies in between (printing a form of a
//! token, looking at a state's header). `tests/tidy.rs` holds the edges.
//!
//! # The flow
//!
//! ```text
//! due ─► claim (durable) ─► token request ─► outcome ─► record (durable) ─► publish token files ─► log, metrics
//!                                │
//!                                └─ no known outcome: in doubt ─► replay the same token ─► record
//! ```
//!
//! - The loop ([`daemon`]'s `renewer`) asks the store for what is due, as much as each authorization server's budget
//!   ([`domain::budget`]) has left. `claim_due` is one durable transaction for the batch. The claim is the write-ahead
//!   intent, the single-flight lock and the lease: one mechanism for the three.
//! - Each claim becomes one task (`exchange`): send, let [`domain::reply`] class the reply by the provider's table, let
//!   [`domain::renewal::settle`] say where the grant stands, record that, publish, tell. The task is never cancelled. A
//!   pair that the disk refuses is held in it, tried again and shouted about.
//! - What the state refuses is given to the service manager too ([`daemon`]'s `carry`), and the next process finds it there:
//!   [`domain::carried::fate`] says whether it is still of use, and it is recorded under the claim that bought it, which lives on
//!   until then.
//! - `record` is a compare-and-swap on the claim. An import, an authorization or `forget` that came first wins: the
//!   late pair is put aside, not used, not lost.
//! - The publisher is level-triggered: told a portal's name, it reads the newest durable pair and brings the files in
//!   line with it. An older pair can therefore not overwrite a newer one, and a publication that failed is simply
//!   asked for again.
//! - The escalator wakes at the moment that the store has noted for the next step of the ladder
//!   ([`domain::escalation::climb`]). What was told is stored before it is said.
//! - The alerter ([`daemon::alerts`]) is level-triggered too: a look gathers all that is wrong (troubled portals from the
//!   state, this machine's conditions, channels that do not deliver), [`domain::incident`] folds it into incidents and
//!   decides what people are told of each, and incidents and letters are kept in one transaction before anything is sent.
//!   A task for each channel delivers its letters in order ([`domain::outbox`]). Whatever happens in between, the next look
//!   tells what has not been told, once. Only where the state cannot be written are people told from memory.
//! - An install ([`daemon`]'s `install`) is answered at the door, verified with the authorization server
//!   ([`domain::whose`]), judged ([`domain::install`]) and kept in one transaction, and is then a portal like any other, due
//!   at once. What was not verified is not stored.
//! - A grant comes in by one door, `grants::take_in`: durable first, then published. To it lead a person's authorization
//!   (`authorize`: fresh state and proof, the code exchanged at once and once), what is handed over
//!   ([`domain::intake`]), the client's own credentials (`first_tokens`), and installs (`install`: answered at once, believed
//!   when the authorization server has said whose the token is). Every request to an authorization server is made by
//!   [`domain::request`], from the profile; what an issuer says of itself completes a profile before it counts (`discovery`).
//! - Where a grant lives, what is handed over is a candidate ([`domain::candidate`], [`daemon`]'s `handover` and `candidates`): stored
//!   beside it, claimed and exchanged like a renewal, and put in its place in the transaction that records the proof.
//!   Whose it is, is compared before and after ([`domain::identity`]).
//! - After a crash, claims without an outcome are in doubt. They are found at the next start and replayed.
//! - A start looks first for what must not be sent: a pair is durable before anybody else hears of it, so a trace outside the
//!   state that is newer than the state ([`domain::old_state`]) means that the state went back, and its refresh token is spent;
//!   a trace of a portal without a grant means that the state was lost.
//!
//! # What is deliberately absent
//!
//! - **No list of portals in memory.** The configuration's portals are moved into the state when it is read; the
//!   schedule is the state's index. Memory holds what is in flight.
//! - **No retry inside the HTTP client,** no redirect, no proxy from the environment: a token request leaves once, to the
//!   address that the profile names.
//! - **No background refresh of anything but tokens.** Metrics and pages are computed from the state when asked for.
//! - **No provider in the code.** What Bitrix24 does differently is a field of [`domain::provider::Profile`].
//!
//! # How it is tried
//!
//! Time, the network, the disk and people have a seam each ([`adapters::clock::WallClock`],
//! [`adapters::authorization_server::Transport`], [`adapters::state::Disk`], [`adapters::channels::Carrier`]). On them the tests of [`daemon`] run all of it
//! on one thread in simulated time, a month in half a minute, and end it at any step that the outside can see. A seed
//! replays. What the seams leave out, the machine itself, is tried with the real binary: `tests/daemon`, `tests/outside`, and
//! `tests/rigs` for system calls, disks, clocks and systemd. The table in `README.md` says how often, and what was lost.
//!
//! # Invariants
//!
//! 1. Nothing is sent before its claim is durable; nothing is published before its record is. (`exchange`; tests)
//! 2. Same inputs, same answer in [`domain`]. (`tests/tidy.rs`: no clock, tokio, tracing, `std::fs`, `std::env`)
//! 3. One door each: time and chance [`adapters::clock`], files [`adapters::token_files::write_whole`], spawning
//!    [`daemon`], other programs [`adapters::channels`]' `command`, printing `commands::screen`, exiting `main`.
//!    (`clippy.toml`, `tests/tidy.rs`)
//! 4. A task that ends unexpectedly ends the daemon with a reason; the loop itself feeds the watchdog. ([`daemon::run`])
//! 5. No lock and no transaction is held across a request. (the store's closures are not async; clippy)
//! 6. Metrics, pages, sockets and alerts read snapshots and cannot change renewal, nor delay it. (they get no claim)
//! 7. A secret is a type, blind in `Debug`, without `Display` or `Serialize`; the few files that may `expose` one are
//!    listed. ([`domain::secret`], `tests/tidy.rs`)
//! 8. Metric labels are closed enums and configured names. ([`adapters::metrics`])
//! 9. A state that is newer, foreign or damaged is refused before the first write. ([`adapters::state::inspect`])
//! 10. What a stranger sends is never an address to connect to, and nothing of it is kept before the authorization server
//!     has said whose it is. (`domain::whose`; `tests/outside/install_forged.rs`)
//! 11. A guest of a listener costs a bounded share of memory and time, and delays nobody. ([`daemon`]'s `serving`)

pub mod adapters;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod fake_server;
