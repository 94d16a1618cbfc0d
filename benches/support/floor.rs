//! Minimum cost of a durable renewal: the bare loop, claims and records in SQLite with group commit, two files.
//!
//! Not a daemon: it has no schedule, index, log, metrics or escalation. It gives two guarantees only: nothing is sent before
//! its claim is durable, nothing is published before its record is. So no daemon with these guarantees can be faster.

#![expect(clippy::print_stdout, reason = "the parent reads these lines")]

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, Result, bail};
use refreshd::adapters::token_files::write_whole;
use refreshd_time::clock::Clock;
use reqwest::Client;
use rusqlite::{Connection, params};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::roles::{self, CONCURRENCY, client, grants, line, name, refresh_token};

/// With a backlog, this many claims are made together.
const CLAIM: u32 = CONCURRENCY as u32 / 2;
/// Maximum number of jobs in one transaction.
const BATCH: usize = CONCURRENCY;

enum Job {
    Claim(u32, oneshot::Sender<Vec<(u32, String)>>),
    Record {
        id: u32,
        reply: Value,
        body: Vec<u8>,
        done: oneshot::Sender<()>,
    },
}

struct Pair {
    id: u32,
    token: String,
    body: Vec<u8>,
}

/// Renews every grant once, as fast as possible.
#[tokio::main]
pub async fn floor(arguments: &[&str]) -> Result<()> {
    let [dir, tokens, url] = arguments else {
        bail!("DIR TOKENS URL")
    };
    let (dir, tokens, url) = (Path::new(dir), PathBuf::from(tokens), (*url).to_owned());
    let tokens_of = grants(dir)?
        .iter()
        .map(|grant| refresh_token(grant))
        .collect::<Result<Vec<_>>>()?;
    let connection = store(&dir.join("floor.db"), &tokens_of)?;
    for (id, _) in (0..).zip(&tokens_of) {
        std::fs::create_dir_all(tokens.join(name(id as usize)))?;
        publish(
            &tokens,
            &Pair {
                id,
                token: String::new(),
                body: Vec::new(),
            },
        )?;
    }
    let client = client()?;
    let (jobs, work) = channel();
    let (pairs, published) = channel();
    println!("ready");
    tokio::task::block_in_place(line)?;
    let mut threads = JoinSet::new();
    threads.spawn_blocking(move || write(&connection, &work, &pairs));
    threads.spawn_blocking(move || {
        published
            .iter()
            .try_for_each(|pair| publish(&tokens, &pair))
    });
    renew(&client, &url, &jobs).await?;
    drop(jobs);
    while let Some(done) = threads.join_next().await {
        done??;
    }
    println!("ended {}", Clock::system().now().millis());
    tokio::task::block_in_place(line)
}

fn store(path: &Path, grants: &[String]) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; \
         CREATE TABLE held (id INTEGER PRIMARY KEY, refresh TEXT, access TEXT, expires INTEGER, claim INTEGER); BEGIN",
    )?;
    for (id, grant) in (0_u32..).zip(grants) {
        connection
            .prepare_cached("INSERT INTO held (id, refresh, access) VALUES (?1, ?2, ?2)")?
            .execute(params![id, grant])?;
    }
    connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(connection)
}

/// Commits the waiting jobs together, then passes the pairs on.
fn write(connection: &Connection, work: &Receiver<Job>, pairs: &Sender<Pair>) -> Result<()> {
    while let Ok(first) = work.recv() {
        let batch: Vec<_> = std::iter::once(first)
            .chain(work.try_iter().take(BATCH - 1))
            .collect();
        let mut claimed = Vec::new();
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for job in &batch {
            match job {
                Job::Claim(from, _) => claimed = claim(connection, *from)?,
                Job::Record { id, reply, .. } => record(connection, *id, reply)?,
            }
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
        for job in batch {
            match job {
                Job::Claim(_, answer) => drop(answer.send(std::mem::take(&mut claimed))),
                Job::Record {
                    id,
                    reply,
                    body,
                    done,
                } => {
                    let token = reply["access_token"]
                        .as_str()
                        .context("no access token")?
                        .to_owned();
                    pairs.send(Pair { id, token, body })?;
                    let _ = done.send(());
                }
            }
        }
    }
    Ok(())
}

fn claim(connection: &Connection, from: u32) -> Result<Vec<(u32, String)>> {
    let mut update = connection.prepare_cached(
        "UPDATE held SET claim = 1 WHERE id >= ?1 AND id < ?2 RETURNING id, refresh",
    )?;
    let rows = update.query_map([from, from + CLAIM], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn record(connection: &Connection, id: u32, reply: &Value) -> Result<()> {
    let text = |name: &str| reply[name].as_str();
    connection
        .prepare_cached(
            "UPDATE held SET refresh = ?2, access = ?3, expires = ?4, claim = NULL WHERE id = ?1",
        )?
        .execute(params![
            id,
            text("refresh_token"),
            text("access_token"),
            reply["expires"].as_i64()
        ])?;
    Ok(())
}

fn publish(tokens: &Path, pair: &Pair) -> Result<()> {
    let directory = tokens.join(name(pair.id as usize));
    write_whole(&directory, &directory.join("token.json"), &pair.body, 0o640)?;
    Ok(write_whole(
        &directory,
        &directory.join("token"),
        pair.token.as_bytes(),
        0o640,
    )?)
}

async fn renew(client: &Client, url: &str, jobs: &Sender<Job>) -> Result<()> {
    let mut under_way = JoinSet::new();
    let mut from = 0;
    loop {
        let (answer, claimed) = oneshot::channel();
        jobs.send(Job::Claim(from, answer))?;
        let claimed = claimed.await?;
        from += CLAIM;
        let last = claimed.len() < CLAIM as usize;
        for (id, grant) in claimed {
            under_way.spawn(exchange(
                client.clone(),
                url.to_owned(),
                id,
                grant,
                jobs.clone(),
            ));
        }
        let most = if last {
            0
        } else {
            CONCURRENCY - CLAIM as usize
        };
        while under_way.len() > most
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        if last {
            return Ok(());
        }
    }
}

async fn exchange(
    client: Client,
    url: String,
    id: u32,
    grant: String,
    jobs: Sender<Job>,
) -> Result<()> {
    let body = roles::spend(&client, &url, &grant).await?;
    let reply = serde_json::from_slice(&body)?;
    let (done, durable) = oneshot::channel();
    jobs.send(Job::Record {
        id,
        reply,
        body,
        done,
    })?;
    Ok(durable.await?)
}
