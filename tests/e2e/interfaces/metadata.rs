//! A server's metadata and introspection of tokens, also while the server fails or renews.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use refreshd_fake_server::{Fault, Rules};

use crate::common::authorizing::Authorizing;
use crate::common::{LIFE, Rig, SOON, eventually};
use crate::interfaces::contains;

/// Answers every request with the JSON that `answer` makes of its path and body, or with 404. It ends with the tests.
fn serve(mut answer: impl FnMut(&str, &str) -> Option<String> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let serving = move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let Some((path, body)) = request(&connection) else {
                continue;
            };
            let (status, body) =
                answer(&path, &body).map_or((404, String::new()), |body| (200, body));
            let head = "Content-Type: application/json\r\nConnection: close\r\nContent-Length";
            let reply = format!(
                "HTTP/1.1 {status} OK\r\n{head}: {}\r\n\r\n{body}",
                body.len()
            );
            // The client may have disconnected.
            let _ = connection.write_all(reply.as_bytes());
        }
    };
    Builder::new().spawn(serving).expect("a thread");
    format!("http://{address}")
}

/// The path and the body of a request.
fn request(connection: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(connection);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        length = line
            .strip_prefix("content-length: ")
            .map_or(length, |text| text.parse().unwrap_or(0));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((
        first.split_whitespace().nth(1)?.to_owned(),
        String::from_utf8(body).ok()?,
    ))
}

#[test]
fn invalid_metadata_is_not_kept() {
    let body = Arc::new(Mutex::new(r#"{"status":"maintenance"}"#.to_owned()));
    let current = Arc::clone(&body);
    let issuer = serve(move |path, _| {
        let here = path == "/.well-known/openid-configuration";
        here.then(|| {
            current
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        })
    });
    let mut rig = Rig::new(["acme"]);
    rig.config.more = format!(
        "[providers.own]\nissuer = \"{issuer}\"\n\
         [apps.own]\nprovider = \"own\"\nclient_id = \"c\"\nclient_secret_file = \"crm.secret\"\n\
         [portals.wiki]\napp = \"own\"\n"
    );
    let daemon = rig.start();
    let ran = rig.run(["authorize", "wiki", "--no-browser"]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "the metadata of its issuer is not known",
            "no metadata of an authorization server",
        ],
    );
    *body.lock().unwrap_or_else(PoisonError::into_inner) = format!(
        r#"{{"issuer":"{issuer}","token_endpoint":"{issuer}/token","authorization_endpoint":"{issuer}/auth"}}"#
    );
    assert_eq!(rig.control("POST", "/v1/reload", "").0, 200);
    let waiting = Authorizing::spawn(rig.command(["authorize", "wiki", "--no-browser"]));
    contains(
        &waiting.url(),
        &[&format!("{issuer}/auth?response_type=code")],
    );
    drop(waiting);
    daemon.stop();
}

#[test]
fn introspection_works_during_a_renewal() {
    let rules = Rules {
        token_lifetime: LIFE,
        old_access_dies: true,
        ..Rules::default()
    };
    let mut rig = Rig::with_rules(["acme"], rules);
    let (sandbox, asked) = (rig.server.clone(), Arc::new(Mutex::new(Vec::new())));
    let answers = Arc::clone(&asked);
    let server = serve(move |_, body| {
        let token = body
            .split('&')
            .find_map(|pair| pair.strip_prefix("token="))?;
        let active = sandbox
            .knows_access(token)
            .is_some_and(|known| !known.revoked);
        answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(active);
        Some(format!(r#"{{"active":{active}}}"#))
    });
    rig.config
        .app()
        .more
        .push_str(&format!("introspect_url = \"{server}/introspect\"\n"));
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let before = rig.renewals("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(6),
        },
        1,
    );
    eventually("a renewal whose reply is on its way", SOON, || {
        rig.renewals("acme") > before
    });
    let ran = rig.run(["introspect", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &["acme: the authorization server reports that its token works"],
    );
    assert_eq!(
        *asked.lock().unwrap_or_else(PoisonError::into_inner),
        [false, true]
    );
    daemon.stop();
}
