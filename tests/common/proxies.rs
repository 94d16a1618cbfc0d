//! Proxies (CONNECT and SOCKS 5) that record their requests, and a TLS server whose certificate was issued by a private
//! authority. Each connects to one address, whatever host is requested: only they know `auth.test`. Must not check the
//! traffic.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Rig;

/// User and password of a proxy, and the password as written in a URL.
pub const LOGIN: (&str, &str) = ("refreshd", "secret@Of:The/Proxy1");
pub const PASSWORD_IN_URL: &str = "secret%40Of%3AThe%2FProxy1";

/// Maximum length of a head.
const MAX_HEAD: usize = 64 << 10;

/// Behaviour of a proxy.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Connects.
    Connect,
    /// Connects with [`LOGIN`] only.
    RequireLogin,
    /// Responds with this status; with SOCKS 5, with a general failure.
    Refuse(u16),
    /// Responds with status 502 and the head of the request.
    Echo,
    /// Does not respond.
    Hang,
}

/// A proxy. Ends with the rig.
#[derive(Clone)]
pub struct ProxyServer {
    pub address: SocketAddr,
    book: Arc<Mutex<Book>>,
}

struct Book {
    asked: Vec<String>,
    behaviour: Behaviour,
}

impl ProxyServer {
    /// An HTTP proxy that connects to this address.
    pub fn http(rig: &Rig, to: SocketAddr) -> Self {
        Self::listen(rig, to, false)
    }

    /// A SOCKS 5 proxy that connects to this address.
    pub fn socks(rig: &Rig, to: SocketAddr) -> Self {
        Self::listen(rig, to, true)
    }

    fn listen(rig: &Rig, to: SocketAddr, is_socks: bool) -> Self {
        let listener = bind(rig);
        let address = listener.local_addr().expect("its address");
        let book = Book {
            asked: Vec::new(),
            behaviour: Behaviour::Connect,
        };
        let proxy = Self {
            address,
            book: Arc::new(Mutex::new(book)),
        };
        let (serving, tasks) = (proxy.clone(), rig.runtime.handle().clone());
        rig.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let proxy = serving.clone();
                // A client may disconnect at any time.
                tasks.spawn(async move {
                    if is_socks {
                        proxy.serve_socks(stream, to).await
                    } else {
                        proxy.serve_http(stream, to).await
                    }
                });
            }
        });
        proxy
    }

    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .behaviour = behaviour;
    }

    /// The requests so far: the head of each, or host and port with SOCKS 5.
    pub fn asked(&self) -> Vec<String> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.asked.clone()
    }

    fn note(&self, asked: String) -> Behaviour {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.asked.push(asked);
        book.behaviour
    }

    async fn serve_http(&self, mut stream: TcpStream, to: SocketAddr) -> std::io::Result<()> {
        let (head, rest) = head(&mut stream).await?;
        let login =
            base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1));
        let login = format!("proxy-authorization: basic {login}").to_lowercase();
        let is_known = head.lines().any(|line| line.to_lowercase() == login);
        match self.note(head.clone()) {
            Behaviour::Connect => {}
            Behaviour::RequireLogin if is_known => {}
            Behaviour::RequireLogin => return refuse(stream, 407).await,
            Behaviour::Refuse(status) => return refuse(stream, status).await,
            Behaviour::Echo => {
                let length = head.len();
                let answer = format!("HTTP/1.1 502 No\r\nContent-Length: {length}\r\n\r\n{head}");
                return stream.write_all(answer.as_bytes()).await;
            }
            Behaviour::Hang => return std::future::pending().await,
        }
        let mut origin = TcpStream::connect(to).await?;
        if head.starts_with("CONNECT ") {
            stream
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await?;
        } else {
            // The absolute form contains the host.
            let (method, rest) = head.split_once(' ').unwrap_or_default();
            let path = rest
                .split_once("://")
                .and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
            let head = format!("{method} {}", path.unwrap_or(rest));
            origin.write_all(head.as_bytes()).await?;
        }
        origin.write_all(&rest).await?;
        copy_bidirectional(&mut stream, &mut origin).await.map(drop)
    }

    async fn serve_socks(&self, mut stream: TcpStream, to: SocketAddr) -> std::io::Result<()> {
        let mut two = [0; 2];
        stream.read_exact(&mut two).await?;
        let mut methods = vec![0; usize::from(two[1])];
        stream.read_exact(&mut methods).await?;
        let with_login = methods.contains(&2);
        stream
            .write_all(&[5, if with_login { 2 } else { 0 }])
            .await?;
        let mut is_known = false;
        if with_login {
            stream.read_exact(&mut two).await?;
            let mut user = vec![0; usize::from(two[1])];
            stream.read_exact(&mut user).await?;
            let mut password = vec![0; usize::from(stream.read_u8().await?)];
            stream.read_exact(&mut password).await?;
            is_known =
                (user.as_slice(), password.as_slice()) == (LOGIN.0.as_bytes(), LOGIN.1.as_bytes());
            stream.write_all(&[1, u8::from(!is_known)]).await?;
        }
        let mut request = [0; 5];
        stream.read_exact(&mut request).await?;
        // An address would mean that the client resolved the name.
        assert_eq!(request[..4], [5, 1, 0, 3], "CONNECT to a name");
        let mut name = vec![0; usize::from(request[4])];
        stream.read_exact(&mut name).await?;
        let asked = format!(
            "{}:{}",
            String::from_utf8_lossy(&name),
            stream.read_u16().await?
        );
        let code = match self.note(asked) {
            Behaviour::Connect => 0,
            Behaviour::RequireLogin => u8::from(!is_known),
            Behaviour::Refuse(_) | Behaviour::Echo => 1,
            Behaviour::Hang => return std::future::pending().await,
        };
        stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        if code != 0 {
            return Ok(());
        }
        let mut origin = TcpStream::connect(to).await?;
        copy_bidirectional(&mut stream, &mut origin).await.map(drop)
    }
}

/// Terminates TLS in front of another server, with a certificate for `auth.test` and `localhost`. Records the heads of
/// requests.
#[derive(Clone)]
pub struct TlsServer {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl TlsServer {
    /// In front of this server.
    pub fn before(rig: &Rig, server: SocketAddr) -> Self {
        Self::listen(rig, server, true)
    }

    /// In front of a server that speaks first, such as a mail server.
    pub fn before_mail(rig: &Rig, server: SocketAddr) -> Self {
        Self::listen(rig, server, false)
    }

    fn listen(rig: &Rig, server: SocketAddr, is_http: bool) -> Self {
        let listener = bind(rig);
        let address = listener.local_addr().expect("its address");
        let tls = Self {
            address,
            heads: Arc::default(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(server_config()));
        let (serving, tasks) = (tls.clone(), rig.runtime.handle().clone());
        rig.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, tls) = (acceptor.clone(), serving.clone());
                // A client may reject the certificate.
                tasks.spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let mut origin = TcpStream::connect(server).await?;
                    if is_http {
                        let (head, rest) = head(&mut stream).await?;
                        origin.write_all(head.as_bytes()).await?;
                        origin.write_all(&rest).await?;
                        tls.heads
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(head);
                    }
                    copy_bidirectional(&mut stream, &mut origin).await
                });
            }
        });
        tls
    }

    /// The head of each connection's first request.
    pub fn heads(&self) -> Vec<String> {
        self.heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The certificate of the private authority.
pub fn authority() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/tls/authority.pem"
    ))
}

fn server_config() -> ServerConfig {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../fixtures/tls/server.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../fixtures/tls/server.key"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("usual versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.expect("a certificate")],
            key.expect("a key"),
        )
        .expect("a key of the certificate")
}

fn bind(rig: &Rig) -> TcpListener {
    rig.runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a free port")
}

/// Reads up to the empty line; returns what came after it too.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > MAX_HEAD || stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
}

async fn refuse<S: AsyncWrite + Unpin>(mut stream: S, status: u16) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} No\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await
}
