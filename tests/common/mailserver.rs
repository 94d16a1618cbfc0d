//! A mail server that accepts mail of one user, and can be set to refuse it. It implements as much of SMTP (RFC 5321) as a
//! client needs, without TLS. Must not judge a mail.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;

/// The accepted user and password.
pub const LOGIN: (&str, &str) = ("refreshd", "secretOfTheMail1");

/// The server; its threads end with the test's process.
#[derive(Clone)]
pub struct MailServer {
    pub address: SocketAddr,
    mails: Arc<Mutex<Vec<String>>>,
    refusal: Arc<Mutex<Option<&'static str>>>,
}

impl MailServer {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's server, whose threads end with the process"
    )]
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let server = Self {
            address,
            mails: Arc::default(),
            refusal: Arc::default(),
        };
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = serving.clone();
                // A client may disconnect at any time.
                thread::spawn(move || drop(server.serve(&stream)));
            }
        });
        server
    }

    /// Sets the response to the end of a mail.
    pub fn refuse(&self, with: Option<&'static str>) {
        *self.refusal.lock().expect("no thread has panicked") = with;
    }

    /// The mails so far, with their envelopes.
    pub fn mails(&self) -> Vec<String> {
        self.mails.lock().expect("no thread has panicked").clone()
    }

    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        stream.write_all(b"220 mail.example.org ESMTP\r\n")?;
        let mut envelope = String::new();
        while let Some(line) = lines.next() {
            let line = line?;
            let verb = line
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            let answer = match verb.as_str() {
                "EHLO" => "250-mail.example.org\r\n250 AUTH PLAIN".to_owned(),
                "AUTH" => {
                    let plain = format!("\0{}\0{}", LOGIN.0, LOGIN.1);
                    let expected = base64::engine::general_purpose::STANDARD.encode(plain);
                    let good = line.split(' ').nth(2) == Some(&expected);
                    if good {
                        "235 2.7.0 ok".to_owned()
                    } else {
                        format!("535 5.7.8 bad credentials: {line}")
                    }
                }
                "MAIL" | "RCPT" => {
                    envelope.push_str(&format!("{line}\n"));
                    "250 2.1.0 ok".to_owned()
                }
                "DATA" => {
                    stream.write_all(b"354 go on\r\n")?;
                    let mail = lines
                        .by_ref()
                        .map_while(Result::ok)
                        .take_while(|line| line != ".");
                    let mail = mail.collect::<Vec<_>>().join("\n");
                    let refusal = *self.refusal.lock().expect("no thread has panicked");
                    if refusal.is_none() {
                        self.mails
                            .lock()
                            .expect("no thread has panicked")
                            .push(format!("{envelope}\n{mail}"));
                    }
                    refusal.unwrap_or("250 2.0.0 queued as 1").to_owned()
                }
                "QUIT" => return stream.write_all(b"221 bye\r\n"),
                _ => "502 5.5.1 what?".to_owned(),
            };
            stream.write_all(format!("{answer}\r\n").as_bytes())?;
        }
        Ok(())
    }
}
