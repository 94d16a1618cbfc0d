//! A server in front of the fake server, or in its place, that responds with raw bytes which no HTTP library would send.
//! Must not judge the requests that it receives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// One request: its head and body as they came.
pub struct RawRequest {
    pub text: String,
}

impl RawRequest {
    /// A parameter of the form in its body.
    pub fn parameter(&self, name: &str) -> &str {
        let body = self
            .text
            .split_once("\r\n\r\n")
            .map_or("", |(_, body)| body);
        let found = body
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default()
    }
}

/// Behaviour for a request.
pub enum Behaviour {
    /// These bytes, and the connection is closed.
    Close(Vec<u8>),
    /// These bytes, and the connection is reset.
    Reset(Vec<u8>),
    /// These bytes, and then these again and again until the client disconnects.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, and the connection stays open until the client disconnects.
    Hold(Vec<u8>),
    /// These bytes, each after a wait, until the client disconnects.
    Drip(Vec<u8>, Duration),
}

/// The server; its threads end with the test's process.
pub struct Hostile {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Hostile {
    /// Listens there and serves each connection on its own thread.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's server, whose threads end with the process"
    )]
    pub fn listen(
        address: &str,
        play: impl Fn(RawRequest) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::new(AtomicUsize::new(0));
        let (play, count) = (Arc::new(play), Arc::clone(&connections));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let play = Arc::clone(&play);
                thread::spawn(move || serve(stream, &*play));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Its token endpoint.
    pub fn token_url(&self) -> String {
        format!("http://{}/oauth/token/", self.address)
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, play: &(dyn Fn(RawRequest) -> Behaviour + Send + Sync)) {
    let Some(text) = request(&mut stream) else {
        return;
    };
    // The client may disconnect at any time.
    match play(RawRequest { text }) {
        Behaviour::Close(bytes) => drop(stream.write_all(&bytes)),
        Behaviour::Reset(bytes) => {
            let _ = stream.write_all(&bytes);
            // With or without unread bytes: a socket that does not linger resets.
            let socket = tokio_socket(stream);
            drop(socket);
        }
        Behaviour::Endless(bytes, more) => {
            let mut ok = stream.write_all(&bytes).is_ok();
            while ok {
                ok = stream.write_all(&more).is_ok();
            }
        }
        Behaviour::Hold(bytes) => {
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0]);
        }
        Behaviour::Drip(bytes, wait) => {
            let _ = stream.set_nodelay(true);
            for byte in bytes {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(wait);
            }
        }
    }
}

/// A socket that is reset on close; only tokio's can be configured so.
fn tokio_socket(stream: TcpStream) -> tokio::net::TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    stream.set_nonblocking(true).expect("a socket");
    let socket = tokio::net::TcpStream::from_std(stream).expect("a socket");
    socket.set_zero_linger().expect("a socket");
    socket
}

/// Reads one whole request.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or_default() {
                return Some(text);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// Forwards a request to a server and returns the whole response.
pub fn forward(to: &str, asked: &RawRequest) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("the server is there");
    let (head, body) = asked.text.split_once("\r\n\r\n").expect("a request");
    let head = head.replace("\r\nconnection: ", "\r\nx-connection: ");
    let request = format!("{head}\r\nConnection: close\r\n\r\n{body}");
    stream
        .write_all(request.as_bytes())
        .expect("the server listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server answers");
    answer
}

/// A response with these header lines.
pub fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}
