//! A `refreshd authorize` that waits, and the browser it waits for.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use refreshd_time::clock::Clock;

use super::{COMMAND, Ran, Rig, SOON, eventually};

/// The command under way. Dropped, it is killed.
pub struct Authorizing {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Authorizing {
    /// Starts it.
    pub fn spawn(mut command: Command) -> Self {
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        let said = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&said);
        let read = move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = lines.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
        };
        let reader = Builder::new().spawn(read).expect("a thread");
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            said,
            reader: Some(reader),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said to a person so far.
    pub fn said(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The address it shows, once it waits.
    #[track_caller]
    pub fn url(&self) -> String {
        eventually("the address to open", SOON, || {
            let said = self.said();
            let waits = said.contains("paste the address");
            let url = said
                .lines()
                .find(|line| line.starts_with("http"))
                .map(str::to_owned);
            url.filter(|_| waits)
        })
    }

    /// Waits until it has said this.
    #[track_caller]
    pub fn hears(&self, text: &str) {
        eventually(&format!("{text:?} is said"), SOON, || {
            self.said().contains(text)
        });
    }

    /// Pastes a line.
    pub fn paste(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it has not ended");
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .expect("it reads");
    }

    /// How it ends.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        let clock = Clock::system();
        let began = clock.tick();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(
                clock.elapsed(began) < COMMAND,
                "it does not end: {}",
                self.said()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        drop(self.stdin.take());
        let mut stdout = String::new();
        let read = self
            .child
            .stdout
            .take()
            .map(|mut out| out.read_to_string(&mut stdout));
        read.expect("it is piped").expect("UTF-8");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader");
        }
        Ran {
            code: status.code(),
            stdout,
            stderr: self.said(),
        }
    }
}

impl Drop for Authorizing {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rig {
    /// Sends people to the stand-in server to authorize, since no test reaches a portal.
    pub fn authorizes_here(&mut self) {
        let page = self
            .config
            .app()
            .token_url
            .replace("/oauth/token/", "/oauth/authorize/?domain={domain}");
        self.config
            .app()
            .more
            .push_str(&format!("authorize_url = \"{page}\"\n"));
    }

    /// What a browser shows at an address: the last status and page, and where the last redirect led.
    pub fn browse(&self, url: &str) -> (u16, String, Option<String>) {
        let browser = reqwest::Client::builder()
            .no_proxy()
            .timeout(SOON)
            .build()
            .expect("a client");
        self.runtime.block_on(async {
            let response = browser
                .get(url)
                .send()
                .await
                .unwrap_or_else(|error| panic!("{url}: {error:?}"));
            let (status, at) = (response.status().as_u16(), response.url().to_string());
            let page = response.text().await.expect("a whole page");
            (status, page, (at != url).then_some(at))
        })
    }

    /// Where the authorization page sends a browser, without going there.
    pub fn redirect_of(&self, url: &str) -> String {
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let browser = browser.no_proxy().timeout(SOON).build().expect("a client");
        self.runtime.block_on(async {
            let response = browser
                .get(url)
                .send()
                .await
                .unwrap_or_else(|error| panic!("{url}: {error:?}"));
            let to = response.headers().get("location").expect("a redirect");
            to.to_str().expect("an address").to_owned()
        })
    }
}

/// An address on this machine where nobody listens.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}
