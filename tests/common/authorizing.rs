//! A `refreshd authorize` that waits, and its browser.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use refreshd_time::clock::Clock;

use super::{COMMAND, CommandOutput, Rig, SOON, eventually};

/// A running command. It is killed on drop.
pub struct Authorizing {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Mutex<String>>,
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
        let output = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&output);
        let read = move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut output = lines.lock().unwrap_or_else(PoisonError::into_inner);
                output.push_str(&line);
                output.push('\n');
            }
        };
        let reader = Builder::new().spawn(read).expect("a thread");
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            output,
            reader: Some(reader),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output to standard error so far.
    pub fn output(&self) -> String {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The address that it shows once it waits.
    #[track_caller]
    pub fn url(&self) -> String {
        eventually("the address to open", SOON, || {
            let output = self.output();
            let waits = output.contains("paste the address");
            let url = output
                .lines()
                .find(|line| line.starts_with("http"))
                .map(str::to_owned);
            url.filter(|_| waits)
        })
    }

    /// Waits until it has printed this text.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str) {
        eventually(&format!("{text:?} is printed"), SOON, || {
            self.output().contains(text)
        });
    }

    /// Pastes a line.
    pub fn paste(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it has not ended");
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .expect("it reads");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> CommandOutput {
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
        CommandOutput {
            code: status.code(),
            stdout,
            stderr: self.output(),
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
    /// Configures the fake server's authorization page, since no test can reach a portal.
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

    /// The page a browser shows at an address: the last status and body, and the target of the last redirect.
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

    /// Target of the authorization page's redirect, which is not followed.
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

/// An address on this machine where no process listens.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}
