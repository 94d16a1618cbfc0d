//! On a desktop, the browser is opened at a page of this machine: its arguments hold no secret, and work once.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use refreshd_time::clock::Clock;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::common::authorizing::free_address;
use crate::common::{CLIENT_ID, COMMAND, Rig, SOON, eventually};
use crate::interfaces::{calm, contains};

/// `refreshd authorize acme` on a terminal of a desktop. It is killed on drop.
struct Desk {
    child: Child,
    output: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    _terminal: File,
}

impl Desk {
    fn start(rig: &Rig) -> Self {
        let programs = rig.path("programs");
        fs::create_dir_all(&programs).expect("a directory");
        let (opened, browser) = (rig.path("opened"), programs.join("xdg-open"));
        rig.secret(
            "programs/xdg-open",
            &format!(
                "#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{}'\n",
                opened.display()
            ),
        );
        fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).expect("its mode");
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("a terminal");
        unlockpt(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new())
            .expect("its name")
            .into_string()
            .expect("ASCII");
        let screen = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&name)
                .expect("a terminal")
        };
        let mut command = rig.command(["authorize", "acme"]);
        let path = format!("{}:/usr/bin:/bin", programs.display());
        command.env("DISPLAY", ":0").env("PATH", path);
        let child = command
            .stdin(screen())
            .stdout(Stdio::null())
            .stderr(screen())
            .spawn()
            .expect("the binary starts");
        let mut reader = File::from(master);
        let terminal = reader.try_clone().expect("a descriptor");
        let output = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&output);
        let listen = move || {
            let mut piece = [0; 1024];
            while let Ok(read @ 1..) = reader.read(&mut piece) {
                lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        };
        let reader = Some(Builder::new().spawn(listen).expect("a thread"));
        Self {
            child,
            output,
            reader,
            _terminal: terminal,
        }
    }

    fn output(&self) -> String {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace('\r', "")
    }

    /// The address that is shown to the user.
    fn address(&self) -> String {
        eventually("the address", SOON, || {
            let output = self.output();
            output
                .lines()
                .find(|line| line.contains("&state="))
                .filter(|_| output.contains("paste the address"))
                .map(str::to_owned)
        })
    }

    fn end(mut self) -> (Option<i32>, String) {
        let clock = Clock::system();
        let began = clock.tick();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(
                clock.elapsed(began) < COMMAND,
                "it does not end: {}",
                self.output()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        // The terminal is closed when its last user closes it; all earlier output has been read by then.
        self.reader
            .take()
            .expect("it ends once")
            .join()
            .expect("it reads");
        (status.code(), self.output())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Arguments of the browser.
fn arguments(opened: &Path) -> String {
    eventually("the browser is opened", SOON, || {
        fs::read_to_string(opened)
            .ok()
            .filter(|text| text.ends_with('\n'))
            .map(|text| text.trim().to_owned())
    })
}

fn rig() -> (Rig, String) {
    let mut rig = calm(["acme"]);
    rig.authorizes_here();
    let redirect = format!("http://{}/oauth/callback", free_address());
    rig.server.set_redirect(CLIENT_ID, &redirect);
    rig.config
        .portal("acme")
        .more
        .push_str(&format!("redirect_uri = \"{redirect}\"\n"));
    (rig, redirect)
}

/// The response to a request, without following redirects.
fn ask(
    rig: &Rig,
    method: reqwest::Method,
    url: &str,
    header: Option<(&str, &str)>,
) -> (u16, reqwest::header::HeaderMap) {
    let browser = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    let browser = browser.timeout(SOON).build().expect("a client");
    rig.runtime.block_on(async {
        let mut request = browser.request(method, url);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.headers().clone())
    })
}

#[test]
fn browser_arguments_hold_no_state_and_work_once() {
    let (rig, _) = rig();
    let daemon = rig.start();
    let desk = Desk::start(&rig);
    let address = desk.address();
    let page = arguments(&rig.path("opened"));
    assert!(
        page.starts_with("http://127.0.0.1:")
            && !page.contains("state")
            && page.lines().count() == 1,
        "{page}"
    );
    let (_, state) = address.split_once("&state=").expect("a state");
    assert!(
        !page.contains(state.split('&').next().expect("a state")),
        "{page}"
    );
    // A HEAD request or a prefetch does not use it up, and another path does not exist.
    assert_eq!(ask(&rig, reqwest::Method::HEAD, &page, None).0, 200);
    assert_eq!(
        ask(
            &rig,
            reqwest::Method::GET,
            &page,
            Some(("sec-purpose", "prefetch;prerender"))
        )
        .0,
        503
    );
    assert_eq!(ask(&rig, reqwest::Method::POST, &page, None).0, 405);
    // DNS rebinding: a page of a foreign name reads nothing.
    let rebound = Some(("host", "evil.example"));
    assert_eq!(ask(&rig, reqwest::Method::GET, &page, rebound).0, 421);
    let output = desk.output();
    let callback = output.lines().find_map(|line| {
        line.strip_prefix("Waiting for the browser on ")?
            .split(". Or")
            .next()
    });
    let callback = format!("{}/?error=x&state=y", callback.expect("its address"));
    assert_eq!(ask(&rig, reqwest::Method::GET, &callback, rebound).0, 421);
    let (root, _) = page.rsplit_once('/').expect("a path");
    assert_eq!(
        ask(&rig, reqwest::Method::GET, &format!("{root}/guessed"), None).0,
        404
    );
    let (status, headers) = ask(&rig, reqwest::Method::GET, &page, None);
    assert_eq!(
        (status, headers["location"].to_str().expect("ASCII")),
        (303, address.as_str())
    );
    assert!(
        headers["cache-control"] == "no-store" && headers["referrer-policy"] == "no-referrer",
        "{headers:?}"
    );
    let (status, text, _) = rig.browse(&address);
    assert_eq!(status, 200, "{text}");
    let (code, output) = desk.end();
    assert_eq!(code, Some(0), "{output}");
    // The page shows the authorized account.
    let member = rig.token_json("acme").expect("its token file")["fields"]["member_id"]
        .as_str()
        .expect("text")
        .to_owned();
    contains(
        &output,
        &[
            "acme: authorized at https://acme.bitrix24.com/rest/",
            &format!("It is the grant of {member}, user 1."),
        ],
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn page_opened_twice_ends_the_authorization() {
    let (rig, redirect) = rig();
    let daemon = rig.start();
    let desk = Desk::start(&rig);
    let address = desk.address();
    let page = arguments(&rig.path("opened"));
    // Another process was faster than the browser, and knows the state now.
    assert_eq!(ask(&rig, reqwest::Method::GET, &page, None).0, 303);
    let (status, text, _) = rig.browse(&page);
    assert_eq!(status, 410);
    contains(&text, &["This page was opened before", "begin it again"]);
    let (code, output) = desk.end();
    assert_eq!(code, Some(75), "{output}");
    contains(
        &output,
        &["opened twice", "Nothing was stored", "--no-browser"],
    );
    // The state is useless for the next authorization's listener.
    let (_, state) = address.split_once("&state=").expect("a state");
    fs::remove_file(rig.path("opened")).expect("a file");
    let next = Desk::start(&rig);
    next.address();
    let code = rig.server.authorize("attacker.bitrix24.com", CLIENT_ID);
    let (status, text, _) = rig.browse(&format!("{redirect}?code={code}&state={state}"));
    assert_eq!(status, 400, "{text}");
    assert_eq!(rig.generation("acme"), 0);
    drop(next);
    daemon.stop();
}

#[test]
fn start_page_exists_for_remote_redirects_too() {
    let mut rig = calm(["acme"]);
    rig.authorizes_here();
    rig.config
        .portal("acme")
        .more
        .push_str("redirect_uri = \"https://app.example/installed.html\"\n");
    rig.server
        .set_redirect(CLIENT_ID, "https://app.example/installed.html");
    let daemon = rig.start();
    let desk = Desk::start(&rig);
    let address = desk.address();
    let page = arguments(&rig.path("opened"));
    assert!(!page.contains("state"), "{page}");
    assert_eq!(
        ask(&rig, reqwest::Method::GET, &page, None).1["location"]
            .to_str()
            .expect("ASCII"),
        address
    );
    assert!(
        !desk.output().contains("Waiting for the browser"),
        "{}",
        desk.output()
    );
    drop(desk);
    daemon.stop();
}
